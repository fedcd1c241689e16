"""Lines of the snapshot's sections. Invalid lines are skipped and counted. Pure."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

WRONG = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""Exceptions that invalid output can cause in a parser."""
ID = r"[0-9a-f]{64}"
"""The id of a container."""
S = TypeVar("S")
T = TypeVar("T")


class Section(list[str]):
    """The lines of a section. wrong: the number of lines that could not be parsed."""

    wrong = 0


Sections = dict[str, Section]


def each(lines: Sequence[S], read: Callable[[S], T]) -> list[T]:
    """Apply `read` to each line. Lines for which it raises one of WRONG are skipped and counted."""
    found = []
    for line in lines:
        try:
            found.append(read(line))
        except WRONG:
            if isinstance(lines, Section):
                lines.wrong += 1
    return found


def fields(pattern: str, line: str) -> tuple[str, ...]:
    """Return the groups of a line that matches the pattern as a whole. Raises ValueError if it does not."""
    match = re.fullmatch(pattern, line, re.DOTALL)
    if match is None:
        raise ValueError(line)
    return tuple(group or "" for group in match.groups())


def pair(pattern: str, line: str) -> tuple[str, str]:
    """Return the two groups of a line that matches the pattern as a whole. Raises ValueError if it does not."""
    one, other = fields(pattern, line)
    return one, other


def word(lines: list[str], key: str) -> str:
    """Return the rest of the line that begins with `key`; "" if there is none."""
    return next((line[len(key) + 1 :].strip() for line in lines if line.startswith(f"{key} ")), "")


def pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return (first word, rest) of each line."""
    return [(head, rest) for head, _, rest in (line.partition(" ") for line in lines)]


def parse_time(text: str) -> datetime | None:
    """Parse a time in RFC 3339 or in dmesg's `--time-format iso`; None if it is invalid.

    dmesg writes a comma before the fraction. Years from 9000 on count as invalid, because they cannot be converted to
    every time zone.
    """
    try:
        found = datetime.fromisoformat(text.replace(",", "."))
    except ValueError:
        return None
    return found if found.year < 9000 else None
