"""The GPUs that a container was given: by --gpus, CDI, devices, the nvidia runtime, or narrowed by variables.

Sources: AMD's ROCm documentation, "Running ROCm Docker containers" (/dev/kfd with all of /dev/dri, or single render
nodes); NVIDIA's CUDA programming guide, CUDA_VISIBLE_DEVICES (indices of the visible GPUs, the list ends at the first
invalid one); HIP_VISIBLE_DEVICES counts within ROCR_VISIBLE_DEVICES.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

Gpus = str | int | tuple[str, ...] | None
"""`all`, a number of any GPUs, ids, or None for no GPU."""
Kind = Literal["open", "changed", "left out"]
Note = Callable[[Kind, str], None]
CDI = re.compile(r"(nvidia\.com|amd\.com)/gpu=")
NVIDIA = re.compile(r"/dev/nvidia(?P<index>\d+)|/dev/nvidia(ctl|-uvm|-uvm-tools|-modeset)|/dev/nvidia-caps(/.*)?")
DRI = re.compile(r"/dev/dri(/renderD(?P<render>\d+|\$.+)|/by-path/.*|/card(\d+|\$.+))?/?")
FIRST_NODE = 128
"""The number of the first render node."""
KFD = "/dev/kfd"
NODE = re.compile("|".join((KFD, DRI.pattern, NVIDIA.pattern)))
RUNTIMES = {"nvidia": "NVIDIA_VISIBLE_DEVICES", "amd": "AMD_VISIBLE_DEVICES"}
"""Runtimes that add GPUs → the variable that chooses them."""
RUNTIME = "--runtime {} is left out: gpurack gives containers their GPUs by UUID (CDI)."
AS_DEVICES = "the devices of its GPUs are left out: `gpus` adds them."


def container_gpus(
    requested: Gpus, devices: Sequence[Any], runtime: str | None, environment: Mapping[str, str], note: Note
) -> tuple[Gpus, list[Any], dict[str, str]]:
    """(the GPUs of a container, the devices and variables beside them).

    requested: by --gpus or a reservation. devices: as Compose or Docker write them. note: adds a finding.
    """
    gpus, variables = requested, dict(environment)
    paths = [source(device) for device in devices]
    nodes = [int(found["index"]) for path in paths if (found := NVIDIA.fullmatch(path)) and found["index"]]
    gpus = ids([path for path in paths if CDI.match(path)]) if gpus is None else gpus
    are_gpus = [CDI]
    if nodes or (gpus is not None and any(map(NVIDIA.fullmatch, paths))):
        gpus = tuple(map(str, sorted(nodes))) if gpus is None else gpus
        are_gpus.append(NVIDIA)
    if KFD in paths:
        gpus = rendered(paths, note) if gpus is None else gpus
        are_gpus += [re.compile(KFD), DRI]
    if are_gpus[1:]:
        note("changed", AS_DEVICES)
    rest = [device for device, path in zip(devices, paths, strict=True)
            if not (CDI.match(path) or any(one.fullmatch(path) for one in are_gpus))]  # fmt: skip
    visible = variables.pop(RUNTIMES.get(runtime or "", RUNTIMES["nvidia"]), None)
    if visible or runtime == "nvidia":
        variables.pop("NVIDIA_DRIVER_CAPABILITIES", None)
    if runtime not in (None, *RUNTIMES, "runc"):
        note("changed", f'--runtime {runtime} is left out. Set it in compose: {{"runtime": …}} if it is needed.')
    elif runtime in RUNTIMES or (visible and gpus is None and not rest):
        shown = visible or "all"
        if gpus is None and shown not in ("none", "void"):
            gpus = ids(shown.split(","))
        if gpus is not None:
            note("changed", RUNTIME.format(runtime if runtime in RUNTIMES else "nvidia"))
    return gpus, rest, variables


def source(device: Any) -> str:
    """The path on the host (or the CDI name) of a device, in short or long syntax.

    >>> source("/dev/dri:/dev/dri:rwm"), source({"source": "/dev/kfd"}), source("nvidia.com/gpu=0")
    ('/dev/dri', '/dev/kfd', 'nvidia.com/gpu=0')
    """
    if isinstance(device, Mapping):
        return str(device.get("source", "")).rstrip("/")
    text = str(device)
    return text if CDI.match(text) else text.split(":")[0].rstrip("/")


def rendered(paths: Sequence[str], note: Note) -> Gpus:
    """The GPUs of device nodes below /dev/dri: all of them, or those of single render nodes."""
    nodes = [found["render"] for path in paths if (found := DRI.fullmatch(path)) and found["render"]]
    gpus = {node: str(int(node) - FIRST_NODE) if node.isdigit() else node for node in nodes}
    for node, gpu in gpus.items():
        if gpu != node:
            note("open", f"/dev/dri/renderD{node} is set to GPU {gpu}, by its number. Check it with `gpurack status`, "
                 "or use the GPU's PCI address.")  # fmt: skip
    return tuple(gpus.values()) or "all"


def ids(texts: Sequence[str]) -> Gpus:
    """Ids without their CDI kind. `all` if it is among them.

    >>> ids(["nvidia.com/gpu=0", " GPU-1a"]), ids(["nvidia.com/gpu=all"]), ids([])
    (('0', 'GPU-1a'), 'all', None)
    """
    found = tuple(CDI.sub("", text.strip()) for text in texts if text.strip())
    return "all" if "all" in found else found or None


def option(text: str | None) -> Gpus:
    """The value of --gpus: `all`, `2`, `count=2`, or `device=0,1` with or without Docker's quotes.

    >>> option('"device=0,1"'), option("all"), option("2"), option("device=nvidia.com/gpu=all")
    (('0', '1'), 'all', 2, 'all')
    """
    if not text:
        return None
    plain = text.strip("\"'")
    if plain == "all" or "count=all" in plain or "count=-1" in plain:
        return "all"
    if plain.isdigit():
        return int(plain) or None
    if found := re.search(r"device=([$`].*[)`])$", plain):  # a command that names them
        return (found[1],)
    if found := re.search(r"device=([^\"']*)", plain):
        return ids(re.split(r",(?=(?:count|driver|capabilities|options)=)", found[1])[0].split(","))
    counted = re.search(r"count=(\d+)", plain)
    return int(counted[1]) if counted else "all"


def reserved(devices: Any) -> Gpus:
    """The GPUs of Compose's `gpus` or of its device reservations (NVIDIA's driver, AMD's, or CDI).

    >>> reserved([{"device_ids": ["0"]}, {"device_ids": ["3"]}]), reserved([{"count": 1}, {"device_ids": ["3"]}])
    (('0', '3'), 2)
    """
    if not devices or isinstance(devices, str):
        return option(devices or None)
    named = [one for device in devices for text in device.get("device_ids") or () for one in str(text).split(",")]
    counts = [str(device.get("count", "all")) for device in devices if not device.get("device_ids")]
    if not all(map(str.isdigit, counts)):  # all, -1, or a variable without a value
        return "all"
    return sum(map(int, counts), len(named)) or None if counts else ids(named)


def narrowed(gpus: Gpus, visible: str) -> Gpus:
    """The GPUs that remain visible to a program with CUDA_VISIBLE_DEVICES or its like. Raises ValueError.

    >>> narrowed("all", "1"), narrowed(("2", "3"), "1"), narrowed(2, "0"), narrowed("all", "-1")
    (('1',), ('3',), ('0',), None)
    """
    known = None if gpus == "all" else tuple(map(str, range(gpus))) if isinstance(gpus, int) else tuple(gpus or ())
    found: list[str] = []
    for item in filter(None, (part.strip() for part in visible.split(","))):
        if not re.fullmatch(r"-?\d+|(GPU|MIG)-[\w/-]+|\$.+", item):
            raise ValueError(item)
        if item.startswith("-"):
            break
        if item.isdigit() and known is not None:
            if int(item) >= len(known):
                break
            item = known[int(item)]
        found.append(item)
    return tuple(found) or None
