"""What the benchmarks share: commands measured in turns, their medians, and rows with a goal."""

import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 7
BIN = Path(sys.executable).parent
CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One figure. what: is measured. value, unit: its median. beside: what it is compared with, and that median.

    most: the goal, of value ÷ beside where it is compared (below 1: gpurack has to be faster), else of the value;
    infinite where there is none.
    """

    what: str
    value: float
    unit: str
    most: float
    beside: str = ""
    other: float = 0.0

    @property
    def ratio(self) -> float:
        """What the goal is about."""
        return self.value / self.other if self.beside else self.value

    @property
    def missed(self) -> bool:
        """Is the goal missed?"""
        return self.ratio > self.most

    @property
    def words(self) -> tuple[str, str, str]:
        """Three cells: what, figures, ratio and goal."""
        figures, goal = f"{self.value:.2f} {self.unit}", "no goal" if math.isinf(self.most) else f"goal ≤ {self.most:g}"
        if not self.beside:
            return self.what, figures, goal if math.isinf(self.most) else f"{goal} {self.unit}"
        return self.what, f"{figures}; {self.beside} {self.other:.2f} {self.unit}", f"{self.ratio:.2f}, {goal}"


def environment() -> dict[str, str]:
    """The environment of measured commands: Python may keep its compiled modules, as an admin's does."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(argv: Sequence[str], code: int = 0, cwd: Path = CHECKOUT) -> float:
    """Wall time of one command that ends with this exit code."""
    begun = time.perf_counter()
    _run(argv, code, cwd)
    return time.perf_counter() - begun


def cpu_seconds(argv: Sequence[str], code: int = 0, cwd: Path = CHECKOUT) -> float:
    """CPU time of one command and its children that ends with this exit code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(argv, code, cwd)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(argv: Sequence[str], code: int, cwd: Path) -> None:
    path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**environment(), "PYTHONPATH": path},
    )
    if done.returncode != code:
        raise SystemExit(f"{' '.join(argv)} ended with exit code {done.returncode}:\n{done.stdout}")


def medians(*measured: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """The medians of several measurements, made in turns, so that other work on the machine meets all of them.

    The first turn warms caches and does not count.
    """
    for each in measured:
        each()
    found = [[each() for each in measured] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*found, strict=True)]


def machine() -> str:
    """The machine, in words."""
    model = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "CPU")
    load = os.getloadavg()[0]
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} × {model}, {system}, load {load:.1f}"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
