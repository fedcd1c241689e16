"""Parts of a snapshot that did not end: their own models stay unchanged, everything else continues."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from gpurack.commands import lock
from gpurack.commands.lab_status import host_status
from gpurack.commands.main import main
from gpurack.facts.model import HostFacts
from gpurack.facts.parse import parse
from gpurack.facts.parts import User
from gpurack.facts.snapshot import script
from gpurack.inventory.lock_file import read_lock
from gpurack.locking import gather, observe
from gpurack.locking.upgrade import News
from gpurack.plan.host import preview
from gpurack.plan.models.jobs import plan_jobs
from gpurack.plan.questions import questions
from gpurack.plan.remove import plan_remove
from gpurack.plan.run import Run
from gpurack.plan.steps import Shell
from gpurack.plan.system.rootless import plan_rootless
from gpurack.spec.lock import HostLock, Lock, ModelLock, text
from tests.given import framed, host_state, models_plan, running, said, spec
from tests.unit.test_status import NOW

DEFAULTS = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf"}
OLLAMA = {"engine": "ollama", "version": "0.33.0", "weights": None, "port": 8002}
JOB = {"engine": "llama.cpp", "version": "b7000", "command": ["-p", "x"], "weights": "/w/a.gguf"}
WANTED = spec(
    {
        "docker": {"rootless": {"ada": {}}},
        "models": {"alpha": {"port": 8000}, "hers": {"port": 8001, "user": "ada"}, "lama": OLLAMA},
        "jobs": {"once": JOB},
    }
)
WEIGHTS = "weights /w/a.gguf"
WHY = "timed out after 30 s, pid 7 (stat) is left behind"


def late(*parts: str, **said: Any) -> HostFacts:
    """A host with alpha, of which these parts did not answer."""
    alpha = running(WANTED, "alpha", host_state())
    return host_state(containers=(alpha,), late=dict.fromkeys(parts, WHY), **said)


def test_late_weights_hold_their_models_only() -> None:
    plan = models_plan(WANTED, late(WEIGHTS))
    sentence = "could not inspect its weights: timed out after 30 s. It was not changed. Check: df -h; dmesg | tail."
    assert plan.errors["alpha"].what == sentence
    assert {change.model: change.action for change in plan.changes} == {"lama": "create"}
    assert said(plan_jobs(WANTED, late(WEIGHTS), Run()).errors) == {"once": sentence}
    assert "alpha" not in models_plan(WANTED, late("weights /w/b.gguf", weights={"/w/a.gguf": 1})).errors


def test_groups_paths_on_dead_mount() -> None:
    """For each reason, whatever process each path left behind."""
    paths = [f"/nfs/m{number}.gguf" for number in range(20)]
    wanted = spec({"models": {f"m{n}": {"port": 8000 + n, "weights": path} for n, path in enumerate(paths)}})
    facts = host_state(
        late={f"weights {path}": f"timed out after 30 s, pid {n} (stat) is left behind" for n, path in enumerate(paths)}
        | {"weights /else/a.gguf": WHY, "weights /nfs/old.gguf": "still hangs since 2026-01-01T00:00:00Z (pid 7)"},
        mounts={**dict.fromkeys([*paths, "/nfs/old.gguf"], "/nfs"), "/else/a.gguf": "/else"},
    )
    lines = [
        "weights on /nfs (20 paths) timed out after 30 s, pid 0 (stat) is left behind.",
        f"weights /else/a.gguf {WHY}.",
        "weights /nfs/old.gguf still hangs since 2026-01-01T00:00:00Z (pid 7).",
    ]
    assert [problem.what for problem in facts.remarks] == lines
    assert [problem.what for problem in host_status("gpu1", wanted, facts, NOW).errors[:3]] == lines
    shown = preview(wanted, facts, Run()).findings
    [error] = [one.line for one in shown if one.kind == "error" and "weights" in one.line]
    assert error.startswith("m0, m1, ")
    assert ", m19: could not inspect its weights on /nfs: timed out after 30 s. It was not changed." in error


def test_late_user_is_one_warning() -> None:
    state = late("user ada", weights={"/w/a.gguf": 1})
    sentence = f"could not inspect the rootless Docker of ada: {WHY}. Check: sudo -iu ada docker info."
    plan = plan_rootless(WANTED, state, unattended=True, models_follow=True)
    assert plan.down
    assert said(plan.down) == {"ada": sentence}
    assert not [step for step in plan.steps if step.user]
    models = models_plan(WANTED, state, down=plan.down)
    assert (models.errors["hers"].what, "alpha" in models.errors) == (sentence, False)
    assert [one.why for one in host_status("gpu1", WANTED, state, NOW).models if one.name == "hers"] == [WHY]


@pytest.mark.parametrize("part", ["Docker", "NVIDIA", "AMD"])
def test_late_docker_or_gpus_change_nothing(part: str) -> None:
    state = late(part)
    assert [each.line for each in preview(WANTED, state, Run()).findings if each.kind == "error"] == [
        f"{part} {WHY}, so nothing is changed on this host."
    ]
    assert state.blind


@pytest.mark.parametrize("part", [WEIGHTS, "NVIDIA", "user ada", "upstreams", "names"])
def test_status_reports_late_part_and_shows_rest(part: str) -> None:
    status = host_status("gpu1", WANTED, late(part), NOW)
    assert (status.state, status.errors[0].what, len(status.models)) == ("DEGRADED", f"{part} {WHY}.", 3)


def test_each_part_has_30_seconds() -> None:
    """Most tests of hanging parts shorten it."""
    assert "\nLIMIT=30\n" in script(questions(WANTED))


def test_unanswered_snapshot_is_uninspected_host() -> None:
    seen = parse(framed(["@@ late", f"system|{WHY}", "@@ end"]))
    assert str(seen.trouble) == f"The snapshot of the host {WHY}. Check what hangs there."


def test_keeps_record_while_its_daemon_is_silent() -> None:
    record = {"": {}, "ada": {}}
    files = {"/var/lib/gpurack/record.json": "{}"}

    def removes(**said: Any) -> bool:
        steps = plan_remove(host_state(files=files, **said), "models").steps
        return any("record.json" in step.command for step in steps if isinstance(step, Shell))

    assert removes(record={"": {}})
    assert not removes(record=record, users={"ada": User(1001, 1001, "/home/ada")})
    assert removes(record=record), "there is no such user any more"


def first_sentences(found: Any) -> dict[str, str]:
    """Model → its first error."""
    return {name: problems[0].what for name, problems in found.items()}


LOCKED = {
    "docker": {"rootless": {"ada": {}, "bob": {}}},
    "models": {"alpha": {"port": 8000}, "beta": {"port": 8001, "user": "bob", "weights": "/home/bob/m.gguf"}},
}


@pytest.mark.parametrize(
    ("part", "refused", "models"),
    [
        ("user ada", False, []),
        ("user bob", False, ["beta"]),
        ("weights /home/bob/m.gguf", False, ["beta"]),
        (WEIGHTS, False, ["alpha"]),
        ("NVIDIA", True, []),
        ("Docker", True, []),
    ],
)
def test_late_part_keeps_no_other_model_from_lock(
    monkeypatch: pytest.MonkeyPatch, part: str, refused: bool, models: list[str]
) -> None:
    of = spec(LOCKED)
    monkeypatch.setattr(gather, "snapshot", lambda host, wanted: late(part))
    seen = gather.snapshot_with_hashes(SimpleNamespace(name="gpu1"), of)  # type: ignore[arg-type]
    assert bool(seen.trouble) is refused
    assert refused or first_sentences(observe.unread(of, seen)) == dict.fromkeys(models, f"{part} {WHY}.")


def test_user_who_did_not_finish_reading_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = host_state(weights={"/home/bob/m.gguf": 1}, tools=frozenset({"python3"}))
    monkeypatch.setattr(gather, "snapshot", lambda host, wanted: seen)
    monkeypatch.setattr(gather, "outdate", lambda host: None)
    monkeypatch.setattr(gather, "run_as_root", lambda *given, **more: (True, ["late bob: nothing for 60 s"]))
    found = gather.snapshot_with_hashes(SimpleNamespace(name="gpu1"), spec(LOCKED))  # type: ignore[arg-type]
    assert first_sentences(observe.unread(spec(LOCKED), found)) == {
        "beta": "user bob did not finish reading their weights: nothing for 60 s."
    }


@pytest.mark.parametrize("options", [(), ("--check",), ("--upgrade",)])
def test_lock_keeps_entries_of_late_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    inventory = tmp_path / "lab.py"
    inventory.write_text(f"gpu = [('gpu1', {{'defaults': {DEFAULTS!r}, **{LOCKED!r}}})]\n")
    state = replace(host_state(), late={"user bob": WHY})
    old = Lock(hosts={"gpu1": HostLock(models={"beta": ModelLock(image="old@sha256:0", weights={"/x": "0" * 64})})})
    (tmp_path / "lab.lock.yaml").write_text(text(old, inventory))

    def visit(loaded: Any, fleet: Any, do: Any) -> dict[str, HostFacts]:
        return {name: do(SimpleNamespace(name=name), wanted) for name, wanted in fleet.items()}

    monkeypatch.setattr(lock, "on_all_hosts", visit)
    monkeypatch.setattr(lock, "snapshot_with_hashes", lambda host, wanted: state)
    monkeypatch.setattr(lock, "find_newest", lambda *given: News())
    result = CliRunner().invoke(main, ["lock", str(inventory), *options], env={"COLUMNS": "300"})
    assert result.exit_code == 1, result.output
    assert f"gpu1  error  beta: user bob {WHY}. The lock keeps what it has." in result.output
    assert "beta has no container" not in result.output
    found = read_lock(inventory)
    assert found is not None
    assert found.hosts["gpu1"].models["beta"] == old.hosts["gpu1"].models["beta"]
    assert "models beta" not in result.output, "no drift, because nothing was seen"
