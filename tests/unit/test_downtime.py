"""What a change stops is named with the expected downtime, from the last starts on that host, in every view."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.commands.diff import HostPlan, as_data, show_plans
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Ready, read
from gpurack.plan.host import Preview
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.steps import Finding, about, down_for
from gpurack.plan.system.restart import what_stops
from gpurack.screen import console
from gpurack.spec.host import Host
from tests.given import container, models, models_plan
from tests.unit.test_models_plan import settled

VLLM = {"engine": "vllm", "version": "0.33.0", "gpus": [0], "weights": "/w/folder", "vram": "5GiB"}


def started(facts: HostFacts, **seconds: int | None) -> HostFacts:
    """A host with the seconds of each model's last start; None: ready, but nobody saw how long that took."""
    ready = {("", name): (Ready("t", "l", "i", "", "x", took),) for name, took in seconds.items()}
    return replace(facts, ready=ready)


def changed(old: Host, new: Host, **seconds: int | None) -> ModelsPlan:
    facts = settled(old, weights={"/w/folder": 1})
    return models_plan(new, started(facts, **seconds))


def down(plan: ModelsPlan) -> dict[str, int | None]:
    return {change.model: change.down for change in plan.changes}


def test_recreated_model_is_down_as_long_as_its_last_start_took() -> None:
    two = {"alpha": {"gpus": [0]}, "beta": {"gpus": [1]}}
    plan = changed(models(**two), models(**two | {"alpha": {"gpus": [0], "context": 512}}), alpha=98, beta=7)
    assert down(plan) == {"alpha": 98, "beta": None}
    [change] = [each for each in plan.findings if each.entry == "alpha"]
    assert change.text.endswith(" (down for about 1 min 40 s)")
    assert change.text == change.line + down_for(change.down)


@pytest.mark.parametrize("seconds", [{}, {"alpha": None}])
def test_unknown_time_is_not_invented(seconds: dict[str, None]) -> None:
    plan = changed(models(alpha={}), models(alpha={"context": 512}), **seconds)
    assert down(plan) == {"alpha": None}
    assert all(each.text == each.line for each in plan.findings)


def test_newest_known_time_counts() -> None:
    facts = settled(models(alpha={}))
    history = tuple(Ready("t", "l", "i", "", "x", took) for took in (None, 5, 9))
    plan = models_plan(models(alpha={"context": 512}), replace(facts, ready={("", "alpha"): history}))
    assert down(plan) == {"alpha": 5}


def test_model_that_moves_to_another_docker_is_down_as_long_as_its_last_start_in_the_former_one() -> None:
    facts = HostFacts(ready={("", "alpha"): (Ready("t", "l", "i", "", "x", 5),)})
    assert [facts.last_start("alpha", user) for user in ("", "ada")] == [5, 5]
    here = replace(facts, ready={**facts.ready, ("ada", "alpha"): (Ready("t", "l", "i", "", "x", 9),)})
    assert [here.last_start("alpha", user) for user in ("", "ada", "bob")] == [5, 9, 5]


def test_model_that_is_down_already_or_new_has_none() -> None:
    facts = started(settled(models(alpha={})), alpha=5, beta=5)
    facts = replace(facts, containers=tuple(replace(each, status="exited") for each in facts.containers))
    plan = models_plan(models(alpha={"context": 512}, beta={"gpus": [1]}), facts)
    assert down(plan) == {"alpha": None, "beta": None}


def test_engines_that_profile_memory_start_one_after_another() -> None:
    old = models(alpha=VLLM, beta={**VLLM, "port": 8001})
    new = models(alpha={**VLLM, "context": 512}, beta={**VLLM, "port": 8001, "context": 512})
    assert down(changed(old, new, alpha=40, beta=30)) == {"alpha": 40, "beta": 70}
    assert down(changed(old, new, beta=30)) == {"alpha": None, "beta": None}, "how long it waits for alpha is unknown"


def test_restart_of_docker_names_what_stops() -> None:
    facts = started(settled(models(alpha={}, beta={"gpus": [1]})), alpha=38)
    assert what_stops(facts, live_restore=True) == ""
    assert what_stops(facts, live_restore=False) == ", which stops 2 containers: alpha (down for about 40 s), beta"
    train = replace(container("train-7"), started="2026-11-25T03:00:00Z")
    for foreign, now, up in (
        (train, datetime(2026, 11, 28, 4, tzinfo=UTC), ", up 3 d"),
        (train, None, ""),
        (container("train-7"), datetime(2026, 11, 28, 4, tzinfo=UTC), ""),
    ):
        with_foreign = replace(facts, containers=(*facts.containers, foreign), now=now)
        assert what_stops(with_foreign, live_restore=False) == (
            f", which stops 3 containers: train-7 (not gpurack's{up}), alpha (down for about 40 s), beta"
        )


@given(st.integers(0, 10**6))
def test_estimate_is_rounded_up_by_less_than_ten_seconds(seconds: int) -> None:
    number, unit, *rest = about(seconds).split()
    if unit == "s":
        assert seconds <= int(number) < seconds + 10
    assert down_for([seconds]) == f" (down for about {' '.join([number, unit, *rest])})"


def shown(**plans: Finding) -> str:
    screen = console(width=100)
    with screen.capture() as captured:
        show_plans(screen, {name: HostPlan(Preview((each,))) for name, each in plans.items()})
    return captured.get()


def recreate(*seconds: int) -> Finding:
    return Finding("change", "recreate alpha: version 1 → 2", entry="alpha", down=seconds)


def test_hosts_with_the_same_change_share_a_line_with_the_longest_downtime() -> None:
    text = shown(gpu1=recreate(5), gpu2=recreate(9))
    assert "gpu1, gpu2" in text
    assert "recreate: version 1 → 2 (down for up to about 9 s)" in text


def test_hosts_with_an_unknown_downtime_have_a_line_of_their_own() -> None:
    text = shown(gpu1=recreate(5), gpu2=recreate())
    assert "gpu1, gpu2" not in text
    assert text.count("(down for") == 1


def test_json_has_it() -> None:
    data = as_data({"gpu1": HostPlan(Preview((recreate(5),)))})
    assert data["hosts"]["gpu1"]["changes"] == ["recreate alpha: version 1 → 2 (down for about 5 s)"]


@pytest.mark.parametrize(
    ("said", "seconds"), [(5, 5), (None, None), (True, None), (-1, None), ("5", None), (10**30, None)]
)
def test_reads_seconds_of_the_record(said: Any, seconds: int | None) -> None:
    ready = {"at": "t", "definition": "d", "label": "l", "image": "r", "digest": "", "id": "i", "seconds": said}
    found = read(json.dumps({"format": 2, "containers": {}, "ready": {"": {"alpha": [ready]}}}))
    assert found
    assert found.ready["", "alpha"] == (Ready("t", "l", "r", "", "i", seconds),)
