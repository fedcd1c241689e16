"""The memory estimate compared with the log of the real llama-server, and what is remembered between runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.remembered import recall
from gpurack.plan.models.memory import GIB, Estimate, estimate
from tests.acceptance.conftest import CHECKOUT, Lab, model
from tests.given import spec
from tests.testbed import Host

VERBOSE = {"log-verbosity": 4}
MODELS = {
    "alpha": model("alpha", [0], 8000, context=1000, args={**VERBOSE, "parallel": 3}),
    "beta": model("beta", [1, 2], 8001, args=VERBOSE),
    "gamma": model("gamma", [], 8002, context=700, args={**VERBOSE, "cache-type-k": "q8_0"}),
}


@pytest.fixture(scope="module", autouse=True)
def provisioned(lab: Lab) -> None:
    """gpu1 with models of different contexts, slots and types of cache."""
    lab.settle(lab.testbed.host("gpu1"), MODELS)


def logged(host: Host, name: str, what: str) -> float:
    """MiB that the log of llama-server last reports for a buffer."""
    log = host.root(f"docker logs {name} 2>&1").stdout
    return float(re.findall(rf"{what} buffer size *= *([0-9.]+) MiB", log)[-1])


def plan(lab: Lab, *options: str) -> subprocess.CompletedProcess[str]:
    gpurack = str(Path(sys.executable).parent / "gpurack")
    argv = [gpurack, "plan", str(lab.folder / "lab.py"), *options]
    return subprocess.run(argv, cwd=CHECKOUT, env=lab.env(), capture_output=True, text=True, check=False)


def estimated(lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch) -> Estimate:
    """The estimate for one GPU, as in the log of llama-server, from what the run remembered."""
    monkeypatch.setenv("XDG_STATE_HOME", lab.env()["XDG_STATE_HOME"])
    headers = {path.rsplit("-", 1)[-1]: header for path, header in recall("gpu1").items()}
    wanted = spec({"models": {name: MODELS[name]}}).models[name]
    return estimate(wanted, headers[f"{name}.gguf"], 1)


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_kv_cache_equal_log_of_llama_server(
    lab: Lab, gpu1: Host, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = estimated(lab, name, monkeypatch)
    assert need.weights * GIB / 2**20 == pytest.approx(logged(gpu1, name, "model"), abs=0.005)
    assert need.kv * GIB / 2**20 == pytest.approx(logged(gpu1, name, "KV"), abs=0.005)


def test_offline_plan_knows_what_run_saw(lab: Lab) -> None:
    data = json.loads(plan(lab, "--json").stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", data["weights_seen"])
    models: dict[str, Any] = data["hosts"]["gpu1"]["models"]
    assert {name: entry["estimate"]["tokens"] for name, entry in models.items()} == {
        "alpha": 3072, "beta": 4096, "gamma": 768
    }  # fmt: skip


def test_unchanged_run_is_one_command_with_or_without_memory(lab: Lab, gpu1: Host, tmp_path: Path) -> None:
    inventory = lab.inventory({"gpu1": {"models": MODELS}})
    for env in (None, {"XDG_STATE_HOME": str(tmp_path)}):
        run = lab.run(inventory, env=env)
        assert run.unchanged, run.output
        assert gpu1.ssh_commands(run.begun) == 1
    assert list(tmp_path.rglob("gpu1.json"))


def test_refuses_model_that_cannot_fit_and_keeps_running_one(lab: Lab, gpu1: Host) -> None:
    """Its weights exist already, but a cache for 21 million tokens needs 25 GiB. The old container continues."""
    before = gpu1.root("docker inspect --format '{{.Id}} {{.State.StartedAt}}' alpha beta gamma").stdout
    large = {**MODELS, "alpha": {**MODELS["alpha"], "context": 7_000_000}}
    run = lab.run(lab.inventory({"gpu1": {"models": large}}))
    assert run.exit_code == 1
    [error] = run.errors("gpu1")
    assert error.startswith("alpha: needs ")
    assert "for 21000192 tokens" in error
    assert "This model was not changed." in error
    assert gpu1.root("docker inspect --format '{{.Id}} {{.State.StartedAt}}' alpha beta gamma").stdout == before
    assert plan(lab).returncode == 0  # without hardware the offline plan knows no GPU
    lab.inventory({"gpu1": {"hardware": {"A30": 4}, "models": large}})
    offline = plan(lab)
    assert offline.returncode == 2
    assert "error  gpu1 models.alpha: needs " in offline.stdout
