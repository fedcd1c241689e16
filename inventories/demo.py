"""The testbed's two hosts: what `make demo` runs. A lab's own inventory looks the same, without addresses.

gpu1 has four (simulated) A30: one model on GPU 0, one on GPUs 1 and 2. cpu1 has none.
"""

from tests.testbed.inventory import common, reach, weights

_GPU1 = {
    "hardware": {"A30": 4},
    "models": {
        "alpha": {"weights": weights("alpha"), "gpus": [0], "port": 8000},
        "beta": {"weights": weights("beta"), "gpus": [1, 2], "port": 8001},
    },
}
_CPU1 = {"models": {"gamma": {"weights": weights("gamma"), "gpus": [], "port": 8000}}}

demo = ([("gpu1", {**reach("gpu1"), **_GPU1}), ("cpu1", {**reach("cpu1"), **_CPU1})], common())
