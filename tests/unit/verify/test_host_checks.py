"""What the checks say of hosts, by evidence as data; what hands can make of a real one is in tests/acceptance/rebuild."""

from __future__ import annotations

from typing import Any

import pytest

from gpurack.spec.model import Host
from gpurack.verify import look, test_hosts
from gpurack.verify.lab import Server
from tests.given import spec
from tests.unit.verify.test_checks import WANTED, drifts, evidence


def server(wanted: Host = WANTED, **over: Any) -> Server:
    """gpu1, as the evidence of a correct host has it; `over` replaces parts."""
    return Server("gpu1", wanted, None, "run", "5a", lambda name: look.Seen(evidence(**over)))  # type: ignore[arg-type]


def file(text: str | None, mode: str = "644", uid: int = 0) -> dict[str, Any]:
    """A file or (text None) a folder."""
    return {"text": text, "mode": mode, "uid": uid}


@pytest.mark.parametrize(
    ("flags", "content", "lines"),
    [
        ("--live-restore --log-driver=journald", "{}", []),
        ("--log-opt max-size=10m", '{"live-restore": true}', []),
        ("", '{"live-restore": true}', ['gpu1: daemon.json log-driver: expected "local", found nothing']),
    ],
)
def test_what_dockerd_is_told_by_flags_is_not_asked_of_daemon_json(flags: str, content: str, lines: list[str]) -> None:
    one = server(
        spec({}),
        cards=None,
        units={"docker.service": {"starts": f"/usr/bin/dockerd -H fd:// {flags}"}},
        files={"/etc/docker/daemon.json": file(content)},
    )
    assert drifts(test_hosts.test_daemon_json, one) == lines


@pytest.mark.parametrize(
    ("package", "version", "running", "found"),
    [
        ("docker-ce", "5:28.5.2-1~debian.13~trixie", "28.5.2", ""),
        ("docker.io", "26.1.5+dfsg1-9+b9", "26.1.5+dfsg1", ""),
        ("docker.io", "28.5.2+dfsg4-1", "28.5.2+dfsg4", ""),
        ("docker-ce", "5:28.5.2-1~debian.13~trixie", "28.5.1", "28.5.2"),
        ("docker.io", "28.5.2+dfsg4-1", "26.1.5+dfsg1", "28.5.2"),
        ("none-of-docker", "1", "28.5.1", ""),
    ],
)
def test_dockerd_is_of_the_version_of_its_package(package: str, version: str, running: str, found: str) -> None:
    """Upgraded and not restarted, it is the old one that runs."""
    one = server(
        packages={package: {"version": version, "held": False, "whole": True}},
        units={"docker.service": {"active": "active", "enabled": "enabled"}},
        daemons={"": {"info": {"ServerVersion": running}, "containers": {}, "images": []}},
    )
    lines = [f"gpu1: the running dockerd: expected {found}, as its package, found {running}"] if found else []
    assert drifts(test_hosts.test_docker_runs, one) == lines
