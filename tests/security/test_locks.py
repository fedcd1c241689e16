"""Nobody blocks a run: locks are root's only and no program inherits them. A silent Docker of a user fails that user's
models and none of the host's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpurack import paths
from gpurack.facts.parts import User
from gpurack.facts.record import Entry
from gpurack.operations import commands
from gpurack.plan.remove import plan_remove
from gpurack.plan.steps import Shell
from gpurack.resources import program
from gpurack.shell import NOTHING, sh
from tests.given import container, host_state, id_of
from tests.security.hosts import DOCKER, READY, carry_out, entry, runner
from tests.security.users import needs_root
from tests.unit.host_programs import FILES, Fakes, load

import locks  # isort: skip (of files/)
import messages  # isort: skip
import programs  # isort: skip

pytestmark = pytest.mark.sampled


@pytest.fixture
def models(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    return runner(tmp_path, fakes, monkeypatch)


def is_free(path: str) -> bool:
    """Can the lock be taken now?"""
    if not Path(path).exists():
        return True
    with Path(path).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def mode(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


# --- whose they are --------------------------------------------------------------------------------------------------


def test_makes_lock_folder_private_again() -> None:
    folder = str(Path(locks.LOCK).parent)
    Path(folder).mkdir(mode=0o755, parents=True)
    with locks.locked("models", ["", "ada"]):
        assert mode(folder) == 0o700
        assert (mode(locks.LOCK), mode(locks.LOCK + ".ada")) == (0o600, 0o600)
        assert not is_free(locks.LOCK)
        assert not is_free(locks.LOCK + ".ada")
        assert locks.holder("ada").startswith("models since ")
    assert is_free(locks.LOCK)
    assert not Path(locks.BUSY + ".ada").exists()


def test_no_program_inherits_lock() -> None:
    with locks.locked("models", ["", "ada"]):
        for options in ({}, {"limit": 5}):
            said = programs.run("sh", "-c", "ls -l /proc/self/fd", **options)[1]
            assert "lock" not in said


def test_runs_that_need_several_locks_do_not_block_each_other() -> None:
    threads = [
        threading.Thread(target=lambda users=users: [take(users) for _ in range(20)], daemon=True)  # type: ignore[misc]
        for users in (["ada", "", "bob"], ["bob", "ada"], ["", "bob"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_no_lock_is_held_while_another_one_is_waited_for(capsys: Any, monkeypatch: Any) -> None:
    """A run may be at work in a user's Docker for hours, and more so where the user delays it."""
    monkeypatch.setattr("progress.EVERY", 0)
    users = ["", "ada", "bob"]
    with held(locks.LOCK + ".ada", 0) as pid:
        waiting = threading.Thread(target=take, args=(users,))
        waiting.start()
        wait_until(lambda: f"(pid {pid}, user" in capsys.readouterr().out)
        assert [is_free(locks.LOCK + end) for end in ("", ".bob")] == [True, True]
        assert [Path(locks.BUSY + end).exists() for end in ("", ".bob")] == [False, False]
        assert waiting.is_alive()
        os.kill(pid, signal.SIGKILL)
        waiting.join(10)
    assert not waiting.is_alive()
    with locks.locked("models", users):
        assert not any(is_free(locks.LOCK + end) for end in ("", ".ada", ".bob"))


def take(users: list[str]) -> None:
    with locks.locked("models", users):
        pass


def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, user: str) -> subprocess.CompletedProcess[str]:
    """Run a program of files/ here, sent as the operations send it."""
    monkeypatch.setattr(paths, "RUN", f"{tmp_path}/run")
    monkeypatch.setattr(paths, "LOCK", f"{tmp_path}/run/lock")
    monkeypatch.setattr(
        commands, "whole_program", lambda name, *parts: script if name == "x" else program(name, *parts)
    )
    command = commands.program("x", {}, user, sh("env") if user else NOTHING)
    return subprocess.run(
        ["sh", "-c", command.get_raw_value()], input=command.connector_arguments["_stdin"], capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip


DESCRIPTORS = (
    "import os\nprint([os.readlink('/proc/self/fd/%s' % fd) for fd in os.listdir('/proc/self/fd') if fd != '3'])"
)


@pytest.mark.parametrize("user", ["", "ada"])
def test_program_runs_under_lock_without_having_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: str) -> None:
    lock = f"{tmp_path}/run/lock.ada" if user else f"{tmp_path}/run/lock"
    held = f"import subprocess\nprint(subprocess.call(['flock', '-n', {lock!r}, 'true']))\n"
    done = sent(monkeypatch, tmp_path, held + DESCRIPTORS, user)
    assert done.returncode == 0, done.stderr
    code, descriptors = (line.removeprefix("ada's Docker: ") for line in done.stdout.splitlines())
    assert code == "1"
    assert "lock" not in descriptors
    assert (tmp_path / "run/lock").exists() == (not user), "the host's lock is not held for a user's program"


def test_program_of_user_cannot_speak_for_another_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its user can make it print anything."""
    prints = ["error alpha: its GPU is gone", "beta: removed", "error ada's Docker: it failed:", "    | its last line"]
    done = sent(monkeypatch, tmp_path, f"print({chr(10).join(prints)!r})", "ada")
    assert done.stdout.splitlines() == [
        "error ada's Docker: alpha: its GPU is gone", "ada's Docker: beta: removed", *prints[2:]
    ]  # fmt: skip


def test_limits_program_of_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also if a child of it keeps its output open."""
    monkeypatch.setattr(commands, "USER_PROGRAM", 1)
    begun = time.monotonic()
    done = sent(
        monkeypatch, tmp_path, "import subprocess, time\nsubprocess.Popen(['sleep', '30'])\ntime.sleep(30)", "ada"
    )
    assert time.monotonic() - begun < 15
    assert (done.returncode, done.stdout) == (124, "error ada's Docker: no end in 1 s\n")


# --- programs of a user's --------------------------------------------------------------------------------------------

HANGING = {
    "silent": "sleep 30",
    "child-holds-output": "sleep 30 & exec sleep 30",
    "in-a-session-of-its-own": "setsid sleep 30 & exec sleep 30",
    "prints-for-ever": "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
    "closed-its-output": "exec >/dev/null 2>&1; sleep 30",
}


@pytest.mark.parametrize("script", HANGING.values(), ids=HANGING.keys())
def test_kills_hanging_program(script: str) -> None:
    begun = time.monotonic()
    with pytest.raises(messages.TimeIsUp):
        programs.run("sh", "-c", script, limit=0.3)
    assert time.monotonic() - begun < 8


def test_does_not_wait_for_children_of_program() -> None:
    begun = time.monotonic()
    assert programs.run("sh", "-c", "setsid sleep 30 & echo well", limit=20) == (0, "well")
    assert time.monotonic() - begun < 8


def test_kills_silent_pull() -> None:
    begun = time.monotonic()
    with pytest.raises(messages.TimeIsUp):
        programs.follow(["sh", "-c", "echo one; sleep 30"], lambda line: None, limit=60, silence=0.3)
    assert time.monotonic() - begun < 8


def test_limits_kept_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LARGEST", 100_000)
    code, said = programs.run("sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x", limit=30)
    assert (code, len(said) < 300_000) == (0, True)


# --- a run -----------------------------------------------------------------------------------------------------------

ADAS = '[ "$OWNER" = ada ] && case "$*" in {} esac\n'


def users_docker(fakes: Fakes, cases: str) -> None:
    """A fake Docker in which ada's daemon runs this; the host's own daemon is healthy."""
    fakes.add("docker", ADAS.format(cases) + DOCKER)


def test_silent_daemon_fails_models_of_its_user_only(
    models: Any, fakes: Fakes, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker_commands.ANSWER", "docker_commands.CHANGE", "docker_commands.START"):
        monkeypatch.setattr(name, 2)
    users_docker(fakes, "*) sleep 60;;")
    groups = [entry("alpha")], [entry("beta", user="ada")], [entry("gamma", user="ada")]
    begun = time.monotonic()
    assert carry_out(models, *groups).failures == 2
    assert time.monotonic() - begun < 30
    lines = capsys.readouterr().out.splitlines()
    assert "alpha: ready after 0:00" in lines
    errors = [line for line in lines if line.startswith("error ")]
    assert [line.split(":")[0] for line in sorted(errors)] == ["error beta", "error gamma"]
    why = "the Docker of ada does not answer (docker image inspect: nothing within"
    assert all(why in line for line in errors)


def test_silent_daemon_is_not_asked_again(models: Any, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls silent while it creates a container; later commands fail at once."""
    monkeypatch.setattr("docker_commands.START", 1)
    users_docker(fakes, '*" up "*) sleep 60;;')
    ada = models.Dockerd("ada")
    for act in (lambda: ada.up("beta"), lambda: ada.run("ps"), lambda: ada.up("gamma")):
        with pytest.raises(models.Failure, match="the Docker of ada does not answer"):
            act()
    assert [call.split()[-1] for call in fakes.calls] == ["beta"]


@pytest.mark.parametrize(
    ("words", "limit"),
    [(["ps"], 30), (["container", "inspect", "x"], 30), (["stop", "x"], 90), (["rm", "x"], 90), (["compose"], 90)],
    ids=str,
)
def test_limits_time_of_users_docker(
    models: Any, words: list[str], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr("docker_commands.run", lambda *argv, limit, what: (given.append(limit), (0, ""))[1])
    models.Dockerd("ada").run(*words)
    models.Dockerd().run(*words)
    assert given == [limit, 4 * limit], "the host's own daemon gets more"


def test_host_lock_is_free_while_waiting_for_users_daemon(models: Any, fakes: Fakes) -> None:
    probe = f'sleep 2; flock -w 20 {locks.LOCK} true && echo free >>"$STATE/seen" || echo held >>"$STATE/seen"'
    users_docker(fakes, f'"image inspect"*) {probe};;')
    assert carry_out(models, [entry("alpha")], [entry("beta", user="ada")]).failures == 0
    assert set((fakes.folder / "state/seen").read_text().split()) == {"free"}


def test_service_waits_for_users_model_without_lock(models: Any, fakes: Fakes) -> None:
    probe = f'sleep 2; flock -w 20 {locks.LOCK} true && echo free >>"$STATE/seen" || echo held >>"$STATE/seen"'
    users_docker(fakes, f'"image inspect"*) {probe};;')
    groups = [entry("alpha", after=["beta"])], [entry("beta", user="ada")], [entry("gamma", after=["alpha"])]
    assert carry_out(models, *groups).failures == 0
    assert set((fakes.folder / "state/seen").read_text().split()) == {"free"}
    assert READY == ["beta", "alpha", "gamma"]


MIXED = [entry("alpha", "remove"), entry("beta", user="ada")]
"""A GPU moves from a model of the host to one of ada's."""


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ([], [(["", "ada"], ["alpha beta"]), (["bob"], [])]),
        ([[entry("gamma", user="bob")]], [(["", "ada"], ["alpha beta"]), (["bob"], ["gamma"])]),
        ([[entry("gamma")]], [([""], ["gamma"]), (["", "ada"], ["alpha beta"]), (["bob"], [])]),
        ([[entry("gamma", user="ada")]], [(["", "ada"], ["alpha beta"]), (["ada"], ["gamma"]), (["bob"], [])]),
    ],
    ids=["alone", "bob", "host", "ada"],
)
def test_only_mixed_group_needs_both_dockers(models: Any, more: Any, parts: Any) -> None:
    job = models.Job({"projects": {"": {}, "ada": {}, "bob": {}}, "batches": [MIXED, *more]})
    found = [(sorted(users), [" ".join(models.names(group)) for group in mine]) for users, mine in job.parts()]
    assert sorted(found) == parts


def test_mixed_group_with_silent_daemon_keeps_no_other_model_of_the_host_from_its_change(
    models: Any, fakes: Fakes, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker_commands.ANSWER", "docker_commands.CHANGE", "docker_commands.START"):
        monkeypatch.setattr(name, 2)
    users_docker(fakes, '*" config "*) sleep 60;;')
    assert carry_out(models, [entry("alpha"), entry("beta", user="ada")], [entry("gamma")]).failures == 2
    lines = capsys.readouterr().out.splitlines()
    assert "gamma: ready after 0:00" in lines
    assert sorted(line.split(":")[0] for line in lines if line.startswith("error ")) == ["error alpha", "error beta"]


def test_mixed_group_and_groups_of_its_dockers_all_change(models: Any, capsys: Any) -> None:
    """They share compose.yaml, and take turns at the locks."""
    groups = [entry("alpha"), entry("beta", user="ada")], [entry("gamma")]
    assert carry_out(models, *groups).failures == 0
    assert sorted(READY) == ["alpha", "beta", "gamma"]
    assert "another gpurack run" not in capsys.readouterr().out
    services = {
        user: yaml.safe_load(Path(models.Dockerd(user).compose_file).read_text())["services"] for user in ("", "ada")
    }
    assert {user: sorted(found) for user, found in services.items()} == {"": ["alpha", "gamma"], "ada": ["beta"]}


def test_mixed_group_holds_no_lock_of_the_host_for_any_command_of_a_user(models: Any, fakes: Fakes) -> None:
    """ada decides how long each one takes."""
    probe = f'flock -n {locks.LOCK} true && echo "free $1" >>"$STATE/seen" || echo "held $*" >>"$STATE/seen"'
    fakes.add("docker", f'[ "$OWNER" = ada ] && {{ {probe}; }}\n' + DOCKER)
    assert carry_out(models, [entry("alpha"), entry("beta", user="ada")]).failures == 0
    seen = (fakes.folder / "state/seen").read_text().splitlines()
    assert not [line for line in seen if not line.startswith("free ")]
    assert {"free compose", "free container", "free image", "free start", "free update"} <= set(seen)


def test_daemon_gets_no_more_time_than_it_was_given(models: Any, fakes: Fakes) -> None:
    users_docker(fakes, "*) sleep 60;;")
    ada = models.Dockerd("ada")
    ada.give(0.5)
    for _ in range(2):
        with pytest.raises(models.Failure, match=r"the Docker of ada (does not answer|took longer than 0.5 s)"):
            ada.run("ps")
    assert len(fakes.calls) == 1
    assert ada.silent is None, "it may answer within the usual time"
    ada.extend(3600)
    assert 20 < ada.allowed(30) <= 30, "so long the run waited for something else"
    ada.give(None)
    ada.extend(3600)
    assert ada.allowed(30) == 30


def test_missing_user_fails_alone(models: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_user(user: str) -> Any:
        raise models.Failure(f"the user {user} does not exist")

    monkeypatch.setattr("accounts.as_user", no_such_user)
    assert carry_out(models, [entry("alpha")], [entry("beta", user="eve")]).failures == 1
    out = capsys.readouterr().out
    assert "error beta: the user eve does not exist\n" in out
    assert "alpha: ready after" in out


def test_flock_closes_lock_in_its_command() -> None:
    """`flock LOCK COMMAND` without `-o` leaves the lock open in the command and everything it starts."""
    sources = [*FILES.iterdir(), *(FILES.parent / "gpurack").rglob("*.py")]
    texts = [path.read_text() for path in sources if path.is_file()]
    form = r"\bflock (?!(?:-w (?:\{\}|\d+) |-n -E 75 )?9\b)[^\"'`]*"
    calls = [call for text in texts for call in re.findall(form, text)]
    assert calls
    assert [call for call in calls if not re.match(r"flock (-s )?(-n )?-o\b", call)] == []


# --- a lock that others hold -----------------------------------------------------------------------------------------

HOLDS = (
    "import fcntl, os, sys, time; path, kind, uid = sys.argv[1:]; lock = open(path); "
    "fcntl.flock(lock, fcntl.LOCK_EX if kind == 'alone' else fcntl.LOCK_SH); uid != '0' and os.setuid(int(uid)); "
    "print('held', flush=True); time.sleep(60)"
)


@contextlib.contextmanager
def held(path: str, uid: int, kind: str = "alone") -> Iterator[int]:
    """Another process holds a lock, as when everybody could read the file; yields its id."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).touch()
    argv = [sys.executable, "-c", HOLDS, path, kind, str(uid)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            yield process.pid
        finally:
            process.kill()


@needs_root
@pytest.mark.parametrize("kind", ["alone", "together"])
def test_replaces_lock_held_by_user(capsys: Any, kind: str) -> None:
    with held(locks.LOCK, 65534, kind) as pid:
        before = Path(locks.LOCK).stat().st_ino
        with locks.locked("models"):
            assert Path(locks.LOCK).stat().st_ino != before
            assert not is_free(locks.LOCK)
            assert mode(locks.LOCK) == 0o600
    said = capsys.readouterr().out
    assert f"{locks.LOCK} was held by `{sys.executable} -c import fcntl" in said
    assert f"(pid {pid}, user nobody), so it was replaced" in said


@needs_root
def test_waits_for_lock_held_by_root_and_names_holder(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("progress.EVERY", 0)
    with held(locks.LOCK, 0) as pid:
        before = Path(locks.LOCK).stat().st_ino
        waiting = threading.Thread(target=take, args=([""],))
        waiting.start()
        wait_until(lambda: f"(pid {pid}, user root))" in capsys.readouterr().out)
        assert waiting.is_alive()
        os.kill(pid, signal.SIGKILL)
        waiting.join(10)
    assert not waiting.is_alive()
    assert Path(locks.LOCK).stat().st_ino == before


@needs_root
def test_keeps_lock_while_older_version_waits_for_it(capsys: Any, monkeypatch: Any) -> None:
    """The older version would get the old file when its holder ends, and run beside one with the new file."""
    monkeypatch.setattr("progress.EVERY", 0)
    with held(locks.LOCK, 65534) as pid, held_open(locks.LOCK) as older:
        before = Path(locks.LOCK).stat().st_ino
        waiting = threading.Thread(target=take, args=([""],))
        waiting.start()
        wait_until(lambda: f"is not a gpurack run. End it: kill {pid}" in capsys.readouterr().out)
        assert Path(locks.LOCK).stat().st_ino == before
        older.kill()
        waiting.join(10)
        assert not waiting.is_alive(), "nobody waits for the old file now"


@contextlib.contextmanager
def held_open(path: str) -> Iterator[subprocess.Popen[str]]:
    """An older version that waits: a process of root that has the file open."""
    argv = [sys.executable, "-c", f"import time; lock = open({path!r}); print('open', flush=True); time.sleep(60)"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def test_waiter_for_replaced_lock_takes_new_one() -> None:
    """Otherwise two runs would work at once when the holder of the old one ends."""
    Path(locks.LOCK).parent.mkdir(parents=True)
    with open(locks.LOCK, "w") as old:  # noqa: PTH123
        assert locks.is_taken(old)
        Path(f"{locks.LOCK}.x").touch()
        Path(f"{locks.LOCK}.x").rename(locks.LOCK)
        assert not locks.is_at(old, locks.LOCK)
        with locks.locked("models"):
            assert not is_free(locks.LOCK)


@needs_root
def test_name_of_holder_is_printed_harmlessly(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(locks, "describe_process", lambda pid: "`\x1b[2J\nerror alpha: gone` (pid 7, user eve)")
    with held(locks.LOCK, 65534), locks.locked("models"):
        said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\nerror" not in said


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, at most 20 seconds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("stdin", [None, "print('from stdin')"])
def test_command_runs_under_locks_of_its_users(tmp_path: Path, monkeypatch: Any, stdin: str | None) -> None:
    monkeypatch.setattr(paths, "RUN", f"{tmp_path}/run")
    shell = "flock -n {} true; a=$?; flock -n {} true; echo $a $? $(cat {}) $(cat); exit 7"
    command = sh(shell, f"{tmp_path}/run/lock", f"{tmp_path}/run/lock.ada", f"{tmp_path}/run/busy.ada")
    text = commands.under_lock(command, "remove alpha", ["", "ada"], stdin)
    done = subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("1 1 remove alpha since ")
    assert ("from stdin" in done.stdout) == (stdin is not None)


@needs_root
@pytest.mark.parametrize("heard", [True, False])
def test_command_that_waits_ends_when_its_connection_is_lost(tmp_path: Path, monkeypatch: Any, heard: bool) -> None:
    """But not one that starts again what a restart of Docker stopped."""
    monkeypatch.setattr(paths, "RUN", f"{tmp_path}/run")
    monkeypatch.setattr(locks, "LOCK", f"{tmp_path}/run/lock")
    text = commands.under_lock(sh("touch {}", f"{tmp_path}/ran"), "finish", heard=heard)
    file = tmp_path / "program.py"
    file.write_text(text.replace("EVERY = 5 ", "EVERY = 0 "))
    with contextlib.ExitStack() as held:
        assert locks.take(locks.LOCK, held)
        process = subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        if heard:
            assert process.wait(30) == 1
        else:
            time.sleep(0.5)
            assert process.poll() is None
    assert process.wait(30) == (1 if heard else 0)
    assert (tmp_path / "ran").exists() != heard


@needs_root
@pytest.mark.parametrize("user", ["", "ada"])
def test_slow_step_and_program_of_user_end_too_where_they_wait(tmp_path: Path, monkeypatch: Any, user: str) -> None:
    """What keeps their output back must not also keep back that they wait."""
    monkeypatch.setattr(paths, "RUN", f"{tmp_path}/run")
    touch = sh("touch {}", f"{tmp_path}/ran")
    monkeypatch.setattr(commands, "SIGN_OF_LIFE", 0.1)
    (command,) = commands.carry_out(Shell("remove alpha", touch, slow=True, locks=("",)))
    if user:
        command = commands.program("rootless", {}, user, sh("{} && true", touch))
    stdin, raw = str(command.connector_arguments["_stdin"]), command.get_raw_value()
    (tmp_path / "stdin").write_text(stdin.replace("EVERY = 5 ", "EVERY = 0 "))
    with contextlib.ExitStack() as held, (tmp_path / "stdin").open() as given:
        assert locks.take(f"{tmp_path}/run/lock{'.ada' if user else ''}", held)
        process = subprocess.Popen(["sh", "-c", raw], stdout=subprocess.PIPE, stdin=given)
        assert process.stdout
        said = select.select([process.stdout], [], [], 20)[0] and process.stdout.readline()
        process.stdout.close()
        assert b"waiting for" in (said or b"")
        assert process.wait(30) == 1
    assert not (tmp_path / "ran").exists()


def test_removal_takes_locks_of_a_run() -> None:
    """Of each Docker from which it removes containers; from the host's also the users', since a change in both holds
    those alone. It takes all locks before it removes the folders in which runs write."""
    record = {"": {"alpha": Entry(id_of("alpha"), "model")}, "ada": {"beta": Entry(id_of("beta"), "model")}}
    facts = host_state(
        containers=(container("alpha", label={}), container("beta", label={}, user="ada")),
        users={"ada": User(1001, 1001, "/home/ada", docker={"ServerVersion": "28"})},
        files={paths.compose_file(""): "", paths.RECORD: "{}"},
        record=record,
    )
    steps = plan_remove(facts, "models").steps
    assert [(step.reason, step.locks) for step in steps if isinstance(step, Shell)] == [
        ("remove alpha", ("", "ada")),
        ("remove the project's network", ("", "ada")),
        ("remove beta of ada", ("ada",)),
        ("remove the project's network of ada", ("ada",)),
        ("remove compose.yaml, secrets and the runner", ("", "ada")),
        ("remove the record of gpurack's containers", ("", "ada")),
    ]


def test_a_change_begins_while_a_snapshot_asks_who_holds_it(models: Any, monkeypatch: Any) -> None:
    """It takes the lock for a moment: between the creation of the file and the lock of the run that created it."""
    claims = load("claims")
    path = Path(claims.place("b1"))
    path.parent.mkdir(parents=True, exist_ok=True)
    asking = path.open("w")
    fcntl.flock(asking, fcntl.LOCK_SH)
    threading.Timer(0.3, asking.close).start()
    with contextlib.ExitStack() as held:
        claims.hold("b1", held)
        monkeypatch.setattr(claims, "PATIENCE", 0)
        with contextlib.ExitStack() as other, pytest.raises(messages.Failure, match="is held by another process"):
            claims.hold("b1", other)
