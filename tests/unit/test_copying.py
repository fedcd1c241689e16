"""Weights copied from the admin's machine: which files, and how they arrive. The host is a shell on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pyinfra.connectors.util import CommandOutput, OutputLine, write_stdin

from gpurack.inventory.fleet import check_fleet
from gpurack.operations import copying
from gpurack.operations.copying import Copy, receive
from gpurack.plan.models.plan import Upload
from gpurack.shell import sh
from gpurack.spec import local_files
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError
from gpurack.spec.weights import CopyWeights
from tests.given import host_state, models, models_plan

pytestmark = pytest.mark.sampled

CONTENT = bytes(range(256)) * 8192


class Shell:
    """pyinfra's host, as far as a copy needs it. `cut`: bytes after which the connection ends. `shown`: what it prints.

    `meanwhile`: called once, before the first bytes are sent."""

    def __init__(self) -> None:
        self.connector_data: dict[str, Any] = {}
        self.cut: int | None = None
        self.received: list[int] = []
        self.shown: list[str] = []
        self.meanwhile: Callable[[], Any] = list

    def log(self, text: str) -> None:
        """Silent."""

    def run_shell_command(self, command: Any, **arguments: Any) -> tuple[bool, CommandOutput]:
        stdin = arguments.get("_stdin")
        if stdin:
            self.meanwhile, meanwhile = list, self.meanwhile
            meanwhile()
        process = subprocess.Popen(
            str(command), shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        pipe = process.stdin
        assert pipe
        assert process.stdout
        if stdin:
            self.received.append(0)
            try:
                write_stdin(stdin, Cut(pipe, self))
            except OSError:
                process.wait()
                raise
        with suppress(BrokenPipeError):
            pipe.close()
        lines = list[str]()
        for line in process.stdout:
            lines.append(line.decode().rstrip("\n"))
            self.shown += lines[-1:] if arguments["print_output"] else []
        return process.wait() == 0, CommandOutput([OutputLine("stdout", line) for line in lines])


class Cut:
    """A pipe that counts bytes and ends early."""

    def __init__(self, pipe: Any, shell: Shell) -> None:
        self.pipe, self.shell = pipe, shell

    def write(self, data: bytes) -> None:
        self.shell.received[-1] += len(data)
        if self.shell.cut is not None and self.shell.received[-1] > self.shell.cut:
            self.pipe.close()
            raise OSError("Socket is closed")
        self.pipe.write(data)
        self.pipe.flush()

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.pipe.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "here/it's a.gguf"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "here/tiny"
    for name, content in {"config.json": b"{}", "sub/b.safetensors": CONTENT, ".git/x": b"x", "empty.txt": b""}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def copied(shell: Shell, source: Path, path: Path) -> str:
    """The error of Copy; "" for success."""
    command = Copy(Upload("alpha", source, str(path)))
    ok, _ = command.execute(None, shell, {})  # type: ignore[arg-type]
    assert ok
    assert path.exists() == (not command.problem)
    return command.problem


def there(path: Path) -> dict[str, bytes]:
    return {str(found.relative_to(path)): found.read_bytes() for found in path.rglob("*") if found.is_file()}


def test_copies_file(file: Path, tmp_path: Path) -> None:
    assert copied(Shell(), file, tmp_path / "there/copy/x-a b.gguf") == ""
    assert there(tmp_path / "there") == {"copy/x-a b.gguf": CONTENT}


def test_copies_folder_without_hidden_files(folder: Path, tmp_path: Path) -> None:
    assert copied(Shell(), folder, tmp_path / "there/copy/x-tiny") == ""
    assert there(tmp_path / "there/copy") == {
        "x-tiny/config.json": b"{}", "x-tiny/sub/b.safetensors": CONTENT, "x-tiny/empty.txt": b"",
    }  # fmt: skip


def test_a_copy_is_on_disk_before_it_has_its_name() -> None:
    """A power cut must leave no empty file in place."""
    assert "sync /w/a.part/a.part && mv -f /w/a.part/a.part /w/a.part/a && sync /w/a.part" in str(
        receive("/w/a", "a", 0, 1, "0" * 64, "ada")
    )


def test_resumes_after_lost_connection(folder: Path, tmp_path: Path) -> None:
    """Complete files are not sent again, partial ones from where they stopped."""
    shell, path = Shell(), tmp_path / "there/x-tiny"
    shell.cut = len(CONTENT) // 2
    assert copied(shell, folder, path).endswith(
        "tiny could not be copied to the host: Socket is closed; the next run resumes."
    )
    arrived = (tmp_path / "there/x-tiny.part/sub/b.safetensors.part").stat().st_size
    assert 0 < arrived < len(CONTENT)
    shell.cut, shell.received = None, []
    assert copied(shell, folder, path) == ""
    assert there(path)["sub/b.safetensors"] == CONTENT
    assert sum(shell.received) == len(CONTENT) - arrived


def test_a_part_longer_than_its_file_recovers(file: Path, tmp_path: Path) -> None:
    part = tmp_path / f"there/x.part/{file.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"of another file")
    assert copied(Shell(), file, tmp_path / "there/x") == ""
    assert (tmp_path / "there/x").read_bytes() == CONTENT


def test_survives_a_banner_of_the_login_shell(folder: Path, tmp_path: Path) -> None:
    """As `echo Welcome` in .bashrc, which bash reads for commands over SSH."""

    class Chatty(Shell):
        def run_shell_command(self, command: Any, **arguments: Any) -> tuple[bool, CommandOutput]:
            return super().run_shell_command(f"echo Welcome; echo 12 there; {command}", **arguments)

    assert copied(Chatty(), folder, tmp_path / "there") == ""
    assert (tmp_path / "there/sub/b.safetensors").read_bytes() == CONTENT
    assert copied(Chatty(), folder, tmp_path / "there") == ""


def test_two_runs_copy_one_after_the_other(folder: Path, tmp_path: Path) -> None:
    """Of two admins, or of one run to two hosts with the same `weights_dir`."""
    shells, path = [Shell(), Shell()], tmp_path / "there/x-tiny"
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda shell: copied(shell, folder, path), shells)) == ["", ""]
    assert there(path) == {"config.json": b"{}", "sub/b.safetensors": CONTENT, "empty.txt": b""}


def test_a_part_that_another_run_continued_meanwhile_is_resumed(file: Path, tmp_path: Path) -> None:
    shell, part = Shell(), tmp_path / f"there/x.part/{file.name}.part"
    shell.meanwhile = lambda: part.write_bytes(CONTENT[:1000000])
    assert copied(shell, file, tmp_path / "there/x") == ""
    assert (tmp_path / "there/x").read_bytes() == CONTENT
    assert shell.received[-1] == len(CONTENT) - 1000000


def test_a_copy_that_another_run_put_into_place_meanwhile_is_used(file: Path, tmp_path: Path) -> None:
    shell = Shell()
    shell.meanwhile = lambda: (tmp_path / "there/x").write_bytes(CONTENT)
    assert copied(shell, file, tmp_path / "there/x") == ""
    assert there(tmp_path / "there")["x"] == CONTENT


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of a copy that another run makes; what is said of that comes at once."""
    monkeypatch.setattr(copying, "SIGN_OF_LIFE", 0)
    path = tmp_path / "there/x"
    path.parent.mkdir()
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("bob@pc since 10:02, run 1\n")
        lock.flush()
        yield path


def test_says_for_whose_copy_it_waits(file: Path, other: Path) -> None:
    shell = Shell()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(copied, shell, file, other)
        while not (shell.shown or result.done()):
            time.sleep(0.05)
        Path(f"{other}.lock").unlink()  # as its holder does at its end
        assert result.result() == ""
    assert shell.shown[0].startswith(f"alpha: waiting for the copy of {other} by bob@pc since 10:02, run 1, ")


def test_waiting_for_another_copy_has_a_limit(file: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "WAITING", 1)
    said = copied(Shell(), file, other)
    assert f"no end in 1 s: waiting for the copy of {other} by bob@pc since 10:02, run 1; the next run" in said


def test_a_file_that_is_refused_again_and_again_is_an_error(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the lock cannot be written."""
    monkeypatch.setattr(copying, "receive", lambda *words: sh("echo no space left; exit 1"))
    assert "; the next run resumes." in copied(Shell(), file, tmp_path / "there/x")


def test_deletes_file_changed_during_copy(file: Path, tmp_path: Path) -> None:
    part = tmp_path / "there/x.gguf.part" / f"{file.name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else")
    assert "it's a.gguf was corrupted on the way and deleted" in copied(Shell(), file, tmp_path / "there/x.gguf")
    assert not part.exists()
    assert copied(Shell(), file, tmp_path / "there/x.gguf") == ""


def test_reports_full_disk(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpurack.operations.copying.find", lambda part, path: sh("echo gpurack: 1000"))
    said = copied(Shell(), file, tmp_path / "there/x.gguf")
    assert f"it needs 0.0 GB more, but {tmp_path}/there has 0.0; the next run resumes." in said


# --- which they are --------------------------------------------------------------------------------------------------


def place(path: Path) -> str:
    return CopyWeights.model_validate({"copy": str(path)}).place


def test_path_follows_content(file: Path, folder: Path) -> None:
    before = place(file), place(folder)
    assert before[0].endswith("-it_s_a.gguf")
    file.touch()
    assert (place(file), place(folder)) == before
    file.write_bytes(b"retrained")
    (folder / "config.json").rename(folder / "config2.json")
    assert place(file) != before[0]
    assert place(folder) != before[1]


def test_hashes_each_file_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place(file)
    monkeypatch.setattr(local_files.hashlib, "sha256", None)
    assert place(file) == before


def test_says_how_much_of_a_file_is_read(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(local_files, "SIGN_OF_LIFE", 0)
    assert local_files.sha256(file) == hashlib.sha256(CONTENT).hexdigest()
    assert f"reading {file} for its sha256, 0.0 of 0.0 GB\n" in capsys.readouterr().err


@pytest.mark.parametrize("kept", ["", "[]", '{"x": 5}', '{"x": [1]}'])
def test_ignores_invalid_cache(file: Path, kept: str) -> None:
    sums = Path(os.environ["XDG_STATE_HOME"], "gpurack/sums.json")
    sums.parent.mkdir(parents=True)
    sums.write_text(kept)
    assert place(file)
    assert len(json.loads(sums.read_text())) == 1


def test_missing_or_empty_source_is_inventory_error(tmp_path: Path) -> None:
    common = {"engine": "vllm", "version": "0.33.0", "gpus": [0], "vram": "1GiB"}
    entries = {
        name: {**common, "port": 8000 + port, "weights": {"copy": str(tmp_path / name)}}
        for port, name in enumerate(("gone", "empty"))
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(InventoryError) as error:
        check_fleet({"gpu1": [{"models": entries}]})
    assert {str(problem) for problem in error.value.problems} == {
        f"gpu1 models.gone.weights.copy: {tmp_path}/gone is not on this machine.",
        f"gpu1 models.empty.weights.copy: {tmp_path}/empty contains no files.",
    }


# --- the plan --------------------------------------------------------------------------------------------------------


def wanted(file: Path) -> Host:
    return models(alpha={"weights": {"copy": str(file)}}, beta={"weights": {"copy": str(file)}})


def test_models_with_same_weights_share_copy(file: Path) -> None:
    found = models_plan(wanted(file), host_state())
    path = f"/var/lib/gpurack/weights/{place(file)}"
    assert found.uploads == (Upload("alpha", file, path),)
    assert f"copy {file} for alpha" in found.reasons
    assert found.job
    assert [group[0]["fetch"][0]["path"] for group in found.job["batches"]] == [path, path]


def test_skips_weights_already_on_host(file: Path) -> None:
    path = f"/var/lib/gpurack/weights/{place(file)}"
    assert models_plan(wanted(file), host_state(weights={path: 1})).uploads == ()


# --- split files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """The first of three parts, beside parts of another model."""
    for name in ("m-00001-of-00003", "m-00002-of-00003", "m-00003-of-00003", "mm-00001-of-00003", "m-00001-of-00002"):
        (tmp_path / f"{name}.gguf").write_text(name)
    return tmp_path / "m-00001-of-00003.gguf"


def test_copies_all_parts_of_split_model(split: Path, tmp_path: Path) -> None:
    wanted = models(alpha={"weights": {"copy": str(split)}})
    planned = models_plan(wanted, host_state())
    (upload,) = planned.uploads
    assert upload.path.endswith("-m")
    assert copied(Shell(), split, tmp_path / "there/x-m") == ""
    assert sorted(there(tmp_path / "there/x-m")) == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert planned.job
    ((entry,),) = planned.job["batches"]
    assert entry["fetch"] == [{"copy": str(split), "path": upload.path}]
    service = next(iter(planned.job["projects"].values()))["services"]["alpha"]["services"]["alpha"]
    assert f'"{upload.path}"' in service
    assert '"/weights/m-00001-of-00003.gguf"' in service


def test_changed_second_part_is_another_model(split: Path) -> None:
    before = place(split)
    split.with_name("m-00002-of-00003.gguf").write_text("retrained")
    assert place(split) != before


def test_reports_missing_part_before_run(split: Path) -> None:
    split.with_name("m-00003-of-00003.gguf").unlink()
    with pytest.raises(InventoryError) as error:
        models(alpha={"weights": {"copy": str(split)}})
    assert "missing on this machine: 1 part of m-00001-of-00003.gguf." in str(error.value)
