"""The inventory's vocabulary: what an admin may write, typed and strict. Unknown fields are refused.

Every class here is one level of the inventory; docs/inventory.md walks through them with examples.
"""

import hashlib
import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PrivateAttr,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

from gpurack.spec import image_tar, local_files

if TYPE_CHECKING:
    from gpurack.spec.connections import Connection
    from gpurack.spec.lock import HostLock


class Strict(BaseModel):
    """A level of the inventory: no unknown fields, no silent conversions, never changed after it was read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _version_is_text(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'a version is text: write "{value}" in quotes (YAML and Python read 1.20 as 1.2).')
    return value


class _Like:
    """Text of a form: refused in our words instead of the pattern's, and a pattern in the JSON schema."""

    def __init__(self, pattern: str, sentence: str) -> None:
        self.pattern, self.sentence = pattern, sentence

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f'"{value}" {self.sentence}')
        return value


Version = Annotated[
    str,
    BeforeValidator(_version_is_text),
    _Like(r"[0-9A-Za-z][0-9A-Za-z.+~_-]*", 'is not a version; write it as upstream does, "28.5.2" or "b7000".'),
]
AbsolutePath = Annotated[str, _Like(r"/.*", "is not an absolute path on the host; it begins with /.")]
Repository = Annotated[
    str, _Like(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", 'is not a repository; write its owner too, "facebook/opt-125m".')
]

Revision = Annotated[
    str,
    BeforeValidator(_version_is_text),
    _Like(r"[A-Za-z0-9][A-Za-z0-9._/-]*", "is not a revision; write a commit, a tag or a branch."),
]


class SecretError(Exception):
    """A secret could not be read on the admin's machine; the text says which and why, never its value."""


class Secret(Strict):
    """Where on the admin's machine a secret is found; exactly one of the three.

    env: the name of an environment variable. file: a path (~ allowed). command: argv whose output it is.
    """

    env: str | None = None
    file: str | None = None
    command: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_reference(cls, value: Any) -> Any:
        if not isinstance(value, dict | Secret):
            raise ValueError(
                "a secret does not belong in an inventory; say where it is: "
                '{"env": "NAME"}, {"file": "~/path"} or {"command": ["pass", "show", "lab"]}.'
            )
        return value

    @field_validator("env")
    @classmethod
    def _env_is_a_name(cls, value: str | None) -> str | None:
        # not repeated: it may be the secret itself
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("is the name of an environment variable: letters, digits and _ only.")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "Secret":
        if sum(source is not None for source in (self.env, self.file, self.command)) != 1:
            raise ValueError('give exactly one of "env", "file" and "command".')
        return self

    def read(self) -> str:
        """The secret's value, without surrounding white space. Raises SecretError when there is none, or more."""
        value = self._raw().strip()
        if not value:
            raise SecretError(f"{self.source()} is empty.")
        if len(value.splitlines()) > 1:  # what `pass show` prints below the password; no HTTP header holds it
            raise SecretError(f"{self.source()} holds more than one line; let it be the secret alone.")
        return value

    def source(self) -> str:
        """Where it comes from, for messages."""
        if self.env is not None:
            return f"environment variable {self.env}"
        if self.file is not None:
            return f"file {self.file}"
        return f"command {' '.join(self.command or [])}"

    def _raw(self) -> str:
        if self.env is not None:
            if self.env not in os.environ:
                raise SecretError(f"environment variable {self.env} is not set; export {self.env}=… and run again.")
            return os.environ[self.env]
        try:
            if self.file is not None:
                return Path(self.file).expanduser().read_text()
            return _output_of(tuple(self.command or []))
        except subprocess.CalledProcessError as error:
            raise SecretError(f"{self.source()} ended with exit code {error.returncode}.") from None
        except (OSError, UnicodeDecodeError) as error:
            verb = "run" if self.command and isinstance(error, OSError) else "read"
            raise SecretError(f"{self.source()} cannot be {verb}: {getattr(error, 'strerror', error)}.") from None


@cache
def _output_of(command: tuple[str, ...]) -> str:
    """Once per run: a password manager may ask its user."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def text_values(value: Any, what: str) -> Any:
    """A map whose values have to be text: numbers and switches are not converted silently. Raises ValueError."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(item, str):
                raise ValueError(f'{name}: {what} are text; write "{item}" in quotes.')
    return value


def plain_data(value: Any) -> Any:
    """What JSON can say. Raises ValueError for anything else."""
    try:
        json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("holds more than text, numbers and true or false, with text as keys; quote it.") from None
    return value


SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")
"""The end of the name of a part of a split GGUF; llama.cpp is told the first, and finds the others beside it."""
RepositoryFile = Annotated[
    str,
    _Like(r"(?!.*\.\.)[^/\s][^\\\n]*", "is not the path of a file in the repository."),
]


class _HubWeights(Strict):
    """What the repositories of all hubs have in common. file: one GGUF file of it, for engines that read one; of a
    split one any part."""

    revision: Revision | None = None
    file: RepositoryFile | None = None

    @property
    def repository(self) -> str:
        """owner/name."""
        raise NotImplementedError

    @property
    def wanted_revision(self) -> str:
        """The revision, or the hub's usual branch."""
        raise NotImplementedError

    @property
    def whole(self) -> str:
        """The folder below weights_dir that is put in its place when it is complete."""
        hub = "hf" if isinstance(self, HfWeights) else "modelscope"
        name = f"{hub}/{self.repository.replace('/', '--')}@{self.wanted_revision.replace('/', '--')}"
        if self.file is None:
            return name
        chosen = SPLIT.sub("", self.file).removesuffix(".gguf").replace("/", "--")
        return f"{name}--{re.sub(r'[^A-Za-z0-9._-]', '_', chosen)}"

    @property
    def place(self) -> str:
        """Where an engine finds it below weights_dir: the folder, or the file in it."""
        return f"{self.whole}/{self.file}" if self.file else self.whole

    def __str__(self) -> str:
        return self.file or self.repository


class UrlWeights(Strict):
    """A file fetched onto the host. sha256: 64 hex digits; nothing unverified is ever put in place."""

    url: Annotated[str, _Like(r"https?://.+", "is not an http:// or https:// URL.")]
    sha256: Annotated[str, _Like(r"[0-9a-f]{64}", "is not a sha256: 64 digits of 0-9 and a-f, as sha256sum prints it.")]

    @field_validator("url")
    @classmethod
    def _has_no_login(cls, value: str) -> str:
        if "@" in value.split("/")[2]:  # not repeated: it may hold a password
            raise ValueError(
                "credentials do not belong in an inventory, and would show in every error about this file; let its "
                'server know the hosts by address, or bring the file from here: {"copy": "/…/model.gguf"}.'
            )
        return value

    @property
    def filename(self) -> str:
        """The last part of the URL's path, for people; the sha256 in front of it makes it unique."""
        name = self.url.split("?", 1)[0].split("#", 1)[0].rstrip("/").rsplit("/", 1)[-1]
        return re.sub(r"[^A-Za-z0-9._-]", "_", name)

    @property
    def place(self) -> str:
        """Where it lies below weights_dir: named by its hash, so two models with the same weights share the file."""
        return f"{self.sha256[:16]}-{self.filename}"

    @property
    def whole(self) -> str:
        """What is put in its place when it is complete."""
        return self.place


class HfWeights(_HubWeights):
    """A repository of the Hugging Face Hub: what serving needs of it is fetched onto the host, as a folder.

    revision: a commit, a tag or a branch; a commit (40 hex digits) pins it. A branch is looked up once and not
    followed: later runs leave the folder as it is. file: one GGUF file of the repository, for llama.cpp and
    llama-cpp-python; of a split one the first part, the others come along.
    """

    hf: Repository

    @property
    def repository(self) -> str:
        """owner/name."""
        return self.hf

    @property
    def wanted_revision(self) -> str:
        """The revision, or the Hub's usual branch."""
        return self.revision or "main"


class ModelScopeWeights(_HubWeights):
    """A public repository of ModelScope. revision and file as for the Hub."""

    modelscope: Repository

    @property
    def repository(self) -> str:
        """owner/name."""
        return self.modelscope

    @property
    def wanted_revision(self) -> str:
        """The revision, or ModelScope's usual branch."""
        return self.revision or "master"


class CopyWeights(Strict):
    """A file or folder copied from the admin's machine; a changed one is another one, and copied again. Of a split GGUF
    the first part is named, the others come along."""

    copy_: Annotated[str, Field(alias="copy", min_length=1)]

    @property
    def source(self) -> Path:
        """Where it is on the admin's machine."""
        return Path(self.copy_).expanduser().absolute()

    @property
    def whole(self) -> str:
        """Its file or folder below weights_dir, named by its content. Raises OSError."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", SPLIT.sub("", self.source.name))
        return f"copy/{local_files.content(self.source)[:16]}-{name}"

    @property
    def place(self) -> str:
        """Where an engine finds it below weights_dir: of a split GGUF the part that is named. Raises OSError."""
        return f"{self.whole}/{self.source.name}" if SPLIT.search(self.source.name) else self.whole

    def __str__(self) -> str:
        return self.copy_


_WEIGHTS: dict[str, type[Strict]] = {
    "url": UrlWeights,
    "hf": HfWeights,
    "modelscope": ModelScopeWeights,
    "copy": CopyWeights,
}


def _weights_kind(value: Any) -> Any:
    kinds = '{"hf": …}, {"modelscope": …}, {"url": …, "sha256": …} or {"copy": …}'
    if isinstance(value, str):
        if value.startswith("/"):
            return value
        hint = f' {{"hf": "{value}"}} for the Hub,' if re.fullmatch(r"[\w.-]+/[\w.-]+", value) else ""
        raise ValueError(f'"{value}" is not a path on the host; write{hint} an absolute path or {kinds}.')
    if not isinstance(value, dict | Strict):
        raise ValueError(f"{value!r} are no weights; write a path on the host or {kinds}.")
    if isinstance(value, dict) and not {*_WEIGHTS, "sha256"} & set(value):
        raise ValueError(f"weights of kind {sorted(value)} are not known; write a path on the host or {kinds}.")
    if isinstance(value, dict) and len(places := sorted(_WEIGHTS.keys() & value.keys())) > 1:
        raise ValueError(f"weights come from one place, not {' and '.join(places)}; keep one of them.")
    return value


def _tag_of_weights(value: Any) -> str:
    if isinstance(value, dict):
        return next((_WEIGHTS[key] for key in _WEIGHTS if key in value), UrlWeights).__name__
    return "Path" if isinstance(value, str) else type(value).__name__


# The branch is chosen by the field that names the kind, so that only its errors are reported.
Weights = Annotated[
    Annotated[str, Tag("Path")]
    | Annotated[UrlWeights, Tag("UrlWeights")]
    | Annotated[HfWeights, Tag("HfWeights")]
    | Annotated[ModelScopeWeights, Tag("ModelScopeWeights")]
    | Annotated[CopyWeights, Tag("CopyWeights")],
    Discriminator(_tag_of_weights),
    BeforeValidator(_weights_kind),
]


PCI_ADDRESS = r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"


def _gpu_is_one(value: Any) -> Any:
    index = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not index and not (isinstance(value, str) and re.fullmatch(f"GPU-[0-9a-f-]+|{PCI_ADDRESS}", value)):
        raise ValueError(
            f'{value!r} is not a GPU; write its index (0), the beginning of its UUID ("GPU-6f1c") or its PCI address '
            '("0000:65:00.0").'
        )
    return value


def _gpus_are_listed(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(
            f"a bare {value} is two things (to Docker {value} cards, to people card {value}); write [{value}]."
        )
    if isinstance(value, str) and value != "all":
        raise ValueError(f'"{value}" is not a list of GPUs; write [0, 1], ["GPU-6f1c"], "all" or [] for the CPU.')
    if not isinstance(value, str | list):
        raise ValueError(f'{value!r} is not a list of GPUs; write [0, 1], ["GPU-6f1c"], "all" or [] for the CPU.')
    if isinstance(value, list) and len(set(map(str, value))) != len(value):
        raise ValueError(f"{value} names a GPU twice.")
    return value


Gpu = Annotated[int | str, BeforeValidator(_gpu_is_one)]
# A list of GPUs or "all", told apart before the items are looked at: one mistake is one sentence.
Gpus = Annotated[
    Annotated[list[Gpu], Tag("List")] | Annotated[Literal["all"], Tag("All")],
    Discriminator(lambda value: "List" if isinstance(value, list) else "All"),
    BeforeValidator(_gpus_are_listed),
]


def _bind_is_known(value: Any) -> Any:
    if value in ("loopback", "lan", "any"):
        return value
    try:
        if not isinstance(value, str):  # ipaddress takes 0 for 0.0.0.0
            raise ValueError
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f'"{value}" is neither "loopback", "lan", "any" nor an IP address.') from None


class Vram(Strict):
    """A model's share of each of its cards: GiB, or a fraction of the card's memory."""

    gib: float | None = None
    fraction: float | None = None

    def of(self, card_gib: float) -> float:
        """GiB on a card of `card_gib` GiB."""
        return self.gib if self.gib is not None else (self.fraction or 0) * card_gib

    def __str__(self) -> str:
        return f"{self.gib:g}GiB" if self.gib is not None else f"{(self.fraction or 0) * 100:g}%"


def _vram_from_text(value: Any) -> Any:
    if isinstance(value, Vram):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GiB|%)\s*", value) if isinstance(value, str) else None
    if not found or float(found[1]) <= 0 or (found[2] == "%" and float(found[1]) > 100):
        raise ValueError(f'{value!r} is no amount of memory; write "6GiB" or "30%" (of each card).')
    number = float(found[1])
    return {"gib": number} if found[2] == "GiB" else {"fraction": number / 100}


class Build(Strict):
    """An image built on the host, once for each definition, while the old one serves."""

    git: Annotated[
        str,
        _Like(
            r"(https?|ssh|git|file)://[^\s-]\S*|[\w.-]+@[\w.-]+:\S+",
            "is no address of a git repository; write https://…, ssh://… or git@host:….",
        ),
    ] = Field(description="the address of the repository, as `git clone` takes it on the host")
    revision: Revision = Field(description="a commit, a tag or a branch; a branch is not followed after the build")
    dockerfile: Annotated[str, _Like(r"[^/\s-]\S*", "is not the path of a file in the repository.")] = Field(
        "Dockerfile", description="its path in the repository, whose root is the build's context"
    )
    target: Annotated[str, _Like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "is not the name of a stage.")] | None = Field(
        None, description="the stage to build, where the Dockerfile has several; default: its last"
    )
    args: dict[str, str] = Field({}, description="build arguments; never for secrets, they stay in the image")

    @field_validator("git")
    @classmethod
    def _git_has_no_password(cls, value: str) -> str:
        if re.match(r"\w+://[^/@]*:[^/@]*@", value):
            raise ValueError("holds a password, which does not belong in an inventory; let the host's own git know it.")
        return value

    @field_validator("args", mode="before")
    @classmethod
    def _args_are_text(cls, value: Any) -> Any:
        return text_values(value, "build arguments")


class TarImage(Strict):
    """An image of the admin's machine (`docker save`, `gpurack image save`): copied, loaded, known by its id."""

    tar: str = Field(min_length=1, description="the tar file's path on the admin's machine; it may be compressed")

    @property
    def source(self) -> Path:
        """Where it is on the admin's machine."""
        return Path(self.tar).expanduser().absolute()

    @property
    def reference(self) -> str:
        """The name by which hosts know it, which changes with the image's id. Raises OSError and ValueError."""
        name = re.sub(r"[^a-z0-9]+", "-", self.source.name.split(".")[0].lower()).strip("-") or "image"
        return f"gpurack.local/{name}:{image_tar.read(self.source).id[:12]}"


class BuildImage(Strict):
    """An image built on the host."""

    build: Build

    @property
    def reference(self) -> str:
        """The name by which the host knows it, which changes with its definition."""
        name = re.sub(r"[^a-z0-9]+", "-", self.build.git.lower().removesuffix(".git").rpartition("/")[2]).strip("-")
        definition = json.dumps(self.build.model_dump(), sort_keys=True)
        return f"gpurack.local/{name or 'image'}:{hashlib.sha256(definition.encode()).hexdigest()[:12]}"


IMAGE_NAME = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]+)?"
)
"""Docker's own form of a reference (distribution/reference): the registry, a path in small letters, a tag, a digest."""


def _image_kind(value: Any) -> Any:
    if isinstance(value, str) and not IMAGE_NAME.fullmatch(value):
        raise ValueError(f'"{value}" is no image; name it as docker pull takes it, "ghcr.io/lab/llama:1.2".')
    if not isinstance(value, str | dict | Strict):
        raise ValueError(f'{value!r} is no image; write a name, {{"tar": …}} or {{"build": …}}.')
    if isinstance(value, dict) and not {"tar", "build"} & set(value):
        raise ValueError(
            f'an image of kind {sorted(value)} is not known; write a name, {{"tar": …}} or {{"build": …}}.'
        )
    return value


def _tag_of_image(value: Any) -> str:
    if isinstance(value, dict):
        return "TarImage" if "tar" in value else "BuildImage"
    return "Name" if isinstance(value, str) else type(value).__name__


Image = Annotated[
    Annotated[str, Tag("Name")] | Annotated[TarImage, Tag("TarImage")] | Annotated[BuildImage, Tag("BuildImage")],
    Discriminator(_tag_of_image),
    BeforeValidator(_image_kind),
]


def _connects_to_a_list(value: Any) -> Any:
    if value != "all" and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise ValueError(f'should be a list of names or "all", not {value!r}.')
    return value


ArgValue = str | bool | int | float | list[str | int | float]


def _args_are_flags(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f'{value!r} is not a map of flags; write {{"threads": 16}}.')
    for name, item in value.items():
        if not isinstance(name, str):
            raise ValueError(f'{name!r}: a flag is text; write "{name}" in quotes.')
        if name.startswith("-"):
            raise ValueError(f'"{name}": write the flag without dashes, "{name.lstrip("-")}".')
        items = item if isinstance(item, list) else [0 if isinstance(item, bool) else item]
        if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in items):
            raise ValueError(
                f"{name}: a flag's value is true, false, text, a number or a list of texts and numbers, not {item!r}."
            )
    return value


ONE_IMAGE = 'give "version" (gpurack then picks the image) or "image", and only one of them.'
WEIGHTS_INSIDE = "{weights}"
"""In a job's command: the path of its weights inside."""


class Model(Strict):
    """One model (or service): an engine, its weights, its cards, the address it answers at."""

    engine: str = Field(description="the serving engine, by name")
    version: Version | None = Field(
        None, description="upstream's version of the engine; gpurack picks the image's variant for the cards"
    )
    image: Image | None = Field(None, description='instead of version: a name, `{"tar": …}` or `{"build": …}`')
    weights: Weights | None = Field(
        None, description="a path on the host, or where to get them: `{hf}`, `{modelscope}`, `{url, sha256}`, `{copy}`"
    )
    gpus: Gpus = Field([], description='indices, UUID prefixes or PCI addresses, `"all"`, or `[]` for the CPU')
    vram: Annotated[Vram, BeforeValidator(_vram_from_text)] | None = Field(
        None,
        description='its share of each card, `"6GiB"` or `"30%"`, so that others fit beside it; default: all of it',
    )
    context: Annotated[int, Field(ge=1)] | None = Field(
        None, description="the longest prompt with its answer, in tokens"
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(description="the host's port")
    bind: Annotated[str, BeforeValidator(_bind_is_known)] = Field(
        "loopback", description='who reaches it: `"loopback"`, `"lan"`, `"any"` or an IP address of the host'
    )
    served_name: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the name clients use; default: the model's key in the inventory"
    )
    api_key: Secret | None = Field(None, description="the key clients must send, as a reference to where it is")
    args: Annotated[dict[str, ArgValue], BeforeValidator(_args_are_flags)] = Field(
        {}, description="the engine's own flags, without dashes; `true` is bare, a list repeats the flag"
    )
    env: dict[str, str] = Field({}, description="environment variables of the container; never for secrets")
    user: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the user whose rootless Docker runs it; default: the host's own Docker"
    )
    enabled: bool = Field(True, description="`false`: not running, but kept in the inventory")
    replaces: str | None = Field(None, description="a container made by hand whose place it takes")
    compose: dict[str, Any] = Field({}, description="anything else, in Compose's words, laid over the service")
    pull: list[str] = Field([], description="ollama: the models to pull")
    config: dict[str, Any] | None = Field(None, description="llama-cpp-python: its CONFIG_FILE")
    connects_to: Annotated[list[str] | Literal["all"], BeforeValidator(_connects_to_a_list)] = Field(
        [], description="services: the models or gateways they use"
    )
    keys: dict[str, Secret] = Field(
        {},
        description="litellm: a key for each person or group, by name; one that is removed is worth nothing any more. "
        "open-webui: the e-mail address and password of its first account",
    )

    @property
    def dockerd(self) -> str:
        """The user in whose Docker it runs, "" for the host's own."""
        return self.user or ""

    @field_validator("env", mode="before")
    @classmethod
    def _env_is_text(cls, value: Any) -> Any:
        return text_values(value, "environment variables")

    @field_validator("compose", "config")
    @classmethod
    def _is_plain_data(cls, value: Any) -> Any:
        return plain_data(value)

    @model_validator(mode="after")
    def _has_one_image(self) -> "Model":
        if (self.version is None) == (self.image is None):
            raise ValueError(ONE_IMAGE)
        return self


class Job(Strict):
    """Something that an engine does once and ends: a quantization, a prompt. Its result is kept, and it runs again only
    when its definition changes or its result is gone."""

    engine: str = Field(description="the engine, by name")
    version: Version | None = Field(None, description="upstream's version; gpurack picks the image for what is done")
    image: Image | None = Field(None, description='instead of version: a name, `{"tar": …}` or `{"build": …}`')
    command: Annotated[list[str], Field(min_length=1)] = Field(
        description="word by word what follows the image in `docker run`; `{weights}` is the path of the weights inside"
    )
    weights: Weights | None = Field(None, description="what it reads, as for a model; mounted read-only")
    folder: AbsolutePath | None = Field(
        None, description="a folder of the host that it reads and writes, at /models inside; default: one of its own"
    )
    result: Annotated[str, _Like(r"(?!.*\.\.)[^/\s].*", "is no path inside of folder.")] | None = Field(
        None, description="the file that it makes in its folder; without one, what it prints is its result"
    )
    gpus: Gpus = Field([], description='as for a model: indices or UUID prefixes, `"all"`, or `[]` for the CPU')
    vram: Annotated[Vram, BeforeValidator(_vram_from_text)] | None = Field(
        None, description="its share of each card, where it runs beside models; default: all of it"
    )
    env: dict[str, str] = Field({}, description="environment variables of the container; never for secrets")
    compose: dict[str, Any] = Field({}, description="anything else, in Compose's words, laid over the service")
    enabled: bool = Field(True, description="`false`: not run, but kept in the inventory")

    @property
    def dockerd(self) -> str:
        """It runs in the host's own Docker, as a model without a `user` does."""
        return ""

    @field_validator("env", mode="before")
    @classmethod
    def _env_is_text(cls, value: Any) -> Any:
        return text_values(value, "environment variables")

    @field_validator("compose")
    @classmethod
    def _is_plain_data(cls, value: Any) -> Any:
        return plain_data(value)

    @model_validator(mode="after")
    def _has_what_it_names(self) -> "Job":
        if (self.version is None) == (self.image is None):
            raise ValueError(ONE_IMAGE)
        if self.weights is None and any(WEIGHTS_INSIDE in word for word in self.command):
            raise ValueError(f"the command names {WEIGHTS_INSIDE}, but there are no weights.")
        return self


class Mirror(Strict):
    """A replacement for a package repository or registry.

    url: its base URL (for a registry: host[:port][/prefix], without scheme). key: for a package repository that
    signs with a key of its own, that key's file on the admin's machine (armored); default: the upstream's key.
    """

    url: str
    key: str | None = None

    @field_validator("url")
    @classmethod
    def _has_no_login(cls, value: str) -> str:
        if "@" in value:  # not repeated: it may hold a password
            raise ValueError(
                "credentials do not belong in an inventory, and apt and dnf would keep them in files that everybody "
                "reads; a registry's login goes into registries, a package mirror has to know the hosts by address."
            )
        return value

    def read_key(self) -> str | None:
        """The key's text, None where the mirror has none of its own. Raises OSError."""
        return Path(self.key).expanduser().read_text() if self.key else None


def _mirror_may_be_text(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class Login(Strict):
    """Who gpurack is to a registry. It is used for pulls and builds alone and never kept on the host."""

    user: str = Field(min_length=1, description="the account, or what the registry takes in its place")
    password: Secret = Field(description="its password or token, as a reference to where it is")


class Proxy(Strict):
    """The way out of a closed network.

    url: http://host:port. no_proxy: what is reached without it, as in the environment variable: names, domains
    (".lab.example"), addresses and networks; the host itself always is.
    """

    url: str
    no_proxy: list[Annotated[str, _Like(r"[^\s,\"]+", "is not one name, domain or address.")]] = []

    @field_validator("url")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        if "@" in value:  # not repeated: it may hold a password
            raise ValueError(
                "credentials do not belong in an inventory, and apt, dnf and dockerd would keep them in files that "
                "everybody reads; name a forwarder that logs in for the hosts (cntlm, or squid with cache_peer login=)."
            )
        if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:_-]+/?", value):
            raise ValueError(f'"{value}" is not a proxy\'s URL; write "http://proxy.lab.example:3128".')
        return value.rstrip("/")

    @property
    def direct(self) -> list[str]:
        """`no_proxy`, and the host itself."""
        return ["localhost", "127.0.0.1", "::1", *self.no_proxy]

    @property
    def env(self) -> dict[str, str]:
        """The variables that programs read, in lower case."""
        return {"http_proxy": self.url, "https_proxy": self.url, "no_proxy": ",".join(self.direct)}

    def spares(self, url: str) -> bool:
        """Is a URL reached without it? As curl reads the variable: a name stands for all below it, too."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        return any(
            entry == "*"
            or _covers(entry, host)
            or any(f".{name}".endswith(f".{entry.lower().lstrip('.')}") for name in (host, parts.netloc.lower()))
            for entry in self.direct
        )


def _covers(network: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:  # one of them is a name
        return False


def _proxy_may_be_text(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


def _maps_are_maps(value: dict[str, Any]) -> dict[str, Any]:
    for key in ("features", "runtimes"):
        if not isinstance(value.get(key), dict | None):
            raise ValueError(f"{key} should be a map, not {value[key]!r}.")
    return value


Daemon = Annotated[dict[str, Any], AfterValidator(_maps_are_maps)]


class Rootless(Strict):
    """A user's own rootless Docker. daemon: keys of its daemon.json."""

    daemon: Daemon = {}


class Docker(Strict):
    """The host's Docker engine."""

    source: Literal["docker-ce", "distro", "keep"] = Field(
        "docker-ce", description="Docker's own repository, the distribution's packages, or what is there"
    )
    version: Version | None = Field(None, description="upstream's number, installed exactly and held")
    daemon: Daemon = Field({}, description="keys of daemon.json; `null` removes one; all others stay")
    restart: Literal["ask", "never", "always"] = Field(
        "ask",
        description="may Docker restart while containers that are not gpurack's would stop? `ask` refuses under -y",
    )
    rootless: dict[str, Rootless] = Field({}, description="users with a rootless Docker of their own")

    @model_validator(mode="after")
    def _kept_has_no_version(self) -> "Docker":
        if self.source == "keep" and self.version:
            raise ValueError(
                '"source": "keep" leaves Docker as it is, so "version" has no meaning; remove one of them.'
            )
        return self


class Nvidia(Strict):
    """NVIDIA's part of a host."""

    toolkit: Version | None = Field(
        None,
        description="the NVIDIA Container Toolkit's version: its four packages together, held; default: the newest",
    )
    driver: Version | None = Field(
        None, description="the driver the host should have, or its branch: compared, its packages held, never installed"
    )
    access: Literal["auto", "cdi", "runtime", "gpus"] = Field(
        "auto",
        description="how containers get cards: by CDI, the nvidia runtime, or the hook behind `--gpus`; `auto` is CDI "
        "wherever Docker and the toolkit have it, else the runtime",
    )
    no_cgroups: Literal["user", "system"] = Field(
        "user",
        description="where the hook is told to leave cgroups alone, for rootless Docker without CDI: each user's own "
        "configuration, or `system` for the whole host, which takes the cards of `--gpus` from the host's own Docker",
    )


class Host(Strict):
    """One server."""

    address: Annotated[str, _Like(r"[^\s/]+", "is not a host's name or IP address.")] | None = Field(
        None, description="what people type to reach it; default: its name in the inventory"
    )
    hardware: dict[str, Annotated[int, Field(ge=1)]] = Field({}, description='its cards, as in `{"A30": 4}`')
    reserved_gpus: list[Gpu] = Field([], description="cards that gpurack keeps away from")
    docker: Docker = Field(Docker(), description="the Docker engine")
    nvidia: Nvidia = Field(Nvidia(), description="toolkit and driver")
    mirrors: dict[str, Annotated[Mirror, BeforeValidator(_mirror_may_be_text)]] = Field(
        {},
        description='replacements: `"docker-ce"`, `"nvidia"` (package repositories), `"huggingface"`, `"modelscope"`, '
        "any registry",
    )
    registries: dict[str, Login] = Field(
        {}, description='logins, by the registry that is asked: `{"ghcr.io": {"user": …, "password": {"env": …}}}`'
    )
    proxy: Annotated[Proxy, BeforeValidator(_proxy_may_be_text)] | None = Field(
        None, description="the HTTP proxy by which the host reaches packages, images and weights; `{url, no_proxy}`"
    )
    ca: str | None = Field(None, description="a private certificate authority's file on the admin's machine")
    weights_dir: AbsolutePath = Field("/var/lib/gpurack/weights", description="where fetched weights lie on the host")
    hf_token: Secret | None = Field(
        None,
        description="the Hugging Face token, as a reference to where it is; for `{hf}` weights, never kept on the host",
    )
    models: dict[str, Model] = Field({}, description="the models, by name")
    services: dict[str, Model] = Field({}, description="what people use that is no model: gateways, web pages")
    jobs: dict[str, Job] = Field({}, description="what an engine does once and ends, by name")

    _connections: "Mapping[str, tuple[Connection, ...]]" = PrivateAttr({})
    _lock: "HostLock | None" = PrivateAttr(None)

    def connecting(self, connections: "Mapping[str, tuple[Connection, ...]]") -> "Host":
        """The same host, knowing what its services connect to: service → each of them. It is
        not the host's own word, as the others are: it follows from those of all hosts."""
        host = self.model_copy()
        host._connections = connections
        return host

    def connections(self, service: str) -> "tuple[Connection, ...]":
        """What an entry connects to; nothing for a model."""
        return self._connections.get(service, ())

    def certificates(self) -> list[str]:
        """The certificates in the file that `ca` names. Raises OSError, and ValueError where there are none."""
        if self.ca is None:
            return []
        text = Path(self.ca).expanduser().read_text()
        found = re.findall(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", text)
        if not found:
            raise ValueError("holds no certificate (-----BEGIN CERTIFICATE-----, PEM)")
        return [f"{certificate}\n" for certificate in found]

    @property
    def lock(self) -> "HostLock | None":
        """What the inventory's lock says of this host (gpurack/spec/lock.py); None where it says nothing."""
        return self._lock

    def locked(self, lock: "HostLock | None") -> "Host":
        """The same host, with a lock in force."""
        host = self.model_copy()
        host._lock = lock
        return host

    @property
    def entries(self) -> dict[str, Model]:
        """Models and services together, by name."""
        return {**self.models, **self.services}

    @property
    def users(self) -> list[str]:
        """Those with a rootless Docker of their own."""
        return sorted(self.docker.rootless)

    @property
    def everything(self) -> dict[str, Model | Job]:
        """Models, services and jobs together, by name."""
        return {**self.entries, **self.jobs}

    def kind_of(self, name: str) -> str:
        """Where an entry stands: `models`, `services` or `jobs`."""
        return "jobs" if name in self.jobs else "services" if name in self.services else "models"

    @property
    def wants_gpu(self) -> bool:
        """Does an enabled model want a GPU?"""
        return any(model.enabled and model.gpus for model in self.models.values())
