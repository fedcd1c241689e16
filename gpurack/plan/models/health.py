"""Is a model ready? The one rule by which report, status, preflight and verification judge. Pure."""

import json
from enum import Enum

from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.spec.model import Model


class Health(Enum):
    """How a model is. READY: it answers, by its own name where its engine tells names. LOADING: it answers 503, or
    refuses connections as a server does that has not opened its port. SILENT: it accepts connections and says nothing.
    FAILING: it answers another status. RENAMED: something else answers at its address. NOT_ASKED: it runs, and nobody
    could ask it (a host without curl)."""

    READY = "ready"
    LOADING = "loading"
    SILENT = "silent"
    FAILING = "failing"
    RENAMED = "renamed"
    NOT_ASKED = "not asked"
    STOPPED = "stopped"
    MISSING = "missing"


def health(name: str, entry: Model, facts: HostFacts) -> Health:
    """How an entry is, by its container and its answer."""
    user = entry.dockerd
    container, probe = facts.container(name, user), facts.probes.get((user, name))
    if container is None:
        return Health.MISSING
    if not container.running:
        return Health.STOPPED
    served = ENGINES[entry.engine].answers_as(entry, entry.served_name or name)
    return judge(probe.status, probe.body, served) if probe else Health.NOT_ASKED


def judge(status: int, body: str, served: str | None) -> Health:
    """What an answer means. status: HTTP's, 0 where none came (body then says why). served: the name that has to be in
    the answer; None where the engine tells no name.

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
