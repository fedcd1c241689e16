"""Embeddings by the real llama.cpp and the real llama-cpp-python: one model by `weights`, two in one server by
`config`, each with its key.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run
from tests.acceptance.conftest import model as gguf
from tests.acceptance.engines.conftest import content, nothing_changes, post, say, similarities
from tests.acceptance.evidence import told
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.engines import models
from tests.testbed.inventory import weights

KEY = "sk-gguf-0c8e7d13"
PYTHON = {"engine": "llama-cpp-python", "version": "0.3.36", "gpus": [], "api_key": {"env": "KEY"}}
SENTENCES = list(models.SENTENCES)


def wanted() -> dict[str, Any]:
    minilm = {"copy": str(models.minilm_gguf())}
    two = {
        "models": [
            {"model": weights("alpha"), "model_alias": "house-alpha", "n_ctx": 1024},
            {"model": weights("beta"), "model_alias": "house-beta", "n_ctx": 512},
        ]
    }
    return {
        "minilm": {"weights": minilm, "gpus": [], "port": 8000, "args": {"embeddings": True}},
        "one": {**PYTHON, "weights": weights("gamma"), "port": 8001, "served_name": "house-gamma", "context": 1024},
        "two": {**PYTHON, "config": two, "port": 8002},
        "delta": gguf("delta", [], 8003),  # a chat model of llama.cpp's, which has no embeddings
    }


def deploy(lab: Lab) -> Run:
    return lab.run(lab.inventory({"engine1": {"models": wanted()}}), env={"KEY": KEY})


@pytest.fixture(scope="module")
def host(lab: Lab, engine1: Host) -> Host:
    lab.testbed.serve_engines("llama-cpp-python")
    engine1.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
    run = deploy(lab)
    assert run.exit_code == 0, run.output
    assert "4 of 4 models answered, 4 changed" in run.output
    return engine1


def test_llama_cpp_gives_published_similarities(host: Host) -> None:
    status, answer = post(host, 8000, "/v1/embeddings", {"model": "minilm", "input": SENTENCES})
    assert (status, answer["model"]) == (200, "minilm")
    assert similarities(answer) == pytest.approx(models.SIMILARITIES, abs=0.002)
    status, answer = post(host, 8003, "/v1/embeddings", {"model": "delta", "input": SENTENCES})
    assert status == 501
    assert "--embeddings" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("port", "name", "served"),
    [(8001, "house-gamma", "gamma"), (8002, "house-alpha", "alpha"), (8002, "house-beta", "beta")],
)
def test_llama_cpp_python_answers_under_each_name(lab: Lab, host: Host, port: int, name: str, served: str) -> None:
    """In one server the name selects the model, which is loaded on request."""
    status, answer = post(host, port, "/v1/chat/completions", say(name), KEY)
    assert (status, content(answer).strip(), answer["model"]) == (200, lab.testbed.weights(served).sentence, name)


@pytest.mark.parametrize(
    ("port", "key", "served", "as_whom"),
    [(8003, None, "delta", "delta"), (8001, KEY, "gamma", "nobody"), (8002, KEY, "alpha", "nobody")],
    ids=["llama.cpp", "one", "two"],
)
def test_unknown_name_is_answered_by_first_model(
    lab: Lab, host: Host, port: int, key: str | None, served: str, as_whom: str
) -> None:
    """As docs/engines.md says. llama.cpp answers with its own name, llama-cpp-python with the requested one."""
    status, answer = post(host, port, "/v1/chat/completions", say("nobody"), key)
    assert (status, content(answer).strip(), answer["model"]) == (200, lab.testbed.weights(served).sentence, as_whom)


def test_servers_require_key_and_show_it_nowhere(host: Host) -> None:
    for port, name in ((8001, "house-gamma"), (8002, "house-alpha")):
        for key in (None, "sk-wrong"):
            assert post(host, port, "/v1/chat/completions", say(name), key)[0] == 401
    assert [look for look, said in told(host).items() if KEY in said] == []


def test_second_run_changes_nothing(lab: Lab, host: Host) -> None:
    nothing_changes(host, lambda: deploy(lab))
    is_right(lab, {"KEY": KEY})
