"""Rocky 9 with dnf: Docker and the toolkit from their rpm repositories: interrupted and resumed, pinned, held, upgraded
and downgraded, removed and installed again.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, cards, chat, containers, model
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.inventory import REGISTRY
from tests.testbed.shell import await_

CE = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin")
TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
OLD, NEW = ("26.1.5", "1.19.1"), ("28.5.2", "1.20.1")
REPOS = "/etc/yum.repos.d"
OLD_DOCKER = "[docker-ce-stable]\nname=Docker\nbaseurl=http://repo.testbed/docker-ce/linux/centos/$releasever/x\n"
FOREIGN = "[foreign]\nname=not https://download.docker.com/linux\nbaseurl=http://repo.testbed/cuda\nenabled=0\n"


def models() -> dict[str, Any]:
    """One on a GPU, one on two, one on the CPU."""
    return {
        "alpha": model("alpha", [0], 8000),
        "beta": model("beta", [1, 2], 8001),
        "gamma": model("gamma", [], 8002),
    }


def over(docker: str | None = None, toolkit: str | None = None) -> dict[str, Any]:
    """docker-ce and the toolkit at these versions. None: any version, not held."""
    return {
        "docker": {
            "source": "docker-ce",
            "daemon": {"insecure-registries": [REGISTRY]},
            **({"version": docker} if docker else {}),
        },
        "nvidia": {"toolkit": toolkit} if toolkit else {},
    }


def converge(lab: Lab, name: str, docker: str | None, toolkit: str | None) -> Run:
    """Run the main job successfully."""
    run = lab.run(lab.inventory({name: {"models": models()}}, over(docker, toolkit)))
    assert run.exit_code == 0, run.output
    assert not run.traceback
    return run


def versions(host: Host, packages: tuple[str, ...]) -> set[str]:
    """The versions of these packages in rpm's database, without epoch and release."""
    return set(host.root(f"rpm -q --qf '%{{VERSION}}\\n' {' '.join(packages)}").stdout.split())


def held(host: Host) -> set[str]:
    """The lines of versionlock's own list."""
    lines = host.get("/etc/dnf/plugins/versionlock.list").decode().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def serves(host: Host) -> None:
    """Each model answers under its name and has its GPUs."""
    assert [chat(host, port) for port in (8000, 8001, 8002)] == [SENTENCES[name] for name in models()]
    uuids = host.gpus.uuids
    assert (cards(host, "alpha"), cards(host, "beta")) == (uuids[:1], uuids[1:3])


def daemon_version(host: Host) -> str:
    """The version of the running dockerd."""
    return host.root("docker version --format '{{.Server.Version}}'").stdout.strip().split("+")[0]


def is_whole(host: Host, packages: tuple[str, ...] = (*CE, *TOOLKIT)) -> None:
    """Every package is installed once and none of its files is missing or changed; no transaction is open."""
    names = host.root("rpm -qa --qf '%{NAME}\\n' | grep -v gpg-pubkey").stdout.split()
    assert len(names) == len(set(names))
    verified = host.root(f"rpm -V {' '.join(packages)}", check=False).stdout.splitlines()
    assert [line for line in verified if " c " not in line] == [], "configuration files may be edited"
    assert host.root("ls /var/lib/gpurack/rpm-transaction", check=False).stdout == ""


@pytest.fixture(scope="module")
def rpm1(lab: Lab) -> Host:
    """A fresh Rocky 9 with older repository files."""
    lab.testbed.remove("rpm1")
    host = lab.testbed.add("rpm1", "rpm")
    host.put(OLD_DOCKER, f"{REPOS}/docker-ce.repo")
    host.put(f"{FOREIGN}{OLD_DOCKER}", f"{REPOS}/mixed.repo")
    return host


@pytest.fixture(scope="module")
def first(lab: Lab, rpm1: Host) -> Run:
    """A run killed while dnf installs Docker, and the run that completes it. Not the newest versions."""
    process = lab.start(lab.inventory({"rpm1": {"models": models()}}, over(*OLD)))
    await_(
        lambda: rpm1.root("grep -q docker-ce /var/lib/gpurack/rpm-transaction", check=False).returncode == 0,
        seconds=240,
        what="The transaction that installs Docker",
    )
    process.kill()
    process.communicate()
    return converge(lab, "rpm1", *OLD)


def test_fresh_host_serves_with_pinned_and_held_packages(rpm1: Host, first: Run) -> None:
    """From gpurack's repository files with its keys. It enables units, which the distribution does not."""
    assert versions(rpm1, CE[:2]) == {"26.1.5"}
    assert daemon_version(rpm1) == "26.1.5"
    assert versions(rpm1, TOOLKIT) == {"1.19.1"}
    assert {line.rsplit("-", 2)[0] for line in held(rpm1)} == {*CE, *TOOLKIT}
    assert {"docker-ce-3:26.1.5-1.el9.*", "docker-ce-cli-1:26.1.5-1.el9.*"} <= held(rpm1)
    assert "nvidia-container-toolkit-0:1.19.1-1.*" in held(rpm1)
    assert rpm1.root("systemctl is-enabled docker gpurack").stdout.split() == ["enabled", "enabled"]
    info = json.loads(rpm1.root("docker info --format '{{json .}}'").stdout)
    assert (info["LiveRestoreEnabled"], info["LoggingDriver"]) == (True, "local")
    assert info["Runtimes"]["nvidia"]["path"] == "nvidia-container-runtime"
    is_whole(rpm1)
    serves(rpm1)


def test_repositories_are_gpuracks_own_and_signed(lab: Lab, rpm1: Host, first: Run) -> None:
    """An older file is set aside; a file with other repositories loses only the section."""
    ours = {"gpurack-docker-ce.repo", "gpurack-nvidia-container-toolkit.repo"}
    assert set(rpm1.root(f"ls {REPOS}").stdout.split()) == {"rocky.repo", "mixed.repo", *ours}
    assert rpm1.get(f"{REPOS}/mixed.repo").decode() == FOREIGN + "".join(
        f"# {line}\n" for line in OLD_DOCKER.splitlines()
    )
    assert rpm1.root("cat /var/lib/gpurack/backups/*docker-ce.repo").stdout == OLD_DOCKER
    key = lab.testbed.signing_key.read_bytes()
    for name, checks in (("docker-ce", "gpgcheck=1\nrepo_gpgcheck=0"), ("nvidia-container-toolkit", "repo_gpgcheck=1")):
        assert rpm1.get(f"/etc/pki/rpm-gpg/gpurack-{name}.asc") == key
        text = rpm1.get(f"{REPOS}/gpurack-{name}.repo").decode()
        assert checks in text
        assert f"gpgkey=file:///etc/pki/rpm-gpg/gpurack-{name}.asc" in text
    signed = rpm1.root("rpm -q --qf '%{RSAHEADER:pgpsig}\\n' docker-ce").stdout
    assert "Key ID" in signed, "installed from a signed package"


def test_next_run_is_one_remote_command(lab: Lab, rpm1: Host, first: Run) -> None:
    """Nothing is written, nothing restarts."""
    run = converge(lab, "rpm1", *OLD)
    assert run.unchanged, run.output
    assert rpm1.ssh_commands(run.begun) == 1
    is_right(lab)


def test_unattended_upgrade_respects_holds(lab: Lab, rpm1: Host, first: Run) -> None:
    """`dnf upgrade` moves other packages; Docker and the toolkit stay, although newer ones exist."""
    rpm1.root("dnf -y -q install hello-1.0")
    rpm1.root("dnf -y upgrade --refresh")
    assert versions(rpm1, ("hello",)) == {"2.0"}
    assert (versions(rpm1, CE[:2]), versions(rpm1, TOOLKIT)) == ({"26.1.5"}, {"1.19.1"})
    assert converge(lab, "rpm1", *OLD).unchanged


@pytest.mark.parametrize(("target", "moved"), [(NEW, "26.1.5 → 28.5.2"), (OLD, "28.5.2 → 26.1.5")], ids=["up", "down"])
def test_changes_versions_while_models_serve(
    lab: Lab, rpm1: Host, first: Run, target: tuple[str, str], moved: str
) -> None:
    """Both at once. live-restore keeps the models running, and the holds follow."""
    before = {name: data["State"]["Pid"] for name, data in containers(rpm1).items()}
    docker, toolkit = target
    run = converge(lab, "rpm1", docker, toolkit)
    assert any(f"docker-ce {moved}" in line for line in run.lines("rpm1")), run.output
    assert (versions(rpm1, CE[:2]), daemon_version(rpm1)) == ({docker}, docker)
    assert versions(rpm1, TOOLKIT) == {toolkit}
    assert {f"docker-ce-3:{docker}-1.el9.*", f"libnvidia-container1-0:{toolkit}-1.*"} <= held(rpm1)
    assert len(held(rpm1)) == len((*CE, *TOOLKIT)), "no hold of the other version is left"
    assert {name: data["State"]["Pid"] for name, data in containers(rpm1).items()} == before
    is_whole(rpm1)
    serves(rpm1)
    assert converge(lab, "rpm1", docker, toolkit).unchanged


def test_removes_everything_and_installs_again(lab: Lab, rpm1: Host, first: Run) -> None:
    """Packages, holds, repositories and keys are removed; dependencies, daemon.json and Docker's data stay."""
    path = lab.inventory({"rpm1": {"models": models()}}, over(*OLD))
    run = lab.run(path, "-y", "--data", "remove=all", deploy="remove")
    assert run.exit_code == 0, run.output
    left = rpm1.root("rpm -qa --qf '%{NAME}\\n'").stdout.split()
    assert not {*CE, *TOOLKIT} & set(left)
    assert {"curl", "container-selinux", "iptables-nft"} <= set(left)
    assert held(rpm1) == set()
    assert rpm1.root(f"ls {REPOS}/gpurack-* /etc/pki/rpm-gpg/gpurack-*", check=False).stdout == ""
    assert json.loads(rpm1.get("/etc/docker/daemon.json"))["live-restore"] is True
    assert rpm1.root("ls /var/lib/docker").stdout

    converge(lab, "rpm1", None, None)

    assert (versions(rpm1, CE[:2]), versions(rpm1, TOOLKIT)) == ({"28.5.2"}, {"1.20.1"})
    assert held(rpm1) == set(), "no version in the inventory, no hold"
    serves(rpm1)
    assert converge(lab, "rpm1", None, None).unchanged
