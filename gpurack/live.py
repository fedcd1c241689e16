"""`gpurack plan --live`: one look at every host, and what a run would change there."""

import secrets
from collections.abc import Iterator, Mapping
from typing import Literal

from pyinfra.api.inventory import Inventory

from gpurack import screen
from gpurack.host_data import not_understood
from gpurack.looks import snapshots
from gpurack.operations.run_state import Failure, lines_of
from gpurack.plan.host import SET_UP, Run
from gpurack.plan.jobs import awaiting, plan_jobs
from gpurack.plan.models import plan_models
from gpurack.spec import host as spec
from gpurack.spec.secrets import read_secrets
from gpurack.state.model import HostState

Kind = Literal["change", "warning", "error"]


def show_live(console: screen.Console, inventory: Inventory, fleet: Mapping[str, spec.Host]) -> int:
    """Connects, looks, prints. Returns the exit code: 1 when a host could not be reached or has errors."""
    seen = snapshots(inventory, fleet)
    return max((show_host(console, name, fleet[name], state) for name, state in seen.items()), default=0)


def show_host(console: screen.Console, name: str, wanted: spec.Host, seen: HostState) -> int:
    """One host's changes and errors."""
    lines, failed = [], False
    changes = 0
    for kind, line in understood(wanted, seen):
        failed |= kind == "error"
        changes += kind != "warning"
        begin = ("~", "yellow") if kind == "change" else (kind, "red" if kind == "error" else "yellow")
        lines.append(screen.line("  ", begin, " " if kind == "change" else "  ", line))
    console.print(screen.line((name, "bold"), f"   {'' if changes else 'no change'}"))
    for text in lines:
        console.print(text)
    return int(failed)


def understood(wanted: spec.Host, seen: HostState) -> Iterator[tuple[Kind, str]]:
    """The findings, and an error for what a host says that nobody thought of."""
    try:
        yield from findings(wanted, seen)
    except Exception as error:
        yield "error", not_understood(error)


def findings(wanted: spec.Host, seen: HostState) -> Iterator[tuple[Kind, str]]:
    """Everything a run would do or say."""
    if seen.trouble:
        yield "error", seen.trouble
        return
    yield from (("warning", remark) for remark in seen.remarks)
    if seen.blind:
        yield "error", seen.blind
        return
    down: Mapping[str, str] = {}
    for part in (stage.plan(wanted, seen, Run()) for stage in SET_UP if stage.applies(wanted)):
        yield from (("change", step.reason) for step in part.steps)
        yield from (("error", error) for error in part.errors)
        down = part.down or down
    later = awaiting(wanted, seen)
    for plan in (
        plan_models(wanted, seen, read_secrets(wanted), salt=secrets.token_hex(16), down=down, left_out=later),
        plan_jobs(wanted, seen),
    ):
        yield from (("warning", warning) for warning in plan.warnings)
        yield from (("change", reason) for reason in plan.reasons)
        yield from (
            ("error", error) for error in lines_of(Failure(sentence, name) for name, sentence in plan.errors.items())
        )
    yield from (("change", f"{name}: after the job {job}") for name, job in later.items())
