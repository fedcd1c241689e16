"""Every engine, every way to fail: each failed model has an error and a hint, and the healthy ones keep serving. All
failing models of a host are in one run; each is a row of a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, chat, containers, identities
from tests.acceptance.conftest import model as gguf
from tests.acceptance.engines.conftest import content, post, say
from tests.acceptance.engines.failing import (
    API_KEY,
    ARGS,
    DAMAGED,
    ENDED,
    FITS,
    FLAG,
    HELD,
    KEY,
    KEYED,
    LIMITED,
    MEMORY,
    OTHER,
    PATH,
    PORT,
    READ,
    REFUSED,
    SHORT_WAIT,
    SILENT,
    Case,
    ends_as,
    entry_of,
    hold,
    never_ready,
    sentence,
)
from tests.testbed import Host
from tests.testbed.engines import models
from tests.testbed.inventory import weights
from tests.testbed.services import WEIGHTS

FOLDER = "/data/failures"
ENGINES: dict[str, dict[str, Any]] = {
    "llama.cpp": {"engine": "llama.cpp", "gpus": []},
    "llama-cpp-python": {"engine": "llama-cpp-python", "version": "0.3.36", "gpus": []},
    "vllm": {"engine": "vllm", "version": "0.33.0", "gpus": [1], "vram": "2GiB"},
    "sglang": {"engine": "sglang", "version": "0.5.23", "gpus": [2], "vram": "1GiB"},
    "tei": {"engine": "tei", "version": "1.9", "gpus": [3], "vram": "1GiB"},
    "ollama": {"engine": "ollama", "version": "0.33.0", "gpus": [0], "vram": "1GiB", "api_key": None},
}
"""Engines that need a GPU are stand-ins. Each has a GPU for its failures, and the healthy vLLM shares one of them."""
GGUF = ("llama.cpp", "llama-cpp-python")
CRASH = {
    "llama.cpp": FLAG, "vllm": FLAG, "llama-cpp-python": {"args": {"n_batch": "many"}},
    "sglang": {"args": {"max-running-requests": "many"}}, "tei": {"args": {"max-batch-tokens": "many"}},
    "ollama": {"env": {"OLLAMA_NUM_PARALLEL": "many"}, "pull": ["tiny:1b"]},
}  # fmt: skip
ANOTHER_KEY = {
    "llama.cpp": {"env": {"LLAMA_API_KEY": OTHER}}, "llama-cpp-python": {"env": {"API_KEY": OTHER}},
    "vllm": {"env": {"VLLM_API_KEY": OTHER}}, "tei": {"env": {"API_KEY": OTHER}},
    "sglang": {"args": {"config": "/weights/keyed/key.yaml"}, "weights": f"{FOLDER}/keyed"},
}  # fmt: skip
NEIGHBOURS = ("alpha", "zeta")
TOO_LONG = {
    "llama.cpp": {"entrypoint": ["sh", "-c", LIMITED, "sh", "/app/llama-server"]},
    "llama-cpp-python": {"entrypoint": ["sh", "-c", LIMITED, "sh"]},
}
FILES = {"gguf": "noise.gguf", "folder": "noise"}
NOISE = {"gguf": (DAMAGED, f"{FOLDER}/noise.gguf again"), "folder": (ENDED, READ)}

CASES: list[Case] = []
for name in ANOTHER_KEY:
    kind = "gguf" if name in GGUF else "folder"
    absent = f"{FOLDER}/absent{'.gguf' if kind == 'gguf' else ''}"
    CASES += [
        (name, "path", {"weights": absent}, f"weights {absent} do not exist on the host. ", PATH),
        (name, "noise", {"weights": f"{FOLDER}/{FILES[kind]}", **KEYED}, *NOISE[kind]),
        (name, "crash", {**CRASH[name], **KEYED}, REFUSED, ARGS),
        (
            name,
            "key",
            ANOTHER_KEY[name],
            "the server requires a key, but the inventory has none (HTTP 401 at ",
            API_KEY,
        ),
        (name, "port", {}, HELD, PORT),
    ]
    if name in GGUF:
        CASES.append((name, "large", {"context": 1_000_000_000, "compose": TOO_LONG[name]}, ENDED, MEMORY))
    else:
        CASES.append((name, "large", {"weights": f"{FOLDER}/large"}, ENDED, FITS))
CASES += [
    ("ollama", "name", {"pull": ["qwen9:7b"]}, "cannot pull qwen9:7b: ", "Correct `pull`: use a name and tag"),
    ("ollama", "large", {"pull": ["llama3.1:405b"]}, "requires more system memory", "Choose a smaller model"),
    ("ollama", "crash", CRASH["ollama"], ENDED, "logs/_/ollama-crash.failed.log"),
    ("ollama", "port", {"pull": ["tiny:1b"]}, HELD, PORT),
]
IDS = [entry_of(case) for case in CASES]


def good(engine: str) -> Any:
    """Weights that an engine can read."""
    if engine == "ollama":
        return None
    return weights("gamma") if engine in GGUF else {"copy": str(models.folder("minilm" if engine == "tei" else "zeta"))}


def healthy() -> dict[str, Any]:
    """The healthy models beside them: a llama.cpp, and a vLLM on a GPU that failing ones want to share."""
    zeta = {**ENGINES["vllm"], "weights": good("vllm"), "vram": "6GiB", "port": 8001}
    return {"alpha": gguf("alpha", [], 8000, **KEYED), "zeta": {**zeta, **KEYED}}


def bad() -> dict[str, Any]:
    """A failing model for each row."""
    return {
        name: {**ENGINES[engine], "weights": good(engine), "port": 8100 + number, **over}
        for number, (name, (engine, _, over, _, _)) in enumerate(zip(IDS, CASES, strict=True))
    }


@pytest.fixture(scope="module")
def host(lab: Lab, engine1: Host) -> Iterator[Host]:
    """Two healthy models, and a third whose weights became invalid while it ran, so that it keeps restarting."""
    lab.testbed.serve_engines("llama-cpp-python", "vllm", "sglang", "tei", "ollama")
    engine1.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
    engine1.root(
        f"rm -rf {FOLDER}; mkdir -p {FOLDER}/noise {FOLDER}/large {FOLDER}/keyed; cd {FOLDER}; "
        "echo this is no model | tee noise.gguf >noise/README; "
        "truncate -s 40G large/pytorch_model.bin"
    )
    engine1.put((WEIGHTS / "delta.gguf").read_bytes(), f"{FOLDER}/looping.gguf")
    # pickled weights have no header for an estimate, so only loading shows that they are too large
    config = {"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": 512}
    engine1.put(json.dumps(config), f"{FOLDER}/large/config.json")
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        engine1.put((models.folder("zeta") / file).read_bytes(), f"{FOLDER}/keyed/{file}")
    engine1.put(json.dumps({"api-key": OTHER}), f"{FOLDER}/keyed/key.yaml")
    run = deploy(lab, {"looping": looping()})
    assert run.exit_code == 0, run.output
    hold(engine1, [8100 + number for number, case in enumerate(CASES) if case[1] == "port"])
    engine1.root(f"echo broken >{FOLDER}/looping.gguf; docker restart looping")
    yield engine1
    engine1.root("systemctl stop holder")


def looping() -> dict[str, Any]:
    return {**ENGINES["llama.cpp"], "weights": f"{FOLDER}/looping.gguf", "port": 8002}


def deploy(lab: Lab, more: dict[str, Any], deploy: str = "gpu_host") -> Run:
    wanted = {"engine1": {"models": {**healthy(), **more}}}
    return lab.run(lab.inventory(wanted), deploy=deploy, env={"KEY": KEY}, timeout=400)


@pytest.fixture(scope="module")
def run(lab: Lab, host: Host) -> Run:
    """One run with all failing models."""
    before = identities(host)
    done = deploy(lab, {"looping": looping(), **bad()})
    assert done.exit_code == 1, done.output
    assert not done.traceback, done.output
    after = identities(host)
    assert {name: after[name] for name in NEIGHBOURS} == {name: before[name] for name in NEIGHBOURS}
    return done


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_failed_model_has_error_and_hint(run: Run, case: Case) -> None:
    ends_as(run, "engine1", case)


def test_restarting_model_is_stopped_with_error(run: Run, host: Host) -> None:
    """One that ran until its weights became invalid. Of the others, which never served, only logs are kept.

    A run that finds it between two restarts would start it, and reads the header before: it is not stopped then.
    """
    said = sentence(run, "engine1", "looping")
    there = containers(host)
    assert set(there) == {"looping", *NEIGHBOURS}
    if said.startswith(DAMAGED.replace("noise", "looping")):
        assert f"{FOLDER}/looping.gguf again" in said
    else:
        assert said.startswith(ENDED), run.output
        assert READ in said
        assert there["looping"]["State"]["Status"] == "exited"
    logs = host.root("ls /var/lib/gpurack/logs/_").stdout.split()
    ended = [name for name, case in zip(IDS, CASES, strict=True) if case[3] == ENDED]
    assert {f"{name}.failed.log" for name in ended} <= set(logs)


def test_healthy_models_serve_and_no_key_shows(lab: Lab, run: Run, host: Host) -> None:
    assert KEY not in run.output  # of healthy models, of those that exited with the key, and in the output of engines
    for name in NEIGHBOURS:
        assert run.row("engine1", name).endswith(" ready")
    assert chat(host, 8000, KEY) == lab.testbed.weights("alpha").sentence
    status, answer = post(host, 8001, "/v1/chat/completions", say("zeta"), KEY)
    assert (status, content(answer)) == (200, "I am zeta, and vLLM is played here.")


def test_model_that_never_gets_ready_has_error(lab: Lab, run: Run, host: Host, tmp_path: Path) -> None:
    """One of each engine, in parallel, after half an hour, shortened here to fifteen seconds."""
    script = tmp_path / "short_wait.py"
    script.write_text(SHORT_WAIT)
    silent = {
        name.replace(".", "-"): {
            **ENGINES[name], "weights": good(name), "port": 8200 + number, "compose": SILENT,
            **({"pull": ["tiny:1b"]} if name == "ollama" else {}),
        }
        for number, name in enumerate(ENGINES)
    }  # fmt: skip
    before = identities(host)
    done = deploy(lab, silent, deploy=str(script))
    never_ready(done, "engine1", {name: entry["port"] for name, entry in silent.items()})
    after = identities(host)
    assert {name: after[name] for name in NEIGHBOURS} == {name: before[name] for name in NEIGHBOURS}

    # undo: without them the host is unchanged
    assert deploy(lab, {}).exit_code == 0
    assert sorted(containers(host)) == sorted(NEIGHBOURS)
