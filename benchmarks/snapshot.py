"""What a snapshot costs a host: CPU of its processes, bytes that come back, and its wall time there.

It needs the testbed, with inventories/demo.py deployed on gpu1.
"""

import json
import runpy
import statistics

from pyinfra.api import Inventory

from benchmarks.measure import BIN, CHECKOUT, ROUNDS, Row, seconds
from gpurack.facts import remembered
from gpurack.facts.snapshot import script
from gpurack.inventory.fleet import read_fleet
from gpurack.plan.questions import questions
from tests.testbed import Testbed

MEASURE = """import json, resource, subprocess, sys, time
begun = time.time()
done = subprocess.run(["sh", "-s"], input=sys.stdin.buffer.read(), stdout=subprocess.PIPE)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, len(done.stdout) / 1000, time.time() - begun]))
"""


def rows() -> list[Row]:
    """The medians of what the host itself measures."""
    host = Testbed.up(["gpu1"]).host("gpu1")
    seconds([str(BIN / "pyinfra"), "-y", "--limit", "gpu1", "inventories/demo.py", "deploys/gpu_host.py"])
    lab = runpy.run_path(str(CHECKOUT / "inventories" / "demo.py"))["demo"]
    asked_of = questions(read_fleet(Inventory(lab))["gpu1"])
    # as a run asks that is not the first: it knows the headers of weights that are as before
    asked = script(asked_of, remembered.recall("gpu1", asked_of.lab)).encode()
    host.put(MEASURE, "/root/measure.py")
    found = [json.loads(host.root("python3 /root/measure.py", stdin=asked).stdout) for _ in range(ROUNDS + 1)][1:]
    cpu, size, wall = (statistics.median(column) for column in zip(*found, strict=True))
    return [
        Row("snapshot of a host with 2 models", cpu, "s of CPU on the host", 0.15),
        Row("the same", size, "KB", 20),
        Row("the same", wall, "s on the host", 0.5),
    ]
