"""A cache of weights' headers on the admin's machine: `gpurack plan` needs no connection, a snapshot reads none twice.

One JSON file for each host below `$XDG_STATE_HOME/gpurack/weights` (by default ~/.local/state): sizes, shapes and the
day they were seen; no secrets. The cache is optional: a file that cannot be read or written is ignored.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from gpurack.facts.model import Header, HostFacts
from gpurack.facts.parse import header
from gpurack.resources import program


def reader() -> str:
    """The program that reads headers on the host, with what it imports."""
    return program("weights_header", "safe_paths")


def recall(host: str) -> dict[str, Header]:
    """The remembered headers of a host's weights, by path; {} without any, or when the reader has changed."""
    try:
        content = json.loads(place(host).read_text(encoding="utf-8"))
        if content["host"] != host or content["reader"] != _digest():
            return {}
        return {path: header(said, said["stamp"]) for path, said in content["weights"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def together(facts: HostFacts, known: Mapping[str, Header], today: str) -> dict[str, Header]:
    """The headers of a snapshot's weights: those it read, and remembered ones whose stamp is unchanged."""
    found = {path: known[path] for path, stamp in facts.stamps.items() if path in known and known[path].stamp == stamp}
    return {path: replace(header, seen=today) for path, header in {**found, **facts.headers}.items()}


def remember(host: str, known: Mapping[str, Header], facts: HostFacts) -> None:
    """Save the headers of a snapshot; forget missing weights, keep those outside the inventory."""
    kept = {path: header for path, header in known.items() if path not in facts.weights}
    now = {**kept, **facts.headers}
    if now == dict(known):
        return
    content = {"host": host, "reader": _digest(), "weights": {path: asdict(header) for path, header in now.items()}}
    target = place(host)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True)
        Path(file.name).replace(target)
    except OSError:
        return


def place(host: str) -> Path:
    """The file of a host. Its name is made safe, and the name inside tells hosts apart that are made alike."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "gpurack" / "weights" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', host)}.json"


def _digest() -> str:
    return hashlib.sha256(reader().encode()).hexdigest()[:12]
