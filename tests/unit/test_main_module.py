"""`python -m gpurack` is the `gpurack` command."""

import importlib.metadata
import runpy

import pytest

from tests import forked


def run_module() -> None:
    runpy.run_module("gpurack", run_name="__main__", alter_sys=True)


def test_module_runs_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3")  # it need not be installed
    done = forked.run(run_module, ["gpurack", "--version"])
    assert done.stdout == "gpurack, version 1.2.3\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["no-such-verb"], 2)])
def test_module_passes_arguments_and_exit_code(argv: list[str], code: int) -> None:
    done = forked.run(run_module, ["gpurack", *argv])
    assert done.returncode == code
    assert ("Usage: gpurack " if code == 0 else "no command `no-such-verb`") in done.stdout + done.stderr
