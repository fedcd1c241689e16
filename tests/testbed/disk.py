"""What the testbed uses of the disk, in words."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.testbed.paths import STATE, cache_home

GB = 1e9
NEEDED = 4
"""GB, about, that `make demo` uses altogether: base images and packages in the cache, two hosts, their images."""


def used(folder: Path) -> float:
    """GB that a folder uses on disk; 0 where it is missing. Folders that cannot be read are left out."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_blocks * 512
            except OSError:  # removed meanwhile
                continue
    return total / GB


def costs() -> str:
    """What `make demo` will use. The cache decides how long it takes."""
    cache = cache_home()
    there = used(cache)
    time = "about 2 minutes" if there > 1 else "some minutes, as nothing is cached yet (later about 2)"
    home = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(home).free / GB
    return (
        f"Takes {time}. Uses about {NEEDED} GB of disk in {cache} and {STATE}; {there:.1f} GB are there already, "
        f"{free:.0f} GB are free."
    )


def kept() -> str:
    """What stays after the testbed has ended, and how to remove it."""
    there = {folder: used(folder) for folder in (cache_home(), STATE)}
    sizes = ", ".join(f"{size:.1f} GB in {folder}" for folder, size in there.items() if size >= 0.05)
    if not sizes:
        return "nothing stays"
    remove = f"python -m tests.testbed down --purge; rm -r {cache_home()}"
    return f"what makes the next start fast stays: {sizes}. Remove it: {remove}"
