"""The table of docs/engines.md, generated from the engines: `make docs` writes it, a test checks it."""

import re
import sys
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path

from gpurack.engines import ENGINES
from gpurack.engines.base import Engine, Row

BEGIN = "<!-- Made by `make docs` from gpurack/engines/; change it there. -->"
END = "<!-- End of what is made. -->"
HEADS = {"image": "image by `version`", "gpus": "GPUs", "sets": "gpurack sets", "state": "tested with"}


def table(engines: Iterable[Engine]) -> str:
    """Return a table with one row for each engine, linked to its section."""
    heads = ["engine", *(HEADS.get(field.name, field.name) for field in fields(Row))]
    lines = [cells(heads), f"|{'---|' * len(heads)}"]
    for engine in engines:
        link = f"[`{engine.name}`](#{engine.name.replace('.', '')})"
        lines.append(cells([link, *astuple(engine.row)]))
    return "\n".join(lines) + "\n"


def cells(texts: Iterable[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(texts)} |"


def renewed(page: str) -> str:
    """Return the page with the current table. Raises ValueError if the page has no place for it."""
    made = f"{BEGIN}\n{table(ENGINES.values())}{END}"
    found, number = re.subn(rf"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, page, flags=re.DOTALL)
    if number != 1:
        raise ValueError(f"the page needs one table between {BEGIN} and {END}")
    return found


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
