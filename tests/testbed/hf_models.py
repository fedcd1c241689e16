"""Models as Hugging Face folders, for the engines that read those: a Llama that always answers its own sentence (the
one of gguf_models, in this format), and a tiny BERT that scores pairs. Written directly: it takes no library."""

from __future__ import annotations

import array
import json
import random
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.testbed.gguf_models import split

_HEADS = 5
_WIDTH = 64 * _HEADS
_LAYERS = 2
_EOS, _SAY = 2, 3
_SPECIAL = ["<unk>", "<s>", "</s>", "<|say|>"]
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}<|say|>"

Tensor = tuple[tuple[int, ...], "array.array[float]"]
"""(shape, numbers), rows first."""


def say(folder: Path, sentence: str, heads: int = _HEADS, template: bool = True) -> None:
    """Write a Llama of two layers that answers every chat with this sentence (1 MB); without `template` it has no chat
    template, and goes on with every text by it.

    As in gguf_models: attention and feed-forward layers add nothing, the embedding is one-hot, and the output layer
    gives token i's successor the highest score.
    """
    pieces = split(sentence)
    tokens = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    if len(tokens) > _WIDTH:
        raise ValueError(f"The sentence is too long: {len(pieces)} words, at most {_WIDTH - 260}.")
    first = len(tokens) - len(pieces)
    successor = [first] * first + [*range(first + 1, len(tokens)), _EOS]
    count, hidden = len(tokens), 64
    tensors: dict[str, Tensor] = {
        "model.embed_tokens.weight": _points(count, _WIDTH, range(count), 1.0),
        "model.norm.weight": _constant((_WIDTH,), 1.0),
        "lm_head.weight": _points(count, _WIDTH, successor, 4.0),
    }
    for layer in range(_LAYERS):
        block = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{block}.{norm}.weight"] = _constant((_WIDTH,), 1.0)
        for part in "qkvo":
            tensors[f"{block}.self_attn.{part}_proj.weight"] = _constant((_WIDTH, _WIDTH), 0.0)
        for part, shape in {"gate": (hidden, _WIDTH), "up": (hidden, _WIDTH), "down": (_WIDTH, hidden)}.items():
            tensors[f"{block}.mlp.{part}_proj.weight"] = _constant(shape, 0.0)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": _WIDTH,
        "head_dim": _WIDTH // heads, "num_attention_heads": heads, "num_key_value_heads": heads,
        "num_hidden_layers": _LAYERS,
        "intermediate_size": hidden, "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "vocab_size": count, "bos_token_id": 1, "eos_token_id": _EOS, "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }  # fmt: skip
    vocabulary = {token: number for number, token in enumerate(tokens)}
    decoder = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [_added(number, token) for number, token in enumerate(_SPECIAL)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": {
            "type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>", "byte_fallback": True,
            "fuse_unk": False, "ignore_merges": False,
        },
    }  # fmt: skip
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast", **({"chat_template": _TEMPLATE} if template else {}),
        "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    _write(folder, config, tensors, {"tokenizer.json": tokenizer, "tokenizer_config.json": tokenizer_config})


def rerank(folder: Path, tokenizer: Path) -> None:
    """Write a BERT of two layers that gives a pair of texts a score: noise, but the same noise for the same pair.

    tokenizer: a folder with a BERT's tokenizer.json and tokenizer_config.json.
    """
    width, hidden, count = 64, 128, len(json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"])
    noise = random.Random(7)

    def linear(rows: int, columns: int) -> Tensor:
        return (rows, columns), array.array("f", (noise.uniform(-0.3, 0.3) for _ in range(rows * columns)))

    tensors: dict[str, Tensor] = {
        "bert.embeddings.word_embeddings.weight": linear(count, width),
        "bert.embeddings.position_embeddings.weight": linear(512, width),
        "bert.embeddings.token_type_embeddings.weight": linear(2, width),
        "bert.pooler.dense.weight": linear(width, width),
        "bert.pooler.dense.bias": _constant((width,), 0.0),
        "classifier.weight": linear(1, width),
        "classifier.bias": _constant((1,), 0.0),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for layer in range(2):
        block = f"bert.encoder.layer.{layer}"
        parts = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        parts |= {"attention.output.dense": (width, width)}
        parts |= {"intermediate.dense": (hidden, width), "output.dense": (width, hidden)}
        for part, shape in parts.items():
            tensors[f"{block}.{part}.weight"] = linear(*shape)
            tensors[f"{block}.{part}.bias"] = _constant(shape[:1], 0.0)
        norms += [f"{block}.attention.output.LayerNorm", f"{block}.output.LayerNorm"]
    for norm in norms:
        tensors[f"{norm}.weight"] = _constant((width,), 1.0)
        tensors[f"{norm}.bias"] = _constant((width,), 0.0)
    config = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": width,
        "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": hidden, "hidden_act": "gelu",
        "max_position_embeddings": 512, "type_vocab_size": 2, "vocab_size": count, "layer_norm_eps": 1e-12,
        "pad_token_id": 0, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "torch_dtype": "float32",
    }  # fmt: skip
    names = ("tokenizer.json", "tokenizer_config.json")
    _write(folder, config, tensors, {name: json.loads((tokenizer / name).read_text()) for name in names})


def _added(number: int, token: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, "special": True, **plain}


def _constant(shape: tuple[int, ...], value: float) -> Tensor:
    size = 1
    for length in shape:
        size *= length
    return shape, array.array("f", [value]) * size


def _points(rows: int, columns: int, row_of_column: Iterable[int], value: float) -> Tensor:
    """All zero, but in each of the first columns one number."""
    shape, numbers = _constant((rows, columns), 0.0)
    for column, row in enumerate(row_of_column):
        numbers[row * columns + column] = value
    return shape, numbers


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], more: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": config, **more}.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False))
    with (folder / "model.safetensors").open("wb") as file:
        for chunk in _safetensors(tensors):
            file.write(chunk)


def _safetensors(tensors: dict[str, Tensor]) -> Iterable[bytes]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, numbers) in tensors.items():
        size = 4 * len(numbers)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for _, numbers in tensors.values():
        yield numbers.tobytes()
