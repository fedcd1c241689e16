"""The edge to a host: what runs there, as `docker inspect` tells it. One remote command, nothing is changed."""

from pathlib import Path

from pyinfra.api.inventory import Inventory
from pyinfra.context import ctx_host

from gpurack.host_data import not_understood
from gpurack.importing.inspect import COMMAND
from gpurack.looks import connected, unreached
from gpurack.remote import Command


class Unreachable(Exception):
    """The host said nothing; the text says why."""


def inspect(name: str, inventory_file: Path | None) -> str:
    """The output of `inspect.COMMAND` on a host. inventory_file: where its ssh data stand; else ~/.ssh/config does.

    Raises Unreachable, spec.problems.InventoryError.
    """
    from gpurack.spec.load import read_inventory

    inventory = read_inventory(inventory_file) if inventory_file else Inventory(([name], {}))
    host = inventory.get_host(name, default=None)
    if host is None:
        raise Unreachable(f"is not in {inventory_file}.")
    with connected(inventory, [host]) as state:
        if host not in state.active_hosts:
            raise Unreachable(unreached(host))
        with ctx_host.use(host):
            try:
                done, output = host.run_shell_command(Command(COMMAND))
            except Exception as error:
                raise Unreachable(not_understood(error)) from None
    if not done:
        raise Unreachable(f"docker says: {output.stderr.strip() or 'nothing'}.")
    return str(output.stdout)
