"""The operations that make a host's models and jobs match the inventory."""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from pyinfra import host
from pyinfra.api import Host as PyinfraHost
from pyinfra.api import State, operation
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import PyinfraCommand
from pyinfra.connectors.util import CommandOutput
from typing_extensions import override

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.inventory.origin import claim
from gpurack.inventory.secrets import read_values
from gpurack.operations.carry_out import (
    announce,
    carry_out_plan,
    fail_only_this_host,
    refused_before,
    unattended,
    when_changed,
    when_free,
)
from gpurack.operations.commands import Refusal, Streamed, carry_out, script
from gpurack.operations.copying import Copy
from gpurack.operations.output import was_killed
from gpurack.operations.run_state import host_run, outdate, snapshot
from gpurack.plan.host import (
    JOBS,
    MODELS,
    MODELS_OF_JOBS,
    awaited_changes,
    may_remove,
    refused_removals,
    unfinished,
)
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.failures import retried, unknown_retries
from gpurack.plan.models.jobs import desire_job, due
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.ownership import NO_CLAIM, Claim, commits
from gpurack.plan.models.plan import ModelsPlan, awaited
from gpurack.plan.models.preparing import preparation
from gpurack.plan.models.stop import plan_stop
from gpurack.plan.run import Run, Verb, as_preview
from gpurack.plan.steps import Plan
from gpurack.plan.system.docker import unanswered
from gpurack.remote import Command
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

PRUNED = "ollama"
"""The value of `--data prune=` that removes models which an ollama has in addition to those listed."""
ACTIONS = {"Models": "apply", "Jobs": "jobs", "Stop": "stop"}
"""Operation → what the runner is called with."""
RECOVER = sh("python3 {} recover", paths.RUNNER)
YES = "yes"
"""The value that `--data renew=` and `--data take_over=` support."""


@operation()
@fail_only_this_host("Models")
def models(
    spec: Host,
    prune: str | None = None,
    after_jobs: bool = False,
    renew: str | None = None,
    retry: str | None = None,
    take_over: str | None = None,
    allow_remove: int | str | None = None,
    prepare: str | None = None,
    inventory: str | None = None,
    only: str = "",
    rollback: str = "",
    verb: Verb = "apply",
    database: str = "",
) -> Generator[PyinfraCommand, None, None]:
    """
    Run each model of the inventory in its container, ready and answering.

    Models that the inventory no longer has are removed.

    + spec: the host's spec, from `gpurack.inventory.fleet.read_fleet`
    + prune: "ollama": remove models that an ollama has pulled in addition to those listed
    + after_jobs: the jobs have run, so models that serve their results are no longer left out
    + renew: "yes": recreate containers that run with settings of an older gpurack
    + retry: "HOST/MODEL", several with commas, or "HOST/all": try what failed again
    + take_over: "yes": take models of another lab over that the inventory has
    + allow_remove: the exact number of models that may be removed where that empties a host, or removes most of many
    + prepare: "yes": only bring weights, images and models of an ollama that the host lacks, while everything serves
    + inventory: the inventory's file, for the host's record
    + only: the name of one model; all others stay as they are
    + rollback: the mark of the entry that an earlier definition replaces, for the host's record
    + verb: "start" or "restart": do that with the model `only`
    + database: the copy of its database that is brought back with it

    **Example:**

    .. code:: python

        models.models(name="Models", spec=read_fleet(inventory)[host.name])
    """
    if refused := host_run(host).refused:
        yield from carry_out_models(spec, refused)
        return
    facts = yield from (usable if prepare is None else answering)("Models", spec)
    if facts is None:
        return
    words = {"prune": prune, "renew": renew, "take_over": take_over, "prepare": prepare, "allow_remove": allow_remove}
    if wrong := unsupported_words(words):
        yield from carry_out_plan("Models", Plan(errors=tuple(wrong)))
        return
    mine = ",".join(item for item in str(retry or "").split(",") if item.strip().startswith(f"{host.name}/"))
    if unknown := unknown_retries(mine, {host.name: spec}):
        yield from carry_out_plan("Models", Plan(errors=tuple(unknown)))
        return
    stage = MODELS_OF_JOBS if after_jobs else MODELS
    run = host_run(host)
    rights = rights_of(spec, facts, inventory, take_over, allow_remove)
    wanted = this_run(spec, prune == PRUNED, renew == YES, retry, rights)
    wanted = replace(wanted, only=only, rollback=rollback, database=database, verb=verb)
    if prepare:
        yield from carry_out_preparation(spec, stage.plan(spec, facts, as_preview(wanted)), facts)
        return
    changes = awaited_changes(stage.plan(spec, facts, wanted), facts) if facts.changing else ()
    if changes:
        facts = yield from when_changed("Models", spec, facts, changes)
        rights = rights_of(spec, facts, inventory, take_over, allow_remove)
        wanted = replace(wanted, claim=rights)
    plan = stage.plan(spec, facts, wanted)
    if plan.removals.names:  # the plan of another stage may know none
        run.removals = plan.removals
    if rights.allowed == plan.removals.number:
        run.removals_confirmed = rights.allowed
    yield from carry_out_models(spec, plan)
    if plan.nothing and host_run(host).host_changes and host.state.is_executing:
        yield noting(rights.origin.payload)


def noting(origin: Mapping[str, Any]) -> Command:
    """Return the command that puts what earlier stages changed into the host's history, where no model is changed.

    It never fails. A host without a record, or with an older runner, keeps none of it.
    """
    run = host_run(host)
    told, run.host_changes = {"verb": "apply", "origin": origin, "host": run.host_changes}, []
    return Command(script(sh("python3 {} note || :", paths.RUNNER)), _stdin=json.dumps(told))


def rights_of(
    spec: Host, facts: HostFacts, inventory: str | None, take_over: str | None, allow_remove: int | str | None
) -> Claim:
    """Return what a run may do with models that are there. The arguments are those of `models`, and valid."""
    confirmed = host_run(host).removals_confirmed
    if confirmed is None and allow_remove is not None:
        confirmed = int(allow_remove)
    return claim(spec.lab, Path(inventory) if inventory else None, commits(facts), take_over == YES, confirmed)


def refuses_removals(
    spec: Host,
    inventory: str | None,
    take_over: str | None = None,
    allow_remove: int | str | None = None,
    renew: str | None = None,
    retry: str | None = None,
) -> bool:
    """Say whether this run leaves the host alone, because removals are not confirmed (plan/host.py).

    Then `models` refuses by the same plan. The arguments are those of `models`.
    """
    facts, run = snapshot(host, spec), host_run(host)
    if run.refused is None and may_remove(spec, facts):
        rights = rights_of(spec, facts, inventory, take_over, allow_remove)
        run.refused = refused_removals(spec, facts, this_run(spec, renew=renew == YES, retry=retry, rights=rights))
    return run.refused is not None


def this_run(
    spec: Host, prune: bool = False, renew: bool = False, retry: str | None = None, rights: Claim = NO_CLAIM
) -> Run:
    """Return what plans of models and jobs depend on. Raises SecretError."""
    return Run(
        unattended(host),
        executing=host.state.is_executing,
        down=host_run(host).users_down,
        values=read_values(spec),
        salt=token_hex(16),
        prune=prune,
        renew=renew,
        retry=retried(retry, host.name, spec),
        claim=rights,
    )


@operation()
@fail_only_this_host("Stop")
def stop(
    spec: Host, entry: str, hold: str | None = None, inventory: str | None = None
) -> Generator[PyinfraCommand, None, None]:
    """
    Stop the container of one model, also over reboots.

    + spec: the host's spec, from `gpurack.inventory.fleet.read_fleet`
    + entry: the name of the model or service
    + hold: the reason of a hold, which survives runs; without it, the next run starts the model
    + inventory: the inventory's file, for the host's record

    **Example:**

    .. code:: python

        models.stop(name="Stop", spec=read_fleet(inventory)[host.name], entry="bge-m3", hold="GPU 1 is replaced")
    """
    facts = yield from usable("Stop", spec)
    if facts is None:
        return
    facts = yield from when_changed("Stop", spec, facts, facts.changing_now([entry]))
    rights = claim(spec.lab, Path(inventory) if inventory else None, commits(facts))
    yield from carry_out_models(spec, plan_stop(Observed(entry, spec, facts), rights, hold), "Stop")


@operation()
@fail_only_this_host("Jobs")
def jobs(spec: Host, prepare: str | None = None, inventory: str | None = None) -> Generator[PyinfraCommand, None, None]:
    """
    Run the inventory's jobs that are not done, one after the other. Their results are kept.

    + spec: the host's spec, from `gpurack.inventory.fleet.read_fleet`
    + prepare: "yes": only bring the weights and images that the host lacks
    + inventory: the inventory's file, for the host's record

    **Example:**

    .. code:: python

        models.jobs(name="Jobs", spec=read_fleet(inventory)[host.name])
    """
    facts = yield from (usable if prepare is None else answering)("Jobs", spec)
    if facts is None:
        return
    if prepare not in (None, YES):
        yield from carry_out_plan("Jobs", Plan(errors=(unsupported("prepare", prepare, YES),)))
        return
    rights = claim(spec.lab, Path(inventory) if inventory else None, commits(facts))
    wanted = this_run(spec, rights=rights)
    if prepare:
        yield from carry_out_preparation(spec, JOBS.plan(spec, facts, as_preview(wanted)), facts, "Jobs")
        return
    changes = awaited_changes(JOBS.plan(spec, facts, wanted), facts) if facts.changing else ()
    facts = yield from when_changed("Jobs", spec, facts, changes)
    yield from carry_out_models(spec, JOBS.plan(spec, facts, wanted), "Jobs")


def unsupported_words(words: Mapping[str, Any]) -> list[Problem]:
    """Return an error for each of these words of `--data` whose value is not the known one; None is not given."""
    number = str(words.get("allow_remove"))
    known = {"prune": PRUNED, "renew": YES, "take_over": YES, "prepare": YES}
    known["allow_remove"] = number if number.isdecimal() else "N"
    given = {word: str(words[word]) for word in known if words.get(word) is not None}
    return [unsupported(word, value, known[word]) for word, value in given.items() if value != known[word]]


def unsupported(word: str, value: str | None, known: str) -> Problem:
    """Return the error about a value of `--data` that is not the known one."""
    return Problem.of("unsupported-data", word=word, value=value, known=f"--data {word}={known}")


def usable(operation: str, spec: Host) -> Generator[PyinfraCommand, None, HostFacts | None]:
    """Return the host's facts once no other run works on it; None if an error was printed instead."""
    facts = snapshot(host, spec)
    host_run(host).unfinished = []
    if not (facts.blind or refused_before(operation)):
        facts = yield from when_free(operation, spec, facts)
        if facts.interrupted:
            announce(unfinished(facts))
            recovery = Recovery() if operation in ("Models", "Stop") else Streamed(RECOVER)
            yield recovery
            if isinstance(recovery, Recovery) and operation == "Models":
                host_run(host).unfinished = recovery.left
            if host.state.is_executing:
                outdate(host)
    return (yield from answering(operation, spec))


def answering(operation: str, spec: Host) -> Generator[PyinfraCommand, None, HostFacts | None]:
    """Return the host's facts, whoever works on it; None if an error was printed instead."""
    facts = snapshot(host, spec)
    if facts.blind or refused_before(operation):
        yield from carry_out_plan(operation, Plan(errors=(facts.blind,) if facts.blind else ()))
        return None
    if host.state.is_executing and (problem := unanswered(facts)):
        yield from carry_out_plan(operation, Plan(errors=(problem,)))
        return None
    return facts


def carry_out_models(spec: Host, plan: ModelsPlan, operation: str = "Models") -> Iterator[PyinfraCommand]:
    """Write files first, then run one streamed command for all models (or jobs) of the host."""
    errors = list(plan.errors.values())
    run = host_run(host)
    announce(plan.findings, errors)
    if plan.nothing and not run.unfinished:
        if not plan.later:
            host.noop(f"{operation}: nothing to do")
        return
    for change in plan.changes:
        if change.action in (Action.CREATE, Action.RECREATE, Action.START, Action.RUN):
            run.planned[change.model] = change.action
    yield from carry_out_files(plan, plan.job or {})
    if plan.job:
        job, run.host_changes = {**plan.job, "host": run.host_changes}, []
        yield RunnerCall(spec, replace(plan, job=job) if job["host"] else plan, errors, ACTIONS[operation])
    elif errors or run.unfinished:
        yield Refusal([*errors, *run.unfinished])


def carry_out_files(plan: ModelsPlan, job: Mapping[str, Any]) -> Iterator[PyinfraCommand]:
    """Write and copy what the runner needs. Its payload gets the problems of copies."""
    for step in plan.steps:
        yield from carry_out(step)
    for upload in plan.uploads:
        copy = Copy(upload)
        yield copy
        for wanted_file in awaited(job) if copy.problem else ():
            if wanted_file.get("path") == upload.path:
                wanted_file["problem"] = copy.problem


def carry_out_preparation(
    spec: Host, plan: ModelsPlan, facts: HostFacts, operation: str = "Models"
) -> Iterator[PyinfraCommand]:
    """Bring what the host lacks for a plan, which is left to a following run. Nothing stops."""
    errors = list(plan.errors.values())
    announce(plan.findings, errors)
    lacking = preparation(plan.job, facts) if plan.job else None
    if lacking:
        yield from carry_out_files(plan, lacking)
        yield PrepareCall(spec, lacking)
    elif not errors:
        host.noop(f"{operation}: nothing to prepare")
    if errors:
        yield Refusal(errors)


class Recovery(Streamed):
    """Ends what earlier runs left. What cannot be ended yet, say because a user's Docker does not answer, is in `left`.

    It keeps no other model from its change, so this never fails."""

    of_models = True

    def __init__(self) -> None:
        super().__init__(RECOVER)
        self.left: list[Problem] = []

    @override
    def execute(
        self, state: State, host: PyinfraHost, connector_arguments: ConnectorArguments
    ) -> tuple[bool, CommandOutput]:
        run = host_run(host)
        before = len(run.failures)
        _, output = super().execute(state, host, connector_arguments)
        self.left, run.failures[before:] = run.failures[before:], []
        return True, output


class PrepareCall(Streamed):
    """A call of the runner that brings what the host lacks."""

    of_models = True

    def __init__(self, spec: Host, job: Mapping[str, Any]) -> None:
        super().__init__(sh("python3 {} prepare", paths.RUNNER), _stdin=json.dumps(job))
        self.spec = spec

    @override
    def execute(
        self, state: State, host: PyinfraHost, connector_arguments: ConnectorArguments
    ) -> tuple[bool, CommandOutput]:
        result = super().execute(state, host, connector_arguments)
        snapshot(host, self.spec)  # for the table at the end, when ssh is closed
        return result


class RunnerCall(Streamed):
    """A call of the runner on the host.

    Errors that were known before make it fail at the end, when the other models are done.
    """

    of_models = True

    def __init__(self, spec: Host, plan: ModelsPlan, errors: list[Problem], action: str) -> None:
        super().__init__(sh("python3 {} {}", paths.RUNNER, action), _stdin=json.dumps(plan.job))
        self.spec, self.plan, self.errors = spec, plan, errors
        self.explain = killed

    @override
    def execute(
        self, state: State, host: PyinfraHost, connector_arguments: ConnectorArguments
    ) -> tuple[bool, CommandOutput]:
        run = host_run(host)
        before = run.snapshot or HostFacts()
        ok, output = super().execute(state, host, connector_arguments)
        after = snapshot(host, self.spec)  # for the table at the end, when ssh is closed
        for change in self.plan.changes:
            failed = run.failure(self.spec.path_of(change.model))
            if change.action != Action.KEEP and not failed and happened(change, self.spec, before, after, ok):
                run.done[change.model] = change.action
        run.restored |= restored(before, after)
        acting = [change for change in self.plan.changes if change.action != Action.KEEP]
        if ok and not self.plan.steps and acting and all(change.looks_only for change in acting):
            run.asked += 1
        errors = [*self.errors, *(run.unfinished if after.interrupted else ())]
        run.failures += errors
        return ok and not errors, output


def killed(lines: Sequence[str]) -> Problem | None:
    """Return the error of a runner that did not end by itself, from its output: it names whatever fails.

    Its last line is of something that was under way."""
    return Problem.of("step-killed", what="the runner on the host") if was_killed(lines) else None


def happened(change: Change, spec: Host, before: HostFacts, after: HostFacts, ok: bool) -> bool:
    """Did a change happen that no error names? ok: did the runner end without errors?

    If not, it may have been cut off before this change; then the snapshots decide.
    """
    if ok:
        return True
    if change.action == Action.RUN:
        return not due(desire_job(change.model, spec), after)
    entry = spec.entries.get(change.model)
    if change.action == Action.REMOVE or entry is None:
        return (change.user, change.model) in before.ours and (change.user, change.model) not in after.ours
    old, new = (facts.container(change.model, entry.dockerd) for facts in (before, after))
    if change.action in (Action.CREATE, Action.RECREATE):
        return new is not None and new.running and (old is None or old.id != new.id)
    return new is not None and new.running


def restored(before: HostFacts, after: HostFacts) -> set[str]:
    """Return the entries that were down meanwhile because their change failed."""
    return {
        name
        for (user, name), failed in after.failed.items()
        if failed.down and failed != before.failed.get((user, name))
    }
