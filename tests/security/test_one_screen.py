"""Only gpurack/screen.py prints and knows rich's markup, so nobody can forget the filter."""

import ast
import re
from pathlib import Path

import pytest

from tests.sources import name_of, nodes, tree

GPURACK = Path(__file__).parents[2] / "gpurack"
SCREEN = "screen.py"
READS_LOG = "commands/progress.py"
"""Reads pyinfra's log and prints it by `screen.Console`."""
TAG = re.compile(r"\[/\]|\[/?(bold|dim|italic|red|green|blue|yellow|cyan|magenta|link)\b[^\]]*\]")
"""Markup of rich."""
WRITERS = {"echo", "secho", "style", "echo_via_pager", "write", "writelines", "set_echo"}


def faults(module: ast.Module) -> list[str]:
    """What a module does that only gpurack/screen.py may do."""
    found = []
    docstrings = {
        id(node.body[0].value)
        for node in nodes(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes(module):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [source, *(alias.name for alias in node.names)]
            if any(re.match(r"(rich|logging|colorama|termcolor)(\.|$)", name) for name in names):
                found.append(f"line {line}: imports {', '.join(names)}")
            if source == "click" and WRITERS & {alias.name for alias in node.names}:
                found.append(f"line {line}: takes a writer from click")
        elif isinstance(node, ast.Call):
            called = name_of(node.func)
            whose, _, name = called.rpartition(".")
            if called in ("print", "Console", "Text", "getpass"):
                found.append(f"line {line}: {called}(…)")
            if name in WRITERS and whose in ("click", "sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__"):
                found.append(f"line {line}: {called}(…)")
            if called in ("os.write", "os.system") or name in ("from_markup", "render_markup", "from_ansi"):
                found.append(f"line {line}: {called}(…)")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if TAG.search(node.value):
                found.append(f"line {line}: markup in {node.value!r}")
            if "\x1b" in node.value:
                found.append(f"line {line}: an escape sequence")
    return found


@pytest.mark.parametrize("file", sorted(GPURACK.rglob("*.py")), ids=lambda file: str(file.relative_to(GPURACK)))
def test_modules_print_only_through_screen(file: Path) -> None:
    if file.relative_to(GPURACK) != Path(SCREEN):
        allowed = ["imports , logging"] if file.relative_to(GPURACK) == Path(READS_LOG) else []
        assert [each.partition(": ")[2] for each in faults(tree(file))] == allowed


@pytest.mark.parametrize(
    "wrong",
    [
        "from rich.console import Console",
        "import rich",
        "from rich import print",
        "import logging",
        "from click import echo",
        "print(host.said)",
        "click.echo(text)",
        "click.secho(text)",
        "sys.stderr.write(text)",
        "os.write(2, text)",
        "Console().print(text)",
        "Text(said)",
        "Text.from_markup(said)",
        'console.print(f"[red]error[/] {said}")',
        'console.print(f"[bold]{name}")',
        'console.print("[/]" + said)',
        'x = "\\x1b[31m"',
    ],
)
def test_lint_finds_other_output(wrong: str) -> None:
    assert faults(ast.parse(wrong))


def test_lint_accepts_lookalikes() -> None:
    source = '"""`[/]` is markup."""\nx = f"gpus [{number}] of {names[0]}"\nscreen.echo(x)\n'
    assert faults(ast.parse(source)) == []


def test_screen_itself_parses_no_markup() -> None:
    text = (GPURACK / SCREEN).read_text(encoding="utf-8")
    for way in ("from_markup", "render_markup", "from_ansi", "markup=True", "emoji=True", "highlight=True"):
        assert way not in text


def test_html_passes_the_filter() -> None:
    templates = list((GPURACK.parent / "templates").glob("*.html.j2"))
    assert templates
    for template in templates:
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape", text)
        for script in re.findall(r"<script.*?</script>", text, re.DOTALL):
            assert not re.search(r"\{\{|\{%|innerHTML|document\.write|eval", script), "no text of a host is in a script"
            assert "script-src 'sha256-{{ script_hash }}'" in text, "a browser runs no script but this one"
        for value in re.findall(r"=(\{\{.*?\}\})", text):
            pytest.fail(f"{template.name}: an attribute without quotes: {value}")
