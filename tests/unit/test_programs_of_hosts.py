"""The programs of files/ run on hosts' own python3, which is 3.6 on RHEL 8."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpurack.resources import program
from tests.unit.host_programs import FILES

pytestmark = pytest.mark.sampled

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


IN_ITS_IMAGE = {"litellm_gateway": {"fastapi", "litellm"}}
"""What programs import that run in a container."""


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_imports_the_standard_library_only(path: Path) -> None:
    own = {each.stem for each in PROGRAMS} | IN_ITS_IMAGE.get(path.stem, set())
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names = [str(node.module)] if isinstance(node, ast.ImportFrom) else names
        assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, *own}


C_LOCALE = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
"""The locale of root on a minimal RHEL 8, as its Python 3.6 sees it. The last makes output strict, as 3.6 is there."""


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_what_is_sent_is_ascii(path: Path) -> None:
    """Python 3.6 reads `-c` and standard input in the host's encoding."""
    assert program(path.stem).isascii()


def in_c_locale(text: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-"], input=text.encode(), capture_output=True, env=C_LOCALE, check=False)


def test_messages_of_the_runner_are_utf8_in_any_locale() -> None:
    done = in_c_locale(program("record") + "import messages\nmessages.say('alpha', 'gr\\xf6\\xdfe\\n\\u2026')\n")
    assert (done.returncode, done.stdout.decode()) == (0, "alpha: größe\n    | …\n")


def test_errors_about_daemon_json_are_utf8_in_any_locale() -> None:
    text = program("daemon_json").replace("'__main__'", "'no'")
    job = "JOB = '{}'\n__name__ = 'x'\n"
    done = in_c_locale(job + text + "give_up('dockerd: gr\\xf6\\xdfe')\n")
    assert (done.returncode, done.stderr.decode()) == (1, "dockerd: größe\n")


def test_every_program_is_read_in_any_locale() -> None:
    """One Python reads them all; its error names the file."""
    read = "import sys\nfor path in sys.argv[1:]: compile(open(path, 'rb').read(), path, 'exec')"
    done = subprocess.run(
        [sys.executable, "-c", read, *map(str, PROGRAMS)], capture_output=True, env=C_LOCALE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_folders_above_files_are_for_everyone(tmp_path: Path) -> None:
    """Also where root's umask is 077."""
    text = program("record") + "import os, writing\nos.chown = lambda *a: None\n"
    text += f"writing.write({str(tmp_path)!r} + '/a/b/file', 'x', 0o600)\n"
    done = subprocess.run(["sh", "-c", f"umask 077; exec {sys.executable} -"], input=text.encode(), check=False)
    assert done.returncode == 0
    assert [oct((tmp_path / folder).stat().st_mode)[-3:] for folder in ("a", "a/b", "a/b/file")] == [
        "755",
        "755",
        "600",
    ]


SENT = (
    "daemon_json",
    "docker_restart",
    "folders",
    "hashes",
    "leftovers",
    "logs",
    "newest",
    "weights_header",
    "with_lock",
)
"""Programs that are sent with the modules that they import."""


@pytest.mark.parametrize("name", SENT)
def test_program_has_all_that_it_imports(name: str) -> None:
    text = f"__name__ = 'x'\n{program(name)}"
    done = subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True, check=False, cwd="/")
    assert done.stderr == ""
