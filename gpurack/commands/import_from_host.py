"""Read the running containers of a host by one `docker inspect` command, which changes nothing."""

from pathlib import Path

from pyinfra.api import Host
from pyinfra.api.inventory import Inventory
from pyinfra.context import ctx_host

from gpurack.commands.connect import connect_error, connected
from gpurack.host_data import not_understood
from gpurack.importing.inspect import COMMAND
from gpurack.remote import Command, run
from gpurack.shell import by_ssh, sh

LIMIT = 120
"""Seconds for `inspect.COMMAND`, which takes less than one for a hundred containers."""


class Unreachable(Exception):
    """The containers could not be read; the text says why."""


def inspect(name: str, inventory_file: Path | None) -> str:
    """The output of `inspect.COMMAND` on a host. inventory_file: has its ssh settings; None means ~/.ssh/config.

    Raises Unreachable, spec.problems.InventoryError.
    """
    from gpurack.inventory.load import read_inventory

    inventory = read_inventory(inventory_file) if inventory_file else Inventory(([name], {}))
    host = inventory.get_host(name, default=None)
    if host is None:
        raise Unreachable(f"is not in {inventory_file}.")
    with connected(inventory, [host]) as state:
        if host not in state.active_hosts:
            raise Unreachable(connect_error(host))
        return inspect_connected(host)


def inspect_connected(host: Host) -> str:
    """The output of `inspect.COMMAND` on a host with a connection. Raises Unreachable."""
    with ctx_host.use(host):
        try:
            done, output = run(host, Command(COMMAND), _timeout=LIMIT)
        except TimeoutError:
            why = f"docker inspect did not finish in {LIMIT} s. Try `{by_ssh(host.name, sh('sudo docker ps'))}`."
            raise Unreachable(why) from None
        except Exception as error:
            raise Unreachable(not_understood(error)) from None
    if not done:
        raise Unreachable(f"docker failed: {output.stderr.strip() or 'no output'}.")
    return str(output.stdout)
