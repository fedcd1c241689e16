"""What a machine with a GPU, without Docker and without network lacks for check.py: a folder of at most 56 MB.

    python -m tests.device.bring FOLDER     # as root on Debian, with its mirror and PyPI

root.tar.xz: a Debian with Docker's programs. source.tar.xz: llama.cpp, to be compiled there for its GPU (the source
package of llama-cpp-python has it). alpha.gguf: a model that says one sentence.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.testbed import gguf_models, suites, workshop
from tests.testbed.engine import Engine
from tests.testbed.shell import TestbedError, run

ROOM = 56_000_000
"""Bytes. What travels to a lent machine is limited, together with this checkout."""
SUITE = suites.Suite(
    "sid",
    base=("busybox-static", "libstdc++6", "libgomp1", "libsystemd0", "libseccomp2"),
    plain="docker.io docker-cli containerd runc",
    variant="extract",
)
PROGRAMS = (
    "usr/sbin/dockerd", "usr/bin/docker", "usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/sbin/runc",
)  # fmt: skip
SOURCE = "llama-cpp-python==0.3.36"
BACKENDS = ("ggml-cpu", "ggml-cuda")
LEFT_OUT = (
    "benches", "conversion", "docs", "examples", "gguf-py", "media", "models", "pocs", "tests", "tools/ui/src",
    "tools/ui/static", "tools/ui/tests", "tools/server/tests", "tools/mtmd/tests",
)  # fmt: skip
"""Folders of llama.cpp that its server is compiled without."""


def is_needed(path: str) -> bool:
    """Is a file of llama.cpp's sources needed to compile its server for CUDA?

    >>> [is_needed(path) for path in ("src/llama.cpp", "ggml/src/ggml-cuda/common.cuh", "ggml/src/ggml.c")]
    [True, True, True]
    >>> [is_needed(path) for path in ("docs/a.md", "ggml/src/ggml-vulkan/x.cpp", ".git/x", "tools/mtmd/test-3.mp4")]
    [False, False, False, False]
    """
    parts = path.split("/")
    if path.startswith(tuple(f"{folder}/" for folder in (*LEFT_OUT, ".git", ".github", ".devops"))):
        return False
    if parts[:2] == ["ggml", "src"] and len(parts) > 3 and parts[2] not in BACKENDS:
        return False
    return not path.endswith((".mp4", ".png", ".jpg", ".wav", ".mp3", "package-lock.json"))


def docker(engine: Engine, target: Path) -> None:
    """Pack a Debian with Docker's programs, without what neither they nor llama-server need."""
    made = suites.made(engine, "device", SUITE)
    with tempfile.TemporaryDirectory() as folder:
        root, packages = Path(folder) / "root", Path(folder) / "packages"
        root.mkdir()
        run(["tar", "-C", str(root), "-xf", str(made / "image.tar")])
        for deb in (made / "plain").glob("*.deb"):
            run(["dpkg-deb", "-x", str(deb), str(packages)])
        for program in PROGRAMS:
            (root / program).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(packages / program, root / program)
        for link in ("bin", "sbin", "lib", "lib64"):  # Debian's merged /usr, which base-files would bring
            if not (root / link).exists():
                (root / link).symlink_to(f"usr/{link}")
        for tool in ("sh", "ls", "cat"):
            (root / "usr/bin" / tool).unlink(missing_ok=True)
            (root / "usr/bin" / tool).symlink_to("busybox")
        shutil.rmtree(root / "usr/share", ignore_errors=True)
        shutil.rmtree(root / "var", ignore_errors=True)
        run(["tar", "-C", str(root), "--xz", "-cf", str(target), "."], env={"XZ_OPT": "-6 -T0"}, timeout=1800)


def llama_cpp(target: Path) -> None:
    """Pack the sources of llama.cpp's server."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", SOURCE]
        run([*argv, "-d", folder], timeout=600, what=f"Downloading {SOURCE}")
        pack(next(Path(folder).glob("*.tar.gz")), target)


def pack(source: Path, target: Path) -> None:
    """Pack what is needed of vendor/llama.cpp in a source package, without the folders above it."""
    with tarfile.open(source) as whole, tarfile.open(target, "w:xz") as part:
        for entry in whole:
            _, *folders = entry.name.split("/")  # without the folder of the package
            path = "/".join(folders[2:])
            if entry.isfile() and folders[:2] == ["vendor", "llama.cpp"] and is_needed(path):
                entry.name = path
                part.addfile(entry, whole.extractfile(entry))


def main(words: list[str]) -> int:
    """Fill the folder."""
    if len(words) != 1:
        sys.stderr.write(str(__doc__))
        return 64
    if not workshop.is_here():
        raise TestbedError("This needs root on Debian or Ubuntu.")
    folder = Path(words[0])
    folder.mkdir(parents=True, exist_ok=True)
    docker(workshop.prepare(), folder / "root.tar.xz")
    llama_cpp(folder / "source.tar.xz")
    gguf_models.say(folder / "alpha.gguf", gguf_models.SENTENCES["alpha"])
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{size / 1e6:.1f} MB")
    return 0 if size <= ROOM else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
