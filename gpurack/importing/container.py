"""The settings of a container, from docker run, from a compose file, or found running on a host."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gpurack.importing.gpus import Gpus, Kind


@dataclass(frozen=True)
class Finding:
    """Something that was not converted, or was converted differently.

    kind: "open" needs the user's decision; "changed" was converted differently with the same or a better effect;
    "left out" is not a service. where: `line 3`, `service ui`, `container web`. what: one or two sentences.
    """

    kind: Kind
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Pull:
    """Models that a command or a container pulls, and does nothing else. said: words that may name the server."""

    where: str
    models: Sequence[str]
    said: Collection[str] = ()


@dataclass(frozen=True)
class Mount:
    """A mount.

    source: a path or the name of a volume, "" for an anonymous volume. options: (section, name, value) of Compose's
    long syntax.
    """

    kind: Literal["bind", "volume", "tmpfs"]
    source: str
    target: str
    read_only: bool = False
    options: tuple[tuple[str, str, Any], ...] = ()

    def inside(self, path: str) -> str | None:
        """The source path of a path in the container; None if it is not in this mount.

        >>> Mount("bind", "/data", "/models").inside("/models/7B/a.gguf")
        '/data/7B/a.gguf'
        """
        target = self.target.rstrip("/")
        if path.rstrip("/") == target:
            return self.source.rstrip("/")
        return self.source.rstrip("/") + path[len(target) :] if path.startswith(target + "/") else None


@dataclass(frozen=True)
class Port:
    """A published port. ip: "" for all addresses. host: None if Docker chooses it, or a variable (unset) does.

    ip is a variable without a value if it begins with `$`.
    """

    ip: str
    host: int | None
    container: int
    protocol: str = "tcp"
    unset: str = ""


@dataclass(frozen=True)
class ContainerRun:
    """Everything a container was started with.

    where: its place in the source. gpus: "all", a count, or ids; None for no GPUs. command: the words after the image.
    aliases: other names by which containers reach it. links: its own names for other containers. host_network: uses the
    host's network. running: found on a host. alternative: the text starts it only if it did not start another one.
    once: others wait until it has ended. compose: all other settings as Compose fields.
    """

    where: str
    name: str | None
    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Port, ...] = ()
    gpus: Gpus = None
    aliases: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    host_network: bool = False
    interactive: bool = False
    detached: bool = True
    running: bool = False
    alternative: bool = False
    once: bool = False
    compose: Mapping[str, Any] = field(default_factory=dict)

    @property
    def argv(self) -> list[str]:
        """Its program with the arguments, without what the image brings."""
        return [*(self.entrypoint or ()), *self.command]
