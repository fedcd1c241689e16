"""Packages, whatever manages them: the shape that apt.py and rpm.py share, and what is the same for both.

The row of platforms.py says which of the two modules a host gets; plan/system/docker.py, plan/system/nvidia_toolkit.py
and plan/remove.py ask that module and know no family.
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
"""A package's name (Debian policy 5.6.1; rpm's are alike). Another could be an option or a pattern to apt and dnf."""


@dataclass(frozen=True)
class Repository:
    """A repository of ours. name: that of its files. url: upstream's base or the mirror's. place: where below it, in
    the family's own words. key: armored. marks: texts by which older files of it are known. direct: reached without the
    inventory's proxy."""

    name: str
    url: str
    place: str
    key: str
    marks: tuple[str, ...]
    direct: bool = False


@dataclass(frozen=True)
class Pin:
    """The version a package shall have: upstream's ("28.5.2", any packaging of it), or `exact`, as the package manager
    spells it ("5:28.5.2-1~debian.13~trixie", "3:28.5.2-1.el9")."""

    version: str
    exact: bool = False

    def met_by(self, installed: str) -> bool:
        """Is an installed version (in full) this one?"""
        return self.version == (installed if self.exact else upstream(installed))


class Packages(Protocol):
    """What a family's module does. Versions of `install` come by name, None: the newest, or whatever is there."""

    REMOVE: str
    """The command a person types to remove a package; {program} in it: state.manager.program."""

    def repository_path(self, repo: Repository) -> str:
        """Its file on the host."""

    def key_path(self, repo: Repository) -> str:
        """Where its key lies."""

    def repository(self, repo: Repository, facts: HostFacts) -> list[Step]:
        """What makes `repo` the host's only file for this repository."""

    def no_repository(self, repo: Repository, facts: HostFacts) -> list[Step]:
        """What takes our own file of a repository away that is not used any more."""

    def finish_interrupted(self, facts: HostFacts) -> list[Step]:
        """What a killed run left half installed, finished."""

    def prerequisites(self, facts: HostFacts) -> list[str]:
        """What we need from the distribution and the host lacks."""

    def install(
        self, reason: str, packages: Mapping[str, Pin | None], facts: HostFacts, hold: Sequence[str] = ()
    ) -> Step:
        """All `packages` in one transaction, up or down to their versions, then `hold` held."""

    def hold(self, names: Sequence[str], facts: HostFacts) -> Step:
        """Keep packages from being upgraded by others."""

    def unhold(self, names: Sequence[str], facts: HostFacts) -> Step:
        """The opposite, where the inventory has no version any more."""

    def proxy(self, proxy: Proxy | None, facts: HostFacts) -> list[Step]:
        """The way out for the package manager, whoever calls it; None: no proxy of ours any more."""

    def available(self, names: Sequence[str], facts: HostFacts) -> Sh:
        """A command that prints `name version` of all that the repositories have now, the newest first."""

    def remove(self, names: Sequence[str], facts: HostFacts) -> Step:
        """Packages away, held or not; configuration and data stay."""


def only_file(
    repo: Repository,
    path: str,
    text: str,
    facts: HostFacts,
    without: Callable[[str, Iterable[str]], str],
    alive: Callable[[str], bool],
) -> list[Step]:
    """What makes `path`, with this text, the host's only file with this repository. without: a file's text with the
    entries of such marks commented out; one that is not alive then is set aside."""
    steps: list[Step] = []
    for other, file in sorted(facts.sources.items()):
        rest = without(file.text, repo.marks)
        if other == path or rest == file.text:
            continue
        if alive(rest):
            steps.append(WriteFile(f"comment out the {repo.name} repository in {other}", other, rest, file.mode))
        else:
            steps.append(SetAside(f"set aside {other}, an older file of the {repo.name} repository", other))
    return steps + written(f"repository {repo.url}/{repo.place.split()[0]}", path, text, facts)


def upstream(version: str) -> str:
    """The upstream part of a package's version.

    >>> upstream("5:28.5.2-1~debian.13~trixie"), upstream("26.1.5+dfsg1-9+b9"), upstream("3:28.5.2-1.el9")
    ('28.5.2', '26.1.5', '28.5.2')
    """
    return re.split(r"[-+~]", version.split(":", 1)[-1], maxsplit=1)[0]


def move(old: str, pin: Pin) -> str:
    """From an installed version to another, for people; in full where upstream's part is the same.

    >>> move("3:26.1.5-1.el9", Pin("28.5.2")), move("1.20.0-1", Pin("1.20.0-2", exact=True))
    ('26.1.5 → 28.5.2', '1.20.0-1 → 1.20.0-2')
    """
    before, after = upstream(old), upstream(pin.version)
    return f"{before} → {after}" if before != after else f"{old} → {pin.version}"


def installed(packages: Iterable[str], facts: HostFacts) -> Mapping[str, str]:
    """Those of `packages` that are wholly installed → their versions."""
    found = {name: facts.packages.get(name) for name in packages}
    return {name: package.version for name, package in found.items() if package and package.whole}


def mirrored(spec: Host, what: str, upstream_url: str, vendored: str) -> tuple[str, str]:
    """(base URL, armored key) of a repository: the inventory's mirror `what`, or upstream with the key that is shipped
    in files/keys."""
    mirror = spec.mirrors.get(what)
    key = mirror.read_key() if mirror else None
    return (mirror.url if mirror else upstream_url).rstrip("/"), key or read_text(f"files/keys/{vendored}.asc")
