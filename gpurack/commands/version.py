"""`gpurack --version`: the version, and the commit where it is known, because commits share a version."""

from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import click

import gpurack
from gpurack import screen
from gpurack.host_data import json_from_host
from gpurack.inventory.origin import clone, uncommitted

SHOWN = 12
"""Characters of a commit that are printed."""


def version_line(number: str, commit: str, changed: bool = False) -> str:
    """What `gpurack --version` prints. commit: "" if unknown. changed: the clone has changes that no commit has.

    >>> version_line("0.1.0", "5e7fc9f0" * 5), version_line("0.1.0", "")
    ('gpurack, version 0.1.0, commit 5e7fc9f05e7f', 'gpurack, version 0.1.0')
    >>> version_line("0.1.0", "5e7fc9f0" * 5, changed=True)
    'gpurack, version 0.1.0, commit 5e7fc9f05e7f and uncommitted changes'
    """
    more = " and uncommitted changes" if changed else ""
    return f"gpurack, version {number}" + (f", commit {commit[:SHOWN]}{more}" if commit else "")


def running_commit(direct_url: str, folder: Path) -> tuple[str, bool]:
    """Return (commit, has the clone other changes?) of the gpurack that runs; ("", False) if unknown.

    direct_url: direct_url.json of the installed distribution (PEP 610), "" for none. folder: that of the package.
    """
    if commit := json_from_host(direct_url or "{}").get("vcs_info", {}).get("commit_id"):
        return str(commit), False
    top, commit = clone(folder)
    if not top or Path(top) != folder.resolve():  # an installed package, in a project that has its own commits
        return "", False
    return commit, uncommitted(folder)


def print_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    """Print the version and end, if it is asked for."""
    if not asked or ctx.resilient_parsing:
        return
    try:
        direct_url = distribution("gpurack").read_text("direct_url.json") or ""
    except PackageNotFoundError:
        direct_url = ""
    try:
        number = version("gpurack")
    except PackageNotFoundError:  # a clone that is not installed
        number = gpurack.__version__
    commit, changed = running_commit(direct_url, Path(gpurack.__file__).parents[1])
    screen.echo(version_line(number, commit, changed))
    ctx.exit()
