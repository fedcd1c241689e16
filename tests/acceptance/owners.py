"""What a host's owners have besides gpurack: containers, network, volume, image, a key of daemon.json, a hold."""

from __future__ import annotations

import json

from tests.testbed import Host
from tests.testbed.inventory import REGISTRY

IMAGE = f"{REGISTRY}/ghcr/ggml-org/llama.cpp:server-b7000"
THEIRS = ("grafana", "postgres", "backup")


def move_in(host: Host) -> None:
    """Put them on a host with Docker, once. Docker restarts."""
    if host.root(f"docker inspect {THEIRS[0]}", check=False).returncode == 0:
        return
    daemon = json.loads(host.get("/etc/docker/daemon.json"))
    host.put(json.dumps({**daemon, "labels": ["rack=7"]}), "/etc/docker/daemon.json")
    host.root("systemctl restart docker")
    run = f"docker run -d --stop-timeout 1 --restart unless-stopped --entrypoint sleep {IMAGE} infinity"
    host.root(f"docker tag {IMAGE} theirs:1 && docker network create backend && docker volume create pgdata")
    host.root(run.replace("-d", "-d --name grafana -p 3000:3000"))
    host.root(run.replace("-d", "-d --name postgres --network backend -v pgdata:/data"))
    host.root(f"docker create --name backup --entrypoint true {IMAGE} && apt-mark hold sudo")
