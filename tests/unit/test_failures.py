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
from gpurack.operations.models import unsupported_words
from gpurack.plan.models.desired import desire
from gpurack.plan.models.failures import dependencies, retried, unknown_retries
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
    words = {"label": json.dumps(desired.definition), "given": dependencies(desired, facts), "image": "sha256:0123"}
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
        "one serves. Its log: gpurack logs gpu1/alpha --failed. It is tried again when its entry, image, weights or "
        "driver change, or with --retry gpu1/alpha (pyinfra: --data retry=gpu1/alpha)."
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


@pytest.mark.parametrize(("share", "blocked"), [("16GiB", True), ("2GiB", False), ("10%", False), ("60%", True)])
@pytest.mark.parametrize("there", [False, True])
def test_shares_of_what_stays_are_counted_as_they_are(share: str, blocked: bool, there: bool) -> None:
    """alpha would shrink from 18 GiB, failed, and keeps them. 22.4 GiB may be shared."""
    old = {"alpha": {"gpus": [0], "vram": "18GiB"}, **({"beta": {"gpus": [0], "vram": "1GiB"}} if there else {})}
    shrunk = models(alpha={"gpus": [0], "vram": "4GiB"}, beta={"gpus": [0], "vram": share})
    found = plan(shrunk, failure(shrunk, settled(models(**old))))
    assert codes(found) == {"alpha": "failed-before", **({"beta": "blocked-by-other"} if blocked else {})}


def test_what_fits_without_a_blocked_neighbour_is_changed() -> None:
    old = models(alpha={"gpus": [0], "vram": "14GiB"})
    wanted = {name: {"gpus": [0], "vram": "7GiB"} for name in ("alpha", "beta", "gamma")}
    found = plan(models(**wanted), failure(models(**wanted), settled(old)))
    assert codes(found) == {"alpha": "failed-before", "beta": "blocked-by-other"}


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


RENAMED = models(new={"gpus": [0], "context": 9}, beta={"gpus": [1], "port": 8001})


def renamed(error: bool) -> tuple[Host, HostFacts]:
    """alpha was renamed, and the new definition failed (error)."""
    facts = settled(models(alpha={"gpus": [0]}, beta={"gpus": [1], "port": 8001}))
    desired = desire("new", RENAMED, facts, assign(RENAMED, facts).uuids["new"], None, OTHER_SALT)
    told = {"at": "2026-11-28T02:16:41Z", "why": "oh", "serves": True, "down": 9, "given": dependencies(desired, facts)}
    failed = Failed(label=json.dumps(desired.definition), image="", **told)
    return RENAMED, replace(facts, failed={("", "new"): failed} if error else {})


def test_what_a_failed_entry_replaces_keeps_serving() -> None:
    """It was renamed, and has an error under its new name. The first run restored it, so a later one leaves it."""
    found = plan(*renamed(error=True))
    assert codes(found) == {"new": "failed-before"}
    assert [(change.model, change.action) for change in found.changes] == [("beta", "keep")]
    assert [warning.code for warning in found.warnings] == ["removal-waits"]
    assert found.job is None


def test_what_a_good_entry_replaces_is_removed_with_it() -> None:
    found = plan(*renamed(error=False))
    assert found.job
    assert sorted(entry["name"] for entry in found.job["batches"][0]) == ["alpha", "new"]
    assert found.warnings == ()


def test_what_only_shares_no_gpu_and_port_with_a_failed_entry_is_removed() -> None:
    _, facts = renamed(error=True)
    other = models(new={"gpus": [2], "context": 9, "port": 8005}, beta={"gpus": [1], "port": 8001})
    desired = desire("new", other, facts, assign(other, facts).uuids["new"], None, OTHER_SALT)
    failed = replace(facts.failed["", "new"], label=json.dumps(desired.definition))
    found = plan(other, replace(facts, failed={("", "new"): failed}))
    assert codes(found) == {"new": "failed-before"}
    assert [change.model for change in found.changes if change.action == "remove"] == ["alpha"]


def test_missing_weights_have_changed() -> None:
    """They are fetched again, also where the attempt itself had fetched them, so that their stamp was not known."""
    fetched = {"url": "http://w/a.gguf", "sha256": "0" * 64}
    after = models(alpha={"gpus": [0], "weights": fetched}, beta={"gpus": [1]})
    facts = failure(after, settled(BEFORE))
    (path,) = [path for _, path in desire("alpha", after, facts, assign(after, facts).uuids["alpha"]).weights]
    there, missing = ({**facts.weights, path: size} for size in (9, None))
    assert codes(plan(after, replace(facts, weights=there))) == {"alpha": "failed-before"}
    assert codes(plan(after, replace(facts, weights=missing))) == {}


def test_new_model_that_failed_does_not_run() -> None:
    facts = failure(AFTER, replace(host_state(gpus=4), weights={"/w/a.gguf": 1}))
    found = plan(AFTER, facts)
    assert "failed: exited while loading. It does not run. Its log: " in said(found.errors)["alpha"]


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


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"renew": None, "allow_remove": None}, []),
        ({"renew": "yes", "prune": "ollama", "allow_remove": 3, "retry": "gpu1/alpha"}, []),
        ({"renew": "true", "take_over": "yes"}, ["renew"]),
        ({"prune": "yes", "prepare": "1"}, ["prune", "prepare"]),
        ({"allow_remove": "all"}, ["allow_remove"]),
    ],
)
def test_unknown_values_of_data_are_known_before_any_host_is_changed(given: dict[str, Any], wrong: list[str]) -> None:
    found = unsupported_words(given)
    assert [problem.code for problem in found] == ["unsupported-data"] * len(wrong)
    assert [problem.as_data()["parameters"]["word"] for problem in found] == wrong
