"""The host that an inventory describes, for decisions without a connection: its GPUs and nothing else. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from gpurack.facts.gpus import Gpu
from gpurack.facts.model import HostFacts
from gpurack.spec.gpus import GPU_KINDS, PLACEHOLDER, hardware, is_named, kind_of
from gpurack.spec.host import Gpus, Host

ALIKE = 0.1
"""How far the driver's memory of a GPU may be from that of its kind, as a fraction; variants differ by a third."""


def imagined(spec: Host) -> HostFacts:
    """Return a fresh host with the GPUs of `hardware`, or with as many as the inventory's indices need.

    Its architecture is known only if one of them is in arm64 machines only.

    Each GPU that the inventory names by UUID or PCI address is one more, without an index (-1).
    """
    found = []
    names = hardware(spec)
    for index in range(len(names) or least_gpus(spec)):
        name = names[index] if names else ""
        kind = kind_of(name, spec)
        gpu = unknown_gpu(index, f"{PLACEHOLDER}{index}", name, node=f"/dev/dri/render-node-of-index-{index}")
        if kind:
            memory = int(kind.memory * 1024)
            gpu = replace(
                gpu, memory_total=memory, compute=kind.compute or "", vendor=kind.vendor, unified=kind.unified
            )
        found.append(gpu)
    found += [unknown_gpu(-1, text) for text in named_gpus(spec)]
    arm64 = any(kind.arm64 for name in names if (kind := kind_of(name, spec)))
    return HostFacts(address="lan-address", gpus=tuple(found), arch="arm64" if arm64 else "")


def as_hardware(gpus: Sequence[Gpu]) -> dict[str, int | Gpus]:
    """Return the `hardware` of a host with these GPUs.

    {} if `hardware` cannot describe them: one has neither a known kind nor a memory, or kinds alternate by index.

    >>> a30 = replace(unknown_gpu(0, "GPU-6f1c", "NVIDIA A30"), memory_total=24576)
    >>> as_hardware([a30, replace(a30, index=1)])
    {'A30': 2}
    """
    whole = sorted((gpu for gpu in gpus if not gpu.parent), key=lambda gpu: gpu.index)
    groups = [(kind, len(list(same))) for kind, same in groupby(map(_described, whole))]
    found = {name: Gpus(count=count, memory=memory) if memory else count for (name, memory), count in groups if name}
    return found if len(found) == len(groups) else {}


def _described(gpu: Gpu) -> tuple[str, str]:
    """(name in `hardware`, memory that must be written there); ("", "") if it cannot be described."""
    kinds = [name for name in GPU_KINDS if is_named(name, gpu.name)]
    name = max(kinds, key=lambda each: len(each.split()), default="")  # "RTX 4070 Ti SUPER", not "RTX 4070"
    if gpu.memory_total is None:
        return name, ""
    gib = gpu.memory_total / 1024
    if name and abs(gib / GPU_KINDS[name].memory - 1) < ALIKE:
        return name, ""
    return name or gpu.name, f"{round(gib, 1):g}GiB"


def unknown_gpu(index: int, uuid: str, name: str = "", node: str = "") -> Gpu:
    """Return a GPU of which only the name is known."""
    return Gpu(index, uuid, name, memory_total=None, memory_used=None, driver="", compute="", pci="", node=node)


def mentioned_gpus(spec: Host) -> set[int | str]:
    """Return the GPUs that the inventory names."""
    return {*spec.reserved_gpus, *(gpu for each in spec.everything.values() if each.gpus != "all" for gpu in each.gpus)}


def least_gpus(spec: Host) -> int:
    """Return how many GPUs a host without `hardware` has at least.

    `"all"` means at least one GPU that is not reserved.
    """
    count = max((gpu for gpu in mentioned_gpus(spec) if isinstance(gpu, int)), default=-1) + 1
    wants_all = any(entry.enabled and entry.gpus == "all" for entry in spec.everything.values())
    return count + 1 if wants_all and set(range(count)) <= set(spec.reserved_gpus) else count


def named_gpus(spec: Host) -> list[str]:
    """Return the UUIDs and PCI addresses of the inventory, each GPU once.

    A text that is the beginning of another means the same GPU.
    """
    texts = [gpu for gpu in mentioned_gpus(spec) if isinstance(gpu, str)]
    return sorted(text for text in texts if not any(other != text and other.startswith(text) for other in texts))
