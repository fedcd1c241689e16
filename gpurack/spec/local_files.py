"""Files on the admin's machine that are copied to hosts, and the SHA-256 of their content.

Hashing large files takes minutes, so digests are cached by path, size and time of change in
`$XDG_STATE_HOME/gpurack/sums.json`; everything works without that file.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from gpurack import screen
from gpurack.replace_file import replace_file

LARGE = 10**9
"""Files of this many bytes and more are announced before they are read."""
BLOCK = 1 << 20
SIGN_OF_LIFE = 5
"""Seconds between two messages of what has been read."""


def files_of(path: Path) -> dict[str, Path]:
    """Name inside → file: a single file, all parts of a split GGUF, or all visible files of a folder.

    Links are followed.
    """
    if path.is_file():
        return {part.name: part for part in parts_of(path)}
    inside = {str(found.relative_to(path)): found for found in sorted(path.rglob("*")) if found.is_file()}
    return {name: found for name, found in inside.items() if not any(part.startswith(".") for part in Path(name).parts)}


def parts_of(path: Path) -> list[Path]:
    """A file, or all present parts of its split GGUF (`NAME-00001-of-00003.gguf`)."""
    found = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)
    if not found:
        return [path]
    form = re.compile(re.escape(found[1]) + r"-\d{5}-of-" + found[2] + r"\.gguf")
    return sorted(other for other in path.parent.iterdir() if form.fullmatch(other.name))


def missing_parts(path: Path) -> int:
    """The number of missing parts of a split GGUF; 0 for other files."""
    found = re.search(r"-of-(\d{5})\.gguf$", path.name)
    return int(found[1]) - len(parts_of(path)) if found and path.is_file() else 0


def content(path: Path) -> str:
    """The SHA-256 of a file, or one of all names and files of a folder. Raises OSError."""
    if path.is_file() and parts_of(path) == [path]:
        return sha256(path)
    lines = [f"{sha256(found)}  {name}" for name, found in files_of(path).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, cached until the file changes. Raises OSError."""
    status, key = path.stat(), str(path.resolve())
    stamp = [status.st_size, status.st_mtime_ns]
    known = _known()
    if key in known and known[key][:2] == stamp:
        return str(known[key][2])
    if status.st_size > LARGE:
        screen.echo(f"reading {path} ({status.st_size / 1e9:.1f} GB) for its sha256, once", err=True)
    found, told = hashlib.sha256(), time.monotonic()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
            if time.monotonic() - told >= SIGN_OF_LIFE:
                told = time.monotonic()
                done = f"{file.tell() / 1e9:.1f} of {status.st_size / 1e9:.1f} GB"
                screen.echo(f"reading {path} for its sha256, {done}", err=True)
    _keep({**_known(), key: [*stamp, found.hexdigest()]})
    return found.hexdigest()


def _place() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gpurack" / "sums.json"


def _known() -> dict[str, Any]:
    try:
        found = json.loads(_place().read_text(encoding="utf-8"))
        return {key: value for key, value in found.items() if len(value) == 3}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _keep(sums: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        _place().parent.mkdir(parents=True, exist_ok=True)
        replace_file(_place(), json.dumps(sums, indent=1, sort_keys=True))
