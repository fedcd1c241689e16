"""Which image a reference names, according to a Docker daemon. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from gpurack.spec.image_ref import ImageRef


def alike(found: str, reference: str) -> bool:
    """Does an image name of the host mean the same as this reference, spelled differently?

    >>> alike("docker.io/library/redis", "redis:latest"), alike("sha256:0f", "redis")
    (True, False)
    """
    try:
        return ImageRef.parse(found).familiar == ImageRef.parse(reference).familiar
    except ValueError:  # an image's id, or no reference at all
        return found == reference


def meant(reference: str, images: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the id of the image that a reference names on the host now; None if there is none.

    >>> meant("redis", [{"id": "sha256:0f", "tags": ["redis:latest"], "digests": []}])
    'sha256:0f'
    """
    name = ImageRef.parse(reference).familiar
    return next((image["id"] for image in images if name in (*image["tags"], *image["digests"])), None)
