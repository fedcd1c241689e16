"""Runs interrupted at random moments, by Ctrl-C and by kill -9 of pyinfra. The next run completes.

It starts at once, while work of the killed run may still continue on the host.
"""

from __future__ import annotations

import copy
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, cards, chat, containers, model
from tests.acceptance.evidence import DAEMON_JSON, dpkg_audit, invalid_daemon_json, sampled
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.shell import await_

SEED = 2288
"""Another seed gives other moments. A moment is a number of seconds after the start of pyinfra."""
INT, KILL = signal.SIGINT, signal.SIGKILL
FRESH = [(KILL,), (INT, KILL), (KILL, INT, KILL)]
"""What is sent to the runs on a fresh host, one after the other; the last run is left alone. Six moments in all."""
CHANGE = [KILL, INT, KILL, KILL, INT, KILL]
"""What ends a run that changes serving hosts; after each, the next run completes. Six more moments."""


ASIDE = {"alpha.previous", "beta.previous"}
ASKS = "curl -sf http://127.0.0.1:{port}/v1/models | grep -q '\"{name}\"'"


def first() -> dict[str, Any]:
    """The models at the start."""
    return {
        "alpha": model("alpha", [0], 8000),
        "beta": model("beta", [1, 2], 8001),
        "gamma": model("gamma", [], 8002, args={"threads": 1}),
    }


def second() -> dict[str, Any]:
    """GPUs and ports swapped, one argument changed, one model more."""
    models = copy.deepcopy(first())
    models["alpha"] |= {"gpus": [1, 2], "port": 8001}
    models["beta"] |= {"gpus": [0], "port": 8000}
    models["gamma"]["args"] = {"threads": 2}
    models["delta"] = model("delta", [3], 8003)
    return models


def inventory(lab: Lab, models: dict[str, Any], size: str) -> Path:
    """gpu1 with these models, and a key of daemon.json that needs a restart of Docker."""
    log = {"log-driver": "local", "log-opts": {"max-size": size}}
    daemon = {"docker": {"daemon": log}}
    return lab.inventory({"gpu1": {"models": models, **daemon}})


def end_after(process: subprocess.Popen[str], seconds: float, by: signal.Signals) -> bool:
    """End a run after some seconds. Was it still running?"""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(by)
        process.communicate(timeout=120)
        return True
    return False


def complete(lab: Lab, host: Host, path: Path, models: dict[str, Any], moments: str) -> None:
    """The next run completes, its result is correct, and a further run has nothing left to do."""
    run = lab.run(path)
    assert run.exit_code == 0, f"after {moments}:\n{run.output}"
    assert dpkg_audit(host) == "", moments
    assert set(containers(host)) == set(models), moments
    for name, entry in models.items():
        assert chat(host, entry["port"]) == SENTENCES[name], moments
        if entry["gpus"]:
            assert cards(host, name) == [host.gpus.uuids[index] for index in entry["gpus"]], moments
    again = lab.run(path)
    assert again.unchanged, f"after {moments}:\n{again.output}"


@pytest.mark.parametrize("signals", FRESH, ids=lambda signals: " then ".join(one.name for one in signals))
def test_killed_run_on_fresh_host_is_completed(
    lab: Lab, fresh: Callable[[str], Host], signals: tuple[signal.Signals, ...]
) -> None:
    """At any moment between the first snapshot and the last model. If a run ends before its moment, another fresh host
    gets moments half as late."""
    chance = random.Random(f"{SEED} fresh {FRESH.index(signals)}")
    moments = [chance.uniform(1, 18 / len(signals)) for _ in signals]
    while not killed_and_completed(lab, fresh("gpu1"), dict(zip(moments, signals, strict=True))):
        moments = [moment / 2 for moment in moments]
        assert min(moments) > 0.2, "no run could be killed before it ended"


def killed_and_completed(lab: Lab, host: Host, kills: dict[float, signal.Signals]) -> bool:
    """Kill runs one after the other, then complete; False if one ended before its moment."""
    path = inventory(lab, first(), "10m")
    said = ", ".join(f"{one.name} at {moment:.1f} s" for moment, one in kills.items())
    with sampled(host, DAEMON_JSON) as samples:
        for moment, one in kills.items():
            if not end_after(lab.start(path), moment, one):
                return False
        complete(lab, host, path, first(), said)
    assert len(samples.looks) > 50
    assert invalid_daemon_json(samples) == [], said
    return True


def test_killed_change_is_completed(lab: Lab) -> None:
    """Two models swap GPUs and ports, one is added or removed, and Docker restarts; repeatedly, in both directions."""
    host = lab.testbed.host("gpu1")
    lab.settle(host, first())
    chance = random.Random(f"{SEED} change")
    states = [(second(), "20m"), (first(), "10m")]
    ended, latest = 0, 6.0
    with sampled(host, DAEMON_JSON) as samples:
        for number, one in enumerate(CHANGE):
            models, size = states[number % 2]
            path = inventory(lab, models, size)
            moment = chance.uniform(0.5, latest)
            if end_after(lab.start(path), moment, one):
                ended += 1
            else:
                latest = max(latest / 2, 1.0)  # a fast machine
            complete(lab, host, path, models, f"change {number}, {one.name} at {moment:.1f} s")
    assert ended >= len(CHANGE) - 2, "too many runs had ended before their moment came"
    assert len(samples.looks) > 200
    assert invalid_daemon_json(samples) == []


def test_work_on_host_continues_without_pyinfra(lab: Lab) -> None:
    """pyinfra dies while two models swap their GPUs. Both start without another run."""
    host = lab.testbed.host("gpu1")
    lab.settle(host, first())
    process = lab.start(inventory(lab, second(), "10m"))
    await_(
        lambda: set(host.root("docker ps -a --format '{{.Names}}'", check=False).stdout.split()) >= ASIDE,
        seconds=60,
        what="The moment in which both old containers are set aside",
    )
    process.kill()
    process.communicate()
    for name, port in (("alpha", 8001), ("beta", 8000)):
        await_(
            # (until it is stopped, the other one of the swap answers there)
            lambda name=name, port=port: host.root(ASKS.format(port=port, name=name), check=False).returncode == 0,
            seconds=60,
            what=f"The answer of {name}",
        )
        assert chat(host, port) == SENTENCES[name]
    complete(lab, host, inventory(lab, second(), "10m"), second(), "the kill")
