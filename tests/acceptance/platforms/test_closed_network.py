"""A host that reaches only a proxy (`closed1`): packages, images and weights come through it; then by TLS with
certificates of a private authority. Settings removed from the inventory are removed from the host. The proxy's log is
the evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, containers, identities, model
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.inventory import mirrors, weights

PROXY = "http://proxy.testbed:3128"
TLS_REGISTRY = "registry.testbed:5443"
PORTS = (80, 443, 5000, 5443)
DISTRO = {"source": "distro"}


def shut(host: Host, services: str) -> None:
    """Closes all ports of the services but the proxy's; names are still resolved."""
    for port in PORTS:
        host.root(f"ip rule add to {services} ipproto tcp dport {port} prohibit")


def open_again(host: Host, services: str) -> None:
    for port in PORTS:
        host.root(f"ip rule del to {services} ipproto tcp dport {port} prohibit")


@pytest.fixture(scope="module")
def services(closed1: Host) -> str:
    """The address of the container with all services."""
    return closed1.root("getent hosts proxy.testbed").stdout.split()[0]


@pytest.fixture(scope="module")
def closed1(lab: Lab) -> Iterator[Host]:
    lab.testbed.remove("closed1")
    yield lab.testbed.add("closed1", "cpu")
    lab.testbed.remove("closed1")


@pytest.fixture(scope="module")
def ca(lab: Lab) -> Path:
    """The authority's certificate on the admin's machine."""
    path = lab.folder / "ca.pem"
    path.write_text(lab.testbed.authority())
    return path


def asked(lab: Lab, since: int = 0) -> set[str]:
    """The requests to the proxy, by its own log: `GET http://weights.testbed`, `CONNECT registry.testbed:5443`."""
    lines = lab.testbed.proxy_log().splitlines()[since:]
    found = (re.search(r" (GET|HEAD|CONNECT) (https?://[^/ ]+|[^/ ]+)", line) for line in lines)
    return {f"{match[1]} {match[2]}" for match in found if match}


def proxied(**more: Any) -> dict[str, Any]:
    """The data that all hosts share here, with the proxy."""
    return {"docker": {**DISTRO, "daemon": {"insecure-registries": ["registry.testbed:5000"]}}, "proxy": PROXY, **more}


def by_tls(**more: Any) -> dict[str, Any]:
    """Registry and packages over https only."""
    return {
        "docker": {**DISTRO, "daemon": {"insecure-registries": None}},
        "mirrors": {**mirrors(), "ghcr.io": f"{TLS_REGISTRY}/ghcr"},
        **more,
    }


def secure(name: str) -> dict[str, str]:
    return {**weights(name), "url": f"https://weights.testbed/{name}.gguf"}


def dockerd_environment(host: Host) -> dict[str, str]:
    """The environment of the running dockerd."""
    text = host.root("tr '\\0' '\\n' </proc/$(pidof dockerd)/environ").stdout
    return dict(line.partition("=")[::2] for line in text.splitlines())


def test_everything_passes_proxy(lab: Lab, closed1: Host, services: str) -> None:
    shut(closed1, services)
    direct = closed1.root("timeout 5 bash -c '</dev/tcp/repo.testbed/80'", check=False)
    assert direct.returncode != 0, "the host is not closed"
    before = len(lab.testbed.proxy_log().splitlines())
    inventory = lab.inventory({"closed1": {"models": {"alpha": model("alpha", [], 8000)}}}, proxied())
    run = lab.run(inventory)
    assert run.exit_code == 0, run.output
    assert chat(closed1, 8000) == SENTENCES["alpha"]
    by_proxy = asked(lab, before)
    assert {"GET http://repo.testbed", "GET http://weights.testbed", "GET http://registry.testbed:5000"} <= by_proxy
    environment = dockerd_environment(closed1)
    assert environment["HTTP_PROXY"] == environment["HTTPS_PROXY"] == PROXY
    assert environment["NO_PROXY"] == "localhost,127.0.0.1,::1"
    # an admin's own apt uses the proxy as well
    closed1.run("sudo apt-get -q update")

    again = lab.run(inventory)
    assert again.unchanged, again.output
    assert closed1.ssh_commands(again.begun) == 1


def test_unknown_authority_is_named(lab: Lab, closed1: Host) -> None:
    """Registry and weights over https fail with their reason, and the model continues unchanged."""
    before = identities(closed1)
    entry = {"alpha": {**model("alpha", [], 8000), "version": "b7001"}, "beta": model("beta", [], 8001)}
    entry["beta"]["weights"] = secure("beta")
    run = lab.run(lab.inventory({"closed1": {"models": entry}}, by_tls(proxy=PROXY)))
    assert run.exit_code == 1, run.output
    errors = "\n".join(run.errors("closed1"))
    assert "certificate signed by unknown authority" in errors
    assert "SSL certificate problem" in errors or "self-signed certificate" in errors, errors
    assert identities(closed1) == before
    assert chat(closed1, 8000) == SENTENCES["alpha"]


def test_docker_and_downloads_trust_private_authority(lab: Lab, closed1: Host, ca: Path) -> None:
    """dockerd reads it by one restart, which the running model survives."""
    old = containers(closed1)["alpha"]["State"]["Pid"]
    entry = {"alpha": model("alpha", [], 8000), "beta": {**model("beta", [], 8001), "version": "b7001"}}
    entry["beta"]["weights"] = secure("beta")
    over = by_tls(proxy=PROXY, ca=str(ca))
    over["mirrors"]["docker-ce"] = {**mirrors()["docker-ce"], "url": "https://repo.testbed/docker-ce"}
    before = len(lab.testbed.proxy_log().splitlines())
    pid = closed1.root("pidof dockerd").stdout
    # the mirror has another name, so alpha is recreated; its first container survives the restart before that
    run = lab.run(lab.inventory({"closed1": {"models": entry}}, over))
    assert run.exit_code == 0, run.output
    assert closed1.root("pidof dockerd").stdout != pid
    assert old != containers(closed1)["alpha"]["State"]["Pid"]
    assert [chat(closed1, 8000), chat(closed1, 8001)] == [SENTENCES["alpha"], SENTENCES["beta"]]
    assert {f"CONNECT {TLS_REGISTRY}", "CONNECT weights.testbed:443"} <= asked(lab, before)
    trusted = closed1.root("curl -sS -x http://proxy.testbed:3128 -o /dev/null -w '%{http_code}' https://repo.testbed/")
    assert trusted.stdout == "200"

    again = lab.run(lab.inventory({"closed1": {"models": entry}}, over))
    assert again.unchanged, again.output
    assert closed1.ssh_commands(again.begun) == 1


def test_removed_settings_are_removed_from_host(lab: Lab, closed1: Host, services: str) -> None:
    open_again(closed1, services)
    entry = {"alpha": model("alpha", [], 8000)}
    run = lab.run(lab.inventory({"closed1": {"models": entry}}))
    assert run.exit_code == 0, run.output
    assert chat(closed1, 8000) == SENTENCES["alpha"]
    assert not {"HTTP_PROXY", "HTTPS_PROXY"} & set(dockerd_environment(closed1))
    left = closed1.root("grep -rl -e proxy.testbed /etc 2>/dev/null; ls /usr/local/share/ca-certificates", check=False)
    assert left.stdout == ""
    refused = closed1.root("curl -sS -o /dev/null https://repo.testbed/", check=False)
    assert "certificate" in refused.stderr
    before = len(lab.testbed.proxy_log().splitlines())
    closed1.run("sudo apt-get -q update")
    again = lab.run(lab.inventory({"closed1": {"models": entry}}))
    assert again.unchanged, again.output
    assert closed1.ssh_commands(again.begun) == 1
    assert asked(lab, before) == set()
