"""What a check yields, and what pytest prints: expected, found, and the command that fixes it."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from gpurack.host_data import not_understood
from gpurack.verify.arguments import HOST, MODEL


@dataclass(frozen=True)
class Drift:
    """A difference between the inventory and the host.

    fix: the command that fixes it; None: a run of the inventory.
    """

    what: str
    expected: str
    found: str
    fix: str | None = None


class Unread(Exception):
    """A part of the evidence could not be gathered. The text says why; `fix` is what to do.

    reported: a check has already failed with it. All checks of a host without evidence share one.
    """

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix
        self.reported = False


class Unreachable(Unread):
    """There is no connection to the host. Its sentence names the command to try, so it has no fix."""


class Checked(Protocol):
    """What a check is about: a host, or a model on it.

    title: for messages. fix: the command that usually fixes it.
    """

    @property
    def title(self) -> str: ...

    @property
    def fix(self) -> str: ...


Check = Callable[[Any], Iterator[Drift]]
Where = Callable[[Any], bool]


def on_hosts(where: Where = lambda server: True) -> Callable[[Check], Callable[..., None]]:
    """Turn a function that yields the drifts of a `Server` into a test.

    The test fails with all of them, without traceback. where: the hosts that it applies to. It is not collected for
    others.
    """
    return lambda function: _test(function, HOST, where)


def on_models(where: Where = lambda entry: True) -> Callable[[Check], Callable[..., None]]:
    """Turn a function that yields the drifts of an `Entry` into a test, as `on_hosts` does."""
    return lambda function: _test(function, MODEL, where)


def _test(function: Check, argument: str, where: Where) -> Callable[..., None]:
    @functools.wraps(function)
    def test(**given: Any) -> None:
        checked = given[argument]
        try:
            if why := getattr(checked, "resting", ""):
                pytest.skip(f"{checked.title}: {why}")
            lines = drift_lines(checked, function(checked))
        except Exception as error:
            unread = error if isinstance(error, Unread) else garbled(checked, error)
            if unread.reported:
                pytest.skip(f"{checked.title}: {unread}")
            unread.reported = True
            fix = [f"    fix: {unread.fix}"] if unread.fix else []
            lines = [f"{checked.title}: {one_line(str(unread))}", *fix]
        if lines:
            pytest.fail("\n".join(lines), pytrace=False)

    checked_test: Any = test
    checked_test.__signature__ = inspect.Signature([inspect.Parameter(argument, inspect.Parameter.KEYWORD_ONLY)])
    checked_test.where = where
    return test


def garbled(checked: Any, error: Exception) -> Unread:
    """Return the one error for a host whose evidence has another form than files/evidence.py gives it."""
    server = getattr(checked, "server", checked)
    if server.garbled is None:
        server.garbled = Unread(not_understood(error), f"ssh {server.name} python3 --version")
    found: Unread = server.garbled
    return found


def drift_lines(checked: Checked, drifts: Iterable[Drift]) -> list[str]:
    """Return the lines of all drifts. A command that fixes several of them is printed once, after the last."""
    found = [(drift, drift.fix or checked.fix) for drift in drifts]
    lines = []
    for index, (drift, fix) in enumerate(found):
        told = f"{drift.what}: expected {drift.expected}, found {drift.found}"
        lines.append(f"{checked.title}: {one_line(told)}")
        if fix not in [later for _, later in found[index + 1 :]]:
            lines.append(f"    fix: {one_line(fix)}")
    return lines


def one_line(text: str) -> str:
    """Return a text that may quote a host as one line, so that none of its lines can pass for a line of ours."""
    return text.replace("\n", "\\n")
