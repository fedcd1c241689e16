"""What a plan consists of: steps, each with its reason. gpurack/operations carries them out and decides nothing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.shell import Sh, sh
from gpurack.spec.problems import Problem, by_fault, line_of


@dataclass(frozen=True)
class Step:
    """reason: one short phrase an admin understands, printed before anything happens ("install docker-ce 28.5.2").
    user: whose rootless Docker it is for: where it fails, that user's later steps are left out and the others' done;
    "" for the host, where nothing comes after a step that failed."""

    reason: str
    user: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class WriteFile(Step):
    """The whole file, written beside its place and renamed there."""

    path: str
    content: str
    mode: str = "644"


@dataclass(frozen=True)
class WriteFiles(Step):
    """Several files as one step, in this order."""

    files: tuple[WriteFile, ...]


def written(reason: str, path: str, content: str, facts: HostFacts, mode: str = "644") -> list[Step]:
    """What makes a file of root's what it should be: nothing where the host has it, with this text and mode."""
    file = WriteFile(reason, path, content, mode)
    return [] if is_written(file, facts) else [file]


def is_written(file: WriteFile, facts: HostFacts) -> bool:
    """Does the host have a file of root's, with this text and mode?"""
    there = facts.files.get(file.path)
    return there is not None and (there.text, int(there.mode, 8), there.uid) == (file.content, int(file.mode, 8), 0)


@dataclass(frozen=True)
class SetAside(Step):
    """A file of somebody else's, moved to gpurack's backups: gone from its place, not lost."""

    path: str


@dataclass(frozen=True)
class Shell(Step):
    """A shell command as root; `slow` ones show every few seconds that they live. locks: the users whose Dockers no run
    may change meanwhile, "" for the host's own. explain: from what it printed when it
    failed to a problem with its hint, where that is known."""

    command: Sh
    slow: bool = False
    explain: Callable[[Sequence[str]], Problem | None] = lambda lines: None
    locks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folder(Step):
    """A folder for a user's Docker that root makes where nobody can lead it elsewhere (files/folders.py). kind:
    "weights", root's and closed to all others, or "data", the user's own."""

    kind: Literal["weights", "data"]
    path: str
    owner: str


def owe_restart(why: str) -> Step:
    """Docker must restart before this run or the next one ends."""
    command = sh("install -d -m 700 {} && echo restart > {}", paths.RUN, paths.RESTART_MARKER)
    return Shell(f"note that Docker must restart: {why}", command)


Kind = Literal["warning", "change", "error"]


@dataclass(frozen=True)
class Finding:
    """One line that is printed of a plan. problems: what it says, with codes; none for a plain change."""

    kind: Kind
    line: str
    problems: tuple[Problem, ...] = ()


def as_findings(kind: Kind, problems: Iterable[Problem]) -> list[Finding]:
    """Problems as findings, one for each fault."""
    return [Finding(kind, line_of(fault), fault) for fault in by_fault(problems)]


@dataclass(frozen=True)
class Plan:
    """Steps in order, and errors, which make the host fail. Steps and errors may come together.

    down: users whose rootless Docker cannot be made right → why. The models, which come next, say it, so that the
    others are served; None where nothing comes next, and all there is to say is an error.
    """

    steps: tuple[Step, ...] = ()
    errors: tuple[Problem, ...] = ()
    down: Mapping[str, Problem] | None = None

    @property
    def nothing(self) -> bool:
        """No change, no error."""
        return not (self.steps or self.errors)

    @property
    def findings(self) -> list[Finding]:
        """What is said before anything happens: by a run, `--dry` and `plan --live` alike."""
        return [*(Finding("change", step.reason) for step in self.steps), *as_findings("error", self.errors)]
