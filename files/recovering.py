"""Finishes or undoes changes of models: what a run does at the end of one, and recovery after a kill or a power cut.

A part of models.py; runs on the host's own python3 (3.6 or newer, standard library only). files/replacing.py draws the
states. A change in the record (`replacing`) is

    {"batch": id, "phase": "prepare"|"try"|"restore"|"commit", "since": time, "members": [member, …]}

and a member {"name", "user", "from", "remove", "ran", "old_id", "old_key", "old_name", "aside", "old_policy", "new_id",
"new_key", "policy", "probed", "entry", "ready", "restore", "database"}: user: whose Docker gets the new container;
from: whose has the old one. ran: did the old one run? old_name, aside: the old one's name, and its name while this
change is under way. old_policy: the restart policy of a container made by hand (`replaces`), which stays, set aside;
null for ours, which are removed. policy: the restart policy of the new one, which has `no` until it is ready. probed:
may a container of files/probing.py be left? entry, ready: what the record gets. restore: files of the new one that the
old one gets too if it is started again: a revoked key never comes back. database: its copy (files/databases.py), which
the old one gets again; null where none is made.

Phase "commit" decides for the new containers; all others for the old ones. Every step here bears repetition, so that a
second kill does no harm.
"""

import contextlib
import os

import databases
import kept_logs
import processes
import record
from common import Failure, describe_error, locked, put_in_place, say, together, write  # (beside this file)
from dockerd import BROKE_OFF, START, Dockerd, exists, why_not_started
from paths import CUDA_LABEL

MOST = 10  # containers with the labels of one key that are looked at; a user's Docker may list any number
ENDED = ("gone", "created", "exited", "dead")


def staged(dockerd, batch):
    """The path of compose.yaml as a change will leave it; renamed once the record has phase "commit".

    batch: the change's id. Each has a file of its own, since several change at once."""
    return "{}.commit-{}".format(dockerd.compose_file, batch)


def users_of(change):
    """The users in whose Docker a change has containers."""
    return {user for member in change["members"] for user in (member["user"], member["from"])}


def recover(users=None, start=True):
    """Finish or undo the changes that no run works on any more, each under the locks of its daemons.

    users: only those in these users' Dockers. start: start the containers that should run; boot does that later, once
    the GPUs are there. Returns {(user, name): why} of the entries whose change could not be ended."""
    left = {}
    for found in record.replacing():
        concerned = users_of(found)
        if users is not None and not concerned & set(users):
            continue
        with locked("recover", concerned):
            change = next((one for one in record.replacing() if one["batch"] == found["batch"]), None)
            if change is None:  # the run that worked on it has ended it
                continue
            try:
                recover_one(change, start)
            except Exception as error:
                for member in change["members"]:
                    left.update({(user, member["name"]): describe_error(error) for user in concerned})
    return left


def recover_one(change, start):
    """Finish or undo one change. Raises Failure where a daemon does not let it."""
    daemons = {user: known(user) for user in users_of(change)}
    names = ", ".join(member["name"] for member in change["members"])
    if change["phase"] == "commit":
        finish(change, daemons.get, start)
        say("", "{}: finished a change that was interrupted".format(names))
        return
    raise_first(take_back(change, daemons.get, start, [member["name"] for member in change["members"]]))
    forget(change, daemons.get)
    say("", "{}: undid a change that was interrupted".format(names))


def known(user):
    """A user's daemon with what the record has of it; None where the user no longer exists."""
    if not exists(user):
        return None
    dockerd = Dockerd(user)
    dockerd.ids, dockerd.keys = record.ids(user), record.keys(user)
    return dockerd


# --- back ------------------------------------------------------------------------------------------------------------


def take_back(change, dockerd_of, start=True, logs=()):
    """Remove the new containers and start the old ones again, in this order: two of them may need one GPU. One whose
    database cannot be restored does not start.

    dockerd_of: user → daemon, or None. start: start ours; one made by hand is started always, since nothing else does.
    logs: the names whose new container's log is kept. Returns errors, with which the change must stay in the record.
    Raises Failure where a new one still runs: then no old one is started."""
    if change["phase"] != "restore":
        started = change["phase"] == "try"
        change["phase"] = "restore"
        record_phase(change)
    else:
        started = True
    probed = {member["user"] for member in change["members"] if member.get("probed")}
    probed = [dockerd for dockerd in map(dockerd_of, sorted(probed)) if dockerd]
    left = together((dockerd.remove_labelled, CUDA_LABEL, change["batch"]) for dockerd in probed)
    each = [(member, dockerd_of(member["user"])) for member in change["members"] if member["new_key"]]
    raise_first(
        together(
            (remove_new, member, dockerd, started and member["name"] in logs, left)
            for member, dockerd in each
            if dockerd
        )
    )
    olds = [(member, dockerd_of(member["from"])) for member in change["members"] if member["old_id"]]
    for member, dockerd in olds:
        if dockerd:
            left += together([(call_back, member, dockerd)])
            if started:
                left += together([(todays_files, member, dockerd)])
    unfit = []
    for member, dockerd in each:
        errors = together([(databases.undo, dockerd, member)]) if dockerd else []
        unfit += [member] if errors else []
        left += errors
    olds = [(member, dockerd) for member, dockerd in olds if member not in unfit]
    wanted = [each for each in olds if each[0]["ran"] and (start or each[0]["old_policy"] is not None)]
    return left + together((start_old, member, dockerd) for member, dockerd in wanted if dockerd)


def record_phase(change):
    """Write the phase; a full disk keeps nothing from going back, as each phase before "commit" means the same."""
    try:
        record.set_replacing(change)
    except OSError as error:
        say("", "{} cannot be written: {}".format(record.RECORD, describe_error(error)))


def raise_first(errors):
    """Raise the first error of threads, after all of them."""
    for error in errors:
        raise error


def remove_new(member, dockerd, log, left):
    """Remove the new container of a member, if Compose created one. left: gets the error where it stays, stopped.

    Raises Failure where it runs on."""
    try:
        for container in new_containers(member, dockerd):
            if dockerd.inspect(container) is None:  # an earlier try removed it
                continue
            if log:
                member["log"] = kept_logs.keep(dockerd, member["name"], container, "failed")
            dockerd.limited("rm", "--force", container)
    except Failure as failure:
        if member["new_id"] and runs(dockerd, member["new_id"]):
            raise Failure("its new container still runs and cannot be removed: {}".format(failure)) from None
        left.append(failure)


def runs(dockerd, container):
    """Does a container run? Where its daemon does not answer, its processes decide."""
    try:
        return processes.state(dockerd, container)["status"] not in ENDED
    except Failure:
        return bool(processes.of_container(dockerd, container, 0))


def new_containers(member, dockerd):
    """The ids of a member's new container; a killed run may not have recorded it."""
    if member["new_id"]:
        return [member["new_id"]]
    found = [dockerd.inspect(container) for container in dockerd.of_key(member["new_key"])[:MOST]]
    return [one["id"] for one in found if one and one["name"] == member["name"] and one["id"] != member["old_id"]]


def call_back(member, dockerd):
    """Give the old container its name and restart policy again."""
    found = dockerd.inspect(member["old_id"])
    if found and member["old_policy"] is not None:
        dockerd.limited("update", "--restart", member["old_policy"] or "no", member["old_id"])
    if found and found["name"] == member["aside"] != member["old_name"]:
        dockerd.limited("rename", member["old_id"], member["old_name"])


def todays_files(member, dockerd):
    """Give the old container, which mounts files of its own, today's text of those that must not be older."""
    for file in member.get("restore", ()):
        try:
            with open(os.path.join(dockerd.secrets, member["new_key"], file), encoding="utf-8") as stream:
                text = stream.read()
        except FileNotFoundError:  # a second recovery
            continue
        write(os.path.join(dockerd.secrets, member["old_key"], file), text, 0o400, dockerd.uid)


def start_old(member, dockerd):
    """Start the old container; where it is missing, one like it from compose.yaml, which still has its service."""
    status = processes.state(dockerd, member["old_id"])["status"]
    if status != "gone":
        if status in ENDED:
            start_container(dockerd, member["old_id"])
        return
    if member["old_policy"] is not None:
        raise Failure("the container {} no longer exists".format(member["old_name"]))
    name = member["name"]
    dockerd.keys[name] = member["old_key"]
    with record.changing() as users:
        definition = users.get(dockerd.user, {}).get(name, {}).get("definition", "")
    dockerd.start(name, definition)


def start_container(dockerd, container):
    """Start a container by its id. Raises Failure.

    runc loses a race with its own child once in thousands of starts, so such a failure is tried once more."""
    for last in (False, True):
        try:
            dockerd.limited("start", container, limit=START)
            return
        except Failure as failure:
            text = str(failure)
            if last or "OCI runtime create failed" not in text:
                raise Failure(text if text == BROKE_OFF else why_not_started(1, text)) from None


def forget(change, dockerd_of):
    """End an undone change: its files, and its place in the record."""
    for user in users_of(change):
        dockerd = dockerd_of(user)
        if dockerd:
            with contextlib.suppress(OSError):
                os.unlink(staged(dockerd, change["batch"]))
    with record.changing_all() as found:
        for member in change["members"]:
            databases.note(found, member)
        record.end_replacing(found, change["batch"])


# --- forward ---------------------------------------------------------------------------------------------------------


def finish(change, dockerd_of, start=True):
    """Finish a decided change: compose.yaml, the old containers, the new ones' restart policy, the record.

    Raises Failure; the change then stays in the record, and the next run continues it."""
    publish(change, dockerd_of)
    olds = [(member, dockerd_of(member["from"])) for member in change["members"] if member["old_id"]]
    errors = together((remove_old, member, dockerd) for member, dockerd in olds if dockerd)
    new = [(member, dockerd_of(member["user"])) for member in change["members"] if member["new_id"]]
    errors += together((confirm, member, dockerd, start and not errors) for member, dockerd in new if dockerd)
    with record.changing_all() as found:
        for member in change["members"]:
            if not (errors and member["remove"]):  # it may still run, and is ours until it is removed
                note(found, member)
            databases.note(found, member)
        if not errors:
            record.end_replacing(found, change["batch"])
    raise_first(errors)


def publish(change, dockerd_of):
    """Put compose.yaml as it will be in place of the current one, in each daemon of a decided change."""
    for user in sorted(users_of(change)):
        dockerd = dockerd_of(user)
        if dockerd and os.path.exists(staged(dockerd, change["batch"])):
            put_in_place(staged(dockerd, change["batch"]), dockerd.compose_file)


def remove_old(member, dockerd):
    """Remove the old container of a member, without its volumes. One made by hand stays, set aside."""
    if member["old_policy"] is not None or not dockerd.inspect(member["old_id"]):
        return
    if member["remove"] and processes.state(dockerd, member["old_id"])["status"] not in ENDED:
        processes.stop(dockerd, member["old_id"])
    if not member["remove"]:
        kept_logs.keep(dockerd, member["name"], member["old_id"], "previous")
    dockerd.discard(member["name"], member["old_id"])


def confirm(member, dockerd, start):
    """Give the new container its restart policy, and start it after a power cut."""
    status = processes.state(dockerd, member["new_id"])["status"]
    if status == "gone":  # pruned meanwhile; compose.yaml has it
        if start:
            dockerd.keys[member["name"]] = member["new_key"]
            dockerd.ids.pop(member["name"], None)
            dockerd.up(member["name"])
            found = dockerd.inspect(member["name"])
            if found and dockerd.has_our_labels(found, member["name"]):
                member["new_id"] = found["id"]
        return
    dockerd.limited("update", "--restart", member["policy"] or "no", member["new_id"])
    if start and status in ENDED:
        start_container(dockerd, member["new_id"])


def note(found, member):
    """Write a finished member into the record."""
    name, user, before = member["name"], member["user"], member["from"]
    if member["remove"]:
        for part in ("containers", *record.BY_NAME):
            found[part].get(before, {}).pop(name, None)
        return
    if before != user and member["old_policy"] is None and member["old_id"]:
        found["containers"].get(before, {}).pop(name, None)
        for part in record.BY_NAME:
            known_before = found[part].get(before, {}).pop(name, None)
            if part == "ready" and known_before:
                found[part].setdefault(user, {})[name] = known_before
    found["containers"].setdefault(user, {})[name] = dict(member["entry"], id=member["new_id"])
    for ready in member["ready"]:
        record.add_ready(found, user, name, ready)
    passed = {"id": member["new_id"], "at": record.now(), "since": "", "why": "", "restarts": 0}
    found["tests"].setdefault(user, {})[name] = passed
