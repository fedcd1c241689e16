"""A fleet in which one entry differs from the inventory, as if the inventory had been edited."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyinfra.api.inventory import Inventory

from gpurack.inventory.fleet import Fleet, check_fleet, layers_of
from gpurack.inventory.lock_file import with_lock
from gpurack.spec.merge import merge, merge_all


def with_words(inventory: Inventory, path: Path | None, host: str, place: str, words: Mapping[str, Any]) -> Fleet:
    """Return the checked fleet of an inventory with other words in one entry, which the lock does not pin then.

    path: the inventory's file. place: of the entry, `models.alpha`. words: field → value; None removes. Raises
    InventoryError.
    """
    kind, _, name = place.partition(".")
    layers = {each.name: layers_of(inventory, each) for each in inventory}
    data = merge_all(layers[host])
    entry = {**data[kind][name], **{word: changed(data[kind][name].get(word), value) for word, value in words.items()}}
    layers[host] = [{**data, kind: {**data[kind], name: entry}}]
    fleet = with_lock(check_fleet(layers), path)
    lock = fleet[host].lock
    if lock:
        kept = {other: pinned for other, pinned in lock.models.items() if other != name}
        fleet[host] = fleet[host].locked(lock.model_copy(update={"models": kept}))
    return fleet


def changed(today: Any, value: Any) -> Any:
    """Return the value of a field; a map is merged over today's.

    >>> changed({"a": 1, "b": 2}, {"a": None, "c": 3}), changed({"a": 1}, 2)
    ({'a': None, 'b': 2, 'c': 3}, 2)
    """
    return merge(today, value) if isinstance(value, Mapping) and isinstance(today, Mapping) else value
