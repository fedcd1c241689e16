"""The seeds' commands: each `seeds/NAME.txt`, with the expected result in `seeds/NAME.json`.

variables, files: the values of `--set` and `--file`. models, services, host: the exact entries. means: what the author
of the command meant for each container, written by hand. refused: the errors of `gpurack plan`, for commands that
cannot work today.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gpurack.importing.reader import Imported, read

FOLDER = Path(__file__).parent / "seeds"


@dataclass(frozen=True)
class Case:
    """One command of the seeds."""

    name: str
    text: str
    told: dict[str, Any]

    @cached_property
    def imported(self) -> Imported:
        """The import of the command."""
        files = {path: (FOLDER / name).read_text() for path, name in self.told.get("files", {}).items()}
        return read(self.text, self.told.get("variables", {}), files)


def cases() -> list[Case]:
    """All cases by name."""
    return [
        Case(path.stem, path.read_text(), json.loads(path.with_suffix(".json").read_text()))
        for path in sorted(FOLDER.glob("*.txt"))
    ]
