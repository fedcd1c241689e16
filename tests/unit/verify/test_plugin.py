"""The pytest plugin, with an inventory of unreachable hosts. Each run is a fork, because reading a Python inventory
patches the interpreter.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests import forked

pytestmark = pytest.mark.sampled

pytest_plugins = ["pytester"]

LAB = """
_NOBODY = {"ssh_hostname": "127.0.0.1", "ssh_port": 1}
_ALPHA = {"weights": "/w/a.gguf", "port": 8000, "api_key": {"env": "LAB_KEY"}}
_BETA = {"weights": "/w/b.gguf", "port": 8000}
lab = ([("gpu1", {**_NOBODY, "models": {"alpha": _ALPHA}}), ("cpu1", {**_NOBODY, "models": {"beta": _BETA}})],
       {"defaults": {"engine": "llama.cpp", "version": "b7000"}})
"""
YAML = """
all: {defaults: {engine: llama.cpp, version: b7000}, ssh_hostname: 127.0.0.1, ssh_port: 1}
hosts: {gpu1: {models: {alpha: {weights: /w/a.gguf, port: 8000}}}}
"""
MINE = """
def test_mine(gpurack_model):
    assert gpurack_model.server.spec.models[gpurack_model.name].port == 8000
    assert gpurack_model.server.host.backend.NAME == "pyinfra"
"""


@pytest.fixture
def lab(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_KEY", "sk-1")
    return pytester.makepyfile(lab=LAB)


def run(pytester: pytest.Pytester, *options: object) -> pytest.RunResult:
    """Run the checks from any folder."""
    words = [
        "--pyargs",
        "gpurack.verify",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        f"--basetemp={pytester.path}/runpytest",
    ]
    words += map(str, options)
    begin = time.monotonic()
    done = forked.run(lambda: pytest.main(words), ["pytest", *words], cwd=pytester.path)
    seconds = time.monotonic() - begin
    return pytest.RunResult(done.returncode, done.stdout.splitlines(), done.stderr.splitlines(), seconds)


def collected(pytester: pytest.Pytester, *options: object) -> set[str]:
    lines = run(pytester, "--collect-only", "-q", *options).outlines
    return {line.rpartition("::")[2] for line in lines if "::" in line}


def test_collects_one_item_per_host_or_model(pytester: pytest.Pytester, lab: Path) -> None:
    found = collected(pytester, "--inventory", lab)
    assert {"test_packages[gpu1]", "test_packages[cpu1]", "test_ready[gpu1-alpha]", "test_ready[cpu1-beta]"} <= found
    assert "test_refuses_a_wrong_key[gpu1-alpha]" in found
    assert "test_refuses_a_wrong_key[cpu1-beta]" not in found  # it has no key
    assert not any("NOTSET" in name or "test_runtime" in name for name in found)  # no host has GPUs
    assert not any("hashed" in name for name in found)  # only with -m deep


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-m", "deep", "--limit", "gpu*"], {"test_weights_hashed[gpu1-alpha]"}),
        (
            ["-k", "holds or (beta and ready)", "--limit", "lab"],  # a group
            {"test_holds[gpu1]", "test_holds[cpu1]", "test_ready[cpu1-beta]"},
        ),
    ],
)
def test_selects_by_marker_keyword_and_limit(
    pytester: pytest.Pytester, lab: Path, options: list[str], expected: set[str]
) -> None:
    assert collected(pytester, "--inventory", lab, *options) == expected


def test_unreachable_host_is_a_failure_without_traceback(pytester: pytest.Pytester) -> None:
    """Also with a YAML inventory, and with a user's own check, which gets spec, evidence and testinfra's host."""
    (pytester.path / "lab.yaml").write_text(YAML)
    pytester.makepyfile(test_mine=MINE)
    result = run(pytester, "test_mine.py", "--inventory", "lab.yaml", "-k", "holds or mine", "--junitxml", "report.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["gpu1: could not connect: *Try `ssh -p 1 127.0.0.1`."])
    assert "Traceback" not in result.stdout.str()
    assert 'message="Failed: gpu1: could not connect' in (pytester.path / "report.xml").read_text()


def test_unreachable_host_fails_once(pytester: pytest.Pytester) -> None:
    """Checks that did not run have not passed."""
    (pytester.path / "lab.yaml").write_text(YAML)
    result = run(pytester, "--pyargs", "gpurack.verify", "--inventory", "lab.yaml")
    outcomes = result.parseoutcomes()
    assert (result.ret, outcomes["failed"], "passed" in outcomes) == (pytest.ExitCode.TESTS_FAILED, 1, False)
    assert outcomes["skipped"] > 10


@pytest.mark.parametrize(
    ("options", "sentences"),
    [
        ([], ["name the lab to check: --inventory"]),
        (["--inventory", "lab.py", "--limit", "gpu7"], ["--limit gpu7 matches no host. Hosts: gpu1, cpu1."]),
        (["--inventory", "wrong.py"],
         ['unknown field "prot": cpu1 beta.prot · gpu1 alpha.prot. Did you mean "port"?']),
    ],
)  # fmt: skip
def test_usage_errors_name_the_cause(
    pytester: pytest.Pytester, lab: Path, options: list[str], sentences: list[str]
) -> None:
    pytester.makepyfile(wrong=LAB.replace('"port": 8000', '"prot": 8000'))
    result = run(pytester, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert all(sentence in result.stderr.str() for sentence in sentences)


def test_items_of_a_host_in_maintenance_are_skipped(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", "sk-1")
    text = LAB.replace('("gpu1", {', '("gpu1", {"maintenance": "RMA until 15 Jan", ')
    done = run(pytester, "--inventory", pytester.makepyfile(lab=text), "--limit", "gpu1", "-rs")
    assert done.ret == 0
    assert "gpu1: skipped, maintenance: RMA until 15 Jan" in done.outlines
    assert done.parseoutcomes().keys() <= {"skipped", "deselected"}
