"""Which entry gets which GPU. Pure.

The inventory has indices; containers get UUIDs, which stay with the GPU. Only this module decides whether entries can
share a GPU: live with the facts of the snapshot, offline with the host that the inventory describes (imagined.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from gpurack import paths
from gpurack.facts.gpus import MISMATCH
from gpurack.facts.model import HostFacts
from gpurack.facts.owner import owner, recorded
from gpurack.host_data import json_from_host
from gpurack.plan.models.slots import answers, gpu_lost, gpus_text, host_slots, refuse_unmeasured, resolve, with_uuids
from gpurack.spec.gpus import SHARED, GpuSlot
from gpurack.spec.host import Host
from gpurack.spec.model import Model
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
        if kept and not startable(name, with_uuids(kept, slots), spec, facts):
            kept = None
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


def startable(name: str, slots: Sequence[GpuSlot], spec: Host, facts: HostFacts) -> bool:
    """Could a model start on the GPUs that it has? One that runs keeps a GPU that only then stopped working."""
    if any(slot.mig for slot in slots):
        return False
    container = facts.container(name, spec.entries[name].dockerd)
    return bool(container and container.running) or not any(slot.fault for slot in slots)


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


# --- sharing ---------------------------------------------------------------------------------------------------------


def holders(slot: GpuSlot, uuids: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the entries with this GPU, by name."""
    return sorted(name for name, theirs in uuids.items() if slot.uuid in theirs)


def overfull(slot: GpuSlot, names: Sequence[str], spec: Host) -> bool:
    """Would a GPU have to hold more than it can with these entries? One without vram needs the whole GPU."""
    shares = [spec.everything[name].vram for name in names]
    if slot.instance and len(names) > 1:
        return True
    if None in shares:
        return len(names) > 1
    usable = slot.usable(len(names))
    if usable is None:  # of a GPU that does not report its memory only percentages can be added
        parts = [share.fraction for share in shares if share and share.fraction]
        return not slot.imagined and len(parts) > 1 and sum(parts) > SHARED + 1e-6
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
    if slots[0].instance:
        return Fault(refused, "gpus", Problem.of("mig-shared", gpu=slots[0].uuid, names=", ".join(names)))
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
    full = f"hold {sum(shares.values()):.1f} of {usable:.1f} GiB: {listed}"
    if slots[0].memory is None:
        parts = ", ".join(f"{name} {spec.everything[name].vram}" for name in shares)
        full = f"be shared beyond {SHARED * 100:g}%: {parts}"
    what = f"{gpus} would{'' if alone else ' each'} {full}."
    hint = f"Lower vram, or choose another GPU{others}."
    return Fault(refused, "vram", Problem.of("vram-exceeded", what=what, hint=hint))


def held_by_others(name: str, slots: Sequence[GpuSlot], spec: Host, facts: HostFacts, others: str) -> Problem | None:
    """Return the error if another lab's model has a GPU, or processes that are not ours hold memory on it.

    others: ` (free: 2, 3)`.
    """
    for slot in slots:
        if theirs := of_other_lab(name, slot, spec, facts):
            return theirs
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
        held, usable = sum(process.memory or 0 for process in foreign) / 1024, slot.usable(2)
        asked = shares_on(slot, [name], spec).get(name)
        if asked is not None and usable is not None and asked + held <= usable:
            continue
        who = ", ".join(
            f"{process.name} (pid {process.pid}, {process.user or 'unknown user'}, {gib(process.memory)})"
            for process in foreign
        )
        return Problem.of("gpu-in-use", gpu=slot.label, who=who, others=others)
    return None


def gib(mib: int | None) -> str:
    """Return `17.0 GiB`, or that it is unknown."""
    return "unknown memory" if mib is None else f"{mib / 1024:.1f} GiB"


def of_other_lab(name: str, slot: GpuSlot, spec: Host, facts: HostFacts) -> Problem | None:
    """Return the error if a model of another lab has this GPU, running or not.

    Entries of two labs may share a GPU if both have `vram`.
    """
    for key in sorted(facts.others):
        container, entry = facts.proven.get(key), recorded(key, facts)
        definition = label(container.labels) if container else {}
        shared = bool(definition.get("vram") and spec.everything[name].vram)
        if entry and slot.uuid in uuids_in(definition) and not shared:
            return Problem.of("held-by-other-lab", what=f"GPU {slot.label}", holder=key[1], owner=owner(entry))
    return None


def not_answering(
    uuids: Sequence[str], facts: HostFacts, given: Mapping[str, tuple[str, ...]], slots: Sequence[GpuSlot]
) -> Problem:
    """Return the error for GPUs of an entry that no longer answer."""
    return gpu_lost(uuids, facts, free(facts, given, slots))


def free(facts: HostFacts, uuids: Mapping[str, tuple[str, ...]], slots: Sequence[GpuSlot]) -> str:
    """Return ` (free: 2, 3)`, the GPUs that nobody uses; "" if there are none."""
    taken = {uuid for theirs in uuids.values() for uuid in theirs}
    taken |= {process.uuid for process in facts.gpu_processes if not process.ours(facts)}
    theirs = [facts.proven[key] for key in facts.others if key in facts.proven]
    for container in (*filter(facts.is_ours, facts.containers), *theirs):
        taken |= {*uuids_in(label(container.labels))}
    labels = [slot.label for slot in slots if slot.uuid not in taken and not (slot.reserved or slot.fault or slot.mig)]
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
