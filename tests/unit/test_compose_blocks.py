"""compose.yaml is assembled twice: by the plan to compare it, and by the runner, which keeps the lines of a failed
model. Both must write the same bytes.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpurack.plan.models import compose
from tests.unit.host_programs import load

assert load
from compose_yaml import blocks_of  # noqa: E402 (of files/)

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
    """files/project.py as a module."""
    return load("project")


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


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,5}", fullmatch=True)
MOUNTS = st.lists(st.fixed_dictionaries({"type": st.sampled_from(["volume", "bind"]), "source": NAMES}), max_size=3)
SECRETS = st.lists(st.fixed_dictionaries({"source": NAMES}), max_size=2)
ANY_SERVICE = st.fixed_dictionaries(
    {"image": TEXT}, optional={"command": VALUES, "volumes": MOUNTS, "secrets": SECRETS}
)


@given(st.dictionaries(NAMES, ANY_SERVICE, max_size=4), st.dictionaries(NAMES, ANY_SERVICE, max_size=3), st.sets(NAMES))
def test_the_two_assemblers_agree_on_any_project(
    runner: Any, new: dict[str, Any], before: dict[str, Any], failed: set[str]
) -> None:
    for each in (new, before):
        for name, service in each.items():
            service["secrets"] = [{"source": f"{name}_{one['source']}"} for one in service.get("secrets", ())]
    kept = {name for name in new if name in before or name in failed}
    chosen = {name: service for name, service in new.items() if name not in kept}
    chosen |= {name: before[name] for name in kept if name in before}
    assert project(runner, new, before).text(kept) == compose.document(chosen)


@given(st.dictionaries(NAMES, ANY_SERVICE, max_size=4))
def test_runner_reads_the_blocks_that_it_wrote(
    runner: Any, tmp_path_factory: pytest.TempPathFactory, services: dict[str, Any]
) -> None:
    """Other runs change compose.yaml while this one holds no lock; their lines stay."""
    for name, service in services.items():
        service["container_name"] = f"of-{name}"
        service["secrets"] = [{"source": f"{name}_{one['source']}"} for one in service.get("secrets", ())]
    file, text = tmp_path_factory.getbasetemp() / "compose.yaml", compose.document(services)
    file.write_text(text)
    found = blocks_of(str(file))
    assert project(runner, {}, {}).assembled(found) == text
    assert {name.removeprefix("of-") for name in found} - {""} == services.keys()
    for name in services:
        rest = {other: services[other] for other in services if other != name}
        left = {other: lines for other, lines in found.items() if other != f"of-{name}"}
        assert project(runner, {}, {}).assembled(left) == compose.document(rest)


def test_a_failed_model_keeps_its_old_lines(runner: Any) -> None:
    old = {**SERVICES["beta"], "image": "b:0"}
    text = project(runner, SERVICES, {"beta": old}).text({"beta", "alpha"})
    assert text == compose.document({"beta": old, "gamma": SERVICES["gamma"]})
