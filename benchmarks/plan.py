"""How long `gpurack plan` takes for a large lab: 50 hosts, 200 models, start of Python included."""

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import BIN, Row, medians, seconds

HOSTS, MODELS_PER_HOST = 50, 4


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


def rows() -> list[Row]:
    """The whole time (issue 3: under a second), and beside the imports that no plan can do without."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lab.py"
        path.write_text(inventory())
        plan, floor = medians(
            lambda: seconds([str(BIN / "gpurack"), "plan", str(path)]),
            lambda: seconds([sys.executable, "-c", "import pyinfra, pydantic"]),
        )
    what = f"`gpurack plan`, {HOSTS} hosts, {HOSTS * MODELS_PER_HOST} models"
    return [Row(what, plan, "s", 1.0), Row(what, plan, "s", 5.0, "imports of pyinfra and pydantic", floor)]
