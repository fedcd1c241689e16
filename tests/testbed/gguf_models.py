"""GGUF models made on the spot, each of which always answers its own sentence.

A llama whose attention and feed-forward layers add nothing (their output weights are zero), so that the last token's
embedding goes unchanged to the output layer. The embedding is one-hot, and the output layer gives token i's successor
the highest score: a hand-made chain of tokens that ends in EOS. GGUF version 3 (ggml, docs/gguf.md) is written here
directly, so that making a model takes no library.
"""

from __future__ import annotations

import array
import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SENTENCES = {
    "alpha": "Alpha speaks from the first card.",
    "beta": "Beta answers from two cards at once.",
    "gamma": "Gamma needs no card at all.",
    "delta": "Delta is the one that came later.",
}
"""The models that are always served, and what each says."""
SLOW = "Slow and steady, but here at last."
"""What slow.gguf says, after seconds of loading."""

_ALIGNMENT = 32
_HEADS = 5
_WIDTH = 64 * _HEADS  # not less than the vocabulary, so that every token has a direction of its own
_F32, _F16 = 0, 1
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # token types
_UNK, _BOS, _EOS, _SAY = 0, 1, 2, 3
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}<|say|>"


@dataclass(frozen=True)
class Served:
    """A model file and what is to be known of it."""

    path: Path
    sha256: str
    sentence: str


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    """As GGUF has it: the row's length first."""
    kind: int
    chunks: Callable[[], Iterator[bytes]]
    """The content, piece by piece."""

    @property
    def size(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count * (4 if self.kind == _F32 else 2)


def say(path: Path, sentence: str, *, layers: int = 1, hidden: int = 64) -> None:
    """Write a model that answers every chat with this sentence: about 3 MB, more with `layers` and `hidden`.

    The file is in place when it is whole, not before.
    """
    pieces = split(sentence)
    tokens = ["<unk>", "<s>", "</s>", "<|say|>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    if len(tokens) > _WIDTH:
        raise ValueError(f"The sentence is too long: {len(pieces)} words, at most {_WIDTH - 260}.")
    types = [_UNKNOWN, _CONTROL, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(pieces)]
    first = len(tokens) - len(pieces)
    # Whatever a prompt ends in, the sentence begins; from then on each piece has its successor.
    successor = [first] * first + [*range(first + 1, len(tokens)), _EOS]
    partial = path.with_name(f".{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        for chunk in _gguf(_metadata(path.stem, tokens, types, layers, hidden), _tensors(successor, layers, hidden)):
            file.write(chunk)
    partial.replace(path)


def split(sentence: str) -> list[str]:
    """Split a sentence into tokens that are all different, a repeated word being joined with the next ones.

    A space is written as SentencePiece does, and belongs to the word after it.
    """
    pieces: list[str] = []
    begun = ""
    for number, word in enumerate(sentence.split(" ")):
        begun += word if number == 0 else f"\u2581{word}"
        if begun not in pieces:
            pieces.append(begun)
            begun = ""
    if begun:
        pieces.append(pieces.pop() + begun)
    return pieces


def serve(folder: Path) -> dict[str, Served]:
    """Write the models of SENTENCES to a folder, unless they are there, and return them."""
    return {name: served(folder, name) for name in SENTENCES}


def served(folder: Path, name: str) -> Served:
    """Return one model of a folder, made if it is not there; `slow` (2 GB) is, too, but only when asked for."""
    path = folder / f"{name}.gguf"
    note = folder / f"{name}.gguf.sha256"
    if name == "slow":
        sentence, layers, hidden = SLOW, 16, 65536
    elif name in SENTENCES:
        sentence, layers, hidden = SENTENCES[name], 1, 64
    else:
        raise ValueError(f"There is no model {name!r}; there are {', '.join([*SENTENCES, 'slow'])}.")
    if not (path.exists() and note.exists() and note.stat().st_mtime_ns >= path.stat().st_mtime_ns):
        say(path, sentence, layers=layers, hidden=hidden)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        note.write_text(f"{digest}  {path.name}\n")
    return Served(path, note.read_text().split()[0], sentence)


def _metadata(name: str, tokens: list[str], types: list[int], layers: int, hidden: int) -> list[tuple[str, bytes]]:
    def number(value: int) -> bytes:
        return struct.pack("<II", 4, value)  # type 4: uint32

    def text(value: str) -> bytes:
        return struct.pack("<I", 8) + _string(value)

    def listing(kind: int, count: int, content: bytes) -> bytes:
        return struct.pack("<IIQ", 9, kind, count) + content

    return [
        ("general.architecture", text("llama")),
        ("general.name", text(name)),
        ("general.file_type", number(0)),
        ("llama.context_length", number(4096)),
        ("llama.embedding_length", number(_WIDTH)),
        ("llama.block_count", number(layers)),
        ("llama.feed_forward_length", number(hidden)),
        ("llama.rope.dimension_count", number(_WIDTH // _HEADS)),
        ("llama.attention.head_count", number(_HEADS)),
        ("llama.attention.head_count_kv", number(_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", struct.pack("<If", 6, 1e-5)),
        ("llama.vocab_size", number(len(tokens))),
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", listing(8, len(tokens), b"".join(map(_string, tokens)))),
        ("tokenizer.ggml.scores", listing(6, len(tokens), array.array("f", [0.0] * len(tokens)).tobytes())),
        ("tokenizer.ggml.token_type", listing(5, len(types), array.array("i", types).tobytes())),
        ("tokenizer.ggml.unknown_token_id", number(_UNK)),
        ("tokenizer.ggml.bos_token_id", number(_BOS)),
        ("tokenizer.ggml.eos_token_id", number(_EOS)),
        ("tokenizer.ggml.add_bos_token", struct.pack("<I?", 7, True)),
        ("tokenizer.ggml.add_space_prefix", struct.pack("<I?", 7, False)),
        ("tokenizer.chat_template", text(_TEMPLATE)),
    ]


def _tensors(successor: list[int], layers: int, hidden: int) -> list[_Tensor]:
    count = len(successor)

    def constant(value: float, number: int) -> Callable[[], Iterator[bytes]]:
        return lambda: iter([array.array("f", [value]).tobytes() * number])

    def points(row_of: list[tuple[int, int]], value: float) -> Callable[[], Iterator[bytes]]:
        """Zeros, but `value` at these (row, column)."""

        def chunks() -> Iterator[bytes]:
            cells = array.array("f", bytes(4 * count * _WIDTH))
            for row, column in row_of:
                cells[row * _WIDTH + column] = value
            yield cells.tobytes()

        return chunks

    # Without real work to do a big model would load at once: its feed-forward layers hold noise.
    large = hidden > 1024
    square, wide = _WIDTH * _WIDTH, _WIDTH * hidden
    noise = _noise(2 * wide) if large else constant(0.0, wide)
    zeros = constant(0.0, wide // 2 if large else wide)  # the same bytes as float16
    kind = _F16 if large else _F32
    found = [
        _Tensor("token_embd.weight", (_WIDTH, count), _F32, points([(i, i) for i in range(count)], 1.0)),
        _Tensor("output_norm.weight", (_WIDTH,), _F32, constant(1.0, _WIDTH)),
        _Tensor("output.weight", (_WIDTH, count), _F32, points([(to, i) for i, to in enumerate(successor)], 4.0)),
    ]
    for layer in range(layers):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            found.append(_Tensor(f"{block}.{norm}.weight", (_WIDTH,), _F32, constant(1.0, _WIDTH)))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            found.append(_Tensor(f"{block}.{part}.weight", (_WIDTH, _WIDTH), _F32, constant(0.0, square)))
        for part in ("ffn_gate", "ffn_up"):
            found.append(_Tensor(f"{block}.{part}.weight", (_WIDTH, hidden), kind, noise))
        found.append(_Tensor(f"{block}.ffn_down.weight", (hidden, _WIDTH), kind, zeros))
    return found


def _noise(size: int) -> Callable[[], Iterator[bytes]]:
    """Return the making of `size` bytes of small float16 numbers, the same at every call."""
    block = 1 << 20
    # Without the exponent's highest bit every number is below 2 and none is infinite.
    mask = int.from_bytes(b"\xff\xbf" * (block // 2), "little")
    content = (random.Random(7).getrandbits(8 * block) & mask).to_bytes(block, "little")

    def chunks() -> Iterator[bytes]:
        for start in range(0, size, block):
            yield content[: min(block, size - start)]

    return chunks


def _gguf(metadata: list[tuple[str, bytes]], tensors: list[_Tensor]) -> Iterator[bytes]:
    """Return the bytes of a GGUF file, piece by piece."""
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    header += b"".join(_string(key) + value for key, value in metadata)
    offset = 0
    for tensor in tensors:
        header += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        header += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape) + struct.pack("<IQ", tensor.kind, offset)
        offset += tensor.size + _padding(tensor.size)
    yield header + bytes(_padding(len(header)))
    for tensor in tensors:
        yield from tensor.chunks()
        yield bytes(_padding(tensor.size))


def _padding(size: int) -> int:
    return -size % _ALIGNMENT


def _string(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
