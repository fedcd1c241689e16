"""The shape of a model according to its header, as far as its memory depends on it. Pure.

Only architectures are supported in which every layer keeps keys and values of all tokens (or, in encoders, of none).
For others the formula would be a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpurack.engines.memory import NotEstimated
from gpurack.facts.parts import Header


@dataclass(frozen=True)
class Shape:
    """The shape of a model.

    layers, heads: of attention. kv_heads: heads whose keys and values are kept; 0 in encoders, which keep none. key,
    value: numbers that a head keeps for a token. context: the longest that the weights support, None if they do not
    say. window: how many tokens attention looks back, None for all. vocabulary: number of tokens, 0 if unknown.
    """

    layers: int
    heads: int
    kv_heads: int
    key: int
    value: int
    context: int | None
    window: int | None
    vocabulary: int


DECODERS = {
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "phi", "phi3", "opt",
    "gpt_neox", "starcoder2", "stablelm", "granite", "granitemoe", "olmo", "olmo2", "olmoe", "internlm2", "cohere",
    "glm", "glm4",
}  # fmt: skip
"""Values of model_type in config.json."""
ENCODERS = {"bert", "roberta", "xlm-roberta"}
GGUF_DECODERS = {
    "llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma", "phi2", "phi3", "gptneox", "starcoder2", "stablelm",
    "granite", "granitemoe", "olmo", "olmo2", "olmoe", "internlm2", "command-r",
}  # fmt: skip
"""Values of general.architecture."""
GGUF_ENCODERS = {"bert", "nomic-bert"}


LARGEST = 1 << 40
"""The largest accepted number of a header, which a user may have written. Products then still fit in a float."""


def shape_of(header: Header) -> Shape:
    """Return the shape. Raises NotEstimated with the reason."""
    if header.problem:
        raise NotEstimated(header.problem)
    try:
        return gguf_shape(header.config) if header.kind == "gguf" else folder_shape(header.config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise NotEstimated("their header lacks what the formula needs") from None


def heads_of(header: Header) -> int | None:
    """Return the number of attention heads, also for architectures without a formula; None if unknown."""
    name = header.config.get("general.architecture")
    heads = header.config.get(f"{name}.attention.head_count" if name else "num_attention_heads")
    return heads if isinstance(heads, int) and 0 < heads <= LARGEST else None


def folder_shape(config: Mapping[str, Any]) -> Shape:
    """Return the shape in config.json of a Hugging Face folder."""
    name = config.get("model_type")
    if config.get("kv_lora_rank"):
        raise NotEstimated(f"{name} compresses its KV cache (MLA)")
    if config.get("text_config"):
        raise NotEstimated(f"{name} is made of several models")
    layer_types = set(config.get("layer_types") or ())
    # The caller checks a sliding window, when the number of tokens is known.
    if others := layer_types - {"full_attention", "sliding_attention"}:
        raise NotEstimated(f"{name} is a hybrid ({', '.join(sorted(others))})")
    if name not in DECODERS | ENCODERS:
        raise NotEstimated(f"gpurack has no formula for the architecture {name}")
    heads = positive(config["num_attention_heads"])
    size = positive(config.get("head_dim") or config["hidden_size"] // heads)
    sliding = config.get("use_sliding_window", True) and (not layer_types or "sliding_attention" in layer_types)
    limits = (config.get("max_position_embeddings"), config.get("model_max_length"))  # 1e30: transformers' for none
    return Shape(
        layers=positive(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=0 if name in ENCODERS else positive(config.get("num_key_value_heads") or heads),
        key=size,
        value=size,
        context=min((int(one) for one in limits if one and 0 < int(one) <= LARGEST), default=None)
        if plain_rope(config)
        else None,
        window=(optional(config.get("sliding_window")) or None) if sliding else None,
        vocabulary=optional(config.get("vocab_size")),
    )


def plain_rope(config: Mapping[str, Any]) -> bool:
    """Is max_position_embeddings the longest context?

    Scaled positions (yarn) reach further, depending on their kind. Llama 3's are already scaled.
    """
    return config.get("rope", "default") in ("default", "llama3", "none")


def gguf_shape(config: Mapping[str, Any]) -> Shape:
    """Return the shape in the metadata of a GGUF file."""
    name = str(config["general.architecture"])
    said = {key.removeprefix(f"{name}."): value for key, value in config.items() if key.startswith(f"{name}.")}
    if said.get("attention.kv_lora_rank"):
        raise NotEstimated(f"{name} compresses its KV cache (MLA)")
    if any(key.startswith(("ssm.", "wkv.", "shortconv.")) for key in said):
        raise NotEstimated(f"{name} is a hybrid")
    if name not in GGUF_DECODERS | GGUF_ENCODERS:
        raise NotEstimated(f"gpurack has no formula for the architecture {name}")
    heads = same_for_all(said["attention.head_count"])
    kept = same_for_all(said.get("attention.head_count_kv", heads))
    size = positive(said["embedding_length"]) // heads
    return Shape(
        layers=positive(said["block_count"]),
        heads=heads,
        kv_heads=0 if name in GGUF_ENCODERS else kept,
        key=positive(said.get("attention.key_length", size)),
        value=positive(said.get("attention.value_length", size)),
        context=positive(said["context_length"]) if "context_length" in said else None,
        window=optional(said.get("attention.sliding_window")) or None,
        vocabulary=optional(config.get("vocab") or said.get("vocab_size")),
    )


def positive(value: Any) -> int:
    """Return a number from 1 to LARGEST. Raises TypeError or ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    if not 0 < value <= LARGEST:
        raise ValueError
    return value


def optional(value: Any) -> int:
    """Return a number as `positive` does; 0 if it is missing."""
    return positive(value) if value else 0


def same_for_all(value: Any) -> int:
    """Return one number, or the number of a list that has the same for every layer. Raises NotEstimated.

    >>> same_for_all(8), same_for_all([8, 8])
    (8, 8)
    """
    if isinstance(value, list):
        if len(set(value)) != 1:
            raise NotEstimated("its layers differ from each other")
        return positive(value[0])
    return positive(value)
