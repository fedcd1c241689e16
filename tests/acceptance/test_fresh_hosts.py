"""Bare servers: --dry says what will be done and changes nothing; one run then does it, and every model answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import testinfra

from tests.acceptance.conftest import Lab, Run, cards, chat, containers, standard
from tests.acceptance.evidence import dpkg_audit, files_touched
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.hosts import SSH_CONFIG
from tests.testbed.inventory import weights

HOSTS = ("gpu1", "cpu1")
TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
LOADING = 7
"""Seconds before delta begins to load, so that a progress message is due."""


def hosts() -> dict[str, dict[str, Any]]:
    """The standard inventory, with one slow download and one model that loads slowly."""
    data = standard()
    slowly = weights("gamma")["url"].replace("http://weights.testbed/", "http://weights.testbed/throttle/300k/")
    data["gpu1"]["models"]["gamma"]["weights"]["url"] = slowly
    entrypoint = ["sh", "-c", f'sleep {LOADING}; exec /app/llama-server "$@"', "late"]
    data["cpu1"]["models"]["delta"]["compose"] = {"entrypoint": entrypoint}
    return data


@pytest.fixture(scope="module")
def dry(lab: Lab, fresh: Callable[[str], Host]) -> Run:
    """The output of --dry on fresh hosts."""
    for name in HOSTS:
        fresh(name)
    return lab.run(lab.inventory(hosts()), "--dry")


@pytest.fixture(scope="module")
def first(lab: Lab, dry: Run) -> Run:
    """The first run that changes something."""
    return lab.run(lab.inventory(hosts()))


def announced(run: Run, host: str) -> set[str]:
    """The changes that a run announced for a host. The line of daemon.json names several keys."""
    lines = [line.split("~ ", 1)[1].removesuffix(" (restart Docker)") for line in run.lines(host) if "] ~ " in line]
    return {part for line in lines for part in re.split(r", (?=[a-z.-]+(?:: |,| if |$))", line)}


def test_dry_changes_nothing_on_fresh_hosts(lab: Lab, dry: Run) -> None:
    """It writes no file on any host and installs no package, with one remote command per host."""
    assert dry.exit_code == 0, dry.output
    assert "Nothing was changed" in dry.output
    for name in HOSTS:
        host = lab.testbed.host(name)
        assert files_touched(host, dry.begun) == []
        assert host.root("command -v docker python3 curl", check=False).stdout == ""
        assert host.ssh_commands(dry.begun) == 1


def test_first_run_succeeds(first: Run) -> None:
    """Exit code 0, and a table of all models that answer."""
    assert first.exit_code == 0, first.output
    assert not first.traceback
    rows = [re.split(r" {2,}", line.strip()) for line in first.output.splitlines()]
    assert ["HOST", "MODEL", "ENGINE", "GPU", "ENDPOINT", "STATE"] in rows
    for row in (
        ["cpu1", "delta", "llama.cpp b7000", "CPU", "http://localhost:8000/v1", "ready, created"],
        ["gpu1", "alpha", "llama.cpp b7000", "0", "http://localhost:8000/v1", "ready, created"],
        ["gpu1", "beta", "llama.cpp b7000", "1, 2", "http://localhost:8001/v1", "ready, created"],
        ["gpu1", "gamma", "llama.cpp b7000", "CPU", "http://localhost:8002/v1", "ready, created"],
    ):
        assert row in rows, first.output
    assert "4 of 4 models answered, 4 changed" in first.output


@pytest.mark.parametrize("name", HOSTS)
def test_dry_named_every_change_of_first_run(dry: Run, first: Run, name: str) -> None:
    """Also those that depend on what was not installed yet."""
    made = announced(first, name)
    assert {"install docker.io", 'log-driver: "local"'} <= made
    said = announced(dry, name)
    if "features.cdi if the Docker to be installed is older than 28.2" in said:
        said.add("features.cdi")
    assert made <= said


def test_long_steps_print_progress(first: Run) -> None:
    """Every few seconds a line with host, model, amount and time: packages, download, load."""
    gpu1, cpu1 = first.lines("gpu1"), first.lines("cpu1")
    assert any(re.search(r"\] 0:05 +\S", line) for line in gpu1), "apt"
    assert any(
        re.search(r"gamma: fetching weights, [\d.]+ [kM]B of [\d.]+ MB, \d+ kB/s, \d s", line) for line in gpu1
    ), first.output
    assert any(re.search(r"delta: loading, \d s", line) for line in cpu1), first.output
    assert any(re.search(rf"delta: ready after {LOADING} s|delta: ready after \d+ s", line) for line in cpu1)


def test_every_model_says_its_own_sentence(gpu1: Host, cpu1: Host, first: Run) -> None:
    """The right model answers at the right address, requested by curl on the host."""
    assert chat(gpu1, 8000) == SENTENCES["alpha"]
    assert chat(gpu1, 8001) == SENTENCES["beta"]
    assert chat(gpu1, 8002) == SENTENCES["gamma"]
    assert chat(cpu1, 8000) == SENTENCES["delta"]


def test_container_sees_exactly_its_gpus(gpu1: Host, first: Run) -> None:
    """By `nvidia-smi -L` inside. A model on the CPU sees none and can open none."""
    uuids = gpu1.gpus.uuids
    assert cards(gpu1, "alpha") == [uuids[0]]
    assert cards(gpu1, "beta") == [uuids[1], uuids[2]]
    assert gpu1.root("docker exec gamma sh -c 'ls /dev | grep nvidia'", check=False).stdout == ""
    for name, devices in (("alpha", uuids[:1]), ("beta", uuids[1:3])):
        requests = containers(gpu1)[name]["HostConfig"]["DeviceRequests"]
        assert [(request["Driver"], request["DeviceIDs"]) for request in requests] == [
            ("cdi", [f"nvidia.com/gpu={uuid}" for uuid in devices])
        ]


@pytest.mark.parametrize("name", HOSTS)
def test_docker_is_installed_running_and_configured(lab: Lab, first: Run, name: str) -> None:
    """By testinfra and by what dockerd itself says."""
    seen = testinfra.get_host(f"ssh://{name}", ssh_config=str(SSH_CONFIG), sudo=True)
    for package in ("docker.io", "docker-cli", "docker-compose", "curl", "python3", "ca-certificates"):
        assert seen.package(package).is_installed, package
    assert seen.service("docker").is_running
    for unit in ("docker", "gpurack"):
        assert seen.service(unit).is_enabled, unit
    daemon = json.loads(seen.file("/etc/docker/daemon.json").content_string)
    assert daemon["live-restore"] is True
    assert daemon["log-driver"] == "local"
    info = json.loads(seen.check_output("docker info --format '{{json .}}'"))
    assert info["LiveRestoreEnabled"] is True
    assert info["LoggingDriver"] == "local"
    assert seen.check_output("docker compose version --short").startswith("2.")
    for port in (8000, 8001, 8002) if name == "gpu1" else (8000,):
        assert seen.socket(f"tcp://127.0.0.1:{port}").is_listening
    published = seen.check_output("ss -Hltn").splitlines()
    assert not [line for line in published if re.search(r"(0\.0\.0\.0|\*|\[::\]):800\d", line)], "open to the network"
    assert dpkg_audit(lab.testbed.host(name)) == ""


def test_toolkit_is_installed_at_one_held_version_with_cdi(gpu1: Host, first: Run) -> None:
    """Its four packages, gpurack's repository with its key, a device for every GPU, the runtime and the GPU driver."""
    seen = testinfra.get_host("ssh://gpu1", ssh_config=str(SSH_CONFIG), sudo=True)
    assert {seen.package(name).version for name in TOOLKIT} == {"1.20.1-1"}
    assert set(TOOLKIT) <= set(seen.check_output("apt-mark showhold").split())
    source = seen.file("/etc/apt/sources.list.d/gpurack-nvidia-container-toolkit.sources")
    assert "Signed-By: /etc/apt/keyrings/gpurack-nvidia-container-toolkit.asc" in source.content_string
    assert seen.file("/etc/apt/keyrings/gpurack-nvidia-container-toolkit.asc").mode == 0o644
    devices = seen.check_output("nvidia-ctk cdi list").split()
    assert {f"nvidia.com/gpu={uuid}" for uuid in gpu1.gpus.uuids} <= set(devices)
    info = json.loads(seen.check_output("docker info --format '{{json .}}'"))
    assert info["Runtimes"]["nvidia"]["path"] == "nvidia-container-runtime"
    assert info["CDISpecDirs"]
    gpu1.root("tar cT /dev/null | docker import - by-hand:probe")
    probe = gpu1.root("docker run --rm --gpus all --network none by-hand:probe /x", check=False)
    gpu1.root("docker rmi by-hand:probe")
    assert "could not select device driver" not in probe.stderr
    assert "nvidia-container-cli" in probe.stderr, "the toolkit's hook was not asked"


def test_host_without_gpus_gets_no_toolkit(cpu1: Host, first: Run) -> None:
    assert "nvidia" not in cpu1.root("dpkg-query -W -f '${Package}\n'; ls /etc/apt/sources.list.d").stdout
    assert "nvidia" not in cpu1.get("/etc/docker/daemon.json").decode()


def test_next_run_changes_nothing(lab: Lab, first: Run) -> None:
    run = lab.run(lab.inventory(hosts()))
    assert run.unchanged, run.output
