"""Batches: changes that succeed or fail together, because one needs what another one holds until it stops. Pure.

Changes in different batches run side by side. A model on a GPU that it shares with others by `vram` needs nothing of
theirs, as long as the old and new shares fit beside each other.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gpurack.engines import ENGINES
from gpurack.facts.gpus import Gpu
from gpurack.facts.model import Container, HostFacts
from gpurack.plan.models import ledger
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change, container_of_change, holdings, replaced
from gpurack.plan.models.slots import slot_of
from gpurack.spec.host import Host
from gpurack.spec.model import Vram, vram_from_text
from gpurack.spec.problems import Wrong


@dataclass(frozen=True)
class Claim:
    """What a change holds (GPUs, ports, names) before and after it."""

    before: frozenset[str]
    after: frozenset[str]


def connected(claims: Sequence[Claim]) -> list[list[int]]:
    """Return the claims' numbers in sets: two belong together if one's `after` needs the other's `before`.

    >>> one, two, three = Claim(frozenset("a"), frozenset("b")), Claim(frozenset("b"), frozenset("c")), Claim(
    ...     frozenset("x"), frozenset("x"))
    >>> connected([one, three, two])
    [[0, 2], [1]]
    """
    sets: list[list[int]] = []
    for number, claim in enumerate(claims):
        tied = [
            one
            for one in sets
            if any(claim.after & claims[other].before or claims[other].after & claim.before for other in one)
        ]
        sets = [one for one in sets if one not in tied]
        sets.append([other for one in tied for other in one] + [number])
    return sorted(map(sorted, sets))


def batches(
    acting: Sequence[Change], desired: Mapping[str, DesiredService], spec: Host, facts: HostFacts
) -> list[list[Change]]:
    """Return the changes in batches. Within each, removals come first, then models, then what connects to them."""
    roomy = shared(acting, desired, spec, facts)
    claims = [claim(change, desired, facts, roomy) for change in acting]
    first = lambda change: -1 if change.action == Action.REMOVE else depth(change.model, spec)  # noqa: E731
    return [sorted((acting[number] for number in batch), key=first) for batch in connected(claims)]


def claim(
    change: Change, desired: Mapping[str, DesiredService], facts: HostFacts, roomy: Collection[str] = ()
) -> Claim:
    """Return what a change holds before and after it. roomy: GPUs that do not count."""
    container = container_of_change(change, desired, facts)
    entry = {f"entry {change.model}"}  # it may be removed from one Docker and created in another
    before = entry | holdings(container) | named(container)
    if change.action == Action.REMOVE:
        return Claim(frozenset(before - set(roomy)), frozenset(entry))
    one = desired[change.model]
    if change.action == Action.CREATE:
        old = replaced(one, facts)
        before |= holdings(old) | named(old)
    after = entry | holdings(None, one) | {f"name {one.user} {one.name}"}
    return Claim(frozenset(before - set(roomy)), frozenset(after - set(roomy)))


def named(container: Container | None) -> set[str]:
    """Return the name that a container holds in its Docker."""
    return {f"name {container.user} {container.name}"} if container else set()


def shared(
    acting: Sequence[Change], desired: Mapping[str, DesiredService], spec: Host, facts: HostFacts
) -> frozenset[str]:
    """Return the GPUs on which all old and new shares fit at once, as `holdings` writes them."""
    return frozenset(
        text
        for gpu in facts.gpus
        if has_room(gpu, acting, desired, spec, facts)
        for text in (f"gpu {gpu.uuid}", *([f"gpu {gpu.node}"] if gpu.node else ()))
    )


def has_room(
    gpu: Gpu, acting: Sequence[Change], desired: Mapping[str, DesiredService], spec: Host, facts: HostFacts
) -> bool:
    """Does each model on a GPU have a share, and do the old and new shares fit beside each other?"""
    slot = slot_of(gpu, facts)
    if slot.memory is None:
        return False
    old = {
        key: share_of(container, slot.memory)
        for key, container in facts.ours.items()
        if gpu.uuid in ledger.uuids_in(ledger.label(container.labels))
    }
    new = {}
    for change in acting:
        if change.action != Action.REMOVE and gpu.uuid in desired[change.model].uuids:
            entry = desired[change.model].entry
            new[entry.dockerd, change.model] = entry.vram.of(slot.memory) if entry.vram else None
    shares = [max(old.get(key) or 0, new.get(key) or 0) for key in {*old, *new}]
    usable = slot.usable(len(shares))
    if None in old.values() or None in new.values():
        return False
    return usable is None or sum(shares) <= usable + ledger.ROUNDING


def share_of(container: Container, memory: float) -> float | None:
    """Return the GiB of a GPU that a container has by its label; None for all of it. memory: of the GPU, in GiB."""
    try:
        share = Vram.model_validate(vram_from_text(ledger.label(container.labels).get("vram")))
    except (Wrong, ValueError):
        return None
    return share.of(memory)


def depth(name: str, spec: Host) -> int:
    """Return the start order: models 0, what connects to models 1, what connects to services 2."""
    if name not in spec.services:
        return 0
    return 2 if any(other.name in spec.services for other in spec.connections(name) if other.near) else 1


def lanes(one: DesiredService) -> tuple[str, ...]:
    """Return the GPUs on which nothing else may start while this model does."""
    return one.uuids if ENGINES[one.entry.engine].profiles_memory else ()
