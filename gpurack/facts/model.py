"""The observed state of a host, typed. Nothing here knows the desired state."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatch
from functools import cached_property
from typing import Any, Literal

from gpurack import paths
from gpurack.facts.record import Kind, Record, has, is_ours, services
from gpurack.spec.problems import Problem


@dataclass(frozen=True)
class Os:
    """From os-release: id ("debian"), version ("13"), codename ("trixie"), name for messages."""

    id: str = ""
    version: str = ""
    codename: str = ""
    name: str = "an unknown system"


@dataclass(frozen=True)
class Manager:
    """The package manager of a host with rpm.

    program: "dnf" or "yum". generation: "dnf4", "dnf5" or "yum3".
    """

    program: str = "dnf"
    generation: str = "dnf4"


@dataclass(frozen=True)
class Package:
    """A package of dpkg or rpm.

    version: the full version. held: by `apt-mark hold` or versionlock. whole: is it completely installed?
    """

    version: str
    held: bool
    whole: bool


SOURCES = (
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/*.list",
    "/etc/apt/sources.list.d/*.sources",
    "/etc/yum.repos.d/*.repo",
)
"""Files that apt and dnf read. They ignore files with other suffixes, such as backups."""


@dataclass(frozen=True)
class File:
    """A file on the host. mode: octal text ("644")."""

    content: bytes
    mode: str
    uid: int
    gid: int

    @property
    def text(self) -> str:
        """The content as text. Bytes that are not UTF-8 are replaced."""
        return self.content.decode(errors="replace")


@dataclass(frozen=True)
class Unit:
    """A systemd unit: loaded ("loaded", "not-found", "masked"), active ("active", "failed"), enabled ("enabled")."""

    loaded: str = "not-found"
    active: str = "inactive"
    enabled: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU that answers. Memory in MiB; utilization in percent, None if unknown.

    uuid: NVIDIA's UUID. For AMD it is the unique id as ROCm writes it (GPU-9e1c0f6a5b7d2c34), or the PCI address of a
    GPU without one. compute: NVIDIA's compute capability. node: the render node of an AMD GPU, "" for NVIDIA. gid: the
    group that may open the node.
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
    """A process that uses GPU memory (in MiB).

    container: the id of its container, or "". whose: the uid whose cgroup slice contains the process. That user can
    choose the names of cgroups, so `container` counts only for that user's containers. None if the process is in no
    user's slice.
    """

    uuid: str
    pid: int
    name: str
    memory: int
    user: str
    container: str = ""
    whose: int | None = None

    def ours(self, facts: "HostFacts") -> bool:
        """Does it run in a container of one of our models?"""
        return any(
            container.id == self.container and facts.uid_of(container.user) == self.whose
            for container in facts.ours.values()
        )


MISMATCH = 18
"""Exit code of nvidia-smi when the kernel module and the libraries have different versions."""


@dataclass(frozen=True)
class Xid:
    """A GPU error in the kernel's log: its PCI address ("0000:e1:00"), NVIDIA's number, and its time."""

    pci: str
    number: int
    time: datetime | None


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver.

    kernel: the version of the loaded module, "" if none is loaded. exit_code, message: the error of nvidia-smi (9: no
    driver, 15: a GPU is lost, 18: driver and library differ). pci: every GPU that the kernel knows, PCI address → UUID.
    xids: the kernel's GPU errors, oldest first.
    """

    kernel: str = ""
    exit_code: int = 0
    message: str = ""
    pci: Mapping[str, str] = field(default_factory=dict)
    xids: tuple[Xid, ...] = ()


@dataclass(frozen=True)
class Container:
    """A container.

    image: the image's id. ports: published (host address, host port) pairs. user: the user whose rootless Docker runs
    it, "" for the host's own Docker.
    """

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
        """Its kind according to its labels. Anyone can set those: see HostFacts.ours."""
        return "model" if paths.MODEL_LABEL in self.labels else "job" if paths.JOB_LABEL in self.labels else None

    @property
    def job(self) -> str:
        """The hash of the job definition that it runs, or ""."""
        return self.labels.get(paths.JOB_LABEL, "")

    @property
    def running(self) -> bool:
        """Is it running? A restarting container is not."""
        return self.status == "running"


USER_DAEMON_JSON = ".config/docker/daemon.json"
USER_DROP_IN = ".config/systemd/user/docker.service.d/gpurack.conf"
USER_HOOK_CONFIG = ".config/nvidia-container-runtime/config.toml"
USER_FILES = (USER_DAEMON_JSON, USER_DROP_IN, USER_HOOK_CONFIG)
"""Paths relative to the home of a user with a rootless Docker."""


@dataclass(frozen=True)
class User:
    """A user whose rootless Docker the inventory uses, or who still has files of gpurack.

    linger: do the user's units start at boot? manager: does the user's systemd answer? unit: the user's docker.service.
    folder: (mode, uid) of the folder of the user's Compose project, or None. acl: the ACL of the folder for the user's
    weights, or "". sees: folders of CDI specs that the daemon can see. unreadable: weights that exist but that the user
    cannot read. docker: `docker info`, empty if no daemon answered. images, digests: as in HostFacts.

    Root observed uid, gid, home, linger, folder and acl. The rest comes from the user's own programs and counts only
    for that user's models.
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
    """Kernel settings and account ids that rootless Docker depends on.

    sysctls: of user namespaces, by path (`user/max_user_namespaces`). rootlesskit_profile: does an AppArmor profile
    allow user namespaces for rootlesskit? subuids, subgids: lines of /etc/subuid and /etc/subgid. uids: account ids
    from 65536 up. folders: folders of CDI specs that exist.
    """

    sysctls: Mapping[str, str] = field(default_factory=dict)
    rootlesskit_profile: bool = False
    subuids: tuple[str, ...] = ()
    subgids: tuple[str, ...] = ()
    uids: frozenset[int] = frozenset()
    folders: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Listener:
    """A listening TCP port. owner: "docker-proxy (pid 12, user root)", "" if unknown."""

    address: str
    port: int
    owner: str


@dataclass(frozen=True)
class Probe:
    """A model's answer to the readiness request.

    status: HTTP status; 0 if there was no answer within 5 seconds, and body is then the reason.
    """

    status: int
    body: str


@dataclass(frozen=True)
class Header:
    """The header of weights, as files/weights_header.py read it.

    stamp: changes whenever the weights change. kind: "gguf" or "safetensors". tensors: data type → bytes. config: the
    metadata about their shape, with the keys of the file format. problem: why the header is unreadable; then only stamp
    and seen are set. seen: the day (2026-11-19) on which the weights were last found with this stamp.
    """

    stamp: str
    kind: str = ""
    tensors: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    seen: str = ""


def reason(why: str) -> str:
    """Why a part did not end, without the processes that differ from part to part.

    >>> reason("timed out after 30 s, pid 7 (stat) is left behind")
    'timed out after 30 s'
    >>> reason("still hangs since 2026-01-01T00:00:00Z (pid 7)")
    'still hangs'
    """
    return re.sub(r", pid .*| since \S+ \(pid \d+\)$", "", why)


@dataclass(frozen=True)
class HostFacts:
    """A snapshot of a host. `trouble` is the error of a failed snapshot; nothing else is set then."""

    trouble: str = ""
    raised: bool = False
    """Did the snapshot use sudo, because the login user is not root?"""
    os: Os = Os()
    busy: str = ""
    """The other gpurack run that holds the host's lock, or ""."""
    now: datetime | None = None
    """The time by the host's own clock."""
    arch: str = ""
    init: str = ""
    address: str = ""
    """The address of the default route, IPv4 if there is one, else IPv6; "" without a default route."""
    addresses: tuple[str, ...] = ()
    """All global addresses, except those of Docker's networks."""
    tools: frozenset[str] = frozenset()
    manager: Manager = Manager()
    """The package manager of a host with rpm."""
    packages: Mapping[str, Package] = field(default_factory=dict)
    audit: int = 0
    files: Mapping[str, File] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)
    docker_flags: str = ""
    secrets: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    weights: Mapping[str, int | None] = field(default_factory=dict)
    """Requested paths → size in bytes; None if missing, or neither a file nor a folder."""
    irregular: Mapping[str, str] = field(default_factory=dict)
    """Requested paths that are neither a file nor a folder → their type ("fifo").

    "hidden" means that the inspecting user cannot see the path.
    """
    owned: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Requested paths that other users can change or redirect → those users.

    For example "ada", "the group lab", "everybody".
    """
    exposed: frozenset[str] = frozenset()
    """Private files of gpurack that other users can read."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Requested paths that exist → SELinux type ("user_home_t"), where SELinux is enforced."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """Requested paths that exist → a stamp that changes whenever the weights change."""
    headers: Mapping[str, Header] = field(default_factory=dict)
    """Requested paths → their headers, read now or remembered; absent if unknown (no python3 yet)."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """Requested paths that were fetched from a hub → the commit."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Files of weights → sha256, if it was computed and size and time have not changed since."""
    listeners: tuple[Listener, ...] = ()
    driver: Driver = Driver()
    gpus: tuple[Gpu, ...] = ()
    gpu_processes: tuple[GpuProcess, ...] = ()
    kfd_gid: int = 0
    """The group that may open /dev/kfd, which ROCm uses."""
    cdi: frozenset[str] = frozenset()
    docker: Mapping[str, Any] = field(default_factory=dict)
    """`docker info`; empty if no daemon answered."""
    compose: str = ""
    containers: tuple[Container, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    """Requested references → image id; absent if the image is not on the host."""
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Image ids of containers → `repository@sha256:…` at their registries."""
    users: Mapping[str, User] = field(default_factory=dict)
    """Users with a rootless Docker, by name. Users without an account are absent."""
    kernel: Kernel = Kernel()
    """Set only if `users` is not empty."""
    probes: Mapping[tuple[str, str], Probe] = field(default_factory=dict)
    """(user, model) → its answer."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Requested names of other hosts → their IPv4 address, as this host resolves it."""
    accounts: frozenset[tuple[str, str]] = frozenset()
    """(user, volume) of each Open WebUI volume whose database has an account.

    The user is "" for the host's own Docker.
    """
    upstreams: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    """(user, service, number of a connection to another host) → why it fails; "" if it answers."""
    counters: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(user, model) → its engine's counter (Engine.counter), summed over all labels; only if requested."""
    record: Record | None = None
    """The host's record of gpurack's containers; None if missing."""
    late: Mapping[str, str] = field(default_factory=dict)
    """Parts of the snapshot that did not end ("weights /w/a", "user ada") → `timed out after 30 s`."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Paths of weights that did not answer → the mount that they are on."""
    unread: tuple[str, ...] = ()
    """Warnings about output of the host that could not be parsed."""

    @cached_property
    def proven(self) -> dict[tuple[str, str], Container]:
        """The containers that gpurack created, models and jobs, by (user, name)."""
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
        """The containers of our models, by (user, name)."""
        return {key: container for key, container in self.proven.items() if container.kind == "model"}

    def is_ours(self, container: Container) -> bool:
        """Is it the container of one of our models?"""
        return self.ours.get((container.user, container.name)) == container

    def container(self, name: str, user: str) -> Container | None:
        """Return the container of an entry, or None.

        user: the user whose Docker should run it, "" for the host's own. If it has none there, the entry's user may
        have changed: then it is the container of that name in another Docker.
        """
        if (user, name) in self.ours:
            return self.ours[user, name]
        return next((found for (_, other), found in sorted(self.ours.items()) if other == name), None)

    @property
    def foreign(self) -> list[Problem]:
        """A warning for each container that has our labels but is not proven to be ours. It is ignored."""
        known = {
            entry.id: name for entries in (self.record or {}).values() for name, entry in entries.items() if entry.id
        }
        found = []
        for each in self.containers:
            if each.kind and self.proven.get((each.user, each.name)) != each:
                whose = f" in the Docker of {each.user}" if each.user else ""
                was = f"it was {known[each.id]}" if each.id in known else "gpurack did not create it"
                which = {"name": each.name, "id": each.id[:12], "whose": whose, "why": was}
                found.append(Problem.of("container-not-ours", **which))
        return found

    @property
    def remarks(self) -> list[Problem]:
        """Warnings about the snapshot: parts that hang, unparsable output, foreign containers."""
        return [*self.hanging(), *self.notes]

    def hanging(self, without: Collection[str] = ()) -> list[Problem]:
        """A warning for each part of the snapshot that did not end, one for all weights on a mount with one reason.

        without: parts to leave out.
        """
        groups: dict[tuple[str, str], list[str]] = {}
        for part, why in self.late.items():
            if part not in without:
                mount = self.mounts.get(part.removeprefix("weights "), "")
                groups.setdefault((mount or part, reason(why)), []).append(part)
        return [
            Problem.of(
                "part-late",
                part=f"weights on {mount} ({len(parts)} paths)" if len(parts) > 1 else parts[0],
                why=self.late[parts[0]],
            )
            for (mount, _), parts in groups.items()
        ]

    @property
    def notes(self) -> list[Problem]:
        """The warnings that are about other things than this snapshot's time limits."""
        return [*(Problem.of("lines-ignored", what=sentence) for sentence in self.unread), *self.foreign]

    @property
    def blind(self) -> Problem | None:
        """Why nothing may be changed on the host; "" if changes are possible.

        Either the snapshot failed, or Docker or the GPUs did not answer in time.
        """
        if self.trouble:
            return Problem.of("not-inspected", what=self.trouble)
        found = next((part for part in ("Docker", "NVIDIA", "AMD") if part in self.late), None)
        return Problem.of("part-not-inspected", part=found, why=self.late[found]) if found else None

    @property
    def sources(self) -> dict[str, File]:
        """The files that configure repositories of apt and dnf."""
        return {path: file for path, file in self.files.items() if any(fnmatch(path, one) for one in SOURCES)}

    def uid_of(self, user: str) -> int | None:
        """Return the uid of a user with a rootless Docker; None for "" and for a missing account."""
        return self.users[user].uid if user in self.users else None

    def docker_of(self, user: str) -> Mapping[str, Any]:
        """Return `docker info` of a user's daemon ("": the host's own); empty if it did not answer."""
        if not user:
            return self.docker
        return self.users[user].docker if user in self.users else {}

    def digests_of(self, user: str) -> Mapping[str, tuple[str, ...]]:
        """Return image id → digests at registries, in a user's daemon ("": the host's own)."""
        if not user:
            return self.digests
        return self.users[user].digests if user in self.users else {}

    def images_of(self, user: str) -> Mapping[str, str]:
        """Return requested reference → image id, in a user's daemon ("": the host's own)."""
        if not user:
            return self.images
        return self.users[user].images if user in self.users else {}

    @property
    def has_nvidia(self) -> bool:
        """Does the host have NVIDIA GPUs or their driver?"""
        return bool(self.driver.kernel or self.driver.pci or any(gpu.vendor == "nvidia" for gpu in self.gpus))
