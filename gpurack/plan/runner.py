"""The payload for the runner on the host (files/models.py). Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpurack import paths
from gpurack.engines import ENGINES, hints_of
from gpurack.engines.container import READY_TIMEOUT
from gpurack.facts.model import HostFacts
from gpurack.plan import pins
from gpurack.plan.models import addresses, compose, images, neighbours, pulls, weights
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.diff import Action, Change, container_of_change, holdings, replaced
from gpurack.spec.host import Host


@dataclass(frozen=True)
class Project:
    """The Compose project in one daemon: a user's, or the host's own ("").

    services: as they should be. before: those of the current compose.yaml, for models that fail. files: container →
    file → text of what is mounted, for the containers that could be planned. None if the file stays unchanged.
    """

    user: str
    services: Mapping[str, Mapping[str, Any]]
    before: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, Mapping[str, str | None]]

    def differs(self, facts: HostFacts) -> bool:
        """Does compose.yaml differ on the host, or any file of its containers?

        A file differs if it is missing, left over, or readable by others. Files of containers that could not be planned
        stay.
        """
        file = facts.files.get(paths.compose_file(self.user))
        if (self.services or file) and (file is None or file.text != compose.document(self.services, self.user)):
            return True
        # A user's client reads it by an ACL, whose mask appears as the group's mode bits (files/common.py: write).
        if file and (int(file.mode, 8), file.uid, file.gid) != (0o640 if self.user else 0o600, 0, 0):
            return True
        mine = f"{paths.project(self.user)}/"
        stay = tuple(paths.container_file(self.user, name, "") for name in self.services.keys() - self.files)
        there = {
            path: found for path, found in facts.secrets.items() if path.startswith(mine) and not path.startswith(stay)
        }
        reader = facts.users[self.user].uid if self.user in facts.users else 0
        return there != {
            paths.container_file(self.user, name, file): ("400", reader)
            for name, texts in self.files.items()
            for file in texts
        }


def make_job(
    acting: Sequence[Change],
    desired: Mapping[str, DesiredService],
    projects: Sequence[Project],
    spec: Host,
    facts: HostFacts,
) -> dict[str, Any]:
    """Return the payload.

    groups: models that need each other's GPUs, ports or names stop together, then start one after the other. Different
    groups run in parallel.
    """
    services = {name: data for project in projects for name, data in project.services.items()}
    entries = {change: entry(change, desired, services, spec, facts) for change in acting}
    busy = {data.get("user", data["from"]) for data in entries.values()} | {data["from"] for data in entries.values()}
    return {
        "ours": proven_ids(facts),
        "projects": {
            project.user: {
                "head": compose.head(project.user),
                "services": compose.blocks(project.services, project.user),
                "before": compose.blocks(project.before, project.user),
                "files": {
                    name: {file: text for file, text in texts.items() if text is not None}
                    for name, texts in project.files.items()
                },
            }
            for project in projects
            if not project.user or project.user in busy or project.differs(facts)
        },
        "groups": [[entries[change] for change in group] for group in groups(acting, desired, spec, facts)],
    }


def proven_ids(facts: HostFacts) -> dict[str, dict[str, str]]:
    """Return user → name → id of every container that gpurack created, models and jobs.

    The runner touches no others. If there is no record, the runner creates it from these.
    """
    found: dict[str, dict[str, str]] = {}
    for (user, name), container in sorted(facts.proven.items()):
        found.setdefault(user, {})[name] = container.id
    return found


def entry(
    change: Change,
    desired: Mapping[str, DesiredService],
    services: Mapping[str, Any],
    spec: Host,
    facts: HostFacts,
) -> dict[str, Any]:
    """Return one model in the payload."""
    name, container = change.model, container_of_change(change, desired, facts)
    if change.action == Action.REMOVE:
        return {"name": name, "action": Action.REMOVE, "from": change.user}
    one, model = desired[name], desired[name].entry
    data: dict[str, Any] = {
        "name": name,
        "action": change.action,
        "user": model.dockerd,
        "from": container.user if container else model.dockerd,
        "image": services[name]["image"],
        **images.obtained(spec, model),
        **pulls.pull_request(spec, model),
        "uuids": list(one.uuids),
        "url": one.url,
        "served_name": one.answers_as,
        "timeout": READY_TIMEOUT,
        "hints": [hint.payload for hint in hints_of(model.engine)],
        "definition": hashlib.sha256(services[name]["labels"][paths.MODEL_LABEL].encode()).hexdigest(),
    }
    if name in spec.models and not model.pull:  # what is pulled is asked one by one
        engine = ENGINES[model.engine]
        data["requests"] = engine.requests(model, engine.serves(model, one.served_name))
    if ENGINES[model.engine].gateway:
        data["gateway"] = gateway(one, spec, facts)
    if change.action == Action.CREATE and (old := replaced(one, facts)):
        data["replaces"] = {"name": model.replaces, "user": old.user, "id": old.id}
    if after := [other.name for other in one.connections if other.near and depth(other.name, spec) < depth(name, spec)]:
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


def gateway(desired: DesiredService, spec: Host, facts: HostFacts) -> dict[str, Any]:
    """Return how to test a gateway (files/asking.py), and the models behind it.

    The gateway is asked with its own host key, each model with its own key. Models in the gateway's own Docker come
    first. One answer is enough, so other users cannot delay it.
    """
    behind = [
        {
            "serves": list(other.serves),
            "url": addresses.probe_url(other.name, spec, facts) if other.here else neighbours.ready_url(other),
            "key": neighbours.key_file(spec, desired.name, index) if other.key else None,
            "requests": ENGINES[other.model.engine].requests(other.model, other.serves),
            **({"user": other.model.dockerd, "name": other.name} if other.here else {}),
        }
        for index, other in sorted(enumerate(desired.connections), key=lambda one: not one[1].near)
    ]
    engine = ENGINES[desired.entry.engine]
    return {"key": engine.host_key, "requests": engine.requests(desired.entry, ["any"]), "behind": behind}


def depth(name: str, spec: Host) -> int:
    """Return the start order: models 0, what connects to models 1, what connects to services 2."""
    if name not in spec.services:
        return 0
    return 2 if any(other.name in spec.services for other in spec.connections(name) if other.near) else 1


def groups(
    acting: Sequence[Change], desired: Mapping[str, DesiredService], spec: Host, facts: HostFacts
) -> list[list[Change]]:
    """Return the changes in groups that share a GPU or port, now or afterwards. Removals come first."""
    merged: list[tuple[set[str], list[Change]]] = []
    for change in acting:
        after = None if change.action == Action.REMOVE else desired[change.model]
        held = {f"name {change.model}"} | holdings(container_of_change(change, desired, facts), after)
        together = [group for group in merged if group[0] & held]
        merged = [group for group in merged if not group[0] & held]
        merged.append((held.union(*(g[0] for g in together)), [c for g in together for c in g[1]] + [change]))
    first = lambda change: -1 if change.action == Action.REMOVE else depth(change.model, spec)  # noqa: E731
    return [sorted(group, key=first) for _, group in merged]
