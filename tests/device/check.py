"""The snapshot and the probe of CUDA on a real NVIDIA GPU, and what its driver says of itself.

    python -m tests.device.check make >check.sh     # here
    sh check.sh FOLDER                              # there, as root: takes a minute and changes nothing
    python -m tests.device.check read FOLDER        # here: what gpurack makes of it; exit code 1 for a fault

The machine needs sh, and python3 for the probe; no network, Docker or package.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from gpurack.cuda_faults import fault
from gpurack.engines.probes import PYTHON
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.questions import questions
from tests.given import models

END = "END OF SNAPSHOT"
FACTS = (
    "nvidia-smi -L",
    "nvidia-smi -q",
    "nvidia-smi --help-query-gpu",
    "nvidia-smi topo -m",
    "nvidia-smi topo -p2p r",
    "nvidia-smi mig -lgip",
    "cat /proc/devices",
    "ls -l /dev/nvidia* /dev/nvidia-caps",
)
"""What facts about GPU hosts are missing or were never seen on a real machine."""


def make() -> str:
    """Return the program for the machine. It writes FOLDER/snapshot, FOLDER/probe and FOLDER/facts."""
    probe = shlex.join(["sh", *PYTHON.arguments])
    lines = [
        "set -u",
        'mkdir -p "$1"',
        f"timeout 240 sh -s >\"$1/snapshot\" <<'{END}'",
        script(questions(models(alpha={}))),
        END,
        f'timeout 60 {probe} >"$1/probe" 2>&1',
        "{",
        *(f"echo '$ {fact}'; timeout 20 {fact} 2>&1; echo \"exit code $?\"" for fact in FACTS),
        f"echo '$ the probe without a visible GPU'; CUDA_VISIBLE_DEVICES= timeout 60 {probe} 2>&1",
        '} >"$1/facts"',
    ]
    return "\n".join(lines) + "\n"


def read(folder: Path) -> tuple[list[str], list[str]]:
    """Return (lines about what was seen, faults) of the machine's files."""
    state = Snapshot().process((folder / "snapshot").read_text(errors="replace").splitlines())
    printed = (folder / "probe").read_text(errors="replace")
    found = fault(printed, len(state.gpus) or 1)
    seen = [f"GPU {gpu.index}: {gpu.name}, {gpu.memory_total} MiB, {gpu.compute}, {gpu.uuid}" for gpu in state.gpus]
    seen += [f"driver {state.driver.kernel}, nvidia-smi exits with {state.driver.exit_code}"]
    faults = [f"the snapshot: {why}" for why in (state.trouble, *state.unread) if why]
    faults += [] if state.gpus else ["the snapshot saw no GPU"]
    faults += [f"the probe: {found}"] if found else []
    faults += [f"the probe printed no result: {printed.strip()[-300:]}"] if found is None else []
    return seen, faults


def main(words: list[str]) -> int:
    """Carry out one of the two verbs."""
    match words:
        case ["make"]:
            sys.stdout.write(make())
            return 0
        case ["read", folder]:
            seen, faults = read(Path(folder))
            print(*seen, *faults, sep="\n")
            return 1 if faults else 0
        case _:
            sys.stderr.write(str(__doc__))
            return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
