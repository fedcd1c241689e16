"""Every engine's test requests: small, and of the kind that the entry's mode answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpurack.engines import ENGINES
from gpurack.spec.model import Model
from tests.unit.host_programs import load

CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RERANK = "/v1/rerank"
ALL = [CHAT, COMPLETION, EMBEDDING, RERANK]
POOLED = [EMBEDDING, RERANK, "/classify", "/pooling"]
CPP, PYTHON = "llama.cpp", "llama-cpp-python"
TOKENS = 8
"""The most that a test request may ask for."""
GENERATE = {CHAT: ("max_tokens",), COMPLETION: ("max_tokens",), "/api/generate": ("options", "num_predict")}
"""Path of a request that generates → where its body limits the tokens."""
CASES = sorted(Path(__file__).parent.glob("*/*.json"))


def model(engine: str, **fields: Any) -> Model:
    return Model(engine=engine, port=8000, image="i:1", **fields)


def paths(engine: str, **fields: Any) -> list[str]:
    return [path for path, _ in ENGINES[engine].requests(model(engine, **fields), ["alpha"])]


def assert_small(requests: Any) -> None:
    for path, body in requests:
        assert body.get("stream") is not True, path
        assert len(json.dumps(body)) < 300, path
        if path in GENERATE:
            limit = body
            for step in GENERATE[path]:
                limit = limit[step]
            assert 1 <= limit <= TOKENS, path
        else:
            assert path in {*load("asking").ANSWERS, "/embedding", "/api/embed"}, f"{path}: does it generate?"


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_asks_for_few_tokens(name: str) -> None:
    assert_small(ENGINES[name].requests(model(name, pull=["a:1b"] if name == "ollama" else []), ["alpha"]))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_asks_for_few_tokens_in_every_case(path: Path) -> None:
    case = json.loads(path.read_text())
    if "refused" not in case:
        engine = ENGINES[case["model"]["engine"]]
        entry = Model.model_validate({"version": engine.only_version, **case["model"]})
        assert_small(engine.requests(entry, ["alpha"]))


@pytest.mark.parametrize(
    ("engine", "fields", "expected"),
    [
        (CPP, {}, ALL),
        *((CPP, {"args": {flag: True}}, [EMBEDDING, RERANK, "/embedding"]) for flag in ("embedding", "embeddings")),
        (CPP, {"args": {"embeddings": False}}, ALL),
        (CPP, {"env": {"LLAMA_ARG_EMBEDDINGS": "1"}}, [EMBEDDING, RERANK, "/embedding"]),
        (CPP, {"env": {"LLAMA_ARG_EMBEDDINGS": "0"}}, ALL),
        (CPP, {"args": {"reranking": True}}, [RERANK, EMBEDDING]),
        (CPP, {"args": {"rerank": True, "embeddings": True}}, [RERANK, EMBEDDING]),
        (PYTHON, {}, ALL),
        (PYTHON, {"args": {"embedding": True}}, [EMBEDDING]),
        (PYTHON, {"args": {"embedding": "false"}}, ALL),
        (PYTHON, {"env": {"EMBEDDING": "true"}}, [EMBEDDING]),
        (PYTHON, {"config": {"models": [{"model": "/m.gguf", "embedding": True}, {"model": "/n.gguf"}]}}, [EMBEDDING]),
        (PYTHON, {"config": {"models": [{"model": "/n.gguf"}, {"model": "/m.gguf", "embedding": True}]}}, ALL),
        ("vllm", {}, ALL),
        ("vllm", {"args": {"runner": "generate"}}, ALL),
        ("vllm", {"args": {"runner": "pooling"}}, POOLED),
        ("vllm", {"args": {"convert": "embed"}}, POOLED),
        ("vllm", {"args": {"task": "score"}}, POOLED),
        ("sglang", {}, ALL),
        ("sglang", {"args": {"is-embedding": True}}, [EMBEDDING, RERANK]),
        ("sglang", {"args": {"is_embedding": True}}, [EMBEDDING, RERANK]),
        ("tei", {}, [EMBEDDING, "/rerank", "/predict"]),
    ],
)
def test_asks_what_the_mode_answers(engine: str, fields: dict[str, Any], expected: list[str]) -> None:
    """A chat crashes a llama.cpp server for embeddings (ggml-org/llama.cpp#8076)."""
    assert paths(engine, **fields) == expected


def test_engines_that_profile_memory_start_one_after_another() -> None:
    assert {name for name, engine in ENGINES.items() if engine.profiles_memory} == {"vllm", "sglang"}


def test_number_of_running_requests_is_where_the_counter_is() -> None:
    assert {name for name, engine in ENGINES.items() if engine.running} == {"vllm", "sglang", "llama.cpp"}
    assert all(engine.counter for engine in ENGINES.values() if engine.running)
