"""A cache of results that take long to make, by the hash of their recipe; each is complete or missing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.testbed.paths import cache_home
from tests.testbed.shell import progress


def digest(*parts: object) -> str:
    """Return a short hash of data. A file counts by its content, a folder (an entry of this cache) by its name."""

    def plain(part: object) -> object:
        if isinstance(part, Path):
            return part.name if part.is_dir() else part.read_bytes().hex()
        return part

    text = json.dumps([plain(part) for part in parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def recipe(module: str) -> str:
    """Return the hash of a module's source, when it is loaded.

    Later it could be the hash of an edit that the running program does not have."""
    return hashlib.sha256(Path(module).read_bytes()).hexdigest()


def sources(folder: Path) -> list[Path]:
    """Return the files below a folder, in order, without caches of Python and ruff (.ruff_cache, …)."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in found if not any(part[0] in "._" for part in path.relative_to(folder).parts[:-1])]


def entry(kind: str, parts: Iterable[object], make: Callable[[Path], None], what: str, room: str = "") -> Path:
    """Return the folder that `make(folder)` filled, once for every recipe (`parts`, see digest()).

    room: its folder in the cache.

    Each attempt works in its own folder, which is renamed when it is complete. The next attempt removes what a failed
    one left. A lock keeps two checkouts from making the same entry at once."""
    home = cache_home() / room
    home.mkdir(parents=True, exist_ok=True)
    done = home / f"{kind}-{digest(*parts)}"
    if done.is_dir():
        os.utime(done)
        return done
    with (home / f".{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_dir():
            return done
        for left in home.glob(f"{done.name}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        # A folder for this attempt only: programs of a killed attempt may still write to theirs.
        partial = home / f"{done.name}.{os.getpid()}.partial"
        partial.mkdir()
        progress(f"{what} …")
        make(partial)
        partial.rename(done)
        _forget(home, kind)
    progress(f"{what}: done")
    return done


def _forget(home: Path, kind: str) -> None:
    """Remove entries of a kind that no `up` used for a day, because each changed recipe leaves one.

    Not at once, because another checkout may use the older recipe, and its services read from the entry."""
    for old in home.glob(f"{kind}-{'[0-9a-f]' * 12}"):
        if old.stat().st_mtime < time.time() - 86400:
            shutil.rmtree(old, ignore_errors=True)
