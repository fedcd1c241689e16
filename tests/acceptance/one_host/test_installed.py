"""`pip install gpurack` is enough for a user's own pyinfra project: it imports the deploys, and has files/ and the
checks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import CHECKOUT, PYINFRA, Lab, model
from tests.acceptance.verification import PYTEST
from tests.testbed import Host

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
