"""Models that an admin stopped: until the next run, or held until `gpurack start`. Pure."""

from collections.abc import Collection, Iterable

from gpurack.facts.model import HostFacts
from gpurack.facts.record import Stopped
from gpurack.plan.models.health import first_line, local_time
from gpurack.plan.models.observed import Observed
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

Key = tuple[str, str]
"""(user, name) in the record."""


def key_of(one: Observed) -> Key:
    """Return where the record has an entry: where its container is, also if the entry's `user` changed since."""
    return (one.container.user if one.container else one.entry.dockerd), one.name


def stop_of(one: Observed) -> Stopped | None:
    """Return who stopped an entry; None if nobody did. What was started by hand since counts only if it is held.

    A model of another lab with the same name does not count.
    """
    key, facts = key_of(one), one.facts
    found = None if key in facts.others else facts.stopped.get(key)
    return found if found and (found.hold or not one.running) else None


def described(stopped: Stopped, facts: HostFacts, path: str = "") -> Problem:
    """Return a stop in words: who, when and why. path: of the entry."""
    by = f" ({stopped.by})" if stopped.by else ""
    since = local_time(stopped.at, facts)
    if stopped.hold:
        return Problem.of("model-held", path=path, since=since, by=by, why=first_line(stopped.why))
    return Problem.of("model-stopped", path=path, since=since, by=by)


def start_reason(stopped: Stopped, facts: HostFacts) -> str:
    """Return why a model is started: `stopped by ada at 2026-11-29 14:02 CET`."""
    by = f" by {stopped.by}" if stopped.by else ""
    return f"{'held' if stopped.hold else 'stopped'}{by} at {local_time(stopped.at, facts)}"


def hold_of(one: Observed) -> Problem | None:
    """Return the hold of an enabled entry, to which nothing is done; None without one."""
    stopped = stop_of(one) if one.entry.enabled else None
    return described(stopped, one.facts, one.path) if stopped and stopped.hold else None


def released(names: Iterable[str], spec: Host, facts: HostFacts) -> dict[str, Collection[str]]:
    """Return user → those of these entries whose mark is dropped from the record, because they run again."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        user, _ = key = key_of(Observed(name, spec, facts))
        if key in facts.stopped:
            found.setdefault(user, []).append(name)
    return dict(found)
