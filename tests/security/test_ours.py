"""Which containers are gpurack's, whatever users and copies claim, and that nothing else is touched."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from gpurack import paths
from gpurack.commands.lab_status import host_status
from gpurack.commands.status import as_data
from gpurack.facts.model import HostFacts
from gpurack.facts.parse import parse
from gpurack.facts.parts import Container, User
from gpurack.facts.record import Entry, TooNew, read
from gpurack.plan.host import preview
from gpurack.plan.models import compose
from gpurack.plan.remove import plan_remove
from gpurack.plan.run import Run
from gpurack.plan.steps import Shell
from tests.given import container, framed, host_state, id_of, models, models_plan, recorded, running, said, spec
from tests.unit.test_status import NOW

ALPHA = models(alpha={})
OURS = running(ALPHA, "alpha", host_state())
ADA = User(1001, 1001, "/home/ada", docker={"ServerVersion": "28.5.2"})
TWIN = spec(
    {"docker": {"rootless": {"ada": {}}}, "models": {"alpha": {"port": 8000}, "hers": {"port": 8001, "user": "ada"}}}
)


def seen(*containers: Container, **said: Any) -> HostFacts:
    """A host with these containers, whose record has OURS."""
    here = {"record": recorded(OURS), "users": {"ada": ADA}, "weights": {"/w/a.gguf": 1}, "containers": containers}
    return host_state(**{**here, **said})


def changes(facts: HostFacts, wanted: Any = ALPHA) -> list[tuple[str, str, str]]:
    return [(one.model, one.action, one.user) for one in models_plan(wanted, facts).changes]


def copied(**over: Any) -> Container:
    """A copy of OURS by `docker commit` and `docker run --name`, with all its labels."""
    return replace(OURS, id=id_of("copy"), **{"name": "copy", **over})


# --- proof -----------------------------------------------------------------------------------------------------------


def test_reports_copy_with_inherited_labels_and_leaves_it() -> None:
    state = seen(OURS, copied())
    assert list(state.ours) == [("", "alpha")]
    assert changes(state) == [("alpha", "keep", "")]
    which = f"container copy ({id_of('copy')[:12]})"
    sentence = f"{which} has gpurack's labels, but gpurack did not create it; it is ignored."
    assert said(state.remarks) == (sentence,)
    assert ("warning", sentence) in [(each.kind, each.line) for each in preview(ALPHA, state, Run()).findings]
    status = host_status("gpu1", ALPHA, state, NOW)
    assert (status.state, said(status.notes)) == ("ok", (sentence,))
    assert as_data([status])["hosts"]["gpu1"]["remarks"] == [sentence]


def test_copy_with_our_name_is_not_ours() -> None:
    state = seen(copied(name="alpha"))
    assert state.ours == {}
    plan = models_plan(ALPHA, state)
    assert "already exists and is not managed by gpurack" in plan.errors["alpha"].what
    assert plan.job is None or plan.job["batches"] == []


def test_reports_renamed_container_and_leaves_it() -> None:
    state = seen(replace(OURS, name="old-alpha"))
    assert state.ours == {}
    assert "it was alpha; it is ignored" in state.remarks[0].what
    assert [action for _, action, _ in changes(state)] == ["create"]


@pytest.mark.parametrize(
    "labels",
    [
        {"com.docker.compose.project": "other"},
        {"com.docker.compose.service": "beta"},
        {"com.docker.compose.project": "gpurack-jobs"},
    ],
)
def test_labels_of_compose_must_agree(labels: dict[str, str]) -> None:
    assert seen(replace(OURS, labels={**OURS.labels, **labels})).ours == {}


def test_container_to_be_created_is_ours_by_name() -> None:
    assert list(seen(OURS, record={"": {"alpha": Entry(None, "model")}}).ours) == [("", "alpha")]
    assert seen(OURS, record={"": {"alpha": Entry(None, "job")}}).ours == {}
    assert seen(OURS, record={"": {}}).ours == {}


def test_without_record_compose_labels_decide_once() -> None:
    text = compose.document({"alpha": {"image": "x"}})
    state = seen(OURS, copied(), record=None, files={paths.compose_file(""): text})
    assert list(state.ours) == [("", "alpha")]
    assert seen(OURS, record=None).ours == {}, "a service of that name stands in root's own file"
    job = models_plan(ALPHA, state).job
    assert job
    assert job["ours"] == {"": {"alpha": OURS.id}}
    stale = models_plan(models(), state).job
    assert stale
    assert [one["name"] for group in stale["batches"] for one in group] == ["alpha"]


def test_daemon_missing_in_record_is_added_later() -> None:
    hers = running(TWIN, "hers", host_state(), user="ada")
    files = {paths.compose_file("ada"): compose.document({"hers": {"image": "x"}}, "ada")}
    state = seen(OURS, hers, files=files)
    assert sorted(state.ours) == [("", "alpha"), ("ada", "hers")]
    job = models_plan(TWIN, state).job
    assert job
    assert job["ours"] == {"": {"alpha": OURS.id}, "ada": {"hers": hers.id}}


def test_proves_jobs_in_the_same_way() -> None:
    job = container("once", labels={"gpurack.job": "abc"})
    assert list(seen(job, record=recorded(job)).proven) == [("", "once")]
    assert seen(job).proven == {}
    vouching = {paths.job_file("once"): "services: {once: {image: x}}"}
    assert list(seen(job, record=None, files=vouching).proven) == [("", "once")]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", '{"format": 1}', '{"format": "9"}', "[" * 100000),
        '{"format": 1, "containers": {"": 7}}',
        '{"format": 1, "containers": {"": {"a": {"id": "x", "kind": "model"}}}}',
    ],
)
def test_unreadable_record_is_none(text: str) -> None:
    assert read(text) is None


def test_refuses_newer_record() -> None:
    text = json.dumps({"format": 3, "containers": {}})
    with pytest.raises(TooNew):
        read(text)
    line = f"{paths.RECORD} 600 0 0 {base64.b64encode(text.encode()).decode()}"
    trouble = parse(framed(["@@ files", line, "@@ end"])).trouble
    assert "a newer gpurack wrote the host's record (format 3)" in str(trouble)


# --- by user ---------------------------------------------------------------------------------------------------------


IMAGE = "sha256:" + "1" * 64


@pytest.mark.parametrize(
    ("made_of", "old_one_is_there", "ours"),
    [(IMAGE, False, True), (IMAGE, True, False), ("sha256:" + "2" * 64, False, False)],
)
def test_container_recreated_by_compose_is_ours_but_copy_is_not(
    made_of: str, old_one_is_there: bool, ours: bool
) -> None:
    """An admin may run Compose with root's compose.yaml. A copy has the label that names the image of the first
    container."""
    labels = {"com.docker.compose.image": made_of}
    anew = container("alpha", id=id_of("anew"), label={}, labels=labels, image=IMAGE)
    there = [container("renamed", id=id_of("alpha"))] if old_one_is_there else []
    facts = host_state(containers=[anew, *there], record={"": {"alpha": Entry(id_of("alpha"), "model")}})
    assert (("", "alpha") in facts.ours) == ours


def test_users_alpha_does_not_hide_hosts_alpha() -> None:
    hers = replace(OURS, user="ada", id=id_of("hers"), status="exited")
    for order in ((OURS, hers), (hers, OURS)):
        state = seen(*order)
        assert state.container("alpha", "") == OURS
        assert changes(state) == [("alpha", "keep", "")]
        plan = plan_remove(state, "models")
        commands = [step.command for step in plan.steps if isinstance(step, Shell) and "docker rm" in step.command]
        assert [re.findall("docker rm --force -- (.*) >", command) for command in commands] == [[OURS.id]]


def test_model_with_changed_user_moves() -> None:
    wanted = spec({"docker": {"rootless": {"ada": {}}}, "models": {"alpha": {"port": 8000, "user": "ada"}}})
    state = seen(OURS)
    assert state.container("alpha", "ada") == OURS
    assert changes(state, wanted) == [("alpha", "recreate", "")]
    both = seen(OURS, replace(OURS, user="ada"), record=recorded(OURS, replace(OURS, user="ada")))
    assert ("alpha", "remove", "") in changes(both, wanted)


def test_users_container_is_not_replaced_for_hosts_model() -> None:
    wanted = models(alpha={"replaces": "old"})
    hers = container("old", user="ada")
    assert changes(seen(hers), wanted) == [("alpha", "create", "")]
    job = models_plan(wanted, seen(hers)).job
    assert job
    assert "replaces" not in job["batches"][0][0]
    job = models_plan(wanted, seen(hers, container("old"))).job
    assert job
    assert job["batches"][0][0]["replaces"] == {"name": "old", "user": "", "id": id_of("old")}


@pytest.mark.parametrize(
    "label", ["{", "[]", "7", '{"args": "x", "env": 7, "uuids": {}, "api_key": 7, "keys": "x"}', '{"a":' * 100000]
)
def test_malformed_label_stops_nobody(label: str) -> None:
    wanted = models(alpha={}, beta={})
    beta = running(wanted, "beta", host_state())
    broken = replace(OURS, labels={**OURS.labels, "gpurack.model": label})
    state = seen(broken, beta, record=recorded(OURS, beta))
    assert dict(one[:2] for one in changes(state, wanted)) == {"alpha": "recreate", "beta": "keep"}
    assert host_status("gpu1", wanted, state, NOW).models[1].name == "beta"


def test_removes_by_id() -> None:
    state = seen(OURS, container("alpha x;id"), copied())
    text = " ".join(step.command for step in plan_remove(state, "models").steps if isinstance(step, Shell))
    assert OURS.id in text
    assert ";id" not in text
    assert id_of("copy") not in text
