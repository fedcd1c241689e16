"""What a run refuses to make although it could, and what it says of what serves like that already. Pure.

A refusal that a later gpurack brings must not take a model away that served until then: it is an error for what a run
would create or recreate, and a warning for what stays. A new one is a function in REFUSALS.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.engines.open_webui import UNCLAIMED
from gpurack.engines.urls import others_reach
from gpurack.facts.model import HostFacts
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

MADE = (Action.CREATE, Action.RECREATE)
"""The actions that refusals are errors for."""

Rule = Callable[[DesiredService, HostFacts], Problem | None]


def refusal(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Why an entry must not be made as the inventory has it; None when it may. Says what to write."""
    return next((problem for rule in REFUSALS if (problem := rule(desired, facts))), None)


def no_lan_address(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """`bind: lan` on a host without a default route."""
    if desired.entry.bind != "lan" or facts.address:
        return None
    addresses = ", ".join(facts.addresses) or "none found (ip address)"
    return Problem.of("no-default-route", path=desired.path, addresses=addresses)


def no_first_account(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """A page that other machines reach, and where whoever comes first becomes the administrator."""
    volume = unclaimed_volume(desired.name, desired.entry)
    if volume is None or volume in facts.accounts:
        return None
    return Problem.of("no-first-account", path=desired.path, what=UNCLAIMED)


def unclaimed_volume(name: str, entry: Model) -> tuple[str, str] | None:
    """(user, volume) of the database of a page that other machines reach, where the inventory has no first account for
    it; None for anything else."""
    volume = ENGINES[entry.engine].unclaimed(entry, name) if others_reach(entry) else None
    return (entry.dockerd, f"{paths.PROJECT}_{volume}") if volume else None


REFUSALS: tuple[Rule, ...] = (no_lan_address, no_first_account)


def warnings(kept: Iterable[Problem], spec: Host, facts: HostFacts) -> Iterator[Problem]:
    """What is wrong with a host's models and blocks nothing. kept: of what serves although it would be refused now."""
    yield from kept
    open_to_all = [f"{name}:{one.port}" for name, one in spec.entries.items() if one.enabled and one.bind == "lan"]
    if open_to_all and is_public(facts.address):
        yield Problem.of("reachable-from-internet", names=", ".join(open_to_all), address=facts.address)


def is_public(address: str) -> bool:
    """Is it an address that the whole internet can reach, unless something in between forbids it?

    >>> is_public("10.0.0.7"), is_public("fd00::7"), is_public("8.8.8.8"), is_public("")
    (False, False, True, False)
    """
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
