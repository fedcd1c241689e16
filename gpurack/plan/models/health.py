"""Is a model ready? The one rule for report, status, preflight and verification. Pure."""

import json
from enum import Enum

from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.spec.model import Model


class Health(Enum):
    """The state of a model.

    READY: it answers, with its own name if its engine names models. LOADING: it answers 503, or refuses connections as
    a server does before it opens its port. SILENT: it accepts connections but does not answer. FAILING: it answers with
    another status. RENAMED: something else answers at its address. NOT_ASKED: it runs, but the host could not ask it
    (no curl).
    """

    READY = "ready"
    LOADING = "loading"
    SILENT = "silent"
    FAILING = "failing"
    RENAMED = "renamed"
    NOT_ASKED = "not asked"
    STOPPED = "stopped"
    MISSING = "missing"


def health(name: str, entry: Model, facts: HostFacts) -> Health:
    """Return the state of an entry, from its container and its answer."""
    user = entry.dockerd
    container, probe = facts.container(name, user), facts.probes.get((user, name))
    if container is None:
        return Health.MISSING
    if not container.running:
        return Health.STOPPED
    served = ENGINES[entry.engine].answers_as(entry, entry.served_name or name)
    return judge(probe.status, probe.body, served) if probe else Health.NOT_ASKED


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
