"""Verification's look at a user's Docker and models: by that user, for a while, and as data."""

from __future__ import annotations

import os
import sys
import time
from types import ModuleType
from typing import Any

import pytest

from gpurack.verify.look import Seen, Unread
from tests.unit.host_programs import load
from tests.unit.verify.test_checks import ID, IMAGE_ID, LABELS, evidence

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture
def script() -> ModuleType:
    module: ModuleType = load("evidence")
    return module


def whoami() -> dict[str, int]:
    return {"uid": os.getuid(), "gid": os.getgid(), "groups": len(os.getgroups())}


def silent() -> None:
    time.sleep(60)


def endless() -> str:
    return "x" * 5000


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "7", "{", '{"files": []}'], ids=lambda text: text[:9])
def test_a_note_beside_weights_is_a_note_or_none(script: Any, text: str) -> None:
    """A user writes it: nested deep it must not cost the whole host its evidence."""
    assert script.noted(text) is None


@pytest.mark.parametrize("said", ["[" * 100_000, "[]", "7", "null", "", "{"], ids=lambda text: text[:9] or "nothing")
def test_a_daemon_that_says_anything_knows_nothing(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """`docker info` of a user's Docker, after its daemon.json was written."""
    module = load("daemon_json")
    monkeypatch.setattr(module, "run", lambda *_: (0, said + "\n"))
    assert module.unmet({"LiveRestoreEnabled": False}, module.info()) == ["an answer"]


LONG = "1" * 100_000


@pytest.mark.parametrize("said", [LONG, f'{{"a": -{LONG}}}', f"[{LONG}]"], ids=["alone", "in a map", "in a list"])
def test_an_integer_of_a_hundred_thousand_digits_is_not_data(said: str) -> None:
    """Python before 3.11 takes minutes to read one, and its time grows with the square. Those after have a limit of
    their own, so that is taken away."""
    sys.set_int_max_str_digits(0)
    try:
        assert load("common").parsed(said) is None
    finally:
        sys.set_int_max_str_digits(4300)


@needs_root
def test_a_user_is_asked_by_a_process_of_that_user(script: Any) -> None:
    said = script.AsUser("nobody", 20, whoami).result()
    assert said["uid"] == 65534
    assert said["gid"] != 0


@needs_root
def test_who_never_answers_has_said_nothing(script: Any) -> None:
    begun = time.monotonic()
    assert script.AsUser("nobody", 1, silent).result() is None
    assert time.monotonic() - begun < 10


@needs_root
def test_who_says_too_much_has_said_nothing(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "DAEMON_SIZE", 1000)
    assert script.AsUser("nobody", 20, endless).result(str) is None
    assert script.AsUser("no such user", 20, whoami).result() is None


@pytest.mark.parametrize(
    "said", [None, {}, {"info": [], "containers": {}, "images": []}, {"info": {}, "containers": {"a": 7}, "images": []}]
)
def test_what_is_not_of_the_form_of_a_daemon_is_none(script: Any, said: Any) -> None:
    assert script.of_form(said) is None
    right = {"info": {}, "containers": {"a": {}}, "images": [{}]}
    assert script.of_form(right) is right


def test_a_users_container_is_not_the_hosts_and_garbage_is_nothing() -> None:
    """One container of another form is enough: what that Docker says is that user's word, and fails that user alone."""
    hers = {
        "Id": ID, "Name": "/alpha", "Image": IMAGE_ID, "Created": "", "RestartCount": 0, "Config": {"Labels": LABELS},
        "State": {"Status": "running", "ExitCode": 0, "Error": "", "StartedAt": "", "FinishedAt": ""},
        "HostConfig": {"PortBindings": None}, "NetworkSettings": {"Ports": None},
    }  # fmt: skip
    parts = evidence(users={"ada": {"uid": 1, "gid": 1, "home": "/home/ada", "linger": True, "files": {}}})
    for containers in ({"alpha": hers}, {"alpha": hers, "x;id": {}}):
        info = {"ServerVersion": 7, "NCPU": "x"}
        parts["daemons"]["ada"] = {"info": info, "containers": containers, "images": []}
        seen = Seen(parts)
        understood = "x;id" not in containers
        assert sorted(seen.containers) == ([("ada", "alpha")] if understood else [])
        assert (seen.state.users["ada"].docker, [one.user for one in seen.state.containers]) == (
            {}, ["ada"] if understood else []
        )  # fmt: skip
        if understood:
            assert seen.daemon("ada")["info"] == {}
        else:
            with pytest.raises(Unread, match="could not be understood") as unread:
                seen.daemon("ada")
            assert unread.value.mend == "docker ps, of the Docker of ada"


@needs_root
def test_a_program_that_its_user_stops_has_a_limit_and_nothing_of_roots(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy")
    code, said = script.run_as("nobody", 10, "sh", "-c", "id -u; env")
    assert (code, said.splitlines()[0], "secret" in said) == (0, "65534", False)
    begun = time.monotonic()
    assert script.run_as("nobody", 1, "sh", "-c", "kill -STOP $$")[0] != 0
    assert time.monotonic() - begun < 20


def test_what_is_published_elsewhere_is_not_asked_at_a_port_that_anybody_may_have(script: Any) -> None:
    """It would get the model's key."""

    def publishes(*ports: str) -> dict[str, Any]:
        bindings = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": port} for port in ports]} if ports else None
        return {"HostConfig": {"PortBindings": bindings}}

    one = {"port": 8001, "user": "", "address": "", "key": "sk-1"}
    assert script.published(publishes("8000", "8001"), 8001) == "127.0.0.1"
    assert script.published(publishes(), 8001) == ""
    assert script.published(publishes("8000"), 8001) is None
    found = script.conversation(one, "c1", {"address": "127.0.0.1"}, None)
    assert found == {"ready": [0, "its container does not publish port 8001"]}
