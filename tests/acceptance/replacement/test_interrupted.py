"""Power cuts, kill -9 of the runner, an admin's own commands and a restart of Docker, at each step of a change.

A power cut is SIGKILL of all of the host, then a boot. A docker command of the run is held at the chosen step.
"""

from __future__ import annotations

import subprocess
import uuid
from typing import Any

import pytest

from tests.acceptance import hook
from tests.acceptance.conftest import Lab, model
from tests.acceptance.evidence import RUNNING_WITH_CARDS, cards_held_twice, sampled
from tests.acceptance.replacement.conftest import (
    COMPOSE,
    CRASHES,
    NAME,
    Models,
    apply,
    ours,
    pair,
    record,
    right,
    says,
    settle,
)
from tests.testbed import Host
from tests.testbed.shell import await_

pytestmark = pytest.mark.usefixtures("untouched")
BOOT = 60
"""Seconds in which everything runs after a boot."""
SERVING = {"alpha": (8000, "alpha"), "beta": (8001, "beta")}
FORWARD = [("after", "create"), ("after", "stop"), ("after", "start")]
"""Steps before the decision: afterwards the old model serves. (tests/unit/test_replacing_script.py has every step.)"""
DECIDED = [("before", "rm"), ("after", "rm")]
"""Steps after it: the new one serves."""
BACK = [("before", "rm"), ("before", "start")]
"""Steps of the way back; the second start is that of the old one."""


@pytest.fixture(scope="module", autouse=True)
def two(lab: Lab, host: Host) -> None:
    """Two models, of which one changes."""
    settle(lab, host, pair())


def changed(**more: Any) -> Models:
    """alpha as it never was before: what failed once is not tried again."""
    return {**pair(), "alpha": model("alpha", [0], 8000, env={"NEW": uuid.uuid4().hex}, **more)}


def which(host: Host) -> str:
    """Which of them runs; "" for the first."""
    variables = dict(line.split("=", 1) for line in ours(host)["alpha"]["Config"]["Env"])
    return str(variables.get("NEW", ""))


def new_one(models: Models) -> str:
    """Which one an inventory wants."""
    return str(models["alpha"]["env"]["NEW"])


def start(lab: Lab, models: Models) -> subprocess.Popen[str]:
    """A run that is not waited for."""
    return lab.start(lab.inventory({NAME: {"models": models}}))


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a run; its exit code and output."""
    output, _ = process.communicate(timeout=180)
    return process.returncode, output


def held_at(lab: Lab, host: Host, models: Models) -> subprocess.Popen[str]:
    """A run of these models that is held at what the caller planned (hook.planned)."""
    process = start(lab, models)
    hook.wait_until_held(host, process)
    return process


def cut_while_held(lab: Lab, host: Host, wanted: Models) -> None:
    """Cut the power where the planned command is held. After the boot all models serve."""
    process = held_at(lab, host, wanted)
    hook.cut(host)
    end(process)
    for port, weights in SERVING.values():
        says(host, port, weights, BOOT)


@pytest.mark.parametrize(("when", "word"), FORWARD, ids=lambda word: word)
def test_old_model_serves_after_power_cut_before_decision(lab: Lab, host: Host, when: str, word: str) -> None:
    """And the next run makes the change."""
    old, wanted = which(host), changed()
    with hook.planned(host, when, word):
        cut_while_held(lab, host, wanted)
        right(host, SERVING)
        assert which(host) == old


@pytest.mark.parametrize(("when", "word"), DECIDED, ids=lambda word: word)
def test_new_model_serves_after_power_cut_after_decision(lab: Lab, host: Host, when: str, word: str) -> None:
    wanted = changed()
    with hook.planned(host, when, word):
        cut_while_held(lab, host, wanted)
        await_(lambda: not record(host).get("replacing"), seconds=BOOT, what="The end of the recovery")
        right(host, SERVING)
        assert which(host) == new_one(wanted)
    assert apply(lab, wanted).only_tested


@pytest.mark.parametrize(("when", "word"), BACK, ids=lambda word: word)
def test_old_model_serves_after_power_cut_on_the_way_back(lab: Lab, host: Host, when: str, word: str) -> None:
    old, wanted = which(host), changed(**CRASHES)
    skip = 1 if word == "start" else 0
    with hook.planned(host, when, word, skip=skip):
        cut_while_held(lab, host, wanted)
        right(host, SERVING)
        assert which(host) == old


@pytest.mark.parametrize(("when", "word"), [*FORWARD, DECIDED[0]], ids=lambda word: word)
def test_next_run_completes_after_kill_of_runner(lab: Lab, host: Host, when: str, word: str) -> None:
    """kill -9 of it, and nothing else on the host notices. The next run first decides, then changes what is left."""
    wanted = changed()
    with hook.planned(host, when, word):
        process = held_at(lab, host, wanted)
        hook.kill_runner(host)
        code, output = end(process)
        assert code != 0, output
    with sampled(host, RUNNING_WITH_CARDS, every=0.2) as samples:
        run = apply(lab, wanted)
    assert run.exit_code == 0, run.output
    assert cards_held_twice(samples) == []
    assert which(host) == new_one(wanted)
    right(host, SERVING)
    assert apply(lab, wanted).unchanged


def test_swap_survives_power_cut(lab: Lab, host: Host) -> None:
    """Two models swap GPUs and ports; the power goes when the first new one has started."""
    wanted = {"alpha": model("alpha", [1], 8001), "beta": model("beta", [0], 8000)}
    settle(lab, host, pair())
    with hook.planned(host, "after", "start"):
        cut_while_held(lab, host, wanted)
        right(host, SERVING)
    run = apply(lab, wanted)
    assert run.exit_code == 0, run.output
    right(host, {"alpha": (8001, "alpha"), "beta": (8000, "beta")})
    settle(lab, host, pair())


@pytest.mark.parametrize(
    ("when", "word"),
    [("after", "create"), ("after", "stop"), ("after", "start"), ("before", "rm")],
    ids=lambda word: word,
)
def test_up_by_an_admin_leaves_the_model_serving(lab: Lab, host: Host, when: str, word: str) -> None:
    """`docker compose up -d` in the middle of a run, which ends with one of the two serving, and says so."""
    wanted = changed()
    with hook.planned(host, when, word):
        process = held_at(lab, host, wanted)
        host.root(f"docker compose -f {COMPOSE} up -d", check=False)
        hook.release(host)
        code, output = end(process)
    right(host, SERVING)
    assert (which(host) == new_one(wanted)) == (code == 0), output


def test_restart_of_docker_in_the_middle_of_a_trial(lab: Lab, host: Host) -> None:
    """dockerd restarts when the old one is stopped and the new one has started."""
    wanted = changed()
    with hook.planned(host, "after", "start"), sampled(host, RUNNING_WITH_CARDS, every=0.2) as samples:
        process = held_at(lab, host, wanted)
        host.root("systemctl restart docker")
        hook.release(host)
        code, output = end(process)
    assert cards_held_twice(samples) == []
    right(host, SERVING)
    assert (which(host) == new_one(wanted)) == (code == 0), output
