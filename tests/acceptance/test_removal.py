"""Removal is deliberate: labs that share a host lose nothing, and a host is not emptied by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, containers, identities, model
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES

ALPHA: dict[str, Any] = {"alpha": model("alpha", [0], 8000)}
BETA: dict[str, Any] = {"beta": model("beta", [1, 2], 8001)}
GAMMA: dict[str, Any] = {"gamma": model("gamma", [], 8000)}


@pytest.fixture(scope="module", autouse=True)
def alone(lab: Lab) -> Iterator[None]:
    """alpha on gpu1 and gamma on cpu1, of no lab. At the end nothing of these labs is left."""
    hosts = {name: lab.testbed.host(name) for name in ("gpu1", "cpu1")}
    for name, models in (("gpu1", ALPHA), ("cpu1", GAMMA)):
        lab.settle(hosts[name], models)
    yield
    for host in hosts.values():
        host.root("docker ps -aq | xargs -r docker rm -f; rm -rf /etc/gpurack /var/lib/gpurack/record.json")


def of_lab(lab: Lab, name: str, gpu1: dict[str, Any]) -> Path:
    """The inventory of a lab. cpu1 belongs to nlp."""
    hosts = {"gpu1": {"models": gpu1}, **({"cpu1": {"models": GAMMA}} if name == "nlp" else {})}
    return lab.inventory(hosts, {"lab": name})


def test_labs_that_alternate_lose_nothing(lab: Lab, gpu1: Host) -> None:
    """The first takes alpha over without a restart; afterwards no run changes anything."""
    begun = identities(gpu1)["alpha"]
    first = lab.run(of_lab(lab, "nlp", ALPHA), confirm=False)
    assert first.exit_code == 0, first.output
    assert any("take over alpha: no lab owned them until now" in line for line in first.lines("gpu1")), first.output
    second = lab.run(of_lab(lab, "vision", BETA), confirm=False)
    assert second.exit_code == 0, second.output
    before = identities(gpu1)
    assert before["alpha"] == begun
    for _ in range(4):
        for name, models in (("nlp", ALPHA), ("vision", BETA)):
            run = lab.run(of_lab(lab, name, models), confirm=False)
            assert run.unchanged, run.output
            assert identities(gpu1) == before
    assert (chat(gpu1, 8000), chat(gpu1, 8001)) == (SENTENCES["alpha"], SENTENCES["beta"])
    services = gpu1.root("docker compose -f /etc/gpurack/compose.yaml ps --services").stdout.split()
    assert len(services) == 2


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (ALPHA, "`alpha` belongs to lab nlp"),
        ({"delta": model("delta", [0], 8003)}, "needs GPU 0, which `alpha` of lab nlp"),
        ({"delta": model("delta", [3], 8000)}, "needs port 8000, which `alpha` of lab nlp"),
    ],
)
def test_name_gpu_and_port_of_another_lab_are_taken(lab: Lab, gpu1: Host, models: dict[str, Any], words: str) -> None:
    before = identities(gpu1)
    run = lab.run(of_lab(lab, "vision", {**BETA, **models}), confirm=False)
    assert run.exit_code == 1, run.output
    assert any(words in line for line in run.errors("gpu1")), run.output
    assert identities(gpu1) == before


def test_remove_leaves_a_shared_host_alone(lab: Lab, gpu1: Host) -> None:
    before = identities(gpu1)
    run = lab.run(of_lab(lab, "vision", BETA), deploy="remove")
    assert run.exit_code == 1, run.output
    assert "models of another lab run here: alpha of lab nlp" in run.output
    assert identities(gpu1) == before


def test_emptying_a_host_needs_its_number(lab: Lab, gpu1: Host) -> None:
    """Under -y by --data, else typed at the prompt. Neither touches the other lab's model."""
    before = identities(gpu1)
    empty = of_lab(lab, "nlp", {})
    shown = lab.run(empty, "--dry")
    assert shown.exit_code == 0, shown.output
    assert any("1 REMOVE (of 1 model; with -y: --allow-remove 1)" in line for line in shown.lines("gpu1"))
    for refused in (
        lab.run(empty, confirm=False),
        lab.run(empty, "-y", "--data", "allow_remove=2", confirm=False),
    ):
        assert refused.exit_code == 1, refused.output
        assert "would remove 1 of 1 models: alpha. No model was changed." in refused.output
    daemon_json = gpu1.get("/etc/docker/daemon.json")
    hosts = {"gpu1": {"models": {}, "docker": {"daemon": {"debug": True}}}, "cpu1": {"models": GAMMA}}
    refused = lab.run(lab.inventory(hosts, {"lab": "nlp"}), confirm=False)
    assert refused.exit_code == 1, refused.output
    assert gpu1.get("/etc/docker/daemon.json") == daemon_json, "Docker was changed before the refusal"
    cancelled = lab.run(empty, yes=False, stdin="2\n")
    assert "gpu1: REMOVE 1 of 1 model: alpha" in cancelled.output
    assert identities(gpu1) == before
    run = lab.run(empty, yes=False, stdin="1\n\n")
    assert run.exit_code == 0, run.output
    assert set(containers(gpu1)) == {"beta"}
    assert identities(gpu1)["beta"] == before["beta"]
    assert chat(gpu1, 8001) == SENTENCES["beta"]


def test_take_over_moves_a_model_without_a_restart(lab: Lab, gpu1: Host) -> None:
    before = identities(gpu1)
    run = lab.run(of_lab(lab, "nlp", BETA), "-y", "--data", "take_over=yes", confirm=False)
    assert run.exit_code == 0, run.output
    assert any("take over beta: of lab vision until now" in line for line in run.lines("gpu1")), run.output
    assert identities(gpu1) == before
    refused = lab.run(of_lab(lab, "vision", BETA), confirm=False)
    assert any("`beta` belongs to lab nlp" in line for line in refused.errors("gpu1")), refused.output
