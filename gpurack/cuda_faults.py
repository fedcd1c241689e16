"""What a probe's output, a server's log and an image's variables say of CUDA. gpurack/engines/probes.py has the probes.

The programs of files/ use it also: files/cuda_faults.py is a link to it. So it imports nothing of gpurack, and Python
3.6 can run it.
"""

import re

REFUSED = {
    35: "CUDA driver version is insufficient for CUDA runtime version",
    100: "no CUDA-capable device is detected",
    101: "invalid device ordinal",
    222: "the provided PTX was compiled with an unsupported toolchain",
    802: "system not yet initialized",
    803: "system has unsupported display driver / cuda driver combination",
    804: "forward compatibility was attempted on non supported HW",
    999: "unknown error",
}
"""Codes with which no program of the image can compute on its GPUs, and their words.

The words are those of cuGetErrorString (driver 550) and cudaGetErrorString (CUDA 13.5). Other codes are left out
because they may pass (2: out of memory, 46: busy) or because the engine may not need what failed.
"""
BY_VERSION = (35, 222, 804)
"""Those of REFUSED that pass only with another driver or image. The others depend on services, device files and CDI."""
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
"""CUDA's major version → the oldest branch of NVIDIA's driver for it (CUDA's release notes)."""
MARK = "gpurack-cuda"
"""Begins the line of a probe by Python: `gpurack-cuda CODE COUNT`."""
VERSIONS = "gpurack-cuda-versions"
"""Begins its second line, in images with CUDA_VERSION: `gpurack-cuda-versions 12 13.0.2`, of libcuda and image."""
BY_PYTHON = re.compile(r"(?m)^" + MARK + r" (\d{1,9}) (\d{1,9})$")
OF_BOTH = re.compile(r"(?m)^" + VERSIONS + r" (\d{1,3}) (\d{1,3})\.")
_GGML, _OLLAMA = r"^(?:[0-9.]+ )?(?:[A-Z] )?", r"^(?:time=\S+ )?(?:level=\w+ )?(?:source=\S+ )?"
_CANDLE = r'^(?:\S+ +\w+ +text_embeddings_backend_candle: (?:\S+ )?|\{"timestamp":"[^"]*","level":"\w+","message":")'
"""What a server's own lines begin with. Other lines may quote a client, who can say anything."""
BY_GGML = re.compile(rf"(?m){_GGML}ggml_cuda_init: failed to initialize CUDA: (.*)$")
BY_CANDLE = re.compile(r'DriverError\(CUDA_ERROR_\w+, \\?"([^"\\]*)')
ON_CPU = re.compile(rf"(?m){_CANDLE}(Starting \w+ model on Cpu)")
"""TEI's own line (backends/candle/src/lib.rs), after one about a CUDA device that it could not find, and BY_CANDLE."""
ON_GPU = re.compile(
    rf"(?m){_GGML}ggml_cuda_init: found [1-9]"
    rf"|{_GGML}\w+: +(?:using device |layer +\d+ assigned to device |layer +\d+: dev = )?CUDA[0-9]"
    rf'|{_OLLAMA}msg="inference compute" .*library="?(?![Cc][Pp][Uu])\w'
    rf'|{_OLLAMA}msg="[^"\\]*" device=CUDA[0-9]'
    rf"|{_CANDLE}Starting \w+ model on Cuda"
)
"""In the log of llama.cpp, ollama or TEI: it found a GPU."""
OFFLOADED = re.compile(rf'(?m)(?:{_GGML}\w+: |{_OLLAMA}msg=")(offloaded (\d{{1,6}})/\d{{1,6}} layers to GPU)')
"""In llama.cpp's log, of each model that it loads (src/llama-model.cpp). Without a GPU this line is missing."""
WITHOUT_GPU = (
    (
        re.compile(r'msg="NVIDIA driver too old".*required_driver="?([^"\n]{1,40})'),
        "NVIDIA driver too old: it needs {}",
    ),
    (re.compile(r"(no usable GPU found|not compiled with GPU offload support|no CUDA devices found)"), "{}"),
    (re.compile(r"(no compatible GPUs were discovered)"), "{}"),
    (re.compile(r"inference compute.*(library=\"?cpu)\b"), "no GPU discovered"),
)
"""Lines of llama.cpp (common/arg.cpp, for --n-gpu-layers; two forms of 2024) and ollama (discover/) → what they say.

ollama prints `inference compute` for each GPU, or once with library=cpu.
"""
LISTED = re.compile(r"(?m)^ *CUDA\d+: ")
"""A device in ggml's list: `  CUDA0: NVIDIA GeForce RTX 3090 (24575 MiB, 23335 MiB free)`."""
ANY_LISTED = re.compile(r"(?m)^ +\w+: ")
"""A device of any kind in ggml's list, which begins with `Available devices:`. Newer versions print `  (none)`."""
LONGEST = 300
"""Characters of a line of a log that patterns are tried on: they may need its square of steps, and clients and users
choose what is in a log. files/snapshot_docker.sh cuts at the same length."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""In TEI's log."""
NOT_FOUND = 127
"""The exit code of a shell that does not find a program."""


def fault(output: str, gpus: int, official: bool = False) -> "str | None":
    """Return what is wrong with CUDA in a container; "" if it works, None if the output does not say.

    output: of a probe in this container. gpus: how many GPUs CUDA must see. official: is the image the engine's own, so
    that its program was built for the image's CUDA? A libcuda of an older major version then fails with error 35,
    though it starts and counts GPUs.

    >>> fault("gpurack-cuda 999 0", 1)
    'CUDA error 999: unknown error'
    >>> fault("gpurack-cuda 0 1", 2)
    'GPUs that CUDA sees: 1 of 2'
    >>> fault("gpurack-cuda 0 1\\ngpurack-cuda-versions 12 13.0.2", 1, official=True)
    'CUDA error 35: CUDA driver version is insufficient for CUDA runtime version'
    >>> fault("Available devices:\\n  CUDA0: NVIDIA A30 (24062 MiB, 23800 MiB free)", 1)
    ''
    """
    printed, failed = BY_PYTHON.findall(output), BY_GGML.search(output)
    if failed:
        return _by_words(failed.group(1))
    if not printed:  # a list may end early, where the memory of one GPU is full
        return "" if len(LISTED.findall(output)) >= gpus else None
    code, seen = map(int, printed[-1])
    if code:
        return _sentence(code)
    if seen < gpus:
        return f"GPUs that CUDA sees: {seen} of {gpus}"
    both = OF_BOTH.search(output) if official else None
    return _sentence(35) if both and 0 < int(both.group(1)) < int(both.group(2)) else ""


def untested(output: str, code: "int | None" = 0) -> str:
    """Return why a probe tested nothing. `fault` has returned None for it.

    code: its exit code, None if it did not end in time.

    >>> untested("load_backend: loaded CPU backend from /app/libggml-cpu.so\\nAvailable devices:\\n  (none)")
    'its image lists no GPU, as one without CUDA does'
    >>> untested("OSError: libcuda.so.1: cannot open shared object file", 1)
    'its container has no libcuda.so.1'
    """
    if code is None:
        return "the probe in its image did not end in time"
    _, listed, devices = f"\n{output}\n".rpartition("\nAvailable devices:\n")
    if listed and not ANY_LISTED.search(devices):
        return "its image lists no GPU, as one without CUDA does"
    if "libcuda.so.1: cannot open" in output:
        return "its container has no libcuda.so.1"
    return "its image has no program for it" if code == NOT_FOUND else "the probe in its image printed no result"


def needs_other_version(found: str) -> bool:
    """Say whether what `fault` returned passes only with another driver or image.

    >>> needs_other_version("CUDA error 804: forward compatibility was attempted on non supported HW")
    True
    >>> needs_other_version("CUDA error 999: unknown error"), needs_other_version("GPUs that CUDA sees: 1 of 2")
    (False, False)
    """
    return any(found == _sentence(code) for code in BY_VERSION)


def cuda_of_image(environment: "list[str]") -> "int | None":
    """Return the major version of CUDA in an image, by the variables of images that are built on nvidia/cuda.

    >>> cuda_of_image(["PATH=/bin", "CUDA_VERSION=13.0.2"])
    13
    >>> cuda_of_image(["NVIDIA_REQUIRE_CUDA=cuda>=12.8 brand=unknown,driver>=470,driver<471"])
    12
    >>> cuda_of_image(["PATH=/bin"])
    """
    for pattern in (r"CUDA_VERSION=(\d{1,3})\.", r"NVIDIA_REQUIRE_CUDA=cuda>=(\d{1,3})\."):
        found = next(filter(None, (re.match(pattern, variable) for variable in environment)), None)
        if found:
            return int(found.group(1))
    return None


def continues_without(log: str, layers: bool = False) -> "str | None":
    """Return why a server with GPUs continues on the CPU, by its own log; "" if it found a GPU, None if unknown.

    layers: was it told to put layers of each model on the GPUs? Then none there is an error also with a GPU.

    ollama tries several versions of CUDA: one that fails means nothing where another one found GPUs. But one that fails
    later, as a model is loaded, leaves that model to the CPU.

    >>> continues_without("ggml_cuda_init: failed to initialize CUDA: unknown error")
    'CUDA error 999: unknown error'
    >>> continues_without("load_tensors: offloaded 0/33 layers to GPU", layers=True)
    'offloaded 0/33 layers to GPU'
    >>> continues_without("2026-11-20Z  INFO text_embeddings_backend_candle: src/lib.rs:9: Starting Bert model on Cpu")
    'Starting Bert model on Cpu'
    """
    log = COLOUR.sub("", "\n".join(line[:LONGEST] for line in log.split("\n")))
    offloaded = list(OFFLOADED.finditer(log))
    lately = _failed_at_last(log, offloaded)
    if lately:
        return lately
    if any(found.group(2).strip("0") for found in offloaded):
        return ""
    if layers and offloaded:
        return offloaded[-1].group(1)
    if ON_GPU.search(log):
        return ""
    on_cpu = ON_CPU.search(log)
    if on_cpu:
        cause = BY_CANDLE.search(log)
        return (_by_words(cause.group(1)) if cause else None) or on_cpu.group(1)
    failed = BY_GGML.search(log)
    known = _by_words(failed.group(1)) if failed else None
    found = ((text, pattern.search(log)) for pattern, text in WITHOUT_GPU)
    return known or next((text.format(match.group(1)) for text, match in found if match), None)


def _failed_at_last(log: str, offloaded: "list[re.Match[str]]") -> "str | None":
    """Return why the model that was loaded last has no layer on a GPU, by the failure of CUDA right before it."""
    if not offloaded or offloaded[-1].group(2).strip("0"):
        return None
    failed = list(BY_GGML.finditer(log, 0, offloaded[-1].start()))
    if not failed or ON_GPU.search(log, failed[-1].start()):
        return None
    since = [found for found in offloaded if found.start() > failed[-1].start()]
    return None if any(found.group(2).strip("0") for found in since) else _by_words(failed[-1].group(1))


def _by_words(text: str) -> "str | None":
    words = text.strip().rstrip(".")
    return next((_sentence(code) for code, known in REFUSED.items() if known == words), None)


def _sentence(code: int) -> "str | None":
    return f"CUDA error {code}: {REFUSED[code]}" if code in REFUSED else None
