"""One look at every host of an inventory, side by side: where the commands that change nothing start from."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import gevent
from pyinfra.api import Config, Host, State
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_host, ctx_state

from gpurack.guard import Connections, read_any_bytes
from gpurack.host_data import not_understood
from gpurack.plan.questions import questions
from gpurack.report import CONNECT_ERROR
from gpurack.shell import sh
from gpurack.spec import host as spec
from gpurack.state.model import HostState
from gpurack.state.snapshot import look


@contextmanager
def connected(inventory: Inventory, limit: Sequence[Host] = ()) -> Iterator[State]:
    """A pyinfra state with connections to all hosts (or those of `limit`) that can be reached; closed at the end."""
    read_any_bytes()
    state = State(inventory, Config())
    if limit:
        state.limit_hosts = list(limit)
    state.add_callback_handler(Connections())
    ctx_state.set(state)
    state.set_stage(StateStage.Connect)
    try:
        with suppress(PyinfraError):  # no host at all could be reached
            connect_all(state)
        state.set_stage(StateStage.Prepare)
        yield state
    finally:
        disconnect_all(state)


Work = Callable[[Host, spec.Host], HostState]


def look_at_all(inventory: Inventory, fleet: Mapping[str, spec.Host], metrics: bool = False) -> dict[str, HostState]:
    """Host → what was seen, in the inventory's order; one that could not be reached or read has `trouble` set.

    metrics: also ask the models' own counters, which a deploy does not need.
    """
    return visit(inventory, fleet, lambda host, wanted: look(host, questions(wanted, metrics)))


def visit(inventory: Inventory, fleet: Mapping[str, spec.Host], work: Work) -> dict[str, HostState]:
    """The same with another look: what `work` makes of each host."""
    with connected(inventory) as state:
        visits = {host.name: gevent.spawn(_visit, state, host, fleet[host.name], work) for host in inventory}
        gevent.joinall(list(visits.values()))
    return {name: each.get() for name, each in visits.items()}


def _visit(state: State, host: Host, wanted: spec.Host, work: Work) -> HostState:
    if host not in state.active_hosts:
        return HostState(trouble=unreached(host))
    with ctx_host.use(host):
        try:
            return work(host, wanted)
        except Exception as error:
            return HostState(trouble=not_understood(error))


def unreached(host: Host) -> str:
    """The sentence about a host with which pyinfra has no connection."""
    said = str(host.connector_data.get(CONNECT_ERROR, "ssh said nothing"))
    in_brackets = re.fullmatch(r"Could not connect \((.*)\)", said)
    return f"could not connect: {in_brackets[1] if in_brackets else said}; try: {sh('ssh {}', host.name)}."
