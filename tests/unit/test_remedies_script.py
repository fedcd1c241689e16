"""files/remedies.py on a host: hints for an engine's last output."""

from pathlib import Path

import pytest

from gpurack.engines import ENGINES, hints_of
from tests.unit.host_programs import load

ROOT = Path(__file__).parents[2]


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
        # CUDA's own words (cuGetErrorString of driver 550), as PyTorch, llama.cpp, TEI and the toolkit print them
        (
            "vllm",
            1,
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
            "NumCudaDevices() that might have already set an error? Error 802: system not yet initialized",
            "nvidia-fabricmanager",
        ),
        ("vllm", 1, "Error 803: system has unsupported display driver / cuda driver combination", "LD_LIBRARY_PATH"),
        ("sglang", 1, "Error 804: forward compatibility was attempted on non supported HW", "newer driver"),
        (
            "vllm",
            1,
            "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment",
            "nvidia-modprobe -u -c 0",
        ),
        ("llama.cpp", 1, "ggml_cuda_init: failed to initialize CUDA: unknown error", "nvidia-modprobe -u -c 0"),
        ("tei", 1, 'Could not start backend: DriverError(CUDA_ERROR_UNKNOWN, "unknown error")', "/etc/cdi"),
        ("tei", 1, 'DriverError(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")', "CUDA_VISIBLE_DEVICES"),
        ("vllm", 1, "RuntimeError: No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES"),
        ("vllm", 1, "The NVIDIA driver on your system is too old (found version 12080).", "install a newer driver"),
        ("ollama", 1, 'level=WARN msg="NVIDIA driver too old" required_driver="550 or newer"', "newer driver"),
        (
            "llama.cpp",
            1,
            "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.4, please update your driver",
            "older `version`",
        ),
        ("sglang", 1, "CUDA driver version is insufficient for CUDA runtime version", "the container got no driver"),
        ("vllm", 1, "the provided PTX was compiled with an unsupported toolchain.", "newer driver"),
        ("vllm", 1, "CUDA error: API call is not supported in the installed CUDA driver", "newer driver"),
        ("vllm", 1, "CUDA error: CUDA-capable device(s) is/are busy or unavailable", "MIG mode"),
        ("vllm", 1, "CUDA error: invalid device ordinal", "Correct `gpus`"),
        ("vllm", 1, "CUDA error: initialization error", "permissions of /dev/nvidia"),
        ("custom", 1, "CUDA driver is a stub library", "stubs"),
        ("vllm", 1, "CUDA error: device doesn't have valid Grid license", "licence"),
        ("vllm", 1, "CUDA error: device kernel image is invalid", "Let `version` choose"),
        ("vllm", 1, "CUDA error: uncorrectable ECC error encountered", "hardware failed"),
        (
            "vllm",
            1,
            "CUDA error: uncorrectable NVLink error detected during the execution",
            "hardware failed",
        ),
        ("vllm", 1, "CUDA error: OS call failed or operation not supported on this OS", "seccomp"),
        ("vllm", 1, "torch.AcceleratorError: CUDA error: an illegal memory access was encountered", "grep -i xid"),
        ("vllm", 1, "CUDA error: unspecified launch failure", "grep -i xid"),
        ("vllm", 1, "CUDA error: operation not permitted", "NCCL_P2P_DISABLE"),
        ("vllm", 1, "PermissionError: [Errno 1] Operation not permitted: '/x'", ""),
        ("custom", 1, "MPS client failed to connect to the MPS control daemon or the MPS server", "to use MPS"),
        ("vllm", 128, "could not select device: unresolvable CDI devices nvidia.com/gpu=GPU-1", "nvidia-ctk cdi list"),
        ("vllm", 1, "Failed to initialize NVML: Unknown Error", "Restart it"),
        ("vllm", 1, "Failed to initialize NVML: Driver/library version mismatch", "Reboot the host"),
        ("vllm", 1, "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3356", "iommu=pt"),
        (
            "sglang",
            -6,
            "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, OpType=ALLREDUCE)",
            "NCCL_P2P_DISABLE",
        ),
        # hubs, architectures, arguments
        ("vllm", 1, "exec /usr/bin/python3: exec format error", "another architecture"),
        ("vllm", 1, "OSError: You are trying to access a gated repo.", "hf_token"),
        (
            "vllm",
            1,
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder",
            "missing in `weights`",
        ),
        (
            "sglang",
            1,
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the "
            "cached files.",
            "missing in `weights`",
        ),
        (
            "vllm",
            1,
            "ValueError: Model architectures ['NewForCausalLM'] are not supported for now. Supported architectures: …",
            "newer `version`",
        ),
        (
            "vllm",
            1,
            "ValueError: The checkpoint you are trying to load has model type `new` but Transformers does not "
            "recognize this architecture.",
            "newer `version`",
        ),
        (
            "llama.cpp",
            1,
            "llama_model_load: error loading model: unknown model architecture: 'new'\n"
            "common_init_from_params: failed to load model '/weights/a.gguf'",
            "newer `version`",
        ),
        (
            "vllm",
            1,
            "ValueError: The repository x contains custom code which must be executed to correctly load the model.",
            "trust-remote-code",
        ),
        ("vllm", 1, "INFO non-default args: {'trust_remote_code': True}", ""),
        (
            "vllm",
            1,
            "KeyError: 'invalid tool call parser: nonsense (chose from { hermes,mistral })'",
            "no such tool parser",
        ),
        (
            "vllm",
            2,
            "vllm serve: error: argument --tool-call-parser: invalid choice: 'glm45' (choose from 'hermes')",
            "no such tool parser",
        ),
        # no model is too large for this one
        (
            "vllm",
            1,
            "HSA_STATUS_ERROR_OUT_OF_RESOURCES: The runtime failed to allocate the necessary resources. This error may "
            "also occur when the core runtime library needs to spawn threads or create internal OS-specific events.",
            "does not depend on the size",
        ),
        # engines name the weights after the cause
        (
            "llama.cpp",
            1,
            "cudaMalloc failed: out of memory\ncommon_init_from_params: failed to load model '/weights/a.gguf'",
            "It does not fit on its GPUs",
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
        ("sglang", 137, "Loading weights: 40 %", "The kernel does this when the host's memory runs out"),
        ("sglang", 137, "CUDA out of memory", "It does not fit on its GPUs"),
        ("vllm", 1, "Traceback (most recent call last):\n  Segmentation fault", ""),
    ],
)
def test_finds_hint(engine: str, code: int, said: str, helps: str) -> None:
    found = remedy(engine, code, said)
    assert helps in found
    assert bool(found) == bool(helps)
    assert not found or (found.startswith(" ") and found.endswith("."))


TOO_OLD, NO_GPU, HARDWARE = "driver is too old", "got no GPU that it can open", "hardware failed"
KIND, CRASH, REFUSES, MPS = (
    "does not support this kind of GPU",
    "A kernel of the engine",
    "does not allow",
    "to use MPS",
)
CODES = {
    2: ("OUT_OF_MEMORY", "out of memory", "does not fit on its GPUs"),
    3: ("NOT_INITIALIZED", "initialization error", "could not start in the container"),
    34: ("STUB_LIBRARY", "CUDA driver is a stub library", "`stubs`"),
    35: ("INSUFFICIENT_DRIVER", "CUDA driver version is insufficient for CUDA runtime version", TOO_OLD),
    36: ("CALL_REQUIRES_NEWER_DRIVER", "API call is not supported in the installed CUDA driver", TOO_OLD),
    46: ("DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable", "MIG mode without an instance"),
    100: ("NO_DEVICE", "no CUDA-capable device is detected", NO_GPU),
    101: ("INVALID_DEVICE", "invalid device ordinal", "Correct `gpus`"),
    102: ("DEVICE_NOT_LICENSED", "device doesn't have valid Grid license", "no licence"),
    200: ("INVALID_IMAGE", "device kernel image is invalid", KIND),
    209: ("NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device", KIND),
    214: ("ECC_UNCORRECTABLE", "uncorrectable ECC error encountered", HARDWARE),
    220: ("NVLINK_UNCORRECTABLE", "uncorrectable NVLink error detected during the execution", HARDWARE),
    222: ("UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain.", TOO_OLD),
    304: ("OPERATING_SYSTEM", "OS call failed or operation not supported on this OS", "seccomp"),
    700: ("ILLEGAL_ADDRESS", "an illegal memory access was encountered", CRASH),
    719: ("LAUNCH_FAILED", "unspecified launch failure", CRASH),
    800: ("NOT_PERMITTED", "operation not permitted", REFUSES),
    801: ("NOT_SUPPORTED", "operation not supported", REFUSES),
    802: ("SYSTEM_NOT_READY", "system not yet initialized", "nvidia-fabricmanager"),
    803: (
        "SYSTEM_DRIVER_MISMATCH",
        "system has unsupported display driver / cuda driver combination",
        "Reboot the host",
    ),
    804: (
        "COMPAT_NOT_SUPPORTED_ON_DEVICE",
        "forward compatibility was attempted on non supported HW",
        "compat library",
    ),
    805: ("MPS_CONNECTION_FAILED", "MPS client failed to connect to the MPS control daemon or the MPS server", MPS),
    807: ("MPS_SERVER_NOT_READY", "MPS server is not ready", MPS),
    999: ("UNKNOWN", "unknown error", "/dev/nvidia-uvm is missing"),
}
"""CUDA's codes → name, words (cuGetErrorString of driver 550, cudaGetErrorString of CUDA 13.5), part of the hint."""
FORMS = (
    ("vllm", "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
     "NumCudaDevices() that might have already set an error? Error {code}: {words}"),
    ("sglang", "torch.AcceleratorError: CUDA error: {words}"),
    ("vllm", "gpu1:7:42 [0] NCCL WARN Cuda failure {code} '{words}'\n"
     "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error"),
    ("llama.cpp", "ggml_cuda_init: failed to initialize CUDA: {words}"),
    ("ollama", "CUDA error: {words}"),
    ("tei", 'Could not start backend: Could not start backend: DriverError(CUDA_ERROR_{name}, "{words}")'),
)  # fmt: skip
"""How engines print them."""


@pytest.mark.parametrize("code", CODES)
def test_each_code_of_cuda_has_the_right_hint_from_each_engine(code: int) -> None:
    name, words, helps = CODES[code]
    for engine, form in FORMS:
        assert helps in remedy(engine, 1, form.format(code=code, name=name, words=words)), form


@pytest.mark.parametrize("code", CODES)
def test_troubleshooting_has_the_words_of_each_code(code: int) -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    assert CODES[code][1].rstrip(".") in page


@pytest.mark.parametrize(
    ("engine", "said", "helps"),
    [
        ("vllm", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory", "no driver"),
        ("vllm", "RuntimeError: Failed to infer device type", "cannot use the driver"),
        (
            "vllm",
            "libcuda.so.1: cannot open shared object file\nRuntimeError: Failed to infer device type",
            "no driver",
        ),
        ("ollama", 'level=WARN msg="could not verify NVIDIA driver compatibility for CUDA"', "cannot use the driver"),
        # memory of the host is no memory of GPUs
        ("vllm", "OSError: [Errno 12] Cannot allocate memory", "host has too little memory"),
        (
            "sglang",
            "RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate",
            "host has too little",
        ),
        ("llama.cpp", "terminate called after throwing an instance of 'std::bad_alloc'", "host has too little memory"),
        ("vllm", "MemoryError", "host has too little memory"),
        ("vllm", "torch.OutOfMemoryError: CUDA out of memory.", "does not fit on its GPUs"),
    ],
)
def test_tells_apart_what_is_missing(engine: str, said: str, helps: str) -> None:
    assert helps in remedy(engine, 1, said)


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
