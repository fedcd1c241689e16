"""Does a model that was given GPUs compute on the CPU? The one rule for runs, status and verification. Pure.

llama.cpp, ollama and TEI continue on the CPU where CUDA does not start: healthy, and about fifty times slower.
"""

from collections.abc import Collection

from gpurack.cuda_faults import continues_without
from gpurack.engines import ENGINES
from gpurack.facts.gpus import Gpu
from gpurack.facts.model import HostFacts
from gpurack.plan.models import compose, ledger
from gpurack.plan.models.health import Health, health
from gpurack.plan.models.observed import Observed, observed
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

CONTEXT = 64
"""MiB. A process that computes with CUDA has more on its GPU: its context alone needs 100 to 500."""


NOTHING_THERE = "none of its processes uses its GPUs"


def on_the_cpu(spec: Host, facts: HostFacts) -> dict[str, Problem]:
    """Return model → what is wrong, for ready models that certainly compute on the CPU instead of their GPUs."""
    found = {one.name: slow(one) for one in observed(spec, facts) if one.entry.enabled}
    return {name: problem for name, problem in found.items() if problem}


def slow(one: Observed) -> Problem | None:
    """Return what is wrong with a ready model that certainly computes on the CPU; None for others."""
    why = evidence(one) if health(one) == Health.READY else ""
    return on_cpu(one, why) if why else None


def evidence(one: Observed) -> str:
    """Return what proves that a ready model with GPUs computes on the CPU; "" if nothing does."""
    container, entry, facts = one.container, one.entry, one.facts
    if not container or not entry.gpus:
        return ""
    uuids = ledger.uuids_in(ledger.label(container.labels))
    if any(gpu.vendor == "amd" for gpu in facts.gpus if gpu.uuid in uuids):
        return ""
    used = uses_gpus(one, uuids)
    if used is False:
        return NOTHING_THERE
    return said_by_log(entry, facts.cuda_logs.get(one.key, ""), used) or ""


def said_by_log(entry: Model, log: str, used: bool | None) -> str | None:
    """Return why a model with GPUs computes on the CPU, by its log; "" if it does not, None if unknown.

    used: of `uses_gpus`. What nvidia-smi lists on a GPU computes there, whatever else its log says.
    """
    shows = ENGINES[entry.engine].log_shows(entry)
    if used or not shows:
        return "" if used else None
    return continues_without(log, layers=shows == "layers")


def on_cpu(one: Observed, why: str) -> Problem:
    """Return the warning for a model that computes on the CPU."""
    docker = compose.docker_command(one.entry.dockerd)
    told = {"logs": sh("{} logs {}", docker, one.name), "command": sh("{} restart {}", docker, one.name)}
    return Problem.of("computes-on-cpu", path=one.path, why=why, **told)


def uses_gpus(one: Observed, uuids: Collection[str]) -> bool | None:
    """Does a ready model's container have anything on its GPUs (uuids)? None if unknown.

    It has nothing if nvidia-smi lists none of its processes, and other containers' processes explain the memory in use.
    So a driver that lists no processes (vGPU, WSL), or no memory (GB10, MIG), proves nothing; nor do AMD's GPUs.
    """
    entry, container, facts = one.entry, one.container, one.facts
    if container is None:
        return None
    mine = (container.id, facts.uid_of(container.user))
    if any((process.container, process.whose) == mine for process in facts.gpu_processes):
        return True
    given = [gpu for gpu in facts.gpus if gpu.uuid in uuids]
    if not (entry.gpus and given and ENGINES[entry.engine].holds_gpus(entry)) or len(given) < len(uuids):
        return None
    return None if any(unexplained(gpu, facts) for gpu in given) else False


def unexplained(gpu: Gpu, facts: HostFacts) -> bool:
    """May a GPU's memory in use belong to a process that nvidia-smi does not list? True if it is unknown."""
    if gpu.vendor != "nvidia" or gpu.memory_used is None or gpu.fault or facts.driver.platform == "wsl":
        return True
    known = [process for process in facts.gpu_processes if process.uuid == gpu.uuid and process.container]
    return gpu.memory_used - sum(process.memory or 0 for process in known) >= CONTEXT
