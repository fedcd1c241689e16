"""What is known of a card by its name, for plans made without a look at the host.

Memory is what the driver reports as total, in GiB (an A30 of "24 GB" has 24576 MiB); compute is NVIDIA's compute
capability (developer.nvidia.com/cuda-gpus). A card of AMD's that is two (MI250X) is two here, of half the memory. On
the host the driver says it all; this table only has to be close.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Card:
    """memory in GiB; compute capability, None for AMD's cards."""

    memory: float
    compute: str | None

    @property
    def vendor(self) -> Literal["nvidia", "amd"]:
        """Who makes it."""
        return "nvidia" if self.compute else "amd"


CARDS = {
    "A10": Card(22.5, "8.6"), "A16": Card(15.0, "8.6"), "A30": Card(24.0, "8.0"), "A40": Card(45.0, "8.6"),
    "A100 40GB": Card(40.0, "8.0"), "A100 80GB": Card(80.0, "8.0"), "A800": Card(80.0, "8.0"),
    "H100": Card(79.6, "9.0"), "H200": Card(140.4, "9.0"), "H20": Card(95.6, "9.0"), "B200": Card(179.1, "10.0"),
    "L4": Card(22.5, "8.9"), "L40": Card(45.0, "8.9"), "L40S": Card(45.0, "8.9"),
    "RTX 2080 Ti": Card(11.0, "7.5"), "RTX 3090": Card(24.0, "8.6"), "RTX 4080": Card(16.0, "8.9"),
    "RTX 4090": Card(24.0, "8.9"), "RTX 5090": Card(31.8, "12.0"), "RTX A4000": Card(16.0, "8.6"),
    "RTX A5000": Card(24.0, "8.6"), "RTX A6000": Card(48.0, "8.6"), "RTX 6000 Ada": Card(48.0, "8.9"),
    "T4": Card(15.0, "7.5"), "P40": Card(22.5, "6.1"), "P100": Card(16.0, "6.0"),
    "V100 16GB": Card(16.0, "7.0"), "V100 32GB": Card(32.0, "7.0"),
    "MI100": Card(32.0, None), "MI210": Card(64.0, None), "MI250X": Card(64.0, None), "MI300X": Card(192.0, None),
    "MI325X": Card(256.0, None), "MI355X": Card(288.0, None), "RX 7900 XTX": Card(24.0, None),
    "RX 9070 XT": Card(16.0, None), "PRO W7900": Card(48.0, None), "AI PRO R9700": Card(32.0, None),
}  # fmt: skip
