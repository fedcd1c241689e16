"""A change that was interrupted ends before the models are planned, from what is there then."""

import fcntl
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host

from gpurack.facts.model import HostFacts
from gpurack.facts.record import Member, Replacing
from gpurack.operations import models as models_operation
from gpurack.operations import remove, run_state
from gpurack.operations.commands import until_changed
from gpurack.plan.host import preview
from gpurack.plan.run import Run
from tests.given import host_state, id_of, models, spec
from tests.operations.test_operations import FakeHost
from tests.unit.test_models_plan import settled

ONE = models(alpha={"gpus": [0]})


def interrupted(facts: HostFacts, key: str = "alpha.2") -> HostFacts:
    member = Member("alpha", "", "", id_of("alpha"), "alpha", "e" * 64, key)
    return replace(facts, replacing=(Replacing("try", "2026-11-28T02:00:00Z", (member,)),))


def commands(host: FakeHost) -> list[str]:
    with ctx_host.use(host):
        return [str(command) for command in models_operation.models._inner(spec=ONE)]


def test_plans_from_a_new_snapshot_after_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    after = settled(ONE)
    monkeypatch.setattr(run_state, "take_snapshot", lambda host, questions: after)
    host = FakeHost(interrupted(after), executing=True, unattended=True)
    assert commands(host) == ["python3 /usr/local/lib/gpurack/models.py recover"]
    assert host.noops == ["Models: nothing to do"]


def test_recovers_nothing_while_another_run_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that run's change. After its end the snapshot says whether anything is left."""
    after = settled(ONE)
    monkeypatch.setattr(run_state, "take_snapshot", lambda host, questions: after)
    host = FakeHost(replace(interrupted(after), busy="pid 7"), executing=True, unattended=True)
    assert not any("recover" in command for command in commands(host))


def moving(facts: HostFacts, *names: str) -> HostFacts:
    """Another run moves these models between two Dockers: it holds no lock of the host's."""
    replacing = Replacing("prepare", "2026-11-28T02:00:00Z", (), "b1", names)
    return replace(facts, replacing=(replacing,), changing=frozenset({"b1"}))


def of(facts: HostFacts, operation: Any, **arguments: Any) -> tuple[FakeHost, list[str]]:
    host = FakeHost(facts, executing=True, unattended=True)
    with ctx_host.use(host):
        return host, [str(command) for command in operation._inner(**arguments)]


def test_waits_for_another_run_that_moves_its_model_between_two_dockers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it plans from what is there, as after any other run."""
    before, after = replace(settled(ONE), containers=()), settled(ONE)
    monkeypatch.setattr(run_state, "take_snapshot", lambda host, questions: after)
    for facts, operation, arguments in (
        (moving(before, "alpha"), models_operation.models, {"spec": ONE}),
        (moving(after, "alpha"), models_operation.stop, {"spec": ONE, "entry": "alpha"}),
        (moving(after, "other"), remove.remove, {"spec": ONE}),
    ):
        host, (first, *rest) = of(facts, operation, **arguments)
        assert "flock -s -o -w 3600 /run/gpurack/change.b1" in first
        names = "other" if operation is remove.remove else "alpha"
        assert host.said[0] == f"~ wait for another gpurack run on this host (it changes {names})"
        assert bool(rest) == (operation is not models_operation.models)
    one = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "command": ["-m", "{weights}"]}
    job = spec({"jobs": {"ask": one}})
    bare = host_state(weights={"/w/a.gguf": 1})
    monkeypatch.setattr(run_state, "take_snapshot", lambda host, questions: bare)
    _, (first, *_) = of(moving(bare, "other"), models_operation.jobs, spec=job)
    assert "flock -s -o -w 3600 /run/gpurack/change.b1" in first, "it may get a GPU of a job"
    shown = preview(ONE, moving(before, "alpha"), Run()).findings
    assert [each.text for each in shown if "another" in each.text] == [
        "wait for another gpurack run on this host (it changes alpha)"
    ]


def test_waits_for_no_run_that_moves_another_model() -> None:
    before = moving(replace(settled(ONE), containers=()), "beta")
    _, found = of(before, models_operation.models, spec=ONE)
    assert found[-1].endswith("models.py apply")
    assert not any("change.b1" in command for command in found)
    _, found = of(moving(settled(ONE), "beta"), models_operation.stop, spec=ONE, entry="alpha")
    assert not any("change.b1" in command for command in found)


def test_wait_for_a_change_says_whose_it_is_and_ends(tmp_path: Path) -> None:
    change, file = Replacing("try", "", (), "b1", ("beta", "alpha")), tmp_path / "change.b1"

    def waits(limit: str) -> str:
        command = str(until_changed(change, str(tmp_path))).replace("-w 3600", f"-w {limit}")
        return subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout

    assert waits("0") == ""
    assert not file.exists()
    file.write_text("pid 7, since 14:02")
    said = "waiting for another gpurack run, which changes alpha, beta: pid 7, since 14:02\n"
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert waits("0") == said + "it has not ended\n"
        threading.Timer(0.2, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        assert waits("60") == said


@dataclass
class Silent(FakeHost):
    """A host on which a change cannot be ended, since a user's Docker does not answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ran: list[str] = []

    def run_shell_command(self, command: Any, **arguments: Any) -> tuple[bool, CommandOutput]:
        self.ran.append(str(command))
        return "recover" not in str(command), CommandOutput([OutputLine("stdout", f"error alpha: {WHY}")])


WHY = "an earlier change was interrupted and cannot be undone yet: the Docker of ada does not answer"


@pytest.mark.parametrize("later", [True, False])
def test_a_change_that_cannot_end_yet_keeps_no_other_model_from_its_own(
    monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    """The run fails at its end, except where its own call of the runner ended that change."""
    two = models(alpha={"gpus": [0]}, beta={"gpus": [1]})
    after = interrupted(replace(settled(two), containers=settled(ONE).containers))
    monkeypatch.setattr(run_state, "take_snapshot", lambda host, questions: after)
    host = Silent(after, executing=True, unattended=True)
    ok = True
    with ctx_host.use(host):
        for command in models_operation.models._inner(spec=two):
            if later and isinstance(command, models_operation.RunnerCall):
                monkeypatch.setattr(run_state, "take_snapshot", lambda host, questions: settled(two))
            ok, _ = command.execute(SimpleNamespace(print_input=False), host, dict(command.connector_arguments))
            if not ok:
                break
    assert host.ran[0].endswith("models.py recover")
    assert host.ran[-1].endswith("models.py apply")
    assert ok is later
    assert [problem.message for problem in host.connector_data["gpurack"].failures] == ([] if later else [WHY])
