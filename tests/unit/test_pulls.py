"""Models that an ollama pulls, in the plan: missing ones, removals, and their source."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Probe
from gpurack.plan.models import pulls
from gpurack.plan.models.plan import ModelsPlan
from gpurack.spec.host import Host
from tests.given import host_state, models_plan, running, spec

OLLAMA = {"engine": "ollama", "version": "0.33.0", "weights": None, "port": 11434, "pull": ["qwen2.5:7b", "all-minilm"]}


def wanted(**host: Any) -> Host:
    return spec({"models": {"ollama": OLLAMA}, **host})


def with_models(*names: str, status: int = 200) -> HostFacts:
    body = json.dumps({"models": [{"name": name, "size": 1} for name in names] or None})
    container = running(wanted(), "ollama", host_state())
    return host_state(containers=[container], probes={"ollama": (status, body)})


def plan(facts: HostFacts, prune: bool = False) -> ModelsPlan:
    return models_plan(wanted(), facts, prune=prune)


@pytest.mark.parametrize(
    ("there", "prune", "change"),
    [
        (["qwen2.5:7b", "all-minilm:latest"], False, "keep ollama"),
        (["qwen2.5:7b"], False, "pull ollama: all-minilm:latest is not pulled"),
        ([], False, "pull ollama: qwen2.5:7b is not pulled, all-minilm:latest is not pulled"),
        (["qwen2.5:7b", "all-minilm:latest", "llama2:13b"], False, "keep ollama"),
        (["qwen2.5:7b", "all-minilm:latest", "llama2:13b"], True, "pull ollama: llama2:13b is not listed"),
    ],
)
def test_pulls_missing_models_and_removes_others_on_request(there: list[str], prune: bool, change: str) -> None:
    planned = plan(with_models(*there), prune)
    assert [str(each) for each in planned.changes] == [change]
    told = planned.job["batches"] if planned.job and planned.changes[0].action == "pull" else []
    assert [entry["action"] for group in told for entry in group] == (["pull"] if change.startswith("pull") else [])


def test_does_not_pull_again_after_odd_answer() -> None:
    assert pulls.answered(Probe(200, "<html>")) is None
    assert pulls.answered(with_models(status=500).probes["", "ollama"]) is None


@pytest.mark.parametrize(
    ("host", "model", "source", "insecure"),
    [
        ({}, "qwen2.5:7b", "qwen2.5:7b", False),
        ({"mirrors": {"registry.ollama.ai": "m:5000/o"}}, "qwen2.5:7b", "m:5000/o/library/qwen2.5:7b", False),
        ({"mirrors": {"registry.ollama.ai": "m:5000/o"}}, "lab/qwen:1", "m:5000/o/lab/qwen:1", False),
        ({"mirrors": {"hf.co": "hf.uni.example"}}, "hf.co/a/b:Q4", "hf.uni.example/a/b:Q4", False),
        ({"docker": {"daemon": {"insecure-registries": ["m:5000"]}}}, "m:5000/o/x:1", "m:5000/o/x:1", True),
    ],
)
def test_finds_source_of_model(host: dict[str, Any], model: str, source: str, insecure: bool) -> None:
    assert pulls.source(wanted(**host), model) == {"name": model, "from": source, "insecure": insecure}
