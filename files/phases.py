"""How long each phase of a run took on this host. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import threading
import time

from messages import say  # (beside this file)

PULL, FETCH, LOAD, ANSWER = NAMES = ("pull", "fetch", "load", "first answer")
SHORTEST = 0.05  # seconds; shorter ones are not said
WORTH_SAYING = 2.0  # seconds of pulls, fetches and loading
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
    """Say the time of each phase, as gpurack/operations/phases.py reads it; nothing where nothing was brought."""
    found = ["{} {:.1f} s".format(name, SPENT[name]) for name in NAMES if SPENT[name] >= SHORTEST]
    if sum(SPENT[name] for name in (PULL, FETCH, LOAD)) >= WORTH_SAYING:
        say("", "took: " + ", ".join(found))
