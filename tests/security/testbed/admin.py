"""The admin's commands: what they showed, byte by byte, and how long they took."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import CHECKOUT, Lab

BIN = Path(sys.executable).parent
LIMITS = {"status": 60, "run": 90, "verify": 90, "plan": 60, "lock": 60, "manifest": 60, "remove": 90}
"""Seconds that each command may take on a host with the worst user (a part of a snapshot has 30). Without eve they take
3 to 8.
"""
OWN_COLOURS = re.compile(rb"\x1b\[(0|1|2|3|4|22|3[0-7]|39|9[0-7])(;(0|1|2|3|4|22|3[0-7]|39|9[0-7]))*m")
"""Colours of pyinfra itself; eve uses others."""
OVERRIDES = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
"""Characters that change the direction of text."""


@dataclass(frozen=True)
class Shown:
    """The result of a command, and the bytes that the terminal received."""

    what: str
    exit_code: int | None
    """None: it did not end in its time."""
    raw: bytes = field(repr=False)
    seconds: float

    @property
    def text(self) -> str:
        """The output without pyinfra's own colours."""
        return OWN_COLOURS.sub(b"", self.raw).decode(errors="replace")

    @property
    def data(self) -> Any:
        """The JSON of a command with --json."""
        assert self.exit_code is not None, self
        return json.loads(self.raw)

    @property
    def errors(self) -> list[str]:
        """The messages that begin with "error"."""
        return [line for line in self.text.splitlines() if line.startswith("error ")]

    def harmful(self) -> list[str]:
        """Parts that a terminal would obey, or that are not text."""
        text = OWN_COLOURS.sub(b"", self.raw).decode(errors="surrogateescape")
        return [
            f"{character!r} in {text[max(0, at - 30) : at + 30]!r}"
            for at, character in enumerate(text)
            if (unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t")
            or ord(character) in OVERRIDES
        ]

    def is_harmless(self) -> None:
        """The command ended, changed nothing in the admin's terminal, and printed no traceback."""
        assert self.exit_code is not None, self
        assert self.harmful() == []
        assert "Traceback (most recent call last)" not in self.text


@dataclass
class Admin:
    """The lab's admin, at another machine.

    tree: the checkout whose gpurack is used. patience: the factor for LIMITS. snapshot_limit: seconds for each part of
    a snapshot instead of gpurack's own, for tests that wait for what never ends."""

    lab: Lab
    keys: dict[str, str]
    tree: Path = CHECKOUT
    patience: float = 1
    snapshot_limit: int | None = None

    def status(self, inventory: Path, *options: str) -> Shown:
        """`gpurack status`."""
        return self.gpurack("status", inventory, *options)

    def models(self, inventory: Path) -> dict[str, str]:
        """The state of each model of the inventory's only host in `status`; the host must have been read."""
        shown = self.status(inventory, "--json")
        (host,) = shown.data["hosts"].values()
        assert host["state"] != "UNREACHABLE", host
        return {name: model["state"] for name, model in host["models"].items()}

    def gpurack(self, verb: str, inventory: Path, *options: str) -> Shown:
        """Any other command that changes nothing."""
        return self.do(verb, *self.program("gpurack"), verb, str(inventory), *options)

    def run(self, inventory: Path, *options: str, deploy: str = "gpu_host") -> Shown:
        """`pyinfra INVENTORY deploys/….py -y`. A refused removal is confirmed by its number."""
        what = "remove" if deploy == "remove" else "run"
        argv = [*self.program("pyinfra"), str(inventory), f"deploys/{deploy}.py", "-y", *options]
        shown = self.do(what, *argv)
        number = re.search(r"pyinfra: --data allow_remove=(\d+)", shown.text)
        return self.do(what, *argv, "--data", f"allow_remove={number[1]}") if number else shown

    def verify(self, inventory: Path, *options: str) -> Shown:
        """`pytest tests/verify`."""
        plugins = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        argv = [str(BIN / "pytest"), *plugins, "tests/verify", "--inventory", str(inventory), *options]
        return self.do("verify", *argv)

    def program(self, name: str) -> list[str]:
        """The first words of a command of gpurack or pyinfra. The tree says where its command starts, because the one
        installed beside Python is of this checkout, and an older tree has other modules."""
        module, function = self.scripts[name].split(":")
        code = f"from {module} import {function} as main; main()"
        if self.snapshot_limit is not None:
            code = f"from gpurack.facts import snapshot; snapshot.LIMIT = {self.snapshot_limit}; {code}"
        return [sys.executable, "-c", code]

    @property
    def scripts(self) -> dict[str, str]:
        """The start of each command, as MODULE:FUNCTION."""
        project = tomllib.loads((self.tree / "pyproject.toml").read_text())["project"]
        return {**project["scripts"], "pyinfra": "pyinfra_cli.main:main"}

    def environment(self) -> dict[str, str]:
        """The admin's own environment, with the models' keys."""
        return {**self.lab.env(), **self.keys, "COLUMNS": "200", "PYTHONPATH": str(self.tree)}

    def do(self, what: str, *argv: str) -> Shown:
        """Run it, within its limit."""
        begun, limit = time.monotonic(), LIMITS[what] * self.patience
        try:
            done = subprocess.run(
                argv,
                cwd=self.tree,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            return Shown(what, None, late.output or b"", time.monotonic() - begun)
        return Shown(what, done.returncode, done.stdout, time.monotonic() - begun)
