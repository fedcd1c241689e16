"""A host in maintenance: each command skips it, says why, and succeeds. (pyinfra's runs: test_guard.py.)"""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpurack.commands.main import main
from gpurack.inventory.lock_file import read_lock
from gpurack.spec.lock import HostLock, Lock, text

WHY = "RMA until 15 Jan"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """A host that nobody reaches."""
    path = tmp_path / "lab.yaml"
    alpha = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000, "bind": "lan", "gpus": []}
    hosts = {"gone.invalid": {"maintenance": WHY, "models": {"alpha": {**alpha, "api_key": None}}}}
    path.write_text(json.dumps({"hosts": hosts}))
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


@pytest.mark.parametrize("command", [("status",), ("plan",), ("plan", "--live"), ("endpoints",), ("lock", "--check")])
def test_command_skips_the_host_and_says_why(command: tuple[str, ...], inventory: Path) -> None:
    (inventory.parent / "lab.lock.yaml").write_text(text(Lock(hosts={"gone.invalid": HostLock(driver="1")}), inventory))
    done = run(command[0], inventory, *command[1:])
    assert WHY in done.output.replace("\n", " ")
    assert done.exit_code == 0


def test_status_is_maintenance_for_programs_too(inventory: Path, tmp_path: Path) -> None:
    data = json.loads(run("status", inventory, "--json", "--html", tmp_path / "lab.html").output)
    host = data["hosts"]["gone.invalid"]
    assert (host["state"], host["maintenance"], host["models"]) == ("maintenance", WHY, {})
    assert data["summary"] == "0 of 0 models ready. In maintenance: gone.invalid."
    page = (tmp_path / "lab.html").read_text()
    assert WHY in page
    assert '<section class="bad">' not in page


def test_endpoints_name_it_for_programs_too(inventory: Path) -> None:
    (found,) = json.loads(run("endpoints", inventory, "--json").output)
    assert found["maintenance"] == {"gone.invalid": WHY}


@pytest.mark.parametrize("options", [(), ("--upgrade",)])
def test_lock_keeps_what_it_has_of_the_host(options: tuple[str, ...], inventory: Path) -> None:
    before = Lock(hosts={"gone.invalid": HostLock(driver="580.159.04")})
    (inventory.parent / "lab.lock.yaml").write_text(text(before, inventory))
    assert run("lock", inventory, *options).exit_code == 0
    assert read_lock(inventory) == before
