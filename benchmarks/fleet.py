"""What a run costs the controller for 1, 20 and 200 hosts that are as wanted, without hosts (benchmarks/recorded.py).

Compared with a deploy of as many empty operations in a bare project, which is what pyinfra itself costs. ssh is in
neither.
"""

import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import BIN, Row, cpu_seconds, medians
from benchmarks.recorded import project

SIZES = (1, 20, 200)
GOALS = {200: 1.3}


def rows() -> Iterator[Row]:
    """CPU seconds of each size, and how much more a host costs in the largest fleet than in a small one."""
    ours = {}
    for hosts in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            run, empty = (
                partial(cpu_seconds, [str(BIN / "pyinfra"), "-y", "lab.py", deploy], cwd=path)
                for path, deploy in zip(project(Path(folder), hosts), ("gpu_host.py", "empty.py"), strict=True)
            )
            ours[hosts], floor = medians(run, empty)
        yield Row(
            f"controller, {hosts} unchanged",
            ours[hosts],
            "s of CPU",
            GOALS.get(hosts, math.inf),
            "empty operations",
            floor,
        )
    one, few, many = (ours[hosts] for hosts in SIZES)
    each = (1000 * (few - one) / 19, 1000 * (many - few) / 180)
    yield Row("each further host, 20 to 200", each[1], "ms of CPU", 1.2, "1 to 20", each[0])
