"""Errors and warnings about GPUs, checked on the host as `hardware` describes it.

The ledger that assigns the GPUs of real hosts also decides here. Pure.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

from gpurack.plan.models.compatibility import accelerator, driver_doubt, incompatibility
from gpurack.plan.models.imagined import imagined
from gpurack.plan.models.ledger import assign
from gpurack.plan.models.slots import missing_gpu, resolve
from gpurack.plan.system.defects import defect_warnings
from gpurack.spec.gpus import GPU_KINDS, VISIBLE, kind_of
from gpurack.spec.host import Host
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import Problem, Refused, suggestion

MAKERS = re.compile(r"^((NVIDIA|GeForce|Tesla|AMD|Radeon|Instinct)\s+)+", re.IGNORECASE)
"""Words in front of a GPU's name, as nvidia-smi prints them."""
NO_GPU = ("void", "none")
"""Values that give no GPU: an entry without GPUs may have them, as its image may ask for all."""
GIVEN = "NVIDIA_VISIBLE_DEVICES"
HIDING = (GIVEN, *VISIBLE)
"""The variables by which the runtime of NVIDIA gives a container GPUs, and a program hides some of them."""


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
        Problem.of("hides-gpus", path=f"{spec.path_of(name)}.{place}", name=variable)
        for name, entry in spec.everything.items()
        for variable, place in hides_gpus(entry)
    ]
    problems += [fault.why.at("", f"{spec.path_of(fault.names[0])}.{fault.field}") for fault in ledger.faults]
    for name, entry in spec.entries.items():
        with suppress(Refused):  # among the ledger's faults
            hardware = accelerator(entry, resolve(entry, spec, state, ledger.slots), state.arch)
            if entry.enabled and (found := incompatibility(entry, hardware, spec.nvidia.driver)):
                problems.append(found.at("", spec.path_of(name)))
    return problems


def hides_gpus(entry: Model | Job) -> Iterator[tuple[str, str]]:
    """Yield (variable, its place) where an entry sets one that gives or hides GPUs."""
    lines = entry.compose.get("environment")  # a map, or `NAME=value` each
    names = {str(line).partition("=")[0] for line in lines} if isinstance(lines, Mapping | list) else set()
    for variable in HIDING:
        if variable in entry.env and not (variable == GIVEN and not entry.gpus and entry.env[variable] in NO_GPU):
            yield variable, f"env.{variable}"
        if variable in names:
            yield variable, "compose.environment"


def driver_doubts(spec: Host) -> Iterator[Problem]:
    """Warnings about images for a newer driver than the host's."""
    state = imagined(spec)
    slots = assign(spec, state).slots
    for name, entry in spec.entries.items():
        with suppress(Refused):  # an error already
            hardware = accelerator(entry, resolve(entry, spec, state, slots), state.arch)
            if entry.enabled and (found := driver_doubt(entry, hardware, spec.nvidia.driver)):
                yield found.at("", spec.path_of(name))


def gpu_warnings(spec: Host) -> Iterator[Problem]:
    """Warnings about unknown hardware, models without `gpus`, and jobs whose GPUs models hold."""
    if spec.wants_gpu and not spec.hardware:
        yield Problem.of("hardware-unknown", path="hardware")
    if spec.wants_gpu:
        yield from defect_warnings(spec, imagined(spec))
        yield from driver_doubts(spec)
    for name in spec.hardware:
        if kind_of(name, spec) is None:
            hint = suggestion(MAKERS.sub("", name), list(GPU_KINDS))
            yield Problem.of("unknown-gpu", path="hardware", name=name, hint=hint)
    for name, model in spec.models.items():
        if model.enabled and spec.hardware and "gpus" not in model.model_fields_set:
            yield Problem.of("gpus-not-given", path=f"models.{name}.gpus")
    ledger = assign(spec, imagined(spec))
    for name, job in spec.jobs.items():
        if not job.enabled:
            continue
        try:
            ledger.for_job(name)
        except Refused as error:
            yield Problem.of("job-without-gpu", path=f"jobs.{name}", what=error)
