"""Whose models are whose, what one lab may do to another's, and which removals need a number."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack import paths
from gpurack.facts.machines import Machines
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Entry
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.ownership import Claim, Origin, commits, of_others, own_view, taken, taking
from gpurack.plan.models.removal import MANY, Removals, old_clone, refusal, removals_of, summary
from gpurack.spec.host import Host
from tests.given import container, host_state, models, models_plan, running, said, spec, uuid

NLP = Entry(None, "model", applied="2026-11-29T14:02:41Z", lab="nlp", by="ada", commit="3f2a91c" + "0" * 33)


def there(**labs: str) -> HostFacts:
    """A host with one container for each name, of that lab ("": unowned)."""
    facts = host_state(containers=[container(name, label={}) for name in labs])
    record = {"": {each.name: replace(NLP, id=each.id, lab=labs[each.name]) for each in facts.containers}}
    return replace(facts, record=record)


def of_lab(lab: str | None, *names: str) -> Host:
    return models(**{name: {} for name in names}).model_copy(update={"lab": lab})


def removing(*names: str) -> list[Change]:
    return [Change(name, Action.REMOVE, ("no longer in the inventory",)) for name in names]


# --- owners ----------------------------------------------------------------------------------------------------------


def test_models_of_others_are_not_ours() -> None:
    facts = there(alpha="nlp", beta="vision", gamma="")
    seen = own_view(of_lab("nlp", "alpha"), facts, Claim())
    assert {name for _, name in seen.ours} == {"alpha", "gamma"}
    assert {name for _, name in seen.proven} == {"alpha", "beta", "gamma"}


def test_inventory_without_a_name_owns_nothing_that_has_an_owner() -> None:
    facts = there(alpha="nlp", gamma="")
    assert {name for _, name in of_others(of_lab(None, "alpha"), facts)} == {"alpha"}
    assert taken(of_lab(None, "alpha"), own_view(of_lab(None), facts, Claim()), ()) == {}


def test_first_named_lab_takes_unowned_models_and_says_so() -> None:
    spec = of_lab("nlp", "alpha", "gamma")
    facts = own_view(spec, there(alpha="nlp", beta="vision", gamma="", delta=""), Claim())
    assert taken(spec, facts, {("", "delta")}) == {"": ["gamma"]}
    assert taking({"": ["gamma"]}, facts) == ["take over gamma: no lab owned them until now"]


def test_take_over_moves_only_what_the_inventory_has() -> None:
    spec = of_lab("vision", "alpha")
    facts = own_view(spec, there(alpha="nlp", beta="nlp"), Claim(take_over=True))
    assert taken(spec, facts, ()) == {"": ["alpha"]}
    assert facts.others == {("", "beta")}
    assert taking({"": ["alpha"]}, facts) == ["take over alpha: of lab nlp until now"]


def test_take_over_needs_a_name() -> None:
    spec = of_lab(None, "alpha")
    assert own_view(spec, there(alpha="nlp"), Claim(take_over=True)).others == {("", "alpha")}


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["", "nlp", "vision"])), st.booleans())
def test_no_model_belongs_to_two_labs(labs: dict[str, str], take_over: bool) -> None:
    facts = there(**{f"m{name}": lab for name, lab in labs.items()})
    views = [own_view(of_lab(lab), facts, Claim(take_over=take_over)) for lab in ("nlp", "vision")]
    both = views[0].ours.keys() & views[1].ours.keys()
    assert {name for _, name in both} == {f"m{name}" for name, lab in labs.items() if not lab}


def test_commits_are_those_of_the_record() -> None:
    assert commits(there(alpha="nlp")) == {NLP.commit}
    assert commits(host_state()) == set()


# --- removals --------------------------------------------------------------------------------------------------------


def count(spec: Host, facts: HostFacts, changes: list[Change], desired: dict[str, Any] | None = None) -> Removals:
    return removals_of(changes, desired or {}, spec, facts, Claim())


def test_disabling_is_no_removal() -> None:
    spec = models(alpha={"enabled": False})
    assert count(spec, there(alpha=""), [Change("alpha", Action.REMOVE, ("disabled",))]) == Removals((), 1, False)


def test_emptying_a_host_needs_the_number() -> None:
    found = count(models(), there(alpha="", beta=""), removing("alpha", "beta"))
    assert (found.names, found.emptied, found.number) == (("alpha", "beta"), True, 2)


def test_one_of_two_needs_no_number() -> None:
    assert count(models(alpha={}), there(alpha="", beta=""), removing("beta")).number == 0


@pytest.mark.parametrize(
    ("gone", "total", "number"), [(3, MANY, 3), (2, MANY, 0), (3, MANY - 1, 0), (4, 8, 0), (5, 8, 5)]
)
def test_more_than_half_of_many_needs_the_number(gone: int, total: int, number: int) -> None:
    assert Removals(tuple("abcdefgh"[:gone]), total).number == number


def refused(found: Removals, changes: list[Change], claim: Claim = Claim(), **how: bool) -> str:  # noqa: B008
    facts = there(alpha="nlp", beta="nlp")
    problem = refusal(found, changes, facts, claim, **{"unattended": True, "executing": True, **how})
    return problem.what if problem else ""


ALL = Removals(("alpha", "beta"), 2, True)
BOTH = removing("alpha", "beta")


def test_only_the_exact_number_is_accepted() -> None:
    assert "would remove 2 of 2 models: alpha, beta" in refused(ALL, BOTH)
    assert "--allow-remove 2 (pyinfra: --data allow_remove=2)" in refused(ALL, BOTH)
    assert "allow_remove=2) in place of 1." in refused(ALL, BOTH, Claim(allowed=1))
    assert refused(ALL, BOTH, Claim(allowed=2)) == ""


def test_before_the_prompt_nothing_is_refused() -> None:
    assert refused(ALL, BOTH, unattended=False, executing=False) == ""
    assert "allow_remove=2" in refused(ALL, BOTH, unattended=False, executing=True)
    assert refused(ALL, BOTH, Claim(allowed=2), unattended=False, executing=True) == ""


def test_old_clone_removes_nothing_unattended_even_with_the_number() -> None:
    one, claim = Removals(("alpha",), 2), Claim(Origin(commit="9"), frozenset({NLP.commit}), allowed=1)
    said = refused(one, removing("alpha"), claim)
    assert "alpha, applied from 3f2a91c (ada, 2026-11-29 14:02 UTC). That commit is not in this clone" in said
    assert "git pull" in said
    assert refused(one, removing("alpha"), claim, unattended=False) == ""
    assert [each.code for each in old_clone(one, removing("alpha"), there(alpha="nlp"), claim)] == ["old-clone"]


def test_refusal_says_both_conditions_at_once() -> None:
    claim = Claim(Origin(commit="9"), frozenset({NLP.commit}))
    said = refused(ALL, BOTH, claim)
    assert "git pull" in said
    assert "confirm the removal without -y, at a terminal. With -y, it also needs --allow-remove 2" in said
    assert "--allow-remove" not in refused(ALL, BOTH, replace(claim, allowed=2))
    found = removals_of(BOTH, {}, models(), there(alpha="nlp", beta="nlp"), claim)
    assert summary(found) == "2 REMOVE (of 2 models; with -y: refused because of the commit)"


def test_folder_without_git_is_not_told_to_pull() -> None:
    said = refused(ALL, BOTH, Claim(missing=frozenset({NLP.commit}), allowed=2))
    assert "not in this folder, which is not a git clone. Confirm the removal without -y" in said
    assert "git pull" not in said


def test_summary_counts_removals() -> None:
    assert summary(Removals(("alpha", "beta"), 5)) == "2 REMOVE"
    assert summary(ALL) == "2 REMOVE (of 2 models; with -y: --allow-remove 2)"
    assert summary(Removals()) == ""


def test_origin_has_the_words_of_the_record() -> None:
    assert Origin("nlp", "ada").payload == {"lab": "nlp", "by": "ada", "commit": "", "inventory": ""}
    assert Origin("nlp", uncommitted=True).payload["uncommitted"] is True


def test_hosts_with_one_machine_id_and_one_address_are_the_same() -> None:
    one = HostFacts(machine_id="0" * 32, address="10.0.0.7")
    machines = Machines()
    for name, facts in (
        ("gpu1", one),
        ("clone", replace(one, address="10.0.0.8")),
        ("odd", HostFacts(address="10.0.0.7")),
        ("bare", HostFacts(address="10.0.0.7")),
        ("gpu2", one),
    ):
        machines.add(name, facts)
    twins = {name: machines.with_twin(name, one).twin for name in ("gpu1", "gpu2", "gpu3")}
    assert twins == {"gpu1": "gpu2", "gpu2": "gpu1", "gpu3": "gpu1"}
    assert machines.with_twin("clone", replace(one, address="10.0.0.8")).twin == ""
    assert machines.with_twin("odd", HostFacts(address="10.0.0.7")).twin == ""
    blind = machines.with_twin("gpu2", one).blind
    assert blind is not None
    assert blind.code == "host-named-twice"


# --- what others have is taken ---------------------------------------------------------------------------------------


def beside(
    theirs: dict[str, Any], mine: dict[str, Any], status: str = "running", at: str = "0.0.0.0"
) -> dict[str, str]:
    """The errors of lab vision's entries on a host where lab nlp has `alpha` at port 8000 of an address (at)."""
    label = {"uuids": [uuid(0)], "gpus": "[0]", "port": 8000, **theirs}
    other = container("alpha", status, label=label, ports=[(at, 8000)])
    facts = host_state(gpus=2, weights={"/w/a.gguf": 1}, containers=[other])
    facts = replace(facts, record={"": {"alpha": replace(NLP, id=other.id)}})
    mine_only = models(**mine).model_copy(update={"lab": "vision"})
    return said(models_plan(mine_only, facts, claim=Claim(Origin("vision"))).errors)


@pytest.mark.parametrize("status", ["running", "exited"])
def test_gpus_ports_and_names_of_others_are_taken(status: str) -> None:
    owner = "lab nlp (applied by ada, 2026-11-29 14:02 UTC)"
    assert beside({}, {"beta": {"gpus": [1], "port": 8001}}, status) == {}
    assert beside({}, {"beta": {"gpus": [0], "port": 8001}}, status)["beta"].startswith(
        f"needs GPU 0, which `alpha` of {owner} has"
    )
    assert beside({}, {"beta": {"gpus": [1], "port": 8000}}, status)["beta"].startswith(
        f"needs port 8000, which `alpha` of {owner} has"
    )
    assert beside({}, {"alpha": {"gpus": [1], "port": 8001}}, status)["alpha"].startswith(f"`alpha` belongs to {owner}")


ADDRESSES = [
    ("127.0.0.1", "192.0.2.1", False), ("127.0.0.1", "127.0.0.1", True), ("127.0.0.1", "0.0.0.0", True),
    ("127.0.0.1", "::", True), ("0.0.0.0", "192.0.2.1", True), ("::", "192.0.2.1", True), ("127.0.0.1", "", True),
    ("127.0.0.1", "::1", False),
]  # fmt: skip
"""Addresses of two listeners on one port, and whether they exclude each other."""


@pytest.mark.parametrize(("mine", "theirs", "taken"), ADDRESSES)
def test_port_of_others_is_taken_where_addresses_overlap(mine: str, theirs: str, taken: bool) -> None:
    found = beside({}, {"beta": {"gpus": [1], "port": 8000, "bind": mine}}, at=theirs)
    assert ("beta" in found) is taken


def test_labs_share_a_gpu_only_if_both_have_vram() -> None:
    mine = {"beta": {"gpus": [0], "port": 8001, "vram": "6GiB"}}
    assert beside({"vram": "5GiB"}, mine) == {}
    assert "beta" in beside({}, mine)


def test_shares_of_two_labs_are_added() -> None:
    mine = {name: {"gpus": [0], "port": port, "vram": "6GiB"} for port, name in enumerate(("beta", "gamma"), 8001)}
    found = beside({"vram": "12GiB"}, mine)
    assert found.keys() == {"gamma"}
    assert found["gamma"].endswith(
        "would hold 24.0 of 22.4 GiB: beta 6.0, gamma 6.0, alpha of lab nlp (applied by ada, 2026-11-29 14:02 UTC) "
        "12.0. Lower vram, or choose another GPU (free: 1)."
    )


def test_services_of_others_stay_in_compose_yaml() -> None:
    other = container("alpha", label={"uuids": [], "gpus": "[]"})
    text = "services: {alpha: {image: x, container_name: alpha}}\n"
    facts = host_state(weights={"/w/a.gguf": 1}, containers=[other], files={paths.compose_file(""): text})
    facts = replace(facts, record={"": {"alpha": replace(NLP, id=other.id)}})
    spec = models(beta={"gpus": []}).model_copy(update={"lab": "vision"})
    job = models_plan(spec, facts, claim=Claim(Origin("vision", "bob"))).job
    assert job is not None
    assert job["projects"][""]["services"].keys() == {"alpha", "beta"}
    assert job["origin"] == {"lab": "vision", "by": "bob", "commit": "", "inventory": ""}
    assert "take" not in job


def test_takes_over_in_a_users_docker() -> None:
    """The payload has that user's project, or the runner would not touch the record there."""
    ada = {"docker": {"rootless": {"ada": {}}}, "models": {"alpha": {"gpus": [], "port": 8000, "user": "ada"}}}
    wanted = spec({**ada, "lab": "nlp"})
    facts = host_state(weights={"/w/a.gguf": 1})
    one = replace(running(wanted, "alpha", facts), user="ada")
    facts = replace(facts, containers=(one,), record={"ada": {"alpha": Entry(one.id, "model")}})
    job = models_plan(wanted, facts, claim=Claim(Origin("nlp"))).job
    assert job is not None
    assert job["take"] == {"ada": ["alpha"]}
    assert "ada" in job["projects"]
