"""The lock beside an inventory, read and put in force."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from gpurack.spec.host import Host
from gpurack.spec.load import parse_yaml
from gpurack.spec.lock import Lock, place
from gpurack.spec.problems import InventoryError, Problem, from_pydantic


def read_lock(inventory: Path | None) -> Lock | None:
    """The lock of an inventory; None where there is none. Raises InventoryError when it cannot be understood."""
    if inventory is None or not place(inventory).exists():
        return None
    path = place(inventory)
    try:
        return Lock.model_validate(parse_yaml(path) or {})
    except ValidationError as error:
        found = from_pydantic("", "", error, {})[0]
        where = f"{path} {found.path}".rstrip()
        problem = Problem.of("invalid-lock", "", where, what=found.message, inventory=inventory)
        raise InventoryError([problem]) from None


def with_lock(fleet: Mapping[str, Host], inventory: Path | None) -> dict[str, Host]:
    """The fleet with what the inventory's lock says of each host in force. Raises InventoryError."""
    lock = read_lock(inventory)
    return {name: host.locked(lock.hosts.get(name) if lock else None) for name, host in fleet.items()}
