"""The verbs `status` and `verify`: is it up, and is it right in detail?"""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from gpurack import screen
from gpurack.commands.verbs import (
    Verb,
    error_lines,
    fail,
    inventory_argument,
    json_option,
    limit_option,
    named_inventory,
    require_one_format,
    unexpected,
)
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError

if TYPE_CHECKING:
    from gpurack.commands.lab_status import HostStatus

PAUSE = 5
"""Seconds between two inspections with --watch."""
RESIZED = 0.2
"""Seconds between two looks at the size of the window."""


@click.command(cls=Verb)
@inventory_argument
@json_option
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="FILE", help="Also write an HTML page.")
@click.option("-v", "--verbose", is_flag=True, help="Also show every GPU, and every model with its address.")
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
    # Before anything moves on the screen: pyinfra brings gevent, which must find no thread of rich's.
    import_module("gpurack.commands.connect")
    from gpurack.commands import lab_status, status

    console = screen.console()
    if watch:
        watch_status(console, inventory, page, verbose)
        sys.exit(0)
    try:
        with screen.console(stderr=True).status("inspecting the hosts"):  # terminals only
            hosts, now = inspect(inventory, page)
    except InventoryError as error:
        fail(console, error, as_json)
    if as_json:
        screen.echo(screen.as_json(status.as_data(hosts)))
    else:
        status.show(console, hosts, now, verbose)
    sys.exit(0 if lab_status.is_well(hosts) else 1)


def watch_status(console: screen.Console, inventory: Path, page: Path | None, verbose: bool) -> None:
    """Show the status on a screen of its own and inspect again, until Ctrl-C; then print the last status.

    An inspection that fails does not end it: its error is shown above the last status. Without a terminal, each status
    is printed.
    """
    from gpurack.commands import status

    again = screen.line((f"Inspected again every {PAUSE} s. Ctrl-C ends it.", "dim"))
    last: list[screen.Text | screen.Table] = []
    try:
        with noticing_interrupts() as check, screen.live(console) if console.is_terminal else nullcontext() as live:
            if live:
                draw(live, screen.Page((), screen.line("inspecting the hosts …")))
            while True:
                check()
                errors: list[screen.Text] = []
                try:
                    last = list(status.parts(*inspect(inventory, page), verbose))
                except InventoryError as error:  # it may be in an editor just now
                    errors = list(error_lines(error))
                except (click.ClickException, OSError) as error:
                    errors = [screen.line(("error", "red"), f"  {error}")]
                if live:
                    draw(live, screen.Page((*errors, *last), again))
                else:
                    for part in errors or last:
                        console.print(part)
                pause(console, live, check)
    except KeyboardInterrupt:
        for part in last if console.is_terminal else ():
            console.print(part, soft_wrap=not isinstance(part, screen.Table))


@contextmanager
def noticing_interrupts() -> Iterator[Callable[[], None]]:
    """Yield a function that raises KeyboardInterrupt if there was a Ctrl-C in the block.

    Python raises it where the program is, and loses it in a finalizer or a callback of C code.
    """
    happened = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        happened.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if happened:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as in the background of a script
        yield check
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pause(console: screen.Console, live: screen.Live | None, check: Callable[[], None]) -> None:
    """Wait for the next inspection; meanwhile a window that changes its size is drawn anew."""
    if live is None:
        time.sleep(PAUSE)
        return
    ends, size = time.monotonic() + PAUSE, console.size
    while time.monotonic() < ends:
        time.sleep(RESIZED)
        check()
        if console.size != size:
            size = console.size
            draw(live)


def draw(live: screen.Live, page: screen.Page | None = None) -> None:
    """Draw a page, or the present one anew. Ctrl-C waits until that is done: it could leave rich's lock taken."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        if page:
            live.update(page)
        live.refresh()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def inspect(inventory: Path, page: Path | None) -> "tuple[list[HostStatus], datetime]":
    """Inspect the hosts and write the page. Return their status, and when. Raises InventoryError and ClickException."""
    from gpurack.commands import connect, lab_status
    from gpurack.commands import status_page as html
    from gpurack.inventory.fleet import read_fleet, require_models
    from gpurack.inventory.load import read_inventory

    loaded = read_inventory(inventory)
    fleet = require_models(read_fleet(loaded, secrets=False), inventory)
    seen = connect.snapshots(loaded, fleet, metrics=True)
    now = datetime.now(UTC)
    hosts = lab_status.lab_status(fleet, seen, now)
    if page:
        try:
            html.write_page(page, hosts, inventory.stem, now, curl_lines(fleet))
        except OSError as error:
            raise click.ClickException(f"Could not write {page}: {error.strerror}.") from None
    return hosts, now


def _with_options(
    context: click.Context, parameter: click.Parameter, words: tuple[str, ...]
) -> tuple[Path, tuple[str, ...]]:
    given = words[:1] if words and not words[0].startswith("-") else ()
    options = words[len(given) :]
    if options and not options[0].startswith("-"):
        raise unexpected(options[0], context)
    return named_inventory(context, *given), options


@click.command(context_settings={"ignore_unknown_options": True}, cls=Verb)
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="[INVENTORY] [PYTEST OPTIONS]...", callback=_with_options
)
@limit_option
@click.option("--deep", is_flag=True, help="Also read all weights and compare their sha256; takes minutes.")
@click.option("-v", "--verbose", count=True, help="Print pytest's own output instead of the table.")
def verify(words: tuple[Path, tuple[str, ...]], limit: tuple[str, ...], deep: bool, verbose: int) -> None:
    """Compare hosts with INVENTORY in detail.

    Runs the checks of gpurack.verify with pytest; they change nothing. Further options are pytest's.

    \b
    Example:
      gpurack verify inventories/lab.yaml -k "packages or holds"

    Exit code 0: everything is as INVENTORY says; 1: something is not; 2: errors in INVENTORY or usage; 4: only
    unreachable hosts; 130: interrupted.
    """
    from gpurack.commands.verify import run

    inventory, options = words
    try:
        sys.exit(run(inventory, limit, deep, verbose, options))
    except InventoryError as error:
        fail(screen.console(soft_wrap=True), error, as_json=False)


def curl_lines(fleet: Mapping[str, Host]) -> dict[str, str]:
    """Address → a curl command that tests it; at a gateway's address the one for its first model."""
    from gpurack.commands.endpoints import public_endpoints
    from gpurack.facts.remembered import recall

    found = public_endpoints(fleet, {name: recall(name, spec.lab) for name, spec in fleet.items()})
    return {one.address: one.curl for one in reversed(found) if one.curl}
