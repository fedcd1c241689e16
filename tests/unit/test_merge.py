"""Merging the layers of an inventory, and JSON Merge Patch (RFC 7396)."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.spec.merge import merge, merge_all, patch, without_nones

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b"])
KEYS = st.sampled_from("abc")
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3))
MAPS = st.dictionaries(KEYS, VALUES, max_size=3)


def has_no_none_in_maps(value: Any) -> bool:
    """Lists are compared as a whole, without looking inside."""
    if not isinstance(value, dict):
        return True
    return all(item is not None and has_no_none_in_maps(item) for item in value.values())


# RFC 7396, appendix A: original, patch, result.
@pytest.mark.parametrize(
    ("original", "changes", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patches_examples_of_rfc(original: Any, changes: Any, result: Any) -> None:
    assert patch(original, changes) == result


@given(MAPS, MAPS)
def test_second_patch_changes_nothing(document: Any, changes: Any) -> None:
    once = patch(document, changes)
    assert patch(once, changes) == once


@given(MAPS, MAPS)
def test_patch_keeps_other_keys(document: Any, changes: Any) -> None:
    patched = patch(document, changes)
    assert {key: patched[key] for key in document if key not in changes} == {
        key: value for key, value in document.items() if key not in changes
    }


@given(VALUES, VALUES)
def test_arguments_stay_unchanged(one: Any, other: Any) -> None:
    before = copy.deepcopy((one, other))
    merge(one, other), patch(one, other), without_nones(one)
    assert (one, other) == before


@given(MAPS, MAPS)
def test_merging_then_patching_equals_patching_each_layer(one: Any, other: Any) -> None:
    assert patch({}, merge(one, other)) == patch(patch({}, one), other)


@given(MAPS)
def test_without_nones_equals_patching_empty_map(data: Any) -> None:
    assert without_nones(data) == patch({}, data)
    assert has_no_none_in_maps(without_nones(data))


def test_null_between_two_maps_discards_first() -> None:
    layers = [{"log-opts": {"max-size": "10m"}}, {"log-opts": None}, {"log-opts": {"max-file": "3"}}]
    assert merge_all(layers) == {"log-opts": {"max-file": "3"}}


@given(MAPS, MAPS)
def test_later_null_removes_key(data: Any, over: Any) -> None:
    for key in over:
        assert key not in without_nones(merge_all([data, over, {key: None}]))


def test_no_layers_give_empty_map() -> None:
    assert merge_all([]) == {}
