"""Errors and warnings about GPUs, checked on the host as `hardware` describes it.

The ledger that assigns the GPUs of real hosts also decides here. Pure.
"""

from collections.abc import Iterator
from contextlib import suppress

from gpurack.plan.models.compatibility import accelerator, incompatibility
from gpurack.plan.models.imagined import imagined
from gpurack.plan.models.ledger import assign, for_job
from gpurack.plan.models.slots import missing_gpu, resolve
from gpurack.plan.system.defects import defect_warnings
from gpurack.spec.gpus import GPU_KINDS, kind_of
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, Refused

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpu_problems(spec: Host) -> list[Problem]:
    """One error for each fault, also when several entries share it; the problems name no host."""
    state = imagined(spec)
    ledger = assign(spec, state)
    known = {slot.index for slot in ledger.slots}
    problems = [
        missing_gpu(gpu, state, ledger.slots).at("", "reserved_gpus")
        for gpu in spec.reserved_gpus
        if isinstance(gpu, int) and gpu not in known
    ]
    problems += [
        Problem.of("hides-gpus", path=f"{spec.path_of(name)}.env.{VISIBLE}", name=VISIBLE)
        for name, entry in spec.everything.items()
        if VISIBLE in entry.env
    ]
    problems += [fault.why.at("", f"{spec.path_of(fault.names[0])}.{fault.field}") for fault in ledger.faults]
    for name, entry in spec.entries.items():
        with suppress(Refused):  # among the ledger's faults
            hardware = accelerator(entry, resolve(entry, spec, state, ledger.slots))
            if entry.enabled and (found := incompatibility(entry, hardware, spec.nvidia.driver, arch=state.arch)):
                problems.append(found.at("", spec.path_of(name)))
    return problems


def gpu_warnings(spec: Host) -> Iterator[Problem]:
    """Warnings about unknown hardware, models without `gpus`, and jobs whose GPUs models hold."""
    if spec.wants_gpu and not spec.hardware:
        yield Problem.of("hardware-unknown", path="hardware")
    if spec.wants_gpu:
        yield from defect_warnings(spec, imagined(spec))
    for name in spec.hardware:
        if kind_of(name, spec) is None:
            yield Problem.unknown("unknown-gpu", name, list(GPU_KINDS), path="hardware")
    for name, model in spec.models.items():
        if model.enabled and spec.hardware and "gpus" not in model.model_fields_set:
            yield Problem.of("gpus-not-given", path=f"models.{name}.gpus")
    state = imagined(spec)
    given = assign(spec, state).uuids
    for name, job in spec.jobs.items():
        if not job.enabled:
            continue
        try:
            for_job(name, spec, state, given)
        except Refused as error:
            yield Problem.of("job-without-gpu", path=f"jobs.{name}", what=error)
