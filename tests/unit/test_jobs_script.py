"""files/jobs.py on a host, with a fake Docker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.host_programs import CONTAINERS, Fakes, container_id, load

DOCKER = (
    CONTAINERS
    + """
case "$*" in
"image inspect"*) exit 0;;
"container inspect"*)
    cat "$STATE/state" 2>/dev/null || echo '{"status":"exited","restarts":0,"code":3,"error":""}';;
*" up "*)
    touch "$STATE/runs.$name"; cp "$STATE/printed" "$STATE/logs"
    [ -e "$STATE/makes" ] && touch "$(cat "$STATE/makes")"; exit 0;;
"logs"*) cat "$STATE/logs";;
"wait"*) cat "$STATE/code";;
"rm"*) rm -f "$STATE/runs.$name" "$STATE/state";;
esac
"""
)


@pytest.fixture
def jobs(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("jobs")
    module.JOBS = str(tmp_path / "jobs")
    module.clock = lambda seconds: "0:00"
    monkeypatch.setattr(os, "chown", lambda *arguments: None)  # the tests need no root
    fakes.add("docker", DOCKER)
    fakes.known("q8", "bad", "worse", "one")
    fakes.state("project", "gpurack-jobs")
    for name in ("q8", "bad", "worse"):
        fakes.state(f"labels.{name}", labels(name))
    fakes.state("printed", "reading\n\nAlpha speaks.\n")
    fakes.state("code", "0\n")
    return module


def labels(name: str, definition: str = "0f") -> dict[str, str]:
    """The labels of a job's container."""
    compose = {"com.docker.compose.project": "gpurack-jobs", "com.docker.compose.service": name}
    return {"gpurack.job": definition, **compose}


def data(tmp_path: Path, *names: str, **over: Any) -> dict[str, Any]:
    entries = [
        {"name": name, "compose_file": f"/etc/gpurack/jobs/{name}.yaml", "image": "i:1", "fetch": [],
         "definition": "0f", "folder": str(tmp_path / "folder"), "result": None, **over}
        for name in names
    ]  # fmt: skip
    return {"groups": [[entry] for entry in entries], "logins": {}}


def test_runs_once_and_writes_record_and_output(jobs: Any, fakes: Fakes, tmp_path: Path, capsys: Any) -> None:
    result = tmp_path / "folder/q8"
    fakes.state("makes", str(result))
    assert jobs.run_all(data(tmp_path, "q8", result=str(result))) == 0
    assert capsys.readouterr().out == f"q8: | reading\nq8: | Alpha speaks.\nq8: done in 0:00; {result}\n"
    assert json.loads((tmp_path / "jobs/q8.json").read_text())["definition"] == "0f"
    assert (tmp_path / "jobs/q8.log").read_text() == "reading\n\nAlpha speaks.\n"
    assert any("--file /etc/gpurack/jobs/q8.yaml up --detach" in call for call in fakes.calls)
    assert fakes.calls[-1] == "docker rm --force q8"


def test_failed_job_stops_no_other_and_has_no_record(jobs: Any, fakes: Fakes, tmp_path: Path, capsys: Any) -> None:
    fakes.state("code", "3\n")
    assert jobs.run_all(data(tmp_path, "bad", "worse")) == 2
    said = capsys.readouterr().out
    assert "error bad: failed (exit code 3); the next run repeats it. Output: " in said
    assert "    | Alpha speaks." in said
    assert "error worse: " in said
    assert not (tmp_path / "jobs/bad.json").exists()


def test_missing_result_is_a_failure(jobs: Any, fakes: Fakes, tmp_path: Path, capsys: Any) -> None:
    assert jobs.run_all(data(tmp_path, "q8", result=str(tmp_path / "folder/q8"))) == 1
    assert "error q8: succeeded, but " in capsys.readouterr().out
    assert not (tmp_path / "jobs/q8.json").exists()


@pytest.mark.parametrize(
    ("container", "started"),
    [
        ("0f running 0", False),
        ("0f exited 0", False),
        ("0f exited 137", True),
        ("77 running 0", True),
        ("77 exited 0", True),
    ],
)
def test_continues_finished_or_running_container_and_replaces_others(
    jobs: Any, fakes: Fakes, tmp_path: Path, container: str, started: bool
) -> None:
    definition, status, code = container.split()
    fakes.state("runs.one", "")
    fakes.state("labels.one", labels("one", definition))
    fakes.state("state", {"status": status, "restarts": 0, "code": int(code), "error": ""})
    fakes.state("logs", "")
    assert jobs.run_all({**data(tmp_path, "one"), "ours": {"": {"one": container_id("one")}}}) == 0
    assert any(" up " in call for call in fakes.calls) == started


def test_keeps_start_and_end_of_endless_output(jobs: Any, fakes: Fakes, tmp_path: Path, capsys: Any) -> None:
    jobs.KEPT = 1000
    fakes.state("printed", "begins\n" + "x" * 99 + "\n" * 1_000_000 + "Alpha speaks.\n")
    assert jobs.run_all(data(tmp_path, "q8")) == 0
    log = (tmp_path / "jobs/q8.log").read_text()
    assert log.startswith("begins\nxx")
    assert log.endswith("\nAlpha speaks.\n")
    assert "\n… 998 kB of output omitted …\n" in log
    assert len(log) < 2100
    assert "q8: | Alpha speaks.\n" in capsys.readouterr().out
