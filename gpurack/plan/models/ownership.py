"""Whose a host's models are, by the host's record: what a lab may change, and what it takes over. Pure.

A lab is an inventory with a name (`lab`). Models of another lab are left out of `HostFacts.ours`, so that nothing plans
a change of them; their services stay in compose.yaml, and their GPUs and ports are taken.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace

from gpurack.facts.model import HostFacts
from gpurack.facts.owner import owner, recorded
from gpurack.facts.record import Entry
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.holdings import Holdings, held_by, needed_by
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

Key = tuple[str, str]
"""(user, name) of a container."""
SHORT_COMMIT = 7


@dataclass(frozen=True)
class Origin:
    """Who applies an inventory, and from what. The runner writes it into the record. "" is unknown.

    by: a person. commit: of the clone that the inventory is in. inventory: its path in there. uncommitted: does the
    clone have changes that no commit has?
    """

    lab: str = ""
    by: str = ""
    commit: str = ""
    inventory: str = ""
    uncommitted: bool = False

    @property
    def payload(self) -> dict[str, str | bool]:
        """The words of the record; `uncommitted` only where it is true."""
        words = asdict(self)
        return words if self.uncommitted else {word: words[word] for word in words if word != "uncommitted"}


@dataclass(frozen=True)
class Claim:
    """What a run may do with models that are there.

    missing: recorded commits that the inventory's clone lacks. take_over: take models of other labs that the inventory
    has? allowed: the number of removals that the admin confirmed, None without a confirmation.
    """

    origin: Origin = Origin()
    missing: frozenset[str] = frozenset()
    take_over: bool = False
    allowed: int | None = None


NO_CLAIM = Claim()


def commits(facts: HostFacts) -> set[str]:
    """Return the commits that a host's models were applied from."""
    entries = [entry for names in (facts.record or {}).values() for entry in names.values()]
    return {entry.commit for entry in entries if entry.commit}


def of_others(spec: Host, facts: HostFacts) -> dict[Key, Entry]:
    """Return the models of other labs. For an inventory without a name these are all models that have an owner."""
    found = {key: recorded(key, facts) for key in sorted(facts.ours)}
    return {key: entry for key, entry in found.items() if entry and entry.lab not in ("", spec.lab)}


def own_view(spec: Host, facts: HostFacts, claim: Claim) -> HostFacts:
    """Return the facts with `ours` being this lab's models only."""
    others = of_others(spec, facts).keys() - taken_from_others(spec, facts, claim)
    return replace(facts, others=frozenset(others)) if others else facts


def taken_from_others(spec: Host, facts: HostFacts, claim: Claim) -> set[Key]:
    """Return the models of other labs that this run takes over: those that its inventory has."""
    if not (claim.take_over and spec.lab):
        return set()
    return of_others(spec, facts).keys() & {(entry.dockerd, name) for name, entry in spec.entries.items()}


def left_over(spec: Host, facts: HostFacts) -> list[Problem]:
    """Return the note that names the running models of this lab that the inventory does not have; [] without any."""
    ours = own_view(spec, facts, NO_CLAIM).ours.items()
    names = sorted(name for (_, name), container in ours if container.running and name not in spec.entries)
    them = "it" if len(names) == 1 else "them"
    return [Problem.of("not-in-inventory", names=", ".join(names), them=them)] if names else []


def taken(spec: Host, facts: HostFacts, leaving: Collection[Key]) -> dict[str, list[str]]:
    """Return user → the models that get this lab as their owner.

    facts: the lab's own view of them. leaving: those that are removed.
    """
    found: dict[str, list[str]] = {}
    for key in sorted(facts.ours.keys() - leaving) if spec.lab else ():
        entry = recorded(key, facts)
        if entry and entry.lab != spec.lab:
            found.setdefault(key[0], []).append(key[1])
    return found


def taking(taken: Mapping[str, list[str]], facts: HostFacts) -> list[str]:
    """Return the lines that say which models get this lab as their owner."""
    former: dict[str, list[str]] = {}
    for user, names in taken.items():
        for name in names:
            entry = recorded((user, name), facts)
            former.setdefault(entry.lab if entry else "", []).append(name)
    return [
        f"take over {', '.join(names)}: {f'of lab {lab}' if lab else 'no lab owned them'} until now"
        for lab, names in former.items()
    ]


def same_names(spec: Host, facts: HostFacts) -> dict[str, Problem]:
    """Return the errors of enabled entries with the name of another lab's model. facts: the lab's own view."""
    enabled = {(entry.dockerd, name) for name, entry in spec.entries.items() if entry.enabled}
    return {
        key[1]: Problem.of("model-of-other-lab", path=spec.path_of(key[1]), name=key[1], owner=owner(entry))
        for key in sorted(facts.others & enabled)
        if (entry := recorded(key, facts))
    }


def taken_port(desired: DesiredService, change: Change, facts: HostFacts) -> Problem | None:
    """Return the error of an entry whose port excludes that of another lab's model, running or not.

    facts: the lab's own view. The ledger decides about GPUs.
    """
    if change.action == Action.KEEP:
        return None
    own = held_by(facts.container(desired.name, desired.user), facts)
    new = Holdings(listeners=(needed_by(desired) - own).listeners)
    for user, name in sorted(facts.others):
        entry, container = recorded((user, name), facts), facts.proven.get((user, name))
        if entry and (clashes := new.clashes(held_by(container, facts))):
            told = {"what": clashes[0], "holder": name, "owner": owner(entry)}
            return Problem.of("held-by-other-lab", path=desired.path, **told)
    return None


def kept_services(facts: HostFacts, user: str, old: Mapping[str, object]) -> set[str]:
    """Return the models of other labs with lines (old) in a user's compose.yaml."""
    return {name for whose, name in facts.others if whose == user and name in old}
