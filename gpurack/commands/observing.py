"""The verbs `status` and `verify`: is it up, and is it right in detail?"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click

from gpurack import screen
from gpurack.commands.verbs import (
    Verb,
    fail,
    inventory_argument,
    json_option,
    limit_option,
    named_inventory,
    require_one_format,
    show_errors,
)
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError

PAUSE = 5
"""Seconds between two inspections with --watch."""


@click.command(cls=Verb)
@inventory_argument
@json_option
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="FILE", help="Also write an HTML page.")
@click.option("-v", "--verbose", is_flag=True, help="Also every GPU, and every model with its address.")
@click.option("--watch", is_flag=True, help=f"Inspect again every {PAUSE} seconds, until Ctrl-C.")
def status(inventory: Path, as_json: bool, page: Path | None, verbose: bool, watch: bool) -> None:
    """Show hosts, GPUs and models: is it up?

    \b
    Example:
      gpurack status inventories/lab.yaml
      gpurack status inventories/lab.yaml --html lab.html

    Exit code 0: all is well; 1: something is down, lost or unreachable; 2: errors in INVENTORY.
    """
    require_one_format(**{"--json": as_json, "--watch": watch})
    console = screen.console()
    if not watch:
        try:
            sys.exit(show_status(console, inventory, as_json, page, verbose))
        except InventoryError as error:
            fail(console, error, as_json)
    try:
        while True:
            try:
                show_status(console, inventory, False, page, verbose, clear=True)
            except InventoryError as error:  # it may be in an editor just now
                console.clear()
                show_errors(console, error)
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        sys.exit(0)


def show_status(
    console: screen.Console, inventory: Path, as_json: bool, page: Path | None, verbose: bool, clear: bool = False
) -> int:
    """Inspect the hosts, print their status, and write the page. Return the exit code. Raises InventoryError.

    clear: the screen, once the hosts are inspected; until then it shows what it had.
    """
    from datetime import UTC, datetime

    from gpurack.commands import lab_status, status
    from gpurack.commands import status_page as html
    from gpurack.commands.connect import snapshots
    from gpurack.inventory.fleet import read_fleet
    from gpurack.inventory.load import read_inventory

    loaded = read_inventory(inventory)
    fleet = read_fleet(loaded, secrets=False)
    with screen.console(stderr=True).status(screen.line(f"inspecting {len(fleet)} hosts")):  # terminals only
        seen = snapshots(loaded, fleet, metrics=True)
    now = datetime.now(UTC)
    hosts = lab_status.lab_status(fleet, seen, now)
    if clear:
        console.clear()
    if as_json:
        screen.echo(screen.as_json(status.as_data(hosts)))
    else:
        status.show(console, hosts, now, verbose)
    if page:
        try:
            html.write_page(page, hosts, inventory.stem, now, curl_lines(fleet))
        except OSError as error:
            raise click.ClickException(f"Could not write {page}: {error.strerror}.") from None
    return 0 if lab_status.is_well(hosts) else 1


@click.command(context_settings={"ignore_unknown_options": True}, cls=Verb)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[INVENTORY] [PYTEST OPTIONS]...")
@limit_option
@click.option("--deep", is_flag=True, help="Also read all weights and compare their sha256; takes minutes.")
@click.option("-v", "--verbose", count=True, help="pytest's own output in place of the table.")
def verify(words: tuple[str, ...], limit: tuple[str, ...], deep: bool, verbose: int) -> None:
    """Compare hosts with INVENTORY in detail.

    Runs the checks of gpurack.verify with pytest; they change nothing. Further options are pytest's.

    \b
    Example:
      gpurack verify inventories/lab.yaml -k "packages or holds"

    Exit code 0: everything is as INVENTORY says; 1: something is not; 2: errors in INVENTORY or usage; 4: only
    unreachable hosts; 130: interrupted.
    """
    from gpurack.commands.verify import run

    given = words[:1] if words and not words[0].startswith("-") else ()
    inventory = named_inventory(click.get_current_context(), *given)
    try:
        sys.exit(run(inventory, limit, deep, verbose, words[len(given) :]))
    except InventoryError as error:
        fail(screen.console(soft_wrap=True), error, as_json=False)


def curl_lines(fleet: Mapping[str, Host]) -> dict[str, str]:
    """Address → a curl command that tests it; at a gateway's address the one for its first model."""
    from gpurack.commands.endpoints import public_endpoints
    from gpurack.facts.remembered import recall

    found = public_endpoints(fleet, {name: recall(name, spec.lab) for name, spec in fleet.items()})
    return {one.address: one.curl for one in reversed(found) if one.curl}
