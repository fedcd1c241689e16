"""The lock: the exact versions found on the hosts, in a file beside the inventory.

Later runs install exactly these.

inventories/lab.py (or lab.yaml) has its lock in inventories/lab.lock.yaml: docs/lock.md. GPUs are not in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field

from gpurack.screen import printable
from gpurack.shell import word
from gpurack.spec.fields import Like, Strict
from gpurack.spec.image_ref import split_digest
from gpurack.spec.problems import Wrong

HEADER = """\
# What really was on these hosts, to be committed: a run installs exactly this. (Written by gpurack.)
# What drifted: gpurack lock {inventory} --check      To move pins: gpurack lock {inventory} [WHAT] --upgrade
"""


Fact = Annotated[str, Like(r"[!-~]*", "invalid-lock-fact")]
"""A fact reported by a host: one ASCII word, so that the file cannot mislead its reader."""


def _one_printable_line(path: str) -> str:
    if printable(path) != path or "\n" in path:
        raise Wrong("invalid-lock-path")
    return path


Place = Annotated[str, AfterValidator(_one_printable_line)]
"""A path on a host."""


class ModelLock(Strict):
    """One model or service.

    image: its reference without the host's mirrors, and the registry's digest of it: `ghcr.io/a/b:1@sha256:…`.
    commit: of the hub's repository with its weights. commits: of weights in its `config` (llama-cpp-python), path on
    the host → commit. weights: file on the host → sha256. ollama: model → sha256
    of its manifest, the ID that `ollama list` begins to show.
    """

    image: Fact | None = None
    commit: Fact | None = None
    commits: dict[Place, Fact] = Field({})
    weights: dict[Place, Fact] = Field({})
    ollama: dict[Fact, Fact] = Field({})

    @property
    def reference(self) -> str:
        """The image reference without its digest; "" for none."""
        return split_digest(self.image or "")[0]

    @property
    def digest(self) -> str:
        """`sha256:…`, "" for an image that no registry knows."""
        return split_digest(self.image or "")[1]


class HostLock(Strict):
    """One host.

    driver: NVIDIA's, which gpurack compares and never installs. keys: repository → fingerprint of the key that signs
    it. packages: name → exact version.
    """

    driver: Fact | None = None
    keys: dict[Fact, Fact] = Field({})
    models: dict[str, ModelLock] = Field({})
    packages: dict[Fact, Fact] = Field({})


class Lock(Strict):
    """The whole file."""

    hosts: dict[str, HostLock] = Field({})


def place(inventory: Path) -> Path:
    """The path of an inventory's lock, beside it.

    >>> str(place(Path("inventories/lab.py")))
    'inventories/lab.lock.yaml'
    """
    return inventory.with_suffix(".lock.yaml")


def model_lock(host: HostLock | None, name: str) -> ModelLock:
    """The lock of one model on a host; an empty one for a model, or a host, that is not in the lock."""
    return host.models.get(name, ModelLock()) if host else ModelLock()


def text(lock: Lock, inventory: Path) -> str:
    """The content of the file: sorted, one line per fact, the same text for the same facts."""
    hosts = {name: host.model_dump(exclude_defaults=True) for name, host in lock.hosts.items()}
    body: str = yaml.safe_dump({"hosts": hosts}, allow_unicode=True, width=10**9, default_flow_style=False)
    return HEADER.format(inventory=word(inventory.name)) + body


def facts(host: HostLock) -> dict[str, str]:
    """A host's lock as lines: `packages docker-ce` → version, `alpha image` → reference and digest, …"""
    found: dict[str, str] = {}
    for key, value in host.model_dump(exclude_defaults=True).items():
        if key == "models":
            for name, model in value.items():
                found |= {f"{name} {word}": fact for word, fact in _flat(model)}
        else:
            found |= dict(_flat({key: value}))
    return found


def _flat(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(words of the path, text) of every text in nested maps."""
    lines: list[tuple[str, str]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            lines += [(f"{key} {word}", str(fact)) for word, fact in value.items()]
        else:
            lines.append((key, str(value)))
    return lines
