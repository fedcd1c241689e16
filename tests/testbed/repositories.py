"""The testbed's apt repositories, signed with its own key and complete without an outside network.

debian/     what hosts may install from their distribution, with all dependencies (suites trixie, bookworm)
docker-ce/  Docker's own repositories (linux/debian: trixie, bookworm; linux/ubuntu: noble, jammy; component stable)
nvidia/     the NVIDIA Container Toolkit's flat repository, with the stand-in packages (stable/deb/amd64)
"""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.testbed import cache, docker_ce, workshop
from tests.testbed.engine import Engine
from tests.testbed.paths import CHECKOUT, PACKAGE
from tests.testbed.signing import SigningKey
from tests.testbed.toolkit.build import VERSIONS as TOOLKITS

KEYRING = "/etc/apt/keyrings/testbed.asc"

DISTROS = {
    "trixie": "debian.13~trixie",
    "bookworm": "debian.12~bookworm",
    "noble": "ubuntu.24.04~noble",
    "jammy": "ubuntu.22.04~jammy",
}
"""How Docker spells a suite at the end of a version."""
_RECIPE = cache.recipe(__file__)


def host_files(suite: str, key: SigningKey) -> dict[str, bytes]:
    """Return what makes apt on a host use the testbed's Debian mirror and no other source."""
    source = f"Types: deb\nURIs: http://repo.testbed/debian\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
    return {"/etc/apt/sources.list.d/debian.sources": source.encode(), KEYRING: key.public.read_bytes()}


def rpm_host_files(key: SigningKey) -> dict[str, bytes]:
    """Return what makes dnf on a host use the testbed's Rocky and no other repository."""
    where = "/etc/pki/rpm-gpg/RPM-GPG-KEY-testbed"
    repo = (
        "[baseos]\nname=Rocky of the testbed\nbaseurl=http://repo.testbed/rocky/$releasever/$basearch\n"
        f"gpgcheck=1\nrepo_gpgcheck=1\ngpgkey=file://{where}\n"
    )
    return {"/etc/yum.repos.d/rocky.repo": repo.encode(), where: key.public.read_bytes()}


def debian(engine: Engine, key: SigningKey, suites: dict[str, Path]) -> Path:
    """Return the folder of the Debian mirror; `suites`: name → folder of suites.made()."""

    def make(folder: Path) -> None:
        lines = []
        for suite, made in suites.items():
            lines += [f"mkdir -p {folder}/pool/{suite}", _recompress(made / "debs", folder / "pool" / suite)]
            lines.append(_index(folder, suite, "main", "Debian", key))
        workshop.work(engine, "\n".join(lines), what="Making the Debian mirror")

    recipe = (_RECIPE, key.fingerprint, suites)
    return cache.entry("repo-debian", recipe, make, "Debian mirror for the hosts")


def docker(engine: Engine, key: SigningKey, trixie: Path, bookworm: Path, sid: Path) -> Path:
    """Return the folder of Docker's repository, made of the suites' Docker packages (folders of suites.made())."""
    old = ("26.1.5", "1.7.24", "0.13.1", "2.26.1", trixie / "plain")
    new = ("28.5.2", "2.1.9", "0.29.1", "2.40.3", sid / "plain")

    def repack(folder: Path, suite: str, ubuntu: str, runc: Path) -> None:
        """Make a Debian suite's packages, and those of the Ubuntu release that is near to it in age."""
        pool, twin = folder / "debian" / "pool" / suite, folder / "ubuntu" / "pool" / ubuntu
        pool.mkdir(parents=True)
        twin.mkdir(parents=True)
        ours, theirs = f"-1~{DISTROS[suite]}", f"-1~{DISTROS[ubuntu]}"
        for number, containerd, buildx, compose, debs in (old, new):
            release = docker_ce.Release(number, containerd, buildx, compose, ours, debs, runc / "plain")
            workshop.work(engine, docker_ce.script(release, pool), what=f"Repacking Docker {number} for {suite}")
        script = "\n".join(docker_ce.respell_script(deb, twin, ours, theirs) for deb in sorted(pool.glob("*.deb")))
        script += "\n" + _index(folder / "debian", suite, "stable", "Docker", key)
        script += _index(folder / "ubuntu", ubuntu, "stable", "Docker", key)
        workshop.work(engine, script, what=f"Indexing Docker's repositories for {suite} and {ubuntu}")

    def make(folder: Path) -> None:
        with ThreadPoolExecutor(2) as pool:
            # Each suite's own runc: it asks for the libseccomp and the glibc that it was built with.
            one = pool.submit(repack, folder, "trixie", "noble", trixie)
            two = pool.submit(repack, folder, "bookworm", "jammy", bookworm)
            one.result(), two.result()
        script = "\n".join(f"cp {key.public} {folder}/{family}/gpg" for family in ("debian", "ubuntu"))
        workshop.work(engine, script, what="Giving Docker's repositories their key")

    sources = cache.sources(PACKAGE / "docker_ce")
    recipe = (_RECIPE, docker_ce.RECIPE, *sources, key.fingerprint, old, new, bookworm)
    return cache.entry("repo-docker-ce", recipe, make, "Docker's repository")


def nvidia(engine: Engine, key: SigningKey, versions: tuple[str, ...] = TOOLKITS) -> Path:
    """Return the folder of NVIDIA's repository with these versions of the toolkit."""
    toolkit = PACKAGE / "toolkit"

    def make(folder: Path) -> None:
        flat = folder / "stable" / "deb" / "amd64"
        flat.mkdir(parents=True)
        python = sys.executable if workshop.is_here() else "python3"
        script = (
            f"cd {CHECKOUT}\n{python} -m tests.testbed.toolkit.build {flat} {' '.join(versions)}\n"
            f"cd {flat}\napt-ftparchive packages . > Packages\ngzip -k9 Packages\n"
            "apt-ftparchive -o APT::FTPArchive::Release::Origin=https://nvidia.github.io/libnvidia-container "
            "-o APT::FTPArchive::Release::Architectures=amd64 release . > Release.new\nmv Release.new Release\n"
        )
        workshop.work(engine, script + key.sign_script(flat), what="Making NVIDIA's repository")
        (folder / "gpgkey").write_bytes(key.public.read_bytes())

    sources = cache.sources(toolkit)
    recipe = (_RECIPE, key.fingerprint, versions, [str(path.relative_to(toolkit)) for path in sources], *sources)
    return cache.entry("repo-nvidia", recipe, make, "NVIDIA's repository")


def _recompress(debs: Path, pool: Path) -> str:
    """Return shell commands that write packages again, their files compressed by zstd, their content untouched.

    Hosts unpack them dozens of times. All packages of trixie take 16 s of CPU by xz, 2 s by zstd.
    """
    one = (
        'work=$(mktemp -d); cd "$work"; ar x "$1"; rm data.tar.*; '
        'dpkg-deb --fsys-tarfile "$1" | zstd -q -1 -o data.tar.zst; '
        f'ar rc "{pool}/${{1##*/}}" debian-binary control.tar.* data.tar.zst; rm -r "$work"'
    )
    return f"printf '%s\\0' {debs}/*.deb | xargs -0 -n 1 -P 2 bash -euo pipefail -c {shlex.quote(one)} bash"


def _index(folder: Path, suite: str, component: str, origin: str, key: SigningKey) -> str:
    """Return shell commands that index pool/SUITE of a repository as dists/SUITE and sign it."""
    dist, binary = f"dists/{suite}", f"dists/{suite}/{component}/binary-amd64"
    options = {"Origin": origin, "Label": origin, "Suite": suite, "Codename": suite, "Components": component}
    options["Architectures"] = "amd64"
    flags = " ".join(f"-o APT::FTPArchive::Release::{name}={value}" for name, value in options.items())
    return (
        f"cd {folder}\nmkdir -p {binary}\napt-ftparchive packages pool/{suite} > {binary}/Packages\n"
        f"gzip -k9 {binary}/Packages\napt-ftparchive {flags} release {dist} > {suite}.Release\n"
        f"mv {suite}.Release {dist}/Release\n" + key.sign_script(folder / dist)
    )
