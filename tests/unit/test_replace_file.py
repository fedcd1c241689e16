"""A file that replaces another is the old one or the new one, whatever happens: here and on hosts."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpurack.replace_file import replace_file
from tests.sources import name_of
from tests.unit import host_programs

assert host_programs
import writing  # noqa: E402 (of files/)

FILES = Path(__file__).parents[2] / "files"
RENAMING = {
    "writing.put_in_place": "syncs before and after",
    "locks.replace_if_strange": "a lock, which is empty",
    "writing.write": "syncs before and after",
    "daemon_json.write": "syncs before and after",
    "databases.keep": "syncs before and after",
    "databases.note": "the copy gets another name; under the first one it is only kept longer",
    "databases.undo": "the same",
    "docker_restart.put_back": "syncs before and after",
    "docker_restart.replace": "syncs before and after",
    "fetch.fetch_folder": "puts the weights of another commit aside",
    "rootless.write": "syncs before and after",
}
"""Where programs of hosts rename files, and why a power cut does no harm there."""


def renaming() -> Iterator[str]:
    """module.function of each rename in files/."""
    for path in sorted(FILES.glob("*.py")):
        for top in ast.parse(path.read_text()).body:
            for node in ast.walk(top):
                if isinstance(node, ast.Call) and name_of(node.func) in ("os.rename", "os.replace", "shutil.move"):
                    yield f"{path.stem}.{getattr(top, 'name', '')}"


def test_hosts_programs_rename_only_what_is_on_disk() -> None:
    assert set(renaming()) == set(RENAMING)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_syncs_before_and_after_the_rename_on_hosts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, order, fsync, rename = tmp_path / "a.part", [], os.fsync, os.rename
    beside.write_text("weights") if kind == "file" else beside.mkdir()

    def note(number: int) -> None:
        order.append("sync " + Path(f"/proc/self/fd/{number}").readlink().name)
        fsync(number)

    def renamed(old: str, new: str) -> None:
        order.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", renamed)
    writing.put_in_place(str(beside), str(tmp_path / "a"))
    assert order == ["sync a.part", "rename", f"sync {tmp_path.name}"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_syncs_before_the_rename_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note(number: int) -> None:
        order.append("folder" if Path(f"/proc/self/fd/{number}").is_dir() else "file")
        fsync(number)

    def rename(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", rename)
    replace_file(tmp_path / "lab.lock.yaml", "a: ü\n")
    assert order == ["file", "rename", "folder"]
    assert (tmp_path / "lab.lock.yaml").read_bytes() == "a: ü\n".encode()


def test_keeps_link_and_mode(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    replace_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert ((tmp_path / "real").read_text(), (tmp_path / "real").stat().st_mode & 0o777) == ("new", 0o640)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> Any:
        raise OSError(28, "No space left on device")

    (tmp_path / "lock").write_text("pins")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "lock", "new pins")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("lock", "pins")]
