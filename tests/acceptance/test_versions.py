"""Versions of Docker and the toolkit: pinned, held, upgraded and downgraded; Docker's own repository; older repository
files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, cards, chat, containers, model
from tests.acceptance.evidence import dpkg_audit
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.inventory import REGISTRY

CE = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin")
TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
OLD_DOCKER = (
    "deb [arch=amd64 signed-by=/etc/apt/keyrings/old.asc] http://repo.testbed/docker-ce/linux/debian {} stable\n"
)
OLD_NVIDIA = "deb [signed-by=/etc/apt/keyrings/old.asc] http://repo.testbed/nvidia/stable/deb/$(ARCH) /\n"
FOREIGN = "# deb http://download.docker.com/linux/debian trixie stable\n"


@pytest.fixture(scope="module", autouse=True)
def _no_other_hosts(lab: Lab) -> Iterator[None]:
    """gpu1 starts fresh and is removed afterwards, because other tests need the distribution's Docker."""
    yield
    lab.testbed.remove("gpu1")


def models() -> dict[str, Any]:
    """One on a GPU, one on two, one on the CPU."""
    return {
        "alpha": model("alpha", [0], 8000),
        "beta": model("beta", [1, 2], 8001),
        "gamma": model("gamma", [], 8002),
    }


def converge(lab: Lab, name: str, docker: str | None, toolkit: str | None) -> Run:
    """The main job with docker-ce and the toolkit at these versions. None: any version, not held."""
    daemon = {"insecure-registries": [REGISTRY]}
    over = {
        "docker": {"source": "docker-ce", "daemon": daemon, **({"version": docker} if docker else {})},
        "nvidia": {"toolkit": toolkit} if toolkit else {},
    }
    run = lab.run(lab.inventory({name: {"models": models()}}, over))
    assert run.exit_code == 0, run.output
    return run


def versions(host: Host, packages: tuple[str, ...]) -> set[str]:
    """The upstream versions dpkg has of these packages."""
    out = host.root(f"dpkg-query -W -f '${{Version}}\\n' {' '.join(packages)}").stdout
    return {re.split(r"[-~+]", line.split(":")[-1])[0] for line in out.split()}


def held(host: Host) -> set[str]:
    """The packages on hold."""
    return set(host.root("apt-mark showhold").stdout.split())


def serves(host: Host) -> None:
    """Each model answers under its name and has its GPUs."""
    assert [chat(host, port) for port in (8000, 8001, 8002)] == [SENTENCES[name] for name in models()]
    uuids = host.gpus.uuids
    assert (cards(host, "alpha"), cards(host, "beta")) == (uuids[:1], uuids[1:3])
    assert dpkg_audit(host) == ""


def daemon_version(host: Host) -> str:
    """The version of the running dockerd."""
    return host.root("docker version --format '{{.Server.Version}}'").stdout.strip().split("+")[0]


def test_installs_pinned_versions_beside_old_repository_files(lab: Lab, fresh: Callable[[str], Host]) -> None:
    """Old files with another Signed-By would break apt. They are set aside, unless they have other repositories."""
    host = fresh("gpu1")
    folder = "/etc/apt/sources.list.d"
    host.root("cp /etc/apt/keyrings/testbed.asc /etc/apt/keyrings/old.asc")
    host.put(OLD_DOCKER.format("trixie"), f"{folder}/docker.list")
    host.put(OLD_NVIDIA, f"{folder}/nvidia-container-toolkit.list")
    host.put(FOREIGN, f"{folder}/notes.list")

    converge(lab, "gpu1", "26.1.5", "1.19.1")

    ours = {"gpurack-docker-ce.sources", "gpurack-nvidia-container-toolkit.sources"}
    assert set(host.root(f"ls {folder}").stdout.split()) == {"debian.sources", "notes.list", *ours}
    assert host.get(f"{folder}/notes.list").decode() == FOREIGN
    kept = host.root("grep -rl keyrings/old.asc /etc /var/lib/gpurack").stdout.split()
    assert len(kept) == 2, "the old files are set aside, not destroyed"
    updated = host.root("apt-get -q update")
    assert "W:" not in updated.stderr + updated.stdout
    assert versions(host, ("docker-ce", "docker-ce-cli")) == {"26.1.5"}
    assert daemon_version(host) == "26.1.5"
    assert versions(host, TOOLKIT) == {"1.19.1"}
    assert {*CE, *TOOLKIT} <= held(host)
    serves(host)


def test_upgrades_while_models_serve(lab: Lab) -> None:
    """Both at once. live-restore keeps the models running, and nothing is left to do."""
    host = lab.testbed.host("gpu1")
    before = {name: data["State"]["Pid"] for name, data in containers(host).items()}

    run = converge(lab, "gpu1", "28.5.2", "1.20.1")

    said = run.lines("gpu1")
    assert any("docker-ce 26.1.5 → 28.5.2" in line for line in said), run.output
    assert any("NVIDIA Container Toolkit 1.19.1 → 1.20.1" in line for line in said), run.output
    assert versions(host, ("docker-ce", "docker-ce-cli")) == {"28.5.2"}
    assert daemon_version(host) == "28.5.2"
    assert versions(host, TOOLKIT) == {"1.20.1"}
    assert {*CE, *TOOLKIT} <= held(host)
    assert {name: data["State"]["Pid"] for name, data in containers(host).items()} == before
    serves(host)
    assert converge(lab, "gpu1", "28.5.2", "1.20.1").unchanged


def test_downgrades(lab: Lab) -> None:
    """Held and older packages are no obstacle."""
    host = lab.testbed.host("gpu1")

    run = converge(lab, "gpu1", "26.1.5", "1.19.1")

    said = run.lines("gpu1")
    assert any("docker-ce 28.5.2 → 26.1.5" in line for line in said), run.output
    assert any("NVIDIA Container Toolkit 1.20.1 → 1.19.1" in line for line in said), run.output
    assert daemon_version(host) == "26.1.5"
    assert versions(host, TOOLKIT) == {"1.19.1"}
    assert {*CE, *TOOLKIT} <= held(host)
    assert json.loads(host.get("/etc/docker/daemon.json"))["features"]["cdi"] is True
    serves(host)
    assert converge(lab, "gpu1", "26.1.5", "1.19.1").unchanged


def test_without_version_nothing_is_held_or_moved(lab: Lab) -> None:
    """The installed versions stay; the admin may upgrade them again."""
    host = lab.testbed.host("gpu1")
    converge(lab, "gpu1", None, None)
    assert held(host) == set()
    assert daemon_version(host) == "26.1.5"
    assert converge(lab, "gpu1", None, None).unchanged


def test_main_job_works_on_debian_12(lab: Lab) -> None:
    """By the same code, with Docker's own repository: Debian 12's Docker has no Compose v2, which the plan says."""
    lab.testbed.remove("bookworm1")
    host = lab.testbed.add("bookworm1", "gpu-bookworm")
    distro = lab.run(lab.inventory({"bookworm1": {"models": models()}}))
    assert distro.exit_code == 1
    remedy = 'has no Docker with Compose v2 of its own. Write docker: {"source": "docker-ce"}'
    assert any(remedy in line for line in distro.lines("bookworm1"))
    assert host.root("command -v docker", check=False).returncode != 0

    converge(lab, "bookworm1", None, "1.20.1")

    assert 'VERSION_ID="12"' in host.get("/etc/os-release").decode()
    assert versions(host, TOOLKIT) == {"1.20.1"}
    serves(host)
    assert converge(lab, "bookworm1", None, "1.20.1").unchanged
    lab.testbed.remove("bookworm1")


@pytest.mark.parametrize(("name", "version"), [("noble1", "24.04"), ("jammy1", "22.04")])
def test_main_job_works_with_os_release_of_ubuntu(lab: Lab, name: str, version: str) -> None:
    """By Ubuntu's rows of the table of platforms; the rest of the host is Debian's (docs/testing.md)."""
    codename = name.removesuffix("1")
    lab.testbed.remove(name)
    host = lab.testbed.add(name, f"gpu-{codename}")
    converge(lab, name, None, "1.20.1")
    assert f'VERSION_ID="{version}"' in host.get("/etc/os-release").decode()
    source = host.get("/etc/apt/sources.list.d/gpurack-docker-ce.sources").decode()
    assert "URIs: http://repo.testbed/docker-ce/linux/ubuntu\n" in source
    assert f"Suites: {codename}\n" in source
    assert f"~{codename}" in host.root("dpkg-query -W -f '${Version}' docker-ce").stdout
    serves(host)
    assert converge(lab, name, None, "1.20.1").unchanged
    lab.testbed.remove(name)
