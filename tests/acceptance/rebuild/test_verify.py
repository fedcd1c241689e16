"""`pytest tests/verify` on real hosts: a correct host has no drift, and each single one is found and named."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.acceptance.conftest import CHECKOUT, PYINFRA, Lab, model
from tests.acceptance.rebuild.drifts import ON_CPU3, ON_GPU3, PATH_WEIGHTS, Drift
from tests.acceptance.verification import verify
from tests.testbed import Host, gguf_models, services
from tests.testbed.hosts import SSH_CONFIG
from tests.testbed.inventory import REGISTRY

KEY = "sk-lab-4711-verify"
ENV = {"LAB_KEY": KEY}
ROUNDS = list(zip_longest(ON_CPU3, ON_GPU3))


@pytest.fixture(scope="module")
def inventory(lab: Lab, cpu3: Host, gpu3: Host) -> Iterator[Path]:
    """Two fresh hosts, provisioned; gone afterwards, because other tests want no docker-ce there."""
    for host in (cpu3, gpu3):
        lab.testbed.recreate(host.name)
    for path, name in {PATH_WEIGHTS: "delta", "/srv/other.gguf": "beta"}.items():
        cpu3.put(gguf_models.served(services.WEIGHTS, name).path.read_bytes(), path)
    file = lab.inventory(
        {
            "cpu3": {
                "models": {
                    "gamma": model("gamma", [], 8000, api_key={"env": "LAB_KEY"}),
                    "delta": {"weights": PATH_WEIGHTS, "port": 8001},
                }
            },
            "gpu3": {
                "hardware": {"A30": 4},
                "models": {"alpha": model("alpha", [0], 8000), "beta": model("beta", [1, 2], 8001)},
            },
        },
        over={"docker": {"version": "28.5.2", "daemon": {"insecure-registries": [REGISTRY], "live-restore": True}}},
    )
    run = lab.run(file, env=ENV)
    assert run.exit_code == 0, run.output
    yield file
    for host in (cpu3, gpu3):
        lab.testbed.remove(host.name)


def test_a_correct_host_has_no_drift(lab: Lab, inventory: Path) -> None:
    found = verify(lab, inventory, ENV)
    assert (found.exit_code, found.failed) == (0, {}), found.output
    deep = verify(lab, inventory, ENV, "-m", "deep")
    assert (deep.exit_code, deep.failed, deep.count) == (0, {}, 4), deep.output


@pytest.mark.parametrize("pair", ROUNDS, ids=[" ".join(one.name for one in pair if one) for pair in ROUNDS])
def test_a_single_drift_is_found_and_named(
    lab: Lab, inventory: Path, cpu3: Host, gpu3: Host, pair: tuple[Drift | None, Drift | None]
) -> None:
    """One on each of two hosts, which know nothing of each other."""
    there = [(host, drift) for host, drift in zip((cpu3, gpu3), pair, strict=True) if drift]
    try:
        for host, drift in there:
            drift.apply(host)
        found = verify(lab, inventory, ENV, *(("-m", "deep or not deep") if any(one.deep for _, one in there) else ()))
    finally:
        for host, drift in there:
            drift.undo(host)
    for host, drift in there:
        said = found.of(host.name)
        assert set(said) == set(drift.fails), found.output
        assert re.search(drift.says, "\n".join(said.values())), found.output
        assert all(text.startswith(f"Failed: {host.name}") and "mend: " in text for text in said.values()), found.output


def test_undone_by_hand_they_are_gone(lab: Lab, inventory: Path) -> None:
    found = verify(lab, inventory, ENV, "-m", "deep or not deep")
    assert (found.exit_code, found.failed) == (0, {}), found.output


def test_what_is_gpuracks_to_mend_the_next_run_mends(lab: Lab, inventory: Path, cpu3: Host, gpu3: Host) -> None:
    """All of it together, in one run."""
    for host, drifts in ((cpu3, ON_CPU3), (gpu3, ON_GPU3)):
        for drift in drifts:
            if drift.mended:
                drift.apply(host)
    found = verify(lab, inventory, ENV)
    for host, drifts in ((cpu3, ON_CPU3), (gpu3, ON_GPU3)):
        assert {check for drift in drifts if drift.mended for check in drift.fails} <= set(found.of(host.name))

    run = lab.run(inventory, env=ENV)

    assert run.exit_code == 0, run.output
    found = verify(lab, inventory, ENV)
    assert (found.exit_code, found.failed) == (0, {}), found.output


@pytest.mark.parametrize(
    "name", ["image-retagged", "another-key-on-the-host", "one-bit-of-the-weights-flipped", "model-hangs"]
)
def test_for_the_rest_the_command_it_names_mends(lab: Lab, inventory: Path, cpu3: Host, name: str) -> None:
    drift = next(drift for drift in ON_CPU3 if drift.name == name)
    drift.apply(cpu3)
    said = verify(lab, inventory, ENV, "-m", "deep or not deep", "--limit", "cpu3").of("cpu3")
    assert set(said) == set(drift.fails)
    mends = {
        line.strip().removeprefix("mend: ") for text in said.values() for line in text.splitlines() if "mend: " in line
    }
    for mend in mends:
        command = mend.replace("ssh ", f"ssh -F {SSH_CONFIG} ").replace("pyinfra ", f"{PYINFRA} -y ")
        subprocess.run(["sh", "-c", command], cwd=CHECKOUT, env={**lab.env(), **ENV}, check=True)
    found = verify(lab, inventory, ENV, "-m", "deep or not deep")
    assert (found.exit_code, found.failed) == (0, {}), found.output
