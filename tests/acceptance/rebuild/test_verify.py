"""`pytest tests/verify` on real hosts: a correct host has no drift, and each drift is found and named.

cpu3 has three copies, so that one run of the checks finds four of its drifts and one of gpu3's. The hosts do not know
each other.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.acceptance.conftest import CHECKOUT, GPURACK, Lab, model
from tests.acceptance.rebuild.drifts import ON_CPU3, ON_GPU3, PATH_WEIGHTS, Drift, answers
from tests.acceptance.verification import verify
from tests.testbed import Host, gguf_models, services
from tests.testbed.hosts import SSH_CONFIG
from tests.testbed.inventory import REGISTRY

KEY = "sk-lab-4711-verify"
ENV = {"LAB_KEY": KEY}
CPUS = ("cpu3", "cpu6", "cpu7", "cpu8")
"""cpu3 and its copies."""
ON_CPU = {
    "models": {
        "gamma": model("gamma", [], 8000, api_key={"env": "LAB_KEY"}),
        "delta": {"weights": PATH_WEIGHTS, "port": 8001},
    }
}
ON_GPU = {
    "hardware": {"A30": 4},
    "models": {"alpha": model("alpha", [0], 8000), "beta": model("beta", [1, 2], 8001)},
}
OVER = {"docker": {"version": "28.5.2", "daemon": {"insecure-registries": [REGISTRY], "live-restore": True}}}


def in_rounds(drifts: list[Drift]) -> Iterator[dict[str, Drift]]:
    """Host → its drift in each round. The deep checks also find most drifts of the others, so theirs are separate."""
    for deep in (False, True):
        some = [drift for drift in drifts if drift.deep is deep]
        for start in range(0, len(some), len(CPUS)):
            yield dict(zip(CPUS, some[start : start + len(CPUS)], strict=False))


ROUNDS = [
    on_cpus | ({"gpu3": on_gpu} if on_gpu else {})
    for on_cpus, on_gpu in zip_longest(in_rounds(ON_CPU3), ON_GPU3, fillvalue={})
]


@pytest.fixture(scope="module")
def inventory(lab: Lab, cpu3: Host, gpu3: Host) -> Iterator[Path]:
    """Two fresh hosts, deployed, and the copies. Removed afterwards, because other tests expect no docker-ce."""
    for path, name in {PATH_WEIGHTS: "delta", "/srv/other.gguf": "beta"}.items():
        cpu3.put(gguf_models.served(services.WEIGHTS, name).path.read_bytes(), path)
    run = lab.run(lab.inventory({"cpu3": ON_CPU, "gpu3": ON_GPU}, OVER), env=ENV)
    assert run.exit_code == 0, run.output
    for host in lab.testbed.copy(*CPUS):
        for one in ("gamma", "delta"):
            host.root(answers(one))
    yield lab.inventory({**dict.fromkeys(CPUS, ON_CPU), "gpu3": ON_GPU}, OVER)
    for name in (*CPUS, gpu3.name):
        lab.testbed.remove(name)


def test_correct_host_has_no_drift(lab: Lab, inventory: Path) -> None:
    found = verify(lab, inventory, ENV)
    assert (found.exit_code, found.failed) == (0, {}), found.output
    deep = verify(lab, inventory, ENV, "-m", "deep")
    assert (deep.exit_code, deep.failed, deep.count) == (0, {}, 10), deep.output


def test_the_command_prints_a_line_for_each_host_and_model(lab: Lab, inventory: Path) -> None:
    argv = [GPURACK, "verify", str(inventory), "-k", "packages or runs"]
    done = subprocess.run(argv, cwd=CHECKOUT, env={**lab.env(), **ENV}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert {"HOST MODEL STATE", "cpu3 - ok, 2 checks", "gpu3 - ok, 2 checks", "gpu3 alpha ok, 1 check"} <= {*lines}
    assert lines.index("gpu3 alpha ok, 1 check") < lines.index("gpu3 beta ok, 1 check")
    assert any(line.startswith("5 hosts, 10 models: ") and " checks passed. " in line for line in lines)


@pytest.mark.parametrize("drifts", ROUNDS, ids=[" ".join(one.name for one in each.values()) for each in ROUNDS])
def test_single_drift_is_found_and_named(lab: Lab, inventory: Path, drifts: dict[str, Drift]) -> None:
    """One on each host; a host without one reports none."""
    deep = any(drift.deep for drift in drifts.values())
    with ThreadPoolExecutor() as pool:
        on_hosts = [(lab.testbed.host(name), drift) for name, drift in drifts.items()]
        try:
            list(pool.map(lambda one: one[1].apply(one[0]), on_hosts))
            found = verify(lab, inventory, ENV, *(("-m", "deep or not deep") if deep else ()))
        finally:
            list(pool.map(lambda one: one[1].undo(one[0]), on_hosts))
    assert {host for host, _ in found.failed} == set(drifts), found.output
    for host, drift in drifts.items():
        said = found.of(host)
        assert set(said) == set(drift.fails), found.output
        assert re.search(drift.says, "\n".join(said.values())), found.output
        assert all(text.startswith(f"Failed: {host}") and "fix: " in text for text in said.values()), found.output


def test_drift_is_gone_after_manual_repair(lab: Lab, inventory: Path) -> None:
    found = verify(lab, inventory, ENV, "-m", "deep or not deep")
    assert (found.exit_code, found.failed) == (0, {}), found.output


def test_next_run_repairs_what_gpurack_owns(lab: Lab, inventory: Path, cpu3: Host, gpu3: Host) -> None:
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


def test_printed_command_repairs_the_rest(lab: Lab, inventory: Path) -> None:
    """Each on its own host."""
    names = ("image-retagged", "another-key-on-the-host", "one-bit-of-the-weights-flipped", "model-hangs")
    drifts = {drift.name: drift for drift in ON_CPU3}
    for host, name in zip(CPUS, names, strict=True):
        drifts[name].apply(lab.testbed.host(host))
    found = verify(lab, inventory, ENV, "-m", "deep or not deep")
    for host, name in zip(CPUS, names, strict=True):
        assert set(found.of(host)) == set(drifts[name].fails), found.output
    said = "\n".join(found.failed.values())
    for mend in {line.strip().removeprefix("fix: ") for line in said.splitlines() if "fix: " in line}:
        command = mend.replace("ssh ", f"ssh -F {SSH_CONFIG} ").replace("gpurack apply ", f"{GPURACK} apply -y ")
        subprocess.run(["sh", "-c", command], cwd=CHECKOUT, env={**lab.env(), **ENV}, check=True)
    found = verify(lab, inventory, ENV, "-m", "deep or not deep")
    assert (found.exit_code, found.failed) == (0, {}), found.output
