"""What became of each model: the table at the end of a run, printed when pyinfra disconnects.

It is not an operation: pyinfra prints no results at all when its last host failed, and this table must name that host.
SSH is closed by then, so everything shown was seen before (facts of pyinfra 3.10.0).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyinfra.api import Host, State
from pyinfra.api.state import BaseStateCallback, StateStage

from gpurack import paths, screen
from gpurack.endpoints import endpoint
from gpurack.host_data import not_understood
from gpurack.plan import ledger, weights
from gpurack.plan.jobs import desire_job, due
from gpurack.plan.neighbours import unreached
from gpurack.spec import host as spec
from gpurack.spec.fleet import Fleet
from gpurack.state.model import HostState
from gpurack.state.snapshot import is_forgotten, last_look

CONNECT_ERROR = "gpurack connect error"
"""Key in pyinfra's host data: why it could not be reached (gpurack/guard.py)."""
STYLES = {"ready": "green", "done": "green", "disabled": "dim", "removed": "dim"}


@dataclass
class Report(BaseStateCallback):
    """Collects while the run goes on; `host_disconnect` prints once, after the last host."""

    fleet: Fleet = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    foreseen: dict[str, list[str]] = field(default_factory=dict)
    done: dict[str, dict[str, str]] = field(default_factory=dict)
    planned: dict[str, dict[str, str]] = field(default_factory=dict)
    removing: bool = False
    begun: float = field(default_factory=time.monotonic)
    printed: bool = False

    def attach(self, state: State, fleet: Fleet) -> None:
        """Once per run, from the deploy code."""
        if self not in state.callback_handlers:
            self.fleet = fleet
            state.add_callback_handler(self)

    def failed(self, host: str, lines: Iterable[str]) -> None:
        """Remembers why a host failed, from what its command printed."""
        self.errors.setdefault(host, []).extend(reasons_of(lines))

    def announced(self, host: str, sentences: Iterable[str]) -> None:
        """Remembers errors known before anything is done; they are all there is to say when nothing is done."""
        self.foreseen.setdefault(host, []).extend(sentences)

    def has_failed(self, host: str, model: str) -> bool:
        """Is there an error of this model?"""
        return any(text.startswith(f"{model}: ") for text in self.errors.get(host, []))

    def changed(self, host: str, model: str, action: str) -> None:
        """Remembers what a run did to a model: created, recreated, started."""
        self.done.setdefault(host, {})[model] = action

    def foretold(self, host: str, model: str, action: str) -> None:
        """Remembers what a run would do to a model, for one that ends before it does: `ready, to be recreated`."""
        self.planned.setdefault(host, {})[model] = action

    def host_disconnect(self, state: State, host: Host) -> None:  # type: ignore[override]
        """The end of the run, called for every host."""
        if not self.printed:
            self.printed = True
            self.show(state)

    def show(self, state: State) -> None:
        """The table and the closing line, on standard error like all that pyinfra prints."""
        if state.current_stage < StateStage.Execute:
            self.errors = self.foreseen
        elif self.removing:
            for name in self.fleet:
                if not self.left_out(state, name) and not self.errors.get(name):
                    self.done[name] = dict.fromkeys(self.fleet[name].entries, "removed")
        console = screen.console(stderr=True)
        rows = [row for name in sorted(self.fleet) for row in self.rows(state, name)]
        if rows:
            table = screen.table("HOST", "MODEL", "ENGINE", "GPU", "ENDPOINT", "STATE")
            for row in rows:
                style = next((style for word, style in STYLES.items() if row[-1].startswith(word)), "red")
                table.add_row(*row[:-1], screen.line((row[-1], style)))
            console.print()
            console.print(table)
        for name, sentences in sorted(self.errors.items()):
            for sentence in dict.fromkeys(sentences):
                console.print(screen.line(("error", "red"), " ", (name, "bold"), f" {sentence}"), soft_wrap=True)
        console.print(self.summary(state))

    def rows(self, state: State, name: str) -> list[tuple[str, ...]]:
        """The lines of one host; a host that failed before its models were looked at has one line."""
        host = state.inventory.get_host(name)
        if self.left_out(state, name):
            return []
        seen = last_look(host)
        if seen is None or seen.trouble:
            unreached = host.connector_data.get(CONNECT_ERROR, "Could not connect, see above")
            why = self.errors.get(name) or (["stopped before it"] if host.connected else [unreached])
            return [(name, "-", "", "", "", f"FAILED: {why[0]}")]
        wanted = self.fleet[name]
        models = [self.row(state, name, model, wanted, seen) for model in wanted.entries]
        return models + [self.job_row(state, name, job, wanted, seen) for job in wanted.jobs]

    def left_out(self, state: State, name: str) -> bool:
        """Is the host not part of this run (`--limit`, `--exclude`)?"""
        return state.limit_hosts is not None and state.inventory.get_host(name) not in state.limit_hosts

    def row(self, state: State, name: str, model: str, wanted: spec.Host, seen: HostState) -> tuple[str, ...]:
        """One model."""
        entry = wanted.entries[model]
        version = entry.version or "image"
        url = endpoint(name, wanted, entry) if entry.enabled else ""
        gpus = ledger.gpus_text(entry).strip("[]") or ("CPU" if model in wanted.models else "")
        text = self.state_of(name, model, wanted, seen)
        action = self.planned.get(name, {}).get(model)
        if action and state.current_stage < StateStage.Execute and not text.startswith("FAILED"):
            # GPU and endpoint are the inventory's, not (yet) those of what runs there
            text += f", to be {action}"
        return (name, model, f"{entry.engine} {version}", gpus, url, text)

    def job_row(self, state: State, name: str, job: str, wanted: spec.Host, seen: HostState) -> tuple[str, ...]:
        """One job; in the place of an endpoint stands where its result lies."""
        entry = wanted.jobs[job]
        gpus = ledger.gpus_text(entry).strip("[]") or "CPU"
        result = weights.result_path(wanted, job) or paths.job_log(job)
        error = next((text for text in self.errors.get(name, []) if text.startswith(f"{job}: ")), None)
        action = self.done.get(name, {}).get(job)
        if not entry.enabled:
            text = "disabled"
        elif error:
            text = "FAILED: " + error.partition(": ")[2].split("\n")[0]
        elif why := due(desire_job(job, wanted), seen):
            text = f"to be run: {why}" if state.current_stage < StateStage.Execute else f"not done: {why}"
        else:
            text = f"done, {action}" if action else "done"
        return (name, job, f"{entry.engine} {entry.version or 'image'}", gpus, result, text)

    def state_of(self, name: str, model: str, wanted: spec.Host, seen: HostState) -> str:
        """`ready, recreated` · `disabled` · `FAILED: why` · `not running`"""
        try:
            return self._state_of(name, model, wanted, seen)
        except Exception as error:
            return f"FAILED: {not_understood(error)}"

    def _state_of(self, name: str, model: str, wanted: spec.Host, seen: HostState) -> str:
        if not wanted.entries[model].enabled:
            return "disabled"
        error = next((text for text in self.errors.get(name, []) if text.startswith(f"{model}: ")), None)
        if error:
            return "FAILED: " + error.partition(": ")[2].split("\n")[0]
        if self.removing and self.done.get(name, {}).get(model) == "removed":
            return "removed"
        user = wanted.entries[model].dockerd
        container, probe = seen.container(model, user), seen.probes.get((user, model))
        if container and container.running and probe and probe.status == 200:
            action = self.done.get(name, {}).get(model)
            without = unreached(model, wanted, seen)
            return ", ".join(["ready", *([action] if action else []), *(f"without {other}" for other in without)])
        # What stopped the whole host is why this model is not there either.
        stopped = (
            text for text in self.errors.get(name, []) if not any(text.startswith(f"{m}: ") for m in wanted.everything)
        )
        if why := next(stopped, None):
            return "FAILED: " + why.split("\n")[0]
        if not container:
            return "not there"
        return "does not answer" if container.running else f"not running ({container.status})"

    def summary(self, state: State) -> str:
        """`13 of 13 models answered, 1 changed, 12.3 s.`"""
        enabled = answered = everything = 0
        for name, wanted in self.fleet.items():
            if self.left_out(state, name):
                continue
            seen = last_look(state.inventory.get_host(name))
            everything += len(wanted.entries)
            for model, entry in wanted.entries.items():
                enabled += entry.enabled
                answered += bool(
                    seen and entry.enabled and self.state_of(name, model, wanted, seen).startswith("ready")
                )
        if self.removing and state.current_stage >= StateStage.Execute:
            gone = sum(len(models) for models in self.done.values())
            changed = "hosts changed" if self.touched(state) else "nothing changed"
            return f"{gone} of {everything} {self.noun()} are gone, {changed}."
        changes = sum(len(models) for models in self.done.values())
        total = sum(results.success_ops for results in state.results.values())
        seconds = time.monotonic() - self.begun
        if state.current_stage < StateStage.Execute:
            return f"Nothing was changed. {answered} of {enabled} {self.noun()} answer now."
        begun = [
            name for name in self.fleet if is_forgotten(state.inventory.get_host(name)) and not self.errors.get(name)
        ]
        if begun and not self.touched(state):
            return (
                f"Interrupted. What was begun on {', '.join(begun)} goes on there; run again to see what became of it."
            )
        changed = (
            f"{changes} changed" if changes else ("nothing changed" if not self.touched(state) else "hosts changed")
        )
        return f"{answered} of {enabled} {self.noun()} answered, {changed}. {total} operations, {seconds:.1f} s."

    def noun(self) -> str:
        """What is counted."""
        return "models and services" if any(host.services for host in self.fleet.values()) else "models"

    def touched(self, state: State) -> bool:
        """Did any operation change anything?"""
        return any(
            data.operation_meta.is_complete() and data.operation_meta.did_change()
            for operations in state.ops.values()
            for data in operations.values()
        )


def reasons_of(lines: Iterable[str]) -> list[str]:
    """Why a command failed: lines "error …" with the quoted lines below them; else apt's own "E: …"; else the last line
    there is."""
    found = [line for line in lines if line.strip() and not line.startswith("there: ")]  # plan/complaints.py
    sentences: list[str] = []
    for line in found:
        if line.startswith("error "):
            sentences.append(line.removeprefix("error "))
        elif sentences and line.startswith("    | "):
            sentences[-1] += f"\n{line}"
    apt = [line for line in found if line.startswith(("E: ", "dpkg: error"))]
    return sentences or apt[:1] or found[-1:]


REPORT = Report()
