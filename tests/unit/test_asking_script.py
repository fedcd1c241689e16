"""files/asking.py on a host: one real request, and what its answers mean."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gpurack.engines import ENGINES
from gpurack.spec.model import Model
from tests.unit.host_programs import load

ASKED = ENGINES["vllm"].requests(Model(engine="vllm", port=8000, image="i:1"), ["alpha"])
NO_TEMPLATE = (400, "no chat template")
COMPLETION = {"model": "alpha", "choices": [{"text": "A"}]}
CHAT = {"model": "alpha", "choices": [{"message": {"role": "assistant", "content": "A"}}]}
EMBEDDING = {"model": "alpha", "data": [{"embedding": [0.1, 0.2]}]}
RERANK = {"results": [{"index": 0, "relevance_score": 0.5}]}


class Dockerd:
    """What asking.py wants of one."""

    def api_key(self, name: str) -> str:
        return "sk-one"

    def logs(self, name: str) -> str:
        return "Look: docker logs " + name

    def without_secrets(self, text: str) -> str:
        return text.replace("sk-one", "•••")


@pytest.fixture
def server() -> Iterator[Any]:
    """Answers what `server.said` has for a path (status, JSON or text; an exception: nothing at all)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.asked.append((self.path, body, self.headers["Authorization"]))  # type: ignore[attr-defined]
            status, said = made.said.get(self.path, (404, "Not Found"))  # type: ignore[attr-defined]
            if not status:
                return
            data = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.said, made.asked = {}, []  # type: ignore[attr-defined]
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def ask(server: Any, requests: Any = ASKED) -> None:
    url = f"http://127.0.0.1:{server.server_address[1]}/v1/models"
    load("asking").ask(Dockerd(), "alpha", url, requests)


@pytest.mark.parametrize(
    ("said", "paths"),
    [
        ({"/v1/chat/completions": (200, CHAT)}, 1),
        # a model without a chat template, as opt-125m is
        ({"/v1/chat/completions": NO_TEMPLATE, "/v1/completions": (200, COMPLETION)}, 2),
        ({"/v1/embeddings": (200, EMBEDDING)}, 3),
        ({"/v1/chat/completions": (501, "not supported"), "/v1/rerank": (200, RERANK)}, 4),
        ({}, 4),  # it serves something else, a speech model perhaps
    ],
    ids=["chat", "completion", "embedding", "rerank", "none-of-these"],
)  # fmt: skip
def test_the_first_kind_of_request_that_it_knows_counts(server: Any, said: Any, paths: int) -> None:
    server.said = said
    ask(server)
    assert [path for path, _, _ in server.asked] == [path for path, _ in ASKED][:paths]
    assert {key for _, _, key in server.asked} == {"Bearer sk-one"}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"/v1/chat/completions": (200, {"model": "alpha", "choices": []})},
         'its answer to POST /v1/chat/completions has no choices.0.message.role: {"model": "alpha", "choices": []}'),
        ({"/v1/chat/completions": (200, "<html>")}, "has no choices.0.message.role: <html>"),
        ({"/v1/embeddings": (200, {**EMBEDDING, "model": "beta"})},
         'its answer to POST /v1/embeddings comes from "beta", not from "alpha"'),
        ({"/v1/rerank": (200, {"results": [{"index": 0}]})}, "has no results.0.relevance_score"),
        ({"/v1/chat/completions": (500, "CUDA error for sk-one")},
         "it is ready, but answers no request. POST /v1/chat/completions: 500 CUDA error for •••. Look: docker logs"),
        ({"/v1/chat/completions": (401, "who?")},
         "it refuses the key of api_key (HTTP 401 at POST /v1/chat/completions): give the key in api_key, and nowhere "
         "else (env, args, the image). Look: docker logs alpha"),
        ({"/v1/chat/completions": (404, {"message": "The model `alpha` does not exist."})},
         'it is ready, but answers no request. POST /v1/chat/completions: 404 {"message": "The model `alpha` does not'),
        ({"/v1/chat/completions": (0, "")}, "it is ready, but gave no answer to POST /v1/chat/completions: Remote end"),
    ],
    ids=["empty", "a-page", "another-model", "no-score", "an-error", "another-key", "unknown-name", "the-end"],
)  # fmt: skip
def test_what_is_no_answer_is_a_failure_with_its_reason(server: Any, said: Any, sentence: str) -> None:
    server.said = said
    with pytest.raises(Exception, match="POST") as caught:
        ask(server)
    assert sentence in str(caught.value)


def test_tei_reranks_in_its_own_way(server: Any) -> None:
    requests = ENGINES["tei"].requests(Model(engine="tei", port=8000, image="i:1"), ["alpha"])
    server.said = {
        "/v1/embeddings": (424, "Model is not an embedding model"),
        "/rerank": (200, [{"index": 0, "score": 0.9}]),
    }
    ask(server, requests)
    assert [path for path, _, _ in server.asked] == ["/v1/embeddings", "/rerank"]


def test_every_path_that_an_engine_asks_for_has_its_shape() -> None:
    paths = {
        path for engine in ENGINES.values() if engine.service is False and engine.name != "ollama"
        for path, _ in engine.requests(Model(engine=engine.name, port=8000, image="i:1"), ["alpha"])
    }  # fmt: skip
    assert paths == set(load("asking").ANSWERS)
