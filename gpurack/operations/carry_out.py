"""What the operations share: plan, print the reasons, act."""

import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

from pyinfra import host
from pyinfra.api import Host
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.state import StateStage

from gpurack.facts.model import HostFacts
from gpurack.facts.record import Replacing
from gpurack.operations.commands import (
    PYTHON,
    Refusal,
    Streamed,
    carry_out,
    slow,
    under_lock,
    until_changed,
    waiting_command,
)
from gpurack.operations.run_state import host_run, outdate, snapshot
from gpurack.plan.host import waiting, waiting_for
from gpurack.plan.steps import Finding, Kind, Plan, Step
from gpurack.shell import grouped, sh
from gpurack.spec.host import Host as Spec
from gpurack.spec.problems import Problem

SIGNS: Mapping[Kind, str] = {"warning": "warning", "change": "~", "removal": "~", "error": "error"}
RED = ("removal", "error")
P = ParamSpec("P")
Commands = Generator[PyinfraCommand, None, None]


def fail_only_this_host(operation: str) -> Callable[[Callable[P, Commands]], Callable[P, Commands]]:
    """Decorate an operation so that an error in gpurack itself fails only this host.

    pyinfra (3.10.0) would abort the run on all hosts. operation: its name.
    """

    def decorate(commands: Callable[P, Commands]) -> Callable[P, Commands]:
        @wraps(commands)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Commands:
            call: Callable[..., Commands] = commands
            try:
                yield from call(*args, **with_spec(kwargs))
            except Exception as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{type(error).__name__}: {error}, {frame.filename.rpartition('/')[2]}:{frame.lineno}"
                yield from carry_out_plan(operation, Plan(errors=(Problem.of("internal-error", where=where),)))

        return guarded

    return decorate


def with_spec(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operation, whose `spec` was called `wanted` until 2026: deploys of others may say so."""
    if "wanted" not in arguments:
        return dict(arguments)
    host.log_styled("deprecated: the argument `wanted` is called `spec` now. Rename it.", fg="yellow")
    return {"spec" if name == "wanted" else name: value for name, value in arguments.items()}


def refused_before(operation: str) -> bool:
    """Did an earlier operation refuse the host?

    Without -y, pyinfra still plans the other operations. A plan for a host that is not supported or could not be
    inspected would be wrong. At Execute such a host has already left the run.
    """
    preparing = host.state.current_stage < StateStage.Execute
    return preparing and host_run(host).refused_by not in ("", operation)


def carry_out_plan(operation: str, plan: Plan) -> Iterator[PyinfraCommand]:
    """Yield the commands of a plan with steps and errors. Its reasons are printed before the first one."""
    if refused_before(operation):
        host.noop(f"{operation}: not planned, see the error above")
        return
    run = host_run(host)
    run.refused_by = operation if plan.errors else ""
    if plan.down is not None:
        run.users_down = dict(plan.down)
    if plan.nothing:
        announce(plan.findings)
        host.noop(f"{operation}: nothing to do")
        return
    announce(plan.findings, plan.errors)
    failed = yield from carry_out_steps(plan.steps)
    if host.state.is_executing:  # a step that fails ends the operation before
        run.host_changes += dict.fromkeys(step.reason for step in plan.steps if step.reason and step.user not in failed)
    errors = [*plan.errors]
    if plan.down is None:
        errors += failed.values()
    else:
        run.users_down |= failed
    if errors:
        yield Refusal(errors)


def when_free(operation: str, spec: Spec, facts: HostFacts) -> Generator[PyinfraCommand, None, HostFacts]:
    """Return the host's facts as soon as no other run works on it."""
    if not facts.busy:
        return facts
    announce(waiting(facts))
    yield waiting_command(Streamed(PYTHON, _stdin=under_lock(sh("true"), operation)))
    outdate(host)
    return snapshot(host, spec)


def when_changed(
    operation: str, spec: Spec, facts: HostFacts, changes: Sequence[Replacing]
) -> Generator[PyinfraCommand, None, HostFacts]:
    """Return the host's facts as soon as another run has ended these changes, or after an hour.

    One that takes longer keeps its entries, and the runner says so (files/claims.py).
    """
    if not changes:
        return facts
    announce(waiting_for(changes))
    yield waiting_command(slow(grouped(until_changed(one) for one in changes)))
    outdate(host)
    return snapshot(host, spec)


def carry_out_steps(steps: Sequence[Step]) -> Generator[PyinfraCommand, None, dict[str, Problem]]:
    """Yield the commands of steps. Return user → why one of that user's steps failed."""
    failed: dict[str, Problem] = {}
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


def announce(findings: Sequence[Finding], failures: Sequence[Problem] = ()) -> None:
    """Print what will happen and why, once: at Prepare, and at Execute only what is new.

    failures: the errors among the findings, with the entry or part that each is about. The names of operations are
    shared by all hosts, so they cannot contain reasons.
    """
    run = host_run(host)
    run.foreseen += failures
    for finding in findings:
        if finding in run.announced:
            continue
        run.announced.append(finding)
        if finding.kind == "error" and host.state.current_stage >= StateStage.Execute:
            run.refused_now.append(finding.line)
        host.log_styled(f"{SIGNS[finding.kind]} {finding.text}", fg="red" if finding.kind in RED else "yellow")


def unattended(target: Host) -> bool:
    """Does the run proceed without confirmation (`-y`)?"""
    return not (target.state.should_check_for_changes() or host_run(target).confirmed)
