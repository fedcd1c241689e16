"""How much memory of its GPUs a model needs, computed from the header of its weights. Pure.

For each GPU: `weights / (TP · PP) + layers / PP · ceil(kv_heads / TP) · (key + value) · bytes · tokens + overhead`. It
is exact, except for the overhead, which is a range. If an architecture or a flag makes the formula wrong, there is no
estimate.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from gpurack.engines import ENGINES
from gpurack.engines.memory import Facts, Needs, NotEstimated
from gpurack.facts.parts import Header
from gpurack.plan.models.shape import Shape, heads_of, shape_of
from gpurack.spec.gpus import GpuSlot
from gpurack.spec.model import Model

GIB = 2**30
UNSEEN = "its weights have not been inspected yet"


@dataclass(frozen=True)
class Estimate:
    """GiB of each of a model's GPUs (without GPUs: of the host's memory).

    kv: for `tokens` tokens. least, overhead: the smallest and the usual amount of everything else.
    """

    weights: float
    kv: float
    overhead: float
    least: float
    tokens: int

    @property
    def total(self) -> float:
        """What it usually needs."""
        return self.weights + self.kv + self.overhead

    @property
    def minimum(self) -> float:
        """What it needs at least."""
        return self.weights + self.kv + self.least

    def __str__(self) -> str:
        kept = f", KV cache {self.kv:.1f} for {self.tokens} tokens" if self.kv else ""
        return f"weights {self.weights:.1f}{kept}, overhead {self.least:.1f} or more"


def estimate(model: Model, header: Header | None, gpus: int) -> Estimate:
    """Return the estimate for each of a number of GPUs. Raises NotEstimated with the reason."""
    if header is None:
        raise NotEstimated(UNSEEN if model.weights else f"gpurack has no formula for {model.engine}")
    shape = shape_of(header)
    facts = Facts(shape.layers, shape.context, shape.vocabulary, "quantization" in header.config)
    needs = ENGINES[model.engine].needs(model, facts)
    if shape.window and needs.tokens > shape.window:
        raise NotEstimated(f"its attention slides over {shape.window} tokens, so it keeps less than the formula says")
    tensor, stages = split_over(model, gpus)
    return Estimate(
        weights=loaded(header, needs) / GIB / (tensor * stages),
        kv=needs.tokens * per_token(shape, needs, tensor, stages) / GIB,
        overhead=needs.overhead[1],
        least=needs.overhead[0],
        tokens=needs.tokens,
    )


def split_over(model: Model, gpus: int) -> tuple[int, int]:
    """Return (tensor parallel, stages of layers). An engine that splits by itself gives each GPU some layers."""
    tensor, stages = ENGINES[model.engine].parallelism(model, gpus)
    return (tensor, stages) if tensor * stages > 1 else (1, max(gpus, 1))


def per_token(shape: Shape, needs: Needs, tensor: int, stages: int) -> float:
    """Return the bytes of KV cache that a token takes on each GPU."""
    layers, heads = math.ceil(shape.layers / stages), math.ceil(shape.kv_heads / tensor)
    return layers * heads * (shape.key * needs.kv_bytes[0] + shape.value * needs.kv_bytes[1])


def loaded(header: Header, needs: Needs) -> float:
    """Return the bytes of the weights in memory: quantized ones as stored, others in the engine's number type."""
    if needs.float_bytes is None or "quantization" in header.config:
        return sum(header.tensors.values())
    stored = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
    return sum(
        size * needs.float_bytes / stored.get(dtype, needs.float_bytes) for dtype, size in header.tensors.items()
    )


def refusal(model: Model, header: Header | None, slots: Sequence[GpuSlot]) -> str | None:
    """Return why a model cannot run on these GPUs; None if it can, or if that is unknown."""
    if header is None or not slots:
        return None
    tensor, stages = split_over(model, len(slots))
    heads = heads_of(header)
    if heads and heads % tensor:
        able = ", ".join(str(number) for number in range(1, min(heads, 16) + 1) if heads % number == 0)
        return (
            f"tensor parallel {tensor} does not divide its {heads} attention heads; possible: {able}. "
            f"{in_stages(model, heads, tensor * stages)}"
        )
    try:
        need = estimate(model, header, len(slots))
    except NotEstimated:
        return None
    memory, smallest = min(((slot.memory, str(slot)) for slot in slots if slot.memory), default=(0.0, ""))
    budget = ENGINES[model.engine].budget(model, memory)
    if not smallest or need.minimum <= budget:
        return None
    whose = f"vram gives it {budget:.1f} of {smallest}" if model.vram else f"{smallest} has {budget:.1f} for it"
    each = " on each GPU" if len(slots) > 1 else ""
    hint = fit_hint(model, header, need, budget, len(slots))
    return f"needs {need.minimum:.1f} GiB{each} ({need}), but {whose}. {hint}"


def in_stages(model: Model, heads: int, gpus: int) -> str:
    """Return how it can use all GPUs although their number does not divide its heads.

    With layers in stages: each stage has as many GPUs as divide the heads.
    """
    tensor = next(number for number in range(gpus, 0, -1) if gpus % number == 0 and heads % number == 0)
    flags = dict(zip(ENGINES[model.engine].parallel_flags, (tensor, gpus // tensor), strict=False))
    words = ", ".join(f'"{flag}": {number}' for flag, number in flags.items())
    return f"Or layers in stages, over all {gpus} GPUs: args: {{{words}}}."


def tight(model: Model, header: Header | None, slots: Sequence[GpuSlot]) -> str | None:
    """Return a warning if it fits only with less overhead than usual; None if not."""
    known = [slot.memory for slot in slots if slot.memory]
    try:
        need = estimate(model, header, len(slots))
    except NotEstimated:
        return None
    if not known or need.total <= (budget := ENGINES[model.engine].budget(model, min(known))) or need.minimum > budget:
        return None
    return f"is tight: it usually takes {need.total:.1f} GiB of a GPU and has {budget:.1f}."


def fit_hint(model: Model, header: Header, need: Estimate, budget: float, gpus: int) -> str:
    """Return what to change: the longest context that fits, the number of GPUs that suffices."""
    ways = [f"set context: {tokens}"] if (tokens := longest_context(model, header, budget, gpus, need)) else []
    if model.vram:
        ways.append(f"raise vram to {math.ceil(need.minimum)}GiB")
    if more := enough_gpus(model, header, budget, gpus):
        ways.append(f"give it {more} GPUs")
    ways.append("choose smaller weights")
    text = ", ".join(ways[:-1]) + (" or " if len(ways) > 1 else "") + ways[-1]
    return f"{text[0].upper()}{text[1:]}."


def longest_context(model: Model, header: Header, budget: float, gpus: int, need: Estimate) -> int:
    """Return the longest context that fits, in steps of 256; 0 if no context would."""

    def fits(steps: int) -> bool:
        shorter = model.model_copy(update={"context": 256 * steps})
        try:
            return estimate(shorter, header, gpus).minimum <= budget
        except NotEstimated:  # longer than its attention window
            return False

    if not need.kv or not fits(1):
        return 0
    return 256 * (bisect_left(range(1, need.tokens // 256 + 2), True, key=lambda steps: not fits(steps)))


def enough_gpus(model: Model, header: Header, budget: float, gpus: int) -> int | None:
    """Return the smallest number of such GPUs that suffices, up to 16.

    None if there is none, or if args fix the number.
    """
    heads = heads_of(header) or 1
    for count in range(gpus + 1, 17):
        tensor, stages = split_over(model, count)
        if tensor * stages != count:
            return None
        if heads % tensor == 0 and estimate(model, header, count).minimum <= budget:
            return count
    return None
