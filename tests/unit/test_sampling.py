"""What of exhaustive tests runs in the inner loop, and that nothing is left out of a thorough run."""

import pytest

from tests import sampling

STEPS = ["stop a", "write x", "stop b", "start a", "write y", "stop c"]


def command(step: str) -> str:
    return step.split()[0]


def test_inner_loop_takes_one_of_each_kind_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "THOROUGH", False)
    for seed in "abcdef":
        found = sampling.sample(STEPS, seed, command)
        assert sorted(map(command, found)) == ["start", "stop", "write"]
        assert found == sorted(found, key=STEPS.index) == sampling.sample(STEPS, seed, command)
    assert len({sampling.sample(STEPS, seed)[0] for seed in map(str, range(50))}) == len(STEPS)
    assert sampling.sample([], "a") == []


MARKED = [("a", 0), ("a", 1), *(("b", number) for number in range(2, 14))]


def test_inner_loop_runs_every_tenth_marked_test_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "THOROUGH", False)
    assert sampling.left_out(MARKED) == [1, *range(3, 12), 13]


def test_thorough_run_leaves_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "THOROUGH", True)
    assert sampling.sample(STEPS, "a", command) == STEPS
    assert sampling.left_out(MARKED) == []
