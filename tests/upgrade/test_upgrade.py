"""What an upgrade of gpurack leaves unchanged: containers, holds, the lock, status, locks between runs, boot units."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, containers, model
from tests.security.testbed.admin import Admin, Shown
from tests.security.testbed.evidence import answers, others
from tests.testbed import Host, Testbed
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.shell import await_
from tests.upgrade import gateway

NAME = "rootless3"
KEYS = {"ALPHA": "sk-alpha-1234", "BETA": "sk-beta-1234"}
PORTS = {8000: KEYS["ALPHA"], 8001: KEYS["BETA"], 8002: "", 4000: ""}
BY_PORT = ("alpha", "beta", "gamma", "gamma")
"""The model that answers at each port: the gateway forwards to gamma."""
RECORD, LOCK, UNIT = "/var/lib/gpurack/record.json", "/run/gpurack/lock", "/etc/systemd/system/gpurack.service"
WAITS = "pgrep -fx 'python3 -' || pgrep -f 'begun=[$][(]date'"
"""Succeeds on a host where a run's program works, or an older run's slow command. In an unchanged run that is only the
wait for a lock."""


def wanted() -> dict[str, Any]:
    """Models in the host's own Docker, on a GPU and on the CPU, and in ada's; and a gateway for one of them, in an
    image with python3."""
    models = {
        "alpha": model("alpha", [0], 8000, api_key={"env": "ALPHA"}),
        "beta": model("beta", [1], 8001, api_key={"env": "BETA"}, user="ada"),
        "gamma": model("gamma", [], 8002),
    }
    program = {"entrypoint": ["python3", "-c", Path(gateway.__file__).read_text()]}
    door = {"engine": "litellm", "image": "vllm/vllm-openai:v0.33.0", "port": 4000, "connects_to": ["gamma"]}
    services = {"gateway": {**door, "compose": program}}
    return {NAME: {"docker": {"rootless": {"ada": {}}}, "models": models, "services": services}}


@dataclass(frozen=True)
class Seen:
    """A host at one moment, inspected without gpurack, and its models by gpurack's own `status`."""

    containers: dict[str, object]
    holds: list[str]
    status: dict[str, Any]


@dataclass
class Upgrade:
    """A host deployed by the older gpurack and then by the newer one."""

    host: Host
    older: Admin
    newer: Admin
    inventory: Path
    unit: str
    """The boot unit as the older one wrote it."""
    before: Seen
    run: Shown
    """The newer one's first run."""
    after: Seen

    def serves(self) -> bool:
        """Does each model give its own answer?"""
        return list(answers(self.host, PORTS).values()) == [SENTENCES[name] for name in BY_PORT]


def ids(all_of: dict[str, object]) -> dict[str, str]:
    """Container → id in the host's own Docker, of what `others` returns."""
    return {name: id_ for name, (id_, _) in dict(all_of["host"]).items()}  # type: ignore[call-overload]


def seen(host: Host, admin: Admin, inventory: Path) -> Seen:
    """The host now, by `status` of one of the two."""
    (said,) = admin.status(inventory, "--json").data["hosts"].values()
    models = {
        name: {key: entry[key] for key in ("state", "why", "gpus", "endpoint", "since", "restarts")}
        for name, entry in said["models"].items()
    }
    status = {"state": said["state"], "gpus": [gpu["uuid"] for gpu in said["gpus"]], "models": models}
    return Seen(others(host), host.root("apt-mark showhold").stdout.split(), status)


@pytest.fixture(scope="module")
def upgrade(testbed: Testbed, lab: Lab, older_tree: Path) -> Iterator[Upgrade]:
    """Deployed, locked and run once more by the older one; then one run of the newer."""
    testbed.remove(NAME)
    testbed.serve_engines("vllm")
    host = testbed.add(NAME, "rootless")
    older, newer = Admin(lab, KEYS, older_tree, patience=4), Admin(lab, KEYS, patience=2)
    code = "import gpurack; print(gpurack.__file__)"
    used = older.do("status", sys.executable, "-c", code).text.strip()
    assert used.startswith(str(older_tree)), f"the older tree's own code would not be used, but {used}"
    inventory = lab.inventory(wanted())
    first = older.run(inventory)
    assert first.exit_code == 0, first.text
    for done in (older.gpurack("lock", inventory), older.run(inventory)):  # the next run holds what the lock pins
        assert done.exit_code == 0, done.text
    before, unit = seen(host, older, inventory), host.root(f"cat {UNIT}").stdout
    run = newer.run(inventory)
    yield Upgrade(host, older, newer, inventory, unit, before, run, seen(host, newer, inventory))
    testbed.remove(NAME)


def test_first_run_succeeds_and_restarts_nothing(upgrade: Upgrade) -> None:
    assert upgrade.run.exit_code == 0, upgrade.run.text
    assert upgrade.after.containers == upgrade.before.containers
    assert upgrade.serves()


def test_counts_models_with_settings_of_older_gpurack(upgrade: Upgrade) -> None:
    """Four containers without no-new-privileges are counted, not recreated. The gateway's label does not have gamma's
    address yet; its files and variables do."""
    plan = upgrade.newer.gpurack("plan", upgrade.inventory, "--live")
    assert re.search(r"4 models run with settings of an older gpurack", plan.text), plan.text


def test_holds_are_unchanged(upgrade: Upgrade) -> None:
    assert upgrade.before.holds
    assert upgrade.after.holds == upgrade.before.holds


def test_lock_of_older_version_holds(upgrade: Upgrade) -> None:
    check = upgrade.newer.gpurack("lock", upgrade.inventory, "--check")
    assert check.exit_code == 0, check.text


def test_status_is_unchanged(upgrade: Upgrade) -> None:
    assert upgrade.after.status == upgrade.before.status


def test_record_has_every_container(upgrade: Upgrade) -> None:
    """With the ids of the containers that the older version created."""
    assert upgrade.host.root(f"stat -c '%a %U:%G' {RECORD}").stdout.strip() == "600 root:root"
    record = json.loads(upgrade.host.get(RECORD))
    known = {user: {name: entry["id"] for name, entry in mine.items()} for user, mine in record["containers"].items()}
    assert known[""] == {name: data["Id"] for name, data in containers(upgrade.host).items()}
    assert str(upgrade.after.containers["ada"]).split()[:2] == ["/beta", known["ada"]["beta"]]


def test_second_run_changes_nothing(upgrade: Upgrade) -> None:
    run = upgrade.newer.run(upgrade.inventory)
    assert (run.exit_code, "nothing changed" in run.text) == (0, True), run.text


def test_older_boot_unit_starts_models_with_newer_files(upgrade: Upgrade) -> None:
    """A run killed between the runner and the unit leaves such a host, which then reboots."""
    upgrade.host.put(upgrade.unit, UNIT)
    upgrade.host.root("systemctl daemon-reload")
    upgrade.host.reboot()
    await_(upgrade.serves, seconds=90, what="The models' answers after a reboot")
    booted = upgrade.host.root("systemctl show gpurack -p ActiveState,Result --value").stdout.split()
    assert sorted(booted) == ["active", "success"]
    there = {name: data["Id"] for name, data in containers(upgrade.host).items()}
    assert there == ids(upgrade.before.containers)
    run = upgrade.newer.run(upgrade.inventory)
    assert run.exit_code == 0, run.text
    assert upgrade.serves()


@contextmanager
def held(host: Host, runner: str) -> Iterator[None]:
    """The host's lock, held during the block by the runner's own code in that folder, of any version."""
    code = f"import os, sys, time; sys.path.insert(0, {runner!r})\n"
    code += "try: from locks import locked\nexcept ImportError: from common import locked\n"
    code += "with locked('models'):\n while os.path.exists('/root/held'): time.sleep(0.1)"
    host.put(code, "/root/holder.py")
    host.put("", "/root/held")
    host.root("systemd-run --quiet --collect --unit holder python3 -B /root/holder.py")
    await_(
        lambda: host.root(f"flock -n {LOCK} true", check=False).returncode == 1, seconds=5, what="The lock's being held"
    )
    try:
        yield
        assert host.root("systemctl is-active holder", check=False).stdout.strip() == "active", "it holds nothing"
    finally:
        host.root("rm -f /root/held; systemctl stop holder", check=False)


def run_that_waits(upgrade: Upgrade, admin: Admin, runner: str) -> Shown:
    """A run that begins while the runner's code in that folder holds the lock, which is free once the run waits."""
    waits = lambda: upgrade.host.root(WAITS, check=False).returncode == 0  # noqa: E731
    with ThreadPoolExecutor(1) as pool, held(upgrade.host, runner):
        run = pool.submit(admin.run, upgrade.inventory)
        await_(lambda: run.done() or waits(), seconds=60, what="A run that waits")
        time.sleep(2)  # one that does not wait goes on
        assert not run.done(), f"it did not wait: {run.result().text}"
        await_(waits, seconds=5, what="The wait of the run that waited")
    return run.result()


def test_newer_run_waits_for_older_one(upgrade: Upgrade) -> None:
    for name in ("common", "locks", "messages", "paths", "progress"):  # of which an older version has some
        if (part := upgrade.older.tree / f"files/{name}.py").exists():
            upgrade.host.put(part.read_bytes(), f"/root/older/{name}.py")
    run = run_that_waits(upgrade, upgrade.newer, "/root/older")
    assert run.exit_code == 0, run.text
    assert "another gpurack run" in run.text


def test_older_run_waits_for_newer_one(upgrade: Upgrade) -> None:
    """Then it restarts nothing, nor does the newer run after it."""
    upgrade.host.root("rm -rf /root/newer && cp -a /usr/local/lib/gpurack /root/newer")
    before = others(upgrade.host)
    run = run_that_waits(upgrade, upgrade.older, "/root/newer")
    assert run.exit_code == 0, run.text
    assert "another gpurack run" in run.text
    again = upgrade.newer.run(upgrade.inventory)
    assert again.exit_code == 0, again.text
    assert others(upgrade.host) == before


def test_first_replacement_makes_a_second_generation(upgrade: Upgrade) -> None:
    """A model of the older gpurack has its own name as its Compose service. A change that fails brings its container
    back; one that succeeds has the next service, and touches no other."""
    before = others(upgrade.host)
    for more, code in (({"compose": {"entrypoint": ["sh", "-c", "exit 1"]}}, 1), ({"context": 512}, 0)):
        data = wanted()
        data[NAME]["models"]["gamma"] |= more
        run = upgrade.newer.run(upgrade.newer.lab.inventory(data))
        assert run.exit_code == code, run.text
        assert upgrade.serves()
        if code:
            assert ids(before) == ids(others(upgrade.host)), run.text
    after = containers(upgrade.host)
    assert after["gamma"]["Id"] != ids(before)["gamma"]
    assert {name: id_ for name, id_ in ids(before).items() if name != "gamma"} == {
        name: data["Id"] for name, data in after.items() if name != "gamma"
    }
    services = {name: data["Config"]["Labels"]["com.docker.compose.service"] for name, data in after.items()}
    assert services == {"alpha": "alpha", "gamma": "gamma.2", "gateway": "gateway"}
    assert json.loads(upgrade.host.get(RECORD))["format"] == 2
    upgrade.newer.lab.inventory(wanted())


def test_renew_recreates_all(upgrade: Upgrade) -> None:
    """The last test. The gateway must forward once more, and nothing is left to count."""
    before = {data["Id"] for data in containers(upgrade.host).values()}
    run = upgrade.newer.run(upgrade.inventory, "--data", "renew=yes")
    assert run.exit_code == 0, run.text
    after = containers(upgrade.host)
    assert set(after) == {"alpha", "gamma", "gateway"}
    assert not before & {data["Id"] for data in after.values()}
    assert {tuple(data["HostConfig"]["SecurityOpt"]) for data in after.values()} == {("no-new-privileges:true",)}
    label = json.loads(after["gateway"]["Config"]["Labels"]["gpurack.model"])
    assert label["upstreams"] == {"gamma": "http://gamma:8080/v1 (llama.cpp: gamma)"}
    assert upgrade.serves()
    plan = upgrade.newer.gpurack("plan", upgrade.inventory, "--live")
    assert "older gpurack" not in plan.text
