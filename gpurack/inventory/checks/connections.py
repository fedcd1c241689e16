"""Connections of services: the entries that `connects_to` names, and whether they can be reached.

Pure.
"""

import json
from collections.abc import Collection, Mapping

from gpurack.engines import ENGINES
from gpurack.engines.urls import endpoint, on_loopback
from gpurack.spec.connection import Connection
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem

Place = tuple[str, str]
"""(host, entry)"""


def connected(fleet: Mapping[str, Host]) -> dict[str, Host]:
    """The fleet with the connections of all enabled services."""
    return {
        name: host.connecting(
            {key: connections_of(fleet, name, key) for key, service in host.services.items() if service.enabled}
        )
        for name, host in fleet.items()
    }


def connections_of(fleet: Mapping[str, Host], host: str, service: str) -> tuple[Connection, ...]:
    """The connections of a service, those on its own host first."""
    mine = fleet[host].services[service]
    found = []
    for where, name in upstreams_of(fleet, host, service):
        model = fleet[where].entries[name]
        engine, near = ENGINES[model.engine], neighbours((host, mine), (where, model))
        inside = f"http://{name}:{engine.listens(model)}{engine.base_path}"
        url = inside if near else endpoint(where, fleet[where], model)
        key = model.keys.get(service) or model.api_key
        found.append(Connection(where, name, model, where == host, near, url, key, served_by(fleet, where, name)))
    return tuple(found)


def served_by(fleet: Mapping[str, Host], host: str, name: str) -> tuple[str, ...]:
    """The model names of an entry; for a gateway those of its models (not of gateways behind it)."""
    model = fleet[host].entries[name]
    if name not in fleet[host].services:
        return tuple(ENGINES[model.engine].serves(model, model.name_served(name)))
    behind = [place for place in upstreams_of(fleet, host, name) if place[1] in fleet[place[0]].models]
    return tuple(dict.fromkeys(served for place in behind for served in served_by(fleet, *place)))


def upstreams_of(fleet: Mapping[str, Host], host: str, service: str) -> list[Place]:
    """The enabled entries that a service connects to, those on its own host first.

    A name means every entry that answers to it: the same name on several hosts is one model with replicas. "all" means
    every reachable model.
    """
    mine = fleet[host].services[service]
    order = sorted(fleet, key=lambda name: name != host)
    entries = [((where, key), model) for where in order for key, model in fleet[where].entries.items() if model.enabled]
    if mine.connects_to == "all":
        models = [(place, model) for place, model in entries if place[1] in fleet[place[0]].models]
        return [place for place, model in models if reachable((host, mine), (place[0], model))]
    found = [
        place
        for name in mine.connects_to
        for place, model in entries
        if name in names_of(place[1], model) and place != (host, service)
    ]
    return list(dict.fromkeys(found))


def names_of(key: str, model: Model) -> set[str]:
    """The names of an entry in connects_to: its key, and what it serves."""
    return {key, *ENGINES[model.engine].serves(model, model.name_served(key))}


def neighbours(one: tuple[str, Model], other: tuple[str, Model]) -> bool:
    """Are two entries (host, model) in the same container network: in the same Docker of one host?"""
    return one[0] == other[0] and one[1].dockerd == other[1].dockerd


def reachable(service: tuple[str, Model], model: tuple[str, Model]) -> bool:
    """Can a service reach a model, by its name in a common network or by its published port?"""
    return neighbours(service, model) or not on_loopback(model[1].bind)


def connection_problems(fleet: Mapping[str, Host], names: Collection[str]) -> list[Problem]:
    """Errors of `connects_to`: unknown names, unreachable models, unknown keys, unusable engines.

    names: the names of all entries, also of those that are not in the fleet because of other errors.
    """
    problems = []
    served = {name for host in fleet.values() for key, model in host.entries.items() for name in names_of(key, model)}
    for host, spec in fleet.items():
        for key, service in spec.services.items():
            path = f"services.{key}.connects_to"
            if service.connects_to != "all":
                problems += [
                    Problem.unknown("unknown-model", name, sorted({*names} - {key}), host, path)
                    for name in service.connects_to
                    if name not in names and name not in served
                ]
                if key in service.connects_to and not upstreams_of(fleet, host, key):
                    others = [name for name in spec.models if name != key]
                    hint = f"Write {json.dumps(others)}." if others else "Name the models it uses."
                    problems.append(Problem.of("connects-to-itself", host, path, name=key, hint=hint))
            for where, name in upstreams_of(fleet, host, key):
                model = fleet[where].entries[name]
                if problem := obstacle(host, key, service, (where, name, model)):
                    problems.append(problem.at(host, path))
    return problems


def obstacle(host: str, key: str, service: Model, to: tuple[str, str, Model]) -> Problem | None:
    """The error of a service that cannot use an entry (host, name, model); None if it can.

    The problem names no host and no path.
    """
    where, name, model = to
    if not reachable((host, service), (where, model)):
        who = host if where != host else "another user's Docker"
        return Problem.of("upstream-on-loopback", name=name, host_of=where, who=who)
    if service.connects_to != "all" and ENGINES[model.engine].service and not ENGINES[model.engine].base_path:
        return Problem.of("upstream-is-web-ui", name=name)
    if why_not := ENGINES[service.engine].cannot_use(name, ENGINES[model.engine]):
        return Problem.of("upstream-not-usable", what=why_not)
    if model.keys and key not in model.keys and model.api_key is None:
        return Problem.of("upstream-key-unknown", name=name, service=key)
    return None
