"""`gpurack verify`: run the checks of gpurack.verify with pytest."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import click

from gpurack import screen
from gpurack.commands.diff import UNREACHABLE
from gpurack.commands.lab import limited
from gpurack.inventory.fleet import read_fleet, require_models
from gpurack.inventory.load import read_inventory
from gpurack.inventory.lock_file import with_lock

PARTS = ("pytest", "testinfra")
QUIET = ("-q", "-q")
"""pytest's own reporter then prints neither progress nor counts; gpurack.verify.results prints a table."""
AWAY = 64
"""The exit code of pytest, set by gpurack.verify.results, if hosts are not reached and nothing else failed."""
CODES = {0: 0, 1: 1, 2: 130, AWAY: UNREACHABLE}
"""pytest's exit code → ours: passed, failed, interrupted. All others are errors of the inventory or of usage: 2."""


def run(inventory: Path, limit: Sequence[str], deep: bool, verbosity: int, options: Sequence[str]) -> int:
    """Run pytest on the inventory's hosts and return the exit code. Raises InventoryError.

    verbosity: 0 for our table, 1 and more for pytest's own output. options: further ones, for pytest.
    """
    if any(find_spec(part) is None for part in PARTS):
        raise click.ClickException(
            "gpurack verify needs pytest and testinfra. Run: pip install pytest pytest-testinfra"
        )
    loaded = read_inventory(inventory)
    with_lock(require_models(read_fleet(loaded), inventory), inventory)
    limited(loaded, inventory, limit)
    if deep and not verbosity:
        screen.echo("Reading all weights, which takes minutes.", err=True)
    words = command(inventory, limit, deep, verbosity, options)
    return CODES.get(subprocess.run(words, check=False).returncode, 2)


def command(inventory: Path, limit: Sequence[str], deep: bool, verbosity: int, options: Sequence[str]) -> list[str]:
    """The words of pytest's command."""
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "gpurack.verify.results"]
    words += ["-v"] * verbosity if verbosity else [*QUIET, "--no-header", "--tb=no", "-rN", "--disable-warnings"]
    words += ["--pyargs", "gpurack.verify", "--inventory", str(inventory)]
    words += [word for host in limit for word in ("--limit", host)]
    return [*words, *(("-m", "deep or not deep") if deep else ()), *options]
