"""--dry on hosts that serve: every change is named with its reason, and nothing changes. Fresh hosts:
test_fresh_hosts.py.
"""

from __future__ import annotations

import re

from tests.acceptance.conftest import Lab, chat, identities, model, standard
from tests.acceptance.evidence import dockerd_pid, files_touched
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES


def test_dry_names_every_change_and_makes_none(lab: Lab, gpu1: Host, cpu1: Host) -> None:
    """A moved model, a changed argument, a removed, a disabled and a new model, a version, a key of daemon.json."""
    first = lab.run(lab.inventory(standard()))
    assert first.exit_code == 0, first.output
    wanted = standard()
    models = wanted["gpu1"]["models"]
    models["alpha"]["gpus"] = [3]
    models["beta"] |= {"args": {"threads": 1}, "version": "b7001"}
    models["gamma"]["enabled"] = False
    models["epsilon"] = model("delta", [0], 8004)
    wanted["cpu1"] = {"models": {"zeta": model("delta", [], 8000)}}
    daemon = {"max-concurrent-downloads": 5, "debug": True}
    before = {host.name: (identities(host), dockerd_pid(host)) for host in (gpu1, cpu1)}
    inventory = lab.inventory(wanted, {"docker": {"source": "distro", "daemon": daemon}})

    run = lab.run(inventory, "--dry")

    assert run.exit_code == 0, run.output
    said = {re.sub(r" \(down for about .*\)$", "", line.strip()) for line in run.lines("gpu1") + run.lines("cpu1")}
    assert {
        "[gpu1] ~ recreate alpha: gpus [0] → [3]",
        "[gpu1] ~ recreate beta: args.threads – → 1, "
        "image registry.testbed:5000/ghcr/ggml-org/llama.cpp:server-cuda-b7000 → "
        "registry.testbed:5000/ghcr/ggml-org/llama.cpp:server-cuda-b7001, version b7000 → b7001",
        "[gpu1] ~ remove gamma: disabled",
        "[gpu1] ~ create epsilon: new",
        "[cpu1] ~ create zeta: new",
        "[cpu1] ~ remove delta: no longer in the inventory",
        "[gpu1] ~ debug: true, max-concurrent-downloads: 5 (reload Docker)",
        "[cpu1] ~ debug: true, max-concurrent-downloads: 5 (reload Docker)",
    } <= said, run.output
    assert "Nothing was changed" in run.output
    for host in (gpu1, cpu1):
        assert files_touched(host, run.begun) == []
        assert (identities(host), dockerd_pid(host)) == before[host.name]
        assert host.ssh_commands(run.begun) == 1
    assert chat(gpu1, 8002) == SENTENCES["gamma"]
    again = lab.run(lab.inventory(standard()))
    assert again.unchanged, again.output
