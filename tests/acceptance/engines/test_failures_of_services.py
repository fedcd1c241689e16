"""Failing gateways, web UIs and custom images, in one run, beside healthy ones that continue. LiteLLM, Open WebUI and
llama.cpp (as `custom`) are real; llama-gpt's page is a stand-in.
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
    ENDED,
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
    SHORT_WAIT,
    SILENT,
    Case,
    ends_as,
    entry_of,
    hold,
    never_ready,
    sentence,
)
from tests.acceptance.evidence import told
from tests.testbed import Host
from tests.testbed.services import WEIGHTS

ALICE, ADMIN = "sk-alice-51c09e7d", "admin@uni.example"
ENV = {"KEY": KEY, "ALICE": ALICE}
FOLDER = "/data/failures"
SERVICES: dict[str, dict[str, Any]] = {
    "litellm": {"engine": "litellm", "version": "1.109.1", "connects_to": ["alpha"], "api_key": {"env": "ALICE"}},
    "open-webui": {
        "engine": "open-webui", "version": "0.12.4", "connects_to": ["alpha"], "keys": {ADMIN: {"env": "ALICE"}},
    },
    "llama-gpt": {"engine": "llama-gpt", "connects_to": ["alpha"]},
}  # fmt: skip
NEIGHBOURS = ("alpha", "own", "gateway", "old-page")
DATABASE = "It cannot use a database that `env` names. Correct DATABASE_URL, REDIS_URL or VECTOR_DB, or remove it"
NO_ANSWER = "The model that it connects to does not answer. Check that model, and whether `env` names another address."
ABSENT = f"{FOLDER}/absent.gguf"
NO_DATABASE = {"env": {"DATABASE_URL": "nonsense"}}


def own(model: str = "beta", compose: dict[str, Any] | None = None, **args: Any) -> dict[str, Any]:
    """A llama.cpp as engine `custom`; fields: differences from a good entry."""
    place = {"host": "0.0.0.0", "port": 8080, "alias": "own"}
    return {
        "engine": "custom", "image": "ghcr.io/ggml-org/llama.cpp:server-b7000", "gpus": [],
        "weights": f"{FOLDER}/{model}.gguf", "args": {"model": f"/weights/{model}.gguf", **place, **args},
        "compose": {"expose": ["8080"], "x-ready": "/v1/models", **(compose or {})},
    }  # fmt: skip


TOO_LONG = own(compose={"entrypoint": ["sh", "-c", LIMITED, "sh", "/app/llama-server"]}, **{"ctx-size": 1_000_000_000})
CASES: list[Case] = [
    ("litellm", "flag", FLAG, ENDED, ARGS),
    ("litellm", "value", {"args": {"num_workers": "many"}}, ENDED, ARGS),
    ("litellm", "database", NO_DATABASE, ENDED, DATABASE),
    ("open-webui", "database", NO_DATABASE, ENDED, DATABASE),
    ("open-webui", "vectors", {"env": {"VECTOR_DB": "nonsense"}}, ENDED, DATABASE),
    # two errors: of a failing model, and of the web UI that connects to it
    ("llama.cpp", "path", {"weights": ABSENT, "gpus": []}, f"weights {ABSENT} do not exist on the host. ", PATH),
    ("llama-gpt", "model", {"connects_to": ["llama-cpp-path"], "env": {"WAIT_TIMEOUT": "3"}}, ENDED, NO_ANSWER),
    ("llama-gpt", "address", {"env": {"OPENAI_API_HOST": "http://nowhere:8080"}}, ENDED, NO_ANSWER),
    ("custom", "path", own("absent"), f"weights {ABSENT} do not exist on the host. ", PATH),
    ("custom", "noise", own("noise"), ENDED, READ),
    ("custom", "flag", own(**{"no-such-flag": 1}), ENDED, ARGS),
    ("custom", "large", TOO_LONG, ENDED, MEMORY),
    (
        "custom", "key", {**own(), "env": {"LLAMA_API_KEY": OTHER}, **KEYED},
        "the server rejects the key in `api_key` (HTTP 401 at http://127.0.0.1:", API_KEY,
    ),
    *((engine, "port", own() if engine == "custom" else {}, HELD, PORT) for engine in (*SERVICES, "custom")),
]  # fmt: skip
IDS = [entry_of(case) for case in CASES]


def of(entries: dict[str, Any]) -> dict[str, Any]:
    """The data of a host with these models and services."""
    found: dict[str, Any] = {"models": {}, "services": {}}
    for name, entry in entries.items():
        found["services" if entry.get("engine") in SERVICES else "models"][name] = entry
    return found


def healthy() -> dict[str, Any]:
    return {
        "alpha": gguf("alpha", [], 8000, **KEYED),
        "own": {**own(), "port": 8001},
        "gateway": {**SERVICES["litellm"], "connects_to": ["alpha", "own"], "port": 4000},
        "old-page": {**SERVICES["llama-gpt"], "port": 3000},
    }


def bad() -> dict[str, Any]:
    """A failing model or service for each row."""
    return {
        entry_of(case): {**SERVICES.get(case[0], {}), **case[2], "port": 8100 + number}
        for number, case in enumerate(CASES)
    }


def deploy(
    lab: Lab,
    more: dict[str, Any],
    far: dict[str, Any] | None = None,
    *options: str,
    deploy: str = "gpu_host",
    **env: str,
) -> Run:
    """Deploy gpu2 with the healthy entries and `more`; cpu2 with `far`, if given. options: of pyinfra; env: keys."""
    hosts = {"gpu2": of({**healthy(), **more}), **({"cpu2": of(far)} if far is not None else {})}
    words = ("-y", *options)
    return lab.run(lab.inventory(hosts), *words, deploy=deploy, env={**ENV, **env}, timeout=400)


@pytest.fixture(scope="module")
def host(lab: Lab) -> Iterator[Host]:
    """gpu2, with the healthy entries."""
    lab.testbed.serve_engines(*SERVICES)
    host = lab.testbed.host("gpu2")
    for one in (host, lab.testbed.host("cpu2")):
        one.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
    host.root(f"rm -rf {FOLDER}; mkdir -p {FOLDER}; echo this is no model >{FOLDER}/noise.gguf")
    host.put((WEIGHTS / "beta.gguf").read_bytes(), f"{FOLDER}/beta.gguf")
    run = deploy(lab, {})
    assert run.exit_code == 0, run.output
    hold(host, [entry["port"] for name, entry in bad().items() if name.endswith("-port")])
    yield host
    host.root("systemctl stop holder")


@pytest.fixture(scope="module")
def run(lab: Lab, host: Host) -> Run:
    """One run with all failing entries."""
    before = identities(host)
    done = deploy(lab, bad())
    assert done.exit_code == 1, done.output
    assert not done.traceback, done.output
    untouched(host, before)
    return done


def untouched(host: Host, before: dict[str, tuple[str, str]]) -> None:
    """The healthy entries still have their containers."""
    after = identities(host)
    assert {name: after[name] for name in NEIGHBOURS} == {name: before[name] for name in NEIGHBOURS}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_failed_service_has_error_and_hint(run: Run, case: Case) -> None:
    ends_as(run, "gpu2", case)


def test_only_logs_of_failed_services_are_kept(run: Run, host: Host) -> None:
    assert set(containers(host)) == set(NEIGHBOURS)
    ended = [entry_of(case) for case in CASES if case[3] == ENDED]
    assert {f"{name}.failed.log" for name in ended} <= set(host.root("ls /var/lib/gpurack/logs/_").stdout.split())


def test_healthy_services_serve_and_no_key_shows(lab: Lab, run: Run, host: Host) -> None:
    looks = {"the run": run.output, **told(host)}
    shown = [(key, look) for key in (KEY, ALICE) for look, said in looks.items() if key in said]
    assert shown == []
    assert OTHER not in run.output  # (`env` of the inventory is always visible in docker inspect)
    for name in NEIGHBOURS:
        assert run.row("gpu2", name).endswith(" ready")
    assert chat(host, 8000, KEY) == lab.testbed.weights("alpha").sentence
    for name, served in (("alpha", "alpha"), ("own", "beta")):
        status, answer = post(host, 4000, "/v1/chat/completions", say(name), ALICE)
        assert (status, content(answer)) == (200, lab.testbed.weights(served).sentence)
    assert post(host, 3000, "/api/chat", say("")) == (200, lab.testbed.weights("alpha").sentence)


def test_service_that_never_gets_ready_has_error(lab: Lab, run: Run, host: Host, tmp_path: Path) -> None:
    """One of each engine, after half an hour, shortened here to fifteen seconds."""
    script = tmp_path / "short_wait.py"
    script.write_text(SHORT_WAIT)
    good = {**SERVICES, "custom": own()}
    silent = {
        name: {**good[name], "port": 8200 + number, "compose": {**good[name].get("compose", {}), **SILENT}}
        for number, name in enumerate(good)
    }
    before = identities(host)
    done = deploy(lab, silent, deploy=str(script))
    never_ready(done, "gpu2", {name: entry["port"] for name, entry in silent.items()})
    untouched(host, before)


def test_wrong_key_is_reported_for_model_and_service(lab: Lab, host: Host) -> None:
    """A service takes its model's key from the inventory. A model that requires another key fails, and is not left
    running. A rotated key of which only the services' host has heard is refused, and each service reports it. Clients
    get an error without any key."""
    locked = gguf("gamma", [], 8000, bind="lan", env={"LLAMA_API_KEY": OTHER})
    services = {
        f"{name}-key": {**entry, "connects_to": ["locked"], "port": 8300 + number}
        for number, (name, entry) in enumerate(SERVICES.items())
    }
    before = identities(host)
    done = deploy(lab, services, {"locked": locked})
    assert done.exit_code == 1, done.output
    said = sentence(done, "cpu2", "locked")
    assert said.startswith("the server requires a key, but the inventory has none (HTTP 401 at ")
    assert API_KEY in said
    assert containers(lab.testbed.host("cpu2")) == {}
    for name in services:
        assert done.row("gpu2", name).endswith(", without locked on cpu2 (Could not connect to server)")
    untouched(host, before)

    locked = {**gguf("gamma", [], 8000, bind="lan"), "api_key": {"env": "ROTATED"}}
    done = deploy(lab, services, {"locked": locked}, ROTATED=KEY)
    assert done.exit_code == 0, done.output
    done = deploy(lab, services, {"locked": locked}, "--limit", "gpu2", ROTATED=OTHER)
    for name in services:
        assert done.row("gpu2", name).endswith(", without locked on cpu2 (refuses the key)")
        assert f"{name} cannot reach locked on cpu2 (refuses the key)" in done.output
    assert not any(key in done.output for key in (KEY, OTHER, ALICE))
    untouched(host, before)

    status, answer = post(host, 8300, "/v1/chat/completions", say("locked"), ALICE)
    assert (status, "Invalid API Key" in answer["error"]["message"]) == (401, True), answer
    _, account = post(host, 8301, "/api/v1/auths/signin", {"email": ADMIN, "password": ALICE})
    status, refusal = post(host, 8301, "/api/chat/completions", say("locked"), account["token"])
    assert (status, refusal) == (400, {"detail": "Model not found"})
    assert post(host, 8302, "/api/chat", say("")) == (500, "Error")
    assert not any(key in json.dumps(answer) for key in (KEY, OTHER, ALICE))

    # undo: without them both hosts are unchanged
    assert deploy(lab, {}, {}).exit_code == 0
    assert sorted(containers(host)) == sorted(NEIGHBOURS)
