"""The vocabulary of a host: its Docker, NVIDIA's part, and all that runs there. docs/inventory.md walks through it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from gpurack.spec.fields import AbsolutePath, Like, Strict, Version
from gpurack.spec.model import Gpu, Job, Model
from gpurack.spec.network import Login, Mirror, Proxy, url_alone
from gpurack.spec.secret import Secret

if TYPE_CHECKING:
    from gpurack.spec.connection import Connection
    from gpurack.spec.lock import HostLock


def _maps_are_maps(value: dict[str, Any]) -> dict[str, Any]:
    for key in ("features", "runtimes"):
        if not isinstance(value.get(key), dict | None):
            raise ValueError(f"{key} should be a map, not {value[key]!r}.")
    return value


Daemon = Annotated[dict[str, Any], AfterValidator(_maps_are_maps)]


class Rootless(Strict):
    """A user's own rootless Docker."""

    daemon: Daemon = Field({}, description="keys of its daemon.json, as of the host's own")


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

    address: Annotated[str, Like(r"[^\s/]+", "is not a host's name or IP address.")] | None = Field(
        None, description="what people type to reach it; default: its name in the inventory"
    )
    hardware: dict[str, Annotated[int, Field(ge=1)]] = Field({}, description='its cards, as in `{"A30": 4}`')
    reserved_gpus: list[Gpu] = Field([], description="cards that gpurack keeps away from")
    docker: Docker = Field(Docker(), description="the Docker engine")
    nvidia: Nvidia = Field(Nvidia(), description="toolkit and driver")
    mirrors: dict[str, Annotated[Mirror, BeforeValidator(url_alone)]] = Field(
        {},
        description='replacements: `"docker-ce"`, `"nvidia"` (package repositories), `"huggingface"`, `"modelscope"`, '
        "any registry",
    )
    registries: dict[str, Login] = Field(
        {}, description='logins, by the registry that is asked: `{"ghcr.io": {"user": …, "password": {"env": …}}}`'
    )
    proxy: Annotated[Proxy, BeforeValidator(url_alone)] | None = Field(
        None, description="the HTTP proxy by which the host reaches packages, images and weights; `{url, no_proxy}`"
    )
    ca: str | None = Field(None, description="a private certificate authority's file on the admin's machine")
    weights_dir: AbsolutePath = Field(
        "/var/lib/gpurack/weights",
        description="where fetched weights are on the host; nothing is fetched into a folder that others than root can "
        "change, or below one",
    )
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
