"""What is wrong with the GPUs of a host and their driver, before a model is stopped for it. Pure.

Only what the host itself proves is here: the kernel's log, the versions of what is installed, the state of units.
Sources: NVIDIA's README (kernel_open.html) for which GPUs need which module; NVIDIA's open kernel modules (osapi.c,
nv-pci.c) for the sentences in the log; NVIDIA's fabric manager user guide for NVSwitch machines.
"""

import re
from collections.abc import Iterator

from gpurack.facts.gpus import Gpu, Module, Xid
from gpurack.facts.model import HostFacts
from gpurack.facts.nvidia import bus_address
from gpurack.plan.models.ledger import assign
from gpurack.plan.packages.base import upstream
from gpurack.plan.system.cdi_specs import cdi_warnings
from gpurack.plan.system.defects import defect_warnings
from gpurack.plan.system.gpu_access import access
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem

FABRIC_UNIT = "nvidia-fabricmanager.service"
SOON = "It takes some minutes after a boot. If it stays: journalctl -u nvidia-fabricmanager -n 30."
NEEDS_OPEN = "Grace Hopper, Blackwell and newer GPUs need the open kernel module"
NEEDS_PROPRIETARY = "GPUs older than Turing need the proprietary kernel module, of branch 580 at most"
OPEN_FROM, OPEN_ONLY_FROM = (7, 5), (10, 0)
"""Compute capabilities: the open module supports Turing and newer, the proprietary one nothing from Blackwell on."""
GRACE_HOPPER = "GH200"
"""In the name of Grace Hopper's GPU, which needs the open module also. Its compute capability is Hopper's."""
APT, RENAMED = ("debian", "ubuntu"), 580
"""Systems with apt, and the branch from which on NVIDIA's repositories have the fabric manager without its branch."""
LOG = (
    ("requires use of the NVIDIA open kernel modules", NEEDS_OPEN, "the open kernel module (nvidia-open)"),
    ("is not supported by open", NEEDS_PROPRIETARY, "the proprietary kernel module (branch 580)"),
    ("is not supported by the", "the driver's branch does not support a GPU", "a branch that supports it"),
    ("legacy GPU", "the driver's branch no longer supports a GPU", "an older branch"),
)
"""Sentences of the kernel's log → the cause, and what to install."""
FOR_GUESTS = re.compile(r"vfio|^pci-stub$|^(xen-)?pciback$")
"""In the names of kernel drivers that keep a device for virtual machines: vfio-pci, nvgrace-gpu-vfio-pci."""
PROHIBITED, EXCLUSIVE = "Prohibited", "Exclusive_Process"
"""The compute modes in which the driver lets no program, and only one process, compute."""
SLOWED = {0x08: "hardware slowdown", 0x40: "thermal slowdown", 0x80: "power brake"}
"""Bits of the throttle reasons that mean a fault. (4, the power cap, is normal under load.)"""

MEMORY_XIDS = {
    48: "an uncorrectable memory error",
    95: "an uncontained memory error",
    140: "an unrecoverable memory error",
}
"""Xids after which NVIDIA says to reset the GPU, though it still answers (docs.nvidia.com/deploy/xid-errors).

A reset shows in the memory errors since then, which begin at 0.
"""
RESET_XIDS = {
    62: "a halt of its power controller",
    64: "a bad part of its memory that could not be retired",
    74: "an NVLink error",
    109: "a context switch that timed out",
    119: "a time-out of its firmware (GSP)",
    120: "an error of its firmware (GSP)",
    136: "an NVLink that could not be trained",
    143: "a failed initialization",
    156: "a resource that was retired",
    158: "a fatal time-out",
}
"""Others after which NVIDIA says to reset it. 13, 31, 43, 63, 92, 94 and 137 need no reset. For those of NVLink 5 (144
to 150) it has a procedure, and the word Fatal in them decides."""
RECOVERY_ACTION = 154
"""The Xid with which the driver says itself what the GPU needs."""


def gpu_errors(spec: Host, facts: HostFacts) -> list[Problem]:
    """Return what makes a host DEGRADED: GPUs that cannot be used now, or not after the next reboot.

    Nothing for a host whose inventory uses no GPU.
    """
    if not uses_gpus(spec):
        return []
    return [
        *broken(facts),
        *without_driver(facts),
        *wrong_module(facts),
        *next_kernel(facts),
        *([problem] if (problem := fabric(facts)) else []),
        *prohibited(facts),
        *(Problem.of("gpu-unhealthy", gpu=index, what=what) for index, what in unhealthy(facts, lasting=True)),
    ]


def gpu_warnings(spec: Host, facts: HostFacts) -> list[Problem]:
    """Return what a run warns of: the errors above, and GPUs that work less well than they could."""
    if not uses_gpus(spec):
        return []
    specs = cdi_warnings(facts) if access(spec, facts) == "cdi" and facts.has_nvidia else []
    defects = defect_warnings(spec, facts) if facts.has_nvidia else ()
    slow = (Problem.of("gpu-unhealthy", gpu=index, what=what) for index, what in unhealthy(facts, lasting=False))
    return [*gpu_errors(spec, facts), *specs, *defects, *slow, *unshareable(spec, facts)]


def unshareable(spec: Host, facts: HostFacts) -> Iterator[Problem]:
    """Yield a problem for each GPU that several entries share and whose compute mode lets only one process on it."""
    exclusive = {gpu.uuid for gpu in facts.gpus if gpu.details.compute_mode == EXCLUSIVE and not gpu.mig}
    if not exclusive:
        return
    ledger = assign(spec, facts)
    for slot in ledger.slots:
        names = ledger.entries_on(slot)
        if slot.uuid in exclusive and len(names) > 1:
            effect = f"only one of {', '.join(names)} can start on it"
            yield Problem.of("gpu-compute-mode", gpu=slot.index, mode=EXCLUSIVE, effect=effect)


def prohibited(facts: HostFacts) -> Iterator[Problem]:
    """Yield a problem for each GPU whose compute mode lets nothing on it."""
    for gpu in facts.gpus:
        if gpu.details.compute_mode == PROHIBITED and not (gpu.parent or gpu.fault):
            yield Problem.of("gpu-compute-mode", gpu=gpu.index, mode=PROHIBITED, effect="nothing can start on it")


def uses_gpus(spec: Host) -> bool:
    """Does an enabled entry of the host have GPUs?"""
    return any(entry.enabled and entry.gpus for entry in spec.everything.values())


def broken(facts: HostFacts) -> Iterator[Problem]:
    """Yield a problem for each GPU on which nothing can start."""
    for gpu in facts.gpus:
        if gpu.fault:
            yield Problem.of("gpu-broken", gpu=gpu.index, uuid=gpu.uuid, fault=gpu.fault, hint="")


def without_driver(facts: HostFacts) -> Iterator[Problem]:
    """Yield a problem for NVIDIA GPUs on the bus that no driver has. Those given to a VM are left out."""
    lost = {address: gpu for address, gpu in facts.driver.without_driver.items() if not FOR_GUESTS.search(gpu.driver)}
    of_bus = [(address, lost[address]) for address in sorted(lost)]
    no_driver = "no driver, while nouveau is loaded" if facts.driver.nouveau else "no driver"
    for driver in sorted({gpu.driver for gpu in lost.values()}):
        places = ", ".join(f"{address} (10de:{gpu.device[2:]})" for address, gpu in of_bus if gpu.driver == driver)
        if driver == "nouveau":
            yield Problem.of("nouveau-has-gpus", places=places)
        else:
            yield Problem.of("gpus-without-driver", places=places, driver=driver or no_driver)


def wrong_module(facts: HostFacts) -> Iterator[Problem]:
    """Yield a problem if the kernel's log says that the loaded module does not support a GPU that does not answer."""
    count = sum(not gpu.parent for gpu in facts.gpus)
    if count >= max(1, len(facts.driver.bus)):
        return
    for part, cause, install in LOG:
        said = next((line for line in facts.driver.log if part in line), None)
        if said:
            yield Problem.of("module-refuses-gpu", said=said.rstrip("."), cause=cause, install=install)
            return


def next_kernel(facts: HostFacts) -> Iterator[Problem]:
    """Yield a problem if the newest kernel, which boots next, would come up without the GPUs."""
    driver, kernel = facts.driver, facts.driver.newest
    if not kernel or not driver.kernel:
        return
    module = driver.modules[kernel]
    if module is None:
        # a host whose running kernel has no module file either loads it in another way
        if driver.modules.get(driver.running):
            yield Problem.of("kernel-without-module", kernel=kernel, command=sh("dkms autoinstall -k {}", kernel))
        return
    if driver.library and module.version and module.version != driver.library:
        told = {"kernel": kernel, "module": module.version, "library": driver.library}
        yield Problem.of("kernel-with-other-module", **told)
    if driver.secure_boot and module.version and not module.signer:
        yield Problem.of("module-not-signed", kernel=kernel)
    if why := unsupported(module, facts):
        yield Problem.of("kernel-with-wrong-module", kernel=kernel, why=why)


def unsupported(module: Module, facts: HostFacts) -> str:
    """Return why a module of this kind supports not all of the host's GPUs; "" if it does, or if that is unknown."""
    known = [gpu for gpu in facts.gpus if gpu.vendor == "nvidia" and gpu.compute[:1].isdigit()]
    newest = any(capability(gpu.compute) >= OPEN_ONLY_FROM or GRACE_HOPPER in gpu.name for gpu in known)
    if module.open is False and newest:
        return NEEDS_OPEN
    if module.open and any(capability(gpu.compute) < OPEN_FROM for gpu in known):
        return NEEDS_PROPRIETARY
    return ""


def capability(text: str) -> tuple[int, int]:
    """Return a compute capability as numbers.

    >>> capability("12.1"), capability("9")
    ((12, 1), (9, 0))
    """
    major, _, minor = text.partition(".")
    return int(major) if major.isdecimal() else 0, int(minor) if minor.isdecimal() else 0


def fabric(facts: HostFacts, certain: bool = False) -> Problem | None:
    """Return why CUDA fails with error 802 on a machine with NVSwitches; None if its fabric works or is unknown.

    Machines without switches of their own (a VM of such a machine, GB200) need no fabric manager. The state of GPUs in
    MIG mode says nothing, because they use no NVLink. certain: leave out what nvidia-smi says of the fabric of B200 and
    B300, which was never seen on a real machine.
    """
    driver = facts.driver
    linked = [gpu.details for gpu in facts.gpus if not (gpu.mig or gpu.parent)]
    states = {one.fabric_state for one in linked if one.fabric_state}
    failed = {one.fabric_status for one in linked if one.fabric_state == "Completed"} - {"", "Success"}
    if not (driver.switches or driver.nvlink5) or (states == {"Completed"} and not failed):
        return None
    unit, version = facts.units.get(FABRIC_UNIT), manager_version(facts)
    start = f"systemctl enable --now {FABRIC_UNIT.removesuffix('.service')}"
    if version and driver.kernel and version != driver.kernel:
        what = f"the fabric manager is {version}, but the driver is {driver.kernel}; they must be equal"
        hint = f"Install {manager_wanted(facts)}, then run `systemctl restart nvidia-fabricmanager`."
    elif unit is None or unit.loaded == "not-found":
        what = "the fabric manager is not installed"
        hint = f"Install {manager_wanted(facts)}"
        hint += f"{' with nvlsm and infiniband-diags' if driver.nvlink5 else ''}, then run `{start}`."
    elif unit.active == "activating":
        what, hint = "the fabric manager is starting", SOON
    elif unit.active != "active":
        failure = unit.active == "failed"
        what = "the fabric manager has failed" if failure else f"the fabric manager is {unit.active or 'stopped'}"
        masked = "systemctl unmask nvidia-fabricmanager && " if unit.loaded == "masked" else ""
        hint = f"Run `{masked}{start}`. If it fails: journalctl -u nvidia-fabricmanager -n 30."
    elif certain and not driver.switches:
        return None
    elif failed:
        what = f"the NVLink fabric failed: {', '.join(sorted(failed))}"
        hint = "See journalctl -u nvidia-fabricmanager -n 30 and /var/log/fabricmanager.log."
    elif states:
        what = f"the NVLink fabric is {', '.join(sorted(states)).lower()}"
        hint = SOON
    else:
        return None
    return Problem.of("fabric-not-ready", what=what, hint=hint)


def managers(facts: HostFacts) -> list[str]:
    """Return the installed packages of the fabric manager."""
    names = ("nvidia-fabricmanager", "nvidia-fabric-manager")
    return [name for name, one in facts.packages.items() if one.whole and name.startswith(names) and "-dev" not in name]


def manager_version(facts: HostFacts) -> str:
    """Return upstream's version of the installed fabric manager; "" if no package of it is installed.

    Of several packages (an old branch's may be left) the driver's counts.
    """
    found = [upstream(facts.packages[name].version) for name in managers(facts)]
    return facts.driver.kernel if facts.driver.kernel in found else next(iter(found), "")


def manager_wanted(facts: HostFacts) -> str:
    """Return package and version of the fabric manager for the loaded driver.

    Ubuntu's archive has one for each branch, and names no `-server` in it, though it fits the -server drivers only.
    NVIDIA's repositories have one name from 580 on; before, apt had the branch in it, and rpm another spelling.
    """
    version = facts.driver.kernel
    branch = version.partition(".")[0]
    of_branch, newer = f"nvidia-fabricmanager-{branch}", branch.isdecimal() and int(branch) >= RENAMED
    if facts.os.id not in APT:
        return f"{'nvidia-fabricmanager' if newer else 'nvidia-fabric-manager'} {version}"
    # an installed one shows where it came from, as do the packages of Ubuntu's drivers
    names = [*managers(facts), *(name for name in facts.packages if re.fullmatch(r".*-\d{3}-server(-open)?", name))]
    if not newer or (names and re.search(r"-\d{3}(-|$)", names[0])):
        return f"{of_branch} {version}"
    unsure = f" (in Ubuntu's archive: {of_branch})" if facts.os.id == "ubuntu" and not names else ""
    return f"nvidia-fabricmanager {version}{unsure}"


def unhealthy(facts: HostFacts, lasting: bool) -> Iterator[tuple[int, str]]:
    """Yield (index, what is wrong) of GPUs.

    lasting: faults of the hardware that stay; else what a reset, cooling or another slot can change.
    """
    for gpu in facts.gpus:
        state = gpu.details
        if gpu.parent or gpu.fault:
            continue
        if lasting:
            if state.remap_failed:
                yield gpu.index, "could not remap a bad row of its memory; it has to be replaced"
            elif xid := pending_xid(gpu, facts):
                yield gpu.index, f"{xid_text(xid)}. {cure(xid, gpu)}"
            continue
        if xid := doubtful_xid(gpu, facts):
            yield gpu.index, f"{xid_text(xid)}. The driver requires no reset now"
        if (xid := fatal_link(gpu, facts)) and not pending_xid(gpu, facts):
            yield gpu.index, f"{xid_text(xid)}. Check `nvidia-smi nvlink -s` and `dmesg | grep -i xid`"
        if state.remap_pending:
            yield gpu.index, "remaps a bad row of its memory at the next reset (`nvidia-smi -r`) or reboot"
        if state.ecc_errors and not pending_xid(gpu, facts):
            yield gpu.index, f"had {state.ecc_errors} uncorrected memory errors since the driver was loaded"
        if state.reset_required and not pending_xid(gpu, facts):
            yield gpu.index, "asks for a reset (`nvidia-smi -r`, while nothing uses it)"
        if slowed := [word for bit, word in SLOWED.items() if (state.throttle or 0) & bit]:
            yield gpu.index, f"is slowed down now: {', '.join(slowed)}"
        # a GPU with a direct link to the CPU (GB10, GH200, GB200) uses its PCIe link for little else than its start
        linked = gpu.unified or state.addressing == "ATS"
        if state.width and state.width_max and state.width < state.width_max and not linked:
            yield gpu.index, f"uses {state.width} of {state.width_max} PCIe lanes"


def pending_xid(gpu: Gpu, facts: HostFacts) -> Xid | None:
    """Return the Xid after which a GPU that still answers has to be reset; None if there is none, or if it was reset.

    The log is of this boot. A driver that knows Xid 154 (recovery action) takes it back by another one. For others, the
    memory errors since the last reset and the driver's own word (reset_required) tell whether it was reset.
    """
    action, later = since_recovery(gpu, facts)
    if action and action.action != "None":
        return action
    memory = [xid for xid in later if xid.number in MEMORY_XIDS and gpu.details.ecc_errors != 0]
    others = [xid for xid in later if xid.number in RESET_XIDS and gpu.details.reset_required is not False]
    return max([*memory, *others], key=later.index, default=None)


def doubtful_xid(gpu: Gpu, facts: HostFacts) -> Xid | None:
    """Return the last Xid after which NVIDIA says to reset the GPU, while its driver says that it needs none."""
    found = [xid for xid in since_recovery(gpu, facts)[1] if xid.number in RESET_XIDS]
    return found[-1] if found and gpu.details.reset_required is False and not pending_xid(gpu, facts) else None


def fatal_link(gpu: Gpu, facts: HostFacts) -> Xid | None:
    """Return the last fatal Xid of NVLink 5 since the driver's last word. Only that word tells what the GPU needs."""
    action, later = since_recovery(gpu, facts)
    found = [xid for xid in later if xid.fatal]
    return found[-1] if found and (action is None or action.action == "None") else None


def since_recovery(gpu: Gpu, facts: HostFacts) -> tuple[Xid | None, list[Xid]]:
    """Return the driver's last word on what the GPU needs (None if it said nothing), and the GPU's Xids since then."""
    address = bus_address(gpu.pci)
    mine = [xid for xid in facts.driver.xids if address and xid.pci == address]
    actions = [at for at, xid in enumerate(mine) if xid.number == RECOVERY_ACTION and xid.action]
    return (mine[actions[-1]], mine[actions[-1] + 1 :]) if actions else (None, mine)


def xid_text(xid: Xid) -> str:
    """Return `had an uncorrectable memory error (Xid 48, 2026-11-20 02:11)`."""
    when = f", {xid.time:%Y-%m-%d %H:%M}" if xid.time else ""
    if xid.number == RECOVERY_ACTION:
        return f"asks for the recovery action `{xid.action}` (Xid {xid.number}{when})"
    what = "a fatal error of NVLink 5" if xid.fatal else (MEMORY_XIDS | RESET_XIDS)[xid.number]
    return f"had {what} (Xid {xid.number}{when})"


def cure(xid: Xid, gpu: Gpu) -> str:
    """Return what to do after an Xid. The driver's own word may be that only a reboot helps."""
    if "reboot" in xid.action.lower():
        return "Reboot the host"
    return f"Stop what uses it, then run `nvidia-smi -r -i {gpu.index}` or reboot"
