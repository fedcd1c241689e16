"""Variations of public shapes: every container is in the result or named, and plan accepts what import wrote."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import yaml

from gpurack.importing.reader import read
from gpurack.inventory.fleet import check_fleet
from gpurack.spec.problems import InventoryError

pytestmark = pytest.mark.sampled

STARTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "vllm": ("vllm/vllm-openai:v0.19.0", [
        {"command": "--model a/b --served-model-name q"},
        {"command": ["a/b", "--max-model-len", "32k"]},
        {"entrypoint": ["/bin/bash", "-c"], "command": ["vllm serve a/b --port 8000"]},
        {"entrypoint": ["/bin/bash", "-c"], "command": ["pip install x && vllm serve a/b"]},
        {"entrypoint": "/start.sh", "volumes": ["./start.sh:/start.sh"]},
        {"command": "--config /c.yaml", "volumes": ["/c.yaml:/c.yaml"]},
        {"command": ["--model", "/m/x", "-tp", "2"], "volumes": ["/srv/m:/m"]},
    ]),
    "sglang": ("lmsysorg/sglang:v0.5.4", [
        {"command": "python3 -m sglang.launch_server --model-path a/b --host 0.0.0.0"},
        {"command": "python3 -m sglang.launch_server --model-path a/b --tp 2 --nnodes 2"},
        {"command": ["sh", "-c", "python3 -m sglang.launch_server --model-path a/b"]},
    ]),
    "llama": ("ghcr.io/ggml-org/llama.cpp:server-cuda-b8000", [
        {"command": "-m /m/a.gguf -c 8192 -np 4", "volumes": ["/srv/m:/m"]},
        {"command": "-hf a/b:Q4_K_M --port 9000"},
        {"command": "--models-dir /m", "volumes": ["/srv/m:/m"]},
        {"environment": {"LLAMA_ARG_MODEL": "/m/a.gguf", "LLAMA_ARG_CTX_SIZE": "4096"}, "volumes": ["/srv/m:/m"]},
        {"entrypoint": ["/app/llama-server"], "command": ["-m", "/m/a.gguf"], "volumes": ["models:/m"]},
    ]),
    "tei": ("ghcr.io/huggingface/text-embeddings-inference:1.8", [
        {"command": "--model-id a/b"}, {"environment": ["MODEL_ID=a/b", "PORT=80"]},
    ]),
    "ollama": ("ollama/ollama:0.20.2", [
        {}, {"volumes": ["o:/root/.ollama"]}, {"environment": {"OLLAMA_CONTEXT_LENGTH": "", "OLLAMA_HOST": "0.0.0.0"}},
        {"entrypoint": ["sh", "-c", "ollama serve & sleep 1; ollama pull a:1; wait"]},
    ]),
    "web": ("ghcr.io/open-webui/open-webui:v0.12.4", [{"environment": {"OLLAMA_BASE_URL": "http://x:11434"}}]),
    "asr": ("lab/asr:3", [{}, {"command": ["--model", "a/b"]}, {"environment": {"HF_TOKEN": "${HF_TOKEN}"}}]),
    "db": ("postgres:16", [{"environment": {"POSTGRES_PASSWORD": "${PW}"}}]),
}  # fmt: skip
CDI = [{"driver": "cdi", "device_ids": ["nvidia.com/gpu=1"]}]
GPUS: dict[str, dict[str, Any]] = {
    "none": {},
    "all": {"gpus": "all"},
    "two": {"deploy": {"resources": {"reservations": {"devices": [{"driver": "nvidia", "count": 2}]}}}},
    "ids": {
        "deploy": {"resources": {"reservations": {"devices": [{"driver": "cdi", "device_ids": ["nvidia.com/gpu=1"]}]}}}
    },
    "amd": {"devices": ["/dev/kfd", "/dev/dri"], "group_add": ["video"]},
    "mig": {"deploy": {"resources": {"reservations": {"devices": [{"device_ids": ["MIG-1a"]}]}}}},
    "runtime": {"runtime": "nvidia"},
}
AROUND: list[dict[str, Any]] = [
    {"ports": ["9000:9000"]},
    {"ports": ["${PORT}:9000"], "restart": "unless-stopped", "ipc": "host"},
    {"network_mode": "host"},
    {"healthcheck": {"test": ["CMD", "curl", "http://localhost:8000"]}, "networks": ["n"], "x-note": 1},
]


def variations() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, service) of every variation."""
    for name, (image, starts) in STARTS.items():
        for start, gpus, around in product(starts, GPUS.values(), AROUND):
            yield name, {"image": image, **gpus, **around, **start}


EVERY = list(variations())


def test_there_are_enough_variations() -> None:
    assert len(EVERY) >= 150


@pytest.mark.parametrize("name", STARTS)
def test_every_variation_is_imported_or_named_and_accepted_by_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_lab")
    for service in (one for of, one in EVERY if of == name):
        text = yaml.safe_dump({"services": {"one": service}})
        result = read(text)
        found = {**result.models, **result.services, **result.jobs}
        named = [finding for finding in result.findings if finding.where.startswith("service one")]
        had_gpus = {"gpus", "deploy", "devices", "runtime"} & set(service)
        assert not had_gpus or [] not in [fields.get("gpus") for fields in found.values()], text
        assert found or any("not imported" in finding.what for finding in named), text
        assert not [finding for finding in named if "could not be converted" in finding.what], text
        assert refused(result.data) <= ALLOWED.get(name, set()), (text, result.data, refused(result.data))


ALLOWED = {"vllm": {"gpus-and-parallelism"}}
"""Errors of the originals: tensor parallelism over more GPUs than were given."""


def refused(data: dict[str, Any]) -> set[str]:
    """The codes of the errors that plan reports."""
    try:
        check_fleet({"gpu1": [{"hardware": {"A30": 4}}, data]})
    except InventoryError as error:
        return {problem.code for problem in error.problems}
    return set()
