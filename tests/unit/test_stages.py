"""The table of stages, which a run and `plan --live` share."""

from dataclasses import replace

import pytest

from gpurack.facts.model import User
from gpurack.plan.host import DAEMON_JSON, DOCKER, ROOTLESS, SET_UP, STAGES, TOOLKIT, preview
from gpurack.plan.run import Run
from gpurack.plan.steps import Finding
from tests.given import host_state, models, spec

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
