"""A user at a terminal: runs a program on a pseudo-terminal, waits for its questions and answers them."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

QUESTION_TIMEOUT = 60
END_TIMEOUT = 240


def answer(argv: Sequence[str], dialogue: Sequence[tuple[str, str]], cwd: Path) -> tuple[int, str]:
    """Run `argv` and give each answer when its question (a regular expression) appears. Returns (exit code, output)."""
    master, slave = pty.openpty()
    process = subprocess.Popen(argv, cwd=cwd, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown, seen = "", 0
    try:
        for question, reply in dialogue:
            end = time.monotonic() + QUESTION_TIMEOUT
            while not (found := re.search(question, shown[seen:])):
                assert time.monotonic() < end, f"never asked {question!r}:\n{shown}"
                more = _read(master)
                assert more is not None, f"ended before it asked {question!r}:\n{shown}"
                shown += more
            seen += found.end()
            os.write(master, f"{reply}\n".encode())
        end = time.monotonic() + END_TIMEOUT
        while (more := _read(master)) is not None:
            assert time.monotonic() < end, f"no end:\n{shown}"
            shown += more
        return process.wait(timeout=30), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r\n", "\n")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)


def _read(master: int) -> str | None:
    """The output of one second, "" for none; None after the program has closed the terminal."""
    if not select.select([master], [], [], 1)[0]:
        return ""
    try:
        data = os.read(master, 65536)
    except OSError:  # Linux: EIO, when the last process has closed the other end
        return None
    return data.decode(errors="replace") if data else None
