"""Packages with any package manager: the interface of apt.py and rpm.py, and what both share.

A row of platforms.py names the module for a host. plan/system/docker.py, plan/system/nvidia_toolkit.py and
plan/remove.py call that module and do not depend on the family.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpurack.facts.model import HostFacts
from gpurack.plan.steps import SetAside, Step, WriteFile, written
from gpurack.resources import read_text
from gpurack.shell import Sh
from gpurack.spec.host import Host
from gpurack.spec.network import Proxy

NAME = r"[A-Za-z0-9_][A-Za-z0-9+._-]*"
"""A package's name (Debian policy 5.6.1; rpm's are similar).

Other texts could be options or patterns of apt and dnf.
"""


@dataclass(frozen=True)
class Repository:
    """A repository of ours.

    name: of its files. url: upstream's base or the mirror's. place: its location below that, in the family's own
    format. key: armored. marks: texts that identify older files of it. direct: is it reached without the inventory's
    proxy?
    """

    name: str
    url: str
    place: str
    key: str
    marks: tuple[str, ...]
    direct: bool = False


@dataclass(frozen=True)
class Pin:
    """The version that a package must have.

    Either upstream's ("28.5.2", in any packaging), or `exact`, as the package manager writes it
    ("5:28.5.2-1~debian.13~trixie", "3:28.5.2-1.el9").
    """

    version: str
    exact: bool = False

    def met_by(self, installed: str) -> bool:
        """Is an installed version (in full) this one?"""
        return self.version == (installed if self.exact else upstream(installed))


class Packages(Protocol):
    """The functions of a family's module.

    `install` maps a name to its version. None: the newest, or any installed one.
    """

    REMOVE: str
    """The command by which an admin removes a package. {program} in it: facts.manager.program."""

    def repository_path(self, repo: Repository) -> str:
        """Return its file on the host."""

    def key_path(self, repo: Repository) -> str:
        """Return the path of its key."""

    def repository(self, repo: Repository, facts: HostFacts) -> list[Step]:
        """Return the steps that make our file the host's only one for this repository."""

    def listed_as(self, repo: Repository, facts: HostFacts) -> str:
        """Return how the host's package lists name a repository; "" if they do not name it, or not for certain."""

    def no_repository(self, repo: Repository, facts: HostFacts) -> list[Step]:
        """Return the steps that remove our file of a repository that is no longer used."""

    def finish_interrupted(self, facts: HostFacts) -> list[Step]:
        """Return the steps that complete what a killed run left half installed."""

    def prerequisites(self, facts: HostFacts) -> list[str]:
        """Return the packages of the distribution that we need and the host lacks."""

    def install(
        self,
        reason: str,
        packages: Mapping[str, Pin | None],
        facts: HostFacts,
        hold: Sequence[str] = (),
        before: Sequence[Sh] = (),
    ) -> Step:
        """Return the step that installs all packages in one transaction, then holds `hold`.

        It upgrades or downgrades to the given versions. before: commands between the update of the lists and the
        transaction.
        """

    def hold(self, names: Sequence[str], facts: HostFacts) -> Step:
        """Return the step that prevents upgrades of packages by others."""

    def unhold(self, names: Sequence[str], facts: HostFacts) -> Step:
        """Return the step that releases packages, if the inventory no longer pins a version."""

    def proxy(self, proxy: Proxy | None, facts: HostFacts) -> list[Step]:
        """Return the steps for the package manager's proxy, whoever calls it. None: remove ours."""

    def available(self, names: Sequence[str], facts: HostFacts) -> Sh:
        """Return a command that prints `name version` of all versions in the repositories, newest first."""

    def remove(self, names: Sequence[str], facts: HostFacts) -> Step:
        """Return the step that removes packages, held or not. Configuration and data stay."""


def only_file(
    repo: Repository,
    path: str,
    text: str,
    facts: HostFacts,
    without: Callable[[str, Iterable[str]], str],
    has_entries: Callable[[str], bool],
) -> list[Step]:
    """Return the steps that make `path`, with this text, the host's only file with this repository.

    without: returns a file's text with the entries of such marks commented out. A file for which has_entries is then
    false is moved to our backups.
    """
    steps: list[Step] = []
    for other, file in sorted(facts.sources.items()):
        rest = without(file.text, repo.marks)
        if other == path or rest == file.text:
            continue
        if has_entries(rest):
            steps.append(WriteFile(f"comment out the {repo.name} repository in {other}", other, rest, file.mode))
        else:
            steps.append(SetAside(f"set aside {other}, an older file of the {repo.name} repository", other))
    return steps + written(f"repository {repo.url}/{repo.place.split()[0]}", path, text, facts)


def upstream(version: str) -> str:
    """Return the upstream part of a package's version.

    >>> upstream("5:28.5.2-1~debian.13~trixie"), upstream("26.1.5+dfsg1-9+b9"), upstream("3:28.5.2-1.el9")
    ('28.5.2', '26.1.5', '28.5.2')
    """
    return re.split(r"[-+~]", version.split(":", 1)[-1], maxsplit=1)[0]


def move(old: str, pin: Pin) -> str:
    """Return the change of an installed version for messages; in full if upstream's part is the same.

    >>> move("3:26.1.5-1.el9", Pin("28.5.2")), move("1.20.0-1", Pin("1.20.0-2", exact=True))
    ('26.1.5 → 28.5.2', '1.20.0-1 → 1.20.0-2')
    """
    before, after = upstream(old), upstream(pin.version)
    return f"{before} → {after}" if before != after else f"{old} → {pin.version}"


def installed(packages: Iterable[str], facts: HostFacts) -> Mapping[str, str]:
    """Return those of `packages` that are completely installed → their versions."""
    found = {name: facts.packages.get(name) for name in packages}
    return {name: package.version for name, package in found.items() if package and package.whole}


def mirrored(spec: Host, what: str, upstream_url: str, vendored: str) -> tuple[str, str]:
    """Return (base URL, armored key) of a repository: the inventory's mirror `what`, or upstream.

    Upstream's key is shipped in files/keys.
    """
    mirror = spec.mirrors.get(what)
    key = mirror.read_key() if mirror else None
    return (mirror.url if mirror else upstream_url).rstrip("/"), key or read_text(f"files/keys/{vendored}.asc")
