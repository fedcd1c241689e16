"""A cache of weights' headers on the admin's machine. Nothing depends on it.

With it, `gpurack plan` needs no connection and a snapshot reads no header twice. There is one JSON file for each host
of a lab below `$XDG_STATE_HOME/gpurack/weights` (default: ~/.local/state), with sizes, shapes and the day they were
seen, and no secrets. A file that cannot be read or written is ignored.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Header
from gpurack.facts.weights import header
from gpurack.resources import program


def reader() -> str:
    """Return the program that reads headers on the host, with the modules that it imports."""
    return program("weights_header")


def recall(host: str, lab: str | None = None) -> dict[str, Header]:
    """Return the remembered headers of a host's weights, by path; {} if the reader has changed.

    lab: the name of the inventory. Two labs may call different machines by the same name.
    """
    try:
        content = json.loads(place(host, lab).read_text(encoding="utf-8"))
        if (content["host"], content.get("lab")) != (host, lab) or content["reader"] != _digest():
            return {}
        return {path: header(said, said["stamp"]) for path, said in content["weights"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def merged_headers(facts: HostFacts, known: Mapping[str, Header], today: str) -> dict[str, Header]:
    """Return the headers that a snapshot read, and remembered ones whose stamp is unchanged.

    today: the date that they get as `seen`.
    """
    found = {path: known[path] for path, stamp in facts.stamps.items() if path in known and known[path].stamp == stamp}
    return {path: replace(header, seen=today) for path, header in {**found, **facts.headers}.items()}


def remember(host: str, known: Mapping[str, Header], facts: HostFacts, lab: str | None = None) -> None:
    """Save the headers of a snapshot. Headers of paths that the snapshot did not ask about are kept."""
    kept = {path: header for path, header in known.items() if path not in facts.weights}
    now = {**kept, **facts.headers}
    if now == dict(known):
        return
    content = {
        "host": host,
        "lab": lab,
        "reader": _digest(),
        "weights": {path: asdict(header) for path, header in now.items()},
    }
    target = place(host, lab)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True)
        Path(file.name).replace(target)
    except OSError:
        return


def place(host: str, lab: str | None = None) -> Path:
    """Return the cache file of a host in a lab.

    Characters that are unsafe in a file name are replaced. The file also contains the host's name, and the lab's, so
    that two hosts with the same file name are told apart.
    """
    name = f"{lab}@{host}" if lab else host
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "gpurack" / "weights" / f"{re.sub(r'[^A-Za-z0-9._@-]', '_', name)}.json"


def _digest() -> str:
    return hashlib.sha256(reader().encode()).hexdigest()[:12]
