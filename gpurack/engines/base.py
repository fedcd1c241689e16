"""The base class of all engines. Its defaults are what most engines do.

dialect.py, builds.py and jobs.py describe how users start an engine by hand, for `gpurack import`. hints.py describes
its errors.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from gpurack.cuda_faults import OLDEST_DRIVER
from gpurack.engines.args import numbers, with_dashes
from gpurack.engines.builds import Builds
from gpurack.engines.compiled import Compiled
from gpurack.engines.container import CPU, Accelerator, Api, Container, Run
from gpurack.engines.dialect import ConfiguredUpstream, Dialect
from gpurack.engines.hints import Hint
from gpurack.engines.jobs import Jobs
from gpurack.engines.memory import Facts, Needs, NotEstimated
from gpurack.engines.probes import CudaProbe, DryStart
from gpurack.spec.fields import of_some
from gpurack.spec.model import ArgValue, Job, Model
from gpurack.spec.problems import Problem
from gpurack.spec.weights import SPLIT, HfWeights, ModelScopeWeights, UrlWeights, Weights

OWN_COMPOSE = {
    "ports": "Use `port` and `bind`, so that the plan knows every listener.",
    "container_name": "The container has the name of its entry.",
    "image": "Use `image`.",
}
"""Keys of a Compose service that have a field in the inventory."""

Word = tuple[str, str]
"""(field of the model; a flag, key or variable as the engine spells it)"""


Request = tuple[str, Mapping[str, Any]]
"""(path, JSON body) of a POST request"""


CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RERANK, CLASSIFY, POOLING = "/v1/rerank", "/classify", "/pooling"
"""Paths of test requests."""

RUNS_NO_MODEL: Mapping[str, str] = {
    "gpus": "It runs no model itself. Remove `gpus`.",
    "vram": "It runs no model itself. Remove `vram`.",
    "context": "Set `context` on the models it connects to.",
    "served_name": "Clients see the names of the models it connects to.",
}
"""`Engine.unused` of gateways and web UIs."""


@dataclass(frozen=True)
class Counter:
    """A counter of an engine's work, in Prometheus' text format.

    path: of the request that returns it. unit: what it counts ("tokens").
    """

    path: str
    name: str
    unit: str


@dataclass(frozen=True)
class Row:
    """An engine's row of the table in docs/engines.md, in Markdown.

    image: the one that `version` chooses. sets: what gpurack configures. state: what the tests run.
    """

    serves: str
    image: str
    gpus: str
    key: str
    sets: str
    limits: str
    state: str


CUDA_13 = "7.5"
"""The lowest compute capability that CUDA 13 supports: Turing's."""


def named_cuda(version: str) -> int | None:
    """Return the major version of CUDA that a tag names; None if it names none.

    >>> named_cuda("0.33.0-cu129"), named_cuda("0.5.11-cu130-arm64"), named_cuda("0.33.0")
    (12, 13, None)
    """
    named = re.search(r"-cu(\d\d)\d?(?:-|$)", version)
    return int(named[1]) if named else None


class Engine(ABC):
    """A serving engine: first what does not depend on the model, then what does.

    Each engine sets `name`, `title`, `row` and `port`, and defines `image` and `container`. Everything else has a
    default: set what differs.
    """

    name: ClassVar[str]
    """Its name in the inventory."""
    title: ClassVar[str]
    """Its name as upstream writes it."""
    row: ClassVar[Row]
    """Its row of the table in docs/engines.md."""
    port: ClassVar[int]
    """Its port in the container."""

    hints: ClassVar[tuple[Hint, ...]] = ()
    """Hints for its errors, in addition to hints.COMMON."""
    dialect: ClassVar[Dialect] = Dialect()
    """How users start it by hand."""
    builds: ClassVar[Builds | None] = None
    """Its repository, if users build its images themselves."""
    jobs: ClassVar[Jobs | None] = None
    """Its commands that end by themselves. An engine with jobs also has `job_image`."""
    api: ClassVar[Api] = "openai"
    """The kind of its API."""
    base_path: ClassVar[str] = "/v1"
    """The base path of its API."""
    ready_path: ClassVar[str] = "/v1/models"
    """The path that answers 200 when it is ready."""
    ready_names_model: ClassVar[bool] = True
    """Does the body of that answer contain the served name?"""

    weights_suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the weights files that it can read."""
    weights_folders: ClassVar[bool] = False
    """Can it read Hugging Face folders?"""
    no_weights: ClassVar[str] = ""
    """The end of the message that refuses weights."""
    chats: ClassVar[bool] = True
    """Does it generate text? An engine that does not uses every model for embeddings."""
    own_template: ClassVar[bool] = False
    """Does it have a chat template for models without one?"""
    any_name: ClassVar[bool] = False
    """Does it ignore the model name in a request?"""

    keyless: ClassVar[bool] = False
    """Does it have no API keys?"""
    unguarded: ClassVar[tuple[str, ...]] = ()
    """Some of the routes that its key does not protect."""
    hash_client_keys: ClassVar[bool] = True
    """Does its container get digests of the keys in `keys`, instead of the keys?"""

    service: ClassVar[bool | None] = False
    """Is it a service (True), a model (False), or can it be either (None)?"""
    gateway: ClassVar[bool] = False
    """Is it a gateway, which forwards requests to models by their names?"""
    host_key: ClassVar[str] = ""
    """For a gateway: the path in its container of the key for the host's checks."""
    fields: ClassVar[frozenset[str]] = frozenset()
    """Those of the fields marked OnlySome that it supports."""
    unused: ClassVar[Mapping[str, str]] = {}
    """Fields that have no effect on it → the hint. In `defaults` they are ignored; elsewhere they are errors."""

    own_args: ClassVar[Mapping[str, str]] = {}
    """Flags that gpurack sets → the field of the inventory for it."""
    removed_args: ClassVar[Mapping[str, str]] = {}
    """Flags that upstream removed → what to use instead."""
    removed_since: ClassVar[tuple[int, ...]] = ()
    """The first version that has none of them."""
    underscores: ClassVar[bool] = False
    """Does its parser treat underscores in flags as dashes?"""
    abbreviates: ClassVar[bool] = False
    """Does it accept an unambiguous prefix of a flag?"""
    parallel_flags: ClassVar[tuple[str, ...]] = ()
    """Its flags for several GPUs: tensor, pipeline, data parallel."""

    shared_memory: ClassVar[str] = ""
    """The size of /dev/shm in its containers (Compose's shm_size); "" for Docker's default."""
    one_gpu: ClassVar[bool] = False
    """Can it use only one GPU?"""
    enforces_vram: ClassVar[bool] = False
    """Does it limit itself to its share of a GPU's memory?"""
    profiles_memory: ClassVar[bool] = False
    """Does it measure the free memory of its GPUs while it starts? Two at once on a GPU would count each other's."""
    min_compute: ClassVar[str | None] = None
    """The lowest NVIDIA compute capability that its images support."""
    cuda_probe: ClassVar[CudaProbe | None] = None
    """How its image shows whether CUDA works; None if it cannot."""
    dry_start: ClassVar[DryStart | None] = None
    """How its program shows whether it knows its arguments; None if it cannot without loading."""
    compiled: ClassVar[Compiled | None] = None
    """Where it keeps what it compiles for a GPU; None if it compiles nothing."""
    counter: ClassVar[Counter | None] = None
    """Its counter of served requests or tokens; None if it has none."""
    running: ClassVar[str] = ""
    """The name of its number of running requests, at the counter's path; "" if it has none."""
    sleeping: ClassVar[tuple[str, str] | None] = None
    """(path, key of the JSON object that it answers) of whether it sleeps; None if it cannot sleep."""
    only_version: ClassVar[str | None] = None
    """The version of an engine without new releases, so that an entry may omit it."""
    successor: ClassVar[str] = ""
    """The maintained engine that replaces it, if it has no new releases."""
    legacy: ClassVar[str] = ""
    """Why new entries should not use it, as a sentence; "" if they may."""

    @abstractmethod
    def image(self, version: str, accelerator: Accelerator) -> str:
        """Return the image reference for an upstream version.

        Raises LookupError with a sentence if there is none for this accelerator.
        """

    def lacks_arm64(self, version: str, accelerator: Accelerator) -> str:
        """Return what to do on an arm64 host for which a version has no image; "" if it has one, or if unknown."""
        return ""

    def job_image(self, version: str, accelerator: Accelerator, command: Sequence[str]) -> str:
        """Return the image reference for a job. Raises LookupError with a sentence if there is none."""
        raise LookupError(f"{self.name} has no images for jobs. Use llama.cpp.")

    def variants(self, version: str) -> list[str]:
        """Return every reference that `image` may choose for a version."""
        found = set()
        for accelerator in (CPU, Accelerator("nvidia", "8.0"), Accelerator("amd")):
            with suppress(LookupError):
                found.add(self.image(version, accelerator))
        return sorted(found)

    @abstractmethod
    def container(self, model: Model, run: Run) -> Container:
        """Return command, environment and other settings of its container."""

    def started_by(self, command: Sequence[str]) -> tuple[Mapping[str, str], Sequence[str]]:
        """Return (variables, the server's command) that a program of gpurack's own starts; other commands unchanged.

        See `container`. A variable that is read from a file is `$(cat FILE)`.
        """
        return {}, command

    def flags_for(self, *fields: str) -> list[str]:
        """Return the flags that gpurack sets from any of these fields."""
        return [flag for flag, field in self.own_args.items() if field in fields]

    def upstreams_of(self, config: Any) -> Sequence[ConfiguredUpstream]:
        """For a gateway: return what the data of its configuration connects to. Raises ValueError."""
        return ()

    def listens(self, model: Model) -> int:
        """Return the port inside the container."""
        return self.port

    def ready_at(self, model: Model) -> str:
        """Return the path that answers 200 when it is ready."""
        return self.ready_path

    def answers_as(self, model: Model, served_name: str) -> str | None:
        """Return the name that the body of that answer must contain; None if the body names no model."""
        return served_name if self.ready_names_model else None

    def serves(self, model: Model, served_name: str) -> list[str]:
        """Return the model names that it answers to."""
        return [served_name]

    def cannot_use(self, name: str, engine: "Engine") -> str | None:
        """For a service: return why it cannot use an entry (name) of an engine; None if it can."""
        return None

    def context_parts(self, given: Mapping[str, Sequence[ArgValue]]) -> int:
        """Return into how many equal parts its flags (given) divide its context. A request gets one."""
        return 1

    def test_paths(self, model: Model) -> Sequence[str]:
        """Return the paths of test requests that fit the mode that the entry sets, the most likely one first.

        A server may answer others with an error, or crash.
        """
        return CHAT, COMPLETION, EMBEDDING, RERANK

    def requests(self, model: Model, names: Sequence[str]) -> list[Request]:
        """Return test requests. A working server answers at least one; empty: being ready is enough.

        None asks for more than one token. names: the names it serves, or for a service those of the models behind it.
        """
        said, named = "Hello", {"model": next(iter(names), "")}
        bodies: Mapping[str, Mapping[str, Any]] = {
            CHAT: {"messages": [{"role": "user", "content": said}], "max_tokens": 1},
            COMPLETION: {"prompt": said, "max_tokens": 1},
            RERANK: {"query": said, "documents": [said]},
        }
        return [(path, {**bodies.get(path, {"input": said}), **named}) for path in self.test_paths(model)]

    def unclaimed(self, model: Model, name: str) -> str | None:
        """Return the volume of a database in which the first visitor becomes the administrator.

        None if there is no such database, or if the inventory defines the first account.
        """
        return None

    def own_database(self, model: Model) -> str | None:
        """Return the setting (`env.X`, `compose.volumes`) of an accounts database that gpurack does not check.

        None if there is none, or if the inventory defines the first account.
        """
        return None

    def database(self, model: Model, name: str) -> tuple[str, str] | None:
        """Return the volume and the file in it of an SQLite database that a newer version changes at its start.

        It is copied before, since no older version can use it then. None if there is none, or gpurack does not know it.
        """
        return None

    def prompt_logs(self, model: Model) -> list[str]:
        """Return its settings (`args.x`, `env.X`) that write clients' prompts to its log."""
        return []

    def more_weights(self, model: Model) -> list[Weights]:
        """Return weights that the entry names outside of `weights`."""
        return []

    def cuda(self, version: str) -> int | None:
        """Return the major version of CUDA in the images of a version; None if unknown."""
        return None

    def oldest_gpu(self, version: str) -> str | None:
        """Return the lowest compute capability that the images of a version support; None if unknown.

        CUDA 13 has none older than Turing (its release notes).
        """
        lowest = self.min_compute
        return lowest if self.cuda(version) != 13 or numbers(lowest or "0") >= numbers(CUDA_13) else CUDA_13

    def newer_driver(self, model: Model, accelerator: Accelerator, driver: str | None) -> int | None:
        """Return the oldest driver branch for the CUDA in a model's image, if the host's driver is older.

        None if it is new enough, if anything is unknown, and for images that the inventory names. driver: the host's.
        """
        if not driver or accelerator.vendor != "nvidia" or model.version is None or "version" in self.unused:
            return None
        oldest = OLDEST_DRIVER.get(self.cuda(model.version) or 0)
        return oldest if oldest and numbers(driver)[:1] < (oldest,) else None

    def parallelism(self, model: Model, gpus: int) -> tuple[int, int]:
        """Return (tensor parallel, pipeline parallel) for a number of GPUs; (1, 1) if it splits by itself."""
        return 1, 1

    def uses_graphics_driver(self, model: Model | Job) -> bool:
        """Does it compute with the graphics driver (Vulkan, OpenGL)?

        Then no list of compute processes contains it: nvidia-smi lists those of CUDA, KFD lists those of ROCm.
        """
        return False

    def holds_gpus(self, model: Model) -> bool:
        """Does it have memory on its GPUs whenever it is ready?

        False if it loads models on demand or computes on the CPU on purpose, and if that is unknown.
        """
        return False

    def log_shows(self, model: Model) -> Literal["", "devices", "layers"]:
        """Return what its log shows of its GPUs: whether it found them, and how many layers of each model it put there.

        "" if its log says nothing, or if it computes on the CPU on purpose.
        """
        return ""

    def incompatibility(self, model: Model, accelerator: Accelerator, driver: str | None) -> str | None:
        """Return why the images of this version do not run on these GPUs with this NVIDIA driver.

        None if they do, if it is unknown, and for images that the inventory names. driver: None if unknown. An older
        driver may run them on GPUs other than GeForce and TITAN (spec/gpus.py: is_consumer).
        """
        if model.version is None or not model.gpus or "version" in self.unused:
            return None
        compute, lowest = accelerator.compute, self.oldest_gpu(model.version)
        if compute and lowest and numbers(compute) < numbers(lowest):
            of_version = lowest != self.min_compute
            older = of_version and numbers(compute) >= numbers(self.min_compute or "0")
            other = "a version with CUDA 12" if older else "an engine that supports it (llama.cpp)"
            name = f"{self.name} {model.version}" if of_version else self.name
            needs = f"{name} needs compute capability {lowest}, this GPU has {compute}"
            return f"{needs}. Choose another GPU, or {other}."
        try:
            self.image(model.version, accelerator)
        except LookupError as error:
            return str(error)
        oldest = self.newer_driver(model, accelerator, driver) if accelerator.consumer else None
        if oldest:
            return (
                f"{self.name} {model.version} needs NVIDIA's driver {oldest} or newer, the host has {driver}. Update "
                "the driver, or choose an older version."
            )
        return None

    def check(self, model: Model) -> list[Problem]:
        """Return the errors of an entry with this engine. Paths are relative to the entry; no host is named.

        Engines extend it.
        """
        problems = [
            Problem.of(
                "set-by-gpurack", path=f"args.{flag}", hint=f"Use the field `{self.own_args[with_dashes(flag)]}`."
            )
            for flag in model.args
            if with_dashes(flag) in self.own_args and not self.adds(with_dashes(flag), model.args[flag])
        ]
        problems += [
            Problem.of("flag-removed", path=f"args.{flag}", engine=self.name, flag=with_dashes(flag), hint=instead)
            for flag in self.removed(model)
            if self.is_without_removed(model.version) and (instead := self.instead_of(flag))
        ]
        problems += [
            Problem.of("set-by-gpurack", path=f"compose.{key}", hint=OWN_COMPOSE[key])
            for key in model.compose
            if model.compose[key] and key in OWN_COMPOSE
        ]
        problems += [
            Problem.of("field-without-effect", path=field, field=field, engine=self.name, hint=hint)
            for field, hint in {**of_some(Model), **self.unused}.items()
            if field not in self.fields and getattr(model, field) != Model.model_fields[field].default
        ]
        if self.one_gpu and (model.gpus == "all" or len(model.gpus) > 1):
            problems.append(Problem.of("one-gpu-only", path="gpus", engine=self.name))
        if self.keyless and model.api_key and model.enabled:
            problems.append(Problem.of("engine-without-keys", path="api_key", engine=self.name))
        if model.version is not None and "version" not in self.unused:
            try:
                self.image(model.version, Accelerator("nvidia") if model.gpus else CPU)
            except LookupError as error:
                problems.append(Problem.of("gpu-incompatible", path="gpus", what=error))
        return problems + self.check_weights(model)

    def adds(self, flag: str, value: ArgValue) -> bool:
        """Does this value of a flag that gpurack sets add to what gpurack sets, so that `args` may have it?"""
        return False

    def words(self, model: Model) -> list[Word]:
        """Return the settings that known_flags.py checks, as the engine spells them: its flags."""
        names = {flag: with_dashes(flag) if self.underscores else flag for flag in model.args}
        return [
            # vLLM lists --speculative-config, not --speculative-config.method
            (f"args.{flag}", f"--{name.partition('.')[0]}")
            for flag, name in names.items()
            if with_dashes(flag) not in {*self.own_args, *self.removed_args}
        ]

    def removed(self, model: Model) -> list[str]:
        """Return the flags in `args` that later versions removed."""
        return [flag for flag in model.args if with_dashes(flag) in self.removed_args]

    def instead_of(self, flag: str) -> str:
        """Return what replaces a removed flag, as a sentence: `Use runner.`"""
        instead = self.removed_args[with_dashes(flag)].rstrip(".")
        return f"{instead[:1].upper()}{instead[1:]}."

    def is_without_removed(self, version: str | None) -> bool:
        """Is it certain that a version lacks all removed flags? For an image (None) it is not."""
        return version is not None and numbers(version) >= self.removed_since

    def check_weights(self, model: Model) -> list[Problem]:
        """Return errors of weights that are missing, or whose format it cannot read."""
        if not (self.weights_suffixes or self.weights_folders):
            if model.weights is None:
                return []
            return [Problem.of("weights-not-taken", path="weights", engine=self.name, why=self.no_weights)]
        if model.weights is None:
            return [Problem.of("weights-missing", path="weights")]
        if isinstance(model.weights, HfWeights | ModelScopeWeights) and model.weights.file is None:
            if self.weights_folders:
                return []
            suffix = self.weights_suffixes[0]
            return [Problem.of("weights-file-missing", path="weights", engine=self.name, suffix=suffix)]
        if isinstance(model.weights, UrlWeights):
            name = model.weights.filename
            if SPLIT.search(name):
                return [Problem.of("weights-part-by-url", path="weights", name=name)]
        else:
            name = str(model.weights)
        name = name.rstrip("/").rsplit("/", 1)[-1]
        if name.endswith(self.weights_suffixes) or (self.weights_folders and not name.endswith(FILES)):
            return []
        can = [*self.weights_suffixes, *(["Hugging Face folders"] if self.weights_folders else [])]
        return [Problem.of("weights-format", path="weights", engine=self.name, formats=" or ".join(can), name=name)]

    def needs(self, model: Model, facts: Facts) -> Needs:
        """Return the GPU memory that it needs. Raises NotEstimated."""
        raise NotEstimated(f"gpurack has no formula for {self.name}")

    def budget(self, model: Model, gpu: float) -> float:
        """Return how many GiB of a GPU it may use. gpu: its GiB."""
        return model.vram.of(gpu) if model.vram else gpu


def parallelism_problem(tensor: int, pipeline: int, data: int, listed: int) -> Problem:
    """Return the error of an entry whose number of GPUs (listed) does not match its parallel sizes."""
    sizes = [f"tensor parallel {tensor}", f"pipeline parallel {pipeline}"]
    sizes += [f"data parallel {data}"] if data > 1 else []
    needed = tensor * pipeline * data
    return Problem.of("gpus-and-parallelism", path="gpus", parallelism=" × ".join(sizes), needed=needed, listed=listed)


FILES = (".gguf", ".bin", ".safetensors", ".pt", ".onnx", ".ggml", ".pth", ".zip", ".tar")
"""Suffixes of weights that are a file, not a folder."""
