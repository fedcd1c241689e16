"""The table at the end of a run: a line for every host and model, whatever happened."""

from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.state import StateStage

from gpurack.facts.model import HostFacts
from gpurack.operations.report import Report
from gpurack.operations.run_state import HostRun, failure_in, host_run, outdate, reasons_of
from gpurack.plan.models.diff import Action
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, grouped
from tests.given import container, host_state, models

TWO = models(alpha={"gpus": [0]}, beta={"enabled": False})


def failure(sentence: str, model: str = "") -> Problem:
    return Problem.of("step-failed", path=f"models.{model}" if model else "", what=sentence)


def seen(status: str = "running", probe: Any = (200, '"alpha"')) -> HostFacts:
    probes = {"alpha": list(probe)} if probe else {}
    return host_state(containers=[container("alpha", status, label={})], probes=probes)


class Run:
    """pyinfra's state as far as the report reads it: hosts, each with its last snapshot."""

    def __init__(self, looks: dict[str, HostFacts | None], stage: StateStage = StateStage.Execute) -> None:
        self.hosts = {
            name: SimpleNamespace(
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
        self.ops: dict[str, dict[str, Any]] = {name: {} for name in looks}

    def add_callback_handler(self, handler: Any) -> None:
        self.callback_handlers.append(handler)


def state_of(run: HostRun, model: str = "alpha", spec: Host = TWO) -> str:
    return Report({}).state_of(model, spec, run)


@pytest.mark.parametrize(
    ("look", "text"),
    [
        (seen(), "ready"),
        (seen(probe=(503, "loading")), "does not answer"),
        (seen(probe=(0, "timed out")), "does not answer"),
        (seen(probe=None), "does not answer"),
        (seen("exited"), "not running (exited)"),
        (seen("restarting"), "not running (restarting)"),
        (host_state(), "no container"),
        (host_state(containers=[container("alpha")]), "no container"),
    ],
)
def test_shows_state_of_model(look: HostFacts, text: str) -> None:
    assert state_of(HostRun(snapshot=look)) == text


def test_shows_disabled_model() -> None:
    assert state_of(HostRun(snapshot=seen()), "beta") == "disabled"


def test_shows_action_with_current_state() -> None:
    done = {"alpha": Action.RECREATE, "beta": Action.CREATE}
    assert state_of(HostRun(snapshot=seen(), done=done)) == "ready, recreated"
    assert state_of(HostRun(snapshot=seen("exited"), done=done)) == "not running (exited)"


def test_shows_first_error_on_one_line() -> None:
    run = HostRun(spec=TWO, snapshot=seen())
    run.failed(["pulling", "error alpha: it ended (exit code 1): oh", "    | cuda error", "error alphabet: x"])
    assert state_of(run) == "FAILED: it ended (exit code 1): oh"
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
    assert state_of(run) == "FAILED: no driver."
    assert run.failure("models.gamma")


def test_words_before_a_colon_are_an_entry_only_where_there_is_one() -> None:
    assert failure_in("docker: not found", {"alpha": "models.alpha"}) == failure("docker: not found")
    assert failure_in("alpha: one: two", {"alpha": "models.alpha"}) == failure("one: two", "alpha")


@pytest.mark.parametrize(
    ("lines", "errors"),
    [
        (["error a: 1", "error b: 2"], ["a: 1", "b: 2"]),
        (["Reading…", "E: Unable to locate package x", "E: later", "bye"], ["E: Unable to locate package x"]),
        (["", "something", "  "], ["something"]),
        (["[Errno 2] No such file", "there: docker-ce 3:28.5.2-1@a"], ["[Errno 2] No such file"]),
        ([], []),
    ],
)
def test_finds_reasons_of_failed_host(lines: list[str], errors: list[str]) -> None:
    assert reasons_of(lines) == errors


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
    assert (found[2], found[3], found[4]) == row
    addressed = wanted.model_copy(update={"address": "lab.example"})
    if fields.get("bind") == "lan":
        (named,) = Report(fleet={"gpu1": addressed}).rows(Run({"gpu1": seen()}), "gpu1")  # type: ignore[arg-type]
        assert named[4] == "http://lab.example:8000/v1"


@pytest.mark.parametrize(
    ("look", "connected", "errors", "text"),
    [
        (None, False, [], "FAILED: Could not connect, see above"),
        (None, True, [], "FAILED: not inspected: the run stopped before"),
        (HostFacts(trouble="no sudo"), True, ["no sudo"], "FAILED: no sudo"),
        (HostFacts(trouble="no sudo"), True, [], "FAILED: not inspected: the run stopped before"),
    ],
)
def test_shows_row_of_host_without_snapshot(
    look: HostFacts | None, connected: bool, errors: list[str], text: str
) -> None:
    run = Run({"gpu1": look})
    run.hosts["gpu1"].connected = connected
    host_run(run.hosts["gpu1"]).failures = [failure(error) for error in errors]  # type: ignore[arg-type]
    assert Report(fleet={"gpu1": TWO}).rows(run, "gpu1") == [("gpu1", "-", "", "", "", text)]  # type: ignore[arg-type]


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
    run.ops["gpu2"]["x"] = SimpleNamespace(operation_meta=meta)
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
    assert dry[-1] == "ready, to be recreated"
    run.current_stage = StateStage.Execute
    (done, _) = report.rows(run, "gpu1")  # type: ignore[arg-type]
    assert done[-1] == "ready"


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
    assert summary(report, run).startswith("Interrupted. Commands already started on gpu1 continue there")
    host_run(run.hosts["gpu1"]).failures.append(failure("oh", "alpha"))  # type: ignore[arg-type]
    assert "nothing changed" in summary(report, run)
