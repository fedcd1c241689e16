"""What pyinfra_patches.guard, called by config.py, reports before pyinfra reads an inventory."""

import runpy
from pathlib import Path

import pytest

from tests import forked

YAML = "hosts:\n  gpu1: {}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "config.py").write_text("from gpurack.pyinfra_patches import guard\n\nguard()\n")
    (tmp_path / "deploy.py").write_text("")
    return tmp_path


def run(project: Path, inventory: str) -> tuple[int, str]:
    done = forked.run(
        lambda: runpy.run_module("pyinfra", run_name="__main__"),
        ["pyinfra", inventory, "deploy.py", "-y"],
        cwd=project,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_yaml_inventory_error_shows_the_two_lines_of_python(project: Path) -> None:
    (project / "lab.yaml").write_text(YAML)
    code, output = run(project, "lab.yaml")
    assert code == 1
    assert "error  lab.yaml: pyinfra reads no YAML. Write two lines into lab.py and use that: import gpurack" in output
    assert 'globals().update(gpurack.load("lab.yaml"))' in output


def test_yaml_inventory_error_names_the_python_file(project: Path) -> None:
    (project / "lab.yaml").write_text(YAML)
    (project / "lab.py").write_text('import gpurack\nglobals().update(gpurack.load("lab.yaml"))\n')
    assert "error  lab.yaml: pyinfra reads no YAML. Use lab.py instead." in run(project, "lab.yaml")[1]


def test_missing_inventory_file_is_an_error(project: Path) -> None:
    code, output = run(project, "lba.py")
    assert code == 1
    assert "error  lba.py: file not found." in output
