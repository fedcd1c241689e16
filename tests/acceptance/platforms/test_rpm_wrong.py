"""Rocky 9 with yum only, as a link to dnf: errors are reported, interrupted work is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import RUN_TIMEOUT, Lab, Run
from tests.acceptance.platforms.test_rpm import (
    CE,
    NEW,
    OLD,
    TOOLKIT,
    converge,
    daemon_version,
    held,
    is_whole,
    models,
    over,
    serves,
    versions,
)
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.hosts import container
from tests.testbed.inventory import mirrors
from tests.testbed.shell import await_

CUDA = "[cuda]\nname=cuda\nbaseurl=http://repo.testbed/cuda\ngpgcheck=0\n"


@pytest.fixture(scope="module")
def yum1(lab: Lab) -> Iterator[Host]:
    """A fresh host without a program called dnf."""
    lab.testbed.remove("yum1")
    host = lab.testbed.add("yum1", "yum")
    assert host.root("command -v dnf", check=False).stdout == ""
    assert host.root("readlink /usr/bin/yum").stdout.strip() == "dnf-3"
    return host


def refused(lab: Lab, **data: Any) -> Run:
    """A run that fails with these errors."""
    run = lab.run(lab.inventory({"yum1": {"models": models()}}, {**over(*OLD), **data}))
    assert run.exit_code != 0, run.output
    assert not run.traceback
    return run


def says(run: Run, sentence: str) -> bool:
    """Is this one of the errors, on one line?"""
    return any(sentence in line for line in run.output.splitlines())


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        (
            "podman-docker",
            "podman-docker 5.4.0 is installed and conflicts with docker-ce. It only names podman docker: yum "
            "remove podman-docker.",
        ),
        (
            "docker",
            'docker 25.0.8 is installed and conflicts with docker-ce. To keep it, set docker: {"source": "k',
        ),
        (
            "runc",
            "runc 1.2.5 is installed and conflicts with docker-ce. containerd.io has its own. Podman and buil",
        ),
    ],
)
def test_conflicting_packages_are_named_and_left(lab: Lab, yum1: Host, package: str, sentence: str) -> None:
    """Before anything changes."""
    yum1.root(f"yum -y -q install {package}")
    run = refused(lab)
    assert says(run, sentence), run.output
    assert yum1.root(f"rpm -q {package}").returncode == 0
    assert yum1.root("ls /etc/yum.repos.d").stdout.split() == ["rocky.repo"]
    yum1.root(f"yum -y -q remove {package}")


def test_missing_docker_of_distribution_is_one_error(lab: Lab, yum1: Host) -> None:
    run = refused(lab, docker={"source": "distro"})
    assert says(run, "Rocky Linux 9.6 (Blue Onyx) has no Docker with Compose v2 of its own. Write docker:"), run.output


def test_missing_version_lists_available_ones(lab: Lab, yum1: Host) -> None:
    run = refused(lab, docker={"source": "docker-ce", "version": "27.0.1"})
    assert says(run, "docker-ce 27.0.1 is in no repository. Available: 26.1.5, 28.5.2."), run.output


@pytest.mark.parametrize(
    ("mirror", "url", "sentence"),
    [
        (
            "docker-ce",
            "http://repo.testbed:81/docker-ce",
            "repository gpurack-docker-ce cannot be read: Curl error (7)",
        ),
        (
            "docker-ce",
            "http://repo.testbed/nowhere",
            "repository gpurack-docker-ce cannot be read: Status code: 404 for",
        ),
    ],
)
def test_unreachable_repository_is_named_with_reason(
    lab: Lab, yum1: Host, mirror: str, url: str, sentence: str
) -> None:
    run = refused(lab, mirrors={**mirrors(), mirror: {**mirrors()[mirror], "url": url}})
    assert says(run, sentence), run.output


def test_refuses_packages_signed_with_other_key(lab: Lab, yum1: Host) -> None:
    """By gpgcheck: gpurack's key of Docker did not sign the testbed's packages."""
    run = refused(lab, mirrors={**mirrors(), "docker-ce": mirrors()["docker-ce"]["url"]})
    assert says(run, "is not signed with the key of its repository. A mirror that signs with its own key needs"), (
        run.output
    )
    assert yum1.root("rpm -q docker-ce", check=False).returncode != 0


GETENT = "#!/bin/sh\npkill -9 -f 'bin/yum -y'\nexec /usr/bin/getent \"$@\"\n"
"""Replaces the program that docker-ce-cli's %post calls: the package is then installed, and yum is killed."""


def cut(host: Host, run: Callable[[], Run]) -> None:
    """A run whose transaction is interrupted by a power cut."""
    host.put(GETENT, "/usr/sbin/getent", 0o755)
    assert run().exit_code != 0, "the cut came too late"
    host.engine.docker("kill", container(host.name))
    host.start()
    host.root("rm /usr/sbin/getent")
    assert "docker-ce-cli" in host.get("/var/lib/gpurack/rpm-transaction").decode()


def test_finishes_interrupted_installation(lab: Lab, yum1: Host) -> None:
    """Some packages are installed without their scripts. The next run finishes them, and the models answer."""
    path = lab.inventory({"yum1": {"models": models()}}, over(*OLD))
    cut(yum1, lambda: lab.run(path))
    assert yum1.root("rpm -q docker-ce-cli").returncode == 0
    assert yum1.root("rpm -q docker-ce docker-compose-plugin", check=False).returncode != 0, "some are missing"

    run = converge(lab, "yum1", *OLD)

    assert any("finish an interrupted package installation" in line for line in run.lines("yum1")), run.output
    assert (versions(yum1, CE[:2]), daemon_version(yum1), versions(yum1, TOOLKIT)) == ({"26.1.5"}, "26.1.5", {"1.19.1"})
    assert len(held(yum1)) == len((*CE, *TOOLKIT))
    is_whole(yum1)
    serves(yum1)
    assert converge(lab, "yum1", *OLD).unchanged


def test_finishes_interrupted_upgrade(lab: Lab, yum1: Host) -> None:
    """A package is installed twice, old and new; only the new one stays."""
    path = lab.inventory({"yum1": {"models": models()}}, over(*NEW))
    cut(yum1, lambda: lab.run(path))
    assert versions(yum1, ("docker-ce-cli",)) == {"26.1.5", "28.5.2"}

    run = converge(lab, "yum1", *NEW)

    assert any("finish an interrupted package installation" in line for line in run.lines("yum1")), run.output
    assert (versions(yum1, CE[:2]), daemon_version(yum1)) == ({"28.5.2"}, "28.5.2")
    is_whole(yum1)
    serves(yum1)
    assert converge(lab, "yum1", *NEW).unchanged


def test_refuses_metadata_signed_with_other_key(lab: Lab, yum1: Host) -> None:
    """NVIDIA's repository, by repo_gpgcheck. Serving models continue."""
    unsigned = {**over("28.5.2", "1.19.1"), "mirrors": {**mirrors(), "nvidia": mirrors()["nvidia"]["url"]}}
    run = refused(lab, **unsigned)
    assert says(run, "repository gpurack-nvidia-container-toolkit is not signed with its key"), run.output
    assert versions(yum1, TOOLKIT) == {"1.20.1"}
    serves(yum1)


def test_conflicting_toolkit_repositories_are_named(lab: Lab, yum1: Host) -> None:
    """Unpinned, the newest versions of the packages do not match. A pin selects one."""
    yum1.put(CUDA, "/etc/yum.repos.d/cuda.repo")
    yum1.root(f"rpm -e {' '.join(TOOLKIT)} && yum -q --disablerepo=* versionlock delete {' '.join(TOOLKIT)}")
    run = refused(lab, nvidia={})
    sentence = (
        "two repositories have different versions of the NVIDIA Container Toolkit, which conflict: cuda has 1.21.0; "
    )
    assert says(run, f"{sentence}gpurack-nvidia-container-toolkit has 1.19.1, 1.20.1. Write nvidia:"), run.output

    converge(lab, "yum1", *NEW)

    assert versions(yum1, TOOLKIT) == {"1.20.1"}
    yum1.root("yum -y upgrade --refresh")
    assert versions(yum1, TOOLKIT) == {"1.20.1"}
    serves(yum1)


SLOW = """Name: slow
Version: 1
Release: 1
License: none
Summary: slow
BuildArch: noarch
%description
Slow.
%post
until [ -e /run/enough ]; do sleep 0.2; done
%files
"""


def test_waits_for_other_rpm(lab: Lab, yum1: Host) -> None:
    """For rpm's own lock, which dnf does not wait for."""
    yum1.put(SLOW, "/root/slow.spec")
    yum1.root("cd /root && rpmbuild -bb --quiet --define '_topdir /root/top' slow.spec")
    yum1.root("systemd-run --quiet --collect sh -c 'rpm -i /root/top/RPMS/noarch/slow*.rpm'")
    await_(lambda: yum1.root("pgrep -x sleep", check=False).stdout, seconds=20, what="rpm's scriptlet")
    process = lab.start(lab.inventory({"yum1": {"models": models()}}, over(*OLD)))
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if "rpm is busy with another installation; waiting" in line:
            break
    else:
        pytest.fail(f"it did not wait, or not say so:\n{output}")
    assert versions(yum1, CE[:2]) == {"28.5.2"}
    yum1.root("touch /run/enough")
    output += process.communicate(timeout=RUN_TIMEOUT)[0]
    assert process.returncode == 0, output
    assert versions(yum1, CE[:2]) == {"26.1.5"}


def test_removes_everything_and_installs_again(lab: Lab, yum1: Host) -> None:
    """Packages, holds and repositories are removed, and the next run restores them, held. With yum, which is dnf."""
    run = lab.run(
        lab.inventory({"yum1": {"models": models()}}, over(*OLD)), "-y", "--data", "remove=all", deploy="remove"
    )
    assert run.exit_code == 0, run.output
    assert not {*CE, *TOOLKIT} & set(yum1.root("rpm -qa --qf '%{NAME}\\n'").stdout.split())
    assert held(yum1) == set()
    assert yum1.root("ls /etc/yum.repos.d").stdout.split() == ["cuda.repo", "rocky.repo"]

    converge(lab, "yum1", *OLD)

    assert (daemon_version(yum1), versions(yum1, TOOLKIT)) == ("26.1.5", {"1.19.1"})
    assert len(held(yum1)) == len((*CE, *TOOLKIT))
    serves(yum1)
    yum1.root("yum -y upgrade --refresh")  # its repositories have 28.5.2, 1.20.1 and, the other one, 1.21.0
    assert (versions(yum1, CE[:2]), versions(yum1, TOOLKIT)) == ({"26.1.5"}, {"1.19.1"})
    again = converge(lab, "yum1", *OLD)
    assert again.unchanged, again.output
    assert yum1.ssh_commands(again.begun) == 1
    is_right(lab)
