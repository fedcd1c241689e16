"""What `gpurack apply` and pyinfra with the deploy do in the same situations: their exit codes, and what serves then.

The codes are the table of docs/apply.md. In the order of the file, each situation follows the one before.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import terminal
from tests.acceptance.conftest import CHECKOUT, GPURACK, PYINFRA, Lab, chat, containers, identities, model
from tests.acceptance.replacement.conftest import CRASHES
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.shell import await_

NAME = "cpu1"
GAMMA, DELTA = model("gamma", [], 8000), model("delta", [], 8001)
BEFORE = {"gamma": GAMMA, "delta": DELTA}
AFTER = {"gamma": {**GAMMA, "context": 512}, "delta": DELTA}
PORTS = {"gamma": 8000, "delta": 8001}


@dataclass(frozen=True)
class Situation:
    """models: what the inventory has. codes: of `gpurack apply` and of pyinfra. says: on both screens. new: the models
    that get another container; None where all containers stay as they are, to the second. hosts: more of the inventory.
    options: of `gpurack apply` and of pyinfra. reply: typed at a terminal; None without one."""

    name: str
    models: Mapping[str, Any]
    codes: tuple[int, int]
    says: str
    new: frozenset[str] | None = None
    hosts: tuple[str, ...] = ()
    options: tuple[tuple[str, ...], tuple[str, ...]] = (("-y",), ("-y",))
    reply: str | None = None


def option(*words: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The same options for both."""
    return words, words


SITUATIONS = (
    Situation("unchanged", BEFORE, (0, 0), "2 of 2 models"),
    Situation("changed", AFTER, (0, 0), "gamma", frozenset({"gamma"})),
    Situation("wrong inventory", {**AFTER, "delta": {**DELTA, "port": "80O1"}}, (2, 1), "80O1"),
    Situation("unknown option", AFTER, (2, 2), "--frobnicate", options=option("--frobnicate")),
    Situation("no terminal", BEFORE, (2, 1), "Confirmation needs a terminal. Nothing was changed.", options=option()),
    Situation("not confirmed", BEFORE, (0, 1), "othing was changed", options=option(), reply="n"),
    Situation("unreachable", AFTER, (4, 1), "gpu99", hosts=("gpu99",)),
    Situation("failed", {**AFTER, "gamma": {**GAMMA, **CRASHES}}, (1, 1), "serves again", frozenset()),
    Situation("failed before", {**AFTER, "gamma": {**GAMMA, **CRASHES}}, (1, 1), "was tried at"),
    Situation("removal refused", {}, (1, 1), "allow", hosts=("gpu99",)),
    Situation(
        "removal allowed", {}, (4, 1), "removed", frozenset(), hosts=("gpu99",),
        options=(("-y", "--allow-remove", "2"), ("-y", "--data", "allow_remove=2")),
    ),
)  # fmt: skip


@pytest.fixture(scope="module", params=["apply", "pyinfra"])
def way(request: pytest.FixtureRequest, lab: Lab) -> str:
    """Which of the two, on a host that serves what BEFORE has."""
    lab.settle(lab.testbed.host(NAME), BEFORE)
    return str(request.param)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_same_result_both_ways(lab: Lab, cpu1: Host, way: str, situation: Situation) -> None:
    before = identities(cpu1)
    extra = {name: {"models": {"gamma": GAMMA}} for name in situation.hosts}
    inventory = lab.inventory({NAME: {"models": dict(situation.models)}, **extra})

    code, shown = carry_out(lab, inventory, way, situation)

    assert code == situation.codes[way == "pyinfra"], shown
    assert situation.says in shown, shown
    assert "Traceback" not in shown
    if situation.name == "removal allowed":
        assert containers(cpu1) == {}
        return
    after = identities(cpu1)
    if situation.new is None:
        assert after == before
    else:
        new = {name for name, (container, _) in after.items() if container != before.get(name, ("", ""))[0]}
        assert new == situation.new
    assert {name: chat(cpu1, port) for name, port in PORTS.items()} == {name: SENTENCES[name] for name in PORTS}


def carry_out(lab: Lab, inventory: Path, way: str, situation: Situation) -> tuple[int, str]:
    """The command of an admin: its exit code and all it prints."""
    options = situation.options[way == "pyinfra"]
    argv = command(inventory, way)
    if situation.reply is not None:
        question = {"apply": r"Apply\? \[y/N\]", "pyinfra": "Press enter to execute"}[way]
        return terminal.answer([*argv, *options], [(question, situation.reply)], CHECKOUT)
    done = subprocess.run(
        [*argv, *options], cwd=CHECKOUT, env=lab.env(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_interrupt_both_ways(lab: Lab, cpu1: Host, way: str) -> None:
    """Ctrl-C while the new container loads: exit code 130, and the host itself brings the old one back."""
    lab.settle(cpu1, BEFORE)
    before = ids(cpu1)
    never = {"ready_timeout": "15s", "compose": {"entrypoint": ["sh", "-c", "trap exit TERM; sleep 999 & wait"]}}
    inventory = lab.inventory({NAME: {"models": {**BEFORE, "gamma": {**GAMMA, **never}}}})
    process = subprocess.Popen(
        [*command(inventory, way), "-y"], cwd=CHECKOUT, env=lab.env(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        await_(lambda: loads(cpu1, before["gamma"]), seconds=120, what="The start of the new container")
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    await_(lambda: ids(cpu1) == before, seconds=120, what="The way back")
    await_(lambda: chat(cpu1, PORTS["gamma"]) == SENTENCES["gamma"], seconds=60, what="The answer of the old one")


def ids(host: Host) -> dict[str, str]:
    """Name → id of every container."""
    return {name: container for name, (container, _) in identities(host).items()}


def loads(host: Host, old: str) -> bool:
    """Does another container than the old one run as gamma?"""
    return host.root("docker ps --quiet --no-trunc --filter name=^gamma$").stdout.strip() not in ("", old)


def command(inventory: Path, way: str) -> list[str]:
    """The words of an admin, without options."""
    argv = {"apply": [GPURACK, "apply", str(inventory)], "pyinfra": [PYINFRA, str(inventory), "deploys/gpu_host.py"]}
    return argv[way]
