"""How long changes are expected to leave a model down: by its last starts on this host. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gpurack.facts.model import HostFacts
from gpurack.plan.models.batches import lanes
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change, container_of_change

STOPS = (Action.RECREATE, Action.START)
"""What stops a running container."""
STARTS = (Action.CREATE, *STOPS)


def expect_downtime(changes: Sequence[Change], desired: Mapping[str, DesiredService], facts: HostFacts) -> list[Change]:
    """Return the changes; those that stop a running model with the seconds that it is expected to be down.

    Models that profile memory on the same GPU start one after another, so each also waits for those before it. If one
    of these times is unknown, nothing is expected.
    """
    earlier: list[str] = []
    found = []
    for change in changes:
        if change.action in STARTS:
            if stops(change, desired, facts):
                mine = set(lanes(desired[change.model]))
                names = [name for name in earlier if mine.intersection(lanes(desired[name]))]
                known = [facts.last_start(name, desired[name].user) for name in (*names, change.model)]
                seconds = [each for each in known if each is not None]
                change = replace(change, down=sum(seconds) if len(seconds) == len(known) else None)
            earlier.append(change.model)
        found.append(change)
    return found


def stops(change: Change, desired: Mapping[str, DesiredService], facts: HostFacts) -> bool:
    """Does a change stop a container that runs?"""
    container = container_of_change(change, desired, facts)
    return change.action in STOPS and container is not None and container.running
