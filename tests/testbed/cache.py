"""Results that are slow to make, kept under a hash of their recipe, and whole or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.testbed.paths import cache_home
from tests.testbed.shell import progress


def digest(*parts: object) -> str:
    """Return a short hash of data; of a file among it its content counts, of a folder (an entry here) its name."""

    def plain(part: object) -> object:
        if isinstance(part, Path):
            return part.name if part.is_dir() else part.read_bytes().hex()
        return part

    text = json.dumps([plain(part) for part in parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def entry(kind: str, recipe: Iterable[object], make: Callable[[Path], None], what: str) -> Path:
    """Return the folder that `make(folder)` filled, once for every recipe.

    An attempt works in a folder of its own that is renamed when it is whole; what a broken one left goes away at
    the next. A lock keeps two checkouts from making the same at once.
    """
    home = cache_home()
    home.mkdir(parents=True, exist_ok=True)
    done = home / f"{kind}-{digest(*recipe)}"
    if done.is_dir():
        return done
    with (home / f".{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_dir():
            return done
        partial = home / f"{done.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        progress(f"{what} …")
        make(partial)
        partial.rename(done)
    progress(f"{what}: done")
    return done
