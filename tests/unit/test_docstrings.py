"""The examples in the package's docstrings give what they say; each begins with a summary of one line."""

import ast
import doctest
import importlib
import linecache
import re
from pathlib import Path

import pytest

import gpurack
from tests import sources

PACKAGE = Path(gpurack.__file__).parent
EXAMPLE = re.compile(r"^ *>>> ", re.MULTILINE)
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if EXAMPLE.search(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples_in_docstrings_are_right(path: Path) -> None:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    linecache.clearcache()  # doctest compares each file in it with the disk, for each example
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0
    assert done.failed == 0


def test_docstrings_of_hosts_programs_begin_with_a_summary() -> None:
    """Ruff (D205) does not check files/."""
    found = []
    for path in (PACKAGE.parent / "files").glob("*.py"):
        tree = sources.tree(path)
        for node in sources.nodes(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                found += [(path.name, text)] if "\n" in text.partition("\n\n")[0] else []
    assert found == []
