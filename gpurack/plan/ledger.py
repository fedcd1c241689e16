"""Which model gets which card. The inventory says indices; containers get UUIDs, which stay with the card. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpurack.spec.model import Host, Model
from gpurack.state.model import MISMATCH, Gpu, HostState


@dataclass(frozen=True)
class Ledger:
    """uuids: the cards of each model that could be given them. errors: why the others could not."""

    uuids: Mapping[str, tuple[str, ...]]
    errors: Mapping[str, str]


def assign(spec: Host, state: HostState) -> Ledger:
    """Cards for every enabled model. The same inventory text and living UUIDs keep their cards, so that a renumbered
    card moves no model; a card two models would hold is refused to the newcomer."""
    uuids: dict[str, tuple[str, ...]] = {}
    errors: dict[str, str] = {}
    enabled = {name: model for name, model in spec.models.items() if model.enabled}
    for name, model in enabled.items():
        kept = kept_cards(name, model, state)
        if kept is not None:
            gone = [uuid for uuid in kept if not alive(uuid, state)]
            if gone and state.driver.exit_code != MISMATCH:
                errors[name] = lost(gone, state)
            else:
                uuids[name] = kept
    for name, model in enabled.items():
        if name in uuids or name in errors:
            continue
        try:
            cards = resolve(model, state)
        except LookupError as error:
            errors[name] = str(error)
            continue
        holder = next(((other, uuid) for other, theirs in uuids.items() for uuid in theirs if uuid in cards), None)
        if holder:
            index = next((gpu.index for gpu in state.gpus if gpu.uuid == holder[1]), None)
            errors[name] = (
                f"GPU {index} is now {holder[1]}, which {holder[0]} holds; cards were renumbered or named twice. "
                f"Choose a free card{free(state, uuids)}."
            )
        else:
            uuids[name] = cards
    return Ledger(uuids, errors)


def kept_cards(name: str, model: Model, state: HostState) -> tuple[str, ...] | None:
    """The cards a model's container has, when the inventory's text is what it was; None otherwise."""
    container = state.ours.get(name)
    definition = label(container.labels) if container else {}
    if not container or definition.get("gpus") != gpus_text(model):
        return None
    uuids = definition.get("uuids", [])
    return tuple(map(str, uuids)) if isinstance(uuids, list) else ()


def label(labels: Mapping[str, str]) -> dict[str, object]:
    """The definition in a container's label; {} when it is not readable."""
    try:
        definition = json.loads(labels.get("gpurack.model", ""))
    except ValueError:
        return {}
    return definition if isinstance(definition, dict) else {}


def gpus_text(model: Model) -> str:
    """The inventory's own words: `[0, 1]`, `all`, `[]`."""
    return model.gpus if isinstance(model.gpus, str) else "[" + ", ".join(map(str, model.gpus)) + "]"


def alive(uuid: str, state: HostState) -> bool:
    """Does the card answer?"""
    return any(gpu.uuid == uuid for gpu in state.gpus)


def resolve(model: Model, state: HostState) -> tuple[str, ...]:
    """The UUIDs the inventory's words mean on this host now. Raises LookupError with a sentence when they mean none."""
    if not model.gpus:
        return ()
    if not state.gpus:
        raise LookupError(f"wants GPU {gpus_text(model)}, but the host shows none (nvidia-smi -L).")
    if model.gpus == "all":
        if state.driver.exit_code:
            raise LookupError(f"wants all GPUs, but nvidia-smi says: {state.driver.message}")
        return tuple(gpu.uuid for gpu in state.gpus)
    return tuple(card(wanted, state).uuid for wanted in model.gpus)


def card(wanted: int | str, state: HostState) -> Gpu:
    """The card an index or a UUID prefix means."""
    if isinstance(wanted, int):
        found = [gpu for gpu in state.gpus if gpu.index == wanted]
    else:
        found = [gpu for gpu in state.gpus if gpu.uuid.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise LookupError(f"{wanted} fits {len(found)} cards; write more of the UUID.")
    cards = ", ".join(f"{gpu.index} ({gpu.uuid[:12]}…)" for gpu in state.gpus)
    broken = f" nvidia-smi says: {state.driver.message}" if state.driver.exit_code else ""
    raise LookupError(f"GPU {wanted} does not exist; the host has {cards}.{broken}")


def lost(uuids: Sequence[str], state: HostState) -> str:
    """The sentence for cards that a model had and that no longer answer."""
    names = ", ".join(uuids)
    reason = f" nvidia-smi says: {state.driver.message}." if state.driver.message else ""
    return (
        f"its card {names} does not answer any more.{reason} Reboot the host; if the card stays away, give the model "
        f"another one{free(state, {})}."
    )


def free(state: HostState, uuids: Mapping[str, tuple[str, ...]]) -> str:
    """` (free: 2, 3)` or nothing."""
    taken = {uuid for cards in uuids.values() for uuid in cards}
    for container in state.ours.values():
        held = label(container.labels).get("uuids", [])
        taken |= set(held) if isinstance(held, list) else set()
    indices = [str(gpu.index) for gpu in state.gpus if gpu.uuid not in taken]
    return f" (free: {', '.join(indices)})" if indices else ""
