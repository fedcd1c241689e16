"""One host for all modules but one, with its owners' things on it, and what the tests read of it without gpurack."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.acceptance import hook, owners
from tests.acceptance.conftest import Lab, Run, chat, containers, model
from tests.acceptance.evidence import Samples
from tests.testbed import Host, Testbed
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.shell import await_

NAME = "gpu5"
COMPOSE = "/etc/gpurack/compose.yaml"
FOREVER = 600
"""Seconds after which what is waited for will not come."""
GRACE = 5
"""Seconds beyond its own load time within which an old model must answer again after a failure."""
LOAD = 5
"""Seconds in which a model of the testbed loads while seven others also do."""
NEW = {"env": {"NEW": uuid.uuid4().hex}}
"""Makes an entry one that never was: on a host that stays, what failed in an earlier run of the tests is not tried."""
CRASHES = {"compose": {"entrypoint": ["sh", "-c", "echo 'error: invalid argument: --no-such-flag'; exit 1"]}}
"""Its program ends at once. An unknown flag in `args` does not come so far: the dry start refuses it."""
Models = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed, with the one host of most modules."""
    return Testbed.up([NAME], prepared=True)


@pytest.fixture(scope="session")
def host(testbed: Testbed) -> Host:
    """A host in use: its owners' containers, network, volume, image, key of daemon.json and hold."""
    host = testbed.host(NAME)
    owners.move_in(host)
    hook.install(host)
    return host


def theirs(host: Host) -> dict[str, Any]:
    """Everything of the host that is not gpurack's, read by Docker's and apt's own commands."""
    there = {name: data for name, data in containers(host).items() if "gpurack.model" not in data["Config"]["Labels"]}
    names = host.root("docker network ls --format '{{.Name}}'").stdout.split()
    networks = [name for name in names if name not in ("bridge", "host", "none") and not name.startswith("gpurack")]
    return {
        "boot": host.pid(),
        "containers": {name: (data["Id"], data["HostConfig"], data["Config"]) for name, data in there.items()},
        "running": {name: (data["State"]["StartedAt"], data["State"]["Pid"]) for name, data in there.items()},
        "networks": json.loads(host.root(f"docker network inspect {' '.join(networks)}").stdout),
        "volumes": host.root("docker volume ls -q").stdout.split(),
        "images": sorted(host.root("docker images -aq --no-trunc").stdout.split()),
        "tags": sorted(host.root("docker images --format '{{.Repository}}:{{.Tag}}'").stdout.split()),
        "daemon.json": host.get("/etc/docker/daemon.json"),
        "holds": host.root("apt-mark showhold").stdout.split(),
    }


@pytest.fixture
def untouched(host: Host) -> Iterator[None]:
    """What is not gpurack's is after the test as it was before; after a power cut or a restart of Docker its containers
    run again. Images may be added."""
    before = theirs(host)
    yield
    after = theirs(host)
    if before["boot"] != after["boot"]:
        for seen in (before, after):
            seen["running"] = {name: bool(pid) for name, (_, pid) in seen["running"].items()}
            for network in seen["networks"]:
                network.pop("Containers")  # addresses may be others
    for what in ("images", "tags", "volumes"):
        missing = set(before.pop(what)) - set(after.pop(what))
        assert not missing, what
    before.pop("boot"), after.pop("boot")
    assert after == before


def apply(lab: Lab, models: Models, *options: str, name: str = NAME, **others: Any) -> Run:
    """Run the main job with these models."""
    run = lab.run(lab.inventory({name: {"models": models}}), *options, **others)
    assert not run.traceback, run.output
    return run


def settle(lab: Lab, host: Host, models: Models) -> None:
    """Serve exactly these models, from any state, with their owners' things untouched."""
    hook.release(host)
    run = apply(lab, models)
    assert run.exit_code == 0, run.output
    assert set(ours(host)) == set(models)


def ours(host: Host) -> dict[str, dict[str, Any]]:
    """gpurack's containers by name, running or not."""
    return {name: data for name, data in containers(host).items() if "gpurack.model" in data["Config"]["Labels"]}


def ids(host: Host) -> dict[str, str]:
    """gpurack's containers: name → id."""
    return {name: data["Id"] for name, data in ours(host).items()}


def record(host: Host) -> dict[str, Any]:
    """The host's record."""
    found = json.loads(host.get("/var/lib/gpurack/record.json"))
    assert isinstance(found, dict)
    return found


def within(seconds: float, wrong: float) -> float:
    """So many seconds of this machine: more, where other programs have its cores, and the test's own too.

    wrong: what the fault takes that the limit is to find. It is never reached, however busy the machine is: then the
    test fails rather than passes."""
    assert seconds < wrong
    return min(seconds * max(1, os.getloadavg()[0] / (os.cpu_count() or 1)), wrong)


def says(host: Host, port: int, name: str, seconds: float = GRACE + LOAD) -> None:
    """Wait until a model gives its own answer."""
    await_(
        lambda: host.root(f"curl -sf --max-time 2 http://127.0.0.1:{port}/v1/models", check=False).returncode == 0,
        seconds=within(seconds, FOREVER),
        what=f"The answer of {name} at port {port}",
    )
    assert chat(host, port) == SENTENCES[name]


def right(host: Host, serving: dict[str, tuple[int, str]]) -> None:
    """Nothing is left of any change: exactly these entries (name → port, weights) have a container, each answers, the
    record names them, and compose.yaml describes what runs, so that an admin's `up -d` changes nothing."""
    for port, weights in serving.values():
        says(host, port, weights)
    there = ours(host)
    assert set(there) == set(serving)
    recorded = record(host)
    assert not recorded.get("replacing"), recorded
    assert {name: entry["id"] for name, entry in recorded["containers"][""].items()} == ids(host)
    keys = {name: data["Config"]["Labels"]["com.docker.compose.service"] for name, data in there.items()}
    assert {name: entry.get("service", name) for name, entry in recorded["containers"][""].items()} == keys
    assert {data["HostConfig"]["RestartPolicy"]["Name"] for data in there.values()} == {"unless-stopped"}
    assert sorted(host.root(f"docker compose -f {COMPOSE} config --services").stdout.split()) == sorted(keys.values())
    before = {name: (data["Id"], data["State"]["StartedAt"]) for name, data in there.items()}
    host.root(f"docker compose -f {COMPOSE} up -d --no-deps --pull never")
    assert {name: (data["Id"], data["State"]["StartedAt"]) for name, data in ours(host).items()} == before


def answering(*ports: int) -> str:
    """A look for evidence.sampled: the time, and the HTTP status at each port."""
    ask = "curl -s -o /dev/null --connect-timeout 1 --max-time 3 -w '{0} %{{http_code}}\\n' http://127.0.0.1:{0}/v1/models"
    return "; ".join(["date +%s.%N", *(ask.format(port) for port in ports)])


@dataclass(frozen=True)
class Outage:
    """Seconds since the epoch: the first look without an answer, and the first with one again."""

    begun: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.ended - self.begun


def outages(samples: Samples, port: int) -> list[Outage]:
    """The times in which the model at a port did not answer, by the samples of `answering`; an outage that does not end
    ends at infinity."""
    found, begun = [], None
    for look in samples.looks:
        time, *lines = look.split("\n")
        said = dict(line.split() for line in lines if line)
        if said[str(port)] != "200":
            begun = begun or float(time)
        elif begun:
            found.append(Outage(begun, float(time)))
            begun = None
    return [*found, Outage(begun, float("inf"))] if begun else found


def down(samples: Samples, port: int) -> float:
    """Seconds for which the model at a port did not answer."""
    return sum(outage.seconds for outage in outages(samples, port))


def sentence(run: Run, name: str, host: str = NAME) -> str:
    """The error about one model below the table."""
    found = [error for error in run.errors(host) if name in error.partition(": ")[0].split(", ")]
    assert len(found) == 1, f"{name}: {found}\n{run.output}"
    return found[0].partition(": ")[2]


def serves_again(run: Run, name: str, host: str = NAME, user: str = "_") -> None:
    """The error says since when the previous one serves, how long it was down, and where the log is."""
    assert re.search(
        rf"The previous `{name}` serves again since \d\d:\d\d:\d\d; it was down for (\d+ min )?\d+ s\. "
        rf"Its log: /var/lib/gpurack/logs/{user}/{name}\.failed\.log",
        sentence(run, name, host),
    ), run.output


def pair() -> Models:
    """Two models on GPUs."""
    return {"alpha": model("alpha", [0], 8000), "beta": model("beta", [1], 8001)}
