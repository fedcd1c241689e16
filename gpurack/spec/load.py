"""Inventories from files: Python as pyinfra reads it, and YAML that means the same.

# inventories/lab.py
import gpurack
globals().update(gpurack.load("lab.yaml"))
"""

import ast
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pyinfra.api import State
from pyinfra.api.inventory import Inventory
from pyinfra.context import ctx_state

from gpurack.spec.problems import InventoryError, Problem, unknown

APPLY = "pyinfra {inventory} deploys/gpu_host.py"
"""The command by which an inventory is applied."""
YAML = (".yaml", ".yml")
TOP = ("all", "groups", "hosts")
NO_HOSTS = Problem(
    "",
    "",
    "it has no hosts. Write them as a list at the top of the inventory file, as in inventories/demo.py; "
    "pyinfra reads lists and silently ignores a dict there, and any name that begins with _.",
)
NO_FILE = "there is no such inventory file."
Groups = dict[str, tuple[list[Any], dict[str, Any]]]


def load(path: str) -> Groups:
    """A YAML inventory as the groups that a pyinfra inventory file holds.

    path: relative to the file that calls this (or to the working directory). Raises InventoryError, with line numbers
    where YAML itself is wrong.
    """
    caller = sys._getframe(1).f_globals.get("__file__")
    beside = Path(caller).parent / path if caller else Path(path)
    return read_yaml(beside if beside.exists() else Path(path))


def read_yaml(path: Path) -> Groups:
    """See `load`; path as it is."""
    return to_groups(parse_yaml(path), str(path))


def parse_yaml(path: Path) -> Any:
    """A YAML file's data. Raises InventoryError, with line numbers where YAML itself is wrong."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except OSError as error:
        raise InventoryError([Problem("", str(path), f"cannot be read: {error.strerror}.")]) from None
    except UnicodeDecodeError as error:
        raise InventoryError([Problem("", str(path), _no_text(error))]) from None
    except yaml.YAMLError as error:
        raise InventoryError([Problem("", str(path), _where(error))]) from None


def to_groups(content: Any, path: str) -> Groups:
    """The three maps all, groups, hosts → groups of (hosts, data). Raises InventoryError."""
    if not isinstance(content, Mapping) or not isinstance(content.get("hosts"), Mapping):
        raise InventoryError(
            [Problem("", path, 'needs a map "hosts" (name → fields); "all" and "groups" are optional.')]
        )
    problems = [Problem("", f"{path} {key}", unknown("key", key, TOP)) for key in content if key not in TOP]
    data = _map(content.get("all"), f"{path} all", problems)
    known = _map(content.get("groups"), f"{path} groups", problems)
    groups: Groups = {"all": ([], data)}
    for name, fields in known.items():
        groups[str(name)] = ([], _map(fields, f"{path} groups.{name}", problems))
    for host, fields in content["hosts"].items():
        own = _map(fields, f"{path} hosts.{host}", problems)
        member_of = own.pop("groups", [])
        for group in member_of if isinstance(member_of, list) else [member_of]:
            if group not in known:
                what = unknown("group", group, list(map(str, known))) if known else "there are no groups in the file."
                problems.append(Problem(str(host), "groups", what))
            else:
                groups[group][0].append(str(host))
        groups["all"][0].append((str(host), own))
    if problems:
        raise InventoryError(problems)
    return groups


def read_inventory(path: Path) -> Inventory:
    """An inventory file, Python or YAML, as pyinfra would hold it; no host is contacted.

    Raises InventoryError, also for what Python raises in the file and in group_data; pyinfra's own errors come through.
    """
    if path.is_dir():
        raise InventoryError([Problem("", str(path), "is a folder; name the inventory file in it.")])
    if not path.is_file():
        raise InventoryError([Problem("", str(path), NO_FILE)])
    if path.suffix in YAML:
        groups = read_yaml(path)
        return with_hosts(Inventory(groups.pop("all"), **groups))
    # Importing pyinfra's command line costs time that only this needs.
    from pyinfra_cli.exceptions import UnexpectedExternalError
    from pyinfra_cli.inventory import make_inventory

    ctx_state.set(State())
    try:
        if problems := ignored_by_pyinfra(path):  # before pyinfra reads it, which some of them end with a traceback
            raise InventoryError(problems)
        inventory: Inventory = make_inventory(str(path), cwd=str(Path.cwd()))
    except SyntaxError as error:
        line = f": {error.text.strip()}" if error.text else "."
        where = f"{error.filename or path}:{error.lineno}"
        raise InventoryError([Problem("", where, f"is not Python ({error.msg}){line}")]) from None
    except UnicodeDecodeError as error:
        raise InventoryError([Problem("", str(path), _no_text(error))]) from None
    except UnexpectedExternalError as error:
        raise InventoryError([_raised(error.exception, error.filename)]) from None
    return with_hosts(inventory)


def with_hosts(inventory: Inventory) -> Inventory:
    """The inventory, if it has any: none means that its names are wrong, and looks like all being well."""
    if not len(inventory):
        raise InventoryError([NO_HOSTS])
    return inventory


def ignored_by_pyinfra(path: Path, fields: tuple[str, ...] | None = None) -> list[Problem]:
    """What Python and pyinfra ignore or mistake without a word: keys and hosts given twice, groups with a bracket too
    few or too many, and maps at the top of the file that look like host fields."""
    from gpurack.spec.fleet import HOST_FIELDS

    known = fields or HOST_FIELDS
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    problems = keys_twice(tree, path) + hosts_twice(tree, path) + no_groups(tree, path)
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Name) and target.id in known and isinstance(node.value, ast.Dict):  # type: ignore[attr-defined]
                problems.append(
                    Problem(
                        "",
                        f"{path}:{node.lineno}",
                        f"pyinfra ignores {target.id} at the top of an inventory; put it into group_data/all.py beside "
                        "the inventory, or into the data of a group: group = ([hosts], {data}).",
                    )
                )
    return problems


def keys_twice(tree: ast.AST, path: Path) -> list[Problem]:
    """A model or field written twice in one {…}: Python lets the last win without a word, and a run would then remove
    the first from its host. (YAML: `_Strict`.)"""
    problems = []
    for node in ast.walk(tree):
        seen: set[Any] = set()
        for key in node.keys if isinstance(node, ast.Dict) else []:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                if key.value in seen:
                    what = f'"{key.value}" is there twice; Python keeps only the last. Rename or remove one.'
                    problems.append(Problem("", f"{path}:{key.lineno}", what))
                seen.add(key.value)
    return problems


def hosts_twice(tree: ast.AST, path: Path) -> list[Problem]:
    """A host written twice in one list: pyinfra keeps only the last entry's data without a word."""
    problems = []
    for node in ast.walk(tree):
        seen: set[str] = set()
        for entry in node.elts if isinstance(node, ast.List) else []:
            name = entry.elts[0] if isinstance(entry, ast.Tuple) and len(entry.elts) == 2 else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                if name.value in seen:
                    what = f'"{name.value}" is in this list twice; pyinfra keeps only the last. Join the two entries.'
                    problems.append(Problem("", f"{path}:{name.lineno}", what))
                seen.add(name.value)
    return problems


def no_groups(tree: ast.Module, path: Path) -> list[Problem]:
    """Groups with a bracket too few or too many: of ("gpu1", {…}) pyinfra takes each letter for a host, of others it
    ends with a traceback or passes them over."""
    problems = []
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Name) and target.id[0] != "_" and _is_no_group(node.value):  # type: ignore[attr-defined]
                what = (
                    f'{target.id} is no group of hosts; write {target.id} = [("gpu1", {{…}})], or {target.id} = '
                    "([hosts], {…}) with what is for all of them. A helper's name begins with _."
                )
                problems.append(Problem("", f"{path}:{node.lineno}", what))
    return problems


def _is_no_group(value: ast.expr) -> bool:
    if isinstance(value, ast.List):
        maps = [one for one in value.elts if isinstance(one, ast.Dict)]
        pairs = all(len(one.elts) == 2 for one in value.elts if isinstance(one, ast.Tuple))
        return not pairs or 0 < len(maps) < len(value.elts)  # of maps alone: a helper, passed over with a word
    if not isinstance(value, ast.Tuple) or not value.elts:
        return False
    first = value.elts[0]
    if isinstance(first, ast.List):
        return len(value.elts) != 2 or _is_no_group(first)
    return isinstance(first, ast.Tuple | ast.Constant)


def _map(value: Any, where: str, problems: list[Problem]) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        problems.append(Problem("", where, f"should be a map, not {value!r}."))
        return {}
    return dict(value)


class _Strict(yaml.SafeLoader):
    """YAML that refuses a key given twice, which PyYAML lets win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f'"{key}" is there twice', problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _no_text(error: UnicodeDecodeError) -> str:
    return f"is not text in UTF-8 (byte {error.start + 1}); save it as UTF-8."


def _raised(error: Exception, filename: str) -> Problem:
    """What Python raised while it ran an inventory, and the last line of that file that was on the way there."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    what = f"Python stopped there: {type(error).__name__}: {error}".rstrip(": ")
    missing = f"; is the environment variable {error} set?" if isinstance(error, KeyError) else "."
    return Problem("", f"{filename}:{lines[-1]}" if lines else filename, what + missing)


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    what = str(getattr(error, "problem", None) or error)
    return f"{place}{what}{' (YAML is indented with spaces)' if chr(92) + 't' in what else ''}."
