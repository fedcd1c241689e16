"""The deploys of the suite, and the states of a host between which they lead. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.acceptance.conftest import model

KEY = {"env": "FAULTS_KEY"}
ALPHA = model("alpha", [0], 8000, api_key=KEY)
CHANGED = {**ALPHA, "context": 512}
BETA = model("beta", [1, 2], 8001)
GAMMA = model("gamma", [], 8002)
SWAPPED = {"alpha": {**CHANGED, "gpus": [1, 2], "port": 8001}, "beta": {**BETA, "gpus": [0], "port": 8000}}
FIRST = {"alpha": ALPHA, "beta": BETA, "gamma": GAMMA}


def docker_ce(version: str) -> dict[str, Any]:
    """A host with this version of Docker's own packages, which serves the first models."""
    return {"docker": {"source": "docker-ce", "version": version}, "models": FIRST}


STATES: Mapping[str, dict[str, Any]] = {
    "first": {"models": FIRST},
    "changed": {"models": {**FIRST, "alpha": CHANGED}},
    "swapped": {"models": {**SWAPPED, "gamma": GAMMA}},
    "fewer": {"models": SWAPPED},
    "installed": {"models": {name: {**entry, "enabled": False} for name, entry in FIRST.items()}},
    "docker 26": docker_ce("26.1.5"),
    "docker 28": docker_ce("28.5.2"),
}
"""Name → what the inventory says of the host."""


@dataclass(frozen=True)
class Deploy:
    """A run of the main job. before, after: names in STATES; before "" is a fresh host."""

    name: str
    before: str
    after: str


DEPLOYS = {
    deploy.name: deploy
    for deploy in (
        Deploy("fresh", "", "first"),
        Deploy("models", "installed", "first"),
        Deploy("change", "first", "changed"),
        Deploy("swap", "changed", "swapped"),
        Deploy("removal", "swapped", "fewer"),
        Deploy("upgrade", "docker 26", "docker 28"),
        Deploy("downgrade", "docker 28", "docker 26"),
    )
}
PROGRAMS = ("apt-get", "apt-mark", "curl", "docker", "nvidia-ctk", "systemctl")
"""The programs on the host whose calls can be held."""


def names_of(state: str) -> set[str]:
    """The models that a state serves, "" is none."""
    entries = STATES[state]["models"] if state else {}
    return {name for name, entry in entries.items() if entry.get("enabled", True)}


def ports() -> list[int]:
    """All ports at which models of the states answer."""
    return sorted({entry["port"] for state in STATES.values() for entry in state["models"].values()})


def bare(text: str) -> str:
    """A text with generations of keys (`alpha.2`) by the name of the entry.

    >>> bare("/etc/gpurack/secrets/alpha.12/api_key beta.2_api_key"), bare("alpha.gguf")
    ('/etc/gpurack/secrets/alpha/api_key beta_api_key', 'alpha.gguf')
    """
    return re.sub(rf"\b({'|'.join(FIRST)})\.\d+", r"\1", text)
