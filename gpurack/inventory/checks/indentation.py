"""Entries that are indented wrongly. A run would ignore them, and remove what an earlier run started. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from gpurack.engines import ENGINES
from gpurack.spec.problems import ENTRIES, Problem

TELLING = {"gpus", "weights", "vram"}
"""Fields that only entries of `models`, `services` and `jobs` have."""


def without_value(name: str, layers: Iterable[Mapping[str, Any]], alone: bool) -> list[Problem]:
    """Errors of sections without a value in a layer of a host's data. (`models: {}` is deliberate.)

    alone: does the inventory have no entries at all? Then `{}` would be the next error.
    """
    hint = "Write an entry below it, indented deeper." if alone else "Write `{section}: {{}}` for none."
    return [
        Problem.of("section-without-value", name, section, hint=hint.format(section=section))
        for section in ENTRIES
        if any(section in layer and layer[section] is None for layer in layers)
    ]


def misplaced_entries(name: str, unknown: Mapping[str, Any]) -> list[Problem]:
    """Errors of unknown keys of a host whose value looks like an entry."""
    return [
        Problem.of("entry-outside-section", name, str(key), name=key)
        for key, value in unknown.items()
        if looks_like_entry(value)
    ]


def looks_like_entry(value: Any) -> bool:
    """Does a value have fields that only entries have, or the name of an engine?

    >>> looks_like_entry({"engine": "vllm"}), looks_like_entry({"gpus": [0]}), looks_like_entry({"engine": "postgres"})
    (True, True, False)
    """
    if not isinstance(value, Mapping):
        return False
    engine = value.get("engine")
    return (isinstance(engine, str) and engine in ENGINES) or bool(TELLING & {*value})
