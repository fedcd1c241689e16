"""`make demo`: two throwaway hosts, the main job on them, an answer of each model, and the same job again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.testbed import Host, Testbed
from tests.testbed.disk import costs
from tests.testbed.paths import CHECKOUT, STATE
from tests.testbed.shell import TestbedError
from tests.testbed.testbed import remove_unused

PYINFRA = str(Path(sys.executable).parent / "pyinfra")
JOB = ["pyinfra", "inventories/demo.py", "deploys/gpu_host.py", "-y"]
HOSTS = ("gpu1", "cpu1")
MODELS = {"gpu1": (("alpha", 8000), ("beta", 8001)), "cpu1": (("gamma", 8000),)}
QUESTION = json.dumps({"messages": [{"role": "user", "content": "Who are you?"}]})

LOOK_AROUND = """
Look around:
  ssh -F {config} gpu1           a host; then: sudo docker ps, nvidia-smi, cat /etc/gpurack/compose.yaml
  source .venv/bin/activate
  gpurack status -v inventories/demo.py   hosts, GPUs and models now
  $EDITOR inventories/demo.py             move a model to another GPU, then
  gpurack diff inventories/demo.py        shows the change
  gpurack apply inventories/demo.py       shows it, asks, and makes it
The same by pyinfra: pyinfra inventories/demo.py deploys/gpu_host.py
End it:
  make demo-down"""


def main() -> int:
    """Run the demo; return the exit code."""
    begun = time.monotonic()
    print(costs(), flush=True)
    title("1. Two fresh hosts: gpu1 with four simulated A30, cpu1 without a GPU")
    remove_unused(HOSTS)
    testbed = Testbed.up(HOSTS)
    title("2. The main job: " + " ".join(JOB))
    if job() != 0:
        return 1
    title("3. Each model's own answer to “Who are you?”")
    for name, models in MODELS.items():
        for model, port in models:
            print(f"  {name}  {model:6} {ask(testbed.host(name), port)}", flush=True)
    title("4. The same job again")
    again = time.monotonic()
    if job() != 0:
        return 1
    print(f"\nThe second run took {time.monotonic() - again:.1f} s, the whole demo {time.monotonic() - begun:.0f} s.")
    print(LOOK_AROUND.format(config=testbed.ssh_config.relative_to(CHECKOUT)))
    return 0


def title(text: str) -> None:
    """Print the title of a step."""
    print(f"\n\033[1m=== {text}\033[0m" if sys.stdout.isatty() else f"\n=== {text}", flush=True)


def job() -> int:
    """Run the main job as an admin would."""
    # what a run remembers of weights belongs to the testbed, not to the user's home
    environment = {**os.environ, "XDG_STATE_HOME": str(STATE / "state")}
    words = [PYINFRA, *JOB[1:]]
    return subprocess.run(words, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def ask(host: Host, port: int) -> str:
    """Return a model's answer to curl on its host, because the models are bound to loopback."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    answer = host.run(f"curl -sS --max-time 20 -H 'Content-Type: application/json' -d '{QUESTION}' {url}").stdout
    return str(json.loads(answer)["choices"][0]["message"]["content"])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TestbedError as error:
        sys.exit(str(error))
