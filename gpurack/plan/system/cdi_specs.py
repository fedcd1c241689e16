"""Whether the CDI specs on a host still fit its GPUs and driver. Pure.

Sources: the CDI specification and its library (cache.go): a device in /var/run/cdi comes before one of the same name in
/etc/cdi, and one that two files of the same folder have cannot be resolved. NVIDIA's open kernel modules: the major
number of /dev/nvidia-uvm is new at each load of the driver. nvidia-cdi-refresh.service writes /var/run/cdi/nvidia.yaml,
and nothing refreshes what is in /etc/cdi.
"""

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from gpurack import paths
from gpurack.facts.gpus import CdiSpec, Driver
from gpurack.facts.model import HostFacts
from gpurack.plan.steps import Shell
from gpurack.shell import Sh, sh
from gpurack.spec.problems import Problem

KIND = "nvidia.com/gpu"
TOGETHER = "all"
"""The only name that a spec has in WSL, whose GPUs share /dev/dxg (toolkit: nvcdi/lib-wsl.go)."""
UNIT = "nvidia-cdi-refresh.service"
UVM, CONTROL, SWITCH = "/dev/nvidia-uvm", "/dev/nvidiactl", "/dev/nvidia-nvswitch"
MAJORS = {UVM: "nvidia-uvm", f"{UVM}-tools": "nvidia-uvm"}
"""Device node → name in /proc/devices, where the number changes at each load of the driver."""
FOLDERS = {"/dev/nvidia-caps/": "nvidia-caps", "/dev/nvidia-caps-imex-channels/": "nvidia-caps-imex-channels"}
"""Folder of device nodes → their name in /proc/devices, likewise."""
NODES = sh("{ nvidia-modprobe -u -c 0 || nvidia-ctk system create-device-nodes --control-devices; } >/dev/null 2>&1")
"""Makes the nodes of CUDA, which nvidia-smi does not make: a spec names only what exists."""
RESET = sh("systemctl reset-failed {} nvidia-cdi-refresh.path 2>/dev/null", UNIT)


def device_names(uuids: Collection[str], facts: HostFacts) -> tuple[str, ...]:
    """Return the names that these GPUs have in specs: their UUIDs, or in WSL that of all of them together."""
    return (TOGETHER,) if uuids and facts.driver.platform == "wsl" else tuple(uuids)


def named(facts: HostFacts) -> tuple[str, ...]:
    """Return the names that specs should have: of GPUs and MIG instances on which something can start.

    A GPU in MIG mode has no name of its own in a spec (toolkit: nvcdi/lib-nvml.go).
    """
    found = [gpu.uuid for gpu in facts.gpus if gpu.vendor == "nvidia" and not gpu.mig and not gpu.fault]
    return device_names(found, facts)


def sources(uuid: str, facts: HostFacts) -> tuple[str, ...]:
    """Return the specs that a GPU's device is taken from: one, or several that conflict."""
    all_of_it = [path for path, spec in facts.driver.specs.items() if spec.kind == KIND and uuid in spec.devices]
    first = [path for path in all_of_it if not path.startswith("/etc/")]
    return tuple(sorted(first or all_of_it))


def conflicts(uuids: Collection[str], facts: HostFacts) -> list[tuple[str, ...]]:
    """Return the specs of one folder that name the same one of these GPUs: Docker then finds it in none of them."""
    return sorted({found for uuid in uuids if len(found := sources(uuid, facts)) > 1})


def stale(facts: HostFacts) -> Mapping[str, str]:
    """Return spec → why a container would not get a working GPU by it; without those of other GPUs and platforms."""
    driver, uuids = facts.driver, set(named(facts))
    if driver.platform:
        return {}
    judged = {path: spec for path, spec in driver.specs.items() if spec.kind == KIND and uuids & spec.devices}
    return {path: why for path, spec in judged.items() if (why := fault(spec, driver))}


def fault(spec: CdiSpec, driver: Driver) -> str:
    """Return what is wrong with a spec: a missing path, or wrong numbers of nodes; "" if it fits the host."""
    if spec.gone:
        return f"{spec.gone[0]} does not exist"
    for path, (major, minor) in spec.nodes.items():
        now, kernel = driver.nodes.get(path), driver.majors.get(major_of(path))
        right = (kernel or now[0], now[1]) if now else (kernel, None)
        for word, said, real in (("major", major, right[0]), ("minor", minor, right[1])):
            if said is not None and real is not None and said != real:
                return f"{path} has the {word} number {real}, and the spec {said}"
        if path in MAJORS and now and kernel and now[0] != kernel:
            return f"{path} has the major number {now[0]}, and the driver {kernel}"
    if CONTROL in spec.nodes and UVM not in spec.nodes and (UVM in driver.nodes or MAJORS[UVM] in driver.majors):
        return f"it lacks {UVM}"
    return ""


def major_of(path: str) -> str:
    """Return the name in /proc/devices that a node's number comes from; "" if its number never changes."""
    folder = path[: path.rindex("/") + 1]
    return FOLDERS.get(folder) or MAJORS.get(path) or ("nvidia-nvswitch" if path.startswith(SWITCH) else "")


def curable(facts: HostFacts) -> bool:
    """Would a new /var/run/cdi/nvidia.yaml come before all other specs, or replace them, without a conflict?"""
    others = {found for uuid in named(facts) for found in sources(uuid, facts) if not found.startswith("/etc/")}
    return not others - {paths.CDI_REFRESHED}


def in_use(facts: HostFacts) -> Mapping[str, str]:
    """Return spec → what is wrong with it, of the specs that GPUs are taken from now."""
    used = {found[0] for uuid in named(facts) if len(found := sources(uuid, facts)) == 1}
    return {path: why for path, why in stale(facts).items() if path in used}


def renewal(facts: HostFacts) -> Shell | None:
    """Return the step that replaces stale specs in use; None if there are none, or none that it can replace.

    The refresh unit may be skipped by its conditions, and is then not active.
    """
    found = in_use(facts)
    if not found or not curable(facts):
        return None
    path, why = next(iter(found.items()))
    target = paths.CDI_LASTING if set(found) == {paths.CDI_LASTING} else paths.CDI_REFRESHED
    refreshed = sh("{ systemctl restart {} && systemctl is-active --quiet {}; } 2>/dev/null", UNIT, UNIT)
    command = sh("{}; {}; {} || {}", NODES, RESET, refreshed, generate(target))
    return Shell(f"new CDI specs: {path} is of an earlier driver: {why}", command)


def generate(path: str) -> Sh:
    """Return the command that writes a spec; where a package lost its program, with a sentence."""
    missing = "error nvidia-ctk is missing, although its package is installed. Reinstall nvidia-container-toolkit-base."
    there = sh("{ command -v nvidia-ctk >/dev/null || { echo {}; false; }; }", missing)
    folder = str(PurePosixPath(path).parent)
    return sh("{ {} && mkdir -p {} && nvidia-ctk --quiet cdi generate --output={}; }", there, folder, path)


def cdi_warnings(facts: HostFacts) -> list[Problem]:
    """Return a warning for each spec that is wrong, or in use, and that nothing refreshes; and for conflicts."""
    target = paths.CDI_LASTING if renewal(facts) and paths.CDI_LASTING in in_use(facts) else ""
    left = {path: why for path, why in stale(facts).items() if path not in (target, paths.CDI_REFRESHED)}
    wrong = [outdated(path, why) for path, why in left.items()]
    lasting = [unrefreshed(path) for path in sorted(kept_by_hand(facts) - left.keys())]
    return [*map(conflict, conflicts(named(facts), facts)), *wrong, *lasting]


def kept_by_hand(facts: HostFacts) -> set[str]:
    """Return the specs in /etc/cdi that GPUs are taken from, without the one that gpurack renews."""
    used = {found[0] for uuid in named(facts) if len(found := sources(uuid, facts)) == 1}
    return {path for path in used if path.startswith("/etc/") and path != paths.CDI_LASTING}


def cdi_obstacle(uuids: Collection[str], facts: HostFacts) -> Problem | None:
    """Return why a container with these GPUs would not start, where no renewal changes that; None if it would."""
    if found := conflicts(device_names(uuids, facts), facts):
        return conflict(found[0])
    if curable(facts):
        return None
    taken = {path for uuid in uuids for path in sources(uuid, facts)}
    return next((outdated(path, why) for path, why in in_use(facts).items() if path in taken), None)


def conflict(paths: tuple[str, ...]) -> Problem:
    """Return the problem of specs that name the same GPU."""
    return Problem.of("cdi-specs-conflict", files=" and ".join(paths))


def unrefreshed(path: str) -> Problem:
    """Return the problem of a spec that fits the host, and will not after the next change of the driver."""
    return Problem.of("cdi-spec-unrefreshed", file=path, command=sh("rm {}", path))


def outdated(path: str, why: str) -> Problem:
    """Return the problem of a spec that nothing refreshes."""
    return Problem.of("cdi-spec-stale", file=path, why=why, command=sh("rm {}", path))
