"""What an engine needs of a GPU's memory, for the estimate (gpurack/plan/estimate.py)."""

from dataclasses import dataclass


class NotEstimated(Exception):
    """Why a model's memory cannot be computed beforehand; the text ends a sentence."""


@dataclass(frozen=True)
class Facts:
    """What an engine is told about weights, for the estimate.

    context: the longest they allow, None when they do not say. vocabulary: how many tokens they know. quantized: to
    fewer bits, by the format's own means.
    """

    layers: int
    context: int | None
    vocabulary: int
    quantized: bool


@dataclass(frozen=True)
class Needs:
    """How an engine fills a GPU's memory.

    tokens: of KV cache it cannot do without. kv_bytes: of one number among the keys, among the values. overhead: GiB of
    a GPU beside weights and KV cache, (at the very least, usually). float_bytes: of a weight that is stored as a
    number of 16 or 32 bits; None: as it is stored.
    """

    tokens: int
    kv_bytes: tuple[float, float]
    overhead: tuple[float, float]
    float_bytes: int | None = None
