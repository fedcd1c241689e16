"""The simulated amdgpu driver of testbed hosts: the files of a host's image, and the control for tests.

A host built with `files()` and `UNITS` has three GPUs as the kernel shows them, in sysfs and /dev: two Instinct MI210
with unique ids, and a Radeon RX 7900 XTX without one. docs/testing.md says what that proves and what not.
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
    """The files of a host with AMD GPUs: path on the host -> (source file, mode)."""
    gpusim = "/usr/lib/gpusim/gpusim"  # knows which devices can represent GPUs
    return {
        _AMDSIM: (_HERE / "amdsim", 0o755),
        gpusim: gpu.files()[gpusim],
        "/usr/lib/systemd/system/amdsim-driver.service": (_HERE / "amdsim-driver.service", 0o644),
    }


@dataclass(frozen=True)
class Node:
    """A render node. number: the device's, such as "10:229"; a GPU keeps it whatever its node is called."""

    name: str
    pci: str
    number: str
    gid: int


class SimulatedAmd:
    """Simulates faults of one host's AMD GPUs. A reboot undoes all but `swap`."""

    def __init__(self, root_runner: Callable[[str], str]) -> None:
        """`root_runner` runs a line of shell as root on the host, returns its stdout, raises if it fails."""
        self._root = root_runner

    def _amdsim(self, *words: str) -> str:
        return self._root(shlex.join((_AMDSIM, *words))).strip()

    def nodes(self) -> list[Node]:
        """The render nodes in the order of the GPUs' PCI addresses, as in the kernel."""
        look = (
            "cd /sys/class/drm; for n in renderD*; do echo $n $(basename $(readlink -f $n/device)) "
            "$(stat -c '%Hr:%Lr %g' /dev/dri/$n); done"
        )
        found = [line.split() for line in self._root(look).splitlines()]
        return sorted(
            (Node(name, pci, number, int(gid)) for name, pci, number, gid in found), key=lambda node: node.pci
        )

    def number(self, path: str) -> str:
        """A device's number, such as "10:229"."""
        return self._root(f"stat -c %Hr:%Lr {shlex.quote(path)}").strip()

    def unique_ids(self) -> list[str]:
        """ROCm's UUIDs of the GPUs that have one, in the order of their PCI addresses."""
        text = self._root("cat /sys/class/kfd/kfd/topology/nodes/*/properties")
        return [f"GPU-{int(found):016x}" for found in re.findall(r"^unique_id ([1-9]\d*)", text, re.MULTILINE)]

    def swap(self, i: int, j: int) -> None:
        """Two GPUs swap the names of their render nodes, as after a boot. Running containers keep their GPU."""
        self._amdsim("swap", str(i), str(j))

    def lose(self, i: int) -> None:
        """GPU `i` is missing in sysfs and /dev until the next boot."""
        self._amdsim("lose", str(i))

    def foreign(self, i: int, mib: int, process: str = "python") -> int:
        """A foreign process (a real one, with that name) uses `mib` MiB of GPU `i`; returns its pid."""
        return int(self._amdsim("foreign", str(i), str(mib), process))

    def late(self, seconds: float) -> None:
        """At the next boot only, the driver appears `seconds` after the start of systemd."""
        self._amdsim("late", str(seconds))

    def reset(self) -> None:
        """Restore the initial state."""
        self._amdsim("reset")
