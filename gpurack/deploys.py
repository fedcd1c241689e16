"""The deploys: what deploys/*.py run, and what any other pyinfra project may import.

    from gpurack.deploys import gpu_host
    gpu_host()

Each checks the whole inventory before the first command runs on any host, and raises InventoryError with all errors.
docs/inventory.md describes the hosts' data.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pyinfra import host
from pyinfra.api import State, deploy
from pyinfra_cli.util import PYTHON_CODES

from gpurack.inventory.fleet import read_fleet, without_models
from gpurack.inventory.load import ignored_by_pyinfra
from gpurack.inventory.lock_file import with_lock
from gpurack.operations import host_setup
from gpurack.operations.connections import connections as connections_operation
from gpurack.operations.models import jobs as jobs_operation
from gpurack.operations.models import models as models_operation
from gpurack.operations.remove import remove as remove_operation
from gpurack.operations.report import Report
from gpurack.operations.run_state import snapshot
from gpurack.plan.host import (
    CONNECTIONS,
    DAEMON_JSON,
    DOCKER,
    JOBS,
    MODELS,
    MODELS_OF_JOBS,
    ROOTLESS,
    SERVING,
    STAGES,
    TOOLKIT,
    Stage,
)
from gpurack.plan.pins import contradictions
from gpurack.pyinfra_patches import harmless, read_any_bytes
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError

_reports: WeakKeyDictionary[State, Report] = WeakKeyDictionary()


@deploy("GPU host")
def gpu_host() -> None:
    """Install and configure everything: Docker, NVIDIA Container Toolkit, rootless Dockers, models and jobs."""
    carry_out(STAGES, begin(needs_models=True))


@deploy("Docker")
def docker() -> None:
    """Install Docker only, with its daemon.json and users' rootless Dockers."""
    carry_out((DOCKER, DAEMON_JSON, ROOTLESS), begin())


@deploy("NVIDIA")
def nvidia_toolkit() -> None:
    """Install the NVIDIA Container Toolkit only, and configure Docker for it. Docker must be installed."""
    carry_out((TOOLKIT, DAEMON_JSON), begin())


@deploy("Models")
def models() -> None:
    """Deploy the models and jobs only. Docker must be installed, and for GPUs the toolkit.

    `--data prune=ollama` removes models that an ollama has pulled and `pull` does not list.
    `--data renew=yes` recreates containers with settings of an older gpurack.
    """
    carry_out(SERVING, begin(needs_models=True))


@deploy("Remove")
def remove() -> None:
    """Takes away models and project; with `--data remove=all` Docker and the toolkit too. Never data."""
    spec = begin()
    _reports[host.state].removing = True
    what = host.data.get("remove") or "models"
    remove_operation(name="Remove", spec=spec, what=what, **privilege(spec))


def carry_out(stages: Sequence[Stage], spec: Host) -> None:
    """The operation of each of these stages that the host's inventory asks for."""
    become = privilege(spec)
    for stage, (operation, arguments) in operations(stages).items():
        if stage.applies(spec):
            operation(name=stage.name, spec=spec, **arguments, **become)


def operations(stages: Sequence[Stage]) -> dict[Stage, tuple[Callable[..., Any], dict[str, Any]]]:
    """Stage → (operation, arguments besides the spec), in order."""
    models_follow, renew = {"models_follow": MODELS in stages}, {"renew": host.data.get("renew")}
    table: Mapping[Stage, tuple[Callable[..., Any], dict[str, Any]]] = {
        DOCKER: (host_setup.docker, {}),
        TOOLKIT: (host_setup.nvidia_toolkit, models_follow),
        DAEMON_JSON: (host_setup.daemon_json, {"toolkit": TOOLKIT in stages}),
        ROOTLESS: (host_setup.rootless, models_follow),
        MODELS: (models_operation, {"prune": host.data.get("prune"), **renew}),
        JOBS: (jobs_operation, {}),
        MODELS_OF_JOBS: (models_operation, {"after_jobs": True, **renew}),
        CONNECTIONS: (connections_operation, {}),
    }
    return {stage: table[stage] for stage in stages}


def begin(needs_models: bool = False) -> Host:
    """The host's spec. Checks the whole inventory once per run; raises InventoryError."""
    state = host.state
    if state not in _reports:
        harmless()  # also in a project whose config.py does not call the guard
        read_any_bytes()
        path = inventory_file()
        fleet = with_lock(read_fleet(state.inventory), path)
        problems = contradictions(fleet, path)
        if path:
            problems += ignored_by_pyinfra(path)
        if needs_models and (problem := without_models(fleet)):
            problems.append(problem)
        if problems:
            raise InventoryError(problems)
        _reports[state] = Report(fleet)
        state.add_callback_handler(_reports[state])
    return _reports[state].fleet[host.name]


def inventory_file() -> Path | None:
    """The inventory of this pyinfra command, if it is a Python file: the first argument that pyinfra executed."""
    given = next((argument for argument in sys.argv[1:] if argument in PYTHON_CODES), None)
    return Path(given) if given else None


def privilege(spec: Host) -> dict[str, Any]:
    """The global arguments by which operations become root: sudo where the login user is not root."""
    return {"_sudo": True} if snapshot(host, spec).raised else {}
