"""Every row of the table of platforms: recognised by /etc/os-release, and the plan for a bare host."""

import pytest

from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Os
from gpurack.plan.packages import apt, rpm
from gpurack.plan.packages.platforms import PLATFORMS, platform_of, unsupported
from gpurack.plan.steps import Shell, WriteFile
from gpurack.plan.system.docker import CE_URL, plan_docker
from gpurack.plan.system.nvidia_toolkit import URL, plan_toolkit
from gpurack.spec.host import Docker, Host
from tests.given import host_state, said

RPM_TOOLKIT = f"{URL}/stable/rpm/$basearch"
TABLE = [
    # ID, VERSION_ID, codename, Docker's repository, the distribution's engine with Compose v2
    ("debian", "12", "bookworm", "debian bookworm stable", None),
    ("debian", "13", "trixie", "debian trixie stable", "docker.io"),
    ("debian", "", "forky", "debian trixie stable", "docker.io"),
    ("ubuntu", "22.04", "jammy", "ubuntu jammy stable", "docker.io"),
    ("ubuntu", "24.04", "noble", "ubuntu noble stable", "docker.io"),
    ("ubuntu", "26.04", "resolute", "ubuntu resolute stable", "docker.io"),
    ("rhel", "8.10", "", "rhel/8/$basearch/stable", None),
    ("rhel", "9.4", "", "rhel/9/$basearch/stable", None),
    ("rhel", "10.0", "", "rhel/10/$basearch/stable", None),
    ("rocky", "8.10", "", "rhel/8/$basearch/stable", None),
    ("rocky", "9.6", "", "centos/9/$basearch/stable", None),
    ("rocky", "10.0", "", "centos/10/$basearch/stable", None),
    ("almalinux", "8.10", "", "rhel/8/$basearch/stable", None),
    ("almalinux", "9.6", "", "centos/9/$basearch/stable", None),
    ("almalinux", "10.0", "", "centos/10/$basearch/stable", None),
    ("centos", "8", "", "rhel/8/$basearch/stable", None),
    ("centos", "9", "", "centos/9/$basearch/stable", None),
    ("centos", "10", "", "centos/10/$basearch/stable", None),
    ("fedora", "42", "", "fedora/42/$basearch/stable", "moby-engine"),
    ("fedora", "43", "", "fedora/43/$basearch/stable", "moby-engine"),
    ("fedora", "44", "", "fedora/44/$basearch/stable", "moby-engine"),
    ("amzn", "2", "", "centos/7/$basearch/stable", None),
    ("amzn", "2023", "", "centos/9/$basearch/stable", None),
]


def bare(id_: str, version: str, codename: str) -> HostFacts:
    facts = host_state(docker={}, gpus=1)
    return HostFacts(**{**facts.__dict__, "os": Os(id_, version, codename, f"{id_} {version}")})


def test_covers_whole_table() -> None:
    rows = {(id_, version if id_ == "ubuntu" else version.partition(".")[0] or "sid") for id_, version, *_ in TABLE}
    assert rows == set(PLATFORMS)


@pytest.mark.parametrize(("id_", "version", "codename", "docker", "distro"), TABLE)
def test_plans_bare_host_of_platform(id_: str, version: str, codename: str, docker: str, distro: str | None) -> None:
    state = bare(id_, version, codename)
    platform = platform_of(state.os)
    assert platform
    is_apt = id_ in ("debian", "ubuntu")
    assert platform.packages is (apt if is_apt else rpm)

    wanted = Host(docker=Docker(source="docker-ce", version="28.5.2"))
    steps = [*plan_docker(wanted, state, True).steps, *plan_toolkit(wanted, state).steps]
    files = {step.path: step.content for step in steps if isinstance(step, WriteFile)}
    sources = [text for path, text in files.items() if path.endswith((".sources", ".repo"))]
    if is_apt:
        family, suite, component = docker.split()
        assert f"URIs: {CE_URL}/linux/{family}\nSuites: {suite}\nComponents: {component}\n" in sources[0]
        assert f"URIs: {URL}/stable/deb/$(ARCH)\nSuites: /\n" in sources[1]
    else:
        assert f"\nbaseurl={CE_URL}/linux/{docker}\n" in sources[0]
        assert "\ngpgcheck=1\nrepo_gpgcheck=0\n" in sources[0]
        assert f"\nbaseurl={RPM_TOOLKIT}\n" in sources[1]
        assert "\ngpgcheck=0\nrepo_gpgcheck=1\n" in sources[1]
        keys = [path for path in files if path.endswith(".asc")]
        assert all(f"\ngpgkey=file://{key}\n" in text for key, text in zip(keys, sources, strict=True))
    assert any("install docker-ce 28.5.2" in step.reason for step in steps)
    assert platform.distro_packages[:1] == ((distro,) if distro else ())


@pytest.mark.parametrize(("id_", "version", "codename", "docker", "distro"), TABLE)
def test_uses_or_refuses_docker_of_distribution(
    id_: str, version: str, codename: str, docker: str, distro: str | None
) -> None:
    plan = plan_docker(Host(docker=Docker(source="distro")), bare(id_, version, codename), True)
    if distro is None:
        sentence = 'has no Docker with Compose v2 of its own. Write docker: {"source": "docker-ce"}.'
        assert said(plan.errors) == (f"{id_} {version} {sentence}",)
    else:
        assert f"install {distro}" in [step.reason.partition(",")[0] for step in plan.steps]
        assert any(isinstance(step, Shell) and "compose" in step.command for step in plan.steps)


@pytest.mark.parametrize(
    ("id_", "version"),
    [("opensuse-leap", "15.6"), ("sles", "15.7"), ("rhel", "7.9"), ("fedora", "30"), ("debian", "11"), ("arch", ""),
     ("ubuntu", "22.10"), ("amzn", "2018.03"), ("", "")],
)  # fmt: skip
def test_reports_unsupported_release(id_: str, version: str) -> None:
    os = Os(id_, version, "", "Some Linux")
    assert platform_of(os) is None
    assert unsupported(os).what == (
        "Some Linux is not supported; supported are Debian 12/13/sid, Ubuntu 22.04/24.04/26.04, RHEL 8/9/10, "
        "Rocky Linux 8/9/10, AlmaLinux 8/9/10, CentOS Stream 8/9/10, Fedora 42/43/44, Amazon Linux 2/2023."
    )
