"""Find the inventory that a command means, and explain an argument that is not an inventory."""

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpurack.inventory.fleet import layers_of
from gpurack.inventory.load import YAML, read_inventory
from gpurack.shell import word
from gpurack.spec.merge import merge_all
from gpurack.spec.problems import ENTRIES, InventoryError, NotAsked, Problem, nearest

DEPLOY = re.compile(r"^\s*(from|import) gpurack\.deploys\b", re.MULTILINE)
FOLDERS = (".", "inventories")
"""Where inventories are looked for, below the working directory."""
INVENTED = Path("inventories/lab.yaml")
"""The inventory of examples, in help and docs."""
DASHES = re.compile("^[–—]+(?=[a-z])")
"""What word processors make of `--`."""
FOLDER = "It has {0}. Run `{1} {2}`."


def is_deploy(path: Path) -> bool:
    """Is it a Python file that runs gpurack's deploys?"""
    return path.suffix == ".py" and bool(DEPLOY.search(text_of(path)))


def text_of(path: Path) -> str:
    """The text of a file, as well as it can be read; "" for what is no file, or cannot be read."""
    try:
        return path.read_text(errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def inventories(folder: Path = Path()) -> list[Path]:
    """The inventory files of a project, relative to it. A Python file that loads lab.yaml stands for both."""
    found = []
    for below in FOLDERS:
        paths = sorted(path for path in (folder / below).glob("*.*") if is_inventory(path))
        python = {path.stem for path in paths if path.suffix == ".py"}
        found += [path.relative_to(folder) for path in paths if path.suffix == ".py" or path.stem not in python]
    return found


def without_hosts(folder: Path = Path()) -> Path | None:
    """The only YAML file of a project that can be meant as its inventory, although it does not look like one."""
    paths = [folder / "lab.yaml", folder / "lab.yml", *sorted((folder / FOLDERS[1]).glob("*.y*ml"))]
    found = [path for path in paths if path.is_file() and not path.stem.endswith(".lock")]
    return found[0].relative_to(folder) if len(found) == 1 else None


def is_inventory(path: Path) -> bool:
    """Does a file look like an inventory: YAML with `hosts`, or Python with groups of hosts that have data?"""
    if path.suffix not in (*YAML, ".py") or not (text := text_of(path)):
        return False
    if path.suffix in YAML:
        return bool(re.search(r"^[\"']?hosts[\"']?\s*:", text, re.MULTILINE)) and not path.stem.endswith(".lock")
    if DEPLOY.search(text):
        return False
    if path.parent.name == FOLDERS[1]:
        return True
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return False
    groups = (node.value for node in body if isinstance(node, ast.Assign))
    return any(_has_hosts(value) for value in groups) or bool(re.search(r"\bgpurack\.load\(", text))


def _has_hosts(value: ast.expr) -> bool:
    """Is it [(host, data), …], or ([…], data)? Data is a map, or an expression that makes one."""
    if isinstance(value, ast.Tuple):
        return _is_pair(value) and isinstance(value.elts[0], ast.List)
    return any(_is_pair(one) for one in value.elts) if isinstance(value, ast.List) else False


def _is_pair(value: ast.expr) -> bool:
    return isinstance(value, ast.Tuple) and len(value.elts) == 2 and not isinstance(value.elts[1], ast.Constant)


def chosen(given: str | None, command: str, limits: bool = True) -> Path:
    """The inventory that an argument names; without one, the only inventory of the working directory.

    command: for hints, `gpurack apply`. limits: does it have --limit? Raises NotAsked.
    """
    if given is None:
        known = inventories()
        if len(known) == 1:
            return known[0]
        if not known and (broken := without_hosts()):
            return broken  # reading it says what is wrong
        if not known:
            raise NotAsked([Problem.of("inventory-not-given", command=command)])
        paths = ", ".join(map(str, known))
        raise NotAsked([Problem.of("several-inventories", paths=paths, command=command, first=word(str(known[0])))])
    if not given:  # of a variable of the shell that is not set; Path("") would be the working directory
        example_of = {"command": command, "inventory": word(str(example(inventories())))}
        raise NotAsked([Problem.of("inventory-not-a-file", "", '""', **example_of)])
    path = Path(given)
    try:
        exists = path.exists()
    except OSError as error:  # of a folder that may not be read, or a name that is too long
        raise NotAsked([Problem.of("file-unreadable", "", str(path), why=error.strerror)]) from None
    if exists:
        if is_deploy(path):
            raise deploy_given(path, [], command)
        if path.is_dir() and (known := [path / each for each in inventories(path)]):
            hint = FOLDER.format(", ".join(map(str, known)), command, word(str(known[0])))
            raise NotAsked([Problem.of("inventory-is-folder", "", str(path), hint=hint)])
        if path.is_dir() or path.is_file():
            return path
    if problem := missing(path, command, limits):
        raise NotAsked([problem])
    return path


def missing(path: Path, command: str, limits: bool = True) -> Problem | None:
    """What an argument means that is not a file: a host of an inventory, or a misspelt path; None if unknown.

    command, limits: as of `chosen`.
    """
    known = inventories()
    for inventory in known:
        if hosts := hosts_of_model(str(path), inventory):
            limit = f" --limit {hosts[0]}" if limits and len(hosts) == 1 else ""
            meant = f"{command} {word(str(inventory))}{limit}"
            return Problem.of("model-given", "", str(path), hosts=", ".join(hosts), command=meant)
        if re.search(rf"(?<![\w.-]){re.escape(str(path))}(?![\w.-])", text_of(inventory)):
            meant = f"{command} {word(str(inventory))}{f' --limit {path}' if limits else ''}"
            return Problem.of("host-given", "", str(path), command=meant)
    elsewhere = next((str(inventory) for inventory in known if inventory.name == path.name), None)
    if guess := elsewhere or nearest(str(path), map(str, known)):
        return Problem.of("inventory-misspelt", "", str(path), guess=guess)
    if DASHES.match(str(path)):
        return Problem.of("dash-of-a-word-processor", "", str(path), right=DASHES.sub("--", str(path)))
    if path.suffix in (".py", *YAML) and not known:
        return None  # read_inventory reports it
    return Problem.of("inventory-not-a-file", "", str(path), command=command, inventory=word(str(example(known))))


def example(known: Sequence[Path]) -> Path:
    """The inventory that a hint names: the first one of the project, or an invented one. known: its inventories."""
    return known[0] if known else INVENTED


def hosts_of_model(given: str, inventory: Path) -> list[str]:
    """The hosts of a model that is given by its name, or as HOST/MODEL; [] if the inventory has none, or errors."""
    host, _, model = given.rpartition("/")
    try:
        loaded = read_inventory(inventory)
        hosts = {each.name: merge_all(layers_of(loaded, each)) for each in loaded}
    except Exception:  # it is named by the command that reads it
        return []
    return [
        name
        for name, data in hosts.items()
        if host in ("", name) and any(isinstance(data.get(kind), Mapping) and model in data[kind] for kind in ENTRIES)
    ]


def deploy_given(deploy: Path, others: Sequence[str], command: str) -> InventoryError:
    """The error of a deploy file where an inventory belongs, or beside one. others: the other arguments."""
    inventory = next((other for other in others if is_inventory(Path(other))), "INVENTORY")
    return NotAsked([Problem.of("deploy-given", "", str(deploy), command=f"{command} {word(inventory)}")])
