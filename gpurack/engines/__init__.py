"""The serving engines by the name the inventory uses. One file each, all of the shape of base.Engine."""

from collections.abc import Mapping

from gpurack.engines.base import Engine
from gpurack.engines.llama_cpp import LlamaCpp
from gpurack.engines.vllm import Vllm

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (LlamaCpp(), Vllm())}
