"""ollama (a stand-in: docs/testing.md): listed models are pulled with progress, loaded and answer; others stay."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.request
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, cards, containers
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.inventory import REGISTRY, mirrors

SETTINGS = {"OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_NUM_PARALLEL": "4", "OLLAMA_FLASH_ATTENTION": "1"}
OLLAMA = {
    "engine": "ollama",
    "version": "0.33.0",
    "gpus": [1],
    "vram": "12GiB",
    "port": 11434,
    "context": 2048,
    "env": SETTINGS,
}


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """gpu2, with an ollama that pulled two models."""
    lab.testbed.serve_engines("ollama")
    host = lab.testbed.host("gpu2")
    host.root(
        "command -v docker >/dev/null && { docker ps -aq | xargs -r docker rm -f; docker volume prune -af; }",
        check=False,
    )
    run = with_models(lab, "tiny:1b", "all-minilm")
    assert run.exit_code == 0, run.output
    assert "ollama: pulled tiny:1b in" in run.output
    assert "ollama: pulled all-minilm:latest in" in run.output
    return host


def with_models(lab: Lab, *names: str, options: tuple[str, ...] = (), **host: Any) -> Run:
    entry = {"gpu2": {"models": {"ollama": {**OLLAMA, "pull": list(names)}}, **host}}
    return lab.run(lab.inventory(entry), *options)


def ask(host: Host, path: str) -> Any:
    return json.loads(host.run(f"curl -sS http://127.0.0.1:11434{path}").stdout)


def there(host: Host) -> set[str]:
    return {model["name"] for model in ask(host, "/api/tags")["models"]}


def started(host: Host) -> str:
    return str(containers(host)["ollama"]["State"]["StartedAt"])


def test_loads_listed_models_on_gpu_with_settings(lab: Lab, host: Host) -> None:
    assert there(host) == {"tiny:1b", "all-minilm:latest"}
    loaded = {model["name"]: model for model in ask(host, "/api/ps")["models"]}
    assert set(loaded) == there(host)
    assert all(model["size_vram"] and model["context_length"] == 2048 for model in loaded.values())
    assert all(model["expires_at"] > "2200" for model in loaded.values())  # OLLAMA_KEEP_ALIVE=-1
    environment = set(containers(host)["ollama"]["Config"]["Env"])
    assert {f"{name}={value}" for name, value in SETTINGS.items()} <= environment
    assert len(cards(host, "ollama")) == 1
    body = json.dumps({"model": "tiny:1b", "messages": [{"role": "user", "content": "Who are you?"}]})
    said = json.loads(host.run(f"curl -sS http://127.0.0.1:11434/v1/chat/completions -d '{body}'").stdout)
    assert said["choices"][0]["message"]["content"] == "I am tiny:1b."

    run = with_models(lab, "tiny:1b", "all-minilm")
    assert run.unchanged, run.output
    assert host.ssh_commands(run.begun) == 1
    is_right(lab)


def test_pulls_missing_model_with_progress_without_restart(lab: Lab, host: Host) -> None:
    before = started(host)
    host.root("docker exec ollama ollama rm tiny:1b")
    run = with_models(lab, "tiny:1b", "all-minilm", "slow:1b")
    assert run.exit_code == 0, run.output
    assert "~ pull ollama: tiny:1b is not pulled, slow:1b is not pulled" in run.output
    assert re.search(r"ollama: pulling slow:1b, \d+ MB of 1.3 GB, \S+ [kM]?B/s, \d+ s", run.output), run.output
    assert run.row("gpu2", "ollama").endswith("ready, pulled")
    assert there(host) == {"tiny:1b", "all-minilm:latest", "slow:1b"}
    assert started(host) == before


def test_keeps_other_models_until_prune(lab: Lab, host: Host) -> None:
    host.root("docker exec ollama ollama pull other:1b")
    run = with_models(lab, "tiny:1b")
    assert run.unchanged, run.output
    assert there(host) == {"tiny:1b", "all-minilm:latest", "slow:1b", "other:1b"}
    run = with_models(lab, "tiny:1b", options=("-y", "--data", "prune=everything"))
    assert run.exit_code == 1
    assert 'prune="everything" is not supported. Use --data prune=ollama.' in run.output
    run = with_models(lab, "tiny:1b", options=("-y", "--data", "prune=ollama"))
    assert run.exit_code == 0, run.output
    assert there(host) == {"tiny:1b"}


def test_failed_pull_or_load_is_one_error(lab: Lab, host: Host) -> None:
    for name, sentence in {
        "qwen9:7b": "ollama: cannot pull qwen9:7b: pull model manifest: file does not exist. "
        "Correct `pull`: use a name and tag of ollama's library",
        "llama3.1:405b": "ollama: llama3.1:405b does not answer: model requires more system memory (",
    }.items():
        run = with_models(lab, "tiny:1b", name)
        assert run.exit_code == 1
        (error,) = run.errors("gpu2")
        assert error.startswith(sentence)
        assert "tiny:1b" in there(host)


def test_pulls_from_mirror_of_library(lab: Lab, host: Host) -> None:
    """A local registry over plain HTTP; the model has the name that clients use."""
    push(f"http://{lab.testbed.registry}", "ollama/library/house", "7b")
    mirror = {"mirrors": {**mirrors(), "registry.ollama.ai": f"{REGISTRY}/ollama"}}
    run = with_models(lab, "tiny:1b", "house:7b", **mirror)
    assert run.exit_code == 0, run.output
    assert "house:7b" in there(host)
    assert not any(REGISTRY in name for name in there(host))
    assert with_models(lab, "tiny:1b", "house:7b", **mirror).unchanged
    # the local registry now has it: the library is not asked
    assert with_models(lab, "tiny:1b", "house:7b").unchanged


def push(registry: str, repository: str, tag: str) -> None:
    """A model as ollama pushes it: a manifest with a layer of weights."""

    def call(method: str, url: str, data: bytes, kind: str = "application/octet-stream") -> Any:
        request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.headers

    described = []
    for kind, content in (("container.image.v1+json", b"{}"), ("model", b"weights")):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = call("POST", f"{registry}/v2/{repository}/blobs/uploads/", b"")["Location"]
        call("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", content)
        base = "application/vnd.docker." if "container" in kind else "application/vnd.ollama.image."
        described.append({"mediaType": f"{base}{kind}", "digest": digest, "size": len(content)})
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": described[0], "layers": described[1:]}
    call("PUT", f"{registry}/v2/{repository}/manifests/{tag}", json.dumps(manifest).encode(), kind)
