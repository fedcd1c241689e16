"""Read an inventory for commands that connect: the checked fleet, and the hosts that `--limit` chooses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pyinfra.api import Host
from pyinfra.api.exceptions import NoGroupError
from pyinfra.api.inventory import Inventory

from gpurack.inventory.fleet import Fleet, read_fleet, without_models
from gpurack.inventory.load import read_inventory
from gpurack.inventory.lock_file import with_lock
from gpurack.plan.models.failures import unknown_retries
from gpurack.plan.pins import contradictions
from gpurack.spec.problems import InventoryError, NotAsked, Problem, limit_hint


@dataclass(frozen=True)
class Lab:
    """An inventory without errors. limit: the hosts to work on; () means all."""

    path: Path
    inventory: Inventory
    fleet: Fleet
    limit: tuple[Host, ...] = ()

    @property
    def asked(self) -> tuple[Host, ...]:
        """The hosts to connect to: those to work on that are not in maintenance."""
        return tuple(host for host in self.limit or self.inventory if not self.fleet[host.name].maintenance)

    @property
    def resting(self) -> dict[str, str]:
        """Host to work on → why it is in maintenance."""
        return {name: spec.maintenance for name, spec in self.chosen.items() if spec.maintenance}

    @property
    def data(self) -> Mapping[str, str]:
        """What pyinfra's `--data` would set."""
        data: Mapping[str, str] = self.inventory.get_override_data()
        return data

    @property
    def chosen(self) -> Fleet:
        """The specs of the hosts to work on."""
        names = {host.name for host in self.limit}
        return {name: spec for name, spec in self.fleet.items() if not names or name in names}


def read_lab(path: Path, limit: Sequence[str] = (), data: Mapping[str, str] | None = None, secrets: bool = True) -> Lab:
    """Read and check an inventory.

    data: what pyinfra's `--data` would set. secrets: check that their values can be read. Raises InventoryError.
    """
    inventory = read_inventory(path)
    inventory.override_data = dict(data or {})
    fleet = with_lock(read_fleet(inventory, secrets), path)
    problems = contradictions(fleet, path)
    problems += unknown_retries(inventory.override_data.get("retry"), fleet)
    if problem := without_models(fleet):
        problems.append(problem.at(str(path)))
    if problems:
        raise InventoryError(problems)
    return Lab(path, inventory, fleet, limited(inventory, path, limit))


def limited(inventory: Inventory, path: Path, limit: Sequence[str]) -> tuple[Host, ...]:
    """The hosts that these names, groups or patterns match, in inventory order. Raises NotAsked."""
    chosen: set[str] = set()
    for pattern in limit:
        try:
            found = inventory.get_group(pattern)
        except NoGroupError:
            found = [host for host in inventory if fnmatch(host.name, pattern)]
        if not found:
            hint = limit_hint(pattern, [host.name for host in inventory])
            raise NotAsked([Problem.of("limit-matches-nothing", "", str(path), limit=pattern or '""', hint=hint)])
        chosen |= {host.name for host in found}
    return tuple(host for host in inventory if host.name in chosen)
