"""What an entry computes on, and whether it can. Pure.

May it open these GPUs, and do its engine's images run on them with this driver?
"""

from collections.abc import Iterable

from gpurack.engines import ENGINES
from gpurack.engines.container import CPU, Accelerator
from gpurack.spec.gpus import GpuSlot
from gpurack.spec.model import Job, Model

AMD_OF_USER = (
    "AMD's GPUs open to groups of the host (/dev/kfd, /dev/dri), which are other ones in the rootless Docker of {}, "
    'so that the model could not use its GPU. Write "user": null for it: it then runs in the host\'s own Docker.'
)


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


def incompatibility(
    model: Model, hardware: Accelerator, driver: str | None, running: bool = False
) -> tuple[str, str] | None:
    """Return (field, reason) if a model cannot compute there; None if it can.

    driver: NVIDIA's version, None if unknown. running: then its image is known to work there, and only the user is
    checked.
    """
    if model.user and hardware.vendor == "amd":
        return "user", AMD_OF_USER.format(model.user)
    why_not = None if running else ENGINES[model.engine].incompatibility(model, hardware, driver)
    return ("gpus", why_not) if why_not else None
