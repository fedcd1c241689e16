"""Failed creations: what failed once is not tried again until something that it depends on changes. Pure."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Failed
from gpurack.host_data import json_from_host
from gpurack.plan.models import files, ledger
from gpurack.plan.models.desired import SALTED, DesiredService, desire, salt_of
from gpurack.plan.models.diff import OWN
from gpurack.plan.models.health import Health, first_line, health, local_time
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, nearest

ALL = "all"
"""In `--data retry=HOST/all`: every entry of the host."""


def dependencies(desired: DesiredService, facts: HostFacts) -> str:
    """Return what a creation depends on besides its definition and image: the driver, and the weights on the host.

    A new model's weights may not be on the host yet. Then they are not named.
    """
    stamps = {path: facts.stamps[path] for _, path in desired.weights if path in facts.stamps}
    driver = {"driver": facts.driver.kernel} if desired.uuids and facts.driver.kernel else {}
    return json.dumps({**driver, **({"weights": stamps} if stamps else {})}, sort_keys=True)


def pending(spec: Host, facts: HostFacts) -> list[Problem]:
    """Return the error of each entry that the next run leaves out, as far as it can be told without the secrets."""
    assigned = ledger.assign(spec, facts).uuids if facts.failed else {}
    found = []
    for name, entry in spec.entries.items():
        if entry.enabled and name in assigned and (entry.dockerd, name) in facts.failed:
            try:
                found.append(failed_before(desire(name, spec, facts, assigned[name]), facts))
            except LookupError:  # its engine has no image for these GPUs
                continue
    return [problem for problem in found if problem]


def failed_before(
    desired: DesiredService, facts: HostFacts, secrets: Mapping[str, str] | None = None, starts: bool = False
) -> Problem | None:
    """Return why an entry is not created or started like this again; None if it may be tried.

    secrets: its own, by the names of spec/secret.py. None: unknown, and not compared.
    starts: does its container exist, and is only to be started? A failed creation may have been that of another
    container, and does not prevent a start. Nor does a failed start prevent a creation, which proves more.
    """
    failed = facts.failed.get((desired.user, desired.name))
    if failed is None or starts != failed.start or not same(failed, desired, facts, secrets):
        return None
    state = health(desired.observed(facts))
    if failed.start and state not in (Health.MISSING, Health.STOPPED):  # a person started it
        return None
    now = {
        Health.READY: "The previous one serves.",
        Health.MISSING: "It does not run.",
        Health.STOPPED: "It does not run.",
    }.get(state, "The previous one runs, but is not ready.")
    container = facts.container(desired.name, desired.user)
    before = ledger.label(container.labels) if container else {}
    what = desired.entry.version or desired.reference
    if what in (before.get("version"), before.get("image")):
        what = "this definition"
    told = {"what": what, "at": local_time(failed.at, facts), "why": first_line(failed.why), "now": now}
    place = f"{desired.spec.name}/{desired.name}"
    return Problem.of("failed-before", path=desired.path, name=desired.name, place=place, **told)


def same(failed: Failed, desired: DesiredService, facts: HostFacts, secrets: Mapping[str, str] | None) -> bool:
    """Would the creation that failed be repeated: same definition, image, weights and driver?

    What gpurack derives from the entry does not count, so that an upgrade of gpurack tries nothing again. Nor does what
    was not known then, or is not known now. Weights that are missing now have changed: the attempt had them.
    """
    tried = ledger.label({paths.MODEL_LABEL: failed.label})
    if secrets is not None and (salt := salt_of(tried)) is not None:
        marks = files.fingerprints(desired.entry, desired.connections, desired.container, secrets, salt)
        desired = replace(desired, fingerprints=marks)
    words = {*tried, *desired.definition} - {*OWN, *(SALTED if secrets is None else ())}
    if any(tried.get(word) != desired.definition.get(word) for word in words):
        return False
    if any(facts.weights.get(path, 0) is None for _, path in desired.weights):
        return False
    image = facts.images_of(desired.user).get(desired.reference)
    if image and failed.image and image != failed.image:
        return False
    return alike(as_map(failed.given), as_map(dependencies(desired, facts)))


def alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Do two maps agree in all keys that both have?

    >>> alike({"a": 1, "w": {"x": 1}}, {"w": {"x": 1, "y": 2}}), alike({"w": {"x": 1}}, {"w": {"x": 2}})
    (True, False)
    """
    for key in old.keys() & new.keys():
        one, other = old[key], new[key]
        if not (alike(one, other) if isinstance(one, Mapping) and isinstance(other, Mapping) else one == other):
            return False
    return True


def as_map(text: str) -> Mapping[str, Any]:
    """Return a map from the record; {} for anything else."""
    try:
        found = json_from_host(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def retried(asked: str | None, host: str, spec: Host) -> frozenset[str]:
    """Return the entries of a host that are tried again, by `--data retry=HOST/MODEL,…`."""
    names = {model for place, model in places(asked) if place == host}
    return frozenset(spec.entries) if ALL in names else frozenset(names)


def unknown_retries(asked: str | None, fleet: Mapping[str, Host]) -> list[Problem]:
    """Return an error for each host or model in `--data retry=` that the inventory does not have."""
    found = []
    for host, model in places(asked):
        example = "HOST/MODEL"
        if not host and model in fleet:
            why, example = "it is a host, and the model is missing", f"{model}/{next(iter(fleet[model].entries), ALL)}"
        elif host not in fleet:
            hosts = [name for name, spec in fleet.items() if model in spec.entries]
            why = f"{host} is not in the inventory" if host else "the host is missing"
            example = f"{hosts[0]}/{model}" if hosts else example
        elif model != ALL and model not in fleet[host].entries:
            why = f"{host} has no model `{model}`"
            example = f"{host}/{nearest(model, fleet[host].entries) or 'MODEL'}"
        else:
            continue
        found.append(Problem.of("unknown-retry", value=f"{host}/{model}" if host else model, why=why, example=example))
    return found


def places(asked: str | None) -> Collection[tuple[str, str]]:
    """Return (host, model) of each item; the host is "" if the item names none.

    >>> places("gpu1/a, gpu2/all,b")
    [('gpu1', 'a'), ('gpu2', 'all'), ('', 'b')]
    """
    items = [item.strip() for item in str(asked or "").split(",")]
    return [(host, model) for item in items if item for host, _, model in [item.rpartition("/")]]
