"""Which removals are deliberate. Emptying a host, or removing most of its models, needs the exact number. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpurack.facts.model import HostFacts
from gpurack.facts.owner import applied, recorded
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change, holdings
from gpurack.plan.models.ownership import SHORT_COMMIT, Claim
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

MANY = 5
"""From this number of models on a host, removing more than half of them needs the number."""


@dataclass(frozen=True)
class Removals:
    """What a run removes from a host because the inventory does not have it.

    names: those models. total: the lab's models on the host. emptied: are all of them removed?
    """

    names: tuple[str, ...] = ()
    total: int = 0
    emptied: bool = False

    @property
    def number(self) -> int:
        """The number to confirm, 0 if none is needed."""
        count = len(self.names)
        return count if self.emptied or (self.total >= MANY and 2 * count > self.total) else 0


NOTHING = Removals()


def removals_of(
    changes: Sequence[Change], desired: Mapping[str, DesiredService], spec: Host, facts: HostFacts
) -> Removals:
    """Count the removals.

    An entry that is disabled, or moved to another Docker, is not removed from the inventory. One whose GPU or port a
    new entry takes is replaced.
    """
    new = [holdings(None, desired[change.model]) for change in changes if change.action == Action.CREATE]
    gone, leaving = [], set()
    for change in changes:
        if change.action != Action.REMOVE:
            continue
        key = (change.user, change.model)
        if change.model in spec.entries:
            leaving |= set() if spec.entries[change.model].enabled else {key}
        elif not any(held & holdings(facts.ours.get(key)) for held in new):
            gone.append(change.model)
            leaving.add(key)
    return Removals(tuple(gone), len(facts.ours), bool(gone) and leaving == facts.ours.keys())


def refusal(
    removals: Removals, changes: Iterable[Change], facts: HostFacts, claim: Claim, unattended: bool, executing: bool
) -> Problem | None:
    """Return why a host is left alone: unconfirmed removals, or removals that come from an old clone.

    Without -y the prompt asks for the number, so before it (not executing) nothing is refused.
    """
    if unattended and (old := from_old_clone(removals, changes, facts, claim)):
        return Problem.of("removal-from-old-clone", **old)
    if removals.number in (0, claim.allowed) or not (unattended or executing):
        return None
    how = f"add --allow-remove {removals.number} (pyinfra: --data allow_remove={removals.number})"
    if claim.allowed is not None:
        how += f" (it says {claim.allowed})"
    names = ", ".join(removals.names)
    return Problem.of("removal-needs-number", count=removals.number, total=removals.total, names=names, how=how)


def old_clone(removals: Removals, changes: Iterable[Change], facts: HostFacts, claim: Claim) -> list[Problem]:
    """Return the warning of removals that an old clone may have caused. Under -y they are refused instead."""
    old = from_old_clone(removals, changes, facts, claim)
    return [Problem.of("old-clone", **old)] if old else []


def from_old_clone(
    removals: Removals, changes: Iterable[Change], facts: HostFacts, claim: Claim
) -> dict[str, str] | None:
    """Return the removed models that were applied from a commit which the inventory's clone lacks, and who did it."""
    found = {}
    for change in changes:
        entry = recorded((change.user, change.model), facts)
        counts = change.action == Action.REMOVE and change.model in removals.names
        if counts and entry and entry.commit in claim.missing:
            found[change.model] = entry
    if not found:
        return None
    newest = max(found.values(), key=lambda entry: entry.applied)
    who = applied(newest) or "unknown"
    return {"names": ", ".join(found), "commit": newest.commit[:SHORT_COMMIT], "who": who}


def summary(removals: Removals, changes: Iterable[Change]) -> str:
    """Return `1 recreate, 3 REMOVE`, with what confirms them; "" if nothing is removed."""
    if not removals.names:
        return ""
    counts: dict[str, int] = {}
    for change in changes:
        if change.action != Action.KEEP and not (change.action == Action.REMOVE and change.model in removals.names):
            counts[change.action.value] = counts.get(change.action.value, 0) + 1
    parts = [*(f"{count} {action}" for action, count in counts.items()), f"{len(removals.names)} REMOVE"]
    number = removals.number
    asked = f" (of {removals.total} models here; with -y: --allow-remove {number})" if number else ""
    return ", ".join(parts) + asked
