"""Engines in the plan of a host: GPUs and driver, readiness without a model name, connections."""

from dataclasses import replace
from typing import Any

import pytest

from gpurack.inventory.checks.connections import upstreams_of
from gpurack.inventory.checks.gpus import gpu_warnings
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.models.plan import ModelsPlan
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError
from tests.given import host_state, models_plan, running, said, spec, uuid

VLLM = {"engine": "vllm", "version": "0.33.0", "weights": "/w/qwen", "gpus": [0], "port": 8000}
TEI = {"engine": "tei", "version": "1.9", "weights": "/w/bge", "gpus": [0], "port": 8080}


def host(**entries: dict[str, Any]) -> Host:
    return spec({"models": entries})


def plan(spec: Host, **said: Any) -> ModelsPlan:
    return models_plan(spec, host_state(**{"gpus": 1, "weights": {"/w/qwen": 1, "/w/bge": 1}, **said}))


def on(name: str, spec: Host, driver: str) -> ModelsPlan:
    """The plan on a host with this GPU and driver."""
    facts = host_state(gpus=1, weights={"/w/qwen": 1, "/w/bge": 1, "/w/a.gguf": 1}, driver={"kernel": driver})
    return models_plan(spec, replace(facts, gpus=(replace(facts.gpus[0], name=name),)))


GEFORCE, A30, A6000 = "NVIDIA GeForce RTX 4090", "NVIDIA A30", "NVIDIA RTX A6000"
CU129 = {**VLLM, "version": "0.33.0-cu129"}
SGLANG = {**VLLM, "engine": "sglang", "version": "0.5.11"}


def test_refuses_old_driver_before_pull() -> None:
    found = on(GEFORCE, host(qwen=VLLM), "570.86.15")
    assert said(found.errors) == {
        "qwen": "vllm 0.33.0 needs NVIDIA's driver 580 or newer, the host has 570.86.15. Update the driver, or choose "
        "an older version."
    }
    assert found.job is None


@pytest.mark.parametrize(
    ("entry", "driver", "oldest"),
    [
        (VLLM, "570.86.15", "580"),
        (VLLM, "580.65.06", ""),
        ({**VLLM, "version": "0.20.0"}, "570.86.15", "580"),
        ({**VLLM, "version": "0.19.1"}, "570.86.15", ""),
        ({**VLLM, "version": "0.19.1-cu130"}, "570.86.15", "580"),
        (CU129, "570.86.15", ""),
        (CU129, "470.82.01", "525"),
        ({**VLLM, "version": "0.10.0"}, "470.82.01", ""),  # unknown
        ({**VLLM, "version": "nightly"}, "470.82.01", ""),
        ({**VLLM, "version": None, "image": "lab/vllm:1"}, "470.82.01", ""),
        (SGLANG, "570.86.15", "580"),
        ({**SGLANG, "version": "0.5.10"}, "570.86.15", ""),
        ({**SGLANG, "version": "0.5.11-cu129-amd64"}, "570.86.15", ""),
        (TEI, "470.82.01", "525"),
        ({**VLLM, "engine": "llama.cpp", "version": "cuda13-b7000", "weights": "/w/a.gguf"}, "570.86.15", "580"),
        ({**VLLM, "engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf"}, "470.82.01", ""),
        (VLLM, "", ""),
    ],
)
def test_an_image_for_a_newer_driver_is_refused_only_where_it_certainly_fails(
    entry: dict[str, Any], driver: str, oldest: str
) -> None:
    """GeForce has no forward compatibility; other GPUs may have it, by a library in the image."""
    wanted = host(qwen=entry)
    found = on(GEFORCE, wanted, driver)
    assert [problem.code for problem in found.errors.values()] == (["gpu-incompatible"] if oldest else [])
    assert f"driver {oldest} or newer" in str(said(found.errors)) if oldest else not found.errors
    for name in (A30, A6000):
        other = on(name, wanted, driver)
        assert not other.errors
        assert other.job
        assert [each.code for each in other.warnings if "driver" in each.code] == (
            ["driver-older-than-image"] if oldest else []
        )
        tested = ["CUDA is tested in" in each.what for each in other.warnings if "driver" in each.code]
        assert tested == ([entry["engine"] != "tei"] if oldest else []), "TEI has no probe"
    for hardware in ({"RTX 4090": 1}, {"A30": 1}):
        described = {"models": {"qwen": entry}, "hardware": hardware, "nvidia": {"driver": driver or None}}
        if "RTX 4090" in hardware and oldest:
            with pytest.raises(InventoryError) as error:
                spec(described)
            assert [problem.code for problem in error.value.problems] == ["gpu-incompatible"]
        else:
            codes = [problem.code for problem in gpu_warnings(spec(described))]
            assert ("driver-older-than-image" in codes) == bool(oldest)


@pytest.mark.parametrize(
    ("version", "refused"), [("0.33.0", True), ("0.20.0", True), ("0.33.0-cu129", False), ("0.19.1", False)]
)
def test_images_of_vllm_with_cuda_12_support_volta(version: str, refused: bool) -> None:
    facts = host_state(gpus=1, weights={"/w/qwen": 1})
    facts = replace(facts, gpus=(replace(facts.gpus[0], name="Tesla V100-SXM2-32GB", compute="7.0"),))
    found = models_plan(host(qwen={**VLLM, "version": version}), facts).errors
    assert [problem.code for problem in found.values()] == (["gpu-incompatible"] if refused else [])


@pytest.mark.parametrize(
    ("entry", "compute", "words"),
    [
        ({**SGLANG}, "7.0", "a version with CUDA 12"),
        ({**SGLANG, "version": "0.5.10"}, "7.0", ""),
        ({**VLLM}, "7.0", "a version with CUDA 12"),
        ({**VLLM}, "6.1", "an engine that supports it (llama.cpp)"),
        ({**VLLM, "version": "0.19.1"}, "6.1", "an engine that supports it (llama.cpp)"),
        ({**TEI}, "7.0", "an engine that supports it (llama.cpp)"),
        (
            {**VLLM, "engine": "llama.cpp", "version": "cuda13-b7000", "weights": "/w/a.gguf"},
            "6.1",
            "llama.cpp cuda13-b7000 needs compute capability 7.5, this GPU has 6.1.",
        ),
        ({**VLLM, "engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf"}, "6.1", ""),
    ],
)
def test_images_with_cuda_13_need_turing(entry: dict[str, Any], compute: str, words: str) -> None:
    facts = host_state(gpus=1, weights={"/w/qwen": 1, "/w/bge": 1, "/w/a.gguf": 1})
    facts = replace(facts, gpus=(replace(facts.gpus[0], name="Tesla", compute=compute),))
    found = models_plan(host(qwen=entry), facts).errors
    assert [problem.code for problem in found.values()] == (["gpu-incompatible"] if words else [])
    assert words in str(said(found))


def test_running_model_stays_with_old_driver() -> None:
    wanted = host(qwen=VLLM)
    ours = running(wanted, "qwen", host_state(gpus=1), (uuid(0),))
    found = plan(wanted, driver={"kernel": "570.86.15"}, containers=[ours])
    assert dict(found.errors) == {}
    assert [change.action for change in found.changes] == ["keep"]


def test_accepts_nameless_answer_of_engine_without_names() -> None:
    wanted = host(bge=TEI)
    ours = running(wanted, "bge", host_state(gpus=1), (uuid(0),))
    ready = plan(wanted, containers=[ours], probes={"bge": [200, ""]})
    assert dict(ready.errors) == {}
    loading = plan(wanted, containers=[ours], probes={"bge": [503, ""]})
    assert [change.action for change in loading.changes] == ["wait"]
    assert loading.job is not None
    entry = loading.job["batches"][0][0]
    assert (entry["served_name"], entry["url"]) == (None, "http://127.0.0.1:8080/health")


def test_name_selects_replicas_and_all_selects_reachable_models() -> None:
    model = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf"}
    gateway = {"engine": "litellm", "version": "1.109.1", "port": 4000}
    fleet = check_fleet(
        {
            "gpu1": [{"models": {"saiga": {**model, "port": 8000, "bind": "lan"}, "here": {**model, "port": 8001}}}],
            "gpu2": [
                {
                    "models": {
                        "other": {**model, "port": 8000, "bind": "lan", "served_name": "saiga"},
                        "own": {**model, "port": 8001},
                        "off": {**model, "port": 8002, "enabled": False},
                    },
                    "services": {
                        "one": {**gateway, "connects_to": ["saiga"]},
                        "all": {**gateway, "connects_to": "all", "port": 4001},
                    },
                }
            ],
        }
    )
    assert upstreams_of(fleet, "gpu2", "one") == [("gpu2", "other"), ("gpu1", "saiga")]
    assert upstreams_of(fleet, "gpu2", "all") == [("gpu2", "other"), ("gpu2", "own"), ("gpu1", "saiga")]
