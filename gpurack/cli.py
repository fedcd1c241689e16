"""The `gpurack` command: what changes no host."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from gpurack import screen
from gpurack.spec.host import Host
from gpurack.spec.load import APPLY, YAML
from gpurack.spec.problems import InventoryError, NotAsked

ERRORS, STRICT_WARNINGS = 2, 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gpurack")
def main() -> None:
    """From bare GPU servers to models that answer: looks at inventories, changes no host."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for a bar, and not a traceback
    screen.protect()


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
    one_form(**{"--json": as_json, "--compose": compose_host, "--live": live})
    from gpurack import plan_view
    from gpurack.plan.pins import contradictions, unlocked
    from gpurack.spec.fleet import read_fleet
    from gpurack.spec.load import read_inventory
    from gpurack.spec.read_lock import with_lock
    from gpurack.spec.warnings import warnings as warnings_of

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
        from gpurack.live import show_live

        sys.exit(show_live(console, loaded, fleet))
    from gpurack.plan.offline import sizes
    from gpurack.state.remembered import recall

    found = sizes(fleet, {name: recall(name) for name in fleet})
    if found.problems:
        fail(console, InventoryError(found.problems), as_json)
    warnings = warnings_of(fleet) + list(found.warnings) + unlocked(fleet)
    if as_json:
        screen.echo(screen.as_json(plan_view.as_data(fleet, found, warnings)))
    else:
        plan_view.show(console, fleet, found, warnings, applying(inventory))
    sys.exit(STRICT_WARNINGS if strict and warnings else 0)


@main.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.option("--markdown", "as_markdown", is_flag=True, help="As a Markdown table, for a wiki or a mail.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def endpoints(inventory: Path, as_markdown: bool, as_json: bool) -> None:
    """What people may use: names, addresses that work from their desks, and a curl line for each. No connection is
    opened. A model behind a gateway is shown at the gateway's address; one that only its host reaches is not shown.
    """
    one_form(**{"--markdown": as_markdown, "--json": as_json})
    from gpurack import handout
    from gpurack.spec.fleet import read_fleet
    from gpurack.spec.load import read_inventory
    from gpurack.state.remembered import recall

    # Addresses are there to be copied: whole, also where a narrow terminal breaks the line itself.
    console = screen.console(width=screen.LOG)
    try:
        fleet = read_fleet(read_inventory(inventory), secrets=False)
    except InventoryError as error:
        fail(console, error, as_json)
    found = handout.offers(fleet, {name: recall(name) for name in fleet})
    if as_json:
        screen.echo(screen.as_json(handout.as_data(found)))
    elif as_markdown:
        screen.echo(handout.markdown(found), nl=False)
    else:
        handout.show(console, found)


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
@click.argument("inventory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.option(
    "--html", "page", type=click.Path(path_type=Path), metavar="FILE", help="Write a page for a browser, too."
)
def status(inventory: Path, as_json: bool, page: Path | None) -> None:
    """Look at the whole lab: hosts, cards, models. Nothing is changed.

    Exit code 0: all is well; 1: something is down, lost or out of reach (for cron); 2: errors in INVENTORY.
    """
    from datetime import UTC, datetime

    from gpurack.looks import look_at_all
    from gpurack.spec.fleet import read_fleet
    from gpurack.spec.load import read_inventory
    from gpurack.status import lab, show
    from gpurack.status import page as html

    console = screen.console()
    try:
        loaded = read_inventory(inventory)
        fleet = read_fleet(loaded, secrets=False)
    except InventoryError as error:
        fail(console, error, as_json)
    with screen.console(stderr=True).status(screen.line(f"looking at {len(fleet)} hosts")):  # only a terminal sees it
        seen = look_at_all(loaded, fleet, metrics=True)
    now = datetime.now(UTC)
    hosts = lab.lab_status(fleet, seen, now)
    if as_json:
        screen.echo(screen.as_json(show.as_data(hosts)))
    else:
        show.show(console, hosts)
    if page:
        try:
            html.write_page(page, hosts, inventory.stem, now)
        except OSError as error:
            raise click.ClickException(f"{page} cannot be written: {error.strerror}.") from None
    sys.exit(0 if lab.is_well(hosts) else 1)


@main.group()
def image() -> None:
    """Images of one host for another."""


@image.command("save")
@click.argument("inventory", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("host")
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def save_image(inventory: Path, host: str, name: str, file: Path) -> None:
    """Write the image of a model (or any container or image NAME) on HOST to FILE.

    FILE is then what `image: {"tar": FILE}` takes for another host. Nothing is changed on HOST. Exit code 2: not saved.
    """
    from gpurack.saving import NotSaved, save

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
@click.option("--check", is_flag=True, help="Write nothing; say what drifted, and end with 1 if anything did.")
@click.option(
    "--upgrade", is_flag=True, help="Move the pins of WHAT: docker, toolkit, images, weights, a model; or all."
)
def lock(inventory: Path, what: tuple[str, ...], check: bool, upgrade: bool) -> None:
    """Write down what is really on the hosts of INVENTORY, in lab.lock.yaml beside lab.py: a run installs exactly that.

    Exit code 0: done; 1: something drifted, or a host could not be looked at; 2: errors in the inventory.
    """
    if (what and not upgrade) or (check and upgrade):
        raise click.UsageError("WHAT goes with --upgrade, and --check with neither.")
    from gpurack.locking import cli

    console = screen.console(soft_wrap=True)
    try:
        if upgrade:
            sys.exit(cli.upgrade(console, inventory, what))
        sys.exit(cli.check(console, inventory) if check else cli.write(console, inventory))
    except InventoryError as error:
        fail(console, error, as_json=False)


@main.command()
@click.argument("inventory", type=click.Path(path_type=Path))
@click.argument("host")
def manifest(inventory: Path, host: str) -> None:
    """Print everything that defines HOST of INVENTORY, sorted: two hosts, or two days, differ by `diff`.

    Packages, files with their sha256, units, images, what runs and how, weights. Exit code 1: no look at it.
    """
    from gpurack.locking import cli

    try:
        screen.echo(cli.show_manifest(inventory, host), nl=False)
    except InventoryError as error:
        fail(screen.console(soft_wrap=True, stderr=True), error, as_json=False)
    except OSError as error:
        raise click.ClickException(f"{host}: {error}") from None


@main.command()
def schema() -> None:
    """Print the JSON Schema of a YAML inventory, for editors."""
    from gpurack.spec.schema import inventory_schema

    screen.echo(screen.as_json(inventory_schema()))


def applying(inventory: Path) -> str:
    """The command that applies an inventory; pyinfra reads YAML only through two lines of Python beside it."""
    python = inventory.with_suffix(".py")
    command = APPLY.format(inventory=python)
    if inventory.suffix not in YAML or python.exists():
        return command
    return f'{command}, with two lines in {python}: import gpurack; globals().update(gpurack.load("{inventory.name}"))'


def one_form(**options: object) -> None:
    """Of options that print different things only one counts; a second would be passed over in silence."""
    if len(given := [name for name, value in options.items() if value]) > 1:
        raise click.UsageError(f"{' and '.join(given)} do not go together; choose one.")


def fail(console: screen.Console, error: InventoryError, as_json: bool) -> None:
    """All errors at once, exit code 2; what stops a run says so, too."""
    if as_json:
        errors = [problem.as_data() for problem in error.problems]
        screen.echo(screen.as_json({"schema": screen.SCHEMA, "hosts": {}, "errors": errors, "warnings": []}))
    else:
        for line in error.lines:
            console.print(screen.line(("error", "red"), f"  {line}"))
        count = len(error.lines)
        if not isinstance(error, NotAsked):
            gone = "they are gone" if count != 1 else "it is gone"
            console.print(f"{count} error{'s' if count != 1 else ''}. Nothing can be applied until {gone}.")
    sys.exit(ERRORS)


def print_compose(fleet: Mapping[str, Host], name: str) -> None:
    """compose.yaml of one host as far as it is known offline: UUIDs are placeholders, secrets are not in it anyway."""
    from gpurack.plan import offline
    from gpurack.spec.problems import unknown

    if name not in fleet:
        raise click.BadParameter(unknown("host", name, list(fleet)), param_hint="--compose")
    screen.echo(offline.compose_text(fleet[name]), nl=False)
