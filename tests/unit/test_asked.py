"""When a model that runs as it should is asked again: its last test request failed, or is not known."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from gpurack.facts.record import Test
from gpurack.plan.models import weights
from tests.given import id_of, models
from tests.unit.test_models_plan import READY, plan, settled

ONE = models(alpha={"gpus": [0]})
PASSED = {"id": id_of("alpha"), "at": "2026-11-28T03:00:00Z", "since": "", "why": ""}
FAILED = {**PASSED, "since": "2026-11-27T23:30:00Z", "why": "HTTP 500"}


def change(test: dict[str, Any] | None = PASSED, **over: Any) -> str:
    """What a run does to alpha. test: its last test request. over: fields of its container."""
    facts = settled(ONE)
    tests = {("", "alpha"): Test(**test)} if test else {}
    there = tuple(replace(one, **over) for one in facts.containers)
    facts = replace(facts, tests=tests, containers=there, now=datetime(2026, 11, 28, 3, tzinfo=UTC))
    return str(plan(ONE, facts).changes[0])


@pytest.mark.parametrize(
    ("test", "over", "found"),
    [
        (PASSED, {}, "keep alpha"),
        (FAILED, {}, "check alpha: failing since 2026-11-27 23:30 UTC: HTTP 500"),
        (None, {}, "check alpha: its answer to a request is not known"),
        ({**FAILED, "id": "f" * 64}, {}, "check alpha: its answer to a request is not known"),
        (FAILED, {"status": "exited"}, "start alpha: it exited with code 0"),
        (PASSED, {"restarts": 3, "started": "2026-11-28T02:59:57Z"}, "wait alpha: still loading"),
        (PASSED, {"restarts": 3, "started": "2026-11-28T02:00:00Z"}, "keep alpha"),
        (PASSED, {"restarts": 0, "started": "2026-11-28T02:59:57Z"}, "keep alpha"),
        ({**PASSED, "restarts": 3}, {"restarts": 3, "started": "2026-11-28T02:00:00Z"}, "keep alpha"),
        ({**PASSED, "restarts": 0}, {"restarts": 3, "started": "2026-11-28T02:59:57Z"}, "wait alpha: still loading"),
        (
            {**PASSED, "restarts": 0},
            {"restarts": 3, "started": "2026-11-28T02:00:00Z"},
            "check alpha: it was restarted 3 times since 2026-11-28 03:00 UTC",
        ),
        (
            {**PASSED, "restarts": 5},  # somebody stopped and started it, which sets Docker's count to 0
            {"restarts": 1, "started": "2026-11-28T02:00:00Z"},
            "check alpha: it was restarted once since 2026-11-28 03:00 UTC",
        ),
        (  # by a boot, or by hand
            {**PASSED, "restarts": 0, "started": "2026-11-27T02:00:00Z"},
            {"started": "2026-11-28T02:00:00Z"},
            "check alpha: it was started since its last test",
        ),
        ({**PASSED, "started": "2026-11-28T02:00:00Z"}, {"started": "2026-11-28T02:00:00Z"}, "keep alpha"),
        (
            {**FAILED, "started": "2026-11-27T02:00:00Z"},
            {"started": "2026-11-28T02:00:00Z"},
            "check alpha: failing since 2026-11-27 23:30 UTC: HTTP 500",
        ),
    ],
)
def test_asks_until_the_last_answer_is_right(test: dict[str, Any] | None, over: dict[str, Any], found: str) -> None:
    assert change(test, **over) == found


def test_container_that_docker_does_not_list_is_started() -> None:
    """With a full disk, `docker inspect` says running and `docker ps` says Created: then nobody could ask it."""
    facts = replace(settled(ONE), probes={})
    assert str(plan(ONE, replace(facts, tools=frozenset({"curl"}))).changes[0]) == (
        "start alpha: it runs, but Docker does not list it"
    )
    assert str(plan(ONE, facts).changes[0]) == "keep alpha"


@pytest.mark.parametrize(
    ("listeners", "probe", "found"),
    [
        (["0.0.0.0:22 sshd (pid 1)"], (0, "refused"), "restart alpha: Docker no longer publishes its port 8000"),
        (["127.0.0.1:8001 x (pid 2)"], (0, "refused"), "restart alpha: Docker no longer publishes its port 8000"),
        (["127.0.0.1:8000 docker-proxy (pid 7)"], (0, "refused"), "wait alpha: still loading"),
        (["0.0.0.0:8000 dockerd (pid 7)"], (0, "reset"), "wait alpha: still loading"),
        ([], (0, "refused"), "wait alpha: still loading"),
        (["0.0.0.0:22 sshd (pid 1)"], READY, "keep alpha"),
    ],
)
def test_model_whose_port_docker_lost_is_restarted(listeners: list[str], probe: tuple[int, str], found: str) -> None:
    """A Docker with live-restore that starts on a full disk lists the port, and nothing listens there."""
    facts = settled(ONE, listeners=listeners, probes={"alpha": probe})
    facts = replace(facts, tests={("", "alpha"): Test(**PASSED)})
    planned = plan(ONE, facts)
    assert str(planned.changes[0]) == found
    assert (planned.errors, planned.nothing) == ({}, found == "keep alpha")


def test_missing_weights_are_fetched_while_it_serves() -> None:
    """Deleted under a running model, it would not survive a restart. A special file there is not touched."""
    wanted = models(alpha={"gpus": [0], "weights": {"url": "http://w/a.gguf", "sha256": "a" * 64}})
    facts = settled(wanted)
    (path,) = weights.paths(wanted)
    gone = replace(facts, weights={path: None})
    planned = plan(wanted, gone)
    assert str(planned.changes[0]) == f"check alpha: {path} is missing on the host; it is fetched again"
    assert not planned.changes[0].looks_only
    assert planned.job
    ((model,),) = planned.job["batches"]
    assert (model["action"], [one["path"] for one in model["fetch"]]) == ("check", [path])
    assert str(plan(wanted, replace(gone, irregular={path: "fifo"})).changes[0]) == "keep alpha"
