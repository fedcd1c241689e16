"""How a model's container differs from what the inventory says: definition, image, state, answer. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gpurack.plan import compose, ledger
from gpurack.spec.model import Host
from gpurack.state.model import Container, HostState

Action = Literal["keep", "create", "recreate", "start", "wait", "remove"]
SET_ASIDE = "-replaced"
"""What the name of a container by hand ends in, after a model has taken its place. It is stopped, not removed."""


@dataclass(frozen=True)
class Change:
    """What happens to one model, and why. `keep` has no reason."""

    model: str
    action: Action
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.action} {self.model}" + (f": {', '.join(self.reasons)}" if self.reasons else "")


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


def salt_of(name: str, state: HostState) -> str | None:
    """The salt of the fingerprint that a model's container carries."""
    container = state.ours.get(name)
    value = ledger.label(container.labels).get("api_key") if container else None
    return str(value).partition(":")[0] if value else None


def replaced(name: str, spec: Host, state: HostState) -> Container | None:
    """The container made by hand whose place a model takes; also when an earlier run has set it aside already."""
    old = spec.models[name].replaces
    found = {container.name: container for container in state.containers if not container.ours}
    return found.get(old, found.get(f"{old}{SET_ASIDE}")) if old else None


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
