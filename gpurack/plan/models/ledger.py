"""Which entry gets which GPU. Pure.

The inventory has indices; containers get UUIDs, which stay with the GPU. Only this module decides whether entries can
share a GPU: live with the facts of the snapshot, offline with the host that the inventory describes (imagined.py).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from gpurack import paths
from gpurack.facts.model import MISMATCH, Gpu, HostFacts
from gpurack.host_data import json_from_host
from gpurack.spec.gpus import GpuSlot, hardware
from gpurack.spec.host import Host
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import Problem, Refused

ROUNDING = 0.005
"""GiB by which shares may exceed a GPU: in floating point, 50 % and 45 % are slightly more than 95 %."""


@dataclass(frozen=True)
class Fault:
    """Why entries (names) get no GPU.

    field: the field of theirs to change. what: a sentence, and what to do. code: of spec/error_codes.py.
    """

    names: tuple[str, ...]
    field: Literal["gpus", "vram"]
    why: Problem


@dataclass(frozen=True)
class Ledger:
    """The GPUs of a host's entries.

    uuids: of each entry that got GPUs. faults: why the others got none. slots: the host's GPUs.
    """

    uuids: Mapping[str, tuple[str, ...]]
    faults: tuple[Fault, ...]
    slots: tuple[GpuSlot, ...]

    @cached_property
    def errors(self) -> Mapping[str, Problem]:
        """Entry → why it gets no GPU."""
        found: dict[str, Problem] = {}
        for fault in self.faults:
            for name in fault.names:
                first = found.get(name)
                found[name] = (
                    Problem.of(first.code, what=f"{first.what} {fault.why.what}", hint="") if first else fault.why
                )
        return found

    def slots_of(self, name: str) -> tuple[GpuSlot, ...]:
        """Return the GPUs of an entry."""
        return with_uuids(self.uuids.get(name, ()), self.slots)

    def entries_on(self, slot: GpuSlot) -> list[str]:
        """Return the entries on a GPU."""
        return holders(slot, self.uuids)


def assign(spec: Host, facts: HostFacts) -> Ledger:
    """Assign GPUs to every enabled entry.

    An entry with unchanged text in the inventory and GPUs that still answer keeps them, so that a renumbered GPU moves
    no model. If a GPU has no room for a new entry, the new entry is refused.
    """
    slots = host_slots(spec, facts)
    uuids: dict[str, tuple[str, ...]] = {}
    lost: dict[tuple[str, ...], list[str]] = {}
    resized: dict[str, tuple[str, ...]] = {}
    new: list[str] = []
    for name, entry in sorted(spec.entries.items()):
        if not entry.enabled:
            continue
        kept = kept_gpus(name, entry, facts)
        dead = tuple(uuid for uuid in kept or () if not answers(uuid, facts))
        if kept is None:
            new.append(name)
        elif dead and facts.driver.exit_code != MISMATCH:
            lost.setdefault(dead, []).append(name)
        elif dead or kept_share(name, entry, facts):
            uuids[name] = kept
        else:
            resized[name] = kept
    faults: list[Fault] = []
    refused: dict[str, list[GpuSlot]] = {}
    for name in (*resized, *new):
        try:
            entry = spec.entries[name]
            wanted = with_uuids(resized[name], slots) if name in resized else resolve(entry, spec, facts, slots)
            refuse_unmeasured(entry, wanted)
        except Refused as error:
            faults.append(Fault((name,), "gpus", error.problem))
            continue
        if contested := [slot for slot in wanted if overfull(slot, [*holders(slot, uuids), name], spec)]:
            refused[name] = contested
        elif name in new and (why_not := held_by_others(name, wanted, spec, facts, free(facts, uuids, slots))):
            faults.append(Fault((name,), "gpus", why_not))
        else:
            uuids[name] = tuple(slot.uuid for slot in wanted)
    faults += sharing_faults(refused, uuids, spec, facts, slots)
    faults += [Fault(tuple(names), "gpus", not_answering(dead, facts, uuids, slots)) for dead, names in lost.items()]
    return Ledger(uuids, tuple(faults), slots)


def for_job(name: str, spec: Host, facts: HostFacts, uuids: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the GPUs of a job beside the models, which keep theirs (uuids). Raises LookupError with a sentence."""
    slots = host_slots(spec, facts)
    wanted = resolve(spec.jobs[name], spec, facts, slots)
    refuse_unmeasured(spec.jobs[name], wanted)
    contested = [slot for slot in wanted if overfull(slot, [*holders(slot, uuids), name], spec)]
    if faults := sharing_faults({name: contested}, uuids, spec, facts, slots):
        raise Refused(Problem.of("job-waits-for-gpu", what=" ".join(fault.why.what for fault in faults)))
    if error := held_by_others(name, wanted, spec, facts, free(facts, uuids, slots)):
        raise Refused(error)
    return tuple(slot.uuid for slot in wanted)


# --- GPUs ------------------------------------------------------------------------------------------------------------


def host_slots(spec: Host, facts: HostFacts) -> tuple[GpuSlot, ...]:
    """Return every GPU of a host."""
    return tuple(slot_of(gpu, any(matches(wanted, gpu) for wanted in spec.reserved_gpus)) for gpu in facts.gpus)


def slot_of(gpu: Gpu, reserved: bool = False) -> GpuSlot:
    """Convert a GPU, seen or imagined."""
    return GpuSlot(
        index=gpu.index if gpu.index >= 0 else None,
        uuid=gpu.uuid,
        name=gpu.name,
        vendor=gpu.vendor,
        compute=gpu.compute if re.fullmatch(r"\d+\.\d+", gpu.compute) else None,
        memory=gpu.memory_total / 1024 or None,
        pci=gpu.pci,
        reserved=reserved,
    )


def slots_of(uuids: Iterable[str], facts: HostFacts) -> tuple[GpuSlot, ...]:
    """Return the GPUs of a host with these UUIDs that answer, in this order."""
    return with_uuids(uuids, [slot_of(gpu) for gpu in facts.gpus])


def with_uuids(uuids: Iterable[str], slots: Sequence[GpuSlot]) -> tuple[GpuSlot, ...]:
    """Return the GPUs with these UUIDs, in this order."""
    known = {slot.uuid: slot for slot in slots}
    return tuple(known[uuid] for uuid in uuids if uuid in known)


def resolve(entry: Model | Job, spec: Host, facts: HostFacts, slots: Sequence[GpuSlot]) -> tuple[GpuSlot, ...]:
    """Return the GPUs that the inventory's text means on this host now. Raises LookupError with a sentence."""
    if not entry.gpus:
        return ()
    if not slots:
        says = f" It says: {facts.driver.message}" if facts.driver.message else ""
        if facts.has_nvidia:
            raise Refused(Problem.of("gpus-not-shown", says=says))
        raise Refused(Problem.of("no-driver", wish="wants a GPU, but "))
    if entry.gpus == "all":
        if facts.driver.exit_code:
            raise Refused(
                Problem.of("nvidia-smi-failed", said=f"wants all GPUs, but nvidia-smi says: {facts.driver.message}")
            )
        found = [slot for slot in slots if not slot.reserved]
        if not found:
            raise Refused(Problem.of("all-gpus-reserved"))
    else:
        found = [find_gpu(wanted, facts, slots) for wanted in entry.gpus]
    for slot in found:
        if slot.reserved:
            raise Refused(Problem.of("gpu-reserved", gpu=slot.label))
        if expected := other_than_expected(slot, spec):
            raise Refused(Problem.of("gpu-unexpected", gpu=slot.label, name=slot.name, expected=expected))
    if len(set(found)) < len(found):
        raise Refused(Problem.of("gpu-named-twice", gpus=gpus_text(entry)))
    return tuple(found)


def refuse_unmeasured(entry: Model | Job, slots: Iterable[GpuSlot]) -> None:
    """Raise LookupError for a share in GiB of a real GPU that does not report its memory.

    nvidia-smi's memory.total is "[N/A]" if GPU and CPU share memory.
    """
    for slot in slots:
        if entry.vram and entry.vram.gib is not None and slot.memory is None and not slot.imagined:
            raise Refused(Problem.of("vram-needs-percentage", gpu=slot, example='"30%"'))


def find_gpu(wanted: int | str, facts: HostFacts, slots: Sequence[GpuSlot]) -> GpuSlot:
    """Return the GPU that an index, a UUID prefix or a PCI address means. Raises LookupError with a sentence."""
    found = [slot for slot in slots if matches(wanted, slot)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(Problem.of("gpu-ambiguous", gpu=wanted, count=len(found)))
    raise Refused(missing_gpu(wanted, facts, slots))


def missing_gpu(wanted: int | str, facts: HostFacts, slots: Sequence[GpuSlot]) -> Problem:
    """Return the error for a GPU that the host does not have."""
    name = wanted if isinstance(wanted, str) else f"GPU {wanted}"
    if all(slot.imagined for slot in slots):
        has = f"hardware has {', '.join(slot.label for slot in slots if slot.index is not None)}"
    else:
        has = f"the host has {', '.join(f'{slot.label} ({slot.uuid[:12]}…)' for slot in slots)}"
    broken = f" nvidia-smi says: {facts.driver.message}" if facts.driver.exit_code else ""
    return Problem.of("gpu-not-found", gpu=name, has=has, broken=broken)


def matches(wanted: int | str, gpu: Gpu | GpuSlot) -> bool:
    """Does an index, a UUID prefix or a PCI address mean this GPU?"""
    return gpu.index == wanted if isinstance(wanted, int) else gpu.uuid.startswith(wanted) or gpu.pci.endswith(wanted)


def other_than_expected(gpu: Gpu | GpuSlot, spec: Host) -> str | None:
    """Return the GPU that `hardware` has at this index, if nvidia-smi's name differs from it.

    Names are compared word by word: "A100 80GB" is "NVIDIA A100-SXM4-80GB", "L4" is not "NVIDIA L40S".
    """
    names = hardware(spec)
    if gpu.index is None or not 0 <= gpu.index < len(names) or not gpu.name:
        return None
    expected, seen = (set(re.findall("[a-z0-9]+", name.lower())) for name in (names[gpu.index], gpu.name))
    return None if expected <= seen else names[gpu.index]


def answers(uuid: str, facts: HostFacts) -> bool:
    """Does the GPU answer?"""
    return any(gpu.uuid == uuid for gpu in facts.gpus)


# --- sharing ---------------------------------------------------------------------------------------------------------


def holders(slot: GpuSlot, uuids: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the entries with this GPU, by name."""
    return sorted(name for name, theirs in uuids.items() if slot.uuid in theirs)


def overfull(slot: GpuSlot, names: Sequence[str], spec: Host) -> bool:
    """Would a GPU have to hold more than it can with these entries? One without vram needs the whole GPU."""
    shares = [spec.everything[name].vram for name in names]
    if None in shares:
        return len(names) > 1
    usable = slot.usable(len(names))
    return usable is not None and sum(shares_on(slot, names, spec).values()) > usable + ROUNDING


def shares_on(slot: GpuSlot, names: Iterable[str], spec: Host) -> dict[str, float]:
    """Return GiB of a GPU that each entry needs. Entries without vram are left out."""
    memory = slot.memory or 0
    return {name: share.of(memory) for name in names if (share := spec.everything[name].vram)}


def sharing_faults(
    refused: Mapping[str, Sequence[GpuSlot]],
    uuids: Mapping[str, tuple[str, ...]],
    spec: Host,
    facts: HostFacts,
    slots: Sequence[GpuSlot],
) -> list[Fault]:
    """Return a fault for each set of entries that need the same GPUs and cannot share them.

    refused: entry → GPUs that have no room for it beside the entries that have them (uuids).
    """
    groups: dict[tuple[tuple[str, ...], tuple[str, ...], float | None], list[GpuSlot]] = {}
    for slot in slots:
        if names := tuple(name for name, contested in refused.items() if slot in contested):
            groups.setdefault((names, tuple(holders(slot, uuids)), slot.memory), []).append(slot)
    return [
        sharing_fault(
            names, held_by, together, spec, facts, free(facts, uuids, [slot for slot in slots if slot not in together])
        )
        for (names, held_by, _), together in groups.items()
    ]


def sharing_fault(
    refused: tuple[str, ...],
    held_by: Sequence[str],
    slots: Sequence[GpuSlot],
    spec: Host,
    facts: HostFacts,
    others: str,
) -> Fault:
    """Return the fault of entries on GPUs (slots) of one size. others: ` (free: 2, 3)`."""
    names = sorted({*refused, *held_by})
    alone = len(slots) == 1
    gpus = slots[0].identified if alone else f"GPUs {', '.join(slot.label for slot in slots)}"
    if whole := [name for name in names if spec.everything[name].vram is None]:
        noun = "models" if set(names) <= spec.models.keys() else "entries"
        what = f"{gpus} {'is' if alone else 'are'} claimed by {len(names)} {noun}: {', '.join(names)}."
        if running := [name for name in held_by if runs_on(name, slots[0], spec, facts)]:
            what += f" Running there: {', '.join(running)}."
        which = "each of them" if whole == names else ", ".join(whole)
        hint = f'Choose another GPU{others}, or set vram ("6GiB") for {which}.'
        return Fault(refused, "gpus", Problem.of("gpu-claimed-twice", what=what, hint=hint))
    shares, usable = shares_on(slots[0], names, spec), slots[0].usable(len(names)) or 0
    listed = ", ".join(f"{name} {share:.1f}" for name, share in shares.items())
    what = f"{gpus} would{'' if alone else ' each'} hold {sum(shares.values()):.1f} of {usable:.1f} GiB: {listed}."
    hint = f"Lower vram, or choose another GPU{others}."
    return Fault(refused, "vram", Problem.of("vram-exceeded", what=what, hint=hint))


def held_by_others(name: str, slots: Sequence[GpuSlot], spec: Host, facts: HostFacts, others: str) -> Problem | None:
    """Return the error if processes that are not ours hold memory that this entry needs.

    others: ` (free: 2, 3)`.
    """
    for slot in slots:
        replaced = spec.entries[name].replaces if name in spec.entries else None
        making_room = {
            (container.id, facts.uid_of(container.user))
            for container in facts.containers
            if container.name == replaced and container.user in (spec.entries[name].dockerd, "")
        }
        foreign = [
            process
            for process in facts.gpu_processes
            if process.uuid == slot.uuid
            and not process.ours(facts)
            and (process.container, process.whose) not in making_room
        ]
        if not foreign:
            continue
        held, usable = sum(process.memory for process in foreign) / 1024, slot.usable(2)
        asked = shares_on(slot, [name], spec).get(name)
        if asked is not None and usable is not None and asked + held <= usable:
            continue
        who = ", ".join(
            f"{process.name} (pid {process.pid}, {process.user or 'unknown user'}, {process.memory / 1024:.1f} GiB)"
            for process in foreign
        )
        return Problem.of("gpu-in-use", gpu=slot.label, who=who, others=others)
    return None


def not_answering(
    uuids: Sequence[str], facts: HostFacts, given: Mapping[str, tuple[str, ...]], slots: Sequence[GpuSlot]
) -> Problem:
    """Return the error for GPUs of an entry that no longer answer."""
    reason = f" nvidia-smi says: {facts.driver.message}." if facts.driver.message else ""
    others = free(facts, given, slots)
    return Problem.of("gpu-lost", gpus=", ".join(uuids), reason=reason, others=others)


def free(facts: HostFacts, uuids: Mapping[str, tuple[str, ...]], slots: Sequence[GpuSlot]) -> str:
    """Return ` (free: 2, 3)`, the GPUs that nobody uses; "" if there are none."""
    taken = {uuid for theirs in uuids.values() for uuid in theirs}
    taken |= {process.uuid for process in facts.gpu_processes if not process.ours(facts)}
    for container in facts.ours.values():
        taken |= {*uuids_in(label(container.labels))}
    labels = [slot.label for slot in slots if slot.uuid not in taken and not slot.reserved]
    return f" (free: {', '.join(labels)})" if labels else ""


# --- labels ----------------------------------------------------------------------------------------------------------


def kept_gpus(name: str, entry: Model, facts: HostFacts) -> tuple[str, ...] | None:
    """Return the GPUs of an entry's container, if `gpus` has not changed in the inventory; else None."""
    container = facts.container(name, entry.dockerd)
    definition = label(container.labels) if container else {}
    if not container or definition.get("gpus") != gpus_text(entry):
        return None
    return uuids_in(definition)


def kept_share(name: str, entry: Model, facts: HostFacts) -> bool:
    """Is the share that an entry wants the one that its container has?"""
    container = facts.container(name, entry.dockerd)
    kept = label(container.labels).get("vram") if container else None
    return kept == (str(entry.vram) if entry.vram else None)


def runs_on(name: str, slot: GpuSlot, spec: Host, facts: HostFacts) -> bool:
    """Does an entry's container have this GPU already?"""
    container = facts.container(name, spec.entries[name].dockerd)
    return bool(container and slot.uuid in uuids_in(label(container.labels)))


def uuids_in(definition: Mapping[str, object]) -> tuple[str, ...]:
    """Return the GPUs that a label names."""
    uuids = definition.get("uuids")
    return tuple(map(str, uuids)) if isinstance(uuids, list) else ()


def label(labels: Mapping[str, str]) -> dict[str, object]:
    """Return the definition in a container's label; {} if it is invalid."""
    try:
        definition = json_from_host(labels.get(paths.MODEL_LABEL, ""))
    except ValueError:
        return {}
    return definition if isinstance(definition, dict) else {}


def gpus_text(entry: Model | Job) -> str:
    """Return the inventory's own text: `[0, 1]`, `all`, `[]`."""
    return entry.gpus if isinstance(entry.gpus, str) else "[" + ", ".join(map(str, entry.gpus)) + "]"
