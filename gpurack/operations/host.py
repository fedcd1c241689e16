"""What the operations share: plan, say the reasons, act."""

import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import wraps
from typing import ParamSpec

from pyinfra import host
from pyinfra.api import Host
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.state import StateStage

from gpurack.operations.commands import SAID_NOW, Refusal, Streamed, carry_out
from gpurack.plan.steps import Finding, Kind, Plan, Step
from gpurack.report import REPORT

_REFUSED = "gpurack refused"
DOWN = "gpurack users whose Docker is not right"
SAID = "gpurack said"
SIGNS: Mapping[Kind, str] = {"warning": "warning", "change": "~", "error": "error"}
P = ParamSpec("P")
Commands = Generator[PyinfraCommand, None, None]


def others_unharmed(operation: str) -> Callable[[Callable[P, Commands]], Callable[P, Commands]]:
    """For an operation of that name: an error in gpurack itself fails this host with a sentence. pyinfra (3.10.0) would
    end the run for all hosts, wherever they are."""

    def decorate(commands: Callable[P, Commands]) -> Callable[P, Commands]:
        @wraps(commands)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Commands:
            try:
                yield from commands(*args, **kwargs)
            except Exception as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{type(error).__name__}: {error}, {frame.filename.rpartition('/')[2]}:{frame.lineno}"
                yield from carry_out_plan(
                    operation, Plan(errors=(f"a mistake of gpurack's own ({where}); report it.",))
                )

        return guarded

    return decorate


def refused_before(operation: str) -> bool:
    """Did an operation before this one refuse the host? Without -y pyinfra plans the rest all the same, and plans for a
    host that cannot be looked at, or is not supported, would be fiction. (At Execute such a host is out of the run.)"""
    preparing = host.state.current_stage < StateStage.Execute
    return preparing and host.connector_data.get(_REFUSED, operation) != operation


def carry_out_plan(operation: str, plan: Plan) -> Iterator[PyinfraCommand]:
    """The commands of a plan of steps and errors. Reasons are printed before the first."""
    if refused_before(operation):
        host.noop(f"{operation}: not planned, see the error above")
        return
    if plan.errors:
        host.connector_data[_REFUSED] = operation
    else:
        host.connector_data.pop(_REFUSED, None)
    if plan.down is not None:
        host.connector_data[DOWN] = plan.down
    if plan.nothing:
        host.noop(f"{operation}: nothing to do")
        return
    announce(plan.findings)
    failed = yield from carry_out_steps(plan.steps)
    errors = [*plan.errors]
    if plan.down is None:
        errors += failed.values()
    else:
        host.connector_data[DOWN] = {**plan.down, **failed}
    if errors:
        yield Refusal(errors)


def carry_out_steps(steps: Sequence[Step]) -> Generator[PyinfraCommand, None, dict[str, str]]:
    """The commands of steps. Returns the users of whose steps one failed → why."""
    failed: dict[str, str] = {}
    for step in steps:
        if step.user in failed:
            continue
        for command in carry_out(step):
            if isinstance(command, Streamed):
                command.of_user = bool(step.user)
            yield command
            if isinstance(command, Streamed) and command.problem:
                failed[step.user] = command.problem
                break
    return failed


def users_down() -> Mapping[str, str]:
    """Users whose rootless Docker an operation before this one could not make right → why."""
    down: Mapping[str, str] = host.connector_data.get(DOWN, {})
    return down


def announce(findings: Sequence[Finding]) -> None:
    """Says on the screen what will happen and why, once: at Prepare, and at Execute only what was not said then.

    The names of operations are shared by all hosts, so they cannot carry reasons.
    """
    if errors := [sentence for kind, sentence in findings if kind == "error"]:
        REPORT.announced(host.name, errors)
    said = host.connector_data.setdefault(SAID, [])
    for finding in findings:
        if finding in said:
            continue
        said.append(finding)
        kind, sentence = finding
        if kind == "error" and host.state.current_stage >= StateStage.Execute:
            host.connector_data.setdefault(SAID_NOW, []).append(sentence)
        host.log_styled(f"{SIGNS[kind]} {sentence}", fg="red" if kind == "error" else "yellow")


def unattended(target: Host) -> bool:
    """`-y`: nobody confirms what Prepare announced."""
    return not target.state.should_check_for_changes()
