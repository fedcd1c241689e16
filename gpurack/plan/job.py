"""What the runner on the host (files/models.py) is told to do. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpurack import paths
from gpurack.plan import compose, weights
from gpurack.plan.drift import Change, holdings, replaced
from gpurack.spec.model import Host
from gpurack.state.model import HostState

READY_TIMEOUT = 1800
"""Seconds a model may take until it answers; 30 minutes is what the largest engines need to load (engines.md)."""


def make_job(
    spec: Host,
    state: HostState,
    uuids: Mapping[str, tuple[str, ...]],
    acting: Sequence[Change],
    services: tuple[Mapping[str, Any], Mapping[str, Any]],
    keys: Mapping[str, str],
) -> dict[str, Any]:
    """What the runner carries out. groups: models that need each other's cards, ports or names stop together, then
    start one after the other; different groups go side by side. services: the new ones, and those of the compose.yaml
    that lies there, for models that fail."""
    new, before = (compose.blocks(some) for some in services)
    return {
        "compose": {"head": compose.head(), "services": new, "before": before},
        "secrets": dict(keys),
        "groups": [
            [entry(change, spec, state, uuids, services[0]) for change in group]
            for group in groups(acting, spec, state, uuids)
        ],
    }


def entry(
    change: Change,
    spec: Host,
    state: HostState,
    uuids: Mapping[str, tuple[str, ...]],
    services: Mapping[str, Any],
) -> dict[str, Any]:
    """One model in the job."""
    name = change.model
    if change.action == "remove":
        return {"name": name, "action": "remove"}
    model = spec.models[name]
    data: dict[str, Any] = {
        "name": name,
        "action": change.action,
        "image": services[name]["image"],
        "uuids": list(uuids[name]),
        "url": compose.probe_url(name, spec, state),
        "served_name": compose.answers_as(name, spec),
        "timeout": READY_TIMEOUT,
    }
    if model.replaces and change.action == "create" and replaced(name, spec, state):
        data["replaces"] = model.replaces
    fetch = weights.fetched(spec, model.weights)
    if fetch:
        data["fetch"] = fetch
    return data


def groups(
    acting: Sequence[Change], spec: Host, state: HostState, uuids: Mapping[str, tuple[str, ...]]
) -> list[list[Change]]:
    """The changes in groups that share something they hold now or will hold: a card or a port. Removals come first."""
    merged: list[tuple[set[str], list[Change]]] = []
    for change in acting:
        held = {f"name {change.model}"} | holdings(change, spec, state, uuids)
        together = [group for group in merged if group[0] & held]
        merged = [group for group in merged if not group[0] & held]
        merged.append((held.union(*(g[0] for g in together)), [c for g in together for c in g[1]] + [change]))
    return [sorted(group, key=lambda change: change.action != "remove") for _, group in merged]


def secrets_differ(spec: Host, state: HostState, keys: Mapping[str, str]) -> bool:
    """Is a key file missing, or readable by others, or left over?"""
    there = {path: mode for path, (mode, _) in state.secrets.items()}
    wanted = {f"{paths.SECRETS}/{name}/api_key": "400" for name in keys}
    return there != wanted and bool(there or wanted)
