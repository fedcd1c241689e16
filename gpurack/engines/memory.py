"""What an engine needs of a GPU's memory. gpurack/plan/models/memory.py computes the estimate."""

from dataclasses import dataclass


class NotEstimated(Exception):
    """A model's memory cannot be estimated. The text is the reason, as the end of a sentence."""


@dataclass(frozen=True)
class Facts:
    """Facts about weights.

    context: the longest context they support, None if unknown. vocabulary: number of tokens. quantized: does the file
    format itself store fewer bits?
    """

    layers: int
    context: int | None
    vocabulary: int
    quantized: bool


@dataclass(frozen=True)
class Needs:
    """How an engine fills a GPU's memory.

    tokens: the smallest KV cache that it needs. kv_bytes: bytes of one number in (keys, values). overhead: GiB of a GPU
    in addition to weights and KV cache, as (smallest, usual). float_bytes: bytes that a weight stored in 16 or 32 bits
    takes in memory; None: as stored.
    """

    tokens: int
    kv_bytes: tuple[float, float]
    overhead: tuple[float, float]
    float_bytes: int | None = None
