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
from gpurack.spec.weights import Weights

_ALL: tuple[Engine, ...] = (
    LlamaCpp(), Vllm(), LlamaCppPython(), Ollama(), Tei(), Sglang(), Custom(), Litellm(), OpenWebui(), LlamaGpt(),
)  # fmt: skip
"""In the order of docs/engines.md. Listed by hand, so that mypy and searches find them; a test finds a missing one."""
ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in _ALL}


def hints_of(name: str) -> list[Hint]:
    """Return the hints for an engine's error output. An unknown image (custom) may contain any engine."""
    engine = ENGINES[name]
    engines = ENGINES.values() if isinstance(engine, Custom) else [engine]
    return [*COMMON, *CUDA, *(hint for one in engines for hint in one.hints)]


def weights_of(entry: Model | Job) -> list[Weights]:
    """Return all weights of an entry: its own, and those of llama-cpp-python's `config`."""
    more = ENGINES[entry.engine].more_weights(entry) if isinstance(entry, Model) else []
    return [*([entry.weights] if entry.weights is not None else []), *more]
