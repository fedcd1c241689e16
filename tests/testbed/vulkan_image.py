"""llama.cpp's image `server-vulkan`: Debian's real programs with its real Vulkan backend.

No machine of the tests has a GPU, so the one device is Mesa's lavapipe, which is Vulkan on the CPU. ggml passes over
such a device until it is named: `env: {"GGML_VK_VISIBLE_DEVICES": "0"}`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.testbed import cache, models_image, suites, workshop
from tests.testbed.engine import Engine
from tests.testbed.models_image import Layer

NAME = "llama.cpp-vulkan"
"""By which `Testbed.serve_engines` makes it."""
VARIANT = "server-vulkan"
_PACKAGES = (*suites.MODELS.base, "libggml0-backend-vulkan", "mesa-vulkan-drivers")
# Of Mesa's drivers only lavapipe: the others are of cards, and 120 MB.
_SKIPPED = ("/usr/lib/*/libvulkan_[!l]*", "/usr/share/vulkan/icd.d/[!l]*", "/usr/share/man/*", "/usr/share/locale/*")
_RECIPE = cache.recipe(__file__)


def serve(engine: Engine, registry: str) -> None:
    """Make the image if it is not cached, and push it to a registry (its URL)."""
    programs = models_image.layers(suites.made(engine, "models", suites.MODELS))[-1]
    models_image.push(registry, [_layer(engine), programs], [VARIANT])


def _layer(engine: Engine) -> Layer:
    """Return the layer with everything but /app; only its packed form is kept (90 MB of 300)."""

    def make(folder: Path) -> None:
        plain, packed = folder / "base.tar", folder / "base.tar.gz"
        options = ["--variant=extract", "--mode=root", "--format=tar", "--quiet", f"--include={','.join(_PACKAGES)}"]
        options += [f"--dpkgopt=path-exclude={path}" for path in _SKIPPED]
        # As in suites.py: a mirror that is a snapshot is past its date, and apt needs no user of its own.
        options += ['--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=APT::Sandbox::User "root"']
        url = workshop.mirror(engine)
        argv = ["mmdebstrap", *options, suites.MODELS.name, str(plain), *([url] if url else [])]
        workshop.work(engine, f"export TMPDIR={folder}\n{shlex.join(argv)}", what="Making the Vulkan image")
        models_image.compress(plain, packed)
        (folder / "diff_id").write_text(models_image.layer_of(plain, packed).diff_id)
        plain.unlink()

    folder = cache.entry("models-vulkan", (_RECIPE, _PACKAGES), make, "llama.cpp image with Vulkan")
    packed = folder / "base.tar.gz"
    return Layer(packed, models_image.layer_of(packed, packed).digest, (folder / "diff_id").read_text())
