"""The simulated NVIDIA driver of testbed hosts: the files of a host's image, and the control for tests.

The tests' machines have no GPU. A host built with `files()` and `UNITS` behaves like a server with four A30: the driver
"loads" at boot (device nodes, /proc/driver/nvidia, modules.dep), `nvidia-smi` answers, and a container sees exactly the
GPUs whose device nodes it has and may open; the host's `nvidia-smi` lists it as a process on them. docs/testing.md says
what that proves and what not.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from tests.testbed import cache, workshop
from tests.testbed.engine import Engine

_HERE = Path(__file__).resolve().parent / "files"
_GPUSIM = "/usr/lib/gpusim/gpusim"

#: The units to enable in the image (`systemctl enable`).
UNITS: tuple[str, ...] = ("gpusim-driver.service",)

#: What the driver is until a test says otherwise (the driver of facts/nvidia-smi-h200.txt).
DRIVER_VERSION = "580.159.04"

#: Machines whose nvidia-smi answers otherwise than the usual four A30.
MACHINES: tuple[str, ...] = (
    "gb10", "gh200", "gb200", "dgx-station", "orin", "thor", "a100-mig", "vgpu", "wsl", "geforce", "mixed",
    "driver-470", "inforom", "requires-reset", "no-index",
)  # fmt: skip


def files() -> dict[str, tuple[Path, int]]:
    """The files of a host with simulated GPUs: path on the host -> (source file, mode)."""
    return {
        "/usr/local/bin/dmesg": (_HERE / "dmesg", 0o755),
        "/usr/bin/nvidia-smi": (_HERE / "nvidia-smi", 0o755),
        _GPUSIM: (_HERE / "gpusim", 0o755),
        "/usr/lib/systemd/system/gpusim-driver.service": (_HERE / "gpusim-driver.service", 0o644),
    }


LIBCUDA = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"
"""Where a host has CUDA's library. Containers get it at the same path, where every Debian image looks for it."""


def libcuda(engine: Engine) -> bytes:
    """The stand-in for CUDA's library, compiled once."""
    source = _HERE / "libcuda.c"

    def make(folder: Path) -> None:
        workshop.work(engine, compile_libcuda(folder / "libcuda.so.1"), what="Compiling libcuda.c")

    return (cache.entry("libcuda", (cache.recipe(__file__), source), make, "libcuda") / "libcuda.so.1").read_bytes()


def compile_libcuda(target: Path) -> str:
    """The command that compiles it. It names no library, so it needs no certain libc."""
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-nostdlib", "-fno-stack-protector"]
    return shlex.join(["gcc", *options, "-Wl,-soname,libcuda.so.1", "-o", str(target), str(_HERE / "libcuda.c")])


class SimulatedGpus:
    """Simulates faults of one host's GPUs.

    Effects are immediate unless stated otherwise. A reboot undoes what it undoes on a real host: a lost GPU returns, a
    mismatch ends (the new module is loaded), foreign processes are gone. Indices stay swapped."""

    def __init__(self, root_runner: Callable[[str], str]) -> None:
        """`root_runner` runs a line of shell as root on the host, returns its stdout, raises if it fails."""
        self._root = root_runner

    def _gpusim(self, *words: str) -> str:
        return self._root(shlex.join((_GPUSIM, *words))).strip()

    @property
    def uuids(self) -> list[str]:
        """The GPUs' UUIDs in the order of their indices, whether or not nvidia-smi would answer now."""
        return [line.split()[0] for line in self._root("cat /var/lib/gpusim/cards").splitlines()]

    def swap(self, i: int, j: int) -> None:
        """Two GPUs swap indices and device paths, as after a reboot; PCI slots and UUIDs stay together.

        A running container keeps its GPU. CDI specs contain the old paths until they are refreshed. On a real host that
        happens at the boot with the new order, so call `Host.reboot()` afterwards."""
        self._gpusim("swap", str(i), str(j))

    def lose(self, i: int) -> None:
        """GPU `i` is lost until the next boot: `nvidia-smi` exits with 15, and works with `-i` for the others."""
        self._gpusim("lose", str(i))

    def mismatch(self, library: str = "580.95.05") -> None:
        """The driver on disk is now `library`: `nvidia-smi` exits 18 until the next boot loads it."""
        self._gpusim("mismatch", library)

    def foreign(self, i: int, mib: int, process: str = "python") -> int:
        """A foreign process (a real one, with that command name) uses `mib` MiB of GPU `i`.

        Returns its pid. `nvidia-smi` lists it until the process ends in any way."""
        return int(self._gpusim("foreign", str(i), str(mib), process))

    def use(self, i: int, mib: int, pid: int, seconds: int) -> None:
        """The process `pid` uses `mib` MiB of GPU `i`, which has them also for `seconds` after its end.

        `nvidia-smi` lists the process while it lives; afterwards only `memory.used` shows them."""
        self._gpusim("use", str(i), str(mib), str(pid), str(seconds))

    def late(self, seconds: float) -> None:
        """At the next boot only, the driver appears `seconds` after the start of systemd."""
        self._gpusim("late", str(seconds))

    def cuda(self, init: int, count: int = 0, version: int = 13000) -> None:
        """libcuda's cuInit and cuDeviceGetCount return these codes, and cuDriverGetVersion this version.

        Containers that start during an error compute on the CPU until they are started anew; others continue."""
        self._gpusim("cuda", str(init), str(count), str(version))

    def machine(self, name: str) -> None:
        """The host becomes another machine: one of MACHINES, until `reset`."""
        self._gpusim("machine", name)

    def reset(self) -> None:
        """Restore the initial state: order, version, no lost GPU, no foreign process, CUDA works, driver loaded."""
        self._gpusim("reset")
