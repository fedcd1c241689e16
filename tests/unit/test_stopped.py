"""Models that an admin stopped, in plans, `status`, tables and verification; and who changed what, in the record."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.commands.history import as_data, headline
from gpurack.commands.lab_status import host_status, is_well
from gpurack.commands.status import counts, state_text, summary
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Entry, Event, Stopped, read
from gpurack.operations.entry_state import entry_state
from gpurack.operations.run_state import HostRun
from gpurack.plan.models import ledger
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.ownership import Claim, Origin
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.models.stop import plan_stop
from gpurack.plan.models.stopped import stop_of
from gpurack.spec.host import Host
from tests.given import container, host_state, models, models_plan, said, spec, uuid
from tests.unit.test_models_plan import actions, settled
from tests.unit.test_record_facts import JSON, RECORD
from tests.unit.test_status import NOW

TWO_HOURS_AGO = "2026-11-20T07:00:00Z"
TWO = models(alpha={"gpus": [0]}, beta={"gpus": [1]})
WHO = Origin("nlp", "ada", "3f2a91", "lab.py")
HOLD = Stopped(TWO_HOURS_AGO, "ada", True, "GPU 0 is replaced")
STOP = Stopped(TWO_HOURS_AGO, "ada", False, "")
HELD = "alpha: held since 2026-11-20 07:00 UTC: GPU 0 is replaced (ada)."


def facts(stopped: Stopped | None, status: str = "exited") -> HostFacts:
    """The host after a run of the inventory TWO, and then after `gpurack stop gpu1/alpha`."""
    state = settled(TWO)
    there = tuple(replace(one, status=status) if one.name == "alpha" else one for one in state.containers)
    return replace(state, containers=there, stopped={("", "alpha"): stopped} if stopped else {})


def plan(wanted: Host, state: HostFacts, **over: Any) -> ModelsPlan:
    return models_plan(wanted, state, **over)


def lines(found: ModelsPlan) -> list[str]:
    return [finding.line for finding in found.findings]


# --- in a plan -------------------------------------------------------------------------------------------------------


def test_next_run_starts_what_was_stopped_and_says_who_did() -> None:
    found = plan(TWO, facts(STOP))
    assert lines(found) == ["start alpha: stopped by ada at 2026-11-20 07:00 UTC"]
    assert found.job
    assert (found.job["release"], found.job["verb"]) == ({"": ["alpha"]}, "apply")


def test_run_leaves_what_is_held_and_says_so() -> None:
    found = plan(TWO, facts(HOLD))
    assert actions(found) == {"beta": "keep"}
    assert lines(found) == [HELD]
    assert [finding.kind for finding in found.findings] == ["warning"]
    assert (found.errors, found.job, found.removals.names) == ({}, None, ())


def test_change_of_a_held_model_waits_and_its_lines_stay() -> None:
    wanted = models(alpha={"gpus": [0], "version": "b7001"}, beta={"gpus": [1], "version": "b7001"})
    found = plan(wanted, facts(HOLD))
    assert actions(found) == {"beta": "recreate"}
    assert found.job
    assert "alpha" in found.job["projects"][""]["services"]
    assert "release" not in found.job


def test_held_model_fails_no_run_whatever_its_entry_lacks() -> None:
    """Its GPU is lost, which may be why it is held."""
    state = facts(HOLD)
    lost = replace(state, gpus=tuple(gpu for gpu in state.gpus if gpu.uuid != uuid(0)))
    assert "alpha" in ledger.assign(TWO, lost).errors
    assert plan(TWO, lost).errors == {}


def test_gpu_of_a_held_model_is_taken() -> None:
    wanted = models(alpha={"gpus": [0]}, beta={"gpus": [1]}, gamma={"gpus": [uuid(0)]})
    assert list(plan(wanted, facts(HOLD)).errors) == ["gamma"]


def test_start_releases_a_hold_and_leaves_others() -> None:
    found = plan(TWO, facts(HOLD), only="alpha", verb="start")
    assert lines(found) == ["start alpha: held by ada at 2026-11-20 07:00 UTC"]
    assert found.job
    assert (found.job["release"], found.job["verb"]) == ({"": ["alpha"]}, "start")


def test_start_recreates_what_was_changed_meanwhile() -> None:
    wanted = models(alpha={"gpus": [0], "version": "b7001"}, beta={"gpus": [1]})
    found = plan(wanted, facts(HOLD), only="alpha", verb="start")
    assert actions(found) == {"alpha": "recreate"}
    assert found.job
    assert found.job["release"] == {"": ["alpha"]}


def test_start_drops_the_mark_of_what_was_started_by_hand() -> None:
    found = plan(TWO, facts(HOLD, status="running"), only="alpha", verb="start")
    assert actions(found) == {"alpha": "keep"}
    assert found.job
    assert (found.job["release"], found.job["batches"]) == ({"": ["alpha"]}, [])


def test_start_of_a_running_model_does_nothing() -> None:
    assert plan(TWO, facts(None, status="running"), only="alpha", verb="start").nothing


def test_mark_counts_where_the_container_is() -> None:
    """The entry's `user` was changed while it was held."""
    wanted = spec({"docker": {"rootless": {"ada": {}}}, "models": {"alpha": {"port": 8000, "user": "ada"}}})
    assert stop_of(Observed("alpha", wanted, facts(HOLD))) == HOLD


def test_hold_of_another_labs_model_of_that_name_does_not_count() -> None:
    wanted, state = models(alpha={"gpus": [0]}), facts(HOLD)
    other = replace(state, record={"": {name: Entry(None, "model", lab="vision") for name in ("alpha", "beta")}})
    assert [problem.code for problem in plan(wanted, other).errors.values()] == ["model-of-other-lab"]


@pytest.mark.parametrize(("mark", "counts"), [(STOP, False), (HOLD, True)])
def test_what_was_started_by_hand_counts_only_if_held(mark: Stopped, counts: bool) -> None:
    assert bool(stop_of(Observed("alpha", TWO, facts(mark, status="running")))) == counts


@pytest.mark.parametrize("status", ["running", "exited"])
def test_restart_is_one_action_for_the_runner(status: str) -> None:
    found = plan(TWO, facts(None, status=status), only="alpha", verb="restart")
    assert lines(found) == ["restart alpha"]
    assert found.job
    ((entry,),) = found.job["batches"]
    assert (entry["name"], entry["action"]) == ("alpha", "restart")


def test_model_that_differs_from_its_entry_is_not_restarted() -> None:
    wanted = models(alpha={"gpus": [0], "context": 4096}, beta={"gpus": [1]})
    found = plan(wanted, facts(None, status="running"), only="alpha", verb="restart")
    assert said(found.errors) == {
        "alpha": "not restarted: a run would recreate alpha: context – → 4096. Apply the inventory."
    }
    assert found.job is None


# --- gpurack stop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("why", "hold"), [(None, False), ("GPU 0 is replaced", True)])
def test_stop_names_container_and_person(why: str | None, hold: bool) -> None:
    found = plan_stop(Observed("alpha", TWO, facts(None, status="running")), Claim(WHO), why)
    assert found.job
    assert {word: found.job[word] for word in ("name", "user", "hold", "why")} == {
        "name": "alpha", "user": "", "hold": hold, "why": why or "",
    }  # fmt: skip
    assert found.job["origin"] == {"lab": "nlp", "by": "ada", "commit": "3f2a91", "inventory": "lab.py"}
    assert found.job["ours"][""]["alpha"] == settled(TWO).ours["", "alpha"].id
    assert found.job["running"] == ["/metrics", "llamacpp:requests_processing"]


def test_stop_renews_the_boot_unit_of_an_older_gpurack() -> None:
    bare = replace(facts(None, status="running"), files={})
    (install, *_) = plan_stop(Observed("alpha", TWO, bare), Claim(WHO)).steps
    assert install.reason == "install the model runner in /usr/local/lib/gpurack"


@pytest.mark.parametrize("case", ["none", "not ours", "of another lab"])
def test_stops_only_what_is_this_labs(case: str) -> None:
    state = facts(None, status="running")
    if case == "none":
        state = replace(state, containers=())
    elif case == "not ours":
        state = replace(state, containers=(container("alpha"),))
    else:
        state = replace(state, record={"": {"alpha": Entry(None, "model", lab="vision")}})
    found = plan_stop(Observed("alpha", TWO, state), Claim(WHO))
    assert ([problem.code for problem in found.errors.values()], found.job) == (["nothing-to-stop"], None)


# --- in status and tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "text", "count"),
    [
        (HOLD, "held 2 h: GPU 0 is replaced (ada)", "1 held"),
        (STOP, "stopped 2 h: until the next run (ada)", "1 stopped"),
        (Stopped(TWO_HOURS_AGO, "", True, "moved\nsoon"), "held 2 h: moved", "1 held"),
    ],
)
def test_status_says_who_stopped_it_and_all_is_well(mark: Stopped, text: str, count: str) -> None:
    found = host_status("gpu1", TWO, replace(facts(mark), now=NOW), NOW)
    alpha = found.models[0]
    assert state_text(alpha, NOW) == text
    assert is_well([found])
    assert f"1 of 2 ready, {count}" in counts(found)
    assert summary([found]) == f"1 of 2 models ready, {count}."


def test_status_of_a_held_model_that_runs_is_its_state() -> None:
    found = host_status("gpu1", TWO, replace(facts(HOLD, status="running"), now=NOW), NOW)
    assert found.models[0].state == "ready"


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        (HOLD, "held since 2026-11-20 07:00 UTC: GPU 0 is replaced (ada)"),
        (STOP, "stopped since 2026-11-20 07:00 UTC, until the next run (ada)"),
        (None, "exited with code 0"),
    ],
)
def test_table_of_a_run_says_who_stopped_it(mark: Stopped | None, text: str) -> None:
    assert entry_state("alpha", TWO, HostRun(snapshot=facts(mark))).text == text


# --- in the record ---------------------------------------------------------------------------------------------------

EVENT = {"at": "2026-11-20T07:00:00Z", "verb": "apply", "by": "ada", "lab": "nlp", "commit": "3f2a91c0ffee",
         "inventory": "lab.py", "changes": ["recreate alpha"], "failed": ["beta: exited"],
         "codes": ["exited"]}  # fmt: skip
MARK = {"at": "t", "by": "ada", "hold": True, "why": "w", "policy": ""}
KNOWN = Event("2026-11-20T07:00:00Z", "apply", "ada", "nlp", "3f2a91c0ffee", "lab.py", ("recreate alpha",),
              ("beta: exited",), codes=("exited",))  # fmt: skip


def test_reads_marks_and_history() -> None:
    found = read(json.dumps({**RECORD, "stopped": {"": {"alpha": MARK}}, "history": [EVENT]}))
    assert found
    assert found.stopped == {("", "alpha"): Stopped("t", "ada", True, "w")}
    assert found.history == (KNOWN,)


@given(st.sampled_from(["stopped", "history"]), JSON)
def test_what_is_invalid_of_them_is_left_out(part: str, value: Any) -> None:
    found = read(json.dumps({**RECORD, part: value}))
    assert found
    assert found.containers == (read(json.dumps(RECORD)) or found).containers


@given(st.sampled_from(sorted(EVENT)), JSON)
def test_damaged_run_hides_no_other(word: str, value: Any) -> None:
    found = read(json.dumps({**RECORD, "history": [{**EVENT, word: value}, EVENT]}))
    assert found
    assert found.history[-1] == KNOWN
    assert all(isinstance(text, str) for one in found.history for text in (*one.changes, *one.failed, one.by))


@given(st.sampled_from(sorted(MARK)), JSON)
def test_damaged_mark_hides_no_other(word: str, value: Any) -> None:
    marks = {"alpha": {**MARK, word: value}, "beta": MARK}
    found = read(json.dumps({**RECORD, "stopped": {"": marks}}))
    assert found
    assert found.stopped["", "beta"] == Stopped("t", "ada", True, "w")
    assert found.stopped.get(("", "alpha"), HOLD).hold in (True, False)


def test_history_shows_who_when_what_and_from_which_commit() -> None:
    state = host_state(now=NOW)
    assert headline(KNOWN, state) == "2026-11-20 07:00 UTC  ada  apply  FAILED  (lab.py, 3f2a91c)"
    well = replace(KNOWN, failed=(), commit="", inventory="", by="")
    assert headline(well, state) == "2026-11-20 07:00 UTC  unknown  apply  ok"


def test_history_says_which_run_had_uncommitted_changes() -> None:
    found = read(json.dumps({**RECORD, "history": [{**EVENT, "uncommitted": True}, {**EVENT, "uncommitted": "no"}]}))
    assert found
    edited, plain = found.history
    state = host_state(now=NOW)
    assert headline(edited, state).endswith("  (lab.py, 3f2a91c, uncommitted changes)")
    assert headline(plain, state).endswith("  (lab.py, 3f2a91c)")
    runs = as_data({"gpu1": replace(host_state(), history=found.history)})["hosts"]["gpu1"]["runs"]
    assert [run["uncommitted"] for run in runs] == [False, True]


def test_history_for_programs_is_newest_first() -> None:
    older = replace(KNOWN, at="2026-11-19T07:00:00Z", failed=())
    runs = as_data({"gpu1": replace(host_state(), history=(older, KNOWN))})["hosts"]["gpu1"]["runs"]
    assert [(run["at"], run["result"]) for run in runs] == [(KNOWN.at, "failed"), (older.at, "ok")]
