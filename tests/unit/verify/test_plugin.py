"""The pytest plugin, on an inventory of hosts that nobody can reach. Each run is a process of its own, as reading a
Python inventory patches the interpreter; so there are few of them."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    assert gpurack_model.server.wanted.models[gpurack_model.name].port == 8000
    assert gpurack_model.server.host.backend.NAME == "pyinfra"
"""


@pytest.fixture
def lab(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_KEY", "sk-1")
    return pytester.makepyfile(lab=LAB)


def run(pytester: pytest.Pytester, *options: object) -> pytest.RunResult:
    """The checks, from any folder."""
    return pytester.runpytest_subprocess("--pyargs", "gpurack.verify", "-p", "no:cacheprovider", *options)


def collected(pytester: pytest.Pytester, *options: object) -> set[str]:
    lines = run(pytester, "--collect-only", "-q", *options).outlines
    return {line.rpartition("::")[2] for line in lines if "::" in line}


def test_an_item_for_each_host_and_model_that_a_check_is_about(pytester: pytest.Pytester, lab: Path) -> None:
    found = collected(pytester, "--inventory", lab)
    assert {"test_packages[gpu1]", "test_packages[cpu1]", "test_ready[gpu1-alpha]", "test_ready[cpu1-beta]"} <= found
    assert "test_refuses_a_wrong_key[gpu1-alpha]" in found
    assert "test_refuses_a_wrong_key[cpu1-beta]" not in found  # it has no key
    assert not any("NOTSET" in name or "test_runtime" in name for name in found)  # nobody has cards
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
def test_pytests_own_ways_to_choose(
    pytester: pytest.Pytester, lab: Path, options: list[str], expected: set[str]
) -> None:
    assert collected(pytester, "--inventory", lab, *options) == expected


def test_a_host_that_cannot_be_reached_is_a_sentence_and_a_failure(pytester: pytest.Pytester) -> None:
    """Also: a YAML inventory, and a check of one's own beside, which gets spec, evidence and testinfra's host."""
    (pytester.path / "lab.yaml").write_text(YAML)
    pytester.makepyfile(test_mine=MINE)
    result = run(pytester, "test_mine.py", "--inventory", "lab.yaml", "-k", "holds or mine", "--junitxml", "report.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["gpu1: expected a host that answers, found Could not connect*", "    fix: see why ssh gpu1 does not get in"]
    )
    assert "Traceback" not in result.stdout.str()
    assert 'message="Failed: gpu1: expected a host that answers' in (pytester.path / "report.xml").read_text()


def test_a_host_that_cannot_be_reached_fails_once(pytester: pytest.Pytester) -> None:
    """And what was not looked at has not passed."""
    (pytester.path / "lab.yaml").write_text(YAML)
    result = run(pytester, "--pyargs", "gpurack.verify", "--inventory", "lab.yaml")
    outcomes = result.parseoutcomes()
    assert (result.ret, outcomes["failed"], "passed" in outcomes) == (pytest.ExitCode.TESTS_FAILED, 1, False)
    assert outcomes["skipped"] > 10


@pytest.mark.parametrize(
    ("options", "sentences"),
    [
        ([], ["name the lab to check: --inventory"]),
        (["--inventory", "lab.py", "--limit", "gpu7"], ["--limit gpu7 leaves no host; there are gpu1, cpu1."]),
        (["--inventory", "wrong.py"], [f'{where} unknown field "prot"; did you mean "port"?' for where in
          ("gpu1 models.alpha.prot:", "cpu1 models.beta.prot:")]),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_said(
    pytester: pytest.Pytester, lab: Path, options: list[str], sentences: list[str]
) -> None:
    pytester.makepyfile(wrong=LAB.replace('"port": 8000', '"prot": 8000'))
    result = run(pytester, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert all(sentence in result.stderr.str() for sentence in sentences)
