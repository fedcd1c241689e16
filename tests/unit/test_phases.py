"""The time of each phase of a run: counted on the host, read and shown on the admin's machine."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.operations.phases import INSTALL, PHASES, SHOWN, said, slowest
from tests.unit.host_programs import load


def test_what_entries_do_at_once_counts_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    phases = load("phases")
    now = [0.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: now[0])
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with phases.phase("pull"):
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=other)
    with phases.phase("pull"):
        thread.start()
        assert inside.wait(20)
        now[0] = 10.0
    leave.set()
    thread.join()
    now[0] = 20.0
    with phases.phase("pull"):
        now[0] = 22.5
    phases.tell()
    assert capsys.readouterr().out == "took: pull 12.5 s\n"


def test_nothing_is_said_where_nothing_was_brought(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    phases = load("phases")
    now = [0.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: now[0])
    with phases.phase("first answer"):
        now[0] = 3.0
    phases.tell()
    assert capsys.readouterr().out == ""


def test_short_phases_are_said_where_something_was_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json` has them; the screen shows them only after longer runs."""
    phases = load("phases")
    now = [0.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: now[0])
    for name, seconds in (("pull", 0.04), ("load", 1.2), ("first answer", 0.3)):
        with phases.phase(name):
            now[0] += seconds
    phases.tell()
    line = capsys.readouterr().out
    assert line == "took: load 1.2 s, first answer 0.3 s\n"
    times = said([line])
    assert times == {"load": 1.2, "first answer": 0.3}
    assert slowest({"gpu1": times}) == {}
    assert slowest({"gpu1": times | {INSTALL: 3.0}}) == {"gpu1": "install 3.0 s"}
    assert slowest({"gpu1": times | {"pull": 1.0}}) == {"gpu1": "pull 1.0 s, load 1.2 s, first answer 0.3 s"}


def test_a_failure_ends_its_phase(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    phases = load("phases")
    now = [0.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: now[0])

    def fetch() -> None:
        with phases.phase("fetch"):
            now[0] = 3.0
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fetch()
    now[0] = 9.0
    phases.tell()
    assert capsys.readouterr().out == "took: fetch 3.0 s\n"


def test_names_are_those_of_the_host() -> None:
    assert (INSTALL, *load("phases").NAMES) == PHASES


@given(st.lists(st.text()))
def test_any_other_output_says_nothing(lines: list[str]) -> None:
    assert said(line for line in lines if not line.strip().startswith("took: ")) is None


@pytest.mark.parametrize(
    "line", ["took: pull 1e9 s", "took: ", "took: pull -1.0 s", "took: pull 99999999999.0 s", "x took: pull 1.0 s"]
)
def test_malformed_times_are_none(line: str) -> None:
    assert said([line]) is None


def test_unknown_phases_are_left_out() -> None:
    assert said(["took: dance 1.0 s, pull 2.0 s"]) == {"pull": 2.0}


def test_of_many_hosts_the_slowest_are_shown() -> None:
    runs = {f"gpu{number}": {"pull": float(number)} for number in range(1, 200)}
    shown = slowest(runs)
    assert next(iter(shown)) == "gpu199"
    assert len(shown) == SHOWN
    assert slowest({"idle": {"load": 0.1}}) == {}
