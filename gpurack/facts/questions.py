"""What a snapshot asks a host in addition to what it always reads. plan/questions.py decides it. Pure."""

from dataclasses import dataclass

Row = tuple[str | int, ...]
"""The fields of one question. None of them contains a `|`."""


@dataclass(frozen=True)
class Questions:
    """The questions that follow from an inventory.

    users: those with a rootless Docker. users_weights: the folder that contains a folder of fetched weights for each of
    them. images: (user, reference). weights: paths. needed: (user, path) of weights that a user's Docker must be able
    to read. readers: (user, path) of weights to inspect as that user. probes: (user, model, port inside, path, address,
    port). counters: (user, model, path, counter). logs: (user, model) of logs that say whether CUDA works. volumes:
    (user, volume) of databases to check for a first account. pinned: (version, packages of which one must have it,
    with spaces). compose: ask for the version of Compose, which costs as much as all else of Docker? names: to resolve.
    upstreams: (user, service, number, file with the key, url).
    lab: the name of the inventory, under which answers are remembered; the host is not asked.
    """

    users: tuple[str, ...] = ()
    users_weights: str = ""
    images: tuple[Row, ...] = ()
    weights: tuple[str, ...] = ()
    needed: tuple[Row, ...] = ()
    readers: tuple[Row, ...] = ()
    probes: tuple[Row, ...] = ()
    counters: tuple[Row, ...] = ()
    logs: tuple[Row, ...] = ()
    volumes: tuple[Row, ...] = ()
    names: tuple[str, ...] = ()
    upstreams: tuple[Row, ...] = ()
    pinned: tuple[Row, ...] = ()
    compose: bool = False
    lab: str | None = None
