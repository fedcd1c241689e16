"""Which hosts this process uses. Suites run side by side and share some, and the last user ends a host."""

from __future__ import annotations

import fcntl
from typing import TextIO

from tests.testbed.paths import STATE

_HELD: dict[str, TextIO] = {}


def take(name: str) -> None:
    """Note that this process uses a host, until its end."""
    if name not in _HELD:
        _HELD[name] = (STATE / f"{name}.used").open("a")
        fcntl.flock(_HELD[name], fcntl.LOCK_SH)


def names() -> list[str]:
    """Return the hosts that this process uses."""
    return sorted(_HELD)


def leave(name: str) -> bool:
    """Stop using a host. Return whether no other process uses it."""
    with _HELD.pop(name) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
