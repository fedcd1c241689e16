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

from gevent.lock import RLock
from pyinfra import host
from pyinfra.api import State, deploy
from pyinfra_cli.util import PYTHON_CODES

from gpurack.inventory.fleet import Fleet, read_fleet, without_models
from gpurack.inventory.load import ignored_by_pyinfra
from gpurack.inventory.lock_file import with_lock
from gpurack.operations import host_setup
from gpurack.operations.connections import connections as connections_operation
from gpurack.operations.models import jobs as jobs_operation
from gpurack.operations.models import models as models_operation
from gpurack.operations.models import refuses_removals, unsupported_words
from gpurack.operations.models import stop as stop_operation
from gpurack.operations.report import Report
from gpurack.operations.run_state import host_run, snapshot
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
from gpurack.plan.models.failures import unknown_retries
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.rollback import NotPossible, database_back, edit, mark_of
from gpurack.plan.pins import contradictions
from gpurack.plan.run import Verb
from gpurack.pyinfra_patches import harmless, read_any_bytes
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError, Problem

OF_RUN = ("renew", "retry", "take_over", "allow_remove", "prepare")
"""Words of `--data` that say how models are changed. An inventory may also have them."""
_fleets: WeakKeyDictionary[State, Fleet] = WeakKeyDictionary()
_paths: WeakKeyDictionary[State, Path] = WeakKeyDictionary()
_reports: WeakKeyDictionary[State, Report] = WeakKeyDictionary()
_beginning = RLock()


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
    `--data renew=yes` recreates containers with settings of an older gpurack. `--data restart=always` lets Docker
    restart also if that stops containers of others.
    `--data take_over=yes` takes models of another lab over that the inventory has.
    `--data allow_remove=N` allows to remove exactly N models where that empties a host, or removes most of many.
    `--data retry=HOST/MODEL` (several with commas, or HOST/all) tries again what failed.
    `--data prepare=yes` only brings weights and images that hosts lack, while everything serves.
    """
    carry_out(SERVING, begin(needs_models=True))


@deploy("Remove")
def remove() -> None:
    """Takes away models and project; with `--data remove=all` also Docker and the toolkit. Never data."""
    from gpurack.operations.remove import remove as remove_operation  # no other deploy needs it

    spec = begin()
    _reports[host.state].removing = True
    if spec.maintenance:
        host.log_styled(f"skipped, maintenance: {spec.maintenance}", fg="yellow")
        return
    what = host.data.get("remove") or "models"
    remove_operation(name="Remove", spec=spec, what=what, **privilege(spec))


@deploy("Rollback")
def rollback() -> None:
    """Bring back an earlier definition of a model: `--data rollback=HOST/MODEL`, and `--data to=N` for another one.

    Without `to` it is the newest that the model does not have. `gpurack rollback … --list` lists them.
    `--data with_data=yes` also brings back its database of that version.
    """
    from gpurack.operations import rolling_back  # no other deploy needs it

    begin(needs_models=True)
    fleet = _fleets[host.state]
    place, _, name = str(host.data.get("rollback") or "").rpartition("/")
    if place not in fleet or name not in fleet[place].entries:
        what = f"rollback={place}/{name}: not a model of the inventory. Write --data rollback=HOST/MODEL"
        raise InventoryError([Problem.of("no-rollback", what=what)])
    if (with_data := host.data.get("with_data")) not in (None, "yes"):
        known = "--data with_data=yes"
        raise InventoryError([Problem.of("unsupported-data", word="with_data", value=with_data, known=known)])
    if host.name == place:
        number = str(host.data.get("to") or "")
        entry, path = fleet[place].entries[name], fleet[place].path_of(name)
        try:
            patched, back = rolling_back.bring_back(
                host, host.state.inventory, inventory_file(), fleet, name, int(number) if number.isdigit() else None
            )
            today = Observed(name, patched[place], snapshot(host, patched[place]))
            database, of_data = database_back(back.ready, today, with_data == "yes")
        except NotPossible as error:
            raise InventoryError([Problem.of("no-rollback", place, path, what=str(error).rstrip("."))]) from None
        _fleets[host.state] = dict(patched)
        for line in (*back.notes, *of_data, *(f"edit the inventory: {line}" for line in edit(path, back.words))):
            host.log(line)
        bring_back(name, mark_of(entry, back), database)


def bring_back(name: str, mark: str, database: str = "") -> None:
    """Apply one model of the fleet, and leave all others. mark: of the entry that it is rolled back from.

    database: the copy of its database that is brought back, "" for none.
    """
    spec = _fleets[host.state][host.name]
    again: dict[str, Any] = {"retry": f"{host.name}/{name}", "only": name, "rollback": mark, "database": database}
    again["verb"] = "rollback"
    models_operation(name=MODELS.name, spec=spec, **again, **origin(), **privilege(spec))


def start(name: str, verb: Verb) -> None:
    """Start a model that was stopped or held, or restart it, and leave all others. verb: "start" or "restart"."""
    spec = _fleets[host.state][host.name]
    models_operation(name=MODELS.name, spec=spec, only=name, verb=verb, **origin(), **privilege(spec))


def stop(name: str, hold: str | None) -> None:
    """Stop a model until the next run. hold: the reason for which it stays stopped until it is started."""
    spec = _fleets[host.state][host.name]
    stop_operation(name="Stop", spec=spec, entry=name, hold=hold, **origin(), **privilege(spec))


def of_removals() -> dict[str, Any]:
    """The arguments of operations on which a refusal of removals depends."""
    return {word: host.data.get(word) for word in ("take_over", "allow_remove", "renew", "retry")}


def origin() -> dict[str, Any]:
    """The argument of operations that says where a change comes from."""
    return {"inventory": str(path) if (path := inventory_file()) else None}


def carry_out(stages: Sequence[Stage], spec: Host) -> None:
    """The operation of each of these stages that the inventory asks for; none for a host in maintenance or idle."""
    if spec.maintenance:  # a project without gpurack's config.py has connected to it
        host.log_styled(f"skipped, maintenance: {spec.maintenance}", fg="yellow")
        return
    if host_run(host).idle and all(host.data.get(word) is None for word in ("prune", *OF_RUN)):
        return
    become = privilege(spec)
    if host.data.get("prepare") is not None:
        stages = [stage for stage in stages if stage in (MODELS, JOBS)]
    elif MODELS in stages and refuses_removals(spec, **origin(), **of_removals()):
        stages = [MODELS]  # it refuses, so nothing of the host may have changed before
    for stage, (operation, arguments) in operations(stages).items():
        if stage.applies(spec):
            operation(name=stage.name, spec=spec, **arguments, **become)


def operations(stages: Sequence[Stage]) -> dict[Stage, tuple[Callable[..., Any], dict[str, Any]]]:
    """Stage → (operation, arguments besides the spec), in order."""
    models_follow = {"models_follow": MODELS in stages}
    of_run = {word: host.data.get(word) for word in OF_RUN}
    of_run |= origin()
    table: Mapping[Stage, tuple[Callable[..., Any], dict[str, Any]]] = {
        DOCKER: (host_setup.docker, {}),
        TOOLKIT: (host_setup.nvidia_toolkit, models_follow),
        DAEMON_JSON: (host_setup.daemon_json, {"toolkit": TOOLKIT in stages}),
        ROOTLESS: (host_setup.rootless, models_follow),
        MODELS: (models_operation, {"prune": host.data.get("prune"), **of_run}),
        JOBS: (jobs_operation, {"prepare": host.data.get("prepare"), **origin()}),
        MODELS_OF_JOBS: (models_operation, {"after_jobs": True, **of_run}),
        CONNECTIONS: (connections_operation, {}),
    }
    return {stage: table[stage] for stage in stages}


def begin(needs_models: bool = False) -> Host:
    """The host's spec. Checks the whole inventory once per run; raises InventoryError."""
    state = host.state
    with _beginning:  # pyinfra loads the deploy of the next host while a command for a secret runs
        if state not in _fleets:
            fleet = checked_fleet(state, needs_models)
            adopt(state, fleet)
            _reports[state] = Report(fleet)
            state.add_callback_handler(_reports[state])
    return _fleets[state][host.name]


def checked_fleet(state: State, needs_models: bool) -> Fleet:
    """The fleet of a run by pyinfra, checked as a whole. Raises InventoryError."""
    harmless()  # also in a project whose config.py does not call the guard
    read_any_bytes()
    path = inventory_file()
    fleet = with_lock(read_fleet(state.inventory), path)
    problems = contradictions(fleet, path)
    if path:
        problems += ignored_by_pyinfra(path)
    problems += unknown_retries(host.data.get("retry"), fleet)
    problems += unsupported_words({word: host.data.get(word) for word in ("prune", *OF_RUN)})
    if needs_models and (problem := without_models(fleet)):
        first = Problem.of("host-given-to-pyinfra", "", host.name, name=host.name)
        problems.append(problem if path or len(fleet) > 1 else first)
    if problems:
        raise InventoryError(problems)
    return fleet


def adopt(state: State, fleet: Fleet, path: Path | None = None) -> None:
    """Let the deploys of a run use a fleet that its caller has checked. They print no table then (`gpurack apply`).

    path: the inventory's.
    """
    _fleets[state] = fleet
    if path:
        _paths[state] = path


def inventory_file() -> Path | None:
    """The inventory of this run: the one adopted, or the first argument of pyinfra that it executed as Python."""
    if adopted := next((path for state, path in _paths.items() if state is host.state), None):
        return adopted
    given = next((argument for argument in sys.argv[1:] if argument in PYTHON_CODES), None)
    return Path(given) if given else None


def privilege(spec: Host) -> dict[str, Any]:
    """The global arguments by which operations become root: sudo where the login user is not root."""
    return {"_sudo": True} if snapshot(host, spec).raised else {}
