"""files/remedies.py on a host: hints for an engine's last output."""

import pytest

from gpurack.engines import ENGINES, hints_of
from tests.unit.host_programs import load


@pytest.mark.parametrize(
    ("engine", "code", "said", "helps"),
    [
        (
            "vllm",
            1,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 40.00 GiB.",
            "It does not fit on its GPUs",
        ),
        ("vllm", 1, "ValueError: No available memory for the cache blocks.", "It does not fit on its GPUs"),
        (
            "vllm",
            1,
            "ValueError: Free memory on device cuda:0 (2.00/23.49 GiB) on startup is less than desired GPU memory "
            "utilization (0.92, 21.61 GiB).",
            "reduce its `context`",
        ),
        ("llama.cpp", 1, "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", "larger GPUs"),
        (
            "vllm",
            1,
            "ValueError: World size (4) is larger than the number of available GPUs (2) in this node.",
            "Correct `gpus`",
        ),
        (
            "vllm",
            1,
            "ValueError: Total number of attention heads (28) must be divisible by tensor parallel size (3).",
            "Use another number of GPUs",
        ),
        ("tei", 1, "Runtime compute cap 80 is not compatible with compile time compute cap 89", "Let `version` choose"),
        (
            "vllm",
            1,
            "ValueError: User-specified max_model_len (8192) is greater than the derived max_model_len (512)",
            "Lower `context`",
        ),
        ("vllm", 2, "vllm serve: error: unrecognized arguments: --no-such-flag", "Correct `args`"),
        ("litellm", 2, "Error: No such option: --no-such-flag", "Correct `args`"),
        (
            "tei",
            2,
            "error: invalid value 'many' for '--max-batch-tokens <MAX_BATCH_TOKENS>': invalid digit",
            "Correct `args`",
        ),
        (
            "sglang",
            2,
            "sglang serve: error: argument --max-running-requests: invalid int value: 'many'",
            "Correct `args`",
        ),
        ("litellm", 2, "Error: Invalid value for '--num_workers': 'many' is not a valid integer.", "Correct `args`"),
        (
            "vllm",
            1,
            "ValueError: Invalid repository ID or local directory specified: '/weights/x'.",
            "Check that `weights` names",
        ),
        ("vllm", 1, "RuntimeError: Insufficient space in /dev/shm for shared-memory allocation", "shm_size"),
        (
            "custom",
            1,
            'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.',
            "security_opt",
        ),
        (
            "custom",
            1,
            "sudo: effective uid is not 0, is /usr/bin/sudo on a file system with the 'nosuid' option set …",
            "security_opt",
        ),
        # LiteLLM and Open WebUI with settings from their documentation, observed
        (
            "litellm",
            1,
            "LiteLLM Proxy: DATABASE_URL uses unsupported scheme '<missing scheme>'. LiteLLM's database features …",
            "Correct DATABASE_URL",
        ),
        (
            "open-webui",
            1,
            "sqlalchemy.exc.ArgumentError: Could not parse SQLAlchemy URL from given URL string",
            "or remove it",
        ),
        (
            "open-webui",
            1,
            "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) unable to open database file\n"
            "(Background on this error at: https://sqlalche.me/e/20/e3q8)",
            "Correct DATABASE_URL",
        ),
        (
            "open-webui",
            1,
            "ValueError: Redis URL must specify one of the following schemes (redis://, rediss://, unix://)",
            "REDIS_URL",
        ),
        ("open-webui", 1, "ValueError: Unsupported vector type: nonsense", "VECTOR_DB"),
        # llama-gpt's page: /wait, and Node.js with a wrong address
        (
            "llama-gpt",
            1,
            "[ERROR wait] Timeout! After 600 seconds some hosts are still not reachable",
            "does not answer",
        ),
        (
            "llama-gpt",
            1,
            "Error: Error: getaddrinfo ENOTFOUND saiga\n    at GetAddrInfoReqWrap.onlookup [as oncomplete] {",
            "`env` names another address",
        ),
        ("llama-gpt", 1, "Error: Error: connect ECONNREFUSED 172.18.0.3:8000", "Check that model"),
        ("sglang", 137, "Loading weights: 40 %", "The kernel does this when memory runs out"),
        ("sglang", 137, "CUDA out of memory", "It does not fit on its GPUs"),
        ("vllm", 1, "Traceback (most recent call last):\n  Segmentation fault", ""),
    ],
)
def test_finds_hint(engine: str, code: int, said: str, helps: str) -> None:
    found = remedy(engine, code, said)
    assert helps in found
    assert bool(found) == bool(helps)
    assert not found or (found.startswith(" ") and found.endswith("."))


@pytest.mark.parametrize(
    ("engine", "said", "helps"),
    [
        # llama.cpp on the CPU with a context larger than any memory, observed; and PyTorch's message
        (
            "llama.cpp",
            "E llama_init_from_model: failed to initialize the context: std::bad_alloc",
            "host has too little memory",
        ),
        ("sglang", "DefaultCPUAllocator: not enough memory: Cannot allocate memory", "host has too little memory"),
        ("llama.cpp", "llama_model_load: failed to load model", "Check that `weights` names"),
        (
            "llama-cpp-python",
            "ValueError: Failed to load model from file: /weights/noise.gguf",
            "Check that `weights` names",
        ),
    ],
)
def test_finds_hint_for_model_without_gpus(engine: str, said: str, helps: str) -> None:
    assert helps in remedy(engine, 1, said, cards=False)


def test_engine_has_own_hints_and_custom_image_has_all() -> None:
    said = "ValueError: Unsupported vector type: nonsense"
    assert "VECTOR_DB" in remedy("open-webui", 1, said)
    assert remedy("vllm", 1, said) == ""
    assert "VECTOR_DB" in remedy("custom", 1, said)
    assert {hint for engine in ENGINES.values() for hint in engine.hints} <= set(hints_of("custom"))


def remedy(engine: str, code: int, said: str, cards: bool = True) -> str:
    """The hint of the runner, with the hints in its payload."""
    found: str = load("remedies").error_hint(code, said, [hint.payload for hint in hints_of(engine)], cards)
    return found
