"""The package's own modules as syntax trees, for tests that lint them. All are parsed when the first of these tests is
collected, because processes that are forked later (tests/lanes.py) then need not.
"""

import ast
from functools import cache
from pathlib import Path


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a module; nobody may change it."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    """All nodes of a tree, as `ast.walk` has them."""
    return tuple(ast.walk(tree))


def name_of(node: ast.AST) -> str:
    """`a.b.c` of what is called, as `ast.unparse` has it, which takes many times longer for a plain name."""
    parts, inner = [], node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    return ".".join([inner.id, *reversed(parts)]) if isinstance(inner, ast.Name) else ast.unparse(node)


for module in (Path(__file__).parents[1] / "gpurack").rglob("*.py"):
    nodes(tree(module))
