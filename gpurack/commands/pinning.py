"""The verbs that keep what is on the hosts now: `lock`, `manifest` and `image save`."""

import sys
from pathlib import Path

import click

from gpurack import screen
from gpurack.commands.verbs import ERRORS, Mistake, Verb, Verbs, fail, image_argument, one_host_argument, parts_argument
from gpurack.shell import word
from gpurack.spec.problems import InventoryError


@click.command(cls=Verb)
@parts_argument
@click.option("--check", is_flag=True, help="Compare only; exit with 1 if anything drifted.")
@click.option(
    "--upgrade", is_flag=True, help="Move the pins of WHAT: docker, toolkit, images, weights or a model. Default: all."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --check only.")
def lock(words: tuple[Path, tuple[str, ...]], check: bool, upgrade: bool, as_json: bool) -> None:
    """Pin what is on the hosts now.

    Writes versions, images and weights to lab.lock.yaml beside lab.py. Later runs install exactly these.

    \b
    Example:
      gpurack lock inventories/lab.yaml
      gpurack lock inventories/lab.yaml --check

    Exit code 0: done; 1: something drifted, or a host could not be inspected; 2: errors in INVENTORY.
    """
    inventory, what = words
    if check and upgrade:
        raise click.UsageError("--check and --upgrade cannot be combined.")
    if what and not upgrade:
        command = f"gpurack lock {word(str(inventory))} {what[0]} --upgrade"
        raise Mistake([f"`{what[0]}` alone moves no pin. Add --upgrade: `{command}`."])
    if as_json and not check:
        raise click.UsageError("--json requires --check.")
    from gpurack.commands import lock

    console = screen.console(stderr=as_json, soft_wrap=True)
    try:
        if upgrade:
            sys.exit(lock.upgrade(console, inventory, what))
        sys.exit(lock.check(console, inventory, as_json) if check else lock.write(console, inventory))
    except InventoryError as error:
        fail(console, error, as_json)


@click.command(cls=Verb)
@one_host_argument
def manifest(words: tuple[Path, str]) -> None:
    """Print everything that defines HOST.

    Prints sorted lines, so that `diff` can compare hosts or days: packages, files with their sha256, units, images,
    containers and weights. Exit code 1: HOST could not be inspected.

    \b
    Example:
      gpurack manifest inventories/lab.yaml gpu1.lab > today.txt
    """
    from gpurack.commands import lock

    inventory, host = words
    try:
        screen.echo(lock.show_manifest(inventory, host), nl=False)
    except InventoryError as error:
        fail(screen.console(soft_wrap=True, stderr=True), error, as_json=False)
    except OSError as error:
        raise click.ClickException(f"{host}: {error}") from None


@click.group(cls=Verbs)
def image() -> None:
    """Copy container images between hosts.

    \b
    Example:
      gpurack image save inventories/lab.yaml gpu1.lab bge-m3 bge-m3.tar
    """


@image.command("save", cls=Verb)
@image_argument
def save_image(words: tuple[Path, str, str, str]) -> None:
    """Save an image of HOST to FILE.

    NAME is a model, a container or an image. Use the file on another host with `image: {"tar": FILE}`. Exit code 2:
    the image could not be saved.

    \b
    Example:
      gpurack image save inventories/lab.yaml gpu1.lab bge-m3 bge-m3.tar
    """
    from gpurack.commands.image_save import NotSaved, save

    inventory, host, name, file = words
    try:
        save(inventory, host, name, Path(file), lambda line: screen.echo(line, err=True))
    except NotSaved as error:
        screen.echo(f"error  {error}", err=True)
        sys.exit(ERRORS)
    except InventoryError as error:
        fail(screen.console(soft_wrap=True), error, as_json=False)
