"""The serving engines by the name the inventory uses. One file each, all of the shape of base.Engine."""

from collections.abc import Mapping

from gpurack.engines.base import Engine
from gpurack.engines.custom import Custom
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
    LlamaCpp(), Vllm(), LlamaCppPython(), Ollama(), Tei(), Sglang(), LlamaGpt(), OpenWebui(), Litellm(), Custom(),
)  # fmt: skip
ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in _ALL}


def weights_of(entry: Model | Job) -> list[Weights]:
    """All weights of an entry: its own, and those that it names elsewhere (llama-cpp-python's config)."""
    more = ENGINES[entry.engine].more_weights(entry) if isinstance(entry, Model) else []
    return [*([entry.weights] if entry.weights is not None else []), *more]
