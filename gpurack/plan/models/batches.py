"""Batches: changes that succeed or fail together, because one needs what another one holds until it stops. Pure.

Changes in different batches run side by side. A model on a GPU that it shares with others by `vram` needs nothing of
theirs, as long as the old and new shares fit beside each other.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gpurack.engines import ENGINES
from gpurack.facts.gpus import Gpu
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.plan.models import ledger
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change, container_of_change, replaced
from gpurack.plan.models.holdings import Holdings, held_by, names_of, needed_by
from gpurack.plan.models.slots import slot_of
from gpurack.spec.model import Vram


@dataclass(frozen=True)
class Claim:
    """What a change holds before and after it."""

    before: Holdings
    after: Holdings


def connected(claims: Sequence[Claim]) -> list[list[int]]:
    """Return the claims' numbers in sets: two belong together if one's `after` needs the other's `before`.

    >>> a, b, c, x = (Holdings(frozenset({gpu})) for gpu in "abcx")
    >>> one, two, three = Claim(a, b), Claim(b, c), Claim(x, x)
    >>> connected([one, three, two])
    [[0, 2], [1]]
    """
    sets: list[list[int]] = []
    for number, claim in enumerate(claims):
        tied = [
            one
            for one in sets
            if any(
                claim.after.clashes(claims[other].before) or claims[other].after.clashes(claim.before) for other in one
            )
        ]
        sets = [one for one in sets if one not in tied]
        sets.append([other for one in tied for other in one] + [number])
    return sorted(map(sorted, sets))


def batches(acting: Sequence[Change], desired: Mapping[str, DesiredService], facts: HostFacts) -> list[list[Change]]:
    """Return the changes in batches. Within each, removals come first, then models, then what connects to them."""
    roomy = shared(acting, desired, facts)
    claims = [claim(change, desired, facts, roomy) for change in acting]
    first = lambda change: -1 if change.action == Action.REMOVE else desired[change.model].depth  # noqa: E731
    return [sorted((acting[number] for number in batch), key=first) for batch in connected(claims)]


def claim(
    change: Change, desired: Mapping[str, DesiredService], facts: HostFacts, roomy: Collection[str] = ()
) -> Claim:
    """Return what a change holds before and after it. roomy: GPUs that do not count."""
    container = container_of_change(change, desired, facts)
    entry = named(f"entry {change.model}")  # it may be removed from one Docker and created in another
    before = entry | held_by(container, facts) | name_of(container)
    if change.action == Action.REMOVE:
        return Claim(before.without_gpus(roomy), entry)
    one = desired[change.model]
    if change.action == Action.CREATE:
        old = replaced(one, facts)
        before |= held_by(old, facts) | name_of(old)
    after = entry | needed_by(one) | named(f"name {one.user} {one.name}")
    return Claim(before.without_gpus(roomy), after.without_gpus(roomy))


def named(name: str) -> Holdings:
    """Return holdings of one name."""
    return Holdings(names=frozenset({name}))


def name_of(container: Container | None) -> Holdings:
    """Return the name that a container holds in its Docker; nothing without a container."""
    return named(f"name {container.user} {container.name}") if container else Holdings()


def shared(acting: Sequence[Change], desired: Mapping[str, DesiredService], facts: HostFacts) -> frozenset[str]:
    """Return the GPUs on which all old and new shares fit at once: their UUIDs and render nodes."""
    return frozenset(name for gpu in facts.gpus if has_room(gpu, acting, desired, facts) for name in names_of(gpu))


def has_room(gpu: Gpu, acting: Sequence[Change], desired: Mapping[str, DesiredService], facts: HostFacts) -> bool:
    """Has each model on a GPU a share, and do the old and new shares fit beside each other?"""
    slot = slot_of(gpu, facts)
    old = {
        key: ledger.share_of(container)
        for key, container in facts.ours.items()
        if gpu.uuid in ledger.uuids_in(ledger.label(container.labels))
    }
    new = {}
    for change in acting:
        if change.action != Action.REMOVE and gpu.uuid in desired[change.model].uuids:
            entry = desired[change.model].entry
            new[entry.dockerd, change.model] = entry.vram
    shares = [
        larger(old[key], new[key], slot.memory) if key in old and key in new else {**old, **new}[key]
        for key in {*old, *new}
    ]
    unmeasured = slot.memory is None and any(share.gib for share in shares if share)
    return not (None in shares or unmeasured or ledger.overfull(slot, shares))


def larger(one: Vram | None, other: Vram | None, memory: float | None) -> Vram | None:
    """Return the larger of two shares of a GPU; None is all of it. memory: of the GPU, in GiB."""
    return max(one, other, key=lambda share: share.of(memory or 1)) if one and other else None


def lanes(one: DesiredService) -> tuple[str, ...]:
    """Return the GPUs on which nothing else may start while this model does."""
    return one.uuids if ENGINES[one.entry.engine].profiles_memory else ()
