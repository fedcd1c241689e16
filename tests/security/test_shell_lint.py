"""Shell text comes from gpurack.shell only. mypy refuses other text for `Sh`; this finds what mypy cannot: templates
that are not literals, text assembled later, and ways around the helper.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gpurack.shell import placeholders
from tests.sources import name_of, nodes, tree

ROOT = Path(__file__).parents[2]
HELPER = "gpurack/shell.py"
OPERATIONS = {
    "Shell", "Trust", "Command", "StringCommand", "Changing", "Streamed", "slow", "script", "program", "all_of",
    "grouped", "joined", "by_ssh", "as_root", "run_as_root", "run_shell_command", "exec_command",
}  # fmt: skip
"""Functions that run shell text, pass it on or join it."""
LITERAL_FIRST = {"sh", "of_file", "joined"}
MAKERS = {"sh", "word"}
"""Their values are quoted, so any value is one word."""
FOR_PEOPLE = {"Shell": "reason"}
"""The first argument of these is a message."""
STRING_COMMAND = {
    "gpurack/remote.py",
    "gpurack/verify/reach.py",  # testinfra's own modules, which quote themselves
}
FORBIDDEN = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
}  # fmt: skip


def problems(module: ast.Module, path: str) -> list[str]:
    """`line: what is wrong` for each violation in a module of gpurack."""
    return sorted({f"{line}: {what}" for line, what in found(module, path)})


def found(module: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    for node in nodes(module):
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from ((node.lineno, what) for what in imported(node, path))
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        last = name.rpartition(".")[2]
        if name in FORBIDDEN:
            yield node.lineno, f"{name} runs a shell on the admin's machine"
        if any(word.arg == "shell" and not is_false(word.value) for word in node.keywords):
            yield node.lineno, "shell=True runs a shell on the admin's machine"
        if path == HELPER:
            continue
        if last == "Sh" or any(isinstance(one, ast.Name) and one.id == "Sh" for one in node.args):
            yield node.lineno, "only gpurack.shell makes Sh"
        if last in LITERAL_FIRST:
            yield from ((node.lineno, what) for what in wrong_template(node, last))
        if last in OPERATIONS:
            yield from built(node, last)


def imported(node: ast.ImportFrom | ast.Import, path: str) -> Iterator[str]:
    names = [alias.name for alias in node.names]
    module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    if module == "gpurack.shell" and any(name.startswith("_") for name in names):
        yield "a private name of gpurack.shell"
    if "StringCommand" in names and path not in STRING_COMMAND:
        yield "StringCommand takes any text; use gpurack.remote.Command"
    if "shlex" in (*names, module) and path != HELPER and not path.startswith("gpurack/importing/"):
        yield "shlex; gpurack.shell quotes"  # importing parses shell text, and runs none
    if any(name.startswith("pyinfra.operations") for name in (*names, module)):
        yield "pyinfra's own operations take any text"


def wrong_template(call: ast.Call, name: str) -> Iterator[str]:
    """A template of `sh` that is no literal, or has other placeholders than values."""
    template = call.args[0] if call.args else None
    if not (isinstance(template, ast.Constant) and isinstance(template.value, str)):
        yield f"the template of {name} is not a literal"
        return
    if name != "sh":
        return
    try:
        places = placeholders(template.value)
    except ValueError as error:
        yield str(error)
        return
    if any(isinstance(one, ast.Starred) for one in call.args) or any(word.arg is None for word in call.keywords):
        return
    unnamed, named = sum(not place.name for place in places), {place.name for place in places} - {""}
    if unnamed != len(call.args) - 1 or named != {word.arg for word in call.keywords}:
        yield "values do not match the placeholders"


def built(call: ast.Call, name: str) -> Iterator[tuple[int, str]]:
    """Text that is assembled in the arguments of a shell operation, except in the values of `sh`."""
    reason = FOR_PEOPLE.get(name)
    arguments = [*call.args[1 if reason else 0 :], *(word.value for word in call.keywords if word.arg != reason)]
    while arguments:
        node = arguments.pop()
        if isinstance(node, ast.Call) and name_of(node.func).rpartition(".")[2] in MAKERS:
            continue
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, f"an f-string in {name}"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            yield node.lineno, f"+ or % in {name}"
        if isinstance(node, ast.Attribute) and node.attr in ("format", "format_map", "join", "replace"):
            yield node.lineno, f".{node.attr} in {name}"
        arguments += ast.iter_child_nodes(node)


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "gpurack").rglob("*.py"))


def test_one_helper_builds_shell_text() -> None:
    wrong = {path: problems(tree(ROOT / path), path) for path in MODULES}
    assert len(MODULES) > 100
    assert not {path: found for path, found in wrong.items() if found}


@pytest.mark.parametrize(
    "bad",
    [
        'Shell("remove", f"docker rm {name}")',
        'Shell("remove", "docker rm " + name)',
        'Shell("remove", "docker rm %s" % name)',
        'Shell("remove", "docker rm {}".format(name))',
        'Shell("remove", " ".join(["docker", "rm", name]))',
        'Shell(reason="remove", command=f"docker rm {name}")',
        'slow(f"rm {path}")',
        'Changing("sh", "-c", "rm " + path)',
        'Streamed(sh("a"), _stdin=f"{text}")',
        'StringCommand(f"rm {path}")',
        'host.run_shell_command(Command("rm %s" % path))',
        'client.exec_command(f"docker save {image}")',
        'as_root(host, seen, " ".join(words))',
        'sh(f"rm {path}")',
        'sh("rm " + path)',
        'sh("rm %s" % path)',
        "sh(TEMPLATE, path)",
        "sh()",
        'sh("rm {}")',
        'sh("rm {path}", place=path)',
        "sh(\"echo '{}'\", name)",
        "sh('echo \"')",
        "joined(between, texts)",
        "of_file(name)",
        'Sh("rm x")',
        "cast(Sh, text)",
        "str.__new__(Sh, text)",
        "from gpurack.shell import _made",
        "from pyinfra.api import StringCommand",
        "from pyinfra.operations import server",
        "import shlex",
        "from shlex import quote",
        'os.system("true")',
        'subprocess.run("true", shell=True)',
        'subprocess.getoutput("true")',
    ],
)
def test_lint_finds_violations(bad: str) -> None:
    assert problems(ast.parse(bad), "gpurack/plan/x.py")


@pytest.mark.parametrize(
    "good",
    [
        "Shell(f\"remove {', '.join(names)}\", sh('docker rm {}', names))",
        'Shell(f"make {path}", sh("mkdir {}", f"{path}.part"), slow=True)',
        'sh("sh -c {}", word(script))',
        'sh("rm -f {place} {place}.old", place=path)',
        'sh("{} {}", *words)',
        'subprocess.run(["true"], shell=False)',
    ],
)
def test_lint_accepts_correct_code(good: str) -> None:
    assert not problems(ast.parse(good), "gpurack/plan/x.py")


# --- what runs on hosts ----------------------------------------------------------------------------------------------

PROGRAMS = sorted((ROOT / "files").glob("*.py"))


def shells(text: str) -> list[str]:
    """The violations in a program of files/, which has no helper: a shell only by `sh -c` with a literal, and then
    words."""
    module, wrong = ast.parse(text), []
    literals = {
        target.id
        for node in ast.walk(module)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            if name in FORBIDDEN or any(word.arg == "shell" and not is_false(word.value) for word in node.keywords):
                wrong.append(f"{node.lineno}: {name} runs a shell")
        words = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.List) else []
        for word, script in pairwise(words):
            literal = isinstance(script, ast.Constant) or (isinstance(script, ast.Name) and script.id in literals)
            if isinstance(word, ast.Constant) and word.value == "-c" and not literal:
                wrong.append(f"{script.lineno}: the script of -c is not a literal")
    return wrong


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_programs_on_hosts_build_no_shell_text(path: Path) -> None:
    assert not shells(path.read_text())


@pytest.mark.parametrize(
    "bad",
    [
        'run("sh", "-c", "rm " + name)',
        'run("sh", "-c", "rm {}".format(name))',
        'run(*["sh", "-c", script])',
        'subprocess.run("rm " + name, shell=True)',
        "os.system(name)",
    ],
)
def test_lint_of_programs_finds_violations(bad: str) -> None:
    assert shells(bad)
    assert not shells('run("sh", "-c", "rm \\"$1\\"", "sh", name)')
