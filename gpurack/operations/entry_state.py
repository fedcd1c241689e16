"""The state of an entry at the end of a run: from what `HostRun` remembers and its last snapshot."""

from dataclasses import dataclass
from enum import StrEnum

from gpurack.facts.model import HostFacts
from gpurack.host_data import not_understood
from gpurack.operations.run_state import HostRun
from gpurack.plan.models.diff import Action
from gpurack.plan.models.jobs import desire_job, due
from gpurack.plan.models.neighbours import unreached
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.states import ModelState, shortened, state
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


class Condition(StrEnum):
    """What became of an entry, or of a host that failed before its entries were inspected, with the word for it.

    It has every `ModelState`. FAILED: its change failed. DUE: a job that did not run.
    """

    READY = "ready"
    DONE = "done"
    DISABLED = "disabled"
    REMOVED = "removed"
    MAINTENANCE = "maintenance"
    HELD = "held"
    STOPPED = "stopped"
    LOADING = "loading"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    DOWN = "DOWN"
    DUE = "due"
    UNKNOWN = "UNKNOWN"


WELL = (Condition.READY, Condition.DONE, Condition.DISABLED)


@dataclass(frozen=True)
class EntryState:
    """The state of an entry.

    text: as printed, one line. serves: does a container of it serve, also the previous one after a change that failed?
    changed: did the run act on it, or is something missing, as the text says?
    """

    condition: Condition
    text: str
    serves: bool = False
    changed: bool = False

    @property
    def why(self) -> str:
        """The text without its condition's word, beside which it is printed."""
        return self.text.removeprefix(self.condition).removeprefix(": ")

    @property
    def quiet(self) -> bool:
        """Does a long table leave it out?"""
        return self.condition in WELL and not self.changed


SAYS_WHAT_SERVES = "failed-before"
"""The code of a failure that the plan knows, whose message says whether the previous one serves."""
DISABLED = EntryState(Condition.DISABLED, "disabled")
UNKNOWN = EntryState(Condition.UNKNOWN, "unknown")


def failed(failure: Problem, serves: bool = False) -> EntryState:
    """Return the state of an entry that failed, with the first line of its failure."""
    return EntryState(Condition.FAILED, f"FAILED: {failure.message}".split("\n")[0], serves)


def entry_state(name: str, spec: Host, run: HostRun, removing: bool = False) -> EntryState:
    """Return the state of a model or service. removing: does the run remove models?"""
    try:
        return _entry_state(name, spec, run, removing)
    except Exception as error:
        return EntryState(Condition.FAILED, f"FAILED: {not_understood(error)}")


def _entry_state(name: str, spec: Host, run: HostRun, removing: bool) -> EntryState:
    if not spec.entries[name].enabled:
        return DISABLED
    one = Observed(name, spec, run.snapshot or HostFacts())
    now = state(one)
    if failure := run.failure(spec.path_of(name)):
        return after_failure(failure, now.state.serves and not run.outdated, run)
    if removing and run.done.get(name) == Action.REMOVE:
        return EntryState(Condition.REMOVED, "removed")
    if run.outdated and (run.failures or run.interrupted):  # a command failed or goes on, and nothing was seen since
        return UNKNOWN
    match now.state:
        case ModelState.READY:
            more = [f"without {other}" for other in unreached(one)]
            more = [run.done[name].outcome, *more] if name in run.done else more
            return EntryState(Condition.READY, ", ".join(["ready", *more]), serves=True, changed=bool(more))
        case ModelState.DEGRADED:
            return EntryState(Condition.DEGRADED, f"DEGRADED: {shortened(now.problem)}", serves=True)
        case ModelState.HELD | ModelState.STOPPED if now.problem:
            return EntryState(Condition[now.state.name], now.problem.message.rstrip("."))
    # An error of the whole host also explains why this model does not serve.
    entries = [spec.path_of(other) for other in spec.everything]
    if whole := next((failure for failure in run.failures if failure.path not in entries), None):
        return failed(whole)
    return EntryState(Condition[now.state.name], shortened(now.problem) or now.state)


def after_failure(failure: Problem, ready: bool, run: HostRun) -> EntryState:
    """Return the state of an entry whose change failed. ready: does its container answer now?"""
    told = failure in run.serving
    found = failed(failure, ready or told)
    if ready and not told and failure.code != SAYS_WHAT_SERVES:
        return EntryState(Condition.FAILED, f"{found.text.rstrip('.')}, the previous one serves", True)
    return found


def job_state(name: str, spec: Host, run: HostRun, dry: bool) -> EntryState:
    """Return the state of a job. dry: nothing is changed."""
    if not spec.jobs[name].enabled:
        return DISABLED
    if failure := run.failure(spec.path_of(name)):
        return failed(failure)
    if why := due(desire_job(name, spec), run.snapshot or HostFacts()):
        return EntryState(Condition.DUE, f"to be run: {why}" if dry else f"not done: {why}")
    more = [run.done[name].outcome] if name in run.done else []
    return EntryState(Condition.DONE, ", ".join(["done", *more]), changed=bool(more))
