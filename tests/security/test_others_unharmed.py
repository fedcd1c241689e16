"""What one user's programs print or do affects that user's models only, and listening on a port gives nobody a key."""

from __future__ import annotations

import json
import stat
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from gpurack.facts.amd import processes
from gpurack.facts.nvidia import gpu_processes
from gpurack.facts.parts import Listener, User
from gpurack.locking.manifest import manifest
from gpurack.plan.models.desired import desire
from gpurack.plan.models.preflight import port_in_use
from gpurack.plan.steps import Shell
from gpurack.plan.system.rootless import at_boot
from gpurack.resources import read_text
from tests.given import container, host_state, spec
from tests.security.hosts import runner
from tests.unit.host_programs import Fakes, container_id, load

ALPHA = spec({"models": {"alpha": {"port": 8000}}})


def test_claimed_port_counts_for_listeners_of_that_user_only() -> None:
    """Otherwise eve's daemon could keep the host's alpha from ever being changed."""
    alpha = container("alpha", ports=[("127.0.0.1", 8000)], label={})
    claimed = container("x", ports=[("127.0.0.1", 8000)], user="eve")
    held = Listener("127.0.0.1", 8000, "docker-proxy (pid 9, user root)")
    facts = replace(host_state(containers=[alpha]), listeners=(held,))
    assert port_in_use(desire("alpha", ALPHA, facts, ()), facts) is None
    facts = replace(facts, containers=(*facts.containers, claimed))
    assert port_in_use(desire("alpha", ALPHA, facts, ()), facts) is None
    hers = replace(held, owner="rootlesskit (pid 9, user eve)")
    in_use = port_in_use(desire("alpha", ALPHA, facts, ()), replace(facts, listeners=(hers,)))
    assert in_use
    assert "container `x`, which gpurack does not manage" in in_use.what


def test_unknown_owner_of_our_own_port_is_no_error() -> None:
    """Docker's proxy began or ended while the snapshot was taken, so no process was found that listens."""
    alpha = container("alpha", ports=[("127.0.0.1", 8000)], label={})
    unknown = Listener("127.0.0.1", 8000, "")
    facts = replace(host_state(containers=[alpha]), listeners=(unknown,))
    assert port_in_use(desire("alpha", ALPHA, facts, ()), facts) is None
    bare = replace(host_state(), listeners=(unknown,))
    in_use = port_in_use(desire("alpha", ALPHA, bare, ()), bare)
    assert in_use
    assert "process (unknown)" in in_use.what


def test_cgroup_named_like_host_container_is_users() -> None:
    """Otherwise eve's process would count as alpha's, and its memory as free."""
    alpha = container("alpha", label={})
    hers, hosts, roots = gpu_processes([f"GPU-1,7,5,eve,{uid}{alpha.id},x" for uid in ("1001:", "", "0:")])
    (amds,) = processes([f"process 9,7,1048576,eve,1001:{alpha.id},x"])
    facts = replace(host_state(containers=[alpha]), users={"eve": User(1001, 1001, "/home/eve")})
    assert [facts.is_our_process(each) for each in (hers, hosts, roots, amds)] == [False, True, True, False]
    hers_now = replace(host_state(containers=[replace(alpha, user="eve")]), users=facts.users)
    assert [hers_now.is_our_process(each) for each in (hers, hosts)] == [True, False]


@pytest.mark.parametrize(
    ("cgroup", "said"),
    [
        ("0::/user.slice/user-1001.slice/user@1001.service/user-0.slice/docker-{}.scope", "1001:{}"),
        ("0::/system.slice/docker-{}.scope", "{}"),
        ("12:pids:/docker/{}\n0::/", "{}"),
        ("0::/user.slice/user-1001.slice/session-1.scope", ""),
    ],
)
def test_process_has_user_of_its_slice(cgroup: str, said: str, tmp_path: Path) -> None:
    text = read_text("files/snapshot.sh")
    holder = "holder()" + text.partition("\nholder()")[2].partition("\n}")[0].replace("/proc/", f"{tmp_path}/") + "\n}"
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(cgroup.format("c" * 64) + "\n")
    (tmp_path / "7" / "comm").write_text("x\n")
    done = subprocess.run(["sh", "-c", f"{holder}\nholder 7"], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().partition(",")[2] == f"{said.format('c' * 64)},x"


def test_manifest_ignores_image_claimed_by_copy() -> None:
    copy = replace(container("alpha", labels={"gpurack.model": '{"port": 6666}'}), user="eve")
    text = manifest(ALPHA, host_state(containers=[copy]), [])
    assert "container alpha is not gpurack's" in text
    assert "6666" not in text


def test_command_to_users_systemd_has_limit() -> None:
    (step,) = at_boot("eve", User(1001, 1001, "/home/eve"))
    assert isinstance(step, Shell)
    parts = step.command.split("setpriv --reuid 1001")
    assert len(parts) == 3
    assert all(part.endswith("timeout -k 5 60 ") for part in parts[:-1])
    assert "start dbus.socket; } >/dev/null 2>&1;" in step.command


def test_closes_lock_of_older_version(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    runner(tmp_path, fakes, monkeypatch)
    locks = load("locks")
    lock = tmp_path / "run" / "older"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("")
    lock.chmod(0o644)
    with locks.alone(str(lock)):
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600


class Anybody(BaseHTTPRequestHandler):
    """A server at the port of a stopped model, which claims the model's name."""

    seen: ClassVar[list[str | None]] = []
    body: ClassVar[bytes] = json.dumps({"data": [{"id": "alpha"}]}).encode()

    def do_GET(self) -> None:
        self.seen.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Any:
    Anybody.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Anybody) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/models"
        server.shutdown()


@pytest.mark.parametrize("state", [{"status": "exited"}, {"status": "restarting"}, {"restarts": 1}])
def test_does_not_ask_whoever_has_port_of_stopped_model(
    state: dict[str, Any], url: str, tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = runner(tmp_path, fakes, monkeypatch)
    loading = load("loading")
    dockerd = models.Dockerd()
    dockerd.ids["alpha"] = container_id("alpha")
    said = {"status": "running", "restarts": 0, "code": 1, "error": "", "pid": 0, "started": ""}
    answers = iter([said])
    monkeypatch.setattr("processes.state", lambda dockerd, container: next(answers, {**said, **state}))
    monkeypatch.setattr(dockerd, "api_key", lambda name: "sk-1")
    with pytest.raises(models.Failure, match="exited while loading"):
        loading.wait_until_ready(dockerd, "alpha", container_id("alpha"), url, "alpha", 60)
    assert Anybody.seen == []


def test_limits_endless_answer_of_ollama(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ollama = load("ollama")
    monkeypatch.setattr(ollama, "LARGEST", 1000)
    monkeypatch.setattr(Anybody, "body", b"x" * 100_000)
    server = ollama.Ollama(SimpleNamespace(become=()), url)
    with pytest.raises(ollama.Failure, match="larger than 1000 bytes"):
        server.models()
    monkeypatch.setattr(server, "request", lambda *given: iter([200, *[b"x" * 999] * 9]))
    with pytest.raises(ollama.Failure, match="larger than 1000 bytes"):
        list(server.stream("/api/pull", {}))


def test_image_of_one_user_does_not_answer_for_others(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    newest = load("newest")
    known = {"eve": "[" * 100_000, "mallory": "[7]", "bob": json.dumps(["r/a@sha256:1f for /w"])}
    known[""] = json.dumps([f"r/a@sha256:{'1f' * 32}"])
    monkeypatch.setattr(newest, "pull_alone", lambda *given: None)
    monkeypatch.setattr(newest, "Dockerd", lambda user: SimpleNamespace(must=lambda *words: known[user]))
    asked = [{"name": f"of-{user or 'root'}", "user": user, "image": "r/a"} for user in known]
    newest.main({"logins": {}, "hf_token": None, "images": asked, "hubs": []})
    said = capfd.readouterr().out
    assert "error of-eve: " in said
    assert "error of-mallory: " in said
    assert "error of-bob: image r/a has no valid digest\n" in said
    assert f"of-root: now sha256:{'1f' * 32}\n" in said
