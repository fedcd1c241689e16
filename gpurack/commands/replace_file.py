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
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
