"""One GPU of a host, and a table of the kinds of GPUs. Types only, no rules."""

from dataclasses import dataclass
from typing import Literal

from gpurack.spec.host import Host

Vendor = Literal["nvidia", "amd"]

PLACEHOLDER = "GPU-of-index-"
"""Prefix of the UUID of an imagined GPU."""
SHARED = 0.95
"""The fraction of a GPU's memory that models may share. The rest is for the CUDA context of each process: vLLM
servers on one GPU fail above a sum of about 0.95."""


@dataclass(frozen=True)
class GpuSlot:
    """One GPU of a host, imagined from the inventory or seen by the snapshot.

    index: None if the inventory has only its UUID or PCI address. uuid: as in labels and containers; a placeholder if
    imagined. name: "A30", "NVIDIA A30", "" if unknown. compute: NVIDIA's compute capability. memory: GiB. reserved: by
    `reserved_gpus`, so gpurack does not use it.
    """

    index: int | None
    uuid: str
    name: str = ""
    vendor: Vendor = "nvidia"
    compute: str | None = None
    memory: float | None = None
    pci: str = ""
    reserved: bool = False

    @property
    def label(self) -> str:
        """Its name in the inventory: the index, else UUID or PCI address."""
        return self.uuid if self.index is None else str(self.index)

    def __str__(self) -> str:
        """`GPU 0 (A30)`, `GPU-6f1c`."""
        gpu = self.label if self.label.startswith("GPU-") else f"GPU {self.label}"
        return f"{gpu} ({self.name})" if self.name else gpu

    @property
    def identified(self) -> str:
        """`GPU 3 (GPU-6f1c…)`, with the full UUID if it was seen, because indices change."""
        return str(self) if self.imagined else f"GPU {self.label} ({self.uuid})"

    @property
    def imagined(self) -> bool:
        """Is it from the inventory only, without a real UUID?"""
        return self.index is None or self.uuid.startswith(PLACEHOLDER)

    def usable(self, models: int) -> float | None:
        """GiB that this number of models may use together: all for one, 95 % for several."""
        return self.memory * SHARED if self.memory and models > 1 else self.memory


@dataclass(frozen=True)
class GpuKind:
    """A kind of GPU. memory: GiB. compute: NVIDIA's compute capability, None for AMD."""

    memory: float
    compute: str | None

    @property
    def vendor(self) -> Vendor:
        """The manufacturer: NVIDIA or AMD."""
        return "nvidia" if self.compute else "amd"


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
}  # fmt: skip
"""Kinds of GPUs by their name in `hardware`, for plans made without a connection.

Memory is the driver's total in GiB (an A30 of "24 GB" has 24576 MiB). Source of the compute capabilities:
developer.nvidia.com/cuda-gpus. An MI250X counts as two GPUs, each with half its memory. The values only have to be
close, because a run uses those of the driver.
"""


def hardware(spec: Host) -> list[str]:
    """The names of a host's GPUs by index, from `hardware: {"A30": 4}`; [] without `hardware`."""
    return [name for name, count in spec.hardware.items() for _ in range(count)]
