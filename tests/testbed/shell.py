"""Run programs, print progress, and fail with one message."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tests.testbed.paths import STATE

T = TypeVar("T")
_STARTED = time.monotonic()


class TestbedError(Exception):
    """The testbed cannot continue; the message is one sentence."""

    __test__ = False  # pytest collects what is called Test…


def progress(text: str) -> None:
    """Print what happens, with the seconds since the start of the program."""
    print(f"[{time.monotonic() - _STARTED:4.0f} s] {text}", file=sys.stderr, flush=True)


def log(text: str) -> None:
    """Append to .testbed/log, for details beyond the one message."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "log").open("a", encoding="utf-8", errors="replace") as file:
        file.write(f"{time.strftime('%H:%M:%S')} {text.rstrip()}\n")


def last_line(text: str) -> str:
    """Return the last line of a program's output that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: os.PathLike[str] | None = None,
    check: bool = True,
    timeout: float | None = None,
    what: str = "",
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return what it did.

    `what` says in the error what the program was for. Standard input is empty unless given, so that nothing asks.
    With `check`, a program that fails raises TestbedError with the last line it wrote; the rest is in .testbed/log.
    """
    log(f"$ {shlex.join(argv)}")
    try:
        done = subprocess.run(
            list(argv),
            input=b"" if stdin is None else stdin,
            capture_output=True,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise TestbedError(f"{what or 'The testbed'} needs the program {argv[0]}, which is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise TestbedError(f"{what or shlex.join(argv)}: no end after {timeout:.0f} s.") from error
    if done.returncode != 0:
        log(f"exit {done.returncode}\n{text(done.stdout)}\n{text(done.stderr)}")
        if check:
            why = last_line(text(done.stderr) or text(done.stdout))
            how = f"failed (exit {done.returncode}, see .testbed/log)"
            raise TestbedError(f"{what or shlex.join(argv)[:120]} {how}: {why}")
    return done


def text(data: bytes) -> str:
    """Decode a program's output."""
    return data.decode(errors="replace")


def await_(condition: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """Call `condition` until it returns something true, and return that. Raises TestbedError after the time limit."""
    end = time.monotonic() + seconds
    while True:
        if result := condition():
            return result
        if time.monotonic() > end:
            raise TestbedError(f"{what} did not happen within {seconds:.0f} s (see .testbed/log).")
        time.sleep(0.1)
