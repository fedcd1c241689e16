"""How long verification takes for a host with ten models, over loopback: pytest's own start included.

    python benchmarks/verify.py        (needs the testbed; it makes cpu1 serve ten models)

Prints seconds, and the ratio to a bare pytest that collects nothing, measured side by side in the same run. The aim
(issue 6): under 3 seconds on a quiet machine.

As an admin has it: Python may keep its compiled modules, and pytest has no plugin of Hypothesis, which is a tool of
gpurack's own tests (it imports all of Hypothesis for a line at the end).
"""

import os
import pprint
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.testbed import Testbed
from tests.testbed.inventory import common, reach, weights

MODELS, ROUNDS = 10, 5
BIN = Path(sys.executable).parent


def inventory() -> str:
    """cpu1 with ten small models."""
    models = {f"m{n}": {"weights": weights("gamma"), "gpus": [], "port": 8100 + n} for n in range(MODELS)}
    lab = ([("cpu1", {**reach("cpu1"), "models": models})], common())
    return f"lab = {pprint.pformat(lab, sort_dicts=False)}\n"


def seconds(argv: list[str], code: int = 0) -> float:
    """Wall time of one command that ends with this exit code."""
    begun = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == code, done.stdout
    return time.perf_counter() - begun


def main() -> None:
    """Deploy once, then measure both, alternating, and print medians."""
    Testbed.up(["cpu1"]).recreate("cpu1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lab.py"
        path.write_text(inventory())
        subprocess.run([str(BIN / "pyinfra"), str(path), "deploys/gpu_host.py", "-y"], check=True)
        pytest = [str(BIN / "pytest"), "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        verify, floor = [], []
        for _ in range(ROUNDS):
            verify.append(seconds([*pytest, "tests/verify", "--inventory", str(path)]))
            floor.append(seconds([*pytest, folder], code=5))
    ours, least = statistics.median(verify), statistics.median(floor)
    print(
        f"verification, one host, {MODELS} models: {ours:.2f} s; pytest alone {least:.2f} s; ratio {ours / least:.1f}"
    )


if __name__ == "__main__":
    main()
