"""The same in users' rootless Dockers, and from one Docker to another."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, chat, containers, model
from tests.acceptance.evidence import sampled
from tests.acceptance.replacement.conftest import COMPOSE, CRASHES, NEW, answering, down, record, serves_again
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES

NAME = "rootless4"
CRASH = {**CRASHES, **NEW}


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """alpha in the host's own Docker, beta in ada's and gamma in bob's."""
    return lab.testbed.add(NAME, "rootless", prepared=True)


def wanted(**changes: dict[str, Any]) -> dict[str, Any]:
    """The models of the host, with changes."""
    models = {
        "alpha": model("alpha", [0], 8000),
        "beta": model("beta", [1, 2], 8001, user="ada"),
        "gamma": model("gamma", [], 8002, user="bob"),
    }
    for name, more in changes.items():
        models[name] = {**models[name], **more}
    return {NAME: {"docker": {"rootless": {"ada": {}, "bob": {}}}, "models": models}}


def apply(lab: Lab, **changes: dict[str, Any]) -> Run:
    """Run the main job with changed models."""
    run = lab.run(lab.inventory(wanted(**changes)))
    assert not run.traceback, run.output
    return run


def as_user(host: Host, user: str, command: str) -> str:
    """The output of a command with the user's own Docker."""
    uid = host.root(f"id -u {user}").stdout.strip()
    runtime = f"XDG_RUNTIME_DIR=/run/user/{uid} DOCKER_HOST=unix:///run/user/{uid}/docker.sock"
    return host.root(f"runuser -u {user} -- env {runtime} {command}").stdout


def of_user(host: Host, user: str) -> dict[str, str]:
    """A user's containers: name → id."""
    listed = as_user(host, user, "docker ps -a --no-trunc --format '{{.Names}} {{.ID}}'")
    return dict(line.split() for line in listed.splitlines())


def all_serve(host: Host) -> None:
    """Each model answers with its own sentence, and nothing is left of a change."""
    for name, port in (("alpha", 8000), ("beta", 8001), ("gamma", 8002)):
        assert chat(host, port) == SENTENCES[name]
    assert not record(host).get("replacing")
    there = {"": list(containers(host)), "ada": list(of_user(host, "ada")), "bob": list(of_user(host, "bob"))}
    assert there == {"": ["alpha"], "ada": ["beta"], "bob": ["gamma"]}


def test_old_model_of_a_user_serves_after_failure(lab: Lab, host: Host) -> None:
    """And it is not tried again."""
    assert apply(lab).exit_code == 0
    before = of_user(host, "ada"), of_user(host, "bob"), containers(host)["alpha"]["State"]["StartedAt"]
    run = apply(lab, beta=CRASH)
    assert run.exit_code == 1, run.output
    serves_again(run, "beta", NAME, "ada")
    all_serve(host)
    assert (of_user(host, "ada"), of_user(host, "bob"), containers(host)["alpha"]["State"]["StartedAt"]) == before
    log = "/var/lib/gpurack/logs/ada/beta.failed.log"
    assert host.root(f"stat -c '%a %U' {log}").stdout.split() == ["600", "root"]
    assert "no-such-flag" in host.get(log).decode()
    with sampled(host, answering(8001)) as samples:
        again = apply(lab, beta=CRASH)
    assert again.exit_code == 1, again.output
    assert down(samples, 8001) == 0


def test_change_in_a_users_docker_is_made(lab: Lab, host: Host) -> None:
    run = apply(lab, beta={"context": 512})
    assert run.exit_code == 0, run.output
    all_serve(host)
    key = json.loads(as_user(host, "ada", "docker inspect beta"))[0]["Config"]["Labels"]["com.docker.compose.service"]
    before = of_user(host, "ada")
    as_user(host, "ada", "docker compose -f /var/lib/gpurack/users/ada/compose.yaml up -d")
    assert of_user(host, "ada") == before
    assert record(host)["containers"]["ada"]["beta"]["service"] == key != "beta"
    assert apply(lab, beta={"context": 512}).unchanged


def test_model_moves_to_another_docker_and_back_when_it_fails(lab: Lab, host: Host) -> None:
    """From the host's own to ada's. It crashes there, so the old container serves again here."""
    before, compose = containers(host)["alpha"]["Id"], host.get(COMPOSE)
    moved = {"user": "ada", **CRASH}
    run = apply(lab, alpha=moved, beta={"context": 512})
    assert run.exit_code == 1, run.output
    all_serve(host)
    assert containers(host)["alpha"]["Id"] == before
    assert host.get(COMPOSE) == compose
    run = apply(lab, alpha={"user": "ada"}, beta={"context": 512})
    assert run.exit_code == 0, run.output
    assert set(of_user(host, "ada")) == {"alpha", "beta"}
    assert containers(host) == {}
    assert chat(host, 8000) == SENTENCES["alpha"]
