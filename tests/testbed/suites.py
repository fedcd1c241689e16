"""Base images and Debian packages, one mmdebstrap run per suite.

A host's image has systemd, sshd and an administrator with sudo, and deliberately none of what gpurack has to
install (no python3, no curl, no docker). The same run downloads what the hosts may install later, with all
dependencies that the image does not meet, so that the testbed's own mirror is complete without an outside network.
"""

from __future__ import annotations

import inspect
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import cache, workshop
from tests.testbed.engine import Engine

_HOST = ("systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "openssh-server", "sudo")
_HOST += ("iproute2", "procps", "kmod", "netbase")

_COMMON = (
    "python3",
    "python3 python3-apt",
    "curl wget ca-certificates gnupg gpg jq xz-utils unzip rsync acl lsof psmisc pciutils lsb-release",
    "iptables nftables",
    "git",
    "uidmap slirp4netns fuse-overlayfs",
)
_SERVER_PROGRAMS = "docker.io containerd runc docker-cli docker-buildx docker-compose"


@dataclass(frozen=True)
class Suite:
    """A Debian release as the testbed uses it."""

    name: str
    base: tuple[str, ...] = ()
    """Packages of the image."""
    installable: tuple[str, ...] = ()
    """Groups of packages; each is downloaded with its dependencies, as if installed alone."""
    plain: str = ""
    """Packages that are downloaded without dependencies, to be repacked."""
    variant: str = "minbase"
    setup: tuple[str, ...] = ()
    """Commands in the image when it is complete."""


_LOGIN = (
    "useradd --create-home --shell /bin/bash --groups sudo lab",
    "echo 'lab ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/lab && chmod 0440 /etc/sudoers.d/lab",
    # Every session's command leaves a line in the journal: tests count them there.
    "echo 'LogLevel VERBOSE' > /etc/ssh/sshd_config.d/testbed.conf",
    "rm -f /etc/ssh/ssh_host_*",
    "mkdir -p /var/log/journal",
    "systemctl enable ssh.service",
    # There is no console and no disk to check or mount.
    "systemctl mask console-getty.service getty.target systemd-remount-fs.service",
    "rm -f /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/hostname /etc/resolv.conf",
)

TRIXIE = Suite(
    "trixie",
    base=(*_HOST, "linux-sysctl-defaults"),
    installable=(*_COMMON, "docker.io docker-cli docker-compose docker-buildx apparmor", "rootlesskit passt"),
    plain=f"{_SERVER_PROGRAMS} tini",
    setup=_LOGIN,
)
BOOKWORM = Suite(
    "bookworm",
    base=_HOST,
    installable=(*_COMMON, "docker.io apparmor", "rootlesskit"),
    # Docker's binaries of later suites run here (they ask for glibc 2.34), but their runc asks for 2.38.
    plain="runc",
    setup=_LOGIN,
)
# Docker 28 comes from Debian itself. It is made when the first such host is wanted, with a mirror of its own.
SID = Suite(
    "sid",
    base=(*_HOST, "linux-sysctl-defaults"),
    installable=(
        "python3 curl ca-certificates iptables",
        "docker.io docker-cli docker-compose docker-buildx apparmor",
        "unattended-upgrades",
    ),
    setup=_LOGIN,
)
# A host whose only packages are rpms. rpm and dnf are Debian's; what a Rocky 9 has from the beginning is told to rpm's
# database; dpkg and apt are gone. By which name it has dnf is the host's kind (hosts.py).
_SPEC = "Version: 9.6\nRelease: 1\nLicense: none\nSummary: as on a Rocky 9 host\nBuildArch: noarch\n"
_BASE = "system-release = 9.6, system-release(releasever) = 9, /bin/sh, /usr/sbin/groupadd, systemd, tar, xz"
_PRESENT = {"rocky-base": f"Provides: {_BASE}\n", "ca-certificates": ""}
_RPM_ONLY = (
    *(
        f"cd /tmp; cat > {name}.spec <<'END'\nName: {name}\n{_SPEC}{more}%description\nAs there.\n%files\nEND\n"
        f"rpmbuild -bb --quiet --define '_topdir /tmp/top' {name}.spec"
        for name, more in _PRESENT.items()
    ),
    "rpm -i --justdb --nodeps /tmp/top/RPMS/noarch/*.rpm; rm -r /tmp/top /tmp/*.spec",
    "printf '%s\n' [main] gpgcheck=1 clean_requirements_on_remove=True best=True skip_if_unavailable=False "
    "> /etc/dnf/dnf.conf",
    # Rocky starts nothing that an administrator did not enable.
    "mkdir -p /etc/systemd/system-preset; echo 'disable *' > /etc/systemd/system-preset/99-default-disable.preset",
    "rm -rf /usr/bin/dnf /usr/bin/yum /usr/bin/dpkg* /usr/bin/apt* /etc/yum.repos.d/* /var/lib/apt",
)
RPM = Suite(
    "trixie",
    base=(*_HOST, "linux-sysctl-defaults", "dnf", "rpm", "libseccomp2"),
    installable=("curl", "iptables"),
    plain="dnf-plugins-core",
    setup=(*_LOGIN, *_RPM_ONLY),
)
SERVICES = Suite("trixie", base=("nginx-light", "docker-registry", "dnsmasq-base", "squid", "openssl"))
_LIBRARIES = ("libgomp1", "libstdc++6", "libsndfile1", "libnuma1")
# Python 3.11: for a later one PyTorch's CPU builds of vLLM's version may not be at hand.
PYTHON = Suite("bookworm", base=("python3", "ca-certificates", *_LIBRARIES), variant="essential")
PYTHON_LLAMA = Suite("sid", base=("python3", "ca-certificates", "libllama0", "libggml0"), variant="essential")
MODELS = Suite(
    "sid",
    base=("llama.cpp-tools", "busybox-static", "ca-certificates", "curl"),
    plain=f"{_SERVER_PROGRAMS} tini-static",
    variant="extract",
)


def made(engine: Engine, kind: str, suite: Suite) -> Path:
    """Return the folder with `image.tar` (a root filesystem) and `debs/` (`plain/`) of a suite, made if not cached."""
    what = f"{kind} image of Debian {suite.name}"
    return cache.entry(kind, (_RECIPE, suite), lambda folder: _make(engine, suite, folder, what), what)


def _make(engine: Engine, suite: Suite, folder: Path, what: str) -> None:
    url = workshop.mirror(engine)
    apt = f'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -y --no-install-recommends -o Dir::Cache::archives={folder}'
    hooks = [f'chroot "$1" sh -euc {shlex.quote(command)}' for command in suite.setup]
    # Downloads come first: the set-up removes apt's sources.
    fetch = [f"{apt}/debs/ --download-only install {group}" for group in suite.installable]
    if suite.plain:
        fetch.append(f'cd {folder}/plain && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download {suite.plain}')
    options = [f"--variant={suite.variant}", "--mode=root", "--format=tar", "--quiet"]
    options += [f"--include={','.join(suite.base)}"] if suite.base else []
    for skipped in ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*/changelog*"):
        options.append(f"--dpkgopt=path-exclude={skipped}")
    options.append("--dpkgopt=force-unsafe-io")  # a throwaway host survives no crash of this machine anyway
    # A mirror that is a snapshot may hold a Release file past its date; signatures are checked all the same.
    options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    options.append('--aptopt=Acquire::Languages "none"')
    options.append('--aptopt=APT::Sandbox::User "root"')
    # Nothing is configured in an extracted image, so that no later hook runs.
    stage = "extract" if suite.variant == "extract" else "customize"
    options += [f"--{stage}-hook={hook}" for hook in (*fetch, *hooks)]
    argv = ["mmdebstrap", *options, suite.name, f"{folder}/image.tar", *([url] if url else [])]
    script = (
        f"mkdir -p {folder}/debs/partial {folder}/plain {folder}/tmp\nexport TMPDIR={folder}/tmp\n"
        f"{shlex.join(argv)}\nrm -rf {folder}/debs/partial {folder}/tmp\n"
    )
    workshop.work(engine, script, what=f"Making the {what}")


_RECIPE = inspect.getsource(_make)  # as it was loaded, see cache.recipe
