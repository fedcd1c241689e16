"""Hints for the errors of servers that exit. The runner on the host chooses one (files/error_hints.py)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MEMORY = "give it more or larger GPUs, reduce its `context`, or lower the `vram` of models that share its GPUs"
NO_ROOM = f"It does not fit on its GPUs: {MEMORY}."
NO_ROOM_ON_HOST = "The host has too little memory for it. Reduce its `context`, or use a smaller model."
WEIGHTS = "It cannot read its weights. Check that `weights` names the right file or folder, complete and in its format."
TOO_FEW_GPUS = "Its parallelism needs more GPUs. Correct `gpus`, or the parallel sizes in `args`."
HEADS = (
    "Its attention heads cannot be divided by this number of GPUs. Use another number of GPUs, or pipeline parallelism "
    "in `args`."
)
NO_P2P = 'Try env: {"NCCL_P2P_DISABLE": "1"}. Possible causes: IOMMU without `iommu=pt`, or ACS on PCIe bridges.'
WRONG_GPU = "Its image does not support this kind of GPU. Let `version` choose the image, or use another GPU."
DATABASE = (
    "It cannot use a database that `env` names. Correct DATABASE_URL, REDIS_URL or VECTOR_DB, or remove it; none is "
    "required."
)


@dataclass(frozen=True)
class Hint:
    """A hint for a line in a server's output.

    pattern: regular expression for the line, in any case. text: the hint. on_cpu: the hint for a model without GPUs, if
    it differs. weak: does it count only if no other line has a hint? Engines print such lines after the cause.
    """

    pattern: str
    text: str
    on_cpu: str = ""
    weak: bool = False

    @property
    def payload(self) -> tuple[str, str, str, bool]:
        """What the runner on the host gets: pattern, hint, hint without GPUs, is it weak?"""
        return self.pattern, self.text, self.on_cpu or self.text, self.weak


CUDA = (
    Hint(
        r"insufficient for CUDA runtime version",
        "The NVIDIA driver is too old for its image, or the container got no driver. Compare `CUDA Version` of "
        "`nvidia-smi` with the image's; install a newer driver, or set an older `version`.",
    ),
    Hint(
        r"NVIDIA driver on your system is too old|NVIDIA driver too old|unsatisfied condition: cuda"
        r"|not supported in the installed CUDA driver|compiled with an unsupported toolchain",
        "The NVIDIA driver is too old for its image. Compare `CUDA Version` of `nvidia-smi` with the image's; install "
        "a newer driver, or set an older `version`.",
    ),
    Hint(
        r"no CUDA-capable device is detected|No CUDA GPUs are available",
        "The container got no GPU that it can open. Run `systemctl restart nvidia-cdi-refresh` on the host. Neither "
        "the image nor `compose` may set CUDA_VISIBLE_DEVICES.",
    ),
    Hint(
        r"libcuda\.so\.1: cannot open shared object|NVML: Driver Not Loaded|nvidia-container-cli: initialization error",
        "The container got no driver. Run `nvidia-smi` on the host. If that works, run "
        "`systemctl restart nvidia-cdi-refresh`.",
    ),
    Hint(
        r"Failed to infer device type|could not verify NVIDIA driver compatibility",
        "It cannot use the driver. Run `nvidia-smi` on the host, then `gpurack verify`, which tests CUDA in "
        "containers.",
        weak=True,
    ),
    Hint(
        r"GPUs that CUDA sees: \d+ of \d+",
        "A GPU is missing in the container, or has failed. Run `nvidia-smi -L` and "
        "`systemctl restart nvidia-cdi-refresh` on the host.",
    ),
    Hint(
        r"busy or unavailable",
        "Another process has the GPU for itself, or the GPU is in MIG mode without an instance. Check "
        "`nvidia-smi -q -d COMPUTE` and `nvidia-smi -L`; `nvidia-smi -c DEFAULT` allows several processes.",
    ),
    Hint(
        r"(CUDA|cuda).*initialization error",
        "CUDA could not start in the container. Check on the host: `nvidia-smi`, and the permissions of /dev/nvidia*.",
    ),
    Hint(r"CUDA driver is a stub library", "LD_LIBRARY_PATH names a folder `stubs` of CUDA. Remove it from `env`."),
    Hint(r"valid Grid license", "The vGPU has no licence. Check `nvidia-smi -q | grep -i license` and nvidia-gridd."),
    Hint(
        r"uncorrectable (ECC|NVLink) error",
        "The GPU's hardware failed. Check `nvidia-smi -q -d ECC,ROW_REMAPPER` and `dmesg | grep -i xid`, then reset "
        "the GPU or reboot the host.",
    ),
    Hint(
        r"OS call failed or operation not supported on this OS",
        "The kernel refused a call of CUDA. Check seccomp and AppArmor settings in `compose`, and `dmesg`.",
    ),
    Hint(
        r"illegal memory access|unspecified launch failure",
        "A kernel of the engine failed on the GPU. Check `dmesg | grep -i xid`. If only this model fails, try another "
        "`version`; if only this GPU fails, another GPU.",
    ),
    Hint(
        r"(CUDA.*|Error 80[01]: |Cuda failure 80[01].*)operation not (permitted|supported(?! on))",
        "The GPU or the virtual machine does not allow what the engine asks for, such as direct copies between GPUs. "
        'Try env: {"NCCL_P2P_DISABLE": "1"}.',
    ),
    Hint(
        r"system not yet initialized",
        "The NVSwitch fabric is not ready. Check `systemctl status nvidia-fabricmanager`; its version must be the "
        "driver's.",
    ),
    Hint(
        r"unsupported display driver / cuda driver combination|Driver/library version mismatch",
        "Library and kernel module of the driver differ. Reboot the host if the driver was upgraded. If `nvidia-smi` "
        "works on the host, the image's own CUDA compat library is in the way: set "
        'env: {"LD_LIBRARY_PATH": "/usr/local/nvidia/lib64:/usr/local/nvidia/lib"}.',
    ),
    Hint(
        r"forward compatibility was attempted",
        "The image's CUDA compat library does not support this kind of GPU. Install a newer driver, or set an older "
        "`version`.",
    ),
    Hint(
        r"MPS client failed to connect|MPS server is not ready",
        "CUDA is told to use MPS, and its server does not answer. Run `echo quit | nvidia-cuda-mps-control` on the "
        "host, and remove CUDA_MPS_PIPE_DIRECTORY from `env`.",
    ),
    Hint(
        r"(CUDA.*|Error 999: ?)unknown error|CUDA_ERROR_UNKNOWN",
        "/dev/nvidia-uvm is missing in the container, or has another number than on the host. Run "
        "`nvidia-modprobe -u -c 0 && systemctl restart nvidia-cdi-refresh` on the host, and remove old specs in "
        "/etc/cdi. After suspend and resume: `rmmod nvidia_uvm && modprobe nvidia_uvm`.",
    ),
    Hint(
        r"Failed to initialize NVML: Unknown Error",
        "The container lost its GPUs, as containers of the older GPU hook do when systemd reloads. Restart it.",
    ),
    Hint(
        r"unresolvable CDI devices",
        "No CDI spec names its GPU. Run `systemctl restart nvidia-cdi-refresh` on the host; `nvidia-ctk cdi list` "
        "shows the names.",
    ),
    Hint(
        r"failed to stat CDI host device",
        "A CDI spec names a device node of an earlier boot or driver. Run `systemctl restart nvidia-cdi-refresh` on "
        "the host, and remove old specs in /etc/cdi.",
    ),
    Hint(
        r"could not select device driver",
        "Docker does not know NVIDIA's toolkit, which it looks for only at its start. Run `systemctl restart docker` "
        "on the host.",
    ),
    Hint(
        r"no usable GPU found|not compiled with GPU offload|no CUDA devices found|no compatible GPUs|no GPU discovered"
        r"|offloaded 0/\d+ layers|Starting \w+ model on Cpu",
        "It found no GPU that it can use. Run `nvidia-smi` on the host, then `gpurack verify`. Its image may have no "
        "CUDA, or none for this GPU.",
        weak=True,
    ),
    Hint(
        r"NCCL error|ncclUnhandledCudaError|ncclSystemError|Watchdog caught collective operation timeout",
        f"The exchange of data between its GPUs failed. {NO_P2P}",
        weak=True,
    ),
    # the last line of a server that hangs (files/loading.py: unready). vllm-project/vllm#8058, #12292
    Hint(
        r"^no progress: .*(using nccl==|NCCL INFO|init torch distributed begin|broadcast block found in \d+ s)",
        f"Its GPUs seem to wait for each other. {NO_P2P}",
        weak=True,
    ),
)
"""Hints for CUDA's errors. Their words: cuGetErrorString of driver 550, cudaGetErrorString of CUDA 13.5."""

COMMON = (
    Hint(
        r"^exit code 137$",
        "It was killed. The kernel does this when the host's memory runs out (check: `dmesg | grep -i oom`). Use a "
        "smaller model or `context`, or raise the limit that `compose` sets.",
        weak=True,
    ),
    Hint(r"failed to load model", WEIGHTS, weak=True),
    Hint(
        r"out of memory|OutOfMemory|Not enough memory|cudaMalloc failed|failed to allocate",
        NO_ROOM,
        NO_ROOM_ON_HOST,
    ),
    Hint(r"bad_alloc|\bMemoryError|Cannot allocate memory|DefaultCPUAllocator|failed to allocate CPU", NO_ROOM_ON_HOST),
    Hint(r"/dev/shm", 'It needs more shared memory. Set compose: {"shm_size": "64gb"}, or {"ipc": "host"}.'),
    Hint(
        r"no new privileges|effective uid is not 0",
        "Its image uses sudo or another setuid program. Use an image that does not, or set "
        'compose: {"security_opt": ["no-new-privileges:false"]}.',
    ),
    # after the hint about memory: ROCm's sentence says "failed to allocate the necessary resources"
    Hint(
        r"HSA_STATUS_ERROR_OUT_OF_RESOURCES",
        "ROCm could not open the GPU or create its queues. That does not depend on the size of the model. Check the "
        "groups of /dev/kfd and /dev/dri, and `dmesg | grep -i -e amdgpu -e kfd` on the host.",
    ),
    Hint(r"needs as many GPUs|invalid device ordinal", TOO_FEW_GPUS),
    Hint(r"is not divisible by", HEADS),
    Hint(r"needs compute capability|no kernel image is available|device kernel image is invalid", WRONG_GPU),
    Hint(
        r"exec format error",
        "Its image is for another architecture than the host. Choose one for it (`docker image inspect` shows it).",
    ),
    Hint(
        r"gated repo|GatedRepoError|restricted and you are not in the authorized list",
        "The repository is gated. Accept its licence on the hub with your account, and set `hf_token`.",
    ),
    Hint(
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|outgoing traffic has been disabled|couldn.t connect to "
        r".https://huggingface\.co",
        "It looks for a file on a hub, but engines run offline: the file is missing in `weights`. Fetch the whole "
        "repository, with tokenizer and config.",
    ),
    Hint(
        r"architectures .* are not supported|does not recognize this architecture|unknown model architecture",
        "This version of the engine does not know the model's architecture. Set a newer `version`, or use another "
        "engine.",
    ),
    Hint(
        r"custom code which must be executed|Please pass the (argument|option) .?trust_remote_code",
        "Its weights contain code that has to run. If you trust their author, set args: "
        '{"trust-remote-code": true}; otherwise use other weights.',
    ),
    Hint(
        r"unrecognized arguments|error: argument |invalid argument:|unexpected argument|invalid choice"
        r"|No such option|invalid value ('.*' )?for '-",
        "Correct `args`.",
    ),
    Hint(
        r"invalid tool call parser|tool-call-parser: invalid choice",
        "This version of the engine has no such tool parser. Set one that the message lists, or a newer `version`.",
    ),
    Hint(
        r"config\.json.{0,3} not found|is not a local folder|Cannot find any model weights"
        r"|HeaderTooLarge|invalid magic",
        WEIGHTS,
    ),
)
"""Hints for what several engines use: PyTorch, Transformers, ggml, argument parsers."""


def cuda_hint(fault: str) -> str:
    """Return the hint for what gpurack/cuda_faults.py says of CUDA, as the runner does (files/error_hints.py)."""
    return [hint.text for hint in (*COMMON, *CUDA) if re.search(hint.pattern, fault, re.IGNORECASE)][-1]


UNKNOWN_FLAG = (
    r"(unrecognized arguments|unrecognized option|invalid argument:|unexpected argument|unknown (argument|option|flag)"
    r"|No such option|flag provided but not defined)"
)
"""How parsers refuse a flag that they do not know."""
REFUSED = rf'({UNKNOWN_FLAG}|error: argument |error: "(?=-)|error while handling argument|invalid value )'
"""How parsers refuse a flag, or its value."""
NO_NUMBER = r"(\bsto[a-z]+$|invalid (int|float) value|invalid digit|invalid float literal|not a valid (integer|float))"
"""How parsers say that a value must be a number. `stoi` and the like are all that llama.cpp says."""


def argument_hints(command: Iterable[str], args: Sequence[str], engine: str, field: str) -> list[Hint]:
    """Hints for a program that refuses one of its arguments: whether an entry or gpurack set it.

    command: its words. args: names of the flags that the entry's `args` set. field: of the entry, which chooses the
    image.
    """
    hints = []
    for name in args:
        text = f"Correct `args.{name}`"
        hints.append(Hint(rf"{REFUSED}.*{_flag(name)}", f"{text}."))
        hints.append(Hint(rf"{REFUSED}.*{_flag(name)}.*{NO_NUMBER}", f"{text}: its value must be a number."))
    theirs = {_name(name) for name in args}
    own = sorted({_name(word) for word in command if re.match("--?[A-Za-z]", word)} - theirs)
    if own:
        text = f"gpurack sets this flag, and the program of the image does not know it. Check `{field}`: it must be an "
        text += f"image of {engine} with a version that knows the flag."
        hints.append(Hint(rf"{UNKNOWN_FLAG}.*({'|'.join(map(_flag, own))})", text))
    return hints


def _name(word: str) -> str:
    return word.lstrip("-").partition("=")[0].replace("_", "-")


def _flag(name: str) -> str:
    """The pattern of a flag. Some parsers show underscores as dashes."""
    return rf"(?<![\w-])--?{re.escape(_name(name)).replace(chr(92) + '-', '[-_]')}(?![\w-])"
