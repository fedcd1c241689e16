"""Variations of every kind of public shape import as what they mean, lose nothing, and plan accepts the result."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from gpurack.commands.import_ import refusals
from gpurack.importing.accepted import OF_THE_ADMIN, accepted
from gpurack.importing.compose_file import NoCompose
from gpurack.importing.reader import Imported, read
from gpurack.importing.text import as_python, as_yaml, comments
from gpurack.inventory.fleet import check_fleet, without_models
from gpurack.spec.problems import InventoryError
from tests.unit.importing.cases import cases
from tests.unit.importing.kinds import ABSENT, INVENTORIES, KINDS, Variation

pytestmark = pytest.mark.sampled

PUBLIC = Path(__file__).parent / "public"
ALL = {
    f"{kind}-{number}": variation
    for kind, variations in KINDS.items()
    for number, variation in enumerate(variations, 1)
}
TEXTS: dict[str, str] = {
    **{path.name: path.read_text(encoding="utf-8") for path in sorted(PUBLIC.iterdir())},
    **{case.name: case.text for case in cases()},
    **{name: variation.text for name, variation in ALL.items()},
}
"""The whole corpus but the products of test_variations.py."""


def imported(variation: Variation) -> tuple[Imported, str]:
    """(the import of a text, its findings); without entries the sentence that refuses it."""
    try:
        result = read(variation.text, files=variation.files, profiles=variation.profiles)
    except NoCompose as error:
        return Imported(), str(error)
    return result, comments(result)


def test_every_kind_has_three_variations_of_its_own() -> None:
    kinds = {path.stem for path in PUBLIC.iterdir() if not path.stem.startswith("ok-")}
    assert kinds == {*KINDS, *INVENTORIES}
    counts = [*map(len, KINDS.values()), *map(len, INVENTORIES.values())]
    assert min(counts) >= 3
    assert sum(counts) >= 150
    assert len(set(TEXTS.values())) == len(TEXTS)


@pytest.mark.parametrize("variation", ALL.values(), ids=ALL)
def test_variation_means_what_the_original_meant(variation: Variation) -> None:
    result, said = imported(variation)
    found = {name: fields for entries in result.entries.values() for name, fields in entries.items()}
    assert set(found) == set(variation.entries), said
    for name, expected in variation.entries.items():
        assert {field: found[name].get(field, ABSENT) for field in expected} == expected, said
    assert [words for words in variation.said if words not in said] == [], said
    assert not [words for words in variation.unsaid if words in said + as_python(result, "h")]


@pytest.mark.parametrize("name", TEXTS)
def test_plan_accepts_what_import_wrote(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_lab")
    try:
        result = read(TEXTS[name])
    except NoCompose:
        return
    kept = accepted(result, lambda data: refusals(data, "gpu1"))
    namespace: dict[str, Any] = {}
    exec(as_python(kept, "gpu1") + comments(kept), namespace)
    [(_, data)] = namespace["gpu_hosts"][0]
    assert {kind: entries for kind, entries in data.items() if entries} == kept.data
    found = refusals(data, "gpu1")
    nothing = None if found else without_models(check_fleet({"gpu1": [data]}))
    assert [one for one in found if one.code not in OF_THE_ADMIN] == []
    assert (nothing is None) == any(kept.entries.values()), "plan accepts it if an entry is left"
    for kind, entries in result.entries.items():
        for key in entries:
            assert key in kept.entries[kind] or (key in kept.refused[kind] and key in comments(kept)), key
    assert all(key in as_yaml(kept, "gpu1") for entries in result.entries.values() for key in entries)


def codes(data: dict[str, Any]) -> list[str]:
    """The codes of the errors of a host."""
    try:
        check_fleet({"gpu1": [{"hardware": {"A30": 1}}, data]})
    except InventoryError as error:
        return [problem.code for problem in error.problems]
    return []


@pytest.mark.parametrize("kind", INVENTORIES)
def test_inventory_of_a_kind_is_refused_or_accepted(kind: str) -> None:
    assert [codes(data) for data, _ in INVENTORIES[kind]] == [expected for _, expected in INVENTORIES[kind]]


@pytest.mark.parametrize(
    ("name", "expected"), [("compose-keys-unchecked", ["unknown-compose-key"]), ("expose-two", [])]
)
def test_public_inventory_is_refused_or_accepted(name: str, expected: list[str]) -> None:
    hosts, every = runpy.run_path(str(PUBLIC / f"{name}.txt"))["gpu_hosts"]
    assert codes({**every, **hosts[0][1]}) == expected
