"""Facts that nobody reads are not collected: sections of the snapshot, and fields of HostFacts."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from gpurack.resources import read_text
from tests.sources import nodes, tree

PACKAGE = Path(__file__).resolve().parents[2] / "gpurack"
FRAME = {"mark", "whole"}
"""Headings of the output's frame."""


def printed() -> set[str]:
    """The kinds of sections that the scripts print."""
    text = read_text("files/snapshot.sh") + read_text("files/snapshot_docker.sh")
    code = re.sub(r"(?m)^\s*#.*", "", text)
    return set(re.findall(r'\bsection "?([a-z]+)', code)) - FRAME


def parsed(module: ast.Module) -> Iterator[str]:
    """The kinds of sections that the parser reads: `get("os")`, `said.get("own", Section())`,
    `sections_of(said, "probe")`, `"end" in said`, `kind == "user"`."""
    for node in nodes(module):
        if isinstance(node, ast.Call):
            words = [ast.unparse(each) for each in node.args]
            if ast.unparse(node.func) == "get" or words[1:] == ["Section()"]:
                yield from constants(node.args[0])
            elif ast.unparse(node.func) == "sections_of":
                yield from constants(node.args[1])
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            if ast.unparse(node.comparators[0]) in ("sections", "said", "own"):
                yield from constants(node.left)
        elif isinstance(node, ast.Compare) and ast.unparse(node.left) == "kind":
            yield from constants(node.comparators[0])


def constants(node: ast.expr) -> Iterator[str]:
    """The first word of a text, also of an f-string."""
    first = node.values[0] if isinstance(node, ast.JoinedStr) else node
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        yield first.value.split()[0]


def test_every_section_is_printed_and_parsed() -> None:
    parsers = ("parse", "system", "docker", "weights", "nvidia")
    read = {name for module in parsers for name in parsed(tree(PACKAGE / f"facts/{module}.py"))}
    assert sorted(printed() - read) == [], "nobody parses these"
    assert sorted(read - printed()) == [], "nobody prints these"


def test_every_field_is_read() -> None:
    """By name: if two classes have a field of that name, one may still be unread."""
    declared = {
        (group.name, field.target.id)
        for module in ("model", "parts", "gpus")
        for group in tree(PACKAGE / f"facts/{module}.py").body
        if isinstance(group, ast.ClassDef)
        for field in group.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
    read = {
        node.attr
        for path in PACKAGE.rglob("*.py")
        for node in nodes(tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert sorted(f"{group}.{name}" for group, name in declared if name not in read) == []
