"""`gpurack plan --live`: one look at every host, and what a run would change there."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress

from pyinfra.api import Config, Host, State
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_host, ctx_state
from rich.console import Console
from rich.markup import escape

from gpurack.plan.daemon_json import plan_daemon_json
from gpurack.plan.docker import plan_docker
from gpurack.plan.models import plan_models
from gpurack.plan.nvidia_toolkit import plan_toolkit
from gpurack.spec import model as spec
from gpurack.spec.fleet import api_keys
from gpurack.state.model import HostState
from gpurack.state.snapshot import look


def show_live(console: Console, inventory: Inventory, fleet: Mapping[str, spec.Host]) -> int:
    """Connects, looks, prints. Returns the exit code: 1 when a host could not be reached or has errors."""
    state = State(inventory, Config())
    ctx_state.set(state)
    state.set_stage(StateStage.Connect)
    code = 0
    try:
        with suppress(PyinfraError):  # no host at all could be reached; each has its line below
            connect_all(state)
        state.set_stage(StateStage.Prepare)
        for host in inventory:
            code = max(code, show_host(console, state, host, fleet[host.name]))
    finally:
        disconnect_all(state)
    return code


def show_host(console: Console, state: State, host: Host, wanted: spec.Host) -> int:
    """One host's changes and errors."""
    if host not in state.active_hosts:
        console.print(f"[bold]{escape(host.name)}[/]   [red]error[/]  could not connect")
        return 1
    with ctx_host.use(host):
        seen = look(host, wanted)
    lines, failed = [], False
    for line, is_error in findings(wanted, seen):
        failed |= is_error
        lines.append(f"  [red]error[/]  {escape(line)}" if is_error else f"  [yellow]~[/] {escape(line)}")
    console.print(f"[bold]{escape(host.name)}[/]   {'no change' if not lines else ''}")
    for text in lines:
        console.print(text)
    return int(failed)


def findings(wanted: spec.Host, seen: HostState) -> Iterator[tuple[str, bool]]:
    """(reason or sentence, is it an error?) of everything a run would do."""
    if seen.trouble:
        yield seen.trouble, True
        return
    for plan in (
        plan_docker(wanted, seen, unattended=False),
        plan_toolkit(wanted, seen),
        plan_daemon_json(wanted, seen, unattended=False, toolkit=True),
    ):
        yield from ((step.reason, False) for step in plan.steps)
        yield from ((error, True) for error in plan.errors)
    keys = {name: secret.read() for name, secret in api_keys(wanted).items()}
    models = plan_models(wanted, seen, keys, salt=secrets.token_hex(16))
    yield from ((reason, False) for reason in models.reasons)
    yield from ((f"{name}: {error}", True) for name, error in models.errors.items())
