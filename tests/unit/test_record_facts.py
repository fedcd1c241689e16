"""The host's record, format 2, and which container is a model's while a replacement has not ended."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.record import DatabaseCopy, Entry, Failed, Member, Ready, Replacing, Test, read
from gpurack.plan.host import unfinished
from gpurack.plan.models import compose
from gpurack.plan.models.desired import desire
from gpurack.plan.models.ledger import Taken, host_slots
from gpurack.plan.models.preflight import port_in_use
from gpurack.plan.remove import plan_remove
from gpurack.plan.steps import Shell
from tests.given import container, host_state, id_of, models, uuid

A, B = "a" * 64, "b" * 64
RECORD: dict[str, Any] = {
    "format": 2,
    "containers": {"": {"alpha": {"id": A, "kind": "model", "definition": "d", "applied": "t", "service": "alpha.2",
                                  "lab": "l", "by": "ada", "commit": "3f2a91", "inventory": "i"}}},
    "replacing": [{"batch": "1", "phase": "try", "since": "s", "members": [
        {"name": "alpha", "user": "", "from": "", "old_id": A, "old_key": "alpha.2", "new_id": B, "new_key": "alpha.3",
         "remove": False, "old_policy": None}]}],
    "failed": {"": {"alpha": {"at": "t", "definition": "d", "label": "{}", "image": "i", "given": "g", "why": "w",
                              "serves": True, "down": 3.5}}},
    "ready": {"": {"alpha": [{"at": "t", "definition": "d", "label": "l", "image": "r", "digest": "", "id": "i"}]}},
    "tests": {"": {"alpha": {"id": A, "at": "t", "since": "", "why": ""}}},
    "databases": {"": {"alpha": [{"at": "t", "image": "i:1", "id": "sha256:1", "copy": "c.db"}, {"at": 7}, 7]}},
}  # fmt: skip


def test_reads_all_parts() -> None:
    found = read(json.dumps(RECORD))
    assert found
    assert found.containers == {"": {"alpha": Entry(A, "model", "d", "alpha.2", "t", "l", "ada", "3f2a91", "i")}}
    assert found.replacing == (Replacing("try", "s", (Member("alpha", "", "", A, "alpha.2", B, "alpha.3"),), "1"),)
    assert found.failed == {("", "alpha"): Failed("t", "{}", "i", "g", "w", True, 3.5)}
    assert found.ready == {("", "alpha"): (Ready("t", "l", "r", "", "i"),)}
    assert found.tests == {("", "alpha"): Test(A, "t", "", "")}
    assert found.databases == {("", "alpha"): (DatabaseCopy("t", "i:1", "sha256:1", "c.db"),)}


def test_reads_which_entries_a_change_in_several_dockers_may_touch() -> None:
    claim = {"batch": "1", "phase": "prepare", "since": "s", "members": [], "claims": [["", "alpha"], ["ada", "alpha"]]}
    found = read(json.dumps({**RECORD, "replacing": [claim, {**claim, "claims": [["alpha"]]}]}))
    assert found
    assert [one.names for one in found.replacing] == [{"alpha"}]


def test_reads_format_1() -> None:
    found = read(json.dumps({"format": 1, "containers": {"": {"alpha": {"id": A, "kind": "model"}}}}))
    assert found
    assert found.containers == {"": {"alpha": Entry(A, "model")}}
    assert (found.replacing, found.failed, found.ready, found.tests) == ((), {}, {}, {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from([A, "alpha", "try"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(["replacing", "failed", "ready", "tests", "databases"]), JSON)
def test_what_is_invalid_is_left_out_and_ownership_stays(part: str, value: Any) -> None:
    found = read(json.dumps({**RECORD, part: value}))
    assert found
    assert found.containers == {"": {"alpha": Entry(A, "model", "d", "alpha.2", "t", "l", "ada", "3f2a91", "i")}}


@given(JSON)
def test_invalid_containers_count_as_missing(value: Any) -> None:
    found = read(json.dumps({**RECORD, "containers": {"": {"alpha": value}}}))
    assert found is None


@pytest.mark.parametrize("service", ["", "../x", "a b", 5, ["alpha"]])
def test_key_in_record_is_one_of_compose(service: Any) -> None:
    containers = {"": {"alpha": {"id": A, "kind": "model", "service": service}}}
    assert read(json.dumps({"format": 2, "containers": containers})) is None


# --- a replacement that has not ended --------------------------------------------------------------------------------

OLD, NEW = id_of("old"), id_of("new")
SPEC = models(alpha={"gpus": [0]})
DEFINITION = {"gpus": "[0]", "uuids": [uuid(0)], "port": 8000}


def generation(name: str, key: str, which: str, status: str = "running") -> Any:
    labels = {"com.docker.compose.service": key}
    ports = [("127.0.0.1", 8000)]
    return container(name, status, id=which, label=DEFINITION, labels=labels, ports=ports)


def under_way(*containers: Any, file: str = "alpha", phase: str = "try", **over: Any) -> HostFacts:
    """alpha's container `alpha` is being replaced by `alpha.2`. file: the key in compose.yaml."""
    member = {"name": "alpha", "user": "", "of": "", "old_id": OLD, "old_key": "alpha", "new_id": NEW,
              "new_key": "alpha.2", **over}  # fmt: skip
    text = compose.document({"alpha": {"container_name": "alpha"}}, "", {"alpha": file})
    return host_state(
        containers=containers,
        files={paths.compose_file(""): text},
        record={"": {"alpha": Entry(OLD, "model", service="")}},
        replacing=[{"phase": phase, "since": "", "members": [member]}],
        gpus=1,
    )


def both(old: str = "exited", new: str = "running") -> tuple[Any, Any]:
    return generation("alpha.previous", "alpha", OLD, old), generation("alpha", "alpha.2", NEW, new)


@pytest.mark.parametrize(
    ("file", "phase", "stays"),
    [("alpha", "prepare", OLD), ("alpha", "try", OLD), ("alpha", "restore", OLD), ("alpha.2", "try", NEW),
     ("alpha", "commit", NEW)],
)  # fmt: skip
def test_model_is_counted_once_and_neither_container_is_foreign(file: str, phase: str, stays: str) -> None:
    facts = under_way(*both(), file=file, phase=phase)
    assert {key: one.id for key, one in facts.ours.items()} == {("", "alpha"): stays}
    assert all(facts.is_ours(one) for one in facts.containers)
    assert facts.foreign == []


def test_before_the_rename_and_after_it_is_the_same_container() -> None:
    assert under_way(generation("alpha", "alpha", OLD)).ours["", "alpha"].id == OLD
    assert under_way(generation("alpha.previous", "alpha", OLD)).ours["", "alpha"].id == OLD


def test_created_container_whose_id_was_not_recorded_is_not_foreign() -> None:
    facts = under_way(*both("running", "created"), new_id=None)
    assert facts.ours["", "alpha"].id == OLD
    assert facts.foreign == []


def test_container_made_by_hand_is_not_ours() -> None:
    by_hand = container("alpha.previous", id=OLD)
    facts = under_way(by_hand, generation("alpha", "alpha.2", NEW), old_key=None, adopted=True)
    assert not facts.is_ours(by_hand)
    assert facts.ours == {}


def test_container_called_previous_without_a_replacement_is_foreign() -> None:
    facts = replace(under_way(*both("running", "created")), replacing=())
    assert facts.ours == {}
    assert [problem.code for problem in facts.foreign] == ["container-not-ours", "container-not-ours"]


def test_gpu_and_port_belong_to_both() -> None:
    facts = replace(
        under_way(*both()),
        gpu_processes=host_state(gpu_processes=[(uuid(0), 7, "llama", 900, "root", NEW)]).gpu_processes,
        listeners=host_state(listeners=["127.0.0.1:8000 docker-proxy (pid 1)"]).listeners,
    )
    slots = host_slots(SPEC, facts)
    assert Taken(SPEC, facts, slots, {}).held_by_others("alpha", slots) is None
    assert port_in_use(desire("alpha", SPEC, facts, (uuid(0),)), facts) is None


def test_says_that_the_next_run_ends_it_unless_one_is_busy() -> None:
    facts = under_way(*both())
    assert [found.line for found in unfinished(facts)] == [
        "the interrupted change of alpha is finished or undone by the next run"
    ]
    assert unfinished(replace(facts, busy="pid 7")) == []
    (change,) = facts.replacing
    beside = replace(facts, replacing=(replace(change, batch="1"),))
    assert unfinished(replace(beside, changing=frozenset({"2"}))) == unfinished(facts)
    assert unfinished(replace(beside, changing=frozenset({"1"}))) == []


@pytest.mark.parametrize("file", ["alpha", "alpha.2"])
def test_removal_takes_both_containers(file: str) -> None:
    (first, *_) = plan_remove(under_way(*both(), file=file), "models").steps
    assert isinstance(first, Shell)
    assert first.reason == "remove alpha"
    assert sorted(re.findall("[0-9a-f]{64}", first.command)) == sorted([OLD, NEW])
