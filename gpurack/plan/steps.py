"""What a plan consists of: steps, each with its reason. gpurack/operations carries them out and decides nothing."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.screen import duration
from gpurack.shell import Sh, sh
from gpurack.spec.problems import Problem, by_fault, line_of


@dataclass(frozen=True)
class Step:
    """A step of a plan.

    reason: a short phrase for the admin, printed before anything happens ("install docker-ce 28.5.2"). user: the user
    whose rootless Docker it is for. If the step fails, that user's later steps are skipped and those of others are
    done. "" for the host: nothing comes after a step of the host that failed.
    """

    reason: str
    user: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class WriteFile(Step):
    """Write a whole file beside its place, then rename it."""

    path: str
    content: str
    mode: str = "644"


@dataclass(frozen=True)
class WriteFiles(Step):
    """Write several files in this order, as one step."""

    files: tuple[WriteFile, ...]


def written(reason: str, path: str, content: str, facts: HostFacts, mode: str = "644") -> list[Step]:
    """Return the step that writes a file of root's; none if the host has it with this text and mode."""
    file = WriteFile(reason, path, content, mode)
    return [] if is_written(file, facts) else [file]


def is_written(file: WriteFile, facts: HostFacts) -> bool:
    """Does the host have this file, owned by root, with this text and mode?"""
    there = facts.files.get(file.path)
    return there is not None and (there.text, int(there.mode, 8), there.uid) == (file.content, int(file.mode, 8), 0)


@dataclass(frozen=True)
class SetAside(Step):
    """Move a file that gpurack did not write to gpurack's backups."""

    path: str


@dataclass(frozen=True)
class Shell(Step):
    """Run a shell command as root.

    slow: does it print its progress every few seconds? Others are killed when they take too long. locks: users whose
    Dockers no other run may change meanwhile, "" for the host's own. explain: output of a failed command → sentence
    with a hint, or None.
    """

    command: Sh
    slow: bool = False
    explain: Callable[[Sequence[str]], Problem | None] = lambda lines: None
    locks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folder(Step):
    """Create a folder for a user's Docker in a way that no user can redirect (files/folders.py).

    kind: "weights" is root's and closed to all others; "data" is the user's own.
    """

    kind: Literal["weights", "data"]
    path: str
    owner: str


@dataclass(frozen=True)
class DockerRestart(Step):
    """A part of a restart of Docker that something else does (files/docker_restart.py).

    what: "record" notes on disk which containers run; "finish" starts Docker if it is down, if need be with the
    previous daemon.json, and those containers.
    """

    what: Literal["record", "finish"]


def owe_restart(why: str) -> Shell:
    """Return the step that notes that Docker must restart before this run or the next one ends."""
    command = sh("install -d -m 700 {} && echo restart > {}", paths.RUN, paths.RESTART_MARKER)
    return Shell(f"note that Docker must restart: {why}", command)


Kind = Literal["warning", "change", "removal", "error"]


@dataclass(frozen=True)
class Finding:
    """One line that is printed of a plan.

    problems: what it says, with codes; none for a plain change. entry: the model, service or job that it changes. down:
    the seconds that the entry is expected to be down for it, as far as they are known; those of several entries where
    one line is for all of them. looks_only: does nothing change, because a model is only tested?
    """

    kind: Kind
    line: str
    problems: tuple[Problem, ...] = ()
    entry: str = ""
    down: tuple[int, ...] = field(default=(), compare=False)
    looks_only: bool = field(default=False, compare=False)

    @property
    def without_entry(self) -> str:
        """The line for a screen that shows the entry in front of it.

        >>> Finding("change", "recreate alpha: version 1 → 2", entry="alpha").without_entry
        'recreate: version 1 → 2'
        """
        return self.line.replace(f" {self.entry}", "", 1) if self.entry else self.line

    @property
    def text(self) -> str:
        """The whole line, with the expected downtime."""
        return self.line + down_for(self.down)


def down_for(seconds: Collection[int]) -> str:
    """Return the expected downtime of one or several entries, for the end of a line; "" if none is known.

    >>> down_for([98]), down_for([3, 98]), down_for([])
    (' (down for about 1 min 40 s)', ' (down for up to about 1 min 40 s)', '')
    """
    if not seconds:
        return ""
    texts = [about(each) for each in sorted(set(seconds))]
    return f" (down for {'up to ' if len(set(texts)) > 1 else ''}about {texts[-1]})"


def about(seconds: int) -> str:
    """Return a time rounded up, since an estimate is no measurement.

    >>> [about(each) for each in (0, 7, 42, 98, 3900)]
    ['1 s', '7 s', '45 s', '1 min 40 s', '1 h 5 min']
    """
    if seconds < 10:
        return f"{max(1, seconds)} s"
    step = 5 if seconds < 60 else 10
    return duration(-(-seconds // step) * step)


def as_findings(kind: Kind, problems: Iterable[Problem]) -> list[Finding]:
    """Problems as findings, one for each fault."""
    return [Finding(kind, line_of(fault), fault) for fault in by_fault(problems)]


@dataclass(frozen=True)
class Plan:
    """Steps in order, and errors that make the host fail. There may be both. warnings: what the admin should know.

    down: user → why that user's rootless Docker cannot be set up. The models stage reports it, so that other users are
    served. None if the run has no models stage: then it is an error.
    """

    steps: tuple[Step, ...] = ()
    errors: tuple[Problem, ...] = ()
    down: Mapping[str, Problem] | None = None
    warnings: tuple[Problem, ...] = ()

    @property
    def nothing(self) -> bool:
        """Is there neither a change nor an error?"""
        return not (self.steps or self.errors)

    @property
    def findings(self) -> list[Finding]:
        """What is printed before anything happens: by a run, `--dry` and `plan --live` alike."""
        changes = (Finding("change", step.reason) for step in self.steps)
        return [*as_findings("warning", self.warnings), *changes, *as_findings("error", self.errors)]
