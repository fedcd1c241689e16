"""Run Python programs in a fork of the test process: isolated like a process of their own, without importing again what
pytest has imported.
"""

from __future__ import annotations

import ast
import builtins
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
from types import CodeType
from typing import Any

TIME_LIMIT = 300
"""Seconds until a program ends by SIGALRM: for one that hangs. On a loaded machine some take more than a minute."""


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


_COMPILED: dict[tuple[str, str], CodeType] = {}
"""What `run_text` has compiled: source and name of a part → its code."""
_WITHOUT_PARENT = "\ndie_with_parent = None\n"
"""A `preexec_fn` would copy this large process for each program that the part `programs` starts (conftest.py)."""


def run_text(text: str, moved: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a program of `resources.program` in a fork, as `python3 -` would. Its parts are compiled once for all tests.

    moved: strings in the constants of its parts, such as folders of a host, and what they become.
    """
    tree = ast.parse(text)
    for call in ast.walk(tree):
        match call:
            case ast.Call(ast.Name("compile"), [ast.Constant(str(source)), ast.Constant(str(name)), _]):
                if (source, name) not in _COMPILED:
                    end = _WITHOUT_PARENT if name == "programs.py" else ""
                    _COMPILED[source, name] = compile(source + end, name, "exec", dont_inherit=True)
    main = compile(tree, "<stdin>", "exec", dont_inherit=True)

    def program() -> None:
        compiled = builtins.compile

        def known(source: Any, name: str, *words: Any, **more: Any) -> Any:
            part = _COMPILED.get((source, name))
            return _moved(part, moved) if part else compiled(source, name, *words, **more)

        builtins.compile = known  # type: ignore[assignment]
        exec(main, {"__name__": "__main__"})

    return run(program, ["-"])


def _moved(value: Any, moved: Mapping[str, str]) -> Any:
    """A constant or code with these strings replaced in all constants."""
    match value:
        case CodeType():
            return value.replace(co_consts=tuple(_moved(each, moved) for each in value.co_consts))
        case str():
            for old, new in moved.items():
                value = value.replace(old, new)
        case tuple():
            return tuple(_moved(each, moved) for each in value)
        case frozenset():
            return frozenset(_moved(each, moved) for each in value)
    return value


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
    if gevent := sys.modules.get("gevent"):
        gevent.reinit()  # or both processes wait at one epoll, and one of them misses the end of its programs
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
