"""Pins moved on purpose to what repositories, registries and hubs have now, as far as the inventory allows. Pure.

Nothing is installed; the next run does that. `gpurack lock INVENTORY [WHAT]... --upgrade`: docs/lock.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpurack.engines import weights_of
from gpurack.plan import docker, ledger, nvidia_toolkit, pins, weights
from gpurack.plan.desired import desire
from gpurack.plan.images import mirrored, references
from gpurack.plan.packages import Pin
from gpurack.plan.platforms import TOOLKIT_PACKAGES, platform_of
from gpurack.spec.host import Host
from gpurack.spec.lock import HostLock, ModelLock
from gpurack.spec.problems import unknown
from gpurack.spec.weights import UrlWeights, belongs
from gpurack.state.model import HostState

PARTS = ("docker", "toolkit", "images", "weights")
"""What can be upgraded beside single models and services."""


@dataclass(frozen=True)
class News:
    """What a host found out. packages: name → versions, newest first. images: model → `reference@sha256:…`.
    commits: by the weights' path on the host. errors: sentences."""

    packages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    commits: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()


def wrong_words(what: Iterable[str], fleet: Mapping[str, Host]) -> list[str]:
    """Sentences for words that name nothing of the fleet."""
    known = [*PARTS, *sorted({name for host in fleet.values() for name in host.entries})]
    return [unknown("part of the lock", word, known) for word in what if word not in known]


def chosen(what: Sequence[str], part: str, name: str = "") -> bool:
    """Is a part, or a model's share of it, to be upgraded? No words: everything."""
    return not what or part in what or (bool(name) and name in what)


def names_of_packages(what: Sequence[str], spec: Host, state: HostState, old: HostLock) -> list[str]:
    """The packages to ask for: those that a run would install, and those that the lock has beside them."""
    platform = platform_of(state.os)
    names: list[str] = []
    if platform and spec.docker.source != "keep" and chosen(what, "docker"):
        names += docker.packages_of(spec, platform) + tuple(name for name in docker.BELOW if name in old.packages)
    if state.has_nvidia and chosen(what, "toolkit"):
        names += TOOLKIT_PACKAGES
    return names


def questions(what: Sequence[str], spec: Host, state: HostState) -> dict[str, Any]:
    """What files/newest.py is asked: images by name, and hubs."""
    cards = ledger.assign(spec, state).uuids
    images, hubs = [], []
    for name, model in spec.entries.items():
        if model.enabled and chosen(what, "images", name) and references(model) and name in cards:
            image = desire(name, spec, state, cards[name]).image
            named = next(each for each in references(model) if mirrored(spec, each) == image)
            images.append({"name": name, "user": model.dockerd, "image": image, "reference": named})
        if model.enabled and chosen(what, "weights", name):
            for one in weights_of(model):
                fetch, place = weights.fetched(spec, one, model.dockerd), weights.place(spec, one, model.dockerd)
                hubs += [{"name": name, "place": place, "fetch": fetch}] if fetch and "hub" in fetch else []
    return {"images": images, "hubs": hubs}


def upgraded(what: Sequence[str], spec: Host, state: HostState, old: HostLock, seen: HostLock, news: News) -> HostLock:
    """A host's lock with the pins of `what` moved to what there is now. seen: what is really there."""
    models = dict(old.models)
    for name, model in spec.entries.items():
        if model.enabled and (chosen(what, "images", name) or chosen(what, "weights", name)):
            models[name] = of_model(what, name, spec, old.models.get(name), seen.models.get(name), news)
    if not what:
        models = {name: one for name, one in models.items() if name in spec.entries and spec.entries[name].enabled}
        old = old.model_copy(update={"driver": seen.driver, "keys": seen.keys})
    return old.model_copy(update={"models": models, "packages": {**old.packages, **versions(spec, state, news)}})


def versions(spec: Host, state: HostState, news: News) -> dict[str, str]:
    """The newest of each package that the inventory allows; the toolkit's four at one version."""
    platform = platform_of(state.os)
    allowed = {**(docker.pins(spec, platform) if platform else {}), **nvidia_toolkit.pins(spec)}
    found = {name: newest(allowed.get(name), have) for name, have in news.packages.items()}
    alike = [set(news.packages[name]) for name in TOOLKIT_PACKAGES if name in news.packages]
    if alike:
        first = news.packages.get(TOOLKIT_PACKAGES[0], ())
        together = [version for version in first if all(version in have for have in alike)]
        found |= dict.fromkeys(TOOLKIT_PACKAGES, newest(allowed.get(TOOLKIT_PACKAGES[0]), together))
    return {name: version for name, version in found.items() if version}


def newest(pin: Pin | None, have: Sequence[str]) -> str:
    """The first of the versions that a pin allows; "" for none."""
    return next((version for version in have if pin is None or pin.met_by(version)), "")


def of_model(
    what: Sequence[str], name: str, spec: Host, old: ModelLock | None, seen: ModelLock | None, news: News
) -> ModelLock:
    """One model's pins. Of weights that are fetched only at the next run no sha256 is known yet, unless the inventory
    says it; `gpurack lock` writes them down afterwards."""
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
            there = {file: sha256 for file, sha256 in seen.weights.items() if belongs(file, path)}
            # what is there and of no known commit stays: no run could tell that it is of another one
            commit = now.get(path) if there and path not in now else news.commits.get(path, now.get(path))
            commits |= {path: commit} if commit else {}
            files |= there if commit == now.get(path) else {}
            files |= {path: one.sha256} if isinstance(one, UrlWeights) else {}
    commit_of_main = commits.pop(main, None)
    return ModelLock(image=image, commit=commit_of_main, commits=commits, weights=files, ollama=ollama)
