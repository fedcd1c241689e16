"""A server in use: its owners' containers and their daemon.json stay unchanged.

The tests run in the order of the file, on one host.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance import terminal
from tests.acceptance.conftest import CHECKOUT, Lab, Run, chat, containers, identities, model
from tests.testbed import Host
from tests.testbed.inventory import REGISTRY, common

IMAGE = f"{REGISTRY}/ghcr/ggml-org/llama.cpp:server-b7000"
THEIRS = ("grafana", "postgres", "backup")
DAEMON_JSON = {
    "labels": ["rack=7"],
    "insecure-registries": [REGISTRY],
    "log-driver": "json-file",
    "log-opts": {"max-size": "7m"},
    "max-concurrent-downloads": 2,
    "features": {"containerd-snapshotter": False},
}
GOOD: dict[str, Any] = {"alpha": model("alpha", [0], 8000), "delta": model("delta", [], 8003)}
HELD = {"live-restore": False, "default-shm-size": "96M"}  # a restart that live-restore cannot bridge


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """gpu1 with its owners' containers: a web page, a database with a volume, a stopped backup job."""
    host = lab.testbed.recreate("gpu1")
    host.put(json.dumps(DAEMON_JSON), "/etc/docker/daemon.json", 0o640)
    host.root(
        "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && "
        "apt-get -qq -y install --no-install-recommends docker.io docker-cli iptables"
    )
    run = f"docker run -d --stop-timeout 1 --entrypoint sleep --restart unless-stopped {IMAGE} infinity"
    host.root(run.replace("-d", "-d --name grafana -p 3000:3000"))
    host.root("docker network create backend && docker volume create pgdata")
    host.root(run.replace("-d", "-d --name postgres --network backend -v pgdata:/data"))
    host.root(f"docker create --name backup --entrypoint true {IMAGE}")
    return host


def theirs(host: Host) -> dict[str, tuple[str, str, int]]:
    """Id, StartedAt and pid of the owners' containers."""
    found = containers(host)
    return {
        name: (found[name]["Id"], found[name]["State"]["StartedAt"], found[name]["State"]["Pid"]) for name in THEIRS
    }


def daemon_json(host: Host) -> dict[str, Any]:
    """The file's content."""
    content = json.loads(host.get("/etc/docker/daemon.json"))
    assert isinstance(content, dict)
    return content


def dockerd(host: Host) -> str:
    """dockerd's pid."""
    return host.root("systemctl show docker -p MainPID --value").stdout.strip()


def run(lab: Lab, restart: str, daemon: dict[str, Any] | None = None, models: dict[str, Any] | None = None) -> Run:
    """The main job with this `docker.restart`."""
    docker = {**common()["docker"], "restart": restart}
    docker["daemon"] = {**docker["daemon"], **(daemon or {})}
    return lab.run(lab.inventory({"gpu1": {"models": models or GOOD}}, {"docker": docker}))


def test_first_run_keeps_them_running(lab: Lab, host: Host) -> None:
    """Toolkit, CDI and live-restore need a restart of Docker; the running containers survive it."""
    before, old = theirs(host), dockerd(host)
    done = run(lab, "ask")
    assert done.exit_code == 0, done.output
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence
    assert dockerd(host) != old, "a test of a restart needs one"
    assert theirs(host) == before

    content = daemon_json(host)
    for key, value in DAEMON_JSON.items():
        assert key in content
        if key != "features":
            assert content[key] == value, key
    assert content["features"]["containerd-snapshotter"] is False
    assert content["live-restore"] is True
    assert host.root("stat -c '%a %U' /etc/docker/daemon.json").stdout.split() == ["640", "root"]
    (backup,) = host.root("ls /var/lib/gpurack/backups/daemon.json.*").stdout.split()
    assert json.loads(host.get(backup)) == DAEMON_JSON, "the owners' file can be had back"


def test_changes_of_models_do_not_touch_them(lab: Lab, host: Host) -> None:
    """A model changed, added and removed; then a run with nothing to do."""
    before, old = theirs(host), dockerd(host)
    changed = {"alpha": model("alpha", [0], 8000, context=512), "gamma": model("gamma", [1], 8004)}
    assert run(lab, "ask", models=changed).exit_code == 0
    assert set(identities(host)) == {"alpha", "gamma", *THEIRS}
    assert run(lab, "ask").exit_code == 0
    assert run(lab, "ask").unchanged
    assert theirs(host) == before
    assert dockerd(host) == old


@pytest.mark.parametrize(
    ("policy", "remedy"),
    [
        (
            "ask",
            "Run without -y and confirm, or with --restart (pyinfra: --data restart=always), or stop them yourself.",
        ),
        ("never", 'The inventory says docker.restart: never; stop them yourself or write "ask".'),
    ],
)
def test_refuses_restart_that_would_stop_them(lab: Lab, host: Host, policy: str, remedy: str) -> None:
    """The error names them and says what to do. daemon.json is unchanged, so no later reload applies a part of it."""
    before, ours, old, content = theirs(host), identities(host), dockerd(host), host.get("/etc/docker/daemon.json")
    refused = run(lab, policy, HELD)
    assert refused.exit_code == 1, refused.output
    assert not refused.traceback
    (error,) = refused.errors("gpu1")
    assert "default-shm-size" in error
    assert (
        "needs a restart of Docker, which would stop containers that gpurack does not manage: grafana, postgres."
        in error
    )
    assert error.endswith(remedy)
    assert host.get("/etc/docker/daemon.json") == content
    assert dockerd(host) == old
    assert theirs(host) == before
    assert identities(host) == ours
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence


def test_never_refuses_also_at_terminal(lab: Lab, host: Host) -> None:
    """Enter at the prompt confirms the plan, but not what the inventory forbids."""
    before, old = theirs(host), dockerd(host)
    docker = {**common()["docker"], "restart": "never"}
    docker["daemon"] = {**docker["daemon"], **HELD}
    inventory = lab.inventory({"gpu1": {"models": GOOD}}, {"docker": docker})
    code, shown = terminal.answer(lab.argv(inventory)[:3], [("Press enter to execute", "")], CHECKOUT)
    assert code == 1, shown
    assert "grafana, postgres" in shown
    assert dockerd(host) == old
    assert theirs(host) == before


def test_ask_restarts_after_confirmation(lab: Lab, host: Host) -> None:
    """Without -y the plan says which containers would stop. Enter confirms, and all run again afterwards."""
    before, old = theirs(host), dockerd(host)
    docker = {**common()["docker"], "restart": "ask"}
    docker["daemon"] = {**docker["daemon"], **HELD}
    inventory = lab.inventory({"gpu1": {"models": GOOD}}, {"docker": docker})
    code, shown = terminal.answer(lab.argv(inventory)[:3], [("Press enter to execute", "")], CHECKOUT)
    assert code == 0, shown
    question = shown.split("Press enter to execute")[0]
    stops = " ".join(question.split()).partition(", which stops ")[2]
    for name in ("grafana (not gpurack's, up ", "postgres (not gpurack's, up ", "alpha"):
        assert name in stops, f"who presses Enter must know what it stops:\n{question}"
    assert dockerd(host) != old
    after = containers(host)
    assert after["grafana"]["Id"] == before["grafana"][0]
    assert after["grafana"]["State"]["Running"]
    assert after["postgres"]["State"]["Running"]
    assert daemon_json(host)["default-shm-size"] == "96M"
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence


def test_always_restarts_without_confirmation(lab: Lab, host: Host) -> None:
    old = dockerd(host)
    done = run(lab, "always", {**HELD, "default-shm-size": "80M"})
    assert done.exit_code == 0, done.output
    assert dockerd(host) != old
    assert containers(host)["grafana"]["State"]["Running"]
    assert daemon_json(host)["labels"] == ["rack=7"]
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence


def test_remove_removes_own_containers_only(lab: Lab, host: Host) -> None:
    """Docker stays while foreign containers run in it."""
    before = theirs(host)
    inventory = lab.inventory({"gpu1": {"models": GOOD}})
    everything = lab.run(inventory, "-y", "--data", "remove=all", deploy="remove")
    assert everything.exit_code == 1
    assert (
        "Docker was not removed, because containers that gpurack does not manage run in it: grafana, postgres."
        in everything.output
    )
    assert theirs(host) == before

    ours = lab.run(inventory, deploy="remove")
    assert ours.exit_code == 0, ours.output
    assert set(identities(host)) == set(THEIRS)
    assert theirs(host) == before
    assert daemon_json(host)["labels"] == ["rack=7"]
    assert host.root("ls /var/lib/gpurack/weights").stdout.split(), "weights are data"
