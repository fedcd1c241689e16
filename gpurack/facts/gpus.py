"""The observed GPUs and NVIDIA driver of a host, typed. Unknown values are None or "", never 0."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

MISMATCH = 18
"""Exit code of nvidia-smi when the kernel module and the libraries have different versions."""


@dataclass(frozen=True)
class Details:
    """What NVIDIA's driver says about the condition of a GPU. None or "": unknown, or the GPU does not have it.

    persistence: persistence mode. compute_mode: "Default", "Exclusive_Process". width, width_max: PCIe lanes in use and
    possible. power_limit, power_default: watts. ecc: is ECC on? ecc_errors: uncorrected errors since the driver was
    loaded. reset_required: does it compute again only after a reset? throttle: bits of clocks_event_reasons.active.
    remap_pending, remap_failed: row remapping waits for a reset, or failed. fabric_state: NVLink fabric ("Completed",
    "In Progress"), "" without one. fabric_status: the fabric's own error text. addressing: "HMM", "ATS".
    """

    persistence: bool | None = None
    compute_mode: str = ""
    width: int | None = None
    width_max: int | None = None
    power_limit: float | None = None
    power_default: float | None = None
    ecc: bool | None = None
    ecc_errors: int | None = None
    reset_required: bool | None = None
    throttle: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    fabric_state: str = ""
    fabric_status: str = ""
    addressing: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver lists.

    memory_total, memory_used: MiB. utilization: percent. temperature: °C. Each is None if unknown.

    uuid: NVIDIA's UUID, with or without "GPU-". For AMD it is the unique id as ROCm writes it (GPU-9e1c0f6a5b7d2c34),
    or the PCI address of a GPU without one. compute: NVIDIA's compute capability. node: the render node of an AMD GPU,
    "" for NVIDIA. gid: the group that may open the node.

    fault: why no model may start on it ("requires reset"), "" if it works. unified: does it share the host's memory
    instead of having its own? mig: is it in MIG mode, so that only its instances compute? parent: for a MIG instance
    the UUID of its GPU; index is then -1.
    """

    index: int
    uuid: str
    name: str
    memory_total: int | None
    memory_used: int | None
    driver: str
    compute: str
    pci: str
    utilization: int | None = None
    vendor: Literal["nvidia", "amd"] = "nvidia"
    node: str = ""
    gid: int = 0
    fault: str = ""
    unified: bool = False
    mig: bool = False
    parent: str = ""
    details: Details = Details()
    temperature: int | None = None


@dataclass(frozen=True)
class Xid:
    """A GPU error in the kernel's log: its PCI address ("0000:e1:00"), NVIDIA's number, and its time.

    number: 79 also for a GPU that the log only says has fallen off the bus. action: of Xid 154, what the driver says
    that the GPU needs; "None" for nothing. fatal: does an Xid of NVLink 5 (144 to 150) call itself fatal?
    """

    pci: str
    number: int
    time: datetime | None
    action: str = ""
    fatal: bool = False


@dataclass(frozen=True)
class Module:
    """NVIDIA's kernel module as it is installed for one kernel.

    name: "nvidia", "nvidia-current" (Debian). version: "" if unknown. open: is it the open one? None if unknown.
    signer: who signed it, "" if unsigned or unknown.
    """

    name: str
    version: str = ""
    open: bool | None = None
    signer: str = ""


@dataclass(frozen=True)
class PciGpu:
    """An NVIDIA GPU on the PCI bus. device: "0x20b5". driver: the kernel driver that has it, "" if none."""

    device: str
    driver: str = ""


@dataclass(frozen=True)
class CdiSpec:
    """A CDI spec for NVIDIA's GPUs.

    nodes: device node in the spec → (major, minor), None where the spec has no number. gone: nodes and files of the
    host that the spec names and that do not exist. kind: "nvidia.com/gpu". devices: the names of its devices.
    """

    nodes: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    kind: str = ""
    devices: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver and what it depends on.

    kernel: the version of the loaded module, "" if none is loaded. exit_code, message: the error of nvidia-smi (9: no
    driver, 14: a damaged infoROM, 15: a GPU is lost, 18: driver and library differ). pci: every GPU that the kernel
    knows, PCI address → UUID, "" for one that it has not initialised. xids: the kernel's GPU errors, oldest first. log:
    the driver's other errors in the kernel's log.

    open: is the loaded module the open one? None if unknown. library: the version of libnvidia-ml on disk, "" if
    unknown. running: the running kernel. modules: installed kernel → its NVIDIA module, None if it has none.
    secure_boot: None if unknown. bus: NVIDIA GPUs on the PCI bus, by address. nouveau: is nouveau loaded? switches: the
    number of NVSwitches on the bus. nvlink5: does the host have the switches of HGX B200 or B300? platform: "jetson" or
    "wsl", else "". nodes: device node → (major, minor). majors: name in /proc/devices → major. specs: CDI specs by
    path.
    """

    kernel: str = ""
    exit_code: int = 0
    message: str = ""
    pci: Mapping[str, str] = field(default_factory=dict)
    xids: tuple[Xid, ...] = ()
    log: tuple[str, ...] = ()
    open: bool | None = None
    library: str = ""
    running: str = ""
    modules: Mapping[str, Module | None] = field(default_factory=dict)
    secure_boot: bool | None = None
    bus: Mapping[str, PciGpu] = field(default_factory=dict)
    nouveau: bool = False
    switches: int = 0
    nvlink5: bool = False
    platform: Literal["", "jetson", "wsl"] = ""
    nodes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    majors: Mapping[str, int] = field(default_factory=dict)
    specs: Mapping[str, CdiSpec] = field(default_factory=dict)

    @property
    def newest(self) -> str:
        """The newest installed kernel, which boots next unless the boot loader is set otherwise; "" if unknown.

        Kernels of another flavour than the running one (+debug, rt, cloud) are left out: the boot loader's settings
        decide between flavours.
        """
        mine = flavour(self.running)
        known = [kernel for kernel in self.modules if not self.running or flavour(kernel) == mine]
        return max(known, key=by_version, default="")

    @property
    def without_driver(self) -> dict[str, PciGpu]:
        """The NVIDIA GPUs on the PCI bus that no driver of NVIDIA's has. (nvidiafb is the kernel's own.)"""
        theirs = re.compile(r"nvidia(?!fb)")
        return {address: gpu for address, gpu in self.bus.items() if not theirs.match(gpu.driver)}


def by_version(kernel: str) -> list[tuple[int, str]]:
    """Return a key that sorts kernels by version: numbers as numbers.

    >>> max(["6.8.0-9-generic", "6.8.0-45-generic"], key=by_version)
    '6.8.0-45-generic'
    """
    words = "".join(letter if letter.isalnum() else " " for letter in kernel).split()
    return [(int(word), "") if word.isascii() and word.isdigit() else (-1, word) for word in words]


def flavour(kernel: str) -> list[str]:
    """Return the words of a kernel's name that are no version, distribution or release candidate.

    >>> flavour("6.8.0-45-generic"), flavour("5.14.0-570.el9_6.x86_64+debug"), flavour("6.12.48+deb13-cloud-amd64")
    (['generic'], ['x86', 'debug'], ['cloud', 'amd64'])
    """
    words = re.split(r"[^a-z0-9]+", kernel.lower())
    plain = (re.sub(r"^((el|fc|deb|amzn|rc|arch|lp)\d+|bpo\d*)", "", word) for word in words)
    return [word for word in plain if word and not word.isdigit()]


@dataclass(frozen=True)
class GpuProcess:
    """A process that uses GPU memory (in MiB, None if unknown).

    container: the id of its container, or "". whose: the uid whose cgroup slice contains the process. That user can
    choose the names of cgroups, so `container` counts only for that user's containers. None if the process is in no
    user's slice.
    """

    uuid: str
    pid: int
    name: str
    memory: int | None
    user: str
    container: str = ""
    whose: int | None = None
