"""Packs the stand-ins into the toolkit's four Debian packages: real names, versions and dependencies.

What the real packages contain and do on installation: the contract of the toolkit in the project's facts
(sections 2, 3 and 5). The units of 1.19.1 and later run nvidia-smi first and retry: pull requests 1746, 1782,
1825 and 1836 of NVIDIA/nvidia-container-toolkit. 1.20.1 then makes CUDA's nodes and has the udev rule: 1979 and 2017
(read on the branch release-1.20).

    python3 -m tests.testbed.toolkit.build OUTDIR
    python3 -m tests.testbed.toolkit.build --trees OUTDIR    (the files alone, for tests/testbed/rpm_packages.py)
    python3 -m tests.testbed.toolkit.build OUTDIR [VERSION...]
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_LIBRARY = "usr/lib/nvidia-container-toolkit"

#: Upstream versions, oldest first; the packages are VERSION-1.
VERSIONS = ("1.19.1", "1.20.1")

#: Which program comes in which package.
_BASE_PROGRAMS = ("nvidia-ctk", "nvidia-container-runtime", "nvidia-cdi-hook")
_HOOK_PROGRAMS = ("nvidia-container-runtime-hook",)
_CLI_PROGRAMS = ("nvidia-container-cli",)

_UNITS = ("nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path")
_ENV_FILE = "etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
#: From this version on the units lie in /lib, and the conffiles of the older place are removed.
_UNITS_IN_LIB = (1, 20, 0)
#: From this version on the unit makes CUDA's nodes before it describes them, and udev starts it for the module.
_NODES_FIRST = (1, 20, 1)
_MAKE_NODES = "ExecStart=/usr/bin/nvidia-ctk system create-device-nodes --control-devices --load-kernel-modules\n"
#: The time in the packages (2026-08-13, when 1.20.0 came out): the same sources make the same bytes.
_EPOCH = "1786579200"
_BREAKS = "nvidia-container-runtime (<= 3.5.0-1), nvidia-container-runtime-hook"


@dataclass(frozen=True)
class _Package:
    name: str
    depends: str
    description: str
    extra: str = ""


def _packages(version: str) -> list[_Package]:
    exact = f"{version}-1"
    return [
        _Package(
            "nvidia-container-toolkit",
            f"nvidia-container-toolkit-base (= {exact}), libnvidia-container-tools (= {exact})",
            "NVIDIA Container toolkit",
            f"Breaks: {_BREAKS}\nReplaces: {_BREAKS}\n",
        ),
        _Package(
            "nvidia-container-toolkit-base",
            "python3 (>= 3.11)",  # the real one needs nothing but libc
            "NVIDIA Container Toolkit Base",
            f"Breaks: {_BREAKS}, nvidia-container-toolkit (<= 1.10.0-1)\nReplaces: {_BREAKS}\n",
        ),
        _Package(
            "libnvidia-container-tools",
            f"libnvidia-container1 (>= {exact})",
            "NVIDIA container runtime library (command-line tools)",
        ),
        _Package("libnvidia-container1", "", "NVIDIA container runtime library"),
    ]


def _commit(version: str) -> str:
    """What `--version` names as the commit: 40 hex digits that are nobody's."""
    return hashlib.sha1(f"gpurack stand-in {version}".encode(), usedforsecurity=False).hexdigest()


def _put(source: Path, target: Path, version: str, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8").replace("@VERSION@", version).replace("@COMMIT@", _commit(version))
    target.write_text(text, encoding="utf-8")
    target.chmod(mode)


def lay_out(root: Path, version: str, programs: tuple[str, ...] = (*_BASE_PROGRAMS, *_HOOK_PROGRAMS)) -> Path:
    """Lays these programs and the library they share out under `root`; returns the folder of programs."""
    for name in programs:
        _put(_HERE / "programs" / name, root / "usr/bin" / name, version, 0o755)
    if set(programs) & set(_BASE_PROGRAMS):
        for module in sorted((_HERE / "standin").glob("*.py")):
            _put(module, root / _LIBRARY / module.name, version)
    return root / "usr/bin"


def _fill(package: _Package, tree: Path, version: str) -> None:
    """Everything of one package: files and maintainer scripts."""
    control = tree / "DEBIAN"
    packaging = _HERE / "packaging"
    if package.name == "nvidia-container-toolkit":
        lay_out(tree, version, _HOOK_PROGRAMS)
        _put(packaging / "toolkit.postinst", control / "postinst", version, 0o755)
        _put(packaging / "toolkit.postrm", control / "postrm", version, 0o755)
    elif package.name == "nvidia-container-toolkit-base":
        lay_out(tree, version, _BASE_PROGRAMS)
        _fill_base(tree, version)
    elif package.name == "libnvidia-container-tools":
        lay_out(tree, version, _CLI_PROGRAMS)
    note = tree / "usr/share/doc" / package.name / "README.stand-in"
    note.parent.mkdir(parents=True)
    note.write_text("Stand-in of the gpurack testbed; nothing of NVIDIA's is in here. See docs/testing.md.\n")


def _fill_base(tree: Path, version: str) -> None:
    packaging, control = _HERE / "packaging", tree / "DEBIAN"
    number = tuple(map(int, version.split(".")))
    in_lib, nodes_first = number >= _UNITS_IN_LIB, number >= _NODES_FIRST
    units = "lib/systemd/system" if in_lib else "etc/systemd/system"
    for unit in _UNITS:
        _put(packaging / unit, tree / units / unit, version)
    if not nodes_first:
        service = tree / units / "nvidia-cdi-refresh.service"
        service.write_text(service.read_text(encoding="utf-8").replace(_MAKE_NODES, ""), encoding="utf-8")
    _put(packaging / "nvidia-cdi-refresh.env", tree / _ENV_FILE, version)
    conffiles = [_ENV_FILE] + ([] if in_lib else [f"{units}/{unit}" for unit in _UNITS])
    moved = ""
    if nodes_first:
        rules = "99-nvidia-cdi-refresh.rules"
        _put(packaging / rules, tree / "lib/udev/rules.d" / rules, version)
    if in_lib:
        moved = "\n".join(
            f"dpkg-maintscript-helper rm_conffile /etc/systemd/system/{unit} {version}~ "
            'nvidia-container-toolkit-base -- "$@"'
            for unit in _UNITS
        )
        for script in ("preinst", "postrm"):
            (control / script).write_text(f"#!/bin/sh\nset -e\n{moved}\n")
            (control / script).chmod(0o755)
    postinst = (packaging / "base.postinst").read_text(encoding="utf-8").replace("@MAINTSCRIPT@", moved)
    (control / "postinst").write_text(postinst, encoding="utf-8")
    (control / "postinst").chmod(0o755)
    (control / "conffiles").write_text("".join(f"/{path}\n" for path in conffiles))


def build(outdir: Path, versions: tuple[str, ...] = VERSIONS) -> list[Path]:
    """Makes the four .deb files of each version in `outdir` and returns their paths."""
    outdir.mkdir(parents=True, exist_ok=True)
    made = []
    for version in versions:
        for package in _packages(version):
            with tempfile.TemporaryDirectory(prefix="gpurack-deb.") as folder:
                tree = Path(folder) / package.name
                (tree / "DEBIAN").mkdir(parents=True)
                tree.chmod(0o755)
                _fill(package, tree, version)
                depends = f"Depends: {package.depends}\n" if package.depends else ""
                (tree / "DEBIAN/control").write_text(
                    f"Package: {package.name}\nVersion: {version}-1\nArchitecture: amd64\n"
                    "Maintainer: gpurack testbed <testbed@gpurack.invalid>\n"
                    "Section: utils\nPriority: optional\n"
                    f"{depends}{package.extra}Description: {package.description} (stand-in)\n"
                )
                for directory in filter(Path.is_dir, tree.rglob("*")):
                    directory.chmod(0o755)  # whatever the umask says
                target = outdir / f"{package.name}_{version}-1_amd64.deb"
                subprocess.run(
                    ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(tree), str(target)],
                    env={**os.environ, "SOURCE_DATE_EPOCH": _EPOCH},
                    check=True,
                    capture_output=True,
                )
                made.append(target)
    return made


def trees(outdir: Path) -> None:
    """Lays out what the packages contain, without Debian's scripts, in `outdir`/NAME-VERSION."""
    for version in VERSIONS:
        for package in _packages(version):
            tree = outdir / f"{package.name}-{version}"
            (tree / "DEBIAN").mkdir(parents=True)
            _fill(package, tree, version)
            shutil.rmtree(tree / "DEBIAN")
            if (tree / "lib").exists():  # a link on today's hosts, which rpm would replace by a folder
                shutil.copytree(tree / "lib", tree / "usr/lib", dirs_exist_ok=True)
                shutil.rmtree(tree / "lib")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--trees":
        trees(Path(sys.argv[2]))
        sys.exit()
    if len(sys.argv) < 2 or shutil.which("dpkg-deb") is None:
        sys.exit("usage: python3 -m tests.testbed.toolkit.build OUTDIR [VERSION...] (needs dpkg-deb)")
    for path in build(Path(sys.argv[1]), tuple(sys.argv[2:]) or VERSIONS):
        print(path)
