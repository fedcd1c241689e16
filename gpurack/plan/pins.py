"""What the inventory's lock asks of a host, and where inventory and lock contradict each other. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gpurack.engines import weights_of
from gpurack.facts.model import HostFacts
from gpurack.plan.models import images, pulls, weights
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.packages.base import Pin, upstream
from gpurack.spec import lock
from gpurack.spec.host import Host
from gpurack.spec.image_ref import split_digest
from gpurack.spec.lock import HostLock, ModelLock
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem
from gpurack.spec.weights import HfWeights, ModelScopeWeights, belongs

ENGINES = {"docker-ce": "docker-ce", "docker.io": "distro"}
"""Docker's own package → the docker.source that brings it."""
TOOLKIT = "nvidia-container-toolkit"


def packages(spec: Host, names: Iterable[str]) -> dict[str, Pin]:
    """Those of `names` that the lock has at an exact version."""
    pinned = spec.lock.packages if spec.lock else {}
    return {name: Pin(pinned[name], exact=True) for name in names if name in pinned}


def moved_image(locked: ModelLock, image: str, digests: Iterable[str]) -> str | None:
    """How the image that a container runs from differs from the lock's; None where it does not, or the lock is silent.

    digests: by which the registries know it, `repository@sha256:…`.
    """
    wanted = locked.digest
    found = sorted({split_digest(digest)[1] for digest in digests})
    if not wanted or wanted in found:
        return None
    return f"image {image}: {short(found[0]) if found else 'of no registry'} → {short(wanted)}, which is the lock's"


def commits(locked: ModelLock, main: str) -> dict[str, str]:
    """A model's weights that come from a hub: path on the host → the commit that a lock has for them. main: the path of
    its `weights`, "" for none."""
    return {**locked.commits, **({main: locked.commit} if main and locked.commit else {})}


def moved_commits(desired: DesiredService, facts: HostFacts) -> dict[str, str]:
    """A model's weights that are of another commit of their hub than the lock's: path → the sentence."""
    wanted = commits(desired.locked, desired.weights_path)
    return {
        path: f"weights: commit {short(found)} → {short(commit)}, which is the lock's"
        for path, commit in wanted.items()
        if (found := facts.commits.get(path, commit)) != commit
    }


def changed_weights(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """The error for weights on the host that are not those of the lock; None where none are known to differ."""
    moved = moved_commits(desired, facts)  # they are fetched anew
    for file, wanted in desired.locked.weights.items():
        found = facts.hashes.get(file, wanted)
        if found != wanted and not any(belongs(file, path) for path in moved):
            # in the words of files/fetch.py, which finds it where nobody had read the file yet
            told = {"file": file, "found": found, "wanted": wanted, "again": again(desired.entry)}
            return Problem.of("weights-differ-from-lock", path=desired.path, name=desired.name, **told)
    return None


def changed_pulls(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """The same for the models that an ollama has; its library gives only what it has now."""
    there = pulls.answered(facts.probes.get((desired.user, desired.name))) or {}
    for pulled, wanted in desired.locked.ollama.items():
        found = there.get(pulled, wanted)
        if found != wanted:
            told = {"pulled": pulled, "found": found, "wanted": wanted}
            return Problem.of("pull-differs-from-lock", path=desired.path, name=desired.name, **told)
    return None


def of_hub(desired: DesiredService, path: str) -> dict[str, Any]:
    """What the runner is told of weights that a hub has: commit ("": where the branch is now) and sha256 of files."""
    locked = desired.locked
    files = {file: sha256 for file, sha256 in locked.weights.items() if belongs(file, path)}
    return {"commit": commits(locked, desired.weights_path).get(path, ""), "sha256": files}


def again(model: Model) -> str:
    """How to have the weights back that the lock has."""
    return "put it back" if isinstance(model.weights, str) else "remove it there and run again"


def unchecked(desired: DesiredService, facts: HostFacts) -> bool:
    """Are there weights whose sha256 the lock has and nobody has read since they changed?"""
    if any(facts.weights.get(path) is None for _, path in desired.weights):
        return False  # they are fetched, and checked then
    return any(file not in facts.hashes for file in desired.locked.weights)


def short(text: str) -> str:
    """A digest or commit as people know it again: `sha256:0123456789ab`, `27dcfa74d334`."""
    kind, colon, digits = text.rpartition(":")
    return f"{kind}{colon}{digits[:12]}"


def contradictions(fleet: Mapping[str, Host], inventory: Path | None) -> list[Problem]:
    """Where the inventory asks for something else than its lock, with the command that moves the pin."""
    found = []
    for name, host in fleet.items():
        if inventory and host.lock:
            for path, what, pin in of_host(host, host.lock):
                command = f"gpurack lock {inventory} {pin} --upgrade"
                parts = {"lock": lock.place(inventory), "what": what, "command": command}
                found.append(Problem.of("lock-contradiction", name, path, **parts))
    return found


def of_host(spec: Host, locked: HostLock) -> Iterator[tuple[str, str, str]]:
    """(path in the inventory, what the lock has instead, what to upgrade)."""
    for package, source in ENGINES.items():
        if package not in locked.packages:
            continue
        version = upstream(locked.packages[package])
        if spec.docker.source not in (source, "keep"):
            yield "docker.source", f"{package}, not {spec.docker.source}.", "docker"
        elif spec.docker.version not in (None, version):
            yield "docker.version", f"{package} {version}, not {spec.docker.version}.", "docker"
    if TOOLKIT in locked.packages and spec.nvidia.toolkit not in (None, version := upstream(locked.packages[TOOLKIT])):
        yield "nvidia.toolkit", f"{TOOLKIT} {version}, not {spec.nvidia.toolkit}.", "toolkit"
    for name, model in spec.entries.items():
        if model.enabled and name in locked.models:
            kind = "models" if name in spec.models else "services"
            for field, what in of_entry(spec, model, locked.models[name]):
                yield f"{kind}.{name}.{field}", what, name


def of_entry(spec: Host, model: Model, locked: ModelLock) -> Iterator[tuple[str, str]]:
    """(field, what the lock has instead)."""
    wanted = [split_digest(image) for image in images.references(model)]
    if locked.image and wanted:
        if locked.reference not in [reference for reference, _ in wanted]:
            yield "version" if model.version else "image", f"image {locked.reference}, not {wanted[0][0]}."
        elif all(digest and digest != locked.digest for _, digest in wanted):
            yield "image", f"{short(locked.digest)} for it."
    path = weights.host_path(spec, model)
    if path and locked.weights and not any(belongs(file, path) for file in locked.weights):
        yield "weights", f"{next(iter(sorted(locked.weights)))}, not {path}."
        return
    for one in weights_of(model):
        commit = commits(locked, path).get(weights.place(spec, one, model.dockerd))
        if commit and isinstance(one, HfWeights | ModelScopeWeights) and not agrees(one.revision, commit):
            field = "weights.revision" if one is model.weights else "config"
            yield field, f"commit {short(commit)}, not {one.revision}."


def agrees(revision: str | None, commit: str) -> bool:
    """Can a revision mean this commit? A branch or a tag can mean any.

    >>> agrees("main", "27dcfa74"), agrees("27dcfa7", "27dcfa74"), agrees("27dcfa8", "27dcfa74")
    (True, True, False)
    """
    hexadecimal = revision is not None and len(revision) >= 7 and set(revision) <= set("0123456789abcdef")
    return not hexadecimal or commit.startswith(str(revision))


def unlocked(fleet: Mapping[str, Host]) -> list[Problem]:
    """What runs by the inventory alone although there is a lock: warnings."""
    if not any(host.lock for host in fleet.values()):
        return []
    found = []
    for name, host in fleet.items():
        if host.lock is None:
            found.append(Problem.of("host-not-in-lock", name))
            continue
        found += [
            Problem.of("entry-not-in-lock", name, f"{host.kind_of(key)}.{key}")
            for key, model in host.entries.items()
            if model.enabled and key not in host.lock.models
        ]
    return found
