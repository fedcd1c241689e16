"""What engines compile for a GPU at their first start, and how it survives the container.

Pure. Each image tag has folders of its own, so that what one version compiled is never read by another.

Sources: CUDA_CACHE_PATH: CUDA programming guide, "CUDA environment variables" (default ~/.nv/ComputeCache); the driver
compiles PTX, the only code that llama.cpp's and ollama's images have for many GPUs (their CMAKE_CUDA_ARCHITECTURES end
in `-virtual`). TRITON_CACHE_DIR: triton/knobs.py (default ~/.triton/cache). TORCHINDUCTOR_CACHE_DIR:
torch/_inductor/runtime/cache_dir_utils.py (default in /tmp). FLASHINFER_WORKSPACE_BASE: flashinfer/jit/env.py (default:
the home folder).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gpurack.spec.image_ref import ImageRef

CUDA = {"CUDA_CACHE_PATH": "cuda"}
TORCH = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
FLASHINFER = {"FLASHINFER_WORKSPACE_BASE": "flashinfer"}


@dataclass(frozen=True)
class Compiled:
    """Where an engine keeps what it compiled.

    volume: a volume of the project. folder: its path inside the container. variables: vendor of the GPUs → variable →
    name of the folder that it chooses.

    >>> here = Compiled("compiled-llama.cpp", "/var/cache/llama.cpp", {"nvidia": CUDA})
    >>> here.environment("nvidia", "ghcr.io/ggml-org/llama.cpp:server-cuda-b7000")
    {'CUDA_CACHE_PATH': '/var/cache/llama.cpp/compiled/server-cuda-b7000/cuda'}
    >>> here.environment("cpu", "ghcr.io/ggml-org/llama.cpp:server-b7000")
    {}
    """

    volume: str
    folder: str
    variables: Mapping[str, Mapping[str, str]]

    def environment(self, vendor: str, image: str) -> dict[str, str]:
        """Return the variables for GPUs of a vendor and an image reference; none where nothing is compiled."""
        names = self.variables.get(vendor, {})
        return {variable: f"{self.folder}/compiled/{_version(image)}/{name}" for variable, name in names.items()}

    def chose(self, variable: str, value: str) -> bool:
        """Did gpurack set a variable of a container, for whatever image?"""
        known = any(variable in names for names in self.variables.values())
        return known and value.startswith(f"{self.folder}/compiled/")


def _version(image: str) -> str:
    """Return the tag of an image; without one, the begin of its digest."""
    ref = ImageRef.parse(image)
    return ref.tag or ref.digest.removeprefix("sha256:")[:12] or "latest"
