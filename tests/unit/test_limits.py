"""No command of a run on a host is waited for without end, and none without saying so."""

from __future__ import annotations

import ast
import errno
import inspect
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpurack.operations import commands
from gpurack.shell import Sh, sh
from tests.sources import name_of
from tests.unit import host_programs
from tests.unit.host_programs import Fakes, load

assert host_programs
import docker_commands  # noqa: E402
import dockerd as dockerd_module  # noqa: E402
import download  # noqa: E402
import locks  # noqa: E402
import messages  # noqa: E402 (of files/)
import programs  # noqa: E402 (of files/)
import progress  # noqa: E402 (of files/)

pytestmark = pytest.mark.sampled

FILES = Path(__file__).parents[2] / "files"
LIMITED = {
    "programs.Child": "each has a limit, by default programs.LIMIT",
    "docker_restart.run": "each has a limit, by default docker_restart.LIMIT",
    "download.attempt": "curl ends when it stalls (--speed-limit), and says its progress",
    "evidence_parts.run": "verification: each part has a limit of its own",
    "hashes.output_as": "ends after SILENCE or LONG",
    "logs.show_container": "ends after PATIENCE, or when its reader does",
    "rootless.run": "the whole program ends after USER_PROGRAM (gpurack/operations/commands.py)",
    "with_lock.main": "a program of these, under a lock",
}
"""Where programs are started, and what limits them there."""


def starting() -> Iterator[tuple[str, ast.Call]]:
    """(module.function or class, call) of each start of a program in files/."""
    for path in sorted(FILES.glob("*.py")):
        for top in ast.parse(path.read_text()).body:
            for node in ast.walk(top):
                name = name_of(node.func) if isinstance(node, ast.Call) else ""
                if name.startswith(("subprocess.", "os.system", "os.popen", "os.spawn", "os.exec", "pty.")):
                    assert isinstance(node, ast.Call)
                    yield f"{path.stem}.{getattr(top, 'name', '')}", node


def test_programs_are_started_only_where_they_have_a_limit() -> None:
    assert {place for place, _ in starting()} == set(LIMITED)


def test_no_call_switches_a_limit_off() -> None:
    for path in FILES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for word in node.keywords if isinstance(node, ast.Call) else ():
                off = isinstance(word.value, ast.Constant) and not word.value.value
                assert not (word.arg in ("limit", "timeout") and off), f"{path.name}:{word.value.lineno}"
    assert inspect.signature(programs.Child).parameters["limit"].default == programs.LIMIT > 0


@pytest.fixture
def host(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The host's own Docker, which answers nothing; limits of less than a second."""
    fakes.add("docker", "exec sleep 60")
    monkeypatch.setattr("dockerd.CONFIG", str(tmp_path / "etc"))
    for name in ("ANSWER", "CHANGE", "START", "LONG", "SILENCE"):
        monkeypatch.setattr(docker_commands, name, 0.2)
    monkeypatch.setattr(docker_commands, "PATIENCE", 2)
    return dockerd_module.Dockerd()


COMMANDS: dict[str, Callable[[Any], Any]] = {
    "docker container inspect": lambda host: host.inspect("alpha"),
    "docker image ls": lambda host: host.run("image", "ls", "--all"),
    "docker compose config": lambda host: host.refusal("services: {alpha: {image: x}}"),
    "docker compose up": lambda host: host.up("alpha"),
    "docker compose create": lambda host: host.within(host.compose("create", "alpha")),
    "docker compose pull": lambda host: host.follow(
        ["--config", "/run/pull", *host.compose("pull", "alpha")], lambda line: None
    ),
    "docker rm": lambda host: host.must("rm", "--force", "alpha"),
    "docker wait": lambda host: host.must("wait", "alpha"),
    "docker logs": lambda host: host.follow(["logs", "--follow", "alpha"], lambda line: None),
    "docker rename": lambda host: host.limited("rename", "a", "b", limit=0.2),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_hanging_docker_of_the_host_ends_with_a_sentence(host: Any, what: str) -> None:
    begun = time.monotonic()
    with pytest.raises(messages.Failure) as caught:
        COMMANDS[what](host)
    assert time.monotonic() - begun < 8
    assert str(caught.value) in (f"{what} gave no answer within {limit} s" for limit in ("0.2", "0.4"))


def test_silent_command_says_what_is_waited_for(host: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    monkeypatch.setattr(docker_commands, "CHANGE", 1)
    with pytest.raises(messages.Failure):
        host.run("rm", "alpha")
    assert "waiting for docker rm, 0 s" in capsys.readouterr().out


def test_it_is_said_once(host: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """While a step shows its own progress, its commands show none."""
    monkeypatch.setattr(progress, "EVERY", 0)
    monkeypatch.setattr(docker_commands, "CHANGE", 1)
    with pytest.raises(messages.Failure), progress.show_progress(progress.Progress("alpha"), "loading i:1"):
        host.run("load")
    said = capsys.readouterr().out
    assert "alpha: loading i:1" in said
    assert "waiting for" not in said


PROGRAM = "import sys; sys.path.insert(0, {!r}); import programs; programs.run('sh', '-c', {!r})"


def test_programs_die_with_the_runner(tmp_path: Path) -> None:
    """What a killed run leaves must not be worked on by two."""
    pid = tmp_path / "pid"
    text = PROGRAM.format(str(FILES), f"echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 60")
    with subprocess.Popen([sys.executable, "-c", text]) as runner:
        until(pid.exists)
        runner.kill()
    program = Path("/proc", pid.read_text().strip())
    until(lambda: not program.exists() or " Z " in (program / "stat").read_text())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_missing_program_is_a_sentence() -> None:
    with pytest.raises(messages.Failure, match=r"^nvidia-ctk-x is not installed on this host$"):
        programs.run("nvidia-ctk-x", "cdi", "list")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/etc/gpurack/a"), "/etc/gpurack/a: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("the answer was cut off"), "the answer was cut off"),
        (messages.Failure("docker rm failed"), "docker rm failed"),
        (KeyError("id"), "KeyError: 'id'"),
    ],
)
def test_errors_of_the_system_are_sentences(error: Exception, text: str) -> None:
    assert messages.describe_error(error) == text


def test_quick_command_says_nothing(capsys: Any) -> None:
    assert programs.run("sh", "-c", "echo one; echo two >&2") == (0, "one\ntwo")
    assert programs.run("sh", "-c", "exit 3") == (3, "")
    assert capsys.readouterr().out == ""


def test_nothing_is_lost_that_a_program_prints_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy host it prints and ends between the look at its output and the look at its state."""
    child, real, looks = programs.Child(["echo", "hello"]), programs.select.select, list[int]()

    def late(*arguments: Any) -> Any:
        looks.append(1)
        return real(*arguments) if len(looks) > 1 else (child.process.wait(), ([], [], []))[1]

    monkeypatch.setattr(programs.select, "select", late)
    assert (b"".join(child.output()), child.code) == (b"hello\n", 0)


def test_silence_has_a_sentence_of_its_own() -> None:
    with pytest.raises(messages.TimeIsUp, match=r"^git fetch printed nothing for 0\.2 s$"):
        programs.follow(["sh", "-c", "echo one; sleep 60"], lambda line: None, limit=30, silence=0.2, what="git fetch")


def test_quick_step_of_a_plan_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "QUICK", 1)
    monkeypatch.setattr(commands, "SIGN_OF_LIFE", 0.4)

    def done(command: Sh) -> tuple[int, str]:
        found = subprocess.run(["sh", "-c", commands.within_limit(command)], capture_output=True, text=True, timeout=20)
        return found.returncode, found.stdout

    code, said = done(sh("sleep 30; echo {}", r"it\n"))
    assert (code, said.splitlines()[0]) == (124, r"waiting for sleep 30; echo 'it\n'")
    assert said.splitlines()[-1] == r"error sleep 30; echo 'it\n': no end in 1 s"
    assert done(sh("echo one; exit 3")) == (3, "one\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0.2 s"), (30, "30 s"), (90, "90 s"), (600, "10 min"), (57600, "16 h"), (9000, "2.5 h")]
)
def test_limits_as_text(seconds: float, text: str) -> None:
    assert messages.rounded(seconds) == text


def test_restart_of_docker_says_what_is_waited_for(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    module = load("docker_restart")
    monkeypatch.setattr(module, "EVERY", 0.2)
    begun = time.monotonic()
    code, why = module.run("sh", "-c", "sleep 60 & exec sleep 60", limit=1)
    assert time.monotonic() - begun < 8
    assert (code, why) == (124, "`sh -c sleep 60 & exec sleep 60` did not end within 1 s")
    assert capsys.readouterr().out.startswith("waiting for sh -c sleep 60 & exec sleep 60, 0 of at most 1 s\n")
    assert module.run("sh", "-c", "echo one; exit 3") == (3, "one")


# --- locks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the host's lock; a wait for it is told at once, and ends soon."""
    monkeypatch.setattr(locks, "LOCK", str(tmp_path / "run/lock"))
    monkeypatch.setattr(locks, "BUSY", str(tmp_path / "run/busy"))
    monkeypatch.setattr(progress, "EVERY", 0)
    monkeypatch.setattr(locks, "LOCK_LIMIT", 1.5)
    return tmp_path / "run/lock"


def wait_for_lock(lock: Path) -> None:
    with locks.locked("models"):
        pass


def wait_for_download(lock: Path) -> None:
    with download.locked("alpha", str(lock)):
        pass


def wait_for_turn(lock: Path) -> None:
    with download.turn("alpha", 1):
        pass


HOLDING: dict[Callable[[Path], None], Callable[[Path], Any]] = {
    wait_for_lock: lambda lock: locks.locked("jobs"),
    wait_for_download: lambda lock: download.locked("alpha", str(lock)),
    wait_for_turn: lambda lock: download.turn("alpha", 1),
}


@pytest.mark.parametrize("wait", HOLDING)
def test_wait_for_another_run_has_a_limit(wait: Callable[[Path], None], lock: Path, capsys: Any) -> None:
    lock.parent.mkdir()
    begun = time.monotonic()
    with HOLDING[wait](lock), pytest.raises(messages.TimeIsUp, match=r"^no end in 1\.5 s: waiting for "):
        wait(lock)
    assert time.monotonic() - begun < 8
    assert "waiting for " in capsys.readouterr().out


def test_a_stopped_run_that_looks_for_the_holder_of_a_lock_keeps_none_waiting(lock: Path) -> None:
    """It holds the lock of that look, which nothing releases."""
    lock.parent.mkdir()
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    argv = [sys.executable, "-c", code, str(lock.parent / "replacing")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with locks.locked("jobs"), pytest.raises(messages.TimeIsUp):
            wait_for_lock(lock)
        other.kill()
