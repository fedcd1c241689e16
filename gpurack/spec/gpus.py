"""GPUs as the inventory names them: what is known of each kind, and one slot of a host.

Types and a table, no rules.
"""

from dataclasses import dataclass
from typing import Literal

from gpurack.spec.host import Host

Vendor = Literal["nvidia", "amd"]

PLACEHOLDER = "GPU-of-index-"
"""How the UUID of an imagined GPU begins."""
SHARED = 0.95
"""Of a GPU's memory, what models that share it may have together: each process keeps a context of its own
(vLLM sharing a GPU needs a sum of fractions of at most about 0.95)."""


@dataclass(frozen=True)
class GpuSlot:
    """One GPU of a host, as the inventory imagines it or as the snapshot saw it.

    index: None for one that the inventory knows only by its UUID or PCI address. uuid: what labels and containers hold;
    a placeholder where it is imagined. name: "A30", "NVIDIA A30"; "" where nothing says. compute: NVIDIA's compute
    capability. memory in GiB. reserved: kept away from gpurack by `reserved_gpus`.
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
        """How the inventory names it: its index, else its UUID or PCI address."""
        return self.uuid if self.index is None else str(self.index)

    def __str__(self) -> str:
        """`GPU 0 (A30)`, `GPU-6f1c`."""
        gpu = self.label if self.label.startswith("GPU-") else f"GPU {self.label}"
        return f"{gpu} ({self.name})" if self.name else gpu

    @property
    def identified(self) -> str:
        """`GPU 3 (GPU-6f1c…)`, with all of its UUID where it was seen: indices change."""
        return str(self) if self.imagined else f"GPU {self.label} ({self.uuid})"

    @property
    def imagined(self) -> bool:
        """Has nobody seen its UUID?"""
        return self.index is None or self.uuid.startswith(PLACEHOLDER)

    def usable(self, models: int) -> float | None:
        """GiB that so many models may have of it: all of it for one, 95 % for several together."""
        return self.memory * SHARED if self.memory and models > 1 else self.memory


@dataclass(frozen=True)
class GpuKind:
    """memory in GiB; compute: NVIDIA's compute capability, None for AMD's GPUs."""

    memory: float
    compute: str | None

    @property
    def vendor(self) -> Vendor:
        """Who makes it."""
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
"""Kinds of GPUs by the name that `hardware` gives them, for plans made without a connection.

Memory is what the driver reports as total, in GiB (an A30 of "24 GB" has 24576 MiB); compute is NVIDIA's compute
capability (developer.nvidia.com/cuda-gpus). An MI250X is two GPUs here, each of half its memory. On the host the driver
says it all; this table only has to be close.
"""


def hardware(spec: Host) -> list[str]:
    """The names of a host's GPUs by index, from `hardware: {"A30": 4}`; [] when it does not say."""
    return [name for name, count in spec.hardware.items() for _ in range(count)]
