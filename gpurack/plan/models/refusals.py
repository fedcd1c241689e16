"""What a run refuses to create although it could, and warnings about what already serves so. Pure.

A refusal that a later gpurack adds must not stop a model that served until then. It is an error for what a run would
create or recreate, and a warning for what stays. A new one is a function in REFUSALS.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from gpurack.engines import ENGINES
from gpurack.engines.open_webui import UNCLAIMED
from gpurack.engines.urls import others_reach
from gpurack.facts.model import HostFacts
from gpurack.plan.models import compose
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action
from gpurack.spec.compose_keys import keys_without_effect
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

MADE = (Action.CREATE, Action.RECREATE)
"""The actions for which a refusal is an error."""

Rule = Callable[[DesiredService, HostFacts], Problem | None]


def refusal(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Return why an entry must not be created like this, and what to write; None if it may."""
    return next((problem for rule in REFUSALS if (problem := rule(desired, facts))), None)


def no_lan_address(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Refuse `bind: lan` on a host without a default route."""
    if desired.entry.bind != "lan" or facts.address:
        return None
    addresses = ", ".join(facts.addresses) or "none found (ip address)"
    return Problem.of("no-default-route", path=desired.path, addresses=addresses)


def no_first_account(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Refuse a page that other machines reach and where the first visitor becomes the administrator."""
    volume = unclaimed_volume(desired.name, desired.entry)
    if volume is None or volume in facts.accounts:
        return None
    return Problem.of("no-first-account", path=desired.path, what=UNCLAIMED)


def unclaimed_volume(name: str, entry: Model) -> tuple[str, str] | None:
    """Return (user, volume) of the database of a page without a first account that other machines reach.

    None for other entries, and if the inventory defines the first account.
    """
    volume = ENGINES[entry.engine].unclaimed(entry, name) if others_reach(entry) else None
    return (entry.dockerd, compose.volume_name(volume)) if volume else None


def key_without_effect(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Refuse a Compose key that has no meaning in gpurack's compose file."""
    problem = next(keys_without_effect(desired.entry.compose), None)
    return problem and problem.at("", desired.path)


REFUSALS: tuple[Rule, ...] = (no_lan_address, no_first_account, key_without_effect)


def warnings(kept: Iterable[Problem], spec: Host, facts: HostFacts) -> Iterator[Problem]:
    """Yield a sentence for each problem of a host's models that blocks nothing.

    kept: models that serve although they would be refused now → why.
    """
    yield from kept
    open_to_all = [f"{name}:{one.port}" for name, one in spec.entries.items() if one.enabled and one.bind == "lan"]
    if open_to_all and is_public(facts.address):
        yield Problem.of("reachable-from-internet", names=", ".join(open_to_all), address=facts.address)


def is_public(address: str) -> bool:
    """Can the whole internet reach this address, unless something in between blocks it?

    >>> is_public("10.0.0.7"), is_public("fd00::7"), is_public("8.8.8.8"), is_public("")
    (False, False, True, False)
    """
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
