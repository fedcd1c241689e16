"""The verbs that only read and write inventories: `init`, `import`, `endpoints` and `schema`."""

import sys
from pathlib import Path

import click

from gpurack import screen
from gpurack.commands.verbs import Mistake, Verb, fail, inventory_argument, json_option, require_one_format
from gpurack.spec.problems import InventoryError


@click.command(cls=Verb)
@click.argument("folder", metavar="[DIR]", type=click.Path(), default=".")
@click.option("--lab", default="", metavar="NAME", help="The lab's name; without it, you are asked.")
@click.option("--host", "hosts", multiple=True, metavar="[USER@]HOST", help="A server to inspect; repeatable.")
@click.option(
    "--adopt", multiple=True, metavar="NAME", help="A running container to take over, or HOST/NAME; repeatable."
)
def init(folder: str, lab: str, hosts: tuple[str, ...], adopt: tuple[str, ...]) -> None:
    """Write a project of your own to DIR.

    Writes an inventory, pinned requirements, an example for CI and a README, and never overwrites a file. Reads the
    GPUs and the running containers of each HOST, and changes nothing there. Containers are listed; only those of
    --adopt get entries, as with gpurack import. DIR is this folder by default.

    \b
    Example:
      gpurack init my-lab
      gpurack init my-lab --lab nlp-group --host gpu1.lab --adopt qwen

    Exit code 0: written; 1: written, and an adopted container leaves something to fill in or decide; 2: nothing
    written; 4: written without a host that could not be inspected; 130: interrupted.
    """
    from gpurack.commands.apply import INTERRUPTED
    from gpurack.commands.init import run

    if not folder:  # of a variable of the shell that is not set; Path("") would be the working directory
        raise Mistake(
            ['"": is not a folder. Nothing was written. Write `gpurack init my-lab`, or `.` for this folder.']
        )

    console = screen.console(soft_wrap=True)
    try:
        sys.exit(run(console, Path(folder), lab, hosts, adopt))
    except KeyboardInterrupt:
        console.print("Interrupted. Nothing was written.")
        sys.exit(INTERRUPTED)
    except OSError as error:  # of a name that is too long, or a folder that may not be read
        if not error.filename:
            raise
        raise Mistake([f"{error.filename}: {error.strerror}. Nothing was written. Name another folder."]) from None


@click.command("import", cls=Verb)
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--host", metavar="HOST", help="Import the running containers of HOST; SOURCE is its inventory.")
@click.option("--name", metavar="HOST", help="Host name to print. Default: the value of --host, or gpu1.lab.")
@click.option("--set", "variables", multiple=True, metavar="NAME=VALUE", help="Define a variable that SOURCE uses.")
@click.option("--file", "files", multiple=True, metavar="PATH=COPY", help="A local copy of the host's PATH.")
@click.option(
    "--profile", "profiles", multiple=True, metavar="NAME", help="Also import this profile of a Compose file."
)
@click.option(
    "--fit", "hardware", multiple=True, metavar="GPU=COUNT", help="The host's GPUs: propose which model gets which."
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
    hardware: tuple[str, ...],
    as_yaml: bool,
    as_json: bool,
) -> None:
    """Convert Docker commands to an inventory.

    Reads `docker run` commands, a shell script, a Compose file, Markdown notes or output of `docker inspect`. SOURCE is
    a file, or - (the default) for standard input. Comments below the inventory list what was imported, what you decide,
    what was converted differently and what was left out. Secrets are never printed.

    \b
    Example:
      gpurack import start.sh --name gpu1.lab --yaml
      gpurack import --host gpu1.lab inventories/lab.yaml
      gpurack import notes.md --fit A30=4

    Exit code 0: complete; 1: something is left for you to fill in or decide; 2: SOURCE could not be read.
    """

    from gpurack.commands.import_ import run

    require_one_format(**{"--yaml": as_yaml, "--json": as_json})
    sys.exit(run(source, host, name, variables, files, profiles, hardware, as_yaml, as_json))


@click.command(cls=Verb)
@inventory_argument
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table, for a wiki or an email.")
@json_option
def endpoints(inventory: Path, as_markdown: bool, as_json: bool) -> None:
    """List what users can reach.

    Shows every model and web UI with its address and a curl command. Reads INVENTORY only; does not connect. A model
    behind a gateway is listed at the gateway's address. Models bound to loopback come
    last, with the ssh command that reaches them.

    \b
    Example:
      gpurack endpoints inventories/lab.yaml --markdown
    """
    require_one_format(**{"--markdown": as_markdown, "--json": as_json})
    from gpurack.commands import endpoints
    from gpurack.facts.remembered import recall
    from gpurack.inventory.fleet import read_fleet, require_models
    from gpurack.inventory.load import read_inventory

    # Addresses are copied from the screen, so they are never cut to the width of a narrow terminal.
    console = screen.console(width=screen.LOG)
    try:
        fleet = require_models(read_fleet(read_inventory(inventory), secrets=False), inventory)
    except InventoryError as error:
        fail(console, error, as_json)
    found = endpoints.public_endpoints(fleet, {name: recall(name, spec.lab) for name, spec in fleet.items()})
    if as_json:
        screen.echo(screen.as_json(endpoints.as_data(found)))
    elif as_markdown:
        screen.echo(endpoints.markdown(found), nl=False)
    else:
        endpoints.show(console, found, endpoints.on_host_only(fleet))


@click.command(cls=Verb)
def schema() -> None:
    """Print the JSON Schema of YAML inventories.

    \b
    Example:
      gpurack schema > gpurack.schema.json
      # then, in the first line of lab.yaml, for editors:
      # yaml-language-server: $schema=gpurack.schema.json
    """
    from gpurack.inventory.schema import schema_text

    screen.echo(schema_text())
