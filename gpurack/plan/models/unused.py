"""What a host is told to find what nothing uses any more (files/leftovers.py). Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from gpurack.engines import weights_of
from gpurack.plan.models import weights
from gpurack.plan.questions import images_by_user
from gpurack.spec.host import Host


def question(spec: Host) -> dict[str, Any]:
    """Return what the inventory names, which counts as use, also disabled entries: they may be enabled again."""
    entries = {kind: _enabled(getattr(spec, kind)) for kind in ("models", "services", "jobs")}
    complete = spec.model_copy(update=entries)
    return {
        "users": sorted({"", *spec.users}),
        "weights_dir": spec.weights_dir.rstrip("/"),
        "weights": sorted({*weights.paths(complete), *_wholes(complete)}),
        "images": sorted({*map(tuple, images_by_user(complete))}),
    }


def _enabled(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries, all enabled."""
    return {name: entry.model_copy(update={"enabled": True}) for name, entry in entries.items()}


def _wholes(spec: Host) -> Iterator[str]:
    """Yield the files and folders that are fetched for all entries."""
    for entry in spec.everything.values():
        yield from (weights.whole(spec, one, entry.dockerd) for one in weights_of(entry) if not isinstance(one, str))
