"""What the models' runner started ends with it, also as another user."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.security.users import USER, needs_root, place  # noqa: F401

FILES = Path(__file__).resolve().parents[2] / "files"
PROGRAM = """
import sys
sys.path.insert(0, {files!r})
import accounts, programs
words = accounts.as_user({user!r})[1] if {user!r} else []
programs.run(*words, "sh", "-c", "echo $$ >{pid}; exec sleep 60")
"""


def lives(pid: str) -> bool:
    """Is a process there that has not ended? It may end between the open and the read."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("user", ["", pytest.param(USER, marks=needs_root)])
def test_program_dies_with_the_runner(user: str, place: Path) -> None:  # noqa: F811
    pid = place / "pid"
    pid.touch()
    pid.chmod(0o666)
    runner = subprocess.Popen([sys.executable, "-c", PROGRAM.format(files=str(FILES), user=user, pid=pid)])
    end = time.monotonic() + 30
    while not (child := pid.read_text().strip()):
        assert time.monotonic() < end
        time.sleep(0.01)
    runner.kill()
    runner.wait()
    while lives(child):
        assert time.monotonic() < end, "it lives on"
        time.sleep(0.01)
