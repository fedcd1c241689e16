"""In which order hosts run their operations: a host that is slow or stuck delays no other."""

from collections.abc import Sequence
from itertools import groupby

import gevent
from pyinfra.api import Host, State
from pyinfra.api.operations import _run_host_op_with_context as run_on_host
from pyinfra.api.operations import _run_single_op as run_on_all
from pyinfra.api.util import log_operation_start
from pyinfra.context import ctx_state

from gpurack.plan.host import CONNECTIONS, STAGES

ALONE = frozenset(stage.name for stage in STAGES) - {CONNECTIONS.name}
"""Names of the operations that ask nothing of other hosts."""


def run_operations(state: State) -> None:
    """Run the operations of all hosts, those of gpurack's stages on each host without waiting for the others.

    pyinfra (3.10.0) waits for all hosts after each operation, or never. Here what asks other hosts, and each operation
    that is not gpurack's, begins when all hosts have done what comes before it. Raises PyinfraError where no host is
    left.
    """
    state.is_executing = True
    with ctx_state.use(state):
        for alone, operations in groupby(state.get_op_order(), lambda each: runs_alone(state, each)):
            if alone:
                run_alone(state, list(operations))
            else:
                for each in operations:
                    run_on_all(state, each)


def run_alone(state: State, operations: Sequence[str]) -> None:
    """Run these operations on each host in order, on all hosts side by side. A host that fails leaves the run."""
    failed: set[Host] = set()
    begun: set[str] = set()

    def run(host: Host) -> None:
        for each in operations:
            if each not in begun:  # pyinfra's own line, for -v
                begun.add(each)
                log_operation_start(state.get_op_meta(each))
            if not run_on_host(state, host, each):
                failed.add(host)
                break

    gevent.joinall([state.pool.spawn(run, host) for host in state.inventory.get_active_hosts()], None, True)
    state.fail_hosts(failed)


def runs_alone(state: State, operation: str) -> bool:
    """Does this operation ask nothing of other hosts? operation: its hash."""
    return all(name.rpartition("| ")[2] in ALONE for name in state.get_op_meta(operation).names)
