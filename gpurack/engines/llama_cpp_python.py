"""llama-cpp-python's server: GGUF files, one by `weights` or several by `config` (its CONFIG_FILE).

Sources (llama-cpp-python 0.3.36): the image's default CMD compiles the library at every start, so the server is started
directly. Its command line is derived from the settings' names: underscores, a value for every boolean, and all items of
a list after one flag. With a CONFIG_FILE, all other settings come from that file. There is no /health; /v1/models lists
the aliases (and needs the key). An unknown model name is served by the first model. The published image computes on the
CPU; users build the one for CUDA (docker/cuda_simple).
"""

import contextlib
import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from gpurack.engines.base import EMBEDDING, Engine, Row, Word
from gpurack.engines.builds import Builds
from gpurack.engines.compiled import CUDA, Compiled
from gpurack.engines.container import Accelerator, Container, Run, with_secrets
from gpurack.engines.dialect import Dialect, python
from gpurack.engines.hints import WEIGHTS, Hint
from gpurack.engines.probes import ARGPARSE, PYTHON
from gpurack.shell import sh
from gpurack.spec.model import ArgValue, Model
from gpurack.spec.problems import Problem, from_pydantic
from gpurack.spec.weights import Weights

CONFIG = "/etc/llama-cpp-python.json"
KEYED_CONFIG = "/run/gpurack/config.json"
"""CONFIG with the key, created in memory at the start."""

PATIENT: dict[str, ArgValue] = {"interrupt_requests": False}
"""By default, a new request aborts the answer that is being streamed.

Open WebUI requests a chat's title and tags while the chat is answered.
"""

SMALL = 8
"""GiB of memory below which batches are halved."""

TRUE = ("1", "on", "t", "true", "y", "yes")
"""Values that the server reads as true, as an argument (its cli.py) and as a variable (pydantic), in any case."""

SIMPLE = re.compile(r"(?:.*/)?(docker/(?:cuda_simple|openblas_simple|simple)/Dockerfile)")
CUDA_SIMPLE = ("cuda_simple", "llama-cpp-python-cuda")
"""Usual names of an image of docker/cuda_simple, which is built in its own folder."""
CUDA_DOCKERFILE = "docker/cuda_simple/Dockerfile"

_WEIGHTS: TypeAdapter[Any] = TypeAdapter(Weights)
_ADD_KEY = (
    "import json,sys; c=json.load(open(sys.argv[1])); c['api_key']=open(sys.argv[2]).read().strip(); "
    "assert c['api_key']; json.dump(c,open(sys.argv[3],'w'))"
)


class LlamaCppPythonBuilds(Builds):
    """`docker/` of its repository (cuda_simple, simple, …)."""

    git = "https://github.com/abetlen/llama-cpp-python"

    def like(self, build: Mapping[str, Any]) -> str:
        """Return the server's image, for every Dockerfile."""
        return "ghcr.io/abetlen/llama-cpp-python"

    def dockerfile(self, path: str, file: str, names: Sequence[str]) -> str | None:
        """Recognize it by its folder, or by its usual name."""
        if found := SIMPLE.fullmatch(path) or SIMPLE.fullmatch(file):
            return found[1]
        called = {name.partition(":")[0] for name in names}
        return CUDA_DOCKERFILE if file == "Dockerfile" and called & set(CUDA_SIMPLE) else None

    def by_name(self, image: str) -> Mapping[str, str] | None:
        """Recognize `cuda_simple`, with any tag."""
        return {"dockerfile": CUDA_DOCKERFILE} if image.partition(":")[0] in CUDA_SIMPLE else None


class LlamaCppPython(Engine):
    """`python3 -m llama_cpp.server` of the official image, or of one built locally for CUDA."""

    name = "llama-cpp-python"
    title = "llama-cpp-python"
    row = Row(
        serves="GGUF, several in one server",
        image="`ghcr.io/abetlen/llama-cpp-python:v0.3.36`",
        gpus="CPU; CUDA with an `image` that you built",
        key="exported, or added to the config in memory",
        sets="name, address, key, context; the start without compiling",
        limits="does not enforce vram",
        state="**real program** (CPU)",
    )
    dialect = Dialect(
        images="llama-cpp-python(-cuda)?|cuda_simple|llama-gpt-api[a-z0-9-]*",
        programs=python("llama_cpp.server"),
        keeps_spelling=True,
        variables={
            "MODEL": "model", "MODEL_ALIAS": "model_alias", "N_CTX": "n_ctx", "N_GPU_LAYERS": "n_gpu_layers",
            "HOST": "host", "PORT": "port", "API_KEY": "api_key", "CONFIG_FILE": "config_file",
        },
    )  # fmt: skip
    builds = LlamaCppPythonBuilds()
    hints = (Hint(r"Model path does not exist", WEIGHTS),)
    port = 8000
    own_template = True
    weights_suffixes = (".gguf",)
    any_name = True
    compiled = Compiled("compiled-llama-cpp-python", "/var/cache/llama-cpp-python", {"nvidia": CUDA})
    cuda_probe = PYTHON
    dry_start = ARGPARSE
    fields = frozenset({"config"})
    abbreviates = True
    own_args: ClassVar = {
        "model": "weights", "model-alias": "served_name", "host": "bind", "port": "port", "api-key": "api_key",
        "n-ctx": "context", "config-file": "config",
    }  # fmt: skip

    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the image. `version` is upstream's number ("0.3.36"). It runs on the CPU only."""
        if accelerator.vendor != "cpu":
            raise LookupError(
                "llama-cpp-python publishes no image for GPUs. Name the one you built (docker/cuda_simple) in `image`, "
                "or use llama.cpp."
            )
        return f"ghcr.io/abetlen/llama-cpp-python:v{version}"

    def holds_gpus(self, model: Model) -> bool:
        """Return False for a `config`, whose models may differ, and without layers on the GPUs."""
        chosen = (str(model.args.get("n_gpu_layers")), model.env.get("N_GPU_LAYERS"))
        return model.config is None and "0" not in chosen

    def log_shows(self, model: Model) -> Literal["", "layers"]:
        """Return "layers" where it puts layers on its GPUs."""
        return "layers" if self.holds_gpus(model) else ""

    def answers_as(self, model: Model, served_name: str) -> str | None:
        """Return the alias of the first model of a config.

        None without an alias, because the path in the answer is not known in advance.
        """
        if model.config is None:
            return served_name
        first = next(iter(_models(model)), {})
        return first.get("model_alias")

    def serves(self, model: Model, served_name: str) -> list[str]:
        """Return the aliases of a config's models."""
        return [str(entry["model_alias"]) for entry in _models(model) if "model_alias" in entry] or [served_name]

    def test_paths(self, model: Model) -> Sequence[str]:
        """Return embeddings alone for a model with `embedding`, the first one of a config."""
        settings = next(iter(_models(model)), {}) if model.config is not None else model.args
        return (EMBEDDING,) if is_on("embedding", settings, model.env) else super().test_paths(model)

    def more_weights(self, model: Model) -> list[Weights]:
        """Return the weights of the config's models. Invalid ones are errors of check_weights."""
        found = []
        for entry in _models(model):
            with contextlib.suppress(ValidationError):
                found.append(_WEIGHTS.validate_python(entry.get("model")))
        return found

    def container(self, model: Model, run: Run) -> Container:
        """Return the server on port 8000, without the compilation in the image's CMD."""
        server = ["python3", "-m", "llama_cpp.server"]
        if model.config is not None:
            return self._by_config(model, run, server)
        argv = [*server, "--model", str(run.weights), "--model_alias", run.served_name]
        argv += ["--host", "0.0.0.0", "--port", str(self.port)]
        if model.context:
            argv += ["--n_ctx", str(model.context)]
        if run.gpus and "n_gpu_layers" not in model.args:
            argv += ["--n_gpu_layers", "-1"]
        argv += settings({**PATIENT, **host_settings(run), **model.args})
        compose = locked_memory() if locks_memory(model.args, model.env) else {}
        if run.api_key_file:
            entrypoint, command = with_secrets({"API_KEY": run.api_key_file}, argv)
            return Container(command, entrypoint, compose=compose)
        return Container(argv, compose=compose)

    def _by_config(self, model: Model, run: Run, server: list[str]) -> Container:
        """Use the config with paths in the container, and gpurack's host and port.

        The key is added at the start.
        """
        config = copy.deepcopy(model.config or {})
        for entry, path in zip(config["models"], run.more_weights, strict=True):
            entry["model"] = path
            for name, value in (host_settings(run) | ({"n_gpu_layers": -1} if run.gpus else {})).items():
                entry.setdefault(name, value)
        files = {CONFIG: json.dumps({**PATIENT, **config, "host": "0.0.0.0", "port": self.port}, indent=2)}
        compose = locked_memory() if any(locks_memory(entry, model.env) for entry in config["models"]) else {}
        if not run.api_key_file:
            return Container([*server, "--config_file", CONFIG], files=files, compose=compose)
        script = sh('set -eu; umask 077; python3 -c "$0" {} {} {}; exec "$@"', CONFIG, run.api_key_file, KEYED_CONFIG)
        command = [str(script), _ADD_KEY, *server, "--config_file", KEYED_CONFIG]
        in_memory = {"tmpfs": [f"{KEYED_CONFIG.rpartition('/')[0]}:mode=0700"]}
        return Container(command, ["sh", "-c"], files=files, compose={**compose, **in_memory})

    def started_by(self, command: Sequence[str]) -> tuple[Mapping[str, str], Sequence[str]]:
        """Return the server behind the program that adds the key to its config."""
        if list(command[:2]) != ["sh", "-c"] or list(command[3:4]) != [_ADD_KEY]:
            return {}, command
        key_file = re.search(rf'"\$0" {re.escape(CONFIG)} (\S+) ', command[2])
        return {"API_KEY": f"$(cat {key_file[1]})"} if key_file else {}, [*command[4:-1], CONFIG]

    def words(self, model: Model) -> list[Word]:
        """Return also the keys of a config.

        The server (0.3.36, pydantic-settings 2.16) exits at an unknown or misplaced key ("Extra inputs are not
        permitted").
        """
        found = super().words(model)
        found += [(f"config.{key}", f"config.{key}") for key in model.config or {}]
        for index, entry in enumerate(_models(model)):
            found += [(f"config.models.{index}.{key}", f"config.models.{key}") for key in entry]
        return found

    def check(self, model: Model) -> list[Problem]:
        """Also refuse fields of a single model together with a config."""
        problems = super().check(model)
        if model.config is None:
            return problems
        for field in ("context", "args", "served_name"):
            if getattr(model, field):
                problems.append(Problem.of("no-effect-beside-config", path=field))
        return problems

    def check_weights(self, model: Model) -> list[Problem]:
        """With a config, return the errors of each of its models' weights."""
        if model.config is None:
            return super().check_weights(model)
        if model.weights is not None:
            return [Problem.of("no-effect-beside-config", path="weights")]
        entries = _models(model)
        if not entries:
            return [Problem.of("config-without-models", path="config.models")]
        problems = [
            Problem.of("set-by-gpurack", path=f"config.{key}", hint=f"Use the field `{field}`.")
            for key, field in {"host": "bind", "port": "port", "api_key": "api_key"}.items()
            if key in model.config
        ]
        aliases = [entry.get("model_alias") for entry in entries]
        problems += [
            Problem.of("alias-used-twice", path=f"config.models.{index}.model_alias")
            for index, alias in enumerate(aliases)
            if alias is not None and alias in aliases[:index]
        ]
        for index, entry in enumerate(entries):
            path = f"config.models.{index}.model"
            if entry.get("model") is None:
                problems.append(Problem.of("config-model-missing", path=path))
                continue
            try:
                weights = _WEIGHTS.validate_python(entry.get("model"))
            except ValidationError as error:
                problems += from_pydantic("", path, error, {})
                continue
            one = model.model_copy(update={"config": None, "weights": weights})
            problems += [replace(problem, path=path) for problem in super().check_weights(one)]
        return problems


def _models(model: Model) -> list[dict[str, Any]]:
    """Return the config's models; none if the config is invalid, which is an error of check_weights."""
    found = (model.config or {}).get("models", [])
    return found if isinstance(found, list) and all(isinstance(entry, dict) for entry in found) else []


def host_settings(run: Run) -> dict[str, ArgValue]:
    """Return threads and batch size for the size of the host, as llama-gpt's run.sh sets them.

    All processors, and smaller batches on hosts with little memory. On GPUs the server's defaults apply.
    """
    if run.gpus or run.cores is None:
        return {}
    return {"n_threads": run.cores, "n_batch": 1024 if run.memory is not None and run.memory < SMALL else 2048}


def settings(args: dict[str, ArgValue]) -> list[str]:
    """Return the inventory's `args` as this server's flags.

    Every boolean has a value; all items of a list follow one flag.

    >>> settings({"n_threads": 8, "flash_attn": True, "tensor_split": [0.5, 0.5]})
    ['--n_threads', '8', '--flash_attn', 'true', '--tensor_split', '0.5', '0.5']
    """
    words: list[str] = []
    for name, value in args.items():
        items = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(item).lower() if isinstance(item, bool) else str(item) for item in items)]
    return words


def locks_memory(settings: Mapping[str, Any], env: Mapping[str, str]) -> bool:
    """Is a model locked into memory?"""
    return is_on("use_mlock", settings, env)


def is_on(name: str, settings: Mapping[str, Any], env: Mapping[str, str]) -> bool:
    """Is a setting on? A variable with its name, in any case, also sets it."""
    variables = {variable.lower(): value for variable, value in env.items()}
    return str(settings.get(name, variables.get(name, ""))).strip().lower() in TRUE


def locked_memory() -> dict[str, Any]:
    """Return what a container needs to lock its model into memory (mlock)."""
    return {"cap_add": ["IPC_LOCK"], "ulimits": {"memlock": -1}}
