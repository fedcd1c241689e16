"""The operation that removes what the others installed."""

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand

from gpurack.operations.carry_out import carry_out_plan, fail_only_this_host, when_changed, when_free
from gpurack.operations.commands import Refusal
from gpurack.operations.run_state import snapshot
from gpurack.plan.remove import plan_remove
from gpurack.spec.host import Host


@operation()
@fail_only_this_host("Remove")
def remove(spec: Host, what: str = "models") -> Generator[PyinfraCommand, None, None]:
    """
    Remove models, project and boot unit from the host. Weights, images and other data stay.

    + spec: the host's spec
    + what: "models", or "all" to remove also the packages of Docker and the toolkit
    """
    facts = snapshot(host, spec)
    if facts.blind:
        yield Refusal([facts.blind])
        return
    facts = yield from when_free("Remove", spec, facts)
    facts = yield from when_changed("Remove", spec, facts, facts.changing_now())
    yield from carry_out_plan("Remove", plan_remove(facts, what, spec.lab))
