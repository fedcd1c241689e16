"""Engines on GPUs (stand-ins: docs/testing.md), all on one host: each gets the GPUs and the share of their memory in
the inventory, and answers under its name with its key.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, cards, containers, identities
from tests.acceptance.engines.conftest import content, nothing_changes, post, say
from tests.acceptance.evidence import KEYS_IN_ARGUMENTS, Samples, sampled, told
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.engines import models

KEY = "sk-cards-51be07d2"
VLLM = {"engine": "vllm", "version": "0.33.0"}
SGLANG = {"engine": "sglang", "version": "0.5.23"}
TEI = {"engine": "tei", "version": "1.9"}


def model(engine: dict[str, Any], folder: str, gpus: list[int], port: int, **more: Any) -> dict[str, Any]:
    weights = {"copy": str(models.folder(folder))}
    return {**engine, "weights": weights, "gpus": gpus, "port": port, "api_key": {"env": "KEY"}, **more}


def wanted() -> dict[str, Any]:
    """Two chat models on GPUs 0 and 1; vLLM's embeddings and rerank on GPU 2, TEI's on GPU 3 and the CPU."""
    return {
        "chat": model(VLLM, "zeta", [0, 1], 8000, vram="12GiB", context=2048, served_name="qwen2.5-14b-instruct"),
        "sgl": model(SGLANG, "zeta", [0, 1], 8001, vram="30%", context=1024),
        "bge-m3": model(VLLM, "minilm", [2], 8003, vram="6GiB"),
        "bge-reranker": model(VLLM, "reranker", [2], 8004, vram="5GiB", context=512),
        "tei-embed": model(TEI, "minilm", [3], 8080, vram="3GiB"),
        "tei-rerank": model(TEI, "reranker", [3], 8081, vram="3GiB"),
        "tei-cpu": model(TEI, "minilm", [], 8082),
    }


def deploy(lab: Lab, *options: str, **changed: dict[str, Any]) -> Run:
    return lab.run(lab.inventory({"engine1": {"models": {**wanted(), **changed}}}), *options, env={"KEY": KEY})


@pytest.fixture(scope="module")
def started(lab: Lab, engine1: Host) -> tuple[Run, Samples]:
    """The run that starts all of them, at its highest verbosity, and the keys that were seen in any process's arguments
    meanwhile."""
    lab.testbed.serve_engines("vllm", "sglang", "tei")
    engine1.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
    with sampled(engine1, KEYS_IN_ARGUMENTS) as arguments:
        run = deploy(lab, "-y", "-vvv", "--diff")
    assert run.exit_code == 0, run.output
    assert "7 of 7 models answered, 7 changed" in run.output
    return run, arguments


@pytest.fixture(scope="module")
def host(engine1: Host, started: tuple[Run, Samples]) -> Host:
    """The host with all of them."""
    return engine1


def argument(host: Host, name: str, flag: str) -> str | None:
    """The value of a flag in a container's command."""
    words = containers(host)[name]["Args"]
    return words[words.index(flag) + 1] if flag in words else None


def test_container_has_its_gpus_and_no_other(host: Host) -> None:
    uuids = host.gpus.uuids
    there = {name: cards(host, name) for name in wanted() if name != "tei-cpu"}
    assert there == {
        "chat": uuids[:2], "sgl": uuids[:2], "bge-m3": [uuids[2]], "bge-reranker": [uuids[2]],
        "tei-embed": [uuids[3]], "tei-rerank": [uuids[3]],
    }  # fmt: skip
    assert host.root("docker exec tei-cpu nvidia-smi -L", check=False).returncode != 0


def test_gpus_and_vram_become_parallelism_and_shares(host: Host) -> None:
    """Of a GPU with 24576 MiB. SGLang's flag counts weights and cache only, so it is 0.88 of the share."""
    assert argument(host, "chat", "--tensor-parallel-size") == "2"
    assert argument(host, "sgl", "--tp-size") == "2"
    assert argument(host, "bge-m3", "--tensor-parallel-size") is None
    shares = {name: argument(host, name, "--gpu-memory-utilization") for name in ("chat", "bge-m3", "bge-reranker")}
    assert shares == {"chat": "0.500", "bge-m3": "0.250", "bge-reranker": "0.208"}
    assert argument(host, "sgl", "--mem-fraction-static") == "0.264"
    assert (argument(host, "chat", "--max-model-len"), argument(host, "sgl", "--context-length")) == ("2048", "1024")


def test_image_follows_gpu(host: Host) -> None:
    """The A30 has compute capability 8.0, whose tag has no prefix."""
    images = {name: data["Config"]["Image"].rpartition(":")[2] for name, data in containers(host).items()}
    assert {images[name] for name in ("tei-embed", "tei-rerank")} == {"1.9"}
    assert images["tei-cpu"] == "cpu-1.9"
    assert (images["chat"], images["sgl"]) == ("v0.33.0", "v0.5.23")


@pytest.mark.parametrize(
    ("port", "name", "sentence"),
    [
        (8000, "qwen2.5-14b-instruct", "I am qwen2.5-14b-instruct, and vLLM is played here."),
        (8001, "sgl", "I am sgl, and SGLang is played here."),
    ],
)
def test_chat_model_answers_under_its_name(host: Host, port: int, name: str, sentence: str) -> None:
    status, answer = post(host, port, "/v1/chat/completions", say(name), KEY)
    assert (status, content(answer), answer["model"]) == (200, sentence, name)


def test_unknown_name_is_refused_or_answered(host: Host) -> None:
    """vLLM refuses it. TEI answers with its own name, and SGLang with the requested one (docs/engines.md)."""
    for port, path, body in ((8000, "chat/completions", say("other")), (8003, "embeddings", {"input": "one"})):
        status, answer = post(host, port, f"/v1/{path}", {**body, "model": "other"}, KEY)
        assert (status, answer["error"]["message"]) == (404, "The model `other` does not exist.")
    status, answer = post(host, 8080, "/v1/embeddings", {"model": "other", "input": "one"}, KEY)
    assert (status, answer["model"]) == (200, "tei-embed")
    status, answer = post(host, 8001, "/v1/chat/completions", say("other"), KEY)
    assert (status, content(answer), answer["model"]) == (200, "I am sgl, and SGLang is played here.", "other")


@pytest.mark.parametrize(("port", "name"), [(8003, "bge-m3"), (8080, "tei-embed"), (8082, "tei-cpu")])
def test_embedding_models_answer(host: Host, port: int, name: str) -> None:
    status, answer = post(host, port, "/v1/embeddings", {"model": name, "input": ["one", "two"]}, KEY)
    assert (status, answer["model"], len(answer["data"])) == (200, name, 2)


def test_rerank_models_score_by_similarity(host: Host) -> None:
    """By vLLM's and TEI's API; the second text is the more similar one."""
    texts = ["bread", "a card of ours"]
    body = {"model": "bge-reranker", "query": "which card", "documents": texts}
    status, answer = post(host, 8004, "/v1/rerank", body, KEY)
    assert (status, [one["index"] for one in answer["results"]]) == (200, [1, 0])
    status, ranked = post(host, 8081, "/rerank", {"query": "which card", "texts": texts}, KEY)
    assert (status, [one["index"] for one in ranked]) == (200, [1, 0])


def test_every_engine_requires_key(host: Host) -> None:
    asked = {
        8000: "/v1/chat/completions", 8001: "/v1/chat/completions", 8003: "/v1/embeddings", 8004: "/v1/rerank",
        8080: "/embed", 8081: "/rerank", 8082: "/embed",
    }  # fmt: skip
    for port, path in asked.items():
        assert post(host, port, path, {})[0] == 401, port
        assert post(host, port, path, {}, "sk-wrong")[0] == 401, port


def test_key_shows_nowhere(host: Host, started: tuple[Run, Samples]) -> None:
    """Also while they start. SGLang's own log would show it (docs/engines.md)."""
    run, arguments = started
    assert KEY not in run.output
    assert len(arguments.looks) > 20
    assert [look for look in arguments.looks if KEY in look] == []
    assert [look for look, said in told(host).items() if KEY in said] == []
    assert "api_key='***'" in host.root("docker logs sgl 2>&1").stdout


def test_second_run_changes_nothing(lab: Lab, host: Host) -> None:
    nothing_changes(host, lambda: deploy(lab))
    is_right(lab, {"KEY": KEY})


def test_no_model_stops_for_an_image_in_which_cuda_fails(lab: Lab, host: Host) -> None:
    """The images' own Python asks the simulated driver (docs/testing.md)."""
    changed = {"bge-reranker": {**wanted()["bge-reranker"], "context": 256}}
    before = identities(host)
    host.gpus.cuda(999)
    try:
        failed = deploy(lab, **changed)
    finally:
        host.gpus.cuda(0)
    assert failed.exit_code == 1, failed.output
    said = " ".join(failed.output.split())
    assert "its image cannot use the GPUs (CUDA error 999: unknown error). /dev/nvidia-uvm is missing in the" in said
    assert "The present `bge-reranker` was not stopped." in said
    assert identities(host) == before
    assert host.root("docker ps --all --quiet --filter label=gpurack.cuda").stdout == ""
    again = deploy(lab, **changed)
    assert again.exit_code == 0, again.output
    after = identities(host)
    assert {name for name in before if before[name] != after[name]} == {"bge-reranker"}
    assert argument(host, "bge-reranker", "--max-model-len") == "256"
