"""files/error_hints.py on a host: hints for an engine's last output."""

from pathlib import Path

import pytest

from gpurack.engines import ENGINES, hints_of
from gpurack.engines.hints import argument_hints
from gpurack.plan.models.desired import desire
from gpurack.plan.runner import own_hints
from tests.given import host_state, models
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
        (
            "vllm",
            128,
            'CDI device injection failed: failed to stat CDI host device "/dev/dri/card0": no such file or directory',
            "old specs in /etc/cdi",
        ),
        ("vllm", 1, 'could not select device driver "" with capabilities: [[gpu]]', "restart docker"),
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
    found = hint_for(engine, code, said)
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
        assert helps in hint_for(engine, 1, form.format(code=code, name=name, words=words)), form


@pytest.mark.parametrize("code", CODES)
def test_troubleshooting_has_the_words_of_each_code(code: int) -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    assert CODES[code][1].rstrip(".") in page


SEARCHED = (
    # the kernel's log (NVIDIA's open kernel modules: nv.c, nv-pci.c, osapi.c)
    "requires use of the NVIDIA open kernel modules", "is not supported by open", "is not supported by the",
    "ignoring the legacy GPU", "The NVIDIA probe routine was not called", "obtained ownership of the NVIDIA device(s)",
    "No NVIDIA GPU found", "RmInitAdapter failed", "rm_init_adapter failed", "NVRM: API mismatch",
    "GPU has fallen off the bus", "fallen off the bus and is not responding to commands",
    "nvidia-nvswitch: Version mismatch", "GPU recovery action changed from", "Key was rejected by service",
    "Timeout after 6s of waiting for RPC response from GPU",
    # nvidia-smi
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver", "No devices were found",
    "couldn't find libnvidia-ml.so library in your system", "Driver/library version mismatch", "GPU is lost",
    "Unable to determine the device handle", "infoROM is corrupted", "is not a valid field to query",
    "[GPU requires reset]", "[N/A]", "[Not Supported]", "[Unknown Error]", "[Insufficient Permissions]",
    "currently being used by one or more other processes", "In use by another client",
    "MIG mode is in pending enable state", "No MIG-supported devices found", "No GPU instances found",
    # the fabric manager
    "detected number of NVSwitches don't match with any supported system topology", "failed to find the GPU handle",
    "detected NVSwitch fatal error", "In Progress", "Not Started", "NETIR_LINK_EVT Fatal", "NV_WARN_NOTHING_TO_DO",
    "Unit nvidia-fabricmanager.service not found",
    # containers and engines
    "unresolvable CDI devices", "failed to stat CDI host device", "could not select device driver",
    "requirement error: unsatisfied condition: cuda>=", "nvidia-container-cli: initialization error",
    "torch.AcceleratorError: CUDA error", "NCCL WARN Cuda failure",
    "Failed to initialize NVML: Unknown Error", "Driver Not Loaded", "ERROR_NVML_LIB_CALL", "CUDA_ERROR_UNKNOWN",
    "Unexpected error from cudaGetDeviceCount()", "Setting the available devices to be zero",
    "The NVIDIA driver on your system is too old", "No CUDA GPUs are available", "Failed to infer device type",
    "ggml_cuda_init: failed to initialize CUDA", "NVIDIA driver too old", "Could not start backend",
    "could not verify NVIDIA driver compatibility", "Runtime compute cap", "Using CPU instead",
    "Could not find a compatible CUDA device on host",
)  # fmt: skip
"""Texts that users see and search for."""


@pytest.mark.parametrize("text", SEARCHED)
def test_troubleshooting_has_what_users_search_for(text: str) -> None:
    assert text in (ROOT / "docs/troubleshooting.md").read_text()


@pytest.mark.parametrize(
    ("engine", "said", "helps"),
    [
        ("vllm", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory", "no driver"),
        ("vllm", "RuntimeError: Failed to infer device type", "cannot use the driver"),
        ("vllm", "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown", "no driver"),
        ("vllm", "nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1", "no driver"),
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
    assert helps in hint_for(engine, 1, said)


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
    assert helps in hint_for(engine, 1, said, on_gpus=False)


def test_engine_has_own_hints_and_custom_image_has_all() -> None:
    said = "ValueError: Unsupported vector type: nonsense"
    assert "VECTOR_DB" in hint_for("open-webui", 1, said)
    assert hint_for("vllm", 1, said) == ""
    assert "VECTOR_DB" in hint_for("custom", 1, said)
    assert {hint for engine in ENGINES.values() for hint in engine.hints} <= set(hints_of("custom"))


def hint_for(engine: str, code: int, said: str, on_gpus: bool = True) -> str:
    """The hint of the runner, with the hints in its payload."""
    found: str = load("error_hints").error_hint(code, said, [hint.payload for hint in hints_of(engine)], on_gpus)
    return found


LLAMA = ["--model", "/weights/a.gguf", "--alias", "qwen", "--port", "8000", "--threads", "many"]


@pytest.mark.parametrize(
    ("said", "field", "helps"),
    [
        ('error: "--threads": stoi', "version", "Correct `args.threads`: its value must be a number."),
        ('error while handling argument "--threads": stoi', "version", "Correct `args.threads`: its value must be"),
        ("x: error: argument --threads: invalid int value: 'many'", "version", "Correct `args.threads`: its value"),
        ("error: invalid value 'many' for '--threads <N>': invalid digit", "version", "Correct `args.threads`: its"),
        ("error: argument --threads: expected one argument", "version", "Correct `args.threads`."),
        ("error: invalid argument: --no-such-flag", "version", "Correct `args`."),
        ("error: invalid argument: --alias", "image", "gpurack sets this flag, and the program of the image does not"),
        ("x: error: unrecognized arguments: --alias qwen", "image", "Check `image`: it must be an image of llama.cpp"),
        ("error: unexpected argument '--alias' found", "version", "Check `version`: it must"),
    ],
)
def test_refused_argument_is_named_by_who_set_it(said: str, field: str, helps: str) -> None:
    hints = [*hints_of("llama.cpp"), *argument_hints(LLAMA, ["threads"], "llama.cpp", field)]
    found = load("error_hints").error_hint(1, said, [hint.payload for hint in hints])
    assert helps in found


def test_payload_has_hints_for_the_arguments_of_an_entry() -> None:
    found = own_hints(desire("alpha", models(alpha={"gpus": [], "args": {"threads": "many"}}), host_state(), (), {}))
    (own,) = [hint for hint in found if hint.text.startswith("gpurack sets")]
    assert ("--?alias" in own.pattern, "threads" in own.pattern) == (True, False)
    assert any("args.threads" in hint.text for hint in found)
