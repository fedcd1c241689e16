"""The edge to a host: what runs there, as `docker inspect` tells it. One remote command, nothing is changed."""

from pathlib import Path

from pyinfra.api import Config, State, StringCommand
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_host, ctx_state

from gpurack.importing.inspect import COMMAND


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
    state = State(inventory, Config())
    state.limit_hosts = [host]
    ctx_state.set(state)
    state.set_stage(StateStage.Connect)
    try:
        try:
            connect_all(state)
        except PyinfraError:  # the only host, and it is not there
            raise Unreachable(f"could not connect; try: ssh {name}.") from None
        with ctx_host.use(host):
            done, output = host.run_shell_command(StringCommand(COMMAND))
    finally:
        disconnect_all(state)
    if not done:
        raise Unreachable(f"docker says: {output.stderr.strip() or 'nothing'}.")
    return str(output.stdout)
