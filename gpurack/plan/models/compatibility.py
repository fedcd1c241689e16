"""What an entry computes on, and whether it can. Pure.

May it open these GPUs, and do its engine's images run on them with this driver?
"""

from collections.abc import Iterable
from dataclasses import replace

from gpurack.engines import ENGINES
from gpurack.engines.container import CPU, Accelerator
from gpurack.spec.gpus import GpuSlot, is_consumer
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import Problem

ARM64 = ("arm64", "aarch64")
"""Names of the architecture, as dpkg and the kernel have it."""


def accelerator(entry: Model | Job, slots: Iterable[GpuSlot], arch: str) -> Accelerator:
    """Return what an entry computes on: the CPU, AMD's GPUs, or NVIDIA's.

    For NVIDIA it has the lowest compute capability of these GPUs. arch: of the host, "" if unknown.
    """
    arm64 = arch in ARM64
    if not entry.gpus:
        return replace(CPU, arm64=arm64)
    slots = tuple(slots)
    if any(slot.vendor == "amd" for slot in slots):
        return Accelerator("amd", arm64=arm64)
    found = [slot.compute for slot in slots if slot.compute]
    lowest = min(found, key=lambda text: tuple(map(int, text.split("."))), default=None)
    return Accelerator("nvidia", lowest, arm64, bool(slots) and all(is_consumer(slot.name) for slot in slots))


def incompatibility(model: Model, hardware: Accelerator, driver: str | None, running: bool = False) -> Problem | None:
    """Return (field, reason) if a model cannot compute there; None if it can.

    driver: NVIDIA's version, None if unknown. running: then its image is known to work there, and only the user is
    checked.
    """
    if model.user and hardware.vendor == "amd":
        return Problem.of("amd-gpu-of-user", path="user", user=model.user)
    engine = ENGINES[model.engine]
    if not running and hardware.arm64 and model.version and (hint := engine.lacks_arm64(model.version, hardware)):
        told = {"engine": engine.title, "version": model.version, "hint": hint}
        return Problem.of("no-image-for-arm64", path="version", **told)
    why_not = None if running else engine.incompatibility(model, hardware, driver)
    return Problem.of("gpu-incompatible", path="gpus", what=why_not) if why_not else None


def driver_doubt(model: Model, hardware: Accelerator, driver: str | None) -> Problem | None:
    """Return a warning if a model's image is for a newer driver than the host's, and may run with it nevertheless.

    On GeForce and TITAN it cannot: `incompatibility`. driver: NVIDIA's version, None if unknown.
    """
    engine = ENGINES[model.engine]
    oldest = None if hardware.consumer else engine.newer_driver(model, hardware, driver)
    if oldest is None:
        return None
    tested = "CUDA is tested in the image before a model stops. " if engine.cuda_probe else ""
    hint = f"{tested}To be sure, update the driver, or choose an older version."
    told = {"engine": engine.title, "version": str(model.version), "oldest": str(oldest), "driver": str(driver)}
    return Problem.of("driver-older-than-image", path="version", hint=hint, **told)
