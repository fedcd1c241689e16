"""The Compose project as data: one service per model, in a file an admin may read and use by hand. Pure.

Compose facts (2.26, 2.40): PyYAML writes 1e6 unquoted and Compose refuses it, so every string is quoted; `$` is
interpolated, so it is doubled; a short-form bind mount creates a missing folder, so mounts are long form.
"""

import hashlib
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.engines.container import CPU, Accelerator, Container, Run, Upstream
from gpurack.plan import compatibility, files, neighbours, weights
from gpurack.plan.access import access
from gpurack.plan.ledger import gpus_text, slots_of
from gpurack.shell import Sh, sh
from gpurack.spec.fields import definition_words
from gpurack.spec.host import Host
from gpurack.spec.image import BuildImage, TarImage
from gpurack.spec.image_ref import ImageRef
from gpurack.spec.merge import patch
from gpurack.spec.model import Job, Model
from gpurack.spec.secret import UPSTREAM
from gpurack.spec.weights import Weights
from gpurack.state import record
from gpurack.state.model import HostState

NO_NEW_PRIVILEGES = "no-new-privileges:true"
KFD = "/dev/kfd"
"""AMD's compute driver, one for all cards."""
SECTIONS = ("services", "secrets", "volumes")
HEADER = """\
# Written by gpurack from the inventory, which is where changes belong: this file is replaced at the next run.
# To look around: {docker} compose -f {path} ps, logs, restart NAME.
"""


def image(spec: Host, model: Model, accelerator: Accelerator) -> str:
    """The image reference a model runs from, through the host's mirrors. Raises LookupError with a sentence when the
    engine has no image for this accelerator."""
    if isinstance(model.image, TarImage | BuildImage):
        return model.image.reference
    return mirrored(spec, model.image or ENGINES[model.engine].image(str(model.version), accelerator))


def accelerator(model: Model | Job, uuids: Sequence[str], state: HostState) -> Accelerator:
    """What a model computes on: its GPUs, or the CPU."""
    return compatibility.accelerator(model, slots_of(uuids, state))


def render_nodes(uuids: Sequence[str], state: HostState) -> dict[str, int]:
    """The device nodes by which containers get AMD's cards → the group that may open each; {} for NVIDIA's."""
    return {gpu.node: gpu.gid for gpu in state.gpus if gpu.uuid in uuids and gpu.vendor == "amd"}


def mirrored(spec: Host, reference: str) -> str:
    """A reference with its registry replaced by the mirror, if there is one.

    `ghcr.io/a/b:1` with {"ghcr.io": "mirror:5000/ghcr"} is `mirror:5000/ghcr/a/b:1`; `a/b:1` is docker.io's.
    """
    image = ImageRef.parse(reference)
    mirror = spec.mirrors.get(image.registry)
    return image.at(mirror.url) if mirror else reference


def images(spec: Host) -> list[str]:
    """All references that enabled models may run from; which of an engine's variants depends on the cards."""
    return [reference for _, reference in images_by_user(spec)]


def images_by_user(spec: Host) -> list[tuple[str, str]]:
    """The same with the user in whose Docker they are to be, "" for the host's own."""
    found: list[tuple[str, str]] = []
    for model in spec.everything.values():
        if model.enabled and isinstance(model.image, TarImage | BuildImage):
            found.append((model.dockerd, model.image.reference))
        elif model.enabled:
            found += [(model.dockerd, mirrored(spec, reference)) for reference in references(model)]
    return found


def references(model: Model | Job) -> list[str]:
    """All references of registries, without mirrors, that a model or job may run from."""
    if isinstance(model.image, str):
        return [model.image]
    if isinstance(model, Job):
        engine, vendors = ENGINES[model.engine], (CPU, Accelerator("nvidia"), Accelerator("amd"))
        return sorted({engine.job_image(str(model.version), vendor, model.command) for vendor in vendors})
    return list(ENGINES[model.engine].variants(str(model.version))) if model.version is not None else []


def address(bind: str, state: HostState) -> str:
    """The host's address that a bind means. `lan` is the one that the default route uses, "" where there is none."""
    return {"loopback": "127.0.0.1", "any": "0.0.0.0", "lan": state.address}.get(bind, bind)


def address_of(name: str, spec: Host, state: HostState) -> str:
    """The host's address of an entry. While `lan` means none, that of its container; "" without one (plan/refusals.py
    keeps such an entry from being made)."""
    container = state.container(name, spec.entries[name].dockerd)
    now = next((ip for ip, _ in container.ports), "") if container else ""
    return address(spec.entries[name].bind, state) or now


def probe_url(name: str, spec: Host, state: HostState) -> str:
    """Where a model is asked whether it is ready, from the host itself."""
    model = spec.entries[name]
    ip = address_of(name, spec, state)
    ip = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(ip, ip)
    host = f"[{ip}]" if ":" in ip else ip
    return f"http://{host}:{model.port}{ENGINES[model.engine].ready_at(model)}"


def probes(spec: Host) -> list[str]:
    """`user|model|port inside|path|address|port` of every enabled model, for the look: where it listens inside, the
    path at which it says that it is ready, and where it is to be on the host ("lan": the default route's address)."""
    found = []
    for name, model in spec.entries.items():
        if model.enabled:
            engine = ENGINES[model.engine]
            where = "lan" if model.bind == "lan" else address(model.bind, HostState())
            question = (engine.listens(model), engine.ready_at(model), where, model.port)
            found.append("|".join(map(str, (model.dockerd, name, *question))))
    return found


def counters(spec: Host) -> list[str]:
    """`user|model|path|counter` of every enabled model whose engine counts what it served."""
    return [
        f"{model.dockerd}|{name}|{counter.path}|{counter.name}"
        for name, model in spec.entries.items()
        if model.enabled and (counter := ENGINES[model.engine].counter)
    ]


def answers_as(name: str, spec: Host) -> str | None:
    """The name that a model's answer must hold; None where the answer names no model."""
    model = spec.entries[name]
    return ENGINES[model.engine].answers_as(model, model.served_name or name)


def service(name: str, spec: Host, state: HostState, uuids: tuple[str, ...]) -> dict[str, Any]:
    """A model's Compose service, without its labels."""
    model = spec.entries[name]
    engine = ENGINES[model.engine]
    container = of_engine(name, spec, state, uuids)
    hardware = accelerator(model, uuids, state)
    path = weights.host_path(spec, model)
    data: dict[str, Any] = {
        "image": image(spec, model, hardware),
        "container_name": name,
        "restart": "unless-stopped",
        "ports": [
            {"target": engine.listens(model), "published": str(model.port), "host_ip": address_of(name, spec, state)}
        ],
    }
    if container.command is not None:
        data["command"] = container.command
    if container.entrypoint:
        data["entrypoint"] = container.entrypoint
    if container.environment or model.env:
        data["environment"] = {**container.environment, **model.env}
    mounts: list[dict[str, Any]] = [
        {"type": "volume", "source": volume, "target": place} for volume, place in container.volumes.items()
    ]
    sources = [weights.mount(path)[:2]] if path else []
    sources += [
        (weights.place(spec, more, model.dockerd), target_of(index, more))
        for index, more in enumerate(engine.more_weights(model))
    ]
    for index, (source, target) in enumerate(sources):
        mount = {"type": "bind", "source": source, "target": target, "read_only": True}
        mounts.insert(index, {**mount, "bind": {"create_host_path": False}})
    if mounts:
        data["volumes"] = mounts
    if targets := files.targets(name, spec, container):
        data["secrets"] = [{"source": f"{name}_{file}", "target": target} for file, target in targets.items()]
    if hosts := neighbours.extra_hosts(name, spec, state):
        data["extra_hosts"] = [f"{other}:{ip}" for other, ip in hosts.items()]
    given = cards(uuids, spec, state, engine.draws(model))
    if "environment" in given:
        given["environment"] = {**data.get("environment", {}), **given["environment"]}
    data |= given
    patched: dict[str, Any] = patch(patch(data, container.compose), model.compose)
    if isinstance(model.compose.get("volumes"), list):
        patched["volumes"] = together(data.get("volumes", []), model.compose["volumes"])
    for key in ("devices", "group_add"):
        if key in data and isinstance(model.compose.get(key), list):
            patched[key] = [*data[key], *model.compose[key]]
    if model.compose.get("ipc") not in (None, "private", "shareable") and "shm_size" not in model.compose:
        patched.pop("shm_size", None)  # the namespace of another has its own size
    return hardened(patched, model.compose)


def hardened(service: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """A service in whose container no program gets more privileges than the first one has (setuid, sudo). words: the
    entry's own `compose`, whose `security_opt` is added to; what it says of this itself counts, and null opts out.

    >>> hardened({"security_opt": ["seccomp=unconfined"]}, {})
    {'security_opt': ['no-new-privileges:true', 'seccomp=unconfined']}
    """
    options = service.get("security_opt", [])
    opted_out = words.get("security_opt", options) is None or not isinstance(options, list)
    if opted_out or any(str(option).startswith("no-new-privileges") for option in options):
        return dict(service)
    return {**service, "security_opt": [NO_NEW_PRIVILEGES, *options]}


def cards(uuids: Sequence[str], spec: Host, state: HostState, drawing: bool) -> dict[str, Any]:
    """What gives a service these cards; with what the driver has for drawing, which CDI and AMD's nodes always give."""
    if nodes := render_nodes(uuids, state):
        # by number: the image need not know the host's groups, and root inside needs none
        groups = [str(gid) for gid in sorted({state.kfd_gid, *nodes.values()})]
        return {"devices": [KFD, *nodes], "group_add": groups}
    if not uuids:
        return {}
    how = access(spec, state)
    environment = {"NVIDIA_DRIVER_CAPABILITIES": "compute,graphics,utility"} if drawing and how != "cdi" else {}
    if how == "runtime":
        return {"runtime": "nvidia", "environment": {"NVIDIA_VISIBLE_DEVICES": ",".join(uuids), **environment}}
    driver, prefix = ("cdi", "nvidia.com/gpu=") if how == "cdi" else ("nvidia", "")
    devices = [f"{prefix}{uuid}" for uuid in uuids]
    reservation = {"driver": driver, "device_ids": devices, "capabilities": ["gpu"]}
    given = {"deploy": {"resources": {"reservations": {"devices": [reservation]}}}}
    return {**given, "environment": environment} if environment else given


def together(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Any]) -> list[Any]:
    """Mounts as Compose merges those of two files: all of both, and of two at one place the latter.

    >>> together([{"target": "/w"}, {"target": "/c"}], ["cache:/c", "/d"])
    [{'target': '/w'}, 'cache:/c', '/d']
    """
    taken = {_place(mount) for mount in theirs}
    return [*(mount for mount in ours if mount["target"] not in taken), *theirs]


def _place(mount: Any) -> str:
    """Where a mount in either form is, inside."""
    if isinstance(mount, Mapping):
        return str(mount.get("target"))
    parts = str(mount).split(":")
    return parts[1] if len(parts) > 1 else parts[0]


def of_engine(name: str, spec: Host, state: HostState, uuids: tuple[str, ...]) -> Container:
    """What the engine decides about an entry's container."""
    model = spec.entries[name]
    engine = ENGINES[model.engine]
    path = weights.host_path(spec, model)
    more = [target_of(index, found) for index, found in enumerate(engine.more_weights(model))]
    return engine.container(
        model,
        Run(
            served_name=model.served_name or name,
            name=name,
            weights=weights.mount(path)[2] if path else None,
            more_weights=tuple(more),
            accelerator=accelerator(model, uuids, state),
            cores=state.docker.get("NCPU"),
            memory=state.docker["MemTotal"] / 2**30 if "MemTotal" in state.docker else None,
            gpus=len(uuids),
            memory_fraction=memory_fraction(model, uuids, state),
            api_key_file=files.inside(files.KEY) if model.api_key else None,
            keys_file=files.inside(files.KEYS) if model.keys else None,
            upstreams=upstreams(name, spec),
        ),
    )


def upstreams(name: str, spec: Host) -> tuple[Upstream, ...]:
    """What an entry connects to, as its engine is told."""
    return tuple(
        Upstream(
            name=connection.name,
            serves=connection.serves,
            url=connection.url,
            key_file=files.inside(f"{UPSTREAM}{index}") if connection.key else None,
            api=ENGINES[connection.model.engine].api,
        )
        for index, connection in enumerate(spec.connections(name))
    )


def target_of(index: int, more: Weights) -> str:
    """Where the weights that an entry names beside `weights` lie inside; two of the same name do not meet."""
    name = more if isinstance(more, str) else more.place
    return f"/weights/{index}/{name.rstrip('/').rpartition('/')[2]}"


def memory_fraction(model: Model, uuids: Sequence[str], state: HostState) -> float | None:
    """A model's share of the memory of its (smallest) GPU; None for all of it, and where the memory is not known."""
    slots = slots_of(uuids, state)
    if model.vram is None or not slots:
        return None
    sizes = [slot.memory for slot in slots if slot.memory]
    return round(model.vram.of(min(sizes)) / min(sizes), 3) if sizes else model.vram.fraction


def definition(
    name: str, spec: Host, state: HostState, uuids: tuple[str, ...], secrets: Mapping[str, str], salt: str
) -> dict[str, Any]:
    """What a model is, in the inventory's words and without secrets: the content of its label.

    secrets: their values, by spec.secrets' names; they are in the label only as salted fingerprints, and so is the
    content of other files. salt: 32 hex digits.
    """
    model = spec.entries[name]
    data = service(name, spec, state, uuids)
    words = {
        **definition_words(model),
        "image": data["image"],
        "weights": weights.host_path(spec, model),
        "gpus": gpus_text(model),
        "vram": str(model.vram) if model.vram else None,
        "uuids": list(uuids),
        "render_nodes": (nodes := list(render_nodes(uuids, state))) or None,
        "access": how if uuids and not nodes and (how := access(spec, state)) != "cdi" else None,
        "bind": model.bind,
        "served_name": model.served_name or name,
        "connects_to": [connection.label for connection in spec.connections(name)],
        "upstreams": {
            connection.label: f"{connection.url} ({connection.model.engine}: {', '.join(connection.serves)})"
            for connection in spec.connections(name)
        },
        "hosts": neighbours.extra_hosts(name, spec, state),
        "service": digest(data),
        **files.fingerprints(name, spec, of_engine(name, spec, state, uuids), secrets, salt),
    }
    return {word: value for word, value in words.items() if value not in (None, {}, [])}


def digest(data: Any) -> str:
    """Changes whenever the way gpurack runs a model does."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def labelled(
    name: str, spec: Host, state: HostState, uuids: tuple[str, ...], words: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole service, with the labels by which gpurack and the snapshot know it."""
    data = service(name, spec, state, uuids)
    labels = {
        "gpurack.model": json.dumps(words, sort_keys=True),
        "gpurack.probe": probe_url(name, spec, state),
    }
    own = data.get("labels") or {}
    if isinstance(own, list):  # Compose takes both forms
        own = dict(str(label).partition("=")[::2] for label in own)
    data["labels"] = {**own, **labels}
    return data


def document(services: Mapping[str, Mapping[str, Any]], user: str = "") -> str:
    """The text of a user's compose.yaml. Services of models that could not be planned now may be old ones, kept as they
    were."""
    models = blocks(services, user)
    text = head(user)
    for section in SECTIONS:
        lines: dict[str, str] = {}
        for block in models.values():
            lines |= block[section]
        if lines:
            text += f'"{section}":\n' + "".join(lines[key] for key in sorted(lines))
        elif section == "services":
            text += '"services": {}\n'
    return text


def head(user: str = "") -> str:
    """What stands above the services."""
    return HEADER.format(docker=by_hand(user), path=paths.compose_file(user)) + as_yaml({"name": paths.PROJECT})


def by_hand(user: str) -> Sh:
    """How root calls the docker of a user, "" for the host's own."""
    return sh("sudo -iu {} docker", user) if user else sh("docker")


def blocks(services: Mapping[str, Mapping[str, Any]], user: str = "") -> dict[str, dict[str, dict[str, str]]]:
    """Model → section of the file → item → its lines. The runner on the host, which has no YAML, puts the file together
    of these as `document` does, because a model that fails there keeps its old lines."""
    found = {}
    for name, data in services.items():
        items: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        items["services"][name] = data
        for secret in _maps(data.get("secrets")):
            if (source := str(secret.get("source"))).startswith(f"{name}_"):
                file = paths.container_file(user, name, source.removeprefix(f"{name}_"))
                items["secrets"][source] = {"file": file}
        for mount in _maps(data.get("volumes")):
            if mount.get("type") == "volume":
                items["volumes"][str(mount.get("source"))] = {}
        found[name] = {
            section: {key: textwrap.indent(as_yaml({key: value}), "  ") for key, value in values.items()}
            for section, values in items.items()
        }
    return found


def _maps(values: Any) -> list[Mapping[str, Any]]:
    """The maps of a list; an admin's `compose` may have put anything there, and Compose will say so."""
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list) else []


def as_yaml(data: Mapping[str, Any]) -> str:
    """Data as Compose is to read it: `$` doubled, every text quoted."""
    text: str = yaml.dump(escaped(data), Dumper=_Quoted, sort_keys=False, allow_unicode=True, width=10**9)
    return text


def old_services(state: HostState, user: str = "") -> dict[str, Any]:
    """The services of the compose.yaml that lies on the host for a user, unescaped; {} when it cannot be read."""
    found = record.services(state.files.get(paths.compose_file(user)))
    return {name: unescaped(data) for name, data in found.items() if isinstance(data, dict)}


def escaped(value: Any) -> Any:
    """`$` doubled in every value: Compose interpolates variables in values, but not in keys."""
    return _in_strings(value, "$", "$$")


def unescaped(value: Any) -> Any:
    """The opposite of `escaped`."""
    return _in_strings(value, "$$", "$")


def _in_strings(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, Mapping):
        return {key: _in_strings(item, old, new) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_strings(item, old, new) for item in value]
    return value


class _Quoted(yaml.SafeDumper):
    """Writes every string in double quotes, but for keys that no YAML reader can take for anything else; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        for key, _ in node.value:
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key.value) and key.value.lower() not in _YAML_WORDS:
                key.style = None
        return node


_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_Quoted.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
