"""The end of a change that was decided for the new containers: compose.yaml, old ones, record.

A part of models.py; runs on the host's own python3 (3.6 or newer, standard library only). The same steps end a change
whose models are ready and one that was interrupted.
"""

import os

import databases
import kept_logs
import processes
import record
from changes import staged, turn, users_of
from dockerd import ImageGone
from messages import say
from programs import raise_first, together
from writing import put_in_place  # (beside this file)


def finish(change, dockerd_of, start=True):
    """Finish a decided change: compose.yaml, the old containers, the new ones' restart policy, the record.

    Raises Failure; the change then stays in the record, and the next run continues it."""
    publish_in_turn(change, dockerd_of)
    olds = [(member, dockerd_of(member["from"])) for member in change["members"] if member["old_id"]]
    errors = together((remove_old, member, dockerd) for member, dockerd in olds if dockerd)
    new = [(member, dockerd_of(member["user"])) for member in change["members"] if member["new_id"]]
    # one that cannot be removed holds no GPU once it has ended
    start = start and not (
        errors and any(dockerd and processes.runs(dockerd, member["old_id"]) for member, dockerd in olds)
    )
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
    if member["remove"] and processes.state(dockerd, member["old_id"])["status"] not in processes.ENDED:
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
    if start and status in processes.ENDED:
        processes.start(dockerd, member["new_id"])


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
