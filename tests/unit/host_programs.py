"""The programs of files/ that run on hosts, as modules, and fakes of the commands that they call."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FILES = Path(__file__).resolve().parents[2] / "files"
sys.path.append(str(FILES))  # they import one another, as where they run


def load(name: str) -> Any:
    """files/NAME.py as a fresh module, so that its constants can be changed."""
    source = importlib.util.spec_from_file_location(f"gpurack_files_{name}", FILES / f"{name}.py")
    assert source
    assert source.loader
    module: ModuleType = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    return module


class Fakes:
    """A folder at the head of PATH. Every call of a fake is remembered in the order of the calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "calls"
        folder.mkdir()
        self.log.write_text("")

    def add(self, name: str, script: str) -> None:
        """A POSIX sh script as the command `name`; $STATE is a folder of its own to remember things in."""
        path = self.folder / name
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\nSTATE={state}\necho "{name} $*" >>{self.log}\n{script}\n')
        path.chmod(0o755)

    def path(self) -> str:
        """PATH with the fakes first."""
        return f"{self.folder}:{os.environ['PATH']}"

    def state(self, name: str, content: Any) -> None:
        """A file that the scripts read as $STATE/NAME; data become JSON."""
        (self.folder / "state").mkdir(exist_ok=True)
        (self.folder / "state" / name).write_text(content if isinstance(content, str) else json.dumps(content))

    @property
    def calls(self) -> list[str]:
        """What was called until now."""
        return self.log.read_text().splitlines()
