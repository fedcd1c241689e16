"""Hypothesis for all unit tests: no deadline, because slow cores are no failure; the same examples in every run.

GPURACK_EXAMPLES names the profile: `check` (the default, for the inner loop) or `thorough` (what .ci/run uses).
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.unit import golden
from tests.unit.host_programs import Fakes

for profile, examples in (("check", 15), ("thorough", 60)):
    settings.register_profile(
        profile,
        deadline=None,
        max_examples=examples,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("GPURACK_EXAMPLES", "check"))


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


@pytest.fixture(autouse=True)
def _nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that somebody's own gpurack has seen are no part of a test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("hashes.MEMORY", str(tmp_path / "state" / "sha256"))
    monkeypatch.setattr("record.RECORD", str(tmp_path / "state" / "record.json"))
    monkeypatch.setattr("record.LOCK", str(tmp_path / "run" / "record"))
    monkeypatch.setattr("common.LOCK", str(tmp_path / "run" / "lock"))
    monkeypatch.setattr("common.BUSY", str(tmp_path / "run" / "busy"))


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Fakes of commands, first in PATH."""
    made = Fakes(tmp_path / "fakes")
    monkeypatch.setenv("PATH", made.path())
    return made
