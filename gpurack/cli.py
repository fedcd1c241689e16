"""The `gpurack` command: what changes no host."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from gpurack.spec.model import Host
from gpurack.spec.problems import InventoryError

ERRORS, STRICT_WARNINGS = 2, 1
APPLY = "pyinfra {inventory} deploys/gpu_host.py"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpurack")
def main() -> None:
    """From bare GPU servers to models that answer: looks at inventories, changes no host."""


@main.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The plan as JSON.")
@click.option("--strict", is_flag=True, help=f"Warnings end with exit code {STRICT_WARNINGS}.")
@click.option("--compose", "compose_host", metavar="HOST", help="Print the compose.yaml that HOST would get.")
@click.option("--live", is_flag=True, help="Connect, and show what a run would change; nothing is changed.")
def plan(inventory: Path, as_json: bool, strict: bool, compose_host: str | None, live: bool) -> None:
    """Check INVENTORY and show which model sits on which card. No connection is opened (but with --live).

    Exit code 0: fine; 2: errors; 1: warnings with --strict, or a host that --live could not look at.
    """
    from gpurack import plan_view
    from gpurack.spec.fleet import read_fleet
    from gpurack.spec.load import read_inventory
    from gpurack.spec.warnings import warnings as warnings_of

    console = Console(highlight=False, soft_wrap=True)
    try:
        loaded = read_inventory(inventory)
        fleet = read_fleet(loaded)
    except InventoryError as error:
        fail(console, error, as_json)
    if compose_host:
        print_compose(fleet, compose_host)
        return
    if live:
        from gpurack.live import show_live

        sys.exit(show_live(console, loaded, fleet))
    from gpurack.plan.offline import sizes
    from gpurack.state.remembered import recall

    found = sizes(fleet, {name: recall(name) for name in fleet})
    if found.problems:
        fail(console, InventoryError(found.problems), as_json)
    warnings = warnings_of(fleet) + list(found.warnings)
    if as_json:
        click.echo(json.dumps(plan_view.as_data(fleet, found, warnings), indent=2))
    else:
        plan_view.show(console, fleet, found, warnings, applying(inventory))
    sys.exit(STRICT_WARNINGS if strict and warnings else 0)


@main.command("import")
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--host", metavar="HOST", help="Read the containers that run on HOST; SOURCE is then its inventory.")
@click.option(
    "--name", metavar="HOST", help="The host's name in what is printed. Default: that of --host, or gpu1.lab."
)
@click.option(
    "--set", "variables", multiple=True, metavar="NAME=VALUE", help="A variable that SOURCE leaves undefined."
)
@click.option("--file", "files", multiple=True, metavar="PATH=COPY", help="A copy of PATH on the host: CONFIG_FILE, …")
@click.option("--yaml", "as_yaml", is_flag=True, help="A YAML inventory instead of a Python one.")
def import_(
    source: Path | None,
    host: str | None,
    name: str | None,
    variables: tuple[str, ...],
    files: tuple[str, ...],
    as_yaml: bool,
) -> None:
    """Turn `docker run` lines, a shell snippet or a compose file into an inventory that means the same.

    SOURCE is a file, or - (the default) for standard input. What the inventory does not say, or says differently, is
    listed below it as comments. Values of secrets are never printed. Exit code 0: all said; 1: something is left for
    you to fill in or to decide; 2: nothing could be read.
    """
    from gpurack.importing import cli

    sys.exit(cli.run(source, host, name, variables, files, as_yaml))


@main.command()
def schema() -> None:
    """Print the JSON Schema of a YAML inventory, for editors."""
    from gpurack.spec.schema import inventory_schema

    click.echo(json.dumps(inventory_schema(), indent=2))


def applying(inventory: Path) -> str:
    """The command that applies an inventory; pyinfra reads YAML only through two lines of Python beside it."""
    if inventory.suffix not in (".yaml", ".yml"):
        return APPLY.format(inventory=inventory)
    python = inventory.with_suffix(".py")
    command = APPLY.format(inventory=python)
    if python.exists():
        return command
    return f'{command}, with two lines in {python}: import gpurack; globals().update(gpurack.load("{inventory.name}"))'


def fail(console: Console, error: InventoryError, as_json: bool) -> None:
    """All errors at once, exit code 2."""
    if as_json:
        click.echo(json.dumps({"hosts": {}, "errors": [vars(p) for p in error.problems], "warnings": []}, indent=2))
    else:
        for problem in error.problems:
            console.print(f"[red]error[/]  {escape(str(problem))}")
        count = len(error.problems)
        console.print(f"{count} error{'s' if count != 1 else ''}. Nothing can be applied until they are gone.")
    sys.exit(ERRORS)


def print_compose(fleet: Mapping[str, Host], name: str) -> None:
    """compose.yaml of one host as far as it is known offline: UUIDs are placeholders, secrets are not in it anyway."""
    from gpurack.plan import offline
    from gpurack.spec.problems import unknown

    if name not in fleet:
        raise click.BadParameter(unknown("host", name, list(fleet)), param_hint="--compose")
    click.echo(offline.compose_text(fleet[name]), nl=False)
