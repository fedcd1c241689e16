"""A host whose own Docker and two users' rootless ones each have a model: in parallel, isolated, and as durable as any
other. At the start `bob` has no subordinate ids and no linger.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, cards, chat, containers, identities, model
from tests.acceptance.test_versions import TOOLKIT, versions
from tests.acceptance.verification import verify
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.shell import await_

KEYS = {"ALPHA": "sk-alpha-1234", "BETA": "sk-beta-1234", "GAMMA": "sk-gamma-1234"}
USERS = {"ada": ("beta", 1, 8001), "bob": ("gamma", 2, 8002)}


@pytest.fixture(scope="module")
def host(lab: Lab, monkeypatch_module: pytest.MonkeyPatch) -> Host:
    """A fresh host with GPUs and two accounts."""
    for name, key in KEYS.items():
        monkeypatch_module.setenv(name, key)
    lab.testbed.remove("rootless1")
    host = lab.testbed.add("rootless1", "rootless")
    host.root("sed -i /^bob:/d /etc/subuid /etc/subgid")
    return host


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    """Environment variables for all tests of the module."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def wanted(users: dict[str, Any] | None = None, **host: Any) -> dict[str, dict[str, Any]]:
    """One model in each Docker, each on its own GPU. host: other fields of the host."""
    models = {"alpha": model("alpha", [0], 8000, api_key={"env": "ALPHA"})}
    for user, (name, card, port) in USERS.items():
        models[name] = model(name, [card], port, api_key={"env": name.upper()}, user=user)
    return {"rootless1": {"docker": {"rootless": users or {"ada": {}, "bob": {}}}, "models": models, **host}}


def as_user(host: Host, user: str, command: str, check: bool = True) -> Any:
    """A command in a user's own environment, as after a login."""
    uid = host.root(f"id -u {user}").stdout.strip()
    runtime = f"XDG_RUNTIME_DIR=/run/user/{uid} DOCKER_HOST=unix:///run/user/{uid}/docker.sock"
    return host.root(f"runuser -u {user} -- env HOME=/home/{user} {runtime} sh -c '{command}'", check=check)


def of_user(host: Host, user: str) -> dict[str, str]:
    """The containers in a user's Docker: name → id and time of start."""
    form = "{{.Name}} {{.Id}} {{.State.StartedAt}}"
    lines = as_user(host, user, f'docker ps -aq | xargs -r docker inspect --format "{form}"').stdout.splitlines()
    return {line.split()[0].lstrip("/"): line for line in lines}


def everything_serves(host: Host) -> None:
    """Each model answers with its sentence, with its key, on its GPU."""
    assert [chat(host, 8000, KEYS["ALPHA"]), *(chat(host, p, KEYS[n.upper()]) for n, _, p in USERS.values())] == [
        SENTENCES[name] for name in ("alpha", "beta", "gamma")
    ]
    uuids = host.gpus.uuids
    assert cards(host, "alpha") == uuids[:1]
    for user, (name, card, _) in USERS.items():
        seen = as_user(host, user, f"docker exec {name} nvidia-smi -L").stdout
        assert re.findall(r"GPU-[0-9a-f-]+", seen) == [uuids[card]]


@pytest.fixture(scope="module")
def first(lab: Lab, host: Host) -> Run:
    """A run killed while it sets up ada's Docker, and the run that completes it."""
    process = lab.start(lab.inventory(wanted()))
    await_(
        lambda: host.root("ls /run/user/*/gpurack-docker-restart", check=False).returncode == 0,
        seconds=240,
        what="The set-up of the first rootless Docker",
    )
    process.kill()
    process.communicate()
    run = lab.run(lab.inventory(wanted()))
    assert run.exit_code == 0, run.output
    return run


def test_model_of_every_daemon_serves_on_its_gpu(host: Host, first: Run) -> None:
    everything_serves(host)
    assert list(containers(host)) == ["alpha"]
    for user, (name, _, _) in USERS.items():
        assert list(of_user(host, user)) == [name]


@pytest.mark.parametrize("user", USERS)
def test_daemons_are_rootless_without_processes_of_root(host: Host, first: Run, user: str) -> None:
    """By what dockerd says, and by the owner of every process in the user's slice."""
    info = json.loads(as_user(host, user, 'docker info --format "{{json .}}"').stdout)
    assert "name=rootless" in info["SecurityOptions"]
    assert info["DockerRootDir"] == f"/home/{user}/.local/share/docker"
    uid = host.root(f"id -u {user}").stdout.strip()
    pids = host.root(f"cat $(find /sys/fs/cgroup/user.slice/user-{uid}.slice -name cgroup.procs)").stdout.split()
    owners = host.root(f"ps -o uid= -p {','.join(pids)}").stdout.split()
    assert len(pids) > 5
    assert "0" not in owners
    name = USERS[user][0]
    container = as_user(host, user, f'docker inspect --format "{{{{.Id}}}} {{{{.State.Pid}}}}" {name}').stdout.split()
    assert container[0] in host.root(f"cat /proc/{container[1]}/cgroup").stdout, "the ledger would not know it as ours"
    assert container[1] in pids


def test_grants_subordinate_ids_without_overlap(host: Host, first: Run) -> None:
    for file in ("/etc/subuid", "/etc/subgid"):
        ranges = sorted(
            (int(start), int(start) + int(count))
            for _, start, count in (line.split(":") for line in host.get(file).decode().splitlines())
        )
        assert all(end <= begin for (_, end), (begin, _) in pairwise(ranges)), ranges
        assert [line for line in host.get(file).decode().splitlines() if line.startswith("bob:")]
    assert host.root("ls /var/lib/systemd/linger").stdout.split() == ["ada", "bob"]


@pytest.mark.parametrize(
    ("reader", "owner"), [("ada", "bob"), ("bob", "ada"), ("lab", "ada"), ("ada", ""), ("bob", "")]
)
def test_no_user_reads_others_secrets_or_weights(host: Host, first: Run, reader: str, owner: str) -> None:
    """Neither by path nor through a container of their own. The user who serves them may."""
    name = USERS[owner][0] if owner else "alpha"
    project = f"/var/lib/gpurack/users/{owner}" if owner else "/etc/gpurack"
    key = host.root(f"ls {project}/secrets/{name}*/api_key").stdout.strip()
    hidden = [key]
    if owner:
        hidden += host.root(f"ls /var/lib/gpurack/weights/users/{owner}/*.gguf").stdout.split()
        assert as_user(host, owner, f"cat {key}").stdout.strip() == KEYS[name.upper()]
    for path in hidden:
        assert host.root(f"runuser -u {reader} -- cat {path}", check=False).returncode != 0, path
        if reader in USERS:
            image = as_user(host, reader, f'docker inspect --format "{{{{.Image}}}}" {USERS[reader][0]}').stdout.strip()
            run = f"docker run --rm --network none -v {path}:/x --entrypoint cat {image} /x"
            assert as_user(host, reader, run, check=False).returncode != 0, path


def test_unchanged_run_is_one_remote_command(lab: Lab, host: Host, first: Run) -> None:
    before = [identities(host), *(of_user(host, user) for user in USERS)]
    run = lab.run(lab.inventory(wanted()))
    assert run.unchanged, run.output
    assert host.ssh_commands(run.begun) == 1
    assert [identities(host), *(of_user(host, user) for user in USERS)] == before


def test_missing_user_is_one_error_and_others_are_served(lab: Lab, host: Host, first: Run) -> None:
    data = wanted({"ada": {}, "bob": {}, "eve": {}})
    data["rootless1"]["models"]["delta"] = model("delta", [3], 8003, user="eve")
    run = lab.run(lab.inventory(data))
    assert run.exit_code == 1
    (error,) = run.errors("rootless1")
    assert error.startswith("delta: the user eve does not exist on the host. gpurack creates no accounts: create it")
    assert not run.traceback
    everything_serves(host)


def test_unusable_subordinate_ids_are_one_error_and_others_are_served(lab: Lab, host: Host, first: Run) -> None:
    """Too few, as an older useradd or an admin granted them. Running models are unchanged."""
    before = of_user(host, "bob")
    host.root("cp -a /etc/subuid /root/ && sed -i 's/^\\(bob:[0-9]*\\):.*/\\1:1000/' /etc/subuid")
    run = lab.run(lab.inventory(wanted()))
    host.root("cp -a /root/subuid /etc/")
    assert run.exit_code == 1
    (error,) = run.errors("rootless1")
    assert error == (
        "gamma: bob has fewer than 65536 subordinate ids in /etc/subuid. Remove the line, and gpurack grants enough."
    )
    assert not run.traceback
    assert of_user(host, "bob") == before
    everything_serves(host)
    assert lab.run(lab.inventory(wanted())).unchanged


def test_repairs_disabled_linger(lab: Lab, host: Host, first: Run) -> None:
    inventory = lab.inventory(wanted())
    correct = verify(lab, inventory, KEYS)
    assert (correct.exit_code, correct.failed) == (0, {}), correct.output
    host.run("sudo loginctl disable-linger bob")
    found = verify(lab, inventory, KEYS)  # bob's Docker ends with it, because bob is not logged in
    assert "linger of bob: expected on, found off" in found.of("rootless1")["rootless_docker"]
    run = lab.run(inventory)
    assert run.exit_code == 0, run.output
    assert "let bob's units start at boot (linger)" in run.output
    assert "bob" in host.root("ls /var/lib/systemd/linger").stdout.split()
    everything_serves(host)


def test_every_daemon_and_model_runs_after_reboot(lab: Lab, host: Host, first: Run) -> None:
    before = {user: {name: line.split()[1] for name, line in of_user(host, user).items()} for user in USERS}
    host.reboot()
    for port in (8000, 8001, 8002):
        ready = f"curl -sf --max-time 2 http://127.0.0.1:{port}/health"
        await_(lambda ready=ready: host.root(ready, check=False).returncode == 0, seconds=90, what=f"Port {port}")
    everything_serves(host)
    assert {user: {name: line.split()[1] for name, line in of_user(host, user).items()} for user in USERS} == before
    run = lab.run(lab.inventory(wanted()))
    assert run.only_tested, run.output


def test_models_run_after_restart_of_users_docker(host: Host, first: Run) -> None:
    uid = host.root("id -u ada").stdout.strip()
    bus = f"DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{uid}/bus"
    as_user(host, "ada", f"{bus} systemctl --user restart docker")
    ready = "curl -sf --max-time 2 http://127.0.0.1:8001/health"
    await_(lambda: host.root(ready, check=False).returncode == 0, seconds=60, what="ada's model")
    everything_serves(host)


def test_toolkit_moves_both_ways_held_and_stops_nothing(lab: Lab, host: Host, first: Run) -> None:
    """Debian 13 has one version of Docker. The models of all daemons continue, and other upgrades leave the toolkit
    alone."""
    before = [identities(host), *(of_user(host, user) for user in USERS)]
    for version, moved in (("1.19.1", "1.20.1 → 1.19.1"), ("1.20.1", "1.19.1 → 1.20.1")):
        inventory = lab.inventory(wanted(nvidia={"toolkit": version}))
        run = lab.run(inventory)
        assert run.exit_code == 0, run.output
        assert f"NVIDIA Container Toolkit {moved}" in run.output
        host.root("apt-get -q -y dist-upgrade")
        assert versions(host, TOOLKIT) == {version}
        assert [identities(host), *(of_user(host, user) for user in USERS)] == before
        everything_serves(host)
        assert lab.run(inventory).unchanged


def test_changed_gpu_access_recreates_with_reason(lab: Lab, host: Host, first: Run) -> None:
    """To the nvidia runtime and back, also in users' Dockers; the GPUs are the same."""
    for access, said in (("runtime", "cdi → runtime"), ("auto", "runtime → cdi")):
        run = lab.run(lab.inventory(wanted(nvidia={"access": access})))
        assert run.exit_code == 0, run.output
        for name in ("alpha", "beta", "gamma"):
            assert f"recreate {name}: nvidia.access {said}" in run.output
        everything_serves(host)
        driver = containers(host)["alpha"]["HostConfig"]["Runtime"]
        assert driver == ("nvidia" if access == "runtime" else "runc")


def test_models_change_daemons_and_gpus_in_one_run(lab: Lab, host: Host, first: Run) -> None:
    """alpha moves to ada's Docker and beta to the host's own, each to the other's GPU."""
    data = wanted()
    models = data["rootless1"]["models"]
    models["alpha"] |= {"user": "ada", "gpus": [1]}
    models["beta"] |= {"user": None, "gpus": [0]}
    run = lab.run(lab.inventory(data))
    assert run.exit_code == 0, run.output
    assert "recreate alpha: gpus [0] → [1], user – → ada" in run.output
    assert chat(host, 8000, KEYS["ALPHA"]) == SENTENCES["alpha"]
    assert chat(host, 8001, KEYS["BETA"]) == SENTENCES["beta"]
    assert cards(host, "beta") == host.gpus.uuids[:1]
    assert list(of_user(host, "ada")) == ["alpha"]
    there = host.root("ls /var/lib/gpurack/users/ada/secrets /etc/gpurack/secrets").stdout.split()
    assert [re.sub(r"\.\d+$", "", word) for word in there] == [
        "/etc/gpurack/secrets:", "beta", "/var/lib/gpurack/users/ada/secrets:", "alpha",
    ]  # fmt: skip


def test_remove_removes_models_and_next_run_restores_them(lab: Lab, host: Host, first: Run) -> None:
    gone = lab.run(lab.inventory(wanted()), deploy="remove")
    assert gone.exit_code == 0, gone.output
    assert not containers(host)
    assert not of_user(host, "ada") | of_user(host, "bob")
    assert host.root("ls -d /etc/gpurack /var/lib/gpurack/users", check=False).stdout == ""
    assert host.root("ls /var/lib/gpurack/weights/users/*/*.gguf").stdout.count(".gguf") >= len(USERS)
    run = lab.run(lab.inventory(wanted()))
    assert run.exit_code == 0, run.output
    everything_serves(host)


def test_remove_all_ends_users_daemons_and_keeps_data(lab: Lab, host: Host, first: Run) -> None:
    run = lab.run(lab.inventory(wanted()), "-y", "--data", "remove=all", deploy="remove")
    assert run.exit_code == 0, run.output
    assert host.root("pgrep -x dockerd; pgrep -x rootlesskit", check=False).stdout == ""
    for user in USERS:
        left = host.root(f"ls /home/{user}/.config/systemd/user", check=False).stdout.split()
        assert "docker.service" not in left
        assert host.root(f"ls /home/{user}/.local/share/docker/image").stdout


def test_next_run_restores_users_dockers(lab: Lab, host: Host, first: Run) -> None:
    """From what remove=all keeps: images, linger, subordinate ids."""
    run = lab.run(lab.inventory(wanted()))
    assert run.exit_code == 0, run.output
    everything_serves(host)
    again = lab.run(lab.inventory(wanted()))
    assert again.unchanged, again.output
    assert host.ssh_commands(again.begun) == 1
