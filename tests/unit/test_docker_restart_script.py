"""files/docker_restart.py: what an interrupted restart of Docker left is finished by the next run or boot."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.host_programs import Fakes, load

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def script(tmp_path: Path, fakes: Fakes) -> Any:
    """Docker with one running container. systemctl cannot start it while daemon.json has `bad`."""
    module = load("docker_restart")
    module.NOTE, module.RESTART_MARKER = str(tmp_path / "lib/note.json"), str(tmp_path / "marker")
    module.RECORD, module.RUN = str(tmp_path / "record.json"), str(tmp_path)
    fakes.state("ps", f"{ONE}\n")
    fakes.add(
        "docker",
        'case "$*" in "ps "*) cat "$STATE/ps";; "container inspect $(cat "$STATE/gone" 2>/dev/null)") exit 1;; '
        '"start "*) cat "$STATE/refusal" 2>/dev/null && exit 1;; esac; exit 0',
    )
    fakes.add(
        "systemctl",
        f'case "$*" in is-active*) grep -q bad {tmp_path}/daemon.json && echo failed || echo active;; '
        f"restart*) ! grep -q bad {tmp_path}/daemon.json;; esac",
    )
    fakes.add("journalctl", "echo unable to configure the Docker daemon")
    return module


def test_without_a_note_nothing_is_asked(script: Any, fakes: Fakes) -> None:
    assert script.finish() == ([], True)
    assert fakes.calls == []


def test_records_what_runs_beside_what_was_recorded(script: Any) -> None:
    script.note([TWO], {"path": "/x", "backup": ""})
    script.main("record")
    assert script.noted() == {"stopped": [ONE, TWO], "replaced": {"path": "/x", "backup": ""}}


@pytest.mark.parametrize("before", ['{"debug": true}', None])
def test_docker_is_down_by_an_unfinished_daemon_json(
    script: Any, fakes: Fakes, tmp_path: Path, before: str | None
) -> None:
    file, backup = tmp_path / "daemon.json", tmp_path / "backup"
    file.write_text("bad")
    if before:
        backup.write_text(before)
    script.note([ONE, TWO], {"path": str(file), "backup": str(backup) if before else ""})
    lines, well = script.finish()
    assert well
    assert lines == ["an interrupted run left a daemon.json that dockerd cannot load; the previous one was put back"]
    assert (file.read_text() if file.exists() else None) == before
    assert [call for call in fakes.calls if call.startswith("docker start")] == [f"docker start {TWO}"]
    assert script.noted() is None


def test_an_unfinished_restart_keeps_the_way_back(script: Any, tmp_path: Path) -> None:
    """Killed after the new file was renamed: dockerd has not loaded it yet, so it may still have to go back."""
    (tmp_path / "daemon.json").write_text("{}")
    Path(script.RESTART_MARKER).write_text("restart\n")
    replaced = {"path": str(tmp_path / "daemon.json"), "backup": ""}
    script.note([TWO], replaced)
    assert script.finish() == ([], True)
    assert script.noted() == {"stopped": [], "replaced": replaced}


def test_containers_that_no_longer_exist_are_no_failure(script: Any, fakes: Fakes) -> None:
    fakes.state("gone", TWO)
    script.note([TWO], None)
    assert script.finish() == ([], True)


def test_failures_are_named_and_docker_that_stays_down_keeps_the_note(
    script: Any, fakes: Fakes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.state("refusal", "port is already allocated")
    script.note([TWO], None)
    assert script.finish() == ([f"could not start {TWO[:12]}: port is already allocated"], False)
    (tmp_path / "daemon.json").write_text("bad")
    script.note([TWO], None)
    with pytest.raises(SystemExit):
        script.main("finish")
    assert capsys.readouterr().out == "error Docker does not start: unable to configure the Docker daemon\n"
    assert script.noted() == {"stopped": [TWO], "replaced": None}


def test_a_torn_note_is_no_traceback(script: Any) -> None:
    Path(script.NOTE).parent.mkdir()
    for text in ("", "[]", '{"stopped": 1}', json.dumps({"stopped": []})):
        Path(script.NOTE).write_text(text)
        assert script.finish() == ([], True)


def test_a_hanging_program_ends(script: Any) -> None:
    assert script.run("sleep", "60", limit=0.1) == (124, "`sleep 60` did not end within 0.1 s")
    assert script.run("no-such-program") == (127, "no-such-program is not installed")


def test_shows_what_dockerd_said_last(script: Any, fakes: Fakes) -> None:
    lines = [
        'time="2026-11-29T10:44:00Z" level=info msg="Starting up"', "mkdir /proc/nope: no such file or directory",
        "docker.service: Main process exited, code=exited, status=1/FAILURE",
        "Failed to start docker.service - Docker Application Container Engine.",
    ]  # fmt: skip
    fakes.add("journalctl", "\n".join(f"echo '{line}'" for line in lines))
    assert script.last_lines() == ["mkdir /proc/nope: no such file or directory"]


@pytest.mark.parametrize("alive", [True, False])
def test_containers_of_a_change_are_started_again_if_its_run_was_killed(
    script: Any, fakes: Fakes, tmp_path: Path, alive: bool
) -> None:
    """A run that lives starts the right ones itself, and holds the change's file."""
    change = {"batch": "b1", "members": [{"old_id": TWO, "new_id": None}]}
    (tmp_path / "record.json").write_text(json.dumps({"replacing": [change]}))
    with (tmp_path / "change.b1").open("w") as held:
        if alive:
            fcntl.flock(held, fcntl.LOCK_EX)
        assert script.start_again([TWO]) == []
    assert [call for call in fakes.calls if call.startswith("docker start")] == (
        [] if alive else [f"docker start {TWO}"]
    )
