"""How an image shows, without a model, whether CUDA works in its container and whether it knows its arguments.

`nvidia-smi` proves little: it does not use CUDA, and works with a stale /dev/nvidia-uvm (999), a stopped fabric manager
(802) or a foreign CUDA library (803). gpurack/cuda_faults.py reads what the probes print.
"""

from dataclasses import dataclass

from gpurack.cuda_faults import MARK, VERSIONS


@dataclass(frozen=True)
class CudaProbe:
    """A program in an engine's image that starts CUDA, lists its devices and ends.

    entrypoint: the program, None for the image's own. arguments: of it.
    """

    entrypoint: str | None
    arguments: tuple[str, ...]


_FIND_PYTHON = 'for one in python3 python; do command -v $one >/dev/null && exec $one -c "$0"; done; exit 127'
_COUNT = f"""\
import ctypes, os
cuda, count, version = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_int()
code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
print("{MARK}", code, count.value)
if os.environ.get("CUDA_VERSION"):
    cuda.cuDriverGetVersion(ctypes.byref(version))
    print("{VERSIONS}", version.value // 1000, os.environ["CUDA_VERSION"])
"""
PYTHON = CudaProbe("sh", ("-c", _FIND_PYTHON, _COUNT))
"""For images with Python: the driver's API, without a context and so without memory of the GPUs (cuInit: 0.1 to 2 s).

It also prints the major version of libcuda, which is the image's own where forward compatibility is in use, and the
image's CUDA. An image without Python or a container without libcuda prints no result.
"""
LIST_DEVICES = CudaProbe(None, ("--list-devices",))
"""For llama.cpp: its own list (common/arg.cpp). It needs a context on each GPU for the moment."""


@dataclass(frozen=True)
class DryStart:
    """How an engine's program reads its arguments and ends, before it loads or listens.

    last: what follows its arguments, and ends it. code: its exit code if it refuses one of them. refusals: patterns of
    the lines with which it does; the first group is quoted. Only what the parser says of the arguments alone belongs
    there. What may depend on files, variables or the network does not, because a dry start has none of these.
    """

    last: tuple[str, ...]
    code: int = 0
    refusals: tuple[str, ...] = ()


UNKNOWN = "--gpurack-dry-start"
"""A flag that no engine knows. Its refusal proves that the parser read all the others, and ends the program."""
ARGPARSE = DryStart(
    (UNKNOWN,),
    2,
    (
        rf"^[^\n:]+: error: (unrecognized arguments: (?!{UNKNOWN}$)(?=.*{UNKNOWN}).+)$",
        r"^[^\n:]+: error: (argument [^\n:]+: invalid (?:int|float) value: .+)$",
        r"^[^\n:]+: error: (argument [^\n:]+: expected (?:at least )?one argument)$",
    ),
)
"""For Python's argparse, which reports all unknown arguments at the end (error(): exit code 2)."""
CLAP = DryStart(
    (UNKNOWN,),
    2,
    (rf"^error: (unexpected argument '(?!{UNKNOWN}')\S+' found)$", r"^error: (invalid value '.*' for '--.*)$"),
)
"""For Rust's clap 4, which reads arguments in order and reports the first wrong one (exit code 2)."""
LLAMA_SERVER = DryStart(
    ("--version",),
    1,
    (
        r"^error: (invalid argument: \S+)$",
        r'^error while handling argument ("[^"\n]+": (?:sto[a-z]+|the argument has been removed.*))$',
    ),
)
"""For llama.cpp, which reads arguments in order, and ends at --version (common/arg.cpp; exit code 1).

`stoi` and the like are the whole reason that it gives for a value that is not a number.
"""
VERSION = DryStart(("--version",))
"""For a program without arguments of a model: only that Docker starts it with its devices."""
