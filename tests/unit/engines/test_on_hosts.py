"""Engines in the plan of a host: GPUs and driver, readiness without a model name, connections."""

from typing import Any

from gpurack.inventory.checks.connections import upstreams_of
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.models.plan import ModelsPlan
from gpurack.spec.host import Host
from tests.given import host_state, models_plan, running, said, spec, uuid

VLLM = {"engine": "vllm", "version": "0.33.0", "weights": "/w/qwen", "gpus": [0], "port": 8000}
TEI = {"engine": "tei", "version": "1.9", "weights": "/w/bge", "gpus": [0], "port": 8080}


def host(**entries: dict[str, Any]) -> Host:
    return spec({"models": entries})


def plan(spec: Host, **said: Any) -> ModelsPlan:
    return models_plan(spec, host_state(**{"gpus": 1, "weights": {"/w/qwen": 1, "/w/bge": 1}, **said}))


def test_refuses_old_driver_before_pull() -> None:
    found = plan(host(qwen=VLLM), driver={"kernel": "570.86.15"})
    assert said(found.errors) == {
        "qwen": "vllm 0.33.0 needs NVIDIA's driver 580 or newer, the host has 570.86.15. Update the driver, or choose "
        "an older version."
    }
    assert found.job is None
    assert not plan(host(qwen={**VLLM, "version": "0.32.0"}), driver={"kernel": "570.86.15"}).errors
    assert not plan(host(qwen={**VLLM, "version": None, "image": "lab/vllm:1"}), driver={"kernel": "570.86.15"}).errors


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
