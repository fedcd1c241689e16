"""`gpurack stop`, `start`, `restart` and `history` on a host, whose other model goes on serving.

Each test begins with both models serving, as the one before left them.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import CHECKOUT, GPURACK, Lab, chat, containers, identities, model
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES

MODELS = {"gamma": model("gamma", [], 8000), "delta": model("delta", [], 8001)}
RECORD = "/var/lib/gpurack/record.json"
WHY = "its weights are copied anew"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def gpurack(lab: Lab) -> Command:
    """The command of an admin called ada, on a host that serves gamma and delta."""
    lab.settle(lab.testbed.host("cpu5"), MODELS)
    inventory = lab.inventory({"cpu5": {"models": MODELS}})

    def called(verb: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [GPURACK, verb, str(inventory), *words],
            cwd=CHECKOUT,
            env={**lab.env(), "GPURACK_ACTOR": "ada"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return called


@pytest.fixture(autouse=True)
def delta_is_untouched(gpurack: Command, cpu5: Host) -> Iterator[None]:
    """The other model keeps its container and its process."""
    before = identities(cpu5)["delta"]
    yield
    assert identities(cpu5)["delta"] == before
    assert chat(cpu5, 8001) == SENTENCES["delta"]


def state(host: Host, name: str = "gamma") -> str:
    """Docker's word for a container's state."""
    return str(containers(host)[name]["State"]["Status"])


def seen(gpurack: Command) -> dict[str, Any]:
    """gamma in `gpurack status`, which finds nothing wrong."""
    found: dict[str, Any] = json.loads(gpurack("status", "--json").stdout)["hosts"]["cpu5"]["models"]["gamma"]
    return found


def test_stopped_model_stays_stopped_over_a_boot_until_the_next_run(gpurack: Command, cpu5: Host) -> None:
    """The restart of Docker runs the boot unit as well (PartOf); live-restore keeps delta."""
    before = identities(cpu5)["gamma"][0]
    said = gpurack("stop", "cpu5/gamma").stdout
    assert re.search(r"^cpu5 +gamma +stopped$", said, re.MULTILINE), said
    assert state(cpu5) == "exited"

    cpu5.root("systemctl restart docker && systemctl restart gpurack")
    assert cpu5.root("systemctl is-active docker gpurack").stdout.split() == ["active", "active"]
    assert state(cpu5) == "exited"
    assert (seen(gpurack)["state"], seen(gpurack)["why"]) == ("stopped", "until the next run (ada)")

    said = gpurack("apply", "-y").stdout
    assert "start: stopped by ada at " in said
    assert identities(cpu5)["gamma"][0] == before
    assert chat(cpu5, 8000) == SENTENCES["gamma"]
    assert json.loads(cpu5.get(RECORD))["stopped"] == {"": {}}


def test_held_model_survives_runs_until_it_is_started(gpurack: Command, cpu5: Host) -> None:
    gpurack("stop", "cpu5/gamma", "--hold", WHY)
    said = gpurack("apply", "-y").stdout
    assert re.search(rf"gamma: held since .*: {WHY} \(ada\)", said), said
    assert "1 of 2 models ready, 1 held" in said
    cpu5.root("systemctl restart gpurack")
    assert state(cpu5) == "exited"
    assert (seen(gpurack)["state"], seen(gpurack)["why"]) == ("held", f"{WHY} (ada)")
    checked = gpurack("verify", "-k", "runs or ready", "-rs").stdout
    assert re.search(rf"gamma: held since .*{WHY}", checked), checked

    gpurack("start", "cpu5/gamma")
    assert chat(cpu5, 8000) == SENTENCES["gamma"]
    assert "unchanged" in gpurack("apply", "-y").stdout


def test_restart_keeps_the_container_and_says_how_long_it_was_down(gpurack: Command, cpu5: Host) -> None:
    (container, begun) = identities(cpu5)["gamma"]
    said = gpurack("restart", "cpu5/gamma").stdout
    assert re.search(r"gamma +ready, down for (\d+ min )?\d+ s$", said, re.MULTILINE), said
    assert identities(cpu5)["gamma"][0] == container
    assert identities(cpu5)["gamma"][1] > begun
    assert chat(cpu5, 8000) == SENTENCES["gamma"]


def test_history_says_who_did_what_and_is_for_root_only(gpurack: Command, cpu5: Host) -> None:
    runs = json.loads(gpurack("history", "cpu5", "--json").stdout)["hosts"]["cpu5"]["runs"]
    assert [(run["verb"], run["by"], run["result"], run["changes"]) for run in runs[:5]] == [
        ("restart", "ada", "ok", ["restart gamma"]),
        ("start", "ada", "ok", ["start gamma"]),
        ("stop", "ada", "ok", ["hold gamma"]),
        ("apply", "ada", "ok", ["start gamma"]),
        ("stop", "ada", "ok", ["stop gamma"]),
    ]
    assert cpu5.root(f"stat -c '%a %U' {RECORD}").stdout.split() == ["600", "root"]
    assert "restart gamma" in gpurack("history").stdout
