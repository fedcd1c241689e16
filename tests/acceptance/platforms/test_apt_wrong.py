"""Debian with broken apt: keys, repositories, conflicts. The error is reported, models keep serving, and a run succeeds
after it is fixed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, identities
from tests.acceptance.evidence import dpkg_audit
from tests.acceptance.test_versions import CE, TOOLKIT, daemon_version, models, serves, versions
from tests.testbed import Host, repositories, services, signing, workshop
from tests.testbed.inventory import REGISTRY, mirrors
from tests.testbed.moving import NEWER

DISTRO = ("docker.io", "docker-cli", "docker-compose", "docker-buildx")
BY_GPURACK = "ls /etc/apt/sources.list.d /etc/apt/keyrings | grep gpurack"


@pytest.fixture(scope="module")
def wrong1(lab: Lab) -> Iterator[Host]:
    """A fresh Debian 13 with cards."""
    lab.testbed.remove("wrong1")
    yield lab.testbed.add("wrong1", "gpu")
    lab.testbed.remove("wrong1")


def over(source: str = "docker-ce", toolkit: str | None = "1.20.1", **data: Any) -> dict[str, Any]:
    """Data of the host: docker-ce or the distribution's Docker, and other fields."""
    return {
        "docker": {"source": source, "daemon": {"insecure-registries": [REGISTRY]}},
        "nvidia": {"toolkit": toolkit} if toolkit else {},
        **data,
    }


def mirror(which: str, **fields: Any) -> dict[str, Any]:
    """The testbed's mirrors, with one changed."""
    changed = {**mirrors()[which], **fields}
    return {**mirrors(), which: {name: value for name, value in changed.items() if value}}


def converge(lab: Lab, **data: Any) -> Run:
    """Run the main job successfully."""
    run = lab.run(lab.inventory({"wrong1": {"models": models()}}, over(**data)))
    assert run.exit_code == 0, run.output
    return run


def refused(lab: Lab, **data: Any) -> str:
    """The only error of a run that fails."""
    run = lab.run(lab.inventory({"wrong1": {"models": models()}}, over(**data)))
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    sentences = run.errors("wrong1")
    assert len(sentences) == 1, run.output
    return sentences[0]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            # the shipped key is Docker's, but the testbed signs with its own
            {"key": None},
            "repository http://repo.testbed/docker-ce/linux/debian is not signed with its key",
        ),
        (
            {"url": "http://repo.testbed:81/docker-ce"},
            "repository http://repo.testbed:81/docker-ce/linux/debian cannot be read: Unable to connect to",
        ),
        (
            {"url": "http://repo.testbed/nowhere"},
            "repository http://repo.testbed/nowhere/linux/debian cannot be read: 404 Not Found. Check that the host",
        ),
    ],
    ids=["another key", "down", "not there"],
)
def test_unusable_repository_is_named_with_reason(
    lab: Lab, wrong1: Host, fields: dict[str, Any], sentence: str
) -> None:
    """No package is touched."""
    before = wrong1.root("dpkg-query -W").stdout
    assert refused(lab, mirrors=mirror("docker-ce", **fields)).startswith(sentence)
    assert wrong1.root("dpkg-query -W").stdout == before


def test_next_run_repairs_wrong_repository(lab: Lab, wrong1: Host) -> None:
    """The list with the wrong address and key that an earlier run wrote does not stop it."""
    converge(lab)
    serves(wrong1)
    assert "W:" not in wrong1.root("apt-get -q update 2>&1").stdout


def test_missing_version_lists_available_ones(lab: Lab, wrong1: Host) -> None:
    """Those that are there are listed."""
    before = identities(wrong1)
    wanted = over()
    wanted["docker"]["version"] = "27.0.1"
    run = lab.run(lab.inventory({"wrong1": {"models": models()}}, wanted))
    assert run.errors("wrong1") == [
        "docker.version: docker-ce 27.0.1 is in no repository. Available: 26.1.5, 28.5.2."
    ], run.output
    assert identities(wrong1) == before


def test_changed_key_stops_installation_but_no_model(lab: Lab, wrong1: Host) -> None:
    """The toolkit's repository has a new key that the inventory does not have."""
    before = identities(wrong1)
    sentence = refused(lab, toolkit="1.19.1", mirrors=mirror("nvidia", key=None))
    assert sentence.startswith("repository http://repo.testbed/nvidia/stable/deb/amd64 is not signed with its key")
    assert versions(wrong1, TOOLKIT) == {"1.20.1"}
    assert identities(wrong1) == before
    converge(lab)
    again = converge(lab)
    assert again.unchanged, again.output
    serves(wrong1)


@pytest.fixture
def cuda(lab: Lab, wrong1: Host) -> Iterator[None]:
    """A foreign repository on the host with two of the toolkit's four packages, newer than NVIDIA's."""
    place = services.WEIGHTS / "cuda"  # served, as weights are
    newer = repositories.nvidia(lab.testbed.engine, signing.key(lab.testbed.engine), (*repositories.TOOLKITS, NEWER))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name in ("nvidia-container-toolkit", "nvidia-container-toolkit-base"):
        (deb,) = newer.rglob(f"{name}_{NEWER}-*.deb")
        shutil.copy(deb, place)
    workshop.work(lab.testbed.engine, f"cd {place} && apt-ftparchive packages . > Packages", what="Another repository")
    file = "/etc/apt/sources.list.d/cuda.list"
    wrong1.put("deb [trusted=yes] http://weights.testbed/cuda ./\n", file)
    yield
    wrong1.root(f"rm {file}")
    shutil.rmtree(place)


@pytest.mark.usefixtures("cuda")
def test_conflicting_toolkit_repositories_are_named(lab: Lab, wrong1: Host) -> None:
    """Unpinned, the newest versions of the packages do not match. A pin selects one, which is held."""
    wrong1.root(f"apt-get -q -y --allow-change-held-packages remove {' '.join(TOOLKIT)}")
    assert refused(lab, toolkit=None).startswith(
        "two repositories have different versions of the NVIDIA Container Toolkit, which conflict: "
        "http://repo.testbed/nvidia/stable/deb/amd64 has 1.19.1, 1.20.1; http://weights.testbed/cuda has 1.21.0. Write"
    )

    converge(lab)

    assert versions(wrong1, TOOLKIT) == {"1.20.1"}
    wrong1.root("apt-get -q -y dist-upgrade")
    assert versions(wrong1, TOOLKIT) == {"1.20.1"}
    serves(wrong1)


def test_docker_packages_are_not_mixed(lab: Lab, wrong1: Host) -> None:
    """Refused before anything changes, and the hint is enough to switch. Also if only some packages of the other Docker
    are installed: dpkg would fail halfway, because the plugins have the same files."""
    before = identities(wrong1)
    sentence = refused(lab, source="distro")
    assert sentence.startswith("docker-ce 28.5.2 is installed and conflicts with docker.io. To keep it, set docker")
    remedy = f"apt-get remove {' '.join(CE)}"
    assert sentence.endswith(f"{remedy}.")
    assert identities(wrong1) == before

    wrong1.root(f"docker ps -q | xargs docker stop && {remedy.replace('remove', 'remove -q -y', 1)}")
    wrong1.root("apt-get -q -y install docker-buildx-plugin")
    sentence = refused(lab, source="distro")
    assert sentence.startswith("docker-buildx-plugin 0.29.1 is installed and conflicts with docker.io.")
    assert dpkg_audit(wrong1) == ""

    wrong1.root("apt-get -q -y remove docker-buildx-plugin")
    converge(lab, source="distro")
    assert daemon_version(wrong1) == "26.1.5"
    serves(wrong1)

    wrong1.root("docker ps -q | xargs docker stop && apt-get -q -y remove docker.io")
    left = wrong1.root(f"dpkg-query -W -f '${{db:Status-Abbrev}}${{Package}}\\n' {' '.join(DISTRO)}").stdout
    others = [name for name in DISTRO[1:] if f"ii {name}" in left]
    assert "docker-compose" in others
    sentence = refused(lab)
    assert sentence.startswith("docker-cli 26.1.5 is installed and conflicts with docker-ce.")
    assert sentence.endswith(f"apt-get remove {' '.join(others)}.")
    wrong1.root(f"apt-get -q -y remove {' '.join(others)}")
    converge(lab)
    assert daemon_version(wrong1) == "28.5.2"
    serves(wrong1)
