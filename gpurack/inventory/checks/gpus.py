"""Can the GPUs of a host be what its inventory wants of them? Checked on the host that the inventory imagines, by the
ledger that also gives GPUs on the real one. Pure."""

from collections.abc import Iterator

from gpurack.engines.base import Finding
from gpurack.plan.compatibility import accelerator, incompatibility
from gpurack.plan.imagined import imagined
from gpurack.plan.ledger import assign, find, for_job, resolve
from gpurack.spec.gpus import GPU_KINDS, GpuSlot
from gpurack.spec.host import Host
from gpurack.spec.problems import unknown


def gpu_problems(host: Host) -> list[Finding]:
    """(path, sentence) for each fault, however many entries have it."""
    state = imagined(host)
    ledger = assign(host, state)
    problems = []
    for gpu in host.reserved_gpus:
        try:
            _ = isinstance(gpu, int) and find(gpu, state, ledger.slots)
        except LookupError as error:
            problems.append(("reserved_gpus", str(error)))
    for fault in ledger.faults:
        name = fault.names[0]
        problems.append((f"{host.kind_of(name)}.{name}.{fault.field}", fault.what))
    for name, entry in host.entries.items():
        if not entry.enabled:
            continue
        found = incompatibility(entry, accelerator(entry, slots_wanted(name, host, ledger.slots)), host.nvidia.driver)
        if found:
            problems.append((f"{host.kind_of(name)}.{name}.{found[0]}", found[1]))
    return problems


def slots_wanted(name: str, host: Host, slots: tuple[GpuSlot, ...]) -> tuple[GpuSlot, ...]:
    """The GPUs that an entry asks for, whether or not it can have them."""
    try:
        return resolve(host.entries[name], host, imagined(host), slots)
    except LookupError:
        return ()


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
        try:
            _ = job.enabled and for_job(name, host, state, given)
        except LookupError as error:
            yield f"jobs.{name}", f"{error} A run refuses it, unless it is done."
