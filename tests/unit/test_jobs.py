"""Jobs in the inventory and the plan: when they run, how, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.plan.models import jobs, unused
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.questions import images_by_user
from gpurack.plan.run import Run
from gpurack.plan.steps import WriteFile
from gpurack.spec.host import Host
from tests.given import container, host_state, models_plan, running, spec, uuid
from tests.unit.image_tars import save

Q8 = {
    "folder": "/data/lab", "result": "7B/q8.gguf",
    "command": ["--quantize", "/models/7B/f16.gguf", "/models/7B/q8.gguf", "q8_0"],
}  # fmt: skip
PROMPT = {"weights": "/w/a.gguf", "command": ["-m", "{weights}", "-p", "Who are $you?", "-n", "16"]}
HERE = {"weights": {"/w/a.gguf": 1, "/data/lab": 4096}}


def wanted(models: Any = None, **entries: Any) -> Host:
    return spec({"jobs": entries, "models": models or {}})


def done(spec: Host, name: str) -> dict[str, str]:
    return {paths.job_record(name): json.dumps({"definition": jobs.desire_job(name, spec).definition})}


def service(planned: ModelsPlan, name: str) -> dict[str, Any]:
    step = next(step for step in planned.steps if step.reason.startswith(f"the job {name},"))
    assert isinstance(step, WriteFile)
    found: dict[str, Any] = yaml.safe_load(step.content)["services"][name]
    return found


def plan(spec: Host, facts: HostFacts) -> ModelsPlan:
    return jobs.plan_jobs(spec, facts, Run())


# --- how -------------------------------------------------------------------------------------------------------------


def test_prompt_becomes_service_that_runs_once() -> None:
    host = wanted(ask=PROMPT)
    planned = plan(host, host_state(**HERE))
    assert service(planned, "ask") == {
        "image": "ghcr.io/ggml-org/llama.cpp:light-b7000",
        "container_name": "ask",
        "profiles": ["job"],
        "restart": "no",
        "network_mode": "bridge",
        "command": ["-m", "/weights/a.gguf", "-p", "Who are $$you?", "-n", "16"],
        "volumes": [
            {"type": "bind", "source": "/var/lib/gpurack/weights/jobs/ask", "target": "/models",
             "bind": {"create_host_path": False}},
            {"type": "bind", "source": "/w/a.gguf", "target": "/weights/a.gguf", "read_only": True,
             "bind": {"create_host_path": False}},
        ],
        "security_opt": ["no-new-privileges:true"],
        "labels": {"gpurack.job": jobs.desire_job("ask", host).definition},
    }  # fmt: skip
    assert planned.job == {
        "ours": {},
        "groups": [[{
            "name": "ask", "user": "", "compose_file": "/etc/gpurack/jobs/ask.yaml", "fetch": [], "result": None,
            "image": "ghcr.io/ggml-org/llama.cpp:light-b7000", "definition": jobs.desire_job("ask", host).definition,
            "folder": "/var/lib/gpurack/weights/jobs/ask",
        }]],
        "logins": {}, "unused": unused.question(host),
        "origin": {"lab": "", "by": "", "commit": "", "inventory": ""},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "gpus", "image"),
    [
        (["-m", "x", "-p", "y"], [], "light-b7000"),
        (["-p", "y"], [0], "light-cuda-b7000"),
        (["--quantize", "a", "b", "q4_0"], [], "full-b7000"),
        (["--all-in-one", "/models/", "7B"], [0], "full-cuda-b7000"),
    ],
)
def test_image_follows_command_and_gpus(command: list[str], gpus: list[int], image: str) -> None:
    host = wanted(one={"command": command, "gpus": gpus})
    reference = f"ghcr.io/ggml-org/llama.cpp:{image}"
    assert service(plan(host, host_state(gpus=1)), "one")["image"] == reference
    assert ("", reference) in images_by_user(host)


def test_job_has_gpus_mounts_and_compose_settings() -> None:
    job = {"command": ["-p", "y"], "gpus": [0], "env": {"A": "1"}, "compose": {"volumes": ["/x:/y"], "shm_size": "1g"}}
    data = service(plan(wanted(one=job), host_state(gpus=1)), "one")
    (device,) = data["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == [f"nvidia.com/gpu={uuid(0)}"]
    assert (data["environment"], data["shm_size"], data["volumes"][-1]) == ({"A": "1"}, "1g", "/x:/y")


def test_fetches_images_and_weights_of_jobs(tmp_path: Any) -> None:
    tar = save(tmp_path / "a.tar")
    (tmp_path / "w.gguf").write_text("weights")
    job = {"command": ["-m", "{weights}"], "version": None, "image": {"tar": str(tar)}}
    planned = plan(wanted(one={**job, "weights": {"copy": str(tmp_path / "w.gguf")}}), host_state())
    assert {upload.source for upload in planned.uploads} == {tar, tmp_path / "w.gguf"}
    assert planned.job
    ((entry,),) = planned.job["groups"]
    assert entry["load"]["tar"] == str(tar)
    assert entry["fetch"][0]["copy"] == str(tmp_path / "w.gguf")


# --- when ------------------------------------------------------------------------------------------------------------


def test_keeps_finished_job() -> None:
    host = wanted(q8=Q8)
    there = {**HERE["weights"], "/data/lab/7B/q8.gguf": 1}
    assert plan(host, host_state(weights=there, files=done(host, "q8"))).nothing
    assert plan(wanted(q8={**Q8, "enabled": False}), host_state(**HERE)).nothing
    # other GPUs and other shares give the same result
    assert (
        jobs.desire_job("q8", wanted(q8={**Q8, "gpus": [1], "vram": "5GiB"})).definition
        == jobs.desire_job("q8", host).definition
    )


@pytest.mark.parametrize(
    ("over", "files", "result", "reason"),
    [
        ({}, {}, True, "not done yet"),
        ({}, {paths.job_record("q8"): "half a fi"}, True, "not done yet"),
        ({"command": ["--quantize", "a", "b", "q4_0"]}, None, True, "its definition changed"),
        ({}, None, False, "its result /data/lab/7B/q8.gguf is missing"),
    ],
)
def test_states_why_job_runs(over: dict[str, Any], files: Any, result: bool, reason: str) -> None:
    there = {**HERE["weights"], **({"/data/lab/7B/q8.gguf": 1} if result else {})}
    facts = host_state(weights=there, files=done(wanted(q8=Q8), "q8") if files is None else files)
    assert [str(change) for change in plan(wanted(q8={**Q8, **over}), facts).changes] == [f"run q8: {reason}"]


def test_waits_for_job_of_earlier_run() -> None:
    host = wanted(one={"command": ["-p", "x"], "gpus": [0]})
    label = {"gpurack.job": jobs.desire_job("one", host).definition}
    process = (uuid(0), 1, "llama-cli", 9000, "root", "id-of-one")
    facts = host_state(gpus=1, containers=[container("one", labels=label)], gpu_processes=[process])
    assert [str(change) for change in plan(host, facts).changes] == ["run one: still running"]


# --- what stands in the way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "state", "sentence"),
    [
        ({"gpus": [0]}, {"gpus": 2}, "GPU 0 (GPU-00000000-0000) is claimed by 2 entries: alpha, one. Choose "
         'another GPU (free: 1), or set vram ("6GiB") for each of them. No model is stopped for a job.'),
        ({"gpus": [7]}, {"gpus": 1}, "GPU 7 does not exist"),
        ({"folder": "/nowhere"}, {"gpus": 1}, "folder /nowhere does not exist on the host. Create it, or correct"),
        ({"weights": "/w/b.gguf"}, {"gpus": 1}, "weights /w/b.gguf does not exist on the host"),
        ({}, {"gpus": 1, "containers": [container("one")]}, "a container named `one` already exists"),
    ],
)  # fmt: skip
def test_refuses_with_reason(job: dict[str, Any], state: dict[str, Any], sentence: str) -> None:
    host = wanted({"alpha": {"port": 8000, "gpus": [0]}}, one={"command": ["-p", "x"], **job})
    planned = plan(host, host_state(**HERE, **state))
    assert planned.errors["one"].what.startswith(sentence)
    assert planned.job is None


def test_waits_for_the_fabric_of_its_gpus_only() -> None:
    facts = host_state(**HERE, gpus=1, driver={"switches": 4})
    planned = plan(wanted(ask={**PROMPT, "gpus": [0]}, cpu=PROMPT), facts)
    assert {name: (error.code, error.path) for name, error in planned.errors.items()} == {
        "ask": ("fabric-not-ready", "jobs.ask")
    }
    assert [change.model for change in planned.changes] == ["cpu"]


def test_refuses_change_of_result_that_a_model_serves() -> None:
    served = {"alpha": {"port": 8000, "weights": "/data/lab/7B/q8.gguf"}}
    before = wanted(served, q8=Q8)
    after = wanted(served, q8={**Q8, "command": ["--quantize", "a", "b", "q4_0"]})
    there = {**HERE["weights"], "/data/lab/7B/q8.gguf": 1}
    facts = host_state(weights=there, files=done(before, "q8"), containers=[running(before, "alpha", host_state())])
    assert plan(after, facts).errors["q8"].what.startswith("alpha serves its result /data/lab/7B/q8.gguf, which would")


# --- models that serve a result --------------------------------------------------------------------------------------


def test_model_waits_for_job_that_makes_its_weights() -> None:
    host = wanted({"alpha": {"port": 8000, "weights": "/data/lab/7B/q8.gguf"}, "beta": {"port": 8001}}, q8=Q8)
    assert jobs.serve_results(host)
    facts = host_state(**HERE)
    assert jobs.awaiting(host, facts) == {"alpha": "q8"}
    planned = models_plan(host, facts, left_out=jobs.awaiting(host, facts))
    assert [change.model for change in planned.changes] == ["beta"]
    assert planned.errors == {}
    made = host_state(weights={**HERE["weights"], "/data/lab/7B/q8.gguf": 1}, files=done(host, "q8"))
    assert jobs.awaiting(host, made) == {}
    assert not jobs.serve_results(wanted({"beta": {"port": 8001}}, q8=Q8))


def test_job_inherits_only_version_of_engine() -> None:
    layers = {"defaults": {"bind": "lan"}, "engines": {"llama.cpp": {"version": "b9", "context": 99, "args": {"t": 1}}}}
    host = spec(layers, {"jobs": {"one": {"engine": "llama.cpp", "command": ["-p", "x"]}}})
    assert (host.jobs["one"].version, host.jobs["one"].engine) == ("b9", "llama.cpp")
