"""The `gpurack` command line. No command here changes a host; pyinfra and deploys/ do."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from gpurack import screen
from gpurack.inventory.load import APPLY, YAML
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError, NotAsked

ERRORS, STRICT_WARNINGS = 2, 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpurack")
def main() -> None:
    """Check an inventory of GPU servers, show what runs on them, and pin versions. No command changes a host."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # without UTF-8 a bar is shown as ?, where print would raise
    screen.protect()


@main.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--strict", is_flag=True, help=f"Exit with {STRICT_WARNINGS} on warnings.")
@click.option("--compose", "compose_host", metavar="HOST", help="Print the compose.yaml for HOST.")
@click.option("--live", is_flag=True, help="Connect to the hosts and show what a run would change.")
def plan(inventory: Path, as_json: bool, strict: bool, compose_host: str | None, live: bool) -> None:
    """Check INVENTORY and show its GPUs and models.

    Only --live connects to the hosts.

    Exit code 0: no errors; 1: warnings with --strict, or a host that --live could not inspect; 2: errors.
    """
    require_one_format(**{"--json": as_json, "--compose": compose_host})
    require_one_format(**{"--compose": compose_host, "--live": live})
    from gpurack.commands import plan_view
    from gpurack.inventory.checks.warnings import warnings as warnings_of
    from gpurack.inventory.fleet import read_fleet
    from gpurack.inventory.load import read_inventory
    from gpurack.inventory.lock_file import with_lock
    from gpurack.plan.pins import contradictions, unlocked

    console = screen.console(soft_wrap=True)
    try:
        loaded = read_inventory(inventory)
        fleet = with_lock(read_fleet(loaded), inventory)
        if problems := contradictions(fleet, inventory):
            raise InventoryError(problems)
    except InventoryError as error:
        fail(console, error, as_json)
    if compose_host:
        print_compose(fleet, compose_host)
        return
    if live:
        from gpurack.commands.plan_live import show_live

        sys.exit(show_live(console, loaded, fleet, as_json))
    from gpurack.facts.remembered import recall
    from gpurack.plan.offline import sizes

    found = sizes(fleet, {name: recall(name) for name in fleet})
    if found.problems:
        fail(console, InventoryError(found.problems), as_json)
    warnings = warnings_of(fleet) + list(found.warnings) + unlocked(fleet)
    if as_json:
        screen.echo(screen.as_json(plan_view.as_data(fleet, found, warnings)))
    else:
        plan_view.show(console, fleet, found, warnings, apply_command(inventory))
    sys.exit(STRICT_WARNINGS if strict and warnings else 0)


@main.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table, for a wiki or an email.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def endpoints(inventory: Path, as_markdown: bool, as_json: bool) -> None:
    """List what users can reach.

    Shows every model and web UI with its address and a curl command. Reads INVENTORY only; does not connect. A model
    behind a gateway is listed at the gateway's address. Models bound to loopback are not listed.
    """
    require_one_format(**{"--markdown": as_markdown, "--json": as_json})
    from gpurack.commands import endpoints
    from gpurack.facts.remembered import recall
    from gpurack.inventory.fleet import read_fleet
    from gpurack.inventory.load import read_inventory

    # Addresses are copied from the screen, so they are never cut to the width of a narrow terminal.
    console = screen.console(width=screen.LOG)
    try:
        fleet = read_fleet(read_inventory(inventory), secrets=False)
    except InventoryError as error:
        fail(console, error, as_json)
    found = endpoints.public_endpoints(fleet, {name: recall(name) for name in fleet})
    if as_json:
        screen.echo(screen.as_json(endpoints.as_data(found)))
    elif as_markdown:
        screen.echo(endpoints.markdown(found), nl=False)
    else:
        endpoints.show(console, found)


@main.command("import")
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--host", metavar="HOST", help="Import the running containers of HOST; SOURCE is its inventory.")
@click.option("--name", metavar="HOST", help="Host name to print. Default: the value of --host, or gpu1.lab.")
@click.option("--set", "variables", multiple=True, metavar="NAME=VALUE", help="Define a variable that SOURCE uses.")
@click.option("--file", "files", multiple=True, metavar="PATH=COPY", help="A local copy of the host's PATH.")
@click.option(
    "--profile", "profiles", multiple=True, metavar="NAME", help="Also import this profile of a compose file."
)
@click.option("--yaml", "as_yaml", is_flag=True, help="Print a YAML inventory instead of Python.")
@click.option("--json", "as_json", is_flag=True, help="Print the entries, findings and errors as JSON.")
def import_(
    source: Path | None,
    host: str | None,
    name: str | None,
    variables: tuple[str, ...],
    files: tuple[str, ...],
    profiles: tuple[str, ...],
    as_yaml: bool,
    as_json: bool,
) -> None:
    """Convert docker commands to an inventory.

    Reads `docker run` commands, a shell script, a compose file, Markdown notes or output of `docker inspect`. SOURCE is
    a file, or - (the default) for standard input. Comments below the inventory list what could not be converted and
    what changed. Secrets are never printed.

    Exit code 0: complete; 1: something is left for you to fill in or decide; 2: SOURCE could not be read.
    """

    from gpurack.commands.import_ import run

    require_one_format(**{"--yaml": as_yaml, "--json": as_json})
    sys.exit(run(source, host, name, variables, files, profiles, as_yaml, as_json))


@main.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="FILE", help="Also write an HTML page.")
def status(inventory: Path, as_json: bool, page: Path | None) -> None:
    """Show the state of all hosts, GPUs and models.

    Exit code 0: all is well; 1: something is down, lost or unreachable; 2: errors in INVENTORY.
    """
    from datetime import UTC, datetime

    from gpurack.commands import lab_status, status
    from gpurack.commands import status_page as html
    from gpurack.commands.connect import snapshots
    from gpurack.inventory.fleet import read_fleet
    from gpurack.inventory.load import read_inventory

    console = screen.console()
    try:
        loaded = read_inventory(inventory)
        fleet = read_fleet(loaded, secrets=False)
    except InventoryError as error:
        fail(console, error, as_json)
    with screen.console(stderr=True).status(screen.line(f"inspecting {len(fleet)} hosts")):  # terminals only
        seen = snapshots(loaded, fleet, metrics=True)
    now = datetime.now(UTC)
    hosts = lab_status.lab_status(fleet, seen, now)
    if as_json:
        screen.echo(screen.as_json(status.as_data(hosts)))
    else:
        status.show(console, hosts)
    if page:
        try:
            html.write_page(page, hosts, inventory.stem, now)
        except OSError as error:
            raise click.ClickException(f"Could not write {page}: {error.strerror}.") from None
    sys.exit(0 if lab_status.is_well(hosts) else 1)


@main.group()
def image() -> None:
    """Copy container images between hosts."""


@image.command("save")
@click.argument("inventory", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("host")
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def save_image(inventory: Path, host: str, name: str, file: Path) -> None:
    """Save an image of HOST to FILE. NAME is a model, a container or an image.

    Use the file on another host with `image: {"tar": FILE}`. Exit code 2: the image could not be saved.
    """
    from gpurack.commands.image_save import NotSaved, save

    try:
        save(inventory, host, name, file, lambda line: screen.echo(line, err=True))
    except NotSaved as error:
        screen.echo(f"error  {error}", err=True)
        sys.exit(ERRORS)
    except InventoryError as error:
        fail(screen.console(soft_wrap=True), error, as_json=False)


@main.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.argument("what", nargs=-1)
@click.option("--check", is_flag=True, help="Compare only; exit with 1 if anything drifted.")
@click.option(
    "--upgrade", is_flag=True, help="Move the pins of WHAT: docker, toolkit, images, weights or a model. Default: all."
)
def lock(inventory: Path, what: tuple[str, ...], check: bool, upgrade: bool) -> None:
    """Pin what is on the hosts now.

    Writes versions, images and weights to lab.lock.yaml beside lab.py. Later runs install exactly these.

    Exit code 0: done; 1: something drifted, or a host could not be inspected; 2: errors in INVENTORY.
    """
    if check and upgrade:
        raise click.UsageError("--check and --upgrade cannot be combined.")
    if what and not upgrade:
        raise click.UsageError("WHAT requires --upgrade.")
    from gpurack.commands import lock

    console = screen.console(soft_wrap=True)
    try:
        if upgrade:
            sys.exit(lock.upgrade(console, inventory, what))
        sys.exit(lock.check(console, inventory) if check else lock.write(console, inventory))
    except InventoryError as error:
        fail(console, error, as_json=False)


@main.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.argument("host")
def manifest(inventory: Path, host: str) -> None:
    """Print everything that defines HOST.

    Prints sorted lines, so that `diff` can compare hosts or days: packages, files with their sha256, units, images,
    containers and weights. Exit code 1: HOST could not be inspected.
    """
    from gpurack.commands import lock

    try:
        screen.echo(lock.show_manifest(inventory, host), nl=False)
    except InventoryError as error:
        fail(screen.console(soft_wrap=True, stderr=True), error, as_json=False)
    except OSError as error:
        raise click.ClickException(f"{host}: {error}") from None


@main.command()
def schema() -> None:
    """Print the JSON Schema of YAML inventories."""
    from gpurack.inventory.schema import inventory_schema

    screen.echo(screen.as_json(inventory_schema()))


def apply_command(inventory: Path) -> str:
    """The command that applies an inventory. pyinfra reads a YAML inventory only through a Python file beside it."""
    python = inventory.with_suffix(".py")
    command = APPLY.format(inventory=python)
    if inventory.suffix not in YAML or python.exists():
        return command
    return f'{command}, after writing to {python}: import gpurack; globals().update(gpurack.load("{inventory.name}"))'


def require_one_format(**options: object) -> None:
    """Refuse more than one of the options that each choose what is printed. Raises click.UsageError."""
    if len(used := [name for name, value in options.items() if value]) > 1:
        raise click.UsageError(f"{' and '.join(used)} cannot be combined. Use one.")


def fail(console: screen.Console, error: InventoryError, as_json: bool) -> None:
    """Print all errors and exit with 2."""
    if as_json:
        errors = [problem.as_data() for problem in error.problems]
        screen.echo(screen.as_json({"schema": screen.SCHEMA, "hosts": {}, "errors": errors, "warnings": []}))
    else:
        for line in error.lines:
            console.print(screen.line(("error", "red"), f"  {line}"))
        count = len(error.lines)
        if not isinstance(error, NotAsked):
            console.print(
                "1 error. Fix it before applying." if count == 1 else f"{count} errors. Fix them before applying."
            )
    sys.exit(ERRORS)


def print_compose(fleet: Mapping[str, Host], name: str) -> None:
    """Print the compose.yaml of one host, with placeholders for GPU UUIDs. It never holds secrets."""
    from gpurack.plan import offline
    from gpurack.spec.problems import unknown

    if name not in fleet:
        raise click.BadParameter(unknown("host", name, list(fleet)), param_hint="--compose")
    screen.echo(offline.compose_text(fleet[name]), nl=False)
