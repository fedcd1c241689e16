"""`gpurack stop`, `start`, `restart` and `history` without hosts: screens, exit codes, and what the runner is told."""

# ruff: noqa: F811 (a fixture of another module)

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpurack import paths
from gpurack.commands.main import main
from gpurack.facts.record import Event, Stopped
from gpurack.operations import commands
from tests.unit.test_apply import World, lines, stopped, unchanged, world  # noqa: F401 (a fixture)

HOLD = {("", "beta"): Stopped("2026-11-28T02:00:00Z", "ada", True, "GPU 1 is replaced")}
STOP = {("", "beta"): Stopped("2026-11-28T02:00:00Z", "ada", False, "")}


@pytest.fixture
def told(world: World, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """(action, payload) of the runner's calls."""
    payloads: list[tuple[str, Any]] = []
    run = commands.run

    def seen(host: Any, command: Any, **how: Any) -> Any:
        if paths.RUNNER in str(command):
            payloads.append((str(command).split()[-1], json.loads(how["_stdin"])))
        return run(host, command, **how)

    monkeypatch.setattr(commands, "run", seen)
    monkeypatch.setenv("GPURACK_ACTOR", "ci of ada")
    return payloads


def gpurack(world: World, verb: str, *words: str) -> Result:
    return CliRunner().invoke(main, [verb, str(world.folder / "lab.yaml"), *words], prog_name="gpurack")


def test_stops_one_model(world: World, told: list[Any]) -> None:
    world.answers["gpu1"] = (True, ["beta: stopped"])
    done = gpurack(world, "stop", "gpu1/beta")
    shown = lines(done)
    assert shown[-2] == "gpu1  beta  stopped"
    path = world.folder / "lab.yaml"
    until = "until the next run, also over reboots. To start it"
    assert shown[-1] == f"gpu1/beta stays stopped {until}: gpurack start {path} gpu1/beta"
    ((action, payload),) = told
    assert (action, payload["name"], payload["hold"], payload["origin"]["by"]) == ("stop", "beta", False, "ci of ada")
    assert (done.exit_code, set(world.ran)) == (0, {"gpu1"})


def test_holds_with_a_reason(world: World, told: list[Any]) -> None:
    done = gpurack(world, "stop", "gpu1/beta", "--hold", "GPU 1 is \x1b[31mreplaced ")
    assert lines(done)[-1].startswith("gpu1/beta stays stopped until you start it: gpurack start ")
    assert (told[0][1]["hold"], told[0][1]["why"], done.exit_code) == (True, "GPU 1 is [31mreplaced", 0)


def test_hold_needs_a_reason(world: World, told: list[Any]) -> None:
    done = gpurack(world, "stop", "gpu1/beta", "--hold", " ")
    assert (done.exit_code, told) == (2, [])


def test_failed_stop_says_why_once(world: World, told: list[Any]) -> None:
    world.answers["gpu1"] = (False, ["error beta: docker stop failed (no answer within 45 s); still running: pid 7"])
    done = gpurack(world, "stop", "gpu1/beta")
    assert lines(done)[-1] == ("FAILED  gpu1 beta: docker stop failed (no answer within 45 s); still running: pid 7")
    assert done.exit_code == 1


def test_stops_nothing_without_a_container(world: World, told: list[Any]) -> None:
    world.facts["gpu1"] = [replace(unchanged(), containers=())]
    done = gpurack(world, "stop", "gpu1/beta")
    assert lines(done)[-1].startswith("FAILED  gpu1 beta: not stopped: it has no container on this host")
    assert (done.exit_code, told) == (1, [])


def test_starts_what_is_held(world: World, told: list[Any]) -> None:
    world.facts["gpu1"] = [replace(stopped(), stopped=HOLD), unchanged()]
    done = gpurack(world, "start", "gpu1/beta")
    assert lines(done) == [
        "gpu1   1 start · Docker keeps running",
        "  beta   start: held by ada at 2026-11-28 02:00 UTC",
        "1 host changed. 2 of 2 models ready. 0.9 s",
    ]
    ((action, payload),) = told
    assert (action, payload["verb"], payload["release"]) == ("apply", "start", {"": ["beta"]})
    assert [[(each["name"], each["action"]) for each in batch] for batch in payload["batches"]] == [[("beta", "start")]]
    assert done.exit_code == 0


def test_start_of_a_running_model_changes_nothing(world: World, told: list[Any]) -> None:
    done = gpurack(world, "start", "gpu1/beta")
    assert (lines(done)[-1], done.exit_code, told) == ("gpu1/beta runs already. Nothing was changed.", 0, [])


def test_model_that_waits_for_a_job_is_not_called_running(world: World, told: list[Any]) -> None:
    text = (world.folder / "lab.yaml").read_text()
    job = "jobs: {q8: {folder: /data/lab, result: q8.gguf, command: [--quantize, a, b, q8_0]}}"
    text = text.replace("gpu1: {", f"gpu1: {{{job}, ").replace("8001,", "8001, weights: /data/lab/q8.gguf,", 1)
    (world.folder / "lab.yaml").write_text(text)
    world.facts["gpu1"] = [replace(unchanged(), weights={"/w/a.gguf": 1, "/data/lab": 1, "/data/lab/q8.gguf": None})]
    done = gpurack(world, "start", "gpu1/beta")
    assert lines(done)[-1] == "error  gpu1/beta: it waits for a job. Apply the inventory."
    assert (done.exit_code, told) == (1, [])


def test_restarts(world: World, told: list[Any]) -> None:
    world.answers["gpu1"] = (True, ["beta: ready, down for 0:07"])
    done = gpurack(world, "restart", "gpu1/beta")
    assert lines(done) == [
        "gpu1   1 restart · Docker keeps running",
        "  beta   restart",
        "gpu1  beta  ready, down for 0:07",
        "1 host changed. 2 of 2 models ready. 0.9 s",
    ]
    assert [(action, payload["verb"]) for action, payload in told] == [("apply", "restart")]


def test_does_not_restart_what_is_held(world: World, told: list[Any]) -> None:
    world.facts["gpu1"] = [replace(stopped(), stopped=HOLD)]
    done = gpurack(world, "restart", "gpu1/beta")
    assert lines(done)[-1].startswith(
        "error  gpu1/beta: held since 2026-11-28 02:00 UTC: GPU 1 is replaced (ada). Start it: gpurack start "
    )
    assert (done.exit_code, told) == (1, [])


@pytest.mark.parametrize("verb", ["stop", "start", "restart"])
@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["gpu1/gamma"], 2, 'error  unknown model "gamma" on gpu1. Known: alpha, beta.'),
        (["gpu7/beta"], 2, 'error  unknown host "gpu7". Did you mean "gpu'),
        (["beta"], 2, "error  beta: the host is missing. Write HOST/MODEL, for example gpu1/beta."),
        ([], 2, "error  missing argument `HOST/MODEL`."),
        (["gpu2/beta"], 1, "error  gpu2: "),
    ],
)
def test_says_why_not(world: World, told: list[Any], verb: str, words: list[str], code: int, why: str) -> None:
    world.unreachable.add("gpu2")
    done = gpurack(world, verb, *words)
    assert any(line.startswith(why) for line in lines(done)[-2:])
    assert (done.exit_code, told) == (code, [])


@pytest.mark.parametrize("verb", ["stop", "start", "restart"])
def test_leaves_hosts_in_maintenance_and_disabled_models_alone(world: World, told: list[Any], verb: str) -> None:
    text = (world.folder / "lab.yaml").read_text()
    text = text.replace("gpu1: {", "gpu1: {maintenance: RMA, ").replace(
        "beta: {port: 8001", "beta: {enabled: false, port: 8001"
    )
    (world.folder / "lab.yaml").write_text(text)
    assert lines(gpurack(world, verb, "gpu1/alpha"))[-1] == "error  gpu1: maintenance: RMA. Nothing was changed."
    assert lines(gpurack(world, verb, "gpu2/beta"))[-1] == "error  `beta` is disabled in the inventory."
    assert told == []


def test_inventory_can_be_left_out(world: World, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    done = CliRunner().invoke(main, ["stop", "gpu1/beta"], prog_name="gpurack")
    assert (done.exit_code, [action for action, _ in told]) == (0, ["stop"])


def test_apply_of_a_lab_with_a_held_model_succeeds(world: World, told: list[Any]) -> None:
    world.facts["gpu1"] = [replace(stopped(), stopped=HOLD)]
    done = world.run("apply", "-y")
    assert lines(done) == [
        "gpu1   no change",
        "  warning  beta: held since 2026-11-28 02:00 UTC: GPU 1 is replaced (ada).",
        "1 host unchanged: gpu2",
        "2 hosts unchanged. 3 of 4 models ready, 1 held. 0.9 s",
    ]
    assert (done.exit_code, told) == (0, [])


def test_diff_of_a_lab_with_a_stopped_model_names_who_stopped_it(world: World) -> None:
    world.facts["gpu1"] = [replace(stopped(), stopped=STOP)]
    shown = lines(world.run("diff"))
    assert "  beta   start: stopped by ada at 2026-11-28 02:00 UTC" in shown


FAILED = "alpha: oh. Its log: /var/lib/gpurack/logs/_/alpha.failed.log"


def test_history_of_all_hosts_or_of_one(world: World) -> None:
    event = Event("2026-11-28T02:00:00Z", "apply", "ada", "", "3f2a91c0", "lab.py", ("start beta",), (FAILED,))
    world.facts["gpu1"] = [replace(unchanged(), history=(event,))]
    done = gpurack(world, "history")
    assert lines(done) == [
        "gpu1",
        "  2026-11-28 02:00 UTC  ada  apply  FAILED  (lab.py, 3f2a91c)",
        "    start beta",
        f"    failed: alpha: oh. Its log: gpurack logs {world.folder}/lab.yaml gpu1/alpha --failed",
        "gpu2   no run has changed anything since gpurack keeps a history",
    ]
    assert done.exit_code == 0
    data = json.loads(gpurack(world, "history", "gpu1", "--json").output)
    assert list(data["hosts"]) == ["gpu1"]
    assert data["hosts"]["gpu1"]["runs"][0]["changes"] == ["start beta"]


def test_history_says_which_host_cannot_be_asked(world: World) -> None:
    world.unreachable.add("gpu2")
    done = gpurack(world, "history")
    assert lines(done)[-1].startswith("gpu2   could not connect")
    assert done.exit_code == 1


def test_history_of_an_unknown_host(world: World) -> None:
    done = gpurack(world, "history", "gpu7")
    assert (done.exit_code, lines(done)[-1][:6]) == (2, "error ")
