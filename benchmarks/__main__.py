"""Runs benchmarks, prints their rows, and writes docs/performance.md when all were run.

    python -m benchmarks                 all; `make bench`
    python -m benchmarks fleet plan      those that need no hosts

Exit code 1 where a median is above its goal.
"""

import importlib
import sys
from collections.abc import Sequence

from benchmarks.measure import CHECKOUT, Row, machine

ALL = ("plan", "fleet", "unchanged", "snapshot", "verify", "fresh")
PAGE = CHECKOUT / "docs" / "performance.md"
BEGIN, END = "<!-- begin: make bench -->\n", "<!-- end: make bench -->\n"


def main(names: Sequence[str]) -> int:
    """Run these benchmarks, or all. Return the exit code."""
    found: list[Row] = []
    for name in names or ALL:
        for row in importlib.import_module(f"benchmarks.{name}").rows():
            found.append(row)
            print("  ".join([*row.words, *(["MISSED"] if row.missed else [])]), flush=True)
    if not names:
        PAGE.write_text(with_figures(PAGE.read_text(), found, machine()))
    return int(any(row.missed for row in found))


def with_figures(page: str, found: Sequence[Row], where: str) -> str:
    """The page with these rows between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [f"| {what} | {figures} ({goal}) |" for what, figures, goal in (row.words for row in found)]
    table = "\n".join(["| what | median |", "|---|---|", *lines])
    return f"{before}{BEGIN}{table}\n\nMeasured on {where}.\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
