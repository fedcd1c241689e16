"""Does a model that was given GPUs compute on the CPU? The one rule for runs, status and verification. Pure.

llama.cpp and others continue on the CPU where CUDA does not start: healthy, and about fifty times slower.
"""

from collections.abc import Collection

from gpurack.cuda_faults import continues_without
from gpurack.engines import ENGINES
from gpurack.facts.gpus import Gpu
from gpurack.facts.model import Container, HostFacts
from gpurack.plan.models import compose, ledger
from gpurack.plan.models.health import Health, health
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

CONTEXT = 64
"""MiB. A process that computes with CUDA has more on its GPU: its context alone needs 100 to 500."""


NOTHING_THERE = "none of its processes uses its GPUs"


def on_the_cpu(spec: Host, facts: HostFacts) -> dict[str, Problem]:
    """Return model → what is wrong, for ready models that certainly compute on the CPU instead of their GPUs."""
    return {
        name: on_cpu(name, entry, spec, why)
        for name, entry in spec.entries.items()
        if entry.enabled and health(name, entry, facts) == Health.READY and (why := evidence(name, entry, facts))
    }


def evidence(name: str, entry: Model, facts: HostFacts) -> str:
    """Return what proves that a ready model with GPUs computes on the CPU; "" if nothing does."""
    container = facts.container(name, entry.dockerd)
    if not container or not entry.gpus:
        return ""
    if not uses_gpus(entry, container, ledger.uuids_in(ledger.label(container.labels)), facts):
        return NOTHING_THERE
    return continues_without(facts.cuda_logs.get((entry.dockerd, name), "")) or ""


def on_cpu(name: str, entry: Model, spec: Host, why: str) -> Problem:
    """Return the warning for a model that computes on the CPU."""
    docker = compose.docker_command(entry.dockerd)
    told = {"logs": sh("{} logs {}", docker, name), "command": sh("{} restart {}", docker, name)}
    return Problem.of("computes-on-cpu", path=spec.path_of(name), why=why, **told)


def uses_gpus(entry: Model, container: Container, uuids: Collection[str], facts: HostFacts) -> bool:
    """Does a ready model's container have anything on its GPUs (uuids)? True also where that is unknown.

    It has nothing if nvidia-smi lists none of its processes, and other containers' processes explain the memory in use.
    So a driver that lists no processes (vGPU, WSL), or no memory (GB10, MIG), proves nothing; nor do AMD's GPUs.
    """
    given = [gpu for gpu in facts.gpus if gpu.uuid in uuids]
    if not (entry.gpus and given and ENGINES[entry.engine].holds_gpus(entry)) or len(given) < len(uuids):
        return True
    mine = (container.id, facts.uid_of(container.user))
    listed = any((process.container, process.whose) == mine for process in facts.gpu_processes)
    return listed or any(unexplained(gpu, facts) for gpu in given)


def unexplained(gpu: Gpu, facts: HostFacts) -> bool:
    """May a GPU's memory in use belong to a process that nvidia-smi does not list? True if it is unknown."""
    if gpu.vendor != "nvidia" or gpu.memory_used is None or gpu.fault or facts.driver.platform == "wsl":
        return True
    known = [process for process in facts.gpu_processes if process.uuid == gpu.uuid and process.container]
    return gpu.memory_used - sum(process.memory or 0 for process in known) >= CONTEXT
