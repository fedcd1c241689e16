"""The state of an entry, from its container and its answer. Runs, status and the closing lines read it here. Pure.

health.py says what an answer means. A run adds what only it knows: that a change failed, or what it did
(operations/entry_state.py).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from gpurack.facts.lines import parse_time
from gpurack.facts.parts import Container
from gpurack.plan.models.computing import slow
from gpurack.plan.models.health import Health, health, last_test, why_stopped
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.preflight import unhealthy
from gpurack.plan.models.stopped import described, stop_of
from gpurack.spec.problems import Problem


class ModelState(StrEnum):
    """The state of a model or service, with the word that is printed.

    DEGRADED: it serves, but computes on the CPU instead of its GPUs. HELD, STOPPED: an admin stopped it. UNKNOWN: its
    host could not be inspected.
    """

    READY = "ready"
    DEGRADED = "DEGRADED"
    LOADING = "loading"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"
    HELD = "held"
    STOPPED = "stopped"
    DISABLED = "disabled"

    @property
    def serves(self) -> bool:
        """Does it answer requests?"""
        return self in (ModelState.READY, ModelState.DEGRADED)


SHORT = {
    "wrong-model-answers": "another model answers at {url}",
    "model-failing": "answers HTTP {status}",
    "model-silent": "runs but does not answer",
    "port-not-published": "runs but Docker no longer publishes its port {port}",
    "computes-on-cpu": "computes on the CPU, not on its GPUs",
    "model-held": "{why}{by}",
    "model-stopped": "until the next run{by}",
}
"""Codes whose messages are too long for a table."""


def shortened(problem: Problem | None) -> str:
    """Return a problem as tables show it: `exited with code 1`; "" without one."""
    if problem is None:
        return ""
    short = SHORT.get(problem.code)
    return short.format_map(dict(problem.parameters)) if short else problem.message.rstrip(".")


@dataclass(frozen=True)
class Seen:
    """What the snapshot shows of an entry. problem: why it is not ready. since: start of the state, None if unknown."""

    state: ModelState
    problem: Problem | None = None
    since: datetime | None = None


def state(one: Observed) -> Seen:
    """Return the state of an entry."""
    entry, facts, container, path = one.entry, one.facts, one.container, one.path
    if not entry.enabled:
        return Seen(ModelState.DISABLED)
    if facts.trouble:
        return Seen(ModelState.UNKNOWN, Problem.of("host-unreachable", path=path))
    stopped = stop_of(one)
    if stopped and not (container and container.running):
        found = ModelState.HELD if stopped.hold else ModelState.STOPPED
        return Seen(found, described(stopped, facts, path), time_or_none(stopped.at))
    if container is None:
        late = facts.late.get(f"user {entry.dockerd}" if entry.dockerd else "Docker")
        if late:
            return Seen(ModelState.DOWN, Problem.of("not-inspected", path=path, what=late))
        code = "container-missing" if facts.docker_of(entry.dockerd) else "docker-silent"
        return Seen(ModelState.DOWN, Problem.of(code, path=path))
    if not container.running:
        # a paused container may have ended once, before its last start
        finished = "" if container.status == "paused" else container.finished
        problem = Problem.of("container-stopped", path=path, state=why_stopped(container))
        return Seen(ModelState.DOWN, problem, time_or_none(finished))
    return running_state(one, container)


def running_state(one: Observed, container: Container) -> Seen:
    """Return the state of an entry with a running container."""
    started = time_or_none(container.started)
    match health(one):
        case Health.READY:
            problem = slow(one)
            return Seen(ModelState.DEGRADED if problem else ModelState.READY, problem, started)
        case Health.LOADING if container.restarts:
            return Seen(ModelState.DOWN, Problem.of("container-restarts", path=one.path))
        case Health.LOADING:
            return Seen(ModelState.LOADING, None, started)
        case Health.FAILED:
            test = last_test(one)
            return Seen(ModelState.DOWN, unhealthy(one), time_or_none(test.since) if test else None)
        case Health.NOT_ASKED:
            return Seen(ModelState.DOWN, Problem.of("readiness-not-checked", path=one.path))
        case condition:
            since = started if condition == Health.RENAMED else None
            return Seen(ModelState.DOWN, unhealthy(one), since)


def time_or_none(text: str) -> datetime | None:
    """Return one of Docker's times; None for the year 1, which Docker writes for "never"."""
    found = parse_time(text)
    return found.astimezone(UTC) if found and found.year > 1 else None
