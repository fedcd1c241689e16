"""The models of the testbed: GGUF files whose chain of tokens spells a sentence."""

from __future__ import annotations

import array
import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import gguf_models


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length].decode(), at + 8 + length


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    plain = {4: "<I", 5: "<i", 6: "<f", 7: "<?"}
    if kind == 8:
        return _string(data, at)
    if kind == 9:
        inner, count = struct.unpack_from("<IQ", data, at)
        at += 12
        values = []
        for _ in range(count):
            value, at = _value(data, at, inner)
            values.append(value)
        return values, at
    return struct.unpack_from(plain[kind], data, at)[0], at + struct.calcsize(plain[kind])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, array.array[float]]]:
    """Read a GGUF file of float32 tensors by the format's description, not by the writer's code."""
    data = path.read_bytes()
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    assert (magic, version) == (b"GGUF", 3)
    at, metadata, places = 24, {}, {}
    for _ in range(pairs):
        name, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        metadata[name], at = _value(data, at + 4, kind)
    for _ in range(tensors):
        name, at = _string(data, at)
        (dimensions,) = struct.unpack_from("<I", data, at)
        shape = struct.unpack_from(f"<{dimensions}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * dimensions)
        assert kind == 0
        assert offset % 32 == 0
        at += 16 + 8 * dimensions
        size = 4
        for length in shape:
            size *= length
        places[name] = (offset, size)
    start = at + -at % 32
    found = {}
    for name, (offset, size) in places.items():
        found[name] = array.array("f", data[start + offset : start + offset + size])
    return metadata, found


@pytest.mark.parametrize("sentence", [*gguf_models.SENTENCES.values(), "the cat and the dog and the the the end."])
def test_token_chain_spells_sentence(tmp_path: Path, sentence: str) -> None:
    path = tmp_path / "model.gguf"
    gguf_models.say(path, sentence)
    metadata, tensors = _read(path)
    tokens, width = metadata["tokenizer.ggml.tokens"], metadata["llama.embedding_length"]
    assert len(set(tokens)) == len(tokens)
    output = tensors["output.weight"]
    successor = {}
    for row in range(len(tokens)):
        for column in range(len(tokens)):
            if output[row * width + column]:
                successor[column] = row
    token, said = tokens.index("<|say|>"), ""
    while (token := successor[token]) != metadata["tokenizer.ggml.eos_token_id"]:
        said += tokens[token].replace("\u2581", " ")
    assert said == sentence
    assert not any(tensors["blk.0.attn_output.weight"])
    assert not any(tensors["blk.0.ffn_down.weight"])


def test_models_are_made_once_and_again_when_damaged(tmp_path: Path) -> None:
    first = gguf_models.served(tmp_path, "alpha")
    assert first.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    before = first.path.stat().st_mtime_ns
    assert gguf_models.served(tmp_path, "alpha") == first
    assert first.path.stat().st_mtime_ns == before
    first.path.unlink()
    assert gguf_models.served(tmp_path, "alpha") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alpha.gguf", "alpha.gguf.sha256"]
    with pytest.raises(ValueError, match="There is no model 'omega'"):
        gguf_models.served(tmp_path, "omega")
