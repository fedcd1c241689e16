"""How long verification takes for a host with ten models, over loopback: pytest's own start included.

It needs the testbed, and makes cpu1 serve ten models. pytest has no plugin of Hypothesis, which is a tool of gpurack's
own tests (it imports all of Hypothesis for a line at the end).
"""

import pprint
import tempfile
from pathlib import Path

from benchmarks.measure import BIN, Row, medians, seconds
from tests.testbed import Testbed
from tests.testbed.inventory import common, reach, weights

MODELS = 10


def inventory() -> str:
    """cpu1 with ten small models."""
    models = {f"m{n}": {"weights": weights("gamma"), "gpus": [], "port": 8100 + n} for n in range(MODELS)}
    lab = ([("cpu1", {**reach("cpu1"), "models": models})], common())
    return f"lab = {pprint.pformat(lab, sort_dicts=False)}\n"


def rows() -> list[Row]:
    """The whole time (issue 6: under 3 seconds)."""
    Testbed.up(["cpu1"]).recreate("cpu1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lab.py"
        path.write_text(inventory())
        seconds([str(BIN / "pyinfra"), str(path), "deploys/gpu_host.py", "-y"])
        pytest = [str(BIN / "pytest"), "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        verify, _ = medians(
            lambda: seconds([*pytest, "tests/verify", "--inventory", str(path)]),
            lambda: seconds([*pytest, folder], code=5),
        )
    return [Row(f"verification, 1 host, {MODELS} models", verify, "s", 3.0)]
