"""The simulated amdgpu driver of testbed hosts: what to put into a host's image, and the tests' hand on it.

A host built with `files()` and `UNITS` has three cards as the kernel shows them, in sysfs and /dev: two Instinct MI210,
known by unique ids, and a Radeon RX 7900 XTX that has none. What that proves and what not: docs/testing.md.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import gpu

_HERE = Path(__file__).resolve().parent / "files"
_AMDSIM = "/usr/lib/amdsim/amdsim"

#: The units to enable in the image (`systemctl enable`).
UNITS: tuple[str, ...] = ("amdsim-driver.service",)


def files() -> dict[str, tuple[Path, int]]:
    """What a host with AMD's cards has on disk: path on the host -> (source file, mode)."""
    gpusim = "/usr/lib/gpusim/gpusim"  # knows which devices can stand for cards
    return {
        _AMDSIM: (_HERE / "amdsim", 0o755),
        gpusim: gpu.files()[gpusim],
        "/usr/lib/systemd/system/amdsim-driver.service": (_HERE / "amdsim-driver.service", 0o644),
    }


@dataclass(frozen=True)
class Node:
    """A render node. number: the device's, as "10:229"; the node of one card keeps it whatever its name is."""

    name: str
    pci: str
    number: str
    gid: int


class SimulatedAmd:
    """Does to one host's simulated AMD cards what happens to real ones; a reboot undoes it but for `swap`."""

    def __init__(self, root_runner: Callable[[str], str]) -> None:
        """`root_runner` runs a line of shell as root on the host, returns its stdout, raises if it fails."""
        self._root = root_runner

    def _amdsim(self, *words: str) -> str:
        return self._root(shlex.join((_AMDSIM, *words))).strip()

    def nodes(self) -> list[Node]:
        """The render nodes in the order of the cards' PCI addresses, as the kernel has them."""
        look = (
            "cd /sys/class/drm; for n in renderD*; do echo $n $(basename $(readlink -f $n/device)) "
            "$(stat -c '%Hr:%Lr %g' /dev/dri/$n); done"
        )
        found = [line.split() for line in self._root(look).splitlines()]
        return sorted(
            (Node(name, pci, number, int(gid)) for name, pci, number, gid in found), key=lambda node: node.pci
        )

    def number(self, path: str) -> str:
        """A device's number, as "10:229"."""
        return self._root(f"stat -c %Hr:%Lr {shlex.quote(path)}").strip()

    def unique_ids(self) -> list[str]:
        """ROCm's UUIDs of the cards that have one, in the order of their PCI addresses."""
        text = self._root("cat /sys/class/kfd/kfd/topology/nodes/*/properties")
        return [f"GPU-{int(found):016x}" for found in re.findall(r"^unique_id ([1-9]\d*)", text, re.MULTILINE)]

    def swap(self, i: int, j: int) -> None:
        """Two cards exchange their render nodes' names, as a boot may do. What runs keeps the card it was given."""
        self._amdsim("swap", str(i), str(j))

    def lose(self, i: int) -> None:
        """Card `i` is gone from sysfs and /dev until the next boot."""
        self._amdsim("lose", str(i))

    def foreign(self, i: int, mib: int, process: str = "python") -> int:
        """A process of someone else's (a real one, with that name) holds `mib` MiB of card `i`; returns its pid."""
        return int(self._amdsim("foreign", str(i), str(mib), process))

    def late(self, seconds: float) -> None:
        """At the next boot (only that one) the driver appears `seconds` after systemd started."""
        self._amdsim("late", str(seconds))

    def reset(self) -> None:
        """Everything as on the first day."""
        self._amdsim("reset")
