"""Is a model ready? The one rule for report, status, preflight and verification. Pure."""

import json
from datetime import datetime
from enum import Enum

from gpurack.facts.lines import parse_time
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.facts.record import Test
from gpurack.listening import overlap
from gpurack.plan.models.observed import Observed
from gpurack.spec.problems import Problem


class Health(Enum):
    """The state of a model.

    READY: it answers, with its own name if its engine names models. LOADING: it answers 503, or refuses connections as
    a server does before it opens its port. SILENT: it accepts connections but does not answer. FAILING: it answers with
    another status. RENAMED: something else answers at its address. UNPUBLISHED: nothing listens at a port that Docker
    publishes for it: it may serve, but is not reachable. NOT_ASKED: it runs, but the host could not ask it
    (no curl). FAILED: it says that it is ready, but failed the last test request.
    """

    READY = "ready"
    LOADING = "loading"
    SILENT = "silent"
    FAILING = "failing"
    RENAMED = "renamed"
    UNPUBLISHED = "not published"
    NOT_ASKED = "not asked"
    FAILED = "failed its test"
    STOPPED = "stopped"
    MISSING = "missing"


def health(one: Observed) -> Health:
    """Return the state of an entry, from its container and its answer."""
    container, probe = one.container, one.probe
    if container is None:
        return Health.MISSING
    if not container.running:
        return Health.STOPPED
    if probe is None:
        return Health.NOT_ASKED
    found = judge(probe.status, probe.body, one.answers_as)
    if found == Health.LOADING and unpublished(container, one.facts):
        return Health.UNPUBLISHED
    if found == Health.READY and restarted_now(container, one.facts):
        return Health.LOADING
    return Health.FAILED if found == Health.READY and failing(one) else found


def unpublished(container: Container, facts: HostFacts) -> tuple[int, ...]:
    """Return the ports of a running container at which nothing listens, although Docker publishes them.

    Seen when a Docker with live-restore started on a full disk: it kept the containers, and never published their ports
    again (28.5). Docker listens at each published port, by docker-proxy or itself. An empty list of listeners proves
    nothing.
    """
    if not facts.listeners:
        return ()
    return tuple(
        port
        for ip, port in container.ports
        if not any(listener.port == port and overlap(listener.address, ip or "0.0.0.0") for listener in facts.listeners)
    )


SETTLED = 10
"""Seconds that a container which was restarted must have run to count as ready: one that dies seconds after each start
answers meanwhile."""


def why_stopped(container: Container) -> str:
    """Return why a container does not run: `exited with code 137`, `paused`."""
    if container.status == "exited":
        return f"exited with code {container.exit_code}"
    return container.status + (f" ({container.error})" if container.error else "")


def restarted_now(container: Container, facts: HostFacts) -> bool:
    """Did Docker restart a container that had ended, only seconds ago?"""
    started = parse_time(container.started)
    if not container.restarts or started is None or facts.now is None or started.tzinfo is None:
        return False
    return (facts.now - started).total_seconds() < SETTLED


def restarts_since_test(one: Observed) -> tuple[int, str]:
    """Return how often Docker restarted an entry's running container since its last test, and when that was.

    0 and "" if it did not, and if its count at that time is not known.
    """
    container, test = one.container, last_test(one)
    if container is None or test is None or test.restarts is None:
        return 0, ""
    before = test.restarts if container.restarts >= test.restarts else 0  # a start by hand sets Docker's count to 0
    count = container.restarts - before
    return (count, test.at) if count else (0, "")


def restarted(one: Observed) -> str:
    """Return `restarted 3 times since 2026-11-28 14:02 CET`; "" if it was not restarted since its last test."""
    count, since = restarts_since_test(one)
    return f"restarted {times(count)} since {local_time(since, one.facts)}" if count else ""


def times(count: int) -> str:
    """`once`, `3 times`"""
    return "once" if count == 1 else f"{count} times"


def started_again(one: Observed) -> bool:
    """Was an entry's running container started after its last test: by a boot, by hand, or by Docker after a crash?

    False if the record does not have the start that was tested.
    """
    container, test = one.container, last_test(one)
    return bool(container and test and test.started and container.started not in ("", test.started))


def last_test(one: Observed) -> Test | None:
    """Return the last test request to an entry's running container; None if there was none."""
    container = one.container
    test = one.facts.tests.get((container.user, one.name)) if container and container.running else None
    return test if test and container and test.id == container.id else None


def failing(one: Observed) -> Problem | None:
    """Return since when and why an entry's running container fails its test request; None if it does not."""
    test = last_test(one)
    if not test or not test.why:
        return None
    return Problem.of("test-failing", since=local_time(test.since or test.at, one.facts), why=first_line(test.why))


def first_line(text: str) -> str:
    """Return the first line of a text of the host, without its full stop."""
    return next(iter(text.splitlines()), "").rstrip(".")


def local_time(text: str, facts: HostFacts, seconds: bool = False) -> str:
    """Return a time of the record in the host's time zone, `2026-11-28 02:16 CET`; the text if it is none."""
    found = parse_time(text)
    if found is None or found.tzinfo is None:
        return text
    local = found.astimezone(facts.now.tzinfo if facts.now else found.tzinfo)
    return local.strftime("%Y-%m-%d %H:%M:%S %Z" if seconds else "%Y-%m-%d %H:%M %Z").rstrip()


def age(since: datetime | None, now: datetime) -> str:
    """The time between two moments in its largest unit; "" without a start.

    >>> from datetime import UTC
    >>> age(datetime(2026, 11, 14, tzinfo=UTC), datetime(2026, 11, 20, 9, tzinfo=UTC))
    '6 d'
    """
    if since is None:
        return ""
    seconds = max(0, int((now - since).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def judge(status: int, body: str, served: str | None) -> Health:
    """Return what an answer means.

    status: of HTTP, 0 without an answer (body is then the reason). served: the name that must be in the answer; None if
    the engine names no models.

    >>> judge(200, '{"id": "alpha"}', "alpha"), judge(200, '{"id": "beta"}', "alpha")
    (<Health.READY: 'ready'>, <Health.RENAMED: 'renamed'>)
    >>> judge(0, "Connection refused", None), judge(0, "Operation timed out", None), judge(503, "", None)
    (<Health.LOADING: 'loading'>, <Health.SILENT: 'silent'>, <Health.LOADING: 'loading'>)
    """
    if status == 200:
        return Health.READY if served is None or json.dumps(served) in body else Health.RENAMED
    if status == 503:
        return Health.LOADING
    if status == 0:
        return Health.SILENT if "timed out" in body.lower() else Health.LOADING
    return Health.FAILING
