"""`once`: a program or check on this machine that a run needs once, however many hosts ask for it at the same time."""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from gevent.lock import RLock

P = ParamSpec("P")
T = TypeVar("T")


def once(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that it runs once for the same arguments; other hosts wait for its result meanwhile.

    `functools.cache` alone would run it once for each host of a pool: gevent turns to the next host while a program
    runs. What raises is not kept. Only one call runs at a time, since a password manager may ask its user.
    """
    cached, lock = cache(function), RLock()

    @wraps(function)
    def alone(*arguments: P.args, **named: P.kwargs) -> T:
        with lock:
            return cached(*arguments, **named)  # type: ignore[arg-type]

    return alone
