"""Everything that a run remembers of a host: `HostRun`, kept with pyinfra's host, which lives as long as the run.

pyinfra (3.10.0) does not cache facts and runs every operation twice without `-y`; so the snapshot is remembered until
something changed (`outdated`). An unchanged run is one remote command per host.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyinfra.api import Host as PyinfraHost
from pyinfra.api.state import StateStage

from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import take_snapshot
from gpurack.plan.models.diff import Action
from gpurack.plan.questions import questions
from gpurack.plan.steps import Finding
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

_KEY = "gpurack"
"""In `connector_data`. (`pyinfra.host` is a proxy, which no dictionary takes as a key.)"""


@dataclass
class HostRun:
    """One host in one run.

    snapshot: the last one, taken in pyinfra's stage `taken_in`. outdated: a command has changed the host since.
    connect_error: why ssh failed. refused_by: the operation that refused the host, "" for none. users_down: user → why
    that user's rootless Docker is not ready. announced: what was printed. refused_now: errors printed at Execute.
    foreseen: errors known before anything is changed. planned, done: entry → what will be, and what was, done to it.
    """

    spec: Host | None = None
    snapshot: HostFacts | None = None
    taken_in: StateStage | None = None
    outdated: bool = False
    connect_error: str = ""
    refused_by: str = ""
    users_down: dict[str, Problem] = field(default_factory=dict)
    announced: list[Finding] = field(default_factory=list)
    refused_now: list[str] = field(default_factory=list)
    foreseen: list[Problem] = field(default_factory=list)
    failures: list[Problem] = field(default_factory=list)
    planned: dict[str, Action] = field(default_factory=dict)
    done: dict[str, Action] = field(default_factory=dict)

    def failed(self, lines: Iterable[str]) -> None:
        """Record why a command failed, from what it printed."""
        spec = self.spec or Host()
        places = {name: spec.path_of(name) for name in spec.everything}
        self.failures += [failure_in(text, places) for text in reasons_of(lines)]

    def failure(self, path: str) -> Problem | None:
        """The first failure of the entry with this path."""
        return next((failure for failure in self.failures if failure.path == path), None)


def host_run(host: PyinfraHost) -> HostRun:
    """Return what this run remembers of a host."""
    run: HostRun = host.connector_data.setdefault(_KEY, HostRun())
    return run


def snapshot(host: PyinfraHost, spec: Host, metrics: bool = False) -> HostFacts:
    """Return the host's facts: those of an earlier snapshot, or of a new one (one remote command).

    metrics: also read the models' own counters. Execute takes a new snapshot where Prepare found changes, because
    minutes may pass at the prompt in between.
    """
    run, stage = host_run(host), host.state.current_stage
    run.spec = spec
    if run.snapshot is not None and not run.outdated:
        unchanged = not host.state.get_meta_for_host(host).ops_change
        if run.taken_in == stage or (run.taken_in == StateStage.Prepare and unchanged):
            return run.snapshot
    run.snapshot, run.taken_in, run.outdated = take_snapshot(host, questions(spec, metrics)), stage, False
    return run.snapshot


def outdate(host: PyinfraHost) -> None:
    """Make the next `snapshot` a new one, because a command is about to change the host."""
    run = host_run(host)
    run.outdated = run.snapshot is not None


def failure_in(text: str, places: Mapping[str, str]) -> Problem:
    """What a host's program said of an entry (`alpha: why`), or of the host. places: entry → its path.

    >>> [(one.path, one.what) for one in (failure_in("alpha: oh", {"alpha": "models.alpha"}), failure_in("E: no", {}))]
    [('models.alpha', 'oh'), ('', 'E: no')]
    """
    about, colon, sentence = text.partition(": ")
    if colon and about in places:
        return Problem.of("step-failed", path=places[about], what=sentence)
    return Problem.of("step-failed", what=text)


def reasons_of(lines: Iterable[str]) -> list[str]:
    """Why a command failed: lines "error …" with the quoted lines below them; else apt's own "E: …"; else the last line
    there is."""
    found = [line for line in lines if line.strip() and not line.startswith("there: ")]  # package_errors.py
    sentences: list[str] = []
    for line in found:
        if line.startswith("error "):
            sentences.append(line.removeprefix("error "))
        elif sentences and line.startswith("    | "):
            sentences[-1] += f"\n{line}"
    apt = [line for line in found if line.startswith(("E: ", "dpkg: error"))]
    return sentences or apt[:1] or found[-1:]
