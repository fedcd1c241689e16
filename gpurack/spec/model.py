"""The vocabulary of a model, a service or a job: engine, image, weights, cards, address. Unknown fields are refused."""

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from gpurack.spec.fields import (
    AbsolutePath,
    Like,
    OnlySome,
    OutsideDefinition,
    Strict,
    Version,
    plain_data,
    text_values,
)
from gpurack.spec.image import Image
from gpurack.spec.problems import nearest
from gpurack.spec.secret import Secret
from gpurack.spec.weights import Weights

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


_FINGERPRINT = OutsideDefinition("a secret is in it by its salted fingerprint alone")
_IF_AT_ALL = OutsideDefinition("it says whether there is a container, not which")
_CARDS = OutsideDefinition("on which cards a job ran does not change its result")


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
    pull: Annotated[
        list[str],
        OnlySome("pull is ollama's; say where the weights are in weights."),
        OutsideDefinition("the server says what it has"),
    ] = Field([], description="ollama: the models to pull")
    config: Annotated[
        dict[str, Any] | None,
        OnlySome("config is llama-cpp-python's; give flags in args."),
        OutsideDefinition("a file, which is in it by its fingerprint"),
    ] = Field(None, description="llama-cpp-python: its CONFIG_FILE")
    connects_to: Annotated[
        list[str] | Literal["all"],
        BeforeValidator(_connects_to_a_list),
        OnlySome("only services (litellm, open-webui, llama-gpt) connect to models."),
    ] = Field([], description="services: the models or gateways they use")
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
        "loopback",
        description='who reaches it: `"loopback"`, `"lan"` (the address of the default route), `"any"` or an IP '
        "address of the host",
    )
    served_name: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the name clients use; default: the model's key in the inventory"
    )
    api_key: Annotated[Secret | None, _FINGERPRINT] = Field(
        None, description="the key clients must send, as a reference to where it is"
    )
    keys: Annotated[
        dict[str, Secret],
        OnlySome(
            "people's keys are litellm's, the first account is open-webui's; put a gateway before it, or give api_key."
        ),
        _FINGERPRINT,
    ] = Field(
        {},
        description="litellm: a key for each person or group, by name; one that is removed is worth nothing any more. "
        "open-webui: the e-mail address and password of its first account, needed where other machines reach it",
    )
    args: Annotated[dict[str, ArgValue], BeforeValidator(_args_are_flags)] = Field(
        {}, description="the engine's own flags, without dashes; `true` is bare, a list repeats the flag"
    )
    env: dict[str, str] = Field({}, description="environment variables of the container; never for secrets")
    user: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the user whose rootless Docker runs it; default: the host's own Docker"
    )
    enabled: Annotated[bool, _IF_AT_ALL] = Field(True, description="`false`: not running, but kept in the inventory")
    replaces: Annotated[str | None, OutsideDefinition("done once, when the container is made")] = Field(
        None, description="a container made by hand whose place it takes"
    )
    compose: dict[str, Any] = Field({}, description="anything else, in Compose's words, laid over the service")

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
    folder: AbsolutePath | None = Field(
        None, description="a folder of the host that it reads and writes, at /models inside; default: one of its own"
    )
    command: Annotated[list[str], Field(min_length=1)] = Field(
        description="word by word what follows the image in `docker run`; `{weights}` is the path of the weights inside"
    )
    result: Annotated[str, Like(r"(?!.*\.\.)[^/\s].*", "is no path inside of folder.")] | None = Field(
        None, description="the file that it makes in its folder; without one, what it prints is its result"
    )
    weights: Weights | None = Field(None, description="what it reads, as for a model; mounted read-only")
    gpus: Annotated[Gpus, _CARDS] = Field(
        [], description='as for a model: indices or UUID prefixes, `"all"`, or `[]` for the CPU'
    )
    vram: Annotated[Annotated[Vram, BeforeValidator(_vram_from_text)] | None, _CARDS] = Field(
        None, description="its share of each card, where it runs beside models; default: all of it"
    )
    env: dict[str, str] = Field({}, description="environment variables of the container; never for secrets")
    compose: dict[str, Any] = Field({}, description="anything else, in Compose's words, laid over the service")
    enabled: Annotated[bool, _IF_AT_ALL] = Field(True, description="`false`: not run, but kept in the inventory")

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
        for word in self.command:
            if word != WEIGHTS_INSIDE and re.fullmatch(r"\{\w+\}", word) and nearest(word, [WEIGHTS_INSIDE], 0.8):
                raise ValueError(f"{word} in the command means nothing; did you mean {WEIGHTS_INSIDE}?")
        return self
