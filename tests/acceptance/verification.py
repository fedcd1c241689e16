"""Runs `pytest tests/verify` in a test, and reads what it found."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.conftest import CHECKOUT, Lab

PYTEST = str(Path(sys.executable).parent / "pytest")


@dataclass(frozen=True)
class Verified:
    """A run of the checks. failed: (host, "packages" or "gamma ready") → its message."""

    exit_code: int
    output: str
    count: int
    failed: dict[tuple[str, str], str]

    def of(self, host: str) -> dict[str, str]:
        """The failures of one host."""
        return {check: text for (name, check), text in self.failed.items() if name == host}


def verify(lab: Lab, inventory: Path, env: dict[str, str], *options: str) -> Verified:
    """`pytest tests/verify --inventory …` as an admin runs it, with the keys in env."""
    report = lab.folder / "report.xml"
    plugins = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]  # users do not have the latter, which is slow
    argv = [PYTEST, *plugins, "tests/verify", "--inventory", str(inventory), "--junitxml", str(report)]
    done = subprocess.run(
        [*argv, *options], cwd=CHECKOUT, env={**lab.env(), **env}, capture_output=True, text=True, check=False
    )
    failed, cases = {}, list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        found = re.fullmatch(r"test_(\w+)\[(\w+)-?(.*)\]", case.attrib["name"])
        failure = case.find("failure")
        assert found, case.attrib
        assert case.find("error") is None, done.stdout
        if failure is not None:
            check, host, entry = found.groups()
            failed[host, f"{entry} {check}".strip()] = (
                failure.attrib["message"] + "\n" + (failure.text or "")
            )  # pytest cuts long messages
    return Verified(done.returncode, done.stdout + done.stderr, len(cases), failed)


def is_right(lab: Lab, env: dict[str, str] | None = None) -> None:
    """The lab is as its inventory says."""
    found = verify(lab, lab.folder / "lab.py", env or {})
    assert (found.exit_code, found.failed) == (0, {}), found.output
    assert found.count
