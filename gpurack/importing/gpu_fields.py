"""Write the GPUs of a container, and how many of them it uses, as fields of an entry."""

import re
from collections.abc import Sequence
from dataclasses import replace

from gpurack.engines.container import CPU
from gpurack.engines.dialect import NODES
from gpurack.importing.gpus import AS_DEVICES, DRI, NVIDIA, Gpus, narrowed, rendered, source
from gpurack.importing.translation import Translation, counted, listed
from gpurack.spec.gpus import VISIBLE
from gpurack.spec.model import GPU_NAME

NAMED = re.compile(rf"\d+|{GPU_NAME}|.*\$.+")
"""The ids that `gpus` can hold, and variables without a value."""


DEVICES_ONLY = re.compile(r"rocm|vulkan|\b(intel|xpu)\b", re.IGNORECASE)
"""Images whose programs need nothing but the devices of the GPUs."""


def keep_slices(t: Translation) -> bool:
    """Keep GPUs that `gpus` cannot name (MIG instances by number) in the words of Compose; true if there are any."""
    strange = [item for item in t.run.gpus if not NAMED.fullmatch(item)] if isinstance(t.run.gpus, tuple) else []
    if not strange:
        return False
    devices = [{"driver": "nvidia", "device_ids": list(t.run.gpus or ()), "capabilities": ["gpu"]}]  # type: ignore[arg-type]
    deploy = t.compose.setdefault("deploy", {}).setdefault("resources", {})
    deploy["reservations"] = {**deploy.get("reservations", {}), "devices": devices}
    t.run = replace(t.run, gpus=None)
    t.note("open", f"GPU {', '.join(strange)}: `gpus` names MIG instances by UUID only (nvidia-smi -L). It is kept in "
          "compose.deploy, where no plan sees that it is used.")  # fmt: skip
    return True


def hosts_of(t: Translation) -> str:
    """The number of hosts over which it runs, as its flags say; "" for one."""
    nodes = str(t.flags.given.get(NODES, ["1"])[-1])
    return "" if nodes == "1" else nodes


def convert_gpus(t: Translation) -> None:
    """The GPUs that the container was given, by index or UUID, and that its variables left visible."""
    gpus = visible_gpus(t, graphics_devices(t) if t.run.gpus is None else t.run.gpus)
    if t.engine.unused.get("gpus"):
        t.gpus = None
        if gpus is not None:
            t.note("changed", f"was given GPUs, but {t.engine.title} in gpurack runs no model. `gpus` is left out.")
    elif gpus is None and keeps_gpus(t):
        t.gpus = None
    elif gpus is None:
        t.gpus = []
        if needs_gpu(t):
            t.note("open", f"was given no GPU in this text, but {t.engine.title} needs one. Set `gpus`.")
    elif isinstance(gpus, int):
        t.gpus = list(range(gpus))
        t.note("open", f"asked for any {counted(gpus, 'GPU')}; set to gpus {t.gpus}. Check which to use.")
    else:
        t.gpus = gpus if gpus == "all" else [int(item) if item.isdigit() else item for item in known(t, gpus)]


def keeps_gpus(t: Translation) -> bool:
    """True if the entry has GPUs in the words of Compose, which `gpus` cannot name."""
    if t.compose.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices"):
        return True
    nodes = [path for path in map(source, t.compose.get("devices", [])) if NVIDIA.fullmatch(path)]
    if nodes:
        t.note("open", f"uses {', '.join(nodes)}, kept in compose.devices. Set `gpus` if they are those of a GPU.")
    return bool(nodes)


def known(t: Translation, gpus: Sequence[str]) -> list[str]:
    """The ids, with the first free index for each variable without a value."""
    found: list[str] = []
    for item in gpus:
        free = next(str(index) for index in range(len(gpus) + 1) if str(index) not in (*gpus, *found))
        found.append(free if "$" in item else item)
    if unset := [item for item in gpus if "$" in item]:
        t.note("open", f"its GPU is {listed(unset)}; set to gpus [{listed(found)}]. Check which to use.")
    return found


def needs_gpu(t: Translation) -> bool:
    """True if the engine has no image for the CPU."""
    try:
        t.engine.image("1", CPU)
    except LookupError:
        return not t.unknown
    return False


def graphics_devices(t: Translation) -> Gpus:
    """The GPUs of /dev/dri, for an engine that computes with Vulkan or the like. Unknown images keep the devices."""
    paths = [source(device) for device in t.compose.get("devices", [])]
    graphics = [path for path in paths if DRI.fullmatch(path)]
    if t.engine.unused.get("gpus"):
        return None
    if not graphics and t.compose.get("privileged") and DEVICES_ONLY.search(t.run.image):
        t.note("changed", "is privileged, which gave it all GPUs.")
        return "all"
    if not graphics:
        return None
    if t.unknown:
        t.note("open", f"uses {', '.join(graphics)}, kept in compose.devices. Set `gpus` if a model computes there.")
        return None
    gpus = rendered(graphics, t.note)
    t.compose["devices"] = [device for device in t.compose["devices"] if not DRI.fullmatch(source(device))]
    if not t.compose["devices"]:
        del t.compose["devices"]
    t.note("changed", AS_DEVICES)
    return gpus


def visible_gpus(t: Translation, gpus: Gpus) -> Gpus:
    """The GPUs without those that CUDA_VISIBLE_DEVICES or its like hides. In the container they count from 0 again."""
    for name in VISIBLE:
        if name not in t.environment:
            continue
        if gpus is None:
            t.note("changed", f"{name}={t.environment.pop(name)} is left out: the entry has no `gpus` to hide.")
            continue
        try:
            seen = narrowed(gpus, t.environment[name])
        except ValueError:
            what = f"{name}={t.environment.pop(name)} is left out, and not applied to `gpus`. List its GPUs there."
            t.note("open", what)
            continue
        shown = "all GPUs" if gpus == "all" else counted(gpus, "GPU") if isinstance(gpus, int) else listed(gpus)
        t.note("changed", f"{name}={t.environment.pop(name)} of {shown} became `gpus`.")
        gpus = seen
    return gpus


def convert_parallelism(t: Translation) -> None:
    """Reduce `gpus` to the number that the flags use. gpurack sets tensor parallelism by the number of GPUs."""
    if t.engine.parallel_flags and t.gpus:
        tensor, *others = t.engine.parallel_flags
        needed, unknown = 1, False
        for flag in (tensor, *others):
            size = t.number(f"--{flag}", str(t.flags.given[flag][-1])) if flag in t.flags.given else 1
            if size is None:
                del t.flags.given[flag]
                unknown = True
            needed *= size or 1
        if unknown:
            pass
        elif t.gpus == "all":
            t.gpus = list(range(needed))
            t.note("open", f"was given all GPUs but uses {counted(needed, 'GPU')}; set to gpus {t.gpus}. "
                  "Check which to use.")  # fmt: skip
        elif len(t.gpus) > needed:
            t.note("open", f"was given GPU {listed(t.gpus)} but uses {counted(needed, 'GPU')}; set to "
                  f"gpus {t.gpus[:needed]}. Set {tensor} to use more.")  # fmt: skip
            t.gpus = t.gpus[:needed]
        if unknown or len(t.gpus) == needed:
            t.flags.given.pop(tensor, None)
        else:
            t.note("open", f"needs {counted(needed, 'GPU')} ({tensor}) but was given GPU {listed(t.gpus)}.")
    elif t.engine.one_gpu and (t.gpus == "all" or len(t.gpus or []) > 1):
        given = "all GPUs" if t.gpus == "all" else f"GPU {listed(t.gpus)}"
        t.gpus = [0] if t.gpus == "all" else t.gpus[:1]
        t.note("open", f"was given {given} but uses one GPU; set to gpus {t.gpus}. Check which to use.")
    elif t.gpus == "all":
        t.note("open", "uses all GPUs of the host, so no other model can. List GPUs by index to share the host.")
    if t.gpus is not None:
        t.fields["gpus"] = t.gpus
    fraction = t.flags.given.get(t.dialect.share)
    if fraction and t.gpus:
        share = t.number(f"--{t.dialect.share}", str(t.flags.given.pop(t.dialect.share)[-1]), float)
        if share:
            t.fields["vram"] = f"{share * 100:g}%"
