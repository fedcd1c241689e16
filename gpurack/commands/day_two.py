"""The arguments of the verbs for a lab that runs: `logs`, `stop`, `start`, `restart`, `history`, `prune`, `rollback`.

Each imports its work when called.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpurack import screen
from gpurack.commands.verbs import (
    Verb,
    fail,
    host_argument,
    inventory_argument,
    json_option,
    limit_option,
    place_argument,
)
from gpurack.spec.problems import InventoryError, NotAsked, Problem

if TYPE_CHECKING:
    from gpurack.commands.stopping import OneModel

FAILED, WRONG, INTERRUPTED = 1, 2, 130
LONGEST = 200
"""Characters of the reason of a hold."""
Place = tuple[Path, str]
"""An inventory, and HOST/MODEL."""


def failed(sentence: object, code: int) -> None:
    """Print an error on stderr and exit."""
    screen.echo(f"error  {sentence}", err=True)
    sys.exit(code)


@contextmanager
def errors_printed(as_json: bool = False) -> Iterator[None]:
    """Print an error of the block and exit: of a host, an unknown model, or the inventory (as_json: that as JSON)."""
    from gpurack.commands.on_host import NotDone

    try:
        yield
    except NotDone as error:
        failed(error, FAILED)
    except LookupError as error:
        failed(error, WRONG)
    except InventoryError as error:
        if as_json:
            fail(screen.console(), error, as_json)
        for line in error.lines:
            screen.echo(f"error  {line}", err=True)
        sys.exit(WRONG)


@click.command(cls=Verb)
@place_argument
@click.option("--failed", "of_failed", is_flag=True, help="The log of the last container that failed.")
@click.option("--previous", is_flag=True, help="The log of the last container that was replaced.")
@click.option("--follow", "-f", is_flag=True, help="Continue with new lines. End with Ctrl-C.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    metavar="N",
    help="How many of the last lines.",
)
def logs(words: Place, of_failed: bool, previous: bool, follow: bool, lines: int) -> None:
    """Print the log of a model, without known secrets.

    \b
    Example:
      gpurack logs inventories/lab.yaml gpu1.lab/bge-m3 --follow
      gpurack logs inventories/lab.yaml gpu1.lab/bge-m3 --failed

    Logs of containers that failed or were replaced are kept for 14 days (the last 1 MiB of the last one each).

    Exit code 0: printed; 1: the host cannot be reached, or has no such log; 2: unknown model, errors in INVENTORY.
    """
    if of_failed + previous + follow > 1:
        raise click.UsageError("--failed, --previous and --follow cannot be combined. Use one.")
    from gpurack.commands.logs import show

    with errors_printed():
        try:
            show(*words, "failed" if of_failed else "previous" if previous else "", lines, follow)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.command(cls=Verb)
@place_argument
@click.option("--hold", metavar="REASON", help="Keep it stopped until `gpurack start`, also after runs.")
def stop(words: Place, hold: str | None) -> None:
    """Stop a model until the next run, also after reboots.

    \b
    Example:
      gpurack stop inventories/lab.yaml gpu1.lab/bge-m3
      gpurack stop inventories/lab.yaml gpu1.lab/bge-m3 --hold "GPU 1 is replaced"

    Its GPUs stay reserved for it. `status`, `diff` and `apply` show who stopped it, when and why, and do not fail
    because of it. All other models stay as they are.

    Exit code 0: stopped; 1: the host cannot be reached, or has no such container; 2: unknown model, errors in
    INVENTORY.
    """
    reason = None if hold is None else "".join(letter for letter in hold if letter.isprintable()).strip()[:LONGEST]
    if reason == "":
        raise click.UsageError("--hold needs a reason, for those who see the model stopped.")
    with one_model(words, secrets=False) as model:
        sys.exit(model.stop(reason))


@click.command(cls=Verb)
@place_argument
def start(words: Place) -> None:
    """Start a model that was stopped or held.

    \b
    Example:
      gpurack start inventories/lab.yaml gpu1.lab/bge-m3

    Waits until it is ready and has answered a test request. If its entry was changed meanwhile, it is recreated as the
    inventory says. All other models stay as they are.

    Exit code 0: it answers, or ran already; 1: not possible, or it failed; 2: unknown model, errors in INVENTORY.
    """
    with one_model(words) as model:
        sys.exit(model.start("start"))


@click.command(cls=Verb)
@place_argument
def restart(words: Place) -> None:
    """Restart the container of a model.

    \b
    Example:
      gpurack restart inventories/lab.yaml gpu1.lab/bge-m3

    Waits until it is ready and has answered a test request, and says how long it was down. A model whose entry differs
    from its container is not restarted: apply the inventory. All other models stay as they are.

    Exit code 0: it answers; 1: not possible, or it failed; 2: unknown model, errors in INVENTORY.
    """
    with one_model(words) as model:
        sys.exit(model.start("restart"))


@contextmanager
def one_model(words: Place, secrets: bool = True) -> Iterator["OneModel"]:
    """The model that the arguments name. secrets: are their values needed? Errors of the block are printed."""
    from gpurack.commands.lab import read_lab
    from gpurack.commands.stopping import OneModel

    inventory, place = words
    with errors_printed():
        try:
            yield OneModel(screen.console(soft_wrap=True), read_lab(inventory, secrets=secrets), place)
        except KeyboardInterrupt:
            failed("interrupted. What the host began is finished or undone there: gpurack status.", INTERRUPTED)


@click.command(cls=Verb)
@host_argument
@json_option
def history(words: tuple[Path, tuple[str, ...]], as_json: bool) -> None:
    """Show who changed what, when, from which commit.

    \b
    Example:
      gpurack history inventories/lab.yaml
      gpurack history inventories/lab.yaml gpu1.lab --json

    Each host keeps the last 200 runs that changed a model or failed there, for root only: by `apply`, `rollback`,
    `stop`, `start`, `restart`. The name is that of your account; GPURACK_ACTOR sets another, as in CI.

    Exit code 0: shown; 1: a host cannot be reached; 2: unknown host, errors in INVENTORY.
    """
    from gpurack.commands.history import history as show_history
    from gpurack.commands.lab import limited, read_lab

    inventory, hosts = words
    with errors_printed(as_json):
        lab = read_lab(inventory, secrets=False)
        try:
            lab = replace(lab, limit=limited(lab.inventory, inventory, hosts))
        except NotAsked:  # its words are those of --limit
            raise NotAsked([Problem.unknown("unknown-host", hosts[0], list(lab.fleet))]) from None
        sys.exit(show_history(screen.console(soft_wrap=True), lab, as_json))


@click.command(cls=Verb)
@inventory_argument
@limit_option
@click.option("--yes", "-y", is_flag=True, help="Remove what is listed.")
@json_option
def prune(inventory: Path, limit: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """List unused images, weights and files on the hosts.

    \b
    Example:
      gpurack prune inventories/lab.yaml          lists, and removes nothing
      gpurack prune inventories/lab.yaml --yes    removes

    Only what gpurack put there: images that its runs pulled, loaded or built, fetched weights, files of removed
    containers, leftovers of builds, anonymous volumes of containers that it removed. What a rollback needs stays.
    Weights on a network file system are listed, never removed.

    Exit code 0: done; 1: a host could not be asked, or something not removed; 2: errors in INVENTORY.
    """
    from gpurack.commands.lab import read_lab
    from gpurack.commands.prune import prune as prune_hosts

    with errors_printed(as_json):
        sys.exit(prune_hosts(screen.console(soft_wrap=True), read_lab(inventory, limit, secrets=False), yes, as_json))


@click.command(cls=Verb)
@place_argument
@click.option("--to", "number", type=click.IntRange(1), metavar="N", help="Number N of --list.")
@click.option("--list", "only_list", is_flag=True, help="List the definitions that can be restored.")
@click.option("--with-data", is_flag=True, help="Also restore its database of that version (Open WebUI).")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rollback(words: Place, number: int | None, only_list: bool, with_data: bool, yes: bool) -> None:
    """Restore an earlier definition of a model.

    \b
    Example:
      gpurack rollback inventories/lab.yaml gpu1.lab/bge-m3 --list
      gpurack rollback inventories/lab.yaml gpu1.lab/bge-m3

    The host keeps the last three definitions of a model that were ready. Without --to, the newest that differs from the
    present one is restored, with today's keys. All other models stay unchanged. Prints the edit for the inventory;
    until you make it, the next run undoes the rollback.

    The database of an Open WebUI is copied before its version changes. --with-data restores the newest copy that was in
    use with the older version, without what was written since. The present database is kept as a copy.

    Exit code 0: done; 1: not possible, or it failed; 2: unknown model, errors in INVENTORY, no terminal and no -y.
    """
    from gpurack.commands.lab import read_lab
    from gpurack.commands.rollback import Rollback
    from gpurack.plan.models.rollback import NotPossible

    inventory, place = words
    with errors_printed():
        try:
            lab = read_lab(inventory)
            called = Rollback(screen.console(soft_wrap=True), lab, place, number, yes, with_data)
            sys.exit(called.run(only_list))
        except KeyboardInterrupt:
            failed("interrupted. What the host began is finished or undone there: gpurack status.", INTERRUPTED)
        except NotPossible as error:
            failed(f"{place}: {error}", FAILED)
