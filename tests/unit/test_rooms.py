"""The packages of gpurack (docs/design.md): imports go down only, and no module imports itself in a circle."""

import ast
import importlib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.sources import tree

PACKAGE = Path(__file__).parents[2] / "gpurack"
ROOMS = (
    *(
        "paths",
        "cuda_faults",
        "listening",
        "host_data",
        "screen",
        "resources",
        "shell",
        "remote",
        "once",
        "replace_file",
    ),
    *("spec", "engines", "facts", "plan", "inventory", "operations", "pyinfra_patches"),
    *("importing", "locking", "deploys", "commands", "verify", "__main__"),
)
"""From the bottom up. A room imports from those before it."""
OLD_NAMES = {"gpurack.guard", "gpurack.spec.fleet"}
"""Modules that other projects import; they forward to rooms above."""
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(node: ast.AST) -> Iterator[ast.ImportFrom]:
    """The imports that run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            yield child
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case) and not is_for_types(child):
            yield from statements(child)


def imports(name: str, for_types: bool = False) -> set[str]:
    """The modules of gpurack that a module imports, also inside functions. for_types: also under TYPE_CHECKING."""
    found = set()
    nodes = ast.walk(tree(MODULES[name])) if for_types else statements(tree(MODULES[name]))
    for node in nodes:
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            full = f"{node.module}.{alias.name}"
            found.add(full if full in MODULES else str(node.module))
    return found & MODULES.keys() - {name}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "gpurack"


@pytest.mark.parametrize("module", sorted(MODULES.keys() - OLD_NAMES - {"gpurack"}))
def test_imports_go_down_only(module: str) -> None:
    assert room(module) in ROOMS, "a new room: give it its place in ROOMS and in docs/design.md"
    below = ROOMS[: ROOMS.index(room(module)) + 1]
    assert not [other for other in imports(module) - {"gpurack"} if room(other) not in below]


def test_has_no_import_cycle() -> None:
    """Also inside a room, and also where an import is in a function or for types only."""
    graph = {name: imports(name, for_types=True) for name in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # CycleError names the cycle


BY_NAME = {"desire", "desire_job", "job_folder", "result_path"}
"""Functions of plan/ that find an entry by its name. All others are handed an object that knows its name."""


def test_plan_takes_no_name_beside_the_inventory() -> None:
    found = set()
    for module in MODULES:
        for node in ast.walk(tree(MODULES[module])) if room(module) == "plan" else ():
            if isinstance(node, ast.FunctionDef):
                given = {one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
                found |= {node.name} if "name" in given and given & {"spec", "model", "state"} else set()
    assert found == BY_NAME


@pytest.mark.parametrize("package", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_package_introduces_itself(package: Path) -> None:
    introduction = ast.get_docstring(tree(package / "__init__.py"))
    assert introduction
    for word in introduction.replace(":", " ").replace(",", " ").split():
        if word.endswith(".py"):
            assert (package / word).is_file(), f"{word} is not in {package.name}"


@pytest.mark.parametrize(("old", "name"), [("gpurack.guard", "guard"), ("gpurack.spec.fleet", "read_fleet")])
def test_old_names_work_with_warning(old: str, name: str) -> None:
    module = importlib.import_module(old)
    with pytest.warns(FutureWarning, match=f"{old} is now gpurack"):
        importlib.reload(module)
    assert callable(getattr(module, name))
