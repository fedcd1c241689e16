"""Weights for tests of the memory estimate: real headers, and tensors that are holes in sparse files."""

from __future__ import annotations

import importlib.util
import json
import struct
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from gpurack.facts.parts import Header
from gpurack.facts.weights import header

FILES = Path(__file__).parents[1] / "files"

# config.json of Qwen2.5-Instruct, as it is on the Hub
_QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 32768, "model_type": "qwen2",
    "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_sliding_window": False,
    "vocab_size": 152064,
}  # fmt: skip
QWEN: dict[str, dict[str, Any]] = {
    "7B": {**_QWEN, "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
           "num_hidden_layers": 28, "num_key_value_heads": 4},
    "14B": {**_QWEN, "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40,
            "num_hidden_layers": 48, "num_key_value_heads": 8},
    "32B": {**_QWEN, "hidden_size": 5120, "intermediate_size": 27648, "num_attention_heads": 40,
            "num_hidden_layers": 64, "num_key_value_heads": 8},
}  # fmt: skip


@cache
def reader() -> ModuleType:
    """files/weights_header.py, which is not a module of a package."""
    spec = importlib.util.spec_from_file_location("weights_header", FILES / "weights_header.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> Header:
    """What gpurack learns about weights."""
    return header(json.loads(json.dumps(reader().answer(str(path).encode()))), "stamp")


def qwen_tensors(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Qwen2 checkpoint and their shapes."""
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kept = width // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {
            "self_attn.q_proj.weight": (width, width), "self_attn.q_proj.bias": (width,),
            "self_attn.k_proj.weight": (kept, width), "self_attn.k_proj.bias": (kept,),
            "self_attn.v_proj.weight": (kept, width), "self_attn.v_proj.bias": (kept,),
            "self_attn.o_proj.weight": (width, width), "mlp.gate_proj.weight": (inner, width),
            "mlp.up_proj.weight": (inner, width), "mlp.down_proj.weight": (width, inner),
            "input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,),
        }.items():  # fmt: skip
            tensors[f"model.layers.{layer}.{name}"] = shape
    return {**tensors, "model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def safetensors(path: Path, tensors: dict[str, tuple[int, ...]], dtype: str = "BF16") -> int:
    """Write a file with this header; returns the bytes of its tensors."""
    size = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "U8": 1, "I32": 4}[dtype]
    said: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        count = size
        for length in shape:
            count *= length
        said[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + count]}
        end += count
    text = json.dumps(said).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end


def folder(
    path: Path, config: dict[str, Any], tensors: dict[str, tuple[int, ...]], files: int = 1, dtype: str = "BF16"
) -> Path:
    """Write a Hugging Face folder whose tensors are in `files` files, with their index."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    weight_map = {}
    for number in range(files):
        name = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        mine = dict(list(tensors.items())[number::files])
        safetensors(path / name, mine, dtype)
        weight_map.update(dict.fromkeys(mine, name))
    if files > 1:
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def qwen(path: Path, size: str, files: int = 4) -> Path:
    """Qwen2.5 of that size, with holes as tensors."""
    return folder(path / f"Qwen2.5-{size}", QWEN[size], qwen_tensors(QWEN[size]), files)
