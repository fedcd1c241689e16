"""Plans without a connection decide like a run: one ledger, for the imagined host and the real one."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.facts.model import HostFacts
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.models.imagined import as_hardware, imagined
from gpurack.plan.models.ledger import ROUNDING, Ledger, assign
from gpurack.plan.models.slots import other_than_expected
from gpurack.plan.offline import compose_text
from gpurack.spec.gpus import GPU_KINDS, SHARED
from gpurack.spec.host import Gpus, Host
from gpurack.spec.problems import InventoryError, Problem, grouped
from tests.given import gpu, host_state, models, models_plan, running, spec, uuid

COUNT = 3
MEMORY = 24 * 1024
"""MiB of an A30, as in the table of kinds."""
SHARE = st.one_of(st.none(), st.integers(1, 30).map("{}GiB".format), st.integers(1, 100).map("{}%".format))


KINDS = st.lists(st.tuples(st.sampled_from(sorted(GPU_KINDS)), st.integers(1, 8)), unique_by=lambda kind: kind[0])


@given(KINDS)
def test_hardware_of_an_imagined_host_is_what_the_inventory_says(kinds: list[tuple[str, int]]) -> None:
    assert as_hardware(imagined(Host(hardware=dict(kinds))).gpus) == dict(kinds)


@pytest.mark.parametrize(
    ("name", "mib", "found"),
    [
        ("NVIDIA A30", 24576, {"A30": 1}),
        ("NVIDIA A100-SXM4-80GB", 81920, {"A100 80GB": 1}),
        ("NVIDIA A100-PCIE-40GB", 40960, {"A100 40GB": 1}),
        ("Tesla V100-SXM2-32GB", 32768, {"V100 32GB": 1}),
        ("NVIDIA H100 80GB HBM3", 81559, {"H100": 1}),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 16376, {"RTX 4070 Ti SUPER": 1}),
        ("NVIDIA RTX 6000 Ada Generation", 49140, {"RTX 6000 Ada": 1}),
        ("NVIDIA GeForce RTX 4060 Ti", 8188, {"RTX 4060 Ti": Gpus(count=1, memory="8GiB")}),
        ("NVIDIA Novel 9", 98304, {"NVIDIA Novel 9": Gpus(count=1, memory="96GiB")}),
        ("NVIDIA GB10", None, {"GB10": 1}),
        ("NVIDIA Novel 9", None, {}),
        ("", 24576, {}),
    ],
)
def test_hardware_of_a_gpu_by_the_name_of_its_driver(name: str, mib: int | None, found: dict[str, Any]) -> None:
    seen = replace(gpu(0), name=name, memory_total=mib)
    assert as_hardware([seen, replace(seen, index=-1, parent=seen.uuid)]) == found  # a MIG instance is no GPU
    spec = Host(hardware=found)
    assert not found or other_than_expected(seen, spec) is None


def test_hardware_cannot_say_that_kinds_alternate() -> None:
    other = replace(gpu(1), name="NVIDIA L4", memory_total=23034)
    assert as_hardware([gpu(2), other, gpu(0)]) == {}
    assert as_hardware([replace(other, index=2), gpu(1), gpu(0)]) == {"A30": 2, "L4": 1}


def hosts(texts: list[int | str], shares: st.SearchStrategy[str | None]) -> st.SearchStrategy[dict[str, Any]]:
    """Inventories of a host whose models name GPUs by these texts."""
    gpus = st.one_of(st.just("all"), st.lists(st.sampled_from(texts), unique=True, max_size=3))
    entry = st.fixed_dictionaries({"gpus": gpus, "vram": shares})
    return st.fixed_dictionaries(
        {
            "hardware": st.just({"A30": COUNT}),
            "models": st.dictionaries(st.sampled_from(["ann", "bob", "cyn", "dan"]), entry, min_size=1),
            "reserved_gpus": st.lists(st.integers(0, COUNT - 1), unique=True),
        }
    )


# The memory of a GPU named by its UUID is not in the inventory, so only the real host can check shares of it.
HOSTS = st.one_of(hosts([0, 1, 2, 3], SHARE), hosts([0, 1, 2, 3, "GPU-a", "GPU-ab"], st.none()))


def data(words: dict[str, Any]) -> dict[str, Any]:
    """An inventory's words, with the fields that each model needs."""
    common = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf"}
    entries = {
        name: {**common, "port": 8000 + number, **entry} for number, (name, entry) in enumerate(words["models"].items())
    }
    return {**words, "models": entries}


def host_of(words: dict[str, Any]) -> Host:
    """The spec without checks, so that errors reach the ledger."""
    return Host.model_validate(data(words))


def real(spec: Host) -> HostFacts:
    """A real host that matches the inventory: its GPUs have names and UUIDs of their own, and no processes."""
    gpus = [replace(gpu(index), memory_total=MEMORY) for index in range(COUNT)]
    rest = [text for text in ("GPU-ab", "GPU-a") if any(text in entry.gpus for entry in spec.models.values())]
    if rest:  # the shorter text is a prefix of the same UUID; no model names its index, which `hardware` does not have
        gpus.append(replace(gpu(COUNT + 1), uuid=f"{rest[0]}c-77"))
    return replace(host_state(gpus=COUNT), gpus=tuple(gpus))


def places(ledger: Ledger) -> dict[str, list[int]]:
    """Entry → the positions of its GPUs on the host."""
    return {name: [ledger.slots.index(slot) for slot in ledger.slots_of(name)] for name in ledger.uuids}


@given(HOSTS)
def test_imagined_and_matching_real_host_get_same_gpus(words: dict[str, Any]) -> None:
    host = host_of(words)
    offline, live = assign(host, imagined(host)), assign(host, real(host))
    assert places(offline) == places(live)
    assert [(fault.names, fault.field) for fault in offline.faults] == [(f.names, f.field) for f in live.faults]


@given(HOSTS)
def test_offline_refuses_exactly_what_a_run_refuses(words: dict[str, Any]) -> None:
    try:
        check_fleet({"gpu1": [data(words)]})
        refused: set[str] = set()
    except InventoryError as error:
        refused = {problem.path.split(".")[1] for problem in error.problems}
    live = assign(host_of(words), real(host_of(words)))
    assert refused == {fault.names[0] for fault in live.faults}


@given(HOSTS, st.booleans())
def test_never_exceeds_memory_of_gpu(words: dict[str, Any], offline: bool) -> None:
    host = host_of(words)
    ledger = assign(host, imagined(host) if offline else real(host))
    for slot in ledger.slots:
        here = [host.models[name].vram for name in ledger.entries_on(slot)]
        assert None not in here or len(here) == 1
        held = sum(share.of(slot.memory or 0) for share in here if share)
        assert held <= (SHARED if len(here) > 1 else 1) * (slot.memory or 0) + ROUNDING or slot.memory is None
        assert not (slot.reserved and here)


@given(HOSTS, st.randoms())
def test_order_of_entries_does_not_matter(words: dict[str, Any], random: Any) -> None:
    names = list(words["models"])
    random.shuffle(names)
    shuffled = {**words, "models": {name: words["models"][name] for name in names}}
    host, other = host_of(words), host_of(shuffled)
    assert assign(host, real(host)) == assign(other, real(host))


# --- one fault is one line -------------------------------------------------------------------------------------------

SEVEN = ["ann", "bob", "cyn", "dan", "eve", "fay", "gus"]


def problems_of(words: dict[str, Any]) -> list[Problem]:
    with pytest.raises(InventoryError) as caught:
        check_fleet({"gpu1": [data(words)]})
    return caught.value.problems


def test_seven_models_on_one_gpu_are_one_line_offline() -> None:
    (problem,) = problems_of({"hardware": {"A30": 2}, "models": {name: {"gpus": [0]} for name in SEVEN}})
    assert problem.path == "models.bob.gpus"
    assert problem.what.startswith(f"GPU 0 (A30) is claimed by 7 models: {', '.join(SEVEN)}. ")
    assert "(free: 1)" in problem.what


def test_seven_models_on_one_gpu_are_one_line_live() -> None:
    """The inventory names the GPU by index and by UUID, so only the host shows that it is the same."""
    ways: dict[str, Any] = {name: {"gpus": [uuid(0)[: 12 + number]]} for number, name in enumerate(SEVEN)}
    host = models(**{**{name: {**way, "vram": "2GiB"} for name, way in ways.items()}, "ann": {"gpus": [0]}})
    errors = models_plan(host, host_state(gpus=2, weights={"/w/a.gguf": 1})).errors
    (line,) = grouped(errors.values())
    assert line.startswith(f"{', '.join(SEVEN[1:])}: GPU 0 ({uuid(0)}) is claimed by 7 models: {', '.join(SEVEN)}. ")
    assert line.endswith('or set vram ("6GiB") for ann.')


def test_models_that_overfill_two_gpus_are_one_line() -> None:
    words = {"hardware": {"A30": 2}, "models": {name: {"gpus": [0, 1], "vram": "9GiB"} for name in SEVEN[:3]}}
    (problem,) = problems_of(words)
    assert (problem.path, problem.what) == (
        "models.cyn.vram",
        "GPUs 0, 1 would each hold 27.0 of 22.8 GiB: ann 9.0, bob 9.0, cyn 9.0. Lower vram, or choose another GPU.",
    )


def test_models_of_lost_gpu_are_one_line() -> None:
    host = models(ann={"gpus": [1], "vram": "2GiB"}, bob={"gpus": [1], "vram": "2GiB"})
    had = host_state(gpus=2)
    containers = tuple(running(host, name, had, (uuid(1),)) for name in ("ann", "bob"))
    errors = assign(host, replace(had, gpus=had.gpus[:1], containers=containers)).errors
    (line,) = grouped(why.at("", f"models.{name}") for name, why in errors.items())
    assert line.startswith(f"ann, bob: its GPU {uuid(1)} no longer answers.")


# --- a host without hardware -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vram", "refused"), [("6GiB", True), ("30%", False), (None, False)])
def test_refuses_percent_on_gpu_without_memory_size(vram: str | None, refused: bool) -> None:
    facts = host_state(gpus=1)
    facts = replace(facts, gpus=(replace(facts.gpus[0], memory_total=0),))
    errors = assign(models(alpha={"gpus": [0], "vram": vram}), facts).errors
    assert [error.code == "vram-needs-percentage" for error in errors.values()] == [True] * refused


@pytest.mark.parametrize("entry", [{"gpus": [0], "vram": "6GiB"}, {"gpus": [0], "vram": "30%"}, {"gpus": "all"}])
def test_prints_compose_yaml_without_hardware(entry: dict[str, Any]) -> None:
    vllm = {"engine": "vllm", "version": "0.33.0", "weights": "/w/m"}
    text = compose_text(models(alpha={**vllm, **entry}))
    assert "GPU-of-index-0" in text
    assert ("gpu-memory-utilization" in text) == ("%" in str(entry))


def test_all_means_one_unreserved_gpu_at_least() -> None:
    host = spec({"reserved_gpus": [0], "models": {"alpha": {"gpus": "all", "port": 8000}}})
    assert places(assign(host, imagined(host))) == {"alpha": [1]}


def test_refuses_all_if_every_gpu_is_reserved() -> None:
    (problem,) = problems_of({"hardware": {"A30": 1}, "reserved_gpus": [0], "models": {"ann": {"gpus": "all"}}})
    assert (problem.path, "all are reserved" in problem.what) == ("models.ann.gpus", True)


CHOOSE = "Choose one of these, or correct `hardware`."


def test_gpu_named_by_uuid_has_no_index() -> None:
    entries = {"ann": {"gpus": [1]}, "bob": {"gpus": ["GPU-6f1c"]}}
    (problem,) = problems_of({"hardware": {"A30": 1}, "models": entries})
    assert str(problem) == "gpu1 models.ann.gpus: GPU 1 does not exist; hardware has 0. " + CHOOSE


def test_two_prefixes_of_one_uuid_are_one_gpu() -> None:
    (problem,) = problems_of({"models": {"ann": {"gpus": ["GPU-6f"]}, "bob": {"gpus": ["GPU-6f1c"]}}})
    assert problem.what.startswith("GPU-6f1c is claimed by 2 models: ann, bob.")
