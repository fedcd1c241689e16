"""files/stopping.py and what obeys its marks: the boot, the next run, a restart; and the history that runs leave.

The daemons are the model of fake_docker.py, on the host of test_replacing_script.py.
"""

# ruff: noqa: F401, F811 (fixtures of another module)

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.record import read
from tests.unit.fake_docker import Container, moment
from tests.unit.test_replacing_script import (
    Host,
    asking,
    boot,
    folder,
    models,
    new,
    old,
    processes,
    quick,
    record,
    starting,
)

pytestmark = pytest.mark.sampled

WHO = {"lab": "nlp", "by": "ada", "commit": "3f2a91", "inventory": "lab.py"}


@pytest.fixture
def host(folder: Path) -> Host:
    """alpha runs in the host's own Docker, beta in ada's; the inventory has both as they are."""
    return Host(folder, {"alpha": (old(), old()), "beta": (old("ada", "beta", gpus=""), old("ada", "beta", gpus=""))})


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, host: Host) -> Callable[..., int]:
    """The runner, called by its command line with a payload."""
    monkeypatch.setattr(models, "tighten", lambda: None)
    monkeypatch.setattr(models.signal, "signal", lambda *arguments: None)

    def called(action: str, payload: Any = None) -> int:
        monkeypatch.setattr(models.sys, "argv", ["models.py", action])
        monkeypatch.setattr(models.sys, "stdin", io.StringIO(json.dumps(payload)))
        code: int = models.main()
        return code

    return called


def stop(call: Callable[..., int], name: str = "alpha", user: str = "", why: str | None = None, **more: Any) -> int:
    payload = {"verb": "stop", "name": name, "user": user, "ours": {}, "origin": WHO, **more}
    return call("stop", {**payload, "hold": why is not None, "why": why or ""})


def container(host: Host, name: str) -> Container:
    (found,) = [one for users in host.docker.daemons.values() for one in users.values() if one.name == name]
    return found


def payload(host: Host, action: str, verb: str, release: Any = None, **over: Any) -> dict[str, Any]:
    """What the runner is told of alpha. release: whose marks are dropped."""
    told = host.payload()
    (entry,) = [each for each in told["batches"][0] if each["name"] == "alpha"]
    told["batches"] = [[{**entry, "action": action, **over}]]
    return {**told, "origin": WHO, "verb": verb, **({"release": release} if release else {})}


@pytest.mark.parametrize(("name", "user"), [("alpha", ""), ("beta", "ada")])
def test_stops_one_model_and_no_other(host: Host, call: Callable[..., int], name: str, user: str) -> None:
    assert stop(call, name, user) == 0
    assert [one.name for one in host.running()] == [{"alpha": "beta", "beta": "alpha"}[name]]
    mark = host.record()["stopped"][user][name]
    assert {word: mark[word] for word in ("by", "hold", "why", "policy")} == {
        "by": "ada", "hold": False, "why": "", "policy": "",
    }  # fmt: skip
    assert time.strptime(mark["at"], "%Y-%m-%dT%H:%M:%SZ")
    assert f"{name}: stopped" in host.out


RUNNING = ["/metrics", "vllm:num_requests_running"]


@pytest.mark.parametrize(("published", "asked"), [("8000", 3), ("9000", 0)])
def test_running_requests_end_before_it_stops(
    host: Host, call: Callable[..., int], monkeypatch: pytest.MonkeyPatch, published: str, asked: int
) -> None:
    """Only at a port that the container publishes: its label may be a user's."""
    alpha, seen = container(host, "alpha"), list[tuple[str, str]]()
    alpha.labels["gpurack.probe"], alpha.ports = "http://127.0.0.1:8000/v1/models", [("127.0.0.1", published)]

    def send(daemon: Any, url: str, path: str, body: Any, key: str | None, limit: float) -> tuple[int, str]:
        seen.append((f"{url} {path}", alpha.status))
        assert key == "old key of alpha"
        return 200, f"vllm:num_requests_running {max(0, 3 - len(seen))}.0"

    monkeypatch.setattr(asking, "send", send)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert stop(call, running=RUNNING, url="http://127.0.0.1:8000/v1/models") == 0
    assert seen == [("http://127.0.0.1:8000/v1/models /metrics", "running")] * asked
    assert alpha.status == "exited"


def test_running_requests_end_before_a_removal(
    host: Host, call: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`deploys/remove.py` holds the lock, and removes what is stopped."""
    alpha, seen = container(host, "alpha"), list[str]()
    alpha.labels["gpurack.probe"], alpha.ports = "http://127.0.0.1:8000/v1/models", [("127.0.0.1", "8000")]

    def send(daemon: Any, url: str, path: str, body: Any, key: str | None, limit: float) -> tuple[int, str]:
        seen.append(alpha.status)
        return 200, f"vllm:num_requests_running {max(0, 2 - len(seen))}.0"

    monkeypatch.setattr(asking, "send", send)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    told = [{"id": alpha.id, "name": "alpha", "running": RUNNING, "url": "http://127.0.0.1:8000/v1/models"}]
    with models.locked("Remove", [""]):
        assert call("end", {"user": "", "containers": [*told, {"id": "e" * 64, "name": "gone", "url": ""}]}) == 0
    assert (seen, alpha.status) == (["running", "running"], "exited")
    assert [one.name for one in host.running()] == ["beta"]
    assert host.record().get("stopped", {}) == {}


def test_a_removal_counts_what_it_could_not_stop(host: Host, call: Callable[..., int]) -> None:
    host.docker.stubborn = {container(host, "alpha").id}
    told = [{"id": container(host, "alpha").id, "name": "alpha", "url": ""}]
    assert call("end", {"user": "", "containers": told}) == 1
    assert any(line.startswith("alpha: docker stop failed") for line in host.out)


def test_key_of_a_model_that_ended_by_itself_is_sent_to_no_other_process(
    host: Host, call: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may have its port by then."""
    alpha, sent = container(host, "alpha"), list[str | None]()
    alpha.labels["gpurack.probe"], alpha.ports = "http://127.0.0.1:8000/v1/models", [("127.0.0.1", "8000")]

    def send(daemon: Any, url: str, path: str, body: Any, key: str | None, limit: float) -> tuple[int, str]:
        sent.append(key)
        alpha.status = "exited"
        return 200, f"vllm:num_requests_running {2 - len(sent)}.0"

    monkeypatch.setattr(asking, "send", send)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert stop(call, running=RUNNING, url="http://127.0.0.1:8000/v1/models") == 0
    assert sent == ["old key of alpha"]


def test_boot_leaves_it_stopped(host: Host, call: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    stop(call)
    for one in host.running():  # as if dockerd had started none
        one.status = "exited"
    assert boot.boot() == 0
    assert [one.name for one in host.running()] == ["beta"]


def test_boot_leaves_it_stopped_without_compose_yaml(host: Host, call: Callable[..., int]) -> None:
    stop(call)
    Path(boot.Dockerd().compose_file).unlink()
    assert boot.boot() == 0
    assert container(host, "alpha").status == "exited"


def test_mark_is_written_before_the_container_stops(host: Host, call: Callable[..., int]) -> None:
    """A power cut between both must not let the boot start it."""
    stop(call)
    steps = host.docker.steps
    (stopped,) = [number for number, step in enumerate(steps) if step.startswith("stop ")]
    assert any(step == "write record.json" for step in steps[:stopped])


@pytest.mark.parametrize("wrong", ["fail", "hang", "away"])
def test_failed_stop_leaves_no_mark(host: Host, call: Callable[..., int], wrong: str) -> None:
    probe = Host(host.folder, host.scenario)
    stop(call)
    (number,) = [number for number, step in enumerate(probe.docker.steps) if step.startswith("stop ")]
    again = Host(host.folder, host.scenario)
    again.docker.at = {moment(probe.docker.steps, number): wrong}
    again.docker.stubborn.add(again.containers["alpha"].id)
    assert stop(call) == 1
    assert again.record()["stopped"].get("", {}) == {}
    assert container(again, "alpha").status == "running"
    assert any(line.startswith("error alpha: ") for line in again.out)
    assert again.record()["history"][-1]["failed"][0].startswith("alpha: ")


def test_stops_nothing_that_is_not_in_the_record(host: Host, call: Callable[..., int]) -> None:
    host.docker.put("", "gamma", "gamma", "own:1")
    assert stop(call, "gamma") == 1
    assert container(host, "gamma").status == "running"
    assert "error gamma: it has no container on this host" in host.out


def test_stops_no_copy_with_its_name(host: Host, call: Callable[..., int]) -> None:
    """Somebody renamed the container of the record, and runs another one of its name."""
    container(host, "alpha").name = "was-alpha"
    host.docker.put("", "alpha", "alpha", "own:1")
    assert stop(call) == 1
    assert {one.name for one in host.running()} == {"was-alpha", "alpha", "beta"}


def test_run_starts_it_and_drops_the_mark(host: Host, call: Callable[..., int]) -> None:
    stop(call)
    assert call("apply", payload(host, "start", "apply", {"": ["alpha"]})) == 0
    assert container(host, "alpha").status == "running"
    assert host.record()["stopped"] == {"": {}}


@pytest.mark.parametrize("action", ["start", "recreate", "restart"])
def test_run_that_was_planned_before_a_hold_respects_it(host: Host, call: Callable[..., int], action: str) -> None:
    told = payload(host, action, "apply", {"": ["alpha"]})
    stop(call, why="GPU 0 is replaced")
    assert call("apply", told) == 1
    assert container(host, "alpha").status == "exited"
    assert host.record()["stopped"][""]["alpha"]["hold"]
    assert any("alpha was held after this run was planned. Run gpurack again" in line for line in host.out)


def test_hold_has_its_reason_and_survives_boots(host: Host, call: Callable[..., int]) -> None:
    assert stop(call, why="GPU 0 is replaced") == 0
    assert boot.boot() == 0
    assert container(host, "alpha").status == "exited"
    found = read(Path(record.RECORD).read_text())
    assert found
    mark = found.stopped["", "alpha"]
    assert (mark.by, mark.hold, mark.why) == ("ada", True, "GPU 0 is replaced")


def test_stop_does_not_end_a_hold(host: Host, call: Callable[..., int]) -> None:
    stop(call, why="GPU 0 is replaced")
    assert stop(call) == 1
    assert host.record()["stopped"][""]["alpha"]["hold"]
    assert "error alpha: it is held, so it stays stopped. gpurack start ends that" in host.out
    assert stop(call, why="it arrives on Monday") == 0
    assert host.record()["stopped"][""]["alpha"]["why"] == "it arrives on Monday"


def test_failed_hold_keeps_the_earlier_mark(host: Host, call: Callable[..., int]) -> None:
    stop(call)
    before = host.record()["stopped"][""]["alpha"]
    host.docker.stubborn.add(host.containers["alpha"].id)
    container(host, "alpha").status = "running"  # by hand
    assert stop(call, why="GPU 0 is replaced") == 1
    assert host.record()["stopped"][""]["alpha"] == before


@pytest.mark.parametrize("policy", ["always", "on-failure", "on-failure:3"])
def test_dockerd_does_not_start_it_and_the_policy_returns(host: Host, call: Callable[..., int], policy: str) -> None:
    """dockerd starts a stopped container with one of these policies when it starts itself."""
    found = container(host, "alpha")
    found.policy = policy.partition(":")[0]
    stop(call)
    stop(call, why="twice")
    assert found.policy == "no"
    call("apply", payload(host, "start", "start", {"": ["alpha"]}))
    assert (found.policy, found.status) == (policy.partition(":")[0], "running")


def test_removal_drops_the_mark(host: Host, call: Callable[..., int]) -> None:
    stop(call)
    record.forget("", "alpha")
    assert host.record()["stopped"] == {"": {}}


@pytest.mark.parametrize("damaged", [None, [], "x", {"": 5}, {"": {"alpha": 5, "beta": None}}, {"": ["alpha"]}])
def test_damaged_marks_keep_nothing_from_starting(host: Host, damaged: Any) -> None:
    found = {**host.record(), "stopped": damaged}
    Path(record.RECORD).write_text(json.dumps(found))
    container(host, "alpha").status = "exited"
    assert boot.boot() == 0
    assert container(host, "alpha").status == "running"


# --- restart ---------------------------------------------------------------------------------------------------------


def test_restart_stops_starts_and_says_how_long(
    host: Host, call: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(processes, "wait_for_memory", lambda *arguments: waited.append(arguments))
    monkeypatch.setattr(starting, "clock", lambda seconds: "0:07")
    assert call("apply", payload(host, "restart", "restart")) == 0
    own = host.containers["alpha"].id
    assert [step.split()[0] for step in host.docker.steps if own in step and step.startswith("st")] == ["stop", "start"]
    assert container(host, "alpha").id == own
    assert [arguments[:3] for arguments in waited] == [("alpha", {(7, 7)}, ["0"])]
    assert "alpha: ready, down for 0:07" in host.out
    assert host.record()["tests"][""]["alpha"]["why"] == ""
    assert host.record()["history"][-1]["changes"] == ["restart alpha"]


def test_restart_of_one_that_does_not_come_up_fails(host: Host, call: Callable[..., int]) -> None:
    host.docker.breaks = lambda one: one.name == "alpha"
    assert call("apply", payload(host, "restart", "restart")) == 1
    (failed,) = host.record()["history"][-1]["failed"]
    assert failed.startswith("alpha: exited while loading (exit code 1).")
    assert [one.name for one in host.running()] == ["beta"]


def test_restart_starts_nothing_where_the_old_one_does_not_stop(host: Host, call: Callable[..., int]) -> None:
    host.docker.stubborn.add(host.containers["alpha"].id)
    assert call("apply", payload(host, "restart", "restart")) == 1
    assert not any(step.startswith("start ") for step in host.docker.steps)


# --- history ---------------------------------------------------------------------------------------------------------


def test_history_says_who_did_what(host: Host, call: Callable[..., int]) -> None:
    stop(call, why="GPU 0 is replaced")
    call("apply", payload(host, "start", "start", {"": ["alpha"]}))
    found = read(Path(record.RECORD).read_text())
    assert found
    assert [(one.verb, one.by, one.commit, one.changes, one.failed) for one in found.history] == [
        ("stop", "ada", "3f2a91", ("hold alpha",), ()),
        ("start", "ada", "3f2a91", ("start alpha",), ()),
    ]


def test_run_that_only_asks_is_not_in_the_history(host: Host, call: Callable[..., int]) -> None:
    assert call("apply", payload(host, "check", "apply")) == 0
    assert host.record()["history"] == []


def test_history_says_what_changed_besides_the_models(host: Host, call: Callable[..., int]) -> None:
    docker = "upgrade Docker from 28.5.1 to 28.5.2"
    told = {"verb": "apply", "origin": WHO, "host": [docker]}
    assert call("note", told) == 0
    assert call("apply", {**payload(host, "restart", "restart"), "host": [docker]}) == 0
    assert [one["changes"] for one in host.record()["history"]] == [[docker], [docker, "restart alpha"]]
    Path(record.RECORD).unlink()
    assert call("note", told) == 0
    assert not Path(record.RECORD).exists(), "a record without containers would hide those that run"


def test_failed_change_is_in_the_history(folder: Path, call: Callable[..., int]) -> None:
    changing = Host(folder, {"alpha": (old(), new())})
    changing.docker.breaks = lambda one: one.service == "alpha.2"
    assert call("apply", {**changing.payload(), "origin": {**WHO, "uncommitted": True}}) == 1
    (entry,) = changing.record()["history"]
    assert (entry["verb"], entry["changes"], len(entry["failed"])) == ("apply", [], 1)
    assert entry["uncommitted"] is True
    assert "\n" not in entry["failed"][0]


def test_history_keeps_200_runs_and_short_texts(host: Host) -> None:
    for number in range(record.RUNS + 5):
        record.note_run("apply", WHO, [f"recreate m{number}"], {})
    record.note_run(
        "apply",
        {"by": "x" * 1000},
        [f"start {n}" for n in range(50)],
        {f"{n} {'why ' * 500}": "exited" for n in range(9)},
    )
    history = host.record()["history"]
    assert len(history) == 200
    assert history[0]["changes"] == ["recreate m6"]
    last = history[-1]
    assert (len(last["by"]), last["changes"][-1], last["failed"][-1]) == (200, "30 more", "4 more")
    assert max(map(len, last["failed"])) <= 200


def test_full_disk_fails_no_run(host: Host, call: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device", record.RECORD)

    monkeypatch.setattr(record, "note_run", full)
    assert stop(call) == 0
    assert any(line.startswith("this run is not in the history: ") for line in host.out)
