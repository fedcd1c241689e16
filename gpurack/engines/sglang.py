"""SGLang: chat models on NVIDIA GPUs, tensor parallel.

Sources (SGLang 0.5.23): it binds to 127.0.0.1 by default. The image has no server as its entry point. /health is 503
while it warms up (/v1/models answers earlier). `--api-key` as a flag would show in every process list; in the file of
`--config` (its name must end in .yaml) it does not. But the server writes all its arguments, including the key, to its
log (sgl-project/sglang#37457, open in September 2026), so its output goes through a filter. --mem-fraction-static is
the share of weights and KV cache alone, about 0.88 of a whole GPU; the rest is for activations and CUDA graphs. Any
model name is answered and returned unchanged (#7035, #31404).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from gpurack.engines.args import explicit_args, flags, numbers, parallel, with_dashes
from gpurack.engines.base import EMBEDDING, RERANK, Counter, Engine, Row, named_cuda, parallelism_problem
from gpurack.engines.compiled import CUDA, FLASHINFER, TORCH, Compiled
from gpurack.engines.container import SHARED_MEMORY, Accelerator, Container, Run
from gpurack.engines.dialect import HUB_CACHE, Dialect, python
from gpurack.engines.probes import ARGPARSE, PYTHON
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

COMPILED = Compiled("sglang-cache", "/root/.cache", {"nvidia": CUDA | TORCH | FLASHINFER, "amd": TORCH})
STATIC = 0.88
"""The part of a model's share of a GPU for --mem-fraction-static."""
SEVERAL = frozenset({
    "lora-paths", "lora-target-modules", "cuda-graph-bs", "debug-tensor-dump-layers", "prompt-tokens-buckets",
    "generation-tokens-buckets", "bucket-time-to-first-token", "bucket-inter-token-latency",
    "bucket-e2e-request-latency",
})  # fmt: skip
"""Its flags that take several words (server_args.py: nargs)."""
KEY_CONFIG = "/run/gpurack/key.yaml"
"""In memory, created at the start."""
KEEPER = """\
import json, os, signal, subprocess, sys
os.umask(0o077)
key = open(sys.argv[1]).read().strip()
assert key, "the key is empty"
with open(sys.argv[2], "w") as config:
    json.dump({"api-key": key}, config)
server = subprocess.Popen(sys.argv[3:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: server.send_signal(number))
for line in server.stdout:
    sys.stdout.buffer.write(line.replace(key.encode(), b"***"))
    sys.stdout.buffer.flush()
code = server.wait()
sys.exit(code if code >= 0 else 128 - code)
"""
"""Passes the key to the server in a file, and removes it from the log."""


class Sglang(Engine):
    """`python3 -m sglang.launch_server` of the official image."""

    name = "sglang"
    title = "SGLang"
    row = Row(
        serves="Hugging Face folders: chat",
        image="`lmsysorg/sglang:v0.5.23`",
        gpus="tensor parallel over all",
        key="file, kept out of its log",
        sets="name, address, key, parallelism, static fraction, context, offline, shared memory",
        limits="no CPU image",
        state="stand-in",
    )
    dialect = Dialect(
        images="sglang",
        programs=(*python("sglang.launch_server"), ("sglang", "serve")),
        short={"tp": "tp-size", "tensor-parallel-size": "tp-size", "pp": "pp-size", "dp": "dp-size"},
        several=SEVERAL,
        hub=("tokenizer-path", "lora-paths", "speculative-draft-model-path"),
        modelscope="SGLANG_USE_MODELSCOPE",
        caches={"/root/.cache/huggingface": HUB_CACHE, "/root/.cache": HUB_CACHE},
        named_by_weights=True,
    )
    port = 30000
    ready_path = "/health"
    ready_names_model = False
    weights_folders = True
    any_name = True
    enforces_vram = True
    cuda_probe = PYTHON
    dry_start = ARGPARSE
    profiles_memory = True
    shared_memory = SHARED_MEMORY
    compiled = COMPILED
    parallel_flags = ("tp-size", "pp-size", "dp-size")
    counter = Counter("/metrics", "sglang:num_requests_total", "requests")
    running = "sglang:num_running_reqs"
    abbreviates = True
    own_args: ClassVar = {
        "model-path": "weights", "model": "weights", "host": "bind", "port": "port",
        "served-model-name": "served_name", "api-key": "api_key", "context-length": "context",
    }  # fmt: skip

    def holds_gpus(self, model: Model) -> bool:
        """Return whether it computes on its GPUs; `device` may name another one."""
        return "device" not in model.args

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the image. `version` is upstream's number ("0.5.23")."""
        if accelerator.vendor == "cpu":
            raise LookupError("SGLang's images need a GPU. Set `gpus`, or use llama.cpp for the CPU.")
        if accelerator.vendor == "amd":
            raise LookupError("SGLang has a different image for each AMD GPU. Name the one for yours in `image`.")
        return f"lmsysorg/sglang:v{version}"

    def cuda(self, version: str) -> int | None:
        """Return that of the tag, else 13 from 0.5.11 on (gpustack/gpustack#5285)."""
        return named_cuda(version) or (13 if numbers(version) >= (0, 5, 11) else None)

    def parallelism(self, model: Model, gpus: int) -> tuple[int, int]:
        """Return tensor parallel over all GPUs, unless args set pp-size, tp-size or dp-size."""
        pipeline = parallel(model, "pp-size", "pipeline-parallel-size") or 1
        tensor = parallel(model, "tp-size", "tensor-parallel-size", "tp")
        data = self._replicas(model)
        return tensor or max(gpus // (pipeline * data), 1), pipeline

    def _replicas(self, model: Model) -> int:
        """Return the data parallel replicas with their own GPUs. With dp attention they share GPUs."""
        shared = any(with_dashes(flag) == "enable-dp-attention" and value for flag, value in model.args.items())
        return 1 if shared else parallel(model, "dp-size", "data-parallel-size", "dp") or 1

    def container(self, model: Model, run: Run) -> Container:
        """Return the server on port 30000, offline, because the weights are on the host."""
        argv = ["python3", "-m", "sglang.launch_server", "--model-path", str(run.weights)]
        argv += ["--served-model-name", run.served_name, "--host", "0.0.0.0", "--port", str(self.port)]
        named = {with_dashes(flag) for flag in model.args}
        argv += [] if "enable-metrics" in named else ["--enable-metrics"]
        tensor, _ = self.parallelism(model, run.gpus)
        if tensor > 1 and not named & {"tp-size", "tensor-parallel-size", "tp"}:
            argv += ["--tp-size", str(tensor)]
        if model.context:
            argv += ["--context-length", str(model.context)]
        if run.memory_fraction is not None and "mem-fraction-static" not in named:
            argv += ["--mem-fraction-static", f"{run.memory_fraction * STATIC:.3f}"]
        argv += flags(model.args)
        environment = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        volumes = {COMPILED.volume: COMPILED.folder}
        if not run.api_key_file:
            return Container(argv, environment=environment, volumes=volumes, compose={"shm_size": self.shared_memory})
        command = [KEEPER, run.api_key_file, KEY_CONFIG, *argv, "--config", KEY_CONFIG]
        environment["PYTHONUNBUFFERED"] = "1"
        compose = {"shm_size": self.shared_memory, "tmpfs": [f"{KEY_CONFIG.rpartition('/')[0]}:mode=0700"]}
        return Container(command, ["python3", "-c"], environment, volumes, compose=compose)

    def started_by(self, command: Sequence[str]) -> tuple[Mapping[str, str], Sequence[str]]:
        """Return the server behind KEEPER, with the file of its key as a flag."""
        if list(command[:3]) != ["python3", "-c", KEEPER]:
            return {}, command
        key_file, _, *argv = command[3:]
        return {}, [*argv[: -len(("--config", KEY_CONFIG))], "--api-key", f"$(cat {key_file})"]

    def test_paths(self, model: Model) -> Sequence[str]:
        """Return embeddings and rerank for `is-embedding`."""
        return (EMBEDDING, RERANK) if "is-embedding" in explicit_args(model) else super().test_paths(model)

    def prompt_logs(self, model: Model) -> list[str]:
        """Return flags that log or store prompts.

        --log-requests from its level 2 on, which is the default (0 and 1: metadata, 2: a part of request and answer, 3:
        all of it). --crash-dump-folder stores the requests of the last five minutes before a crash (docs.sglang.io,
        "Observability"). --export-metrics-to-file writes each request with its text, unless the level of --log-requests
        is 0 or 1 (srt/observability: request_metrics_exporter.py, request_logger.py).
        """
        args = explicit_args(model)
        level = str(args.get("log-requests-level", 2)) if "log-requests" in args else ""
        flags = {"log-requests": level not in ("", "0", "1"), "crash-dump-folder": True}
        flags["export-metrics-to-file"] = level not in ("0", "1")
        return [f"args.{flag}" for flag, logs in flags.items() if logs and flag in args]

    def check(self, model: Model) -> list[Problem]:
        """Also check that the GPUs match its parallelism, and that the key's --config is the only one."""
        problems = super().check(model)
        if isinstance(model.gpus, list) and model.gpus:
            tensor, pipeline = self.parallelism(model, len(model.gpus))
            data = self._replicas(model)
            if tensor * pipeline * data != len(model.gpus):
                problems.append(parallelism_problem(tensor, pipeline, data, len(model.gpus)))
        if "config" in model.args and model.api_key:
            problems.append(Problem.of("key-by-config-flag", path="args.config"))
        return problems
