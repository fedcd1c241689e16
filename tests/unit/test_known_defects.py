"""Versions with known defects are warned of, and gpurack's own examples pin none of them."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack.inventory.checks.gpus import gpu_warnings as offline
from gpurack.plan.host import plan_serving
from gpurack.plan.run import Run
from gpurack.plan.system.gpu_host import gpu_warnings
from gpurack.spec.known_defects import DEFECTS, ENGINES, FIELDS, TITLES, Component, known_defects
from gpurack.spec.problems import Problem
from tests.given import gpu, host_state, package, spec

CHECKOUT = Path(__file__).parents[2]
PINNING = [
    CHECKOUT / "README.md",
    *sorted((CHECKOUT / "inventories").glob("*.py")),
    *sorted((CHECKOUT / "docs").glob("*.md")),
    CHECKOUT / "gpurack/inventory/reference.py",
    CHECKOUT / "tests/testbed/inventory.py",
    CHECKOUT / "benchmarks/by_hand.sh",
]
"""Pages and inventories that users copy, those of the demo, and what is compared with it."""
WORDS: dict[Component, str] = {
    "toolkit": r"""\btoolkit(?:["']?: ["']?|=)(\d+\.\d+\.\d+)""",
    "docker": r"""\bdocker\b[^\n}]{0,60}version["'`]*:? ["'`]?(\d+\.\d+\.\d+)""",
    "driver": r"""\bdriver["']?:? ["']?(\d{3}\.\d+(?:\.\d+)?)""",
    "ollama": r"""\bollama(?:/ollama:| |["']?(?:: ?\{|, )["']?version["']?: ?["']?)(\d+\.\d+\.\d+)""",
    "vllm": r"""\bvllm(?:-openai:v| |["']?(?:: ?\{|, )["']?version["']?: ?["']?)(\d+\.\d+\.\d+)""",
}
"""How a page names a version of a component."""
WHOLE = {"models": {"alpha": {"port": 8000, "gpus": [0]}}}


def pinned(component: Component) -> set[str]:
    """The versions of a component that the examples pin."""
    texts = [page.read_text(encoding="utf-8") for page in PINNING]
    return {found for text in texts for found in re.findall(WORDS[component], text)}


@pytest.mark.parametrize(
    ("version", "found"),
    [
        *((bad, ["known-defect"]) for bad in ("1.18.0", "1.18.1", "1.18.2", "1.19.0", "1.19.1", "1.20.0")),
        *((good, []) for good in ("1.17.8", "1.20.1", "1.21.0", None)),
    ],
)
def test_warns_of_the_pinned_and_of_the_installed_toolkit(version: str | None, found: list[str]) -> None:
    host = {"hardware": {"A30": 1}, **WHOLE}
    wanted = spec({**host, "nvidia": {"toolkit": version} if version else {}})
    assert [problem.code for problem in offline(wanted)] == found
    there = installed(version or "1.20.1")
    assert [problem.code for problem in gpu_warnings(spec(host), there)] == found
    assert gpu_warnings(spec({**host, "nvidia": {"access": "gpus"}}), there) == []  # without CDI
    without = spec({"models": {"alpha": {"port": 8000, "gpus": []}}, "nvidia": wanted.nvidia.model_dump()})
    assert [*offline(without), *gpu_warnings(without, there)] == []


def installed(toolkit: str, **words: Any) -> Any:
    """A host with this toolkit. words: of `host_state`."""
    return replace(host_state(gpus=1, **words), packages={"nvidia-container-toolkit-base": package(f"{toolkit}-1")})


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ({"docker": {"version": "26.0.2"}}, "nvidia.toolkit"),
        ({"docker": {"version": "25.0.5"}}, "nvidia.toolkit"),
        ({"docker": {"version": "26.1.5"}}, None),
        ({"docker": {"version": "24.0.9"}}, None),  # it has no CDI, so the runtime gives the GPUs
        ({"nvidia": {"driver": "590.48.01"}, "hardware": {"V100 32GB": 1}}, "nvidia.driver"),
        ({"nvidia": {"driver": "580.95.05"}, "hardware": {"V100 32GB": 1}}, None),
        ({"nvidia": {"driver": "590.48.01"}, "hardware": {"A30": 1}}, None),
        ({"nvidia": {"driver": "580.95.05"}, "models": "0.15.1"}, "models.alpha.version"),
        ({"nvidia": {"driver": "580.95.05", "access": "gpus"}, "models": "0.15.1"}, None),
        ({"nvidia": {"driver": "570.124.06"}, "models": "0.15.1"}, None),
        ({"nvidia": {"driver": "580.95.05"}, "models": "0.14.1"}, None),
        ({"nvidia": {"driver": "580.95.05"}, "models": "0.33.0"}, None),
    ],
)
def test_warns_of_combinations(host: dict[str, Any], path: str | None) -> None:
    """Of what the inventory pins, and of what the host has."""
    version = host.pop("models", None)
    alpha = {"port": 8000, "gpus": [0]}
    alpha |= {"engine": "vllm", "version": version, "weights": "/w/a"} if version else {}
    nvidia = {"toolkit": "1.20.1", **host.pop("nvidia", {})}
    wanted = spec({"hardware": {"A30": 1}, **host, "nvidia": nvidia, "models": {"alpha": alpha}})
    found = [problem.path for problem in offline(wanted) if problem.code == "known-defect"]
    assert found == ([path] if path else [])
    here = installed("1.20.1", driver={"kernel": nvidia.get("driver", "580.159.04")})
    card = replace(gpu(0), compute="7.0" if "V100 32GB" in wanted.hardware else "8.0")
    docker = {"ServerVersion": wanted.docker.version or "28.5.2"}
    unpinned = wanted.model_copy(update={"nvidia": wanted.nvidia.model_copy(update={"toolkit": None, "driver": None})})
    told = gpu_warnings(unpinned, replace(here, gpus=(card,), docker=docker))
    assert [problem.path for problem in told if problem.code == "known-defect"] == found


@pytest.mark.parametrize(
    ("version", "driver", "compute", "found"),
    [
        ("0.33.0", "535.288.01", "8.0", 1),
        ("0.33.0", "550.163.01", "8.0", 0),
        ("0.33.0", "550.163.01", "6.1", 1),
        ("0.33.0", "550.163.01", "7.0", 0),
        ("0.33.0", "580.95.05", "6.1", 0),
        ("0.11.0", "535.288.01", "6.1", 0),
    ],
)
def test_warns_of_an_ollama_that_would_compute_on_the_cpu(version: str, driver: str, compute: str, found: int) -> None:
    entry = {"engine": "ollama", "version": version, "weights": None, "pull": ["a:1b"], "port": 8000, "gpus": [0]}
    wanted = spec({"models": {"alpha": entry}})
    here = installed("1.20.1", driver={"kernel": driver})
    facts = replace(here, gpus=(replace(gpu(0), compute=compute),))
    problems = [problem for problem in gpu_warnings(wanted, facts) if problem.code == "known-defect"]
    assert [problem.path for problem in problems] == ["models.alpha.version"] * found


def test_a_known_defect_refuses_nothing() -> None:
    wanted = spec({**WHOLE, "nvidia": {"toolkit": "1.20.0"}})
    plan = plan_serving(wanted, host_state(gpus=1), Run(salt="5a"))
    assert "known-defect" in [problem.code for problem in plan.warnings]
    assert [problem.code for problem in plan.errors.values()] == ["weights-not-on-host"]


def test_every_defect_has_a_source_and_a_fix() -> None:
    assert all(defect.versions and defect.symptom and defect.fix and defect.source for defect in DEFECTS)
    assert {component for defect in DEFECTS for component in defect.versions} == {*TITLES}
    assert all(next(iter(defect.versions)) in {*FIELDS, *ENGINES} for defect in DEFECTS)


def test_fixes_of_the_toolkit_name_a_version_without_a_known_defect() -> None:
    named = {found for defect in DEFECTS for found in re.findall(r"Use (1\.\d+\.\d+)", defect.fix)}
    assert named
    assert [*defects_of({"toolkit": version, "docker": "28.5.2"} for version in named)] == []


def defects_of(every: Any) -> Iterator[Problem]:
    """The defects of these combinations."""
    for versions in every:
        yield from known_defects(versions, "cdi")


def test_versions_that_examples_pin_have_no_known_defect() -> None:
    """Each alone and all of them together, on the oldest and on the newest GPUs that the drivers support."""
    assert pinned("toolkit") == {"1.20.1"}
    assert all(map(pinned, TITLES.keys() - {"compute"}))
    together = [
        {"toolkit": toolkit, "docker": docker, "driver": driver, "vllm": vllm, "ollama": ollama, "compute": "8.0"}
        for toolkit in pinned("toolkit")
        for docker in pinned("docker")
        for driver in pinned("driver")
        for vllm in pinned("vllm")
        for ollama in pinned("ollama")
    ]
    assert together
    for versions in together:
        assert [*known_defects(versions, "cdi")] == []
        assert [found for engine in ENGINES for found in known_defects(versions, "cdi", engine, "models.x")] == []
