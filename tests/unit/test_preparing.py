"""`gpurack apply --prepare`: what a change needs is brought to the host while everything serves, and nothing else."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.model import HostFacts
from gpurack.plan.models import compose
from gpurack.plan.models.jobs import plan_jobs
from gpurack.plan.models.preparing import preparation
from gpurack.plan.run import Run
from gpurack.spec.host import Host
from tests.given import host_state, models, models_plan, spec
from tests.unit import host_programs
from tests.unit.host_programs import Fakes, load
from tests.unit.test_apply import World, lines, stopped, unchanged, world
from tests.unit.test_models_plan import settled
from tests.unit.test_pulls import wanted, with_models

assert host_programs
assert world  # a fixture
import download  # noqa: E402
import locks  # noqa: E402 (of files/)

pytestmark = pytest.mark.sampled

IMAGE = "ghcr.io/ggml-org/llama.cpp:server-cuda-b7001"
NEW = {"version": "b7001", "gpus": [0]}
URL = {"url": "https://hub.example/b.gguf", "sha256": "a" * 64}

# --- planned ----------------------------------------------------------------------------------------------------------


def prepared(host: Host, facts: HostFacts) -> dict[str, Any]:
    """Entry → its part of the payload."""
    plan = models_plan(host, facts)
    found = preparation(plan.job or {}, facts)
    return {entry["name"]: entry for (entry,) in (found or {"batches": []})["batches"]}


def test_image_that_the_host_lacks_is_brought() -> None:
    facts = settled(models(alpha={"gpus": [0]}, beta={"gpus": [1]}))
    found = prepared(models(alpha=NEW, beta={"gpus": [1]}), facts)
    always = {"name": "alpha", "user": "", "action": "recreate"}
    assert found == {"alpha": {**always, "image": IMAGE, "key": "alpha.2", "fetch": []}}


def test_nothing_is_brought_twice() -> None:
    facts = replace(settled(models(alpha={"gpus": [0]})), images={IMAGE: "sha256:1"})
    assert models_plan(models(alpha=NEW), facts).job, "the change itself is still to be made"
    assert prepared(models(alpha=NEW), facts) == {}


def test_weights_that_the_host_lacks_are_brought() -> None:
    facts = settled(models(alpha={"gpus": [0]}))
    host = models(alpha={"gpus": [0], "weights": URL})
    (fetched,) = prepared(host, facts)["alpha"]["fetch"]
    assert fetched["url"] == URL["url"]
    there = replace(facts, weights={**facts.weights, fetched["path"]: 1}, images={IMAGE.replace("b7001", "b7000"): "x"})
    assert prepared(host, there) == {}


def test_removed_and_unchanged_models_need_nothing() -> None:
    facts = settled(models(alpha={"gpus": [0]}, beta={"gpus": [1]}))
    assert models_plan(models(alpha={"gpus": [0]}), facts).job
    assert prepared(models(alpha={"gpus": [0]}), facts) == {}


def test_image_that_a_job_needs_is_brought() -> None:
    job = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "command": ["-m", "{weights}"]}
    host = spec({"jobs": {"ask": job}, "models": {}})
    facts, light = host_state(weights={"/w/a.gguf": 1}), "ghcr.io/ggml-org/llama.cpp:light-b7000"
    payload_of_jobs = plan_jobs(host, facts, Run()).job
    assert payload_of_jobs
    found = preparation(payload_of_jobs, facts)
    assert found
    file = "/etc/gpurack/jobs/ask.yaml"
    assert found["batches"] == [[{"name": "ask", "user": "", "compose_file": file, "image": light, "fetch": []}]]
    assert preparation(payload_of_jobs, replace(facts, images={light: "sha256:1"})) is None


def test_models_that_a_running_ollama_lacks_are_brought() -> None:
    facts = with_models("qwen2.5:7b")
    found = prepared(wanted(), facts)
    assert found["ollama"]["action"] == "pull"
    assert [each["name"] for each in found["ollama"]["pull"]] == ["qwen2.5:7b", "all-minilm:latest"]
    assert found["ollama"]["url"].endswith(":11434/api/tags")
    there = with_models("qwen2.5:7b", "all-minilm:latest", "left:1b")
    assert models_plan(wanted(), there, prune=True).job, "something is left to remove"
    assert prepared(wanted(), there) == {}


def test_payload_has_neither_secrets_nor_other_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-secret")
    facts = settled(models(alpha={"gpus": [0]}, beta={"gpus": [1]}))
    host = models(alpha=NEW | {"api_key": {"env": "KEY"}}, beta={"gpus": [1]})
    plan = models_plan(host, facts, {"alpha": {"api_key": "sk-secret"}})
    found = preparation(plan.job or {}, facts)
    assert found
    assert "sk-secret" in str(plan.job)
    assert "sk-secret" not in str(found)
    assert list(found["projects"][""]["services"]) == ["alpha"]


# --- on the host ------------------------------------------------------------------------------------------------------

DOCKER = """\
case "$*" in
"image inspect"*) cat "$STATE/has" 2>/dev/null; [ -e "$STATE/has" ]; exit;;
*" pull "*) cp "$5" "$STATE/project"; echo sha256:$(printf %064d 1) >"$STATE/has"; exit "$(cat "$STATE/code")";;
esac
"""


@pytest.fixture
def host(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("preparing")
    monkeypatch.setattr("dockerd.CONFIG", str(tmp_path / "etc"))
    monkeypatch.setattr(os, "chown", lambda *arguments: None)  # the tests need no root
    fakes.add("docker", DOCKER)
    fakes.state("code", "0")
    return module


def payload(*names: str) -> dict[str, Any]:
    services = {name: {"image": "i:1", "platform": "linux/amd64"} for name in names}
    return {
        "projects": {"": {"head": compose.head(), "services": compose.blocks(services)}},
        "batches": [[{"name": name, "user": "", "image": "i:1", "key": name, "fetch": []}] for name in names],
    }


def test_pulls_under_no_lock_of_the_models(host: Any, fakes: Fakes, capsys: Any, tmp_path: Path) -> None:
    with locks.locked("models"):
        assert host.run_all(payload("alpha")) == 0
    assert capsys.readouterr().out == "alpha: prepared\n"
    project = (fakes.folder / "state/project").read_text()
    assert 'platform: "linux/amd64"' in project, "Compose pulls what the entry asks for"
    assert list((tmp_path / "etc").iterdir()) == [], "compose.yaml is the runs'"
    assert [call for call in fakes.calls if " pull " in call or " up " in call or "stop" in call] == [
        call for call in fakes.calls if call.endswith(" pull alpha")
    ]


def test_one_failure_keeps_nothing_from_the_others(host: Any, fakes: Fakes, capsys: Any, tmp_path: Path) -> None:
    data = payload("alpha", "beta")
    data["batches"][0][0]["fetch"] = [{"copy": "/w/x", "path": str(tmp_path / "missing"), "problem": "no such file"}]
    assert host.run_all(data) == 1
    assert sorted(capsys.readouterr().out.splitlines()) == ["beta: prepared", "error alpha: no such file"]


def test_files_of_a_killed_run_are_removed(host: Any, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/compose.yaml.prepare-4194305-alpha").touch()
    (tmp_path / "etc/compose.yaml.prepare-1-beta").touch()
    host.run_all(payload("gamma"))
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["compose.yaml.prepare-1-beta"]


def test_image_that_another_run_pulls_is_waited_for(
    host: Any, fakes: Fakes, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("progress.EVERY", 0)
    import images

    done = threading.Thread(target=host.run_all, args=(payload("alpha"),))
    with download.locked("beta", images.place_of("", "i:1")):
        done.start()
        said = ""
        while "waiting for the download" not in said:
            said += capsys.readouterr().out
        fakes.state("has", "sha256:" + "0" * 64)
    done.join()
    assert f"alpha: waiting for the download of image i:1 by {os.uname().nodename}, pid {os.getpid()}, since " in said
    assert not [call for call in fakes.calls if " pull " in call], "it is here now"


def test_run_waits_for_a_download_without_a_lock(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """An 8-hour download of one model blocks no change of another one, whoever waits for it."""
    monkeypatch.setattr("progress.EVERY", 0)
    weights = tmp_path / "a.gguf"
    model = {
        "name": "alpha",
        "action": "check",
        "user": "",
        "fetch": [{"url": "http://127.0.0.1:1", "path": str(weights)}],
    }
    job = load("models").Job({**payload("alpha"), "batches": [[model]]})
    waits = threading.Thread(target=job.downloaded, args=([[model]],))
    with download.locked("beta", str(weights)):
        waits.start()
        while "alpha: waiting for the download of " not in capsys.readouterr().out:
            assert waits.is_alive()
        with locks.locked("another run"):
            pass
        weights.touch()
    waits.join()
    assert job.failures == 0
    assert list(tmp_path.glob("a.gguf*")) == [weights]


def test_weights_that_replace_present_ones_wait_for_the_change(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(host, "lacks_weights", lambda wanted: True)
    monkeypatch.setattr(host, "obtain", lambda name, wanted, token, ahead: asked.append(ahead))
    data = payload("alpha")
    data["batches"][0][0] |= {"fetch": [{}], "sha256": {"/missing": "0" * 64}}
    assert host.run_all(data) == 0
    assert asked == [True], "and the present ones are not compared with the lock"


def test_weights_and_image_come_at_once(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(3, timeout=20)
    monkeypatch.setattr(host, "lacks_weights", lambda wanted: True)
    monkeypatch.setattr(host, "obtain", lambda *arguments: both.wait())
    monkeypatch.setattr(host, "provide", lambda *arguments: both.wait())
    data = payload("alpha")
    data["batches"][0][0]["fetch"] = [{}, {}]
    assert host.run_all(data) == 0


def test_locked_image_is_pulled_but_its_name_stays(host: Any, fakes: Fakes) -> None:
    """Until the change, the name means the image that serves: an admin's `docker compose up -d` recreates nothing."""
    data = payload("alpha")
    data["batches"][0][0] |= {"image": "r:5000/i:1", "digest": "sha256:12"}
    assert host.run_all(data) == 0
    assert [call.split()[-2:] for call in fakes.calls if " pull " in call] == [["pull", "alpha"]]
    assert not [call for call in fakes.calls if call.startswith("docker tag")]


def test_entry_that_compose_rejects_is_not_downloaded(host: Any, fakes: Fakes, capsys: Any) -> None:
    fakes.add(
        "docker", 'case "$*" in *" config "*) echo "validating $5: services.alpha bad"; exit 15;; esac\n' + DOCKER
    )
    assert host.run_all(payload("alpha")) == 1
    error = "error alpha: Compose rejects it, so it was not changed. Correct its `compose` field. services.alpha bad\n"
    assert capsys.readouterr().out == error
    assert not [call for call in fakes.calls if " pull " in call]


def test_service_that_names_others_is_pulled_beside_them(host: Any, fakes: Fakes) -> None:
    """As with `depends_on`: Compose rejects it alone."""
    alone = 'case "$*" in *" config "*) grep -q beta "$5" || { echo no service beta; exit 15; }; exit 0;; esac\n'
    fakes.add("docker", alone + DOCKER)
    data = payload("alpha", "beta")
    data["batches"] = data["batches"][:1]
    assert host.run_all(data) == 0
    assert [call.split()[-2:] for call in fakes.calls if " pull " in call] == [["pull", "alpha"]]


@pytest.mark.parametrize(("status", "pulled"), [("running", 1), ("exited", 0)])
def test_running_ollama_pulls_ahead(host: Any, monkeypatch: pytest.MonkeyPatch, status: str, pulled: int) -> None:
    servers: list[str] = []
    monkeypatch.setattr("record.ids", lambda user: {"alpha": "c" * 64})
    monkeypatch.setattr(host, "state", lambda dockerd, container: {"status": status})
    monkeypatch.setattr("ollama.pull_missing", lambda dockerd, model: servers.append(model["url"]))
    data = payload("alpha")
    data["batches"][0][0] = {"name": "alpha", "action": "pull", "user": "", "url": "http://x", "pull": [], "fetch": []}
    assert host.run_all(data) == 0
    assert servers == ["http://x"] * pulled


# --- screens ----------------------------------------------------------------------------------------------------------

LACKS = ["beta: pulling image", "beta: prepared"]


def test_prepares_and_says_what_a_following_apply_changes(world: World) -> None:
    world.facts["gpu1"] = [stopped()]
    world.answers["gpu1"] = (True, LACKS)
    done = world.run("apply", "--prepare")
    assert lines(done) == [
        f"Only prepares. gpurack apply {world.folder}/lab.yaml will change:",
        "gpu1   1 start · Docker keeps running",
        "  beta   start: it exited with code 0",
        "1 host unchanged: gpu2",
        "gpu1  beta  pulling image",
        "gpu1  beta  prepared",
        "2 hosts: 1 prepared, 1 unchanged. 0.9 s",
    ]
    assert (done.exit_code, set(world.ran)) == (0, {"gpu1"})


def test_second_time_changes_nothing(world: World) -> None:
    facts = stopped()
    world.facts["gpu1"] = [replace(facts, images={IMAGE.replace("b7001", "b7000"): "sha256:1"})]
    done = world.run("apply", "--prepare")
    assert lines(done)[-1] == "2 hosts unchanged. 0.9 s"
    assert (done.exit_code, world.ran) == (0, [])


def test_failure_to_prepare_is_printed_with_exit_code_1(world: World) -> None:
    world.facts["gpu1"] = [stopped()]
    world.answers["gpu1"] = (False, ["error beta: cannot pull image i:1: no such host"])
    done = world.run("apply", "--prepare")
    assert "FAILED  gpu1 beta: cannot pull image i:1: no such host" in lines(done)
    assert lines(done)[-1] == "2 hosts: 1 failed, 1 unchanged. 0.9 s"
    assert done.exit_code == 1


def test_nothing_to_change_needs_no_preparation(world: World) -> None:
    world.facts["gpu1"] = [unchanged()]
    assert lines(world.run("apply", "--prepare")) == ["2 hosts unchanged. 0.9 s"]
