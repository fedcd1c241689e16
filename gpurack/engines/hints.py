"""Hints for the errors of servers that end. The runner on the host chooses one (files/remedies.py)."""

from dataclasses import dataclass

MEMORY = "give it more GPUs or another one, a smaller context, or its neighbours less vram"
NO_ROOM = f"It does not fit its GPUs: {MEMORY}."
NO_ROOM_ON_HOST = "The host has too little memory for it: a smaller context, or a smaller model."
WEIGHTS = "It cannot read its weights: see whether weights names the right file or folder, whole and in its format."
TOO_FEW_GPUS = "Its parallelism needs more GPUs: correct `gpus`, or the parallel sizes in `args`."
HEADS = "Its attention heads cannot be shared by so many GPUs: another number of gpus, or pipeline parallel in args."
WRONG_GPU = "Its image is not for this kind of GPU: let `version` choose the image, or use another GPU."
DATABASE = (
    "It cannot use a database that env names: correct DATABASE_URL, REDIS_URL or VECTOR_DB, or remove it; none is "
    "needed."
)


@dataclass(frozen=True)
class Hint:
    """A hint for a line in a server's output.

    said: pattern of the line, in any case. helps: the hint. on_cpu: the hint for a model without GPUs, if it differs.
    """

    said: str
    helps: str
    on_cpu: str = ""

    @property
    def told(self) -> list[str]:
        """For the runner on the host: pattern, hint, hint without GPUs."""
        return [self.said, self.helps, self.on_cpu or self.helps]


COMMON = (
    # how the runner says how a container ended, weaker than all that follows
    Hint(r"^exit code 137$", f"It was killed, as the kernel does when memory runs out: see dmesg, and {MEMORY}."),
    Hint(
        r"out of memory|OutOfMemory|Not enough memory|cudaMalloc failed|failed to allocate|bad_alloc|MemoryError"
        r"|Cannot allocate memory",
        NO_ROOM,
        NO_ROOM_ON_HOST,
    ),
    Hint(
        r"/dev/shm", 'It needs more shared memory: a larger one in compose: {"shm_size": "64gb"}, or {"ipc": "host"}.'
    ),
    Hint(
        r"no new privileges|effective uid is not 0",
        "Its image uses sudo or another program with setuid: take one that does not, or write "
        'compose: {"security_opt": ["no-new-privileges:false"]}.',
    ),
    Hint(r"needs as many GPUs", TOO_FEW_GPUS),
    Hint(r"is not divisible by", HEADS),
    Hint(r"needs compute capability|no kernel image is available", WRONG_GPU),
    Hint(
        r"unrecognized arguments|error: argument |invalid argument:|unexpected argument|invalid choice"
        r"|No such option|invalid value ('.*' )?for '-",
        "It does not know one of its arguments, or its value: correct args.",
    ),
    Hint(
        r"config\.json.{0,3} not found|is not a local folder|failed to load model|Cannot find any model weights"
        r"|HeaderTooLarge|invalid magic",
        WEIGHTS,
    ),
)
"""Hints for libraries that several engines use: CUDA, PyTorch, Transformers, ggml, argument parsers."""
