"""The seeds' commands: each `seeds/NAME.txt` with what must come of it, `seeds/NAME.json`.

variables, files: what `--set` and `--file` would give. models, services, host: the entries, exactly. means: what the
command as its author meant it says of every container, written by hand from the command. refused: what `gpurack plan`
says of it, for the commands that cannot work today.
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
        """What gpurack makes of it."""
        files = {path: (FOLDER / name).read_text() for path, name in self.told.get("files", {}).items()}
        return read(self.text, self.told.get("variables", {}), files)


def cases() -> list[Case]:
    """All of them, by name."""
    return [
        Case(path.stem, path.read_text(), json.loads(path.with_suffix(".json").read_text()))
        for path in sorted(FOLDER.glob("*.txt"))
    ]
