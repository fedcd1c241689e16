"""Versions with known defects are warned of, and gpurack's own examples pin none of them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gpurack.inventory.checks.gpus import gpu_warnings as offline
from gpurack.plan.system.gpu_host import gpu_warnings
from gpurack.spec.known_defects import DEFECTS
from tests.given import host_state, package, spec

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", CHECKOUT / "inventories/lab.py", *sorted((CHECKOUT / "docs").glob("*.md"))]
BAD = {(defect.component, version) for defect in DEFECTS for version in defect.versions}


@pytest.mark.parametrize(("version", "found"), [("1.18.1", ["known-defect"]), ("1.20.0", []), (None, [])])
def test_warns_of_the_pinned_and_of_the_installed_version(version: str | None, found: list[str]) -> None:
    host = {"hardware": {"A30": 1}, "models": {"alpha": {"port": 8000, "gpus": [0]}}}
    pinned = spec({**host, "nvidia": {"toolkit": version} if version else {}})
    assert [problem.code for problem in offline(pinned)] == found
    facts = host_state(gpus=1)
    there = replace(facts, packages={"nvidia-container-toolkit-base": package(f"{version or '1.20.0'}-1")})
    assert [problem.code for problem in gpu_warnings(spec(host), there)] == found
    without = spec({"models": {"alpha": {"port": 8000, "gpus": []}}, "nvidia": pinned.nvidia.model_dump()})
    assert [*offline(without), *gpu_warnings(without, there)] == []


def test_every_defect_has_a_source_and_a_fix() -> None:
    assert all(defect.versions and defect.symptom and defect.fix and defect.source for defect in DEFECTS)


def test_pinned_versions_of_examples_have_no_known_defect() -> None:
    pins = {
        ("toolkit", match)
        for page in PAGES
        for match in re.findall(r"""\btoolkit["']?: ["']?(\d+\.\d+\.\d+)""", page.read_text(encoding="utf-8"))
    }
    assert pins
    assert not pins & BAD
