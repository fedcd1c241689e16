"""The host that an inventory imagines, for what is decided without a connection: its GPUs and nothing on it. Pure."""

from dataclasses import replace

from gpurack.facts.model import Gpu, HostFacts
from gpurack.spec.gpus import GPU_KINDS, PLACEHOLDER, hardware
from gpurack.spec.host import Host


def imagined(spec: Host) -> HostFacts:
    """A fresh host with the GPUs of `hardware`; without it, with as many as the inventory's indices need.

    A GPU that the inventory names by its UUID or PCI address is one more, and has no index (-1)."""
    found = []
    names = hardware(spec)
    for index in range(len(names) or least(spec)):
        name = names[index] if names else ""
        kind = GPU_KINDS.get(name)
        gpu = unknown(index, f"{PLACEHOLDER}{index}", name, node=f"/dev/dri/render-node-of-index-{index}")
        if kind:
            memory = int(kind.memory * 1024)
            gpu = replace(gpu, memory_total=memory, compute=kind.compute or "", vendor=kind.vendor)
        found.append(gpu)
    found += [unknown(-1, text) for text in named(spec)]
    return HostFacts(address="lan-address", gpus=tuple(found))


def unknown(index: int, uuid: str, name: str = "", node: str = "") -> Gpu:
    """A GPU of which nothing but its name is known."""
    return Gpu(index, uuid, name, memory_total=0, memory_used=0, driver="", compute="", pci="", node=node)


def mentioned(spec: Host) -> set[int | str]:
    """The GPUs that the inventory names."""
    return {*spec.reserved_gpus, *(gpu for each in spec.everything.values() if each.gpus != "all" for gpu in each.gpus)}


def least(spec: Host) -> int:
    """How many GPUs a host without `hardware` has at least: `"all"` is one that is not reserved, or more."""
    count = max((gpu for gpu in mentioned(spec) if isinstance(gpu, int)), default=-1) + 1
    wants_all = any(entry.enabled and entry.gpus == "all" for entry in spec.everything.values())
    return count + 1 if wants_all and set(range(count)) <= set(spec.reserved_gpus) else count


def named(spec: Host) -> list[str]:
    """UUIDs and PCI addresses; the beginning of a longer one means the same GPU as that."""
    texts = [gpu for gpu in mentioned(spec) if isinstance(gpu, str)]
    return sorted(text for text in texts if not any(other != text and other.startswith(text) for other in texts))
