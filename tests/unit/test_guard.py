"""What pyinfra_patches.guard, called by config.py, reports before pyinfra reads an inventory."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyinfra.api import State
from pyinfra.api.util import get_operation_order_from_stack

from gpurack import pyinfra_patches
from gpurack.operations.run_state import HostRun
from gpurack.plan.models.removal import Removals
from gpurack.pyinfra_patches import confirm_removals
from tests import forked

pytestmark = pytest.mark.sampled

YAML = "hosts:\n  gpu1: {}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "config.py").write_text("from gpurack.pyinfra_patches import guard\n\nguard()\n")
    (tmp_path / "deploy.py").write_text("")
    return tmp_path


def run(project: Path, inventory: str, given: str = "") -> tuple[int, str]:
    """The exit code and output of pyinfra, whose prompt gets `given`, or is not shown."""
    done = forked.run(
        lambda: runpy.run_module("pyinfra", run_name="__main__"),
        ["pyinfra", inventory, "deploy.py", *([] if given else ["-y"])],
        cwd=project,
        given=given,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_yaml_inventory_error_shows_the_two_lines_of_python(project: Path) -> None:
    (project / "lab.yaml").write_text(YAML)
    code, output = run(project, "lab.yaml")
    assert code == 1
    assert "error  lab.yaml: pyinfra reads no YAML. Run `gpurack apply lab.yaml`, or write two lines into" in output
    assert 'globals().update(gpurack.load("lab.yaml"))' in output


def test_yaml_inventory_error_names_the_python_file(project: Path) -> None:
    (project / "lab.yaml").write_text(YAML)
    (project / "lab.py").write_text('import gpurack\nglobals().update(gpurack.load("lab.yaml"))\n')
    assert (
        "error  lab.yaml: pyinfra reads no YAML. Use lab.py instead, or run `gpurack apply lab.yaml`."
        in run(project, "lab.yaml")[1]
    )


def test_missing_inventory_file_is_an_error(project: Path) -> None:
    code, output = run(project, "lba.py")
    assert code == 1
    assert "error  lba.py: file not found." in output


# --- connections, the prompt and Ctrl-C ------------------------------------------------------------------------------

CHANGES = 'from pyinfra.operations import server\n\nserver.shell(name="Wait", commands=["touch begun; {}"])\n'


def pyinfra(project: Path, *words: str) -> subprocess.Popen[str]:
    """pyinfra in a process of its own, on this machine."""
    (project / "lab.py").write_text('hosts = ["@local"]\n')
    found = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": found, "PYINFRA_PROGRESS": "off"}
    return subprocess.Popen(
        [sys.executable, "-m", "pyinfra", "lab.py", "deploy.py", *words],
        cwd=project, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize(("answer", "code"), [("", 0), ("y", 0), (" YES ", 0), ("n", 1), ("yy", 1)])
def test_prompt_takes_enter_y_and_yes(project: Path, answer: str, code: int) -> None:
    (project / "deploy.py").write_text(CHANGES.format("true"))
    (project / "lab.py").write_text('hosts = ["@local"]\n')
    found, output = run(project, "lab.py", given=f"{answer}\n")
    assert found == code, output
    assert (project / "begun").exists() == (code == 0)


def test_failed_operation_counts_no_commands(project: Path) -> None:
    (project / "deploy.py").write_text(CHANGES.format("false"))
    (project / "lab.py").write_text('hosts = ["@local"]\n')
    code, output = run(project, "lab.py")
    assert code == 1
    assert "[@local] Error\n" in output
    assert "executed" not in output


def test_interrupt_ends_with_130(project: Path) -> None:
    (project / "deploy.py").write_text(CHANGES.format("sleep 60"))
    with pyinfra(project, "-y") as process:
        end = time.monotonic() + 60
        while not (project / "begun").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Interrupted by Ctrl-C." in output
    assert "Traceback" not in output


def test_unreachable_hosts_have_a_sentence(project: Path) -> None:
    (project / "lab.py").write_text(
        'lab = ([(name, {"ssh_hostname": "127.0.0.1", "ssh_port": 1}) for name in ("a", "b")], {})\n'
    )
    code, output = run(project, "lab.py")
    assert code == 1
    assert "No host could be reached. Nothing was changed." in output
    assert (
        output.count(
            " could not connect: nothing listens on port 1 of 127.0.0.1. Does sshd run there? Try `ssh -p 1 127.0.0.1`."
        )
        == 2
    )
    assert "No hosts remaining" not in output


class Line:
    """A paramiko transport over a socket, or over a channel of another one."""

    def __init__(self, sock: Any) -> None:
        self.sock, self.kept = sock, 0

    def set_keepalive(self, seconds: int) -> None:
        self.kept = seconds

    def get_transport(self) -> "Line":
        """As a channel of this transport."""
        return self


def test_a_dead_host_is_found_in_30_seconds() -> None:
    with socket.socket() as sock:
        jump = Line(sock)
        transport = Line(SimpleNamespace(get_transport=jump.get_transport))
        pyinfra_patches.find_dead_host(transport)
        names = pyinfra_patches.TCP_OPTIONS
        option = {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names}
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert option["TCP_USER_TIMEOUT"] + 1000 * pyinfra_patches.KEEPALIVE < 30_000
    assert option["TCP_KEEPIDLE"] + option["TCP_KEEPCNT"] * option["TCP_KEEPINTVL"] < 30
    assert jump.kept
    assert transport.kept
    pyinfra_patches.find_dead_host(None)  # @local


def test_hosts_in_maintenance_are_skipped_with_their_reason(project: Path) -> None:
    (project / "lab.py").write_text('hosts = [("@local", {}), ("gone.invalid", {"maintenance": "RMA until 15 Jan"})]\n')
    code, output = run(project, "lab.py")
    assert code == 0
    assert "[gone.invalid] skipped, maintenance: RMA until 15 Jan" in output
    assert "Could not connect" not in output


def test_run_of_hosts_in_maintenance_alone_succeeds(project: Path) -> None:
    (project / "lab.py").write_text('hosts = [("gone.invalid", {"maintenance": "RMA until 15 Jan"})]\n')
    code, output = run(project, "lab.py")
    assert code == 0
    assert "All hosts of this run are in maintenance. Nothing was changed." in output


class Prompt:
    """A host, and the answers that are typed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, removals: Removals, *answers: str) -> None:
        self.run = HostRun(removals=removals)
        state = SimpleNamespace(inventory=[SimpleNamespace(name="gpu1", connector_data={"gpurack": self.run})])
        typed = iter(answers)
        monkeypatch.setattr("builtins.input", lambda: next(typed))
        self.confirmed = confirm_removals(cast(State, state))


TWO = Removals(("alpha", "beta"), 2, emptied=True)


@pytest.mark.parametrize("answer", ["", "y", "1", "22"])
def test_only_the_exact_number_confirms_removals(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Prompt(monkeypatch, TWO, answer)
    assert (found.confirmed, found.run.removals_confirmed) == (False, None)


def test_prompt_names_what_is_removed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = Prompt(monkeypatch, TWO, "2")
    assert (found.confirmed, found.run.removals_confirmed) == (True, 2)
    assert "gpu1: REMOVE 2 of 2 models: alpha, beta" in capsys.readouterr().err


def test_few_removals_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Prompt(monkeypatch, Removals(("alpha",), 2)).confirmed


@pytest.mark.parametrize("deploy", [__file__, forked.__file__, None])
def test_operations_are_ordered_as_by_pyinfra(deploy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same lines, without a look at their source. deploy: the file from which on lines count."""
    monkeypatch.setattr("pyinfra.is_cli", True)
    state: Any = SimpleNamespace(current_deploy_filename=deploy, current_op_file_number=3)
    pyinfras, ours = [order(state) for order in (get_operation_order_from_stack, pyinfra_patches.lines_to)]
    assert ours == pyinfras
    assert len(ours) > 1 or deploy == forked.__file__
