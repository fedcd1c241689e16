"""The models of a host: what is, what should be, and what has to happen to each, with its reason. Pure."""

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.plan import compose, ledger, weights
from gpurack.plan.estimate import refusal
from gpurack.plan.steps import Shell, Step, WriteFile
from gpurack.resources import read_text, render
from gpurack.spec.model import CopyWeights, Host
from gpurack.state.model import MISMATCH, Container, HostState

Action = Literal["keep", "create", "recreate", "start", "wait", "remove"]
SET_ASIDE = "-replaced"
"""What the name of a container by hand ends in, after a model has taken its place. It is stopped, not removed."""
READY_TIMEOUT = 1800
"""Seconds a model may take until it answers; 30 minutes is what the largest engines need to load (engines.md)."""


@dataclass(frozen=True)
class Change:
    """What happens to one model, and why. `keep` has no reason."""

    model: str
    action: Action
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.action} {self.model}" + (f": {', '.join(self.reasons)}" if self.reasons else "")


@dataclass(frozen=True)
class Upload:
    """Weights that a model needs and only the admin's machine has."""

    model: str
    source: Path
    path: str


@dataclass(frozen=True)
class ModelsPlan:
    """changes: one for every model of the inventory that could be planned and every container to remove.

    errors: model → sentence; nothing of such a model is touched. steps: files to write before the job. uploads: to copy
    before it, too.
    job: what the runner on the host (files/models.py) gets by standard input; None when there is nothing to do.
    """

    changes: tuple[Change, ...] = ()
    errors: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    uploads: tuple[Upload, ...] = ()
    job: Mapping[str, Any] | None = None

    @property
    def nothing(self) -> bool:
        """No change, no error."""
        return not (self.steps or self.job or self.errors)

    @property
    def reasons(self) -> list[str]:
        """For people, before anything happens."""
        copies = [f"copy {upload.source} for {upload.model}" for upload in self.uploads]
        return [step.reason for step in self.steps] + copies + [str(c) for c in self.changes if c.action != "keep"]


def plan_models(
    spec: Host, state: HostState, keys: Mapping[str, str], salt: str, hf_token: str | None = None
) -> ModelsPlan:
    """keys: the API keys' values by model. salt: fresh random hex, used for models that have no fingerprint yet.
    hf_token: the Hugging Face token's value."""
    cards = ledger.assign(spec, state)
    changes: list[Change] = []
    errors: dict[str, str] = dict(cards.errors)
    if state.driver.exit_code == MISMATCH and spec.wants_gpu:
        errors["driver"] = mismatch(state)
    services: dict[str, Any] = {}
    enabled = [name for name, model in spec.models.items() if model.enabled]
    for name in enabled:
        if name in errors:
            continue
        if spec.models[name].gpus and state.driver.exit_code == MISMATCH:
            # Nothing is known of the cards, so nothing can be compared: what runs goes on, what does not cannot start.
            if not (name in state.ours and state.ours[name].running):
                errors[name] = "not started, because driver and library differ."
            continue
        uuids = cards.uuids[name]
        why_not = unfit(name, spec, state, uuids)
        if why_not:
            errors[name] = why_not
            continue
        words = compose.definition(name, spec, state, uuids, keys.get(name), salt_of(name, state) or salt)
        change = compare(name, spec, state, words)
        error = obstacle(name, spec, state, change) or too_large(name, spec, state, change, uuids)
        if error:
            errors[name] = error
            continue
        changes.append(change)
        services[name] = compose.labelled(name, spec, state, uuids, words)
    waiting = blocked(changes, errors, spec, state, cards.uuids)
    errors |= waiting
    changes = [change for change in changes if change.model not in waiting]
    services = {name: data for name, data in services.items() if name not in waiting}
    for name in sorted(set(state.ours) - set(enabled)):
        why = "disabled" if name in spec.models else "not in the inventory any more"
        changes.append(Change(name, "remove", (why,)))
    old = compose.old_services(state)
    services |= {name: old[name] for name in enabled if name not in services and name in old}
    text = compose.document(services)
    acting = [change for change in changes if change.action != "keep"]
    file = state.files.get(paths.COMPOSE_FILE)
    rewrite = bool(services or file) and (file is None or file.text != text)
    needs_job = bool(acting) or rewrite or secrets_differ(spec, state, keys)
    planned = {name: keys[name] for name in keys if name in services and name not in errors}
    job = make_job(spec, state, cards.uuids, acting, (services, old), planned) if needs_job else None
    if job and hf_token and any(one.get("fetch", {}).get("hub") == "hf" for group in job["groups"] for one in group):
        job["hf_token"] = hf_token
    steps = tuple(host_files(state)) if services or state.ours else ()
    return ModelsPlan(tuple(changes), errors, steps, uploads(spec, state, acting), job)


def uploads(spec: Host, state: HostState, acting: Sequence[Change]) -> tuple[Upload, ...]:
    """The weights to copy for these changes, each once."""
    found: dict[str, Upload] = {}
    for change in acting:
        model = spec.models.get(change.model)
        if change.action == "remove" or model is None or not isinstance(model.weights, CopyWeights):
            continue
        path = weights.host_path(spec, model)
        if state.weights.get(path) is None:
            found.setdefault(path, Upload(change.model, model.weights.source, path))
    return tuple(found.values())


def unfit(name: str, spec: Host, state: HostState, uuids: Sequence[str]) -> str | None:
    """Why the engine's images do not run on these cards with this driver; what runs already is not asked."""
    if name in state.ours and state.ours[name].running:
        return None
    model = spec.models[name]
    return ENGINES[model.engine].unfit(model, compose.compute_of(uuids, state), state.driver.kernel or None)


def salt_of(name: str, state: HostState) -> str | None:
    """The salt of the fingerprint that a model's container carries."""
    container = state.ours.get(name)
    value = ledger.label(container.labels).get("api_key") if container else None
    return str(value).partition(":")[0] if value else None


def compare(name: str, spec: Host, state: HostState, words: Mapping[str, Any]) -> Change:
    """A model against its container: definition, image, state, and what it answered."""
    container = state.ours.get(name)
    if container is None:
        old = replaced(name, spec, state)
        reason = "its container is gone" if name in compose.old_services(state) else "new"
        return Change(name, "create", (f"takes the place of {old.name}" if old and old.running else reason,))
    reasons = differences(ledger.label(container.labels), words)
    reference = str(words["image"])
    if not reasons and state.images.get(reference, container.image) != container.image:
        reasons = [f"image moved: {reference} is another image now"]
    if reasons:
        return Change(name, "recreate", tuple(reasons))
    if not container.running:
        return Change(name, "start", (describe_state(container),))
    probe = state.probes.get(name)
    if probe and probe.status != 200 and loading(name, state):
        return Change(name, "wait", ("still loading",))
    return Change(name, "keep")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two definitions, in the inventory's words: `gpus [0] → [3]`."""
    reasons = []
    for word in sorted({*old, *new} - {"service", "uuids", "api_key"}):
        if old.get(word) != new.get(word):
            reasons += changed_words(word, old.get(word), new.get(word))
    if old.get("api_key") != new.get("api_key"):
        reasons.append("api_key changed" if old.get("api_key") and new.get("api_key") else "api_key added or removed")
    if not reasons and old.get("uuids") != new.get("uuids"):
        reasons.append(f"cards {', '.join(old.get('uuids', []))} → {', '.join(new.get('uuids', []))}")
    if not reasons and old.get("service") != new.get("service"):
        reasons.append("this gpurack runs it in another way than the one before")
    return reasons


def changed_words(word: str, old: Any, new: Any) -> list[str]:
    """One field; maps (args, env) item by item."""
    if isinstance(old, Mapping) or isinstance(new, Mapping):
        before, after = old or {}, new or {}
        keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        return [f"{word}.{key} {shown(before.get(key))} → {shown(after.get(key))}" for key in keys]
    return [f"{word} {shown(old)} → {shown(new)}"]


def shown(value: Any) -> str:
    """A value in a reason; nothing is a dash."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value)


def describe_state(container: Container) -> str:
    """Why a container that should run does not: `exited with code 137`."""
    if container.status == "exited":
        return f"it exited with code {container.exit_code}"
    return f"it is {container.status}" + (f" ({container.error})" if container.error else "")


def loading(name: str, state: HostState) -> bool:
    """A model that answers 503, or refuses connections, is loading; one that accepts and never answers hangs."""
    probe = state.probes[name]
    return probe.status == 503 or (probe.status == 0 and "timed out" not in probe.body.lower())


def obstacle(name: str, spec: Host, state: HostState, change: Change) -> str | None:
    """Why nothing may be done for this model; None when it may."""
    model = spec.models[name]
    stranger = next((c for c in state.containers if c.name == name and not c.ours), None)
    if stranger and stranger != replaced(name, spec, state):
        return (
            f'the container name "{name}" is taken by a container that is not gpurack\'s ({stranger.status}, image '
            f'{stranger.image[7:19]}). Take its place with replaces: "{name}", or give the model another name.'
        )
    holder = port_holder(name, spec, state) if change.action != "keep" else None
    if holder:
        return f"port {model.port} is held by {holder}. Nothing of this model was changed. {room(holder)}"
    path = weights.host_path(spec, model)
    if isinstance(model.weights, str) and change.action != "keep" and state.weights.get(path) is None:
        return f'weights {path} do not exist on the host. Copy them there, or give {{"url": …, "sha256": …}}.'
    if change.action == "keep":
        return silence(name, spec, state)
    return None


def too_large(name: str, spec: Host, state: HostState, change: Change, uuids: Sequence[str]) -> str | None:
    """Why a model that would get a new container does not fit onto its cards; one that runs has shown that it does."""
    if change.action not in ("create", "recreate"):
        return None
    model = spec.models[name]
    header = state.headers.get(weights.host_path(spec, model))
    cards = [(f"GPU {gpu.index}", gpu.memory_total / 1024) for gpu in state.gpus if gpu.uuid in uuids]
    error = refusal(model, header, cards)
    return f"{error} Nothing of this model was changed." if error else None


def room(holder: str) -> str:
    """How a port is made free."""
    if holder.startswith("container"):
        container = holder.split('"')[1]
        return f'Take its place with replaces: "{container}", stop it, or use another port.'
    return "Stop it or use another port."


def replaced(name: str, spec: Host, state: HostState) -> Container | None:
    """The container made by hand whose place a model takes; also when an earlier run has set it aside already."""
    old = spec.models[name].replaces
    found = {container.name: container for container in state.containers if not container.ours}
    return found.get(old, found.get(f"{old}{SET_ASIDE}")) if old else None


def silence(name: str, spec: Host, state: HostState) -> str | None:
    """What is wrong with the answer of a model that runs as it should."""
    probe = state.probes.get(name)
    served = answers_as(name, spec)
    if probe is None:
        return None
    if probe.status == 0:
        return (
            f"it runs but does not answer (GET {compose.probe_url(name, spec, state)}: nothing in 5 seconds). "
            f"Look: docker logs --tail 20 {name}. Mend: docker restart {name}, then run again."
        )
    if probe.status != 200:
        return f"it answers HTTP {probe.status}: {probe.body[:200]}. Look: docker logs --tail 20 {name}."
    if served is not None and json.dumps(served) not in probe.body:
        return f'it answers, but not as "{served}": {probe.body[:200]}. Mend: docker rm -f {name}, then run again.'
    return None


def answers_as(name: str, spec: Host) -> str | None:
    """The name that a model's answer must hold; None where the answer names no model."""
    model = spec.models[name]
    return ENGINES[model.engine].answers_as(model, model.served_name or name)


def mismatch(state: HostState) -> str:
    """Driver and library differ: what runs goes on, but nothing could start again."""
    return (
        f"kernel module {state.driver.kernel}, but nvidia-smi says: {state.driver.message}. Running models go on but "
        "could not start again, so none on a GPU was touched. Reboot the host, then run again."
    )


def port_holder(name: str, spec: Host, state: HostState) -> str | None:
    """Who else listens where this model wants to; our own containers make room for each other."""
    model = spec.models[name]
    wanted = compose.address(model.bind, state)
    ours = {port for container in state.ours.values() for _, port in container.ports}
    for listener in state.listeners:
        if listener.port != model.port or not addresses_overlap(wanted, listener.address):
            continue
        foreign = next(
            (
                container.name
                for container in state.containers
                if container.running and not container.ours
                for ip, port in container.ports
                if port == model.port and addresses_overlap(wanted, ip or "0.0.0.0")
            ),
            None,
        )
        if foreign and foreign == model.replaces:
            return None
        if foreign:
            return f'container "{foreign}", which is not gpurack\'s'
        if model.port not in ours or "docker-proxy" not in listener.owner:
            return f"process {listener.owner or '(unknown)'}"
    return None


def addresses_overlap(one: str, other: str) -> bool:
    """Can two listeners on these addresses not share a port?"""
    if one == other or {one, other} & {"0.0.0.0", "::", "*"}:
        return True
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False


def blocked(
    changes: Sequence[Change],
    errors: Mapping[str, str],
    spec: Host,
    state: HostState,
    uuids: Mapping[str, tuple[str, ...]],
) -> dict[str, str]:
    """Models that would take a card or port from a model that has to stay as it is: name → sentence. Its container
    still runs there, so a swap of two models happens as a whole or not at all."""
    found: dict[str, str] = {}
    pending = [change for change in changes if change.action in ("create", "recreate", "start")]
    stuck = [name for name in errors if name in state.ours]
    while stuck:
        other = stuck.pop()
        theirs = holdings(Change(other, "remove"), spec, state, uuids)
        for change in pending:
            name = change.model
            taken = theirs & (
                holdings(change, spec, state, uuids) - holdings(Change(name, "remove"), spec, state, uuids)
            )
            if spec.models[name].vram and spec.models[other].vram:
                taken = {thing for thing in taken if thing.startswith("port ")}
            if taken and name not in found:
                things = ", ".join(sorted(spoken(thing, state) for thing in taken))
                found[name] = (
                    f"{things} is still held by {other}, which could not be changed, so neither was this model."
                )
                stuck += [name] if name in state.ours else []
    return found


def spoken(holding: str, state: HostState) -> str:
    """`gpu GPU-6f1c…` by its index."""
    indices = {f"gpu {gpu.uuid}": f"GPU {gpu.index}" for gpu in state.gpus}
    return indices.get(holding, holding)


def secrets_differ(spec: Host, state: HostState, keys: Mapping[str, str]) -> bool:
    """Is a key file missing, or readable by others, or left over?"""
    there = {path: mode for path, (mode, _) in state.secrets.items()}
    wanted = {f"{paths.SECRETS}/{name}/api_key": "400" for name in keys}
    return there != wanted and bool(there or wanted)


def make_job(
    spec: Host,
    state: HostState,
    uuids: Mapping[str, tuple[str, ...]],
    acting: Sequence[Change],
    services: tuple[Mapping[str, Any], Mapping[str, Any]],
    keys: Mapping[str, str],
) -> dict[str, Any]:
    """What the runner carries out. groups: models that need each other's cards, ports or names stop together, then
    start one after the other; different groups go side by side. services: the new ones, and those of the compose.yaml
    that lies there, for models that fail."""
    new, before = (compose.blocks(some) for some in services)
    return {
        "compose": {"head": compose.head(), "services": new, "before": before},
        "secrets": dict(keys),
        "groups": [
            [entry(change, spec, state, uuids, services[0]) for change in group]
            for group in groups(acting, spec, state, uuids)
        ],
    }


def entry(
    change: Change,
    spec: Host,
    state: HostState,
    uuids: Mapping[str, tuple[str, ...]],
    services: Mapping[str, Any],
) -> dict[str, Any]:
    """One model in the job."""
    name = change.model
    if change.action == "remove":
        return {"name": name, "action": "remove"}
    model = spec.models[name]
    data: dict[str, Any] = {
        "name": name,
        "action": change.action,
        "image": services[name]["image"],
        "uuids": list(uuids[name]),
        "url": compose.probe_url(name, spec, state),
        "served_name": answers_as(name, spec),
        "timeout": READY_TIMEOUT,
    }
    if model.replaces and change.action == "create" and replaced(name, spec, state):
        data["replaces"] = model.replaces
    fetch = weights.fetched(spec, model.weights)
    if fetch:
        data["fetch"] = fetch
    return data


def groups(
    acting: Sequence[Change], spec: Host, state: HostState, uuids: Mapping[str, tuple[str, ...]]
) -> list[list[Change]]:
    """The changes in groups that share something they hold now or will hold: a card or a port. Removals come first."""
    merged: list[tuple[set[str], list[Change]]] = []
    for change in acting:
        held = {f"name {change.model}"} | holdings(change, spec, state, uuids)
        together = [group for group in merged if group[0] & held]
        merged = [group for group in merged if not group[0] & held]
        merged.append((held.union(*(g[0] for g in together)), [c for g in together for c in g[1]] + [change]))
    return [sorted(group, key=lambda change: change.action != "remove") for _, group in merged]


def holdings(change: Change, spec: Host, state: HostState, uuids: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The cards and ports that a model's container has, and those it will have."""
    held: set[str] = set()
    container = state.ours.get(change.model)
    if container:
        cards = ledger.label(container.labels).get("uuids", [])
        held |= {f"gpu {uuid}" for uuid in (cards if isinstance(cards, list) else [])}
        held |= {f"port {port}" for _, port in container.ports}
    if change.action != "remove":
        held |= {f"gpu {uuid}" for uuid in uuids[change.model]} | {f"port {spec.models[change.model].port}"}
    return held


def host_files(state: HostState) -> list[Step]:
    """The runner and the boot unit, where they are missing or differ."""
    steps: list[Step] = []
    for path, mode in ((paths.FETCH, "644"), (paths.RUNNER, "755")):
        text = read_text(f"files/{path.rpartition('/')[2]}")
        if path not in state.files or state.files[path].text != text:
            steps.append(WriteFile(f"the models' runner, {path}", path, text, mode))
    unit = render(
        "templates/gpurack.service.j2",
        compose_file=paths.COMPOSE_FILE,
        python="/usr/bin/python3",
        runner=paths.RUNNER,
    )
    known = state.units.get("gpurack.service")
    if paths.BOOT_UNIT not in state.files or state.files[paths.BOOT_UNIT].text != unit:
        steps.append(WriteFile("the unit that starts the models at boot, gpurack.service", paths.BOOT_UNIT, unit))
        steps.append(Shell("enable gpurack.service", "systemctl daemon-reload && systemctl enable -q gpurack.service"))
    elif known is None or known.enabled != "enabled":
        steps.append(Shell("enable gpurack.service", "systemctl enable -q gpurack.service"))
    return steps
