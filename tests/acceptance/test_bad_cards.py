"""Failing GPUs and drivers: their models report it, everything else continues."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import Lab, cards, chat, identities, model
from tests.testbed import Host

GOOD: dict[str, Any] = {
    "alpha": model("alpha", [0], 8000),
    "beta": model("beta", [1], 8001),
    "delta": model("delta", [], 8003),
}


@pytest.fixture(scope="module")
def served(lab: Lab) -> Host:
    """gpu1 with the good models running."""
    host = lab.testbed.host("gpu1")
    lab.settle(host, GOOD)
    return host


@pytest.fixture
def host(served: Host, gpu1: Host) -> Host:
    """The serving host; its simulated GPUs are healthy again afterwards."""
    assert served.name == gpu1.name
    return served


def test_lost_gpu_fails_its_models_only(lab: Lab, host: Host) -> None:
    """nvidia-smi then fails as a whole (exit code 15), but models on other GPUs can be changed, created and served."""
    uuids = host.gpus.uuids
    before = identities(host)
    host.gpus.lose(1)
    wanted = {
        **GOOD,
        "delta": model("delta", [], 8003, context=512),
        "gamma": model("gamma", [2], 8002),
    }
    run = lab.run(lab.inventory({"gpu1": {"models": wanted}}))
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    (error,) = run.errors("gpu1")
    assert error.startswith(f"beta: its GPU 1 ({uuids[1][:12]}…) no longer answers.")
    assert "GPU is lost" in error
    assert "Reboot the host. If the GPU stays missing, choose another one (free: 3)." in error
    assert run.row("gpu1", "beta").startswith("gpu1 beta llama.cpp b7000 1 http://localhost:8001/v1 FAILED: its GPU")
    after = identities(host)
    assert after["alpha"] == before["alpha"], "a model on another card was touched"
    assert after["beta"] == before["beta"], "what may still run on the lost card is not gpurack's to stop"
    assert after["delta"] != before["delta"], "a model without a card was held up"
    assert cards(host, "gamma") == [uuids[2]]
    assert run.row("gpu1", "gamma").endswith("ready, created")
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence

    host.gpus.reset()
    healed = lab.run(lab.inventory({"gpu1": {"models": GOOD}}))
    assert healed.exit_code == 0, healed.output
    assert identities(host)["beta"] == before["beta"]


def test_driver_mismatch_keeps_gpu_models_and_names_both_versions(lab: Lab, host: Host) -> None:
    """Containers with GPUs could not start again, so none is recreated."""
    before = identities(host)
    host.gpus.mismatch("580.95.05")
    wanted = {
        "alpha": model("alpha", [0], 8000, context=256),
        "beta": GOOD["beta"],
        "delta": model("delta", [], 8003, context=256),
    }
    run = lab.run(lab.inventory({"gpu1": {"models": wanted}}))
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    said = " ".join(run.errors("gpu1"))
    assert "580.159.04" in said, run.output
    assert "580.95" in said, run.output
    assert "Driver/library version mismatch" in said
    assert "Reboot the host, then run again." in said
    after = identities(host)
    assert after["alpha"] == before["alpha"]
    assert after["beta"] == before["beta"]
    assert after["delta"] != before["delta"], "a model without a card was held up"
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence

    host.reboot()  # the new module is loaded
    healed = lab.run(lab.inventory({"gpu1": {"models": wanted}}))
    assert healed.exit_code == 0, healed.output
    assert identities(host)["alpha"] != before["alpha"]


def test_missing_driver_fails_gpu_models_only(lab: Lab, cpu1: Host) -> None:
    """The host's other models are served."""
    lab.settle(cpu1, {"gamma": model("gamma", [], 8000)})
    wanted = {"alpha": model("alpha", [0], 8001), "gamma": model("gamma", [], 8000, context=512)}
    run = lab.run(lab.inventory({"cpu1": {"models": wanted}}))
    assert run.exit_code == 1, run.output
    (error,) = run.errors("cpu1")
    assert error == (
        "alpha: wants a GPU, but no NVIDIA driver (/proc/driver/nvidia) or AMD driver (/sys/class/kfd) is loaded. "
        "Install the driver and reboot, or set gpus: [] for the model."
    )
    assert run.row("cpu1", "gamma").endswith("ready, recreated"), run.output
    assert chat(cpu1, 8000) == lab.testbed.weights("gamma").sentence

    alone = lab.run(lab.inventory({"cpu1": {"models": wanted}}), deploy="nvidia_toolkit")
    assert alone.exit_code == 1, alone.output
    assert "a model wants a GPU, but no NVIDIA driver" in alone.errors("cpu1")[0]
