"""Recovery after a kill or a power cut: which changes were interrupted, and how they are finished or undone.

A part of models.py; runs on the host's own python3 (3.6 or newer, standard library only). files/changes.py says what a
change is.

A change in one Docker holds the lock of that Docker. One in the host's and a user's holds those of the users alone, and
has `claims` (files/claims.py): containers are found by their ids, so the host's lock is needed for compose.yaml only.
Nothing else of the host waits for its recovery, which may wait for a user's Docker. Where that does not answer, the
host's entries leave the change as soon as they are as they should be (`let_go`).
"""

import contextlib
import os
import time

import claims
import databases
import locks
import record
from accounts import exists
from changes import apart, limit_users, remove_staged, staged, users_of
from dockerd import recorded
from finishing import finish, note
from locks import locked
from messages import Failure, describe_error, say
from paths import CUDA_LABEL
from programs import raise_first, together
from progress import Progress
from undoing import forget, new_containers, take_back, todays_files

SOON = 120  # seconds that a run waits for users' Dockers before it plans; what is left then is continued later


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


def known(user):
    """A user's daemon with what the record has of it; None where the user no longer exists."""
    return recorded(user) if exists(user) else None
