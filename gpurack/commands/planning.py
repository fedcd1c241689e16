"""The verbs `plan`, `diff` and `apply`: what is possible, what would change, and doing it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from gpurack import screen
from gpurack.commands.verbs import (
    Verb,
    apply_flags,
    fail,
    fail_on_change,
    inventory_argument,
    json_option,
    limit_option,
    require_one_format,
)
from gpurack.inventory.load import apply_command
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError

STRICT_WARNINGS = 1


@click.command(cls=Verb)
@inventory_argument
@json_option
@click.option("--strict", is_flag=True, help=f"Exit with {STRICT_WARNINGS} on warnings.")
@click.option("--compose", "compose_host", metavar="HOST", help="Print the compose.yaml for HOST.")
@click.option("--live", is_flag=True, help="The same as gpurack diff.")
@fail_on_change
def plan(
    inventory: Path, as_json: bool, strict: bool, compose_host: str | None, live: bool, fail_on_change: bool
) -> None:
    """Check INVENTORY, show GPUs and models.

    Does not connect to hosts, except with --live.

    \b
    Example:
      gpurack plan inventories/lab.yaml

    Exit code 0: no errors; 1: warnings with --strict; 2: errors. With --live, as gpurack diff.
    """
    require_one_format(**{"--json": as_json, "--compose": compose_host})
    require_one_format(**{"--compose": compose_host, "--live": live})
    if live:
        show_diff(inventory, (), as_json, fail_on_change)
    from gpurack.commands import plan_view
    from gpurack.commands.lab import read_lab
    from gpurack.inventory.checks.ssh_fields import passwords_in
    from gpurack.inventory.checks.warnings import warnings as warnings_of
    from gpurack.plan.pins import unlocked

    console = screen.console(soft_wrap=True)
    try:
        lab = read_lab(inventory)
    except InventoryError as error:
        fail(console, error, as_json)
    fleet = lab.fleet
    if compose_host:
        print_compose(fleet, compose_host)
        return
    from gpurack.facts.remembered import recall
    from gpurack.plan.offline import sizes

    found = sizes(fleet, {name: recall(name, spec.lab) for name, spec in fleet.items()})
    if found.problems:
        fail(console, InventoryError(found.problems), as_json)
    passwords = passwords_in(
        inventory.read_text("utf-8"), inventory.name, {h.name: h.data.dict() for h in lab.inventory}
    )
    warnings = passwords + warnings_of(fleet) + list(found.warnings) + unlocked(fleet)
    if as_json:
        screen.echo(screen.as_json(plan_view.as_data(fleet, found, warnings)))
    else:
        plan_view.show(console, fleet, found, warnings, apply_command(inventory))
    sys.exit(STRICT_WARNINGS if strict and warnings else 0)


@click.command(cls=Verb)
@inventory_argument
@limit_option
@json_option
@fail_on_change
def diff(inventory: Path, limit: tuple[str, ...], as_json: bool, fail_on_change: bool) -> None:
    """Show what apply would change.

    Connects to the hosts and changes nothing. `gpurack plan --live` and `gpurack apply --dry` are the same.

    \b
    Example:
      gpurack diff inventories/lab.yaml --limit gpu1.lab

    Exit code 0: no errors; 1: errors on a host; 2: errors in INVENTORY; 3: something would change, with
    --fail-on-change; 4: only unreachable hosts.
    """
    show_diff(inventory, limit, as_json, fail_on_change)


@click.command(cls=Verb)
@inventory_argument
@limit_option
@click.option("-y", "--yes", is_flag=True, help="Apply without asking.")
@click.option("--dry", is_flag=True, help="The same as gpurack diff.")
@click.option("-v", "--verbose", is_flag=True, help="Print the lines of pyinfra also.")
@json_option
@fail_on_change
@apply_flags
def apply(
    inventory: Path,
    limit: tuple[str, ...],
    yes: bool,
    dry: bool,
    verbose: bool,
    as_json: bool,
    fail_on_change: bool,
    **given: Any,
) -> None:
    """Change the hosts to match INVENTORY.

    Shows what changes, asks, and carries it out. Whatever already matches stays unchanged.

    \b
    Example:
      gpurack apply inventories/lab.yaml --limit gpu1.lab

    Exit code 0: done, or nothing to do; 1: something failed; 2: errors in INVENTORY, or no terminal to ask at; 3: with
    --dry and --fail-on-change, something would change; 4: only unreachable hosts; 130: interrupted.
    """
    from gpurack.commands.apply import Apply, data_of, require_terminal
    from gpurack.commands.lab import read_lab

    data = data_of(given)
    if dry:
        show_diff(inventory, limit, as_json, fail_on_change, data)
    if fail_on_change:
        raise click.UsageError("--fail-on-change requires --dry.")
    console = screen.console(stderr=as_json, soft_wrap=True)
    try:
        lab = read_lab(inventory, limit, data)
    except InventoryError as error:
        fail(console, error, as_json)
    require_terminal(yes or given["prepare"])
    sys.exit(Apply(console, lab, yes, as_json, verbose).run())


def show_diff(
    inventory: Path, limit: tuple[str, ...], as_json: bool, fail_on_change: bool, data: Mapping[str, str] | None = None
) -> NoReturn:
    """`gpurack diff`: print what a run would change, and exit."""
    from gpurack.commands.diff import diff
    from gpurack.commands.lab import read_lab

    console = screen.console(soft_wrap=True)
    try:
        lab = read_lab(inventory, limit, data)
    except InventoryError as error:
        fail(console, error, as_json)
    sys.exit(diff(console, lab, as_json=as_json, fail_on_change=fail_on_change))


def print_compose(fleet: Mapping[str, Host], name: str) -> None:
    """Print the compose.yaml of one host, with placeholders for GPU UUIDs. It never holds secrets."""
    from gpurack.plan import offline
    from gpurack.spec.problems import unknown

    if name not in fleet:
        raise click.BadParameter(unknown("host", name, list(fleet)), param_hint="--compose")
    screen.echo(offline.compose_text(fleet[name]), nl=False)
