"""Which removals are deliberate. Emptying a host, or removing most of its models, needs the exact number. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpurack.facts.model import HostFacts
from gpurack.facts.owner import applied, recorded
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.holdings import held_by, needed_by, port_of
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.ownership import SHORT_COMMIT, Claim
from gpurack.plan.models.preflight import gpu_label
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

MANY = 5
"""From this number of models on a host, removing more than half of them needs the number."""


@dataclass(frozen=True)
class Removals:
    """What a run removes from a host because the inventory does not have it.

    names: those models. total: the lab's models on the host. emptied: are all of them removed? refused: are they
    refused under -y, because they were applied from a commit that the inventory's clone lacks?
    """

    names: tuple[str, ...] = ()
    total: int = 0
    emptied: bool = False
    refused: bool = False

    @property
    def number(self) -> int:
        """The number to confirm, 0 if none is needed."""
        count = len(self.names)
        return count if self.emptied or (self.total >= MANY and 2 * count > self.total) else 0


NOTHING = Removals()


def removals_of(
    changes: Sequence[Change], desired: Mapping[str, DesiredService], spec: Host, facts: HostFacts, claim: Claim
) -> Removals:
    """Count the removals.

    An entry that is disabled, or moved to another Docker, is not removed from the inventory. One whose GPU or port a
    new entry takes is replaced.
    """
    new = [needed_by(desired[change.model]) for change in changes if change.action == Action.CREATE]
    gone, leaving = [], set()
    for change in changes:
        if change.action != Action.REMOVE:
            continue
        key = (change.user, change.model)
        if change.model in spec.entries:
            leaving |= set() if spec.entries[change.model].enabled else {key}
        elif not any(one.clashes(held_by(facts.ours.get(key), facts)) for one in new):
            gone.append(change.model)
            leaving.add(key)
    found = Removals(tuple(gone), len(facts.ours), bool(gone) and leaving == facts.ours.keys())
    return replace(found, refused=from_old_clone(found, changes, facts, claim) is not None)


def kept_for_successors(
    removals: Iterable[Change], failing: Mapping[str, DesiredService | Observed], spec: Host, facts: HostFacts
) -> dict[tuple[str, str], Problem]:
    """Return (user, name) → warning for models that stay, although the inventory does not have them.

    An entry that takes a GPU or port of theirs has an error: without it, nothing would serve. failing: new entries with
    an error → what they would be. If that is unknown, only their port counts.
    """
    found = {}
    wanted = {name: port_of(one) if isinstance(one, Observed) else needed_by(one) for name, one in failing.items()}
    for change in removals:
        key = (change.user, change.model)
        theirs = held_by(facts.ours.get(key), facts)
        successor = next((name for name, needed in wanted.items() if needed.clashes(theirs)), None)
        if successor and change.model not in spec.entries:
            things = ", ".join(sorted(gpu_label(thing, facts) for thing in wanted[successor].clashes(theirs)))
            told = {"name": change.model, "successor": successor, "things": things}
            found[key] = Problem.of("removal-waits", **told)
    return found


def refusal(
    removals: Removals, changes: Iterable[Change], facts: HostFacts, claim: Claim, unattended: bool, executing: bool
) -> Problem | None:
    """Return why a host is left alone: unconfirmed removals, or removals that come from an old clone.

    Without -y the prompt asks for the number, so before it (not executing) nothing is refused.
    """
    if unattended and (old := from_old_clone(removals, changes, facts, claim)):
        also = "" if removals.number in (0, claim.allowed) else f" With -y, it also needs {option(removals.number)}."
        return Problem.of("removal-from-old-clone", **old, also=also)
    if removals.number in (0, claim.allowed) or not (unattended or executing):
        return None
    how = f"add {option(removals.number)}"
    if claim.allowed is not None:
        how = f"write {option(removals.number)} in place of {claim.allowed}"
    names = ", ".join(removals.names)
    return Problem.of("removal-needs-number", count=removals.number, total=removals.total, names=names, how=how)


def option(number: int) -> str:
    """Return the option that confirms removals."""
    return f"--allow-remove {number} (pyinfra: --data allow_remove={number})"


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
    told = {"names": ", ".join(found), "commit": newest.commit[:SHORT_COMMIT], "who": who}
    confirm = "confirm the removal without -y, at a terminal."
    if not claim.origin.commit:
        return {**told, "where": "this folder, which is not a git clone", "way": f"C{confirm[1:]}"}
    pull = "Run `git pull` first (in a shallow clone `git fetch --unshallow`). If the commit is of another project, "
    return {**told, "where": "this clone", "way": pull + confirm}


def summary(removals: Removals) -> str:
    """Return `3 REMOVE`, with what confirms them; "" if nothing is removed."""
    if not removals.names:
        return ""
    number, models = removals.number, f"{removals.total} model{'' if removals.total == 1 else 's'}"
    of = f"of {models}; " if number else ""
    how = "refused because of the commit" if removals.refused else f"--allow-remove {number}" if number else ""
    return f"{len(removals.names)} REMOVE" + (f" ({of}with -y: {how})" if how else "")
