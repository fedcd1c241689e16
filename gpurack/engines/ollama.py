"""ollama: models that it pulls from its own library, on GPUs or the CPU.

Sources (ollama 0.33): it is healthy before any model exists, so being ready says nothing about the models in `pull`. It
has no API keys (use loopback or a gateway). `/root/.ollama` contains what was pulled and must be a volume. Its default
context grows with the GPU's memory up to 256k, so set `context`. It spreads a model that does not fit on one GPU over
several.
"""

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from gpurack.engines.base import Engine, Request, Row, Word
from gpurack.engines.compiled import CUDA, Compiled
from gpurack.engines.container import Accelerator, Container, Run
from gpurack.engines.dialect import CONTEXT, OWN_VOLUME, Dialect
from gpurack.engines.hints import Hint
from gpurack.engines.probes import VERSION
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+(?=/))?(/[A-Za-z0-9._-]+)*(:[A-Za-z0-9._-]+)?"
"""[registry/][user/]model[:tag], as `ollama pull` takes it."""


LIBRARY = "registry.ollama.ai"
DATA = "/root/.ollama"
OWN = {
    "OLLAMA_CONTEXT_LENGTH": "Use the field `context`.",
    "OLLAMA_HOST": "Use the fields `port` and `bind`.",
    "OLLAMA_MODELS": "Remove it.",
}
"""Variables that gpurack sets itself → what to write instead."""


def full_name(model: str) -> str:
    """Return a model's name as ollama lists it.

    >>> full_name("qwen2.5"), full_name("registry.ollama.ai/library/qwen2.5:7b"), full_name("hf.co/a/b:Q4_K_M")
    ('qwen2.5:latest', 'qwen2.5:7b', 'hf.co/a/b:Q4_K_M')
    """
    name = model.removeprefix(f"{LIBRARY}/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


class Ollama(Engine):
    """`ollama serve`, the image's own command."""

    name = "ollama"
    title = "ollama"
    row = Row(
        serves="its own library",
        image="`ollama/ollama:0.33.0`",
        gpus="spreads over them by itself, or CPU",
        key="**none**",
        sets="context, address, volume; waits until each model of `pull` answers",
        limits="does not enforce vram",
        state="stand-in",
    )
    compiled = Compiled("compiled-ollama", "/var/cache/ollama", {"nvidia": CUDA})
    dialect = Dialect(
        images="ollama",
        programs=(("serve",), ("ollama", "serve"), ("/bin/ollama", "serve")),
        variables={
            "OLLAMA_CONTEXT_LENGTH": CONTEXT,
            "OLLAMA_HOST": "gpurack sets it from port and bind",
            "OLLAMA_MODELS": "gpurack keeps the models in a volume of its own",
        },
        caches={DATA: OWN_VOLUME + "; name the models in pull"},
        pulls=(("ollama", "pull"), ("ollama", "run")),
        pull_path="/api/pull",
        ends={("ollama", word) for word in ("create", "cp", "rm", "list", "show")},
    )
    hints = (Hint(r"requires more system memory", "The host has too little memory for it. Choose a smaller model."),)
    api = "ollama"
    dry_start = VERSION
    port = 11434
    ready_path = "/api/tags"
    ready_names_model = False
    keyless = True
    no_weights = "; name its models in pull"
    fields = frozenset({"pull"})
    unused: ClassVar = {
        "args": "`ollama serve` has no flags: use its variables (OLLAMA_…) in `env`.",
        "served_name": "Its models answer to their names in `pull`.",
    }

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the image. `version` is upstream's number ("0.33.0"). The image for CUDA also runs on the CPU."""
        return f"ollama/ollama:{version}" + ("-rocm" if accelerator.vendor == "amd" else "")

    def serves(self, model: Model, served_name: str) -> list[str]:
        """Return the models that it pulls. Clients never use the name of its entry."""
        return list(model.pull) or [served_name]

    def prompt_logs(self, model: Model) -> list[str]:
        """Return OLLAMA_DEBUG, which logs the prompts of chats, and OLLAMA_DEBUG_LOG_REQUESTS.

        The latter writes each request to a file (envconfig/config.go: "Log inference request bodies and replay curl
        commands to a temp directory").
        """
        off = ("", "0", "false", "f")
        names = ("OLLAMA_DEBUG", "OLLAMA_DEBUG_LOG_REQUESTS")
        return [f"env.{name}" for name in names if model.env.get(name, "").lower() not in off]

    def log_shows(self, model: Model) -> Literal["", "devices"]:
        """Return "devices", unless OLLAMA_LLM_LIBRARY chooses the CPU. Where it puts layers depends on each request."""
        return "" if model.env.get("OLLAMA_LLM_LIBRARY", "").startswith("cpu") else "devices"

    def container(self, model: Model, run: Run) -> Container:
        """Return a container with settings as variables, and pulled models in a volume."""
        environment = {"OLLAMA_HOST": f"0.0.0.0:{self.port}"}
        if model.context:
            environment["OLLAMA_CONTEXT_LENGTH"] = str(model.context)
        return Container(environment=environment, volumes={f"ollama-{run.name}": DATA})

    def words(self, model: Model) -> list[Word]:
        """Return its variables, which it has instead of flags. It ignores unknown ones."""
        return [(f"env.{name}", name) for name in model.env if name.startswith("OLLAMA_")]

    def requests(self, model: Model, names: Sequence[str]) -> list[Request]:
        """Return requests for one token or an embedding of the first model in `pull`."""
        if not model.pull:
            return []
        first = {"model": model.pull[0]}
        generate = {"prompt": "Hello", "stream": False, "options": {"num_predict": 1}}
        return [("/api/generate", {**first, **generate}), ("/api/embed", {**first, "input": "Hello"})]

    def check(self, model: Model) -> list[Problem]:
        """Also check the names in `pull`, and refuse variables that have a field."""
        problems = super().check(model)
        problems += [
            Problem.of("invalid-ollama-model", path="pull", name=name)
            for name in model.pull
            if not re.fullmatch(NAME, name)
        ]
        problems += [
            Problem.of("set-by-gpurack", path=f"env.{name}", hint=hint)
            for name, hint in OWN.items()
            if name in model.env
        ]
        return problems
