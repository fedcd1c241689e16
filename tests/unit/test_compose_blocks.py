"""compose.yaml is assembled twice: by the plan to compare it, and by the runner, which keeps the lines of a failed
model. Both must write the same bytes.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gpurack.plan.models import compose
from tests.unit.host_programs import load

SERVICES: dict[str, dict[str, Any]] = {
    "beta": {
        "image": "b:1",
        "command": ["--x", "cost $5", "two\nlines", "1e6"],
        "secrets": [{"source": "beta_api_key", "target": "api_key"}],
        "volumes": [{"type": "volume", "source": "cache", "target": "/c"}, {"type": "bind", "source": "/w"}],
    },
    "alpha": {"image": "a:1", "volumes": [{"type": "volume", "source": "cache", "target": "/c"}]},
    "gamma": {"image": "c:1", "volumes": 5, "secrets": ["a stranger's"]},
}


@pytest.fixture(scope="module")
def runner() -> Any:
    """files/models.py as a module."""
    return load("models")


def project(runner: Any, new: dict[str, Any], before: dict[str, Any]) -> Any:
    """The runner's project with these services."""
    texts = {"head": compose.head(), "services": compose.blocks(new), "before": compose.blocks(before)}
    return runner.Project("", {**texts, "files": {}})


@pytest.mark.parametrize("names", [(), ("alpha",), ("alpha", "beta"), ("gamma", "beta", "alpha")])
def test_runner_and_plan_write_same_bytes(runner: Any, names: tuple[str, ...]) -> None:
    services = {name: SERVICES[name] for name in names}
    text = project(runner, services, {}).text()
    assert text == compose.document(services)
    assert yaml.safe_load(text)["services"] == compose.escaped(services)


def test_failed_model_keeps_old_lines(runner: Any) -> None:
    old = {**SERVICES["beta"], "image": "b:0"}
    text = project(runner, SERVICES, {"beta": old}).text({"beta", "alpha"})
    assert text == compose.document({"beta": old, "gamma": SERVICES["gamma"]})
