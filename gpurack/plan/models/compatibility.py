"""What an entry computes on, and whether it can. Pure.

May it open these GPUs, and do its engine's images run on them with this driver?
"""

from collections.abc import Iterable

from gpurack.engines import ENGINES
from gpurack.engines.container import CPU, Accelerator
from gpurack.spec.gpus import GpuSlot
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import Problem


def accelerator(entry: Model | Job, slots: Iterable[GpuSlot]) -> Accelerator:
    """Return what an entry computes on: the CPU, AMD's GPUs, or NVIDIA's.

    For NVIDIA it has the lowest compute capability of these GPUs.
    """
    if not entry.gpus:
        return CPU
    slots = tuple(slots)
    if any(slot.vendor == "amd" for slot in slots):
        return Accelerator("amd")
    found = [slot.compute for slot in slots if slot.compute]
    return Accelerator("nvidia", min(found, key=lambda text: tuple(map(int, text.split("."))), default=None))


ARM64 = ("arm64", "aarch64")
"""Names of the architecture, as dpkg and the kernel have it."""


def incompatibility(
    model: Model, hardware: Accelerator, driver: str | None, running: bool = False, arch: str = ""
) -> Problem | None:
    """Return (field, reason) if a model cannot compute there; None if it can.

    driver: NVIDIA's version, None if unknown. running: then its image is known to work there, and only the user is
    checked. arch: of the host, "" if unknown.
    """
    if model.user and hardware.vendor == "amd":
        return Problem.of("amd-gpu-of-user", path="user", user=model.user)
    engine = ENGINES[model.engine]
    if not running and arch in ARM64 and engine.amd64_only and model.version:
        told = {"engine": engine.title, "version": model.version, "hint": engine.amd64_only}
        return Problem.of("no-image-for-arm64", path="version", **told)
    why_not = None if running else engine.incompatibility(model, hardware, driver)
    return Problem.of("gpu-incompatible", path="gpus", what=why_not) if why_not else None
