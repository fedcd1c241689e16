"""Which engine an image holds, and how that engine's command line and variables read."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gpurack.engines import ENGINES, llama_cpp, vllm
from gpurack.engines.container import CPU, Accelerator
from gpurack.spec.image_ref import split

IMAGES = (
    (r"(^|/)(vllm-openai|vllm-openai-rocm|vllm-cpu|vllm)$", "vllm"),
    (r"(^|/)llama\.cpp$", "llama.cpp"),
    (r"(^|/)(llama-cpp-python(-cuda)?|cuda_simple|llama-gpt-api[a-z0-9-]*)$", "llama-cpp-python"),
    (r"(^|/)ollama$", "ollama"),
    (r"(^|/)text-embeddings-inference$", "tei"),
    (r"(^|/)sglang$", "sglang"),
    (r"(^|/)llama-gpt-ui$", "llama-gpt"),
    (r"(^|/)open-webui$", "open-webui"),
    (r"(^|/)litellm(-database|-non_root)?$", "litellm"),
)
MOVED = {
    "ghcr.io/ggerganov/llama.cpp": "ghcr.io/ggml-org/llama.cpp",
    "ghcr.io/berriai/litellm": "docker.litellm.ai/berriai/litellm",
}


@dataclass(frozen=True)
class Dialect:
    """How an engine is started by hand.

    programs: what its command may begin with, before the flags. positional: its first word may be the weights.
    short: short and old flags → the long one of today. variables: environment variables → the flag that means the
    same, or a sentence (it contains a space) why the variable is left out. caches: places inside where it keeps what
    can be had again → what becomes of them. one_dash: flags of several letters with one dash.
    """

    programs: tuple[tuple[str, ...], ...] = ()
    positional: bool = False
    short: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    caches: Mapping[str, str] = field(default_factory=dict)
    one_dash: Collection[str] = ()


HUB_CACHE = "gpurack fetches weights itself, once for all models of the host (weights_dir)"
OWN_VOLUME = "gpurack keeps this in a volume of its own, which starts empty"
_PYTHON = ("python3", "python")
DIALECTS: Mapping[str, Dialect] = {
    "vllm": Dialect(
        one_dash=vllm.ONE_DASH,
        programs=(
            ("vllm", "serve"),
            *((python, "-m", "vllm.entrypoints.openai.api_server") for python in _PYTHON),
        ),
        positional=True,
        short={"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size",
               "q": "quantization", "O": "compilation-config"},
        variables={"VLLM_API_KEY": "api-key"},
        caches={"/root/.cache/huggingface": HUB_CACHE, "/root/.cache/vllm": OWN_VOLUME, "/root/.cache": HUB_CACHE,
                "/root/.cache/modelscope": HUB_CACHE},
    ),
    "llama.cpp": Dialect(
        one_dash=llama_cpp.ONE_DASH,
        programs=(("--server",), ("-s",), ("/app/llama-server",), ("llama-server",), ("./llama-server",), ("/server",)),
        short={
            "ngl": "n-gpu-layers", "gpu-layers": "n-gpu-layers", "fa": "flash-attn", "cb": "cont-batching",
            "np": "parallel", "ts": "tensor-split", "sm": "split-mode", "mg": "main-gpu", "tb": "threads-batch",
            "ub": "ubatch-size", "ctk": "cache-type-k", "ctv": "cache-type-v", "nkvo": "no-kv-offload",
            "hfr": "hf-repo", "hff": "hf-file", "mu": "model-url", "dev": "device", "sp": "special",
        },
        variables={
            "LLAMA_ARG_MODEL": "model", "LLAMA_ARG_CTX_SIZE": "ctx-size", "LLAMA_ARG_PORT": "port",
            "LLAMA_ARG_HOST": "host", "LLAMA_ARG_N_GPU_LAYERS": "n-gpu-layers", "LLAMA_ARG_HF_REPO": "hf-repo",
            "LLAMA_ARG_ALIAS": "alias", "LLAMA_API_KEY": "api-key",
        },
        caches={"/root/.cache/llama.cpp": HUB_CACHE, "/root/.cache/huggingface": HUB_CACHE},
    ),
    "llama-cpp-python": Dialect(
        programs=tuple((python, "-m", "llama_cpp.server") for python in _PYTHON),
        variables={
            "MODEL": "model", "MODEL_ALIAS": "model_alias", "N_CTX": "n_ctx", "N_GPU_LAYERS": "n_gpu_layers",
            "HOST": "host", "PORT": "port", "API_KEY": "api_key", "CONFIG_FILE": "config_file",
        },
    ),
    "ollama": Dialect(
        programs=(("serve",), ("ollama", "serve"), ("/bin/ollama", "serve")),
        variables={
            "OLLAMA_CONTEXT_LENGTH": "context",
            "OLLAMA_HOST": "gpurack sets it; port and bind say where it answers",
            "OLLAMA_MODELS": "gpurack keeps the models in a volume of its own",
        },
        caches={"/root/.ollama": OWN_VOLUME + "; name the models in pull"},
    ),
    "tei": Dialect(
        programs=(("text-embeddings-router",), ("./entrypoint.sh",)),
        short={"p": "port"},
        variables={"MODEL_ID": "model-id", "REVISION": "revision", "API_KEY": "api-key", "PORT": "port",
                   "HOSTNAME": "hostname"},
        caches={"/data": HUB_CACHE},
    ),
    "sglang": Dialect(
        programs=(*((python, "-m", "sglang.launch_server") for python in _PYTHON), ("sglang", "serve")),
        short={"tp": "tp-size", "tensor-parallel-size": "tp-size", "pp": "pp-size", "dp": "dp-size"},
        caches={"/root/.cache/huggingface": HUB_CACHE, "/root/.cache": HUB_CACHE},
    ),
    "llama-gpt": Dialect(
        variables={
            "OPENAI_API_HOST": "connects_to", "OPENAI_API_KEY": "the page is given the key of the model it connects to",
            "DEFAULT_MODEL": "the page is given the name that its model answers by",
            "WAIT_HOSTS": "the page waits for the model it connects to",
            "WAIT_TIMEOUT": "the page waits for the model it connects to, 600 seconds",
        },
    ),
    "open-webui": Dialect(
        programs=(("bash", "start.sh"),),
        variables={
            "OPENAI_API_BASE_URL": "connects_to", "OPENAI_API_BASE_URLS": "connects_to",
            "OLLAMA_BASE_URL": "connects_to", "OLLAMA_BASE_URLS": "connects_to",
            "OPENAI_API_KEY": "the page is given the keys of what it connects to",
            "OPENAI_API_KEYS": "the page is given the keys of what it connects to",
            "WEBUI_SECRET_KEY": "gpurack lets it make one, which survives",
        },
        caches={"/app/backend/data": OWN_VOLUME + "; copy accounts and chats if they are needed"},
    ),
    "litellm": Dialect(
        programs=(("litellm",), ("docker/prod_entrypoint.sh",)),
        variables={"LITELLM_MASTER_KEY": "api-key"},
    ),
    "custom": Dialect(),
}  # fmt: skip
PARALLEL_FLAGS = {name: engine.parallel_flags for name, engine in ENGINES.items() if engine.parallel_flags}
"""Engines that compute on as many cards as their flags say, whatever they are shown."""


def floats(reference: str) -> bool:
    """Can the reference be another image tomorrow? A tag without a number says no version.

    >>> floats("a/b:server-cuda12"), floats("a/b"), floats("a/b:1.6"), floats("a/b@sha256:0")
    (True, True, False, False)
    """
    _, tag, digest = split(reference)
    return digest is None and not re.search(r"\d", re.sub(r"(cuda|rocm)\d+", "", tag or ""))


def moved(reference: str) -> str:
    """A reference at its present place."""
    name, _, _ = split(reference)
    return MOVED[name] + reference[len(name) :] if name in MOVED else reference


def engine_of(reference: str) -> str | None:
    """The engine that an image of this name holds."""
    name, _, _ = split(reference)
    return next((engine for pattern, engine in IMAGES if re.search(pattern, name)), None)


def is_job(reference: str, command: tuple[str, ...]) -> bool:
    """Is it llama.cpp's `light` or `full` image, doing something that ends?"""
    tag = split(reference)[1] or ""
    if engine_of(reference) != "llama.cpp":
        return False
    return tag.startswith("light") or (tag.startswith("full") and command[:1] not in (("--server",), ("-s",)))


def version_of(engine: str, reference: str, with_cards: bool) -> str | None:
    """The version by which gpurack would choose this very image, whatever the cards are; None when there is none."""
    _, tag, digest = split(reference)
    if tag is None or digest is not None or floats(reference):
        return None
    computes = (None, "7.5", "8.0", "8.6", "8.9", "9.0")
    accelerators = [Accelerator("nvidia", compute) for compute in computes] if with_cards else [CPU]
    for candidate in dict.fromkeys((tag, tag.lstrip("v"), *(part.lstrip("v") for part in _tails(tag)))):
        try:
            chosen = {ENGINES[engine].image(candidate, accelerator) for accelerator in accelerators}
        except LookupError:
            return None
        if chosen == {reference.removeprefix("docker.io/")}:
            return candidate
    return None


def _tails(tag: str) -> list[str]:
    """`server-cuda-b7000` → `cuda-b7000`, `b7000`."""
    parts = tag.split("-")
    return ["-".join(parts[start:]) for start in range(1, len(parts))]
