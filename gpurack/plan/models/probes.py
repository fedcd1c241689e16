"""How the runner proves CUDA, devices and arguments in a model's image before it stops the old container. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpurack.cuda_faults import OLDEST_DRIVER
from gpurack.engines import ENGINES
from gpurack.engines.compiled import CUDA
from gpurack.engines.probes import PYTHON
from gpurack.facts.model import HostFacts
from gpurack.plan.models.desired import DesiredService
from gpurack.spec.gpus import is_consumer

MATTERS = ("LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_", "NVIDIA_")
"""Beginnings of the names of variables that decide which CUDA library a program loads, and what it sees."""
OPTIONS = {"devices": "--device", "group_add": "--group-add", "security_opt": "--security-opt"}
"""Keys of a Compose service that decide what a program may open → the option of `docker run`."""
PROGRAM = ("command", "configs", "entrypoint", "env_file", "environment", "secrets", "tmpfs", "volumes", "working_dir")
"""Keys of an entry's `compose` that may change which program reads the arguments, or what it knows (plugins)."""


def cuda_probe(desired: DesiredService) -> dict[str, Any] | None:
    """Return the payload's words for the probe (files/probing.py): `run`, `arguments`, `gpus`, `official`.

    None without NVIDIA's GPUs, with Vulkan, and for an image that cannot show it. run: options of `docker run` with
    which its container has exactly the model's GPUs, and no network, ports, mounts or secrets. gpus: how many GPUs CUDA
    must see. official: is_official.
    """
    engine = ENGINES[desired.entry.engine]
    probe = None if engine.uses_graphics_driver(desired.entry) else engine.cuda_probe
    run = _options(desired) if probe and desired.devices.nvidia_access else None
    if probe is None or run is None or (probe.entrypoint is None and "entrypoint" in desired.service):
        return None
    run += ["--entrypoint", probe.entrypoint] if probe.entrypoint else []
    return {
        "run": run,
        "arguments": list(probe.arguments),
        "gpus": least(desired),
        **({"official": True} if probe is PYTHON and is_official(desired) else {}),
    }


def dry_start(desired: DesiredService) -> dict[str, Any] | None:
    """Return the payload's words for a dry start (files/probing.py): `run`, `arguments`, and how a refusal looks.

    None for an engine that cannot show it, and where another program than its own may read the arguments: an `image` of
    the inventory, or what `compose` or a variable of Python's changes. run: as for the probe of CUDA. arguments: those
    of the container, without files of keys, which a dry start does not have.
    """
    entry, engine = desired.entry, ENGINES[desired.entry.engine]
    how, run = engine.dry_start, _options(desired)
    foreign = entry.image is not None or any(key in entry.compose for key in PROGRAM)
    if how is None or run is None or foreign or any(name.startswith("PYTHON") for name in entry.env):
        return None
    keyless = replace(desired.run, api_key_file=None, keys_file=None)
    container = desired.container if keyless == desired.run else engine.container(entry, keyless)
    program, *words = container.entrypoint or [""]
    run += ["--entrypoint", program] if program else []
    arguments = [*words, *(container.command or ()), *how.last]
    told = {"last": list(how.last), "code": how.code, "refusals": list(how.refusals)}
    return {"run": run, "arguments": arguments, **told}


def needs_cuda(desired: DesiredService) -> bool:
    """Does a service compute with CUDA on NVIDIA's GPUs? Where `cuda_probe` is None then, that is said."""
    return desired.devices.nvidia_access is not None and not ENGINES[desired.entry.engine].uses_graphics_driver(
        desired.entry
    )


def driver_limit(desired: DesiredService, facts: HostFacts) -> dict[str, Any] | None:
    """Return the payload's `driver`: its version, the newest CUDA that runs with it, and whether that is certain.

    None where any CUDA runs. Within a major version of CUDA, its oldest driver runs all of it (NVIDIA's minor version
    compatibility). A newer major version runs only by forward compatibility, which GeForce and TITAN do not have (error
    804). On other GPUs that depends on a library in the image: a warning, and the probe decides after the pull.
    """
    gpus, branch = [gpu for gpu in facts.gpus if gpu.uuid in desired.uuids], facts.driver.kernel.partition(".")[0]
    if ENGINES[desired.entry.engine].uses_graphics_driver(desired.entry) or not branch.isdecimal() or not gpus:
        return None
    newer = [cuda for cuda, oldest in OLDEST_DRIVER.items() if int(branch) < oldest]
    if not newer:
        return None
    certain = all(is_consumer(gpu.name) for gpu in gpus)
    return {"version": facts.driver.kernel, "cuda": min(newer) - 1, "certain": certain}


def is_official(desired: DesiredService) -> bool:
    """Is the image the engine's own? One of the inventory's may have a program for another CUDA than the image."""
    return desired.entry.image is None


def least(desired: DesiredService) -> int:
    """Return how many GPUs CUDA must see. Of several MIG instances a process sees the first one only."""
    return 1 if any(uuid.startswith("MIG-") for uuid in desired.uuids) else len(desired.uuids)


def _options(desired: DesiredService) -> list[str] | None:
    """Return the options of `docker run` for a container with its devices and nothing else.

    None if the entry's `compose` gives it other GPUs.
    """
    service, given = desired.service, _given(desired)
    if given is None:
        return None
    run = ["--network", "none", "--pull", "never", *given]
    run += [word for key, option in OPTIONS.items() for one in _list(service.get(key)) for word in (option, str(one))]
    run += ["--user", str(service["user"])] if "user" in service else []
    run += ["--privileged"] if service.get("privileged") is True else []
    for name, value in _environment(service).items():
        run += ["--env", f"{name}={value}"] if name.startswith(MATTERS) and name not in CUDA else []
    return run


def _given(desired: DesiredService) -> list[str] | None:
    """Return the options of `docker run` for NVIDIA's GPUs; None if the entry's `compose` gives it others."""
    words = desired.devices.words(drawing=False)
    if any(desired.service.get(key) != words[key] for key in words.keys() & {"deploy", "runtime"}):
        return None
    match desired.devices.nvidia_access:
        case "cdi":
            return [word for name in desired.devices.names for word in ("--device", f"nvidia.com/gpu={name}")]
        case "gpus":
            return ["--gpus", f'"device={",".join(desired.uuids)}"']
        case "runtime":
            return ["--runtime", "nvidia"]
        case _:
            return []


def _environment(service: Mapping[str, Any]) -> dict[str, str]:
    """Return a service's variables, in either form of Compose."""
    found = service.get("environment")
    if isinstance(found, Mapping):
        return {name: str(value) for name, value in found.items() if value is not None}
    return {name: value for name, equals, value in (str(line).partition("=") for line in _list(found)) if equals}


def _list(value: Any) -> list[Any]:
    """Return a list of an admin's `compose`, which may contain anything."""
    return value if isinstance(value, list) else []
