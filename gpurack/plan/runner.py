"""The payload for the runner on the host (files/models.py). Pure."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpurack import paths
from gpurack.engines import ENGINES, hints_of
from gpurack.engines.hints import Hint, argument_hints
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.plan import pins
from gpurack.plan.models import addresses, compose, files, images, keys, ledger, neighbours, probes, pulls, weights
from gpurack.plan.models.batches import batches, lanes
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change, container_of_change, replaced
from gpurack.plan.models.failures import dependencies
from gpurack.plan.models.observed import Observed
from gpurack.spec.model import Model
from gpurack.spec.secret import UPSTREAM


@dataclass(frozen=True)
class Project:
    """The Compose project in one daemon: a user's, or the host's own ("").

    services: as they should be. before: those of the current compose.yaml, for models that fail. files: entry → file →
    text of what is mounted, for the containers that could be planned. None if the file stays unchanged. keys, old_keys:
    of services and before, by entry (keys.py).
    """

    user: str
    services: Mapping[str, Mapping[str, Any]]
    before: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, Mapping[str, str | None]]
    keys: Mapping[str, str] = field(default_factory=dict)
    old_keys: Mapping[str, str] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """Return the key of an entry."""
        return self.keys.get(name, name)

    def old_key(self, name: str) -> str:
        """Return the key of an entry in the current compose.yaml, and of the container that it has."""
        return self.old_keys.get(name, name)

    def differs(self, facts: HostFacts) -> bool:
        """Does compose.yaml differ on the host, or any file of its containers?

        A file differs if it is missing, left over, or readable by others. Files of containers that could not be planned
        stay.
        """
        file = facts.files.get(paths.compose_file(self.user))
        if (self.services or file) and (
            file is None or file.text != compose.document(self.services, self.user, self.keys)
        ):
            return True
        # A user's client reads it by an ACL, whose mask appears as the group's mode bits (files/writing.py: write).
        if file and (int(file.mode, 8), file.uid, file.gid) != (0o640 if self.user else 0o600, 0, 0):
            return True
        mine = f"{paths.project(self.user)}/"
        stay = tuple(paths.container_file(self.user, self.key(name), "") for name in self.services.keys() - self.files)
        there = {
            path: found for path, found in facts.secrets.items() if path.startswith(mine) and not path.startswith(stay)
        }
        reader = facts.users[self.user].uid if self.user in facts.users else 0
        return there != {
            paths.container_file(self.user, self.key(name), file): ("400", reader)
            for name, texts in self.files.items()
            for file in texts
        }


def make_job(
    acting: Sequence[Change],
    desired: Mapping[str, DesiredService],
    projects: Sequence[Project],
    facts: HostFacts,
    touched: Collection[str] = (),
    rollback: str = "",
    database: str = "",
) -> dict[str, Any]:
    """Return the payload.

    batches: models that need each other's GPUs, ports or names succeed or fail together. keys: the current key of each
    entry in compose.yaml. files: by key. touched: further users in whose Docker something of the record changes.
    rollback: the mark that the record gets with each new container. database: the copy of its database that is brought
    back with it.
    """
    by_user = {project.user: project for project in projects}
    entries = {change: entry(change, desired, by_user, facts) for change in acting}
    for data in entries.values() if rollback else ():
        data["rollback"] = rollback
        if database and "database" in data:
            data["database"]["restore"] = database
    busy = {*touched, *(user for data in entries.values() for user in (data["from"], data.get("user", data["from"])))}
    return {
        "ours": proven_ids(facts),
        "projects": {
            project.user: {
                "head": compose.head(project.user),
                "services": compose.blocks(project.services, project.user, project.keys),
                "before": compose.blocks(project.before, project.user, project.old_keys),
                "keys": {name: project.old_key(name) for name in project.before},
                "files": {
                    project.key(name): {file: text for file, text in texts.items() if text is not None}
                    for name, texts in project.files.items()
                },
            }
            for project in projects
            if not project.user or project.user in busy or project.differs(facts)
        },
        "batches": [[entries[change] for change in batch] for batch in batches(acting, desired, facts)],
    }


def proven_ids(facts: HostFacts) -> dict[str, dict[str, str]]:
    """Return user → name → id of every container that gpurack created, models and jobs.

    The runner touches no others. If there is no record, the runner creates it from these.
    """
    found: dict[str, dict[str, str]] = {}
    for (user, name), container in sorted(facts.proven.items()):
        found.setdefault(user, {})[name] = container.id
    return found


def own_hints(one: DesiredService) -> list[Hint]:
    """Return the hints for arguments that the program of a service refuses."""
    words = [*(one.container.entrypoint or ()), *(one.container.command or ())]
    field = "version" if one.entry.image is None else "image"
    return argument_hints(words, list(one.entry.args), one.entry.engine, field)


def entry(
    change: Change, desired: Mapping[str, DesiredService], projects: Mapping[str, Project], facts: HostFacts
) -> dict[str, Any]:
    """Return one model in the payload. projects: by user."""
    name, container = change.model, container_of_change(change, desired, facts)
    if change.action == Action.REMOVE:
        return {
            "name": name,
            "action": Action.REMOVE,
            "from": change.user,
            "old_key": keys.current_key(name, change.user, facts),
            "lanes": [],
            **(draining(container) if container else {}),
        }
    one, spec, model = desired[name], desired[name].spec, desired[name].entry
    project, services = projects[one.user], projects[one.user].services
    label = services[name]["labels"][paths.MODEL_LABEL]
    data: dict[str, Any] = {
        "name": name,
        "action": change.action,
        "key": project.key(name),
        "lanes": list(lanes(one)),
        "user": model.dockerd,
        "from": container.user if container else model.dockerd,
        "image": services[name]["image"],
        **images.obtained(spec, model),
        **pulls.pull_request(spec, model),
        "uuids": list(one.uuids),
        "url": one.url,
        "served_name": one.answers_as,
        "timeout": model.ready_seconds,
        "hints": [hint.payload for hint in [*hints_of(model.engine), *own_hints(one)]],
        "definition": hashlib.sha256(label.encode()).hexdigest(),
        "label": label,
        "given": dependencies(one, facts),
        **({"words": words} if (words := unlabelled(model)) else {}),
    }
    if change.action in (Action.CREATE, Action.RECREATE):
        data |= proofs(one)
    elif change.action == Action.START:
        data |= weights_to_read(one)
    if limit := probes.driver_limit(one, facts):
        data["driver"] = limit
    if container:
        data["old_key"] = keys.current_key(name, container.user, facts)
        if change.action == Action.RECREATE and (secrets := todays_secrets(one, facts)):
            data["restore"] = secrets
    if change.action in (Action.CREATE, Action.RECREATE) and (found := ENGINES[model.engine].database(model, name)):
        data["database"] = {"volume": compose.volume_name(found[0]), "file": found[1]}
    if counter := ENGINES[model.engine].counter:
        data["counter"] = [counter.path, counter.name]
        # Of the old container. If that has another engine, it is not asked, because its counters are elsewhere.
        if container and had(container, model.engine):
            data |= running_requests(model.engine)
    if asleep := ENGINES[model.engine].sleeping:
        data["sleeping"] = list(asleep)
    if name in spec.models and not model.pull:  # what is pulled is asked one by one
        engine = ENGINES[model.engine]
        data["requests"] = engine.requests(model, engine.serves(model, one.served_name))
    if ENGINES[model.engine].gateway:
        data["gateway"] = gateway(one, project.key(name), facts)
    if change.action == Action.CREATE and (old := replaced(one, facts)):
        data["replaces"] = {"name": model.replaces, "user": old.user, "id": old.id}
    if after := [other.name for other in one.connections if other.near and spec.depth(other.name) < one.depth]:
        data["after"] = after
    locked = one.locked
    fetch = []
    for wanted, path in one.weights:
        if told := weights.fetched(spec, wanted, one.user):
            fetch.append(told | pins.hub_pins(one, path) if "hub" in told else told)
    if fetch:
        data["fetch"] = fetch
    if locked.weights:
        data |= {"sha256": locked.weights, "again": pins.restore_hint(model)}
    if locked.ollama:
        data["ollama"] = locked.ollama
    if locked.digest:
        data["digest"] = locked.digest
    return data


def draining(container: Container) -> dict[str, Any]:
    """Return how the runner asks a container that is removed or stopped for its running requests, so that they may end.

    The address comes from a label, which a user may have written in the user's own Docker: there it must be a port that
    the container publishes (files/ports.py: own_url).
    """
    url = container.labels.get(paths.PROBE_LABEL, "") if not container.user else ""
    return {"url": url, **running_requests(str(ledger.label(container.labels).get("engine")))}


def running_requests(engine: str) -> dict[str, Any]:
    """Return where an engine counts its running requests; nothing if it does not, or is unknown."""
    known = ENGINES.get(engine)
    return {"running": [known.counter.path, known.running]} if known and known.counter and known.running else {}


def proofs(desired: DesiredService) -> dict[str, Any]:
    """Return what the runner proves of a new container: before the old one stops, and by its log.

    cuda_untested: does it need CUDA, and has no probe of it? log: Engine.log_shows, for a model with NVIDIA's GPUs.
    """
    cuda, dry = probes.cuda_probe(desired), probes.dry_start(desired)
    untested = cuda is None and probes.needs_cuda(desired)
    log = ENGINES[desired.entry.engine].log_shows(desired.entry) if desired.devices.nvidia_access else ""
    found = {"cuda": cuda, "cuda_untested": untested, "dry_start": dry, "log": log}
    return {word: value for word, value in found.items() if value} | weights_to_read(desired)


def weights_to_read(desired: DesiredService) -> dict[str, list[str]]:
    """Return the paths of the weights whose headers the runner reads first, for an engine whose formats are known."""
    engine = ENGINES[desired.entry.engine]
    found = [path for _, path in desired.weights] if engine.weights_suffixes or engine.weights_folders else []
    return {"weights": found} if found else {}


def unlabelled(model: Model) -> dict[str, Any]:
    """Return the fields of an entry that its label does not have, and that a rollback needs (rollback.py)."""
    pull = {"pull": model.pull} if pulls.pulling(model) else {}
    return pull | ({"config": model.config} if model.config is not None else {})


def had(container: Container, engine: str) -> bool:
    """Was a container created for this engine?"""
    return ledger.label(container.labels).get("engine") == engine


def todays_secrets(desired: DesiredService, facts: HostFacts) -> list[str]:
    """Return the secret files of a model's present container that get the text of its next one before it starts again.

    So a change that fails restores no revoked key. Files that its next container does not have, or has for something
    else, stay.
    """
    container = facts.ours.get((desired.user, desired.name))
    definition = ledger.label(container.labels) if container else {}
    folder = desired.observed(facts).folder
    own = {files.file_of(path) for path in desired.container.files}
    same = definition.get("connects_to", []) == desired.definition.get("connects_to", [])
    return [
        file
        for file in sorted(desired.files)
        if f"{folder}{file}" in facts.secrets and file not in own and (same or not file.startswith(UPSTREAM))
    ]


def gateway(desired: DesiredService, key: str, facts: HostFacts) -> dict[str, Any]:
    """Return how to test a gateway (files/asking.py), and the models behind it. key: its own in compose.yaml.

    The gateway is asked with its own host key, each model with its own key. Models in the gateway's own Docker come
    first. One answer is enough, so other users cannot delay it.
    """
    behind = [
        {
            "serves": list(other.serves),
            "url": addresses.probe_url(Observed(other.name, desired.spec, facts))
            if other.here
            else neighbours.ready_url(other),
            "key": paths.container_file(desired.user, key, f"{UPSTREAM}{index}") if other.key else None,
            "requests": ENGINES[other.model.engine].requests(other.model, other.serves),
            "sleeping": ENGINES[other.model.engine].sleeping,
            **({"user": other.model.dockerd, "name": other.name} if other.here else {}),
        }
        for index, other in sorted(enumerate(desired.connections), key=lambda one: not one[1].near)
    ]
    engine = ENGINES[desired.entry.engine]
    return {"key": engine.host_key, "requests": engine.requests(desired.entry, ["any"]), "behind": behind}
