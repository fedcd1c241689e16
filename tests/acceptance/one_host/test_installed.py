"""`pip install gpurack` is enough: `gpurack init` writes a project whose lab can be applied, and a user's own pyinfra
project imports the deploys. The wheel has files/, templates/ and the checks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.acceptance.conftest import CHECKOUT, PYINFRA, Lab, chat, model
from tests.acceptance.verification import PYTEST
from tests.testbed import Host
from tests.testbed.hosts import SSH_CONFIG
from tests.testbed.inventory import common

DEPLOY = """\
import gpurack
from gpurack.deploys import gpu_host

assert gpurack.__file__.startswith({site!r}), gpurack.__file__
gpu_host()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gpurack alone: built as a wheel and installed into a folder outside of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder / "wheel"), str(CHECKOUT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = (folder / "wheel").glob("gpurack-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def test_own_project_runs_whole_job(lab: Lab, cpu5: Host, site: Path, tmp_path: Path) -> None:
    inventory = lab.inventory({"cpu5": {"models": {"gamma": model("gamma", [], 8000)}}})
    (tmp_path / "deploy.py").write_text(DEPLOY.format(site=str(site)))

    def there(*argv: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run(
            argv, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    done = there(PYINFRA, str(inventory), "deploy.py", "-y")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 models answered" in done.stderr

    checked = there(PYTEST, "--pyargs", "gpurack.verify", "--inventory", str(inventory))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "gpurack/verify/test_models.py" in checked.stdout
    assert str(CHECKOUT) not in checked.stdout


def test_new_project_applies_a_lab(lab: Lab, cpu5: Host, site: Path, tmp_path: Path) -> None:
    config = tmp_path / ".ssh/config"
    config.parent.mkdir(mode=0o700)
    config.write_text(SSH_CONFIG.read_text())
    project = tmp_path / "project"
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}

    def gpurack(*arguments: str, folder: Path = project) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "gpurack", *arguments],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert gpurack("init", "project", "--lab", "wheel", "--host", "cpu5", folder=tmp_path).startswith("cpu5  no GPUs\n")
    gpurack("plan")
    inventory = project / "lab.yaml"
    data = yaml.safe_load(inventory.read_text())
    data["all"] = common()  # without `lab`: the other tests' inventories own what is on this host
    data["hosts"]["cpu5"]["models"] = {"gamma": model("gamma", [], 8001)}
    inventory.write_text(yaml.safe_dump(data))
    assert "1 of 1 model ready." in gpurack("apply", "-y")
    assert chat(cpu5, 8001) == lab.testbed.weights("gamma").sentence
    assert "1 host unchanged. 1 of 1 model ready." in gpurack("apply", "-y")
