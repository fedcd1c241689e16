"""What `pytest --pyargs gpurack.verify` makes of evidence that a host, or one of its users, wrote to fool it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gpurack.state.model import HostState
from gpurack.verify import drift, look, plugin, test_hosts, test_models
from gpurack.verify.drift import Unread
from gpurack.verify.lab import Entry, Lab, Server
from tests.given import spec
from tests.security.attacks import EVERYTHING, harmless
from tests.unit.verify.test_checks import WANTED, evidence

GARBAGE: list[Any] = [None, 7, "x", [], [7], {"a": 7}, {"State": "running"}]
CHECKS = [test_hosts.test_packages, test_hosts.test_holds, test_hosts.test_only_our_models, test_hosts.test_secrets]
USERS = spec({"models": {"alpha": {"port": 8000, "user": "ada"}}, "docker": {"rootless": {"ada": {}}}})


def server(parts: Any, wanted: Any = WANTED) -> Server:
    return Server("gpu1", wanted, None, "pyinfra lab.py", "5a", lambda name: look.Seen(parts))  # type: ignore[arg-type]


def outcomes(checked: Server) -> list[str]:
    """What pytest is told by the checks, one after the other."""
    told = []
    for check in CHECKS:
        try:
            check(gpurack_host=checked)
        except pytest.fail.Exception as error:
            told.append(f"failed: {error}")
        except pytest.skip.Exception as error:
            told.append(f"skipped: {error}")
    return told


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("part", ["system", "packages", "files", "users", "daemons", "units", "amd", "secrets"])
def test_evidence_of_another_shape_is_one_sentence_about_the_host(part: str, garbage: Any) -> None:
    said = outcomes(server(evidence(**{part: garbage})))
    assert len([line for line in said if "could not be understood" in line and line.startswith("failed")]) <= 1


def test_evidence_that_lacks_everything_is_one_sentence() -> None:
    said = outcomes(server({}))
    assert [line.partition(":")[0] for line in said] == ["failed", "skipped", "skipped", "skipped"]
    assert "gpu1: what the host said could not be understood (KeyError: " in said[0]


@pytest.mark.parametrize("answer", ["[]", "7", "{", "[" * 100_000, '{"a": NaN}', EVERYTHING, "\ufffd"])
def test_an_answer_that_is_no_evidence_is_a_sentence(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpurack.verify.lab.run_as_root", lambda *given: answer)
    lab: Any = SimpleNamespace(servers={"gpu1": server({})}, salt="5a", deep=False)
    with pytest.raises(Unread, match="its answer broke off"):
        Lab._ask(lab, "gpu1")["system"]


def test_a_connection_that_ends_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(*given: object) -> str:
        raise EOFError

    monkeypatch.setattr("gpurack.verify.lab.run_as_root", ends)
    lab: Any = SimpleNamespace(servers={"gpu1": server({})}, salt="5a", deep=False)
    with pytest.raises(Unread, match=r"could not be understood \(EOFError"):
        Lab._ask(lab, "gpu1")["system"]


@pytest.mark.parametrize(
    "garbage",
    [
        *filter(None, GARBAGE),
        {"info": 7, "containers": {}, "images": []},
        {"info": {}, "containers": {"x": {"Config": 7}}, "images": []},
        {"broken": "x"},
    ],
)
def test_a_users_docker_spoils_that_users_models_alone(garbage: Any) -> None:
    parts = evidence()
    parts["daemons"]["ada"] = garbage
    parts["users"]["ada"] = {"uid": 1, "gid": 1, "home": "/home/ada", "linger": True, "files": {}}
    checked = server(parts, USERS)
    assert isinstance(checked.state, HostState)
    assert checked.seen.containers == look.Seen(evidence()).containers
    with pytest.raises(Unread):
        _ = Entry(checked, "alpha", USERS.models["alpha"]).container
    with pytest.raises(pytest.fail.Exception, match="gpu1 alpha"):
        test_models.test_runs(gpurack_model=Entry(checked, "alpha", USERS.models["alpha"]))


def test_the_report_of_a_check_is_harmless() -> None:
    """The terminal's, and so the XML's: of gpurack's checks, of one's own, and what they printed."""

    def report(longrepr: Any) -> Any:
        text = longrepr if isinstance(longrepr, str) else str(longrepr)
        made = SimpleNamespace(longrepr=longrepr, longreprtext=text, sections=[("Captured stdout call", EVERYTHING)])
        item: Any = SimpleNamespace(config=SimpleNamespace(stash={plugin._LAB: None}))
        wrapper = plugin.pytest_runtest_makereport(item)
        next(wrapper)
        try:
            wrapper.send(made)  # type: ignore[arg-type]
        except StopIteration as end:
            return end.value
        raise AssertionError

    lines = drift.said(SimpleNamespace(title="gpu1", mend="x"), [drift.Drift(EVERYTHING, "a", EVERYTHING)])  # type: ignore[arg-type]
    for longrepr in ("\n".join(lines), ("file", 1, f"Skipped: {EVERYTHING}")):
        shown = report(longrepr)
        harmless(shown.longrepr if isinstance(shown.longrepr, str) else shown.longrepr[2])
        harmless(shown.sections[0][1])
    fine = SimpleNamespace(__str__=lambda: "x")
    assert report(fine).longrepr is not None
