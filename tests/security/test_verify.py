"""What `pytest --pyargs gpurack.verify` does with hostile evidence of a host or its users."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack.facts.model import HostFacts
from gpurack.shell import sh
from gpurack.verify import drift, evidence, plugin, test_hosts, test_models
from gpurack.verify.drift import Unread
from gpurack.verify.lab import Entry, Lab, Server
from gpurack.verify.reach import run_as_root
from tests.given import spec
from tests.security.attacks import EVERYTHING, harmless
from tests.unit.verify.test_checks import CARD, ID, WANTED, entry, host_evidence

GARBAGE: list[Any] = [None, 7, "x", [], [7], {"a": 7}, {"State": "running"}]
CHECKS = [test_hosts.test_packages, test_hosts.test_holds, test_hosts.test_only_our_models, test_hosts.test_secrets]
USERS = spec({"models": {"alpha": {"port": 8000, "user": "ada"}}, "docker": {"rootless": {"ada": {}}}})


def server(parts: Any, wanted: Any = WANTED) -> Server:
    return Server("gpu1", wanted, None, "pyinfra lab.py", "5a", lambda name: evidence.Seen(parts))  # type: ignore[arg-type]


def outcomes(checked: Server) -> list[str]:
    """The outcome of each check for pytest."""
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
def test_evidence_of_wrong_shape_is_one_error_of_host(part: str, garbage: Any) -> None:
    said = outcomes(server(host_evidence(**{part: garbage})))
    assert len([line for line in said if "could not interpret" in line and line.startswith("failed")]) <= 1


def test_empty_evidence_is_one_error() -> None:
    said = outcomes(server({}))
    assert [line.partition(":")[0] for line in said] == ["failed", "skipped", "skipped", "skipped"]
    assert "gpu1: could not interpret the host's output (KeyError: " in said[0]


@pytest.mark.parametrize("answer", ["[]", "7", "{", "[" * 100_000, '{"a": NaN}', EVERYTHING, "\ufffd"])
def test_invalid_answer_is_one_error(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpurack.verify.lab.run_as_root", lambda *given: answer)
    lab: Any = SimpleNamespace(servers={"gpu1": server({})}, salt="5a", deep=False)
    with pytest.raises(Unread, match="its answer is incomplete"):
        Lab._ask(lab, "gpu1")["system"]


def test_lost_connection_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(*given: object) -> str:
        raise EOFError

    monkeypatch.setattr("gpurack.verify.lab.run_as_root", ends)
    lab: Any = SimpleNamespace(servers={"gpu1": server({})}, salt="5a", deep=False)
    with pytest.raises(Unread, match=r"could not interpret the host's output \(EOFError"):
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
def test_users_docker_affects_own_models_only(garbage: Any) -> None:
    parts = host_evidence()
    parts["daemons"]["ada"] = garbage
    parts["users"]["ada"] = {"uid": 1, "gid": 1, "home": "/home/ada", "linger": True, "files": {}}
    checked = server(parts, USERS)
    assert isinstance(checked.state, HostFacts)
    assert checked.seen.containers == evidence.Seen(host_evidence()).containers
    with pytest.raises(Unread):
        _ = Entry(checked, "alpha").container
    with pytest.raises(pytest.fail.Exception, match="gpu1 alpha"):
        test_models.test_runs(gpurack_model=Entry(checked, "alpha"))


def outcome(check: Any, one: Entry) -> str:
    """The outcome of a check of a model for pytest; "" for success."""
    try:
        check(gpurack_model=one)
    except pytest.fail.Exception as error:
        return str(error)
    return ""


LATE = {"late": "timed out after 90 s, pid 7 (python3) is left behind"}


@pytest.mark.parametrize("part", ["weights", "mounted"])
def test_silent_weights_fail_their_check_only(part: str) -> None:
    def hang(parts: dict[str, Any], container: dict[str, Any]) -> None:
        parts["models"]["alpha"][part] = LATE if part == "mounted" else {"/w/a.gguf": LATE}

    one = entry(change=hang)
    assert "could not be read on the host: timed out after 90 s, pid 7 (python3) is left behind" in outcome(
        test_models.test_weights, one
    )
    assert not outcome(test_models.test_runs, one)
    assert not outcome(test_models.test_ready, one)


def test_silent_user_fails_alone() -> None:
    parts = host_evidence(users={"ada": LATE})
    parts["daemons"]["ada"] = LATE
    checked = server(parts, USERS)
    assert checked.state.users == {}
    assert not [line for line in outcomes(checked) if "left behind" in line]
    with pytest.raises(pytest.fail.Exception, match="ada could not be read on the host: timed out after 90 s"):
        test_hosts.test_rootless_docker(gpurack_host=checked)


def test_unread_arguments_are_a_warning() -> None:
    parts = host_evidence(secrets={"files": {}, "leaks": [], "unread": {"eve": LATE["late"]}})
    with pytest.warns(UserWarning, match=r"gpu1: the arguments of eve's processes were not read: timed out after 90 s"):
        test_hosts.test_secrets(gpurack_host=server(parts))


def test_container_with_name_of_model_is_not_that_model() -> None:
    """A copy has its labels and another id; without labels it is just as foreign."""

    def made_by_hand(parts: dict[str, Any], container: dict[str, Any]) -> None:
        container["Config"]["Labels"] = {}

    one = entry(change=made_by_hand)
    assert one.container is None
    assert "expected gpurack's, found one made by hand" in outcome(test_models.test_runs, one)
    assert not outcome(test_models.test_definition, one)
    users = Entry(replace(one.server, spec=USERS), "alpha")  # in ada's Docker, which has no container with that name
    assert users.named is None


def test_cgroup_named_like_models_container_is_not_that_container() -> None:
    def claim(parts: dict[str, Any], container: dict[str, Any]) -> None:
        parts["processes"] = [[CARD, ID, None, 9], ["GPU-other", ID, 1001, 9]]

    assert not outcome(test_models.test_gpus, entry(change=claim))


def test_silent_host_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*given: object, **options: object) -> None:
        raise TimeoutError

    host: Any = SimpleNamespace(name="gpu1", connected=True, run_shell_command=waits, log=print)
    with pytest.raises(Unread, match=r"python3 -: no answer within 630 s"):
        run_as_root(host, sh("python3 -"), "", 630)


def test_report_of_checks_is_harmless() -> None:
    """In the terminal and the XML: gpurack's checks, users' own, and what they printed."""

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

    lines = drift.drift_lines(SimpleNamespace(title="gpu1", fix="x"), [drift.Drift(EVERYTHING, "a", EVERYTHING)])  # type: ignore[arg-type]
    for longrepr in ("\n".join(lines), ("file", 1, f"Skipped: {EVERYTHING}")):
        shown = report(longrepr)
        harmless(shown.longrepr if isinstance(shown.longrepr, str) else shown.longrepr[2])
        harmless(shown.sections[0][1])
    fine = SimpleNamespace(__str__=lambda: "x")
    assert report(fine).longrepr is not None
