"""The way back of a change of models: the new containers are removed, and the old ones start again.

A part of models.py; runs on the host's own python3 (3.6 or newer, standard library only). The same steps end a change
that failed and one that was interrupted.
"""

import os

import databases
import kept_logs
import processes
import record
from changes import remove_staged, users_of
from dockerd import ImageGone, secret_text
from messages import Failure, describe_error, say
from paths import CUDA_LABEL
from programs import raise_first, together
from writing import write  # (beside this file)

MOST = 10  # containers with the labels of one key that are looked at; a user's Docker may list any number


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
        if member["new_id"] and processes.runs(dockerd, member["new_id"]):
            raise Failure(
                "its new container still runs and cannot be removed: {}".format(failure), "container-not-stopped"
            ) from None
        left.append(failure)


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
        if status in processes.ENDED:
            processes.start(dockerd, member["old_id"])
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


def forget(change, dockerd_of):
    """End an undone change: its files, and its place in the record."""
    for user in users_of(change):
        remove_staged(change, dockerd_of(user))
    with record.changing_all() as found:
        for member in change["members"]:
            databases.note(found, member)
        record.end_replacing(found, change["batch"])
