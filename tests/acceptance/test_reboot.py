"""Docker and every model run after a reboot without help, also with a late driver."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.acceptance.conftest import Lab, cards, chat, containers, identities, standard
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.shell import await_

LATE = 25
"""Seconds by which the driver is late: longer than nvidia-cdi-refresh.service retries. gpurack's unit asks once a
second for an hour, so more seconds would show nothing new.
"""
BACK = 60
"""Seconds within which everything must run once the driver is loaded."""


@pytest.fixture(scope="module", autouse=True)
def provisioned(lab: Lab) -> None:
    """Both hosts with the standard inventory."""
    run = lab.run(lab.inventory(standard()))
    assert run.exit_code == 0, run.output


def answers(host: Host, port: int) -> Callable[[], bool]:
    """Does a model answer its own API, asked by curl?"""
    command = f"curl -sf --max-time 2 http://127.0.0.1:{port}/v1/models"
    return lambda: host.root(command, check=False).returncode == 0


def all_back(gpu1: Host, cpu1: Host) -> None:
    """Wait until every model answers; each is the right one on the right cards."""
    for host, port in ((gpu1, 8000), (gpu1, 8001), (gpu1, 8002), (cpu1, 8000)):
        await_(answers(host, port), seconds=BACK, what=f"An answer on {host.name}:{port} after the reboot")
    said = [chat(host, port) for host, port in ((gpu1, 8000), (gpu1, 8001), (gpu1, 8002), (cpu1, 8000))]
    assert said == [SENTENCES[name] for name in ("alpha", "beta", "gamma", "delta")]
    uuids = gpu1.gpus.uuids
    assert cards(gpu1, "beta") == uuids[1:3]


def test_everything_runs_after_reboot_and_next_run_changes_nothing(lab: Lab, gpu1: Host, cpu1: Host) -> None:
    """Docker and each model on both hosts, in the same containers."""
    before = {host.name: {name: id for name, (id, _) in identities(host).items()} for host in (gpu1, cpu1)}

    gpu1.reboot()
    cpu1.reboot()

    all_back(gpu1, cpu1)
    assert cards(gpu1, "alpha") == gpu1.gpus.uuids[:1]
    for host in (gpu1, cpu1):
        assert host.root("systemctl is-active docker gpurack").stdout.split() == ["active", "active"]
        assert {name: id for name, (id, _) in identities(host).items()} == before[host.name]
    after = identities(gpu1)
    run = lab.run(lab.inventory(standard()))
    assert run.only_tested, run.output
    assert identities(gpu1) == after


def test_late_driver_delays_only_gpu_models(lab: Lab, gpu1: Host, cpu1: Host) -> None:
    """Docker and the CPU's model run before the driver is loaded; the others start when it appears."""
    gpu1.gpus.late(LATE)
    gpu1.reboot()

    await_(answers(gpu1, 8002), seconds=LATE - 5, what="The CPU's model, while the driver was away,")
    assert gpu1.root("nvidia-smi -L", check=False).returncode == 9, "the driver is there already"
    assert not containers(gpu1)["alpha"]["State"]["Running"]
    await_(
        lambda: gpu1.root("nvidia-smi -L", check=False).returncode == 0,
        seconds=LATE + 10,
        what="The late driver's arrival",
    )
    arrived = time.monotonic()

    all_back(gpu1, cpu1)

    assert time.monotonic() - arrived < BACK
    assert cards(gpu1, "alpha") == gpu1.gpus.uuids[:1]
    after = identities(gpu1)
    run = lab.run(lab.inventory(standard()))
    assert run.only_tested, run.output
    assert identities(gpu1) == after


def test_daemon_reload_takes_no_gpu_from_a_container(gpu1: Host) -> None:
    """`systemctl daemon-reload` (any package runs it) resets device rules that systemd does not know."""
    before = {name: cards(gpu1, name) for name in ("alpha", "beta")}
    nodes = "for node in $(ls /dev/nvidia[0-9]*); do : <$node && echo opened; done"
    running = identities(gpu1)

    gpu1.root("systemctl daemon-reload")
    gpu1.root("systemctl daemon-reexec", check=False)

    assert {name: cards(gpu1, name) for name in ("alpha", "beta")} == before
    for name, count in (("alpha", 1), ("beta", 2)):
        assert gpu1.root(f"docker exec {name} sh -c '{nodes}'").stdout.split() == ["opened"] * count
    assert identities(gpu1) == running
    assert chat(gpu1, 8001) == SENTENCES["beta"]


def test_renumbered_gpus_move_no_model(lab: Lab, gpu1: Host, cpu1: Host) -> None:
    """After a reboot GPU 0 has index 3. alpha stays on it, and the next run changes nothing."""
    first = gpu1.gpus.uuids[0]
    gpu1.gpus.swap(0, 3)
    gpu1.reboot()

    all_back(gpu1, cpu1)

    assert cards(gpu1, "alpha") == [first]
    assert gpu1.gpus.uuids[3] == first
    run = lab.run(lab.inventory(standard()))
    assert run.only_tested, run.output
    gpu1.gpus.swap(0, 3)
    gpu1.reboot()
