"""Inventories from files: Python as pyinfra reads it, and YAML that means the same.

# inventories/lab.py
import gpurack
globals().update(gpurack.load("lab.yaml"))
"""

import ast
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pyinfra.api import State
from pyinfra.api.inventory import Inventory
from pyinfra.context import ctx_state

from gpurack.inventory.yaml_errors import explained
from gpurack.shell import sh
from gpurack.spec.problems import ENTRIES, InventoryError, Problem, nearest, wrong_type
from gpurack.spec.secret_names import holds_secret

YAML = (".yaml", ".yml")
TOP = ("all", "groups", "hosts")
NO_HOSTS = Problem.of("no-hosts")
Groups = dict[str, tuple[list[Any], dict[str, Any]]]


def apply_command(inventory: object) -> str:
    """The command by which an inventory is applied, to paste into a shell. inventory: its path.

    >>> apply_command("my lab/lab.yaml")
    "gpurack apply 'my lab/lab.yaml'"
    """
    return sh("gpurack apply {}", str(inventory))


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
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        if conflict := re.search(r"^(<{7}|={7}|>{7})( |$)", text, re.MULTILINE):
            where = f"{path}:{text.count(chr(10), 0, conflict.start()) + 1}"
            what = "is a mark of git: two versions of the file were not merged"
            hint = "Keep one of the two parts, and remove the marks."
            raise InventoryError([Problem.of("invalid-yaml", "", where, what=what, hint=hint)])
        return yaml.load(text, Loader=_Strict)
    except OSError as error:
        raise InventoryError([Problem.of("file-unreadable", "", str(path), why=error.strerror)]) from None
    except UnicodeDecodeError as error:
        raise InventoryError([Problem.of("not-utf8", "", str(path), byte=error.start + 1)]) from None
    except RecursionError:
        what, hint = "has brackets in brackets, deeper than can be read", "Remove those that are too many."
        raise InventoryError([Problem.of("invalid-yaml", "", str(path), what=what, hint=hint)]) from None
    except yaml.YAMLError as error:
        wrong = explained(error, text)
        where = str(path) if wrong.line is None else f"{path}:{wrong.line}"
        raise InventoryError([Problem.of("invalid-yaml", "", where, what=wrong.what, hint=wrong.hint)]) from None


def to_groups(content: Any, path: str) -> Groups:
    """The three maps all, groups, hosts → groups of (hosts, data). Raises InventoryError."""
    from gpurack.inventory.fleet import HOST_FIELDS

    misspelt = nearest("hosts", filter(None, map(str, content))) if isinstance(content, Mapping) else None
    if misspelt and misspelt not in TOP:
        raise InventoryError([Problem.unknown("unknown-key", misspelt, TOP, "", f"{path} {misspelt}")])
    if not isinstance(content, Mapping) or not isinstance(content.get("hosts"), Mapping) or not content["hosts"]:
        raise InventoryError([Problem.of("no-hosts-map", "", path, hint=_hosts_hint(content, path))])
    problems = [unknown_top(key, path) for key in content if key not in TOP]
    data = _map(content.get("all"), f"{path} all", problems)
    known = _map(content.get("groups"), f"{path} groups", problems)
    groups: Groups = {"all": ([], data)}
    for name, fields in known.items():
        groups[str(name)] = ([], _map(fields, f"{path} groups.{name}", problems))
    for host, fields in content["hosts"].items():
        if host in ENTRIES and isinstance(fields, Mapping) and not set(HOST_FIELDS) & set(fields):
            hint = f"It is a field of a host: indent `{host}:` deeper than the name of its host."
            problems.append(Problem.of("invalid-host-name", str(host), hint=hint))
        own = _map(fields, f"{path} hosts.{host}", problems)
        member_of = own.pop("groups", [])
        for group in member_of if isinstance(member_of, list) else [member_of]:
            if group not in known:
                names = list(map(str, known))
                missing = Problem.of("no-groups", name=group)
                if known:
                    missing = Problem.unknown("unknown-group", group, names)
                problems.append(missing.at(str(host), "groups"))
            else:
                groups[group][0].append(str(host))
        groups["all"][0].append((str(host), own))
    if problems:
        raise InventoryError(problems)
    return groups


def _hosts_hint(content: Any, path: str) -> str:
    """What to write where a YAML file has no map `hosts`: it may be a file of another program."""
    top = content if isinstance(content, Mapping) else {}
    if isinstance(top.get("services"), Mapping):
        return sh("It is a Compose file: `gpurack import {}` converts it to an inventory.", path)
    below = top.get("all")
    if isinstance(below, Mapping) and isinstance(below.get("hosts"), Mapping):
        return "It is an inventory of Ansible, with `hosts` inside of `all`. Begin `hosts:` in the first column."
    listed = isinstance(content, list) or isinstance(top.get("hosts"), list)
    without = ', without "- "' if listed else ""
    return f'Write hosts: {{gpu1.lab: {{models: {{…}}}}}}{without}. "all" and "groups" are optional.'


def read_inventory(path: Path) -> Inventory:
    """An inventory file, Python or YAML, as pyinfra would hold it; no host is contacted.

    Raises InventoryError, also for what Python raises in the file and in group_data; pyinfra's own errors come through.
    """
    if path.is_dir():
        raise InventoryError([Problem.of("inventory-is-folder", "", str(path), hint="Name an inventory file.")])
    if not path.is_file():
        raise InventoryError([Problem.of("no-inventory-file", "", str(path))])
    if path.suffix in YAML:
        groups = read_yaml(path)
        return with_hosts(Inventory(groups.pop("all"), **groups), path)
    # Importing pyinfra's command line costs time that only this needs.
    from pyinfra_cli.exceptions import UnexpectedExternalError
    from pyinfra_cli.inventory import make_inventory
    from pyinfra_cli.util import PYTHON_CODES

    ctx_state.set(State())
    PYTHON_CODES.pop(str(path), None)  # pyinfra would run what another folder's file of this name said
    try:
        if problems := ignored_by_pyinfra(path):  # before pyinfra reads it, because some end it with a traceback
            raise InventoryError(problems)
        inventory: Inventory = make_inventory(str(path), cwd=str(Path.cwd()))
    except OSError as error:
        raise InventoryError([Problem.of("file-unreadable", "", str(path), why=error.strerror)]) from None
    except SyntaxError as error:
        if path.suffix != ".py":
            raise InventoryError([_ending(path)]) from None
        if "U+FEFF" in str(error.msg):
            what = "it begins with a byte order mark; save it as UTF-8 without one"
            raise InventoryError([Problem.of("invalid-python", "", str(path), what=what, line=".")]) from None
        line = f": {error.text.strip()}" if error.text else "."
        where = f"{error.filename or path}:{error.lineno}"
        raise InventoryError([Problem.of("invalid-python", "", where, what=error.msg, line=line)]) from None
    except UnicodeDecodeError as error:
        raise InventoryError([Problem.of("not-utf8", "", str(path), byte=error.start + 1)]) from None
    except SystemExit as error:  # the whole command would end with the code of the file
        raise InventoryError([_raised(error, _last_file(error) or str(path))]) from None
    except UnexpectedExternalError as error:
        if path.suffix != ".py":
            raise InventoryError([_ending(path)]) from None
        raise InventoryError([_raised(error.exception, error.filename)]) from None
    except (TypeError, ValueError) as error:  # of pyinfra, about values that only running the file shows
        hint = '. Write hosts as [("gpu1.lab", {"models": {…}})]: names with maps.'
        raise InventoryError([Problem.of("inventory-raised", "", str(path), what=str(error), hint=hint)]) from None
    if not len(inventory) and path.suffix != ".py":
        raise InventoryError([_ending(path)])
    return with_hosts(inventory, path)


def _ending(path: Path) -> Problem:
    """The error of a file that is neither .py nor YAML by its name, and no inventory in Python."""
    right = path.with_suffix(YAML[0])
    return Problem.of("inventory-ending", "", str(path), ending=path.suffix or path.name, right=right)


def with_hosts(inventory: Inventory, path: Path) -> Inventory:
    """The inventory of this file.

    Raises InventoryError if it has no hosts: pyinfra would then do nothing and report success.
    """
    if not len(inventory):
        raise InventoryError([NO_HOSTS.at("", str(path))])
    return inventory


def ignored_by_pyinfra(path: Path, fields: tuple[str, ...] | None = None) -> list[Problem]:
    """Errors of what Python and pyinfra misread silently.

    These are keys and hosts given twice, groups with a bracket too few or too many, and maps (and `lab`) at the top of
    the file that look like host fields.
    """
    from gpurack.inventory.fleet import HOST_FIELDS

    known = fields or HOST_FIELDS
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    problems = keys_twice(tree, path) + hosts_twice(tree, path) + not_groups(tree, path)
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            kind = ast.Constant if getattr(target, "id", "") == "lab" else ast.Dict  # lab is text, and a usual group
            if isinstance(target, ast.Name) and target.id in known and isinstance(node.value, kind):  # type: ignore[attr-defined]
                problems.append(Problem.of("ignored-by-pyinfra", "", f"{path}:{node.lineno}", name=target.id))
    return problems


def keys_twice(tree: ast.AST, path: Path) -> list[Problem]:
    """A key given twice in one {…}.

    Python silently keeps the last, and a run would remove the first model from its host. (YAML: `_Strict`.)
    """
    problems = []
    for node in ast.walk(tree):
        seen: set[Any] = set()
        for key in node.keys if isinstance(node, ast.Dict) else []:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                if key.value in seen:
                    problems.append(Problem.of("key-given-twice", "", f"{path}:{key.lineno}", name=key.value))
                seen.add(key.value)
    return problems


def hosts_twice(tree: ast.AST, path: Path) -> list[Problem]:
    """A host given twice in one list. pyinfra silently keeps only the last entry's data."""
    problems = []
    for node in ast.walk(tree):
        seen: set[str] = set()
        for entry in node.elts if isinstance(node, ast.List) else []:
            name = entry.elts[0] if isinstance(entry, ast.Tuple) and len(entry.elts) == 2 else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                if name.value in seen:
                    problems.append(Problem.of("host-given-twice", "", f"{path}:{name.lineno}", name=name.value))
                seen.add(name.value)
    return problems


def not_groups(tree: ast.Module, path: Path) -> list[Problem]:
    """Groups with a bracket too few or too many.

    pyinfra reads each letter of ("gpu1", {…}) as a host; others end in a traceback or are ignored.
    """
    problems = []
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if isinstance(target, ast.Name) and target.id[0] != "_" and _is_not_a_group(node.value):  # type: ignore[attr-defined]
                problems.append(Problem.of("not-a-group", "", f"{path}:{node.lineno}", name=target.id))
    return problems


def _is_not_a_group(value: ast.expr) -> bool:
    if isinstance(value, ast.List):
        maps = [one for one in value.elts if isinstance(one, ast.Dict)]
        pairs = all(_is_host(one) for one in value.elts if isinstance(one, ast.Tuple))
        return not pairs or 0 < len(maps) < len(value.elts)  # of maps alone: a helper, which pyinfra ignores
    if not isinstance(value, ast.Tuple) or not value.elts:
        return False
    first = value.elts[0]
    if isinstance(first, ast.List):
        return len(value.elts) != 2 or _is_not_a_group(first)
    return isinstance(first, ast.Tuple | ast.Constant)


def _is_host(value: ast.Tuple) -> bool:
    """Can it be ("gpu1", {…})? Names and calls can be anything."""
    if len(value.elts) != 2:
        return False
    name, data = value.elts
    named = not isinstance(name, ast.Constant) or isinstance(name.value, str)
    return named and not isinstance(data, ast.Constant | ast.List | ast.Set | ast.Tuple)


def unknown_top(key: Any, path: str) -> Problem:
    """The error of a key beside `hosts` that is not known there: it may be a field of hosts."""
    from gpurack.inventory.fleet import HOST_FIELDS

    where = f"{path} {key}"
    if key in HOST_FIELDS:
        hint = f"It is a field of hosts: move it into the map `all`, as in all: {{{key}: …}}, or into a host."
        return Problem.of("unknown-key", "", where, name=key, hint=hint)
    return Problem.unknown("unknown-key", key, TOP, "", where)


def _map(value: Any, where: str, problems: list[Problem]) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        problems.append(wrong_type("a map", value, where.rpartition(" ")[2]).at("", where))
        return {}
    return dict(value)


PYTHON_WORDS = {"null": "None", "none": "None", "true": "True", "yes": "True", "false": "False", "no": "False"}
"""Words of YAML and JSON → those of Python."""


class _Number(float):
    """A number of a YAML file, with the text that was written."""

    written: str


yaml.SafeDumper.add_multi_representer(_Number, yaml.representer.SafeRepresenter.represent_float)
VERSIONS = ("version", "toolkit", "driver", "revision")
"""The fields whose unquoted numbers are refused with the text that was written."""
PORTS = ("port", "ssh_port", "context")
"""The fields in which digits after a 0, which YAML 1.1 reads as octal, are refused."""
NULL, BOOL, MERGE, DATE = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "merge", "timestamp"))


class _Strict(yaml.SafeLoader):
    """YAML that refuses what PyYAML reads silently as something else than was meant.

    These are a key given twice, a colon without a space, `no` as a name, and `22:22`, a number of minutes and seconds.
    Dates are text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's stub declares it for instances)
        first: [(tag, pattern) for tag, pattern in found if tag != DATE]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")) and ":" in node.value:
            what = "YAML reads digits with a colon as minutes and seconds; write them in quotes"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)
        try:
            return super().construct_object(node, deep=True)  # a value inside of itself is then an error
        except ValueError:  # of more digits than Python reads
            what = "is too long for a number; write it in quotes if it is text"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            if key_node.tag in (BOOL, NULL):
                what = "the name in front of the colon is missing"
                if key_node.value:
                    what = f'YAML reads the name {key_node.value} as a value; write "{key_node.value}":, in quotes'
                raise yaml.MarkedYAMLError(problem=what, problem_mark=key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, dict | list):
                raise yaml.MarkedYAMLError(problem="found unhashable key", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f'"{key}" is given twice: keep one of them', problem_mark=key_node.start_mark
                )
            seen.add(key)
        made = super().construct_mapping(node, deep)
        for key_node, value_node in node.value:
            key = key_node.value
            if value_node.tag == NULL and value_node.start_mark.index == key_node.end_mark.index:  # no colon
                name = f"`{key}`" if re.fullmatch("[a-z_]+", key) else "a name"  # other text may be a key
                what = f"a colon and a value are missing after {name}"
                if key.isdecimal():
                    what = "a comma ends a value. Write a number without it, and other text in quotes"
                if not _glued(key):
                    raise yaml.MarkedYAMLError(problem=what, problem_mark=key_node.start_mark)
            if value_node.tag == NULL and not value_node.value and _glued(key):
                field, sign, value = re.split("([:=])", key, maxsplit=1)
                what = "a space is missing after the colon" if sign == ":" else "YAML wants a colon in place of `=`"
                what += f"; write {field}: {'…' if holds_secret(field, value) else value}"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=key_node.start_mark)
            if (
                key in PORTS
                and isinstance(value_node, yaml.ScalarNode)
                and re.fullmatch(r"0[0-7]+", value_node.value)
                and made.get(key) == int(value_node.value, 8) > 7
            ):
                what = f"YAML reads {value_node.value} as octal, which is {made[key]}"
                what += f"; write {value_node.value.lstrip('0')}"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=value_node.start_mark)
            if (
                key in VERSIONS
                and isinstance(made.get(key), int | float)
                and value_node.tag.endswith((":float", ":int"))
            ):
                made[key] = _Number(made[key])
                made[key].written = value_node.value
        return made


def _glued(key: Any) -> bool:
    """Is it `port:8000` or `threads=8`, which YAML reads as a key without a value?"""
    return isinstance(key, str) and bool(re.fullmatch(r"[a-z_]+:[^\s/][^:]*|[A-Za-z_-]+=\S+", key))


def _raised(error: BaseException, filename: str) -> Problem:
    """An exception of an inventory file, at the last line of that file in its traceback."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    where = f"{filename}:{lines[-1]}" if lines else filename
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SystemExit):
        what = "it ends the command (`exit`)"
        return Problem.of("inventory-raised", "", where, what=what, hint=". Remove that line.")
    hint = f". Is the environment variable {error} set?" if isinstance(error, KeyError) else "."
    if isinstance(error, NameError) and (right := PYTHON_WORDS.get(str(error.name).lower())):
        hint = f". Python writes {right}."
    return Problem.of("inventory-raised", "", where, what=what, hint=hint)


def _last_file(error: BaseException) -> str:
    """The last file of an exception's traceback that is no part of Python, where `exit()` is written."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return next((name for name in reversed(files) if name[0] != "<" and "_sitebuiltins" not in name), "")
