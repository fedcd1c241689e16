"""Connect to all hosts of an inventory in parallel and take a snapshot of each, for `gpurack` commands."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import gevent
from gevent.hub import Hub
from pyinfra.api import Config, Host, State
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_host, ctx_state

from gpurack.commands.progress import keep_log_quiet
from gpurack.facts.model import HostFacts
from gpurack.host_data import not_understood
from gpurack.operations.run_state import host_run, snapshot
from gpurack.pyinfra_patches import (
    Connections,
    for_all_hosts,
    name_wrong_keys,
    queue_at_jump_hosts,
    quiet_paramiko,
    read_any_bytes,
    read_no_source,
)
from gpurack.spec import host as spec

NOT_ERROR = Hub.NOT_ERROR
"""What gevent does not print."""


@contextmanager
def connected(inventory: Inventory, limit: Sequence[Host] = ()) -> Iterator[State]:
    """A pyinfra state with connections to all reachable hosts (or those of `limit`), closed at the end.

    It is in the stage Prepare. Operations that are added to it are not tried in advance (check_for_changes).
    """
    os.environ.setdefault("PYINFRA_PROGRESS", "off")  # its spinner; each command shows its own progress
    Hub.NOT_ERROR = (*NOT_ERROR, KeyboardInterrupt)  # gevent would print it
    read_any_bytes()
    read_no_source()
    keep_log_quiet()  # each command prints why a host is not reached
    quiet_paramiko()
    name_wrong_keys()
    queue_at_jump_hosts()
    state = State(inventory, for_all_hosts(Config(), inventory), check_for_changes=False)
    if limit:
        state.limit_hosts = list(limit)
    state.add_callback_handler(Connections())
    ctx_state.set(state)
    state.set_stage(StateStage.Connect)
    try:
        with suppress(PyinfraError):  # raised if no host is reachable; each then has its own connect_error
            connect_all(state)
        state.set_stage(StateStage.Prepare)
        yield state
    finally:
        disconnect_all(state)


TakeSnapshot = Callable[[Host, spec.Host], HostFacts]


def snapshots(inventory: Inventory, fleet: Mapping[str, spec.Host], metrics: bool = False) -> dict[str, HostFacts]:
    """Host → its snapshot, in inventory order. `trouble` is set for a host that could not be reached or inspected.

    metrics: also read the models' own counters. Hosts in maintenance are left out.
    """
    return on_all_hosts(inventory, fleet, lambda host, wanted: snapshot(host, wanted, metrics))


def on_all_hosts(inventory: Inventory, fleet: Mapping[str, spec.Host], take: TakeSnapshot) -> dict[str, HostFacts]:
    """Like `snapshots`, with the function that takes each host's snapshot."""
    asked = [host for host in inventory if not fleet[host.name].maintenance]
    if not asked:
        return {}
    with connected(inventory, asked) as state:
        return snapshots_of(state, fleet, take)


def snapshots_of(
    state: State, fleet: Mapping[str, spec.Host], take: TakeSnapshot = lambda host, wanted: snapshot(host, wanted)
) -> dict[str, HostFacts]:
    """Like `snapshots`, of the hosts in a state's limit, by its connections."""
    hosts = [host for host in state.inventory if state.is_host_in_limit(host)]
    running = {host.name: gevent.spawn(_on_host, state, host, fleet[host.name], take) for host in hosts}
    gevent.joinall(list(running.values()))
    return {name: each.get() for name, each in running.items()}


def _on_host(state: State, host: Host, wanted: spec.Host, take: TakeSnapshot) -> HostFacts:
    if host not in state.active_hosts:
        return HostFacts.not_inspected(connect_error(host))
    with ctx_host.use(host):
        try:
            return take(host, wanted)
        except Exception as error:
            return HostFacts.not_inspected(not_understood(error))


def connect_error(host: Host) -> str:
    """Why pyinfra has no connection to a host, with a command to try."""
    return host_run(host).connect_error or "ssh gave no reason."
