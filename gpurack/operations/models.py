"""The operations that make a host's models and jobs match the inventory."""

import json
from collections.abc import Generator, Iterator
from secrets import token_hex

from pyinfra import host
from pyinfra.api import Host as PyinfraHost
from pyinfra.api import State, operation
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import PyinfraCommand
from pyinfra.connectors.util import CommandOutput
from typing_extensions import override

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.inventory.secrets import read_values
from gpurack.operations.carry_out import (
    announce,
    carry_out_plan,
    fail_only_this_host,
    refused_before,
    unattended,
    when_free,
)
from gpurack.operations.commands import Refusal, Streamed, carry_out
from gpurack.operations.copying import Copy
from gpurack.operations.run_state import host_run, snapshot
from gpurack.plan.host import JOBS, MODELS, MODELS_OF_JOBS, Run
from gpurack.plan.models.diff import Action
from gpurack.plan.models.plan import ModelsPlan, awaited
from gpurack.plan.steps import Plan
from gpurack.plan.system.docker import unanswered
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

PRUNED = "ollama"
"""The value of `--data prune=` that removes models which an ollama has in addition to those listed."""
RENEWED = "yes"
"""The value that `--data renew=` supports."""


@operation()
@fail_only_this_host("Models")
def models(
    spec: Host, prune: str | None = None, after_jobs: bool = False, renew: str | None = None
) -> Generator[PyinfraCommand, None, None]:
    """
    Run each model of the inventory in its container, ready and answering.

    Models that the inventory no longer has are removed.

    + spec: the host's spec, from `gpurack.inventory.fleet.read_fleet`
    + prune: "ollama": remove models that an ollama has pulled in addition to those listed
    + after_jobs: the jobs have run, so models that serve their results are no longer left out
    + renew: "yes": recreate containers that run with settings of an older gpurack

    **Example:**

    .. code:: python

        models.models(name="Models", spec=read_fleet(inventory)[host.name])
    """
    facts = yield from usable("Models", spec)
    if facts is None:
        return
    for word, value, known in (("prune", prune, PRUNED), ("renew", renew, RENEWED)):
        if value not in (None, known):
            error = Problem.of("unsupported-data", word=word, value=value, known=f"--data {word}={known}")
            yield from carry_out_plan("Models", Plan(errors=(error,)))
            return
    stage = MODELS_OF_JOBS if after_jobs else MODELS
    plan = stage.plan(spec, facts, this_run(spec, prune=prune == PRUNED, renew=renew == RENEWED))
    yield from carry_out_models(spec, plan)


def this_run(spec: Host, prune: bool = False, renew: bool = False) -> Run:
    """Return what plans of models and jobs depend on. Raises SecretError."""
    return Run(
        unattended(host),
        executing=host.state.is_executing,
        down=host_run(host).users_down,
        values=read_values(spec),
        salt=token_hex(16),
        prune=prune,
        renew=renew,
    )


@operation()
@fail_only_this_host("Jobs")
def jobs(spec: Host) -> Generator[PyinfraCommand, None, None]:
    """
    Run the inventory's jobs that are not done, one after the other. Their results are kept.

    + spec: the host's spec, from `gpurack.inventory.fleet.read_fleet`

    **Example:**

    .. code:: python

        models.jobs(name="Jobs", spec=read_fleet(inventory)[host.name])
    """
    facts = yield from usable("Jobs", spec)
    if facts is None:
        return
    yield from carry_out_models(spec, JOBS.plan(spec, facts, this_run(spec)), "Jobs")


def usable(operation: str, spec: Host) -> Generator[PyinfraCommand, None, HostFacts | None]:
    """Return the host's facts once no other run works on it; None if an error was printed instead."""
    facts = snapshot(host, spec)
    if facts.blind or refused_before(operation):
        yield from carry_out_plan(operation, Plan(errors=(facts.blind,) if facts.blind else ()))
        return None
    facts = yield from when_free(operation, spec, facts)
    if host.state.is_executing and (problem := unanswered(facts)):
        yield from carry_out_plan(operation, Plan(errors=(problem,)))
        return None
    return facts


def carry_out_models(spec: Host, plan: ModelsPlan, operation: str = "Models") -> Iterator[PyinfraCommand]:
    """Write files first, then run one streamed command for all models (or jobs) of the host."""
    errors = list(plan.errors.values())
    run = host_run(host)
    announce(plan.findings, errors)
    if plan.nothing:
        if not plan.later:
            host.noop(f"{operation}: nothing to do")
        return
    for change in plan.changes:
        if change.action in (Action.CREATE, Action.RECREATE, Action.START, Action.RUN):
            run.planned[change.model] = change.action
    for step in plan.steps:
        yield from carry_out(step)
    for upload in plan.uploads:
        copy = Copy(upload)
        yield copy
        if copy.problem and plan.job:
            for wanted_file in awaited(plan.job):
                if wanted_file.get("path") == upload.path:
                    wanted_file["problem"] = copy.problem
    if plan.job:
        yield RunnerCall(spec, plan, errors, {"Models": "apply", "Jobs": "jobs"}[operation])
    elif errors:
        yield Refusal(errors)


class RunnerCall(Streamed):
    """A call of the runner on the host.

    Errors that were known before make it fail at the end, when the other models are done.
    """

    def __init__(self, spec: Host, plan: ModelsPlan, errors: list[Problem], action: str) -> None:
        super().__init__(sh("python3 {} {}", paths.RUNNER, action), _stdin=json.dumps(plan.job))
        self.spec, self.plan, self.errors = spec, plan, errors

    @override
    def execute(
        self, state: State, host: PyinfraHost, connector_arguments: ConnectorArguments
    ) -> tuple[bool, CommandOutput]:
        ok, output = super().execute(state, host, connector_arguments)
        run = host_run(host)
        for change in self.plan.changes:
            if change.action != Action.KEEP and not run.failure(self.spec.path_of(change.model)):
                run.done[change.model] = change.action
        run.failures += self.errors
        snapshot(host, self.spec)  # for the table at the end, when ssh is closed
        return ok and not self.errors, output
