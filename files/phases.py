"""How long each phase of a run took on this host. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import threading
import time

from messages import say  # (beside this file)

PULL, FETCH, LOAD, ANSWER = NAMES = ("pull", "fetch", "load", "first answer")
SHORTEST = 0.05  # seconds; shorter ones are not said
LOCK = threading.Lock()
RUNNING = dict.fromkeys(NAMES, 0)  # name → how many entries are in it now
BEGUN = {}  # name → when the first of them began
SPENT = dict.fromkeys(NAMES, 0.0)  # name → seconds


@contextlib.contextmanager
def phase(name):
    """Count the time of the block. What several entries do at once counts once."""
    with LOCK:
        RUNNING[name] += 1
        if RUNNING[name] == 1:
            BEGUN[name] = time.monotonic()
    try:
        yield
    finally:
        with LOCK:
            RUNNING[name] -= 1
            if RUNNING[name] == 0:
                SPENT[name] += time.monotonic() - BEGUN[name]


def tell():
    """Say the time of each phase, as gpurack/operations/phases.py reads it.

    Nothing where nothing was brought or started: the test requests of an unchanged run are no phase of it."""
    found = ["{} {:.1f} s".format(name, SPENT[name]) for name in NAMES if SPENT[name] >= SHORTEST]
    if found and any(SPENT[name] for name in (PULL, FETCH, LOAD)):
        say("", "took: " + ", ".join(found))
