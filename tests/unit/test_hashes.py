"""files/hashes.py: digests of weights, computed once and kept while size and time stay the same."""

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.weights import hashes as parsed
from gpurack.locking.gather import hasher
from tests.unit.host_programs import load


@pytest.fixture
def hashes(tmp_path: Path) -> Any:
    module = load("hashes")
    module.MEMORY = str(tmp_path / "memory" / "sha256")
    return module


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_finds_files_of_weights(hashes: Any, tmp_path: Path) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / ".cache").mkdir()
    for name in ("a.safetensors", "sub/b.json", ".hidden", ".cache/c"):
        (tmp_path / "folder" / name).write_bytes(b"x")
    for number in (1, 2):
        (tmp_path / f"s-0000{number}-of-00002.gguf").write_bytes(b"x")
    (tmp_path / "s-00001-of-00003.gguf").write_bytes(b"another")
    of = lambda name: [os.path.relpath(path, tmp_path) for path in hashes.files_of(str(tmp_path / name))]  # noqa: E731
    assert of("folder") == ["folder/a.safetensors", "folder/sub/b.json"]
    assert of("s-00001-of-00002.gguf") == ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"]
    assert of("one.gguf") == ["one.gguf"]


def test_hashes_file_again_only_after_change(hashes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a weight's.gguf"
    file.write_bytes(b"one")
    os.utime(file, ns=(0, 1))
    assert hashes.known_hash(str(file)) == sha256(b"one")
    read = hashes.hash_of
    monkeypatch.setattr(hashes, "hash_of", None)  # reading it again would be an error
    assert hashes.known_hash(str(file)) == sha256(b"one")
    monkeypatch.setattr(hashes, "hash_of", read)
    file.write_bytes(b"two")
    os.utime(file, ns=(0, 2))  # the same size, a nanosecond later
    assert hashes.known_hash(str(file)) == sha256(b"two")


def test_forgets_missing_files(hashes: Any, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for file in (one, other):
        file.write_bytes(b"x")
        hashes.known_hash(str(file))
    one.unlink()
    hashes.remember(str(other), sha256(b"x"))
    assert list(hashes.remembered()) == [str(other)]


def test_unwritable_cache_is_no_failure(hashes: Any, tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file where the folder would be")
    (tmp_path / "w").write_bytes(b"x")
    assert hashes.known_hash(str(tmp_path / "w")) == sha256(b"x")


def test_stamp_equals_that_of_snapshot(hashes: Any, tmp_path: Path) -> None:
    """The snapshot compares the output of `stat` with the cache."""
    file = tmp_path / "two words.gguf"
    file.write_bytes(b"xyz")
    os.utime(file, ns=(0, 1_700_000_000_000_000_007))
    hashes.known_hash(str(file))
    stat = lambda: subprocess.check_output(["stat", "-L", "-c", "%s %.9Y %n", str(file)], text=True)  # noqa: E731
    memory = Path(hashes.MEMORY).read_text().splitlines()
    assert parsed(memory, stat().splitlines()) == {str(file): sha256(b"xyz")}
    os.utime(file, ns=(0, 1_700_000_000_000_000_008))
    assert parsed(memory, stat().splitlines()) == {}
    assert parsed(["garbage", *memory], []) == {}


def test_script_hashes_all_existing_files(hashes: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    script = hasher().replace("/var/lib/gpurack", str(tmp_path / "memory"))
    asked = f"|{tmp_path}/folder\n|{tmp_path}/b\n|{tmp_path}/gone\n"
    done = subprocess.run([sys.executable, "-c", script], input=asked, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    known = {path: found for path, (_, found) in hashes.remembered().items()}
    assert known == {f"{tmp_path}/folder/a": sha256(b"1"), f"{tmp_path}/b": sha256(b"2")}


def test_reports_progress(
    hashes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.gguf").write_bytes(b"x")
    monkeypatch.setattr(hashes, "EVERY", -1)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"|{tmp_path}/w.gguf\n"))
    hashes.main()
    assert capsys.readouterr().out.startswith("sha256 of w.gguf, 0.0 GB\n")
