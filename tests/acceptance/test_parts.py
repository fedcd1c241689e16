"""Each deploy does its own part, and `keep` leaves the installed Docker unchanged."""

from __future__ import annotations

from collections.abc import Callable

from tests.acceptance.conftest import Lab, cards, chat, containers, model
from tests.testbed import Host


def test_deploys_docker_toolkit_and_models_one_by_one(lab: Lab, fresh: Callable[[str], Host]) -> None:
    host = fresh("gpu1")
    inventory = lab.inventory({"gpu1": {"models": {"alpha": model("alpha", [1], 8000)}}})

    assert lab.run(inventory, deploy="docker").exit_code == 0
    assert host.root("docker info --format '{{.LiveRestoreEnabled}}'").stdout.strip() == "true"
    assert host.root("dpkg -l nvidia-container-toolkit", check=False).returncode != 0
    assert containers(host) == {}

    assert lab.run(inventory, deploy="nvidia_toolkit").exit_code == 0
    assert "nvidia" in host.root("docker info --format '{{json .Runtimes}}'").stdout
    assert host.gpus.uuids[1] in host.root("nvidia-ctk cdi list").stdout
    assert containers(host) == {}

    assert lab.run(inventory, deploy="models").exit_code == 0
    assert cards(host, "alpha") == [host.gpus.uuids[1]]
    assert chat(host, 8000) == lab.testbed.weights("alpha").sentence
    assert lab.run(inventory).unchanged, "the parts together are the whole"


def test_models_without_docker_report_what_is_missing(lab: Lab, fresh: Callable[[str], Host]) -> None:
    fresh("cpu1")
    run = lab.run(lab.inventory({"cpu1": {"models": {"gamma": model("gamma", [], 8000)}}}), deploy="models")
    assert run.exit_code == 1
    assert not run.traceback, run.output
    assert "cpu1 Docker is not installed. Run `gpurack apply`." in run.output


def test_keep_uses_installed_docker(lab: Lab, fresh: Callable[[str], Host]) -> None:
    host = fresh("cpu1")
    keep = {"docker": {"source": "keep", "daemon": {"insecure-registries": ["registry.testbed:5000"]}}}
    inventory = lab.inventory({"cpu1": {"models": {"gamma": model("gamma", [], 8000)}}}, keep)
    run = lab.run(inventory)
    assert run.exit_code == 1
    assert "docker.source is keep, but no Docker daemon answers" in run.output
    host.root("apt-get -q update && apt-get -q -y install docker.io docker-cli docker-compose")
    before = host.root("dpkg-query -W docker.io docker-compose; apt-mark showhold").stdout
    assert lab.run(inventory).exit_code == 0
    assert host.root("dpkg-query -W docker.io docker-compose; apt-mark showhold").stdout == before
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence
