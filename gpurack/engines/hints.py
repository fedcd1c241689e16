"""Hints for the errors of servers that exit. The runner on the host chooses one (files/remedies.py)."""

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
WRONG_GPU = "Its image does not support this kind of GPU. Let `version` choose the image, or use another GPU."
DATABASE = (
    "It cannot use a database that `env` names. Correct DATABASE_URL, REDIS_URL or VECTOR_DB, or remove it; none is "
    "required."
)


@dataclass(frozen=True)
class Hint:
    """A hint for a line in a server's output.

    pattern: regular expression for the line, in any case. text: the hint. on_cpu: the hint for a model without GPUs, if
    it differs.
    """

    pattern: str
    text: str
    on_cpu: str = ""

    @property
    def payload(self) -> list[str]:
        """What the runner on the host gets: pattern, hint, hint without GPUs."""
        return [self.pattern, self.text, self.on_cpu or self.text]


COMMON = (
    # The runner's first line is the exit code. A later match wins, so this hint is the weakest.
    Hint(r"^exit code 137$", f"It was killed. The kernel does this when memory runs out (check: dmesg): {MEMORY}."),
    Hint(
        r"out of memory|OutOfMemory|Not enough memory|cudaMalloc failed|failed to allocate|bad_alloc|MemoryError"
        r"|Cannot allocate memory",
        NO_ROOM,
        NO_ROOM_ON_HOST,
    ),
    Hint(r"/dev/shm", 'It needs more shared memory. Set compose: {"shm_size": "64gb"}, or {"ipc": "host"}.'),
    Hint(
        r"no new privileges|effective uid is not 0",
        "Its image uses sudo or another setuid program. Use an image that does not, or set "
        'compose: {"security_opt": ["no-new-privileges:false"]}.',
    ),
    Hint(r"needs as many GPUs", TOO_FEW_GPUS),
    Hint(r"is not divisible by", HEADS),
    Hint(r"needs compute capability|no kernel image is available", WRONG_GPU),
    Hint(
        r"unrecognized arguments|error: argument |invalid argument:|unexpected argument|invalid choice"
        r"|No such option|invalid value ('.*' )?for '-",
        "It does not accept one of its arguments, or its value. Correct `args`.",
    ),
    Hint(
        r"config\.json.{0,3} not found|is not a local folder|failed to load model|Cannot find any model weights"
        r"|HeaderTooLarge|invalid magic",
        WEIGHTS,
    ),
)
"""Hints for what several engines use: CUDA, PyTorch, Transformers, ggml, argument parsers."""
