"""What `gpurack apply` prints at its end, from what `HostRun` remembers of each host."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pyinfra.api import Host, State

from gpurack import screen
from gpurack.commands.diff import UNREACHABLE, HostPlan, Plans, counted
from gpurack.commands.lab import Lab
from gpurack.operations.entry_state import UNKNOWN, Condition, EntryState, entry_state
from gpurack.operations.phases import slowest
from gpurack.operations.report import continues
from gpurack.operations.run_state import changed, host_run
from gpurack.paths import LOGS
from gpurack.shell import sh
from gpurack.spec.problems import ENTRIES, Problem, by_fault


class HostState(StrEnum):
    """What became of a host, in the order of the closing line. `--json` has the value."""

    FAILED = "failed"
    UNREACHABLE = "unreachable"
    INTERRUPTED = "interrupted"
    CHANGED = "changed"
    PREPARED = "prepared"
    UNCHANGED = "unchanged"


STOPPED = {Condition.HELD: "held", Condition.STOPPED: "stopped"}
"""States of models that an admin stopped, with their words in the closing line."""


@dataclass(frozen=True)
class Outcome:
    """What became of one host.

    models: enabled entry → its state. failures: errors that the plan had not shown. phases: phase → seconds. kept:
    entries with an error that the plan had shown, whose previous container serves.
    """

    state: HostState
    models: Mapping[str, EntryState] = field(default_factory=dict)
    failures: Sequence[Problem] = ()
    phases: Mapping[str, float] = field(default_factory=dict)
    kept: Sequence[str] = ()

    @property
    def ready(self) -> int:
        """The number of models that serve, also by the container that a failed change left."""
        return sum(one.serves for one in self.models.values())


def outcomes(state: State, lab: Lab, plans: Plans) -> dict[str, Outcome]:
    """Host → its outcome, in inventory order, after the operations."""
    found = {}
    for name, plan in plans.items():
        host, spec = state.inventory.get_host(name), lab.fleet[name]
        run = host_run(host)
        enabled = [key for key, entry in spec.entries.items() if entry.enabled]
        states = {key: entry_state(key, spec, run) if run.snapshot else UNKNOWN for key in enabled}
        shown = {problem for each in plan.of("error") for problem in each.problems}
        failures = [problem for problem in dict.fromkeys(run.failures) if problem not in shown]
        failures = [from_here(problem, name, lab.path) for problem in failures]
        kept = [key for key, one in states.items() if one.serves and run.failure(spec.path_of(key)) in shown]
        found[name] = Outcome(state_of(state, host, plan), states, failures, run.phases, kept)
    return found


KEPT_LOG = re.compile(rf"\bIts log: {LOGS}/[^/\s]+/(\S+)\.failed\.log")
"""How the runner names the log of a container that failed. It knows neither the inventory nor the host's name there."""


def with_logs_command(text: str, host: str, inventory: object) -> str:
    """What a runner said, with the command that prints the log and works from here, not root's file on the host.

    >>> with_logs_command("exited. Its log: /var/lib/gpurack/logs/_/bge.failed.log", "gpu1", "lab.yaml")
    'exited. Its log: gpurack logs lab.yaml gpu1/bge --failed'
    """

    def command(found: re.Match[str]) -> str:
        return "Its log: " + sh("gpurack logs {} {} --failed", str(inventory), f"{host}/{found[1]}")

    return KEPT_LOG.sub(command, text)


def from_here(problem: Problem, host: str, inventory: object) -> Problem:
    """A failure in the words of `with_logs_command`."""
    words = tuple((name, with_logs_command(text, host, inventory)) for name, text in problem.parameters)
    return replace(problem, parameters=words)


def state_of(state: State, host: Host, plan: HostPlan) -> HostState:
    """What the operations did to a host."""
    if plan.unreachable:
        return HostState.UNREACHABLE
    if host in state.failed_hosts or plan.of("error"):
        return HostState.FAILED
    if (run := host_run(host)).interrupted and run.outdated:
        return HostState.INTERRUPTED
    return HostState.CHANGED if changed(state, host) else HostState.UNCHANGED


def result_code(found: Mapping[str, Outcome]) -> int:
    """The exit code: 0 done or unchanged; 1 something failed; 4 only hosts are unreachable."""
    states = {outcome.state for outcome in found.values()}
    return 1 if HostState.FAILED in states else UNREACHABLE if HostState.UNREACHABLE in states else 0


def show_result(console: screen.Console, found: Mapping[str, Outcome], seconds: float) -> None:
    """Print the failures, the models that are not ready, and the closing line."""
    for name, outcome in found.items():
        show_failures(console, name, outcome)
        if outcome.kept:
            console.print(
                screen.line((name, "bold"), f"  not changed, so the previous one serves: {', '.join(outcome.kept)}")
            )
        for key, one in outcome.models.items():
            known = outcome.state in (HostState.CHANGED, HostState.UNCHANGED)
            if known and one.condition not in (Condition.READY, *STOPPED):
                colour = "yellow" if one.condition == Condition.LOADING else "red"
                why = f": {one.why}" if one.why else ""
                console.print(screen.line((one.condition, colour), f"  {name} {key}{why}"))
    show_phases(console, found)
    console.print(summary(found, seconds))


def show_interrupted(console: screen.Console, found: Mapping[str, Outcome], inventory: object, seconds: float) -> None:
    """Print what is known after Ctrl-C: the failures so far, and which hosts continue by themselves."""
    for name, outcome in found.items():
        show_failures(console, name, outcome)
    if begun := [name for name, outcome in found.items() if outcome.state == HostState.INTERRUPTED]:
        console.print(continues(begun, str(inventory)))
    console.print(summary(found, seconds) if found else f"Interrupted. {screen.duration(seconds)}")


def show_prepared(console: screen.Console, found: Mapping[str, Outcome], seconds: float) -> None:
    """Print the failures and the closing line of a run that only prepared."""
    for name, outcome in found.items():
        show_failures(console, name, outcome)
    show_phases(console, found)
    states = [HostState.PREPARED if one.state == HostState.CHANGED else one.state for one in found.values()]
    console.print(f"{in_words(states)}. {screen.duration(seconds)}")


def show_phases(console: screen.Console, found: Mapping[str, Outcome]) -> None:
    """Print how long the phases of the slowest hosts took."""
    for name, words in slowest({name: outcome.phases for name, outcome in found.items()}).items():
        console.print(screen.line((name, "bold"), f"  time: {words}"))


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


def in_words(states: Sequence[HostState]) -> str:
    """`2 hosts unchanged`, `2 hosts: 1 failed, 1 changed`."""
    counts = {state: states.count(state) for state in HostState if state in states}
    hosts = counted(len(states), "host")
    if len(counts) == 1:
        return f"{hosts} {states[0]}"
    return f"{hosts}: " + ", ".join(f"{count} {state}" for state, count in counts.items())


def summary(found: Mapping[str, Outcome], seconds: float) -> str:
    """The closing line.

    >>> ready, held = EntryState(Condition.READY, "ready", serves=True), EntryState(Condition.HELD, "held since 14:02")
    >>> idle, changed = Outcome(HostState.UNCHANGED, {"m": ready}), Outcome(HostState.CHANGED, {"m": ready})
    >>> summary({"a": idle, "b": idle}, 0.93)
    '2 hosts unchanged. 2 of 2 models ready. 0.9 s'
    >>> summary({"a": changed, "b": Outcome(HostState.FAILED, {"n": EntryState(Condition.FAILED, "FAILED: oh")})}, 112)
    '2 hosts: 1 failed, 1 changed. 1 of 2 models ready. 1 min 52 s'
    >>> summary({"a": Outcome(HostState.UNCHANGED, {"m": ready, "n": held})}, 0.9)
    '1 host unchanged. 1 of 2 models ready, 1 held. 0.9 s'
    >>> summary({"a": Outcome(HostState.INTERRUPTED, {"m": ready})}, 2.5)
    '1 host interrupted. 2.5 s'
    """
    hosts = in_words([outcome.state for outcome in found.values()])
    known = [outcome for outcome in found.values() if outcome.state != HostState.INTERRUPTED]
    if not known:
        return f"{hosts}. {screen.duration(seconds)}"
    total = sum(len(outcome.models) for outcome in known)
    ready = sum(outcome.ready for outcome in known)
    conditions = [one.condition for outcome in known for one in outcome.models.values()]
    stopped = "".join(f", {conditions.count(each)} {word}" for each, word in STOPPED.items() if each in conditions)
    where = "" if len(known) == len(found) else " on the hosts that were not interrupted"
    return f"{hosts}. {ready} of {counted(total, 'model')} ready{stopped}{where}. {screen.duration(seconds)}"
