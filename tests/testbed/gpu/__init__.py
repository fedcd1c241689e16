"""The simulated NVIDIA driver of testbed hosts: what to put into a host's image, and the tests' hand on it.

No machine the tests run on has a GPU. A host built with `files()` and `UNITS` behaves like a server with
four A30: the driver "loads" at boot (device nodes, /proc/driver/nvidia, modules.dep), `nvidia-smi` answers,
and a container is shown exactly the cards whose device nodes it was given and may open. What that proves
and what not: docs/testing.md.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

_HERE = Path(__file__).resolve().parent / "files"
_GPUSIM = "/usr/lib/gpusim/gpusim"

#: The units to enable in the image (`systemctl enable`).
UNITS: tuple[str, ...] = ("gpusim-driver.service",)

#: What the driver is until a test says otherwise (the driver of facts/nvidia-smi-h200.txt).
DRIVER_VERSION = "580.159.04"


def files() -> dict[str, tuple[Path, int]]:
    """What a host with simulated cards has on disk: path on the host -> (source file, mode)."""
    return {
        "/usr/local/bin/dmesg": (_HERE / "dmesg", 0o755),
        "/usr/bin/nvidia-smi": (_HERE / "nvidia-smi", 0o755),
        _GPUSIM: (_HERE / "gpusim", 0o755),
        "/usr/lib/systemd/system/gpusim-driver.service": (_HERE / "gpusim-driver.service", 0o644),
    }


class SimulatedGpus:
    """Does to one host's simulated cards what happens to real ones.

    Effects come at once unless said otherwise. What a reboot of a real host undoes, a reboot undoes here: a
    lost card comes back, a mismatch ends (the new module is loaded), foreign processes are gone; indices stay
    swapped.
    """

    def __init__(self, root_runner: Callable[[str], str]) -> None:
        """`root_runner` runs a line of shell as root on the host, returns its stdout, raises if it fails."""
        self._root = root_runner

    def _gpusim(self, *words: str) -> str:
        return self._root(shlex.join((_GPUSIM, *words))).strip()

    @property
    def uuids(self) -> list[str]:
        """The cards' UUIDs in the order of their indices, whether or not nvidia-smi would answer now."""
        return [line.split()[0] for line in self._root("cat /var/lib/gpusim/cards").splitlines()]

    def swap(self, i: int, j: int) -> None:
        """Two cards exchange indices and device paths, as a reboot may do; PCI slots and UUIDs stay together.

        A container that runs keeps the card it was given. CDI specs name the old paths until refreshed; on a
        real host that happens at the boot which brought the new order: call `Host.reboot()` after it.
        """
        self._gpusim("swap", str(i), str(j))

    def lose(self, i: int) -> None:
        """Card `i` is lost until the next boot: `nvidia-smi` exits 15, with `-i` of others it works."""
        self._gpusim("lose", str(i))

    def mismatch(self, library: str = "580.95.05") -> None:
        """The driver on disk is now `library`: `nvidia-smi` exits 18 until the next boot loads it."""
        self._gpusim("mismatch", library)

    def foreign(self, i: int, mib: int, process: str = "python") -> int:
        """A process of someone else's (a real one, with that command name) holds `mib` MiB of card `i`.

        Returns its pid. It is gone from `nvidia-smi` when the process ends, however it ends.
        """
        return int(self._gpusim("foreign", str(i), str(mib), process))

    def late(self, seconds: float) -> None:
        """At the next boot (only that one) the driver appears `seconds` after systemd started."""
        self._gpusim("late", str(seconds))

    def reset(self) -> None:
        """Everything as on the first day: order, version, no lost card, no foreign process, driver loaded."""
        self._gpusim("reset")
