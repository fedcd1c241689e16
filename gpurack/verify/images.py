"""Which image a reference means, by what a Docker daemon says of its images. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from gpurack.spec.image_ref import ImageRef


def alike(found: str, reference: str) -> bool:
    """Is what a host says of an image another spelling of this reference?

    >>> alike("docker.io/library/redis", "redis:latest"), alike("sha256:0f", "redis")
    (True, False)
    """
    try:
        return ImageRef.parse(found).familiar == ImageRef.parse(reference).familiar
    except ValueError:  # an image's id, or no reference at all
        return found == reference


def meant(reference: str, images: Iterable[Mapping[str, Any]]) -> str | None:
    """The id of the image that a reference means on the host now; None for none."""
    name = ImageRef.parse(reference).familiar
    return next((image["id"] for image in images if name in (*image["tags"], *image["digests"])), None)
