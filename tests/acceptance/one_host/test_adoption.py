"""A lab made by hand is adopted container by container with `replaces`, and restored if the new model fails."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, containers, identities, model
from tests.testbed import Host
from tests.testbed.inventory import REGISTRY, weights

IMAGE = f"{REGISTRY}/ghcr/ggml-org/llama.cpp:server-b7000"
OLD = "qwen-old"


@pytest.fixture
def by_hand(lab: Lab, cpu5: Host) -> Iterator[Host]:
    """cpu5 with gpurack's Docker and a model at port 8020 that was started by docker run."""
    assert lab.run(lab.inventory({"cpu5": {"models": {"gamma": model("gamma", [], 8000)}}})).exit_code == 0
    url = weights("beta")["url"]
    cpu5.root(
        f"docker rm -f {OLD} {OLD}-replaced >/dev/null 2>&1; mkdir -p /srv/models; "
        f"curl -sSfo /srv/models/beta.gguf {url}; "
        f"docker run -d --name {OLD} --restart on-failure:3 -p 8020:8080 -v /srv/models:/models:ro {IMAGE} "
        "-m /models/beta.gguf --alias beta --port 8080 --host 0.0.0.0; "
        "curl -sS --retry 30 --retry-delay 1 --retry-all-errors -o /dev/null http://127.0.0.1:8020/health"
    )
    yield cpu5
    cpu5.root(f"docker rm -f {OLD} {OLD}-replaced >/dev/null 2>&1", check=False)


def test_without_replaces_port_is_refused_with_its_holder(lab: Lab, by_hand: Host) -> None:
    before = containers(by_hand)[OLD]["State"]["StartedAt"]
    run = lab.run(lab.inventory({"cpu5": {"models": {"alpha": model("alpha", [], 8020, bind="any")}}}))
    assert run.exit_code == 1
    assert f"alpha: port 8020 is already in use by container `{OLD}`" in run.output
    assert f"Adopt it with `replaces: {OLD}`" in run.output
    assert containers(by_hand)[OLD]["State"]["StartedAt"] == before


def test_replaces_starts_model_and_keeps_old_container(lab: Lab, by_hand: Host) -> None:
    models = {"alpha": model("alpha", [], 8020, bind="any", replaces=OLD)}
    run = lab.run(lab.inventory({"cpu5": {"models": models}}))
    assert run.exit_code == 0, run.output
    assert f"create alpha: replaces {OLD}" in run.output
    assert chat(by_hand, 8020) == lab.testbed.weights("alpha").sentence
    kept = containers(by_hand)
    assert OLD not in kept
    assert kept[f"{OLD}-replaced"]["State"]["Status"] == "exited"
    assert kept[f"{OLD}-replaced"]["HostConfig"]["RestartPolicy"]["Name"] == "no", "it would come back by itself"
    again = lab.run(lab.inventory({"cpu5": {"models": models}}))
    assert again.unchanged, again.output


def test_restores_old_container_if_new_model_fails(lab: Lab, by_hand: Host) -> None:
    broken = model("alpha", [], 8020, bind="any", replaces=OLD, compose={"entrypoint": ["sh", "-c", "exit 1"]})
    run = lab.run(lab.inventory({"cpu5": {"models": {"alpha": broken}}}))
    assert run.exit_code == 1
    assert f"The previous `{OLD}` serves again since" in run.output
    old = containers(by_hand)[OLD]
    assert old["State"]["Running"]
    assert old["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    by_hand.root("curl -sS --retry 30 --retry-delay 1 --retry-all-errors -o /dev/null http://127.0.0.1:8020/health")
    assert chat(by_hand, 8020) == lab.testbed.weights("beta").sentence
    assert "alpha" not in containers(by_hand)


def test_imported_entry_replaces_container(lab: Lab, by_hand: Host) -> None:
    """One remote command, which changes nothing, imports the container. Its entry then becomes a model with the same
    name, address and weights in its place."""
    before, begun = identities(by_hand), time.time()  # (not their health, which a timer changes)
    gpurack = [str(Path(sys.executable).parent / "gpurack"), "import", "--host", "cpu5"]
    imported = subprocess.run([*gpurack, str(lab.inventory({"cpu5": {}}))], capture_output=True, text=True)
    assert imported.returncode == 1, imported.stderr  # it is reachable without a key, which is a decision of the admin
    assert by_hand.ssh_commands(begun) == 1
    assert identities(by_hand) == before
    assert "# Left out, not a service:\n#   container gamma: is already managed by gpurack." in imported.stdout

    printed: dict[str, Any] = {}
    exec(imported.stdout, printed)
    ([(name, data)], _) = printed["gpu_hosts"]
    assert (name, list(data["models"])) == ("cpu5", [OLD])
    run = lab.run(lab.inventory({"cpu5": {"models": {"gamma": model("gamma", [], 8000), **data["models"]}}}))
    assert run.exit_code == 0, run.output
    now = containers(by_hand)[OLD]
    assert "gpurack.model" in now["Config"]["Labels"]
    assert now["HostConfig"]["PortBindings"] == {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8020"}]}
    assert now["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert [mount["Source"] for mount in now["Mounts"]] == ["/srv/models/beta.gguf"]
    assert chat(by_hand, 8020) == lab.testbed.weights("beta").sentence
