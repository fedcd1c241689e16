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
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
"""CUDA's major version → the oldest branch of NVIDIA's driver for it (CUDA's release notes)."""
MARK = "gpurack-cuda"
"""Begins the line of a probe by Python: `gpurack-cuda CODE COUNT`."""
BY_PYTHON = re.compile(r"(?m)^" + MARK + r" (\d{1,9}) (\d{1,9})$")
BY_GGML = re.compile(r"(?m)^ggml_cuda_init: failed to initialize CUDA: (.*)$")
ON_GPU = re.compile(r"(?i)ggml_cuda_init: found [1-9]|library=cuda|\bCUDA[0-9]")
"""In the log of llama.cpp or ollama: CUDA found a GPU."""
LISTED = re.compile(r"(?m)^ *CUDA\d+: ")
"""A device in ggml's list: `  CUDA0: NVIDIA GeForce RTX 3090 (24575 MiB, 23335 MiB free)`."""


def fault(output: str, gpus: int) -> "str | None":
    """Return what is wrong with CUDA in a container; "" if it works, None if the output does not say.

    output: of a probe in this container. gpus: how many GPUs CUDA must see.

    >>> fault("gpurack-cuda 999 0", 1)
    'CUDA error 999: unknown error'
    >>> fault("gpurack-cuda 0 1", 2)
    'GPUs that CUDA sees: 1 of 2'
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
    return f"GPUs that CUDA sees: {seen} of {gpus}" if seen < gpus else ""


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


def continues_without(log: str) -> "str | None":
    """Return why a server with GPUs continues on the CPU, by its own log; "" if it found a GPU, None if unknown.

    ollama tries several versions of CUDA: one that fails means nothing where another one found GPUs.

    >>> continues_without("ggml_cuda_init: failed to initialize CUDA: unknown error")
    'CUDA error 999: unknown error'
    """
    if ON_GPU.search(log):
        return ""
    failed = BY_GGML.search(log)
    return _by_words(failed.group(1)) if failed else None


def _by_words(text: str) -> "str | None":
    words = text.strip().rstrip(".")
    return next((_sentence(code) for code, known in REFUSED.items() if known == words), None)


def _sentence(code: int) -> "str | None":
    return f"CUDA error {code}: {REFUSED[code]}" if code in REFUSED else None
