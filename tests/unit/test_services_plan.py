"""Services in the plan of a host: connections, start order, files, and other hosts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from gpurack import paths
from gpurack.commands.endpoints import public_endpoints
from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import script
from gpurack.inventory.fleet import check_fleet
from gpurack.inventory.secrets import read_secrets
from gpurack.plan import runner
from gpurack.plan.models import neighbours
from gpurack.plan.models.desired import desire
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.questions import questions
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError
from tests.given import host_state, models_plan, running

MODEL: dict[str, Any] = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf"}
GATEWAY: dict[str, Any] = {"engine": "litellm", "version": "1.109.1", "port": 4000, "connects_to": "all"}
CHAT: dict[str, Any] = {"engine": "open-webui", "version": "0.12.4", "port": 3000, "connects_to": ["gateway"]}
KEYS = {"WORKER": "sk-worker", "ALICE": "sk-alice", "BOB": "sk-bob", "PAGE": "sk-page"}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def key(name: str) -> dict[str, str]:
    return {"env": name}


def lab(**gateway: Any) -> dict[str, Host]:
    """Two hosts: gateway and web UI on gpu1, a model with a key on each."""
    return check_fleet(
        {
            "gpu1": [
                {
                    "models": {"near": {**MODEL, "port": 8000, "api_key": key("WORKER")}},
                    "services": {"chat": CHAT, "gateway": {**GATEWAY, "keys": {"chat": key("PAGE")}, **gateway}},
                }
            ],
            "gpu2": [{"models": {"far": {**MODEL, "port": 8000, "bind": "lan", "api_key": key("WORKER")}}}],
        }
    )


def plan(spec: Host, **said: Any) -> ModelsPlan:
    return models_plan(spec, host_state(**{"weights": {"/w/a.gguf": 1}, **said}), read_secrets(spec))


def as_it_runs(spec: Host, **said: Any) -> HostFacts:
    """The host when everything runs, without compose.yaml and the runner."""
    bare = host_state(**said)
    secrets = read_secrets(spec)
    return host_state(
        **said,
        weights={"/w/a.gguf": 1},
        containers=[running(spec, name, bare, secrets=secrets.get(name, {})) for name in spec.entries],
        probes={name: [200, '"near"'] for name in spec.entries},
    )


def reasons(spec: Host, facts: HostFacts) -> dict[str, list[str]]:
    found = models_plan(spec, facts, read_secrets(spec))
    return {change.model: list(change.reasons) for change in found.changes if change.action != "keep"}


def test_services_start_after_their_connections() -> None:
    found = plan(lab()["gpu1"])
    assert found.job
    entries = {model["name"]: model for group in found.job["batches"] for model in group}
    assert {name: model.get("after") for name, model in entries.items()} == {
        "near": None, "gateway": ["near"], "chat": ["gateway"],
    }  # fmt: skip
    assert entries["gateway"]["url"] == "http://127.0.0.1:4000/health/readiness"


def test_gateway_is_tested_by_requests_of_its_models() -> None:
    """As its host reaches each model. The payload has paths of keys, no keys. A web UI is not tested."""
    found = plan(lab()["gpu1"])
    assert found.job
    entries = {model["name"]: model for group in found.job["batches"] for model in group}
    told = entries["gateway"]["gateway"]
    assert told["key"] == "/dev/shm/gpurack_key"
    assert [(other["serves"], other["url"], other["key"]) for other in told["behind"]] == [
        (["near"], "http://127.0.0.1:8000/v1/models", "/etc/gpurack/secrets/gateway/upstream_key_0"),
        (["far"], "http://gpu2:8000/v1/models", "/etc/gpurack/secrets/gateway/upstream_key_1"),
    ]
    assert [other["requests"][0][1]["model"] for other in told["behind"]] == ["near", "far"]
    assert {name for name, model in entries.items() if "gateway" in model} == {"gateway"}


def test_group_starts_models_then_gateways_then_pages() -> None:
    """Each has the port of another, so they stop and start together."""
    host = lab()["gpu1"]
    moved = check_fleet(
        {"gpu1": [{"models": {"near": {**MODEL, "port": 3000}},
                   "services": {"chat": {**CHAT, "port": 4000}, "gateway": {**GATEWAY, "port": 8000}}}]}
    )["gpu1"]  # fmt: skip
    found = models_plan(moved, as_it_runs(host), read_secrets(moved))
    assert found.job
    assert [[model["name"] for model in group] for group in found.job["batches"]] == [["near", "gateway", "chat"]]


def test_gateway_files_have_keys_of_models_and_digests_of_clients() -> None:
    """The keys of the models behind it and the sha256 of clients' keys, all in its own folder."""
    found = plan(lab(keys={"alice": key("ALICE"), "chat": key("PAGE")})["gpu1"])
    assert found.job
    project = found.job["projects"][""]
    files = project["files"]["gateway"]
    assert files["upstream_key_0"] == files["upstream_key_1"] == "sk-worker\n"
    sums = {
        who: hashlib.sha256(KEYS[name].encode()).hexdigest() for who, name in (("alice", "ALICE"), ("chat", "PAGE"))
    }
    assert json.loads(files["keys"]) == sums
    assert set(files) == {"upstream_key_0", "upstream_key_1", "keys", "litellm.yaml", "gateway.py"}
    assert project["files"]["chat"] == {"upstream_key_0": "sk-page\n"}
    rest = json.dumps({**found.job, "projects": {"": {k: v for k, v in project.items() if k != "files"}}})
    assert not any(value in rest for value in KEYS.values())
    for file in files:
        assert f'"{paths.container_file("", "gateway", file)}"' in "".join(
            project["services"]["gateway"]["secrets"].values()
        )


def test_keeps_unchanged_services() -> None:
    host = lab()["gpu1"]
    assert reasons(host, as_it_runs(host, names={"gpu2": "10.0.0.9"})) == {}


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({"alice": "ALICE"}, {}, "keys.alice removed"),
        ({}, {"alice": "ALICE"}, "keys.alice added"),
        ({"alice": "ALICE"}, {"alice": "BOB"}, "keys.alice changed"),
    ],
)
def test_changed_client_key_recreates_gateway_only(before: dict[str, str], after: dict[str, str], why: str) -> None:
    old, new = (
        lab(keys={"chat": key("PAGE"), **{who: key(name) for who, name in people.items()}})["gpu1"]
        for people in (before, after)
    )
    assert reasons(new, as_it_runs(old)) == {"gateway": [why]}


def test_changed_key_of_model_recreates_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    state = as_it_runs(lab()["gpu1"])
    monkeypatch.setenv("WORKER", "sk-rotated")
    assert reasons(lab()["gpu1"], state) == {
        "near": ["api_key changed"],
        "gateway": ["upstream_keys.far on gpu2 changed", "upstream_keys.near changed"],
    }


def test_names_changed_connections() -> None:
    state, fleet = as_it_runs(lab()["gpu1"]), lab(connects_to=["near"])
    assert reasons(fleet["gpu1"], state)["gateway"][0] == 'connects_to ["near", "far on gpu2"] → ["near"]'


def test_removes_services_missing_in_inventory() -> None:
    found = models_plan(check_fleet({"gpu1": [{"models": {}}]})["gpu1"], as_it_runs(lab()["gpu1"]))
    assert {change.model: change.action for change in found.changes} == dict.fromkeys(
        ("near", "gateway", "chat"), "remove"
    )


def test_gateway_behind_gateway_serves_its_models() -> None:
    """So models of another host can stay on loopback; the first gateway has the key of the second."""
    door = {**GATEWAY, "bind": "lan", "api_key": key("PAGE")}
    fleet = check_fleet(
        {
            "gpu1": [{"services": {"gateway": {**GATEWAY, "connects_to": ["door"]}}}],
            "gpu2": [{"models": {"far": {**MODEL, "port": 8000, "served_name": "qwen"}}, "services": {"door": door}}],
        }
    )
    config = desire("gateway", fleet["gpu1"], host_state(), ()).container.files["/etc/gpurack/litellm.yaml"]
    assert "model_name: qwen\n" in config
    assert "api_base: http://gpu2:4000/v1\n" in config
    assert read_secrets(fleet["gpu1"]) == {"gateway": {"upstream_key_0": "sk-page"}}
    shown = check_fleet(
        {
            "gpu1": [{"services": {"gateway": {**GATEWAY, "bind": "lan", "connects_to": ["door"]}}}],
            "gpu2": [{"models": {"far": {**MODEL, "port": 8000, "served_name": "qwen"}}, "services": {"door": door}}],
        }
    )
    assert [(one.name, one.address) for one in public_endpoints(shown, {})] == [("qwen", "http://gpu1:4000/v1")]


# --- other hosts -----------------------------------------------------------------------------------------------------


def test_container_resolves_other_hosts_like_its_host() -> None:
    host = lab()["gpu1"]
    facts = host_state(names={"gpu2": "10.0.0.9"})
    assert desire("gateway", host, facts, ()).service["extra_hosts"] == ["gpu2:10.0.0.9"]
    assert "extra_hosts" not in desire("chat", host, facts, ()).service
    moved = as_it_runs(host, names={"gpu2": "10.0.0.8"})
    assert reasons(host, moved) == {}
    changed = as_it_runs(host, names={"gpu2": "10.0.0.9"})
    assert reasons(host, host_state(**{**vars_of(changed), "names": {"gpu2": "10.0.0.8"}})) == {
        "gateway": ["hosts.gpu2 10.0.0.9 → 10.0.0.8"]
    }
    assert reasons(host, host_state(**{**vars_of(changed), "names": {}})) == {}, (
        "a name server that is down moves nothing"
    )


def vars_of(facts: HostFacts) -> dict[str, Any]:
    return {
        "weights": facts.weights, "containers": facts.containers,
        "probes": {"/".join(key): [probe.status, probe.body] for key, probe in facts.probes.items()},
    }  # fmt: skip


def test_snapshot_asks_connections_on_other_hosts() -> None:
    host = lab()["gpu1"]
    assert neighbours.names(host) == ["gpu2"]
    row = ("", "gateway", 1, "/etc/gpurack/secrets/gateway/upstream_key_1", "http://gpu2:8000/v1/models")
    assert questions(host).upstreams == (row,)
    assert f"UPSTREAMS='{'|'.join(map(str, row))}'\n" in script(questions(host))
    assert list(neighbours.far(lab()["gpu2"])) == []


def test_running_service_reports_silent_connection() -> None:
    host = lab()["gpu1"]
    why = {("", "gateway", 1): "Connection refused"}
    assert neighbours.unreached(Observed("gateway", host, host_state(upstreams=why))) == []
    up = as_it_runs(host, upstreams=why)
    assert neighbours.unreached(Observed("gateway", host, up)) == ["far on gpu2 (Connection refused)"]
    assert neighbours.unreached(Observed("gateway", host, as_it_runs(host, upstreams={("", "gateway", 1): ""}))) == []


def shared() -> Host:
    """One host: a gateway in its own Docker, for one model there and one in ada's; and a gateway of ada's for both."""
    models = {
        "hers": {**MODEL, "port": 8000, "bind": "lan", "user": "ada", "api_key": key("WORKER")},
        "near": {**MODEL, "port": 8001, "bind": "lan", "api_key": key("WORKER")},
    }
    services = {"gateway": GATEWAY, "own": {**GATEWAY, "port": 4001, "user": "ada"}}
    host = {"docker": {"rootless": {"ada": {}}}, "models": models, "services": services}
    return check_fleet({"gpu1": [host]})["gpu1"]


def test_gateway_payload_names_docker_of_each_model() -> None:
    """With the published address of the container; models in its own Docker first. Keys remain its own copies."""
    host, state = shared(), host_state(weights={"/w/a.gguf": 1})
    told = {name: runner.gateway(desire(name, host, state, ()), name, state)["behind"] for name in host.services}
    folder = {name: paths.container_file(host.services[name].dockerd, name, "upstream_key_") for name in told}
    assert {name: [(o["user"], o["name"], o["url"], o["key"]) for o in behind] for name, behind in told.items()} == {
        "gateway": [("", "near", "http://10.0.0.7:8001/v1/models", folder["gateway"] + "1"),
                    ("ada", "hers", "http://10.0.0.7:8000/v1/models", folder["gateway"] + "0")],
        "own": [("ada", "hers", "http://10.0.0.7:8000/v1/models", folder["own"] + "0"),
                ("", "near", "http://10.0.0.7:8001/v1/models", folder["own"] + "1")],
    }  # fmt: skip
    other = lab()["gpu1"]
    far = runner.gateway(desire("gateway", other, state, ()), "gateway", state)["behind"][1]
    assert (far["serves"], "user" in far, "name" in far) == (["far"], False, False)


def test_snapshot_sends_no_key_to_connections_on_same_host() -> None:
    """Each model is asked itself, as its user and only while it runs. Its answer counts for the service."""
    host = shared()
    assert list(neighbours.questions(host)) == []
    bare = host_state()
    up = [running(host, name, bare, user=host.entries[name].dockerd) for name in host.entries]
    said = {"gateway": [200, ""], "ada/own": [200, ""], "near": [200, ""]}

    def without(status: str, **probes: Any) -> dict[str, list[str]]:
        containers = [replace(one, status=status) if one.name == "hers" else one for one in up]
        facts = host_state(containers=containers, probes={**said, **probes})
        return {name: neighbours.unreached(Observed(name, host, facts)) for name in host.services}

    assert without("running", **{"ada/hers": [200, ""]}) == {"gateway": [], "own": []}
    assert without("running", **{"ada/hers": [401, ""]})["gateway"] == ["hers on gpu1 (refuses the key)"]
    assert without("running", **{"ada/hers": [0, "curl: (7) x"]})["gateway"] == ["hers on gpu1 (no answer)"]
    assert without("exited")["gateway"] == ["hers on gpu1 (its container does not run)"]
    assert without("exited")["own"] == []


# --- what cannot be --------------------------------------------------------------------------------------------------


def refused(gpu1: dict[str, Any], **others: dict[str, Any]) -> list[str]:
    with pytest.raises(InventoryError) as error:
        check_fleet({"gpu1": [gpu1], **{name: [data] for name, data in others.items()}})
    return [str(problem) for problem in error.value.problems]


@pytest.mark.parametrize("bind", ["loopback", "127.0.0.1", "::1"])
def test_refuses_loopback_model_of_other_host(bind: str) -> None:
    assert refused(
        {"services": {"gateway": {**GATEWAY, "connects_to": ["far"]}}},
        gpu2={"models": {"far": {**MODEL, "port": 8000, "bind": bind}}},
    ) == [
        'gpu1 services.gateway.connects_to: far on gpu2 is bound to loopback, so gpu1 cannot reach it. Give it bind: '
        '"lan".'
    ]  # fmt: skip


def test_requires_own_key_for_page_of_keyed_models() -> None:
    models = {"near": {**MODEL, "port": 8000}}
    gateway = {**GATEWAY, "keys": {"alice": key("ALICE")}}
    assert refused({"models": models, "services": {"gateway": gateway, "chat": CHAT}}) == [
        'gpu1 services.chat.connects_to: gateway has keys, but none for chat. Add "chat" to its keys, or give it an '
        "api_key."
    ]


def test_refuses_same_key_for_two_clients() -> None:
    gateway = {**GATEWAY, "keys": {"alice": key("ALICE"), "bob": key("ALICE")}}
    assert refused({"models": {"near": {**MODEL, "port": 8000}}, "services": {"gateway": gateway}}) == [
        "gpu1 services.gateway.keys.bob: is the same key as keys.alice. Give each its own key."
    ]


def test_refuses_keys_of_models() -> None:
    assert refused({"models": {"near": {**MODEL, "port": 8000, "keys": {"alice": key("ALICE")}}}}) == [
        "gpu1 models.near.keys: `keys` has no effect on llama.cpp. Only litellm (a key for each client) and "
        "open-webui (its first account) have `keys`. Use `api_key`, or put a gateway in front."
    ]
