"""The command `gpurack import`. Its exit code says if anything is left to do."""

import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from gpurack import screen
from gpurack.commands.verbs import Mistake
from gpurack.importing import text as text_of
from gpurack.importing.accepted import accepted
from gpurack.importing.compose_file import NoCompose
from gpurack.importing.compose_yaml import dotenv
from gpurack.importing.fit import placed
from gpurack.importing.inspect import NoInspect
from gpurack.importing.reader import NO_DOCKER, Imported, read
from gpurack.shell import sh, word
from gpurack.spec.gpus import GPU_KINDS
from gpurack.spec.problems import Problem, grouped

ALL_SAID, LEFT_TO_DO, UNREADABLE = 0, 1, 2
HOST = "gpu1.lab"
HINTS: Mapping[type[OSError], str] = {
    FileNotFoundError: "Give an existing file, or - to read from standard input.",
    IsADirectoryError: "Give a file of it, such as compose.yaml or start.sh.",
}
"""Error of a file → what to do."""


def run(
    source: Path | None,
    host: str | None,
    name: str | None,
    variables: Sequence[str],
    files: Sequence[str],
    profiles: Sequence[str],
    hardware: Sequence[str],
    as_yaml: bool,
    as_json: bool,
) -> int:
    """Read the source and print the inventory with its findings. Returns the exit code. Raises Mistake."""
    try:
        text = from_host(host, source) if host else from_file(source)
        copies = {path: Path(copy).read_text(encoding="utf-8") for path, copy in pairs(files, "--file")}
        given = {**beside(None if host else source), **dict(pairs(variables, "--set"))}
        gpus = gpus_of(hardware)
        imported = read(text, given, copies, profiles or given.get("COMPOSE_PROFILES", "").split(","))
    except UnicodeDecodeError:
        raise Mistake([f"{called(source)}: is not UTF-8 text."]) from None
    except OSError as error:
        hint = f" {HINTS[type(error)]}" if type(error) in HINTS else ""
        raise Mistake([f"{error.filename or called(source)}: {error.strerror or error}.{hint}"]) from None
    except (NoCompose, NoInspect, Unread) as error:
        raise Mistake([f"{host or called(source)}: {error}"]) from None
    if gpus:
        imported = placed(imported, gpus)
    printed = name or host or HOST
    imported = accepted(imported, lambda data: refusals(data, printed))
    refused = grouped(refusals(imported.data, printed))
    if as_json:
        findings = [{"kind": one.kind, "where": one.where, "what": one.what} for one in imported.findings]
        data = {
            "schema": screen.SCHEMA,
            "host": printed,
            "data": imported.data,
            "unfinished": imported.refused,
            "findings": findings,
            "errors": refused,
        }
        screen.echo(screen.as_json(data))
        return exit_code(imported, refused)
    if not any([*imported.entries.values(), *imported.refused.values()]):
        screen.echo("# No services found.")
        screen.echo(text_of.comments(imported), nl=False)
        return exit_code(imported, [])
    screen.echo(text_of.as_yaml(imported, printed) if as_yaml else text_of.as_python(imported, printed))
    screen.echo(text_of.comments(imported, refused), nl=False)
    return exit_code(imported, refused)


def exit_code(imported: Imported, refused: Sequence[str]) -> int:
    """Say if anything could be read, and if anything is left to do."""
    nothing = not any([*imported.entries.values(), *imported.refused.values()])
    if nothing and all(finding.what.endswith(NO_DOCKER) for finding in imported.findings):
        return UNREADABLE
    return LEFT_TO_DO if refused or any(finding.kind == "open" for finding in imported.findings) else ALL_SAID


def called(source: Path | None) -> str:
    """The name of the source in messages."""
    return "standard input" if source is None or str(source) == "-" else str(source)


class Unread(Exception):
    """The source could not be read; the text says why."""


def from_file(source: Path | None) -> str:
    """The text of a file or of standard input. Raises Unread for an inventory, OSError, UnicodeDecodeError."""
    from gpurack.inventory.find import is_inventory
    from gpurack.inventory.load import YAML

    if source is None or str(source) == "-":
        if sys.stdin.isatty():
            screen.echo("Paste the commands, then press Ctrl-D.", err=True)
        return sys.stdin.read()
    if address := re.match(r"(https?):/+", str(source)):
        url = f"{address[1]}://{str(source)[address.end() :]}"
        raise Unread(sh("is not a file. Download it, then import the file: `curl -LO {}`.", url))
    if source.suffix in YAML and is_inventory(source):
        raise Unread(f"is an inventory already. Run `gpurack plan {word(str(source))}`.")
    return source.read_text(encoding="utf-8")


def beside(source: Path | None) -> dict[str, str]:
    """The variables of `.env` beside a compose file, as Compose reads it. Secrets stay references."""
    env = source.parent / ".env" if source and source.suffix in (".yml", ".yaml") else None
    return dotenv(env.read_text(encoding="utf-8")) if env and env.is_file() else {}


def from_host(host: str, inventory: Path | None) -> str:
    """The output of `docker inspect` for the running containers of a host. Raises Unread."""
    from gpurack.commands.import_from_host import Unreachable, inspect
    from gpurack.spec.problems import InventoryError

    try:
        return inspect(host, inventory)
    except (Unreachable, InventoryError) as error:
        raise Unread(str(error)) from None


def pairs(texts: Sequence[str], option: str) -> list[tuple[str, str]]:
    """(name, value) of each `NAME=VALUE`. Raises click.BadParameter."""
    found = [text.partition("=") for text in texts]
    for name, equals, _ in found:
        if not (name and equals):
            form = {"--file": "PATH=COPY", "--fit": "GPU=COUNT"}.get(option, "NAME=VALUE")
            raise click.BadParameter(f"expected {form}.", param_hint=option)
    return [(name, value) for name, _, value in found]


def gpus_of(texts: Sequence[str]) -> dict[str, int]:
    """The GPUs of `--fit A30=4`. Raises click.BadParameter."""
    found = {}
    for kind, count in pairs(texts, "--fit"):
        if kind not in GPU_KINDS or not re.fullmatch(r"[1-9]\d?", count):
            near = get_close_matches(kind, GPU_KINDS, 1)
            hint = f"; do you mean {near[0]}?" if near and kind not in GPU_KINDS else "."
            raise click.BadParameter(f"{kind}={count} is not a known GPU with its number, as in A30=4{hint}",
                                     param_hint="--fit")  # fmt: skip
        found[kind] = int(count)
    return found


def refusals(data: Mapping[str, Any], host: str) -> list[Problem]:
    """The errors that `gpurack plan` would report for a host with these fields."""
    from gpurack.inventory.fleet import check_fleet
    from gpurack.spec.problems import InventoryError

    try:
        check_fleet({host: [data]})
    except InventoryError as error:
        return list(error.problems)
    return []
