"""The ledger never exceeds the memory of a GPU, whatever is requested now or was before."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gpurack.facts.model import HostFacts
from gpurack.plan.models.ledger import ROUNDING, Ledger, assign
from gpurack.spec.gpus import SHARED
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError
from tests.given import host_state, models, running, said, uuid

SHARE = st.one_of(st.none(), st.integers(1, 30).map("{}GiB".format), st.integers(1, 100).map("{}%".format))
ENTRY = st.fixed_dictionaries({"gpus": st.lists(st.integers(0, 1), unique=True), "vram": SHARE})
ENTRIES = st.dictionaries(st.sampled_from(["ann", "bob", "cyn", "dan"]), ENTRY)


def wanted(entries: dict[str, dict[str, Any]]) -> Host | None:
    """The spec; None for one that is refused before any host is inspected."""
    try:
        return models(**entries)
    except InventoryError:
        return None


def exceeded(ledger: Ledger, spec: Host, facts: HostFacts) -> list[str]:
    """The GPUs with more than their memory."""
    bad = []
    for gpu in facts.gpus:
        total = gpu.memory_total / 1024
        here = [spec.models[name].vram for name, cards in ledger.uuids.items() if gpu.uuid in cards]
        if len(here) > 1 and (
            None in here or sum(share.of(total) for share in here if share) > SHARED * total + ROUNDING
        ):
            bad.append(gpu.uuid)
        if len(here) == 1 and here[0] and here[0].of(total) > total + ROUNDING:
            bad.append(gpu.uuid)
    return bad


@st.composite
def labs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """An inventory, and its next version: other shares on the same GPUs, or other models."""
    before = draw(ENTRIES)
    resized = {name: {**entry, "vram": draw(SHARE)} for name, entry in before.items()}
    return before, draw(st.one_of(st.just(resized), ENTRIES))


@settings(max_examples=5 * settings().max_examples)
@given(labs())
def test_never_exceeds_memory_of_gpu(lab: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = lab
    old, new = wanted(before), wanted(after)
    if old is None or new is None:
        return
    empty = host_state(gpus=3)
    first = assign(old, empty)
    assert exceeded(first, old, empty) == []
    state = replace(empty, containers=tuple(running(old, name, empty, cards) for name, cards in first.uuids.items()))
    second = assign(new, state)
    assert exceeded(second, new, state) == []
    # every model has its GPUs, or a reason
    assert set(second.uuids) | set(second.errors) == set(new.models)
    # in any order of the inventory
    backwards = new.model_copy(update={"models": dict(reversed(new.models.items()))})
    assert assign(backwards, state) == second
    # and again the same
    assert assign(old, state).uuids == first.uuids


def test_checks_grown_share_again() -> None:
    def lab(share: str) -> Host:
        return models(ann={"gpus": [0], "vram": share}, bob={"gpus": [0], "vram": "12GiB"})

    facts = host_state(gpus=2)
    facts = replace(facts, containers=tuple(running(lab("6GiB"), name, facts, (uuid(0),)) for name in ("ann", "bob")))
    assert assign(lab("8GiB"), facts).errors == {}
    grown = assign(lab("12GiB"), facts)
    assert grown.uuids == {"bob": (uuid(0),)}
    assert said(grown.errors) == {
        "ann": f"GPU 0 ({uuid(0)}) would hold 24.0 of 22.4 GiB: ann 12.0, bob 12.0. Lower vram, or choose another GPU "
        "(free: 1)."
    }


def test_a_share_larger_than_the_card() -> None:
    assert said(assign(models(ann={"gpus": [0], "vram": "30GiB"}), host_state(gpus=2)).errors) == {
        "ann": f"GPU 0 ({uuid(0)}) would hold 30.0 of 23.6 GiB: ann 30.0. Lower vram, or choose another GPU (free: 1)."
    }
