"""What a run imports: modules that it does not use would be time of every run, also of an unchanged one."""

import importlib
import subprocess
import sys

import pytest

import gpurack

UNUSED = {"tarfile", "tomllib", "gpurack.operations.remove", "gpurack.plan.remove", "gpurack.operations.rolling_back"}
"""Modules for image tars, dnf 5, removals and rollbacks."""


def test_keeps_compiled_modules_although_pyinfra_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.reload(gpurack)
    assert sys.dont_write_bytecode == bool(sys.flags.dont_write_bytecode)


def test_a_run_imports_what_it_uses() -> None:
    program = "import sys, gpurack.pyinfra_patches, gpurack.deploys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "gpurack.deploys" in modules
    assert not modules & UNUSED
