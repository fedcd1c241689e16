"""What the operations share: plan, say the reasons, act."""

from collections.abc import Iterator, Sequence

from pyinfra import host
from pyinfra.api import Host
from pyinfra.api.command import PyinfraCommand

from gpurack.operations.commands import Refusal, carry_out
from gpurack.plan.steps import Plan


def carry_out_plan(operation: str, plan: Plan) -> Iterator[PyinfraCommand]:
    """The commands of a plan of steps and errors. Reasons are printed before the first."""
    if plan.nothing:
        host.noop(f"{operation}: nothing to do")
        return
    announce(operation, [step.reason for step in plan.steps], plan.errors)
    for step in plan.steps:
        yield from carry_out(step)
    if plan.errors:
        yield Refusal(list(plan.errors))


def announce(operation: str, reasons: Sequence[str], errors: Sequence[str] = ()) -> None:
    """Says on the screen what will happen and why, once: at Prepare, and at Execute only what was not said then.

    The names of operations are shared by all hosts, so they cannot carry reasons.
    """
    lines = [f"~ {reason}" for reason in reasons] + [f"error {error}" for error in errors]
    said = host.connector_data.setdefault(f"gpurack said {operation}", [])
    for line in lines:
        if line not in said:
            said.append(line)
            if line.startswith("error "):
                host.log_styled(line, fg="red")
            else:
                host.log_styled(line, fg="yellow")


def unattended(target: Host) -> bool:
    """`-y`: nobody confirms what Prepare announced."""
    return not target.state.should_check_for_changes()
