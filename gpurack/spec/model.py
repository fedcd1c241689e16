"""The inventory's vocabulary: what an admin may write, typed and strict. Unknown fields are refused.

Every class here is one level of the inventory; docs/inventory.md walks through them with examples.
"""

import ipaddress
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


class Strict(BaseModel):
    """A level of the inventory: no unknown fields, no silent conversions, never changed after it was read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _version_is_text(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'a version is text: write "{value}" in quotes (YAML and Python read 1.20 as 1.2).')
    return value


Version = Annotated[str, BeforeValidator(_version_is_text), Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+~_-]*$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/")]


class SecretError(Exception):
    """A secret could not be read on the admin's machine; the text says which and why, never its value."""


class Secret(Strict):
    """Where on the admin's machine a secret is found; exactly one of the three.

    env: the name of an environment variable. file: a path (~ allowed). command: argv whose output it is.
    """

    env: str | None = None
    file: str | None = None
    command: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_reference(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                "a secret does not belong in an inventory; say where it is: "
                '{"env": "NAME"}, {"file": "~/path"} or {"command": ["pass", "show", "lab"]}.'
            )
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> "Secret":
        if sum(source is not None for source in (self.env, self.file, self.command)) != 1:
            raise ValueError('give exactly one of "env", "file" and "command".')
        return self

    def read(self) -> str:
        """The secret's value, without surrounding white space. Raises SecretError when there is none."""
        value = self._raw().strip()
        if not value:
            raise SecretError(f"{self.source()} is empty.")
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
            raise SecretError(f"{self.source()} cannot be read: {getattr(error, 'strerror', error)}.") from None


@cache
def _output_of(command: tuple[str, ...]) -> str:
    """Once per run: a password manager may ask its user."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class UrlWeights(Strict):
    """A file fetched onto the host. sha256: 64 hex digits; nothing unverified is ever put in place."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def filename(self) -> str:
        """The last part of the URL's path, for people; the sha256 in front of it makes it unique."""
        name = self.url.split("?", 1)[0].split("#", 1)[0].rstrip("/").rsplit("/", 1)[-1]
        return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _weights_kind(value: Any) -> Any:
    if isinstance(value, str) and not value.startswith("/"):
        raise ValueError(f'"{value}" is not a path on the host; write an absolute path or {{"url": …, "sha256": …}}.')
    if isinstance(value, dict) and not ({"url", "sha256"} & set(value)):
        raise ValueError(
            f"weights of kind {sorted(value)} are not supported yet; "
            'write a path on the host or {"url": …, "sha256": …}.'
        )
    return value


Weights = Annotated[str | UrlWeights, BeforeValidator(_weights_kind)]


def _gpus_are_listed(value: Any) -> Any:
    if isinstance(value, int):
        raise ValueError(
            f"a bare {value} is two things (to Docker {value} cards, to people card {value}); write [{value}]."
        )
    if isinstance(value, str) and value != "all":
        raise ValueError(f'"{value}" is not a list of GPUs; write ["{value}"], [0, 1], "all" or [] for the CPU.')
    if isinstance(value, list) and len(set(map(str, value))) != len(value):
        raise ValueError(f"{value} names a GPU twice.")
    return value


GpuIndex = Annotated[int, Field(ge=0)]
GpuUuid = Annotated[str, Field(pattern=r"^GPU-[0-9a-f-]+$")]
Gpus = Annotated[list[GpuIndex | GpuUuid] | Literal["all"], BeforeValidator(_gpus_are_listed)]


def _bind_is_known(value: Any) -> Any:
    if value in ("loopback", "lan", "any"):
        return value
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f'"{value}" is neither "loopback", "lan", "any" nor an IP address.') from None


ArgValue = str | bool | int | float | list[str | int | float]


def _args_have_no_dashes(value: Any) -> Any:
    if isinstance(value, dict):
        for name in value:
            if str(name).startswith("-"):
                raise ValueError(f'"{name}": write the flag without dashes, "{str(name).lstrip("-")}".')
    return value


class Model(Strict):
    """One model: an engine, its weights, its cards, the address it answers at."""

    engine: str
    version: Version | None = None
    image: str | None = None
    weights: Weights | None = None
    gpus: Gpus = []
    port: Annotated[int, Field(ge=1, le=65535)]
    bind: Annotated[str, BeforeValidator(_bind_is_known)] = "loopback"
    served_name: str | None = None
    api_key: Secret | None = None
    args: Annotated[dict[str, ArgValue], BeforeValidator(_args_have_no_dashes)] = {}
    env: dict[str, str] = {}
    enabled: bool = True
    compose: dict[str, Any] = {}

    @field_validator("env", mode="before")
    @classmethod
    def _env_is_text(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name, item in value.items():
                if not isinstance(item, str):
                    raise ValueError(f'{name}: environment variables are text; write "{item}" in quotes.')
        return value

    @model_validator(mode="after")
    def _has_one_image(self) -> "Model":
        if (self.version is None) == (self.image is None):
            raise ValueError('give "version" (gpurack then picks the image) or "image", and only one of them.')
        return self


class Mirror(Strict):
    """A replacement for a package repository or registry.

    url: its base URL (for a registry: host[:port][/prefix], without scheme). key: for a package repository that
    signs with a key of its own, that key's file on the admin's machine (armored); default: the upstream's key.
    """

    url: str
    key: str | None = None


def _mirror_may_be_text(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class Docker(Strict):
    """The engine. source: docker-ce is Docker's own repository, distro the distribution's packages, keep what is there.

    version: upstream's number ("28.5.2"), installed exactly and held. daemon: keys of daemon.json (null removes one).
    restart: may Docker restart while containers that are not ours would stop? ask refuses under -y.
    """

    source: Literal["docker-ce", "distro", "keep"] = "docker-ce"
    version: Version | None = None
    daemon: dict[str, Any] = {}
    restart: Literal["ask", "never", "always"] = "ask"

    @model_validator(mode="after")
    def _kept_has_no_version(self) -> "Docker":
        if self.source == "keep" and self.version:
            raise ValueError(
                '"source": "keep" leaves Docker as it is, so "version" has no meaning; remove one of them.'
            )
        return self


class Nvidia(Strict):
    """toolkit: the NVIDIA Container Toolkit's version ("1.20.0"), its four packages installed together and held."""

    toolkit: Version | None = None


class Host(Strict):
    """One server. address: what people type to reach it (default: its name in the inventory).

    weights_dir: where fetched weights lie on the host. mirrors: "docker-ce" and "nvidia" (package repositories),
    any other name is a container registry ("ghcr.io"). defaults and engines fill in fields of the models.
    """

    address: str | None = None
    docker: Docker = Docker()
    nvidia: Nvidia = Nvidia()
    mirrors: dict[str, Annotated[Mirror, BeforeValidator(_mirror_may_be_text)]] = {}
    weights_dir: AbsolutePath = "/var/lib/gpurack/weights"
    models: dict[str, Model] = {}

    @property
    def wants_gpu(self) -> bool:
        """Does an enabled model want a GPU?"""
        return any(model.enabled and model.gpus for model in self.models.values())
