"""One GPU of a host, and a table of the kinds of GPUs. Types only, no rules."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from gpurack.spec.host import Gpus, Host

Vendor = Literal["nvidia", "amd"]

PLACEHOLDER = "GPU-of-index-"
"""Prefix of the UUID of an imagined GPU."""
VISIBLE = ("ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
"""Variables that narrow the GPUs of a container, in the order in which they apply."""
SHARED = 0.95
"""The fraction of a GPU's memory that models may share. The rest is for the CUDA context of each process: vLLM
servers on one GPU fail above a sum of about 0.95."""
SYSTEM_RESERVE = 8.0
"""GiB of a host's memory that models on a GPU that shares it (GB10) leave to the system, its caches and Docker."""


DISCRETE = re.compile(r"GeForce|TITAN|Tesla|Quadro|GRID|vGPU|\b(RTX|CMP)\b|\b[ABHLPTV]\d{1,3}[A-Z]?\b|-\d+[A-Z]{1,3}$")
"""In the names of graphics cards, and of their virtual GPUs (A40-48Q)."""
CONSUMER = re.compile(r"GeForce|TITAN|\bGTX\b|\bRTX [2-9]0[5-9]0\b", re.IGNORECASE)


def is_consumer(name: str) -> bool:
    """Is it a GeForce or TITAN? False if unknown.

    Those alone certainly run no CUDA of a newer major version than their driver's (error 804). NVIDIA's CUDA
    compatibility guide supports that by a library in the image: on data-centre GPUs, and on some workstation GPUs.

    >>> [is_consumer(name) for name in ("NVIDIA GeForce RTX 4090", "RTX 3060", "NVIDIA TITAN V", "GTX 1080")]
    [True, True, True, True]
    >>> [is_consumer(name) for name in ("RTX 6000 Ada", "RTX A6000", "Quadro RTX 5000", "A30", "Tesla T4", "")]
    [False, False, False, False, False, False]
    """
    return bool(CONSUMER.search(name))


@dataclass(frozen=True)
class GpuSlot:
    """One GPU of a host, imagined from the inventory or seen by the snapshot.

    index: None if the inventory has only its UUID or PCI address. uuid: as in labels and containers; a placeholder if
    imagined. name: "A30", "NVIDIA A30", "" if unknown. compute: NVIDIA's compute capability. memory: GiB. reserved: by
    `reserved_gpus`, so gpurack does not use it.

    fault: why no model may start on it, "" if it works. system: GiB that models leave to the system, because the GPU
    shares the host's memory. mig: is it in MIG mode, so that only its instances compute? parent: for a MIG instance the
    UUID of its GPU.
    """

    index: int | None
    uuid: str
    name: str = ""
    vendor: Vendor = "nvidia"
    compute: str | None = None
    memory: float | None = None
    pci: str = ""
    reserved: bool = False
    fault: str = ""
    system: float = 0.0
    mig: bool = False
    parent: str = ""

    @property
    def label(self) -> str:
        """Its name in the inventory: the index, else UUID or PCI address."""
        return self.uuid if self.index is None else str(self.index)

    def __str__(self) -> str:
        """`GPU 0 (A30)`, `GPU-6f1c`."""
        gpu = self.label if self.label.startswith(("GPU-", "MIG-")) else f"GPU {self.label}"
        return f"{gpu} ({self.name})" if self.name else gpu

    @property
    def identified(self) -> str:
        """`GPU 3 (GPU-6f1c…)`, with the full UUID if it was seen, because indices change."""
        return str(self) if self.imagined else f"GPU {self.label} ({self.uuid})"

    @property
    def imagined(self) -> bool:
        """Is it from the inventory only, without a real UUID?"""
        return not self.parent and (self.index is None or self.uuid.startswith(PLACEHOLDER))

    @property
    def instance(self) -> bool:
        """Is it a MIG instance? Then it is for one process only."""
        return self.uuid.startswith("MIG-")

    def usable(self, models: int) -> float | None:
        """GiB that this number of models may use together: all for one, 95 % for several; less the system's."""
        if not self.memory:
            return self.memory
        return min(self.memory * (SHARED if models > 1 else 1), self.memory - self.system)


@dataclass(frozen=True)
class GpuKind:
    """A kind of GPU. memory: GiB. compute: NVIDIA's compute capability, "" if unknown, None for AMD.

    unified: does it share the host's memory? arm64: is it in machines with an arm64 CPU only?
    """

    memory: float
    compute: str | None
    unified: bool = False
    arm64: bool = False

    @property
    def vendor(self) -> Vendor:
        """The manufacturer: NVIDIA or AMD."""
        return "amd" if self.compute is None else "nvidia"


GPU_KINDS = {
    "A10": GpuKind(22.5, "8.6"), "A16": GpuKind(15.0, "8.6"), "A30": GpuKind(24.0, "8.0"), "A40": GpuKind(45.0, "8.6"),
    "A100 40GB": GpuKind(40.0, "8.0"), "A100 80GB": GpuKind(80.0, "8.0"), "A800": GpuKind(80.0, "8.0"),
    "H100": GpuKind(79.6, "9.0"), "H200": GpuKind(140.4, "9.0"), "H20": GpuKind(95.6, "9.0"),
    "B200": GpuKind(179.1, "10.0"), "L4": GpuKind(22.5, "8.9"), "L40": GpuKind(45.0, "8.9"),
    "L40S": GpuKind(45.0, "8.9"), "RTX 2080 Ti": GpuKind(11.0, "7.5"), "RTX 3090": GpuKind(24.0, "8.6"),
    "RTX 4080": GpuKind(16.0, "8.9"), "RTX 4090": GpuKind(24.0, "8.9"), "RTX 5090": GpuKind(31.8, "12.0"),
    "RTX A4000": GpuKind(16.0, "8.6"), "RTX A5000": GpuKind(24.0, "8.6"), "RTX A6000": GpuKind(48.0, "8.6"),
    "RTX 6000 Ada": GpuKind(48.0, "8.9"), "T4": GpuKind(15.0, "7.5"), "P40": GpuKind(22.5, "6.1"),
    "P100": GpuKind(16.0, "6.0"), "V100 16GB": GpuKind(16.0, "7.0"), "V100 32GB": GpuKind(32.0, "7.0"),
    "MI100": GpuKind(32.0, None), "MI210": GpuKind(64.0, None), "MI250X": GpuKind(64.0, None),
    "MI300X": GpuKind(192.0, None), "MI325X": GpuKind(256.0, None), "MI355X": GpuKind(288.0, None),
    "RX 7900 XTX": GpuKind(24.0, None), "RX 9070 XT": GpuKind(16.0, None), "PRO W7900": GpuKind(48.0, None),
    "AI PRO R9700": GpuKind(32.0, None),
    "GTX 1070": GpuKind(8.0, "6.1"), "RTX PRO 2000": GpuKind(15.9, "12.0"),
    "GB10": GpuKind(119.6, "12.1", unified=True, arm64=True), "Thor": GpuKind(122.8, "11.0", unified=True, arm64=True),
    "GH200": GpuKind(95.6, "9.0", arm64=True), "GB200": GpuKind(184.3, "10.0", arm64=True),
    "GB300": GpuKind(268.6, "10.3", arm64=True), "B300": GpuKind(268.6, "10.3"),
    "H100 NVL": GpuKind(93.6, "9.0"), "H800": GpuKind(79.6, "9.0"),
    "A2": GpuKind(15.0, "8.6"), "A10G": GpuKind(22.5, "8.6"), "L20": GpuKind(45.0, "8.9"),
    "RTX PRO 6000": GpuKind(95.6, "12.0"), "RTX PRO 5000": GpuKind(47.8, "12.0"),
    "RTX PRO 4500": GpuKind(31.8, "12.0"), "RTX PRO 4000": GpuKind(23.9, "12.0"),
    "RTX 5090 D": GpuKind(31.8, "12.0"), "RTX 5080": GpuKind(15.9, "12.0"), "RTX 5070 Ti": GpuKind(15.9, "12.0"),
    "RTX 5070": GpuKind(11.9, "12.0"), "RTX 5060 Ti": GpuKind(15.9, "12.0"), "RTX 5060": GpuKind(8.0, "12.0"),
    "RTX 4080 SUPER": GpuKind(16.0, "8.9"), "RTX 4070 Ti SUPER": GpuKind(16.0, "8.9"),
    "RTX 4070 Ti": GpuKind(12.0, "8.9"), "RTX 4070 SUPER": GpuKind(12.0, "8.9"), "RTX 4070": GpuKind(12.0, "8.9"),
    "RTX 4060 Ti": GpuKind(16.0, "8.9"), "RTX 4060": GpuKind(8.0, "8.9"), "RTX 3090 Ti": GpuKind(24.0, "8.6"),
    "RTX 3080 Ti": GpuKind(12.0, "8.6"), "RTX 3080": GpuKind(10.0, "8.6"), "RTX 3070 Ti": GpuKind(8.0, "8.6"),
    "RTX 3070": GpuKind(8.0, "8.6"), "RTX 3060 Ti": GpuKind(8.0, "8.6"), "RTX 3060": GpuKind(12.0, "8.6"),
    "RTX 5000 Ada": GpuKind(32.0, "8.9"), "RTX 4500 Ada": GpuKind(24.0, "8.9"), "RTX 4000 Ada": GpuKind(20.0, "8.9"),
    "RTX A5500": GpuKind(24.0, "8.6"), "RTX A4500": GpuKind(20.0, "8.6"), "RTX A2000 12GB": GpuKind(12.0, "8.6"),
    "RTX 8000": GpuKind(48.0, "7.5"), "RTX 2080": GpuKind(8.0, "7.5"), "TITAN RTX": GpuKind(24.0, "7.5"),
    "TITAN V": GpuKind(12.0, "7.0"), "GTX 1080 Ti": GpuKind(11.0, "6.1"), "P4": GpuKind(7.5, "6.1"),
    "H200 NVL": GpuKind(140.4, "9.0"), "V100S": GpuKind(32.0, "7.0"), "RTX 2000 Ada": GpuKind(16.0, "8.9"),
    "Quadro RTX 6000": GpuKind(24.0, "7.5"), "RTX 5050": GpuKind(8.0, "12.0"), "RTX 3050": GpuKind(8.0, "8.6"),
    "RTX 2080 SUPER": GpuKind(8.0, "7.5"), "RTX 2070 SUPER": GpuKind(8.0, "7.5"), "RTX 2070": GpuKind(8.0, "7.5"),
    "RTX 2060 SUPER": GpuKind(8.0, "7.5"), "RTX 2060": GpuKind(6.0, "7.5"), "GTX 1660": GpuKind(6.0, "7.5"),
    "GTX 1080": GpuKind(8.0, "6.1"), "TITAN Xp": GpuKind(12.0, "6.1"), "MI350X": GpuKind(288.0, None),
    "RX 7900 XT": GpuKind(20.0, None),
}  # fmt: skip
"""Kinds of GPUs by their name in `hardware`, for plans made without a connection.

Memory is the driver's total in GiB (an A30 of "24 GB" has 24576 MiB). Source of the compute capabilities:
developer.nvidia.com/cuda-gpus. An MI250X counts as two GPUs, each with half its memory. The values only have to be
close, because a run uses those of the driver.
"""


def is_named(kind: str, seen: str) -> bool:
    """Is a driver's name one of this kind of `hardware`? Names are compared word by word.

    >>> is_named("A100 80GB", "NVIDIA A100-SXM4-80GB"), is_named("L4", "NVIDIA L40S")
    (True, False)
    """
    expected, words = (set(re.findall("[a-z0-9]+", name.lower())) for name in (kind, seen))
    return expected <= words


def has_own_memory(name: str) -> bool:
    """Is it certain by its name that a GPU does not share the host's memory?

    >>> [has_own_memory(name) for name in ("NVIDIA GeForce RTX 3090", "Tesla K80", "NVIDIA A40-48Q", "NVIDIA A30")]
    [True, True, True, True]
    >>> [has_own_memory(name) for name in ("NVIDIA GB10", "NVIDIA Thor", "NVIDIA N1X", "")]
    [False, False, False, False]
    """
    kinds = (kind for kind, one in GPU_KINDS.items() if not one.unified)
    return bool(DISCRETE.search(name)) or any(is_named(kind, name) for kind in kinds)


def hardware(spec: Host) -> list[str]:
    """The names of a host's GPUs by index, from `hardware: {"A30": 4}`; [] without `hardware`."""
    return [name for name, gpus in spec.hardware.items() for _ in range(count_of(gpus))]


def count_of(gpus: int | Gpus) -> int:
    """The number of GPUs of one kind in `hardware`."""
    return gpus.count if isinstance(gpus, Gpus) else gpus


def kind_of(name: str, spec: Host) -> GpuKind | None:
    """The kind of a GPU in `hardware`, with the memory that is written there; None if nothing is known of it."""
    kind, gpus = GPU_KINDS.get(name), spec.hardware.get(name)
    if not isinstance(gpus, Gpus):
        return kind
    return replace(kind or GpuKind(gpus.gib, ""), memory=gpus.gib)
