"""What the headers of model weights say: how many bytes of tensors, and the few facts of their shape that the memory
estimate needs. Paths come by standard input, one a line; each is answered by one line of JSON.

Runs on the hosts within the look (snapshot.sh), so Python 3.6 and its standard library only. Nothing but headers is
read, whatever the size of the weights. Formats: GGUF 2 and 3 (ggml, docs/gguf.md); a Hugging Face folder, whose
*.safetensors begin with 8 bytes of length and that much JSON.
"""

import json
import mmap
import os
import re
import struct
import sys

CONFIG = (
    "model_type", "architectures", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_size", "vocab_size", "max_position_embeddings", "sliding_window", "use_sliding_window", "layer_types",
    "kv_lora_rank", "dtype", "torch_dtype", "is_encoder_decoder",
)  # fmt: skip
"""Of config.json, as it stands there."""
CHAT_TEMPLATES = (b"chat_template.jinja", b"chat_template.json")
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""GGUF's types of values but for strings (8) and arrays (9)."""
STRING, ARRAY = 8, 9
LONGEST = 1024
"""Longer arrays are vocabularies, not facts for each layer; only their length is of interest."""


def read(path):
    """The facts of a GGUF file (all its parts, when it is split) or a folder. Raises ValueError with a sentence."""
    if os.path.isdir(path):
        return folder(path)
    if path.endswith(b".gguf"):
        return gguf(path)
    raise ValueError("they are neither a GGUF file nor a folder of *.safetensors")


def gguf(path):
    """The first part has all the facts; each part has tensors of its own."""
    values, size = gguf_part(path)
    split = re.match(rb"(.*)-\d{5}-of-(\d{5})\.gguf$", path, re.S)
    for number in range(2, int(split.group(2)) + 1 if split else 2):
        size += gguf_part(b"%s-%05d-of-%s.gguf" % (split.group(1), number, split.group(2)))[1]
    name = values.get("general.architecture")
    config = {key: value for key, value in values.items() if name and key.startswith("%s." % name)}
    config["general.architecture"] = name
    config["vocab"] = values.get("tokenizer.ggml.tokens")
    config["chat_template"] = "tokenizer.chat_template" in values
    return {"kind": "gguf", "tensors": {"GGUF": size}, "config": config}


def gguf_part(path):
    """(values by key, bytes of tensors) of one file. Of long arrays the value is the length."""
    with open(path, "rb") as file:
        if not os.path.getsize(path):
            raise ValueError("%s is empty" % shown(path))
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data, 0)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("%s is no GGUF file of version 2 or 3" % shown(path))
    at, values = 24, {}
    for _ in range(pairs):
        key, at = string(data, at)
        values[key], at = value(data, at + 4, struct.unpack_from("<I", data, at)[0])
    last = -1
    for _ in range(tensors):
        _, at = string(data, at)
        (dimensions,) = struct.unpack_from("<I", data, at)
        at += 4 + 8 * dimensions + 4
        last = max(last, struct.unpack_from("<Q", data, at)[0])
        at += 8
    if not tensors:
        return values, 0
    alignment = values.get("general.alignment", 32)
    start = (at + alignment - 1) // alignment * alignment
    if start + last >= len(data):
        raise ValueError("%s is cut off" % shown(path))
    return values, len(data) - start


def value(data, at, kind):
    """(the value at this place, the place behind it)"""
    if kind == STRING:
        return string(data, at)
    if kind != ARRAY:
        return struct.unpack_from(SCALARS[kind], data, at)[0], at + struct.calcsize(SCALARS[kind])
    kind, count = struct.unpack_from("<IQ", data, at)
    at, items = at + 12, []
    if count > LONGEST and kind in SCALARS:
        return count, at + count * struct.calcsize(SCALARS[kind])
    for _ in range(count):
        item, at = value(data, at, kind)
        if count <= LONGEST:
            items.append(item)
    return (items if kind in SCALARS else count), at


def string(data, at):
    """(the text at this place, the place behind it)"""
    (length,) = struct.unpack_from("<Q", data, at)
    if at + 8 + length > len(data):
        raise struct.error("too short")
    return data[at + 8 : at + 8 + length].decode("utf-8", "replace"), at + 8 + length


def folder(path):
    """config.json, and the headers of the *.safetensors that the index names (or of all, without an index)."""
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
    # a template stands in the tokenizer's configuration, newer models have a file of its own
    facts["chat_template"] = any(os.path.exists(os.path.join(path, name)) for name in CHAT_TEMPLATES)
    tokenizer = os.path.join(path, b"tokenizer_config.json")
    if os.path.exists(tokenizer):
        said = load(tokenizer)
        facts["model_max_length"] = said.get("model_max_length")
        facts["chat_template"] = facts["chat_template"] or bool(said.get("chat_template"))
    return {"kind": "safetensors", "tensors": tensors, "config": facts}


def safetensors(path):
    """(data type, bytes) of every tensor."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > 100 << 20:  # the format's own limit
            raise ValueError("%s is no safetensors file" % shown(path))
        header = json.loads(file.read(length).decode("utf-8"))
    found, end = [], 0
    for name, tensor in header.items():
        if name != "__metadata__":
            begin, end_here = tensor["data_offsets"]
            found.append((tensor["dtype"], end_here - begin))
            end = max(end, end_here)
    if 8 + length + end > os.path.getsize(path):
        raise ValueError("%s is cut off" % shown(path))
    return found


def load(path):
    """A JSON file that holds a map."""
    with open(path, "rb") as file:
        content = json.loads(file.read().decode("utf-8"))
    if not isinstance(content, dict):
        raise ValueError("%s holds no map" % shown(path))
    return content


def shown(path):
    """The last part of a path, for sentences."""
    return os.path.basename(path).decode("utf-8", "replace")


def answer(path):
    """The facts of the weights at a path, or {"problem": why there are none}; never an exception."""
    try:
        return read(path)
    except OSError as error:
        return {"problem": "%s: %s" % (shown(error.filename or path), error.strerror)}
    except ValueError as error:
        return {"problem": str(error)}
    except struct.error:
        return {"problem": "%s is cut off in its header" % shown(path)}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        return {"problem": "their header could not be read (%r)" % error}


def main():
    for line in sys.stdin.buffer:
        path = line.rstrip(b"\n")
        print(json.dumps(dict(answer(path), path=path.decode("utf-8", "replace")), sort_keys=True))


if __name__ == "__main__":
    main()
