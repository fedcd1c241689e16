"""`gpurack lock INVENTORY [WHAT]... --upgrade`: move pins to the newest versions that the inventory allows. Pure.

Nothing is installed; the next run does that. See docs/lock.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpurack.engines import weights_of
from gpurack.facts.model import HostFacts
from gpurack.plan import pins
from gpurack.plan.models import ledger, weights
from gpurack.plan.models.desired import desire
from gpurack.plan.models.images import mirrored, references
from gpurack.plan.packages.base import Pin
from gpurack.plan.packages.platforms import TOOLKIT_PACKAGES, platform_of
from gpurack.plan.system import docker, nvidia_toolkit
from gpurack.spec.host import Host
from gpurack.spec.lock import HostLock, ModelLock
from gpurack.spec.problems import Problem
from gpurack.spec.weights import UrlWeights, belongs

PARTS = ("docker", "toolkit", "images", "weights")
"""The words that WHAT can be, besides names of models and services."""


@dataclass(frozen=True)
class News:
    """The newest versions that a host can get.

    packages: name → versions, newest first. images: model → `reference@sha256:…`. commits: path of the weights on the
    host → commit. errors: what could not be looked up.
    """

    packages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    commits: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()


def wrong_words(what: Iterable[str], fleet: Mapping[str, Host]) -> list[Problem]:
    """Errors of words that name no part of the lock and no entry."""
    known = [*PARTS, *sorted({name for host in fleet.values() for name in host.entries})]
    return [Problem.unknown("unknown-lock-part", word, known) for word in what if word not in known]


def chosen(what: Sequence[str], part: str, name: str = "") -> bool:
    """True if WHAT selects a part, or this model's share of it. An empty WHAT selects everything."""
    return not what or part in what or (bool(name) and name in what)


def names_of_packages(what: Sequence[str], spec: Host, facts: HostFacts, old: HostLock) -> list[str]:
    """The packages to look up: those that a run would install, and those below them that are in the lock."""
    platform = platform_of(facts.os)
    names: list[str] = []
    if platform and spec.docker.source != "keep" and chosen(what, "docker"):
        packages = docker.packages_of(docker.with_source(spec, facts), platform)
        names += packages + tuple(name for name in docker.BELOW if name in old.packages)
    if facts.has_nvidia and chosen(what, "toolkit"):
        names += TOOLKIT_PACKAGES
    return names


def newest_request(what: Sequence[str], spec: Host, facts: HostFacts) -> dict[str, Any]:
    """The input of files/newest.py: the images and the repositories on hubs to look up."""
    assigned = ledger.assign(spec, facts).uuids
    images, hubs = [], []
    for name, model in spec.entries.items():
        if model.enabled and chosen(what, "images", name) and references(model) and name in assigned:
            image = desire(name, spec, facts, assigned[name]).image
            named = next(each for each in references(model) if mirrored(spec, each) == image)
            images.append({"name": name, "user": model.dockerd, "image": image, "reference": named})
        if model.enabled and chosen(what, "weights", name):
            for one in weights_of(model):
                fetch, place = weights.fetched(spec, one, model.dockerd), weights.place(spec, one, model.dockerd)
                hubs += [{"name": name, "place": place, "fetch": fetch}] if fetch and "hub" in fetch else []
    return {"images": images, "hubs": hubs}


def upgraded(what: Sequence[str], spec: Host, facts: HostFacts, old: HostLock, seen: HostLock, news: News) -> HostLock:
    """A host's lock with the pins that `what` selects moved to the newest. seen: the lock of what is on the host."""
    models = dict(old.models)
    for name, model in spec.entries.items():
        if model.enabled and (chosen(what, "images", name) or chosen(what, "weights", name)):
            models[name] = upgraded_model(what, name, spec, old.models.get(name), seen.models.get(name), news)
    if not what:
        models = {name: one for name, one in models.items() if name in spec.entries and spec.entries[name].enabled}
        old = old.model_copy(update={"driver": seen.driver, "keys": seen.keys})
    return old.model_copy(update={"models": models, "packages": {**old.packages, **versions(spec, facts, news)}})


def versions(spec: Host, facts: HostFacts, news: News) -> dict[str, str]:
    """The newest version of each package that the inventory allows; one version for all four of the toolkit."""
    platform = platform_of(facts.os)
    pinned = docker.pins(docker.with_source(spec, facts), platform) if platform else {}
    allowed = {**pinned, **nvidia_toolkit.pins(spec)}
    found = {name: newest(allowed.get(name), have) for name, have in news.packages.items()}
    alike = [set(news.packages[name]) for name in TOOLKIT_PACKAGES if name in news.packages]
    if alike:
        first = news.packages.get(TOOLKIT_PACKAGES[0], ())
        together = [version for version in first if all(version in have for have in alike)]
        found |= dict.fromkeys(TOOLKIT_PACKAGES, newest(allowed.get(TOOLKIT_PACKAGES[0]), together))
    return {name: version for name, version in found.items() if version}


def newest(pin: Pin | None, have: Sequence[str]) -> str:
    """The first version that a pin allows; "" for none."""
    return next((version for version in have if pin is None or pin.met_by(version)), "")


def upgraded_model(
    what: Sequence[str], name: str, spec: Host, old: ModelLock | None, seen: ModelLock | None, news: News
) -> ModelLock:
    """Return the pins of one model.

    Weights that the next run fetches have no sha256 yet, unless the inventory has it. `gpurack lock` adds it after that
    run.
    """
    model, old, seen = spec.entries[name], old or ModelLock(), seen or ModelLock()
    image, ollama, main = old.image, old.ollama, weights.host_path(spec, model)
    commits, files = pins.commits(old, main), old.weights
    if chosen(what, "images", name) and name in news.images:
        image = news.images[name]
    if chosen(what, "weights", name):
        commits, files, ollama = {}, {}, seen.ollama
        now = pins.commits(seen, main)
        for one in weights_of(model):
            path = weights.place(spec, one, model.dockerd)
            present = {file: sha256 for file, sha256 in seen.weights.items() if belongs(file, path)}
            # files of an unknown commit keep it: no run could detect that they are of another one
            commit = now.get(path) if present and path not in now else news.commits.get(path, now.get(path))
            commits |= {path: commit} if commit else {}
            files |= present if commit == now.get(path) else {}
            files |= {path: one.sha256} if isinstance(one, UrlWeights) else {}
    commit_of_main = commits.pop(main, None)
    return ModelLock(image=image, commit=commit_of_main, commits=commits, weights=files, ollama=ollama)
