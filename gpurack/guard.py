"""What must be said before any deploy file is loaded; called from a pyinfra project's config.py.

pyinfra (3.10.0) loads a deploy file once per host. With no hosts it never does, prints an empty table and exits with 0,
so a misspelled group, or a dict where pyinfra wants a list, would look like a success.
"""

from typing import Any

from pyinfra.api import Config, Inventory, State
from pyinfra.context import ctx_state
from pyinfra_cli import cli
from pyinfra_cli.exceptions import CliError

from gpurack.spec.problems import InventoryError, Problem

NO_HOSTS = Problem(
    "",
    "",
    "it has no hosts. Write them as a list at the top of the inventory file, as in inventories/demo.py; "
    "pyinfra reads lists and silently ignores a dict there.",
)


def explain_a_missing_terminal() -> None:
    """Without -y pyinfra waits for Enter; where nobody can press it, it ends in a traceback of its own."""
    confirm = cli._do_confirm

    def asked(message: str) -> Any:
        try:
            return confirm(message)
        except EOFError:
            raise CliError(
                "nobody can confirm, because there is no terminal; nothing was changed. "
                "Run with -y to go ahead, or with --dry to only look."
            ) from None

    cli._do_confirm = asked


def refuse_empty_inventories() -> None:
    """From now on a run on an inventory without hosts ends with a sentence and exit code 1."""
    state: State = ctx_state.get()
    begin = state.init

    def init(inventory: Inventory, config: Config | None, initial_limit: Any = None) -> Any:
        if not len(inventory):
            raise InventoryError([NO_HOSTS])
        begin(inventory, config, initial_limit=initial_limit)

    state.init = init  # type: ignore[method-assign]
