"""What is wrong with a lab's hosts, GPUs and models: from specs and snapshots to what `gpurack status` shows. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gpurack.engines import ENGINES
from gpurack.engines.urls import endpoint
from gpurack.facts.gpus import MISMATCH
from gpurack.facts.model import HostFacts
from gpurack.facts.nvidia import bus_address
from gpurack.host_data import not_understood
from gpurack.plan.host import unfinished
from gpurack.plan.models import ledger
from gpurack.plan.models.computing import on_the_cpu
from gpurack.plan.models.failures import pending
from gpurack.plan.models.health import restarts_since_test
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.ownership import left_over
from gpurack.plan.models.preflight import mismatch
from gpurack.plan.models.slots import gpus_text, is_reserved, lost_gpus, means
from gpurack.plan.models.states import ModelState, shortened, state, time_or_none
from gpurack.plan.system.docker import unanswered
from gpurack.plan.system.gpu_access import no_driver
from gpurack.plan.system.gpu_host import gpu_errors, unshareable
from gpurack.plan.system.restart import reboot_stops
from gpurack.spec.gpus import hardware
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

MIB_PER_GIB = 1024
FALLEN_OFF_BUS = 79
"""The Xid of a GPU that has fallen off the bus. Others (31, 43) may be a program's fault, long before."""


@dataclass(frozen=True)
class GpuStatus:
    """One GPU. memory_used, memory_total: GiB. utilization: percent. temperature: °C. Each is None if unknown.
    lost: why it is lost, and since when. models: those that have the GPU. power_limit, power_default: watts.
    compute_mode, addressing: "" if unknown."""

    index: int
    name: str
    uuid: str
    memory_used: float | None = None
    memory_total: float | None = None
    utilization: int | None = None
    temperature: int | None = None
    reserved: bool = False
    lost: str = ""
    models: tuple[str, ...] = ()
    power_limit: float | None = None
    power_default: float | None = None
    ecc: bool | None = None
    persistence: bool | None = None
    compute_mode: str = ""
    addressing: str = ""


class HostCondition(StrEnum):
    """The state of a host, with the word that is printed."""

    OK = "ok"
    DEGRADED = "DEGRADED"
    UNREACHABLE = "UNREACHABLE"
    MAINTENANCE = "maintenance"


WELL = (HostCondition.OK, HostCondition.MAINTENANCE)
"""States of a host that need no attention."""


@dataclass(frozen=True)
class ModelStatus:
    """One model or service. problem: why it is not ready. since: start of the state, None if unknown.
    restarted, tested: how often Docker restarted it since its last test, and when that was. served: what the engine
    counted since its start, in `unit`; None if it does not count."""

    name: str
    engine: str
    gpus: str
    endpoint: str
    port: int
    state: ModelState
    problem: Problem | None = None
    since: datetime | None = None
    restarts: int = 0
    restarted: int = 0
    tested: datetime | None = None
    served: float | None = None
    unit: str = ""

    @property
    def is_up(self) -> bool:
        """False for a model that is listed first: it is down, or its host is not reachable."""
        return self.state not in (ModelState.DOWN, ModelState.UNKNOWN)

    @property
    def why(self) -> str:
        """The reason as the table shows it: `exited with code 1`; "" without one."""
        return shortened(self.problem)


@dataclass(frozen=True)
class HostStatus:
    """The status of one host.

    reached: was a snapshot taken? now: the host's own clock. errors: about the host itself; each makes it DEGRADED.
    notes: what does not. maintenance: why it was not asked, "" if it was.
    """

    name: str
    reached: bool
    now: datetime
    driver: str = ""
    gpus: tuple[GpuStatus, ...] = ()
    models: tuple[ModelStatus, ...] = ()
    errors: tuple[Problem, ...] = field(default_factory=tuple)
    notes: tuple[Problem, ...] = ()
    maintenance: str = ""

    @property
    def state(self) -> HostCondition:
        """The state shown beside the host's name."""
        if self.maintenance:
            return HostCondition.MAINTENANCE
        if not self.reached:
            return HostCondition.UNREACHABLE
        return HostCondition.DEGRADED if self.errors else HostCondition.OK

    @property
    def down(self) -> int:
        """The number of its models that are down."""
        return sum(model.state == ModelState.DOWN for model in self.models)

    @property
    def is_well(self) -> bool:
        """Is it ok or in maintenance, with no model down? One that loads, or was stopped, is not down."""
        return self.state in WELL and not self.down


def lab_status(fleet: Mapping[str, Host], seen: Mapping[str, HostFacts], now: datetime) -> list[HostStatus]:
    """The status of every host of the inventory. now: the local time, for hosts that do not report theirs."""
    return [
        HostStatus(name, False, now, maintenance=spec.maintenance)
        if spec.maintenance
        else host_status_or_error(name, spec, seen[name], now)
        for name, spec in fleet.items()
    ]


def host_status_or_error(name: str, spec: Host, facts: HostFacts, now: datetime) -> HostStatus:
    """`host_status`; a host whose snapshot cannot be interpreted counts as unreachable, the others are still shown."""
    try:
        return host_status(name, spec, facts, now)
    except Exception as error:
        return host_status(name, spec, HostFacts.not_inspected(not_understood(error)), now)


def is_well(lab: list[HostStatus]) -> bool:
    """True if every host is well."""
    return all(host.is_well for host in lab)


def host_status(name: str, spec: Host, facts: HostFacts, now: datetime) -> HostStatus:
    """The status of one host."""
    models = tuple(model_status(name, key, spec, facts) for key in spec.entries)
    if facts.trouble:
        return HostStatus(name, False, now, models=models, errors=(facts.trouble,))
    return HostStatus(
        name,
        True,
        facts.now or now,
        driver=facts.driver.kernel,
        gpus=tuple(sorted([*working_gpus(spec, facts), *lost(spec, facts)], key=lambda gpu: gpu.index)),
        models=models,
        errors=tuple(host_errors(spec, facts)),
        notes=(
            *facts.notes,
            *unshareable(spec, facts),
            *left_over(spec, facts),
            *pending(spec, facts),
            *(problem for finding in unfinished(facts) for problem in finding.problems),
        ),
    )


def host_errors(spec: Host, facts: HostFacts) -> list[Problem]:
    """What is wrong with the host itself, each with its hint."""
    found = facts.hanging(without=("Docker",))
    if any(model.enabled for model in spec.entries.values()) and (problem := unanswered(facts)):
        found.append(problem)
    gone = lost(spec, facts)
    if facts.driver.exit_code == MISMATCH:
        found.append(mismatch(facts))
    elif gone:
        also = reboot_stops(facts)
        found += [Problem.of("gpu-fell-off", gpu=gpu.index, what=gpu.lost, also=also) for gpu in gone]
    elif spec.wants_gpu and not (facts.gpus or facts.has_nvidia or {"NVIDIA", "AMD"} & facts.late.keys()):
        found.append(no_driver(facts))
    elif facts.driver.exit_code:
        found.append(Problem.of("nvidia-smi-failed", said=f"nvidia-smi: {facts.driver.message}"))
    found += [*gpu_errors(spec, facts), *on_the_cpu(spec, facts).values()]
    expected = len(hardware(spec))
    missing = expected - sum(not gpu.parent for gpu in facts.gpus) - len(gone)
    if missing > 0 and not found:
        found.append(Problem.of("gpus-missing", missing=missing, expected=expected))
    return found


def working_gpus(spec: Host, facts: HostFacts) -> list[GpuStatus]:
    """The GPUs that answer. Models on MIG instances are shown at their GPU."""
    return [
        GpuStatus(
            gpu.index,
            gpu.name,
            gpu.uuid,
            in_gib(gpu.memory_used),
            in_gib(gpu.memory_total),
            gpu.utilization,
            gpu.temperature,
            is_reserved(gpu, spec, facts),
            models=tuple(
                model
                for one in facts.gpus
                if gpu.uuid in (one.uuid, one.parent)
                for model in models_on(one.uuid, facts)
            ),
            power_limit=gpu.details.power_limit,
            power_default=gpu.details.power_default,
            ecc=gpu.details.ecc,
            persistence=gpu.details.persistence,
            compute_mode=gpu.details.compute_mode,
            addressing=gpu.details.addressing,
        )
        for gpu in facts.gpus
        if not gpu.parent
    ]


def in_gib(mib: int | None) -> float | None:
    """MiB in GiB; None if unknown."""
    return None if mib is None else mib / MIB_PER_GIB


def lost(spec: Host, facts: HostFacts) -> list[GpuStatus]:
    """The GPUs that the kernel lists and that do not answer, while others do, each with the models that need it."""
    found = []
    for pci, (index, uuid) in lost_gpus(facts).items():
        planned = {
            name
            for name, entry in spec.entries.items()
            if entry.enabled and any(means(wanted, index, uuid, pci) for wanted in entry.gpus if entry.gpus != "all")
        }
        models = tuple(sorted({*models_on(uuid, facts), *planned}))
        found.append(GpuStatus(index, "", uuid, lost=why_lost(pci, uuid, models, facts), models=models))
    return found


def why_lost(pci: str, uuid: str, models: Sequence[str], facts: HostFacts) -> str:
    """`lost since 2026-11-20 02:11 (Xid 79, GPU-6f1c…, PCI e1:00.0). Reboot the host. Affected models: beta.`"""
    xids = [xid for xid in facts.driver.xids if xid.pci == bus_address(pci)]
    # the log is of this boot, and only a reboot restores a GPU that fell off the bus: the first such Xid counts
    cause = next((xid for xid in xids if xid.number == FALLEN_OFF_BUS), xids[-1] if xids else None)
    since = f" since {cause.time:%Y-%m-%d %H:%M}" if cause and cause.time else ""
    number = f"Xid {cause.number}, " if cause else ""
    named = f"{uuid[:8]}…, " if uuid != pci else ""
    place = f"{number}{named}PCI {pci.removeprefix('0000:')}"
    return f"lost{since} ({place}). Reboot the host. Affected models: {', '.join(models) or 'none'}."


def models_on(uuid: str, facts: HostFacts) -> tuple[str, ...]:
    """The managed containers that were given this GPU."""
    found = [
        name for (_, name), container in facts.ours.items() if uuid in ledger.uuids_in(ledger.label(container.labels))
    ]
    return tuple(sorted(found))


def model_status(host_name: str, name: str, spec: Host, facts: HostFacts) -> ModelStatus:
    """The status of one model or service."""
    one = Observed(name, spec, facts)
    model, seen = one.entry, state(one)
    counter = ENGINES[model.engine].counter
    container = one.container
    restarted, tested = restarts_since_test(one)
    return ModelStatus(
        name,
        f"{model.engine} {model.version or ''}".strip(),
        gpus_text(model).strip("[]") or "CPU",
        endpoint(host_name, spec, model) if model.enabled else "",
        model.port,
        seen.state,
        seen.problem,
        seen.since,
        container.restarts if container and model.enabled else 0,
        restarted if model.enabled else 0,
        time_or_none(tested),
        facts.counters.get((model.dockerd, name)) if model.enabled else None,
        counter.unit if counter else "",
    )
