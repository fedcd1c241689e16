"""What the look at a host asks for its inventory (plan/questions.py decides it). Pure."""

from dataclasses import dataclass

Row = tuple[str | int, ...]
"""What makes one question; none of it holds a `|`."""


@dataclass(frozen=True)
class Questions:
    """What the inventory has the look ask beside what it always does.

    users: those with a rootless Docker. users_weights: the folder below which each has its fetched weights. images:
    (user, reference). weights: paths. needed: (user, path) of weights that a user's Docker is to read. readers: (user,
    path) of those that are read as that user. probes: (user, model, port inside, path, address, port). counters: (user,
    model, path, counter). volumes: (user, volume) of databases asked for their first account. names: to look up.
    upstreams: (user, service, number, file of the key, url).
    """

    users: tuple[str, ...] = ()
    users_weights: str = ""
    images: tuple[Row, ...] = ()
    weights: tuple[str, ...] = ()
    needed: tuple[Row, ...] = ()
    readers: tuple[Row, ...] = ()
    probes: tuple[Row, ...] = ()
    counters: tuple[Row, ...] = ()
    volumes: tuple[Row, ...] = ()
    names: tuple[str, ...] = ()
    upstreams: tuple[Row, ...] = ()
