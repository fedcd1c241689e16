"""The stages of a host, in the order of a run: the table that deploys, `--dry` and `plan --live` read. Pure."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from gpurack.facts.model import HostFacts
from gpurack.facts.record import Replacing
from gpurack.plan.models.diff import Action
from gpurack.plan.models.jobs import awaiting, plan_jobs, serve_results
from gpurack.plan.models.neighbours import far
from gpurack.plan.models.ownership import own_view
from gpurack.plan.models.plan import ModelsPlan, plan_models
from gpurack.plan.models.removal import NOTHING, Removals
from gpurack.plan.run import Run
from gpurack.plan.steps import Finding, Plan, as_findings
from gpurack.plan.system.daemon_json import plan_daemon_json, swarm_warning
from gpurack.plan.system.docker import plan_docker, unanswered, with_source
from gpurack.plan.system.gpu_host import gpu_warnings
from gpurack.plan.system.nvidia_toolkit import plan_toolkit
from gpurack.plan.system.rootless import not_ready, plan_rootless, unusable
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem


@dataclass(frozen=True)
class Stage:
    """One row of a run's results.

    name: as shown. plan: what it does on a host. applies: does the host's inventory need it?
    """

    name: str
    plan: Callable[[Host, HostFacts, Run], Plan | ModelsPlan]
    applies: Callable[[Host], bool] = lambda spec: True


@dataclass(frozen=True)
class SetUp(Stage):
    """A stage up to a Docker that can give GPUs to containers.

    If it has errors, no later stage is planned. needs_docker: does it need an installed Docker?
    """

    plan: Callable[[Host, HostFacts, Run], Plan]
    needs_docker: bool = False


@dataclass(frozen=True)
class Serving(Stage):
    """A stage of models or jobs. Each of them has errors of its own."""

    plan: Callable[[Host, HostFacts, Run], ModelsPlan]


def plan_serving(spec: Host, facts: HostFacts, run: Run) -> ModelsPlan:
    """Plan the models, except those that wait for a job."""
    return _models(spec, facts, run, awaiting(spec, facts))


def plan_after_jobs(spec: Host, facts: HostFacts, run: Run) -> ModelsPlan:
    """Plan the models once the jobs have run. Before, nothing is known about those that wait for one."""
    later = awaiting(spec, facts)
    return ModelsPlan(later=later) if later and not run.executing else _models(spec, facts, run, ())


def plan_jobs_of(spec: Host, facts: HostFacts, run: Run) -> ModelsPlan:
    """Plan the jobs that are due."""
    facts = own_view(spec, facts, run.claim)
    return with_remarks(plan_jobs(spec, facts, run), facts)


def _models(spec: Host, facts: HostFacts, run: Run, left_out: Collection[str]) -> ModelsPlan:
    # Before the run, only what an earlier stage cannot fix is an error; during it, whatever is not ready.
    in_the_way = not_ready if run.executing else unusable
    users = {entry.user for entry in spec.entries.values() if entry.enabled and entry.user}
    down = {user: why for user in sorted(users) if (why := in_the_way(user, facts))}
    plan = plan_models(spec, facts, replace(run, down={**down, **run.down}), left_out)
    return with_remarks(
        replace(plan, warnings=(*swarm_warning(facts), *gpu_warnings(spec, facts), *plan.warnings)), facts
    )


def with_remarks(plan: ModelsPlan, facts: HostFacts) -> ModelsPlan:
    """Add the warnings about the snapshot to a plan."""
    return replace(plan, warnings=(*facts.remarks, *plan.warnings))


def may_remove(spec: Host, facts: HostFacts) -> bool:
    """Say whether the host has models that the inventory lacks, so that a run may be refused for them."""
    return not facts.blind and any(name not in spec.entries for _, name in facts.ours)


def refused_removals(spec: Host, facts: HostFacts, run: Run) -> ModelsPlan | None:
    """Return the plan of the models where it leaves the host alone, because removals are not confirmed; else None.

    Then it is the plan of the whole host: no other stage may change anything. Every view reads it (`preview`, the
    operations of a run). Only the plan knows: what a new entry replaces is not removed.
    """
    if not (run.unattended or run.executing) or not may_remove(spec, facts):  # else the prompt asks
        return None
    plan = plan_serving(spec, facts, run)
    return plan if "" in plan.errors else None


def waiting(facts: HostFacts) -> list[Finding]:
    """Return the finding for a host that another run works on. Models and jobs wait for it."""
    return as_findings("change", [Problem.of("another-run", who=facts.busy)] if facts.busy else [])


def awaited_changes(plan: ModelsPlan, facts: HostFacts) -> tuple[Replacing, ...]:
    """Return the changes of another run, in several Dockers, that have to end before a plan is carried out.

    They are about entries of the plan. A job may need what any of them gives up.
    """
    runs_job = any(change.action == Action.RUN for change in plan.changes)
    return facts.changing_now(None if runs_job else plan.concerned)


def waiting_for(changes: Sequence[Replacing]) -> list[Finding]:
    """Return the finding for changes of another run that have to end first."""
    names = ", ".join(sorted(name for one in changes for name in one.names))
    return as_findings("change", [Problem.of("another-run", who=f"it changes {names}")] if names else [])


def unfinished(facts: HostFacts) -> list[Finding]:
    """Return the finding for a host on which a change was interrupted. The models come after its end."""
    names = ", ".join(facts.interrupted)
    return as_findings("change", [Problem.of("change-interrupted", names=names)] if names else [])


@dataclass(frozen=True)
class Preview:
    """What a run would do on a host.

    findings: everything that it would print before it changes anything, each line once. removals: what it would remove
    because the inventory does not have it. idle: is it certain that no stage does anything, so that none has to be
    planned again? False where something can be known only during the run: of users' Dockers, jobs and other hosts.
    refused: the plan that leaves the host alone, None where no removal is refused.
    """

    findings: tuple[Finding, ...] = ()
    removals: Removals = NOTHING
    idle: bool = False
    refused: ModelsPlan | None = None


def preview(spec: Host, facts: HostFacts, run: Run) -> Preview:
    """Return what a run would do on a host."""
    if facts.blind:
        return Preview(tuple(as_findings("error", [facts.blind])))
    if refused := refused_removals(spec, facts, run):
        return Preview(tuple(refused.findings), refused.removals, refused=refused)
    lines: dict[Finding, None] = {}
    removals = NOTHING
    idle = not (facts.busy or facts.interrupted or unanswered(facts))
    for stage in STAGES:
        if not stage.applies(spec):
            continue
        idle = idle and stage in ALONE
        if isinstance(stage, Serving):
            lines |= dict.fromkeys([*waiting(facts), *unfinished(facts)])
        plan = stage.plan(spec, facts, run)
        idle = idle and plan.nothing
        if isinstance(plan, ModelsPlan):
            lines |= dict.fromkeys(waiting_for(awaited_changes(plan, facts)))
        lines |= dict.fromkeys(plan.findings)
        if isinstance(plan, Plan):
            run = run if plan.down is None else replace(run, down=plan.down)
            if plan.errors:
                break
        elif plan.removals.names:  # the plan of another stage may know none
            removals = plan.removals
    return Preview(tuple(lines), removals, idle)


DOCKER = SetUp("Docker", plan=lambda spec, state, run: plan_docker(spec, state, run.unattended))
TOOLKIT = SetUp("NVIDIA Container Toolkit", plan=lambda spec, state, run: plan_toolkit(spec, state, run.models))
DAEMON_JSON = SetUp(
    "daemon.json",
    plan=lambda spec, state, run: plan_daemon_json(spec, state, run.unattended, run.toolkit),
    needs_docker=True,
)
ROOTLESS = SetUp(
    "Rootless Docker",
    applies=lambda spec: bool(spec.users),
    plan=lambda spec, state, run: plan_rootless(with_source(spec, state), state, run.unattended, run.models),
    needs_docker=True,
)
MODELS = Serving("Models", plan=plan_serving)
JOBS = Serving("Jobs", applies=lambda spec: bool(spec.jobs), plan=plan_jobs_of)
MODELS_OF_JOBS = Serving("Models of jobs", applies=serve_results, plan=plan_after_jobs)
CONNECTIONS = Stage("Connections", applies=lambda spec: any(far(spec)), plan=lambda spec, state, run: Plan())
"""Nothing is planned: whether services reach other hosts is known only when those are done."""

SET_UP = (DOCKER, TOOLKIT, DAEMON_JSON, ROOTLESS)
"""The stages that prepare a host for models."""
SERVING = (MODELS, JOBS, MODELS_OF_JOBS, CONNECTIONS)
"""Models first, because clients wait for them; then jobs, and the models that serve their results.

Last the check of what services reach on other hosts.
"""
STAGES = (*SET_UP, *SERVING)
ALONE = (DOCKER, TOOLKIT, DAEMON_JSON, MODELS)
"""The stages that plan the same before and during a run on a host where nothing changes meanwhile."""
