"""The ledger: the inventory has indices, containers keep UUIDs, no GPU is given twice, no model is moved."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpurack.facts.gpus import Driver, GpuProcess
from gpurack.facts.model import HostFacts
from gpurack.plan.models.ledger import Ledger, assign
from gpurack.plan.models.slots import gpus_text
from gpurack.spec.host import Host
from tests.given import container, host_state, models, said, spec, uuid


def held(name: str, *cards: int | str, text: str | None = None, **said: Any) -> Any:
    """A running model of ours on these GPUs. text: its `gpus` in the inventory; default: their indices."""
    words = {"gpus": text if text is not None else f"[{', '.join(map(str, cards))}]", "uuids": [uuid(c) for c in cards]}
    return container(name, label=words, **said)


def cards(ledger: Ledger) -> dict[str, list[str]]:
    return {name: list(given) for name, given in ledger.uuids.items()}


# --- properties ------------------------------------------------------------------------------------------------------


@dataclass
class Lab:
    """A host, and the same host before its GPUs were renumbered."""

    wanted: Host
    state: HostFacts
    running: dict[str, tuple[str, ...]]


@st.composite
def labs(draw: st.DrawFn) -> Lab:
    """Models with disjoint indices. Some run already, on the GPUs that had these indices then; some GPUs are lost."""
    count = draw(st.integers(1, 5))
    before = draw(st.permutations(range(count)))
    alive = [card for card in draw(st.permutations(range(count))) if draw(st.integers(0, 9)) < 9]
    owners = draw(st.lists(st.sampled_from(["ann", "bob", "cyn", ""]), min_size=count, max_size=count))
    indices = {name: [i for i, owner in enumerate(owners) if owner == name] for name in ("ann", "bob", "cyn")}
    entries = {name: {"gpus": listed} for name, listed in indices.items() if listed or draw(st.booleans())}
    running = {name: tuple(uuid(before[index]) for index in indices[name]) for name in entries if draw(st.booleans())}
    containers = [
        container(name, label={"gpus": str(indices[name]), "uuids": list(theirs)}) for name, theirs in running.items()
    ]
    driver = {"exit_code": 15, "message": "GPU is lost"} if len(alive) < count else {}
    facts = host_state(gpus=alive, containers=containers, driver=driver)
    return Lab(models(**entries), facts, running)


@given(labs())
def test_keeps_gpus_while_text_is_unchanged(lab: Lab) -> None:
    living = {gpu.uuid for gpu in lab.state.gpus}
    ledger = assign(lab.wanted, lab.state)
    for name, theirs in lab.running.items():
        if set(theirs) <= living:
            assert ledger.uuids[name] == theirs
        else:
            assert "no longer answers" in ledger.errors[name].what


@given(labs())
def test_gives_gpus_or_reason_and_no_gpu_twice(lab: Lab) -> None:
    ledger = assign(lab.wanted, lab.state)
    assert {*ledger.uuids} | {*ledger.errors} == {*lab.wanted.models}
    assert not {*ledger.uuids} & {*ledger.errors}
    given_away = [card for theirs in ledger.uuids.values() for card in theirs]
    assert len(given_away) == len(set(given_away))
    assert {*given_away} <= {gpu.uuid for gpu in lab.state.gpus}
    for name, theirs in ledger.uuids.items():
        assert len(theirs) == len(lab.wanted.models[name].gpus)


@given(labs(), st.randoms())
def test_order_of_models_does_not_matter(lab: Lab, random: Any) -> None:
    names = list(lab.wanted.models)
    random.shuffle(names)
    shuffled = lab.wanted.model_copy(update={"models": {name: lab.wanted.models[name] for name in names}})
    assert assign(shuffled, lab.state) == assign(lab.wanted, lab.state)


@given(labs(), st.sampled_from(["ann", "bob", "cyn"]))
def test_adding_a_model_moves_no_other(lab: Lab, name: str) -> None:
    assume(name in lab.wanted.models and name not in lab.running)
    others = lab.wanted.model_copy(update={"models": {k: m for k, m in lab.wanted.models.items() if k != name}})
    before, after = assign(others, lab.state), assign(lab.wanted, lab.state)
    assert {key: theirs for key, theirs in after.uuids.items() if key != name} == before.uuids


# --- cases -----------------------------------------------------------------------------------------------------------


def test_new_model_gets_gpus_with_current_indices() -> None:
    wanted = models(alpha={"gpus": [1, 0]}, beta={"gpus": [uuid("c")]}, gamma={"gpus": []}, delta={"gpus": [3]})
    ledger = assign(wanted, host_state(gpus=["a", "b", "c", "d"]))
    assert cards(ledger) == {"alpha": [uuid("b"), uuid("a")], "beta": [uuid("c")], "gamma": [], "delta": [uuid("d")]}


def test_all_excludes_reserved_gpus() -> None:
    wanted = models(alpha={"gpus": "all"}).model_copy(update={"reserved_gpus": [1]})
    assert cards(assign(wanted, host_state(gpus=3))) == {"alpha": [uuid(0), uuid(2)]}


def test_all_is_unchanged_after_gpu_was_added() -> None:
    facts = host_state(gpus=3, containers=[held("alpha", 0, 1, text="all")])
    assert cards(assign(models(alpha={"gpus": "all"}), facts)) == {"alpha": [uuid(0), uuid(1)]}


def test_changed_text_chooses_gpus_again() -> None:
    facts = host_state(gpus=4, containers=[held("alpha", 0)])
    assert cards(assign(models(alpha={"gpus": [3]}), facts)) == {"alpha": [uuid(3)]}


def test_two_models_swap_gpus() -> None:
    facts = host_state(gpus=2, containers=[held("alpha", 0), held("beta", 1)])
    assert cards(assign(models(alpha={"gpus": [1]}, beta={"gpus": [0]}), facts)) == {
        "alpha": [uuid(1)],
        "beta": [uuid(0)],
    }


def test_frees_gpu_of_removed_model() -> None:
    facts = host_state(gpus=1, containers=[held("old", 0)])
    assert cards(assign(models(new={"gpus": [0]}), facts)) == {"new": [uuid(0)]}


@pytest.mark.parametrize("gpus", ["", "not json", "[]", '{"uuids": 7, "gpus": "[0]"}'])
def test_ignores_unreadable_label(gpus: str) -> None:
    facts = host_state(gpus=1, containers=[container("alpha", label=gpus)])
    assert assign(models(alpha={"gpus": [0]}), facts).errors == {}


LOST = {"exit_code": 15, "message": "GPU is lost"}
REFUSED: dict[str, tuple[Any, HostFacts, str]] = {
    "index": ([4], host_state(gpus=["a", "b"]), "gpu-not-found"),
    "uuid": (["GPU-7"], host_state(gpus=["a"]), "gpu-not-found"),
    "prefix": (["GPU-0"], host_state(gpus=["a", "b"]), "gpu-ambiguous"),
    "twice": ([0, uuid("a")], host_state(gpus=["a", "b"]), "gpu-named-twice"),
    "lost": ([3], host_state(gpus=["a"], driver=LOST), "gpu-not-found"),
    "all": ("all", host_state(gpus=["a"], driver=LOST), "nvidia-smi-failed"),
    "none": ([0], host_state(driver={"exit_code": 9, "message": "NVIDIA-SMI has failed"}), "gpus-not-shown"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    gpus, facts, code = REFUSED[case]
    ledger = assign(models(alpha={"gpus": gpus}), facts)
    assert (ledger.uuids, {name: why.code for name, why in ledger.errors.items()}) == ({}, {"alpha": code})


def test_wording_of_gpus_that_nobody_gets_is_golden(check_golden: Callable[[str, dict[str, list[str]]], None]) -> None:
    refused = {case: assign(models(alpha={"gpus": gpus}), facts) for case, (gpus, facts, _) in REFUSED.items()}
    check_golden("gpus", {case: list(said(ledger.errors).values()) for case, ledger in refused.items()})


def test_refuses_renumbered_gpu_that_is_in_use() -> None:
    """alpha runs on GPU a, whose index was 0 and is now 1."""
    facts = host_state(gpus=["b", "a", "c"], containers=[held("alpha", "a", text="[0]")])
    ledger = assign(models(alpha={"gpus": [0]}, beta={"gpus": [1]}), facts)
    assert cards(ledger) == {"alpha": [uuid("a")]}
    assert ledger.errors["beta"].what == (
        f"GPU 1 ({uuid('a')}) is claimed by 2 models: alpha, beta. Running there: alpha. Choose another GPU "
        '(free: 0, 2), or set vram ("6GiB") for each of them.'
    )


def test_lost_gpu_is_error_of_its_models_only() -> None:
    facts = host_state(
        gpus=["b", "c"],
        driver={"exit_code": 15, "message": "GPU is lost"},
        containers=[held("alpha", "a", text="[0]"), held("beta", "b", text="[1]")],
    )
    ledger = assign(models(alpha={"gpus": [0]}, beta={"gpus": [1]}), facts)
    assert cards(ledger) == {"beta": [uuid("b")]}
    assert said(ledger.errors) == {
        "alpha": f"its GPU {uuid('a')} no longer answers. nvidia-smi says: GPU is lost. Reboot the host. If "
        "the GPU stays missing, choose another one (free: 1)."
    }


@pytest.mark.parametrize("wanted", [1, "GPU-0000000b", "0000:65:00.0"])
def test_lost_gpu_is_named_the_same_by_index_uuid_and_address(wanted: int | str) -> None:
    pci = {f"0000:{place}:00.0": uuid(card) for card, place in zip("abc", ("17", "65", "ca"), strict=True)}
    facts = host_state(gpus=3)
    seen = tuple(replace(gpu, uuid=uuid(card), index=i) for gpu, card, i in zip(facts.gpus, "ac", (0, 2), strict=False))
    facts = replace(facts, gpus=seen, driver=Driver("580", 15, "GPU is lost", pci))
    fresh = assign(models(alpha={"gpus": [wanted]}), facts)
    assert said(fresh.errors)["alpha"].startswith(f"its GPU 1 ({uuid('b')[:12]}…) no longer answers. nvidia-smi says")
    there = replace(
        facts, containers=host_state(gpus=3, containers=[held("alpha", "b", text=f"{[wanted]}")]).containers
    )
    assert "its GPU 1 (" in said(assign(models(alpha={"gpus": [wanted]}), there).errors)["alpha"]


def test_keeps_gpus_during_driver_mismatch() -> None:
    facts = host_state(driver={"exit_code": 18, "message": "mismatch"}, containers=[held("alpha", 0)])
    assert cards(assign(models(alpha={"gpus": [0]}), facts)) == {"alpha": [uuid(0)]}


def test_disabled_model_holds_no_gpu() -> None:
    wanted = models(alpha={"gpus": [0], "enabled": False}, beta={"gpus": [0]})
    assert cards(assign(wanted, host_state(gpus=1, containers=[held("alpha", 0)]))) == {"beta": [uuid(0)]}


def test_adds_up_shares_of_gpu() -> None:
    """An A30 with 24125 MiB has 23.56 GiB, of which models that share it may use 95 %."""
    fits = models(alpha={"gpus": [0], "vram": "12GiB"}, beta={"gpus": [0], "vram": "10GiB"})
    assert cards(assign(fits, host_state(gpus=1))) == {"alpha": [uuid(0)], "beta": [uuid(0)]}
    over = models(alpha={"gpus": [0], "vram": "50%"}, beta={"gpus": [0], "vram": "50%"})
    assert said(assign(over, host_state(gpus=2)).errors) == {
        "beta": f"GPU 0 ({uuid(0)}) would hold 23.6 of 22.4 GiB: alpha 11.8, beta 11.8. Lower vram, or choose another "
        "GPU (free: 1)."
    }


def test_distinguishes_own_and_foreign_processes() -> None:
    foreign = GpuProcess(uuid(0), 4242, "python", 17408, "anna")
    alpha = held("alpha", 1, text="[1]")
    ours = GpuProcess(uuid(1), 7, "llama-server", 9000, "root", alpha.id)
    facts = replace(host_state(gpus=3, containers=[alpha]), gpu_processes=(foreign, ours))
    ledger = assign(models(alpha={"gpus": [1]}, beta={"gpus": [0]}, gamma={"gpus": [2]}), facts)
    assert sorted(ledger.uuids) == ["alpha", "gamma"]
    assert ledger.errors["beta"].what.startswith(
        "GPU 0 is in use by python (pid 4242, anna, 17.0 GiB), which gpurack does not manage. "
        "This model was not changed."
    )
    shared = models(beta={"gpus": [0], "vram": "5GiB"})
    assert not assign(shared, facts).errors


def test_does_not_offer_reserved_or_used_gpus() -> None:
    wanted = models(alpha={"gpus": [0], "vram": "30GiB"}).model_copy(update={"reserved_gpus": [1]})
    facts = replace(host_state(gpus=4), gpu_processes=(GpuProcess(uuid(2), 4242, "python", 17408, "anna"),))
    assert assign(wanted, facts).errors["alpha"].what.endswith("choose another GPU (free: 3).")


@pytest.mark.parametrize(
    ("gpus", "text"), [([], "[]"), ([0, 1], "[0, 1]"), ("all", "all"), (["GPU-ab", 2], "[GPU-ab, 2]")]
)
def test_names_gpus_as_in_inventory(gpus: Any, text: str) -> None:
    assert gpus_text(models(alpha={"gpus": gpus}).models["alpha"]) == text


@pytest.mark.parametrize(
    ("hardware", "name", "other"),
    [
        ({"A30": 1}, "NVIDIA A30", False),
        ({"A100 80GB": 1}, "NVIDIA A100-SXM4-80GB", False),
        ({"A100 40GB": 1}, "NVIDIA A100-SXM4-80GB", True),
        ({"RTX 4090": 1}, "NVIDIA GeForce RTX 4090", False),
        ({"RTX-4090": 1}, "NVIDIA GeForce RTX 4090", False),
        ({"L4": 1}, "NVIDIA L40S", True),
        ({}, "NVIDIA L40S", False),
    ],
)
def test_refuses_other_gpu_than_hardware(hardware: dict[str, int], name: str, other: bool) -> None:
    facts = host_state(gpus=1)
    facts = replace(facts, gpus=(replace(facts.gpus[0], name=name),))
    host = spec({"hardware": hardware, "models": {"alpha": {"gpus": [0], "port": 8000}}})
    ledger = assign(host, facts)
    assert list(ledger.errors) == (["alpha"] if other else [])
    if other:
        assert f"GPU 0 is an {name}, but `hardware` has an" in ledger.errors["alpha"].what
