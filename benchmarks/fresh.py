"""How long a fresh host takes until two models have answered a chat, beside benchmarks/by_hand.sh on the same host.

It needs the testbed; everything comes from its mirrors, so no download of the internet is in either. gpu1 is recreated
before each run.
"""

import json
import statistics
import time
from collections.abc import Callable

from benchmarks.measure import BIN, CHECKOUT, Row, seconds
from tests.testbed import Testbed
from tests.testbed.inventory import REGISTRY, mirrors, weights

ROUNDS = 3
QUESTION = json.dumps({"messages": [{"role": "user", "content": "Who are you?"}]})


def rows() -> list[Row]:
    """The medians of both, in turns."""
    testbed = Testbed.up(["gpu1"])
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for column, way in zip(found, (by_gpurack, by_hand), strict=True):
            testbed.recreate("gpu1")
            column.append(until_answered(testbed, way))
    ours, other = map(statistics.median, found)
    return [Row("fresh Debian 13 host, 2 models answered", ours, "s", 1.15, "by hand", other)]


def until_answered(testbed: Testbed, way: Callable[[Testbed], object]) -> float:
    """The seconds until the host is set up in one of the ways, and both models have answered."""
    begun = time.perf_counter()
    way(testbed)
    for port in (8000, 8001):
        address = f"http://localhost:{port}/v1/chat/completions"
        testbed.host("gpu1").root(f"curl -sSf -H 'Content-Type: application/json' -d '{QUESTION}' {address}")
    return time.perf_counter() - begun


def by_gpurack(testbed: Testbed) -> None:
    """The main job."""
    seconds([str(BIN / "pyinfra"), "-y", "--limit", "gpu1", "inventories/demo.py", "deploys/gpu_host.py"])


def by_hand(testbed: Testbed) -> None:
    """The script, with the testbed's addresses in front of it."""
    words = {
        "REGISTRY": REGISTRY,
        "IMAGE": f"{REGISTRY}/ghcr/ggml-org/llama.cpp:server-cuda-b7000",
        "TOOLKIT_URL": mirrors()["nvidia"]["url"],
        "ALPHA": weights("alpha")["url"],
        "BETA": weights("beta")["url"],
    }
    key = testbed.signing_key.read_text()
    head = "".join(f"{name}='{value}'\n" for name, value in words.items()) + f"KEY='{key}'\n"
    script = head + (CHECKOUT / "benchmarks" / "by_hand.sh").read_text()
    testbed.host("gpu1").run("sudo sh -s", stdin=script.encode())
