"""Can the GPUs of a host be what its inventory wants of them? Checked on the host that the inventory imagines, by the
ledger that also gives GPUs on the real one. Pure."""

from collections.abc import Iterator
from contextlib import suppress

from gpurack.engines.base import Finding
from gpurack.plan.compatibility import accelerator, incompatibility
from gpurack.plan.imagined import imagined
from gpurack.plan.ledger import assign, for_job, missing, resolve
from gpurack.spec.gpus import GPU_KINDS
from gpurack.spec.host import Host
from gpurack.spec.problems import unknown


def gpu_problems(host: Host) -> list[Finding]:
    """(path, sentence) for each fault, however many entries have it."""
    state = imagined(host)
    ledger = assign(host, state)
    known = {slot.index for slot in ledger.slots}
    problems = [
        ("reserved_gpus", missing(gpu, state, ledger.slots))
        for gpu in host.reserved_gpus
        if isinstance(gpu, int) and gpu not in known
    ]
    problems += [
        (f"{host.kind_of(fault.names[0])}.{fault.names[0]}.{fault.field}", fault.what) for fault in ledger.faults
    ]
    for name, entry in host.entries.items():
        with suppress(LookupError):  # among the ledger's faults
            hardware = accelerator(entry, resolve(entry, host, state, ledger.slots))
            if entry.enabled and (found := incompatibility(entry, hardware, host.nvidia.driver)):
                problems.append((f"{host.kind_of(name)}.{name}.{found[0]}", found[1]))
    return problems


def gpu_warnings(host: Host) -> Iterator[Finding]:
    """(path, sentence) for what may hurt: unknown hardware, models that say nothing of GPUs, jobs without a GPU."""
    if host.wants_gpu and not host.hardware:
        yield "hardware", 'is not given, so GPUs cannot be checked; write {"A30": 4}.'
    for name in host.hardware:
        if name not in GPU_KINDS:
            yield "hardware", unknown("GPU", name, list(GPU_KINDS)) + " Its memory is not checked."
    for name, model in host.models.items():
        if model.enabled and host.hardware and "gpus" not in model.model_fields_set:
            yield f"models.{name}.gpus", "is not given, so it runs on the CPU; write [] if that is meant."
    state = imagined(host)
    given = assign(host, state).uuids
    for name, job in host.jobs.items():
        if not job.enabled:
            continue
        try:
            for_job(name, host, state, given)
        except LookupError as error:
            yield f"jobs.{name}", f"{error} A run refuses it, unless it is done."
