"""How an image shows whether CUDA works in its container, in seconds and without a model.

`nvidia-smi` proves little: it does not use CUDA, and works with a stale /dev/nvidia-uvm (999), a stopped fabric manager
(802) or a foreign CUDA library (803). gpurack/cuda_faults.py reads what the probes print.
"""

from dataclasses import dataclass

from gpurack.cuda_faults import MARK


@dataclass(frozen=True)
class CudaProbe:
    """A program in an engine's image that starts CUDA, lists its devices and ends.

    entrypoint: the program, None for the image's own. arguments: of it.
    """

    entrypoint: str | None
    arguments: tuple[str, ...]


_FIND_PYTHON = 'for one in python3 python; do command -v $one >/dev/null && exec $one -c "$0"; done; exit 127'
_COUNT = f"""\
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
print("{MARK}", code, count.value)
"""
PYTHON = CudaProbe("sh", ("-c", _FIND_PYTHON, _COUNT))
"""For images with Python: the driver's API, without a context and so without memory of the GPUs (cuInit: 0.1 to 2 s).

An image without Python or a container without libcuda prints no result.
"""
LIST_DEVICES = CudaProbe(None, ("--list-devices",))
"""For llama.cpp: its own list (common/arg.cpp). It needs a context on each GPU for the moment."""
