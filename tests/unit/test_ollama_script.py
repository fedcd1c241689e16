"""files/ollama.py on a host, with a server that speaks ollama's API (ollama 0.33: docs/api.md, server/routes.go)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack.engines import hints_of
from tests.unit.host_programs import load

HOST = SimpleNamespace(become=(), user="")
"""A daemon like the host's own Docker."""
LIBRARY = ("qwen2.5:7b", "all-minilm:latest", "m:5000/library/qwen2.5:7b")


class Server(BaseHTTPRequestHandler):
    """A server with the needed part of ollama's API; it refuses unknown requests like ollama."""

    there: set[str]
    calls: list[tuple[str, Any]]

    def answer(self, status: int, *lines: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())

    def body(self) -> Any:
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.calls.append((self.path, data))
        return data

    def do_GET(self) -> None:
        self.answer(200, {"models": [{"name": name, "digest": f"of-{name}"} for name in sorted(self.there)] or None})

    def do_POST(self) -> None:
        data = self.body()
        if self.path == "/api/pull":
            if data["model"] not in LIBRARY:
                self.answer(200, {"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"})
                return
            self.there.add(data["model"])
            self.answer(
                200,
                {"status": "pulling manifest"},
                {"status": "pulling 0123", "digest": "sha256:0123", "total": 4000, "completed": 1000},
                {"status": "pulling 0123", "digest": "sha256:0123", "total": 4000, "completed": 4000},
                {"status": "success"},
            )
        elif self.path == "/api/copy":
            self.there.add(data["destination"])
            self.answer(200)
        elif data["model"] not in self.there:
            self.answer(404, {"error": f"model '{data['model']}' not found"})
        elif self.path == "/api/generate" and "minilm" in data["model"]:
            self.answer(400, {"error": '"all-minilm" does not support generate'})
        elif "large" in data["model"]:
            self.answer(500, {"error": "model requires more system memory (8.2 GiB) than is available (3.0 GiB)"})
        elif self.path in ("/api/generate", "/api/embed"):
            self.answer(200, {"model": data["model"], "done": True})
        else:
            self.answer(404)

    def do_DELETE(self) -> None:
        self.there.discard(self.body()["model"])
        self.answer(200)

    def log_message(self, *arguments: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[type[Server]]:
    class Mine(Server):
        there, calls = set(), []

    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as running:
        Mine.url = f"http://127.0.0.1:{running.server_address[1]}/api/tags"  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield Mine
        running.shutdown()
        thread.join()


@pytest.fixture
def ollama() -> Any:
    module = load("ollama")
    module.clock = lambda seconds: "0:00"
    return module


def entry(server: Any, *names: str, **sources: str) -> dict[str, Any]:
    pull = [{"name": name, "from": sources.get("source", name), "insecure": False} for name in names]
    hints = [hint.payload for hint in hints_of("ollama")]
    return {"name": "ollama", "url": server.url, "pull": pull, "hints": hints}


def test_pulls_listed_models_and_tests_them(ollama: Any, server: Any, capsys: Any) -> None:
    server.there.add("qwen2.5:7b")
    ollama.settle(HOST, entry(server, "qwen2.5:7b", "all-minilm:latest"), False)
    assert capsys.readouterr().out == "ollama: pulled all-minilm:latest in 0:00\n"
    assert [path for path, _ in server.calls] == ["/api/pull", "/api/generate", "/api/generate", "/api/embed"]
    assert server.calls[1][1]["options"] == {"num_predict": 1}


def test_pull_ahead_neither_loads_nor_removes(ollama: Any, server: Any) -> None:
    """A loaded model would push out one that serves."""
    server.there.add("old:1b")
    ollama.pull_missing(HOST, entry(server, "qwen2.5:7b"))
    assert (server.there, [path for path, _ in server.calls]) == ({"old:1b", "qwen2.5:7b"}, ["/api/pull"])


@pytest.mark.parametrize("lost", [False, True])
def test_model_that_another_run_pulls_is_waited_for(
    ollama: Any, server: Any, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """During a change also where the connection is lost: the previous container has stopped already."""
    unheard = threading.Event()
    monkeypatch.setattr("messages.UNHEARD", unheard)
    place = ollama.lock_place("ollama", "", "ollama", "qwen2.5:7b")
    told = entry(server, "qwen2.5:7b")
    call = (ollama.settle, (HOST, told, False)) if lost else (ollama.pull_missing, (HOST, told))
    waits = threading.Thread(target=call[0], args=call[1])
    with ollama.locked("another run", place):
        if lost:
            unheard.set()
        waits.start()
        waits.join(0.5)
        assert waits.is_alive()
        server.there.add("qwen2.5:7b")
    waits.join()
    assert [path for path, _ in server.calls] == (["/api/generate"] if lost else [])


def test_compares_pulled_models_with_lock(ollama: Any, server: Any) -> None:
    right = {**entry(server, "qwen2.5:7b"), "ollama": {"qwen2.5:7b": "of-qwen2.5:7b", "not-there-any-more": "x"}}
    ollama.settle(HOST, right, False)
    with pytest.raises(ollama.Failure) as raised:
        ollama.settle(HOST, {**right, "ollama": {"qwen2.5:7b": "older"}}, False)
    assert str(raised.value) == (
        "qwen2.5:7b does not match the lock: its digest is of-qwen2.5:7b, not older. Pull the old one from a source "
        "that still has it, or accept the new one: gpurack lock INVENTORY ollama --upgrade."
    )


def test_renames_model_of_mirror(ollama: Any, server: Any) -> None:
    ollama.settle(HOST, entry(server, "qwen2.5:7b", source="m:5000/library/qwen2.5:7b"), False)
    assert server.there == {"qwen2.5:7b"}


def test_removes_others_only_on_request(ollama: Any, server: Any, capsys: Any) -> None:
    server.there |= {"qwen2.5:7b", "llama2:13b"}
    ollama.settle(HOST, entry(server, "qwen2.5:7b"), False)
    assert server.there == {"qwen2.5:7b", "llama2:13b"}
    ollama.settle(HOST, entry(server, "qwen2.5:7b"), True)
    assert server.there == {"qwen2.5:7b"}
    assert capsys.readouterr().out == "ollama: removed llama2:13b\n"


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["qwen9:7b"],
            "cannot pull qwen9:7b: pull model manifest: file does not exist. Correct `pull`: use a name and tag of "
            "ollama's library",
        ),
        (
            ["large:70b"],
            "large:70b does not answer: model requires more system memory (8.2 GiB) than is available (3.0 GiB). The "
            "host has too little memory for it. Choose a smaller model.",
        ),
    ],
)
def test_reports_failures(ollama: Any, server: Any, names: list[str], sentence: str) -> None:
    server.there.add("large:70b")
    with pytest.raises(ollama.Failure) as error:
        ollama.settle(HOST, entry(server, *names), False)
    assert str(error.value) == sentence


def test_unreachable_library_names_mirror(ollama: Any) -> None:
    said = ollama.refusal("a:1", "a:1", 'pull model manifest: Get "https://registry.ollama.ai/v2/": no such host')
    assert said.endswith('If the host cannot reach the library, set a mirror: mirrors: {"registry.ollama.ai": …}')


def test_reports_stopped_server(ollama: Any) -> None:
    with pytest.raises(ollama.Failure, match=r"^ollama does not answer GET /api/tags: .*refused"):
        ollama.settle(HOST, {"name": "o", "url": "http://127.0.0.1:1/api/tags", "pull": []}, False)
