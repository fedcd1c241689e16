"""The operation that checks whether services reach the models they connect to on other hosts."""

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand

from gpurack.operations.carry_out import announce, fail_only_this_host, refused_before
from gpurack.operations.run_state import outdate, snapshot
from gpurack.plan.models.neighbours import unreached
from gpurack.plan.models.observed import Observed
from gpurack.plan.steps import as_findings
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


@operation()
@fail_only_this_host("Connections")
def connections(spec: Host) -> Generator[PyinfraCommand, None, None]:
    """
    Print which models on other hosts the host's services do not reach.

    This is not a failure: they are used as soon as they answer.

    + spec: the host's spec

    It runs when the models of all hosts are done, so that a slower host is not reported.
    """
    if refused_before("Connections"):
        host.noop("Connections: not checked, see the error above")
        return
    missing = unreached_models(spec)
    if missing and host.state.is_executing:
        outdate(host)
        missing = unreached_models(spec)
    if missing and host.state.is_executing:
        announce(as_findings("change", missing))
    host.noop("Connections: nothing to do")
    yield from ()


def unreached_models(spec: Host) -> list[Problem]:
    """Return a line for each model that is not reached."""
    facts = snapshot(host, spec)
    return [
        Problem.of("upstream-not-reached", service=service, model=model)
        for service in spec.services
        for model in unreached(Observed(service, spec, facts))
    ]
