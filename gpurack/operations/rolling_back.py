"""Find the definition to bring back on a host, and the fleet with the entry of that time."""

from collections.abc import Mapping
from pathlib import Path

from pyinfra.api import Host as PyinfraHost
from pyinfra.api.inventory import Inventory

from gpurack.facts.model import HostFacts
from gpurack.inventory.patched import with_words
from gpurack.operations.run_state import host_run, outdate, snapshot
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.rollback import Back, NotPossible, back_to, chosen, exact_image
from gpurack.plan.models.stopped import hold_of
from gpurack.spec.host import Host


def bring_back(
    host: PyinfraHost, inventory: Inventory, path: Path | None, fleet: Mapping[str, Host], name: str, number: int | None
) -> tuple[Mapping[str, Host], Back]:
    """Return the fleet with the earlier entry of one host, and what differs. The host's snapshot is one for it.

    path: the inventory's file. number: in the list of definitions, from 1; None for the newest that it does not have.
    Raises NotPossible, spec.problems.InventoryError.
    """
    spec = fleet[host.name]
    facts = inspected(host, spec)
    one = Observed(name, spec, facts)
    if hold := hold_of(one):
        raise NotPossible(f"{hold.message} End the hold first: gpurack start.")
    ready = chosen(facts.ready.get(one.key, ()), one.container, number)
    back = back_to(ready, one)
    patched = with_words(inventory, path, host.name, one.path, back.words)
    exact = exact_image(back, one.entry.dockerd, again(host, patched[host.name]))
    if exact is not back:
        patched = with_words(inventory, path, host.name, one.path, exact.words)
        again(host, patched[host.name])
    return patched, exact


def inspected(host: PyinfraHost, spec: Host) -> HostFacts:
    """Return the host's snapshot. Raises NotPossible if nothing can be planned from it."""
    facts = snapshot(host, spec)
    if facts.blind:
        raise NotPossible(facts.blind.what)
    if facts.interrupted:
        raise NotPossible(f"a change of {', '.join(facts.interrupted)} was interrupted. Apply the inventory first.")
    return facts


def again(host: PyinfraHost, spec: Host) -> HostFacts:
    """Return a new snapshot, because another inventory asks about other images and weights."""
    host_run(host).snapshot = None
    outdate(host)
    return inspected(host, spec)
