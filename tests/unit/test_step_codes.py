"""Each failure of a program on a host has a code of its own, which reaches the report, the history and JSON."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpurack.commands import progress
from gpurack.facts.record import read
from gpurack.operations.output import reasons_of
from gpurack.operations.run_state import HostRun
from gpurack.spec.step_codes import STEPS
from tests.given import models
from tests.sources import name_of
from tests.unit.host_programs import FILES

import messages  # isort: skip
import record  # isort: skip

FAILURES = {"Failure": 1, "CertainFailure": 1, "messages.Failure": 1, "kind": 1, "say_error": 2, "self.fail": 2}
"""A call that makes or says a failure → the place of the code in its arguments."""
WITH_KIND = ("loading.py", "members.py", "probing.py")
"""Programs in which `kind` is a class of failures."""


def codes_of(path: Path) -> list[tuple[str, str]]:
    """(line, the code as written) of each failure in a program of files/; "" where it has none."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = name_of(node.func) if isinstance(node, ast.Call) else ""
        place = FAILURES.get(name.replace("self.job.fail", "self.fail"))
        if place is None or (name == "kind" and path.name not in WITH_KIND):
            continue
        assert isinstance(node, ast.Call)
        written = node.args[place] if len(node.args) > place else ast.Constant("")
        code = written.value if isinstance(written, ast.Constant) else ast.unparse(written)
        found.append((f"{path.name}:{node.lineno}", str(code)))
    return found


def test_each_failure_has_a_known_code() -> None:
    given = {"failure.code", "code_of(error)", "code_of(failure)", "code"}
    every = [each for path in sorted(FILES.glob("*.py")) for each in codes_of(path)]
    assert len(every) > 100
    assert [each for each in every if each[1] not in STEPS and each[1] not in given] == []


def test_each_code_is_said_by_a_program() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES.glob("*.py")]
    by_caller = {"folder-not-made", "daemon-json-not-applied"}  # operations/commands.py: one code for the program
    assert [code for code in STEPS if code not in by_caller and not any(f'"{code}"' in text for text in texts)] == []


def test_code_of_runner_reaches_the_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "CODES", {})  # those of other tests in this process
    messages.say_error("alpha", "exited while loading\n    | codes: beta no-room", "exited")
    messages.say_error("ada's Docker", "does not answer", "time-is-up")
    messages.say_codes()
    messages.say_codes()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "codes: ada's Docker time-is-up, alpha exited"
    assert len(reasons_of(lines)) == 2
    run = HostRun(spec=models(alpha={}, beta={}))
    run.failed([*lines, "error beta: no code"])
    assert [(one.path, one.code) for one in run.failures] == [
        ("models.alpha", "exited"),
        ("", "time-is-up"),
        ("models.beta", "step-failed"),
    ]


@pytest.mark.parametrize(
    "line", ["codes: alpha unheard-of", "codes: ", "codes: alpha", "codes: ,, x", "codes: step-failed"]
)
def test_runner_of_an_older_or_newer_gpurack_is_understood(line: str) -> None:
    run = HostRun(spec=models(alpha={}))
    run.failed(["error alpha: exited while loading", line])
    assert [(one.path, one.code, one.what) for one in run.failures] == [
        ("models.alpha", "step-failed", "exited while loading")
    ]


def test_command_without_codes_has_that_of_its_program() -> None:
    run = HostRun()
    run.failed(["error Docker: no"], "docker-not-restarted")
    assert [one.code for one in run.failures] == ["docker-not-restarted"]


def test_code_of_an_error_that_is_no_failure() -> None:
    errors = [
        messages.Failure("a", "exited"),
        messages.TimeIsUp("b"),
        messages.NoRoom("c"),
        OSError(28, "full"),
        KeyError(),
    ]
    assert [messages.code_of(error) for error in errors] == [
        "exited", "time-is-up", "no-room", "host-file-error", "runner-error"
    ]  # fmt: skip


def test_history_has_the_code_of_each_failure() -> None:
    record.note_run("apply", {}, [], {"alpha: it ended": "exited", "beta: it ended": ""})
    found = read(Path(record.RECORD).read_text(encoding="utf-8"))
    assert found
    (event,) = found.history
    assert (event.failed, event.codes) == (("alpha: it ended", "beta: it ended"), ("exited", ""))


@pytest.mark.parametrize("codes", [None, [], ["unheard-of"], ["exited", "exited", "exited"]])
def test_codes_of_the_history_are_known_and_one_for_each_failure(codes: list[str] | None) -> None:
    said = {"at": "", "verb": "apply", "changes": [], "failed": ["alpha: it ended"], "codes": codes}
    found = read(json.dumps({"format": 2, "containers": {}, "history": [said]}))
    assert found
    assert found.history[0].codes == (("exited",) if codes == ["exited"] * 3 else ("",))


def test_apply_shows_no_line_of_codes() -> None:
    """Errors are shown once, at its end."""
    shown: list[str] = []
    console = SimpleNamespace(print=lambda line: shown.append(str(line)))
    lines = progress.Lines(console, {"gpu1": {"alpha"}})  # type: ignore[arg-type]
    for text in ("alpha: loading, 0:05", "error alpha: it ended", "codes: alpha exited"):
        lines.echo(f"[gpu1] {text}")
    assert shown == ["gpu1  alpha  loading, 0:05", f"gpu1  alpha  {progress.FAILED_LATER}"]
