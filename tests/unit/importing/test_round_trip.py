"""An inventory's compose file imports as entries that make the same compose file."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis.strategies import DrawFn, booleans, composite, dictionaries, lists, none, sampled_from

from gpurack.engines import ENGINES
from gpurack.engines.container import CPU
from gpurack.importing.reader import read
from gpurack.inventory.checks.connections import connected
from gpurack.inventory.fleet import check_fleet
from gpurack.plan import offline
from gpurack.plan.models.desired import DesiredService, desire
from gpurack.plan.models.ledger import assign

pytestmark = pytest.mark.sampled

HOST = {"hardware": {"A30": 4}}
IMAGINED = "GPU-of-index-"
"""How `offline.imagined` names a GPU; an index in the compose file of the test."""
LAN = "lan-address"
"""What `offline.imagined` has as the host's address."""
MODELS: Mapping[str, Mapping[str, Any]] = {
    "vllm": {"version": "0.33.0", "weights": "/data/q"},
    "sglang": {"version": "0.5.23", "weights": "/data/q"},
    "llama.cpp": {"version": "b7000", "weights": "/data/q.gguf"},
    "llama-cpp-python": {"image": "ghcr.io/abetlen/llama-cpp-python:v0.3.9", "weights": "/data/q.gguf"},
    "tei": {"version": "1.9", "weights": "/data/q"},
    "ollama": {"version": "0.33.0", "pull": ["a:1", "b:2"]},
    "custom": {"image": "lab/x:1"},
}
KEYED = {"vllm", "sglang", "llama.cpp", "tei", "llama-cpp-python"}
"""Engines with keys; ollama has none, and an unknown program is given none."""
SERVICES: Mapping[str, Mapping[str, Any]] = {
    "litellm": {"version": "1.109.1"}, "open-webui": {"version": "0.12.4"}, "llama-gpt": {},
}  # fmt: skip
BEHIND = {
    "litellm": sorted({*MODELS} - {"custom", "ollama"}),
    "open-webui": sorted(MODELS),
    "llama-gpt": ["llama-cpp-python"],
}
"""Service → the engines that it connects to. What ollama pulled is in LiteLLM's file only, so it is not behind it."""
ARGS: Mapping[str, list[dict[str, Any]]] = {
    "vllm": [{"enforce-eager": True}, {"lora-modules": ["a=/l/a", "b=/l/b"]}, {"served-model-name": ["other"]},
             {"dtype": "half", "seed": 3}, {"tokenizer": "org/tok"}],
    "sglang": [{"trust-remote-code": True}, {"schedule-policy": "fcfs"}],
    "llama.cpp": [{"parallel": 2}, {"flash-attn": "on", "jinja": True}, {"lora": ["/l/a", "/l/b"]}],
    "llama-cpp-python": [{"n_batch": 512}, {"chat_format": "llama-2"}],
    "tei": [{"auto-truncate": True}, {"max-batch-tokens": 4096}],
    "custom": [{"fast": True}, {"level": 3}],
}  # fmt: skip
COMPOSE: list[dict[str, Any]] = [
    {}, {"restart": "always"}, {"ulimits": {"memlock": -1}}, {"labels": {"team": "nlp"}},
    {"volumes": [{"type": "bind", "source": "/t", "target": "/t"}]}, {"healthcheck": {"disable": True}},
    {"mem_limit": "8g", "cpus": "2"}, {"extra_hosts": ["a:10.0.0.1"]}, {"shm_size": "4gb", "init": True},
    {"cap_add": ["IPC_LOCK"], "security_opt": ["label=disable"]}, {"stop_grace_period": "2m", "dns": ["10.0.0.53"]},
    {"devices": ["/dev/fuse"], "group_add": ["video"], "tmpfs": ["/run/x"]}, {"env_file": ["/root/one.env"]},
    {"logging": {"driver": "local", "options": {"max-size": "5m"}}}, {"user": "1000:1000", "working_dir": "/t"},
    {"healthcheck": {"test": ["CMD-SHELL", "curl -f http://other:80/"], "start_period": "9m"}},
    {"deploy": {"resources": {"limits": {"memory": "9g"}}}}, {"x-note": 1, "hostname": "one", "read_only": False},
]  # fmt: skip
OF_ENGINE: Mapping[str, list[dict[str, Any]]] = {
    "vllm": [{"weights": {"modelscope": "org/model", "revision": "v1"}}, {"weights": {"hf": "org/model"}},
             {"version": None, "image": "registry.lab/vllm/vllm-openai:v0.33.0-fixed"}],
    "sglang": [{"weights": {"modelscope": "org/model"}}],
    "llama.cpp": [{"weights": {"hf": "org/model-GGUF", "file": "q/q-00001-of-00002.gguf"}},
                  {"weights": {"url": "https://files.lab/q.gguf", "sha256": "0" * 64}}, {"version": "b8000"}],
    "llama-cpp-python": [{"weights": None, "config": {"models": [{"model": "/data/q.gguf", "model_alias": "aa"},
                                                                 {"model": "/data/r.gguf", "n_ctx": 2048}]}}],
    "tei": [{"weights": {"hf": "org/model"}}],
    "ollama": [{"pull": []}, {"image": "ollama/ollama:0.33.0-rc1", "version": None}],
    "custom": [{"weights": "/data/q"}, {"compose": {"expose": ["7860", "7861"], "x-ready": "/health"}},
               {"compose": {"entrypoint": ["/bin/sh", "-c"], "command": ["exec serve --llm http://x:1 $HOME"]}},
               {"image": "registry.lab:5000/x@sha256:" + "1" * 64}],
}  # fmt: skip
"""Engine → fields in the place of those in MODELS."""


@composite
def entries(draw: DrawFn, engine: str) -> dict[str, Any]:
    """A model of an engine with some settings."""
    cards = [[1]] if ENGINES[engine].one_gpu else [[0], [3], [0, 2], [1, 2, 3, 0], "all"]
    cards += [[]] if has_cpu_image(engine) else []
    fields: dict[str, Any] = {"engine": engine, **MODELS[engine], "gpus": draw(sampled_from(cards)), "port": 9000}
    fields["bind"] = draw(sampled_from(["loopback", "any", "lan", "10.0.0.5", "127.0.0.2"]))
    fields["compose"] = draw(sampled_from(COMPOSE))
    fields["env"] = draw(dictionaries(sampled_from(["A", "LOG_LEVEL"]), sampled_from(["1", "x y", "a=b", "$HOME"])))
    if engine in ARGS:
        fields["args"] = {
            name: value for given in draw(lists(sampled_from(ARGS[engine]))) for name, value in given.items()
        }
    if "context" not in ENGINES[engine].unused and draw(booleans()):
        fields["context"] = 8192
    if fields["gpus"] and ENGINES[engine].enforces_vram and (vram := draw(none() | sampled_from(["50%", "6GiB"]))):
        fields["vram"] = vram
    if isinstance(fields.get("weights"), str) and fields["weights"] == "/data/q" and draw(booleans()):
        fields["weights"] = {"hf": "org/model", "revision": "0123abcd"}
    if draw(booleans()):
        fields["ready_timeout"] = "45min"
    if engine in KEYED and draw(booleans()):
        fields["api_key"] = {"env": "ONE_KEY"}
    if "served_name" not in ENGINES[engine].unused and engine != "custom":
        fields["served_name"] = draw(sampled_from(["one", "org/model"]))
    if draw(booleans()):
        fields = {name: value for name, value in {**fields, **draw(sampled_from(OF_ENGINE[engine]))}.items()
                  if value is not None}  # fmt: skip
    if "config" in fields:
        fields = {name: value for name, value in fields.items() if name not in ("args", "context", "served_name")}
    return fields


def has_cpu_image(engine: str) -> bool:
    """True if an engine also computes on the CPU."""
    if "image" in MODELS[engine]:
        return True
    try:
        return bool(ENGINES[engine].image(MODELS[engine]["version"], CPU))
    except LookupError:
        return False


@composite
def labs(draw: DrawFn, engine: str) -> dict[str, Any]:
    """Models, and a service of an engine that connects to them."""
    behind = draw(lists(sampled_from(BEHIND[engine]), min_size=1, max_size=1 if engine == "llama-gpt" else 3))
    models = {
        f"m{at}": {"engine": one, **MODELS[one], "gpus": [at], "port": 9000 + at,
                   **({"api_key": {"env": f"M{at}_KEY"}} if one in KEYED and draw(booleans()) else {})}
        for at, one in enumerate(behind)
    }  # fmt: skip
    fields = {"engine": engine, **SERVICES[engine], "connects_to": list(models), "port": 4000}
    fields["env"] = draw(dictionaries(sampled_from(["A", "LOG_LEVEL"]), sampled_from(["1", "$HOME"])))
    if engine == "litellm":
        fields["args"] = draw(sampled_from([{}, {"num_workers": 2}]))
        if draw(booleans()):
            fields["api_key"] = {"env": "UI_KEY"}
        if draw(booleans()):
            fields["keys"] = {"ann": {"env": "ANN_KEY"}, "bob": {"env": "BOB_KEY"}}
    if engine == "open-webui" and draw(booleans()):
        fields["keys"] = {"a@uni.example": {"env": "UI_PASSWORD"}}
    return {"models": models, "services": {"ui": fields}}


def desired(data: Mapping[str, Any]) -> list[DesiredService]:
    """The services of a host."""
    spec = connected(check_fleet({"gpu1": [HOST, dict(data)]}))["gpu1"]
    state = offline.imagined(spec)
    cards = assign(spec, state).uuids
    return [desire(name, spec, state, cards.get(name, ())) for name in spec.entries]


def services(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The Compose services of a host, with the files that they mount."""
    return {
        one.name: json.loads(json.dumps({**one.service, "x-files": one.files}).replace(LAN, "10.9.9.9"))
        for one in desired(data)
    }


def meaning(service: Mapping[str, Any]) -> dict[str, Any]:
    """A service in which the order of flags and mounts does not count."""
    mounts = [json.dumps(mount, sort_keys=True) for mount in service.get("volumes", [])]
    return {**service, "command": Counter(service.get("command") or []), "volumes": sorted(mounts)}


def imported(before: Mapping[str, Any], clients: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The services that the compose file of these services becomes. clients: the names in the file of its keys."""
    keys = {
        one["source"]: {"file": f"/keys/{one['source']}"}
        for entry in before.values()
        for one in entry.get("secrets", [])
    }
    files = {f"/keys/{key}_{name}": text for key, entry in before.items() for name, text in entry["x-files"].items()}
    files["/keys/ui_keys"] = json.dumps(dict.fromkeys(clients or (), "digest"))
    text = yaml.safe_dump({"services": before, "secrets": keys}).replace("$", "$$").replace(f"gpu={IMAGINED}", "gpu=")
    return services(read(text, files=files).data)


@pytest.mark.parametrize("engine", MODELS)
def test_compose_file_of_an_entry_imports_as_the_same_service(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_KEY", "hush")

    @settings(max_examples=25, deadline=None)
    @given(entries(engine))
    def check(fields: dict[str, Any]) -> None:
        before = services({"models": {"one": fields}})
        after = imported(before)
        assert {name: meaning(service) for name, service in after.items()} == {
            name: meaning(service) for name, service in before.items()
        }

    check()


@pytest.mark.parametrize("engine", sorted(name for name in MODELS if ENGINES[name].compiled))
def test_what_an_engine_compiled_is_not_taken_over(engine: str) -> None:
    """The next version would read the folders of this one."""
    compiled = ENGINES[engine].compiled
    assert compiled
    before = services({"models": {"one": {"engine": engine, **MODELS[engine], "gpus": [1], "port": 9000}}})
    assert {mount["source"] for mount in before["one"]["volumes"]} >= {compiled.volume}
    assert set(compiled.variables["nvidia"]) <= set(before["one"]["environment"])
    data = read(yaml.safe_dump({"services": before}).replace("$", "$$").replace(f"gpu={IMAGINED}", "gpu=")).data
    [entry] = data["models"].values()
    assert not set(compiled.variables["nvidia"]) & set(entry.get("env", {}))
    assert compiled.volume not in json.dumps(entry)


@pytest.mark.parametrize("engine", SERVICES)
def test_compose_file_of_a_service_imports_with_connections_and_keys(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("M0_KEY", "M1_KEY", "M2_KEY", "UI_KEY", "ANN_KEY", "BOB_KEY", "UI_PASSWORD"):
        monkeypatch.setenv(name, f"hush-{name}")

    @settings(max_examples=25, deadline=None)
    @given(labs(engine))
    def check(data: dict[str, Any]) -> None:
        before = services(data)
        after = imported(before, data["services"]["ui"].get("keys"))
        assert {name: meaning(one) for name, one in after.items()} == {
            name: meaning(one) for name, one in before.items()
        }

    check()


def test_every_engine_is_round_tripped() -> None:
    assert set(MODELS) | set(SERVICES) == set(ENGINES)
