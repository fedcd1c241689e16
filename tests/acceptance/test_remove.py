"""deploys/remove.py removes what gpurack installed, never data, and the next run restores it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import Lab, chat, containers, standard
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.inventory import REGISTRY

IMAGE = f"{REGISTRY}/ghcr/ggml-org/llama.cpp:server-b7000"
OURS = ("/etc/gpurack", "/usr/local/lib/gpurack", "/etc/systemd/system/gpurack.service")


@pytest.fixture(scope="module", autouse=True)
def provisioned(lab: Lab) -> None:
    """Both hosts with the standard inventory."""
    run = lab.run(lab.inventory(standard()))
    assert run.exit_code == 0, run.output


@pytest.fixture
def stranger(gpu1: Host) -> Iterator[str]:
    """A running container made by hand."""
    gpu1.root(f"docker run -d --name stranger --restart unless-stopped --entrypoint sleep {IMAGE} 3600")
    yield "stranger"
    gpu1.root("docker rm -f stranger", check=False)


def data_of(host: Host) -> dict[str, str]:
    """Data that is never removed: weights, daemon.json."""
    return {
        "weights": host.root("sha256sum /var/lib/gpurack/weights/*").stdout,
        "daemon.json": host.get("/etc/docker/daemon.json").decode(),
    }


def test_removes_models_and_project_only(lab: Lab, gpu1: Host, cpu1: Host, stranger: str) -> None:
    """Containers, compose.yaml, boot unit and runner are gone on every host; foreign containers, images and weights
    stay."""
    before = {host.name: data_of(host) for host in (gpu1, cpu1)}
    theirs = containers(gpu1)[stranger]["State"]["StartedAt"]

    run = lab.run(lab.inventory(standard()), deploy="remove")

    assert run.exit_code == 0, run.output
    assert any("remove alpha, beta, gamma" in line for line in run.lines("gpu1")), run.output
    assert set(containers(gpu1)) == {stranger}
    assert containers(gpu1)[stranger]["State"]["StartedAt"] == theirs
    assert containers(cpu1) == {}
    for host in (gpu1, cpu1):
        assert host.root(f"ls -d {' '.join(OURS)}", check=False).stdout == ""
        assert "gpurack" not in host.root("systemctl list-unit-files --no-legend").stdout
        assert data_of(host) == before[host.name]
        assert host.root("systemctl is-active docker").stdout.strip() == "active"
    gpu1.root(f"docker image inspect {IMAGE}")
    assert "gpurack_default" not in gpu1.root("docker network ls --format '{{.Name}}'").stdout

    again = lab.run(lab.inventory(standard()), deploy="remove")
    assert again.exit_code == 0, again.output
    assert not [line for line in again.output.splitlines() if line.rstrip().endswith("] Success")], again.output


def test_docker_stays_beside_foreign_containers(lab: Lab, gpu1: Host, stranger: str) -> None:
    """remove=all refuses and names them."""
    run = lab.run(lab.inventory({"gpu1": standard()["gpu1"]}), "-y", "--data", "remove=all", deploy="remove")
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    assert any("Docker was not removed" in line and stranger in line for line in run.lines("gpu1")), run.output
    assert containers(gpu1)[stranger]["State"]["Running"]


def test_refuses_unknown_value(lab: Lab, gpu1: Host) -> None:
    """A typo does not count as consent."""
    run = lab.run(lab.inventory({"gpu1": standard()["gpu1"]}), "-y", "--data", "remove=al", deploy="remove")
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    assert "remove=models" in run.output
    assert gpu1.root("systemctl is-active docker").stdout.strip() == "active"


def test_all_removes_docker_and_toolkit_but_no_data(lab: Lab, gpu1: Host) -> None:
    """Packages, holds, repository files and keys are gone; daemon.json, images and weights are not."""
    gpu1.root("docker rm -f stranger", check=False)
    before = data_of(gpu1)

    run = lab.run(lab.inventory({"gpu1": standard()["gpu1"]}), "-y", "--data", "remove=all", deploy="remove")

    assert run.exit_code == 0, run.output
    left = {
        line[2:].strip()
        for line in gpu1.root("dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n'").stdout.splitlines()
        if line.startswith("ii") and ("docker" in line or "nvidia" in line)
    }
    # Dependencies that apt installed (docker-buildx, containerd, runc) go with the admin's next apt autoremove.
    assert left <= set(gpu1.root("apt-mark showauto").stdout.split())
    assert gpu1.root("apt-mark showhold").stdout == ""
    assert gpu1.root("ls /etc/apt/sources.list.d /etc/apt/keyrings | grep gpurack", check=False).stdout == ""
    gpu1.root("apt-get -q update")
    assert data_of(gpu1) == before
    assert gpu1.root("find /var/lib/docker/image -type f | head -n 1").stdout != ""


def test_next_run_restores_everything(lab: Lab, gpu1: Host) -> None:
    """As on a fresh host; daemon.json was kept, so it needs no change."""
    run = lab.run(lab.inventory(standard()))
    assert run.exit_code == 0, run.output
    assert [chat(gpu1, port) for port in (8000, 8001, 8002)] == [SENTENCES[name] for name in ("alpha", "beta", "gamma")]
    assert json.loads(gpu1.get("/etc/docker/daemon.json"))["live-restore"] is True
    again = lab.run(lab.inventory(standard()))
    assert again.unchanged, again.output
