"""Changes of models that the record has while they are under way: in whose Dockers, under which locks.

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

Phase "commit" decides for the new containers (files/finishing.py); all others for the old ones (files/undoing.py).
Every step of both bears repetition, so that a second kill does no harm.
"""

import contextlib
import glob
import os
import time

import record
from docker_commands import TURN
from locks import locked


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


def limit_users(change, dockerd_of, limit=None):
    """Limit the time that finishing or undoing a change waits for users' Dockers, where models of the host wait too.

    limit: another limit than theirs, in seconds."""
    users = users_of(change)
    for dockerd in map(dockerd_of, users - {""} if "" in users or limit else ()):
        if dockerd:
            dockerd.give(limit or TURN)


def remove_staged(change, dockerd):
    """Remove the files of a change in a daemon, None for a user who no longer exists."""
    for path in glob.glob(glob.escape(staged(dockerd, change["batch"])) + "*") if dockerd else ():
        with contextlib.suppress(OSError):
            os.unlink(path)
