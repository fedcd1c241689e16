"""The table at the end of a run: what happened to each model. Printed when pyinfra disconnects.

It is not an operation, because pyinfra prints no results at all if its last host failed, and the table must name that
host. SSH is closed by then, so everything in it was seen before (pyinfra 3.10.0).
"""

import time
from dataclasses import dataclass, field

from pyinfra.api import Host as PyinfraHost
from pyinfra.api import State
from pyinfra.api.state import BaseStateCallback, StateStage

from gpurack import paths, screen
from gpurack.engines.urls import endpoint, loopback_note
from gpurack.facts.model import HostFacts
from gpurack.host_data import not_understood
from gpurack.inventory.fleet import Fleet
from gpurack.operations.run_state import HostRun, host_run
from gpurack.plan.models import weights
from gpurack.plan.models.computing import on_the_cpu
from gpurack.plan.models.diff import Action
from gpurack.plan.models.health import Health, failing, health
from gpurack.plan.models.jobs import desire_job, due
from gpurack.plan.models.neighbours import unreached
from gpurack.plan.models.slots import gpus_text
from gpurack.plan.models.stopped import described, stop_of
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, grouped, line_of

LONG = 40
"""Rows of the longest table that lists everything. A longer one lists only what needs attention or was changed."""
QUIET = ("ready", "done", "disabled")
"""States of what a long table leaves out."""
SEEN = (Action.CHECK, Action.WAIT)
"""Actions that change nothing."""
STYLES = {"ready": "green", "done": "green", "disabled": "dim", "removed": "dim"} | {
    "maintenance": "yellow", "held": "yellow", "stopped": "yellow",
}  # fmt: skip


@dataclass
class Report(BaseStateCallback):
    """Prints the content of every `HostRun` once, when the last host is disconnected.

    removing: the run removes models.
    """

    fleet: Fleet
    removing: bool = False
    begun: float = field(default_factory=time.monotonic)
    printed: bool = False

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
        rows = everything if len(everything) <= LONG else [row for row in everything if row[-1] not in QUIET]
        if rows:
            table = screen.table("HOST", "MODEL", "ENGINE", "GPU", "ENDPOINT", "STATE")
            for row in rows:
                style = next((style for word, style in STYLES.items() if row[-1].startswith(word)), "red")
                table.add_row(*row[:-1], screen.line((row[-1], style)))
            console.print()
            console.print(table)
            if note := loopback_note((row[0], row[4]) for row in rows):
                console.print(screen.line((note, "dim")), soft_wrap=True)
        if quiet := len(everything) - len(rows):
            console.print(f"{quiet} more are ready, done or disabled; --limit HOST lists those of a host.")
        for name, run in sorted(runs.items()):
            for line in grouped(run.failures):
                console.print(screen.line(("error", "red"), " ", (name, "bold"), f" {line}"), soft_wrap=True)
        console.print(self.summary(state))

    def rows(self, state: State, name: str) -> list[tuple[str, ...]]:
        """Return the rows of one host. A host that failed before its models were inspected has one row."""
        if self.left_out(state, name):
            return []
        host, spec = state.inventory.get_host(name), self.fleet[name]
        if spec.maintenance:  # in a project without gpurack's config.py, which leaves the host out
            return [(name, "-", "", "", "", f"maintenance: {spec.maintenance}")]
        run = host_run(host)
        if run.snapshot is None or run.snapshot.trouble:
            why = (
                "not inspected: the run stopped before"
                if host.connected
                else run.connect_error or "Could not connect, see above"
            )
            return [(name, "-", "", "", "", f"FAILED: {line_of(run.failures[:1]) if run.failures else why}")]
        dry = state.current_stage < StateStage.Execute
        models = [self.row(name, model, spec, run, dry) for model in spec.entries]
        return models + [job_row(name, job, spec, run, dry) for job in spec.jobs]

    def left_out(self, state: State, name: str) -> bool:
        """Is the host excluded from this run (`--limit`, `--exclude`)?"""
        return state.limit_hosts is not None and state.inventory.get_host(name) not in state.limit_hosts

    def row(self, host: str, name: str, spec: Host, run: HostRun, dry: bool) -> tuple[str, ...]:
        """Return the row of a model or service. dry: nothing is changed."""
        entry = spec.entries[name]
        text = self.state_of(name, spec, run)
        if name in run.planned and dry and not text.startswith("FAILED"):
            # GPU and endpoint are the inventory's. The running container may still have others.
            text += f", to be {run.planned[name].outcome}"
        url = endpoint(host, spec, entry) if entry.enabled else ""
        gpus = gpus_text(entry).strip("[]") or ("CPU" if name in spec.models else "")
        return (host, name, f"{entry.engine} {entry.version or 'image'}", gpus, url, text)

    def state_of(self, name: str, spec: Host, run: HostRun) -> str:
        """Return `ready, recreated` · `disabled` · `FAILED: why` · `not running`."""
        try:
            return self._state_of(name, spec, run)
        except Exception as error:
            return f"FAILED: {not_understood(error)}"

    def _state_of(self, name: str, spec: Host, run: HostRun) -> str:
        seen = run.snapshot or HostFacts()
        if not spec.entries[name].enabled:
            return "disabled"
        now = health(name, spec.entries[name], seen)
        if failure := run.failure(spec.path_of(name)):
            text = failed(failure)
            known = now == Health.READY and not run.outdated and " serves" not in text
            return f"{text.rstrip('.')}, the previous one serves" if known else text
        if self.removing and run.done.get(name) == Action.REMOVE:
            return "removed"
        if run.outdated and run.failures:  # a command failed, and the host could not be inspected since
            return "unknown"
        if now == Health.READY:
            if name in on_the_cpu(spec, seen):
                return "DEGRADED: computes on the CPU, not on its GPUs"
            without = (f"without {other}" for other in unreached(name, spec, seen))
            return ", ".join(["ready", *([run.done[name].outcome] if name in run.done else []), *without])
        if by := stop_of(name, spec.entries[name], seen):
            return described(by, seen).message.rstrip(".")
        # An error of the whole host also explains why this model does not run.
        entries = [spec.path_of(other) for other in spec.everything]
        if stopped := next((failure for failure in run.failures if failure.path not in entries), None):
            return failed(stopped)
        container = seen.container(name, spec.entries[name].dockerd)
        if container is None:
            return "no container"
        if now == Health.FAILED and (problem := failing(name, spec.entries[name], seen)):
            return problem.message.rstrip(".")
        return f"not running ({container.status})" if now == Health.STOPPED else "does not answer"

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
                answered += bool(run.snapshot and entry.enabled and self.answers(model, spec, run))
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
        begun = [name for name, run in runs.items() if run.outdated and not run.failures]
        if begun and not self.touched(state):
            names = ", ".join(begun)
            return (
                f"Interrupted. What {names} began to change is finished or undone there. Run again to see the result."
            )
        done = [f"{changes} changed"] * bool(changes) + [f"{back} failed and restored"] * bool(back)
        changed = ", ".join(done) or ("hosts changed" if self.touched(state) else "nothing changed")
        return f"{answered} of {enabled} {self.noun()} answered, {changed}. {total} operations, {seconds:.1f} s."

    def noun(self) -> str:
        """Return the plural noun for what is counted."""
        return "models and services" if any(host.services for host in self.fleet.values()) else "models"

    def touched(self, state: State) -> bool:
        """Did any operation change anything?"""
        changing = sum(
            data.operation_meta.is_complete() and data.operation_meta.did_change()
            for operations in state.ops.values()
            for data in operations.values()
        )
        return changing > sum(host_run(state.inventory.get_host(name)).asked for name in self.fleet)

    def answers(self, name: str, spec: Host, run: HostRun) -> bool:
        """Does an entry serve now, as before a change that failed or after it?"""
        ready = health(name, spec.entries[name], run.snapshot or HostFacts()) == Health.READY
        return ready and self.state_of(name, spec, run) != "unknown"


def job_row(host: str, name: str, spec: Host, run: HostRun, dry: bool) -> tuple[str, ...]:
    """Return the row of a job. Its endpoint column shows the path of its result. dry: nothing is changed."""
    job = spec.jobs[name]
    gpus = gpus_text(job).strip("[]") or "CPU"
    result = weights.result_path(spec, name) or paths.job_log(name)
    if not job.enabled:
        text = "disabled"
    elif failure := run.failure(spec.path_of(name)):
        text = failed(failure)
    elif why := due(desire_job(name, spec), run.snapshot or HostFacts()):
        text = f"to be run: {why}" if dry else f"not done: {why}"
    else:
        text = ", ".join(["done", *([run.done[name].outcome] if name in run.done else [])])
    return (host, name, f"{job.engine} {job.version or 'image'}", gpus, result, text)


def failed(failure: Problem) -> str:
    """Return a failure's first line for the table."""
    return f"FAILED: {failure.message}".split("\n")[0]
