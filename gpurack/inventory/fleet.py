"""From pyinfra's inventory to the checked fleet.

This is the first step of every run, and touches no host.

pyinfra's own data replaces whole dictionaries between all, groups and host; ours merges, so the layers are
read from the inventory object (facts of pyinfra 3.10.0: `Inventory.get_data`, `get_group_data`, `get_host_data`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pyinfra.api.inventory import Inventory

from gpurack.engines import ENGINES, is_misspelt, unknown_engine
from gpurack.engines.container import CPU
from gpurack.engines.known_flags import unknown_flag_errors
from gpurack.inventory.checks.admin_files import unreadable_copies, unreadable_images
from gpurack.inventory.checks.clashes import clashes
from gpurack.inventory.checks.connections import connected, connection_problems
from gpurack.inventory.checks.gpus import gpu_problems
from gpurack.inventory.checks.indentation import misplaced_entries, without_value
from gpurack.inventory.checks.network import mirror_problems, unreadable_ca, unused_logins
from gpurack.inventory.checks.ssh_fields import host_name_problems, ssh_field_problems, unknown_fields
from gpurack.inventory.checks.users import user_problems
from gpurack.inventory.secrets import shared_keys, unreadable_secrets
from gpurack.spec.compose_keys import unknown_keys
from gpurack.spec.host import Docker, Host, Nvidia
from gpurack.spec.image import Build
from gpurack.spec.merge import merge, merge_all, without_nones
from gpurack.spec.model import Job, Model
from gpurack.spec.network import Login, Mirror, Proxy
from gpurack.spec.problems import ENTRIES, InventoryError, Problem, from_pydantic, nearest, wrong_type
from gpurack.spec.secret import Secret

HOST_FIELDS = (*Host.model_fields, "defaults", "engines")
OF_EVERY_ENTRY = ("defaults", "engines")
"""The fields of a host that every entry gets."""
KNOWN_OF_HOST = {
    "": HOST_FIELDS,
    "docker": tuple(Docker.model_fields),
    "nvidia": tuple(Nvidia.model_fields),
    "mirrors": tuple(Mirror.model_fields),
    "hf_token": tuple(Secret.model_fields),
    "registries": tuple(Login.model_fields),
    "proxy": tuple(Proxy.model_fields),
}
KNOWN_OF_JOB = {
    "": tuple(Job.model_fields),
    "weights": ("url", "sha256", "hf", "modelscope", "revision", "file", "copy"),
    "image": ("tar", "build", *Build.model_fields),
}
KNOWN_OF_MODEL = {
    "": tuple(Model.model_fields),
    "weights": ("url", "sha256", "hf", "modelscope", "revision", "file", "copy"),
    "image": ("tar", "build", *Build.model_fields),
    "api_key": tuple(Secret.model_fields),
}
CONTAINER_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"  # Docker's own rule (moby, `RestrictedNamePattern`)

ANY_ENGINE = "vllm"
"""What an entry with an unknown engine is checked with, for the errors of its other fields."""

Fleet = dict[str, Host]


def read_fleet(inventory: Inventory, secrets: bool = True) -> Fleet:
    """The spec of every host of a pyinfra inventory, by name.

    secrets: check that their values can be read; a command that only inspects hosts does not need them.
    Raises InventoryError with the errors of all hosts. Example: `read_fleet(state.inventory)["gpu1"].models`.
    """
    return check_fleet({host.name: layers_of(inventory, host) for host in inventory}, secrets)


def layers_of(inventory: Inventory, host: Any) -> list[Mapping[str, Any]]:
    """The data of one pyinfra host, from general to specific: all, groups, host, `--data`."""
    groups = [inventory.get_group_data(group) for group in host.groups]
    return [inventory.get_data(), *groups, inventory.get_host_data(host.name), inventory.get_override_data()]


def maintenance_of(layers: Iterable[Mapping[str, Any]]) -> str:
    """Why a host is left alone, from its layers of data that are not checked yet; "" if it is not."""
    why = merge_all(layers).get("maintenance")
    return why if isinstance(why, str) else ""


def check_fleet(layers: Mapping[str, Iterable[Mapping[str, Any]]], secrets: bool = True) -> Fleet:
    """The checked specs of hosts, from their layers of data.

    Reads secrets and files on this machine. Raises InventoryError.
    """
    fleet: Fleet = {}
    problems: list[Problem] = []
    names: set[str] = set()
    listed = {name: list(host_layers) for name, host_layers in layers.items()}
    alone = not any(_mapping(layer.get(kind)) for every in listed.values() for layer in every for kind in ENTRIES)
    for name, every in listed.items():
        data = allowing_restart(merge_all(every))
        problems += without_value(name, every, alone)
        names |= {str(key) for kind in ("models", "services") for key in _mapping(data.get(kind))}
        host, found = check_host(name, data)
        problems += found
        if host:
            fleet[name] = host
            problems += shared_keys(name, host) if secrets else []
            problems += mirror_problems(name, host) + unreadable_copies(name, host)
            problems += unreadable_images(name, host) + unused_logins(name, host)
            problems += unreadable_ca(name, host)
    problems += unreadable_secrets(fleet) if secrets else []
    problems += connection_problems(fleet, names)
    if problems:
        raise InventoryError(problems)
    return connected(fleet)


def allowing_restart(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of a host with `--data restart=always` (`gpurack apply --restart`), which answers `docker.restart: ask`.

    >>> allowing_restart({"restart": "always", "docker": {"version": "28.5.2"}})["docker"]
    {'version': '28.5.2', 'restart': 'always'}
    """
    docker = data.get("docker") or {}
    if data.get("restart") != "always" or not isinstance(docker, Mapping) or docker.get("restart", "ask") != "ask":
        return data
    return {**data, "docker": {**docker, "restart": "always"}}


def check_host(name: str, data: Mapping[str, Any]) -> tuple[Host | None, list[Problem]]:
    """The spec of one host from its merged data, and its errors.

    The spec is None if it could not be built.
    """
    if endless := [field for field, value in data.items() if contains_itself(value)]:
        return None, [Problem.of("contains-itself", name, field) for field in endless]
    problems = unknown_fields(name, data, HOST_FIELDS)
    misspelt = {problem.path for problem in problems}
    wrong = not_maps(name, data)
    if wrong or any(nearest(key, HOST_FIELDS) in OF_EVERY_ENTRY for key in misspelt):
        return None, problems + wrong  # what follows from them would be errors of every entry
    problems += host_name_problems(name, data) + ssh_field_problems(name, data)
    problems += misplaced_entries(name, {key: data[key] for key in sorted(data.keys() - misspelt - {*HOST_FIELDS})})
    data, found = without_unknown_defaults(name, data)
    problems += found
    entries: dict[str, dict[str, Any]] = {"models": {}, "services": {}, "jobs": {}}
    for kind, checked in entries.items():
        for entry_name, entry in _mapping(data.get(kind)).items():
            if entry is None:
                continue  # removed by a later layer
            merged = with_version(data, entry) if kind == "jobs" else _with_defaults(data, entry)
            model, found = check_model(name, kind, str(entry_name), merged)
            problems += (
                found if model else [where_written(problem, f"{kind}.{entry_name}.", entry, data) for problem in found]
            )
            if model:
                checked[str(entry_name)] = model
    own = {key: data[key] for key in Host.model_fields if key in data and key not in entries}
    docker = _mapping(own.get("docker"))
    own = without_nones(own)
    # daemon keeps its nulls: they remove keys from daemon.json
    if docker.get("daemon") is not None:
        own["docker"]["daemon"] = docker["daemon"]
    for user, entry in _mapping(docker.get("rootless")).items():
        if isinstance(entry, Mapping) and entry.get("daemon") is not None:
            own["docker"]["rootless"][user]["daemon"] = entry["daemon"]
    try:
        host = Host.model_validate({**own, **entries}).named(name)
    except ValidationError as error:
        return None, problems + from_pydantic(name, "", error, KNOWN_OF_HOST)
    problems += [problem.at(name) for problem in (*gpu_problems(host), *user_problems(host))]
    return host, problems + clashes(name, host)


def contains_itself(value: Any, around: tuple[int, ...] = ()) -> bool:
    """Is a map or list of a Python inventory inside of itself?

    >>> endless = {"args": {}}
    >>> endless["args"]["again"] = endless
    >>> contains_itself(endless), contains_itself({"a": [1], "b": [1]})
    (True, False)
    """
    if not isinstance(value, Mapping | list | tuple):
        return False
    inside = value.values() if isinstance(value, Mapping) else value
    return id(value) in around or any(contains_itself(each, (*around, id(value))) for each in inside)


def where_written(problem: Problem, prefix: str, entry: Any, data: Mapping[str, Any]) -> Problem:
    """The error of a field of an entry, at `defaults` or `engines` if the entry has the field from there.

    prefix: `models.X.`. data: of the host.
    """
    field, dot, rest = problem.path.removeprefix(prefix).partition(".")
    if not (problem.path.startswith(prefix) and isinstance(entry, Mapping)) or field in entry:
        return problem
    defaults = _mapping(data.get("defaults"))
    engine = str(entry.get("engine", defaults.get("engine")))
    layers = {f"engines.{engine}": _mapping(_mapping(data.get("engines")).get(engine)), "defaults": defaults}
    path = next((path for path, layer in layers.items() if field in layer), None)
    return replace(problem, path=f"{path}.{field}{dot}{rest}") if path else problem


def check_model(host: str, kind: str, name: str, entry: Any) -> tuple[Model | Job | None, list[Problem]]:
    """The spec of one merged entry of `models`, `services` or `jobs` (kind), and its errors."""
    path = f"{kind}.{name}"
    if not isinstance(entry, Mapping):
        return None, [wrong_type("a map of fields", entry, name).at(host, path)]
    if not re.fullmatch(CONTAINER_NAME, name):
        return None, [Problem.of("invalid-entry-name", host, path)]
    engine = entry.get("engine")
    if engine is not None and (not isinstance(engine, str) or engine not in ENGINES):
        model, others = check_model(host, kind, name, {**entry, "engine": ANY_ENGINE})
        found = [problem for problem in others if model is None and problem.path != path]  # the rest is of that engine
        return None, [unknown_engine(engine, host, f"{path}.engine"), *found]
    try:
        words = without_nones(entry)
        if isinstance(entry.get("compose"), Mapping):
            words["compose"] = entry["compose"]  # its nulls take keys out of the service
        if kind == "jobs":
            job = Job.model_validate(words)
            return job, [problem.at(host, path) for problem in (*job_problems(job), *unknown_keys(job.compose))]
        model = Model.model_validate(words)
    except ValidationError as error:
        found = from_pydantic(host, path, error, KNOWN_OF_JOB if kind == "jobs" else KNOWN_OF_MODEL)
        hint = ENGINES[engine].unused.get("version") if engine else None
        if hint and words.get("image") is None and any(problem.code == "one-image-source" for problem in found):
            return None, [Problem.of("image-missing", host, f"{path}.image", hint=hint)]  # a version is refused next
        return None, found
    found = section_problems(kind, model)  # the others may follow from it
    if not found:
        found = version_problems(model) + ENGINES[model.engine].check(model)
        found += [*unknown_flag_errors(model), *unknown_keys(model.compose)]
    return model, [problem.at(host, path) for problem in found]


def version_problems(model: Model) -> list[Problem]:
    """Errors of a version that begins with v, where the engine's tags have a v that gpurack adds."""
    version = model.version or ""
    doubled = any(f"v{version}" in image for image in ENGINES[model.engine].variants(version))
    if re.match(r"[vV]\d", version) and doubled:
        return [Problem.of("version-with-v", path="version", value=version, right=version[1:])]
    return []


def job_problems(job: Job) -> list[Problem]:
    """Errors of a job whose engine has no image for jobs, or whose command does not end."""
    try:
        ENGINES[job.engine].job_image(job.version or "", CPU, job.command)
    except LookupError as error:
        if "images for jobs" in str(error):
            return [Problem.of("job-image-missing", path="engine", what=error)]
        return [Problem.of("job-does-not-end", path="command", what=error)]
    return []


def section_problems(kind: str, model: Model) -> list[Problem]:
    """Errors of a service in `models`, or a model in `services`."""
    service = ENGINES[model.engine].service
    if service is not None and service != (kind == "services"):
        right = "services" if service else "models"
        return [Problem.of("wrong-section", path="engine", engine=model.engine, section=right)]
    if kind == "services" and model.gpus and service is None:
        return [Problem.of("service-with-gpus", path="gpus")]
    return []


def not_maps(name: str, data: Mapping[str, Any]) -> list[Problem]:
    """Errors of sections that are not maps, and of unknown engines.

    A list for `models` would otherwise mean no models, and a run would remove them all from the host.
    """
    problems = [
        wrong_type("a map", data[key], key).at(name, key)
        for key in ("models", "services", "jobs", "defaults", "engines")
        if data.get(key) is not None and not isinstance(data[key], Mapping)
    ]
    for engine, entry in _mapping(data.get("engines")).items():
        path = f"engines.{engine}"
        if is_misspelt(engine):
            problems.append(unknown_engine(engine, name, path))
        elif entry is not None and not isinstance(entry, Mapping):
            problems.append(wrong_type("a map", entry, "engines").at(name, path))
    return problems


def without_unknown_defaults(name: str, data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The data without unknown fields in `defaults` and `engines`, and an error for each of those fields.

    The error is then not repeated for every model.
    """
    problems: list[Problem] = []

    def known(path: str, layer: Any) -> Any:
        if not isinstance(layer, Mapping):
            return layer
        wrong = [field for field in layer if field not in Model.model_fields]
        known_fields = tuple(Model.model_fields)
        problems.extend(Problem.unknown("unknown-field", key, known_fields, name, f"{path}.{key}") for key in wrong)
        return {field: value for field, value in layer.items() if field not in wrong}

    engines = {
        engine: known(f"engines.{engine}", layer) if engine in ENGINES else layer
        for engine, layer in _mapping(data.get("engines")).items()
    }
    return {**data, "defaults": known("defaults", data.get("defaults")), "engines": engines}, problems


def with_version(data: Mapping[str, Any], entry: Any) -> Any:
    """A job with its engine's version from `engines` or `defaults`, unless it names an image.

    Jobs use none of their other fields.
    """
    if not isinstance(entry, Mapping):
        return entry
    defaults = _mapping(data.get("defaults"))
    name = entry.get("engine", defaults.get("engine"))
    layers = [{"engine": name}] if name is not None else []
    for layer in (defaults, _mapping(_mapping(data.get("engines")).get(str(name)))):
        if layer.get("version") is not None and entry.get("image") is None:
            layers.append({"version": layer["version"]})
    return merge_all([*layers, entry])


def _with_defaults(data: Mapping[str, Any], entry: Any) -> Any:
    """An entry merged over `defaults` and `engines.X`."""
    if not isinstance(entry, Mapping):
        return entry
    defaults = _mapping(data.get("defaults"))
    name = str(entry.get("engine", defaults.get("engine")))
    engine = ENGINES.get(name)
    # `defaults` apply where the engine supports the field; Engine.check refuses it in the other layers
    defaults = {field: value for field, value in defaults.items() if not engine or field not in engine.unused}
    merged = merge_all([defaults, _mapping(_mapping(data.get("engines")).get(name)), entry])
    if engine and engine.only_version and merged.get("version") is None and merged.get("image") is None:
        merged = merge(merged, {"version": engine.only_version})
    # an image in the model replaces a version from its defaults, and vice versa
    for mine, theirs in (("image", "version"), ("version", "image")):
        if entry.get(mine) is not None and theirs not in entry:
            merged = merge(merged, {theirs: None})
    return merged


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def without_models(fleet: Fleet) -> Problem | None:
    """The error of an inventory without any model, service or job, for a deploy of models."""
    if any(host.entries or host.jobs for host in fleet.values()):
        return None
    return Problem.of("no-models")


def require_models(fleet: Fleet, path: Path) -> Fleet:
    """The fleet of this inventory. Raises InventoryError if it has neither a model nor a job."""
    if problem := without_models(fleet):
        raise InventoryError([problem.at(str(path))])
    return fleet
