"""The table at the end of a run: what happened to each model. Printed when pyinfra disconnects.

It is not an operation, because pyinfra prints no results at all if its last host failed, and the table must name that
host. SSH is closed by then, so everything in it was seen before (pyinfra 3.10.0).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from pyinfra.api import Host as PyinfraHost
from pyinfra.api import State
from pyinfra.api.state import BaseStateCallback, StateStage

from gpurack import paths, screen
from gpurack.engines.urls import endpoint, loopback_note
from gpurack.inventory.fleet import Fleet
from gpurack.operations.entry_state import Condition, EntryState, entry_state, job_state
from gpurack.operations.phases import slowest
from gpurack.operations.run_state import HostRun, changed, host_run, refresh
from gpurack.plan.models.diff import Action
from gpurack.plan.models.jobs import desire_job
from gpurack.plan.models.slots import gpus_text
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import grouped, line_of

LONG = 40
"""Rows of the longest table that lists everything. A longer one lists only what needs attention or was changed."""
SEEN = (Action.CHECK, Action.WAIT)
"""Actions that change nothing."""
STYLES = dict.fromkeys((Condition.READY, Condition.DONE), "green") | {
    Condition.DISABLED: "dim", Condition.REMOVED: "dim",
    Condition.MAINTENANCE: "yellow", Condition.HELD: "yellow", Condition.STOPPED: "yellow", Condition.LOADING: "yellow",
}  # fmt: skip
"""The others are red."""


@dataclass(frozen=True)
class Row:
    """A row of the table. name: of the entry, "-" for a host that failed before its entries were inspected."""

    host: str
    name: str
    engine: str
    gpus: str
    endpoint: str
    state: EntryState

    @classmethod
    def of_host(cls, host: str, condition: Condition, text: str) -> Self:
        """Return the only row of a host."""
        return cls(host, "-", "", "", "", EntryState(condition, text))


@dataclass
class Report(BaseStateCallback):
    """Prints the content of every `HostRun` once, when the last host is disconnected.

    removing: the run removes models.
    """

    fleet: Fleet
    removing: bool = False
    begun: float = field(default_factory=time.monotonic)
    printed: bool = False

    def operation_host_success(  # type: ignore[override]
        self, state: State, host: PyinfraHost, op_hash: str, retry_count: int = 0
    ) -> None:
        """Inspect a host again that its last operation changed, while it is connected.

        Called by pyinfra after each operation on a host. The runner's calls do that themselves.
        """
        # pyinfra also notes operations with `_run_once` that another host carries out
        mine = (each for each in reversed(host.op_hash_order) if each in state.ops[host])
        if next(mine, None) == op_hash:
            refresh(host)

    def host_disconnect(self, state: State, host: PyinfraHost) -> None:  # type: ignore[override]
        """Called by pyinfra for every host at the end of the run."""
        if not self.printed:
            self.printed = True
            self.show(state)

    def show(self, state: State) -> None:
        """Print the table and the closing line to standard error, like all that pyinfra prints."""
        runs = {name: host_run(state.inventory.get_host(name)) for name in self.fleet}
        if state.current_stage < StateStage.Execute:
            for run in runs.values():
                run.failures = run.foreseen
        elif self.removing:
            for name, run in runs.items():
                if not self.left_out(state, name) and not run.failures:
                    run.done = dict.fromkeys(self.fleet[name].entries, Action.REMOVE)
        console = screen.console(stderr=True)
        everything = [row for name in sorted(self.fleet) for row in self.rows(state, name)]
        rows = everything if len(everything) <= LONG else [row for row in everything if not row.state.quiet]
        if rows:
            table = screen.table("HOST", "MODEL", "ENGINE", "GPU", "ENDPOINT", "STATE")
            for row in rows:
                text = screen.line((row.state.text, STYLES.get(row.state.condition, "red")))
                table.add_row(row.host, row.name, row.engine, row.gpus, row.endpoint, text)
            console.print()
            console.print(table)
            if note := loopback_note((row.host, row.endpoint) for row in rows):
                console.print(screen.line((note, "dim")), soft_wrap=True)
        if quiet := len(everything) - len(rows):
            console.print(f"{quiet} more are ready, done or disabled; --limit HOST lists those of a host.")
        for name, words in slowest({name: run.phases for name, run in runs.items()}).items():
            console.print(screen.line((name, "bold"), f" took {words}"), soft_wrap=True)
        for name, run in sorted(runs.items()):
            for line in grouped(run.failures):
                console.print(screen.line(("error", "red"), " ", (name, "bold"), f" {line}"), soft_wrap=True)
        console.print(self.summary(state))

    def rows(self, state: State, name: str) -> list[Row]:
        """Return the rows of one host. A host that failed before its models were inspected has one row."""
        if self.left_out(state, name):
            return []
        host, spec = state.inventory.get_host(name), self.fleet[name]
        if spec.maintenance:  # in a project without gpurack's config.py, which leaves the host out
            return [Row.of_host(name, Condition.MAINTENANCE, f"maintenance: {spec.maintenance}")]
        run = host_run(host)
        if run.snapshot is None or run.snapshot.trouble:
            why = (
                "not inspected: the run stopped before"
                if host.connected
                else run.connect_error or "Could not connect, see above"
            )
            text = f"FAILED: {line_of(run.failures[:1]) if run.failures else why}"
            return [Row.of_host(name, Condition.FAILED, text)]
        dry = state.current_stage < StateStage.Execute
        models = [self.row(name, model, spec, run, dry) for model in spec.entries]
        return models + [job_row(name, job, spec, run, dry) for job in spec.jobs]

    def left_out(self, state: State, name: str) -> bool:
        """Is the host excluded from this run (`--limit`, `--exclude`)?"""
        return state.limit_hosts is not None and state.inventory.get_host(name) not in state.limit_hosts

    def row(self, host: str, name: str, spec: Host, run: HostRun, dry: bool) -> Row:
        """Return the row of a model or service. dry: nothing is changed."""
        entry = spec.entries[name]
        state = entry_state(name, spec, run, self.removing)
        if (action := run.planned.get(name)) and dry and state.condition != Condition.FAILED:
            # GPU and endpoint are the inventory's. The running container may still have others.
            more = "" if action == Action.WAIT else f", to be {action.outcome}"
            state = replace(state, text=f"{state.text}{more}", changed=True)
        url = endpoint(host, spec, entry) if entry.enabled else ""
        gpus = gpus_text(entry).strip("[]") or ("CPU" if name in spec.models else "")
        return Row(host, name, f"{entry.engine} {entry.version or 'image'}", gpus, url, state)

    def summary(self, state: State) -> str:
        """Return `13 of 13 models answered, 1 changed, 12.3 s.`"""
        enabled = answered = everything = 0
        runs: dict[str, HostRun] = {}
        for name, spec in self.fleet.items():
            if self.left_out(state, name) or spec.maintenance:
                continue
            run = host_run(state.inventory.get_host(name))
            runs[name] = run
            everything += len(spec.entries)
            for model, entry in spec.entries.items():
                enabled += entry.enabled
                answered += bool(run.snapshot and entry_state(model, spec, run, self.removing).serves)
        if self.removing and state.current_stage >= StateStage.Execute:
            gone = sum(len(run.done) for run in runs.values())
            changed = "hosts changed" if self.touched(state) else "nothing changed"
            return f"{gone} of {everything} {self.noun()} removed, {changed}."
        changes = sum(action not in SEEN for run in runs.values() for action in run.done.values())
        back = sum(len(run.restored - run.done.keys()) for run in runs.values())
        total = sum(results.success_ops for results in state.results.values())
        seconds = time.monotonic() - self.begun
        if state.current_stage < StateStage.Execute:
            return f"Nothing was changed. {answered} of {enabled} {self.noun()} answer now."
        begun = [name for name, run in runs.items() if run.interrupted and run.outdated and not run.failures]
        if begun:
            return f"Interrupted. {continues(begun)}"
        done = [f"{changes} changed"] * bool(changes) + [f"{back} failed and restored"] * bool(back)
        changed = ", ".join(done) or ("hosts changed" if self.touched(state) else "nothing changed")
        return f"{answered} of {enabled} {self.noun()} answered, {changed}. {total} operations, {seconds:.1f} s."

    def noun(self) -> str:
        """Return the plural noun for what is counted."""
        return "models and services" if any(host.services for host in self.fleet.values()) else "models"

    def touched(self, state: State) -> bool:
        """Did any operation change anything?"""
        return any(changed(state, state.inventory.get_host(name)) for name in self.fleet)


def job_row(host: str, name: str, spec: Host, run: HostRun, dry: bool) -> Row:
    """Return the row of a job. Its endpoint column shows the path of its result. dry: nothing is changed."""
    job = spec.jobs[name]
    gpus = gpus_text(job).strip("[]") or "CPU"
    result = desire_job(name, spec).result or paths.job_log(name)
    return Row(host, name, f"{job.engine} {job.version or 'image'}", gpus, result, job_state(name, spec, run, dry))


def continues(hosts: Sequence[str], inventory: str = "") -> str:
    """Return what is known of hosts that a run began to change when it was interrupted.

    >>> continues(["gpu1"], "lab.yaml")
    'What gpu1 began is finished or undone there. What its models do now is not known here: gpurack status lab.yaml'
    """
    whose = "its" if len(hosts) == 1 else "their"
    command = sh("gpurack status {}", inventory) if inventory else "gpurack status"
    return (
        f"What {', '.join(hosts)} began is finished or undone there. "
        f"What {whose} models do now is not known here: {command}"
    )
