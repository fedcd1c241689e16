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
    """What a plan depends on beside inventory and host.

    unattended: nobody confirms (`-y`). toolkit, models: do these stages belong to the run? Models say themselves what
    stands in their way, so that other models are served all the same. executing: the changes are made, no longer
    announced only. down: users whose rootless Docker an earlier stage could not make right → why.
    values: of the host's secrets. salt: fresh random hex, for fingerprints. prune, renew: as for plan_models.
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
    """One row of a run's results. name: as it is shown. plan: what it does on a host. applies: does the host's
    inventory ask for anything of it?"""

    name: str
    plan: Callable[[Host, HostFacts, Run], Plan | ModelsPlan]
    applies: Callable[[Host], bool] = lambda spec: True


@dataclass(frozen=True)
class SetUp(Stage):
    """A stage up to a Docker that can give GPUs to containers; where it has errors, none of the later ones is planned.
    needs_docker: it waits for Docker to be installed."""

    plan: Callable[[Host, HostFacts, Run], Plan]
    needs_docker: bool = False


@dataclass(frozen=True)
class Serving(Stage):
    """A stage of models or jobs, each of which has errors of its own."""

    plan: Callable[[Host, HostFacts, Run], ModelsPlan]


def plan_serving(spec: Host, facts: HostFacts, run: Run) -> ModelsPlan:
    """The models, but for those that wait for a job."""
    return _models(spec, facts, run, awaiting(spec, facts))


def plan_after_jobs(spec: Host, facts: HostFacts, run: Run) -> ModelsPlan:
    """The models once the jobs have run. Before, nothing is known of those that wait for one."""
    later = awaiting(spec, facts)
    return ModelsPlan(later=later) if later and not run.executing else _models(spec, facts, run, ())


def plan_jobs_of(spec: Host, facts: HostFacts, run: Run) -> ModelsPlan:
    """The jobs that are due."""
    return remarked(plan_jobs(spec, facts, run.values.hf_token, run.values.logins), facts)


def _models(spec: Host, facts: HostFacts, run: Run, left_out: Collection[str]) -> ModelsPlan:
    # what the rootless Dockers still lack, the stage before this one brings
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
    return remarked(plan, facts)


def remarked(plan: ModelsPlan, facts: HostFacts) -> ModelsPlan:
    """A plan with what is to be said of its host."""
    return replace(plan, warnings=(*facts.remarks, *plan.warnings))


def waiting(facts: HostFacts) -> list[Finding]:
    """What is said where another run works on the host: models and jobs come after it."""
    return as_findings("change", [Problem.of("another-run", who=facts.busy)] if facts.busy else [])


def findings(spec: Host, facts: HostFacts, run: Run) -> list[Finding]:
    """Everything that a run would say of a host before it changes anything, each line once."""
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
"""Whether services reach what is on other hosts is known when those are done, so nothing of it is planned."""

SET_UP = (DOCKER, TOOLKIT, DAEMON_JSON, ROOTLESS)
"""What makes a host ready for models."""
SERVING = (MODELS, JOBS, MODELS_OF_JOBS, CONNECTIONS)
"""Models first, because clients wait for them; then jobs, and the models that serve their results; then what services
reach on other hosts."""
STAGES = (*SET_UP, *SERVING)
