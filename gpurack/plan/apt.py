"""Steps that packages need: repository with key, versions, holds. Pure.

apt facts: `name=5:28.5.2-*` picks a version by prefix (apt-get(8)); a changed hold needs --allow-change-held-packages,
going back --allow-downgrades; DPkg::Lock::Timeout waits for dpkg's lock but not for that of the package lists.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpurack import paths
from gpurack.plan.platforms import PREREQUISITES
from gpurack.plan.steps import SetAside, Shell, Step, WriteFile
from gpurack.resources import read_text, render
from gpurack.state.model import HostState

GET = "apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
ENV = "export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C;"


def patiently(command: str) -> str:
    """`command` (a program and its arguments), again as long as a lock that others hold is why it fails: that of the
    package lists, and dpkg's own under `dpkg` and `apt-mark`, have no time-out. After a killed run its apt goes on."""
    return (
        f"tries=0; until out=$({command} 2>&1); do "
        'case "$out" in *"Could not get lock"*|*"frontend lock"*|*"database lock"*) '
        'tries=$((tries + 1)); [ $tries -le 120 ] || { echo "$out"; exit 1; }; '
        'echo "apt is busy with another installation or update; waiting"; sleep 5;; *) echo "$out"; exit 1;; esac; done'
    )


UPDATE = patiently("apt-get -q update -o Acquire::Retries=2 -o APT::Update::Error-Mode=any")


@dataclass(frozen=True)
class Repository:
    """An apt repository of ours. name: its file's. key: armored. marks: texts by which old files of it are known."""

    name: str
    uri: str
    suites: str
    components: str
    key: str
    marks: tuple[str, ...]

    @property
    def key_path(self) -> str:
        """Where its key lies."""
        return f"{paths.KEYRINGS}/gpurack-{self.name}.asc"

    @property
    def path(self) -> str:
        """Its deb822 file."""
        return f"{paths.APT_SOURCES}/gpurack-{self.name}.sources"

    @property
    def text(self) -> str:
        """The file's content."""
        return render(
            "templates/apt.sources.j2",
            uri=self.uri,
            suites=self.suites,
            components=self.components,
            key=self.key_path,
        )


def repository(repo: Repository, state: HostState) -> list[Step]:
    """What makes `repo` the host's only file for this repository."""
    steps: list[Step] = []
    key = state.files.get(repo.key_path)
    if key is None or key.text != repo.key:
        steps.append(WriteFile(f"key of the {repo.name} repository", repo.key_path, repo.key))
    for path, text in sorted(state.sources.items()):
        rest = without(text, repo.marks)
        if path == repo.path or rest == text:
            continue
        if alive(rest):
            steps.append(WriteFile(f"comment out the {repo.name} repository in {path}", path, rest))
        else:
            steps.append(SetAside(f"set aside {path}, an older file of the {repo.name} repository", path))
    if state.sources.get(repo.path) != repo.text:
        steps.append(WriteFile(f"repository {repo.uri}", repo.path, repo.text))
    return steps


def without(text: str, marks: Iterable[str]) -> str:
    """An apt source with every entry that names one of these repositories commented out: lines of a .list file,
    whole stanzas of a deb822 file. Two entries for one repository with different keys are an error to apt
    ("Conflicting values set for option Signed-By")."""
    if not re.search(r"(?m)^Types:", text):
        lines = text.splitlines(keepends=True)
        return "".join(_comment(line) if _names(line, marks) else line for line in lines)
    stanzas = re.split(r"(\n[ \t]*\n)", text)
    return "".join(
        "".join(map(_comment, stanza.splitlines(keepends=True))) if _names(stanza, marks) else stanza
        for stanza in stanzas
    )


def _names(text: str, marks: Iterable[str]) -> bool:
    return any(mark in line for line in text.splitlines() if not line.lstrip().startswith("#") for mark in marks)


def _comment(line: str) -> str:
    return line if not line.strip() or line.startswith("#") else f"# {line}"


def alive(text: str) -> bool:
    """Is there anything in an apt source that is not a comment?"""
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def no_repository(repo: Repository, state: HostState) -> list[Step]:
    """Our own file of a repository that is not used any more goes: a broken one makes apt refuse all of them."""
    if repo.path not in state.sources:
        return []
    return [Shell(f"remove {repo.path}, which is not used any more", f"rm -f {repo.path} {repo.key_path}")]


def finish_interrupted(state: HostState) -> list[Step]:
    """A killed run may have left packages half installed; dpkg and apt know how to go on."""
    if not state.audit and all(package.whole for package in state.packages.values()):
        return []
    command = f"{ENV} {patiently('dpkg --configure -a')} && {GET} -f install"
    return [Shell("finish an interrupted package installation", command, slow=True)]


def prerequisites(state: HostState) -> list[str]:
    """What we need from the distribution and the host lacks."""
    return [name for name in PREREQUISITES if not (name in state.packages and state.packages[name].whole)]


def install(reason: str, packages: Sequence[str], hold: Sequence[str] = (), refresh: bool = True) -> Step:
    """One apt-get for all `packages` (may be `name=version`), then holds; with the lists refreshed first."""
    names = " ".join(shlex.quote(package) for package in packages)
    held = " ".join(hold)
    commands = [UPDATE] if refresh else []
    commands.append(f"{GET} install --allow-downgrades --allow-change-held-packages {names}")
    if hold:
        commands.append(patiently(f"apt-mark hold {held}"))
    return Shell(reason, f"{ENV} " + " && ".join(f"{{ {command}; }}" for command in commands), slow=True)


def hold(packages: Sequence[str]) -> Step:
    """Keep packages from being upgraded by others."""
    names = " ".join(packages)
    return Shell(f"hold {', '.join(packages)}", f"{ENV} {patiently(f'apt-mark hold {names}')}")


def unhold(packages: Sequence[str]) -> Step:
    """The opposite, where the inventory has no version any more."""
    names = " ".join(packages)
    return Shell(f"no longer hold {', '.join(packages)}", f"{ENV} {patiently(f'apt-mark unhold {names}')}")


def upstream(version: str) -> str:
    """The upstream part of a Debian version.

    >>> upstream("5:28.5.2-1~debian.13~trixie"), upstream("26.1.5+dfsg1-9+b9")
    ('28.5.2', '26.1.5')
    """
    return re.split(r"[-+~]", version.split(":", 1)[-1], maxsplit=1)[0]


def installed(packages: Iterable[str], state: HostState) -> Mapping[str, str]:
    """Those of `packages` that are wholly installed → their versions."""
    found = {name: state.packages.get(name) for name in packages}
    return {name: package.version for name, package in found.items() if package and package.whole}


def vendored_key(name: str) -> str:
    """A key shipped with gpurack: "docker" or "nvidia"."""
    return read_text(f"files/keys/{name}.asc")
