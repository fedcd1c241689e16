"""`gpurack logs`: print the log of a model's container, or of the last one that failed or was replaced."""

from pathlib import Path
from typing import Literal

from gpurack import paths, screen
from gpurack.commands.connect import connect_error, connected
from gpurack.commands.on_host import NotDone, find_entry, run_program, text_of
from gpurack.inventory.fleet import read_fleet
from gpurack.inventory.load import read_inventory
from gpurack.spec.host import Host

LIMIT = 90
"""Seconds for a log that is not followed; files/logs.py stops after 60."""
Kind = Literal["", "failed", "previous"]


def show(inventory_file: Path, place: str, kind: Kind, lines: int, follow: bool) -> None:
    """Print a log. place: HOST/MODEL. kind: "" for the log of the present container.

    Raises NotDone with a sentence, LookupError for an unknown model, spec.problems.InventoryError.
    """
    inventory = read_inventory(inventory_file)
    fleet = read_fleet(inventory, secrets=False)
    name, entry = find_entry(fleet, place)
    job = {"name": entry, "lines": lines, **source(fleet[name], entry, kind, follow)}
    host = inventory.get_host(name)
    with connected(inventory, [host]) as state:
        if host not in state.active_hosts:
            raise NotDone(f"{name}: {connect_error(host)}")
        try:
            output = run_program(host, text_of("logs", job), screen.echo, None if follow else LIMIT)
        except NotDone as error:
            raise NotDone(f"{name}: {error}") from None
    for note in filter(str.strip, output.stderr_lines):
        screen.echo(f"{entry}: {note}", err=True)


def source(spec: Host, name: str, kind: Kind, follow: bool) -> dict[str, str | bool]:
    """Return what files/logs.py prints: the user whose Docker has the model, a file or "", and whether it continues.

    Raises LookupError for what has no such log.
    """
    if name in spec.jobs:
        if kind or follow:
            option = f"--{kind}" if kind else "--follow"
            raise LookupError(f"`{name}` is a job: its output is kept without {option}.")
        return {"user": "", "file": paths.job_log(name), "follow": False}
    user = spec.entries[name].dockerd
    return {"user": user, "file": paths.kept_log(user, name, kind) if kind else "", "follow": follow}
