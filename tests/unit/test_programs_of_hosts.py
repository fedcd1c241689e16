"""The programs of files/ run on hosts' own python3, which is 3.6 on RHEL 8."""

import ast
from pathlib import Path

import pytest

from tests.unit.host_programs import FILES

PROGRAMS = sorted(FILES.glob("*.py"))
MODULES = {"contextvars", "dataclasses", "graphlib", "tomllib", "zoneinfo"}
"""Modules added after 3.6."""
NAMES = {
    *("__future__.annotations", "aclosing", "asdict", "batched", "bit_count", "breakpoint", "cached_property"),
    *("copy_file_range", "dist", "file_digest", "fromisoformat", "get_native_id", "hardlink_to", "is_relative_to"),
    *("isascii", "isqrt", "memfd_create", "monotonic_ns", "nullcontext", "pairwise", "perf_counter_ns", "pidfd_open"),
    *("posix_spawn", "prod", "readlink_to", "removeprefix", "removesuffix", "ThreadingHTTPServer", "time_ns"),
    *("TypedDict", "Protocol", "waitstatus_to_exitcode", "with_stem", "contextlib.chdir"),
}
"""Functions, methods and classes added after 3.6."""
ARGUMENTS = {
    "subprocess.run": {"capture_output", "text"}, "subprocess.check_output": {"text"}, "subprocess.call": {"text"},
    "subprocess.Popen": {"text", "process_group", "pipesize", "user", "group", "extra_groups"},
    "shutil.copytree": {"dirs_exist_ok"}, "shutil.rmtree": {"onexc", "dir_fd"}, "zip": {"strict"}, "sum": {"start"},
    "glob.glob": {"root_dir", "include_hidden"}, "tempfile.TemporaryDirectory": {"ignore_cleanup_errors"},
}  # fmt: skip
"""Arguments added to a function after 3.6."""


def too_new(source: str) -> list[str]:
    """What Python 3.6 does not know in a program, by line. Raises SyntaxError for newer syntax."""
    found = []
    for node in ast.walk(ast.parse(source, feature_version=(3, 6))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)] if str(node.module).split(".")[0] in MODULES else []
            names += [each.name for each in node.names if {each.name, f"{node.module}.{each.name}"} & NAMES]
        elif isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            names = [name] if {name, ast.unparse(node)} & NAMES else []
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            names = [f"{called}({key.arg})" for key in node.keywords if key.arg in ARGUMENTS.get(called, ())]
        found += [f"{node.lineno}: {name}" for name in names]  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_uses_nothing_newer_than_python_3_6(path: Path) -> None:
    assert too_new(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import subprocess\nsubprocess.run([], capture_output=True)", ["2: subprocess.run(capture_output)"]),
        ("from dataclasses import dataclass", ["1: dataclasses"]),
        ("'a'.removeprefix('a')", ["1: removeprefix"]),
        ("from __future__ import annotations", ["1: annotations"]),
        ("import subprocess\nsubprocess.run([], universal_newlines=True)", []),
    ],
)
def test_lint_finds_newer_functions(source: str, found: list[str]) -> None:
    assert too_new(source) == found


@pytest.mark.parametrize("source", ["(a := 1)", "def f(a, /): pass", "match a:\n case 1: pass"])
def test_lint_finds_newer_syntax(source: str) -> None:
    with pytest.raises(SyntaxError):
        too_new(source)
