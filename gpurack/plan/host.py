"""The stages of a host, in the order of a run: the table that deploys and `plan --live` read. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from gpurack.plan.daemon_json import plan_daemon_json
from gpurack.plan.docker import plan_docker
from gpurack.plan.jobs import serve_results
from gpurack.plan.neighbours import far
from gpurack.plan.nvidia_toolkit import plan_toolkit
from gpurack.plan.rootless import plan_rootless
from gpurack.plan.steps import Plan
from gpurack.spec.host import Host
from gpurack.state.model import HostState


@dataclass(frozen=True)
class Run:
    """What a plan depends on beside inventory and host.

    unattended: nobody confirms (`-y`). toolkit, models: do these stages belong to the run? Models say themselves what
    stands in their way, so that other models are served all the same.
    """

    unattended: bool = False
    toolkit: bool = True
    models: bool = True


@dataclass(frozen=True)
class Stage:
    """One row of a run's results. name: as it is shown. applies: does the host's inventory ask for anything of it?"""

    name: str
    applies: Callable[[Host], bool] = lambda spec: True


@dataclass(frozen=True)
class SetUp(Stage):
    """A stage up to a Docker that can give GPUs to containers. needs_docker: it waits for Docker to be installed."""

    plan: Callable[[Host, HostState, Run], Plan] = lambda spec, state, run: Plan()
    needs_docker: bool = False


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
MODELS = Stage("Models")
JOBS = Stage("Jobs", applies=lambda spec: bool(spec.jobs))
MODELS_OF_JOBS = Stage("Models of jobs", applies=serve_results)
CONNECTIONS = Stage("Connections", applies=lambda spec: any(far(spec)))

SET_UP = (DOCKER, TOOLKIT, DAEMON_JSON, ROOTLESS)
"""What makes a host ready for models."""
SERVING = (MODELS, JOBS, MODELS_OF_JOBS, CONNECTIONS)
"""Models first, because clients wait for them; then jobs, and the models that serve their results; then what services
reach on other hosts."""
STAGES = (*SET_UP, *SERVING)
