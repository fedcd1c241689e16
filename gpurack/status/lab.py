"""What is the matter with a lab's hosts, cards and models: inventory and looks in, facts for people out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from gpurack.endpoints import endpoint
from gpurack.engines import ENGINES
from gpurack.host_data import not_understood
from gpurack.plan import addresses, ledger
from gpurack.plan.docker import unanswered
from gpurack.plan.drift import describe_state
from gpurack.plan.health import Health, health
from gpurack.plan.obstacles import mismatch
from gpurack.spec.host import Host
from gpurack.state.model import MISMATCH, Container, Gpu, HostState
from gpurack.state.parse import moment

GIB = 1024
"""MiB in it."""
FALLEN = 79
"""The Xid of a card that has fallen off the bus; others (31, 43) may be a program's fault, long before."""


@dataclass(frozen=True)
class CardStatus:
    """A card. memory in GiB, None (as utilization, in percent) for one that is lost; then `lost` says why and since
    when."""

    index: int
    name: str
    uuid: str
    memory_used: float | None = None
    memory_total: float | None = None
    utilization: int | None = None
    reserved: bool = False
    lost: str = ""
    models: tuple[str, ...] = ()


Word = Literal["ready", "loading", "DOWN", "disabled"]


@dataclass(frozen=True)
class ModelStatus:
    """A model (or service). since: when it became what it is, None where nobody knows. why: of one that is not ready.
    served: what its engine counted since it started, of `unit`; None where it does not count."""

    name: str
    engine: str
    gpus: str
    endpoint: str
    word: Word
    why: str = ""
    since: datetime | None = None
    restarts: int = 0
    served: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class HostStatus:
    """A host. troubles: sentences about the host itself; remarks: those that make no host sick; now: its
    own clock. reached: was it looked at?"""

    name: str
    reached: bool
    now: datetime
    driver: str = ""
    cards: tuple[CardStatus, ...] = ()
    models: tuple[ModelStatus, ...] = ()
    troubles: tuple[str, ...] = field(default_factory=tuple)
    remarks: tuple[str, ...] = ()

    @property
    def word(self) -> Literal["ok", "SICK", "UNREACHABLE"]:
        """What stands behind the host's name."""
        if not self.reached:
            return "UNREACHABLE"
        return "SICK" if self.troubles else "ok"


def lab_status(fleet: Mapping[str, Host], seen: Mapping[str, HostState], now: datetime) -> list[HostStatus]:
    """Every host of the inventory. now: the time here, for hosts that do not tell theirs."""
    return [understood(name, host, seen[name], now) for name, host in fleet.items()]


def understood(name: str, host: Host, state: HostState, now: datetime) -> HostStatus:
    """One host; as good as not looked at when it says what nobody thought of."""
    try:
        return host_status(name, host, state, now)
    except Exception as error:
        return host_status(name, host, HostState(trouble=not_understood(error)), now)


def is_well(lab: list[HostStatus]) -> bool:
    """Is no host sick or out of reach, and no model down? One that is still loading is not down."""
    return all(host.word == "ok" and all(model.word != "DOWN" for model in host.models) for host in lab)


def host_status(name: str, host: Host, state: HostState, now: datetime) -> HostStatus:
    """One host."""
    models = tuple(model_status(name, key, host, state) for key in host.entries)
    if state.trouble:
        return HostStatus(name, False, now, models=models, troubles=(state.trouble,))
    return HostStatus(
        name,
        True,
        state.now or now,
        driver=state.driver.kernel,
        cards=tuple(sorted([*living(host, state), *lost(state)], key=lambda card: card.index)),
        models=models,
        troubles=tuple(troubles(host, state)),
        remarks=(*state.unread, *state.foreign),
    )


def troubles(host: Host, state: HostState) -> list[str]:
    """What is wrong with the host itself, each with its remedy."""
    found = [f"{part} {why}." for part, why in state.late.items() if part != "Docker"]
    if any(model.enabled for model in host.entries.values()) and (problem := unanswered(state)):
        found.append(problem)
    if state.driver.exit_code == MISMATCH:
        found.append(mismatch(state))
    elif dead := lost(state):
        found += [f"GPU {card.index} {card.lost}" for card in dead]
    elif host.wants_gpu and not (state.gpus or state.has_nvidia or {"NVIDIA", "AMD"} & state.late.keys()):
        found.append(ledger.NO_DRIVER)
    elif state.driver.exit_code:
        found.append(f"nvidia-smi: {state.driver.message}")
    missing = sum(host.hardware.values()) - len(living(host, state)) - len(lost(state))
    if missing > 0 and not found:
        found.append(f"{missing} of {sum(host.hardware.values())} cards of the inventory's hardware are not there.")
    return found


def living(host: Host, state: HostState) -> list[CardStatus]:
    """The cards that answer."""
    return [
        CardStatus(
            gpu.index,
            gpu.name,
            gpu.uuid,
            gpu.memory_used / GIB,
            gpu.memory_total / GIB,
            gpu.utilization,
            any(ledger.meant(wanted, gpu) for wanted in host.reserved_gpus),
            models=holders(gpu.uuid, state),
        )
        for gpu in state.gpus
    ]


def lost(state: HostState) -> list[CardStatus]:
    """The cards that the kernel knows and that do not answer, while others do."""
    if state.driver.exit_code == MISMATCH or not (state.gpus or state.driver.exit_code):
        return []
    there = {gpu.uuid for gpu in state.gpus}
    places = sorted(state.driver.pci)
    return [
        CardStatus(
            place_of(index, state.gpus, places), "", uuid, lost=why_lost(pci, uuid, state), models=holders(uuid, state)
        )
        for index, pci in enumerate(places)
        if (uuid := state.driver.pci[pci]) not in there
    ]


def place_of(index: int, gpus: tuple[Gpu, ...], places: list[str]) -> int:
    """The index a lost card had: the one that is missing, where only one is; else its place by PCI address."""
    missing = sorted(set(range(len(places))) - {gpu.index for gpu in gpus})
    return missing[0] if len(missing) == 1 else index


def why_lost(pci: str, uuid: str, state: HostState) -> str:
    """`lost since 02:11 (Xid 79, GPU-6f1c…, PCI e1:00.0); reboot the host`"""
    mine = [xid for xid in state.driver.xids if pci.startswith(xid.pci)]
    # the log is of this boot, and only a boot brings a fallen card back: it is lost since the first time
    said = next((xid for xid in mine if xid.number == FALLEN), mine[-1] if mine else None)
    since = f" since {said.time:%Y-%m-%d %H:%M}" if said and said.time else ""
    number = f"Xid {said.number}, " if said else ""
    return (
        f"lost{since} ({number}{uuid[:8]}…, PCI {pci.removeprefix('0000:')}). Reboot the host; {affected(uuid, state)}"
    )


def affected(uuid: str, state: HostState) -> str:
    """What a lost card means for models."""
    names = ", ".join(holders(uuid, state))
    return f"{names} had it." if names else "no model had it."


def holders(uuid: str, state: HostState) -> tuple[str, ...]:
    """Our models that were given a card."""
    found = []
    for container in state.ours.values():
        if uuid in ledger.uuids_in(ledger.label(container.labels)):
            found.append(container.name)
    return tuple(sorted(found))


def model_status(host_name: str, name: str, host: Host, state: HostState) -> ModelStatus:
    """One model or service."""
    model = host.entries[name]
    counter = ENGINES[model.engine].counter
    word, why, since = judged(name, host, state)
    container = state.container(name, model.dockerd)
    return ModelStatus(
        name,
        f"{model.engine} {model.version or ''}".strip(),
        ledger.gpus_text(model).strip("[]") or "CPU",
        endpoint(host_name, host, model) if model.enabled else "",
        word,
        why,
        since,
        container.restarts if container and model.enabled else 0,
        state.counters.get((model.dockerd, name)) if model.enabled else None,
        counter.unit if counter else "",
    )


def judged(name: str, host: Host, state: HostState) -> tuple[Word, str, datetime | None]:
    """(word, why, since) of a model."""
    model = host.entries[name]
    if not model.enabled:
        return "disabled", "", None
    if state.trouble:
        return "DOWN", "its host cannot be looked at", None
    container = state.container(name, model.dockerd)
    if container is None:
        late = state.late.get(f"user {model.dockerd}" if model.dockerd else "Docker")
        return "DOWN", late or ("not there" if state.docker_of(model.dockerd) else "Docker does not answer"), None
    if not container.running:
        # a paused one may have ended once, before its last start
        return "DOWN", describe_state(container), moment_of("" if container.status == "paused" else container.finished)
    return answering(name, container, host, state)


def answering(name: str, container: Container, host: Host, state: HostState) -> tuple[Word, str, datetime | None]:
    """(word, why, since) of a model whose container runs."""
    started = moment_of(container.started)
    match health(name, host.entries[name], state):
        case Health.READY:
            return "ready", "", started
        case Health.LOADING if container.restarts:
            return "DOWN", "it starts again and again", None
        case Health.LOADING:
            return "loading", "", started
        case Health.RENAMED:
            return "DOWN", f"another model answers at {addresses.probe_url(name, host, state)}", started
        case Health.FAILING:
            return "DOWN", f"it answers {state.probes[container.user, name].status}", None
        case Health.NOT_ASKED:
            return "DOWN", "could not be asked", None
    return "DOWN", "it runs, but does not answer", None


def moment_of(text: str) -> datetime | None:
    """Docker's times; it writes the year 1 for never."""
    found = moment(text)
    return found.astimezone(UTC) if found and found.year > 1 else None
