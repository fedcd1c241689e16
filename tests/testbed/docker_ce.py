"""Packages as Docker's own repository has them, repacked from Debian's real Docker binaries.

Package names, versions' spelling, dependencies, conflicts, paths and units follow Docker's docker-ce-packaging (v28);
the programs are those that Debian compiled, so that a real engine comes out of an installation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.testbed import cache

RECIPE = cache.recipe(__file__)
_FILES = Path(__file__).parent / "docker_ce"


@dataclass(frozen=True)
class Release:
    """One Docker version for one Debian suite."""

    number: str
    """Upstream's version of the engine."""
    containerd: str
    buildx: str
    compose: str
    suffix: str
    """The end of a version: "-1~debian.13~trixie"."""
    debs: Path
    """Folder with Debian's packages of these programs."""
    runc: Path
    """Folder with the runc package that runs on this suite."""


def trees(release: Release) -> str:
    """Return shell commands that lay the programs out in the working folder, one tree for each package."""
    lines = [
        "mkdir src",
        f"for deb in {release.debs}/*.deb; do case $deb in */runc_*) ;; *) dpkg-deb -x $deb src;; esac; done",
        f"for deb in {release.runc}/runc_*.deb; do dpkg-deb -x $deb src; done",
        # place PACKAGE TARGET FILE…: put programs into a package's tree
        'place() { mkdir -p "$1/$2"; local to="$1/$2"; shift 2; cp -a "$@" "$to/"; }',
        "place docker-ce usr/bin src/usr/sbin/dockerd src/usr/sbin/docker-proxy",
        "cp src/usr/bin/tini-static docker-ce/usr/bin/docker-init",
        f"place docker-ce usr/lib/systemd/system {_FILES}/docker.service {_FILES}/docker.socket",
        "place docker-ce-cli usr/bin src/usr/bin/docker",
        "place containerd.io usr/bin src/usr/bin/containerd src/usr/bin/containerd-shim-runc-v2 src/usr/bin/ctr",
        "cp src/usr/sbin/runc containerd.io/usr/bin/runc",
        f"place containerd.io usr/lib/systemd/system {_FILES}/containerd.service",
        f"place containerd.io etc/containerd {_FILES}/config.toml",
        "place docker-buildx-plugin usr/libexec/docker/cli-plugins src/usr/libexec/docker/cli-plugins/docker-buildx",
        "place docker-compose-plugin usr/libexec/docker/cli-plugins src/usr/libexec/docker/cli-plugins/docker-compose",
    ]
    return "\n".join(lines) + "\n"


def script(release: Release, outdir: Path) -> str:
    """Return a shell script that writes the five Debian packages of a release to a folder."""
    suffix = release.suffix
    engine = f"5:{release.number}{suffix}"
    lines = ['work=$(mktemp -d); trap \'rm -rf "$work"\' EXIT; cd "$work"', trees(release)]
    old = "docker (<< 1.5~), docker-engine, docker-engine-cs, docker.io, lxc-docker, lxc-docker-virtual-package"
    packages = {
        "docker-ce": (
            engine,
            "Depends: containerd.io (>= 1.7.24), docker-ce-cli, iptables, libc6 (>= 2.34), libsystemd0\n"
            "Recommends: apparmor, ca-certificates, git, pigz, procps, xz-utils\n"
            f"Conflicts: {old}\nReplaces: {old}",
        ),
        "docker-ce-cli": (
            engine,
            "Depends: libc6 (>= 2.34)\nRecommends: docker-buildx-plugin, docker-compose-plugin\n"
            f"Conflicts: {old}\nReplaces: {old}\nBreaks: docker-ce (<< 5:0)",
        ),
        "containerd.io": (
            f"{release.containerd}{suffix}",
            "Depends: libc6 (>= 2.34), libseccomp2 (>= 2.5.0)\nProvides: containerd, runc\n"
            "Conflicts: containerd, runc\nReplaces: containerd, runc",
        ),
        "docker-buildx-plugin": (f"{release.buildx}{suffix}", "Enhances: docker-ce-cli"),
        "docker-compose-plugin": (f"{release.compose}{suffix}", "Enhances: docker-ce-cli"),
    }
    for name, (version, relations) in packages.items():
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nSection: admin\nPriority: optional\n"
            f"Maintainer: gpurack testbed <testbed@localhost>\n{relations}\n"
            "Description: as in Docker's repository, repacked from Debian's binaries for gpurack's testbed\n"
        )
        lines.append(f"mkdir {name}/DEBIAN; cat > {name}/DEBIAN/control <<'END'\n{control}END")
        for step in ("preinst", "postinst", "prerm", "postrm"):
            if (_FILES / f"{name}.{step}").exists():
                lines.append(f"install -m 755 {_FILES}/{name}.{step} {name}/DEBIAN/{step}")
        # zstd at its lowest: made in seconds, and no program reads them twice.
        lines.append(f"dpkg-deb --root-owner-group -Zzstd -z1 --build {name} {outdir} >&2")
    lines.append(f"test $(ls {outdir}/*.deb | wc -l) -ge {len(packages)}")
    return "\n".join(lines)


def respell_script(deb: Path, outdir: Path, old: str, new: str) -> str:
    """Return a shell script that writes a package again with another end of its version, its content untouched.

    Compressing the programs is what repacking takes its time for, and they are the same for a suite's twin.
    """
    target = outdir / deb.name.replace(old, new)
    return (
        f'(work=$(mktemp -d); trap \'rm -rf "$work"\' EXIT; cd "$work"; ar x {deb}\n'
        f"mkdir c; dpkg-deb -e {deb} c; sed -i '/^Version:/s/{old}$/{new}/' c/control; rm control.tar.*\n"
        f"tar -C c --owner=0 --group=0 -czf control.tar.gz .; ar rc {target} debian-binary control.tar.gz data.tar.*)"
    )
