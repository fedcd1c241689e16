"""The wording of all that is printed is in the golden file, collected from the source: no case can be forgotten.

Sentences of codes (gpurack/spec) are not: docs/errors.md has them, which is made from them.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import sources
from tests.unit.host_programs import FILES

ROOT = FILES.parent
ROOMS = ("commands", "deploys.py", "importing", "locking", "operations", "plan", "remote.py", "verify")
SENTENCE = re.compile(r"[a-z]{2,}[,:;`'\")]* [`'\"({]*(?:[a-z{]|$)")
"""Two words, or one before a value. Names, options and formats are none."""
PATTERNS = ("re.", "sh", "regex")
"""Calls whose arguments are patterns or shell text, which nobody reads."""


def test_golden_has_all_sentences(check_golden: Callable[[str, dict[str, list[str]]], None]) -> None:
    rooms = [place for room in ROOMS for place in [ROOT / "gpurack" / room]]
    modules = [path for place in rooms for path in (place.rglob("*.py") if place.is_dir() else [place])]
    programs = [path for path in FILES.glob("*.py") if not path.is_symlink()]
    cases = {str(path.relative_to(ROOT)): sentences(path) for path in [*programs, *modules]}
    check_golden("sentences", {name: found for name, found in cases.items() if found})


def sentences(path: Path) -> list[str]:
    """Each text of a module that reads as a sentence, its values as {}, sorted."""
    tree = sources.tree(path)
    hidden = {id(inner) for node in sources.nodes(tree) for part in not_read(node) for inner in ast.walk(part)}
    found = {text_of(node) for node in sources.nodes(tree) if id(node) not in hidden}
    return sorted(shown(text) for text in found if len(re.findall("[a-z]{2,}", text)) > 2 and SENTENCE.search(text))


def not_read(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node whose texts are not printed, and those that are parts of a text."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node.value  # a docstring
    elif isinstance(node, ast.JoinedStr):
        yield from (value for value in node.values if isinstance(value, ast.Constant))
    elif isinstance(node, ast.Call) and sources.name_of(node.func).startswith(PATTERNS):
        yield from node.args
    elif isinstance(node, ast.Assert):
        yield node


def text_of(node: ast.AST) -> str:
    """A constant or an f-string as text, "" for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return ""
    return "".join(str(value.value) if isinstance(value, ast.Constant) else "{}" for value in node.values)


def shown(text: str) -> str:
    """On one line."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def test_sentence_is_told_from_names_and_patterns(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        '"""A docstring of some words."""\n'
        'say("no space left in {}".format(x), f"{a} was not copied to {b}; run again", "rm --force")\n'
        're.compile("no such container or|image"), "container", "docker-ce", "the second\\nline is here"\n'
    )
    assert sentences(module) == [
        "no space left in {}",
        "the second\\nline is here",
        "{} was not copied to {}; run again",
    ]
