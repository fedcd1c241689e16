"""An enabled model or service as it should run on its host. Pure.

It is decided once: diff, preflight, the runner's payload, the label and verification read the same `DesiredService`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gpurack import paths
from gpurack.engines import ENGINES, weights_of
from gpurack.engines.container import Container, Run, Upstream
from gpurack.facts.model import HostFacts
from gpurack.plan.models import addresses, files, images, ledger, neighbours, weights
from gpurack.plan.models.devices import Devices, devices
from gpurack.plan.models.observed import Observed, Wanted
from gpurack.plan.models.service import hardened, merge_mounts
from gpurack.plan.models.slots import gpus_text
from gpurack.spec.connection import Connection
from gpurack.spec.fields import definition_words
from gpurack.spec.host import Host
from gpurack.spec.lock import ModelLock, model_lock
from gpurack.spec.merge import patch
from gpurack.spec.model import Model
from gpurack.spec.secret import UPSTREAM
from gpurack.spec.weights import Weights

SALTED = ("api_key", "config", "keys", "upstream_keys")
"""Words of a definition that contain salted fingerprints, because their content is secret."""


@dataclass(frozen=True)
class DesiredService(Wanted):
    """Everything that is decided about a model or service before it is compared with its container.

    devices: its GPUs. image: through the host's mirrors. address: the
    host's address on which it listens. url: where the host asks whether it is ready. connections: what it connects to.
    hosts: name → address of other hosts that it connects to. weights: all of them, each with its path on the host, its
    own first. locked: what the inventory's lock says about it. run: what its engine is told. container: what its engine
    decides. files: file → text of what is mounted into it. fingerprints: words of its definition that change if a file
    or secret does.
    """

    devices: Devices
    image: str
    address: str
    url: str
    hosts: Mapping[str, str]
    connections: tuple[Connection, ...]
    weights: tuple[tuple[Weights, str], ...]
    locked: ModelLock
    run: Run
    container: Container
    files: Mapping[str, str] = field(repr=False)
    fingerprints: Mapping[str, Any]

    @property
    def user(self) -> str:
        """The user in whose Docker it runs, "" for the host's own."""
        return self.entry.dockerd

    def observed(self, facts: HostFacts) -> Observed:
        """Return it beside its host's facts."""
        return Observed(self.name, self.spec, facts)

    @property
    def depth(self) -> int:
        """Its place in the order of starts."""
        return self.spec.depth(self.name)

    @property
    def uuids(self) -> tuple[str, ...]:
        """The UUIDs of its GPUs."""
        return self.devices.uuids

    @property
    def reference(self) -> str:
        """The image reference in its Compose service."""
        return str(self.service["image"])

    @property
    def served_name(self) -> str:
        """The name that clients use."""
        return self.entry.name_served(self.name)

    @property
    def answers_as(self) -> str | None:
        """The name that its answer must contain; None if the answer names no model."""
        return ENGINES[self.entry.engine].answers_as(self.entry, self.served_name)

    @property
    def weights_path(self) -> str:
        """The path of its own weights on the host, "" without any."""
        return self.weights[0][1] if self.entry.weights is not None else ""

    @cached_property
    def service(self) -> Mapping[str, Any]:
        """Its Compose service, without labels."""
        return _service(self)

    @cached_property
    def definition(self) -> Mapping[str, Any]:
        """The content of its label: what it is, in the inventory's words and without secrets."""
        model, access = self.entry, self.devices.nvidia_access
        words = {
            **definition_words(model),
            "image": self.reference,
            "weights": self.weights_path,
            "gpus": gpus_text(model),
            "vram": str(model.vram) if model.vram else None,
            "uuids": list(self.uuids),
            "render_nodes": list(self.devices.nodes) or None,
            "access": access if access != "cdi" else None,
            "bind": model.bind,
            "served_name": self.served_name,
            "connects_to": [connection.label for connection in self.connections],
            "upstreams": {
                connection.label: f"{connection.url} ({connection.model.engine}: {', '.join(connection.serves)})"
                for connection in self.connections
            },
            "hosts": self.hosts,
            "service": digest(self.service),
            **self.fingerprints,
        }
        return {word: value for word, value in words.items() if value not in (None, {}, [])}

    @property
    def labelled(self) -> dict[str, Any]:
        """Its Compose service, with the labels by which gpurack and the snapshot recognize it."""
        return self.labelled_as(self.definition)

    def labelled_as(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Return its Compose service with another definition in the label."""
        own = self.service.get("labels") or {}
        if isinstance(own, list):  # Compose takes both forms
            own = dict(str(label).partition("=")[::2] for label in own)
        labels = {paths.MODEL_LABEL: json.dumps(definition, sort_keys=True), paths.PROBE_LABEL: self.url}
        return {**self.service, "labels": {**own, **labels}}


def desire(
    name: str,
    spec: Host,
    facts: HostFacts,
    uuids: tuple[str, ...],
    secrets: Mapping[str, str] | None = None,
    salt: str = "",
) -> DesiredService:
    """Decide what an entry should be on its host.

    uuids: the GPUs that the ledger assigned. secrets: of this entry, by the names of spec/secret.py. Its label contains
    them, and the content of its files, only as salted fingerprints. salt: 32 hex digits, used if its container has no
    salt yet. Raises LookupError with a sentence if the engine has no image for these GPUs.
    """
    one = Observed(name, spec, facts)
    return desire_on(devices(one.entry, uuids, spec, facts), one, secrets, salt)


def desire_on(
    hardware: Devices, one: Observed, secrets: Mapping[str, str] | None = None, salt: str = ""
) -> DesiredService:
    """Do what `desire` does, for an entry whose GPUs were looked up already (hardware)."""
    name, spec, entry = one.name, one.spec, one.entry
    label = ledger.label(one.container.labels) if one.container else {}
    placed = tuple((each, weights.place(spec, each, entry.dockerd)) for each in weights_of(entry))
    connections = spec.connections(name)
    run = _run(one, placed, hardware, connections)
    container = ENGINES[entry.engine].container(entry, run)
    values = secrets or {}
    return DesiredService(
        name=name,
        spec=spec,
        devices=hardware,
        image=images.image(spec, entry, hardware.accelerator),
        address=addresses.address_of(one),
        url=addresses.probe_url(one),
        hosts=neighbours.extra_hosts(connections, label, one.facts),
        connections=connections,
        weights=placed,
        locked=model_lock(spec.lock, name),
        run=run,
        container=container,
        files=files.contents(container, values, ENGINES[entry.engine].hash_client_keys),
        fingerprints=files.fingerprints(entry, connections, container, values, salt_of(label) or salt),
    )


def salt_of(definition: Mapping[str, Any]) -> str | None:
    """Return the salt of the fingerprints in a container's label; None if it has none."""
    for word in (*SALTED, "files"):
        value: Any = definition.get(word)
        if isinstance(value, Mapping):
            value = next(iter(value.values()), None)
        if value:
            return str(value).partition(":")[0]
    return None


def digest(data: Any) -> str:
    """Return a short digest that changes whenever gpurack runs a model differently."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def _run(
    one: Observed, placed: Sequence[tuple[Weights, str]], hardware: Devices, connections: Sequence[Connection]
) -> Run:
    """Return what the entry's engine is told."""
    name, entry, docker = one.name, one.entry, one.facts.docker
    own = placed[0][1] if entry.weights is not None else None
    return Run(
        served_name=entry.name_served(name),
        name=name,
        weights=weights.mount(own)[2] if own else None,
        more_weights=tuple(target for _, target in _more_mounts(entry, placed)),
        accelerator=hardware.accelerator,
        cores=docker.get("NCPU"),
        memory=docker["MemTotal"] / 2**30 if "MemTotal" in docker else None,
        gpus=len(hardware.uuids),
        memory_fraction=hardware.memory_fraction(entry),
        api_key_file=files.inside(files.KEY) if entry.api_key else None,
        keys_file=files.inside(files.KEYS) if entry.keys else None,
        upstreams=tuple(
            Upstream(
                name=connection.name,
                serves=connection.serves,
                url=connection.url,
                key_file=files.inside(f"{UPSTREAM}{index}") if connection.key else None,
                api=ENGINES[connection.model.engine].api,
            )
            for index, connection in enumerate(connections)
        ),
    )


def _more_mounts(entry: Model, placed: Sequence[tuple[Weights, str]]) -> list[tuple[str, str]]:
    """Return (path on the host, path inside) of the weights that an entry names outside of `weights`.

    Each has a folder of its own inside, because two may have the same name.
    """
    more = placed[1:] if entry.weights is not None else placed
    return [
        (path, f"/weights/{index}/{(one if isinstance(one, str) else one.place).rstrip('/').rpartition('/')[2]}")
        for index, (one, path) in enumerate(more)
    ]


def _service(desired: DesiredService) -> dict[str, Any]:
    name, model, container = desired.name, desired.entry, desired.container
    engine = ENGINES[model.engine]
    data: dict[str, Any] = {
        "image": desired.image,
        "container_name": name,
        "restart": "unless-stopped",
        "ports": [{"target": engine.listens(model), "published": str(model.port), "host_ip": desired.address}],
    }
    if container.command is not None:
        data["command"] = container.command
    if container.entrypoint:
        data["entrypoint"] = container.entrypoint
    volumes, environment = {**container.volumes}, {**container.environment}
    if engine.compiled and (kept := engine.compiled.environment(desired.devices.accelerator.vendor, desired.image)):
        volumes[engine.compiled.volume] = engine.compiled.folder
        environment |= kept
    if environment or model.env:
        data["environment"] = {**environment, **model.env}
    own = [weights.mount(desired.weights_path)[:2]] if desired.weights_path else []
    mounts: list[dict[str, Any]] = [
        {"type": "bind", "source": source, "target": target, "read_only": True, "bind": {"create_host_path": False}}
        for source, target in (*own, *_more_mounts(model, desired.weights))
    ]
    mounts += [{"type": "volume", "source": volume, "target": place} for volume, place in volumes.items()]
    if mounts:
        data["volumes"] = mounts
    if targets := files.targets(model, desired.connections, container):
        data["secrets"] = [{"source": f"{name}_{file}", "target": target} for file, target in targets.items()]
    if desired.hosts:
        data["extra_hosts"] = [f"{other}:{ip}" for other, ip in desired.hosts.items()]
    given = desired.devices.words(engine.uses_graphics_driver(model))
    if "environment" in given:
        given["environment"] = {**data.get("environment", {}), **given["environment"]}
    data |= given
    patched: dict[str, Any] = patch(patch(data, container.compose), model.compose)
    if isinstance(model.compose.get("volumes"), list):
        patched["volumes"] = merge_mounts(data.get("volumes", []), model.compose["volumes"])
    for key in ("devices", "group_add"):
        if key in data and isinstance(model.compose.get(key), list):
            patched[key] = [*data[key], *model.compose[key]]
    if model.compose.get("ipc") not in (None, "private", "shareable") and "shm_size" not in model.compose:
        patched.pop("shm_size", None)  # another IPC namespace has its own size
    return hardened(patched, model.compose)
