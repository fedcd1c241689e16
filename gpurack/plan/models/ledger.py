"""Which entry gets which GPU. Pure.

The inventory has indices; containers get UUIDs, which stay with the GPU. Only this module decides whether entries can
share a GPU: live with the facts of the snapshot, offline with the host that the inventory describes (imagined.py).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from gpurack import paths
from gpurack.facts.gpus import MISMATCH
from gpurack.facts.model import HostFacts
from gpurack.facts.owner import owner, recorded
from gpurack.facts.parts import Container
from gpurack.host_data import json_from_host
from gpurack.plan.models.observed import Observed, observed
from gpurack.plan.models.slots import (
    answers,
    gpu_lost,
    gpus_text,
    host_slots,
    refuse_apart,
    refuse_unmeasured,
    resolve,
    with_uuids,
)
from gpurack.spec.gpus import SHARED, GpuSlot
from gpurack.spec.host import Host
from gpurack.spec.model import Vram, vram_from_text
from gpurack.spec.problems import Problem, Refused, Wrong

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


def assign(spec: Host, facts: HostFacts) -> "Ledger":
    """Assign GPUs to every enabled entry.

    An entry with unchanged text in the inventory and GPUs that still answer keeps them, so that a renumbered GPU moves
    no model. If a GPU has no room for a new entry, the new entry is refused.
    """
    slots = host_slots(spec, facts)
    uuids: dict[str, tuple[str, ...]] = {}
    lost: dict[tuple[str, ...], list[str]] = {}
    resized: dict[str, tuple[str, ...]] = {}
    new: list[str] = []
    for one in sorted(observed(spec, facts), key=lambda one: one.name):
        if not one.entry.enabled:
            continue
        name, kept = one.name, kept_gpus(one)
        if kept and not startable(one, with_uuids(kept, slots)):
            kept = None
        dead = tuple(uuid for uuid in kept or () if not answers(uuid, facts))
        if kept is None:
            new.append(name)
        elif dead and facts.driver.exit_code != MISMATCH:
            lost.setdefault(dead, []).append(name)
        elif dead or kept_share(one):
            uuids[name] = kept
        else:
            resized[name] = kept
    taken = Taken(spec, facts, slots, uuids)
    faults: list[Fault] = []
    refused: dict[str, list[GpuSlot]] = {}
    for name in (*resized, *new):
        try:
            wanted = with_uuids(resized[name], slots) if name in resized else taken.asked_for(name)
            refuse_unmeasured(spec.entries[name], wanted)
            refuse_apart(wanted)
        except Refused as error:
            faults.append(Fault((name,), "gpus", error.problem))
            continue
        if contested := taken.without_room(name, wanted):
            refused[name] = contested
        elif name in new and (why_not := taken.held_by_others(name, wanted)):
            faults.append(Fault((name,), "gpus", why_not))
        else:
            uuids[name] = tuple(slot.uuid for slot in wanted)
    faults += taken.sharing_faults(refused)
    faults += [Fault(tuple(names), "gpus", gpu_lost(dead, facts, taken.free())) for dead, names in lost.items()]
    return Ledger(spec, facts, slots, uuids, tuple(faults))


def startable(one: Observed, slots: Sequence[GpuSlot]) -> bool:
    """Could a model start on the GPUs that it has? One that runs keeps a GPU that only then stopped working."""
    if any(slot.mig for slot in slots):
        return False
    return one.running or not any(slot.fault for slot in slots)


# --- sharing ---------------------------------------------------------------------------------------------------------


def overfull(slot: GpuSlot, shares: Collection[Vram | None]) -> bool:
    """Would a GPU have to hold more than it can with these shares? None needs the whole GPU."""
    if slot.instance and len(shares) > 1:
        return True
    known = [share for share in shares if share]
    if len(known) < len(shares):
        return len(shares) > 1
    usable = slot.usable(len(shares))
    if usable is None:  # of a GPU that does not report its memory only percentages can be added
        parts = [share.fraction for share in known if share.fraction]
        return not slot.imagined and len(parts) > 1 and sum(parts) > SHARED + 1e-6
    return sum(share.of(slot.memory or 0) for share in known) > usable + ROUNDING


def too_full(slot: GpuSlot, shares: Mapping[str, Vram | None]) -> str:
    """Return what `overfull` shares of a GPU would do: `hold 30.0 of 22.4 GiB: alpha 16.0, beta 14.0`."""
    known = {name: share for name, share in shares.items() if share}
    if slot.memory is None:
        return f"be shared beyond {SHARED * 100:g}%: {', '.join(f'{name} {share}' for name, share in known.items())}"
    held = {name: share.of(slot.memory) for name, share in known.items()}
    listed = ", ".join(f"{name} {gib:.1f}" for name, gib in held.items())
    return f"hold {sum(held.values()):.1f} of {slot.usable(len(shares)) or 0:.1f} GiB: {listed}"


@dataclass(frozen=True)
class Taken:
    """Who has the GPUs of a host while its entries get theirs.

    uuids: of each entry that has GPUs; `assign` adds to it. slots: the host's GPUs.
    """

    spec: Host = field(compare=False, repr=False)
    facts: HostFacts = field(compare=False, repr=False)
    slots: tuple[GpuSlot, ...]
    uuids: Mapping[str, tuple[str, ...]]

    def entries_on(self, slot: GpuSlot) -> list[str]:
        """Return the entries on a GPU, by name."""
        return sorted(name for name, theirs in self.uuids.items() if slot.uuid in theirs)

    def asked_for(self, name: str) -> tuple[GpuSlot, ...]:
        """Return the GPUs that an entry or job has in the inventory. Raises Refused where the host lacks one."""
        return resolve(self.spec.everything[name], self.spec, self.facts, self.slots)

    def without_room(self, name: str, wanted: Sequence[GpuSlot]) -> list[GpuSlot]:
        """Return those of the wanted GPUs that have no room for an entry beside the entries that have them."""
        return [slot for slot in wanted if overfull(slot, self.shares([*self.entries_on(slot), name]).values())]

    def shares(self, names: Iterable[str]) -> dict[str, Vram | None]:
        """Return the share of each of these entries; None for one that needs the whole GPU."""
        return {name: self.spec.everything[name].vram for name in names}

    def sharing_faults(self, refused: Mapping[str, Sequence[GpuSlot]]) -> list[Fault]:
        """Return a fault for each set of entries that need the same GPUs and cannot share them.

        refused: entry → GPUs that have no room for it (`without_room`).
        """
        groups: dict[tuple[tuple[str, ...], tuple[str, ...], float | None], list[GpuSlot]] = {}
        for slot in self.slots:
            if names := tuple(name for name, contested in refused.items() if slot in contested):
                groups.setdefault((names, tuple(self.entries_on(slot)), slot.memory), []).append(slot)
        return [self.sharing_fault(names, held_by, together) for (names, held_by, _), together in groups.items()]

    def sharing_fault(self, refused: tuple[str, ...], held_by: Sequence[str], slots: Sequence[GpuSlot]) -> Fault:
        """Return the fault of entries on GPUs (slots) of one size."""
        spec = self.spec
        others = self.free(besides=slots)
        names = sorted({*refused, *held_by})
        alone = len(slots) == 1
        if slots[0].instance:
            return Fault(refused, "gpus", Problem.of("mig-shared", gpu=slots[0].uuid, names=", ".join(names)))
        gpus = slots[0].identified if alone else f"GPUs {', '.join(slot.label for slot in slots)}"
        if whole := [name for name in names if spec.everything[name].vram is None]:
            noun = "models" if set(names) <= spec.models.keys() else "entries"
            what = f"{gpus} {'is' if alone else 'are'} claimed by {len(names)} {noun}: {', '.join(names)}."
            if running := [name for name in held_by if runs_on(Observed(name, spec, self.facts), slots[0])]:
                what += f" Running there: {', '.join(running)}."
            which = "each of them" if whole == names else ", ".join(whole)
            hint = f'Choose another GPU{others}, or set vram ("6GiB") for {which}.'
            claimed = Problem.of("gpu-claimed-twice", what=what, hint=hint, names=", ".join(names))
            return Fault(refused, "gpus", claimed)
        what = f"{gpus} would{'' if alone else ' each'} {too_full(slots[0], self.shares(names))}."
        hint = f"Lower vram, or choose another GPU{others}."
        return Fault(refused, "vram", Problem.of("vram-exceeded", what=what, hint=hint))

    def held_by_others(self, name: str, slots: Sequence[GpuSlot]) -> Problem | None:
        """Return the error if another lab's model has a GPU, or processes that are not ours hold memory on it."""
        facts, making_room = self.facts, self.making_room(name)
        for slot in slots:
            if theirs := self.of_other_lab(name, slot):
                return theirs
            foreign = [
                process
                for process in facts.gpu_processes
                if process.uuid == slot.uuid
                and not facts.is_our_process(process)
                and (process.container, process.whose) not in making_room
            ]
            if not foreign:
                continue
            held, usable = sum(process.memory or 0 for process in foreign) / 1024, slot.usable(2)
            share = self.spec.everything[name].vram
            asked = share.of(slot.memory or 0) if share else None
            if asked is not None and usable is not None and asked + held <= usable:
                continue
            who = ", ".join(
                f"{process.name} (pid {process.pid}, {process.user or 'unknown user'}, {gib(process.memory)})"
                for process in foreign
            )
            return Problem.of("gpu-in-use", gpu=slot.label, who=who, others=self.free())
        return None

    def making_room(self, name: str) -> set[tuple[str, int | None]]:
        """Return (id, uid) of the containers by hand that an entry replaces."""
        entry = self.spec.entries.get(name)
        return {
            (container.id, self.facts.uid_of(container.user))
            for container in self.facts.containers
            if entry and container.name == entry.replaces and container.user in (entry.dockerd, "")
        }

    def of_other_lab(self, name: str, slot: GpuSlot) -> Problem | None:
        """Return the error if a model of another lab has this GPU, running or not, and the entry has no room beside it.

        Entries of two labs may share a GPU if all have `vram`, as those of one lab.
        """
        facts = self.facts
        theirs: dict[str, Vram | None] = {}
        for key in sorted(facts.others):
            container, entry = facts.proven.get(key), recorded(key, facts)
            if not container or not entry or slot.uuid not in uuids_in(label(container.labels)):
                continue
            share = share_of(container)
            if share is None or self.spec.everything[name].vram is None:
                return Problem.of("held-by-other-lab", what=f"GPU {slot.label}", holder=key[1], owner=owner(entry))
            theirs[f"{key[1]} of {owner(entry)}"] = share
        shares = {**self.shares([*self.entries_on(slot), name]), **theirs}
        if not theirs or not overfull(slot, shares.values()):
            return None
        hint = f"Lower vram, or choose another GPU{self.free(besides=[slot])}."
        return Problem.of("vram-exceeded", what=f"{slot.identified} would {too_full(slot, shares)}.", hint=hint)

    def free(self, besides: Sequence[GpuSlot] = ()) -> str:
        """Return ` (free: 2, 3)`, the unused GPUs; "" if there are none. besides: GPUs to leave out."""
        facts = self.facts
        taken = {uuid for theirs in self.uuids.values() for uuid in theirs}
        taken |= {process.uuid for process in facts.gpu_processes if not facts.is_our_process(process)}
        theirs = [facts.proven[key] for key in facts.others if key in facts.proven]
        for container in (*filter(facts.is_ours, facts.containers), *theirs):
            taken |= {*uuids_in(label(container.labels))}
        unused = [slot for slot in self.slots if slot.uuid not in taken and slot not in besides]
        labels = [slot.label for slot in unused if not (slot.reserved or slot.fault or slot.mig)]
        return f" (free: {', '.join(labels)})" if labels else ""


@dataclass(frozen=True)
class Ledger(Taken):
    """The GPUs of a host's entries when each has got its own.

    faults: why entries without `uuids` got none.
    """

    faults: tuple[Fault, ...]

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

    def for_job(self, name: str) -> tuple[str, ...]:
        """Return the GPUs of a job beside the entries, which keep theirs. Raises Refused."""
        wanted = self.asked_for(name)
        refuse_unmeasured(self.spec.jobs[name], wanted)
        refuse_apart(wanted)
        if faults := self.sharing_faults({name: self.without_room(name, wanted)}):
            raise Refused(Problem.of("job-waits-for-gpu", what=" ".join(fault.why.what for fault in faults)))
        if error := self.held_by_others(name, wanted):
            raise Refused(error)
        return tuple(slot.uuid for slot in wanted)


def gib(mib: int | None) -> str:
    """Return `17.0 GiB`, or that it is unknown."""
    return "unknown memory" if mib is None else f"{mib / 1024:.1f} GiB"


# --- labels ----------------------------------------------------------------------------------------------------------


def kept_gpus(one: Observed) -> tuple[str, ...] | None:
    """Return the GPUs of an entry's container, if `gpus` has not changed in the inventory; else None."""
    definition = label(one.container.labels) if one.container else {}
    if not one.container or definition.get("gpus") != gpus_text(one.entry):
        return None
    return uuids_in(definition)


def kept_share(one: Observed) -> bool:
    """Is the share that an entry wants the one that its container has?"""
    kept = label(one.container.labels).get("vram") if one.container else None
    return kept == (str(one.entry.vram) if one.entry.vram else None)


def share_of(container: Container) -> Vram | None:
    """Return the share of its GPUs that a container has by its label; None for all of them."""
    try:
        return Vram.model_validate(vram_from_text(label(container.labels).get("vram")))
    except (Wrong, ValueError):
        return None


def runs_on(one: Observed, slot: GpuSlot) -> bool:
    """Does an entry's container have this GPU already?"""
    return bool(one.container and slot.uuid in uuids_in(label(one.container.labels)))


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
