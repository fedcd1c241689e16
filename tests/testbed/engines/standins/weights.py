"""What the stand-ins read in a Hugging Face folder: enough to refuse what the engine refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """kind: chat, embed or rerank. size: bytes of weights. heads: of attention. longest: tokens."""

    kind: str
    size: int
    heads: int
    longest: int


def read(path: str) -> Folder:
    """The model in a folder. Raises OSError or ValueError if it is not a model."""
    folder = Path(path)
    config = json.loads((folder / "config.json").read_text())
    architecture = (config.get("architectures") or [""])[0]
    kind = "chat" if "CausalLM" in architecture or "ConditionalGeneration" in architecture else "embed"
    if architecture.endswith("ForSequenceClassification"):
        kind = "rerank"
    size = sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    if not size:
        raise ValueError("Cannot find any model weights with `" + path + "`")
    longest = config.get("max_position_embeddings", 2048)
    sentences = folder / "sentence_bert_config.json"
    if sentences.exists():
        longest = min(longest, json.loads(sentences.read_text()).get("max_seq_length") or longest)
    return Folder(kind, size, config.get("num_attention_heads", 1), longest)
