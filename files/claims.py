"""Which changes a run works on now. A part of models.py.

A change in the host's Docker and a user's together has claims in the host's record: the entries [[user, name]] that it
may change (`claims` of a change, files/changes.py). Its run holds a file of its own for it, as long as it lives. So
the lock of the host's models is free while that user's Docker is waited for: other runs, boots, stops and jobs leave
the claimed entries alone. Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import os
import time

import locks
import messages
import record

PATIENCE = 2  # seconds


def place(batch):
    """The file that the run holds which works on a change. batch: the change's id."""
    return os.path.join(os.path.dirname(locks.LOCK), "change." + batch)


def hold(batch, held):
    """Say that this run works on a change, until `held` (an ExitStack) is closed. Call it before the record has it."""
    path, last = place(batch), time.monotonic() + PATIENCE
    while not locks.take(path, held):
        if time.monotonic() < last:  # a snapshot asks who holds it, which takes it for a moment
            time.sleep(0.05)
            continue
        raise messages.Failure("{} is held by another process".format(path), "changed-meanwhile")
    with open(path, "w") as stream:
        stream.write("pid {}, since {}".format(os.getpid(), time.strftime("%H:%M")))
    held.callback(drop, batch)


def drop(batch):
    """Remove the file of a change that has ended."""
    with contextlib.suppress(OSError):
        os.unlink(place(batch))


def is_alive(change):
    """Does a run work on a change now?

    False after it was killed, and for changes of one Docker: these hold its lock.
    """
    return locks.is_held(place(change["batch"]))


def others(mine=()):
    """The changes of the record, without those of these ids."""
    return [change for change in record.replacing() if change["batch"] not in mine]


def reasons(changes):
    """{(user, name): why it must not be changed now} of the entries of changes."""
    found = {}
    for change in changes:
        if is_alive(change):
            who = "unknown"
            with contextlib.suppress(OSError), open(place(change["batch"])) as stream:
                who = stream.read()
            why = "another run is changing it ({}). Run gpurack again when that has ended".format(who)
        else:
            why = "an earlier change of it was interrupted. Run gpurack again, which ends that first"
        found.update((entry, why) for entry in record.entries(change))
    return found


def alive(user):
    """{name: why it must be left alone} of the entries in a user's Docker that a run works on now."""
    changes = [change for change in record.replacing() if is_alive(change)]
    return {name: why for (whose, name), why in reasons(changes).items() if whose == user}
