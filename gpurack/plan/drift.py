"""How a model's container differs from what the inventory says: definition, image, state, answer. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gpurack.plan import compose, ledger, pins, pulls
from gpurack.spec.host import Host
from gpurack.state.model import Container, HostState, Probe

SALTED = ("api_key", "keys", "upstream_keys")
"""Words of a definition that hold fingerprints of secrets."""
Action = Literal["keep", "create", "recreate", "start", "wait", "pull", "check", "remove", "run"]
SET_ASIDE = "-replaced"
"""What the name of a container by hand ends in, after a model has taken its place. It is stopped, not removed."""


@dataclass(frozen=True)
class Change:
    """What happens to one model, and why. `keep` has no reason."""

    model: str
    action: Action
    reasons: tuple[str, ...] = ()
    user: str = ""
    """Of a removal: in whose Docker the container is."""

    def __str__(self) -> str:
        return f"{self.action} {self.model}" + (f": {', '.join(self.reasons)}" if self.reasons else "")


def compare(name: str, spec: Host, state: HostState, words: Mapping[str, Any], prune: bool = False) -> Change:
    """A model against its container: definition, image, state, and what it answered. prune: is an ollama's model that
    is not listed a difference?"""
    user = spec.entries[name].dockerd
    container = state.container(name, user)
    if container is None:
        old = replaced(name, spec, state)
        reason = "its container is gone" if name in compose.old_services(state, spec.entries[name].dockerd) else "new"
        return Change(name, "create", (f"takes the place of {old.name}" if old and old.running else reason,))
    reasons = differences(ledger.label(container.labels), words)
    reasons = reasons or moved(name, spec, state, container, str(words["image"]))
    service = compose.service(name, spec, state, tuple(words.get("uuids", ())))
    reasons = reasons or published_elsewhere(service, container)
    if reasons:
        return Change(name, "recreate", tuple(reasons))
    if not container.running:
        return Change(name, "start", (describe_state(container),))
    if changed_by_hand(name, spec, state, service):
        # Compose itself knows whether the container was made of the changed lines, and makes it anew only then
        return Change(name, "start", ("its lines in compose.yaml were changed by hand",))
    probe = state.probes.get((user, name))
    if probe and probe.status != 200 and loading(probe):
        return Change(name, "wait", ("still loading",))
    if spec.entries[name].engine == "ollama" and (reasons := list(pulls.reasons(name, spec, state, prune))):
        return Change(name, "pull", tuple(reasons))
    if pins.unchecked(spec, name, state):
        return Change(name, "check", ("its weights against the lock",))
    if pins.of_model(spec, name).digest and tagged(container, str(words["image"]), state) != container.image:
        return Change(name, "check", (f"{words['image']} is another image here than the lock's, which runs",))
    return Change(name, "keep")


def tagged(container: Container, reference: str, state: HostState) -> str | None:
    """The image that a container's reference means on the host now; None for none."""
    return state.images_of(container.user).get(reference)


def moved(name: str, spec: Host, state: HostState, container: Container, reference: str) -> list[str]:
    """Whether a container's image or weights are others than the lock's, or its tag is another image now."""
    image = pins.moved_image(spec, name, reference, state.digests_of(container.user).get(container.image, ()))
    commits = dict.fromkeys(pins.moved_commits(spec, name, state).values())
    named = tagged(container, reference, state)
    if not pins.of_model(spec, name).digest and named not in (None, container.image):
        image = f"image moved: {reference} is another image now"
    return [reason for reason in (image, *commits) if reason]


def published_elsewhere(service: Mapping[str, Any], container: Container) -> list[str]:
    """Does a container publish other ports than it should? Whoever made it, it may be open to everybody."""
    expected = {(port["host_ip"], int(port["published"])) for port in service.get("ports", [])}
    if "network_mode" in service or set(container.ports) == expected:
        return []
    found, wanted = (", ".join(f"{ip}:{port}" for ip, port in sorted(all_)) for all_ in (container.ports, expected))
    return [f"published on {found or 'no port'} by hand, not on {wanted}"]


def changed_by_hand(name: str, spec: Host, state: HostState, service: Mapping[str, Any]) -> bool:
    """Are its lines in the compose.yaml on the host others than it was made of? The label, which is as it should be,
    says that it was not gpurack that changed them."""
    written = compose.old_services(state, spec.entries[name].dockerd).get(name)
    words = {*(written or {}), *service} - {"labels"}
    return written is not None and any(written.get(word) != service.get(word) for word in words)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two definitions, in the inventory's words: `gpus [0] → [3]`."""
    reasons = []
    for word in sorted({*old, *new} - {"service", "uuids", "render_nodes", "files", *SALTED}):
        if old.get(word) != new.get(word):
            reasons += changed_words(word, old.get(word), new.get(word))
    for word in SALTED:
        reasons += changed_secrets(word, old.get(word), new.get(word))
    if not reasons and old.get("uuids") != new.get("uuids"):
        reasons.append(f"cards {', '.join(ledger.uuids_in(old))} → {', '.join(ledger.uuids_in(new))}")
    if not reasons and old.get("render_nodes") != new.get("render_nodes"):
        reasons.append(f"its card has another device: {', '.join(new.get('render_nodes', []))}")
    if not reasons and old.get("files") != new.get("files"):
        reasons += changed_secrets("files", old.get("files"), new.get("files"))
    if not reasons and old.get("service") != new.get("service"):
        reasons.append("this gpurack runs it in another way than the one before")
    return reasons


def changed_words(word: str, old: Any, new: Any) -> list[str]:
    """One field; maps (args, env) item by item."""
    if word == "access":  # cards came by CDI before there was a word for it
        return [f"nvidia.access {old or 'cdi'} → {new or 'cdi'}"]
    if isinstance(old, Mapping) or isinstance(new, Mapping):
        before, after = mapping(old), mapping(new)
        keys = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        return [f"{word}.{key} {shown(before.get(key))} → {shown(after.get(key))}" for key in keys]
    return [f"{word} {shown(old)} → {shown(new)}"]


def mapping(value: Any) -> Mapping[str, Any]:
    """The map that a label holds; what is none there is nothing, for others may have written the label."""
    return value if isinstance(value, Mapping) else {}


def changed_secrets(word: str, old: Any, new: Any) -> list[str]:
    """Of fingerprints only that they differ can be said; several stand in a map, by name."""
    if isinstance(old or new, Mapping):
        before, after = mapping(old), mapping(new)
        names = sorted({*before, *after})
        return [line for name in names for line in changed_secrets(f"{word}.{name}", before.get(name), after.get(name))]
    if old == new:
        return []
    return [f"{word} {'changed' if old and new else 'added' if new else 'removed'}"]


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


def loading(probe: Probe) -> bool:
    """A model that answers 503, or refuses connections, is loading; one that accepts and never answers hangs."""
    return probe.status == 503 or (probe.status == 0 and "timed out" not in probe.body.lower())


def salt_of(name: str, spec: Host, state: HostState) -> str | None:
    """The salt of the fingerprints that a model's container carries."""
    container = state.container(name, spec.entries[name].dockerd)
    definition = ledger.label(container.labels) if container else {}
    for word in (*SALTED, "files"):
        value: Any = definition.get(word)
        if isinstance(value, Mapping):
            value = next(iter(value.values()), None)
        if value:
            return str(value).partition(":")[0]
    return None


def replaced(name: str, spec: Host, state: HostState) -> Container | None:
    """The container made by hand whose place a model takes; also when an earlier run has set it aside already."""
    old, user = spec.entries[name].replaces, spec.entries[name].dockerd
    found = {
        (container.name, container.user): container
        for container in state.containers
        if container.user in (user, "") and not container.kind
    }
    names = ((name, whose) for whose in (user, "") for name in (old, f"{old}{SET_ASIDE}"))
    return next((found[key] for key in names if key in found), None) if old else None


def of_change(change: Change, spec: Host, state: HostState) -> Container | None:
    """The container that a change is about, if it is there."""
    if change.action == "remove":
        return state.ours.get((change.user, change.model))
    return state.container(change.model, spec.entries[change.model].dockerd)


def holdings(change: Change, spec: Host, state: HostState, uuids: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The cards and ports that a model's container has, and those it will have."""
    held: set[str] = set()
    container = of_change(change, spec, state)
    if container:
        for word in ("uuids", "render_nodes"):
            cards = ledger.label(container.labels).get(word, [])
            held |= {f"gpu {card}" for card in (cards if isinstance(cards, list) else [])}
        held |= {f"port {port}" for _, port in container.ports}
    if change.action != "remove":
        cards = uuids[change.model]
        held |= {f"gpu {card}" for card in (*cards, *compose.render_nodes(cards, state))}
        held.add(f"port {spec.entries[change.model].port}")
    return held
