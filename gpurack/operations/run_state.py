"""`HostRun`: everything that a run remembers about a host. It is kept with pyinfra's host object.

pyinfra (3.10.0) does not cache facts, and without `-y` it runs every operation twice. So the snapshot is kept until
something changes (`outdated`). An unchanged run is one remote command for each host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from pyinfra.api import Host as PyinfraHost
from pyinfra.api import Inventory, State
from pyinfra.api.state import StateStage

from gpurack.facts.machines import Machines
from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import take_snapshot
from gpurack.operations.output import SAYS_IT_SERVES, codes_in, failure_in, reasons_of
from gpurack.plan.models.diff import Action
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.models.removal import NOTHING, Removals
from gpurack.plan.questions import questions
from gpurack.plan.steps import Finding
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

_KEY = "gpurack"
"""The key in `connector_data`. (`pyinfra.host` is a proxy, which cannot be a dictionary's key.)"""


_machines: WeakKeyDictionary[Inventory, Machines] = WeakKeyDictionary()


@dataclass
class HostRun:
    """One host in one run.

    snapshot: the last one, taken in pyinfra's stage `taken_in`. outdated: has a command changed the host since?
    connect_error: why ssh failed. refused_by: the operation that refused the host, "" if none did. users_down: user →
    why that user's rootless Docker is not ready. announced: findings that were printed. refused_now: errors printed at
    Execute. foreseen: errors known before anything is changed. serving: failures that say which container serves now.
    planned, done: entry → what will be done to it, and what was done. confirmed: did the admin confirm the plan before
    the operations were added (`gpurack apply`)? restored: entries that were down because their change failed. asked:
    operations that changed nothing, and only asked models. waited, acted: hashes of operations that waited for another
    run, and of those that changed the host. idle: does the plan that the caller made do nothing
    (`gpurack apply`)? Then no operation is added.
    unfinished: why interrupted changes could not be ended before the models were planned.
    host_changes: what the stages before the models changed, until it is in the host's history.
    phases: phase of the run → seconds. removals: what this run would remove. removals_confirmed: their number, where
    the admin gave it. refused: the plan that leaves the host alone, because removals are not confirmed.
    interrupted: did the admin end the run (Ctrl-C)?
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
    serving: list[Problem] = field(default_factory=list)
    unfinished: list[Problem] = field(default_factory=list)
    planned: dict[str, Action] = field(default_factory=dict)
    done: dict[str, Action] = field(default_factory=dict)
    confirmed: bool = False
    restored: set[str] = field(default_factory=set)
    asked: int = 0
    waited: set[str | None] = field(default_factory=set)
    acted: set[str | None] = field(default_factory=set)
    idle: bool = False
    host_changes: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    removals: Removals = NOTHING
    removals_confirmed: int | None = None
    refused: ModelsPlan | None = None
    interrupted: bool = False

    def took(self, phases: Mapping[str, float]) -> None:
        """Add the seconds of some phases."""
        for name, seconds in phases.items():
            self.phases[name] = self.phases.get(name, 0) + seconds

    def failed(self, lines: Sequence[str], code: str = "step-failed") -> None:
        """Record why a command failed, from its output. code: of failures for which its program names none."""
        spec = self.spec or Host()
        places = {name: spec.path_of(name) for name in spec.everything}
        codes = codes_in(lines)
        found = [failure_in(text, places, codes, code) for text in reasons_of(lines)]
        self.serving += [failure for failure in found if SAYS_IT_SERVES.search(failure.message)]
        self.failures += found or [Problem.of("step-killed", what="a command on the host")]

    def failure(self, path: str) -> Problem | None:
        """Return the first failure of an entry, or None."""
        return next((failure for failure in self.failures if failure.path == path), None)


def host_run(host: PyinfraHost) -> HostRun:
    """Return what this run remembers about a host."""
    run: HostRun | None = host.connector_data.get(_KEY)
    if run is None:
        run = host.connector_data[_KEY] = HostRun()
    return run


def snapshot(host: PyinfraHost, spec: Host, metrics: bool = False) -> HostFacts:
    """Return the host's facts, from an earlier snapshot or from a new one (one remote command).

    metrics: also read the models' own counters. If Prepare found changes, Execute takes a new snapshot, because minutes
    may pass at the prompt.
    """
    run, stage = host_run(host), host.state.current_stage
    run.spec = spec
    if run.snapshot is not None and not run.outdated:
        unchanged = not host.state.get_meta_for_host(host).ops_change
        if run.taken_in == stage or (run.taken_in == StateStage.Prepare and unchanged):
            return with_twin(host, run.snapshot)
    run.snapshot, run.taken_in, run.outdated = take_snapshot(host, questions(spec, metrics)), stage, False
    return with_twin(host, run.snapshot)


def with_twin(host: PyinfraHost, facts: HostFacts) -> HostFacts:
    """Return the facts with another name of the same host, if the inventory has one that was inspected already."""
    machines = _machines.setdefault(host.state.inventory, Machines())
    machines.add(host.name, facts)
    return machines.with_twin(host.name, facts)


def outdate(host: PyinfraHost) -> None:
    """Make the next `snapshot` take a new one, because a command is about to change the host."""
    run = host_run(host)
    run.outdated = run.snapshot is not None


def refresh(host: PyinfraHost) -> None:
    """Take a new snapshot for the table at the end, because no operation of this host follows."""
    run = host_run(host)
    if run.outdated and run.spec is not None:
        snapshot(host, run.spec)


def changed(state: State, host: PyinfraHost) -> bool:
    """Did any operation of this run change a host? One that only tested models, or waited for another run, did not."""
    run = host_run(host)
    only_waited = run.waited - run.acted
    done = [data.operation_meta for key, data in state.ops.get(host, {}).items() if key not in only_waited]
    return sum(meta.is_complete() and meta.did_change() for meta in done) > run.asked
