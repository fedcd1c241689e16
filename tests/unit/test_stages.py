"""The table of stages, which a run and `plan --live` share."""

from dataclasses import replace

import pytest

from gpurack.facts.parts import User
from gpurack.plan.host import (
    DAEMON_JSON,
    DOCKER,
    ROOTLESS,
    SET_UP,
    STAGES,
    TOOLKIT,
    may_remove,
    preview,
    refused_removals,
)
from gpurack.plan.models.ownership import Claim
from gpurack.plan.run import Run
from gpurack.plan.steps import Finding
from tests.given import host_state, models, spec
from tests.unit.test_models_plan import settled

BARE = host_state(gpus=1)
ADA = {"docker": {"rootless": {"ada": {}}}}


def test_has_order_of_a_run() -> None:
    assert [stage.name for stage in STAGES] == [
        "Docker", "NVIDIA Container Toolkit", "daemon.json", "Rootless Docker",
        "Models", "Jobs", "Models of jobs", "Connections",
    ]  # fmt: skip


def test_omits_stages_that_inventory_does_not_need() -> None:
    plain = models(alpha={})
    assert [stage.name for stage in STAGES if stage.applies(plain)] == [
        "Docker", "NVIDIA Container Toolkit", "daemon.json", "Models",
    ]  # fmt: skip
    assert ROOTLESS.applies(spec(ADA))


@pytest.mark.parametrize("stage", SET_UP, ids=lambda stage: stage.name)
def test_live_shows_changes_and_errors_of_every_stage(stage: object) -> None:
    wanted = spec({**ADA, "models": {"alpha": {"port": 8000, "gpus": [0]}}, "hardware": {"A30": 4}})
    state = replace(BARE, users={"ada": User(1001, 1001, "/home/ada")})
    shown = list(preview(wanted, state, Run()).findings)
    plan = next(one for one in (DOCKER, TOOLKIT, DAEMON_JSON, ROOTLESS) if one is stage).plan(wanted, state, Run())
    assert plan.steps, "this host needs every stage"
    for step in plan.steps:
        assert Finding("change", step.reason) in shown


def test_live_reports_user_without_docker() -> None:
    wanted = spec({**ADA, "models": {"alpha": {"port": 8000, "user": "ada"}}})
    errors = [each.line for each in preview(wanted, BARE, Run()).findings if each.kind == "error"]
    assert [error for error in errors if error.startswith("alpha: ")]
    assert any("ada" in error for error in errors)


def test_no_stage_changes_a_host_whose_removals_are_refused() -> None:
    both, replaced = settled(models(alpha={"gpus": [0]}, beta={"gpus": [1]})), models(gamma={"gpus": [0, 1]})
    none = spec({"models": {}})
    assert may_remove(none, both)
    assert refused_removals(none, both, Run(unattended=True))
    assert refused_removals(none, both, Run(unattended=True, claim=Claim(allowed=2))) is None
    assert refused_removals(none, both, Run()) is None, "the prompt asks"
    assert refused_removals(replaced, both, Run(unattended=True)) is None, "what is replaced is not removed"
    assert not may_remove(models(alpha={"enabled": False}, beta={}), both)


def test_views_show_nothing_but_the_refusal_of_a_host_that_is_left_alone() -> None:
    """Docker's stage would change it, and a run does not carry that out."""
    both, none = settled(models(alpha={"gpus": [0]}, beta={"gpus": [1]})), spec({"docker": {"daemon": {"debug": True}}})
    asked, refused = (preview(none, both, Run(unattended=unattended)) for unattended in (False, True))
    assert any("debug" in each.text for each in asked.findings)
    assert [each.kind for each in refused.findings] == ["removal", "removal", "removal", "error"]
    assert (refused.removals.number, refused.idle) == (2, False)
    assert refused.refused
    assert list(refused.findings) == refused.refused.findings
