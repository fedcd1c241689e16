"""The deploys: what deploys/*.py run, and what any other pyinfra project may import.

    from gpurack.deploys import gpu_host
    gpu_host()

Each checks the whole inventory before the first command runs on any host, and raises InventoryError with everything
that is wrong with it. Hosts' data are described in docs/inventory.md.
"""

import sys
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pyinfra import host
from pyinfra.api import State, deploy
from pyinfra_cli.util import PYTHON_CODES

from gpurack.guard import harmless, read_any_bytes
from gpurack.operations import engine
from gpurack.operations.connections import connections as connections_operation
from gpurack.operations.models import jobs as jobs_operation
from gpurack.operations.models import models as models_operation
from gpurack.operations.remove import remove as remove_operation
from gpurack.plan.jobs import serve_results
from gpurack.plan.neighbours import far
from gpurack.plan.pins import contradictions
from gpurack.report import REPORT
from gpurack.spec.fleet import Fleet, read_fleet, without_models
from gpurack.spec.host import Host
from gpurack.spec.load import ignored_by_pyinfra
from gpurack.spec.lock import with_lock
from gpurack.spec.problems import InventoryError
from gpurack.state.snapshot import look

_fleets: WeakKeyDictionary[State, Fleet] = WeakKeyDictionary()


@deploy("GPU host")
def gpu_host() -> None:
    """Everything: Docker, the NVIDIA Container Toolkit, daemon.json, users' rootless Dockers and the models."""
    wanted = begin(needs_models=True)
    become = privilege(wanted)
    engine.docker(name="Docker", wanted=wanted, **become)
    engine.nvidia_toolkit(name="NVIDIA Container Toolkit", wanted=wanted, models_follow=True, **become)
    engine.daemon_json(name="daemon.json", wanted=wanted, **become)
    if wanted.users:
        engine.rootless(name="Rootless Docker", wanted=wanted, models_follow=True, **become)
    models_and_jobs(wanted, become)


@deploy("Docker")
def docker() -> None:
    """Docker alone, the inventory's keys in its daemon.json, and users' rootless Dockers."""
    wanted = begin()
    become = privilege(wanted)
    engine.docker(name="Docker", wanted=wanted, **become)
    engine.daemon_json(name="daemon.json", wanted=wanted, toolkit=False, **become)
    if wanted.users:
        engine.rootless(name="Rootless Docker", wanted=wanted, **become)


@deploy("NVIDIA")
def nvidia_toolkit() -> None:
    """The NVIDIA Container Toolkit alone, and what Docker needs to use it; Docker must be there."""
    wanted = begin()
    become = privilege(wanted)
    engine.nvidia_toolkit(name="NVIDIA Container Toolkit", wanted=wanted, **become)
    engine.daemon_json(name="daemon.json", wanted=wanted, **become)


@deploy("Models")
def models() -> None:
    """The models alone, on a host that has Docker (and the toolkit, for cards). `--data prune=ollama`: what an ollama
    has pulled beside the models that are listed goes. `--data renew=yes`: containers with settings of an older gpurack
    are recreated."""
    wanted = begin(needs_models=True)
    models_and_jobs(wanted, privilege(wanted))


@deploy("Remove")
def remove() -> None:
    """Takes away models and project; with `--data remove=all` Docker and the toolkit too. Never data."""
    wanted = begin()
    REPORT.removing = True
    what = host.data.get("remove") or "models"
    remove_operation(name="Remove", wanted=wanted, what=what, **privilege(wanted))


def models_and_jobs(wanted: Host, become: dict[str, Any]) -> None:
    """Models first, because people wait for them; then jobs, and the models that serve what a job makes; then what
    services reach on other hosts."""
    asked = {"renew": host.data.get("renew"), **become}
    models_operation(name="Models", wanted=wanted, prune=host.data.get("prune"), **asked)
    if wanted.jobs:
        jobs_operation(name="Jobs", wanted=wanted, **become)
    if serve_results(wanted):
        models_operation(name="Models of jobs", wanted=wanted, after_jobs=True, **asked)
    if any(far(wanted)):
        connections_operation(name="Connections", wanted=wanted, **become)


def begin(needs_models: bool = False) -> Host:
    """This host's spec, after the whole inventory was checked (once per run)."""
    state = host.state
    if state not in _fleets:
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
        _fleets[state] = fleet
        REPORT.attach(state, fleet)
    return _fleets[state][host.name]


def inventory_file() -> Path | None:
    """The inventory that the pyinfra command was given, if it is a Python file: the first argument it executed."""
    given = next((argument for argument in sys.argv[1:] if argument in PYTHON_CODES), None)
    return Path(given) if given else None


def privilege(wanted: Host) -> dict[str, Any]:
    """The global arguments by which operations become root: sudo where the login user is not root."""
    return {"_sudo": True} if look(host, wanted).raised else {}
