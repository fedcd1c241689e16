"""Hypothesis for all unit tests: no deadline, because slow cores are no failure; the same examples in every run.

The profile is that of tests/sampling.py: `check` (the default, for the inner loop) or `thorough` (what .ci/run uses).
"""

import functools
import gc
import importlib
import itertools
import os
import socketserver
import sys
from collections.abc import Callable
from pathlib import Path

import gevent.monkey
import pytest
from hypothesis import HealthCheck, find, settings
from hypothesis import strategies as st
from pyinfra.api import connectors, inventory

from tests import sampling
from tests.interrupts import pytest_configure
from tests.unit import golden
from tests.unit.host_programs import Fakes

__all__ = ["pytest_configure"]

for profile, examples in (("check", 10), ("thorough", 60)):
    settings.register_profile(
        profile,
        deadline=None,
        max_examples=examples,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(sampling.EXAMPLES)

# The tests start a thousand programs. gevent, which pyinfra_cli puts in the place of `subprocess`, would fork the whole
# test process for each of them.
assert not gevent.monkey.saved, "pyinfra_cli was imported before tests/unit/conftest.py"
gevent.monkey.patch_all = lambda *_, **__: True

# Programs of hosts are found as on a host: a developer's own python3 may be a slow script that looks for another one.
HOSTS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
os.environ["PATH"] = f"{HOSTS_PATH}:{os.environ['PATH']}"

# A server of a test ends when it is told to, not half a second later.
socketserver.BaseServer.serve_forever.__defaults__ = (0.02,)

# For each inventory pyinfra reads the metadata of all installed packages anew. Read now, no fork has to.
connectors.get_all_connectors = inventory.get_all_connectors = functools.cache(connectors.get_all_connectors)
connectors.get_all_connectors()

# With a `preexec_fn` subprocess copies this large process for each program, which takes ten times as long as a program.
# Tests of what the kernel does then start the runner as a process of its own.
importlib.import_module("programs").die_with_parent = None

gc.disable()  # nearly all of what is made until tests run lasts until the end


def pytest_collectstart() -> None:
    """Keep files of tests compiled: pyinfra and files/models.py forbid that when they are imported."""
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make once what every lane would make, and spare the garbage collector what lasts until the end."""
    if session.config.pluginmanager.has_plugin("tests.lanes"):
        find(st.text(min_size=1), bool)  # hypothesis sorts all of Unicode, which takes seconds in a fresh checkout
    gc.freeze()
    gc.enable()
    gc.set_threshold(100_000)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.has_plugin("tests.lanes"):  # somebody runs these tests
        return
    marked = [(item.location[0], item) for item in items if item.get_closest_marker("sampled")]
    if left_out := set(sampling.left_out(marked)):
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write tests/unit/messages.golden.txt anew")


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[str, dict[str, list[str]]], None]:
    """Compares the messages of a section (case → lines) with the golden file; --rewrite-golden writes them to it."""

    def check(section: str, cases: dict[str, list[str]]) -> None:
        known, found = golden.read(), {f"{section}/{case}": lines for case, lines in cases.items()}
        others = {case: lines for case, lines in known.items() if not case.startswith(f"{section}/")}
        if request.config.getoption("--rewrite-golden"):
            golden.write({**others, **found})
            known = golden.read()
        assert {**others, **found} == known, "new wording? pytest tests/unit --rewrite-golden -k golden"

    return check


_FOLDERS = itertools.count()
_OF_A_HOST = [
    (importlib.import_module(module), constant, path)
    for module, constant, path in (
        ("hashes", "MEMORY", "state/sha256"),
        ("record", "RECORD", "state/record.json"),
        ("record", "LOCK", "run/record"),
        ("locks", "LOCK", "run/lock"),
        ("locks", "BUSY", "run/busy"),
    )
]
"""Module of files/, its constant, and the place of that file in a test's own folder."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give the test a memory, a record and locks of its own. A fixture for it would cost three times as much."""
    base = item.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    folder = f"{base}/{__name__}-{os.getpid()}-{next(_FOLDERS)}"
    os.environ["XDG_STATE_HOME"] = f"{folder}/state"
    for module, constant, path in _OF_A_HOST:
        setattr(module, constant, f"{folder}/{path}")


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Fakes of commands, first in PATH."""
    made = Fakes(tmp_path / "fakes")
    monkeypatch.setenv("PATH", made.path())
    return made
