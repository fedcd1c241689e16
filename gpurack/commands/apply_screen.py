"""What `gpurack apply` prints at its end, from what `HostRun` remembers of each host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pyinfra.api import Host, State

from gpurack import screen
from gpurack.commands.diff import UNREACHABLE, HostPlan, Plans, counted
from gpurack.commands.lab import Lab
from gpurack.operations.report import Report
from gpurack.operations.run_state import host_run
from gpurack.spec.problems import ENTRIES, Problem, by_fault

HostState = Literal["unchanged", "prepared", "changed", "failed", "unreachable"]
SERVES = " serves"
"""In the state of a model whose change failed, if the previous one serves (Report.state_of)."""
STOPPED = ("held", "stopped")
"""The first words of the states of models that an admin stopped."""
ORDER: tuple[HostState, ...] = ("failed", "unreachable", "changed", "prepared", "unchanged")


@dataclass(frozen=True)
class Outcome:
    """What became of one host.

    models: enabled entry → its state, as in the table of a run. failures: errors that the plan had not shown.
    """

    state: HostState
    models: Mapping[str, str] = field(default_factory=dict)
    failures: Sequence[Problem] = ()

    @property
    def ready(self) -> int:
        """The number of models that serve, also by the container that a failed change left."""
        return sum(text.startswith("ready") or SERVES in text for text in self.models.values())


def outcomes(state: State, lab: Lab, plans: Plans) -> dict[str, Outcome]:
    """Host → its outcome, in inventory order, after the operations."""
    report = Report(lab.fleet)
    found = {}
    for name, plan in plans.items():
        host, spec = state.inventory.get_host(name), lab.fleet[name]
        run = host_run(host)
        enabled = [key for key, entry in spec.entries.items() if entry.enabled]
        texts = {key: report.state_of(key, spec, run) if run.snapshot else "unknown" for key in enabled}
        shown = {problem for each in plan.of("error") for problem in each.problems}
        failures = [problem for problem in dict.fromkeys(run.failures) if problem not in shown]
        found[name] = Outcome(state_of(state, host, plan), texts, failures)
    return found


def state_of(state: State, host: Host, plan: HostPlan) -> HostState:
    """What the operations did to a host."""
    if plan.unreachable:
        return "unreachable"
    if host in state.failed_hosts or plan.of("error"):
        return "failed"
    changed = any(
        data.operation_meta.is_complete() and data.operation_meta.did_change() for data in state.ops[host].values()
    )
    return "changed" if changed else "unchanged"


def result_code(found: Mapping[str, Outcome]) -> int:
    """The exit code: 0 done or unchanged; 1 something failed; 4 only hosts are unreachable."""
    states = {outcome.state for outcome in found.values()}
    return 1 if "failed" in states else UNREACHABLE if "unreachable" in states else 0


def show_result(console: screen.Console, found: Mapping[str, Outcome], seconds: float) -> None:
    """Print the failures, the models that are not ready, and the closing line."""
    for name, outcome in found.items():
        show_failures(console, name, outcome)
        for key, text in outcome.models.items():
            if outcome.state in ("changed", "unchanged") and not text.startswith(("ready", *STOPPED)):
                console.print(screen.line(("DOWN", "red"), f"    {name} {key}: {text}"))
    console.print(summary(found, seconds))


def show_prepared(console: screen.Console, found: Mapping[str, Outcome], seconds: float) -> None:
    """Print the failures and the closing line of a run that only prepared."""
    for name, outcome in found.items():
        show_failures(console, name, outcome)
    states = ["prepared" if outcome.state == "changed" else outcome.state for outcome in found.values()]
    console.print(f"{in_words(states)}. {screen.duration(seconds)}")


def show_failures(console: screen.Console, host: str, outcome: Outcome) -> None:
    """Print the failures of a host, each fault once."""
    for fault in by_fault(outcome.failures):
        show_failure(console, host, fault)


def show_failure(console: screen.Console, host: str, fault: Sequence[Problem]) -> None:
    """Print one fault of a host: who and what, lines that it quotes, and the hint on a line of its own."""
    names = [rest if kind in ENTRIES else problem.path for problem in fault for kind, _, rest in [_split(problem.path)]]
    first, *quoted = fault[0].message.rstrip("\n").split("\n")
    where = " ".join(part for part in (host, ", ".join(filter(None, names))) if part)
    console.print(screen.line(("FAILED", "red"), f"  {where}: {first}"))
    for text in quoted:
        console.print(screen.line(f"        {text.strip()}"))
    if fault[0].hint:
        console.print(screen.line(f"  hint: {fault[0].hint}"))


def _split(path: str) -> tuple[str, str, str]:
    return path.partition(".")


def in_words(states: Sequence[str]) -> str:
    """`2 hosts unchanged`, `2 hosts: 1 failed, 1 changed`."""
    counts = {state: states.count(state) for state in ORDER if state in states}
    hosts = counted(len(states), "host")
    if len(counts) == 1:
        return f"{hosts} {states[0]}"
    return f"{hosts}: " + ", ".join(f"{count} {state}" for state, count in counts.items())


def summary(found: Mapping[str, Outcome], seconds: float) -> str:
    """The closing line.

    >>> summary({"a": Outcome("unchanged", {"m": "ready"}), "b": Outcome("unchanged", {"n": "ready"})}, 0.93)
    '2 hosts unchanged. 2 of 2 models ready. 0.9 s'
    >>> summary({"a": Outcome("changed", {"m": "ready"}), "b": Outcome("failed", {"n": "FAILED: oh"})}, 112)
    '2 hosts: 1 failed, 1 changed. 1 of 2 models ready. 1 min 52 s'
    >>> summary({"a": Outcome("unchanged", {"m": "ready", "n": "held since 14:02: GPU 1 is replaced (ada)"})}, 0.9)
    '1 host unchanged. 1 of 2 models ready, 1 held. 0.9 s'
    """
    hosts = in_words([outcome.state for outcome in found.values()])
    total = sum(len(outcome.models) for outcome in found.values())
    ready = sum(outcome.ready for outcome in found.values())
    words = [text.partition(" ")[0] for outcome in found.values() for text in outcome.models.values()]
    stopped = "".join(f", {words.count(word)} {word}" for word in STOPPED if word in words)
    return f"{hosts}. {ready} of {counted(total, 'model')} ready{stopped}. {screen.duration(seconds)}"
