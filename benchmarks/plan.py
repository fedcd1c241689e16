"""How long `gpurack plan` takes for a large lab: 50 hosts, 200 models, start of Python included.

    python benchmarks/plan.py

Prints seconds, and the ratio to a bare `python -c "import pyinfra, pydantic"` measured side by side in the same run,
which is what no plan can be faster than. The aim (issue 3): under a second.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOSTS, MODELS_PER_HOST, ROUNDS = 50, 4, 7
GPURACK = str(Path(sys.executable).parent / "gpurack")


def inventory() -> str:
    """A Python inventory of that size."""
    hosts = [
        (
            f"gpu{number}.lab",
            {
                "models": {
                    f"model-{number}-{card}": {"weights": f"/data/{card}.gguf", "gpus": [card], "port": 8000 + card}
                    for card in range(MODELS_PER_HOST)
                }
            },
        )
        for number in range(HOSTS)
    ]
    common = {"hardware": {"A30": 4}, "defaults": {"engine": "llama.cpp", "version": "b7000"}}
    return f"lab = {(hosts, common)!r}\n"


def seconds(argv: list[str]) -> float:
    """Wall time of one command."""
    begun = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    """Measure both, alternating, and print medians."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lab.py"
        path.write_text(inventory())
        plan, floor = [], []
        for _ in range(ROUNDS):
            plan.append(seconds([GPURACK, "plan", str(path)]))
            floor.append(seconds([sys.executable, "-c", "import pyinfra, pydantic"]))
    ours, least = statistics.median(plan), statistics.median(floor)
    print(f"gpurack plan, {HOSTS} hosts, {HOSTS * MODELS_PER_HOST} models: {ours:.2f} s; imports alone {least:.2f} s")
    print(f"ratio {ours / least:.1f}")


if __name__ == "__main__":
    main()
