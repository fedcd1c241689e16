#!/usr/bin/python3
"""Stand-in for `vllm serve` on NVIDIA GPUs. Its flags and variables are those of the real 0.32.0 (vllm_knows.json,
printed by its own parser), and its errors use the real wording.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from common import Server, cards, die, free_memory
from openai import OpenAi
from options import Options, Wrong, knows, one_of
from weights import Folder, read

KNOWS = knows("vllm")
GIB = 2**30


class Vllm(OpenAi):
    """OpenAI's routes, and those that no key protects."""

    def routes(self) -> dict[tuple[str, str], Any]:
        return {
            **super().routes(),
            ("GET", "/ping"): lambda body: "",
            ("GET", "/metrics"): lambda body: f'vllm:num_requests_running{{model_name="{self.name}"}} 0.0\n',
            ("POST", "/tokenize"): lambda body: {"count": 2, "max_model_len": self.longest, "tokens": [1, 3]},
        }


def length(text: str) -> int:
    """The value of --max-model-len: 4096, 4k, 4K."""
    unit = {"k": 1000, "m": 10**6, "K": 1024, "M": 2**20}.get(text[-1:], 1)
    return int(float(text.rstrip("kKmM")) * unit)


def fits(found: dict[str, Any], folder: Folder, longest: int) -> None:
    """Exit like the real one if GPUs, heads, length or memory do not fit."""
    have = cards()
    if not have:
        die("RuntimeError: Failed to infer device type, please set the environment variable "
            "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.")  # fmt: skip
    tensor, pipeline, data = (
        int(one_of(found, *flags, default="1"))
        for flags in (
            ("--tensor-parallel-size", "-tp"), ("--pipeline-parallel-size", "-pp"), ("--data-parallel-size", "-dp")
        )
    )  # fmt: skip
    world = tensor * pipeline * data
    if world > len(have):
        die(f"ValueError: World size ({world}) is larger than the number of available GPUs ({len(have)}) in this node. "
            "If this is intentional and you are using: …")  # fmt: skip
    if folder.heads % tensor:
        die(f"ValueError: Total number of attention heads ({folder.heads}) must be divisible by tensor parallel size "
            f"({tensor}).")  # fmt: skip
    if longest > folder.longest:
        die(f"ValueError: User-specified max_model_len ({longest}) is greater than the derived max_model_len "
            f"(max_position_embeddings={folder.longest} or model_max_length=None in model's config.json).")  # fmt: skip
    share = float(one_of(found, "--gpu-memory-utilization", default="0.92"))
    for index, (_, memory, compute) in enumerate(have[:world]):
        if tuple(map(int, compute.split("."))) < (7, 5):
            die(f"RuntimeError: vLLM needs compute capability 7.5 or newer, card {index} has {compute}.")
        total, free = memory / 1024, free_memory()[index] / 1024
        if free < share * total:
            die(f"ValueError: Free memory on device cuda:{index} ({free:.2f}/{total:.2f} GiB) on startup is less than "
                f"desired GPU memory utilization ({share}, {share * total:.2f} GiB). Decrease GPU memory utilization "
                "or reduce GPU memory used by other processes.")  # fmt: skip
        if folder.size / GIB / (tensor * pipeline) > share * total:
            need = folder.size / GIB / (tensor * pipeline)
            die(f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {need:.2f} GiB. GPU {index} has a "
                f"total capacity of {total:.2f} GiB of which {free:.2f} GiB is free.")  # fmt: skip


def main() -> None:
    if sys.argv[1:2] != ["serve"]:
        die(f"vllm: error: argument subparser: invalid choice: {sys.argv[1:2]}", 2)
    try:
        found = Options(KNOWS["flags"], underscores=True, positional="model").parse(sys.argv[2:])
    except Wrong as wrong:
        parser = "vllm" if str(wrong).startswith("unrecognized") else "vllm serve"  # as argparse's subparsers do
        die(f"usage: vllm serve [model_tag] [options]\n{parser}: error: {wrong}", 2)
        raise
    for name in os.environ:
        if name.startswith("VLLM_") and name not in KNOWS["variables"]:
            die(f"stand-in: vLLM knows no variable {name}")
    path = str(found.get("model") or found.get("--model") or "Qwen/Qwen3-0.6B")
    try:
        folder = read(path)
    except FileNotFoundError:
        die(f"ValueError: Invalid repository ID or local directory specified: '{path}'.\n"
            "Please verify the following requirements:\n1. Provide a valid Hugging Face repository ID.\n"
            "2. Specify a local directory that contains a recognized configuration file.")  # fmt: skip
        raise
    except (OSError, ValueError) as error:
        die(f"RuntimeError: {error}")
        raise
    longest = length(one_of(found, "--max-model-len", default=str(folder.longest)))
    fits(found, folder, longest)
    if found.get("--runner") == "pooling" and folder.kind == "chat":
        folder = Folder("embed", folder.size, folder.heads, folder.longest)
    names = found.get("--served-model-name") or [path]
    Vllm.name, Vllm.kind, Vllm.longest = names[0], folder.kind, longest
    Vllm.sentence = f"I am {Vllm.name}, and vLLM is played here."
    Vllm.version = os.environ["STANDIN_VERSION"]
    Vllm.key = found.get("--api-key", [None])[0] or os.environ.get("VLLM_API_KEY") or None
    server = Server((str(found.get("--host") or "0.0.0.0"), int(found.get("--port", "8000"))), Vllm, False)
    server.server_bind()  # bound at once, but listening only when it is loaded
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    print(f"INFO vLLM API server version {Vllm.version}", flush=True)
    print(
        f"INFO non-default args: { {flag: value for flag, value in found.items() if flag != '--api-key'} }", flush=True
    )
    print(f"INFO Starting to load model {path}...", flush=True)
    time.sleep(2 + folder.size / GIB)
    server.server_activate()
    print("INFO Application startup complete.", flush=True)
    server.serve_forever()


main()
