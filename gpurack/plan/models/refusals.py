"""What a run refuses to make although it could, and what it says of what serves like that already. Pure.

A refusal that a later gpurack brings must not take a model away that served until then: it is an error for what a run
would create or recreate, and a warning for what stays. A new one is a function in REFUSALS.
"""

import ipaddress
from collections.abc import Callable, Iterator, Mapping

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.engines.open_webui import UNCLAIMED
from gpurack.engines.urls import others_reach
from gpurack.facts.model import HostFacts
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action
from gpurack.spec.host import Host
from gpurack.spec.model import Model

MADE = (Action.CREATE, Action.RECREATE)
"""The actions that refusals are errors for."""

Rule = Callable[[DesiredService, HostFacts], str | None]


def refusal(desired: DesiredService, facts: HostFacts) -> str | None:
    """Why an entry must not be made as the inventory has it; None when it may. Says what to write."""
    return next((sentence for rule in REFUSALS if (sentence := rule(desired, facts))), None)


def no_lan_address(desired: DesiredService, facts: HostFacts) -> str | None:
    """`bind: lan` on a host without a default route."""
    if desired.entry.bind != "lan" or facts.address:
        return None
    addresses = ", ".join(facts.addresses) or "none found (ip address)"
    return f"`bind: lan` needs a default route, and the host has none. Set `bind` to one of its addresses: {addresses}."


def no_first_account(desired: DesiredService, facts: HostFacts) -> str | None:
    """A page that other machines reach, and where whoever comes first becomes the administrator."""
    volume = unclaimed_volume(desired.name, desired.entry)
    if volume is None or volume in facts.accounts:
        return None
    return f"its database has no account yet, and {UNCLAIMED}"


def unclaimed_volume(name: str, entry: Model) -> tuple[str, str] | None:
    """(user, volume) of the database of a page that other machines reach, where the inventory has no first account for
    it; None for anything else."""
    volume = ENGINES[entry.engine].unclaimed(entry, name) if others_reach(entry) else None
    return (entry.dockerd, f"{paths.PROJECT}_{volume}") if volume else None


REFUSALS: tuple[Rule, ...] = (no_lan_address, no_first_account)


def warnings(kept: Mapping[str, str], spec: Host, facts: HostFacts) -> Iterator[str]:
    """One sentence for each thing that is wrong with a host's models and blocks nothing. kept: what serves although it
    would be refused now → why."""
    for sentence in dict.fromkeys(kept.values()):
        names = [name for name, said in kept.items() if said == sentence]
        yield f"{', '.join(names)}: {sentence}"
    open_to_all = [f"{name}:{one.port}" for name, one in spec.entries.items() if one.enabled and one.bind == "lan"]
    if open_to_all and is_public(facts.address):
        yield (
            f"reachable from the internet: {', '.join(open_to_all)}. `bind: lan` is the public address {facts.address} "
            f'here; write bind: "{facts.address}" where that is meant, or "loopback".'
        )


def is_public(address: str) -> bool:
    """Is it an address that the whole internet can reach, unless something in between forbids it?

    >>> is_public("10.0.0.7"), is_public("fd00::7"), is_public("8.8.8.8"), is_public("")
    (False, False, True, False)
    """
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
