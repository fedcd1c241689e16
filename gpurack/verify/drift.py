"""What a check yields, and how pytest is told: a few lines with expected, found and the command that fixes it."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from gpurack.host_data import not_understood
from gpurack.verify.plugin import HOST, MODEL


@dataclass(frozen=True)
class Drift:
    """One difference between the inventory and the host. fix: the command; default: the inventory's own run."""

    what: str
    expected: str
    found: str
    fix: str | None = None


class Unread(Exception):
    """A part of the evidence that could not be gathered: why, and what fixes that.

    reported: a check has failed with it; of a host without any evidence all have the same.
    """

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix
        self.reported = False


class Checked(Protocol):
    """What a check is about: a host, or a model on it. fix: the command that usually fixes it."""

    @property
    def title(self) -> str: ...

    @property
    def fix(self) -> str: ...


Check = Callable[[Any], Iterator[Drift]]
Where = Callable[[Any], bool]


def on_hosts(where: Where = lambda server: True) -> Callable[[Check], Callable[..., None]]:
    """Makes a test of a function that yields the drifts of a `Server`: it fails with all of them, without a traceback.

    where: the hosts it applies to; it is not even collected for others.
    """
    return lambda function: _test(function, HOST, where)


def on_models(where: Where = lambda entry: True) -> Callable[[Check], Callable[..., None]]:
    """The same for the drifts of an `Entry`."""
    return lambda function: _test(function, MODEL, where)


def _test(function: Check, argument: str, where: Where) -> Callable[..., None]:
    @functools.wraps(function)
    def test(**given: Any) -> None:
        checked = given[argument]
        try:
            lines = drift_lines(checked, function(checked))
        except Exception as error:
            unread = error if isinstance(error, Unread) else garbled(checked, error)
            if unread.reported:
                pytest.skip(f"{checked.title}: {unread}")
            unread.reported = True
            lines = [f"{checked.title}: {unread}", f"    fix: {unread.fix}"]
        if lines:
            pytest.fail("\n".join(lines), pytrace=False)

    told: Any = test
    told.__signature__ = inspect.Signature([inspect.Parameter(argument, inspect.Parameter.KEYWORD_ONLY)])
    told.where = where
    return test


def garbled(checked: Any, error: Exception) -> Unread:
    """The one sentence about a host whose evidence has not the shape that files/evidence.py gives it."""
    server = getattr(checked, "server", checked)
    if server.garbled is None:
        server.garbled = Unread(not_understood(error), f"ssh {server.name} python3 --version")
    found: Unread = server.garbled
    return found


def drift_lines(checked: Checked, drifts: Iterable[Drift]) -> list[str]:
    """The lines of all drifts; a command that fixes several of them is said once, below the last."""
    found = [(drift, drift.fix or checked.fix) for drift in drifts]
    lines = []
    for index, (drift, fix) in enumerate(found):
        lines.append(f"{checked.title}: {drift.what}: expected {drift.expected}, found {drift.found}")
        if fix not in [later for _, later in found[index + 1 :]]:
            lines.append(f"    fix: {fix}")
    return lines
