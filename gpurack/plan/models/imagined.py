"""The host that an inventory describes, for decisions without a connection: its GPUs and nothing else. Pure."""

from dataclasses import replace

from gpurack.facts.model import Gpu, HostFacts
from gpurack.spec.gpus import GPU_KINDS, PLACEHOLDER, hardware
from gpurack.spec.host import Host


def imagined(spec: Host) -> HostFacts:
    """Return a fresh host with the GPUs of `hardware`, or with as many as the inventory's indices need.

    Each GPU that the inventory names by UUID or PCI address is one more, without an index (-1).
    """
    found = []
    names = hardware(spec)
    for index in range(len(names) or least_gpus(spec)):
        name = names[index] if names else ""
        kind = GPU_KINDS.get(name)
        gpu = unknown_gpu(index, f"{PLACEHOLDER}{index}", name, node=f"/dev/dri/render-node-of-index-{index}")
        if kind:
            memory = int(kind.memory * 1024)
            gpu = replace(gpu, memory_total=memory, compute=kind.compute or "", vendor=kind.vendor)
        found.append(gpu)
    found += [unknown_gpu(-1, text) for text in named_gpus(spec)]
    return HostFacts(address="lan-address", gpus=tuple(found))


def unknown_gpu(index: int, uuid: str, name: str = "", node: str = "") -> Gpu:
    """Return a GPU of which only the name is known."""
    return Gpu(index, uuid, name, memory_total=0, memory_used=0, driver="", compute="", pci="", node=node)


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
