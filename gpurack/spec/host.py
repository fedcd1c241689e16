"""The fields of a host: Docker, NVIDIA's driver and toolkit, and its entries (docs/inventory.md)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PrivateAttr, Tag, model_validator

from gpurack.spec.connection import Connection
from gpurack.spec.fields import AbsolutePath, Like, Strict, Version
from gpurack.spec.model import Gpu, Job, Model
from gpurack.spec.network import Login, Mirror, Proxy, url_alone
from gpurack.spec.problems import Wrong
from gpurack.spec.secret import Secret

if TYPE_CHECKING:
    from gpurack.spec.lock import HostLock


def _maps_are_maps(value: dict[str, Any]) -> dict[str, Any]:
    for key in ("features", "runtimes"):
        if not isinstance(value.get(key), dict | None):
            raise Wrong("daemon-key-not-a-map", key=key, value=repr(value[key]))
    return value


Daemon = Annotated[dict[str, Any], AfterValidator(_maps_are_maps)]


class Rootless(Strict):
    """A user's own rootless Docker."""

    daemon: Daemon = Field({}, description="keys of its daemon.json, as for the host's own Docker")


class Docker(Strict):
    """The host's Docker engine."""

    source: Literal["auto", "docker-ce", "distro", "keep"] = Field(
        "auto",
        description="Docker's own repository (`docker-ce`), the distribution's packages, or the installed Docker "
        "unchanged; `auto` is `distro` where its Docker is installed, else `docker-ce`",
    )
    version: Version | None = Field(None, description="upstream's version, installed exactly and held")
    daemon: Daemon = Field({}, description="keys of daemon.json; `null` removes a key; all others stay unchanged")
    restart: Literal["ask", "never", "always"] = Field(
        "ask",
        description="may Docker restart if this stops containers that gpurack does not manage? `ask` refuses under -y",
    )
    rootless: dict[str, Rootless] = Field({}, description="users with a rootless Docker of their own")

    @model_validator(mode="after")
    def _kept_has_no_version(self) -> "Docker":
        if self.source == "keep" and self.version:
            raise Wrong("docker-kept-with-version")
        return self


class Nvidia(Strict):
    """NVIDIA's toolkit and driver on a host."""

    toolkit: Version | None = Field(
        None,
        description="the version of the NVIDIA Container Toolkit's four packages, which are held; default: the newest",
    )
    driver: Version | None = Field(
        None,
        description="the expected driver version or branch: compared, its packages held, never installed",
    )
    access: Literal["auto", "cdi", "runtime", "gpus"] = Field(
        "auto",
        description="how containers get GPUs: by CDI, the nvidia runtime, or the hook behind `--gpus`; `auto` is CDI "
        "where Docker and the toolkit support it, else the runtime",
    )
    no_cgroups: Literal["user", "system"] = Field(
        "user",
        description="where `no-cgroups` is set for rootless Docker without CDI: in each user's own configuration, or "
        "`system` for the whole host, where `--gpus` then gives containers of the host's own Docker no GPUs",
    )


RATE = re.compile(r"\s*(\d{1,6}(?:\.\d{1,3})?)\s*(kB|MB|GB)(?:/s)?\s*")
UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


def _rate_from_text(value: Any) -> Any:
    """Bytes per second from `50MB/s`."""
    found = RATE.fullmatch(value) if isinstance(value, str) else None
    rate = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if rate <= 0:
        raise Wrong("invalid-rate", value=repr(value))
    return rate


class Download(Strict):
    """How a host fetches weights."""

    rate: Annotated[int, BeforeValidator(_rate_from_text, json_schema_input_type=str)] | None = Field(
        None, description="bytes per second at most for all downloads together, as in `50MB/s`; default: no limit"
    )
    connections: int | None = Field(
        None,
        ge=1,
        le=64,
        description="connections at once of all downloads together, up to 4 for a large file; default: 1 with `rate`, "
        "else no limit",
    )

    @property
    def told(self) -> dict[str, int]:
        """What each download on the host is told."""
        if self.rate is None:
            return {} if self.connections is None else {"connections": self.connections}
        connections = self.connections or 1
        return {"rate": max(1, self.rate // connections), "connections": connections}


class Gpus(Strict):
    """GPUs of one kind in `hardware`, with the memory that each has."""

    count: int = Field(ge=1, description="their number")
    memory: Annotated[str, Like(r"[0-9]{1,5}(\.[0-9]{1,3})?GiB", "invalid-gpu-memory")] = Field(
        description='the memory of each, `"24GiB"`'
    )

    @property
    def gib(self) -> float:
        """The memory of each in GiB."""
        return float(self.memory.removesuffix("GiB"))


class Host(Strict):
    """One server."""

    address: Annotated[str, Like(r"[^\s/]+", "invalid-address")] | None = Field(
        None, description="the name or IP address that clients use; default: its name in the inventory"
    )
    hardware: dict[
        str,
        Annotated[
            Annotated[int, Field(ge=1), Tag("Number")] | Annotated[Gpus, Tag("Gpus")],
            Discriminator(lambda value: "Gpus" if isinstance(value, dict | Gpus) else "Number"),
        ],
    ] = Field(
        {},
        description='its GPUs, as in `{"A30": 4}`; of a kind that gpurack does not know '
        '`{"My GPU": {"count": 2, "memory": "24GiB"}}`',
    )
    lab: Annotated[str, Like(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "invalid-lab")] | None = Field(
        None,
        description="in `all`: the name under which this inventory owns its models; those of another lab are never "
        "changed or removed",
    )
    maintenance: Annotated[str, Field(min_length=1)] | None = Field(
        None, description='why the host is left alone, as in `"RMA until 15 Jan"`; every command skips it, and says so'
    )
    reserved_gpus: list[Gpu] = Field([], description="GPUs that gpurack does not use")
    docker: Docker = Field(Docker(), description="the Docker engine")
    nvidia: Nvidia = Field(Nvidia(), description="the NVIDIA Container Toolkit and the driver")
    mirrors: dict[str, Annotated[Mirror, BeforeValidator(url_alone, json_schema_input_type=str | Mirror)]] = Field(
        {},
        description='mirrors: `"docker-ce"`, `"nvidia"` (package repositories), `"huggingface"`, `"modelscope"`, '
        "any registry",
    )
    registries: dict[str, Login] = Field(
        {}, description='logins, by the host name of the registry: `{"ghcr.io": {"user": …, "password": {"env": …}}}`'
    )
    proxy: Annotated[Proxy, BeforeValidator(url_alone, json_schema_input_type=str | Proxy)] | None = Field(
        None, description="the HTTP proxy for packages, images and weights; `{url, no_proxy}`"
    )
    ca: str | None = Field(None, description="a private certificate authority's file on the admin's machine")
    weights_dir: AbsolutePath = Field(
        "/var/lib/gpurack/weights",
        description="the folder for fetched weights on the host; only root may be able to write to it and to "
        "the folders above it",
    )
    download: Download = Field(Download(), description="how weights are fetched; images are Docker's business")
    hf_token: Secret | None = Field(
        None,
        description="a reference to the Hugging Face token for `{hf}` weights; it is never kept on the host",
    )
    models: dict[str, Model] = Field({}, description="the models, by name")
    services: dict[str, Model] = Field({}, description="gateways and web UIs, by name")
    jobs: dict[str, Job] = Field({}, description="commands of an engine that run once, by name")

    _connections: Mapping[str, tuple[Connection, ...]] = PrivateAttr({})
    _lock: "HostLock | None" = PrivateAttr(None)
    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """Its name in the inventory, for messages that name a command; "" for a host of no inventory."""
        return self._name

    def named(self, name: str) -> "Host":
        """A copy of the host with a name."""
        host = self.model_copy()
        host._name = name
        return host

    def connecting(self, connections: Mapping[str, tuple[Connection, ...]]) -> "Host":
        """A copy of the host with its services' connections, by service; they depend on all hosts."""
        host = self.model_copy()
        host._connections = connections
        return host

    def connections(self, service: str) -> tuple[Connection, ...]:
        """The connections of an entry; none for a model."""
        return self._connections.get(service, ())

    def certificates(self) -> list[str]:
        """The certificates in the file that `ca` names. Raises OSError, and ValueError if it has none."""
        if self.ca is None:
            return []
        text = Path(self.ca).expanduser().read_text()
        found = re.findall(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", text)
        if not found:
            raise Wrong("ca-without-certificate", file=self.ca)
        return [f"{certificate}\n" for certificate in found]

    @property
    def lock(self) -> "HostLock | None":
        """This host's part of the lock (gpurack/spec/lock.py); None if it has none."""
        return self._lock

    def locked(self, lock: "HostLock | None") -> "Host":
        """A copy of the host with a lock."""
        host = self.model_copy()
        host._lock = lock
        return host

    @property
    def entries(self) -> dict[str, Model]:
        """Models and services together, by name."""
        return {**self.models, **self.services}

    @property
    def users(self) -> list[str]:
        """The users with a rootless Docker of their own."""
        return sorted(self.docker.rootless)

    @property
    def everything(self) -> dict[str, Model | Job]:
        """Models, services and jobs together, by name."""
        return {**self.entries, **self.jobs}

    def kind_of(self, name: str) -> str:
        """The section of an entry: `models`, `services` or `jobs`."""
        return "jobs" if name in self.jobs else "services" if name in self.services else "models"

    def path_of(self, name: str) -> str:
        """The path of an entry: `models.alpha`."""
        return f"{self.kind_of(name)}.{name}"

    def depth(self, name: str) -> int:
        """The start order of an entry: models 0, what connects to models 1, what connects to services 2."""
        if name not in self.services:
            return 0
        return 2 if any(other.name in self.services for other in self.connections(name) if other.near) else 1

    @property
    def wants_gpu(self) -> bool:
        """Does an enabled model need a GPU?"""
        return any(model.enabled and model.gpus for model in self.models.values())
