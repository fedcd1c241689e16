"""The table of supported systems and their differences. No branch elsewhere asks for a system's name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpurack.facts.parts import Os
from gpurack.plan.packages import apt, rpm
from gpurack.plan.packages.base import Packages
from gpurack.shell import Sh, sh
from gpurack.spec.problems import Problem

CE_PACKAGES = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin")


@dataclass(frozen=True)
class Trust:
    """Where private certificates are stored, and the command that rebuilds the trust store."""

    folder: str
    command: Sh


@dataclass(frozen=True)
class Platform:
    """A supported system.

    name: with the version, for messages. packages: the module for the family's packages. docker_ce, toolkit: the place
    of their repositories below Docker's and NVIDIA's base URL, in the family's own format ({codename}: the host's).
    docker_key: in files/keys. distro_packages: the distribution's own Docker with Compose v2, engine first (empty: it
    has no Compose v2). rootless: what users' rootless Dockers need besides Docker's own packages; distro_rootless: and
    besides the distribution's. rivals: packages that conflict with another engine → what to do ({names}: all of the
    same kind that are installed; {program}: dnf or yum). ce_rivals: with docker-ce. distro_rivals: with the
    distribution's. trust: private certificates.
    """

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
    """Return a platform of Debian's family.

    Packages of one Docker also conflict with the other one: the plugins have the same files, and dpkg reports it only
    when half is unpacked. Compose v1 of older releases does not conflict.
    """
    own, docker = _kept("distro", apt.REMOVE), _kept("docker-ce", apt.REMOVE)
    if not distro_packages:
        own = f"It has no Compose v2. To replace it, stop its containers, then run: {apt.REMOVE} {{names}}."
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
    """Return a platform of Red Hat's family. docker_ce: the folder with the release's number.

    It is never dnf's own $releasever: with a pinned minor release that is "9.4", which Docker's repository does not
    have (docker-ce-packaging#1184). Docker signs its packages. NVIDIA signs its repository's metadata, which have the
    packages' checksums. Fedora's plugins have the same files as Docker's, and rpm reports it only after the download.
    """
    own, docker = _kept("distro" if distro_packages else "keep", rpm.REMOVE), _kept("docker-ce", rpm.REMOVE)
    return Platform(
        name=name,
        packages=rpm,
        docker_ce=f"linux/{docker_ce}/$basearch/stable gpgcheck=1 repo_gpgcheck=0",
        docker_key="docker-rpm",
        toolkit="stable/rpm/$basearch gpgcheck=0 repo_gpgcheck=1",
        trust=Trust("/etc/pki/ca-trust/source/anchors", sh("update-ca-trust")),
        distro_packages=distro_packages,
        rootless=("shadow-utils", "acl"),  # Docker's own package requires the rest
        rivals={
            "docker-ce": docker,
            "moby-engine": own,
            "docker": _kept("keep", rpm.REMOVE),
            "podman-docker": f"It only names podman docker: {rpm.REMOVE} podman-docker.",
        },
        ce_rivals={
            **dict.fromkeys(distro_packages, own),
            # containerd.io obsoletes both, so dnf would remove them silently
            "runc": "containerd.io has its own. Podman and buildah also run with crun: "
            f"{{program}} install crun, then {rpm.REMOVE} runc.",
            "containerd": f"containerd.io replaces it: {rpm.REMOVE} containerd.",
        },
        distro_rivals=dict.fromkeys(CE_PACKAGES, docker),
    )


MOBY = ("moby-engine", "docker-cli", "docker-buildx", "docker-compose")

# Docker builds nothing for Debian's testing and sid, so they get the packages of the stable release.
# Debian 12 has docker.io 20.10 and only Compose v1; Ubuntu 22.04 and 24.04 got docker-compose-v2 by updates. Amazon
# Linux has a Docker without Compose; RHEL and its clones have none. Docker builds for RHEL and CentOS Stream, and the
# clones use those packages: for release 8 those of rhel, because centos ends at 26.1. Amazon Linux 2 uses those for
# CentOS 7 (up to 26.1). On release 8 the module container-tools would hide those, because they provide runc; packages
# built for 8 no longer declare that (containerd-packaging#102).
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

ENGINES_OF = {"docker-ce": ("docker-ce",), "distro": ("docker.io", "moby-engine")}
"""docker.source → Docker's main package, by any family's name."""


def platform_of(os: Os) -> Platform | None:
    """Return the row for a host; None if it is not supported.

    9.6 has the row of 9. Debian's testing and sid have no number.
    """
    return PLATFORMS.get((os.id, os.version or "sid")) or PLATFORMS.get((os.id, os.version.partition(".")[0]))


def unsupported(os: Os) -> Problem:
    """Return the error for a host without a row."""
    versions: dict[str, list[str]] = {}
    for platform in PLATFORMS.values():
        name, _, version = platform.name.rpartition(" ")
        versions.setdefault(name, []).append(version)
    supported = ", ".join(f"{name} {'/'.join(found)}" for name, found in versions.items())
    return Problem.of("platform-unsupported", system=os.name, supported=supported)
