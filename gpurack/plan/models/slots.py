"""The GPUs of a host, seen or imagined, and which of them an entry's `gpus` means. Pure."""

import re
from collections.abc import Iterable, Sequence

from gpurack.facts.gpus import MISMATCH, Gpu
from gpurack.facts.model import HostFacts
from gpurack.facts.nvidia import bus_address
from gpurack.plan.system.gpu_access import no_driver
from gpurack.spec.gpus import SYSTEM_RESERVE, GpuSlot, hardware, is_named
from gpurack.spec.host import Host
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import Problem, Refused

APART = "GB300"
"""In the name of a GPU that shares no CUDA context with other kinds."""


def host_slots(spec: Host, facts: HostFacts) -> tuple[GpuSlot, ...]:
    """Return every GPU of a host."""
    return tuple(slot_of(gpu, facts, is_reserved(gpu, spec, facts)) for gpu in facts.gpus)


def is_reserved(gpu: Gpu, spec: Host, facts: HostFacts) -> bool:
    """Is a GPU reserved? A MIG instance also is if its GPU is."""
    whole = next((other for other in facts.gpus if other.uuid == gpu.parent), gpu)
    return any(matches(wanted, one) for wanted in spec.reserved_gpus for one in (gpu, whole))


def slot_of(gpu: Gpu, facts: HostFacts, reserved: bool = False) -> GpuSlot:
    """Convert a GPU, seen or imagined. One that shares the host's memory has all of it, less SYSTEM_RESERVE."""
    memory = gpu.memory_total or (facts.memory if gpu.unified else None)
    return GpuSlot(
        index=gpu.index if gpu.index >= 0 else None,
        uuid=gpu.uuid,
        name=gpu.name,
        vendor=gpu.vendor,
        compute=gpu.compute if re.fullmatch(r"\d+\.\d+", gpu.compute) else None,
        memory=memory / 1024 if memory else None,
        pci=gpu.pci,
        reserved=reserved,
        fault=gpu.fault,
        system=SYSTEM_RESERVE if gpu.unified else 0.0,
        mig=gpu.mig,
        parent=gpu.parent,
    )


def slots_of(uuids: Iterable[str], facts: HostFacts) -> tuple[GpuSlot, ...]:
    """Return the GPUs of a host with these UUIDs that answer, in this order."""
    return with_uuids(uuids, [slot_of(gpu, facts) for gpu in facts.gpus])


def with_uuids(uuids: Iterable[str], slots: Sequence[GpuSlot]) -> tuple[GpuSlot, ...]:
    """Return the GPUs with these UUIDs, in this order."""
    known = {slot.uuid: slot for slot in slots}
    return tuple(known[uuid] for uuid in uuids if uuid in known)


def resolve(entry: Model | Job, spec: Host, facts: HostFacts, slots: Sequence[GpuSlot]) -> tuple[GpuSlot, ...]:
    """Return the GPUs that the inventory's text means on this host now. Raises Refused."""
    if not entry.gpus:
        return ()
    if not slots:
        if facts.has_nvidia:
            raise Refused(none_shown(facts))
        raise Refused(no_driver(facts, "wants a GPU, but "))
    if entry.gpus == "all":
        if facts.driver.exit_code and not facts.all_gpus_answer:
            raise Refused(
                Problem.of("nvidia-smi-failed", said=f"wants all GPUs, but nvidia-smi says: {facts.driver.message}")
            )
        found = [slot for slot in slots if not slot.reserved and not slot.mig]
        if not found:
            raise Refused(Problem.of("all-gpus-reserved"))
    else:
        found = [find_gpu(wanted, facts, slots) for wanted in entry.gpus]
    for slot in found:
        if slot.reserved:
            raise Refused(Problem.of("gpu-reserved", gpu=slot.label))
        if slot.fault:
            raise Refused(broken_gpu(slot, slots))
        if slot.mig:
            raise Refused(in_mig_mode(slot, slots))
        if expected := other_than_expected(slot, spec):
            raise Refused(Problem.of("gpu-unexpected", gpu=slot.label, name=slot.name, expected=expected))
    if len(set(found)) < len(found):
        raise Refused(Problem.of("gpu-named-twice", gpus=gpus_text(entry)))
    if len(found) > 1 and (instances := [slot for slot in found if slot.instance]):
        raise Refused(Problem.of("mig-together", count=len(instances)))
    return tuple(found)


def broken_gpu(slot: GpuSlot, slots: Sequence[GpuSlot]) -> Problem:
    """Return the error for a GPU on which nothing can start."""
    reset = f"Reset it (`nvidia-smi -r -i {slot.label}`, while nothing uses it) or reboot the host. "
    working = [one.label for one in slots if not (one.fault or one.mig or one.reserved)]
    other = f"Working GPUs: {', '.join(working)}." if working else ""
    hint = f"{reset if 'reset' in slot.fault else ''}{other}".strip()
    return Problem.of("gpu-broken", gpu=slot.label, uuid=slot.uuid, fault=slot.fault, hint=hint)


def in_mig_mode(slot: GpuSlot, slots: Sequence[GpuSlot]) -> Problem:
    """Return the error for a GPU that is wanted as a whole and is in MIG mode."""
    instances = [f'"{one.uuid}" ({one.name.rpartition(" MIG ")[2]})' for one in slots if one.parent == slot.uuid]
    if instances:
        return Problem.of("gpu-in-mig-mode", gpu=slot.label, has="", hint=f"Instances: {', '.join(instances)}.")
    hint = f"Make instances (`nvidia-smi mig -cgi …`), or end MIG mode: `nvidia-smi -i {slot.label} -mig 0`."
    return Problem.of("gpu-in-mig-mode", gpu=slot.label, has=" It has no instances.", hint=hint)


def refuse_unmeasured(entry: Model | Job, slots: Iterable[GpuSlot]) -> None:
    """Raise Refused for a share in GiB of a real GPU that does not report its memory.

    nvidia-smi's memory.total is "[N/A]" if GPU and CPU share memory.
    """
    for slot in slots:
        if entry.vram and entry.vram.gib is not None and slot.memory is None and not slot.imagined:
            raise Refused(Problem.of("vram-needs-percentage", gpu=slot, example='"30%"'))


def refuse_apart(slots: Iterable[GpuSlot]) -> None:
    """Raise Refused for a GB300 beside another kind of GPU (NVIDIA/dgx-spark-playbooks: dgx-diagnose)."""
    kinds: dict[bool, GpuSlot] = {}
    for slot in slots:
        if slot.name:
            kinds.setdefault(APART in slot.name, slot)
    if len(kinds) > 1:
        raise Refused(Problem.of("gpus-apart", one=kinds[True].name, other=kinds[False].name))


def find_gpu(wanted: int | str, facts: HostFacts, slots: Sequence[GpuSlot]) -> GpuSlot:
    """Return the GPU that an index, a UUID prefix or a PCI address means. Raises Refused."""
    found = [slot for slot in slots if matches(wanted, slot)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(Problem.of("gpu-ambiguous", gpu=wanted, count=len(found)))
    raise Refused(missing_gpu(wanted, facts, slots))


def lost_gpus(facts: HostFacts) -> dict[str, tuple[int, str]]:
    """Return PCI address → (index, UUID) of the GPUs that the kernel lists and that do not answer, while others do.

    The index is the missing one if only one is missing, else the position by PCI address. The UUID is the address where
    the kernel does not know it.
    """
    if facts.driver.exit_code == MISMATCH or not (facts.gpus or facts.driver.exit_code):
        return {}
    addresses = sorted(facts.driver.pci)
    missing = sorted(set(range(len(addresses))) - {gpu.index for gpu in facts.gpus})
    return {
        pci: (missing[0] if len(missing) == 1 else position, facts.driver.pci[pci] or pci)
        for position, pci in enumerate(addresses)
        if pci in facts.silent_gpus
    }


LOST = (9, 10, 15, 255)
"""Exit codes of nvidia-smi (its manual) for a missing driver or GPU; after others it may only be broken."""


def none_shown(facts: HostFacts) -> Problem:
    """Return the error for a host whose nvidia-smi shows no GPU, or nothing that is one."""
    says = f" It says: {facts.driver.message}" if facts.driver.message else ""
    return Problem.of("gpus-not-shown", says=says)


def gpu_lost(uuids: Sequence[str], facts: HostFacts, others: str = "") -> Problem:
    """Return the error for GPUs that no longer answer. others: ` (free: 2, 3)`."""
    if facts.has_nvidia and not facts.gpus and facts.driver.exit_code not in LOST:
        return none_shown(facts)
    indices = {uuid: index for index, uuid in lost_gpus(facts).values()}
    names = [f"{indices[uuid]} ({uuid[:12]}…)" if uuid in indices else uuid for uuid in uuids]
    reason = f" nvidia-smi says: {facts.driver.message}." if facts.driver.message else ""
    return Problem.of("gpu-lost", gpus=", ".join(names), reason=reason, others=others)


def missing_gpu(wanted: int | str, facts: HostFacts, slots: Sequence[GpuSlot]) -> Problem:
    """Return the error for a GPU that the host does not have, or no longer."""
    for pci, (index, uuid) in lost_gpus(facts).items():
        if means(wanted, index, uuid, pci):
            return gpu_lost([uuid], facts)
    name = wanted if isinstance(wanted, str) else f"GPU {wanted}"
    if all(slot.imagined for slot in slots):
        also = ", or correct `hardware`"
        has = f"hardware has {', '.join(slot.label for slot in slots if slot.index is not None)}"
    else:
        also = ""
        has = f"the host has {', '.join(f'{slot.label} ({slot.uuid[:12]}…)' for slot in slots)}"
    broken = f" nvidia-smi says: {facts.driver.message}." if facts.driver.exit_code else ""
    return Problem.of("gpu-not-found", gpu=name, has=has, broken=broken, also=also)


def matches(wanted: int | str, gpu: Gpu | GpuSlot) -> bool:
    """Does an index, a UUID prefix or a PCI address mean this GPU?"""
    return means(wanted, gpu.index, gpu.uuid, gpu.pci)


def means(wanted: int | str, index: int | None, uuid: str, pci: str) -> bool:
    """Does an entry of `gpus` mean the GPU with this index, UUID and PCI address?

    The domain of an address has four digits in the kernel's log and eight of nvidia-smi's.

    >>> [means(wanted, 1, "GPU-6f1c", "0000:65:00.0") for wanted in (1, "GPU-6f", "65:00.0", 0, "GPU-7")]
    [True, True, True, False, False]
    >>> [means(wanted, 1, "GPU-6f1c", "0000000F:01:00.0") for wanted in ("000f:01:00.0", "000f:01:00.1")]
    [True, False]
    """
    if isinstance(wanted, int):
        return index == wanted
    place = bus_address(wanted)
    same_place = place != "" and (place, wanted[-1:]) == (bus_address(pci), pci[-1:])
    return uuid.startswith(wanted) or pci.endswith(wanted) or same_place


def other_than_expected(gpu: Gpu | GpuSlot, spec: Host) -> str | None:
    """Return the GPU that `hardware` has at this index, if nvidia-smi's name differs from it."""
    names = hardware(spec)
    if gpu.index is None or not 0 <= gpu.index < len(names) or not gpu.name:
        return None
    return None if is_named(names[gpu.index], gpu.name) else names[gpu.index]


def answers(uuid: str, facts: HostFacts) -> bool:
    """Does the GPU answer?"""
    return any(gpu.uuid == uuid for gpu in facts.gpus)


def gpus_text(entry: Model | Job) -> str:
    """Return the inventory's own text: `[0, 1]`, `all`, `[]`."""
    return entry.gpus if isinstance(entry.gpus, str) else "[" + ", ".join(map(str, entry.gpus)) + "]"
