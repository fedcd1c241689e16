"""What differs between the systems we support: one table, so that no branch elsewhere asks for a system's name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpurack.facts.model import Os
from gpurack.plan.packages import apt, rpm
from gpurack.plan.packages.base import Packages
from gpurack.shell import Sh, sh
from gpurack.spec.problems import Problem

CE_PACKAGES = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin")


@dataclass(frozen=True)
class Trust:
    """Where certificates of one's own belong, and what makes the trust store of them."""

    folder: str
    command: Sh


@dataclass(frozen=True)
class Platform:
    """name: for people, with the version. packages: the module that handles the family's packages. docker_ce, toolkit:
    where their repositories lie below Docker's and NVIDIA's base URL, in the family's own words ({codename}: the
    host's). docker_key: in files/keys. distro_packages: the distribution's own Docker with Compose v2, engine first
    (empty: it has no Compose v2). rootless: what users' rootless Dockers need beside Docker's own packages;
    distro_rootless: and beside the distribution's. rivals: what cannot be on a host together with another engine →
    what to do then ({names}: all of the same kind that are there; {program}: dnf or yum); ce_rivals: with docker-ce;
    distro_rivals: with the distribution's. trust: certificates of one's own."""

    name: str
    packages: Packages
    docker_ce: str
    docker_key: str
    toolkit: str
    trust: Trust
    distro_packages: tuple[str, ...] = ()
    rootless: tuple[str, ...] = ()
    distro_rootless: tuple[str, ...] = ()
    rivals: Mapping[str, str] = field(default_factory=dict)
    ce_rivals: Mapping[str, str] = field(default_factory=dict)
    distro_rivals: Mapping[str, str] = field(default_factory=dict)


def _kept(source: str, remove: str) -> str:
    return (
        f'To keep it, set docker: {{"source": "{source}"}}. To replace it, stop its containers, then run: '
        f"{remove} {{names}}."
    )


def _debian(name: str, family: str, distro_packages: tuple[str, ...] = (), codename: str = "{codename}") -> Platform:
    """What only one of the two Dockers needs is in the way of the other, too: its plugins have the same files, of which
    dpkg says so when half is unpacked. Compose v1 of the older releases is not."""
    own, docker = _kept("distro", apt.REMOVE), _kept("docker-ce", apt.REMOVE)
    return Platform(
        name=name,
        packages=apt,
        docker_ce=f"linux/{family} {codename} stable",
        docker_key="docker",
        toolkit="stable/deb/$(ARCH) /",  # apt's own variable
        trust=Trust("/usr/local/share/ca-certificates", sh("update-ca-certificates")),
        distro_packages=distro_packages,
        rootless=("uidmap", "slirp4netns", "dbus-user-session", "acl"),
        distro_rootless=("rootlesskit",),
        rivals={
            "docker.io": own,
            "docker-ce": docker,
            "podman-docker": f"It only names podman docker: {apt.REMOVE} podman-docker.",
        },
        ce_rivals=dict.fromkeys((*distro_packages, "docker-buildx"), own) if distro_packages else {},
        distro_rivals=dict.fromkeys(CE_PACKAGES, docker),
    )


def _red_hat(name: str, docker_ce: str, distro_packages: tuple[str, ...] = ()) -> Platform:
    """docker_ce: the folder that has the release's number. Never dnf's own $releasever: with a pinned minor release it
    is "9.4", which Docker's repository does not have (docker-ce-packaging#1184). Docker signs its packages, NVIDIA its
    repository's metadata, which have the packages' checksums. Fedora's plugins have the same files as Docker's, of
    which rpm says so only after the download."""
    own, docker = _kept("distro" if distro_packages else "keep", rpm.REMOVE), _kept("docker-ce", rpm.REMOVE)
    return Platform(
        name=name,
        packages=rpm,
        docker_ce=f"linux/{docker_ce}/$basearch/stable gpgcheck=1 repo_gpgcheck=0",
        docker_key="docker-rpm",
        toolkit="stable/rpm/$basearch gpgcheck=0 repo_gpgcheck=1",
        trust=Trust("/etc/pki/ca-trust/source/anchors", sh("update-ca-trust")),
        distro_packages=distro_packages,
        rootless=("shadow-utils", "acl"),  # the rest Docker's own package asks for
        rivals={
            "docker-ce": docker,
            "moby-engine": own,
            "docker": _kept("keep", rpm.REMOVE),
            "podman-docker": f"It only names podman docker: {rpm.REMOVE} podman-docker.",
        },
        ce_rivals={
            **dict.fromkeys(distro_packages, own),
            # containerd.io obsoletes both, so that dnf would take them away without a word
            "runc": "containerd.io has its own. Podman and buildah also run with crun: "
            f"{{program}} install crun, then {rpm.REMOVE} runc.",
            "containerd": f"containerd.io replaces it: {rpm.REMOVE} containerd.",
        },
        distro_rivals=dict.fromkeys(CE_PACKAGES, docker),
    )


MOBY = ("moby-engine", "docker-cli", "docker-buildx", "docker-compose")

# Docker builds nothing for Debian's testing and sid: there its packages are those of the stable release.
# Debian 12 has docker.io 20.10 and only Compose v1; Ubuntu 22.04 and 24.04 got docker-compose-v2 by updates. Amazon
# Linux has a Docker without Compose, RHEL and its likes have none. Docker builds for RHEL and CentOS Stream; the others
# take those packages: for release 8 from rhel, as centos stopped at 26.1. Amazon Linux 2 takes what was built for
# CentOS 7 (up to 26.1); on release 8 the module container-tools would hide that, as it provides runc, which what is
# built for 8 no longer says (containerd-packaging#102).
PLATFORMS = {
    ("debian", "12"): _debian("Debian 12", "debian"),
    ("debian", "13"): _debian("Debian 13", "debian", ("docker.io", "docker-cli", "docker-compose")),
    ("debian", "sid"): _debian("Debian sid", "debian", ("docker.io", "docker-cli", "docker-compose"), "trixie"),
    ("ubuntu", "22.04"): _debian("Ubuntu 22.04", "ubuntu", ("docker.io", "docker-compose-v2")),
    ("ubuntu", "24.04"): _debian("Ubuntu 24.04", "ubuntu", ("docker.io", "docker-compose-v2")),
    ("ubuntu", "26.04"): _debian("Ubuntu 26.04", "ubuntu", ("docker.io", "docker-compose-v2")),
    ("rhel", "8"): _red_hat("RHEL 8", "rhel/8"),
    ("rhel", "9"): _red_hat("RHEL 9", "rhel/9"),
    ("rhel", "10"): _red_hat("RHEL 10", "rhel/10"),
    ("rocky", "8"): _red_hat("Rocky Linux 8", "rhel/8"),
    ("rocky", "9"): _red_hat("Rocky Linux 9", "centos/9"),
    ("rocky", "10"): _red_hat("Rocky Linux 10", "centos/10"),
    ("almalinux", "8"): _red_hat("AlmaLinux 8", "rhel/8"),
    ("almalinux", "9"): _red_hat("AlmaLinux 9", "centos/9"),
    ("almalinux", "10"): _red_hat("AlmaLinux 10", "centos/10"),
    ("centos", "8"): _red_hat("CentOS Stream 8", "rhel/8"),
    ("centos", "9"): _red_hat("CentOS Stream 9", "centos/9"),
    ("centos", "10"): _red_hat("CentOS Stream 10", "centos/10"),
    ("fedora", "42"): _red_hat("Fedora 42", "fedora/42", MOBY),
    ("fedora", "43"): _red_hat("Fedora 43", "fedora/43", MOBY),
    ("fedora", "44"): _red_hat("Fedora 44", "fedora/44", MOBY),
    ("amzn", "2"): _red_hat("Amazon Linux 2", "centos/7"),
    ("amzn", "2023"): _red_hat("Amazon Linux 2023", "centos/9"),
}

CE_ROOTLESS = "docker-ce-rootless-extras"
TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)


def platform_of(os: Os) -> Platform | None:
    """The table's row for a host, None when we do not support it. Of 9.6 the row is that of 9; Debian's testing and sid
    have no number."""
    return PLATFORMS.get((os.id, os.version or "sid")) or PLATFORMS.get((os.id, os.version.partition(".")[0]))


def unsupported(os: Os) -> Problem:
    """The error for a host without a row."""
    versions: dict[str, list[str]] = {}
    for platform in PLATFORMS.values():
        name, _, version = platform.name.rpartition(" ")
        versions.setdefault(name, []).append(version)
    supported = ", ".join(f"{name} {'/'.join(found)}" for name, found in versions.items())
    return Problem.of("platform-unsupported", system=os.name, supported=supported)
