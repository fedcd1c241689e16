"""`python -m gpurack` is the `gpurack` command."""

import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).resolve().parents[2]


def run_module() -> None:
    runpy.run_module("gpurack", run_name="__main__", alter_sys=True)


def test_module_runs_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3")  # it need not be installed
    done = forked.run(run_module, ["gpurack", "--version"])
    assert re.fullmatch(r"gpurack, version [\d.]+(, commit [0-9a-f]{12}( and uncommitted changes)?)?\n", done.stdout)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["no-such-verb"], 2)])
def test_module_passes_arguments_and_exit_code(argv: list[str], code: int) -> None:
    done = forked.run(run_module, ["gpurack", *argv])
    assert done.returncode == code
    assert ("Usage: gpurack " if code == 0 else "no command `no-such-verb`") in done.stdout + done.stderr


def test_python_without_its_packages_is_one_sentence(tmp_path: Path) -> None:
    """The virtual environment is not active."""
    shutil.copytree(ROOT / "gpurack", tmp_path / "gpurack", ignore=shutil.ignore_patterns("__pycache__"))
    argv = [sys.executable, "-I", "-S", "-c", f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); "
            "runpy.run_module('gpurack', run_name='__main__')"]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"error: this Python \(\S+\) has no \w+, which gpurack needs\. .*\n", done.stderr), done.stderr
