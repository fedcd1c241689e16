"""Run Python programs in a fork of the test process: isolated like a process of their own, without importing again what
pytest has imported.
"""

from __future__ import annotations

import gc
import io
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TIME_LIMIT = 60
"""Seconds until a program ends by SIGALRM."""


def run(
    program: Callable[[], object],
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    given: str = "",
) -> subprocess.CompletedProcess[str]:
    """Call `program` in a fork. Its exit code is what it returns, or raises with SystemExit. given: its standard
    input."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source.write(given.encode())
        source.seek(0)
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _run_in_child(program, argv, env, cwd, (source.fileno(), out.fileno(), err.fileno()))
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(
            list(argv), os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode()
        )


def run_script(
    path: Path,
    *words: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    prepare: Callable[[], object] = lambda: None,
) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a fork, which calls `prepare` first. Modules beside it win over imported ones of the same
    name."""

    def program() -> None:
        prepare()
        folder = path.resolve().parent
        for beside in folder.glob("*.py"):
            sys.modules.pop(beside.stem, None)
        sys.path.insert(0, str(folder))
        runpy.run_path(str(path), run_name="__main__")

    return run(program, [str(path), *words], env, cwd)


def _run_in_child(
    program: Callable[[], object],
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    streams: tuple[int, int, int],
) -> int:
    gc.freeze()  # a collection would copy the parent's pages
    if pyinfra := sys.modules.get("pyinfra_cli.util"):
        pyinfra.PYTHON_CODES.clear()  # inventories that the parent has read, by their relative paths
    signal.alarm(TIME_LIMIT)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin = io.TextIOWrapper(io.FileIO(0))
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), encoding="utf-8", write_through=True)
    sys.argv = list(argv)
    if cwd:
        os.chdir(cwd)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    try:
        code = program()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    return int(code or 0)  # type: ignore[call-overload]
