"""Models that need each other's GPUs and ports: they change together or not at all, and never two are on one GPU."""

from __future__ import annotations

import copy

import pytest

from tests.acceptance.conftest import Lab, cards, identities, model
from tests.acceptance.evidence import RUNNING_WITH_CARDS, cards_held_twice, sampled
from tests.acceptance.replacement.conftest import (
    CRASHES,
    NAME,
    NEW,
    Models,
    answering,
    apply,
    down,
    ids,
    right,
    sentence,
    serves_again,
    settle,
    within,
)
from tests.testbed import Host

pytestmark = pytest.mark.usefixtures("untouched")
NAMES = ("alpha", "beta", "gamma")


def ring(turn: int) -> Models:
    """Three models, each on the GPU and at the port of the next one after each turn."""
    spots = [(number + turn) % 3 for number in range(3)]
    return {name: model(name, [spot], 8000 + spot) for name, spot in zip(NAMES, spots, strict=True)}


def serving(models: Models) -> dict[str, tuple[int, str]]:
    return {name: (entry["port"], name) for name, entry in models.items()}


def test_ring_of_three_turns(lab: Lab, host: Host) -> None:
    settle(lab, host, ring(0))
    with sampled(host, RUNNING_WITH_CARDS, every=0.2) as samples:
        run = apply(lab, ring(1))
    assert run.exit_code == 0, run.output
    assert len(samples.looks) > 10
    assert cards_held_twice(samples) == []
    right(host, serving(ring(1)))
    for name, entry in ring(1).items():
        assert cards(host, name) == [host.gpus.uuids[entry["gpus"][0]]]


def test_ring_with_a_failing_one_turns_back(lab: Lab, host: Host) -> None:
    """The last of the three crashes, when the two others serve at their new places already."""
    before = ids(host)
    wanted = ring(2)
    wanted["gamma"] |= {**CRASHES, **NEW}
    with sampled(host, RUNNING_WITH_CARDS, every=0.2) as samples:
        run = apply(lab, wanted)
    assert run.exit_code == 1, run.output
    assert cards_held_twice(samples) == []
    assert ids(host) == before
    right(host, serving(ring(1)))
    for name, entry in ring(1).items():
        assert cards(host, name) == [host.gpus.uuids[entry["gpus"][0]]]
    serves_again(run, "gamma")
    for name in ("alpha", "beta"):
        assert "shares a GPU or port with gamma, which failed" in sentence(run, name)
        assert "FAILED" in run.row(NAME, name), run.output
    assert f"{NAME} gamma" in run.row(NAME, "gamma")


def test_failing_ring_is_not_tried_again(lab: Lab, host: Host) -> None:
    before = identities(host)
    wanted = ring(2)
    wanted["gamma"] |= {**CRASHES, **NEW}
    run = apply(lab, wanted)
    assert run.exit_code == 1, run.output
    assert identities(host) == before


READY = 25
"""Seconds for which one that never gets ready is waited for."""
STUBBORN = 28
"""Fewer seconds than the stop of a container takes that ignores TERM."""


def shared() -> Models:
    """Three models that share a GPU."""
    return {name: model(name, [3], 8000 + number, vram="4GiB") for number, name in enumerate(NAMES)}


def test_models_of_one_gpu_fail_alone(lab: Lab, host: Host) -> None:
    """One never gets ready, and another's old container ignores TERM for half a minute. The third changes meanwhile;
    each is down only as long as its own change takes."""
    stubborn = {
        "entrypoint": ["sh", "-c", 'trap "" TERM; /app/llama-server "$@" & while :; do wait; sleep 1; done', "sh"]
    }
    models = shared()
    models["gamma"]["compose"] = stubborn
    settle(lab, host, models)
    wanted = copy.deepcopy(shared())
    wanted["alpha"] |= {"context": 512}
    wanted["beta"] |= {
        "ready_timeout": f"{READY}s",
        "compose": {"entrypoint": ["sh", "-c", "trap exit TERM; sleep 999 & wait"]},
    }
    with sampled(host, answering(8000, 8001, 8002)) as samples:
        run = apply(lab, wanted)
    assert run.exit_code == 1, run.output
    right(host, serving(shared()))
    assert "recreated" in run.row(NAME, "alpha"), run.output
    assert "recreated" in run.row(NAME, "gamma"), run.output
    serves_again(run, "beta")
    assert down(samples, 8000) < within(10, READY), "it waited for another's stop or start"
    assert down(samples, 8001) < within(READY + 15, READY + STUBBORN), "it waited for another's stop"
