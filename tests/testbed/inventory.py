"""What inventories/demo.py and the tests' inventories need from the testbed. It reads files only, without Docker."""

from __future__ import annotations

from typing import Any

from tests.testbed import gguf_models, services
from tests.testbed.hosts import SSH_CONFIG
from tests.testbed.paths import cache_home

REGISTRY = "registry.testbed:5000"
LOCKED = "registry.testbed:5001"
"""The same images, with a login."""


def reach(name: str) -> dict[str, Any]:
    """Return the host data with which pyinfra connects to a host of the testbed."""
    return {"ssh_config_file": str(SSH_CONFIG), "ssh_hostname": name, "ssh_strict_host_key_checking": "yes"}


def weights(name: str) -> dict[str, str]:
    """Return a served model as the inventory's `weights`."""
    return {"url": f"http://weights.testbed/{name}.gguf", "sha256": gguf_models.served(services.WEIGHTS, name).sha256}


def mirrors() -> dict[str, Any]:
    """Return the inventory's `mirrors`: the testbed's repositories (signed with its own key) and its registry."""
    key = str(cache_home() / "signing" / "public.asc")
    return {
        "docker-ce": {"url": "http://repo.testbed/docker-ce", "key": key},
        "nvidia": {"url": "http://repo.testbed/nvidia", "key": key},
        "ghcr.io": f"{REGISTRY}/ghcr",
        "docker.io": f"{REGISTRY}/hub",
        "docker.litellm.ai": f"{REGISTRY}/litellm",
    }


def common() -> dict[str, Any]:
    """Return the data of every host of the testbed: the distribution's Docker, mirrors, engine versions."""
    return {
        "docker": {"source": "distro", "daemon": {"insecure-registries": [REGISTRY]}},
        "nvidia": {"toolkit": "1.20.1"},
        "mirrors": mirrors(),
        "defaults": {"engine": "llama.cpp"},
        "engines": {"llama.cpp": {"version": "b7000"}},
    }
