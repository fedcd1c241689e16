"""Which image a reference means, by what a Docker daemon says of its images. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

HUB = ("docker.io", "index.docker.io")


def familiar(reference: str) -> str:
    """A reference as Docker spells it in its lists: docker.io and library/ go unsaid, a tag never does, and beside a
    digest no tag counts.

    >>> familiar("redis"), familiar("docker.io/library/redis:7"), familiar("index.docker.io/a/b"), familiar("r:5000/a")
    ('redis:latest', 'redis:7', 'a/b:latest', 'r:5000/a:latest')
    >>> familiar("docker.io/a/b:1@sha256:0")
    'a/b@sha256:0'
    """
    named, at, digest = reference.partition("@")
    first, slash, rest = named.partition("/")
    named = (rest if slash and first in HUB else named).removeprefix("library/")
    return f"{repository(named)}@{digest}" if at else named if ":" in named.rpartition("/")[2] else f"{named}:latest"


def repository(reference: str) -> str:
    """A reference's name alone.

    >>> repository("r:5000/a:1"), repository("r:5000/a"), repository("a@sha256:0")
    ('r:5000/a', 'r:5000/a', 'a')
    """
    folders, slash, name = reference.partition("@")[0].rpartition("/")
    return f"{folders}{slash}{name.partition(':')[0]}"


def meant(reference: str, images: Iterable[Mapping[str, Any]]) -> str | None:
    """The id of the image that a reference means on the host now; None for none."""
    name = familiar(reference)
    return next((image["id"] for image in images if name in (*image["tags"], *image["digests"])), None)
