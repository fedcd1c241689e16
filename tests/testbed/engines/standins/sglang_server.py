"""Stand-in for `python3 -m sglang.launch_server`. Its flags and variables are those of the real SGLang 0.5.23
(sglang_knows.json, from its own parser and environ.py).
"""

from __future__ import annotations

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
from options import Options, Wrong, knows, one_of
from weights import read

KNOWS = knows("sglang")
GIB = 2**30


def arguments() -> dict[str, Any]:
    """The arguments of the file of --config, overridden by those of the command line."""
    words = sys.argv[1:]
    if "--config" in words:
        place = words.index("--config")
        path = words[place + 1]
        if not path.endswith((".yaml", ".yml")):
            die(f"ValueError: Config file must be YAML format, got: {path}")
        more = [word for key, value in json.loads(Path(path).read_text()).items() for word in (f"--{key}", str(value))]
        words = [*more, *words[:place], *words[place + 2 :]]
    try:
        found = Options(KNOWS["flags"], abbreviates=True).parse(words)
        if not {"--model-path", "--model"} & set(found):
            raise Wrong("the following arguments are required: --model-path/--model")
    except Wrong as wrong:
        die(f"usage: sglang serve [-h] --model-path MODEL_PATH …\nsglang serve: error: {wrong}", 2)
        raise
    return found


UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def length(text: str) -> int:
    """The value of --context-length: 4096, 4k, 4Ki. The parser has checked its form."""
    number = text.rstrip("kMGTi")
    return int(float(number) * UNITS[text.removeprefix(number)])


class Sglang(OpenAi):
    """Warms up while /v1/models answers already. A key protects everything but health and metrics."""

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
        """Accepts any name and returns it unchanged (sgl-project/sglang#7035, #31404)."""
        return str(body.get("model") or self.name)

    def health(self, body: Any) -> str:
        if not self.warm:
            raise Refusal(503, "")
        return ""


def main() -> None:
    found = arguments()
    for name in os.environ:
        if name.startswith(("SGLANG_", "SGL_")) and name not in KNOWS["variables"]:
            die(f"stand-in: SGLang knows no variable {name}")
    # Its own log shows every argument, the key included (sgl-project/sglang#37457).
    shown = ", ".join(f"{flag[2:].replace('-', '_')}={value!r}" for flag, value in found.items())
    print(f"server_args=ServerArgs({shown})", flush=True)
    path = one_of(found, "--model-path", "--model", default="")
    try:
        folder = read(path)
    except OSError:
        die(f"OSError: {path} is not a local folder and is not a valid model identifier listed on "
            "'https://huggingface.co/models'")  # fmt: skip
        raise
    have = cards()
    if not have:
        die("RuntimeError: No accelerator (CUDA, XPU, HPU, NPU, MUSA, MPS) is available.")
    tensor = int(one_of(found, "--tp-size", "--tensor-parallel-size", default="1"))
    pipeline = int(one_of(found, "--pp-size", "--pipeline-parallel-size", default="1"))
    if tensor * pipeline > len(have):
        die(f"AssertionError: tp_size * pp_size ({tensor * pipeline}) needs as many GPUs, there are {len(have)}")
    if folder.heads % tensor:
        die(f"AssertionError: {folder.heads} is not divisible by {tensor}")
    share = float(found.get("--mem-fraction-static", "0.88"))
    if folder.size / GIB / tensor > share * have[0][1] / 1024:
        die("RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
            f"Current value: mem_fraction_static={share}")  # fmt: skip
    Sglang.name, Sglang.kind = found.get("--served-model-name", path), folder.kind
    Sglang.longest = length(found.get("--context-length", str(folder.longest)))
    Sglang.sentence = f"I am {Sglang.name}, and SGLang is played here."
    Sglang.version, Sglang.key = os.environ["STANDIN_VERSION"], found.get("--api-key")
    Sglang.metrics = "--enable-metrics" in found
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    time.sleep(1 + folder.size / GIB)

    def warm_up() -> None:
        time.sleep(2)
        Sglang.warm = True
        print("The server is fired up and ready to roll!", flush=True)

    threading.Thread(target=warm_up, daemon=True).start()
    address = found.get("--host", "127.0.0.1"), int(found.get("--port", "30000"))
    Server(address, Sglang).serve_forever()


main()
