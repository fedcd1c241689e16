"""`gpurack endpoints`: the list for users."""

from __future__ import annotations

import json
import platform
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpurack.commands.endpoints import (
    NO_ENDPOINTS,
    Kind,
    PublicEndpoint,
    kind_of,
    markdown,
    on_host_only,
    public_endpoints,
)
from gpurack.commands.main import main
from gpurack.facts.parts import Header
from gpurack.inventory.fleet import check_fleet
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from tests.unit.test_inventory import ALPHA

TEI: dict[str, Any] = {"engine": "tei", "version": "1.9", "weights": "/w/bge-reranker", "gpus": [0], "port": 8080}
GATEWAY: dict[str, Any] = {
    "engine": "litellm", "version": "1.109.1", "port": 4000, "bind": "lan", "connects_to": ["alpha", "private"]
}  # fmt: skip
VLLM = {"engine": "vllm", "version": "0.33.0"}
LAN = {**ALPHA, "bind": "lan"}
CHAT = {"engine": "open-webui", "version": "0.12.4", "port": 3000, "bind": "lan", "connects_to": ["gateway"]}


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> dict[str, Host]:
    monkeypatch.setenv("LAB_KEY", "sk-x")
    key = {"env": "LAB_KEY"}
    return check_fleet(
        {
            "gpu1": [
                {
                    "models": {"private": ALPHA, "alpha": {**LAN, "port": 8001, "api_key": key}},
                    "services": {"gateway": {**GATEWAY, "api_key": key}, "chat": CHAT},
                }
            ],
            "gpu2": [
                {
                    "address": "models.uni.example",
                    "models": {
                        "again": {**LAN, "served_name": "alpha"},
                        "own": {**LAN, "port": 8001},
                        "ranks": {**TEI, "bind": "lan"},
                        "hidden": {**ALPHA, "port": 8003},
                        "off": {**LAN, "port": 8002, "enabled": False},
                    },
                }
            ],
        }
    )


def test_lists_models_of_gateway_behind_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep their own names and kinds, instead of one chat model with the second gateway's name."""
    monkeypatch.setenv("DOOR_KEY", "sk-x")
    ranks = {**ALPHA, "port": 8003, "args": {"reranking": True}}
    door = {**GATEWAY, "connects_to": "all", "api_key": {"env": "DOOR_KEY"}}
    fleet = check_fleet(
        {
            "gpu1": [
                {"models": {"alpha": ALPHA}, "services": {"gateway": {**GATEWAY, "connects_to": ["alpha", "door"]}}}
            ],
            "gpu2": [{"models": {"bge-m3": {**ALPHA, "port": 8001}, "ranks": ranks}, "services": {"door": door}}],
        }
    )
    assert [(one.name, one.kind, one.engine, one.hosts, one.keyed) for one in public_endpoints(fleet, {})] == [
        ("alpha", "chat", "llama.cpp", ("gpu1",), False),
        ("bge-m3", "embedding", "llama.cpp", ("gpu2",), False),
        ("ranks", "rerank", "llama.cpp", ("gpu2",), False),
    ]


def test_says_if_there_are_no_endpoints(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(f"lab = ([('gpu1', {{'models': {{'alpha': {ALPHA}}}}})], {{}})")
    result = CliRunner().invoke(main, ["endpoints", str(tmp_path / "lab.py")])
    assert (result.exit_code, result.output) == (
        0,
        f"{NO_ENDPOINTS}\n\n"
        "Only their own host can reach these (`bind: loopback`). From here, with its command running:\n"
        "  alpha  ssh -N -L 8000:localhost:8000 gpu1  http://localhost:8000/v1\n",
    )


def test_model_on_loopback_has_its_tunnel_unless_a_gateway_reaches_it(lab: dict[str, Host]) -> None:
    assert [(one.name, one.tunnel, one.address) for one in on_host_only(lab)] == [
        ("hidden", "ssh -N -L 8003:localhost:8003 models.uni.example", "http://localhost:8003/v1")
    ]
    fleet = check_fleet({"gpu1": [{"models": {"six": {**ALPHA, "bind": "::1"}}}]})
    assert [(one.tunnel, one.address) for one in on_host_only(fleet)] == [
        ("ssh -N -L '8000:[::1]:8000' gpu1", "http://localhost:8000/v1")
    ]


def test_lists_reachable_models_with_address(lab: dict[str, Host]) -> None:
    """A model behind the gateway is listed at the gateway, once for all replicas, although it is on loopback.
    Unreachable models are not listed."""
    found = public_endpoints(lab, {})
    assert [(one.name, one.kind, one.address, one.hosts, one.through, one.keyed) for one in found] == [
        ("alpha", "chat", "http://gpu1:4000/v1", ("gpu1", "gpu2"), "gateway", True),
        ("private", "chat", "http://gpu1:4000/v1", ("gpu1",), "gateway", True),
        ("own", "chat", "http://models.uni.example:8001/v1", ("gpu2",), "", False),
        ("ranks", "rerank", "http://models.uni.example:8080/v1", ("gpu2",), "", False),
        ("chat", "web page", "http://gpu1:3000", ("gpu1",), "", False),
    ]


@pytest.mark.parametrize(
    ("name", "known_as"), [("@local", platform.node()), ("@ssh/gpu1", "gpu1"), ("gpu1.lab", "gpu1.lab")]
)
def test_replaces_pyinfras_names_by_addresses(name: str, known_as: str) -> None:
    lab = check_fleet({name: [{"models": {"alpha": LAN}}]})
    assert [one.address for one in public_endpoints(lab, {})] == [f"http://{known_as}:8000/v1"]


def test_prints_valid_shell_commands(lab: dict[str, Host]) -> None:
    by_name = {one.name: one for one in public_endpoints(lab, {})}
    words = shlex.split(by_name["alpha"].curl.replace("$KEY", "sk-mine"))
    assert words[:4] == ["curl", "http://gpu1:4000/v1/chat/completions", "-H", "Authorization: Bearer sk-mine"]
    assert json.loads(words[-1])["model"] == "alpha"
    assert "Authorization" not in by_name["own"].curl
    rank = shlex.split(by_name["ranks"].curl)
    assert (rank[1], json.loads(rank[-1]).keys()) == ("http://models.uni.example:8080/rerank", {"query", "texts"})
    assert by_name["chat"].curl == ""


def test_custom_image_is_api_and_behind_gateway_a_model() -> None:
    """The gateway speaks OpenAI's API to it."""
    own = {"engine": "custom", "image": "lab/served:1", "port": 8001, "gpus": []}
    direct = public_endpoints(check_fleet({"gpu1": [{"models": {"own": {**own, "bind": "lan"}}}]}), {})
    assert [(one.kind, one.curl) for one in direct] == [("API", "curl http://gpu1:8001")]
    behind = {"models": {"own": own}, "services": {"gateway": {**GATEWAY, "connects_to": ["own"]}}}
    (one,) = public_endpoints(check_fleet({"gpu1": [behind]}), {})
    assert (one.kind, one.curl.split()[1]) == ("chat", "http://gpu1:4000/v1/chat/completions")


@pytest.mark.parametrize(
    ("kind", "key", "fields", "config"),
    [
        ("chat", "qwen", {}, {}),
        ("chat", "bge-m3", {}, {"architectures": ["Qwen2ForCausalLM"]}),
        ("embedding", "m3", {}, {"architectures": ["XLMRobertaModel"]}),
        ("rerank", "m3", {}, {"architectures": ["XLMRobertaForSequenceClassification"]}),
        ("embedding", "m3", {}, {"general.architecture": "nomic-bert"}),
        ("chat", "m3", {}, {"general.architecture": "llama"}),
        ("embedding", "all-minilm", {}, {}),
        ("rerank", "m3", {"weights": "/w/bge-reranker-large"}, {}),
        ("rerank", "m3", {"args": {"reranking": True}}, {}),
        ("embedding", "m3", {"args": {"embeddings": True}}, {"general.architecture": "llama"}),
        ("embedding", "m3", {"args": {"convert": "embed"}}, {}),
        # like facebook/opt-125m: vLLM answers a chat with 400, "no chat template"
        ("completion", "opt", VLLM, {"architectures": ["OPTForCausalLM"], "chat_template": False}),
        ("completion", "own", VLLM, {"architectures": ["Own"], "chat_template": False}),
        ("chat", "opt", {**VLLM, "args": {"chat_template": "/w/own.jinja"}}, {"chat_template": False}),
        ("chat", "opt", VLLM, {"architectures": ["OPTForCausalLM"], "chat_template": True}),
        ("chat", "opt", VLLM, {}),
        ("embedding", "m3", VLLM, {"architectures": ["XLMRobertaModel"], "chat_template": False}),
        ("embedding", "m3", {**TEI, "weights": "/w/m"}, {}),
        ("embedding", "m3", TEI, {"architectures": ["Qwen2ForCausalLM"], "chat_template": True}),
        ("rerank", "m3", TEI, {"architectures": ["XLMRobertaForSequenceClassification"]}),
        # llama.cpp accepts a template of its own, and llama-cpp-python adds one
        ("chat", "saiga", {}, {"general.architecture": "llama", "chat_template": False}),
    ],
)
def test_finds_kind_of_model(kind: Kind, key: str, fields: dict[str, Any], config: dict[str, Any]) -> None:
    model = Model.model_validate({**ALPHA, "weights": "/w/a.gguf", **fields})
    assert kind_of(key, model, Header("s", config=config) if config else None) == kind


def test_model_without_chat_template_gets_completion_request() -> None:
    lab = check_fleet({"gpu1": [{"models": {"opt": {**LAN, **VLLM, "weights": "/w/opt", "gpus": [0]}}}]})
    (one,) = public_endpoints(lab, {"gpu1": {"/w/opt": Header("s", config={"chat_template": False})}})
    words = shlex.split(one.curl)
    assert (one.kind, words[1]) == ("completion", "http://gpu1:8000/v1/completions")
    assert json.loads(words[-1]) == {"model": "opt", "prompt": "Once upon a time"}


def test_prints_markdown(lab: dict[str, Host]) -> None:
    text = markdown(public_endpoints(lab, {}))
    assert text.startswith("| name | kind | address | engine | runs on |\n|---|---|---|---|---|\n| alpha | chat |")
    assert "\n```sh\nexport KEY=…   # your API key\ncurl http://gpu1:4000/v1/" in text
    assert "export" not in markdown([PublicEndpoint("page", "web page", "http://a", "custom", ("a",), "", False, "")])


def test_command_prints_table(tmp_path: Path) -> None:
    inventory = tmp_path / "lab.py"
    inventory.write_text(f"lab = {([('gpu1', {'models': {'alpha': LAN}})], {})!r}\n")
    table = CliRunner().invoke(main, ["endpoints", str(inventory)])
    assert (table.exit_code, table.output.split()[5:10]) == (
        0,
        ["ON", "alpha", "chat", "http://gpu1:8000/v1", "llama.cpp"],
    )
    data = json.loads(CliRunner().invoke(main, ["endpoints", str(inventory), "--json"]).output)
    assert [one["name"] for one in data] == ["alpha"]
    assert CliRunner().invoke(main, ["endpoints", str(inventory), "--markdown"]).output.startswith("| name |")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("lab = (['gpu1'], {'models': 5})\n")
    assert CliRunner().invoke(main, ["endpoints", str(wrong)]).exit_code == 2


def test_keeps_addresses_whole_in_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    model = "{engine: llama.cpp, version: b7000, weights: /w/a.gguf, gpus: [], port: 8000, bind: lan}"
    name = "a-name-that-is-as-long-as-names-of-models-are"
    (tmp_path / "lab.yaml").write_text(f"hosts: {{gpu1.lab.uni.example: {{models: {{{name}: {model}}}}}}}\n")
    done = CliRunner(env={"COLUMNS": "60"}).invoke(main, ["endpoints", str(tmp_path / "lab.yaml")])
    assert f"{name}  chat  http://gpu1.lab.uni.example:8000/v1" in done.output


def test_needs_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For cron; `gpurack plan` reports missing keys."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    inventory = tmp_path / "lab.py"
    model = {**LAN, "api_key": {"env": "NO_SUCH_KEY"}}
    inventory.write_text(f"lab = {([('gpu1', {'models': {'alpha': model}})], {})!r}\n")
    assert CliRunner().invoke(main, ["endpoints", str(inventory)]).exit_code == 0
    assert CliRunner().invoke(main, ["plan", str(inventory)]).exit_code == 2
