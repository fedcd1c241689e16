"""Two hosts in one run, in parallel: a failure of one does not stop the other, and the table has its reason."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.acceptance import hook
from tests.acceptance.conftest import Lab, Run, chat, containers, identities, model
from tests.testbed import Host
from tests.testbed.inventory import common, mirrors
from tests.testbed.shell import await_

GPU1: dict[str, Any] = {"alpha": model("alpha", [0], 8000), "delta": model("delta", [], 8003)}
CPU1: dict[str, Any] = {"gamma": model("gamma", [], 8000)}
DELAY = 6


@pytest.fixture(scope="module")
def both(lab: Lab) -> tuple[Host, Host]:
    """gpu1 and cpu1 with the good models running."""
    gpu1, cpu1 = lab.testbed.host("gpu1"), lab.testbed.host("cpu1")
    lab.settle(gpu1, GPU1)
    lab.settle(cpu1, CPU1)
    return gpu1, cpu1


def changed(lab: Lab, gpu1: Host, context: int, cpu1: dict[str, Any], over: dict[str, Any] | None = None) -> Run:
    """A run that changes alpha on gpu1. It must succeed there, while cpu1 fails with exit code 1."""
    before = identities(gpu1)
    models = {**GPU1, "alpha": model("alpha", [0], 8000, context=context)}
    run = lab.run(lab.inventory({"cpu1": cpu1, "gpu1": {"models": models}}, over))
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    after = identities(gpu1)
    assert after["alpha"] != before["alpha"]
    assert after["delta"] == before["delta"]
    assert chat(gpu1, 8000) == lab.testbed.weights("alpha").sentence
    assert run.row("gpu1", "alpha").endswith("ready, recreated"), run.output
    assert run.row("gpu1", "delta").endswith("ready"), run.output
    assert run.errors("gpu1") == []
    return run


def test_hosts_are_deployed_in_parallel(lab: Lab, both: tuple[Host, Host]) -> None:
    """Each model takes seconds to get ready; in sequence the second would start after the first was ready."""
    slow = {"entrypoint": ["sh", "-c", f'sleep {DELAY}; exec /app/llama-server "$@"', "slow"]}
    gpu1, cpu1 = both
    run = lab.run(
        lab.inventory(
            {
                "gpu1": {"models": {**GPU1, "alpha": model("alpha", [0], 8000, compose=slow)}},
                "cpu1": {"models": {"gamma": model("gamma", [], 8000, compose=slow)}},
            }
        )
    )
    assert run.exit_code == 0, run.output
    started = [
        datetime.fromisoformat(containers(host)[name]["State"]["StartedAt"][:26]).timestamp()
        for host, name in ((gpu1, "alpha"), (cpu1, "gamma"))
    ]
    assert abs(started[0] - started[1]) < DELAY


def test_stuck_host_delays_no_other(lab: Lab, both: tuple[Host, Host]) -> None:
    """gpu1 hangs while it reloads Docker, before its models. cpu1 gets its new model meanwhile."""
    gpu1, cpu1 = both
    docker = common()["docker"]
    reloading = {"docker": {**docker, "daemon": {**docker["daemon"], "shutdown-timeout": 17}}}
    wanted = {"gamma": model("gamma", [], 8000, context=640)}
    inventory = lab.inventory({"gpu1": {"models": GPU1, **reloading}, "cpu1": {"models": wanted}})
    before = identities(cpu1)["gamma"]
    hook.install(gpu1, ("systemctl",))
    with hook.planned(gpu1, "before", "reload", program="systemctl"):
        process = lab.start(inventory)
        hook.wait_until_held(gpu1, process)
        await_(lambda: identities(cpu1).get("gamma", before) != before, seconds=60, what="cpu1's new model")
        assert process.poll() is None
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert chat(cpu1, 8000) == lab.testbed.weights("gamma").sentence


def test_full_disk_fails_one_host(lab: Lab, both: tuple[Host, Host]) -> None:
    """Under the weights."""
    gpu1, cpu1 = both
    lab.settle(cpu1, CPU1)
    before = identities(cpu1)
    cpu1.root("mkdir -p /srv/full && mount -t tmpfs -o size=1m,mode=755 full /srv/full")
    try:
        run = changed(lab, gpu1, 512, {"models": CPU1, "weights_dir": "/srv/full"})
    finally:
        cpu1.root("umount /srv/full")
    assert "FAILED: weights need" in run.row("cpu1", "gamma"), run.output
    assert "/srv/full has" in run.errors("cpu1")[0]
    assert identities(cpu1) == before
    assert chat(cpu1, 8000) == lab.testbed.weights("gamma").sentence


def test_unreachable_host_is_reported(lab: Lab, both: tuple[Host, Host]) -> None:
    """It is switched off. pyinfra reports it at once, and the table at the end also."""
    gpu1, cpu1 = both
    cpu1.stop()
    try:
        run = changed(lab, gpu1, 768, {"models": CPU1})
    finally:
        cpu1.start()
    assert run.row("cpu1").startswith("cpu1 - FAILED: could not connect: "), run.output
    assert f"port {cpu1.port}" in run.output


def test_broken_repository_fails_one_host(lab: Lab, both: tuple[Host, Host]) -> None:
    """A fresh host whose packages cannot be fetched: the table has apt's reason, with a hint below it."""
    gpu1, _ = both
    cpu1 = lab.testbed.recreate("cpu1")
    broken = {"docker-ce": {**mirrors()["docker-ce"], "url": "http://repo.testbed/nowhere"}}
    wrong = {"models": CPU1, "mirrors": broken, "docker": {**common()["docker"], "source": "docker-ce"}}
    run = changed(lab, gpu1, 1024, wrong)
    row = run.row("cpu1", "gamma")
    assert "FAILED: repository http://repo.testbed/nowhere/linux/debian cannot be read" in row, run.output
    assert "404 Not Found. Check that the host can reach it" in run.errors("cpu1")[0]

    # the next run, with the right address, succeeds in spite of the first one's files
    run = lab.run(lab.inventory({"cpu1": {"models": CPU1}}))
    assert run.exit_code == 0, run.output
    assert chat(cpu1, 8000) == lab.testbed.weights("gamma").sentence
