"""Weights copied from the admin's machine: while the old model serves, compared, and not copied again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, containers, model
from tests.testbed import Host
from tests.testbed.services import WEIGHTS

COPIES = "/var/lib/gpurack/weights/copy"


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """cpu5, where another model serves on the port."""
    host = lab.testbed.host("cpu5")
    lab.settle(host, {"gamma": model("alpha", [], 8000)})
    host.root(f"rm -rf {COPIES}")
    return host


@pytest.fixture
def file(lab: Lab) -> Path:
    """A model on the machine that runs pyinfra."""
    path = lab.folder / "my model.gguf"
    shutil.copy2(WEIGHTS / "gamma.gguf", path)
    return path


def copied(path: Path) -> dict[str, dict[str, Any]]:
    return {"cpu5": {"models": {"gamma": {"weights": {"copy": str(path)}, "gpus": [], "port": 8000}}}}


def test_failed_copy_keeps_old_model(lab: Lab, host: Host, file: Path) -> None:
    """The folder for copies is a file."""
    host.root(f"mkdir -p {COPIES} && rmdir {COPIES} && touch {COPIES}")
    run = lab.run(lab.inventory(copied(file)))
    assert run.exit_code == 1
    assert not run.traceback, run.output
    (error,) = run.errors("cpu5")
    assert error.startswith(f"gamma: {file} could not be copied to the host: ")
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence
    host.root(f"rm {COPIES}")


def test_copies_file_once(lab: Lab, host: Host, file: Path) -> None:
    inventory = lab.inventory(copied(file))
    run = lab.run(inventory)
    assert run.exit_code == 0, run.output
    assert f"copy {file} for gamma" in run.output
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence
    sha256 = lab.testbed.weights("gamma").sha256
    there = host.root(f"cd {COPIES} && sha256sum $(find . -type f)").stdout.split()
    assert there == [sha256, f"./{sha256[:16]}-my_model.gguf"]
    (mount,) = containers(host)["gamma"]["Mounts"]
    assert mount["Source"] == f"{COPIES}/{sha256[:16]}-my_model.gguf"

    run = lab.run(inventory)
    assert run.unchanged, run.output
    assert host.ssh_commands(run.begun) == 1


def test_copies_changed_file_again(lab: Lab, host: Host, file: Path) -> None:
    shutil.copy2(WEIGHTS / "delta.gguf", file)
    run = lab.run(lab.inventory(copied(file)))
    assert run.exit_code == 0, run.output
    assert chat(host, 8000) == lab.testbed.weights("delta").sentence
