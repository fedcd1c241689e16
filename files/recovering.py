"""Finishes or undoes changes of models: what a run does at the end of one, and recovery after a kill or a power cut.

A part of models.py; runs on the host's own python3 (3.6 or newer, standard library only). files/replacing.py draws the
states. A change in the record (`replacing`) is

    {"batch": id, "phase": "prepare"|"try"|"restore"|"commit", "since": time, "members": [member, …]}

and a member {"name", "user", "from", "remove", "ran", "old_id", "old_key", "old_name", "old_image", "aside",
"old_policy", "new_id", "new_key", "policy", "probed", "image", "entry", "ready", "restore", "database", "started",
"lost"}: user: whose Docker gets the new container; from: whose has the old one. ran: did the old one run? old_name,
aside: the old one's name, and its name while this change is under way. old_image: reference and id of its image.
old_policy: the restart policy of a container made by hand (`replaces`), which stays, set aside; null for ours, which
are removed. policy: the restart policy of the new one, which has `no` until it is ready. probed: may a container of
files/probing.py be left? image: the id of the new one's. entry, ready: what the record gets. restore: files of the new
one that the old one gets too if it is started again: a revoked key never comes back. database: its copy
(files/databases.py), which the old one gets again; null where none is made. started: when the new one that was tested
had started. lost: why the old one cannot be restored.

Phase "commit" decides for the new containers; all others for the old ones. Every step here bears repetition, so that a
second kill does no harm.

A change in one Docker holds the lock of that Docker. One in the host's and a user's holds those of the users alone, and
has `claims` (files/claims.py): containers are found by their ids, so the host's lock is needed for compose.yaml only.
Nothing else of the host waits for its recovery, which may wait for a user's Docker. Where that does not answer, the
host's entries leave the change as soon as they are as they should be (`let_go`).
"""

import contextlib
import glob
import os
import time

import claims
import databases
import kept_logs
import locks
import processes
import record
from dockerd import BROKE_OFF, START, TURN, Dockerd, ImageGone, exists, secret_text, why_not_started
from locks import locked
from messages import Failure, describe_error, say
from paths import CUDA_LABEL
from programs import together
from progress import Progress
from writing import put_in_place, write  # (beside this file)

MOST = 10  # containers with the labels of one key that are looked at; a user's Docker may list any number
SOON = 120  # seconds that a run waits for users' Dockers before it plans; what is left then is continued later
ENDED = ("gone", "created", "exited", "dead")


def staged(dockerd, batch):
    """The path of compose.yaml as a change will leave it; renamed once the record has phase "commit".

    batch: the change's id. Each has a file of its own, since several change at once."""
    return "{}.commit-{}".format(dockerd.compose_file, batch)


def users_of(change):
    """The users in whose Docker a change has containers, or may get them."""
    return {user for user, _ in record.entries(change)}


def apart(users):
    """Those of some users whose locks are held throughout a change in their Dockers.

    Not the host's where others are waited for.
    """
    return set(users) - {""} or set(users)


@contextlib.contextmanager
def turn(users, dockerd_of=lambda user: None):
    """Hold the host's lock where the locks of `apart` lack it. No user's Docker may be asked meanwhile.

    dockerd_of: user → daemon, or None. Those of users get the time back that this waits: another run may hold the lock
    for hours (Dockerd.give)."""
    begun = time.monotonic()
    with contextlib.ExitStack() as held:
        if apart(users) != set(users):
            held.enter_context(locked("models"))
            for dockerd in filter(None, map(dockerd_of, set(users) - {""})):
                dockerd.extend(time.monotonic() - begun)
        yield


def interrupted():
    """The changes that no run works on any more: one in the host's Docker and a user's is left to its run."""
    return [change for change in record.replacing() if not claims.is_alive(change)]


def interrupted_shared():
    """Those of them that concern several Dockers."""
    return [change for change in interrupted() if len(users_of(change)) > 1]


def is_within(users):
    """A test for changes: do they concern no Docker but those of these users? Nobody waits for the others' here."""
    return lambda change: users_of(change) <= set(users)


def shared(user):
    """The entries in a user's Docker that a change in several concerns: they are left alone until it has ended."""
    changes = [change for change in record.replacing() if len(users_of(change)) > 1]
    return {name for change in changes for whose, name in record.entries(change) if whose == user}


def recover(wanted=lambda change: True, start=True, limit=None):
    """Finish or undo interrupted changes, each under the locks of its daemons (`apart`).

    wanted: which of them. start: start the containers that should run; boot does that later, once the GPUs are there.
    limit: seconds that each may wait for a user's Docker and its lock. Returns {(user, name): why} of the entries whose
    change could not be ended."""
    left = {}
    for found in filter(wanted, interrupted()):
        try:
            with locked_within(apart(users_of(found)), limit) as rest:
                change = next((one for one in record.replacing() if one["batch"] == found["batch"]), None)
                if change:  # else the run that worked on it has ended it
                    recover_one(change, start, rest)
                    claims.drop(change["batch"])
        except Exception as error:
            now = next((one for one in record.replacing() if one["batch"] == found["batch"]), found)
            left.update({entry: describe_error(error) for entry in record.entries(now)})
    return left


def recover_all(limit):
    """`recover` of all changes, side by side in different Dockers, each within a limit."""
    left = {}
    groups = {frozenset(users_of(change)) for change in interrupted()}
    exactly = lambda users: lambda change: users_of(change) == users  # noqa: E731
    work = lambda users: left.update(recover(exactly(users), limit=limit if users - {""} else None))  # noqa: E731
    raise_first(together((work, users) for users in groups))
    return left


@contextlib.contextmanager
def locked_within(users, limit):
    """Hold the locks of these users' Dockers; yields what is left of `limit` (seconds, None for no limit) then.

    Raises Failure where another run holds one of them as long."""
    if limit is None:
        with locked("recover", users):
            yield None
        return
    end, progress = time.monotonic() + limit, Progress("")
    what = "another run works in the Docker of " + " and ".join(user or "the host" for user in sorted(users))
    with contextlib.ExitStack() as held:
        while not all(locks.take(locks.of_user(locks.LOCK, user), held) for user in sorted(users)):
            held.close()
            if time.monotonic() > end:
                raise Failure(what, "changed-meanwhile")
            progress.tell("waiting: " + what)
            time.sleep(0.2)
        yield max(end - time.monotonic(), 1)


def recover_one(change, start, limit=None):
    """Finish or undo one change. Raises Failure where a daemon does not let it."""
    daemons = {user: known(user) for user in users_of(change)}
    limit_users(change, daemons.get, limit)
    names = [member["name"] for member in change["members"]]
    try:
        if change["phase"] == "commit":
            finish(change, daemons.get, start)
            say("", "{}: finished a change that was interrupted".format(", ".join(names)))
            return
        raise_first(take_back(change, daemons.get, start, names))
    except Exception:
        let_go(change, daemons.get, start)
        raise
    forget(change, daemons.get)
    if names:  # else nothing had begun
        say("", "{}: undid a change that was interrupted".format(", ".join(names)))


def let_go(change, dockerd_of, start):
    """Drop the entries of the host's Docker from a change that another Docker does not let end.

    They are dropped once they are as they should be: else that Docker's user could keep them from every run and stop
    for good.
    """
    host, done = dockerd_of(""), []
    for member in change["members"] if users_of(change) != {""} else ():
        with contextlib.suppress(Failure, OSError):
            alone = {member["user"], member["from"]} == {""} and member["old_policy"] is None
            if alone and has_ended(change, member, host, start):
                if change["phase"] != "commit":
                    undo_unseen(change, member, host)
                done.append(member)
    if not done:
        return
    names = {member["name"] for member in done}
    rest = [member for member in change["members"] if member not in done]
    claimed = [claim for claim in change.get("claims", ()) if not (claim[0] == "" and claim[1] in names)]
    with record.changing_all() as found:
        for member in done:
            if change["phase"] == "commit":
                note(found, member)
            databases.note(found, member)
        kept = dict(change, members=rest, claims=claimed)
        found["replacing"] = [kept if one["batch"] == change["batch"] else one for one in found["replacing"]]
    if "" not in users_of(kept):
        remove_staged(change, host)


def has_ended(change, member, host, start):
    """Is an entry of the host's Docker as its change leaves it? start: does its container run?"""
    decided = change["phase"] == "commit"
    gone, stays = ("old_id", "new_id") if decided else ("new_id", "old_id")
    for container in [member[gone]] if decided else new_containers(member, host) if member["new_key"] else ():
        if container and host.inspect(container):
            return False
    path = databases.path_of(member)
    if (decided and os.path.exists(staged(host, change["batch"]))) or (path and os.path.exists(path + databases.UNDO)):
        return False
    if not member[stays] or (decided and member["remove"]):
        return True
    there, found = host.inspect(member[stays]), host.details(member[stays])
    if not there or not found or there["name"] != (member["name"] if decided else member["old_name"]):
        return False
    runs_again = found["status"] == "running" or not start or not (decided or member["ran"])
    return runs_again and (not decided or found["policy"] == (member["policy"] or "no"))


def undo_unseen(change, member, host):
    """Repeat what `take_back` may have failed at and `has_ended` does not see. Raises Failure or OSError."""
    if member["old_id"]:
        todays_files(member, host)
    if member.get("probed"):
        host.remove_labelled(CUDA_LABEL, change["batch"])


def limit_users(change, dockerd_of, limit=None):
    """Limit the time that finishing or undoing a change waits for users' Dockers, where models of the host wait too.

    limit: another limit than theirs, in seconds."""
    users = users_of(change)
    for dockerd in map(dockerd_of, users - {""} if "" in users or limit else ()):
        if dockerd:
            dockerd.give(limit or TURN)


def known(user):
    """A user's daemon with what the record has of it; None where the user no longer exists."""
    if not exists(user):
        return None
    dockerd = Dockerd(user)
    dockerd.ids, dockerd.keys = record.ids(user), record.keys(user)
    return dockerd


# --- back ------------------------------------------------------------------------------------------------------------


def take_back(change, dockerd_of, start=True, logs=()):
    """Remove the new containers and start the old ones again, in this order: two of them may need one GPU.

    One whose database cannot be restored does not start.

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
            raise Failure(
                "its new container still runs and cannot be removed: {}".format(failure), "container-not-stopped"
            ) from None
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
            text = secret_text(os.path.join(dockerd.secrets, member["new_key"], file))
        except FileNotFoundError:  # a second recovery
            continue
        write(os.path.join(dockerd.secrets, member["old_key"], file), text, 0o400, dockerd.uid)


def start_old(member, dockerd):
    """Start the old container; where it is missing, one like it, of the same image.

    Its service is from compose.yaml, which still has it. `lost` says why there can be none: that ends the change,
    because waiting would not help.
    """
    status = processes.state(dockerd, member["old_id"])["status"]
    if status != "gone":
        if status in ENDED:
            start_container(dockerd, member["old_id"])
        return
    if member["old_policy"] is not None:
        lose(member, "it was removed")
        return
    name = member["name"]
    dockerd.keys[name] = member["old_key"]
    with record.changing() as users:
        definition = users.get(dockerd.user, {}).get(name, {}).get("definition", "")
    try:
        dockerd.start(name, definition, member.get("old_image") or ("", ""))
    except ImageGone as gone:
        lose(member, str(gone))


def lose(member, why):
    """Note and say that the old container cannot be restored."""
    member["lost"] = why
    say(member["name"], "the previous `{}` cannot be restored: {}".format(member["old_name"], why))


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
                raise Failure(
                    text if text == BROKE_OFF else why_not_started(1, text), "container-not-started"
                ) from None


def forget(change, dockerd_of):
    """End an undone change: its files, and its place in the record."""
    for user in users_of(change):
        remove_staged(change, dockerd_of(user))
    with record.changing_all() as found:
        for member in change["members"]:
            databases.note(found, member)
        record.end_replacing(found, change["batch"])


def remove_staged(change, dockerd):
    """Remove the files of a change in a daemon, None for a user who no longer exists."""
    for path in glob.glob(glob.escape(staged(dockerd, change["batch"])) + "*") if dockerd else ():
        with contextlib.suppress(OSError):
            os.unlink(path)


# --- forward ---------------------------------------------------------------------------------------------------------


def finish(change, dockerd_of, start=True):
    """Finish a decided change: compose.yaml, the old containers, the new ones' restart policy, the record.

    Raises Failure; the change then stays in the record, and the next run continues it."""
    publish_in_turn(change, dockerd_of)
    olds = [(member, dockerd_of(member["from"])) for member in change["members"] if member["old_id"]]
    errors = together((remove_old, member, dockerd) for member, dockerd in olds if dockerd)
    new = [(member, dockerd_of(member["user"])) for member in change["members"] if member["new_id"]]
    # one that cannot be removed holds no GPU once it has ended
    start = start and not (errors and any(dockerd and runs(dockerd, member["old_id"]) for member, dockerd in olds))
    errors += together((confirm, member, dockerd, start) for member, dockerd in new if dockerd)
    with record.changing_all() as found:
        for member in change["members"]:
            if not (errors and member["remove"]):  # it may still run, and is ours until it is removed
                note(found, member)
            databases.note(found, member)
        if not errors:
            record.end_replacing(found, change["batch"])
    raise_first(errors)


def publish_in_turn(change, dockerd_of):
    """`publish`, without the host's lock where nothing is left to do for that."""
    host, users = dockerd_of(""), users_of(change)
    left = host and os.path.exists(staged(host, change["batch"]))
    with turn(users, dockerd_of) if left else turn(()):
        publish(change, dockerd_of)


def publish(change, dockerd_of):
    """Put compose.yaml as it will be in place of the current one, in each daemon of a decided change."""
    for dockerd in map(dockerd_of, sorted(users_of(change))):
        if dockerd:
            publish_one(change, dockerd)


def publish_one(change, dockerd):
    """`publish` in one daemon."""
    if os.path.exists(staged(dockerd, change["batch"])):
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
            try:
                dockerd.up(member["name"], dockerd.moved(*new_image(member)))
            except ImageGone as gone:  # the next run creates it
                say(member["name"], str(gone))
                return
            found = dockerd.inspect(member["name"])
            if found and dockerd.has_our_labels(found, member["name"]):
                member["new_id"] = found["id"]
        return
    dockerd.limited("update", "--restart", member["policy"] or "no", member["new_id"])
    if start and status in ENDED:
        start_container(dockerd, member["new_id"])


def new_image(member):
    """Reference and id of the image of a member's new container; "" if unknown."""
    newest = (member.get("ready") or [{}])[-1]
    image = member.get("image", "")
    return newest.get("image", "") if newest.get("id") == image else "", image


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
        if ready.get("definition") == member["entry"]["definition"]:  # described before it was ready
            ready = dict(ready, at=record.now())
        record.add_ready(found, user, name, ready)
    rolled_back = "rollback" in member["entry"]  # the inventory still has what failed, and no run tries that again
    record.drop_failure(found, user, name, member["entry"]["definition"] if rolled_back else None)
    passed = {"id": member["new_id"], "at": record.now(), "since": "", "why": "", "restarts": 0}
    passed["started"] = member.get("started", "")
    found["tests"].setdefault(user, {})[name] = passed
