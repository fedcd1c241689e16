"""The table at the end of a run: a line for every host and model, whatever happened."""

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import Inventory
from pyinfra.api.state import StateStage

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Failed, Test
from gpurack.operations import run_state
from gpurack.operations.entry_state import Condition, entry_state
from gpurack.operations.models import happened, killed, restored
from gpurack.operations.output import PROGRESS, failure_in, reasons_of
from gpurack.operations.report import Report
from gpurack.operations.run_state import HostRun, host_run, outdate
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.jobs import desire_job
from gpurack.plan.packages import apt, rpm
from gpurack.plan.packages.package_errors import AVAILABLE
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, grouped
from tests.given import SYSTEMS, container, host_state, id_of, models, spec
from tests.unit import host_programs  # noqa: F401 (makes files/ importable)

import messages  # isort: skip
import members  # isort: skip

TWO = models(alpha={"gpus": [0]}, beta={"enabled": False})


def failure(sentence: str, model: str = "") -> Problem:
    return Problem.of("step-failed", path=f"models.{model}" if model else "", what=sentence)


def seen(status: str = "running", probe: Any = (200, '"alpha"')) -> HostFacts:
    probes = {"alpha": list(probe)} if probe else {}
    return host_state(containers=[container("alpha", status, label={})], probes=probes)


class FakeHost(SimpleNamespace):
    """One of pyinfra's hosts. It is a key of `ops`, as there."""

    __hash__ = object.__hash__


class Run:
    """pyinfra's state as far as the report reads it: hosts, each with its last snapshot."""

    def __init__(self, looks: dict[str, HostFacts | None], stage: StateStage = StateStage.Execute) -> None:
        self.hosts = {
            name: FakeHost(
                name=name,
                connected=look is not None,
                connector_data={"gpurack": HostRun(snapshot=look, taken_in=stage)},
            )
            for name, look in looks.items()
        }
        self.inventory = SimpleNamespace(get_host=self.hosts.__getitem__)
        self.limit_hosts: list[Any] | None = None
        self.current_stage = stage
        self.callback_handlers: list[Any] = []
        self.results = {name: SimpleNamespace(success_ops=4) for name in looks}
        self.ops: dict[FakeHost, dict[str, Any]] = {host: {} for host in self.hosts.values()}

    def add_callback_handler(self, handler: Any) -> None:
        self.callback_handlers.append(handler)


def state_of(run: HostRun, model: str = "alpha", spec: Host = TWO) -> str:
    return entry_state(model, spec, run).text


@pytest.mark.parametrize(
    ("look", "text"),
    [
        (seen(), "ready"),
        (seen(probe=(503, "loading")), "loading"),
        (seen(probe=(0, "timed out")), "runs but does not answer"),
        (seen(probe=None), "readiness check did not run"),
        (seen("exited"), "exited with code 0"),
        (seen("restarting"), "restarting"),
        (host_state(), "no container"),
        (host_state(containers=[container("alpha")]), "no container"),
    ],
)
def test_shows_state_of_model(look: HostFacts, text: str) -> None:
    assert state_of(HostRun(snapshot=look)) == text


FAILING = {"id": id_of("alpha"), "at": "2026-11-28T03:00:00Z", "since": "2026-11-27T23:30:00Z", "why": "HTTP 500.\n| x"}


def test_model_that_fails_its_test_request_is_not_ready() -> None:
    """Only the container that was asked: another one is not known to fail."""
    look = seen()
    failing = replace(look, tests={("", "alpha"): Test(**FAILING)})
    assert state_of(HostRun(snapshot=failing)) == "failing since 2026-11-27 23:30 UTC: HTTP 500"
    other = replace(look, tests={("", "alpha"): Test(**{**FAILING, "id": "f" * 64})})
    assert state_of(HostRun(snapshot=other)) == "ready"


@pytest.mark.parametrize(("seconds", "text"), [(4, "restarts again and again"), (40, "ready")])
def test_container_that_ends_seconds_after_each_start_is_not_ready(seconds: int, text: str) -> None:
    look = seen()
    started = f"2026-11-28T03:00:{60 - seconds - 10:02}Z"
    looping = replace(look.containers[0], restarts=12, started=started)
    look = replace(look, containers=(looping,), now=datetime(2026, 11, 28, 3, 0, 50, tzinfo=UTC))
    assert state_of(HostRun(snapshot=look)) == text


def test_says_unknown_where_nothing_was_seen_after_a_failure() -> None:
    run = HostRun(spec=TWO, snapshot=seen(), outdated=True, failures=[failure("Docker does not come up")])
    assert state_of(run) == "unknown"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("exited while loading.", "FAILED: exited while loading, the previous one serves"),
        (
            "exited. The previous `alpha` serves again since 14:02.",
            "FAILED: exited. The previous `alpha` serves again since 14:02.",
        ),
    ],
)
def test_says_once_that_the_previous_one_serves(text: str, shown: str) -> None:
    run = HostRun(spec=TWO, snapshot=seen())
    run.failed([f"error alpha: {text}"])
    assert state_of(run) == shown
    assert entry_state("alpha", TWO, run).serves


def test_says_once_that_the_previous_one_of_an_earlier_failure_serves() -> None:
    told = {"what": "b7001", "at": "14:02", "why": "exited", "now": "The previous one serves.", "place": "gpu1/alpha"}
    problem = Problem.of("failed-before", path="models.alpha", name="alpha", **told)
    found = entry_state("alpha", TWO, HostRun(spec=TWO, snapshot=seen(), failures=[problem]))
    assert found.text == "FAILED: b7001 was tried at 14:02, and failed: exited. The previous one serves."
    assert found.serves


def test_understands_what_the_runner_says_of_the_container_that_serves() -> None:
    member = {"old_name": "alpha", "ran": True}
    back = members.message(member, messages.Failure("exited"), True, ("14:02:11", 98), "")
    kept = members.message(member, messages.Failure("exited"), False, None, "")
    new = f"{paths.NEW_SERVES} the change could not be ended: full"
    for text, serves in ((back, True), (new, True), (kept, False)):
        run = HostRun(spec=TWO, snapshot=seen("exited"))
        run.failed([f"error alpha: {text}"])
        assert entry_state("alpha", TWO, run).serves is serves, text


def test_lines_of_progress_are_no_reason() -> None:
    line = subprocess.run(["printf", PROGRESS, "1", "5", "Unpacking x"], capture_output=True, text=True, check=True)
    assert line.stdout == "1:05  Unpacking x\n"
    assert reasons_of(line.stdout.splitlines()) == []


@pytest.mark.parametrize("install", [apt.install, rpm.install])
def test_list_of_packages_is_no_reason(install: Any) -> None:
    step = install("x", {"docker-ce": None}, replace(host_state(), os=SYSTEMS["rocky 9"]))
    assert f'print "{AVAILABLE}"' in step.command
    assert reasons_of([f"{AVAILABLE}docker-ce 1@a"]) == []


def test_failed_model_that_does_not_answer_is_just_failed() -> None:
    run = HostRun(spec=TWO, snapshot=seen("exited"), failures=[failure("exited.", "alpha")])
    assert state_of(run) == "FAILED: exited."


@pytest.mark.parametrize(
    ("done", "restored", "text"),
    [
        ({"alpha": Action.REMOVE}, set(), "1 changed"),
        ({"alpha": Action.CHECK}, set(), "nothing changed"),
        ({"alpha": Action.WAIT}, {"alpha"}, "nothing changed"),
        ({}, {"alpha"}, "1 failed and restored"),
        ({"beta": Action.RUN}, {"alpha"}, "1 changed, 1 failed and restored"),
    ],
)
def test_counts_what_really_changed(done: dict[str, Action], restored: set[str], text: str) -> None:
    run = Run({"gpu1": seen()})
    of_host = host_run(run.hosts["gpu1"])  # type: ignore[arg-type]
    of_host.done, of_host.restored = done, restored
    assert summary(Report(fleet={"gpu1": TWO}), run) == f"1 of 1 models answered, {text}. 4 operations"


def test_a_run_that_only_asked_changed_nothing() -> None:
    run, meta = Run({"gpu1": seen()}), SimpleNamespace(is_complete=lambda: True, did_change=lambda: True)
    run.ops[run.hosts["gpu1"]]["models"] = SimpleNamespace(operation_meta=meta)
    host_run(run.hosts["gpu1"]).asked = 1  # type: ignore[arg-type]
    assert "nothing changed" in summary(Report(fleet={"gpu1": TWO}), run)


@pytest.mark.parametrize(
    ("action", "after", "happened_"),
    [
        (Action.RECREATE, {"id": "f" * 64}, True),
        (Action.RECREATE, {}, False),
        (Action.RECREATE, {"id": "f" * 64, "status": "exited"}, False),
        (Action.START, {}, True),
        (Action.REMOVE, {}, False),
        (Action.REMOVE, None, True),
    ],
)
def test_a_run_that_was_cut_off_counts_what_is_seen(
    action: Action, after: dict[str, Any] | None, happened_: bool
) -> None:
    before = seen()
    now = replace(before, containers=() if after is None else (replace(before.containers[0], **after),))
    assert happened(Change("alpha", action), TWO, before, now, ok=False) is happened_
    assert happened(Change("alpha", action), TWO, before, now, ok=True)


def test_a_job_that_succeeded_beside_a_failed_one_ran() -> None:
    wanted, good = spec({"jobs": {"good": {"folder": "/data", "command": ["true"]}}}), Change("good", Action.RUN)
    done = {paths.job_record("good"): json.dumps({"definition": desire_job("good", wanted).definition})}
    assert happened(good, wanted, host_state(), host_state(files=done), ok=False)
    assert not happened(good, wanted, host_state(), host_state(), ok=False)
    assert happened(good, wanted, host_state(), host_state(), ok=True)


def test_a_model_that_was_down_because_its_change_failed_is_restored() -> None:
    failed = Failed("t", "{}", "", "", "oh", serves=True, down=12)
    before = replace(seen(), failed={("", "beta"): failed})
    after = replace(before, failed={**before.failed, ("", "alpha"): failed})
    assert restored(before, after) == {"alpha"}
    assert restored(before, replace(after, failed={("", "alpha"): replace(failed, down=0)})) == set()


def test_shows_disabled_model() -> None:
    assert state_of(HostRun(snapshot=seen()), "beta") == "disabled"


def test_shows_action_with_current_state() -> None:
    done = {"alpha": Action.RECREATE, "beta": Action.CREATE}
    assert state_of(HostRun(snapshot=seen(), done=done)) == "ready, recreated"
    assert state_of(HostRun(snapshot=seen("exited"), done=done)) == "exited with code 0"


def test_shows_first_error_on_one_line() -> None:
    run = HostRun(spec=TWO, snapshot=seen())
    run.failed(["pulling", "error alpha: it ended (exit code 1): oh", "    | cuda error", "error alphabet: x"])
    assert state_of(run) == "FAILED: it ended (exit code 1): oh, the previous one serves"
    assert run.failures == [
        failure("it ended (exit code 1): oh\n    | cuda error", "alpha"),
        failure("alphabet: x"),
    ]
    assert run.failure("models.beta") is None


def test_what_stopped_the_host_is_why_a_model_of_it_does_not_run() -> None:
    run = HostRun(spec=TWO, snapshot=host_state(), failures=[failure("of another", "beta")])
    assert state_of(run) == "no container"
    run.failures.append(failure("Docker does not answer"))
    assert state_of(run) == "FAILED: Docker does not answer"


def test_one_error_of_several_models_is_one_line_and_the_error_of_each() -> None:
    run = HostRun(spec=TWO, snapshot=seen(), failures=[failure("no driver.", "alpha"), failure("no driver.", "gamma")])
    assert grouped(run.failures) == ["alpha, gamma: no driver."]
    assert state_of(run) == "FAILED: no driver, the previous one serves"
    assert run.failure("models.gamma")


def test_words_before_a_colon_are_an_entry_only_where_there_is_one() -> None:
    assert failure_in("docker: not found", {"alpha": "models.alpha"}, {}, "step-failed") == failure("docker: not found")
    assert failure_in("alpha: one: two", {"alpha": "models.alpha"}, {}, "step-failed") == failure("one: two", "alpha")


@pytest.mark.parametrize(
    ("lines", "errors"),
    [
        (["error a: 1", "error b: 2"], ["a: 1", "b: 2"]),
        (["Reading…", "E: Unable to locate package x", "E: later", "bye"], ["E: Unable to locate package x"]),
        (["", "something", "  "], ["something"]),
        (["[Errno 2] No such file", "there: docker-ce 3:28.5.2-1@a"], ["[Errno 2] No such file"]),
        (["0:05  Get:3 http://repo/debian docker.io", "0:10  Unpacking docker.io"], []),
        (["0:05  Unpacking docker.io", "dpkg was interrupted"], ["dpkg was interrupted"]),
        (["0:05  Unpacking docker.io", "Killed"], []),
        (["Terminated "], []),
        (["Killed by the admin"], ["Killed by the admin"]),
        ([], []),
    ],
)
def test_finds_reasons_of_failed_host(lines: list[str], errors: list[str]) -> None:
    assert reasons_of(lines) == errors


def test_command_that_ended_without_a_message_has_an_error() -> None:
    run = HostRun()
    run.failed([""])
    assert [problem.code for problem in run.failures] == ["step-killed"]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], True),
        (["alpha: pulling llama.cpp, 0:05"], True),
        (["alpha: ready after 5 s", "error beta: no room"], False),
        (["error the connection to the host was lost"], False),
        (["Traceback (most recent call last):", "KeyError: 1"], False),
    ],
)
def test_runner_that_names_no_failure_was_killed(lines: list[str], found: bool) -> None:
    assert bool(killed(lines)) == found


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"gpus": [0, 1]}, ("llama.cpp b7000", "0, 1", "http://localhost:8000/v1")),
        ({"gpus": []}, ("llama.cpp b7000", "CPU", "http://localhost:8000/v1")),
        ({"gpus": "all", "bind": "lan"}, ("llama.cpp b7000", "all", "http://gpu1:8000/v1")),
        ({"bind": "any", "port": 9}, ("llama.cpp b7000", "CPU", "http://gpu1:9/v1")),
        ({"bind": "10.1.2.3"}, ("llama.cpp b7000", "CPU", "http://10.1.2.3:8000/v1")),
        ({"bind": "fd00::7"}, ("llama.cpp b7000", "CPU", "http://[fd00::7]:8000/v1")),
        ({"version": None, "image": "r/x:1"}, ("llama.cpp image", "CPU", "http://localhost:8000/v1")),
        ({"enabled": False}, ("llama.cpp b7000", "CPU", "")),
    ],
)
def test_shows_row_of_model(fields: dict[str, Any], row: tuple[str, str, str]) -> None:
    wanted = models(alpha=fields)
    report = Report(fleet={"gpu1": wanted})
    (found,) = report.rows(Run({"gpu1": seen()}), "gpu1")  # type: ignore[arg-type]
    assert (found.engine, found.gpus, found.endpoint) == row
    addressed = wanted.model_copy(update={"address": "lab.example"})
    if fields.get("bind") == "lan":
        (named,) = Report(fleet={"gpu1": addressed}).rows(Run({"gpu1": seen()}), "gpu1")  # type: ignore[arg-type]
        assert named.endpoint == "http://lab.example:8000/v1"


@pytest.mark.parametrize(
    ("look", "connected", "errors", "text"),
    [
        (None, False, [], "FAILED: Could not connect, see above"),
        (None, True, [], "FAILED: not inspected: the run stopped before"),
        (HostFacts.not_inspected("no sudo"), True, ["no sudo"], "FAILED: no sudo"),
        (HostFacts.not_inspected("no sudo"), True, [], "FAILED: not inspected: the run stopped before"),
    ],
)
def test_shows_row_of_host_without_snapshot(
    look: HostFacts | None, connected: bool, errors: list[str], text: str
) -> None:
    run = Run({"gpu1": look})
    run.hosts["gpu1"].connected = connected
    host_run(run.hosts["gpu1"]).failures = [failure(error) for error in errors]  # type: ignore[arg-type]
    (row,) = Report(fleet={"gpu1": TWO}).rows(run, "gpu1")  # type: ignore[arg-type]
    assert (row.name, row.state.condition, row.state.text) == ("-", Condition.FAILED, text)


def test_says_whose_localhost_the_addresses_mean(capsys: pytest.CaptureFixture[str]) -> None:
    """The column is the same for all hosts; below it stands how a model on loopback is reached."""
    note = "localhost is the host itself. From your desk: ssh -L 8000:localhost:8000 gpu1."
    for bind, shown in (("loopback", True), ("lan", False)):
        wanted = models(alpha={"bind": bind})
        run, report = Run({"gpu1": seen()}), Report({"gpu1": wanted})
        report.host_disconnect(run, run.hosts["gpu1"])  # type: ignore[arg-type]
        assert (note in capsys.readouterr().err) == shown


def test_omits_hosts_excluded_by_limit() -> None:
    run = Run({"gpu1": seen()})
    run.limit_hosts = []
    assert Report(fleet={"gpu1": TWO}).rows(run, "gpu1") == []  # type: ignore[arg-type]


def summary(report: Report, run: Run) -> str:
    text = report.summary(run)  # type: ignore[arg-type]
    return text.rpartition(", ")[0] if text.endswith(" s.") else text


def test_prints_summary() -> None:
    fleet = {"gpu1": TWO, "gpu2": models(alpha={}), "gpu3": models(alpha={})}
    run = Run({"gpu1": seen(), "gpu2": seen("exited"), "gpu3": None})
    report = Report(fleet=fleet)
    assert summary(report, run) == "1 of 3 models answered, nothing changed. 12 operations"
    meta = SimpleNamespace(is_complete=lambda: True, did_change=lambda: True)
    run.ops[run.hosts["gpu2"]]["x"] = SimpleNamespace(operation_meta=meta)
    assert summary(report, run) == "1 of 3 models answered, hosts changed. 12 operations"
    host_run(run.hosts["gpu1"]).done["alpha"] = Action.CREATE  # type: ignore[arg-type]
    assert summary(report, run) == "1 of 3 models answered, 1 changed. 12 operations"


def test_says_nothing_was_changed_before_execution() -> None:
    run = Run({"gpu1": seen()}, StateStage.Prepare)
    assert summary(Report(fleet={"gpu1": TWO}), run) == "Nothing was changed. 1 of 1 models answer now."


def test_prints_errors_once_with_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    run, report = Run({"gpu1": seen()}), Report({"gpu1": TWO})
    twice = failure("gpus [7] do not exist [/]", "alpha")
    host_run(run.hosts["gpu1"]).failures += [twice, twice]  # type: ignore[arg-type]
    for _ in range(2):
        report.host_disconnect(run, run.hosts["gpu1"])  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert shown.count("error gpu1 alpha: gpus [7] do not exist [/]") == 1
    assert "FAILED: gpus [7] do not exist [/]" in shown
    assert shown.count("HOST") == 1


def test_long_table_lists_only_what_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"gpu{number}" for number in range(41)]
    run = Run({name: seen("exited") if name == "gpu7" else seen() for name in names})
    Report(fleet=dict.fromkeys(names, TWO)).show(run)  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert [line.split()[0] for line in shown.splitlines() if "llama.cpp" in line] == ["gpu7"]
    assert "81 more are ready, done or disabled; --limit HOST lists those of a host." in shown
    assert shown.splitlines()[-1].startswith("40 of 41 models answered")


def test_does_not_interpret_brackets_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    report, run = Report(fleet={"gpu1": TWO}), Run({"gpu1": seen()})
    host_run(run.hosts["gpu1"]).failures.append(failure("[0] → [3]", "alpha"))  # type: ignore[arg-type]
    report.show(run)  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert "FAILED: [0] → [3]" in shown
    assert "error gpu1 alpha: [0] → [3]" in shown


def test_does_not_count_hosts_excluded_by_limit() -> None:
    run = Run({"gpu1": seen(), "gpu2": None})
    run.limit_hosts = [run.hosts["gpu1"]]
    assert summary(Report(fleet={"gpu1": TWO, "gpu2": TWO}), run).startswith("1 of 1 models answered")


def test_shows_planned_action_before_run() -> None:
    report, run = Report(fleet={"gpu1": TWO}), Run({"gpu1": seen()}, StateStage.Prepare)
    host_run(run.hosts["gpu1"]).planned["alpha"] = Action.RECREATE  # type: ignore[arg-type]
    (dry, _) = report.rows(run, "gpu1")  # type: ignore[arg-type]
    assert dry.state.text == "ready, to be recreated"
    run.current_stage = StateStage.Execute
    (done, _) = report.rows(run, "gpu1")  # type: ignore[arg-type]
    assert done.state.text == "ready"


def test_a_dry_run_only_says_that_a_model_loads() -> None:
    report, run = Report(fleet={"gpu1": TWO}), Run({"gpu1": seen(probe=(503, ""))}, StateStage.Prepare)
    host_run(run.hosts["gpu1"]).planned["alpha"] = Action.WAIT  # type: ignore[arg-type]
    (dry, _) = report.rows(run, "gpu1")  # type: ignore[arg-type]
    assert dry.state.text == "loading"


def test_shows_removed_models_after_remove(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run({"gpu1": seen(), "gpu2": seen()})
    host_run(run.hosts["gpu2"]).failures.append(failure("Docker stays"))  # type: ignore[arg-type]
    Report(fleet={"gpu1": TWO, "gpu2": TWO}, removing=True).show(run)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("gpu1") and "alpha" in line] == ["removed"]
    assert "2 of 4 models removed, nothing changed." in lines


def test_interrupted_run_does_not_claim_no_change() -> None:
    run = Run({"gpu1": seen(), "gpu2": seen()})
    outdate(run.hosts["gpu1"])  # type: ignore[arg-type]
    report = Report(fleet={"gpu1": TWO, "gpu2": TWO})
    assert "hosts changed" not in summary(report, run)
    for host in run.hosts.values():
        host_run(host).interrupted = True  # type: ignore[arg-type]
    rows = [report.rows(run, name)[0].state.text for name in run.hosts]  # type: ignore[arg-type]
    assert rows == ["unknown", "ready"], "what was seen before it was changed is not shown as its state"
    assert summary(report, run).startswith("Interrupted. What gpu1 began is finished or undone there. What its")
    host_run(run.hosts["gpu1"]).failures.append(failure("oh", "alpha"))  # type: ignore[arg-type]
    assert "nothing changed" in summary(report, run)


def test_host_that_its_last_operation_changed_is_inspected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After deploys/docker.py, say: the table is of what is there now."""
    run, taken = Run({"gpu1": seen("exited")}), list[str]()
    (host,) = run.hosts.values()
    run.ops[host] = dict.fromkeys(("docker", "daemon.json"))
    host.op_hash_order = [*run.ops[host], "with _run_once, which another host carries out"]
    monkeypatch.setattr(run_state, "take_snapshot", lambda host, questions: taken.append("once") or seen())
    report = Report(fleet={"gpu1": TWO})
    host_run(host).spec = TWO  # type: ignore[arg-type]
    host.state = SimpleNamespace(
        current_stage=run.current_stage,
        inventory=Inventory(([], {})),
        get_meta_for_host=lambda host: SimpleNamespace(ops_change=0),
    )
    for changes, expected in ((False, 0), (True, 1)):
        if changes:
            outdate(host)  # type: ignore[arg-type]
        for operation in run.ops[host]:
            report.operation_host_success(run, host, operation, 0)  # type: ignore[arg-type]
        assert len(taken) == expected
    assert report.rows(run, "gpu1")[0].state.text == "ready"  # type: ignore[arg-type]


def test_shows_a_host_in_maintenance_and_does_not_count_it() -> None:
    resting = TWO.model_copy(update={"maintenance": "RMA until 15 Jan"})
    report, run = Report({"gpu1": TWO, "gpu2": resting}), Run({"gpu1": seen(), "gpu2": None})
    (row,) = report.rows(run, "gpu2")  # type: ignore[arg-type]
    assert (row.name, row.state.condition, row.state.text) == (
        "-",
        Condition.MAINTENANCE,
        "maintenance: RMA until 15 Jan",
    )
    assert summary(report, run).startswith("1 of 1 models answered")
