"""The fields of a model, a service or a job: engine, image, weights, GPUs, address.

Unknown fields are errors.
"""

import ipaddress
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from gpurack.spec.fields import (
    AbsolutePath,
    EngineVersion,
    Like,
    OnlySome,
    OutsideDefinition,
    Strict,
    plain_data,
    text_values,
)
from gpurack.spec.image import Image
from gpurack.spec.problems import Wrong, nearest
from gpurack.spec.secret import Secret
from gpurack.spec.weights import Weights

GPU_NAME = (
    r"GPU-[0-9a-f-]+|[0-9a-f]{8}-[0-9a-f-]+|MIG-(GPU-)?[0-9a-f-]+(/\d+/\d+)?"
    r"|[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]"
)
"""What nvidia-smi calls a GPU or a MIG instance: the beginning of its UUID, or its PCI address."""


def _gpu_is_one(value: Any) -> Any:
    index = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not index and not (isinstance(value, str) and re.fullmatch(GPU_NAME, value)):
        raise Wrong("invalid-gpu", value=repr(value))
    return value


def _gpus_hint(value: Any) -> str:
    """What to write in place of a value that is not a list of GPUs.

    >>> _gpus_hint("0,1"), _gpus_hint("ALL"), _gpus_hint("none"), _gpus_hint((0, 1))
    ('Write [0, 1].', 'Write "all".', 'Write [] for the CPU.', 'Write [0, 1].')
    """
    text = str(list(value) if isinstance(value, tuple) else value).strip("[]").replace(" ", "").lower()
    if re.fullmatch(r"\d+(,\d+)*", text):
        return f"Write [{text.replace(',', ', ')}]."
    if text == "all":
        return 'Write "all".'
    if text in ("none", "cpu", "no", "false"):
        return "Write [] for the CPU."
    return 'Write [0, 1], ["GPU-6f1c"], "all", or [] for the CPU.'


def _gpus_are_listed(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        raise Wrong("gpus-bare-number", value=value)
    if not isinstance(value, list) and value != "all":
        raise Wrong("gpus-not-a-list", value=repr(value), hint=_gpus_hint(value))
    if isinstance(value, list) and len(set(map(str, value))) != len(value):
        raise Wrong("gpu-listed-twice", value=value)
    return value


Gpu = Annotated[int | str, BeforeValidator(_gpu_is_one)]
# The form (a list or "all") is checked before the items, so that one mistake is one error.
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
        raise Wrong("invalid-bind", value=value) from None


class Vram(Strict):
    """A model's share of each of its GPUs: GiB, or a fraction of the GPU's memory."""

    gib: float | None = None
    fraction: float | None = None

    def of(self, card_gib: float) -> float:
        """GiB on a GPU of `card_gib` GiB."""
        return self.gib if self.gib is not None else (self.fraction or 0) * card_gib

    def __str__(self) -> str:
        return f"{self.gib:g}GiB" if self.gib is not None else f"{(self.fraction or 0) * 100:g}%"


def vram_from_text(value: Any) -> Any:
    if isinstance(value, Vram):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GiB|%)\s*", value) if isinstance(value, str) else None
    if not found or float(found[1]) <= 0 or (found[2] == "%" and float(found[1]) > 100):
        raise Wrong("invalid-vram", value=repr(value))
    number = float(found[1])
    return {"gib": number} if found[2] == "GiB" else {"fraction": number / 100}


UNITS = {"s": 1, "min": 60, "h": 3600}
"""Units of a duration → seconds."""


def _duration_is_text(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(r"[1-9]\d{0,5}\s*(s|min|h)", value):
        raise Wrong("invalid-duration", value=repr(value))
    return value


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration.

    >>> seconds_of("90s"), seconds_of("30 min"), seconds_of("2h")
    (90, 1800, 7200)
    """
    number, unit = re.fullmatch(r"(\d+)\s*(\w+)", duration).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def _connects_to_a_list(value: Any) -> Any:
    if value != "all" and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        hint = f"Write {json.dumps([value])}." if isinstance(value, str) else ""
        raise Wrong("invalid-connects-to", value=repr(value), hint=hint)
    return value


ArgValue = str | bool | int | float | list[str | int | float]


def flags_in(value: object) -> dict[str, Any]:
    """The flags of a command line, as text or a list of words; {} if they are not clear.

    >>> flags_in("--threads 8 --jinja"), flags_in(["--n=4"]), flags_in("-t 8"), flags_in(7)
    ({'threads': 8, 'jinja': True}, {'n': 4}, {}, {})
    """
    words = value.split() if isinstance(value, str) else [*map(str, value)] if isinstance(value, list | tuple) else []
    found: dict[str, Any] = {}
    name = ""
    for word in words:
        if match := re.fullmatch(r"--([A-Za-z][\w.-]*)(?:=(.*))?", word):
            name = match[1] if match[2] is None else ""
            found[match[1]] = True if match[2] is None else plain(match[2])
        elif name:
            found[name], name = plain(word), ""
        else:
            return {}
    return found


def plain(text: str) -> int | str:
    """A number in place of its digits."""
    return int(text) if re.fullmatch(r"\d{1,18}", text) else text


def _args_are_flags(value: Any) -> Any:
    if not isinstance(value, dict):
        shown = "a list" if isinstance(value, list | tuple) else repr(value)
        raise Wrong("invalid-args", value=shown, flags=json.dumps(flags_in(value) or {"threads": 16}))
    for name, item in value.items():
        if not isinstance(name, str):
            raise Wrong("flag-name-not-text", name=name)
        if name.startswith("-"):
            raise Wrong("flag-with-dashes", name=name, bare=name.lstrip("-"))
        items = item if isinstance(item, list) else [0 if isinstance(item, bool) else item]
        if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in items):
            raise Wrong("invalid-flag-value", name=name, value=repr(item))
    return value


WEIGHTS_INSIDE = "{weights}"
"""In a job's command: replaced by the path of its weights in the container."""


_FINGERPRINT = OutsideDefinition("the definition has only its salted fingerprint")
_IF_AT_ALL = OutsideDefinition("it decides whether there is a container, not which")
_GPUS = OutsideDefinition("the GPUs of a job do not change its result")


class Model(Strict):
    """One model (or service): an engine, its weights, its GPUs and its address."""

    engine: str = Field(description="the serving engine, by name")
    version: EngineVersion | None = Field(
        None, description="upstream's version of the engine; gpurack chooses the image for the GPUs"
    )
    image: Image | None = Field(None, description='instead of version: a name, `{"tar": …}` or `{"build": …}`')
    weights: Weights | None = Field(
        None, description="a path on the host, or a source: `{hf}`, `{modelscope}`, `{url, sha256}`, `{copy}`"
    )
    pull: Annotated[
        list[str],
        OnlySome("Only ollama has `pull`. Use `weights`."),
        OutsideDefinition("the server lists its models"),
    ] = Field([], description="ollama: the models to pull")
    config: Annotated[
        dict[str, Any] | None,
        OnlySome("Only llama-cpp-python has `config`. Use `args`."),
        OutsideDefinition("a file; the definition has its fingerprint"),
    ] = Field(None, description="llama-cpp-python: its CONFIG_FILE")
    connects_to: Annotated[
        list[str] | Literal["all"],
        BeforeValidator(_connects_to_a_list),
        OnlySome("Only services (litellm, open-webui, llama-gpt) connect to models."),
    ] = Field([], description="services: the models or gateways they use")
    gpus: Gpus = Field(
        [],
        description='indices, UUID prefixes (also of MIG instances) or PCI addresses, `"all"`, or `[]` for the CPU',
    )
    vram: Annotated[Vram, BeforeValidator(vram_from_text, json_schema_input_type=str)] | None = Field(
        None,
        description='its share of each GPU, `"6GiB"` or `"30%"`, so that others can share it; default: the whole GPU',
    )
    context: Annotated[int, Field(ge=1)] | None = Field(
        None, description="the context length in tokens: prompt and answer together"
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(description="the port on the host")
    bind: Annotated[str, BeforeValidator(_bind_is_known)] = Field(
        "loopback",
        description='the address it listens on: `"loopback"`, `"lan"` (the address of the default route), `"any"` or '
        "an IP address of the host",
    )
    served_name: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the name clients use; default: the model's key in the inventory"
    )
    api_key: Annotated[Secret | None, _FINGERPRINT] = Field(
        None, description="a reference to the key that clients must send"
    )
    keys: Annotated[
        dict[str, Secret],
        OnlySome(
            "Only litellm (a key for each client) and open-webui (its first account) have `keys`. Use `api_key`, or "
            "put a gateway in front."
        ),
        _FINGERPRINT,
    ] = Field(
        {},
        description="litellm: a key for each user or group, by name; removing an entry revokes that key. open-webui: "
        "the e-mail address and password of its first account, required if other machines can reach it",
    )
    args: Annotated[dict[str, ArgValue], BeforeValidator(_args_are_flags)] = Field(
        {}, description="the engine's own flags, without dashes; `true` gives the flag alone, a list repeats it"
    )
    env: dict[str, str] = Field({}, description="environment variables of the container; never for secrets")
    user: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the user whose rootless Docker runs it; default: the host's own Docker"
    )
    enabled: Annotated[bool, _IF_AT_ALL] = Field(
        True, description="`false`: it does not run, but stays in the inventory"
    )
    replaces: Annotated[str | None, OutsideDefinition("used once, when the container is created")] = Field(
        None, description="the name of a container, created by hand, that it replaces"
    )
    ready_timeout: Annotated[
        str, BeforeValidator(_duration_is_text), OutsideDefinition("it decides how long a run waits, not what runs")
    ] = Field(
        "30min",
        description='how long it may load, as in `"45min"` or `"2h"`; longer while it still reads its weights. After '
        "that the change fails",
    )
    compose: dict[str, Any] = Field({}, description="any other Compose settings, merged over the service")

    def name_served(self, key: str) -> str:
        """Return the name that clients use. key: its key in the inventory."""
        return self.served_name or key

    @property
    def ready_seconds(self) -> int:
        """`ready_timeout` in seconds."""
        return seconds_of(self.ready_timeout)

    @property
    def dockerd(self) -> str:
        """The user with the rootless Docker that runs it, "" for the host's own Docker."""
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
            raise Wrong("one-image-source", has="neither" if self.image is None else "both")
        return self


class Job(Strict):
    """A command of an engine that runs once: a quantization, a prompt.

    Its result is kept. It runs again only when its definition changes or its result is missing.
    """

    engine: str = Field(description="the engine, by name")
    version: EngineVersion | None = Field(
        None, description="upstream's version; gpurack chooses the image for the command"
    )
    image: Image | None = Field(None, description='instead of version: a name, `{"tar": …}` or `{"build": …}`')
    folder: AbsolutePath | None = Field(
        None, description="a folder on the host, mounted read-write at /models; default: one of its own"
    )
    command: Annotated[list[str], Field(min_length=1)] = Field(
        description="the words after the image in `docker run`; `{weights}` is the path of the weights in the container"
    )
    result: Annotated[str, Like(r"(?!.*\.\.)[^/\s].*", "invalid-result")] | None = Field(
        None, description="the file that it creates in its folder; default: its output is the result"
    )
    weights: Weights | None = Field(None, description="its weights, as for a model; mounted read-only")
    gpus: Annotated[Gpus, _GPUS] = Field(
        [], description='as for a model: indices or UUID prefixes, `"all"`, or `[]` for the CPU'
    )
    vram: Annotated[Annotated[Vram, BeforeValidator(vram_from_text, json_schema_input_type=str)] | None, _GPUS] = Field(
        None, description="its share of each GPU that it shares with models; default: the whole GPU"
    )
    env: dict[str, str] = Field({}, description="environment variables of the container; never for secrets")
    compose: dict[str, Any] = Field({}, description="any other Compose settings, merged over the service")
    enabled: Annotated[bool, _IF_AT_ALL] = Field(
        True, description="`false`: it does not run, but stays in the inventory"
    )

    @property
    def dockerd(self) -> str:
        """Always the host's own Docker."""
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
            raise Wrong("one-image-source", has="neither" if self.image is None else "both")
        if self.weights is None and any(WEIGHTS_INSIDE in word for word in self.command):
            raise Wrong("job-without-weights")
        for word in self.command:
            if word != WEIGHTS_INSIDE and re.fullmatch(r"\{\w+\}", word) and nearest(word, [WEIGHTS_INSIDE], 0.8):
                raise Wrong("job-placeholder-unknown", word=word)
        return self
