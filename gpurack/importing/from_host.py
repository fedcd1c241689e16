"""The edge to a host: what runs there, as `docker inspect` tells it. One remote command, nothing is changed."""

from pathlib import Path

from pyinfra.api.inventory import Inventory
from pyinfra.context import ctx_host

from gpurack.host_data import not_understood
from gpurack.importing.inspect import COMMAND
from gpurack.looks import connect_error, connected
from gpurack.remote import Command, run
from gpurack.shell import by_ssh, sh

LIMIT = 120
"""Seconds for `inspect.COMMAND`; it takes less than one for a hundred containers."""


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
            raise Unreachable(connect_error(host))
        with ctx_host.use(host):
            try:
                done, output = run(host, Command(COMMAND), _timeout=LIMIT)
            except TimeoutError:
                why = f"docker inspect did not end in {LIMIT} s; try: {by_ssh(name, sh('sudo docker ps'))}."
                raise Unreachable(why) from None
            except Exception as error:
                raise Unreachable(not_understood(error)) from None
    if not done:
        raise Unreachable(f"docker says: {output.stderr.strip() or 'nothing'}.")
    return str(output.stdout)
