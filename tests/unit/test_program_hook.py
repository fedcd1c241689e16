"""The program that holds a run at a chosen call (tests/acceptance/program-hook), here in front of /usr/bin/env."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.hook import PLACE, PROGRAM, REMOTE

Call = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the plan is, and what was held and counted."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "count").touch()
    return place


@pytest.fixture
def call(tmp_path: Path, place: Path) -> Call:
    """Calls it under a name, with arguments, and as sshd does."""
    text = PROGRAM.read_text().replace(f"PLACE={PLACE}", f"PLACE={place}")

    def start(name: str, *arguments: str, original: str = "") -> subprocess.Popen[str]:
        program = tmp_path / name
        if not program.exists():
            program.write_text(text)
            program.chmod(0o755)
        environment = {**os.environ, "SHELL": "/bin/sh", "SSH_ORIGINAL_COMMAND": original}
        return subprocess.Popen(
            [str(program), *arguments], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    return start


def end(process: subprocess.Popen[str], text: str = "") -> tuple[int, str]:
    output, _ = process.communicate(text, timeout=20)
    return process.returncode, output


def wait_until_held(place: Path) -> None:
    limit = time.monotonic() + 20
    while not (place / "held").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_is_the_program_without_a_plan(call: Call, place: Path) -> None:
    assert end(call("env", "echo", "a  b")) == (0, "a  b\n")
    assert end(call("env", "sh", "-c", "exit 7"))[0] == 7
    assert not (place / "calls").exists()


def test_records_calls_where_asked(call: Call, place: Path) -> None:
    (place / "calls").touch()
    end(call("env", "echo", "a\nb"))
    assert (place / "calls").read_text().split() == ["env", "echo", "a", "b"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_holds_the_planned_call(call: Call, place: Path, tmp_path: Path, when: str) -> None:
    """The second call with these words, and neither others nor another program."""
    (place / "plan").write_text(f"env {when} 1 touch *.done\n")
    done = tmp_path / "a.done"
    assert end(call("env", "touch", str(done)))[0] == 0
    assert end(call("env", "echo", "touch"))[0] == 0
    assert end(call("true", "touch", str(done)))[0] == 0
    done.unlink()
    process = call("env", "touch", str(done))
    wait_until_held(place)
    assert (place / "held").read_text() == f"{process.pid}\n"
    assert done.exists() == (when == "after")
    (place / "plan").unlink()
    assert end(process)[0] == 0
    assert done.exists()


def test_fails_the_planned_call(call: Call, place: Path) -> None:
    (place / "plan").write_text("env fail 0 echo\n")
    assert end(call("env", "echo"))[0] == 1


def test_is_a_remote_command_for_sshd(call: Call, place: Path) -> None:
    """With its input and exit code, held or not."""
    assert end(call(REMOTE, original="cat; exit 3"), "in") == (3, "in")
    (place / "plan").write_text(f"{REMOTE} before 0\n")
    process = call(REMOTE, original="cat; exit 4")
    wait_until_held(place)
    (place / "plan").unlink()
    assert end(process, "in") == (4, "in")
