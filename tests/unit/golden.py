"""The wording of messages, in one file, which `pytest tests/unit --rewrite-golden -k golden` rewrites.

Each case is its id on a line (`inventory/port-twice`), then its messages, indented by four spaces.
"""

from collections.abc import Sequence
from pathlib import Path

FILE = Path(__file__).parent / "messages.golden.txt"
HEADER = "# Written by: pytest tests/unit --rewrite-golden -k golden\n"


def read() -> dict[str, list[str]]:
    """Case id → its messages."""
    if not FILE.exists():
        return {}
    blocks = FILE.read_text(encoding="utf-8").removeprefix(HEADER).strip("\n").split("\n\n")
    return {case: [line.removeprefix("    ") for line in lines] for case, *lines in map(str.splitlines, blocks)}


def write(cases: dict[str, Sequence[str]]) -> None:
    """Write the whole file, sorted."""
    blocks = ["\n".join([case, *(f"    {line}" for line in lines)]) + "\n" for case, lines in sorted(cases.items())]
    FILE.write_text(HEADER + "\n" + "\n".join(blocks), encoding="utf-8")
