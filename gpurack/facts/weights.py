"""The sections of the snapshot about weights: sizes, who can change them, headers, remembered sha256. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpurack.facts.lines import ID, WRONG, Section, Sections, T, each, fields, pair
from gpurack.facts.parts import Header
from gpurack.facts.sections import own_sections
from gpurack.host_data import json_from_host
from gpurack.spec.weights import belongs


def weights(lines: Sequence[str]) -> dict[str, tuple[int | None, str]]:
    """Parse `size type|path` and `- missing|path` into path → (bytes, type).

    The size of anything but a file or folder (FIFO, device) is None.
    """

    def read(line: str) -> tuple[str, tuple[int | None, str]]:
        size, kind, path = fields(r"(-|\d{1,18}) ([a-z ]*)\|(/.*)", line)
        right = size != "-" and kind in ("regular file", "regular empty file", "directory")
        return path, (int(size) if right else None, kind)

    return dict(each(lines, read))


@dataclass
class Weights:
    """What the snapshot says about weights, by path.

    unchanged: `size time path` of files whose sha256 is remembered, with their size and time now. broken: paths of
    which the inspection as a user was cut off.
    """

    kinds: dict[str, tuple[int | None, str]]
    owned: dict[str, frozenset[str]]
    labels: dict[str, str]
    stamps: dict[str, str]
    headers: dict[str, Header]
    unchanged: set[str]
    broken: list[str] = field(default_factory=list)


def seen_weights(sections: Sections) -> Weights:
    """Combine the weights that root inspected with those that users inspected (`inspected PATH`).

    A user's answer counts only for the path that it was asked about.
    """
    found = weights_in(sections)
    for section, lines in sections.items():
        kind, _, path = section.partition(" ")
        if kind == "inspected":
            own = own_sections(lines)
            said = weights_in(own)
            found.broken += [] if "end" in own else [path]
            found.kinds |= entry_of(path, said.kinds)
            found.owned[path] = found.owned.get(path, frozenset()) | said.owned.get(path, frozenset())
            found.labels |= entry_of(path, said.labels)
            found.stamps |= entry_of(path, said.stamps)
            found.headers |= entry_of(path, said.headers)
            found.unchanged |= {line for line in said.unchanged if belongs(line.split(" ", 2)[-1], path)}
    return found


def weights_in(sections: Sections) -> Weights:
    """Parse the sections that weights_of in snapshot_docker.sh printed."""
    get: Callable[[str], Section] = lambda name: sections.get(name, Section())  # noqa: E731
    stamped = stamps(get("stamps"))
    return Weights(
        weights(get("weights")),
        owned(get("owned")),
        labels(get("labels")),
        stamped,
        headers(get("headers"), stamped),
        set(get("stamped")),
    )


def entry_of(key: str, found: dict[str, T]) -> dict[str, T]:
    """Return the entry with this key alone; {} if there is none."""
    return {key: found[key]} if key in found else {}


def owned(lines: Sequence[str]) -> dict[str, frozenset[str]]:
    """Parse `type mode owner|group|path`, one line for each file, folder or link on the way that others can change.

    >>> owned(["d 775 root|lab|/data/w", "f 644 ada|ada|/data/w"])["/data/w"] == {"the group lab", "ada"}
    True
    """
    found: dict[str, set[str]] = {}
    for form, mode, owner, group, path in each(
        lines, lambda line: fields(r"([a-z]) ([0-7]{1,5}) ([^|]*)\|([^|]*)\|(/.*)", line)
    ):
        who = found.setdefault(path, set())
        who |= {owner} if owner not in ("root", "0") else set()
        if int(mode, 8) & 0o022 and form != "l":
            who.add("everybody" if int(mode, 8) & 0o002 else f"the group {group}")
    return {path: frozenset(who) for path, who in found.items()}


def stamps(lines: Sequence[str]) -> dict[str, str]:
    """Parse `stamp|path`."""
    return {path: stamp for stamp, path in each(lines, lambda line: pair(r"([0-9-]+)\|(/.*)", line))}


def labels(lines: Sequence[str]) -> dict[str, str]:
    """Parse `user:role:type:level|path` into path → type."""
    entries = [(path, label.split(":")) for label, _, path in (line.partition("|") for line in lines)]
    return {path: parts[2] for path, parts in entries if len(parts) > 2}


def headers(lines: list[str], stamps: Mapping[str, str]) -> dict[str, Header]:
    """Parse one JSON line for each path whose header was read. Invalid lines count as not read."""
    found = {}
    for line in lines:
        try:
            said = json_from_host(line)
            found[said["path"]] = header(said, stamps[said["path"]])
        except WRONG:
            continue
    return found


def hashes(remembered: Sequence[str], now: Collection[str]) -> dict[str, str]:
    """Return path → sha256 of files that have not changed since they were hashed.

    remembered: lines `size time sha256 path`, as files/hashes.py writes them. now: lines `size time path`.

    >>> hashes([f"7 1.5 {'0' * 64} /w/a"], {"7 1.5 /w/a"}) == {"/w/a": "0" * 64}
    True
    """
    found = each(remembered, lambda line: fields(rf"(\d+) ([0-9.]+) ({ID}) (/.*)", line))
    return {path: sha256 for size, time, sha256, path in found if f"{size} {time} {path}" in now}


def header(said: Mapping[str, Any], stamp: str) -> Header:
    """Build a Header from an answer of files/weights_header.py.

    Raises TypeError, ValueError or AttributeError if it has another form.
    """
    return Header(
        stamp=stamp,
        kind=str(said.get("kind", "")),
        tensors={str(dtype): bounded(size) for dtype, size in said.get("tensors", {}).items()},
        config=dict(said.get("config", {})),
        problem=str(said.get("problem", "")),
        seen=str(said.get("seen", "")),
    )


def bounded(size: Any) -> int:
    """Return a size in bytes. Raises ValueError or TypeError if it is not one that a file can have."""
    found = int(size)
    if not 0 <= found < 1 << 63:
        raise ValueError(size)
    return found
