"""The shape that every serving engine has, whose defaults are what most of them do. How it is started by hand is in
dialect.py, builds.py and jobs.py, what helps when it ends in hints.py."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from gpurack.engines.args import normal, numbers
from gpurack.engines.builds import Builds
from gpurack.engines.container import CPU, Accelerator, Api, Container, Run
from gpurack.engines.dialect import Dialect
from gpurack.engines.hints import Hint
from gpurack.engines.jobs import Jobs
from gpurack.engines.memory import Facts, Needs, NotEstimated
from gpurack.spec.fields import of_some
from gpurack.spec.model import ArgValue, Job, Model
from gpurack.spec.problems import Problem
from gpurack.spec.weights import SPLIT, HfWeights, ModelScopeWeights, UrlWeights, Weights

OWN_COMPOSE = {
    "ports": "Use `port` and `bind`, so that the plan knows every listener.",
    "container_name": "The container has the name of its entry.",
    "image": "Use `image`.",
}
"""Keys of a Compose service that have fields of their own in the inventory."""

Word = tuple[str, str]
"""(field of the model, a flag, key or variable as the engine spells it)"""


Request = tuple[str, Mapping[str, Any]]
"""(path, JSON body) of a POST"""


RUNS_NO_MODEL: Mapping[str, str] = {
    "gpus": "It runs no model itself. Remove `gpus`.",
    "vram": "It runs no model itself. Remove `vram`.",
    "context": "Set `context` on the models it connects to.",
    "served_name": "Clients see the names of the models it connects to.",
}
"""`Engine.unused` of what serves no model itself."""


@dataclass(frozen=True)
class Counter:
    """What an engine counts of its work, in Prometheus' text format: where, the counter's name, what it counts."""

    path: str
    name: str
    unit: str


@dataclass(frozen=True)
class Row:
    """An engine's line of the table in docs/engines.md, in Markdown. image: as `version` chooses it. sets: what gpurack
    sets by itself. state: what has been tried of it."""

    serves: str
    image: str
    gpus: str
    key: str
    sets: str
    limits: str
    state: str


class Engine(ABC):
    """One serving engine: what is true of it whatever the model, and below, what it makes of one."""

    name: ClassVar[str]
    """The inventory's word."""
    title: ClassVar[str]
    """Upstream's own name."""
    row: ClassVar[Row]
    """Its line of the table in docs/engines.md."""
    hints: ClassVar[tuple[Hint, ...]] = ()
    """What helps against what it says before it ends, beside hints.COMMON."""
    dialect: ClassVar[Dialect] = Dialect()
    """How it is started by hand."""
    builds: ClassVar[Builds | None] = None
    """Its repository, where people build its images by hand."""
    jobs: ClassVar[Jobs | None] = None
    """What its images do that ends by itself; then it has `job_image`, too."""
    port: ClassVar[int]
    """Where it listens inside its container."""
    api: ClassVar[Api] = "openai"
    """How it is spoken to."""
    base_path: ClassVar[str] = "/v1"
    """Of its API."""
    ready_path: ClassVar[str] = "/v1/models"
    """The path that answers 200 once it serves."""
    ready_names_model: ClassVar[bool] = True
    """With the served name in the body of that answer."""

    weights_suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of the files it can read."""
    weights_folders: ClassVar[bool] = False
    """Can it read a Hugging Face folder?"""
    no_weights: ClassVar[str] = ""
    """How the sentence ends that refuses weights."""
    chats: ClassVar[bool] = True
    """Can it write? One that cannot makes embeddings with a model that could."""
    own_template: ClassVar[bool] = False
    """Does it chat with a model that brings no chat template, by one of its own?"""
    any_name: ClassVar[bool] = False
    """It answers whatever model a client asks for."""

    keyless: ClassVar[bool] = False
    """It knows no API keys."""
    unguarded: ClassVar[tuple[str, ...]] = ()
    """Some of the routes that its key leaves open."""
    sums: ClassVar[bool] = True
    """Of the keys in `keys` its container is given sums alone."""

    service: ClassVar[bool | None] = False
    """What people use, not a model; None: may be either."""
    gateway: ClassVar[bool] = False
    """It hands on to the models that it connects to, and they are asked through it by their names."""
    host_key: ClassVar[str] = ""
    """Of a gateway: where in its container is the key by which its host asks whether it works."""
    fields: ClassVar[frozenset[str]] = frozenset()
    """Which of the fields that only some engines have (OnlySome) it has."""
    unused: ClassVar[Mapping[str, str]] = {}
    """Fields of the inventory that mean nothing to it → the sentence that says so; in `defaults` they are passed over,
    anywhere else refused."""

    own_args: ClassVar[Mapping[str, str]] = {}
    """Flags that gpurack writes itself → the inventory's field for it."""
    removed_args: ClassVar[Mapping[str, str]] = {}
    """Flags of earlier versions → what to do instead."""
    removed_since: ClassVar[tuple[int, ...]] = ()
    """The first version that has none of them."""
    underscores: ClassVar[bool] = False
    """Does its parser read those of a flag as dashes?"""
    abbreviates: ClassVar[bool] = False
    """Does it take the beginning of a flag for the flag, where only one begins so?"""
    parallel_flags: ClassVar[tuple[str, ...]] = ()
    """Those by which it is told how it computes on several GPUs: tensor, pipeline, data parallel."""

    shared_memory: ClassVar[str] = ""
    """How much /dev/shm its containers have (Compose's shm_size); "" for what Docker gives."""
    one_gpu: ClassVar[bool] = False
    """Does it compute on one GPU only?"""
    enforces_vram: ClassVar[bool] = False
    """Does it keep to its share of a GPU by itself?"""
    min_compute: ClassVar[str | None] = None
    """The lowest NVIDIA compute capability its images run on."""
    counter: ClassVar[Counter | None] = None
    """Of what it has served; None: it counts nothing."""
    only_version: ClassVar[str | None] = None
    """The version of an engine that gets no new ones, so that the inventory need not say it."""
    successor: ClassVar[str] = ""
    """Of such an engine: the one that does the same and is kept up."""
    legacy: ClassVar[str] = ""
    """Why it should not be begun with any more, as a sentence; "" where it may."""

    @abstractmethod
    def image(self, version: str, accelerator: Accelerator) -> str:
        """The image reference for an upstream version. Raises LookupError with a sentence where there is none for
        this accelerator."""

    def job_image(self, version: str, accelerator: Accelerator, command: Sequence[str]) -> str:
        """The image reference for something that is done once. Raises LookupError with a sentence where there is
        none."""
        raise LookupError(f"{self.name} has no images for jobs, llama.cpp has.")

    def variants(self, version: str) -> list[str]:
        """Every reference that `image` may choose from for a version."""
        found = set()
        for accelerator in (CPU, Accelerator("nvidia", "8.0"), Accelerator("amd")):
            with suppress(LookupError):
                found.add(self.image(version, accelerator))
        return sorted(found)

    @abstractmethod
    def container(self, model: Model, run: Run) -> Container:
        """Command, environment and the rest of what is this engine's own."""

    def listens(self, model: Model) -> int:
        """The port inside the container."""
        return self.port

    def ready_at(self, model: Model) -> str:
        """The path that answers 200 once it serves."""
        return self.ready_path

    def answers_as(self, model: Model, served_name: str) -> str | None:
        """The name that must be in the body of that answer; None where the body names no model."""
        return served_name if self.ready_names_model else None

    def serves(self, model: Model, served_name: str) -> list[str]:
        """The names of models that it answers to."""
        return [served_name]

    def cannot_use(self, name: str, engine: "Engine") -> str | None:
        """Of a service: why it cannot use an entry (by its name) of an engine; None when it can."""
        return None

    def context_parts(self, given: Mapping[str, Sequence[ArgValue]]) -> int:
        """Into how many equal parts its flags, as somebody typed them, divide its context: one request has one."""
        return 1

    def requests(self, model: Model, names: Sequence[str]) -> list[Request]:
        """What people would ask it: one that works answers at least one of these. Empty: nothing beyond being ready.

        names: those it serves, or for a service those of the models behind it.
        """
        said, named = "Hello", {"model": next(iter(names), "")}
        return [
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": said}], "max_tokens": 1, **named}),
            ("/v1/completions", {"prompt": said, "max_tokens": 1, **named}),
            ("/v1/embeddings", {"input": said, **named}),
            ("/v1/rerank", {"query": said, "documents": [said], **named}),
        ]

    def unclaimed(self, model: Model, name: str) -> str | None:
        """The volume of the database whose first account whoever comes first makes for himself, and with it becomes the
        administrator; None where there is nothing like that, or the inventory gives the account."""
        return None

    def own_database(self, model: Model) -> str | None:
        """The setting (`env.X`, `compose.volumes`) by which an entry whose first account the inventory does not give
        keeps its accounts in a database of its own, which gpurack does not inspect; None for no such entry."""
        return None

    def prompt_logs(self, model: Model) -> list[str]:
        """Which of its settings (`args.x`, `env.X`) have it write what people ask into its log."""
        return []

    def more_weights(self, model: Model) -> list[Weights]:
        """Weights that the entry names elsewhere than in `weights`."""
        return []

    def min_driver(self, version: str) -> int | None:
        """The oldest branch of NVIDIA's driver that the images of a version run on; None where that is not known."""
        return None

    def parallelism(self, model: Model, gpus: int) -> tuple[int, int]:
        """(tensor parallel, pipeline parallel) for so many GPUs; (1, 1) for engines that split by themselves."""
        return 1, 1

    def draws(self, model: Model | Job) -> bool:
        """Does it compute by the part of a driver that is for drawing? Then it is in no list of processes that compute
        (nvidia-smi's has CUDA's, KFD's has ROCm's)."""
        return False

    def unfit(self, model: Model, accelerator: Accelerator, driver: str | None) -> str | None:
        """Why the images of this version do not run on these GPUs, with this driver of NVIDIA's. None when they do,
        when it is not known, and for images that the inventory names itself."""
        if model.version is None or not model.gpus or "version" in self.unused:
            return None
        compute = accelerator.compute
        if compute and self.min_compute and numbers(compute) < numbers(self.min_compute):
            return (
                f"{self.name} needs compute capability {self.min_compute}, this GPU has {compute}; choose another "
                "GPU, or an engine that knows it (llama.cpp)."
            )
        try:
            self.image(model.version, accelerator)
        except LookupError as error:
            return str(error)
        oldest = self.min_driver(model.version)
        if accelerator.vendor == "nvidia" and driver and oldest and numbers(driver)[0] < oldest:
            return (
                f"{self.name} {model.version} needs NVIDIA's driver {oldest} or newer, the host has {driver}; update "
                "the driver or choose an older version."
            )
        return None

    def check(self, model: Model) -> list[Problem]:
        """Errors of an entry with this engine; paths begin at the entry, and no host is named. Engines extend it."""
        problems = [
            Problem.of("set-by-gpurack", path=f"args.{flag}", hint=f"Use the field `{self.own_args[normal(flag)]}`.")
            for flag in model.args
            if normal(flag) in self.own_args
        ]
        problems += [
            Problem.of("flag-removed", path=f"args.{flag}", engine=self.name, flag=normal(flag), hint=instead)
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
        if self.keyless and model.api_key and model.enabled:
            problems.append(Problem.of("engine-without-keys", path="api_key", engine=self.name))
        if model.version is not None and "version" not in self.unused:
            try:
                self.image(model.version, Accelerator("nvidia") if model.gpus else CPU)
            except LookupError as error:
                problems.append(Problem.of("gpu-incompatible", path="gpus", what=error))
        return problems + self.check_weights(model)

    def words(self, model: Model) -> list[Word]:
        """What is said in its own words, and should be among those that it has (known_flags.py): its flags."""
        names = {flag: normal(flag) if self.underscores else flag for flag in model.args}
        return [
            # vLLM's --speculative-config.method is known by the part before its dot
            (f"args.{flag}", f"--{name.partition('.')[0]}")
            for flag, name in names.items()
            if normal(flag) not in {*self.own_args, *self.removed_args}
        ]

    def removed(self, model: Model) -> list[str]:
        """The flags among a model's args that only earlier versions have."""
        return [flag for flag in model.args if normal(flag) in self.removed_args]

    def instead_of(self, flag: str) -> str:
        """What replaces a removed flag, as a sentence: `Use runner.`"""
        instead = self.removed_args[normal(flag)].rstrip(".")
        return f"{instead[:1].upper()}{instead[1:]}."

    def is_without_removed(self, version: str | None) -> bool:
        """Does a version surely have none of the flags of earlier ones? Of an image (None) nobody knows."""
        return version is not None and numbers(version) >= self.removed_since

    def check_weights(self, model: Model) -> list[Problem]:
        """Errors of weights that are missing, or of a format it cannot read."""
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
        """What it needs of its GPUs. Raises NotEstimated."""
        raise NotEstimated(f"gpurack has no formula for {self.name}")

    def budget(self, model: Model, card: float) -> float:
        """GiB it may take of a GPU of that many GiB."""
        return model.vram.of(card) if model.vram else card


def parallelism_problem(tensor: int, pipeline: int, data: int, listed: int) -> Problem:
    """The error of an entry with another number of GPUs (listed) than its parallel sizes need."""
    sizes = [f"tensor parallel {tensor}", f"pipeline parallel {pipeline}"]
    sizes += [f"data parallel {data}"] if data > 1 else []
    needed = tensor * pipeline * data
    return Problem.of("gpus-and-parallelism", path="gpus", parallelism=" × ".join(sizes), needed=needed, listed=listed)


FILES = (".gguf", ".bin", ".safetensors", ".pt", ".onnx", ".ggml", ".pth", ".zip", ".tar")
"""Endings of weights that are a file and no folder."""
