"""files/asking.py on a host: one real request, and how its answer is judged."""

import importlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gpurack.engines import ENGINES
from gpurack.spec.model import Model
from tests.unit.host_programs import load

pytestmark = pytest.mark.sampled

ASKED = ENGINES["vllm"].requests(Model(engine="vllm", port=8000, image="i:1"), ["alpha"])
NO_TEMPLATE = (400, "no chat template")
COMPLETION = {"model": "alpha", "choices": [{"text": "A"}]}
CHAT = {"model": "alpha", "choices": [{"message": {"role": "assistant", "content": "A"}}]}
EMBEDDING = {"model": "alpha", "data": [{"embedding": [0.1, 0.2]}]}
SCORES = [{"index": 0, "document": {"text": "Hello", "multi_modal": None}, "relevance_score": 0.5}]
RERANK = {"id": "rerank-8c", "model": "alpha", "usage": {"prompt_tokens": 6, "total_tokens": 6}, "results": SCORES}
"""As vLLM 0.32.0 answers. llama.cpp's answer has `object` instead of `id`, and no document."""


class Dockerd:
    """The methods that asking.py calls."""

    user = ""

    def __init__(self, status: str = "running", become: Sequence[str] = ()) -> None:
        self.status, self.become = status, become

    def state_of(self, name: str, limit: float) -> dict[str, str]:
        assert limit <= 10, "a user's daemon would be waited for too long"
        return {"status": self.status}

    def allowed(self, limit: float) -> float:
        return limit

    def id_of(self, name: str) -> str:
        return name

    def api_key(self, name: str) -> str:
        return "sk-one"

    def logs(self, name: str) -> str:
        return "Look: docker logs " + name

    def without_secrets(self, text: str) -> str:
        return text.replace("sk-one", "•••")

    def must(self, *words: str) -> str:
        assert words == ("exec", "gateway", "cat", "/dev/shm/key")
        return "sk-of-the-host\n"


@contextmanager
def serving() -> Iterator[Any]:
    """A server with these answers by path: (status, JSON or text); status 0 means no answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null")
            made.asked.append((self.path, body, self.headers["Authorization"]))  # type: ignore[attr-defined]
            status, said = made.said.get(self.path, (404, "Not Found"))  # type: ignore[attr-defined]
            if not status:
                return
            data = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.said, made.asked = {}, []  # type: ignore[attr-defined]
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def server() -> Iterator[Any]:
    """One server."""
    with serving() as made:
        yield made


def url_of(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/v1/models"


def ask(server: Any, requests: Any = ASKED) -> None:
    load("asking").smoke_test(Dockerd(), "alpha", url_of(server), requests)


@pytest.mark.parametrize(
    ("said", "paths"),
    [
        ({"/v1/chat/completions": (200, CHAT)}, 1),
        # a model without a chat template, such as opt-125m
        ({"/v1/chat/completions": NO_TEMPLATE, "/v1/completions": (200, COMPLETION)}, 2),
        ({"/v1/embeddings": (200, EMBEDDING)}, 3),
        ({"/v1/chat/completions": (501, "not supported"), "/v1/rerank": (200, RERANK)}, 4),
        ({}, 4),  # it serves another kind of model, such as speech
    ],
    ids=["chat", "completion", "embedding", "rerank", "none-of-these"],
)  # fmt: skip
def test_first_known_path_counts(server: Any, said: Any, paths: int) -> None:
    server.said = said
    ask(server)
    assert [path for path, _, _ in server.asked] == [path for path, _ in ASKED][:paths]
    assert {key for _, _, key in server.asked} == {"Bearer sk-one"}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"/v1/chat/completions": (200, {"model": "alpha", "choices": []})},
         'the answer to POST /v1/chat/completions has no `choices.0.message.role`: {"model": "alpha", "choices": []}'),
        ({"/v1/chat/completions": (200, "<html>")}, "has no `choices.0.message.role`: <html>"),
        ({"/v1/embeddings": (200, {**EMBEDDING, "model": "beta"})},
         'POST /v1/embeddings was answered by model `beta` instead of `alpha`'),
        ({"/v1/rerank": (200, {"results": [{"index": 0}]})}, "has no `results.0.relevance_score`"),
        ({"/v1/rerank": (200, {**RERANK, "model": "beta"})},
         'POST /v1/rerank was answered by model `beta` instead of `alpha`'),
        ({"/v1/chat/completions": (500, "CUDA error for sk-one")},
         "started, but every test request failed (POST /v1/chat/completions: 500 CUDA error for •••). Look:"),
        ({"/v1/chat/completions": (401, "who?")},
         "the server rejects the key in `api_key` (HTTP 401 at POST /v1/chat/completions). Set the key in `api_key` "
         "only, not in env, args or the image. Look: docker logs alpha"),
        ({"/v1/chat/completions": (404, {"message": "The model `alpha` does not exist."})},
         'started, but every test request failed (POST /v1/chat/completions: 404 {"message": "The model `alpha` '),
        ({"/v1/chat/completions": (0, "")}, "started, but the test request failed (POST /v1/chat/completions: Remote "),
    ],
    ids=["empty", "a-page", "another-model", "no-score", "another-ranks", "an-error", "another-key", "unknown-name",
         "the-end"],
)  # fmt: skip
def test_bad_answer_fails_with_reason(server: Any, said: Any, sentence: str) -> None:
    server.said = said
    with pytest.raises(Exception, match="POST") as caught:
        ask(server)
    assert sentence in str(caught.value)


def test_accepts_rerank_answer_of_tei(server: Any) -> None:
    requests = ENGINES["tei"].requests(Model(engine="tei", port=8000, image="i:1"), ["alpha"])
    server.said = {
        "/v1/embeddings": (424, "Model is not an embedding model"),
        "/rerank": (200, [{"index": 0, "score": 0.9}]),
    }
    ask(server, requests)
    assert [path for path, _, _ in server.asked] == ["/v1/embeddings", "/rerank"]


def test_knows_answer_keys_of_every_path() -> None:
    args: dict[str, list[dict[str, Any]]] = {"vllm": [{}, {"runner": "pooling"}]}
    paths = {
        path for engine in ENGINES.values() if engine.service is False and engine.name != "ollama"
        for given in args.get(engine.name, [{}])
        for path, _ in engine.requests(Model(engine=engine.name, port=8000, image="i:1", args=given), ["alpha"])
    }  # fmt: skip
    assert paths == set(load("asking").ANSWERS)


# --- busy ------------------------------------------------------------------------------------------------------------

COUNTER = ("/metrics", "vllm:request_success_total")


def metrics(done: int) -> tuple[int, str]:
    lines = (
        "# TYPE vllm:request_success_total counter", f'vllm:request_success_total{{finished_reason="stop"}} {done}.0',
        'vllm:request_success_total{finished_reason="length"} 1e0 1764410000', "vllm:request_success_total_other 9e9",
    )  # fmt: skip
    return 200, "\n".join(lines)


@pytest.fixture
def asking() -> Any:
    module = load("asking")
    module.WORKS = 0.6
    return module


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("works", [True, False])
def test_refusal_is_no_failure_while_it_works_for_others(server: Any, asking: Any, status: int, works: bool) -> None:
    server.said = {"/v1/chat/completions": (status, "too many for sk-one"), "/metrics": metrics(3)}
    if works:
        threading.Timer(0.2, lambda: server.said.update({"/metrics": metrics(4)})).start()
    with pytest.raises(asking.Failure) as caught:
        asking.smoke_test(Dockerd(), "alpha", url_of(server), ASKED, counter=COUNTER)
    assert isinstance(caught.value, asking.Busy) == works
    assert f"POST /v1/chat/completions: {status} too many for •••" in str(caught.value)


def test_timeout_is_no_failure_while_it_works_for_others(
    server: Any, asking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.said = {"/metrics": metrics(3)}
    send, late = asking.send, "timed out"

    def sent(dockerd: Any, url: str, path: str, body: Any, key: Any, patience: float = 0) -> tuple[int, str]:
        if body is None:
            return tuple(send(dockerd, url, path, body, key, patience))  # type: ignore[return-value]
        server.said["/metrics"] = metrics(4)
        return 0, late

    monkeypatch.setattr(asking, "send", sent)
    with pytest.raises(asking.Busy, match=r"^busy with other requests \(POST /v1/chat/completions: no answer, timed"):
        asking.smoke_test(Dockerd(), "alpha", url_of(server), ASKED, counter=COUNTER)
    server.said, late = {"/metrics": metrics(3)}, "Connection reset by peer"
    with pytest.raises(asking.Failure, match="the test request failed") as caught:
        asking.smoke_test(Dockerd(), "alpha", url_of(server), ASKED, counter=COUNTER)
    assert not isinstance(caught.value, asking.Busy), "the server may be gone"


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (metrics(3), 4.0),
        ((200, "vllm:request_success_total 7"), 7.0),
        ((200, "vllm:request_success_total NaN"), None),
        ((200, "vllm:request_success_total 1-1"), None),
        ((200, ""), None),
        ((401, "vllm:request_success_total 7"), None),
    ],
)
def test_reads_counter_over_all_labels(server: Any, asking: Any, answer: Any, counted: float | None) -> None:
    server.said = {"/metrics": answer}
    assert asking.count(Dockerd(), url_of(server), COUNTER, None) == counted
    assert asking.count(Dockerd(), url_of(server), None, None) is None


def test_test_request_has_key_of_its_generation_and_log_of_its_container(
    server: Any, asking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Generations(Dockerd):
        def api_key(self, name: str) -> str:
            return {"alpha.2": "sk-two"}[name]

    monkeypatch.setattr(asking.kept_logs, "tail", lambda dockerd, container, lines: f"log of {container} sk-one")
    server.said = {"/v1/chat/completions": (500, "CUDA error")}
    with pytest.raises(asking.Failure) as caught:
        asking.smoke_test(Generations(), "alpha", url_of(server), ASKED, "alpha.2", "c" * 64)
    text = "started, but every test request failed (POST /v1/chat/completions: 500 CUDA error)."
    assert str(caught.value) == f"{text}\n    | log of {'c' * 64} •••"
    assert {key for _, _, key in server.asked} == {"Bearer sk-two"}


# --- before a stop ----------------------------------------------------------------------------------------------------


def test_running_requests_may_finish(server: Any, asking: Any) -> None:
    running = ("/metrics", "vllm:num_requests_running")
    server.said = {"/metrics": (200, 'vllm:num_requests_running{engine="0"} 2.0')}
    asking.DRAIN = 0.7
    assert asking.drain(Dockerd(), "alpha", url_of(server), running) == 2, "it has a limit"
    asking.DRAIN = 30
    done = {"/metrics": (200, 'vllm:num_requests_running{engine="0"} 0.0')}
    threading.Timer(0.2, lambda: server.said.update(done)).start()
    assert asking.drain(Dockerd(), "alpha", url_of(server), running) == 0
    server.said = {}
    assert asking.drain(Dockerd(), "alpha", url_of(server), running) == 0, "unknown"
    assert asking.drain(Dockerd(), "alpha", url_of(server), None) == 0


# --- gateways --------------------------------------------------------------------------------------------------------

LISTED = {"/v1/models": (200, {"data": [{"id": "alpha"}]})}
BY_LITELLM = {"id": "1", "results": [{"index": 0, "relevance_score": 0.5}], "meta": {}}


def behind(server: Any, key: Path | None = None, engine: str = "vllm", serves: str = "alpha") -> dict[str, Any]:
    """A model behind a gateway, as in the payload."""
    requests = ENGINES[engine].requests(Model(engine=engine, port=8000, image="i:1"), [serves])
    return {"serves": [serves], "url": url_of(server), "key": str(key) if key else None, "requests": requests}


def ask_gateway(gateway: Any, *others: Any, daemons: Mapping[str, Dockerd] | None = None) -> None:
    """Test a gateway. daemons: of the users with models behind it, as in the record."""
    told = {"key": "/dev/shm/key", "requests": ASKED, "behind": others}
    asking = load("asking")
    asking.recorded = (daemons or {}).__getitem__
    asking.smoke_test_gateway(Dockerd(), "gateway", url_of(gateway), told)


@pytest.mark.parametrize(
    ("engine", "by_itself", "through"),
    [
        ("vllm", {"/v1/chat/completions": (200, CHAT)}, {"/v1/chat/completions": (200, CHAT)}),
        ("vllm", {"/v1/embeddings": (200, EMBEDDING)}, {"/v1/embeddings": (200, EMBEDDING)}),
        ("vllm", {"/v1/rerank": (200, RERANK)}, {"/v1/rerank": (200, BY_LITELLM)}),
        ("tei", {"/rerank": (200, [{"index": 0, "score": 0.9}])}, {"/v1/rerank": (200, BY_LITELLM)}),
    ],
    ids=["chat", "embedding", "rerank", "tei-rerank"],
)
def test_gateway_must_answer_what_its_model_answers(
    server: Any, tmp_path: Path, engine: str, by_itself: Any, through: Any
) -> None:
    """The model is asked with its own key, the gateway with the key made for its host, each for one path only."""
    (tmp_path / "upstream_key_0").write_text("sk-worker\n")
    with serving() as model:
        model.said, server.said = {**LISTED, **by_itself}, {**LISTED, **through}
        ask_gateway(server, behind(model, tmp_path / "upstream_key_0", engine))
        assert {key for _, _, key in model.asked} == {"Bearer sk-worker"}
    ((path, body, _),) = server.asked[1:]
    assert ([path], body["model"]) == (list(through), "alpha")
    assert {key for _, _, key in server.asked} == {"Bearer sk-of-the-host"}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"/v1/models": (401, "who?")}, "started, but GET /v1/models lists no models: 401 who?. Look: docker"),
        ({"/v1/models": (200, "<html>")}, "started, but GET /v1/models lists no models: 200 <html>"),
        ({"/v1/models": (200, {"data": [{"id": "beta"}, {"id": "old"}]})},
         "GET /v1/models lists beta, old, but `connects_to` selects alpha. Look: docker logs gateway"),
        (LISTED, "alpha answers, but not through this gateway (POST /v1/chat/completions: 404 Not Found). Look:"),
        ({**LISTED, "/v1/chat/completions": (401, "sk-one?")},
         "alpha answers, but not through this gateway (POST /v1/chat/completions: 401 •••?). Look: docker"),
        ({**LISTED, "/v1/chat/completions": (200, {**CHAT, "model": "beta"})},
         "POST /v1/chat/completions was answered by model `beta` instead of `alpha`"),
    ],
    ids=["key", "page", "other-names", "not-through", "worker-key", "another-model"],
)  # fmt: skip
def test_gateway_that_does_not_forward_fails_with_reason(server: Any, said: Any, sentence: str) -> None:
    server.said = said
    with serving() as model:
        model.said = {**LISTED, "/v1/chat/completions": (200, CHAT)}
        with pytest.raises(Exception, match=re.escape(sentence)):
            ask_gateway(server, behind(model))


@pytest.mark.parametrize("said", [{}, {**LISTED, "/v1/chat/completions": (500, "CUDA error")}], ids=["away", "ill"])
def test_failed_model_does_not_fail_gateway(server: Any, capsys: pytest.CaptureFixture[str], said: Any) -> None:
    """The next model is asked. A model with an unreachable replica is skipped, because a request there may take
    minutes."""
    server.said = {
        "/v1/models": (200, {"data": [{"id": "alpha"}, {"id": "beta"}]}),
        "/v1/chat/completions": (200, {**CHAT, "model": "beta"}),
    }
    with serving() as first, serving() as second:
        first.said = said
        second.said = {"/v1/models": (200, ""), "/v1/chat/completions": (200, {**CHAT, "model": "beta"})}
        ask_gateway(server, behind(first), behind(second, serves="beta"))
        assert [body["model"] for _, body, _ in server.asked if body] == ["beta"]
        assert capsys.readouterr().out == ""
        second.said = {}
        ask_gateway(server, behind(first), behind(second, serves="beta"))
        assert capsys.readouterr().out.endswith("gateway: none of the models behind this gateway answers yet\n")


def test_skips_model_with_unreachable_replica(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.said = LISTED
    with serving() as there, serving() as away:
        there.said = {**LISTED, "/v1/chat/completions": (200, CHAT)}
        ask_gateway(server, behind(there), behind(away))
    assert [path for path, _, _ in server.asked] == ["/v1/models"]
    assert "none of the models behind this gateway answers yet" in capsys.readouterr().out


@pytest.fixture
def ada(tmp_path: Path) -> list[str]:
    """The words that make a command ada's own; here they only record it."""
    program = tmp_path / "become"
    program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/ran\nexec "$@"\n')
    program.chmod(0o755)
    return [str(program)]


def test_users_model_behind_gateway_is_asked_as_that_user(server: Any, tmp_path: Path, ada: list[str]) -> None:
    """Its key comes by standard input; the gateway itself is root's."""
    (tmp_path / "upstream_key_0").write_text("sk-worker\n")
    with serving() as model:
        server.said = {**LISTED, "/v1/chat/completions": (200, CHAT)}
        model.said = {**LISTED, "/v1/chat/completions": (200, CHAT)}
        hers = {**behind(model, tmp_path / "upstream_key_0"), "user": "ada", "name": "alpha"}
        ask_gateway(server, hers, daemons={"ada": Dockerd(become=ada)})
        assert [(path, key) for path, _, key in model.asked] == [
            ("/v1/models", "Bearer sk-worker"), ("/v1/chat/completions", "Bearer sk-worker"),
        ]  # fmt: skip
    ran = (tmp_path / "ran").read_text().splitlines()
    assert len(ran) == 2
    assert all(line.endswith("request.py") for line in ran)
    assert [path for path, _, _ in server.asked] == ["/v1/models", "/v1/chat/completions"]


@pytest.mark.parametrize("status", ["exited", "restarting", "paused", "gone"])
@pytest.mark.parametrize("user", ["", "ada"])
def test_sends_no_key_to_port_of_stopped_model(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], user: str, status: str
) -> None:
    """Another process may listen there. "gone" is a container that the record does not have."""
    (tmp_path / "upstream_key_0").write_text("sk-worker\n")
    with serving() as stranger:
        server.said = {**LISTED, "/v1/chat/completions": (200, CHAT)}
        stranger.said = {**LISTED, "/v1/chat/completions": (200, CHAT)}
        down = {**behind(stranger, tmp_path / "upstream_key_0"), "user": user, "name": "alpha"}
        ask_gateway(server, down, daemons={user: Dockerd(status)})
        assert stranger.asked == []
    assert "none of the models behind this gateway answers yet" in capsys.readouterr().out


def test_silent_docker_of_user_does_not_fail_gateway(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    messages = importlib.import_module("messages")  # the runner's own, as asking.py imports it

    class Silent(Dockerd):
        def state_of(self, name: str, limit: float) -> dict[str, str]:
            raise messages.Failure("the Docker of ada does not answer")

    server.said = LISTED
    with serving() as model:
        ask_gateway(server, {**behind(model), "user": "ada", "name": "alpha"}, daemons={"ada": Silent()})
        assert model.asked == []
    assert "none of the models behind this gateway answers yet" in capsys.readouterr().out


def test_gateway_asks_its_own_dockers_models_first(server: Any) -> None:
    """A user whose model answers directly and not through the gateway does not fail the admin's gateway."""
    with serving() as hers, serving() as ours:
        for model, name in ((hers, "hers"), (ours, "ours")):
            model.said = {"/v1/models": (200, {}), "/v1/chat/completions": (200, {**CHAT, "model": name})}
        server.said = {
            "/v1/models": (200, {"data": [{"id": "hers"}, {"id": "ours"}]}),
            "/v1/chat/completions": (200, {**CHAT, "model": "ours"}),
        }
        stranger = {**behind(hers, serves="hers"), "user": "ada", "name": "hers"}
        own = {**behind(ours, serves="ours"), "user": "", "name": "ours"}
        ask_gateway(server, stranger, own, daemons={"ada": Dockerd(), "": Dockerd()})
        assert [body["model"] for _, body, _ in server.asked if body] == ["ours"]


def test_gateway_waits_less_for_models_of_others(server: Any) -> None:
    """The host's lock is held meanwhile."""
    asking = load("asking")
    own, hers, away = {"user": ""}, {"user": "ada"}, {}
    limits = [asking.patience_for(Dockerd(), other) for other in (own, hers, away)]
    assert limits == [600, 60, 60]


def test_asks_model_of_other_host_without_checking_container(server: Any) -> None:
    with serving() as model:
        server.said = {**LISTED, "/v1/chat/completions": (200, CHAT)}
        model.said = {**LISTED, "/v1/chat/completions": (200, CHAT)}
        ask_gateway(server, behind(model))
        assert len(model.asked) == 2


# --- a model that sleeps ----------------------------------------------------------------------------------------------

SLEEPING = ["/is_sleeping", "is_sleeping"]
ASLEEP = {"/is_sleeping": (200, {"is_sleeping": True})}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (ASLEEP, True),
        ({"/is_sleeping": (200, {"is_sleeping": False})}, False),
        ({"/is_sleeping": (200, {"is_sleeping": "yes"})}, False),
        ({"/is_sleeping": (200, ["is_sleeping"])}, False),
        ({"/is_sleeping": (200, "no JSON")}, False),
        ({"/is_sleeping": (401, {"is_sleeping": True})}, False),
        ({}, False),
    ],
)
def test_sleeps_only_if_it_says_so(server: Any, said: Any, found: bool) -> None:
    server.said, asking = said, load("asking")
    asked = lambda path: asking.send(Dockerd(), url_of(server), path, None, None, 5)  # noqa: E731
    assert asking.sleeps(SLEEPING, asked) is found
    assert asking.sleeps(None, asked) is False


@pytest.mark.parametrize("action", ["check", "wait", "start"])
@pytest.mark.parametrize("asleep", [True, False])
def test_sleeping_model_is_not_tested_and_nothing_is_recorded(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: str, asleep: bool
) -> None:
    """A request would wake it, or end it. One that was started now does not sleep."""
    starting, noted = load("starting"), []
    dockerd: Any = Dockerd()
    dockerd.ids, dockerd.key, dockerd.user, dockerd.start = {"alpha": "1"}, str, "", lambda *words: None
    state = {"status": "running", "restarts": 0, "pid": 0}
    monkeypatch.setattr(starting.processes, "state", lambda *words: state)
    monkeypatch.setattr(starting.loading, "wait_until_ready", lambda *words: 1)
    monkeypatch.setattr(starting.loading, "still_up", lambda *words: None)
    monkeypatch.setattr(starting.record, "note_test", lambda *words: noted.append(words))
    server.said = {"/v1/chat/completions": (200, CHAT), **(ASLEEP if asleep else {})}
    model = {
        "name": "alpha", "action": action, "url": url_of(server), "served_name": "alpha", "uuids": [], "timeout": 9,
        "requests": ASKED, "sleeping": SLEEPING,
    }  # fmt: skip
    starting.bring_up({}, starting.Lanes(), dockerd, model, nullcontext)
    tested = not asleep or action == "start"
    assert ("/v1/chat/completions" in [path for path, _, _ in server.asked]) is tested
    assert len(noted) == tested
    assert ("alpha: sleeps, so it was not tested" in capsys.readouterr().out) is not tested


@pytest.mark.parametrize("action", ["check", "wait", "start"])
def test_busy_model_keeps_the_result_of_its_last_test(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    """It failed before, and a test that it was too busy for proves nothing. One that started now serves."""
    starting, noted = load("starting"), []
    dockerd: Any = Dockerd()
    dockerd.ids, dockerd.key, dockerd.start = {"alpha": "1"}, str, lambda *words: None
    monkeypatch.setattr(starting.processes, "state", lambda *words: {"status": "running", "restarts": 0, "pid": 0})
    monkeypatch.setattr(starting.loading, "wait_until_ready", lambda *words: 1)
    monkeypatch.setattr(starting.loading, "still_up", lambda *words: None)
    monkeypatch.setattr(starting.record, "note_test", lambda *words: noted.append(words))

    def busy(*words: Any) -> None:
        raise starting.asking.Busy("busy with other requests")

    monkeypatch.setattr(starting.asking, "smoke_test", busy)
    model = {"name": "alpha", "action": action, "url": "http://h", "served_name": "alpha", "uuids": [], "timeout": 9}
    starting.bring_up({}, starting.Lanes(), dockerd, model, nullcontext)
    assert len(noted) == (action == "start")
    said = "alpha: is busy with the requests of others, so it was not tested"
    assert (said in capsys.readouterr().out) is (action != "start")


def test_sleeping_model_behind_a_gateway_is_not_asked(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as model:
        model.said, server.said = {**LISTED, **ASLEEP}, LISTED
        ask_gateway(server, {**behind(model), "sleeping": SLEEPING})
        assert [path for path, _, _ in model.asked] == ["/v1/models", "/is_sleeping"]
    assert "none of the models behind this gateway answers yet" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
def test_engines_that_sleep_say_so(engine: str) -> None:
    found = ENGINES[engine].sleeping
    assert found
    assert found[1] == "is_sleeping"


def test_docker_that_does_not_say_whether_it_runs_is_no_failure_of_the_model(server: Any) -> None:
    """Its silence counts as the Docker's (replacing.OF_DOCKER), so that the next run tries the model again."""
    asking = load("asking")

    def runs() -> bool:
        raise asking.Failure("docker container inspect gave no answer within 30 s", "time-is-up")

    with pytest.raises(asking.Failure, match=r"^docker container inspect gave no answer"):
        asking.smoke_test(Dockerd(), "alpha", url_of(server), ASKED, counter=COUNTER, runs=runs)
    running = ("/metrics", "vllm:num_requests_running")
    assert asking.drain(Dockerd(), "alpha", url_of(server), running, runs=runs) == 0
    assert not asking.rises(Dockerd(), url_of(server), COUNTER, None, None, runs)
    assert server.asked == []
    server.said = {**LISTED, "/v1/chat/completions": (200, CHAT)}
    told = {"key": "/dev/shm/key", "requests": ASKED, "behind": [behind(server)]}
    with pytest.raises(asking.Failure, match=r"^docker container inspect gave no answer"):
        asking.smoke_test_gateway(Dockerd(), "gateway", url_of(server), told, runs=runs)
