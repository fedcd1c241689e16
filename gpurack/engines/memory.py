"""What an engine needs of a GPU's memory, for the estimate (gpurack/plan/models/memory.py)."""

from dataclasses import dataclass


class NotEstimated(Exception):
    """A model's memory cannot be estimated; the text is the reason, as the end of a sentence."""


@dataclass(frozen=True)
class Facts:
    """Facts about weights, for the estimate.

    context: the longest they allow, None if unknown. vocabulary: their number of tokens. quantized: to fewer bits, in
    the file format itself.
    """

    layers: int
    context: int | None
    vocabulary: int
    quantized: bool


@dataclass(frozen=True)
class Needs:
    """How an engine fills a GPU's memory.

    tokens: the least KV cache that it needs. kv_bytes: bytes of one number in (keys, values). overhead: GiB of a GPU
    beside weights and KV cache, as (least, usual). float_bytes: bytes of a weight that is stored in 16 or 32 bits;
    None: as stored.
    """

    tokens: int
    kv_bytes: tuple[float, float]
    overhead: tuple[float, float]
    float_bytes: int | None = None
