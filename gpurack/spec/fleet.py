"""From pyinfra's inventory to the whole fleet, checked: the first station of every run, and it touches no host.

pyinfra's own data replaces whole dictionaries between all, groups and host; ours merges, so the layers are
read from the inventory object (facts of pyinfra 3.10.0: `Inventory.get_data`, `get_group_data`, `get_host_data`).
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from pydantic import ValidationError
from pyinfra.api.inventory import Inventory

from gpurack.engines import ENGINES, weights_of
from gpurack.engines.container import CPU
from gpurack.engines.known_flags import refused
from gpurack.inventory.checks.gpus import gpu_problems
from gpurack.spec import image_tar, local_files
from gpurack.spec.connections import connected, connection_problems
from gpurack.spec.host import Docker, Host, Nvidia
from gpurack.spec.image import Build, TarImage
from gpurack.spec.merge import merge, merge_all, without_nones
from gpurack.spec.model import ONE_IMAGE, Job, Model
from gpurack.spec.network import Login, Mirror, Proxy
from gpurack.spec.problems import InventoryError, Problem, from_pydantic, nearest, unknown
from gpurack.spec.secret import Secret
from gpurack.spec.secrets import shared_keys, unreadable_secrets
from gpurack.spec.users import user_problems
from gpurack.spec.weights import CopyWeights

HOST_FIELDS = (*Host.model_fields, "defaults", "engines")
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
URL_MIRRORS = ("docker-ce", "nvidia", "huggingface", "modelscope")
REGISTRY = re.compile(r"localhost|(?=.*[.:])[\w.-]+(:\d+)?|\[[\da-fA-F:]+\](:\d+)?")
MIRROR_OF_A_REGISTRY = re.compile(r"([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?(/[a-z0-9._/-]*)?")
CONTAINER_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"  # Docker's own rule (moby, `RestrictedNamePattern`)

Fleet = dict[str, Host]


def read_fleet(inventory: Inventory, secrets: bool = True) -> Fleet:
    """Every host of a pyinfra inventory as the spec of what it should be, by name.

    secrets: are their values needed? Who only looks (from cron, say) may do without them on this machine.
    Raises InventoryError with all that is wrong on all hosts. Example: `read_fleet(state.inventory)["gpu1"].models`.
    """
    return check_fleet({host.name: layers_of(inventory, host) for host in inventory}, secrets)


def layers_of(inventory: Inventory, host: Any) -> list[Mapping[str, Any]]:
    """The data of one pyinfra host, from the most general layer to the most specific: all, groups, host, `--data`."""
    groups = [inventory.get_group_data(group) for group in host.groups]
    return [inventory.get_data(), *groups, inventory.get_host_data(host.name), inventory.get_override_data()]


def check_fleet(layers: Mapping[str, Iterable[Mapping[str, Any]]], secrets: bool = True) -> Fleet:
    """Hosts' layers of data → checked specs. Pure but for reading secrets, and files of this machine. Raises
    InventoryError."""
    fleet: Fleet = {}
    problems: list[Problem] = []
    names: set[str] = set()
    for name, host_layers in layers.items():
        data = merge_all(host_layers)
        names |= {str(key) for kind in ("models", "services") for key in _mapping(data.get(kind))}
        host, found = check_host(name, data)
        problems += found
        if host:
            fleet[name] = host
            problems += shared_keys(name, host) if secrets else []
            problems += wrong_mirrors(name, host) + unreadable_copies(name, host)
            problems += unreadable_images(name, host) + unused_logins(name, host)
            problems += unreadable_ca(name, host)
    problems += unreadable_secrets(fleet) if secrets else []
    problems += connection_problems(fleet, names)
    if problems:
        raise InventoryError(problems)
    return connected(fleet)


def check_host(name: str, data: Mapping[str, Any]) -> tuple[Host | None, list[Problem]]:
    """One host's merged data → its spec, and what is wrong with it (the spec is None when it could not be built)."""
    problems = [
        Problem(name, key, unknown("field", key, HOST_FIELDS))
        for key in data
        if key not in HOST_FIELDS and not _belongs_to_pyinfra(key) and nearest(key, HOST_FIELDS)
    ]
    problems += not_maps(name, data)
    data, found = without_unknown_defaults(name, data)
    problems += found
    entries: dict[str, dict[str, Any]] = {"models": {}, "services": {}, "jobs": {}}
    for kind, checked in entries.items():
        for entry_name, entry in _mapping(data.get(kind)).items():
            if entry is None:
                continue  # removed by a later layer
            merged = with_version(data, entry) if kind == "jobs" else _with_defaults(data, entry)
            model, found = check_model(name, kind, str(entry_name), merged)
            problems += found
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
        host = Host.model_validate({**own, **entries})
    except ValidationError as error:
        return None, problems + from_pydantic(name, "", error, KNOWN_OF_HOST)
    mistakes = [*gpu_problems(host), *user_problems(host)]
    problems += [Problem(name, path, what) for path, what in mistakes]
    return host, problems + clashes(name, host)


def check_model(host: str, kind: str, name: str, entry: Any) -> tuple[Model | Job | None, list[Problem]]:
    """One merged entry of `models`, `services` or `jobs` (kind) → its spec, and what is wrong with it."""
    path = f"{kind}.{name}"
    if not isinstance(entry, Mapping):
        return None, [Problem(host, path, f"should be a map of fields, not {entry!r}.")]
    if not re.fullmatch(CONTAINER_NAME, name):
        rule = "a model's name becomes a container's: two or more of letters, digits, _ . -, first a letter or digit."
        return None, [Problem(host, path, rule)]
    engine = entry.get("engine")
    if engine is not None and (not isinstance(engine, str) or engine not in ENGINES):
        return None, [Problem(host, f"{path}.engine", unknown("engine", engine, list(ENGINES)))]
    try:
        words = without_nones(entry)
        if isinstance(entry.get("compose"), Mapping):
            words["compose"] = entry["compose"]  # its nulls take keys out of the service
        if kind == "jobs":
            job = Job.model_validate(words)
            return job, [Problem(host, f"{path}.{field}", what) for field, what in misfits(job)]
        model = Model.model_validate(words)
    except ValidationError as error:
        remedy = ENGINES[engine].unused.get("version") if engine else None
        if remedy and words.get("image") is None and ONE_IMAGE in str(error):  # a version would be refused next
            return None, [Problem(host, f"{path}.image", f"is missing: {remedy}")]
        known = KNOWN_OF_JOB if kind == "jobs" else KNOWN_OF_MODEL
        return None, from_pydantic(host, path, error, known)
    findings = misplaced(kind, model) + ENGINES[model.engine].check(model) + refused(model)
    return model, [Problem(host, f"{path}.{field}", what) for field, what in findings]


def misfits(job: Job) -> list[tuple[str, str]]:
    """A job of an engine that has none, or that does not end."""
    try:
        ENGINES[job.engine].job_image(job.version or "", CPU, job.command)
    except LookupError as error:
        return [("engine" if "images for jobs" in str(error) else "command", str(error))]
    return []


def misplaced(kind: str, model: Model) -> list[tuple[str, str]]:
    """A service among the models, or the other way round."""
    service = ENGINES[model.engine].service
    if service is not None and service != (kind == "services"):
        right = "services" if service else "models"
        return [("engine", f"{model.engine} belongs under {right}.")]
    if kind == "services" and model.gpus and service is None:
        return [("gpus", "services get no cards; write it under models.")]
    return []


def not_maps(name: str, data: Mapping[str, Any]) -> list[Problem]:
    """models, defaults and engines that are something else, and engines that nobody knows. A list in the place of the
    models would otherwise mean none, and take all models from the host."""
    problems = [
        Problem(name, key, f"should be a map, not {data[key]!r}.")
        for key in ("models", "services", "jobs", "defaults", "engines")
        if data.get(key) is not None and not isinstance(data[key], Mapping)
    ]
    for engine, entry in _mapping(data.get("engines")).items():
        if engine not in ENGINES and (guess := nearest(engine, ENGINES, 0.85)):
            problems.append(Problem(name, f"engines.{engine}", f'unknown engine "{engine}"; did you mean "{guess}"?'))
        elif entry is not None and not isinstance(entry, Mapping):
            problems.append(Problem(name, f"engines.{engine}", f"should be a map of fields, not {entry!r}."))
    return problems


def without_unknown_defaults(name: str, data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The data without fields of `defaults` and `engines` that no model has, and these: said once, where they stand,
    and not of every model that they would reach."""
    problems: list[Problem] = []

    def known(path: str, layer: Any) -> Any:
        if not isinstance(layer, Mapping):
            return layer
        wrong = [field for field in layer if field not in Model.model_fields]
        sentences = [(f"{path}.{field}", unknown("field", field, tuple(Model.model_fields))) for field in wrong]
        problems.extend(Problem(name, *each) for each in sentences)
        return {field: value for field, value in layer.items() if field not in wrong}

    engines = {
        engine: known(f"engines.{engine}", layer) if engine in ENGINES else layer
        for engine, layer in _mapping(data.get("engines")).items()
    }
    return {**data, "defaults": known("defaults", data.get("defaults")), "engines": engines}, problems


def clashes(name: str, host: Host) -> list[Problem]:
    """What cannot be together on one host: a port twice, a served name twice."""
    problems = [
        Problem(name, f"services.{key}", "a model has this name already; choose another.")
        for key in host.services
        if key in host.models
    ]
    problems += [
        Problem(name, f"jobs.{key}", "a model or service has this name already; choose another.")
        for key in host.jobs
        if key in host.entries
    ]
    enabled = {key: model for key, model in host.entries.items() if model.enabled}
    for (first, one), (second, other) in combinations(enabled.items(), 2):
        path = f"{'services' if second in host.services else 'models'}.{second}"
        if one.port == other.port and binds_overlap(one.bind, other.bind):
            problems.append(Problem.of("port-used-twice", name, f"{path}.port", port=one.port, one=first, other=second))
        if (one.served_name or first) == (other.served_name or second):
            problems.append(
                Problem(
                    name,
                    f"{path}.served_name",
                    f'"{one.served_name or first}" is {first}\'s already; served names differ.',
                )
            )
    return problems


def binds_overlap(one: str, other: str) -> bool:
    """Can two listeners with these binds not share a port? `lan` is some address of the host, unknown here."""
    wildcards = {"any", "0.0.0.0", "::"}
    if one == other or one in wildcards or other in wildcards:
        return True
    if "lan" in (one, other):
        rest = other if one == "lan" else one
        return rest != "loopback" and not ipaddress.ip_address(rest).is_loopback
    addresses = {"127.0.0.1" if bind == "loopback" else bind for bind in (one, other)}
    return len(addresses) == 1


def unused_logins(name: str, host: Host) -> list[Problem]:
    """Logins that no registry would ever see: with a scheme or a path, or for one that a mirror takes the place of."""
    problems = []
    for registry in host.registries:
        path, mirror = f"registries.{registry}", host.mirrors.get(registry)
        if "/" in registry:
            wanted = re.sub(r"^\w+://", "", registry).partition("/")[0]
            problems.append(Problem(name, path, f'a registry is named by its host alone; write "{wanted}".'))
        elif mirror:
            asked = mirror.url.partition("/")[0]
            what = f'its images come from {mirror.url} (mirrors), which is never told this login; write "{asked}".'
            problems.append(Problem(name, path, what))
    return problems


def unreadable_images(name: str, host: Host) -> list[Problem]:
    """Tar files that are not on the admin's machine, or hold something else than one image."""
    problems = []
    for key, entry in host.everything.items():
        if not (entry.enabled and isinstance(entry.image, TarImage)):
            continue
        path = f"{host.kind_of(key)}.{key}.image.tar"
        try:
            image_tar.read(entry.image.source)
        except OSError as error:
            problems.append(Problem(name, path, f"{entry.image.source} cannot be read: {error.strerror}."))
        except ValueError as error:
            problems.append(Problem(name, path, f"{entry.image.source} {error}"))
    return problems


def unreadable_copies(name: str, host: Host) -> list[Problem]:
    """Weights to copy that are not on the admin's machine, or hold nothing."""
    problems = []
    enabled = [(key, entry) for key, entry in host.everything.items() if entry.enabled]
    named = [(key, weights) for key, entry in enabled for weights in weights_of(entry)]
    copied = [(key, weights) for key, weights in named if isinstance(weights, CopyWeights)]
    for key, weights in copied:
        field = "weights" if weights == host.everything[key].weights else "config"
        path = f"{host.kind_of(key)}.{key}.{field}.copy"
        try:
            source = weights.source
            if not source.exists():
                problems.append(Problem(name, path, f"{source} is not on this machine."))
            elif not local_files.files_of(source):
                problems.append(Problem(name, path, f"{source} holds no files."))
            elif missing := local_files.missing_parts(source):
                what = f"{missing} part{'s' if missing > 1 else ''} of {source.name} {'are' if missing > 1 else 'is'}"
                problems.append(Problem(name, path, f"{what} not beside it on this machine."))
            else:
                local_files.content(source)
        except OSError as error:
            problems.append(Problem(name, path, f"{error.filename} cannot be read: {error.strerror}."))
    return problems


def unreadable_ca(name: str, host: Host) -> list[Problem]:
    """A certificate authority that the admin's machine does not have."""
    try:
        host.certificates()
    except (OSError, ValueError) as error:
        why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        if isinstance(error, UnicodeDecodeError):
            why = "is not text; write it as PEM: openssl x509 -inform der -in FILE -out FILE.pem"
        return [Problem(name, "ca", f"{host.ca} {why}.")]
    return []


def wrong_mirrors(name: str, host: Host) -> list[Problem]:
    """Mirrors that cannot work: of nothing that is known, a package repository without a scheme, a registry with one,
    an address that is none, a key that is not there."""
    problems = []
    for key, mirror in host.mirrors.items():
        path = f"mirrors.{key}"
        if key not in URL_MIRRORS and not REGISTRY.fullmatch(key):
            guess = nearest(key.lower(), URL_MIRRORS)
            bare = re.sub(r"^\w+://", "", key).partition("/")[0]
            remedy = f'did you mean "{guess}"?' if guess else f'write "{bare}".' if bare != key else "name it in full."
            problems.append(Problem(name, path, f'is no registry (a name with a dot, "ghcr.io"); {remedy}'))
        elif why_not := wrong_mirror(key, mirror.url):
            problems.append(Problem(name, path, why_not))
        try:
            mirror.read_key()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            problems.append(Problem(name, f"{path}.key", f"{mirror.key} cannot be read: {why}."))
    return problems


def wrong_mirror(key: str, url: str) -> str | None:
    """Why an address is none for this mirror; None when it is one."""
    scheme, rest = (found[0], url[found.end() :]) if (found := re.match(r"\w+://", url)) else ("", url)
    if key not in URL_MIRRORS:
        if scheme:
            return f'a registry is named without {scheme}; write "{rest}".'
        if not MIRROR_OF_A_REGISTRY.fullmatch(url):
            return f'"{url}" is no registry; write host[:port][/prefix], the prefix in small letters, no spaces.'
        return None
    if scheme not in ("http://", "https://"):
        what = "not a URL of http or https" if scheme else "not a URL"
        return f'"{url}" is {what}; write "https://{rest}".'
    if not re.fullmatch(r"[^\s/?#]+(/\S*)?", rest):
        return f'"{url}" is no address; a host follows the scheme, and there are no spaces.'
    return None


def with_version(data: Mapping[str, Any], entry: Any) -> Any:
    """A job with the version of its engine from `engines`, or `defaults`, where it names no image of its own; nothing
    else that is said there of models is for jobs."""
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
    """defaults → engines.X → model, merged."""
    if not isinstance(entry, Mapping):
        return entry
    defaults = _mapping(data.get("defaults"))
    name = str(entry.get("engine", defaults.get("engine")))
    engine = ENGINES.get(name)
    # defaults are for every entry that has such a thing; what only its own layers say is refused by Engine.check
    defaults = {field: value for field, value in defaults.items() if not engine or field not in engine.unused}
    merged = merge_all([defaults, _mapping(_mapping(data.get("engines")).get(name)), entry])
    if engine and engine.only_version and merged.get("version") is None and merged.get("image") is None:
        merged = merge(merged, {"version": engine.only_version})
    # an image in the model replaces a version from its defaults, and the other way round
    for mine, theirs in (("image", "version"), ("version", "image")):
        if entry.get(mine) is not None and theirs not in entry:
            merged = merge(merged, {theirs: None})
    return merged


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _belongs_to_pyinfra(key: str) -> bool:
    return key.startswith(("ssh_", "_", "docker_", "dockerssh_", "vagrant_", "chroot_", "winrm_"))


def without_models(fleet: Fleet) -> Problem | None:
    """An inventory in which no host has any model is a mistake when models are to be deployed."""
    if any(host.models or host.jobs for host in fleet.values()):
        return None
    return Problem(
        "",
        "",
        "no host has any models; give one a models map (docs/inventory.md). For Docker and the toolkit alone run "
        "deploys/docker.py and deploys/nvidia_toolkit.py.",
    )
