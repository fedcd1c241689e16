"""The models that an ollama pulls from its own library: which are missing, and from where they come. Pure."""

from collections.abc import Mapping
from typing import Any

from gpurack.engines import ENGINES
from gpurack.engines.ollama import LIBRARY, full_name
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Probe
from gpurack.host_data import json_from_host
from gpurack.plan.models.desired import DesiredService
from gpurack.spec.host import Host
from gpurack.spec.model import Model


def reasons(desired: DesiredService, facts: HostFacts, prune: bool) -> tuple[str, ...]:
    """Return what a running ollama lacks of its `pull`; () if nothing, and for engines that pull nothing.

    prune: also return what it has in addition.
    """
    if not pulling(desired.entry):
        return ()
    wanted = [full_name(each) for each in desired.entry.pull]
    there = answered(facts.probes.get((desired.user, desired.name)))
    if there is None:
        return ()
    missing = tuple(f"{each} is not pulled" for each in wanted if each not in there)
    others = tuple(f"{each} is not listed" for each in sorted(set(there) - set(wanted))) if prune else ()
    return missing + others


def answered(probe: Probe | None) -> dict[str, str] | None:
    """Return the models that a running ollama has → the sha256 of the manifest.

    `ollama list` shows the beginning of it as ID. None if the answer has another form.
    """
    if probe is None or probe.status != 200:
        return None
    try:
        listed = json_from_host(probe.body)["models"] or ()
        return {str(model["name"]): str(model.get("digest", "")) for model in listed}
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def pulling(entry: Model) -> bool:
    """Does an entry's engine pull models by itself?"""
    return "pull" in ENGINES[entry.engine].fields


def pull_request(spec: Host, entry: Model) -> dict[str, Any]:
    """Return what the runner (files/ollama.py) pulls; {} for an engine without a library.

    For each model its name, where to pull it from, and whether that registry speaks plain HTTP.
    """
    return {"pull": [source(spec, full_name(each)) for each in entry.pull]} if pulling(entry) else {}


def source(spec: Host, model: str) -> Mapping[str, Any]:
    """Return a model through the host's mirrors. Registries in `insecure-registries` speak plain HTTP."""
    first, slash, rest = model.partition("/")
    registry = first if slash and "." in first else LIBRARY
    path = rest if registry == first else model
    mirror = spec.mirrors.get(registry)
    origin = model
    if mirror:
        origin = f"{mirror.url.rstrip('/')}/{path if '/' in path else f'library/{path}'}"
    insecure = spec.docker.daemon.get("insecure-registries") or []
    return {"name": model, "from": origin, "insecure": origin.partition("/")[0] in insecure}
