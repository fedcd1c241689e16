"""Facts that a host script has a copy of, because it has no library there: each copy is equal to its source."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from gpurack import paths
from tests.sources import tree
from tests.unit.host_programs import FILES

OWN = ("evidence", "litellm_gateway")
"""Verification observes by its own means; the other one runs in a container."""
ALIKE = {"SECTIONS": "of compose.yaml: test_compose_blocks.py compares what both make of it"}


def constants(modules: Iterable[Path]) -> dict[str, set[str]]:
    """Text, or tuple of texts, as written → the names of the constants of these modules that have it."""
    found: dict[str, set[str]] = {}
    for path in modules:
        for node in tree(path).body:
            if not isinstance(node, ast.Assign):
                continue
            for name, value in pairs(node.targets[0], node.value):
                parts = value.elts if isinstance(value, ast.Tuple) else [value]
                if all(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts):
                    found.setdefault(ast.unparse(value), set()).add(ast.unparse(name))
    return {text: names for text, names in found.items() if len(text) > len("('', '')")}


def pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Each name of an assignment with its value."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def test_no_constant_is_both_in_files_and_in_the_package() -> None:
    """gpurack/paths.py is in files/ too, by a link."""
    programs = [path for path in FILES.glob("*.py") if not path.is_symlink() and not path.stem.startswith(OWN)]
    ours, theirs = constants((FILES.parent / "gpurack").rglob("*.py")), constants(programs)
    assert len(ours) > 100
    assert len(theirs) > 30
    twins = {name for text in ours.keys() & theirs.keys() for name in theirs[text]}
    assert twins == set(ALIKE)


def environment_of_users_part() -> list[str]:
    """The words with which snapshot.sh runs its part of a user, up to those that are of the snapshot alone."""
    (command,) = re.findall(
        r'(setpriv --reuid "\$uid" --regid "\$gid" --init-groups env -i HOME=.*?) LC_ALL=C',
        (FILES / "snapshot.sh").read_text(),
        re.DOTALL,
    )
    values = "user=eve uid=1001 gid=1002 home=/home/eve runtime=/run/user/1001"
    text = f"{values} PATH={paths.USER_PATH}; printf '%s\\n' {command}"
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True).stdout.splitlines()


def test_snapshot_runs_a_users_programs_as_the_runner_does() -> None:
    assert sorted(environment_of_users_part()) == sorted(paths.words_of_user("eve", 1001, 1002, "/home/eve"))


def test_runtime_folder_of_a_user_is_the_same_everywhere() -> None:
    for name in ("snapshot.sh", "evidence_docker.py", "evidence_parts.py"):
        found = set(re.findall(r"/run/user/[^\"\s;/]*", (FILES / name).read_text()))
        assert found
        assert found <= {"/run/user/$uid", "/run/user/{}"}, name


def test_roots_programs_are_found_in_the_same_folders() -> None:
    """An ssh login may give root a PATH without them. Where nvidia-smi is asked, its folder in WSL is one of them."""
    texts = [(FILES / name).read_text() for name in ("snapshot.sh", "manifest.sh", "evidence_parts.py")]
    added = [set(re.findall(r":/usr/local/sbin[\w/:]*", text)) for text in texts]
    usual, wsl = ":/usr/local/sbin:/usr/sbin:/sbin", ":/usr/lib/wsl/lib"
    assert added == [{usual + wsl}, {usual}, {usual + wsl}]


def test_verification_finds_a_users_programs_where_the_runner_does() -> None:
    found = re.findall(r'(?m)^USER_PATH = "([^"]+)"', (FILES / "evidence_parts.py").read_text())
    assert found == [paths.USER_PATH]
