"""How steps reach a host: the shell commands that pyinfra sends, run here by sh."""

import fcntl
import os
import re
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from paramiko.ssh_exception import SSHException
from pyinfra import host as current_host
from pyinfra.api import StringCommand
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host

from gpurack import paths, remote
from gpurack.operations import commands
from gpurack.operations.commands import Refusal, carry_out, slow, write_file, write_files
from gpurack.plan.steps import SetAside, Shell, Step, WriteFile
from gpurack.shell import Sh, sh
from tests.unit.host_programs import Fakes


def run(command: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input=command.connector_arguments.get("_stdin", ""),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def _own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of files is in a folder of the test."""
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run"))


@pytest.mark.usefixtures("_own_run")
@pytest.mark.parametrize("content", ["", "a\n", "größe $HOME `x` 'y' \"z\"", "a" * 100_000])
def test_writes_file_unchanged(tmp_path: Path, content: str) -> None:
    path = tmp_path / "new folder/it's"
    assert run(write_file(str(path), content, "640")).returncode == 0
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (content, 0o640)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert content not in write_file(str(path), content, "640").get_raw_value() or not content


@pytest.mark.usefixtures("_own_run")
def test_failed_write_keeps_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    assert run(write_file(str(tmp_path / "a"), "new", "no mode")).returncode != 0
    assert (tmp_path / "a").read_text() == "old"
    assert run(write_file(str(tmp_path / "a"), "new", "644")).returncode == 0
    assert ((tmp_path / "a").read_text(), [*tmp_path.glob(".gpurack-new")]) == ("new", [])


@pytest.mark.usefixtures("_own_run")
@pytest.mark.parametrize("arrived", [0, 3, 5, 7])
def test_nothing_is_written_of_what_did_not_arrive_whole(tmp_path: Path, arrived: int) -> None:
    """The shell of a run that was killed while it sent goes on with what it got."""
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    command = write_files(
        [WriteFile("", f"{tmp_path}/a", "newer", "644"), WriteFile("", f"{tmp_path}/b", "new", "644")]
    )
    text = str(command.connector_arguments["_stdin"])[:arrived]
    done = subprocess.run(
        ["sh", "-c", command.get_raw_value()], input=text, text=True, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["old", "old"]


@pytest.mark.usefixtures("_own_run")
def test_a_run_whose_connection_is_dead_keeps_no_other_from_writing(tmp_path: Path) -> None:
    """Its shell waits for the rest of its files, for hours."""
    command = write_file(f"{tmp_path}/a", "new", "644")
    argv = ["sh", "-c", str(command.get_raw_value())]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as dead:
        assert dead.stdin
        dead.stdin.write(b"ne")
        dead.stdin.flush()
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("run/sent.*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert subprocess.run(argv, input=b"newwhole\n", timeout=60, check=False).returncode == 0
    assert (tmp_path / "a").read_text() == "new"
    assert [path.name for path in tmp_path.glob("run/*")] == ["files"]


@pytest.mark.usefixtures("_own_run")
def test_a_run_that_waits_for_files_of_another_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "WRITING", 0)
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/files").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run(write_file(f"{tmp_path}/a", "new", "644"))
    assert (done.returncode, done.stdout) == (1, "error another run writes gpurack's files on this host\n")


@pytest.mark.usefixtures("_own_run")
@pytest.mark.parametrize("program", ["install", "mktemp", "head"])
def test_full_disk_is_no_other_run_that_writes_files(tmp_path: Path, fakes: Fakes, program: str) -> None:
    fakes.add(program, f"echo '{program}: No space left on device' >&2; exit 1")
    done = run(write_file(f"{tmp_path}/a", "new", "644"))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{program}: No space left on device\n")


def test_keeps_foreign_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.paths, "BACKUPS", str(tmp_path / "backups"))
    old = tmp_path / "docker.list"
    old.write_text("deb …")
    (command,) = carry_out(SetAside("x", str(old)))
    assert run(command).returncode == 0
    assert not old.exists()
    (kept,) = (tmp_path / "backups").iterdir()
    assert kept.read_text() == "deb …"


def test_fast_command_prints_no_progress() -> None:
    done = run(slow(sh("echo much; echo more >&2")))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_failed_command_shows_last_lines_and_exit_code() -> None:
    done = run(slow(sh("seq 100; echo 'E: no such package' >&2; exit 7")))
    assert done.returncode == 7
    assert done.stdout.splitlines() == [*map(str, range(87, 101)), "E: no such package"]


def test_long_step_is_ended_after_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say one whose package manager waits for a mirror that sends a byte a minute."""
    monkeypatch.setattr(commands, "LONG", 0.0001)
    (command,) = carry_out(Shell("install a", sh("echo begun; sleep 60"), slow=True))
    done = run(command)
    assert done.returncode == 124
    assert done.stdout.splitlines() == ["begun", "error this step did not end within 0.0001 h"]
    (command,) = carry_out(Shell("install a", sh("echo much; exit 7"), slow=True))
    assert (run(command).returncode, run(command).stdout) == (7, "much\n")


def test_long_step_that_had_to_be_killed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "LONG", 0.0001)
    monkeypatch.setattr(commands, "MERCY", 0.5)
    (command,) = carry_out(Shell("install a", sh("trap '' TERM; sleep 3; sleep 60"), slow=True))
    done = run(command)
    assert done.returncode == 137
    assert done.stdout.splitlines()[-1] == "error this step did not end within 0.0001 h"


def test_slow_command_prints_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "SIGN_OF_LIFE", 0.1)
    done = run(slow(sh("printf 'a\\rUnpacking docker-ce'; sleep 0.7")))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"0:\d\d  Unpacking docker-ce", lines[-1])
    # a progress line may come before any output
    assert all(re.fullmatch(r"0:\d\d(  Unpacking docker-ce| *)", line) for line in lines)


@pytest.mark.parametrize("wrapper", [lambda command: slow(command).get_raw_value(), commands.within_limit])
def test_killed_command_keeps_no_connection_open(wrapper: Callable[[Sh], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of the shells alone: nothing is printed any more when their command has ended."""
    monkeypatch.setattr(commands, "SIGN_OF_LIFE", 0.1)
    begun = subprocess.Popen(["sh", "-c", f"{wrapper(sh('sleep 2'))}; :"], stdout=subprocess.PIPE)
    assert begun.stdout
    assert begun.stdout.read(1), "it shows a sign of life"
    family = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    shells = [int(line.split()[0]) for line in family.splitlines() if line.split()[1:] == [str(begun.pid), "sh"]]
    for pid in (begun.pid, *shells):
        os.kill(pid, signal.SIGKILL)
    begun.wait()
    ended = threading.Thread(target=begun.stdout.read, daemon=True)
    ended.start()
    ended.join(10)
    assert not ended.is_alive()


def test_command_is_one_shell_word() -> None:
    (command,) = carry_out(Shell("x", sh("echo 'it is' \"$((1 + 1))\" && false || exit 3")))
    done = run(command)
    assert (done.returncode, done.stdout) == (3, "it is 2\n")


def test_refusal_fails_without_command() -> None:
    assert Refusal(["why"]).get_raw_value() == "false"


def test_unknown_step_is_internal_error() -> None:
    with pytest.raises(TypeError, match="no commands for"):
        list(carry_out(Step("x")))


def test_files_are_on_disk_before_they_get_their_names(tmp_path: Path, fakes: Fakes, monkeypatch: Any) -> None:
    """A power cut leaves old or new files; and a umask of 077 closes no folder above them."""
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run"))
    files = [WriteFile("", f"{tmp_path}/lib/deep/{name}", name, "644") for name in ("a", "b")]
    fakes.add("sync", f'(cd {tmp_path}/lib/deep && find . -type f | sort) >>"$STATE/seen"')
    command = write_files(files)
    subprocess.run(
        ["sh", "-c", f"umask 077; {command}"], input=str(command.connector_arguments["_stdin"]), text=True, check=True
    )
    assert (fakes.folder / "state/seen").read_text().split() == [
        "./.gpurack-new/a", "./.gpurack-new/b", "./a", "./b",
    ]  # fmt: skip
    there = f"{tmp_path}/lib/deep"
    assert fakes.calls == [f"sync {there}/.gpurack-new/a {there}/.gpurack-new/b", f"sync {there}"]
    modes = [
        oct(path.stat().st_mode)[-3:] for path in (tmp_path / "lib", tmp_path / "lib/deep", tmp_path / "lib/deep/a")
    ]
    assert modes == ["755", "755", "644"]


def test_files_that_need_each_other_get_their_names_at_once(tmp_path: Path, fakes: Fakes, monkeypatch: Any) -> None:
    """The modules of the runner: a kill between two of them would leave a host that starts no model at boot."""
    monkeypatch.setattr(paths, "RUN", str(tmp_path / "run"))
    fakes.add("mv", '/bin/mv "$@"')
    command = write_files([WriteFile("", f"{tmp_path}/lib/{name}", name, "644") for name in ("a", "b", "c")])
    assert run(command).returncode == 0
    assert len([call for call in fakes.calls if call.startswith("mv ")]) == 1
    assert sorted(path.name for path in (tmp_path / "lib").iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("error", [SSHException("SSH session not active"), EOFError(), None])
def test_a_lost_connection_is_named(error: Exception | None) -> None:
    """An exception, or (None) exit code -1 without output, as pyinfra says it when the transport has ended."""

    def answer(*command: Any, **arguments: Any) -> Any:
        if error:
            raise error
        return False, CommandOutput([OutputLine("stdout", "alpha: loading")])

    transport = SimpleNamespace(is_active=lambda: False)
    connector = SimpleNamespace(client=SimpleNamespace(get_transport=lambda: transport))
    host: Any = SimpleNamespace(run_shell_command=answer, connector=connector, log=print)
    ok, output = remote.run(host, StringCommand("true"))
    assert not ok
    assert output.output_lines[-1] == f"error {remote.LOST}"


def test_a_wait_for_an_answer_is_told_in_another_greenlet(monkeypatch: Any) -> None:
    """There pyinfra's `host`, which operations and facts pass on, names no host."""
    monkeypatch.setattr(remote, "SIGN_OF_LIFE", 0.01)
    said: list[str] = []
    with ctx_host.use(SimpleNamespace(log=said.append)), remote.telling(current_host):
        gevent.sleep(0.2)
    assert said
    assert said[0].startswith("waiting for an answer of the host, ")
