"""Stops a model for an admin, and lets it start again. A part of models.py.

A stopped model has a mark in the host's record (`stopped`), which is written before its container stops. As long as it
is there, no boot starts the model. A run drops it before it starts the model, except that of a hold, which only
`gpurack start` drops. Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib

import asking
import claims
import processes
import record
import recovering
from docker_commands import TURN
from dockerd import POLICIES, Dockerd
from locks import locked
from messages import Failure, say  # (beside this file)
from paths import PROBE_LABEL
from ports import own_url
from programs import together
from record_rebuild import ensure_record

STAYS = ("", "no", "unless-stopped")  # with these, dockerd starts no container that was stopped


def stop(data):
    """Stop the model that the payload names (gpurack/plan/models/stop.py). Raises Failure."""
    user, name = data["user"], data["name"]
    ensure_record(data["ours"])
    alone = recovering.is_within([user])  # another change may wait for another Docker
    concerned = lambda change: not alone(change) and (user, name) in record.entries(change)  # noqa: E731
    left = {**recovering.recover(alone), **recovering.recover(concerned, limit=TURN)}
    why = left.get((user, name))
    if why:
        raise Failure(
            "not stopped: an earlier change was interrupted and cannot be undone yet: " + why, "change-not-ended"
        )
    refuse_claimed(user, name)  # the lock of that user's Docker may be held as long as the change takes
    with locked("stop", [user], heard=True):
        refuse_claimed(user, name)
        dockerd = Dockerd(user)
        dockerd.ids, dockerd.keys = record.ids(user, data["ours"].get(user, {})), record.keys(user)
        stop_container(dockerd, name, {"by": data["origin"]["by"], "hold": data["hold"], "why": data["why"]}, data)
    say(name, "stopped")


def refuse_claimed(user, name):
    """Raise Failure where another run works on an entry, and holds no lock for it."""
    why = claims.alive(user).get(name)
    if why:
        raise Failure("not stopped: " + why, "changed-meanwhile")


def stop_container(dockerd, name, mark, counts):
    """Mark a model as stopped, and stop its container. Raises Failure; then it has the mark that it had before.

    counts: has where the engine counts its running requests (asking.drain)."""
    container = dockerd.id_of(name)
    found = dockerd.details(container) if container else None
    if not found:
        raise Failure("it has no container on this host", "container-removed")
    before = record.stopped(dockerd.user).get(name)
    if before and before.get("hold") and not mark["hold"]:
        raise Failure("it is held, so it stays stopped. gpurack start ends that", "entry-held")
    policy = "" if found["policy"] in STAYS else found["policy"]
    kept = policy or (before or {}).get("policy", "")
    record.note_stopped(dockerd.user, name, dict(mark, at=record.now(), policy=kept))
    try:
        if policy:
            dockerd.limited("update", "--restart", "no", container)
        with contextlib.suppress(Failure):  # one that cannot be asked is stopped so
            drain(dockerd, name, container, found, counts)
        processes.stop(dockerd, container)
    except Failure:
        if before:
            record.note_stopped(dockerd.user, name, before)
        else:
            with contextlib.suppress(Failure):
                give_policy(dockerd, name)
            record.release(dockerd.user, [name])
        raise


def drain(dockerd, name, container, found, counts):
    """Let a container end its running requests, for some seconds. found: its details."""
    if found["status"] == "running" and counts.get("running"):
        labels = (dockerd.inspect(container) or {"labels": {}})["labels"]
        url = own_url(labels.get(PROBE_LABEL), found["ports"], counts.get("url", ""))
        if url:
            runs = processes.Watched(dockerd, container).runs
            asking.drain(dockerd, name, url, counts["running"], dockerd.key(name), runs)


def end(data):
    """Stop containers of one Docker side by side before they are removed; their running requests may end first.

    The caller holds the Docker's lock (gpurack/plan/remove.py), and kills what is left. data: `user`, and `containers`
    with id, name, and where its engine counts its running requests. Returns how many still run.
    """
    dockerd = Dockerd(data["user"])
    dockerd.keys = record.keys(data["user"])
    return len(together((end_one, dockerd, each) for each in data["containers"]))


def end_one(dockerd, container):
    """Stop one of these containers, where it exists. Raises Failure."""
    name, container_id = container["name"], container["id"]
    try:
        found = dockerd.details(container_id)
        if found:
            with contextlib.suppress(Failure):  # as above
                drain(dockerd, name, container_id, found, container)
            processes.stop(dockerd, container_id)
    except Failure as failure:
        say(name, str(failure))
        raise


def release(dockerd, names):
    """Let models start again: their containers get their restart policy back, and the marks are dropped."""
    for name in names:
        give_policy(dockerd, name)
    record.release(dockerd.user, names)


def give_policy(dockerd, name):
    """Give a stopped container the restart policy back that its stop took from it."""
    policy = record.stopped(dockerd.user).get(name, {}).get("policy")
    if isinstance(policy, str) and policy.split(":")[0] in POLICIES and policy not in STAYS:
        container = dockerd.id_of(name)
        if container:
            dockerd.limited("update", "--restart", policy, container)
