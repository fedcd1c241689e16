"""What was seen of each cell, kept in results.tsv, and the table of docs/reliability.md, which `make docs` renews."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tests.faults import points
from tests.faults.strike import FAULTS

PATH = Path(__file__).with_name("results.tsv")
BEGIN, END = "<!-- from tests/faults/results.tsv, by make docs -->", "<!-- end -->"
USELESS = ("Traceback", "OSError", "executed 0 commands")
"""What no screen may say."""
TRIES = 3
"""Plain runs that a host gets at most."""


@dataclass(frozen=True)
class Cell:
    """A deploy that was hit by a fault at a point. runs: plain runs until the host was as after an undisturbed one; 0
    where TRIES were too few. down: the most seconds for which a model, which the deploy keeps, did not answer, from
    the fault on; "-" where it keeps none. saw: the last line of the run that was hit. wrong: what must not be, "" else.
    """

    deploy: str
    point: str
    fault: str
    runs: int
    down: str
    saw: str
    wrong: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What was tried."""
        return self.deploy, self.point, self.fault


def load(path: Path = PATH) -> list[Cell]:
    """The cells of a file; none where it is missing."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Cell(**{**row, "runs": int(row["runs"])}) for row in csv.DictReader(file, delimiter="\t")]  # type: ignore[arg-type]


def add(cell: Cell, path: Path = PATH) -> None:
    """Write one more cell."""
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Cell)], delimiter="\t", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(cell))


def useless(output: str) -> list[str]:
    """What is wrong with a screen: words that help nobody, or nothing at all.

    >>> useless("Traceback (most recent call last):"), useless(" "), useless("error gpu1 the connection was lost")
    (['it says Traceback'], ['it says nothing'], [])
    """
    found = [f"it says {word}" for word in USELESS if word in output]
    return found or ([] if output.strip() else ["it says nothing"])


def saw(output: str) -> str:
    """The line that a user reads last of what went wrong: the first error below the table, or the last line.

    >>> saw("    [gpu1] ~ docker\\nerror gpu1 the connection was lost\\n0 of 1 models answered.\\n")
    'error gpu1 the connection was lost'
    >>> saw("--> Models\\n2 of 2 models answered, nothing changed, 3.1 s.\\n")
    '2 of 2 models answered, nothing changed, 3.1 s.'
    """
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error ")]
    return (errors or lines[-1:] or [""])[0][:200]


def table(cells: Iterable[Cell]) -> str:
    """The table for the page: how much was tried, and a heading for each deploy."""
    cells = sorted(cells, key=lambda cell: (cell.fault, cell.point))
    found, faults = points.load(), tuple(FAULTS)
    total, left = len(list(points.every(found, faults))), len(points.missing(found, faults, {c.key for c in cells}))
    lines = ["", f"Tried so far: {total - left} of {total} combinations."]
    for deploy in sorted({cell.deploy for cell in cells}):
        lines += ["", f"### {deploy.capitalize()}", "", "| fault | result |", "|---|---|"]
        for cell in cells:
            if cell.deploy == deploy:
                lines.append(f"| {cell.fault} {cell.point} | {result(cell)} |")
    return "\n".join([*lines, ""])


def result(cell: Cell) -> str:
    """What came of a cell, as Markdown."""
    runs = {0: f"not the same after {TRIES} runs", 1: "1 run"}.get(cell.runs, f"{cell.runs} runs")
    down = "no model to keep" if cell.down == "-" else f"down {cell.down} s"
    said = f"`{cell.saw.replace('|', '¦').replace('`', chr(39))}`" if cell.saw else "the run was killed"
    return "; ".join([runs, down, said, *([f"**{cell.wrong}**"] if cell.wrong else [])])


def renewed(page: str, cells: Iterable[Cell]) -> str:
    """The page with the table of these cells."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table(cells)}\n{END}", page, flags=re.DOTALL)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(renewed(target.read_text(encoding="utf-8"), load()), encoding="utf-8")
