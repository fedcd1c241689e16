"""How steps reach a host: the shell commands that pyinfra sends, run here by sh."""

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpurack import paths
from gpurack.operations import commands
from gpurack.operations.commands import Refusal, carry_out, slow, write_file
from gpurack.plan.steps import SetAside, Shell, Step
from gpurack.shell import sh


def run(command: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input=command.connector_arguments.get("_stdin", ""),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def _own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of files is in a folder of the test."""
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run"))


@pytest.mark.usefixtures("_own_run")
@pytest.mark.parametrize("content", ["", "a\n", "größe $HOME `x` 'y' \"z\"", "a" * 100_000])
def test_writes_file_unchanged(tmp_path: Path, content: str) -> None:
    path = tmp_path / "new folder/it's"
    assert run(write_file(str(path), content, "640")).returncode == 0
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (content, 0o640)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert content not in write_file(str(path), content, "640").get_raw_value() or not content


@pytest.mark.usefixtures("_own_run")
def test_failed_write_keeps_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "a.gpurack-new").mkdir()
    assert run(write_file(str(tmp_path / "a"), "new", "644")).returncode != 0
    assert (tmp_path / "a").read_text() == "old"


def test_keeps_foreign_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.paths, "BACKUPS", str(tmp_path / "backups"))
    old = tmp_path / "docker.list"
    old.write_text("deb …")
    (command,) = carry_out(SetAside("x", str(old)))
    assert run(command).returncode == 0
    assert not old.exists()
    (kept,) = (tmp_path / "backups").iterdir()
    assert kept.read_text() == "deb …"


def test_fast_command_prints_no_progress() -> None:
    done = run(slow(sh("echo much; echo more >&2")))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_failed_command_shows_last_lines_and_exit_code() -> None:
    done = run(slow(sh("seq 100; echo 'E: no such package' >&2; exit 7")))
    assert done.returncode == 7
    assert done.stdout.splitlines() == [*map(str, range(87, 101)), "E: no such package"]


def test_slow_command_prints_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "SIGN_OF_LIFE", 0.1)
    done = run(slow(sh("printf 'a\\rUnpacking docker-ce'; sleep 0.7")))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"0:\d\d  Unpacking docker-ce", lines[-1])
    # a progress line may come before any output
    assert all(re.fullmatch(r"0:\d\d(  Unpacking docker-ce| *)", line) for line in lines)


def test_command_is_one_shell_word() -> None:
    (command,) = carry_out(Shell("x", sh("echo 'it is' \"$((1 + 1))\" && false || exit 3")))
    done = run(command)
    assert (done.returncode, done.stdout) == (3, "it is 2\n")


def test_refusal_fails_without_command() -> None:
    assert Refusal(["why"]).get_raw_value() == "false"


def test_unknown_step_is_internal_error() -> None:
    with pytest.raises(TypeError, match="no commands for"):
        list(carry_out(Step("x")))
