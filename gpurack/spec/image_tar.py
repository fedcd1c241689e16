"""The content of an image's tar file (`docker save`), read without Docker."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpurack.host_data import JSON_LIMIT, json_from_host

MANY = "contains {} images. Save them one by one."
NO_IMAGE = "contains no image as `docker save` writes it."


@dataclass(frozen=True)
class Image:
    """id: the sha256 (hex) of its configuration, which is Docker's id of the image.

    names: those it was saved under.
    """

    id: str
    names: tuple[str, ...]


def read(path: Path) -> Image:
    """The one image of a tar file. Raises OSError, and ValueError with the error of its content."""
    status = path.stat()
    return _read(path, status.st_size, status.st_mtime_ns)


@cache
def _read(path: Path, size: int, changed: int) -> Image:
    """Cached for the run, because a compressed file is read to its end."""
    import tarfile  # few inventories need it

    try:
        with tarfile.open(path) as tar:
            member = next((each for each in tar if each.name == "manifest.json"), None)
            file = tar.extractfile(member) if member else None
            images = json_from_host(file.read(JSON_LIMIT + 1)) if file else []
    except (tarfile.TarError, EOFError, ValueError):
        return _none()
    try:
        if len(images) > 1:
            raise ValueError(MANY.format(len(images)))
        found = re.search(r"[0-9a-f]{64}", images[0]["Config"])
        return Image(found[0], tuple(images[0].get("RepoTags") or ())) if found else _none()
    except (LookupError, TypeError, AttributeError):
        return _none()


def _none() -> Image:
    raise ValueError(NO_IMAGE)
