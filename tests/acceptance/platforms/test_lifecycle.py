"""A host's life, from an installation interrupted by a power cut to removal: Debian 12 with docker-ce, Debian sid with
its own Docker 28, and a host with AMD GPUs. rpm1, yum1 and rootless1 have theirs in their own files, Debian 13 in
tests/acceptance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, chat, containers
from tests.acceptance.evidence import dpkg_audit
from tests.acceptance.platforms import test_amd
from tests.acceptance.test_versions import CE, OLD_DOCKER, TOOLKIT, daemon_version, held, models, serves, versions
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.hosts import container
from tests.testbed.inventory import REGISTRY
from tests.testbed.shell import await_

Versions = tuple[str | None, str | None]
"""Versions of Docker and the toolkit. None: not in the inventory, so any version, not held."""
DIST_UPGRADE = "apt-get -q update && apt-get -q -y dist-upgrade"
UNATTENDED = """apt-get -q -y install unattended-upgrades &&
    echo 'Unattended-Upgrade::Origins-Pattern { "origin=*"; };' >/etc/apt/apt.conf.d/99all &&
    unattended-upgrade --verbose"""
"""Debian's own unattended upgrade, which by default takes Debian's packages only."""


def serves_amd(host: Host) -> None:
    """Each model answers under its name and has its GPU."""
    assert [chat(host, port) for port in (8000, 8001, 8002)] == [SENTENCES[name] for name in test_amd.models()]
    test_amd.has_its_card_alone(host, "alpha", 0)
    test_amd.has_its_card_alone(host, "beta", 1)
    assert dpkg_audit(host) == ""


@dataclass(frozen=True)
class Life:
    """A host and the versions that change on it."""

    name: str
    kind: str
    source: str
    """`docker.source`."""
    old: Versions
    new: Versions
    models: Callable[[], dict[str, Any]] = models
    serves: Callable[[Host], None] = serves
    cut: str = "docker-ce"
    """While dpkg unpacks this package, the power goes in the first run."""
    upgrade: str = DIST_UPGRADE
    """How its administrator keeps it up to date."""

    @property
    def docker(self) -> tuple[str, ...]:
        """The packages of its Docker."""
        return CE if self.source == "docker-ce" else ("docker.io", "docker-cli", "docker-compose")

    def pinned(self, at: Versions) -> set[str]:
        """The packages that a version in the inventory holds."""
        docker, toolkit = at
        return {*(self.docker if docker else ()), *(TOOLKIT if toolkit else ())}


LIVES = (
    Life("bookworm1", "gpu-bookworm", "docker-ce", ("26.1.5", "1.19.1"), ("28.5.2", "1.20.1")),
    # sid has one version of Docker
    Life("sid1", "gpu-sid", "distro", ("28.5.2", "1.19.1"), ("28.5.2", "1.20.1"), cut="docker.io", upgrade=UNATTENDED),
    # nothing depends on Docker's plugin, so apt and dpkg leave it half installed without an error
    Life(
        "amd2",
        "amd",
        "docker-ce",
        ("26.1.5", None),
        ("28.5.2", None),
        test_amd.models,
        serves_amd,
        cut="docker-compose-plugin",
    ),
)


@pytest.fixture(scope="module", params=LIVES, ids=lambda life: life.name)
def life(request: pytest.FixtureRequest) -> Life:
    """One after the other: all tests of one run before the next."""
    chosen: Life = request.param
    return chosen


@pytest.fixture(scope="module")
def host(lab: Lab, life: Life) -> Iterator[Host]:
    """A fresh host with an older file of Docker's repository, whose key is missing."""
    lab.testbed.remove(life.name)
    host = lab.testbed.add(life.name, life.kind)
    if life.source == "docker-ce":
        codename = host.root(". /etc/os-release; echo $VERSION_CODENAME").stdout.strip()
        host.put(OLD_DOCKER.format(codename), "/etc/apt/sources.list.d/docker.list")
    yield host
    lab.testbed.remove(life.name)


def over(life: Life, at: Versions) -> dict[str, Any]:
    """The versions in the inventory."""
    docker, toolkit = at
    daemon = {"insecure-registries": [REGISTRY]}
    return {
        "docker": {"source": life.source, "daemon": daemon, **({"version": docker} if docker else {})},
        "nvidia": {"toolkit": toolkit} if toolkit else {},
    }


def converge(lab: Lab, life: Life, at: Versions) -> Run:
    """Run the main job successfully."""
    run = lab.run(lab.inventory({life.name: {"models": life.models()}}, over(life, at)))
    assert run.exit_code == 0, run.output
    return run


def is_at(host: Host, life: Life, at: Versions) -> None:
    """Checks versions by dpkg, by the running dockerd, and by apt's holds."""
    docker, toolkit = at
    if docker:
        assert versions(host, life.docker[:1]) == {docker}
        assert daemon_version(host) == docker
    if toolkit:
        assert versions(host, TOOLKIT) == {toolkit}
    assert life.pinned(at) == held(host)


@pytest.fixture(scope="module")
def first(lab: Lab, host: Host, life: Life) -> Run:
    """A power cut while dpkg unpacks Docker, and the run after it."""
    process = lab.start(lab.inventory({life.name: {"models": life.models()}}, over(life, life.old)))
    unpacking = f"dpkg-query -W -f '${{db:Status-Status}}\\n' {life.cut} 2>/dev/null"
    await_(
        lambda: host.root(unpacking, check=False).stdout.strip() in ("half-installed", "unpacked"),
        seconds=240,
        what="The moment in which Docker is half there",
    )
    host.engine.docker("kill", container(host.name))
    process.kill()
    process.communicate()
    host.start()
    assert dpkg_audit(host) != "", "the power went too late"
    return converge(lab, life, life.old)


def test_finishes_interrupted_installation(host: Host, life: Life, first: Run) -> None:
    """At the inventory's versions, held. An older repository file does not interfere."""
    assert any("finish an interrupted package installation" in line for line in first.lines(life.name)), first.output
    is_at(host, life, life.old)
    life.serves(host)
    assert "W:" not in host.root("apt-get -q update 2>&1").stdout
    assert host.root("ls /etc/apt/sources.list.d/docker.list", check=False).returncode != 0


def test_next_run_is_one_remote_command(lab: Lab, host: Host, life: Life, first: Run) -> None:
    run = converge(lab, life, life.old)
    assert run.unchanged, run.output
    assert host.ssh_commands(run.begun) == 1
    is_right(lab)


def test_unattended_upgrade_respects_holds(lab: Lab, host: Host, life: Life, first: Run) -> None:
    """It sees newer versions and keeps them back."""
    newer = {name for name, old, new in zip(("docker", "toolkit"), life.old, life.new, strict=True) if old != new}
    expected = {*(CE[:2] if "docker" in newer else ()), *(TOOLKIT if "toolkit" in newer else ())}
    said = host.root(f"{{ {life.upgrade}; }} 2>&1").stdout
    lists = re.findall(r"(?:kept back|Not upgrading):\n((?: +.*\n)+)", said)
    kept = {*" ".join(lists).split(), *re.findall(r"Package (\S+) is marked to be held back", said)}
    assert expected <= kept, said
    is_at(host, life, life.old)
    assert converge(lab, life, life.old).unchanged


@pytest.mark.parametrize("way", ["up", "down"])
def test_changes_version_while_models_serve(lab: Lab, host: Host, life: Life, first: Run, way: str) -> None:
    """live-restore keeps the models running, the holds follow, and nothing is left to do."""
    before = {name: data["State"]["Pid"] for name, data in containers(host).items()}
    target = life.new if way == "up" else life.old

    run = converge(lab, life, target)

    moves = zip(("docker-ce", "NVIDIA Container Toolkit"), life.old, life.new, strict=True)
    for what, *between in moves:
        if between[0] != between[1]:
            old, new = between if way == "up" else reversed(between)
            assert any(f"{what} {old} → {new}" in line for line in run.lines(life.name)), run.output
    is_at(host, life, target)
    assert {name: data["State"]["Pid"] for name, data in containers(host).items()} == before
    life.serves(host)
    assert converge(lab, life, target).unchanged


def test_removes_everything_and_installs_again(lab: Lab, host: Host, life: Life, first: Run) -> None:
    """Packages, holds, repositories and keys are removed; daemon.json and Docker's data stay. Without a version the
    newest are installed, without holds."""
    path = lab.inventory({life.name: {"models": life.models()}}, over(life, life.old))
    gone = lab.run(path, "-y", "--data", "remove=all", deploy="remove")
    assert gone.exit_code == 0, gone.output
    there = "dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n' | sed -n 's/^ii //p'"
    assert not {*life.docker, *TOOLKIT} & set(host.root(there).stdout.split())
    assert held(host) == set()
    assert host.root("ls /etc/apt/sources.list.d /etc/apt/keyrings | grep gpurack", check=False).stdout == ""
    assert json.loads(host.get("/etc/docker/daemon.json"))["live-restore"] is True

    converge(lab, life, (None, None))

    newest = life.new[0], life.new[1]
    assert versions(host, life.docker[:1]) == {newest[0]}
    if newest[1]:
        assert versions(host, TOOLKIT) == {newest[1]}
    assert held(host) == set()
    life.serves(host)
    assert converge(lab, life, (None, None)).unchanged
