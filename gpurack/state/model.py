"""A host as it was found: what the snapshot saw, typed. Nothing here knows what the host should be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Os:
    """From os-release: id ("debian"), version ("13"), codename ("trixie"), name for people, likes (ID_LIKE)."""

    id: str = ""
    version: str = ""
    codename: str = ""
    name: str = "an unknown system"


@dataclass(frozen=True)
class Package:
    """A package dpkg knows. version is its full spelling; held by `apt-mark hold`; whole: fully installed."""

    version: str
    held: bool
    whole: bool


@dataclass(frozen=True)
class File:
    """A file of the host. mode is octal text ("644")."""

    content: bytes
    mode: str
    uid: int
    gid: int

    @property
    def text(self) -> str:
        """Its content as text; bytes that are not UTF-8 are replaced."""
        return self.content.decode(errors="replace")


@dataclass(frozen=True)
class Unit:
    """A systemd unit: loaded ("loaded", "not-found", "masked"), active ("active", "failed"), enabled ("enabled")."""

    loaded: str = "not-found"
    active: str = "inactive"
    enabled: str = ""


@dataclass(frozen=True)
class Gpu:
    """A card that answers. memory in MiB."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    driver: str
    compute: str
    pci: str


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory (MiB) of a card. container: the id of the one it runs in, "" for none."""

    uuid: str
    pid: int
    name: str
    memory: int
    user: str
    container: str = ""

    def ours(self, state: "HostState") -> bool:
        """Does it run in one of our containers?"""
        return any(container.id == self.container for container in state.ours.values())


MISMATCH = 18
"""nvidia-smi's exit code when the kernel module and the libraries are of different versions."""


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver. kernel: the loaded module's version, "" when there is none. exit_code, message: nvidia-smi's
    complaint (9 no driver, 15 a card is lost, 18 driver and library differ). pci: every card the kernel knows,
    by PCI address → UUID."""

    kernel: str = ""
    present: bool = False
    exit_code: int = 0
    message: str = ""
    pci: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Container:
    """A container of the rootful Docker. ports: (host ip, host port) it publishes. image is the image's id."""

    id: str
    name: str
    image: str
    status: str
    exit_code: int
    error: str
    pid: int
    started: str
    created: str
    restarts: int
    labels: Mapping[str, str]
    ports: tuple[tuple[str, int], ...]

    @property
    def ours(self) -> bool:
        """Ours is what carries our label."""
        return "gpurack.model" in self.labels

    @property
    def running(self) -> bool:
        """Up, whatever it does (a restarting container is not)."""
        return self.status == "running"


@dataclass(frozen=True)
class Listener:
    """A TCP port somebody listens on. owner: "docker-proxy (pid 12, user root)", "" when unknown."""

    address: str
    port: int
    owner: str


@dataclass(frozen=True)
class Probe:
    """What a model of ours answered. status 0: nothing came within 5 seconds; body then says why."""

    status: int
    body: str


@dataclass(frozen=True)
class Header:
    """What files/weights_header.py found in the header of weights.

    stamp: changes when the weights do. kind: "gguf" or "safetensors". tensors: data type → bytes. config: the facts of
    their shape, by the format's own names. problem: why it could not be read, then nothing else is set. seen: the day
    (2026-11-19) when the weights were last found with this stamp.
    """

    stamp: str
    kind: str = ""
    tensors: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    seen: str = ""


@dataclass(frozen=True)
class HostState:
    """Everything one look at a host saw. `trouble` is set when the look itself failed: then nothing else is known."""

    trouble: str = ""
    raised: bool = False
    """The login user is not root; the look raised itself by sudo."""
    os: Os = Os()
    busy: str = ""
    """Which other run of gpurack holds the host's lock right now; "" for none."""
    arch: str = ""
    init: str = ""
    address: str = ""
    tools: frozenset[str] = frozenset()
    packages: Mapping[str, Package] = field(default_factory=dict)
    audit: int = 0
    sources: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)
    docker_flags: str = ""
    secrets: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    weights: Mapping[str, int | None] = field(default_factory=dict)
    """Asked paths → size in bytes; None: missing."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """Asked paths that are there → what changes when the weights do."""
    headers: Mapping[str, Header] = field(default_factory=dict)
    """Asked paths → their headers, read by this look or remembered; absent: not known (no python3 there yet)."""
    listeners: tuple[Listener, ...] = ()
    driver: Driver = Driver()
    gpus: tuple[Gpu, ...] = ()
    gpu_processes: tuple[GpuProcess, ...] = ()
    cdi: frozenset[str] = frozenset()
    docker: Mapping[str, Any] = field(default_factory=dict)
    """`docker info`; empty when no daemon answered."""
    compose: str = ""
    containers: tuple[Container, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    """Asked references → image id; absent: not on the host."""
    probes: Mapping[str, Probe] = field(default_factory=dict)

    @property
    def ours(self) -> dict[str, Container]:
        """Our model containers by name."""
        return {container.name: container for container in self.containers if container.ours}

    @property
    def has_gpu(self) -> bool:
        """Does the host have NVIDIA cards or their driver?"""
        return bool(self.driver.kernel or self.driver.pci or self.gpus)
