"""Where an inventory comes from: who applies it, and which commit of which clone. Asks git on this machine."""

import getpass
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from gpurack.once import once
from gpurack.plan.models.ownership import Claim, Origin

ACTOR = "GPURACK_ACTOR"
"""The environment variable that names the person, where all admins (or a CI job) share one account."""
PATIENCE = 10
"""Seconds that git may take."""
LONGEST = 100
NEW_FILES = ("*.py", "*.yaml", "*.yml")
"""The files of an inventory: itself, its group_data and its lock."""


def claim(
    lab: str | None,
    inventory: Path | None,
    recorded: Iterable[str],
    take_over: bool = False,
    allowed: int | None = None,
) -> Claim:
    """Return what a run may do with the models of a host. recorded: the commits that they were applied from."""
    return Claim(origin(lab, inventory), missing(inventory, recorded), take_over, allowed)


def origin(lab: str | None, inventory: Path | None) -> Origin:
    """Return who applies an inventory, and from what. inventory: its file, None if unknown."""
    top, commit = clone(inventory.parent.resolve()) if inventory else ("", "")
    if not inventory or not top:
        return Origin(lab or "", actor())
    place = os.path.relpath(inventory.resolve(), top)
    return Origin(lab or "", actor(), commit, place, uncommitted(inventory.parent.resolve()))


def actor() -> str:
    """Return the person who runs this: $GPURACK_ACTOR, or the login name; "" if unknown."""
    try:
        name = os.environ.get(ACTOR) or getpass.getuser()
    except (OSError, KeyError):
        return ""
    return "".join(letter for letter in name if letter.isprintable())[:LONGEST]


def missing(inventory: Path | None, commits: Iterable[str]) -> frozenset[str]:
    """Return the commits that are not in the history of what is checked out where the inventory is."""
    folder = inventory.parent.resolve() if inventory else None
    return frozenset(commit for commit in commits if not (folder and contains(folder, commit)))


@once
def clone(folder: Path) -> tuple[str, str]:
    """Return (top folder, commit) of the clone that a folder is in; ("", "") if it is in none."""
    said = git(folder, "rev-parse", "--show-toplevel", "HEAD")
    lines = said.stdout.split("\n") if said and not said.returncode else []
    return (lines[0], lines[1]) if len(lines) > 1 and re.fullmatch("[0-9a-f]{40,64}", lines[1]) else ("", "")


@once
def uncommitted(folder: Path) -> bool:
    """Does the clone of an inventory's folder have changes that no commit has?

    Those are changes of any file that git knows, and new files below the folder that an inventory may consist of.
    False if git fails.
    """
    asked = (
        ("status", "--porcelain", "--untracked-files=no"),
        ("ls-files", "--others", "--exclude-standard", "--", *NEW_FILES),
    )
    said = (git(folder, *words) for words in asked)
    return any(one is not None and not one.returncode and bool(one.stdout) for one in said)


@once
def contains(folder: Path, commit: str) -> bool:
    """Is a commit in the history of what is checked out?"""
    if not re.fullmatch("[0-9a-f]{7,64}", commit):
        return False
    said = git(folder, "merge-base", "--is-ancestor", commit, "HEAD")
    return said is not None and said.returncode == 0


def git(folder: Path, *words: str) -> "subprocess.CompletedProcess[str] | None":
    """Run git in a folder. None if it is not installed or hangs."""
    try:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
