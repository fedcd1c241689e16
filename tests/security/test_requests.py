"""Requests to models: a user's model is asked as that user, with the key on standard input. A too long, too slow or
unreadable answer fails its model.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack.resources import modules_of
from tests.unit.host_programs import Fakes, load

pytestmark = pytest.mark.sampled

HOST = SimpleNamespace(become=[])
ADA = SimpleNamespace(become=["env", "OWNER=ada"], allowed=lambda limit: limit)
BOTH = pytest.mark.parametrize("dockerd", [HOST, ADA], ids=["host", "ada"])


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], Any]], str]]:
    """A server that calls the function for each connection; returns its URL."""
    listeners = []

    def begin(work: Callable[[socket.socket], Any]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def loop() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=guarded, args=(connection,), daemon=True).start()

        def guarded(connection: socket.socket) -> None:
            try:
                work(connection)
            except OSError:
                pass
            finally:
                connection.close()

        threading.Thread(target=loop, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield begin
    for listener in listeners:
        listener.close()


def answer(body: bytes) -> Callable[[socket.socket], Any]:
    def work(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    return work


def drip(head: bytes) -> Callable[[socket.socket], Any]:
    def work(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.1)

    return work


@BOTH
def test_returns_answer(serve: Any, dockerd: Any) -> None:
    for body in (b"", b"hello\nthere", b"{}\n" * 50_000):
        assert load("asking").send(dockerd, serve(answer(body)), "/v1/models", None, "sk") == (200, body.decode())


@BOTH
@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["line", "head", "body"]
)
def test_gives_up_on_dripping_server(serve: Any, dockerd: Any, head: bytes) -> None:
    begun = time.monotonic()
    status, why = load("asking").send(dockerd, serve(drip(head)), "/", None, None, 1)
    assert (status, why) == (0, "no complete answer within 1 s")
    assert time.monotonic() - begun < 8


@BOTH
def test_limits_size_of_answer(serve: Any, dockerd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = load("asking")
    monkeypatch.setattr(asking, "LARGEST", 1_000_000)
    assert asking.send(dockerd, serve(answer(b"x" * 3_000_000)), "/", None, None) == (
        0, "the answer is larger than 1000000 bytes"
    )  # fmt: skip


@BOTH
def test_incomplete_answer_is_none(serve: Any, dockerd: Any) -> None:
    def work(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")

    assert load("asking").send(dockerd, serve(work), "/", None, None)[0] == 0


@pytest.mark.parametrize("answers", [0, 1, 3])
def test_key_goes_nowhere_once_its_container_has_ended(serve: Any, answers: int) -> None:
    """Another user's process may have its port from then on."""
    asking, asked = load("asking"), []
    dockerd = SimpleNamespace(
        become=[], api_key=lambda name: "sk", without_secrets=lambda text: text, logs=lambda name: "no log"
    )

    def work(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx")

    runs = lambda: len(asked) < answers  # noqa: E731
    url, counter = serve(work), ("/metrics", "requests")
    with pytest.raises(asking.Failure, match="its container ended before its test request"):
        asking.smoke_test(dockerd, "alpha", url, [(f"/{n}", {}) for n in range(9)], None, None, counter, runs)
    assert len(asked) == answers
    asked.clear()
    asking.DRAIN = 5
    asking.count = lambda *given: asked.append(b"") or 2
    assert asking.drain(dockerd, "alpha", url, counter, None, runs) == 0
    assert not asking.rises(dockerd, url, counter, "sk", 2, runs)
    assert len(asked) == answers


def test_gateway_that_has_ended_gets_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models behind it may take minutes before."""
    asking, sent = load("asking"), []
    dockerd = SimpleNamespace(user="", must=lambda *words: "sk", id_of=lambda name: "c", logs=lambda name: "no log")
    request = ("/v1/chat/completions", {})
    behind = {"serves": ["alpha"], "url": "http://x/health", "key": None, "requests": [request]}

    def send(dockerd: Any, url: str, path: str, *rest: Any) -> tuple[int, str]:
        sent.append(path)
        return 200, '{"data": [{"id": "alpha"}]}'

    monkeypatch.setattr(asking, "send", send)
    monkeypatch.setattr(asking, "awake", lambda *given: True)
    monkeypatch.setattr(asking, "answered", lambda *given: request[0])
    gateway = {"key": "/k", "requests": [request], "behind": [behind]}
    with pytest.raises(asking.Failure, match="its container ended before its test request"):
        asking.smoke_test_gateway(dockerd, "gateway", "http://x", gateway, None, lambda: False)
    assert sent == ["/v1/models"]


@BOTH
@pytest.mark.parametrize("key", ["a\r\nX-Evil: 1", "a\nb", "\0"])
def test_key_cannot_add_header(serve: Any, dockerd: Any, key: str) -> None:
    asked: list[bytes] = []
    url = serve(lambda connection: asked.append(connection.recv(65536)))
    assert load("asking").send(dockerd, url, "/", None, key) == (0, "the key contains control characters")
    assert asked == []


@BOTH
@pytest.mark.parametrize("said", [b"[" * 100_000, b"\xff\xfe", b"7", b'{"data": [{"id": []}]}', b'{"data": 7}'])
def test_any_body_is_one_error(serve: Any, dockerd: Any, said: bytes) -> None:
    asking = load("asking")
    gateway = {"key": "/k", "requests": [], "behind": [{"serves": ["alpha"], "url": "", "key": None, "requests": []}]}
    told = SimpleNamespace(
        user="", become=dockerd.become, allowed=lambda limit: limit,
        must=lambda *words: "sk", id_of=lambda name: name, logs=lambda name: "Look",
        api_key=lambda name: "sk", without_secrets=lambda text: text,
    )  # fmt: skip
    url = serve(answer(said))
    with pytest.raises(asking.Failure):
        asking.smoke_test_gateway(told, "gateway", url, gateway)
    with pytest.raises(asking.Failure):
        asking.smoke_test(told, "alpha", url, [("/v1/chat/completions", {"model": "alpha"})])


# --- as that user ----------------------------------------------------------------------------------------------------


def test_users_model_is_asked_as_that_user_without_key_in_argv(serve: Any, fakes: Fakes) -> None:
    fakes.add("python3", f'echo "$OWNER" >"$STATE/owner"; exec {sys.executable} "$@"')
    asked: list[bytes] = []

    def work(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    url = serve(work)
    assert load("asking").send(ADA, url, "/v1/models", None, "sk-secret") == (200, "{}")
    assert (fakes.folder / "state/owner").read_text() == "ada\n"
    assert b"Authorization: Bearer sk-secret" in asked[0]
    assert "sk-secret" not in fakes.log.read_text()


SAYS = {
    "garbage": "echo '@@ files'; echo '/etc/passwd'",
    "no-status": "echo '{}'",
    "a-status-that-is-none": """echo '{"status": "200"}'""",
    "a-long-line": "head -c 200000 /dev/zero | tr '\\0' x",
    "nothing": "exit 3",
    "a-child": "setsid sleep 30 & exit 3",
    "deep": "head -c 60000 /dev/zero | tr '\\0' '['; echo",
}


@pytest.mark.parametrize("script", SAYS.values(), ids=SAYS.keys())
def test_invalid_output_of_program_is_no_answer(fakes: Fakes, script: str) -> None:
    """A user may kill the program, or make it print anything."""
    fakes.add("python3", script)
    status, why = load("asking").send(ADA, "http://127.0.0.1:1/", "/", None, "sk")
    assert (status, bool(why)) == (0, True)


def test_gives_up_on_stopped_program(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.add("python3", "kill -STOP $$")
    asking = load("asking")
    begun = time.monotonic()
    assert asking.send(ADA, "http://127.0.0.1:1/", "/", None, None, -9) == (0, "no complete answer within -9 s")
    assert time.monotonic() - begun < 8


def test_refuses_request_larger_than_a_pipe(fakes: Fakes) -> None:
    """A user's ollama decides which names are requested. Root would wait for a reader that the user has stopped."""
    fakes.add("python3", "kill -STOP $$")
    asking, body = load("asking"), {"model": "x" * 300000}
    done: list[tuple[int, str]] = []
    asked = threading.Thread(
        target=lambda: done.append(asking.send(ADA, "http://127.0.0.1:1/", "/", body, None, -9)), daemon=True
    )
    asked.start()
    asked.join(8)
    assert done == [(0, "the request is longer than 65536 bytes")]


def test_users_ollama_is_asked_as_that_user(serve: Any, fakes: Fakes) -> None:
    fakes.add("python3", f'echo "$OWNER" >>"$STATE/owner"; exec {sys.executable} "$@"')
    ollama = load("ollama")
    tags = json.dumps({"models": [{"name": "a:1", "digest": "x"}, {"name": 7}, 7]}).encode()
    assert ollama.Ollama(ADA, serve(answer(tags))).digests() == {"a:1": "x"}
    lines = b'{"status": "one"}\n[]\nnonsense\n{"status": "two"}'
    found = list(ollama.Ollama(ADA, serve(answer(lines))).stream("/api/pull", {}))
    assert found == [{"status": "one"}, {"error": "[]"}, {"error": "nonsense"}, {"status": "two"}]
    assert (fakes.folder / "state/owner").read_text().split() == ["ada", "ada"]


def test_program_needs_no_other_file() -> None:
    """It runs as a user, who may not be able to read the runner's other parts."""
    assert modules_of("request") == ()


# --- where a container that a change stops is asked -------------------------------------------------------------------

PORTS = [("127.0.0.1", 8000), ("", 8001), ("10.0.0.7", 8002), ("::", 8003)]


def probe_of(label: object, ports: list[tuple[str, int]], known: str = "") -> Any:
    """What files/replacing.py: Batch.probe_of returns for an old container with this label and these ports."""
    import replacing  # of files/

    model = {"name": "alpha", "action": "recreate", "url": known}
    batch = replacing.Batch(None, [model])
    batch.olds["alpha"] = {"found": {"labels": {"gpurack.probe": label}}, "ports": ports}
    return batch.probe_of("alpha")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8000/health", "http://127.0.0.1:8001/v1/models", "http://10.0.0.7:8002/", "http://[::1]:8003/x"],
)
def test_label_leads_to_port_of_its_own_container(url: str) -> None:
    assert probe_of(url, PORTS) == url
    assert probe_of(url, [], url) == url, "in the host's network, as the inventory says"
    assert probe_of(url, []) is None


@pytest.mark.parametrize(
    "label",
    [
        None, 7, "", "-K/home/eve/c", "http://evil.example:8000/health", "http://10.0.0.8:8002/", "http://127.0.0.1:22/",
        "http://127.0.0.1:x/", "http://[::1/", "https://127.0.0.1:8000/", "file:///etc/shadow", "http:8000",
        "http://127.0.0.1:8000/a b", "http://127.0.0.1:8000/\r\nHost: evil", "http://127.0.0.1:99999/",
    ],
)  # fmt: skip
def test_label_leads_nowhere_else(label: object) -> None:
    """An image's label is its container's too, so one that an admin started by hand may have any URL."""
    assert probe_of(label, PORTS) is None
    assert probe_of(label, [], "http://127.0.0.1:8009/health") is None
