"""Replace a file on the admin's machine: after a full disk, a kill or a power cut it is the old or the new one."""

import contextlib
import os
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Write a file beside its place, sync it, rename it, and sync its folder. A link stays; the old mode also.

    Raises OSError; then the old file is unchanged.
    """
    place = Path(os.path.realpath(path))
    beside = place.with_name(f".{place.name}.new")
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if place.exists():
            beside.chmod(place.stat().st_mode & 0o7777)
        beside.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync(place.parent)


def put_in_place(beside: Path, place: Path) -> None:
    """Rename a complete file; it is on disk before it has its name. Raises OSError."""
    sync(beside)
    beside.replace(place)
    sync(place.parent)


def sync(path: Path) -> None:
    """Make a file's content, or what was renamed in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
