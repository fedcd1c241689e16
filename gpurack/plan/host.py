"""The stages of a host, in the order of a run: the table that deploys, `--dry` and `plan --live` read. Pure."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from gpurack.facts.model import HostFacts
from gpurack.plan.models.jobs import awaiting, plan_jobs, serve_results
from gpurack.plan.models.neighbours import far
from gpurack.plan.models.plan import ModelsPlan, plan_models
from gpurack.plan.steps import Finding, Plan, as_findings
from gpurack.plan.system.daemon_json import plan_daemon_json
from gpurack.plan.system.docker import plan_docker
from gpurack.plan.system.nvidia_toolkit import plan_toolkit
from gpurack.plan.system.rootless import not_ready, plan_rootless, unusable
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem
from gpurack.spec.secret import NO_VALUES, Values


@dataclass(frozen=True)
class Run:
    """What a plan depends on, in addition to inventory and facts.

    unattended: does nobody confirm (`-y`)? toolkit, models: do these stages belong to the run? If models do, they
    report blockers themselves, so that the other models are served. executing: are changes made, not only announced?
    down: user → why an earlier stage could not set up that user's rootless Docker.

    values: of the host's secrets. salt: fresh random hex, for fingerprints. prune, renew: as in plan_models.
    """

    unattended: bool = False
    toolkit: bool = True
    models: bool = True
    executing: bool = False
    down: Mapping[str, Problem] = field(default_factory=dict)
    values: Values = NO_VALUES
    salt: str = ""
    prune: bool = False
    renew: bool = False


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
    return with_remarks(plan_jobs(spec, facts, run.values.hf_token, run.values.logins), facts)


def _models(spec: Host, facts: HostFacts, run: Run, left_out: Collection[str]) -> ModelsPlan:
    # Before the run, only what an earlier stage cannot fix is an error; during it, whatever is not ready.
    in_the_way = not_ready if run.executing else unusable
    users = {entry.user for entry in spec.entries.values() if entry.enabled and entry.user}
    down = {user: why for user in sorted(users) if (why := in_the_way(user, facts))}
    values = run.values
    plan = plan_models(
        spec,
        facts,
        values.entries,
        run.salt,
        values.hf_token,
        values.logins,
        run.prune,
        {**down, **run.down},
        left_out,
        run.renew,
    )
    return with_remarks(plan, facts)


def with_remarks(plan: ModelsPlan, facts: HostFacts) -> ModelsPlan:
    """Add the warnings about the snapshot to a plan."""
    return replace(plan, warnings=(*facts.remarks, *plan.warnings))


def waiting(facts: HostFacts) -> list[Finding]:
    """Return the finding for a host that another run works on. Models and jobs wait for it."""
    return as_findings("change", [Problem.of("another-run", who=facts.busy)] if facts.busy else [])


def findings(spec: Host, facts: HostFacts, run: Run) -> list[Finding]:
    """Return everything that a run would print about a host before it changes anything, each line once."""
    if facts.blind:
        return as_findings("error", [facts.blind])
    lines: dict[Finding, None] = {}
    for stage in STAGES:
        if not stage.applies(spec):
            continue
        if isinstance(stage, Serving):
            lines |= dict.fromkeys(waiting(facts))
        plan = stage.plan(spec, facts, run)
        lines |= dict.fromkeys(plan.findings)
        if isinstance(plan, Plan):
            run = run if plan.down is None else replace(run, down=plan.down)
            if plan.errors:
                break
    return list(lines)


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
    plan=lambda spec, state, run: plan_rootless(spec, state, run.unattended, run.models),
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
