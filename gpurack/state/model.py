"""A host as it was found: what the snapshot saw, typed. Nothing here knows what the host should be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatch
from functools import cached_property
from typing import Any, Literal

from gpurack import paths
from gpurack.state.record import Kind, Record, has, is_ours, services


@dataclass(frozen=True)
class Os:
    """From os-release: id ("debian"), version ("13"), codename ("trixie"), name for people."""

    id: str = ""
    version: str = ""
    codename: str = ""
    name: str = "an unknown system"


@dataclass(frozen=True)
class Manager:
    """What installs rpm packages. program: "dnf" or "yum"; generation: what it is, "dnf4", "dnf5" or "yum3"."""

    program: str = "dnf"
    generation: str = "dnf4"


@dataclass(frozen=True)
class Package:
    """A package that dpkg or rpm knows. version is its full spelling; held by `apt-mark hold` or versionlock; whole:
    fully installed."""

    version: str
    held: bool
    whole: bool


SOURCES = (
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/*.list",
    "/etc/apt/sources.list.d/*.sources",
    "/etc/yum.repos.d/*.repo",
)
"""What apt and dnf read; a copy of another name is nothing to them."""


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
    """A card that answers. memory in MiB; utilization in percent, None where it is not told.

    uuid: what stays with the card: NVIDIA's UUID; for AMD's the unique id as ROCm writes it (GPU-9e1c0f6a5b7d2c34), or
    the PCI address of one that has none. compute: NVIDIA's alone. node: the render node of an AMD card, "" for others;
    gid: the group that may open it.
    """

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    driver: str
    compute: str
    pci: str
    utilization: int | None = None
    vendor: Literal["nvidia", "amd"] = "nvidia"
    node: str = ""
    gid: int = 0


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory (MiB) of a card. container: the id of the one it runs in, "" for none. whose: the uid
    in whose slice of cgroups that is, where that user gives names as they like; None for none, or root's."""

    uuid: str
    pid: int
    name: str
    memory: int
    user: str
    container: str = ""
    whose: int | None = None

    def ours(self, state: "HostState") -> bool:
        """Does it run in one of our models' containers?"""
        return any(
            container.id == self.container and state.uid_of(container.user) == self.whose
            for container in state.ours.values()
        )


MISMATCH = 18
"""nvidia-smi's exit code when the kernel module and the libraries are of different versions."""


@dataclass(frozen=True)
class Xid:
    """An error of a card in the kernel's log: its PCI address ("0000:e1:00"), NVIDIA's number, and when."""

    pci: str
    number: int
    time: datetime | None


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver. kernel: the loaded module's version, "" when there is none. exit_code, message: nvidia-smi's
    complaint (9 no driver, 15 a card is lost, 18 driver and library differ). pci: every card the kernel knows,
    by PCI address → UUID. xids: what the kernel said of lost cards, the oldest first."""

    kernel: str = ""
    exit_code: int = 0
    message: str = ""
    pci: Mapping[str, str] = field(default_factory=dict)
    xids: tuple[Xid, ...] = ()


@dataclass(frozen=True)
class Container:
    """A container. ports: (host ip, host port) it publishes. image is the image's id. user: whose rootless Docker it is
    in, "" for the host's own."""

    id: str
    name: str
    image: str
    status: str
    exit_code: int
    error: str
    started: str
    restarts: int
    labels: Mapping[str, str]
    ports: tuple[tuple[str, int], ...]
    finished: str = ""
    user: str = ""

    @property
    def kind(self) -> Kind | None:
        """What its labels say that it is; anybody may write them (see HostState.ours)."""
        return "model" if "gpurack.model" in self.labels else "job" if "gpurack.job" in self.labels else None

    @property
    def job(self) -> str:
        """The hash of the job's definition that it carries out; "" for none."""
        return self.labels.get("gpurack.job", "")

    @property
    def running(self) -> bool:
        """Up, whatever it does (a restarting container is not)."""
        return self.status == "running"


USER_DAEMON_JSON = ".config/docker/daemon.json"
USER_DROP_IN = ".config/systemd/user/docker.service.d/gpurack.conf"
USER_HOOK_CONFIG = ".config/nvidia-container-runtime/config.toml"
USER_FILES = (USER_DAEMON_JSON, USER_DROP_IN, USER_HOOK_CONFIG)
"""In the home of a user with a rootless Docker."""


@dataclass(frozen=True)
class User:
    """A user whose rootless Docker is asked for, or who has something of ours.

    linger: do the user's units run from boot on? manager: does the user's systemd answer? unit: the user's own
    docker.service. folder: (mode, uid) of the folder of the user's Compose project, None where there is none.
    acl: that of the folder of the user's weights, "" where there is none. sees: folders of CDI specs that the daemon
    really sees. unreadable: asked weights that are there and that the user may not read. docker: `docker info`, empty
    when no daemon answered. images, digests: as HostState's.

    uid to linger, folder and acl are what root sees; all else is what the user's own programs say, and holds for that
    user's models alone.
    """

    uid: int
    gid: int
    home: str
    linger: bool = False
    manager: bool = False
    unit: Unit = Unit()
    folder: tuple[str, int] | None = None
    acl: str = ""
    sees: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()
    docker: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def runtime(self) -> str:
        """The folder of the user's sockets."""
        return f"/run/user/{self.uid}"

    @property
    def daemon_json(self) -> str:
        """The path of the user's daemon.json."""
        return f"{self.home}/{USER_DAEMON_JSON}"


@dataclass(frozen=True)
class Kernel:
    """What rootless Docker needs to know of a host.

    sysctls: those that decide about user namespaces, by path (`user/max_user_namespaces`). rootlesskit_profile: does a
    profile of AppArmor let rootlesskit make them? subuids, subgids: the lines of /etc/subuid and /etc/subgid. uids:
    those of people and machines, from 65536 on. folders: those of CDI specs that exist.
    """

    sysctls: Mapping[str, str] = field(default_factory=dict)
    rootlesskit_profile: bool = False
    subuids: tuple[str, ...] = ()
    subgids: tuple[str, ...] = ()
    uids: frozenset[int] = frozenset()
    folders: frozenset[str] = frozenset()


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
    now: datetime | None = None
    """The host's own clock."""
    arch: str = ""
    init: str = ""
    address: str = ""
    """That of the default route, IPv4's or else IPv6's; "" without one."""
    addresses: tuple[str, ...] = ()
    """All that others may reach the host at, without those of Docker's own networks."""
    tools: frozenset[str] = frozenset()
    manager: Manager = Manager()
    """What installs rpm packages, on a host that has rpm."""
    packages: Mapping[str, Package] = field(default_factory=dict)
    audit: int = 0
    files: Mapping[str, File] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)
    docker_flags: str = ""
    secrets: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    weights: Mapping[str, int | None] = field(default_factory=dict)
    """Asked paths → size in bytes; None: missing, or not a file or folder."""
    irregular: Mapping[str, str] = field(default_factory=dict)
    """Asked paths that are something else → what ("fifo"; "hidden" from the user who inspects them)."""
    owned: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Asked paths that others than root may change, or lead elsewhere → who ("ada", "the group lab", "everybody")."""
    exposed: frozenset[str] = frozenset()
    """Files of gpurack's own that others can read, and should not."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Asked paths that are there → SELinux type ("user_home_t"), where SELinux is enforced."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """Asked paths that are there → what changes when the weights do."""
    headers: Mapping[str, Header] = field(default_factory=dict)
    """Asked paths → their headers, read by this look or remembered; absent: not known (no python3 there yet)."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """Asked paths that were fetched from a hub → the commit they are of."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Files of weights → their sha256, where it was read once and size and time of the file are as they were then."""
    listeners: tuple[Listener, ...] = ()
    driver: Driver = Driver()
    gpus: tuple[Gpu, ...] = ()
    gpu_processes: tuple[GpuProcess, ...] = ()
    kfd_gid: int = 0
    """The group that may open /dev/kfd, by which AMD's cards compute."""
    cdi: frozenset[str] = frozenset()
    docker: Mapping[str, Any] = field(default_factory=dict)
    """`docker info`; empty when no daemon answered."""
    compose: str = ""
    containers: tuple[Container, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    """Asked references → image id; absent: not on the host."""
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids of images that containers have → `repository@sha256:…`, as the registries they came from know them."""
    users: Mapping[str, User] = field(default_factory=dict)
    """By name; a user who does not exist on the host is not there."""
    kernel: Kernel = Kernel()
    """Only where there are such users."""
    probes: Mapping[tuple[str, str], Probe] = field(default_factory=dict)
    """(user, name) of a model → what it answered."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Asked names of other hosts → their IPv4 address, as this host knows it."""
    accounts: frozenset[tuple[str, str]] = frozenset()
    """(user, volume) of each Open WebUI's volume whose database has an account; "" for the host's own Docker."""
    upstreams: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    """(user, service, number of a connection to another host) → why that does not answer, "" when it does."""
    counters: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(user, name) of a model → its engine's counter (Engine.counter), summed over its labels; only where it was asked
    for."""
    record: Record | None = None
    """What gpurack noted of its containers; None where it has not yet."""
    late: Mapping[str, str] = field(default_factory=dict)
    """Parts of the look that did not end ("weights", "user ada") → `timed out after 30 s`."""
    unread: tuple[str, ...] = ()
    """Sentences about what the host said and cannot be understood."""

    @cached_property
    def proven(self) -> dict[tuple[str, str], Container]:
        """The containers that gpurack made, models and jobs, by (user, name)."""
        found: dict[tuple[str, str], Container] = {}
        named: dict[str, Mapping[str, Any]] = {}
        present = {each.id for each in self.containers}
        for each in self.containers:
            path = paths.job_file(each.name) if each.kind == "job" else paths.compose_file(each.user)
            if each.kind and path not in named and not has(self.record, each.user):
                named[path] = services(self.files.get(path))
            if is_ours(each, self.record, named.get(path, {}), present):
                found[each.user, each.name] = each
        return found

    @cached_property
    def ours(self) -> dict[tuple[str, str], Container]:
        """Our models' containers by (user, name)."""
        return {key: container for key, container in self.proven.items() if container.kind == "model"}

    def is_ours(self, container: Container) -> bool:
        """Is it one of our models'?"""
        return self.ours.get((container.user, container.name)) == container

    def container(self, name: str, user: str) -> Container | None:
        """The container of an entry that is to run in a user's Docker ("" for the host's own): the one there, else one
        of ours of its name elsewhere, as an entry whose user changed has it."""
        if (user, name) in self.ours:
            return self.ours[user, name]
        return next((found for (_, other), found in sorted(self.ours.items()) if other == name), None)

    @property
    def foreign(self) -> list[str]:
        """A sentence for each container that carries our labels and is not proven to be ours. It is left alone."""
        known = {
            entry.id: name for entries in (self.record or {}).values() for name, entry in entries.items() if entry.id
        }
        found = []
        for each in self.containers:
            if each.kind and self.proven.get((each.user, each.name)) != each:
                whose = f" in the Docker of {each.user}" if each.user else ""
                was = f"it was {known[each.id]}" if each.id in known else "gpurack did not create it"
                which = f"container {each.name} ({each.id[:12]}){whose}"
                found.append(f"{which} has gpurack's labels, but {was}; it is ignored.")
        return found

    @property
    def remarks(self) -> list[str]:
        """What else is to be said of the host, a sentence each: parts that hang, garbage, foreign containers."""
        return [*(f"{part} {why}." for part, why in self.late.items()), *self.unread, *self.foreign]

    @property
    def blind(self) -> str:
        """Why nothing can be changed: the look failed, or what every change builds on did not answer in time."""
        if self.trouble:
            return self.trouble
        found = next((part for part in ("Docker", "NVIDIA", "AMD") if part in self.late), None)
        return f"{found} {self.late[found]}, so nothing is changed on this host." if found else ""

    @property
    def sources(self) -> dict[str, File]:
        """The files in which apt and dnf look for repositories."""
        return {path: file for path, file in self.files.items() if any(fnmatch(path, one) for one in SOURCES)}

    def uid_of(self, user: str) -> int | None:
        """That of a user with a rootless Docker; None for the host's own, "", and for one who is not there."""
        return self.users[user].uid if user in self.users else None

    def docker_of(self, user: str) -> Mapping[str, Any]:
        """`docker info` of a user's daemon, "" for the host's own; empty when it did not answer."""
        if not user:
            return self.docker
        return self.users[user].docker if user in self.users else {}

    def digests_of(self, user: str) -> Mapping[str, tuple[str, ...]]:
        """Ids of images → what registries call them, in a user's daemon; "" for the host's own."""
        if not user:
            return self.digests
        return self.users[user].digests if user in self.users else {}

    def images_of(self, user: str) -> Mapping[str, str]:
        """Asked references → image id, in a user's daemon; "" for the host's own."""
        if not user:
            return self.images
        return self.users[user].images if user in self.users else {}

    @property
    def has_nvidia(self) -> bool:
        """Does the host have NVIDIA cards or their driver?"""
        return bool(self.driver.kernel or self.driver.pci or any(gpu.vendor == "nvidia" for gpu in self.gpus))
