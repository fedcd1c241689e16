"""A new data-root: the next dockerd does not know the containers of the previous one, so none may keep running."""

from __future__ import annotations

from collections.abc import Callable

from tests.acceptance.conftest import Lab, chat, containers, model
from tests.testbed import Host
from tests.testbed.inventory import REGISTRY


def test_models_move_to_new_data_root(lab: Lab, prepared: Callable[[str], Host]) -> None:
    host = prepared("cpu5")
    models = {"models": {"gamma": model("gamma", [], 8000)}}
    assert lab.run(lab.inventory({"cpu5": models})).exit_code == 0
    old = containers(host)["gamma"]["State"]["Pid"]
    daemon = {"insecure-registries": [REGISTRY], "data-root": "/home/docker"}
    inventory = lab.inventory({"cpu5": models}, {"docker": {"source": "distro", "daemon": daemon}})
    run = lab.run(inventory)
    assert run.exit_code == 0, run.output
    assert host.root("docker info --format '{{.DockerRootDir}}'").stdout.strip() == "/home/docker"
    assert host.root(f"kill -0 {old}", check=False).returncode != 0, "the old model still runs, unknown to Docker"
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence
    assert lab.run(inventory).unchanged
    prepared("cpu5")
