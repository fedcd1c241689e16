"""The testbed, the lab, and the tree of the older gpurack."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.acceptance.conftest import CHECKOUT
from tests.acceptance.suite import lab, testbed

__all__ = ["lab", "older_tree", "testbed"]

OLDER = "16246d3d47ae0ea0c45a14e09b2d9e4275e8b060"
"""The commit from which hosts are upgraded: the last one before there was a host record."""


@pytest.fixture(scope="session")
def older_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the older commit."""
    done = subprocess.run(["git", "archive", OLDER], cwd=CHECKOUT, capture_output=True, check=False)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip()
        pytest.fail(f"commit {OLDER} is not in this clone ({why}). A shallow clone lacks it: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder
