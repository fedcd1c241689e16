"""The serving engines, by their names in the inventory.

Each has one file with a subclass of base.Engine, and a place in _ALL below. Everything else reads its class. See
base.py, and tei.py for a short example; docs/design.md ("How to add") lists what else a new engine needs.
"""

from collections.abc import Mapping

from gpurack.engines.base import Engine
from gpurack.engines.custom import Custom
from gpurack.engines.hints import COMMON, CUDA, Hint
from gpurack.engines.litellm import Litellm
from gpurack.engines.llama_cpp import LlamaCpp
from gpurack.engines.llama_cpp_python import LlamaCppPython
from gpurack.engines.llama_gpt import LlamaGpt
from gpurack.engines.ollama import Ollama
from gpurack.engines.open_webui import OpenWebui
from gpurack.engines.sglang import Sglang
from gpurack.engines.tei import Tei
from gpurack.engines.vllm import Vllm
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import Problem, nearest
from gpurack.spec.weights import Weights

_ALL: tuple[Engine, ...] = (
    LlamaCpp(), Vllm(), LlamaCppPython(), Ollama(), Tei(), Sglang(), Custom(), Litellm(), OpenWebui(), LlamaGpt(),
)  # fmt: skip
"""In the order of docs/engines.md. Listed by hand, so that mypy and searches find them; a test finds a missing one."""
ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in _ALL}
OTHER_NAMES = {
    "text-embeddings-inference": "tei", "huggingface-tei": "tei",
    "llama-server": "llama.cpp", "llama-cpp-server": "llama.cpp", "gguf": "llama.cpp",
    "vllm-openai": "vllm", "open-web-ui": "open-webui",
}  # fmt: skip
"""How others call an engine → its name here, where that is not alike. `_` counts as `-`."""
NO_ENGINE = {
    ("text-generation-inference", "tgi"): "gpurack has no engine for it; `vllm` and `sglang` serve the same models.",
}
"""Programs that people know, without an engine here → the hint."""


def unknown_engine(name: object, host: str = "", path: str = "") -> Problem:
    """Return the error of a name that is not an engine's.

    >>> print(unknown_engine("text_embeddings_inference"))
    unknown engine "text_embeddings_inference". Write "tei".
    """
    word = str(name).lower().replace("_", "-")
    hint = next((hint for words, hint in NO_ENGINE.items() if word in words), "")
    if word in OTHER_NAMES:
        hint = f'Write "{OTHER_NAMES[word]}".'
    if hint:
        return Problem.of("unknown-engine", host, path, name=name, hint=hint)
    return Problem.unknown("unknown-engine", name, list(ENGINES), host, path)


def is_misspelt(name: object) -> bool:
    """Is it meant as an engine's name, but not one?"""
    word = str(name).lower().replace("_", "-")
    known = word in OTHER_NAMES or any(word in words for words in NO_ENGINE) or nearest(name, ENGINES, 0.85)
    return name not in ENGINES and bool(known)


def hints_of(name: str) -> list[Hint]:
    """Return the hints for an engine's error output. An unknown image (custom) may contain any engine."""
    engine = ENGINES[name]
    engines = ENGINES.values() if isinstance(engine, Custom) else [engine]
    return [*COMMON, *CUDA, *(hint for one in engines for hint in one.hints)]


def weights_of(entry: Model | Job) -> list[Weights]:
    """Return all weights of an entry: its own, and those of llama-cpp-python's `config`."""
    more = ENGINES[entry.engine].more_weights(entry) if isinstance(entry, Model) else []
    return [*([entry.weights] if entry.weights is not None else []), *more]
