"""One container as somebody started it, whatever the form was: docker run, compose file, a running container."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["open", "changed", "left out"]


@dataclass(frozen=True)
class Finding:
    """Something that the inventory does not say, or says differently.

    kind: "open" needs the reader (fill in, or could not be expressed); "changed" means the same in other words, or
    better; "left out" was no service. where: `line 3`, `service ui`, `container web`. what: one or two sentences.
    """

    kind: Kind
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Mount:
    """source: a path or a volume's name, "" for an anonymous volume."""

    kind: Literal["bind", "volume"]
    source: str
    target: str
    read_only: bool = False

    def inside(self, path: str) -> str | None:
        """The source's path of a path in the container, None when it does not lie in this mount.

        >>> Mount("bind", "/data", "/models").inside("/models/7B/a.gguf")
        '/data/7B/a.gguf'
        """
        target = self.target.rstrip("/")
        if path.rstrip("/") == target:
            return self.source.rstrip("/")
        return self.source.rstrip("/") + path[len(target) :] if path.startswith(target + "/") else None


@dataclass(frozen=True)
class Port:
    """A published port. ip: "" for all addresses. host: None where Docker chooses one."""

    ip: str
    host: int | None
    container: int
    protocol: str = "tcp"


@dataclass(frozen=True)
class ContainerRun:
    """Everything a container was started with.

    where: where it was found. name: None without one. gpus: "all", how many, or ids; None for no cards.
    command: after the image. host_network: it shares the host's network. running: found on a host.
    compose: the rest, in Compose's words.
    """

    where: str
    name: str | None
    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Port, ...] = ()
    gpus: str | int | tuple[str, ...] | None = None
    host_network: bool = False
    interactive: bool = False
    detached: bool = True
    running: bool = False
    compose: Mapping[str, Any] = field(default_factory=dict)
