"""Stands in for `python3 -m sglang.launch_server` of SGLang 0.5.23, with the part of its flags that a lab may need."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common import Refusal, Server, cards, die
from openai import OpenAi
from weights import read

GIB = 2**30


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("launch_server.py", allow_abbrev=False)
    made.add_argument("--model-path", "--model", required=True)
    for flag in ("--served-model-name", "--api-key", "--config", "--dtype", "--quantization", "--kv-cache-dtype",
                 "--chat-template", "--tool-call-parser", "--reasoning-parser", "--attention-backend", "--load-format",
                 "--log-level", "--device"):  # fmt: skip
        made.add_argument(flag)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=30000)
    for flags in (("--tp-size", "--tensor-parallel-size", "--tp"), ("--pp-size", "--pipeline-parallel-size"),
                  ("--dp-size", "--data-parallel-size", "--dp")):  # fmt: skip
        made.add_argument(*flags, type=int, default=1)
    for flag in ("--context-length", "--max-running-requests", "--max-total-tokens", "--chunked-prefill-size"):
        made.add_argument(flag, type=int)
    made.add_argument("--mem-fraction-static", type=float)
    for flag in ("--trust-remote-code", "--enable-metrics", "--disable-cuda-graph", "--disable-radix-cache",
                 "--enable-dp-attention", "--skip-server-warmup", "--is-embedding"):  # fmt: skip
        made.add_argument(flag, action="store_true")
    return made


def arguments() -> argparse.Namespace:
    """Those of the file of --config come before those of the command line, which win."""
    words = sys.argv[1:]
    if "--config" in words:
        place = words.index("--config")
        path = words[place + 1]
        if not path.endswith((".yaml", ".yml")):
            die(f"ValueError: Config file must be YAML format, got: {path}")
        more = [word for key, value in json.loads(Path(path).read_text()).items() for word in (f"--{key}", str(value))]
        words = [*more, *words[:place], *words[place + 2 :]]
    return parser().parse_args(words)


class Sglang(OpenAi):
    """Warms up while /v1/models answers already; a key guards all but health and metrics."""

    warm = False
    metrics = False

    def guarded(self, path: str) -> bool:
        return not path.startswith(("/health", "/metrics"))

    def routes(self) -> dict[tuple[str, str], Any]:
        own = {("GET", "/health"): self.health, ("GET", "/health_generate"): self.health}
        if self.metrics:
            own["GET", "/metrics"] = lambda body: "# HELP sglang:num_running_reqs\nsglang:num_running_reqs 0.0\n"
        return {**super().routes(), **own}

    def named(self, body: Any) -> str:
        """Any will do, and comes back as it came (sgl-project/sglang#7035, #31404)."""
        return str(body.get("model") or self.name)

    def health(self, body: Any) -> str:
        if not self.warm:
            raise Refusal(503, "")
        return ""


def main() -> None:
    found = arguments()
    # Its own log shows every argument, the key included (sgl-project/sglang#37457).
    print(
        f"server_args=ServerArgs({', '.join(f'{name}={value!r}' for name, value in vars(found).items())})", flush=True
    )
    try:
        folder = read(found.model_path)
    except OSError:
        die(f"OSError: {found.model_path} is not a local folder and is not a valid model identifier listed on "
            "'https://huggingface.co/models'")  # fmt: skip
        raise
    have = cards()
    if not have:
        die("RuntimeError: No accelerator (CUDA, XPU, HPU, NPU, MUSA, MPS) is available.")
    if found.tp_size * found.pp_size > len(have):
        die(f"AssertionError: tp_size * pp_size ({found.tp_size * found.pp_size}) needs as many GPUs, "
            f"there are {len(have)}")  # fmt: skip
    if folder.heads % found.tp_size:
        die(f"AssertionError: {folder.heads} is not divisible by {found.tp_size}")
    share = 0.88 if found.mem_fraction_static is None else found.mem_fraction_static
    if folder.size / GIB / found.tp_size > share * have[0][1] / 1024:
        die("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
            f"Current value: mem_fraction_static={share}")  # fmt: skip
    Sglang.name, Sglang.kind = found.served_model_name or found.model_path, folder.kind
    Sglang.longest = found.context_length or folder.longest
    Sglang.sentence = f"I am {Sglang.name}, and SGLang is played here."
    Sglang.version, Sglang.key, Sglang.metrics = os.environ["STANDIN_VERSION"], found.api_key, found.enable_metrics
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    time.sleep(1 + folder.size / GIB)

    def warm_up() -> None:
        time.sleep(2)
        Sglang.warm = True
        print("The server is fired up and ready to roll!", flush=True)

    threading.Thread(target=warm_up, daemon=True).start()
    Server((found.host, found.port), Sglang).serve_forever()


main()
