"""llama.cpp's Vulkan variant: `version: "vulkan-b7000"`, with and without GPUs.

The Vulkan backend is real; the only device that it finds here is the CPU's (tests/testbed/vulkan_image.py).
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, cards, chat, containers, model
from tests.acceptance.engines.conftest import nothing_changes
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.inventory import REGISTRY

IMAGE = f"{REGISTRY}/ghcr/ggml-org/llama.cpp:server-vulkan-b7000"
ON_THE_CPU = {"GGML_VK_VISIBLE_DEVICES": "0"}
"""ggml would skip the CPU's device, because it is not a GPU."""


def entry(name: str, gpus: list[int], **fields: Any) -> dict[str, Any]:
    return model(name, gpus, 8000, version="vulkan-b7000", env=ON_THE_CPU, **fields)


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> tuple[Host, Host]:
    """gpu2 and cpu2, without models."""
    lab.testbed.serve_engines("llama.cpp-vulkan")
    found = lab.testbed.host("gpu2"), lab.testbed.host("cpu2")
    for host in found:
        host.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
    found[0].gpus.reset()
    return found


@pytest.fixture(scope="module")
def run(lab: Lab, hosts: tuple[Host, Host]) -> Run:
    wanted = {
        "gpu2": {"models": {"alpha": entry("alpha", [0], args={"verbosity": 4}), "beta": model("beta", [1], 8001)}},
        "cpu2": {"models": {"gamma": entry("gamma", [])}},
    }
    done = lab.run(lab.inventory(wanted))
    assert done.exit_code == 0, done.output
    return done


def test_with_gpus_computes_all_layers_by_vulkan(lab: Lab, hosts: tuple[Host, Host], run: Run) -> None:
    gpu, _ = hosts
    container = containers(gpu)["alpha"]
    assert container["Config"]["Image"] == IMAGE
    assert cards(gpu, "alpha") == [gpu.gpus.uuids[0]]
    log = gpu.root("docker logs alpha 2>&1").stdout
    assert "using device Vulkan0 (llvmpipe" in log
    assert "offloaded 2/2 layers to GPU" in log
    assert "Vulkan0 KV buffer size" in log
    assert chat(gpu, 8000) == lab.testbed.weights("alpha").sentence
    assert cards(gpu, "beta") == [gpu.gpus.uuids[1]]  # a model with the usual GPU variant beside it
    assert chat(gpu, 8001) == lab.testbed.weights("beta").sentence


def test_serves_without_gpus(lab: Lab, hosts: tuple[Host, Host], run: Run) -> None:
    _, cpu = hosts
    container = containers(cpu)["gamma"]
    assert container["Config"]["Image"] == IMAGE
    assert not container["HostConfig"]["DeviceRequests"]
    assert "--n-gpu-layers" not in container["Args"]
    assert chat(cpu, 8000) == lab.testbed.weights("gamma").sentence


def test_second_run_changes_nothing(lab: Lab, hosts: tuple[Host, Host], run: Run) -> None:
    for host in hosts:
        nothing_changes(host, lambda: lab.run(lab.folder / "lab.py"))
    is_right(lab)
