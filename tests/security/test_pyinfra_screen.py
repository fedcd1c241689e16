"""What pyinfra itself prints of a host: streamed output, failed commands, -v, and bytes that are not UTF-8."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paramiko.file import BufferedFile
from pyinfra.connectors import util

from gpurack.pyinfra_patches import read_any_bytes
from tests.security.attacks import EVERYTHING, OVERRIDE, harmless

DEPLOY = """
import base64

from pyinfra import host
from pyinfra.operations import python, server

SAID = base64.b64decode({said!r})
PRINT = "base64 -d <<< " + {said!r}


def tell():
    host.log_styled(SAID.decode("utf-8", "surrogateescape"), fg="yellow")
    host.noop(SAID.decode("utf-8", "surrogateescape"))
    raise ValueError(SAID.decode("utf-8", "surrogateescape"))


server.shell(name="Streamed", commands=["echo {said} | base64 -d; echo {said} | base64 -d >&2"])
server.shell(name="Fails", commands=["echo {said} | base64 -d; exit 3"], _ignore_errors=True)
python.call(name="Says", function=tell, _ignore_errors=True)
"""
WITH_GUARD = "from gpurack.pyinfra_patches import guard\n\nguard()\n"


SPAWN = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def in_terminal(folder: Path) -> str:
    """What pyinfra prints to a terminal."""
    command = [sys.executable, "-c", SPAWN, sys.executable, "-m", "pyinfra", "@local", "deploy.py", "-y", "-vvv"]
    more = {"PYINFRA_PROGRESS": "off", "TERM": "xterm-256color"}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **more}, stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip
    return done.stdout.decode().replace("\r\n", "\n")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    said = base64.b64encode(EVERYTHING.encode("utf-8", "surrogatepass") + b" \xff\xfe\x80 pwned-too\n").decode()
    (tmp_path / "deploy.py").write_text(DEPLOY.format(said=said))
    (tmp_path / "config.py").write_text(WITH_GUARD)
    return tmp_path


@pytest.mark.sampled
def test_host_output_is_harmless_and_pyinfras_colours_stay(project: Path) -> None:
    shown = in_terminal(project)
    assert "pwned-too" in harmless(shown, colours=True)
    assert shown.count("\\x1b]0;pwned\\x07") >= 6
    assert "\x1b[31m" in shown
    assert "\x1b[1m@local" in shown
    assert "UnicodeDecodeError" not in shown
    lines = [line for line in shown.splitlines() if "\x1b[2J" in line or OVERRIDE in line]
    assert lines == []


@pytest.mark.sampled
def test_attack_works_without_guard(project: Path) -> None:
    """Otherwise the test above would prove nothing."""
    (project / "config.py").unlink()
    assert "\x1b]0;pwned\x07" in in_terminal(project)


class Channel(BufferedFile):
    """A command's output as paramiko gives it."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content
        self._set_mode("r")

    def _read(self, size: int) -> bytes:
        block, self.content = self.content[:size], self.content[size:]
        return block


def test_invalid_utf_8_ends_no_reading() -> None:
    read_any_bytes()
    read_any_bytes()
    output = util.read_output_buffers(
        Channel(b"one\n\xff\xfetwo\nthree \xed\xa0\x80\n"), Channel(b"\x80\n"), 5, print_output=False, print_prefix=""
    )
    assert output.stdout_lines == ["one", "\ufffd\ufffdtwo", "three \ufffd\ufffd\ufffd"]
    assert output.stderr_lines == ["\ufffd"]
