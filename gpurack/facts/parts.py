"""What a snapshot of a host consists of, as types: its system, packages, files, users, containers, weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from gpurack import paths

Kind = Literal["model", "job"]
"""What a container of ours is for."""


@dataclass(frozen=True)
class Os:
    """From os-release: id ("debian"), version ("13"), codename ("trixie"), name for messages."""

    id: str = ""
    version: str = ""
    codename: str = ""
    name: str = "an unknown system"


class Carried(NamedTuple):
    """A version of a package in the lists of a host's package manager.

    repository: as the lists name it (`Packages.listed_as`). fresh: were these lists renewed within a day?
    """

    version: str
    repository: str
    fresh: bool


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
class Container:
    """A container.

    image: the image's id. ports: published (host address, host port) pairs. user: the user whose rootless Docker runs
    it, "" for the host's own Docker. chosen_ports: does it have ports beside these, which Docker chose?
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
    chosen_ports: bool = False

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
    """A listening TCP port. owner: "docker-proxy (pid 12, user root)", unit: "docker.service"; "" if unknown."""

    address: str
    port: int
    owner: str
    unit: str = ""


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
