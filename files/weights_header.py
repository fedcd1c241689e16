"""Reads the headers of model weights: the bytes of tensors, and the facts of their shape for the memory estimate.

Standard input has one path a line; each is answered by one line of JSON. Part of a snapshot (snapshot.sh), run as root
or as a user on the host's own python3 (3.6 or newer, standard library only). With the argument `check` it only says
whether weights are damaged, for a run (fetch.py).

The weights may be hostile. Only headers are read, within limits of time and memory, and links of other users are not
followed (safe_paths.py). Formats: GGUF 2 and 3 (ggml, docs/gguf.md); Hugging Face folders, where each *.safetensors
begins with the length of its JSON header in 8 bytes.
"""

import contextlib
import json
import os
import re
import resource
import signal
import struct
import sys

from safe_paths import open_file, read_file  # (sent along)

CONFIG = (
    "model_type", "architectures", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_size", "vocab_size", "max_position_embeddings", "sliding_window", "use_sliding_window", "layer_types",
    "kv_lora_rank", "dtype", "torch_dtype", "is_encoder_decoder",
)  # fmt: skip
"""Keys of config.json that are reported unchanged."""
CHAT_TEMPLATES = (b"chat_template.jinja", b"chat_template.json")
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""GGUF's type of a scalar value → its format for struct."""
STRING, ARRAY = 8, 9
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 30: (1, 2),
}  # fmt: skip
"""GGUF's type of a tensor → the numbers in a block and its bytes: F32, F16, Q4_0 to Q8_0, Q2_K to Q6_K, BF16. Of others
only the begin is known (ggml, include/ggml.h and src/ggml-common.h)."""
SECONDS = 10
"""Limit for the header of one model's weights."""
MEMORY = 2 << 30  # bytes
LARGEST = 64 << 20
"""Limit for a header or a JSON file, in bytes. The largest known (vocabularies, a mixture of experts) need a fifth."""
MOST = 2000000
"""Limit for the values in a header. A vocabulary of 256,000 words and its merges are fewer."""
LONGEST_TEXT = 1 << 20  # bytes; longer strings are skipped
ANSWER = 1 << 18
"""Limit for the answer about one model, in bytes. Facts for each layer need a few thousand."""
LONGEST = 1024
"""Items. A longer array is a vocabulary, of which only the length is reported."""


class Damaged(ValueError):
    """Weights that no program can load, whatever it is. The text says why."""


def check(path):
    """Raise Damaged where weights are cut off, or are not what their name says.

    A GGUF file counts with all its parts, and a folder with its *.safetensors. What else may be wrong with them is for
    their engine to say.
    """
    if path.endswith(b".gguf"):
        gguf(path)
    elif os.path.isdir(path):
        for name in sorted(os.listdir(path)):
            if name.endswith(b".safetensors"):
                safetensors(os.path.join(path, name))


def read(path):
    """The facts of a GGUF file (all its parts, if it is split) or a folder. Raises ValueError with a sentence."""
    if os.path.isdir(path):
        return folder(path)
    if path.endswith(b".gguf"):
        return gguf(path)
    raise ValueError("they are neither a GGUF file nor a folder of *.safetensors")


def gguf(path):
    """The facts of a GGUF file: values from its first part, tensors from all parts."""
    values, size = gguf_part(path)
    split = re.match(rb"(.*)-\d{5}-of-(\d{5})\.gguf$", path, re.S)
    for number in range(2, int(split.group(2)) + 1 if split else 2):
        part = b"%s-%05d-of-%s.gguf" % (split.group(1), number, split.group(2))
        try:
            size += gguf_part(part)[1]
        except FileNotFoundError:
            raise Damaged("%s is missing" % shown(part)) from None
    name = values.get("general.architecture")
    config = {key: value for key, value in values.items() if name and key.startswith("%s." % name)}
    config["general.architecture"] = name
    config["vocab"] = values.get("tokenizer.ggml.tokens")
    config["chat_template"] = "tokenizer.chat_template" in values
    return {"kind": "gguf", "tensors": {"GGUF": size}, "config": config}


class Content:
    """The bytes of a file, read block by block.

    It is not mapped into memory, because truncating a mapped file would end the process."""

    BLOCK = 1 << 20

    def __init__(self, path):
        self.descriptor = open_file(path)
        self.size = os.fstat(self.descriptor).st_size
        self.start, self.block, self.steps = 0, b"", 0

    def close(self):
        os.close(self.descriptor)

    def take(self, at, count):
        """`count` bytes at an offset. Raises struct.error beyond the file's end, ValueError beyond the limits."""
        self.steps += 1
        if at + count > self.size:
            raise struct.error("too short")
        if at + count > LARGEST or self.steps > MOST:
            raise ValueError("their header is larger than that of any known model")
        if not self.start <= at <= at + count <= self.start + len(self.block):
            self.start, self.block = at, os.pread(self.descriptor, max(count, self.BLOCK), at)
        found = self.block[at - self.start : at - self.start + count]
        if len(found) < count:
            raise struct.error("too short")
        return found

    def number(self, form, at):
        """The number at an offset. form: its format for struct."""
        return struct.unpack(form, self.take(at, struct.calcsize(form)))[0]


def gguf_part(path):
    """(values by key, bytes of tensors) of one file. For a long array the value is its length."""
    with contextlib.closing(Content(path)) as data:
        if not data.size:
            raise Damaged("%s is empty" % shown(path))
        if data.size < 4 or data.take(0, 4) != b"GGUF":
            raise Damaged("%s is not a GGUF file" % shown(path))
        _, version, tensors, pairs = struct.unpack("<4sIQQ", data.take(0, 24))
        if version not in (2, 3):
            raise ValueError("%s is not a GGUF file of version 2 or 3" % shown(path))
        at, values = 24, {}
        for _ in range(min(pairs, MOST)):
            key, at = string(data, at)
            values[key], at = value(data, at + 4, data.number("<I", at))
        end = 0
        for _ in range(min(tensors, MOST)):
            _, at = string(data, at)
            dimensions = data.number("<I", at)
            at += 4 + 8 * dimensions + 4
            end = max(end, data.number("<Q", at) + bytes_of(data, at, dimensions))
            at += 8
        if not tensors:
            return values, 0
        alignment = values.get("general.alignment", 32)
        start = (at + alignment - 1) // alignment * alignment
        if start + end > data.size:
            raise Damaged("%s is cut off" % shown(path))
        return values, data.size - start


def bytes_of(data, at, dimensions):
    """The bytes of a tensor, at least 1. at: the offset after its dimensions and its type."""
    kind, count = data.number("<I", at - 4), 1
    if kind not in BLOCKS or dimensions > 4:  # ggml has no more
        return 1
    for number in range(dimensions):
        count *= data.number("<Q", at - 4 - 8 * (dimensions - number))
    numbers, size = BLOCKS[kind]
    return max(count // numbers * size, 1)


def value(data, at, kind):
    """(the value at an offset, the offset after it). kind: its type in GGUF."""
    if kind == STRING:
        return string(data, at)
    if kind != ARRAY:
        return data.number(SCALARS[kind], at), at + struct.calcsize(SCALARS[kind])
    kind, count = data.number("<I", at), data.number("<Q", at + 4)
    at, items = at + 12, []
    if count > LONGEST and kind in SCALARS:
        end = at + count * struct.calcsize(SCALARS[kind])
        if end > data.size:
            raise struct.error("too short")
        return count, end
    for _ in range(min(count, MOST)):
        item, at = value(data, at, kind)
        if count <= LONGEST:
            items.append(item)
    return (items if kind in SCALARS else count), at


def string(data, at):
    """(the string at an offset, the offset after it). A string longer than LONGEST_TEXT counts as empty."""
    length = data.number("<Q", at)
    if at + 8 + length > data.size:
        raise struct.error("too short")
    text = data.take(at + 8, length) if length <= LONGEST_TEXT else b""
    return text.decode("utf-8", "replace"), at + 8 + length


def folder(path):
    """The facts of a Hugging Face folder: config.json, and the headers of the *.safetensors in the index (or all)."""
    config = load(os.path.join(path, b"config.json"))
    there = {name for name in os.listdir(path) if name.endswith(b".safetensors")}
    index = os.path.join(path, b"model.safetensors.index.json")
    names = {name.encode() for name in load(index)["weight_map"].values()} if os.path.exists(index) else there
    if not names:
        raise ValueError("there are no *.safetensors in the folder")
    if names - there:
        missing = sorted(names - there)
        raise ValueError("%d of %d files are missing, %s first" % (len(missing), len(names), shown(missing[0])))
    tensors = {}
    for name in sorted(names):
        for dtype, size in safetensors(os.path.join(path, name)):
            tensors[dtype] = tensors.get(dtype, 0) + size
    facts = {key: config[key] for key in CONFIG if config.get(key) is not None}
    quantized = config.get("quantization_config")
    if quantized:
        facts["quantization"] = quantized.get("quant_method", "unknown")
    scaled = config.get("rope_scaling") or config.get("rope_parameters") or {}
    facts["rope"] = scaled.get("rope_type", scaled.get("type", "default"))
    facts["text_config"] = "text_config" in config
    # older models have the template in tokenizer_config.json, newer ones in its own file
    facts["chat_template"] = any(os.path.exists(os.path.join(path, name)) for name in CHAT_TEMPLATES)
    tokenizer = os.path.join(path, b"tokenizer_config.json")
    if os.path.exists(tokenizer):
        said = load(tokenizer)
        facts["model_max_length"] = said.get("model_max_length")
        facts["chat_template"] = facts["chat_template"] or bool(said.get("chat_template"))
    return {"kind": "safetensors", "tensors": tensors, "config": facts}


def safetensors(path):
    """[(data type, bytes)] of all tensors in a file. Raises ValueError, struct.error, OSError."""
    with contextlib.closing(Content(path)) as data:
        length = data.number("<Q", 0)
        if 8 + length > data.size:
            raise Damaged("%s is cut off, or is not a safetensors file" % shown(path))
        if length > LARGEST - 8:
            raise ValueError("the header of %s is larger than that of any known model" % shown(path))
        try:
            header = parsed(data.take(8, length))
        except ValueError:
            raise Damaged("%s is not a safetensors file" % shown(path)) from None
        found, end = [], 0
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end_here = tensor["data_offsets"]
                if type(begin) is not int or type(end_here) is not int or not 0 <= begin <= end_here:
                    raise ValueError("%s has a tensor with an invalid size" % shown(path))
                found.append((str(tensor["dtype"]), end_here - begin))
                end = max(end, end_here)
        if 8 + length + end > data.size:
            raise Damaged("%s is cut off" % shown(path))
        return found


def load(path):
    """The map in a JSON file. Raises ValueError, OSError."""
    content = parsed(read_file(path, LARGEST))
    if not isinstance(content, dict):
        raise ValueError("%s is not a JSON object" % shown(path))
    return content


def parsed(content):
    """JSON as data. Raises ValueError."""
    return json.loads(content.decode("utf-8"), parse_int=whole)


def whole(digits):
    """An integer of JSON. Raises ValueError for a long one: before 3.11, Python needs minutes for a million digits."""
    if len(digits) > 40:
        raise ValueError("a number of %d digits" % len(digits))
    return int(digits)


def shown(path):
    """The last part of a path, for messages."""
    return os.path.basename(path).decode("utf-8", "replace")


def answer(path):
    """The facts of the weights at a path, or {"problem": a sentence}. Raises only Slow."""
    try:
        said = read(path)
        if len(json.dumps(said)) > ANSWER:
            raise ValueError("their header has more facts than that of any known model")
        return said
    except OSError as error:
        problem = "%s: %s" % (shown(error.filename or path), error.strerror)
    except struct.error:
        problem = "%s is cut off in its header" % shown(path)
    except ValueError as error:
        problem = str(error)
    except (ArithmeticError, LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        problem = "their header could not be read (%r)" % error
    return {"problem": problem[:300]}


def damage(path):
    """{"damaged": a sentence}, "" where the weights at a path are whole, or where that is unknown. Raises only Slow."""
    try:
        check(path)
    except Damaged as error:
        return {"damaged": str(error)[:300]}
    except struct.error:
        return {"damaged": "%s is cut off in its header" % shown(path)}
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError):
        pass
    return {"damaged": ""}


class Slow(Exception):
    """Reading a header took too long."""


def bounded(path, ask=answer):
    """Like `answer` or another question about a path, within SECONDS."""

    def end(*_):
        raise Slow

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return ask(path)
    except Slow:
        return {"problem": "their header took more than %d s" % SECONDS}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main():
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    ask = damage if sys.argv[1:] == ["check"] else answer
    for line in sys.stdin.buffer:
        path = line.rstrip(b"\n")
        print(json.dumps(dict(bounded(path, ask), path=path.decode("utf-8", "replace")), sort_keys=True), flush=True)


if __name__ == "__main__":
    main()
