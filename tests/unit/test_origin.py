"""Who applies an inventory, from which commit, and which recorded commits its clone lacks."""

import subprocess
from pathlib import Path

import pytest

from gpurack.inventory.origin import actor, claim, missing, origin


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=ada", "-c", "user.email=ada@lab.example"]
    return subprocess.run(
        ["git", "-C", str(folder), *names, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def commit(folder: Path, text: str) -> str:
    (folder / "inventories/lab.py").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "x")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "clone/inventories").mkdir(parents=True)
    git(tmp_path / "clone", "init", "-q")
    return tmp_path / "clone"


def test_origin_is_commit_and_path_in_the_clone(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPURACK_ACTOR", "ada\n")
    head = commit(clone, "a")
    found = origin("nlp", clone / "inventories/lab.py")
    assert (found.lab, found.by, found.commit, found.inventory) == ("nlp", "ada", head, "inventories/lab.py")


def test_edit_and_new_file_of_an_inventory_are_uncommitted(tmp_path: Path) -> None:
    def state(name: str, **files: str) -> bool:
        (tmp_path / name / "inventories").mkdir(parents=True)
        git(tmp_path / name, "init", "-q")
        (tmp_path / name / ".gitignore").write_text("*.env\n")
        commit(tmp_path / name, "a")
        for stem, text in files.items():
            (tmp_path / name / stem.replace("__", "/").replace("_", ".")).write_text(text)
        return origin("nlp", tmp_path / name / "inventories/lab.py").uncommitted

    assert not state("clean")
    assert state("edited", inventories__lab_py="b")
    assert state("elsewhere", _gitignore="*.env\nx\n")
    assert state("new", inventories__lab_lock_yaml="x")
    assert not state("notes", todo_txt="x", inventories__keys_env="x")
    assert not origin("nlp", tmp_path / "lab.py").uncommitted


def test_outside_a_clone_commit_and_path_are_unknown(tmp_path: Path) -> None:
    assert origin(None, tmp_path / "lab.py").payload == {"lab": "", "by": actor(), "commit": "", "inventory": ""}
    assert origin(None, None).commit == ""


def test_missing_is_what_is_not_checked_out(clone: Path, tmp_path: Path) -> None:
    one = commit(clone, "a")
    git(tmp_path, "clone", "-q", "clone", "other")
    two = commit(clone, "b")
    here, there = clone / "inventories/lab.py", tmp_path / "other/inventories/lab.py"
    assert missing(here, {one, two}) == set()
    assert missing(there, {one, two}) == {two}
    git(tmp_path / "other", "fetch", "-q")  # an editor may fetch; the inventory that is applied is still the old one
    assert missing(there, {one, two}) == {two}
    assert missing(tmp_path / "elsewhere/lab.py", {one}) == {one}
    assert missing(None, {one}) == {one}


@pytest.mark.parametrize("word", ["--help", "HEAD", "3f2a", "zzzzzzzz"])
def test_what_is_no_commit_is_missing(clone: Path, word: str) -> None:
    commit(clone, "a")
    assert missing(clone / "inventories/lab.py", {word}) == {word}


def test_claim_joins_them(clone: Path) -> None:
    one = commit(clone, "a")
    found = claim("nlp", clone / "inventories/lab.py", {one, "f" * 40}, True, 3)
    assert (found.origin.commit, found.missing, found.take_over, found.allowed) == (one, {"f" * 40}, True, 3)
