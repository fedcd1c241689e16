"""How much of the exhaustive tests the inner loop runs.

GPURACK_EXAMPLES is `check` (the default, a sample) or `thorough` (what .ci/run uses, everything).
"""

import os
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar
from zlib import crc32

EXAMPLES = os.environ.get("GPURACK_EXAMPLES", "check")
THOROUGH = EXAMPLES == "thorough"

T = TypeVar("T")


def sample(points: Iterable[T], seed: str, kind: Callable[[T], Hashable] = lambda point: "") -> list[T]:
    """Return all points; in the inner loop one of each kind. Their order stays.

    seed: the case, so that each takes other ones. The same seed takes the same points in every run.
    """
    if THOROUGH:
        return list(points)
    kinds: dict[Hashable, list[tuple[int, T]]] = {}
    for place, point in enumerate(points):
        kinds.setdefault(kind(point), []).append((place, point))
    chosen = [found[crc32(f"{seed} {name}".encode()) % len(found)] for name, found in kinds.items()]
    return [point for _, point in sorted(chosen, key=lambda each: each[0])]


def left_out(tests: Iterable[tuple[str, T]]) -> list[T]:
    """Return the tests that are marked `sampled` and do not run: in the inner loop all but every tenth of each file.

    tests: with their files. They start real programs, kill runs at each step or wait for limits, which takes most of
    the time of all tests. The first of each file always runs.
    """
    found: dict[str, list[T]] = {}
    for file, test in tests:
        found.setdefault(file, []).append(test)
    return [] if THOROUGH else [test for each in found.values() for place, test in enumerate(each) if place % 10]
