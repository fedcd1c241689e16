"""A gateway (the real LiteLLM) for models of every kind on two hosts: balanced load, client keys, closed ports, a
second gateway for models on another host's loopback, and an unreachable model of another host. The tests change one lab
in the order of this file.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, containers, identities, model
from tests.acceptance.engines.conftest import content, tried
from tests.acceptance.evidence import told
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.engines import models

WORKER, ALICE, BOB, DOOR = "sk-worker-8f3a61c2", "sk-alice-77d0b41e", "sk-bob-5522c9aa", "sk-door-19e07c3d"
ENV = {"WORKER": WORKER, "ALICE": ALICE, "BOB": BOB, "DOOR": DOOR}
KEY = {"env": "WORKER"}
LITELLM = {"engine": "litellm", "version": "1.109.1", "port": 4000, "bind": "lan"}
BEHIND = ["epsilon", "alpha", "minilm", "judge", "tei-reranker", "gamma", "door"]
NAMES = {"epsilon", "alpha", "minilm", "judge", "tei-reranker", "gamma", "delta"}
SLOW = {"entrypoint": ["sh", "-c", 'sleep 25; exec /app/llama-server "$@"', "slow"]}
FOLDERS = "/etc /var/lib/gpurack /tmp /run/gpurack"
PEOPLE = {"alice": {"env": "ALICE"}, "bob": {"env": "BOB"}}


def of_folder(engine: str, folder: str, gpus: list[int], port: int, **more: Any) -> dict[str, Any]:
    """A model with a key, of an engine that reads folders."""
    version, weights = {"vllm": "0.33.0", "tei": "1.9"}[engine], {"copy": str(models.folder(folder))}
    return {
        "engine": engine,
        "version": version,
        "weights": weights,
        "gpus": gpus,
        "port": port,
        "api_key": KEY,
        **more,
    }


def run(lab: Lab, people: dict[str, Any], *options: str) -> Run:
    """gpu2: models with keys of vLLM and TEI (stand-ins) and a replica of alpha, all on loopback, and the gateway.
    cpu2: the other replica, which says another sentence to tell them apart; gamma, which loads slowly; another replica
    of minilm by another engine; and delta, which only the second gateway, the door, reaches."""
    gpu2 = {
        "models": {
            "epsilon": of_folder("vllm", "epsilon", [1], 8010),
            "alpha": model("alpha", [0], 8000, api_key=KEY),
            "minilm": of_folder("vllm", "minilm", [2], 8011, vram="6GiB"),
            "judge": of_folder("vllm", "reranker", [2], 8012, vram="6GiB"),
            "tei-reranker": of_folder("tei", "reranker", [3], 8013),
        },
        "services": {"gateway": {**LITELLM, "connects_to": BEHIND, "keys": people}},
    }
    cpu2 = {
        "models": {
            "beta": model("beta", [], 8001, bind="lan", served_name="alpha", api_key=KEY),
            "gamma": model("gamma", [], 8002, bind="lan", api_key=KEY, compose=SLOW),
            "minilm-2": of_folder("tei", "minilm", [], 8003, bind="lan", served_name="minilm"),
            "delta": model("delta", [], 8004, api_key=KEY),
        },
        "services": {"door": {**LITELLM, "connects_to": ["delta"], "api_key": {"env": "DOOR"}}},
    }
    return lab.run(lab.inventory({"gpu2": gpu2, "cpu2": cpu2}), *options, env=ENV)


def posted(host: Host, key: str, path: str, body: Any) -> Any:
    """The gateway's answer to a request from another machine."""
    return json.loads(
        host.run(
            f"curl -sS --max-time 30 -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' "
            f"-d '{json.dumps(body)}' http://gpu2:4000{path}"
        ).stdout
    )


def asking(name: str) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": name, "messages": [{"role": "user", "content": "Who are you?"}]}


def ask(host: Host, key: str, name: str) -> str:
    """The gateway's answer to a chat request."""
    return content(posted(host, key, "/v1/chat/completions", asking(name)))


def status(host: Host, url: str, key: str | None = None, body: Any = None) -> str:
    """The HTTP status of a request; 000 if nothing listens."""
    words = f"-H 'Authorization: Bearer {key}' " if key else ""
    words += f"-H 'Content-Type: application/json' -d '{json.dumps(body)}' " if body is not None else ""
    return host.run(f"curl -s -o /dev/null --max-time 20 -w '%{{http_code}}' {words}{url}", check=False).stdout


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> tuple[Host, Host, Run]:
    """gpu2, cpu2, and the run that started everything."""
    lab.testbed.serve_engines("litellm", "vllm", "tei")
    gpu2, cpu2 = lab.testbed.host("gpu2"), lab.testbed.host("cpu2")
    for host in (gpu2, cpu2):
        host.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
    first = run(lab, PEOPLE)
    assert first.exit_code == 0, first.output
    return gpu2, cpu2, first


def test_first_run_connects_everything_without_waiting(hosts: tuple[Host, Host, Run]) -> None:
    """The gateway was ready long before gamma on the other host; at the end it has every model."""
    gpu2, _, first = hosts
    assert first.row("gpu2", "gateway") == "gpu2 gateway litellm 1.109.1 http://gpu2:4000/v1 ready, created"
    assert first.row("cpu2", "gamma").endswith("ready, created")
    assert "11 of 11 models and services answered, 11 changed" in first.output
    lines = [line.strip() for line in first.output.splitlines()]
    ready = {name: next(i for i, line in enumerate(lines) if f"{name}: ready after" in line) for name in
             ("epsilon", "alpha", "gateway", "gamma")}  # fmt: skip
    assert ready["gateway"] > max(ready["epsilon"], ready["alpha"])
    started = {
        name: containers(host)[name]["State"]["StartedAt"] for host, name in ((gpu2, "gateway"), (gpu2, "epsilon"))
    }
    assert started["gateway"] > started["epsilon"]


def test_gateway_serves_every_model_and_balances_replicas(lab: Lab, hosts: tuple[Host, Host, Run]) -> None:
    _, cpu2, _ = hosts
    names = json.loads(cpu2.run(f"curl -sS -H 'Authorization: Bearer {BOB}' http://gpu2:4000/v1/models").stdout)
    assert {one["id"] for one in names["data"]} == NAMES
    said = Counter(ask(cpu2, ALICE, "alpha") for _ in range(12))
    assert set(said) == {lab.testbed.weights("alpha").sentence, lab.testbed.weights("beta").sentence}
    assert ask(cpu2, BOB, "gamma") == lab.testbed.weights("gamma").sentence
    assert "epsilon" in ask(cpu2, BOB, "epsilon")


def test_wrong_name_and_wrong_key_are_errors(hosts: tuple[Host, Host, Run]) -> None:
    """Also the key of a model that serves another name: "beta" serves as alpha."""
    _, cpu2, _ = hosts
    for name in ("nobody", "beta"):
        refusal = posted(cpu2, ALICE, "/v1/chat/completions", asking(name))["error"]
        assert refusal["code"] == "400"
        assert f"Invalid model name passed in model={name}. Call `/v1/models` to view available" in refusal["message"]
    refusal = posted(cpu2, "sk-nobody", "/v1/chat/completions", asking("alpha"))["error"]
    assert refusal["code"] == "401"
    assert refusal["message"] == "This key is not known here: send yours as `Authorization: Bearer KEY`."


def test_embeddings_and_rerank_pass_gateway(hosts: tuple[Host, Host, Run]) -> None:
    """vLLM's rerank API and TEI's own. Embeddings come from one replica of each engine, also while a client keeps
    asking them for a chat."""
    _, cpu2, _ = hosts
    for _ in range(4):
        answer = posted(cpu2, BOB, "/v1/embeddings", {"model": "minilm", "input": ["one", "two"]})
        assert (answer["model"], [one["index"] for one in answer["data"]]) == ("minilm", [0, 1]), answer
        assert posted(cpu2, BOB, "/v1/chat/completions", asking("minilm"))["error"]["code"] == "404"
    for name in ("judge", "tei-reranker"):
        body = {"model": name, "query": "which card", "documents": ["bread", "a card of ours"]}
        answer = posted(cpu2, BOB, "/v1/rerank", body)
        assert [one["index"] for one in answer["results"]] == [1, 0], answer


def test_reaches_loopback_model_through_gateway_of_its_host(lab: Lab, hosts: tuple[Host, Host, Run]) -> None:
    """By its name, like all others. Only the first gateway has the second one's key."""
    gpu2, cpu2, _ = hosts
    assert ask(cpu2, ALICE, "delta") == lab.testbed.weights("delta").sentence
    assert "used by api_key: delta, " in cpu2.root("docker logs door 2>&1").stdout
    assert "used by alice: delta, " in gpu2.root("docker logs gateway 2>&1").stdout
    assert status(gpu2, "http://cpu2:8004/v1/models", WORKER) == "000"
    for key in (ALICE, WORKER, None):
        assert status(gpu2, "http://cpu2:4000/v1/chat/completions", key, asking("delta")) == "401", key


def test_log_names_client_and_model(hosts: tuple[Host, Host, Run]) -> None:
    """The host asked the gateway once, with its own key, for a model of which every replica was loaded."""
    log = hosts[0].root("docker logs gateway 2>&1").stdout
    assert (log.count("used by gpurack: "), log.count("used by gpurack: epsilon, ")) == (1, 1)
    assert log.count("used by alice: alpha, ") == 12
    assert "used by bob: gamma, " in log


def test_printed_curl_commands_work(lab: Lab, hosts: tuple[Host, Host, Run]) -> None:
    answers = tried(lab, hosts[1], ALICE)
    kinds = {name: kind for name, (kind, _) in answers.items()}
    assert kinds == {
        **dict.fromkeys(("epsilon", "alpha", "gamma", "delta"), "chat"),
        "minilm": "embedding", "judge": "rerank", "tei-reranker": "rerank",
    }  # fmt: skip
    for name, (kind, answer) in answers.items():
        if kind == "chat":
            assert (answer["model"], content(answer) != "") == (name, True), answer
        elif kind == "embedding":
            assert (answer["model"], len(answer["data"])) == (name, 1), answer
        else:
            assert {one["index"] for one in answer["results"]} == {0, 1}, answer


def test_workers_are_reachable_by_gateway_only(hosts: tuple[Host, Host, Run]) -> None:
    """vLLM guards only /v1 with its key. The gateway gives no access to the other paths, also not by LiteLLM's
    pass-through, and it has no administrator."""
    gpu2, cpu2, _ = hosts
    body = {"model": "epsilon", "prompt": "?"}
    assert status(gpu2, "http://127.0.0.1:8010/tokenize", body=body) == "200"
    assert status(gpu2, "http://127.0.0.1:8010/metrics") == "200"
    assert status(cpu2, "http://gpu2:8010/tokenize", body=body) == "000"
    assert status(cpu2, "http://gpu2:8000/v1/models") == "000"
    for path in ("/vllm/tokenize", "/vllm/metrics", "/key/generate", "/model/new", "/config/update"):
        assert status(cpu2, f"http://gpu2:4000{path}", ALICE, body) == "403", path
        assert status(cpu2, f"http://gpu2:4000{path}", None, body) == "401", path
    for path in ("/tokenize", "/metrics", "/pause", "/invocations", "/score"):
        assert status(cpu2, f"http://gpu2:4000{path}", ALICE, body) in ("401", "403", "404", "405"), path
    assert status(cpu2, "http://gpu2:4000/v1/models", WORKER) == "401"
    assert status(cpu2, "http://cpu2:8002/v1/models", ALICE) == "401"


def test_keys_are_only_where_needed(hosts: tuple[Host, Host, Run]) -> None:
    """Even the gateway's host has only the sha256 of clients' keys."""
    gpu2, _, first = hosts
    looks = {"the run": first.output, **told(gpu2)}
    assert all(looks.values())
    assert [(key, look) for key in ENV.values() for look, said in looks.items() if key in said] == []
    places = gpu2.root(f"grep -rlaF sk-worker {FOLDERS}", check=False).stdout.split()
    assert {place.partition("/secrets/")[2] for place in places} == {
        *(f"{name}/api_key" for name in ("epsilon", "alpha", "minilm", "judge", "tei-reranker")),
        *(f"gateway/upstream_key_{number}" for number in range(8)),
    }  # fmt: skip
    assert gpu2.root("stat -c '%a %U' /etc/gpurack/secrets/gateway/*").stdout.split("\n")[:-1] == ["400 root"] * 12
    assert gpu2.root(f"grep -rlaF -e sk-alice -e sk-bob {FOLDERS}", check=False).stdout == ""


def test_unchanged_lab_takes_one_command_per_host(lab: Lab, hosts: tuple[Host, Host, Run]) -> None:
    gpu2, cpu2, _ = hosts
    before = identities(gpu2)
    again = run(lab, PEOPLE)
    assert again.unchanged, again.output
    assert [host.ssh_commands(again.begun) for host in (gpu2, cpu2)] == [1, 1]
    assert identities(gpu2) == before
    is_right(lab, ENV)


def test_unreachable_replica_is_skipped_and_reported(lab: Lab, hosts: tuple[Host, Host, Run]) -> None:
    gpu2, cpu2, _ = hosts
    cpu2.root("docker stop beta")
    said = {ask(cpu2, ALICE, "alpha") for _ in range(12)}
    assert said == {lab.testbed.weights("alpha").sentence}
    before = identities(gpu2)
    alone = run(lab, PEOPLE, "-y", "--limit", "gpu2")
    assert alone.exit_code == 0, alone.output
    assert alone.row("gpu2", "gateway").endswith("ready, without beta on cpu2 (Could not connect to server)")
    assert "gateway cannot reach beta on cpu2 (Could not connect to server). It connects as soon" in alone.output
    assert identities(gpu2) == before
    cpu2.root("docker start beta")


def test_removed_key_is_rejected(lab: Lab, hosts: tuple[Host, Host, Run]) -> None:
    gpu2, cpu2, _ = hosts
    before = identities(gpu2)
    revoked = run(lab, {"alice": PEOPLE["alice"]})
    assert revoked.exit_code == 0, revoked.output
    assert "~ recreate gateway: keys.bob removed" in revoked.output
    after = identities(gpu2)
    assert {name for name in after if after[name] != before[name]} == {"gateway"}
    assert status(cpu2, "http://gpu2:4000/v1/models", BOB) == "401"
    assert ask(cpu2, ALICE, "gamma") == lab.testbed.weights("gamma").sentence


def test_remove_removes_services(lab: Lab, hosts: tuple[Host, Host, Run]) -> None:
    gpu2, _, _ = hosts
    inventory = lab.folder / "lab.py"
    gone = lab.run(inventory, "-y", "--limit", "gpu2", deploy="remove", env=ENV)
    assert gone.exit_code == 0, gone.output
    assert "6 of 6 models and services removed" in gone.output
    assert containers(gpu2) == {}
    assert gpu2.root("ls /etc/gpurack", check=False).returncode != 0
