"""Each line that a command on a host prints is parsed once, by one function."""

import ast
from pathlib import Path

import pytest

from gpurack.operations.output import Says, codes_in, errors_in, parse, reasons_of, was_killed
from tests.sources import tree

PACKAGE = Path(__file__).parents[2] / "gpurack"


@pytest.mark.parametrize(
    ("line", "says", "text"),
    [
        ("error alpha: out of memory", Says.ERROR, "alpha: out of memory"),
        ("    | CUDA error 2", Says.MORE, "CUDA error 2"),
        ("codes: alpha exited", Says.CODES, "alpha exited"),
        ("took: pull 12.3 s, load 8.0 s", Says.PHASES, "pull 12.3 s, load 8.0 s"),
        ("took: a long time", Says.OTHER, "took: a long time"),
        ("Traceback (most recent call last):", Says.TRACEBACK, "(most recent call last):"),
        ("E: Unable to locate package docker-ce", Says.PACKAGES, "Unable to locate package docker-ce"),
        ("1:05  Unpacking docker-ce", Says.NO_REASON, "Unpacking docker-ce"),
        ("Killed", Says.NO_REASON, ""),
        ("Killed by the admin", Says.OTHER, "Killed by the admin"),
        ("alpha: error in the model", Says.OTHER, "alpha: error in the model"),
        ("", Says.OTHER, ""),
    ],
)
def test_parses_line(line: str, says: Says, text: str) -> None:
    found = parse(line)
    assert (found.says, found.text, found.whole) == (says, text, line)


def test_readers_agree_about_one_output() -> None:
    lines = ["alpha: loading", "error alpha: exited", "    | CUDA error 2", "codes: alpha exited", "took: load 8.0 s"]
    assert errors_in(lines) == ["alpha: exited"]
    assert reasons_of(lines) == ["alpha: exited\n    | CUDA error 2"]
    assert codes_in(lines) == {"alpha": "exited"}
    assert not was_killed(lines)
    assert was_killed(lines[:1])


@pytest.mark.parametrize("room", ["operations", "commands"])
def test_only_one_module_knows_the_marks_of_lines(room: str) -> None:
    marks = ("error ", "    | ", "codes: ", "took: ", "Traceback ")
    for path in (PACKAGE / room).glob("*.py"):
        for node in ast.walk(tree(path)) if path.name != "output.py" else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
                asks = node.func.attr in ("startswith", "removeprefix", "match", "fullmatch", "compile")
                assert not (asks and {*marks} & {*given}), f"{path.name}:{node.lineno}"
