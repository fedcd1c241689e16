"""A host with AMD GPUs (`amd1`, simulated): each model has its own render node only, and nothing of NVIDIA is
installed.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, containers, identities, model
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.shell import await_

NOBODY = {"compose": {"user": "65534:65534"}}


@pytest.fixture(scope="module")
def amd1(lab: Lab) -> Host:
    """A fresh host with two Instinct and a Radeon."""
    lab.testbed.remove("amd1")
    return lab.testbed.add("amd1", "amd")


def models(**more: Any) -> dict[str, Any]:
    """Two models on one GPU each, named in two ways, one without root inside; one on the CPU."""
    return {
        "alpha": model("alpha", [0], 8000),
        "beta": model("beta", ["0000:65:00.0"], 8001, **NOBODY),
        "gamma": model("gamma", [], 8002),
        **more,
    }


def inside(host: Host, container: str, command: str) -> str:
    """The output of a command in a container, as its root."""
    return host.root(f"docker exec -u 0 {container} sh -c '{command}' 2>&1", check=False).stdout.strip()


def opens(host: Host, container: str, number: str) -> bool:
    """Can the container open the device with this number? It can create any node; the kernel decides at open()."""
    major, minor = number.split(":")
    said = inside(host, container, f"rm -f /tmp/n; mknod /tmp/n c {major} {minor} && : </tmp/n && echo open")
    assert said == "open" or "Operation not permitted" in said, said
    return said == "open"


def has_its_card_alone(host: Host, container: str, card: int) -> None:
    """By the devices inside, by the kernel's answer for each GPU, and by dockerd's request."""
    nodes = host.amd.nodes()
    mine = nodes[card]
    assert inside(host, container, "ls /dev/dri") == mine.name
    seen = inside(host, container, f"stat -c %t:%T /dev/dri/{mine.name}")
    assert ":".join(str(int(part, 16)) for part in seen.split(":")) == mine.number
    assert [opens(host, container, node.number) for node in nodes] == [node == mine for node in nodes]
    assert opens(host, container, host.amd.number("/dev/kfd"))
    given = containers(host)[container]["HostConfig"]["Devices"]
    assert [device["PathOnHost"] for device in given] == ["/dev/kfd", f"/dev/dri/{mine.name}"]


def test_fresh_host_gives_each_model_its_gpu(lab: Lab, amd1: Host) -> None:
    run = lab.run(lab.inventory({"amd1": {"models": models()}}))
    assert run.exit_code == 0, run.output
    assert [chat(amd1, port) for port in (8000, 8001, 8002)] == [SENTENCES[name] for name in ("alpha", "beta", "gamma")]
    has_its_card_alone(amd1, "alpha", 0)
    has_its_card_alone(amd1, "beta", 1)
    assert inside(amd1, "gamma", "ls -d /dev/dri /dev/kfd").count("No such file") == 2
    assert not any(opens(amd1, "gamma", node.number) for node in amd1.amd.nodes())
    found = containers(amd1)
    assert found["alpha"]["Config"]["Image"].endswith("llama.cpp:server-rocm-b7000")
    assert found["gamma"]["Config"]["Image"].endswith("llama.cpp:server-b7000")
    label = json.loads(found["beta"]["Config"]["Labels"]["gpurack.model"])
    assert (label["gpus"], label["uuids"]) == ("[0000:65:00.0]", [amd1.amd.unique_ids()[1]])


def test_server_without_root_opens_its_gpu(amd1: Host) -> None:
    """Only the group can open the nodes (0660). beta's server is in that group by number, which its image lacks."""
    pid = containers(amd1)["beta"]["State"]["Pid"]
    status = dict(
        line.split(":\t", 1) for line in amd1.root(f"cat /proc/{pid}/status").stdout.splitlines() if ":\t" in line
    )
    gid = amd1.amd.nodes()[1].gid
    assert status["Uid"].split()[0] == "65534"
    assert str(gid) in status["Groups"].split()
    command = "for n in /dev/kfd /dev/dri/*; do : <$n && echo $n; done"
    as_server = amd1.root(f"docker exec -u 65534:65534 beta sh -c '{command}'").stdout.split()
    assert as_server == ["/dev/kfd", "/dev/dri/renderD129"]


def test_installs_nothing_of_nvidia(amd1: Host) -> None:
    assert amd1.root("dpkg-query -W -f '${Package}\\n' | grep -i nvidia", check=False).stdout == ""
    assert amd1.root("grep -ril nvidia /etc/apt /etc/docker /etc/cdi 2>/dev/null", check=False).stdout == ""


def test_unchanged_run_is_one_remote_command(lab: Lab, amd1: Host) -> None:
    before = identities(amd1)
    run = lab.run(lab.inventory({"amd1": {"models": models()}}))
    assert run.unchanged, run.output
    assert amd1.ssh_commands(run.begun) == 1
    assert identities(amd1) == before
    is_right(lab)


def test_refuses_gpu_used_by_foreign_process(lab: Lab, amd1: Host) -> None:
    before = identities(amd1)
    pid = amd1.amd.foreign(2, 20000, "train.py")
    wanted = lab.inventory({"amd1": {"models": models(delta=model("delta", [2], 8003))}})
    run = lab.run(wanted)
    assert run.exit_code == 1, run.output
    (error,) = run.errors("amd1")
    assert error.startswith(
        f"delta: GPU 2 is in use by train.py (pid {pid}, root, 19.5 GiB), which gpurack does not manage."
    )
    assert identities(amd1) == before
    amd1.root(f"kill {pid}")
    await_(lambda: not amd1.root("ls /sys/class/kfd/kfd/proc").stdout, seconds=20, what="The end of train.py")
    run = lab.run(wanted)
    assert run.exit_code == 0, run.output
    has_its_card_alone(amd1, "delta", 2)


def test_engine_without_rocm_image_is_one_error(lab: Lab, amd1: Host) -> None:
    before = identities(amd1)
    tei = {"engine": "tei", "version": "1.9", "weights": "/srv/bge", "gpus": [2], "port": 8004}
    run = lab.run(lab.inventory({"amd1": {"models": models(bge=tei)}}), "--dry")
    assert "bge: TEI publishes no image for AMD's GPUs. Run it on the CPU (gpus: [])." in run.output
    assert identities(amd1) == before


def test_renumbered_gpus_are_given_again(lab: Lab, amd1: Host) -> None:
    """As after a boot in another order: the device name belongs to another GPU, the GPU is the same."""
    amd1.amd.swap(0, 1)
    run = lab.run(lab.inventory({"amd1": {"models": models(delta=model("delta", [2], 8003))}}))
    assert run.exit_code == 0, run.output
    assert "recreate alpha: its GPU has another device: /dev/dri/renderD129" in run.output
    assert "recreate beta: its GPU has another device: /dev/dri/renderD128" in run.output
    has_its_card_alone(amd1, "alpha", 0)
    has_its_card_alone(amd1, "beta", 1)
    assert run.row("amd1", "delta").endswith("ready"), run.output


def test_models_start_after_boot_with_late_driver(lab: Lab, amd1: Host) -> None:
    """Docker starts before the devices exist and gives up; gpurack.service starts the models when they appear."""
    amd1.amd.late(8)
    amd1.reboot()

    def back() -> bool:
        running = amd1.root("docker ps --filter status=running --format '{{.Names}}'", check=False).stdout
        return set(running.split()) >= {"alpha", "beta", "gamma", "delta"}

    await_(back, seconds=60, what="The start of the models after the boot")
    await_(
        lambda: lab.run(lab.inventory({"amd1": {"models": models(delta=model("delta", [2], 8003))}})).unchanged,
        seconds=60,
        what="A run without a change",
    )
    has_its_card_alone(amd1, "alpha", 0)
    has_its_card_alone(amd1, "delta", 2)


def test_vulkan_model_has_its_gpu(lab: Lab, amd1: Host) -> None:
    """Its backend finds the CPU's device here; the container gets the GPU's (docs/testing.md)."""
    lab.testbed.serve_engines("llama.cpp-vulkan")
    vulkan = {"version": "vulkan-b7000", "env": {"GGML_VK_VISIBLE_DEVICES": "0"}}
    run = lab.run(lab.inventory({"amd1": {"models": models(delta=model("delta", [2], 8003, **vulkan))}}))
    assert run.exit_code == 0, run.output
    container = containers(amd1)["delta"]
    assert container["Config"]["Image"].endswith("llama.cpp:server-vulkan-b7000")
    assert container["Args"][-2:] == ["--n-gpu-layers", "999"]
    assert chat(amd1, 8003) == SENTENCES["delta"]
    has_its_card_alone(amd1, "delta", 2)
