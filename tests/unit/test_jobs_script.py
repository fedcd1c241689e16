"""files/jobs.py on a host, with a fake Docker."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit import host_programs
from tests.unit.host_programs import CONTAINERS, Fakes, container_id, load

assert host_programs
import locks  # noqa: E402 (of files/)
import progress  # noqa: E402
import record  # noqa: E402

pytestmark = pytest.mark.sampled

DOCKER = (
    CONTAINERS
    + """
case "$*" in
"image inspect"*) echo sha256:$(printf %064d 1);;
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
    monkeypatch.setattr(progress, "EVERY", 3600)  # or a busy machine would say more
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
    assert len(jobs.run_all(data(tmp_path, "q8", result=str(result)))) == 0
    assert capsys.readouterr().out == f"q8: | reading\nq8: | Alpha speaks.\nq8: done in 0:00; {result}\n"
    assert json.loads((tmp_path / "jobs/q8.json").read_text())["definition"] == "0f"
    assert (tmp_path / "jobs/q8.log").read_text() == "reading\n\nAlpha speaks.\n"
    assert any("--file /etc/gpurack/jobs/q8.yaml up --detach" in call for call in fakes.calls)
    assert fakes.calls[-1] == "docker rm --force q8"


def test_failed_job_stops_no_other_and_has_no_record(jobs: Any, fakes: Fakes, tmp_path: Path, capsys: Any) -> None:
    fakes.state("code", "3\n")
    assert len(jobs.run_all(data(tmp_path, "bad", "worse"))) == 2
    said = capsys.readouterr().out
    assert "error bad: failed (exit code 3); the next run repeats it. Output: " in said
    assert "    | Alpha speaks." in said
    assert "error worse: " in said
    assert not (tmp_path / "jobs/bad.json").exists()


def test_missing_result_is_a_failure(jobs: Any, fakes: Fakes, tmp_path: Path, capsys: Any) -> None:
    assert len(jobs.run_all(data(tmp_path, "q8", result=str(tmp_path / "folder/q8")))) == 1
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
    assert len(jobs.run_all({**data(tmp_path, "one"), "ours": {"": {"one": container_id("one")}}})) == 0
    assert any(" up " in call for call in fakes.calls) == started


def test_keeps_start_and_end_of_endless_output(jobs: Any, fakes: Fakes, tmp_path: Path, capsys: Any) -> None:
    jobs.KEPT = 1000
    fakes.state("printed", "begins\n" + "x" * 99 + "\n" * 1_000_000 + "Alpha speaks.\n")
    assert len(jobs.run_all(data(tmp_path, "q8"))) == 0
    log = (tmp_path / "jobs/q8.log").read_text()
    assert log.startswith("begins\nxx")
    assert log.endswith("\nAlpha speaks.\n")
    assert "\n… 998 kB of output omitted …\n" in log
    assert len(log) < 2100
    assert "q8: | Alpha speaks.\n" in capsys.readouterr().out


# --- downloads --------------------------------------------------------------------------------------------------------

PULLS = f"""\
case "$*" in
"image inspect"*) [ -e "$STATE/has" ] && echo sha256:$(printf %064d 1); exit;;
*" pull "*) touch "$STATE/has"; exit;;
esac
{DOCKER}"""


@pytest.fixture
def run_jobs(jobs: Any, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`models.py jobs` with a payload; returns the exit code."""
    models = load("models")
    monkeypatch.setattr(models, "jobs", jobs)
    monkeypatch.setattr(models, "tighten", lambda: None)
    monkeypatch.setattr(models.phases, "SPENT", dict.fromkeys(models.phases.NAMES, 0.0))  # other tests' in this process
    fakes.add("docker", PULLS)

    def run(payload: dict[str, Any]) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(payload)))
        return models.run_jobs()

    return run


def test_a_job_is_downloaded_without_the_lock_of_the_models(
    jobs: Any, run_jobs: Any, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring, free = jobs.preparing.bring, list[bool]()

    def brought(dockerd: Any, job: Any, data: Any) -> None:
        with contextlib.ExitStack() as held:
            free.append(locks.take(locks.LOCK, held))
        bring(dockerd, job, data)

    monkeypatch.setattr("preparing.bring", brought)
    assert run_jobs(data(tmp_path, "q8", result=None)) == 0
    assert free == [True]
    assert [call for call in fakes.calls if " pull " in call] == [
        "docker compose --progress plain --file /etc/gpurack/jobs/q8.yaml pull q8"
    ]


def test_job_without_its_download_does_not_run(
    run_jobs: Any, fakes: Fakes, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.add("docker", 'case "$*" in *" pull "*) echo Error no; exit 1;; esac\n' + PULLS)
    assert run_jobs(data(tmp_path, "q8")) == 1
    assert capsys.readouterr().out.startswith("error q8: cannot pull image i:1: Error no.")
    assert len([call for call in fakes.calls if " pull " in call]) == 1
    assert not any(" up " in call for call in fakes.calls)


def test_job_does_not_run_where_another_run_changed_models_meanwhile(
    run_jobs: Any, fakes: Fakes, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may have its GPU now."""
    monkeypatch.setattr("preparing.bring", lambda dockerd, job, data: record.created("", "beta", "b" * 64))
    assert run_jobs(data(tmp_path, "q8")) == 1
    said = "error jobs: another run changed beta after this one was planned. Run gpurack again\n"
    assert capsys.readouterr().out == said
    assert not any(" up " in call for call in fakes.calls)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_job_does_not_run_where_another_run_began_a_change_meanwhile(
    run_jobs: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """In the host's Docker and a user's, so without the host's lock. One that was under way is in the job's plan."""
    change = {"batch": "1", "phase": "prepare", "since": "", "members": [], "claims": [["", "beta"], ["ada", "gamma"]]}
    if when == "before":
        record.set_replacing(change)
        monkeypatch.setattr("preparing.bring", lambda dockerd, job, data: None)
    else:
        monkeypatch.setattr("preparing.bring", lambda dockerd, job, data: record.set_replacing(change))
    run_jobs(data(tmp_path, "q8", result=None))
    refused = "another run changed beta and gamma after this one was planned" in capsys.readouterr().out
    assert refused == (when == "meanwhile")
