"""vLLM: chat, embedding and rerank models on NVIDIA GPUs, by its own OpenAI server.

Sources (vLLM 0.33.0): `vllm serve PATH` is set as the entry point, because older images have the module
vllm.entrypoints.openai.api_server there, which is deprecated and takes no path (seen in 0.32.0). CUDA 13.0 needs driver
R580 and compute capability 7.5 to 12.0. `--gpu-memory-utilization` is a share of the *total* memory, default 0.92.
VLLM_API_KEY protects /v1 only. A tensor parallel server needs more shared memory than Docker's default, by `--shm-size`
or `--ipc=host` (docs.vllm.ai, "Using Docker"). HF_HUB_OFFLINE prevents requests to the hub for local weights. A load of
more than VLLM_ENGINE_READY_TIMEOUT_S (600 s) is aborted; a large model on a slow disk takes longer.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from gpurack.engines.args import explicit_args, flags, numbers, parallel, with_dashes
from gpurack.engines.base import (
    CLASSIFY,
    EMBEDDING,
    POOLING,
    RERANK,
    Counter,
    Engine,
    Row,
    named_cuda,
    parallelism_problem,
)
from gpurack.engines.compiled import CUDA, FLASHINFER, TORCH, Compiled
from gpurack.engines.container import READY_TIMEOUT, SHARED_MEMORY, Accelerator, Container, Run, with_secrets
from gpurack.engines.dialect import HUB_CACHE, OWN_VOLUME, Dialect, python
from gpurack.engines.hints import HEADS, NO_ROOM, NO_ROOM_ON_HOST, TOO_FEW_GPUS, WEIGHTS, Hint
from gpurack.engines.memory import Facts, Needs, NotEstimated
from gpurack.engines.probes import ARGPARSE, PYTHON
from gpurack.spec.model import ArgValue, Model
from gpurack.spec.problems import Problem

COMPILED = Compiled("vllm-cache", "/root/.cache/vllm", {"nvidia": CUDA | TORCH | FLASHINFER, "amd": TORCH})
SPECULATIVE = "use --speculative-config '{…}'."
ROCM_SINCE = (0, 14)
"""The first version with images for AMD's GPUs (vllm/vllm-openai-rocm)."""
ON_AMD = {"cap_add": ["SYS_PTRACE"], "security_opt": ["seccomp=unconfined"]}
"""As vLLM's guide starts it on AMD: processes of a tensor parallel server map each other's memory."""
UTILIZATION = 0.92
"""The share of a GPU without `vram`: vLLM's own default of --gpu-memory-utilization."""
FLOATS = {"auto": 2, "half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4}
"""--dtype → bytes. auto: weights of 32 bits are loaded as 16."""
KV_TYPES = {"bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
UNFORESEEN = (
    "load-format", "hf-overrides", "speculative-config", "speculative-model", "enable-lora", "cpu-offload-gb",
    "kv-offloading-size", "kv-cache-memory-bytes", "data-parallel-size", "dp", "enable-expert-parallel", "config",
    "decode-context-parallel-size", "dcp", "num-gpu-blocks-override",
)  # fmt: skip
"""Flags that put something else on the GPUs, or part of it elsewhere, so that nothing can be estimated."""

REMOVED = {
    "task": 'use runner: "pooling", with convert: "embed" for embeddings or "classify" for rerank and scores; chat '
    "models need nothing.",
    "disable-log-requests": "that is the default now; --enable-log-requests turns them on.",
    "guided-decoding-backend": "use --structured-outputs-config.backend.",
    **dict.fromkeys(
        (
            "num-speculative-tokens", "speculative-model", "speculative-model-quantization",
            "speculative-disable-mqa-scorer", "speculative-draft-tensor-parallel-size", "speculative-max-model-len",
            "speculative-disable-by-batch-size", "ngram-prompt-lookup-max", "ngram-prompt-lookup-min",
            "spec-decoding-acceptance-method", "typical-acceptance-sampler-posterior-threshold",
            "typical-acceptance-sampler-posterior-alpha", "disable-logprobs-during-spec-decoding",
        ),
        SPECULATIVE,
    ),
    "rope-scaling": "use --hf-overrides.",
    "rope-theta": "use --hf-overrides.",
    "override-pooler-config": "use --pooler-config.",
    "max-seq-len-to-capture": "use --max-cudagraph-capture-size.",
    "mm-cache-preprocessor": "use --mm-processor-cache-gb.",
    "logits-processor-pattern": "use --logits-processors.",
    "worker-use-ray": "use --distributed-executor-backend ray.",
    "swap-space": "the nearest is --kv-offloading-size.",
    **dict.fromkeys(
        (
            "device", "use-v2-block-manager", "num-scheduler-steps", "multi-step-stream-outputs",
            "scheduler-delay-factor", "num-lookahead-slots",
            "preemption-mode", "disable-async-output-proc", "disable-frontend-multiprocessing",
            "tokenizer-pool-size", "tokenizer-pool-type", "tokenizer-pool-extra-config",
            "prompt-adapters", "enable-prompt-adapter",
            "max-prompt-adapters", "max-prompt-adapter-token", "enable-lora-bias", "lora-extra-vocab-size",
            "long-lora-scaling-factors", "qlora-adapter-name-or-path", "quantization-param-path",
            "override-neuron-config",
        ),
        "remove it.",
    ),
}  # fmt: skip
REMOVED_SINCE = (0, 18)
"""They were removed one by one (--task in 0.13, --disable-log-requests between 0.12 and 0.17).

--swap-space was the last.
"""
QUIET_SINCE = (0, 10, 1)
"""The first version that logs requests only on demand (vllm-project/vllm#21739)."""
_ONE_DASH = "ac asc cc dc dcp dp dpa dpb dpe dph dpl dpm dpn dpp dpr ep pcp pp sc tp"
ONE_DASH = frozenset(_ONE_DASH.split())
"""The flags of vLLM (0.32.0) with one dash and more than one letter."""

SEVERAL = frozenset({
    "served-model-name", "lora-modules", "cudagraph-capture-sizes", "allowed-media-domains", "ignore-patterns",
    "collect-detailed-traces", "logits-processors", "lora-target-modules",
})  # fmt: skip
"""Its flags that take several words: those of a list (arg_utils.py: collection_to_kwargs), and --lora-modules."""
AUTOMATIC = ("auto", "-1")
"""Values of --max-model-len that make it choose the longest context that fits (from 0.14 on)."""
SERVED = "served-model-name"
MULTIPLIERS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""How it reads `32k` (utils/argparse_utils.py: human_readable_int). It refuses `1.5K`: no fraction of a capital."""

_EMBED: Mapping[str, ArgValue] = {"runner": "pooling", "convert": "embed"}
_CLASSIFY: Mapping[str, ArgValue] = {"runner": "pooling", "convert": "classify"}
TASKS: Mapping[str, Mapping[str, ArgValue]] = {
    "generate": {}, "auto": {}, "embedding": _EMBED, "embed": _EMBED, "classify": _CLASSIFY, "score": _CLASSIFY,
}  # fmt: skip
"""Values of the removed --task → the flags that replace them."""
POOLS = {"pooling", "embedding", "embed", "classify", "score", "reward"}
"""Values of --runner, --convert and the removed --task that make it a pooling model, which does not generate."""
POOLED = (EMBEDDING, RERANK, CLASSIFY, POOLING)
DIALECT = Dialect(
    images=r"vllm-openai|vllm-openai-rocm|vllm-cpu|vllm",
    known_by=("served-model-name", "max-model-len", "gpu-memory-utilization", "tensor-parallel-size"),
    programs=(("vllm", "serve"), *python("vllm.entrypoints.openai.api_server")),
    positional=True,
    short={
        "tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size",
        "q": "quantization", "O": "compilation-config",
    },
    one_dash=ONE_DASH,
    paired=True,
    several=SEVERAL,
    multipliers=MULTIPLIERS,
    hub=("tokenizer", "hf-config-path", "lora-modules", "speculative-config", "speculative-model", "generation-config"),
    variables={"VLLM_API_KEY": "api-key"},
    modelscope="VLLM_USE_MODELSCOPE",
    caches={
        "/root/.cache/huggingface": HUB_CACHE, "/root/.cache/vllm": OWN_VOLUME, "/root/.cache": HUB_CACHE,
        "/root/.cache/modelscope": HUB_CACHE,
    },
    named_by_weights=True,
    share="gpu-memory-utilization",
    renamed={
        "guided-decoding-backend": "structured-outputs-config.backend",
        "override-pooler-config": "pooler-config",
        "max-seq-len-to-capture": "max-cudagraph-capture-size",
    },
    replacements={"task": TASKS},
)  # fmt: skip


class Vllm(Engine):
    """`vllm serve` of the official image."""

    name = "vllm"
    title = "vLLM"
    row = Row(
        serves="Hugging Face folders: chat, embeddings, rerank",
        image="`vllm/vllm-openai:v0.33.0`",
        gpus="tensor parallel over all; ≥ 7.5 (≥ 7.0 with CUDA 12)",
        key="exported at the start",
        sets="name, address, key, parallelism, memory fraction, context, offline, shared memory",
        limits="no CPU image; driver ≥ 580 from 0.20",
        state="**real program** (CPU): chat, embeddings, rerank; on GPUs a stand-in",
    )
    dialect = DIALECT
    hints = (
        Hint(
            r"No available memory for the cache blocks|is less than desired GPU memory utilization"
            r"|To serve at least one request",
            NO_ROOM,
            NO_ROOM_ON_HOST,
        ),
        Hint(r"larger than the number of available GPUs", TOO_FEW_GPUS),
        Hint(r"must be divisible by tensor parallel size", HEADS),
        Hint(r"greater than the derived max_model_len", "Its weights support only a shorter context. Lower `context`."),
        Hint(r"Invalid repository ID or local directory", WEIGHTS),
    )
    api = "vllm"
    port = 8000
    weights_folders = True
    enforces_vram = True
    cuda_probe = PYTHON
    dry_start = ARGPARSE
    profiles_memory = True
    shared_memory = SHARED_MEMORY
    compiled = COMPILED
    parallel_flags = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
    unguarded = ("/rerank", "/score", "/tokenize", "/pause")
    counter = Counter("/metrics", "vllm:request_success_total", "requests")
    running = "vllm:num_requests_running"
    sleeping = ("/is_sleeping", "is_sleeping")
    min_compute = "7.0"
    underscores = True
    own_args: ClassVar = {
        "model": "weights", "port": "port", "host": "bind", "served-model-name": "served_name", "api-key": "api_key",
        "max-model-len": "context",
    }  # fmt: skip
    removed_args: ClassVar = REMOVED
    removed_since = REMOVED_SINCE

    def holds_gpus(self, model: Model) -> bool:
        """Return whether it computes on its GPUs; `device` may name another one."""
        return "device" not in model.args

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the image. `version` is upstream's number ("0.33.0")."""
        if accelerator.vendor == "amd":
            if numbers(version) < ROCM_SINCE:
                raise LookupError(
                    "vLLM publishes images for AMD's GPUs from 0.14 on. Choose a newer version, or name an `image`."
                )
            return f"vllm/vllm-openai-rocm:v{version}"
        if accelerator.vendor == "cpu":
            raise LookupError("vLLM's images need a GPU. Set `gpus`, or use llama.cpp for the CPU.")
        return f"vllm/vllm-openai:v{version}"

    def parallelism(self, model: Model, gpus: int) -> tuple[int, int]:
        """Return tensor parallel over all GPUs, unless args set the sizes."""
        pipeline = parallel(model, "pipeline-parallel-size", "pp") or 1
        tensor = parallel(model, "tensor-parallel-size", "tp")
        return tensor or max(gpus // (pipeline * self._replicas(model)), 1), pipeline

    def _replicas(self, model: Model) -> int:
        """Return the data parallel replicas, each with its own GPUs."""
        return parallel(model, "data-parallel-size", "dp") or 1

    def cuda(self, version: str) -> int | None:
        """Return that of the tag (0.33.0-cu129), else 13 from 0.20 on and 12 from 0.11 on (vllm-project/vllm#39878)."""
        usual = 13 if numbers(version) >= (0, 20) else 12 if numbers(version) >= (0, 11) else None
        return named_cuda(version) or (usual if numbers(version) else None)

    def container(self, model: Model, run: Run) -> Container:
        """Return `vllm serve PATH …`, offline, because the weights are on the host."""
        argv = [str(run.weights), f"--{SERVED}", *self.serves(model, run.served_name)]
        argv += ["--host", "0.0.0.0", "--port", str(self.port)]
        named = {with_dashes(flag) for flag in model.args}
        tensor, _ = self.parallelism(model, run.gpus)
        if tensor > 1 and not named & {"tensor-parallel-size", "tp"}:
            argv += ["--tensor-parallel-size", str(tensor)]
        if model.context:
            argv += ["--max-model-len", str(model.context)]
        if run.memory_fraction is not None and "gpu-memory-utilization" not in named:
            argv += ["--gpu-memory-utilization", f"{run.memory_fraction:.3f}"]
        others = {flag: value for flag, value in model.args.items() if with_dashes(flag) != SERVED}
        argv += flags(others, ONE_DASH, SEVERAL)
        environment = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment["VLLM_ENGINE_READY_TIMEOUT_S"] = str(max(READY_TIMEOUT, model.ready_seconds))
        volumes = {COMPILED.volume: COMPILED.folder}
        compose = {"shm_size": self.shared_memory, **(ON_AMD if run.accelerator.vendor == "amd" else {})}
        if not run.api_key_file:
            return Container(argv, ["vllm", "serve"], environment, volumes, compose=compose)
        entrypoint, command = with_secrets({"VLLM_API_KEY": run.api_key_file}, ["vllm", "serve", *argv])
        return Container(command, entrypoint, environment, volumes, compose=compose)

    def serves(self, model: Model, served_name: str) -> list[str]:
        """Return its served name, and those that `args` add."""
        more = explicit_args(model).get(SERVED, [])
        return list(dict.fromkeys([served_name, *map(str, more if isinstance(more, list) else [more])]))

    def adds(self, flag: str, value: ArgValue) -> bool:
        """Accept further served names, and a context that vLLM chooses."""
        return flag == SERVED or (flag == "max-model-len" and str(value) in AUTOMATIC)

    def needs(self, model: Model, facts: Facts) -> Needs:
        """Return a KV cache for one request of the longest context. vLLM fills the rest of its share."""
        args = {flag: str(value) for flag, value in explicit_args(model).items()}
        # The flag changes nothing for weights that are quantized already.
        changes = [flag for flag in ("quantization", "q") if flag in args and not facts.quantized]
        if unforeseen := [*changes, *(flag for flag in UNFORESEEN if flag in args)]:
            raise NotEstimated(f"args.{unforeseen[0]} changes what is on the GPUs")
        longest = model.context or facts.context
        if longest is None:
            raise NotEstimated("the weights do not state their context: set `context`")
        dtype, kv_type = args.get("dtype", "auto"), args.get("kv-cache-dtype", "auto")
        kv_bytes = FLOATS.get(dtype) if kv_type == "auto" else KV_TYPES.get(kv_type)
        if kv_bytes is None or dtype not in FLOATS:
            raise NotEstimated(f"gpurack does not know the data type {kv_type if dtype in FLOATS else dtype}")
        return Needs(longest, (kv_bytes, kv_bytes), (1.0, 1.5), FLOATS[dtype])

    def budget(self, model: Model, gpu: float) -> float:
        """Return its share of the GPU's total memory: from args, from vram, or vLLM's default."""
        try:
            return float(str(explicit_args(model)["gpu-memory-utilization"])) * gpu
        except (KeyError, ValueError):
            return model.vram.of(gpu) if model.vram else UTILIZATION * gpu

    def test_paths(self, model: Model) -> Sequence[str]:
        """Return what pooling models answer, if a flag makes it one."""
        args = explicit_args(model)
        kinds = {str(args.get("runner")), str(args.get("convert")), str(args.get("task"))}
        return POOLED if kinds & POOLS else super().test_paths(model)

    def prompt_logs(self, model: Model) -> list[str]:
        """Return flags and variables that log prompts or answers.

        --enable-log-requests logs prompts (from 0.11.1 on only at level DEBUG), --enable-log-outputs logs answers, and
        so does VLLM_DEBUG_LOG_API_SERVER_RESPONSE (entrypoints/openai/api_server.py). Before 0.10.1 every request was
        logged, unless --disable-log-requests was set.
        """
        found = [
            f"args.{flag}" for flag in ("enable-log-requests", "enable-log-outputs") if flag in explicit_args(model)
        ]
        if (
            model.version
            and numbers(model.version) < QUIET_SINCE
            and "disable-log-requests" not in explicit_args(model)
        ):
            found.append("args without disable-log-requests")
        answers = model.env.get("VLLM_DEBUG_LOG_API_SERVER_RESPONSE", "").lower() in ("1", "true")
        return [*found, *(["env.VLLM_DEBUG_LOG_API_SERVER_RESPONSE"] if answers else [])]

    def check(self, model: Model) -> list[Problem]:
        """Also check that the GPUs match its parallelism."""
        problems = super().check(model)
        if isinstance(model.gpus, list) and model.gpus:
            tensor, pipeline = self.parallelism(model, len(model.gpus))
            replicas = self._replicas(model)
            if tensor * pipeline * replicas != len(model.gpus):
                problems.append(parallelism_problem(tensor, pipeline, replicas, len(model.gpus)))
        return problems
