"""What failed once is not tried again until something that it depends on changes."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest

from gpurack import screen
from gpurack.commands.lab_status import host_status
from gpurack.commands.status import show
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Failed
from gpurack.plan.models.desired import desire
from gpurack.plan.models.failures import given, retried, unknown_retries
from gpurack.plan.models.ledger import assign
from gpurack.plan.models.plan import ModelsPlan
from gpurack.spec.host import Host
from tests.given import container, host_state, models, models_plan, said
from tests.unit.test_models_plan import settled

OTHER_SALT = "7b" * 16
BEFORE = models(alpha={"gpus": [0]}, beta={"gpus": [1]})
AFTER = models(alpha={"gpus": [0], "context": 9}, beta={"gpus": [1]})
IMAGE = "ghcr.io/ggml-org/llama.cpp:server-cuda-b7000"


def failure(spec: Host, facts: HostFacts, secrets: dict[str, str] | None = None, **over: Any) -> HostFacts:
    """The host after alpha could not be created as in this spec."""
    uuids = assign(spec, facts).uuids["alpha"]
    desired = desire("alpha", spec, facts, uuids, secrets, OTHER_SALT)
    words = {"label": json.dumps(desired.definition), "given": given(desired, facts), "image": "sha256:0123"}
    told = {"at": "2026-11-28T02:16:41Z", "why": "exited while loading\n    | oh", "serves": True, "down": 154, **words}
    return replace(facts, failed={("", "alpha"): Failed(**{**told, **over})})


def plan(spec: Host, facts: HostFacts, secrets: dict[str, str] | None = None, **more: Any) -> ModelsPlan:
    return models_plan(spec, facts, {"alpha": secrets or {}}, **more)


def codes(found: ModelsPlan) -> dict[str, str]:
    return {name: problem.code for name, problem in found.errors.items()}


def test_leaves_the_previous_one_serving_and_says_why() -> None:
    found = plan(AFTER, failure(AFTER, settled(BEFORE)))
    assert said(found.errors) == {
        "alpha": "this definition was tried at 2026-11-28 02:16 UTC, and failed: exited while loading. The previous "
        "one serves. It is tried again when its entry, image, weights or driver change, or with "
        "--retry gpu1/alpha (pyinfra: --data retry=gpu1/alpha)."
    }
    assert found.job is None or found.job["batches"] == []


def test_others_are_changed_meanwhile() -> None:
    both = models(alpha={"gpus": [0], "context": 9}, beta={"gpus": [1], "context": 9})
    found = plan(both, failure(both, settled(BEFORE)))
    assert codes(found) == {"alpha": "failed-before"}
    assert found.job
    assert [[entry["name"] for entry in batch] for batch in found.job["batches"]] == [["beta"]]


def test_what_needs_its_gpu_is_left_out_too() -> None:
    swapped = models(alpha={"gpus": [1]}, beta={"gpus": [0]})
    found = plan(swapped, failure(swapped, settled(BEFORE)))
    assert codes(found) == {"alpha": "failed-before", "beta": "blocked-by-other"}
    assert found.job is None


@pytest.mark.parametrize("retry", [("alpha",), frozenset({"alpha", "beta"})])
def test_is_tried_again_when_asked(retry: Any) -> None:
    assert codes(plan(AFTER, failure(AFTER, settled(BEFORE)), retry=retry)) == {}


def test_going_back_to_what_serves_is_no_error() -> None:
    assert plan(BEFORE, failure(AFTER, settled(BEFORE))).nothing


def test_another_change_of_the_entry_is_tried() -> None:
    again = models(alpha={"gpus": [0], "context": 10}, beta={"gpus": [1]})
    assert codes(plan(again, failure(AFTER, settled(BEFORE)))) == {}


@pytest.mark.parametrize(
    ("before", "after", "tried"),
    [
        ({"stamps": {"/w/a.gguf": "1-2"}}, {"stamps": {"/w/a.gguf": "1-3"}}, True),
        ({"stamps": {"/w/a.gguf": "1-2"}}, {"stamps": {"/w/a.gguf": "1-2"}}, False),
        ({}, {"stamps": {"/w/a.gguf": "1-3"}}, False),
        ({"driver": {"kernel": "580.1"}}, {"driver": {"kernel": "580.2"}}, True),
        ({}, {"images": {IMAGE: "sha256:4567"}}, True),
        ({}, {"images": {IMAGE: "sha256:0123"}}, False),
    ],
)
def test_is_tried_again_when_what_it_depends_on_changes(
    before: dict[str, Any], after: dict[str, Any], tried: bool
) -> None:
    facts = settled(BEFORE, **{**before})
    failed = failure(AFTER, facts).failed
    later = replace(settled(BEFORE, **{key: value for key, value in after.items() if key != "images"}), failed=failed)
    later = replace(later, images=after.get("images", {}))
    assert (codes(plan(AFTER, later)) == {}) is tried


def test_new_model_that_failed_does_not_run() -> None:
    facts = failure(AFTER, replace(host_state(gpus=4), weights={"/w/a.gguf": 1}))
    found = plan(AFTER, facts)
    assert "failed: exited while loading. It does not run. It is tried" in said(found.errors)["alpha"]


@pytest.mark.parametrize(("key", "tried"), [("sk-one", False), ("sk-two", True)])
def test_keys_are_compared_with_the_salt_of_the_failure(key: str, tried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new model has no container whose salt is known."""
    monkeypatch.setenv("GPURACK_TEST_KEY", "x")
    spec = models(alpha={"api_key": {"env": "GPURACK_TEST_KEY"}})
    facts = failure(spec, replace(host_state(gpus=4), weights={"/w/a.gguf": 1}), {"api_key": "sk-one"})
    assert (codes(plan(spec, facts, {"api_key": key})) == {}) is tried


def test_an_upgrade_of_gpurack_tries_nothing_again() -> None:
    facts = failure(AFTER, settled(BEFORE))
    tried = facts.failed["", "alpha"]
    older = replace(tried, label=json.dumps({**json.loads(tried.label), "service": "0" * 12}))
    assert codes(plan(AFTER, replace(facts, failed={("", "alpha"): older}))) == {"alpha": "failed-before"}


@pytest.mark.parametrize("label", ["", "[]", "{", '"x"', "null"])
def test_unreadable_record_of_a_failure_is_no_obstacle(label: str) -> None:
    assert codes(plan(AFTER, failure(AFTER, settled(BEFORE), label=label, given="{"))) == {}


def test_an_existing_container_is_started_however_it_failed() -> None:
    facts = failure(BEFORE, settled(BEFORE))
    alpha = facts.ours["", "alpha"]
    stopped = tuple(replace(one, status="exited") if one == alpha else one for one in facts.containers)
    found = plan(BEFORE, replace(facts, containers=stopped))
    assert [str(change) for change in found.changes if change.action != "keep"] == [
        "start alpha: it exited with code 0"
    ]


def test_refuses_a_name_that_the_old_container_needs() -> None:
    foreign = container("alpha.previous")
    found = plan(AFTER, replace(settled(BEFORE), containers=(*settled(BEFORE).containers, foreign)))
    assert codes(found) == {"alpha": "container-name-taken"}


def test_status_says_what_the_next_run_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads no secrets, so it does not compare them."""
    monkeypatch.setenv("GPURACK_TEST_KEY", "x")
    wanted = models(alpha={"gpus": [0], "context": 9, "api_key": {"env": "GPURACK_TEST_KEY"}}, beta={"gpus": [1]})
    facts = failure(wanted, settled(BEFORE), {"api_key": "sk-one"})
    now = datetime(2026, 11, 28, 3, tzinfo=UTC)
    assert [note.code for note in host_status("gpu1", wanted, facts, now).notes] == ["failed-before"]
    assert host_status("gpu1", BEFORE, facts, now).notes == ()


def test_status_names_the_model() -> None:
    now = datetime(2026, 11, 28, 3, tzinfo=UTC)
    console = screen.Console(file=(out := StringIO()), width=300)
    show(console, [host_status("gpu1", AFTER, failure(AFTER, settled(BEFORE)), now)], now)
    assert "gpu1  alpha: this definition was tried at 2026-11-28 02:16 UTC, and failed: exited" in out.getvalue()


# --- --data retry= ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (None, set()), ("gpu1/alpha", {"alpha"}), ("gpu1/alpha, gpu1/beta", {"alpha", "beta"}), ("gpu2/alpha", set()),
        ("gpu1/all", {"alpha", "beta"}),
    ],
)  # fmt: skip
def test_retries_of_a_host(asked: str | None, names: set[str]) -> None:
    assert retried(asked, "gpu1", BEFORE) == names


@pytest.mark.parametrize(
    ("asked", "errors"),
    [
        (None, []),
        ("gpu1/alpha,gpu1/all", []),
        ("gpu1/gamma", ["cannot try `gpu1/gamma` again: gpu1 has no model `gamma`."]),
        ("gpu9/alpha", ["cannot try `gpu9/alpha` again: gpu9 is not in the inventory."]),
        ("alpha", ["cannot try `alpha` again: the host is missing."]),
    ],
)
def test_refuses_unknown_retries(asked: str | None, errors: list[str]) -> None:
    assert [problem.message for problem in unknown_retries(asked, {"gpu1": BEFORE})] == errors
