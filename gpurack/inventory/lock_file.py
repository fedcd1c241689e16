"""Reads the lock beside an inventory, and adds it to the fleet."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from gpurack.inventory.load import parse_yaml
from gpurack.shell import word
from gpurack.spec.host import Host
from gpurack.spec.lock import Lock, place
from gpurack.spec.problems import InventoryError, Problem, from_pydantic


def read_lock(inventory: Path | None) -> Lock | None:
    """The lock of an inventory; None if it has none. Raises InventoryError if the file is invalid."""
    if inventory is None or not place(inventory).exists():
        return None
    path = place(inventory)
    try:
        return Lock.model_validate(parse_yaml(path) or {})
    except ValidationError as error:
        found = from_pydantic("", "", error, {})[0]
        where = f"{path} {found.path}".rstrip()
        problem = Problem.of("invalid-lock", "", where, what=found.message, inventory=word(str(inventory)))
        raise InventoryError([problem]) from None


def with_lock(fleet: Mapping[str, Host], inventory: Path | None) -> dict[str, Host]:
    """The fleet, each host with its part of the lock. Raises InventoryError if the lock is invalid."""
    lock = read_lock(inventory)
    return {name: host.locked(lock.hosts.get(name) if lock else None) for name, host in fleet.items()}
