"""How the snapshot packs and separates its sections. Pure."""

import base64
import re
import zlib
from collections.abc import Sequence

from gpurack.facts.lines import WRONG, Section, Sections

MARK = "@@ mark "
"""The beginning of the first line of snapshot.sh."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""What `readable` in snapshot.sh removes where gzip is missing."""
GZIP = b"\x1f\x8b"
"""The first bytes of everything that gzip packs. Paths begin otherwise."""
UNPACKED_LIMIT = 64 << 20
"""Bytes that packed output may have when it is unpacked, as many as a command may print (pyinfra_patches.py)."""


def own_sections(lines: Sequence[str]) -> Sections:
    """Return the sections that a user's own programs printed; {} if they printed nothing valid.

    They arrive as one line of base64 (snapshot_own in files/snapshot_docker.sh), so that no text in them can open a
    section of root's.
    """
    try:
        return split(decoded("".join(lines)).decode(errors="replace").split("\n"))
    except WRONG:
        return {}


def split(lines: Sequence[str], mark: str = "") -> Sections:
    """Split lines by their headings, "@@MARK name". Empty lines are dropped.

    mark: random for each snapshot, so that no quoted text can begin a section.
    """
    sections: Sections = {}
    current = Section()
    for line in lines:
        if line.startswith(f"@@{mark} "):
            current = sections.setdefault(line[3 + len(mark) :].strip(), Section())
        elif line.strip():
            current.append(line)
    return sections


def unpacked(lines: Sequence[str], mark: str) -> Sequence[str]:
    """Return the output as if the host had no gzip; [] if it is cut off, or unpacks to more than a host may print."""
    heading = f"@@{mark} gzip"
    if heading not in lines:
        return lines
    try:
        text = unzipped(decoded("".join(lines[lines.index(heading) + 1 :])))
    except ValueError:
        return []
    return CONTROL.sub("", text.decode(errors="ignore")).split("\n")


def unzipped(packed: bytes) -> bytes:
    """Unpack gzip. Raises ValueError for anything else, and if it is cut off or longer than UNPACKED_LIMIT."""
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(packed, UNPACKED_LIMIT)
    except zlib.error as error:
        raise ValueError(*error.args) from None
    if not stream.eof:
        raise ValueError("cut off, or too long")
    return plain


def decoded(text: str) -> bytes:
    """Decode base64; b"" for an empty text."""
    return base64.b64decode(text.strip() or "")
