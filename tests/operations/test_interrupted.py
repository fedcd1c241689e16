"""A change that was interrupted ends before the models are planned, from what is there then."""

from dataclasses import replace

import pytest
from pyinfra.context import ctx_host

from gpurack.facts.model import HostFacts
from gpurack.facts.record import Member, Replacing
from gpurack.operations import models as models_operation
from gpurack.operations import run_state
from tests.given import id_of, models
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
