"""`gpurack plan --live`: one look at every host, and what a run would change there."""

import secrets
from collections.abc import Iterator, Mapping

from pyinfra.api.inventory import Inventory
from rich.console import Console
from rich.markup import escape

from gpurack.looks import look_at_all
from gpurack.plan.daemon_json import plan_daemon_json
from gpurack.plan.docker import plan_docker
from gpurack.plan.jobs import awaiting, plan_jobs
from gpurack.plan.models import plan_models
from gpurack.plan.nvidia_toolkit import plan_toolkit
from gpurack.spec import host as spec
from gpurack.spec.secrets import read_secrets
from gpurack.state.model import HostState


def show_live(console: Console, inventory: Inventory, fleet: Mapping[str, spec.Host]) -> int:
    """Connects, looks, prints. Returns the exit code: 1 when a host could not be reached or has errors."""
    seen = look_at_all(inventory, fleet)
    return max((show_host(console, name, fleet[name], state) for name, state in seen.items()), default=0)


def show_host(console: Console, name: str, wanted: spec.Host, seen: HostState) -> int:
    """One host's changes and errors."""
    lines, failed = [], False
    for line, is_error in findings(wanted, seen):
        failed |= is_error
        lines.append(f"  [red]error[/]  {escape(line)}" if is_error else f"  [yellow]~[/] {escape(line)}")
    console.print(f"[bold]{escape(name)}[/]   {'no change' if not lines else ''}")
    for text in lines:
        console.print(text)
    return int(failed)


def findings(wanted: spec.Host, seen: HostState) -> Iterator[tuple[str, bool]]:
    """(reason or sentence, is it an error?) of everything a run would do."""
    if seen.trouble:
        yield seen.trouble, True
        return
    yield from ((remark, False) for remark in seen.remarks)
    if seen.blind:
        yield seen.blind, True
        return
    for part in (
        plan_docker(wanted, seen, unattended=False),
        plan_toolkit(wanted, seen),
        plan_daemon_json(wanted, seen, unattended=False, toolkit=True),
    ):
        yield from ((step.reason, False) for step in part.steps)
        yield from ((error, True) for error in part.errors)
    later = awaiting(wanted, seen)
    for plan in (
        plan_models(wanted, seen, read_secrets(wanted), salt=secrets.token_hex(16), left_out=later),
        plan_jobs(wanted, seen),
    ):
        yield from ((reason, False) for reason in plan.reasons)
        yield from ((f"{name}: {error}", True) for name, error in plan.errors.items())
    yield from ((f"{name}: after the job {job}", False) for name, job in later.items())
