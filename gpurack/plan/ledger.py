"""Which model gets which card. The inventory says indices; containers get UUIDs, which stay with the card. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpurack.host_data import json_from_host
from gpurack.spec.host import Host
from gpurack.spec.model import Job, Model
from gpurack.spec.seats import SHARED, hardware
from gpurack.state.model import MISMATCH, Gpu, HostState

NO_DRIVER = (
    "there is no NVIDIA driver (no /proc/driver/nvidia), nor AMD's (no /sys/class/kfd). Install the driver and reboot, "
    "or give the model gpus: []."
)


@dataclass(frozen=True)
class Ledger:
    """uuids: the cards of each model that could be given them. errors: why the others could not."""

    uuids: Mapping[str, tuple[str, ...]]
    errors: Mapping[str, str]


def assign(spec: Host, state: HostState) -> Ledger:
    """Cards for every enabled model. The same inventory text and living UUIDs keep their cards, so that a renumbered
    card moves no model; a card that would hold more than it has is refused to the newcomer."""
    uuids: dict[str, tuple[str, ...]] = {}
    errors: dict[str, str] = {}
    gone: dict[str, list[str]] = {}
    resized: dict[str, tuple[str, ...]] = {}
    enabled = {name: model for name, model in spec.entries.items() if model.enabled}
    for name, model in enabled.items():
        kept = kept_cards(name, model, state)
        if kept is not None:
            dead = [uuid for uuid in kept if not alive(uuid, state)]
            if dead and state.driver.exit_code != MISMATCH:
                gone[name] = dead
            elif dead or kept_share(name, model, state):
                uuids[name] = kept
            else:
                resized[name] = kept
    for name, kept in sorted(resized.items()):
        if error := overfull(name, kept, spec, state, uuids):
            errors[name] = error
        else:
            uuids[name] = kept
    for name in sorted(set(enabled) - set(uuids) - set(errors) - set(gone)):
        try:
            cards = resolve(enabled[name], spec, state)
        except LookupError as error:
            errors[name] = str(error)
            continue
        error_or_none = overfull(name, cards, spec, state, uuids) or held_by_others(name, cards, spec, state)
        if error_or_none:
            errors[name] = error_or_none
        else:
            uuids[name] = cards
    errors |= {name: lost(dead, state, uuids) for name, dead in gone.items()}
    return Ledger(uuids, errors)


def for_job(name: str, spec: Host, state: HostState, uuids: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The cards of a job beside the models, which have theirs (uuids). Raises LookupError with a sentence."""
    cards = resolve(spec.jobs[name], spec, state)
    if error := overfull(name, cards, spec, state, uuids):
        raise LookupError(f"{error} No model is stopped for a job.")
    if error := held_by_others(name, cards, spec, state):
        raise LookupError(error)
    return cards


def overfull(
    name: str, cards: Sequence[str], spec: Host, state: HostState, uuids: Mapping[str, tuple[str, ...]]
) -> str | None:
    """Would a card hold more than it has with this model on it? Cards already given are in `uuids`."""
    for uuid in cards:
        card = next(gpu for gpu in state.gpus if gpu.uuid == uuid)
        others = [other for other, theirs in uuids.items() if uuid in theirs]
        total, mine = card.memory_total / 1024, spec.everything[name].vram
        if mine and mine.of(total) > total:
            return (
                f"GPU {card.index} has {total:.1f} GiB, and vram asks for {mine.of(total):.1f}; lower vram or choose a "
                f"free card{free(state, uuids)}."
            )
        if not others:
            continue
        names = ", ".join(others)
        whole = [other for other in (*others, name) if spec.everything[other].vram is None]
        if whole:
            return (
                f"GPU {card.index} ({uuid}) is held by {names}"
                f"{'' if name in whole and len(whole) == 1 else ' as a whole'}; choose a free card{free(state, uuids)} "
                "or give each of them vram."
            )
        together = sum(share.of(total) for other in (*others, name) if (share := spec.everything[other].vram))
        if together > SHARED * total:
            return (
                f"GPU {card.index} would hold {together:.1f} of {SHARED * total:.1f} GiB with {names}; "
                f"lower vram or choose a free card{free(state, uuids)}."
            )
    return None


def held_by_others(name: str, cards: Sequence[str], spec: Host, state: HostState) -> str | None:
    """Is the memory this model needs held by processes that are not ours?"""
    for uuid in cards:
        replaced = spec.entries[name].replaces if name in spec.entries else None
        making_room = {
            (container.id, state.uid_of(container.user))
            for container in state.containers
            if container.name == replaced and container.user in (spec.entries[name].dockerd, "")
        }
        foreign = [
            process
            for process in state.gpu_processes
            if process.uuid == uuid
            and not process.ours(state)
            and (process.container, process.whose) not in making_room
        ]
        if not foreign:
            continue
        card = next(gpu for gpu in state.gpus if gpu.uuid == uuid)
        total, held = card.memory_total / 1024, sum(process.memory for process in foreign) / 1024
        share = spec.everything[name].vram
        if share is not None and share.of(total) + held <= SHARED * total:
            continue
        who = ", ".join(
            f"{process.name} (pid {process.pid}, {process.user or 'unknown user'}, {process.memory / 1024:.1f} GiB)"
            for process in foreign
        )
        return (
            f"GPU {card.index} is used by {who}, which is not gpurack's. Nothing of this model was changed. "
            f"Wait for it, end it, or choose a free card{free(state, {})}."
        )
    return None


def kept_cards(name: str, model: Model, state: HostState) -> tuple[str, ...] | None:
    """The cards a model's container has, when the inventory's text is what it was; None otherwise."""
    container = state.container(name, model.dockerd)
    definition = label(container.labels) if container else {}
    if not container or definition.get("gpus") != gpus_text(model):
        return None
    return uuids_in(definition)


def kept_share(name: str, model: Model, state: HostState) -> bool:
    """Does a model want the same share of its cards as its container has?"""
    container = state.container(name, model.dockerd)
    kept = label(container.labels).get("vram") if container else None
    return kept == (str(model.vram) if model.vram else None)


def uuids_in(definition: Mapping[str, object]) -> tuple[str, ...]:
    """The cards that a label names."""
    uuids = definition.get("uuids")
    return tuple(map(str, uuids)) if isinstance(uuids, list) else ()


def label(labels: Mapping[str, str]) -> dict[str, object]:
    """The definition in a container's label; {} when it is not readable."""
    try:
        definition = json_from_host(labels.get("gpurack.model", ""))
    except ValueError:
        return {}
    return definition if isinstance(definition, dict) else {}


def gpus_text(model: Model | Job) -> str:
    """The inventory's own words: `[0, 1]`, `all`, `[]`."""
    return model.gpus if isinstance(model.gpus, str) else "[" + ", ".join(map(str, model.gpus)) + "]"


def alive(uuid: str, state: HostState) -> bool:
    """Does the card answer?"""
    return any(gpu.uuid == uuid for gpu in state.gpus)


def resolve(model: Model | Job, spec: Host, state: HostState) -> tuple[str, ...]:
    """The UUIDs the inventory's words mean on this host now. Raises LookupError with a sentence when they mean none."""
    if not model.gpus:
        return ()
    if not state.gpus:
        says = f" It says: {state.driver.message}" if state.driver.message else ""
        reason = f"nvidia-smi -L shows none.{says}" if state.has_nvidia else NO_DRIVER
        raise LookupError(f"wants GPU {gpus_text(model)}, but {reason}")
    reserved = {gpu.uuid for gpu in state.gpus if any(meant(wanted, gpu) for wanted in spec.reserved_gpus)}
    if model.gpus == "all":
        if state.driver.exit_code:
            raise LookupError(f"wants all GPUs, but nvidia-smi says: {state.driver.message}")
        cards = [gpu for gpu in state.gpus if gpu.uuid not in reserved]
    else:
        cards = [find(wanted, state) for wanted in model.gpus]
    for card in cards:
        if card.uuid in reserved:
            raise LookupError(f"GPU {card.index} is reserved (reserved_gpus); choose another.")
        if expected := other_than_expected(card, spec):
            raise LookupError(
                f"GPU {card.index} is an {card.name}, where the inventory's hardware has an {expected}. Was the card "
                "exchanged, or is it another host? Correct hardware, or choose another card."
            )
    if len({card.uuid for card in cards}) < len(cards):
        raise LookupError(f"{gpus_text(model)} names one card twice.")
    return tuple(card.uuid for card in cards)


def other_than_expected(card: Gpu, spec: Host) -> str | None:
    """The card that `hardware` has in this place, when nvidia-smi's name says that it is another one.

    Names are compared word by word: "A100 80GB" is "NVIDIA A100-SXM4-80GB", "L4" is not "NVIDIA L40S".
    """
    names = hardware(spec)
    if card.index >= len(names) or not card.name:
        return None
    words = set(re.split(r"[^a-z0-9]+", card.name.lower()))
    return None if set(names[card.index].lower().split()) <= words else names[card.index]


def meant(wanted: int | str, gpu: Gpu) -> bool:
    """Does an index, a UUID prefix or a PCI address mean this card?"""
    return gpu.index == wanted if isinstance(wanted, int) else gpu.uuid.startswith(wanted) or gpu.pci.endswith(wanted)


def find(wanted: int | str, state: HostState) -> Gpu:
    """The card an index or a UUID prefix means. Raises LookupError with a sentence."""
    found = [gpu for gpu in state.gpus if meant(wanted, gpu)]
    if len(found) == 1:
        return found[0]
    if found:
        raise LookupError(f"{wanted} fits {len(found)} cards; write more of the UUID.")
    cards = ", ".join(f"{gpu.index} ({gpu.uuid[:12]}…)" for gpu in state.gpus)
    broken = f" nvidia-smi says: {state.driver.message}" if state.driver.exit_code else ""
    name = wanted if isinstance(wanted, str) else f"GPU {wanted}"
    raise LookupError(f"{name} does not exist; the host has {cards}.{broken}")


def lost(cards: Sequence[str], state: HostState, uuids: Mapping[str, tuple[str, ...]]) -> str:
    """The sentence for cards that a model had and that no longer answer."""
    names = ", ".join(cards)
    reason = f" nvidia-smi says: {state.driver.message}." if state.driver.message else ""
    return (
        f"its card {names} does not answer any more.{reason} Reboot the host; if the card stays away, give the model "
        f"another one{free(state, uuids)}."
    )


def free(state: HostState, uuids: Mapping[str, tuple[str, ...]]) -> str:
    """` (free: 2, 3)` or nothing."""
    taken = {uuid for cards in uuids.values() for uuid in cards}
    for container in state.ours.values():
        taken |= {*uuids_in(label(container.labels))}
    indices = [str(gpu.index) for gpu in state.gpus if gpu.uuid not in taken]
    return f" (free: {', '.join(indices)})" if indices else ""
