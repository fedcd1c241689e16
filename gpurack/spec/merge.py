"""Merge layers of inventory data: maps merge, lists and scalars replace, None removes.

This is JSON Merge Patch (RFC 7396) with two differences, both needed because the layers of an inventory are
merged before the result meets a host: a None stays in the merged data (it must still remove a key of the
host's daemon.json), and only `without_nones` drops it at the end.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def merge(base: Any, over: Any) -> Any:
    """`over` merged over `base`; both stay unchanged.

    >>> merge({"a": {"x": 1, "y": 2}, "l": [1]}, {"a": {"y": None}, "l": [2]})
    {'a': {'x': 1, 'y': None}, 'l': [2]}
    """
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    merged = dict(base)
    for key, value in over.items():
        merged[key] = merge(merged.get(key), value)
    return merged


def merge_all(layers: Iterable[Any]) -> Any:
    """All layers merged in order, the last one wins; {} for no layers."""
    merged: Any = {}
    for layer in layers:
        merged = merge(merged, layer)
    return merged


def without_nones(value: Any) -> Any:
    """`value` without the keys whose value is None, at every level of maps.

    >>> without_nones({"a": None, "b": {"c": None, "d": [None]}})
    {'b': {'d': [None]}}
    """
    if not isinstance(value, Mapping):
        return value
    return {key: without_nones(item) for key, item in value.items() if item is not None}


def patch(document: Any, changes: Any) -> Any:
    """Apply a JSON Merge Patch (RFC 7396): a None in `changes` removes the key from `document`.

    >>> patch({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"d": 3}})
    {'b': {'c': 2, 'd': 3}}
    """
    if not isinstance(changes, Mapping):
        return changes
    patched = dict(document) if isinstance(document, Mapping) else {}
    for key, value in changes.items():
        if value is None:
            patched.pop(key, None)
        else:
            patched[key] = patch(patched.get(key), value)
    return patched
