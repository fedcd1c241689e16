"""What the inventory's lock demands of a host, and where inventory and lock contradict each other. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gpurack.engines import weights_of
from gpurack.facts.model import HostFacts
from gpurack.plan.models import images, pulls, weights
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.packages.base import Pin, upstream
from gpurack.plan.packages.platforms import ENGINES_OF
from gpurack.shell import word
from gpurack.spec import lock
from gpurack.spec.host import Host
from gpurack.spec.image_ref import split_digest
from gpurack.spec.lock import HostLock, ModelLock
from gpurack.spec.model import Model
from gpurack.spec.problems import Problem, nearest
from gpurack.spec.weights import HfWeights, ModelScopeWeights, belongs

TOOLKIT = "nvidia-container-toolkit"


def packages(spec: Host, names: Iterable[str]) -> dict[str, Pin]:
    """Return those of `names` that the lock pins to an exact version."""
    pinned = spec.lock.packages if spec.lock else {}
    return {name: Pin(pinned[name], exact=True) for name in names if name in pinned}


def moved_image(locked: ModelLock, image: str, digests: Iterable[str]) -> str | None:
    """Return how the image of a container differs from the lock's; None if it does not.

    digests: of the image at registries, `repository@sha256:…`.
    """
    wanted = locked.digest
    found = sorted({split_digest(digest)[1] for digest in digests})
    if not wanted or wanted in found:
        return None
    return f"image {image}: {short(found[0]) if found else 'of no registry'} → {short(wanted)}, which is the lock's"


def commits(locked: ModelLock, main: str) -> dict[str, str]:
    """Return path on the host → locked commit, for a model's weights from a hub.

    main: the path of its `weights`, "" without any.
    """
    return {**locked.commits, **({main: locked.commit} if main and locked.commit else {})}


def moved_commits(desired: DesiredService, facts: HostFacts) -> dict[str, str]:
    """Return path → sentence, for weights whose commit is not the locked one."""
    wanted = commits(desired.locked, desired.weights_path)
    return {
        path: f"weights: commit {short(found)} → {short(commit)}, which is the lock's"
        for path, commit in wanted.items()
        if (found := facts.commits.get(path, commit)) != commit
    }


def changed_weights(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Return the error for weights that are known to differ from the lock; None if there are none."""
    moved = moved_commits(desired, facts)  # they are fetched anew
    for file, wanted in desired.locked.weights.items():
        found = facts.hashes.get(file, wanted)
        if found != wanted and not any(belongs(file, path) for path in moved):
            # in the words of files/fetch.py, which finds it where nobody had read the file yet
            told = {"file": file, "found": found, "wanted": wanted, "again": restore_hint(desired.entry)}
            return Problem.of("weights-differ-from-lock", path=desired.path, name=desired.name, **told)
    return None


def changed_pulls(desired: DesiredService, facts: HostFacts) -> Problem | None:
    """Return the error for models of ollama that differ from the lock.

    ollama's library serves only current versions, so gpurack cannot restore the locked one.
    """
    there = pulls.answered(facts.probes.get((desired.user, desired.name))) or {}
    for pulled, wanted in desired.locked.ollama.items():
        found = there.get(pulled, wanted)
        if found != wanted:
            told = {"pulled": pulled, "found": found, "wanted": wanted}
            return Problem.of("pull-differs-from-lock", path=desired.path, name=desired.name, **told)
    return None


def hub_pins(desired: DesiredService, path: str) -> dict[str, Any]:
    """Return what the lock adds to the runner's request for weights from a hub.

    commit: "" means the head of the branch. sha256: of the files.
    """
    locked = desired.locked
    files = {file: sha256 for file, sha256 in locked.weights.items() if belongs(file, path)}
    return {"commit": commits(locked, desired.weights_path).get(path, ""), "sha256": files}


def restore_hint(model: Model) -> str:
    """Return how to restore the locked weights."""
    return "put it back" if isinstance(model.weights, str) else "remove it there and run again"


def unchecked(desired: DesiredService, facts: HostFacts) -> bool:
    """Are there weights with a locked sha256 that have not been read since they changed?"""
    if any(facts.weights.get(path) is None for _, path in desired.weights):
        return False  # they are fetched, and checked then
    return any(file not in facts.hashes for file in desired.locked.weights)


def short(text: str) -> str:
    """Shorten a digest or commit: `sha256:0123456789ab`, `27dcfa74d334`.

    >>> short("sha256:0123456789abcdef"), short("27dcfa74d334bc871f3234de431e71c6eeba5dd6")
    ('sha256:0123456789ab', '27dcfa74d334')
    """
    kind, colon, digits = text.rpartition(":")
    return f"{kind}{colon}{digits[:12]}"


def contradictions(fleet: Mapping[str, Host], inventory: Path | None) -> list[Problem]:
    """Return an error for each contradiction of inventory and lock, with the command that moves the pin."""
    found = []
    for name, host in fleet.items():
        if inventory and host.lock:
            for path, what, pin in host_contradictions(host, host.lock):
                command = f"gpurack lock {word(str(inventory))} {pin} --upgrade"
                parts = {"lock": lock.place(inventory), "what": what, "command": command}
                found.append(Problem.of("lock-contradiction", name, path, **parts))
    return found


def host_contradictions(spec: Host, locked: HostLock) -> Iterator[tuple[str, str, str]]:
    """Yield (path in the inventory, what the lock has instead, what to upgrade)."""
    engines = {package: source for source, packages in ENGINES_OF.items() for package in packages}
    for package in engines.keys() & locked.packages.keys():
        source = engines[package]
        version = upstream(locked.packages[package])
        if spec.docker.source not in (source, "auto", "keep"):
            yield "docker.source", f"{package}, not {spec.docker.source}.", "docker"
        elif spec.docker.version not in (None, version):
            yield "docker.version", f"{package} {version}, not {spec.docker.version}.", "docker"
    if TOOLKIT in locked.packages and spec.nvidia.toolkit not in (None, version := upstream(locked.packages[TOOLKIT])):
        yield "nvidia.toolkit", f"{TOOLKIT} {version}, not {spec.nvidia.toolkit}.", "toolkit"
    for name, model in spec.entries.items():
        if model.enabled and name in locked.models:
            kind = "models" if name in spec.models else "services"
            for field, what in entry_contradictions(spec, model, locked.models[name]):
                yield f"{kind}.{name}.{field}", what, name


def entry_contradictions(spec: Host, model: Model, locked: ModelLock) -> Iterator[tuple[str, str]]:
    """Yield (field, what the lock has instead)."""
    wanted = [split_digest(image) for image in images.references(model)]
    if locked.image and wanted:
        if locked.reference not in [reference for reference, _ in wanted]:
            references = [reference for reference, _ in wanted]  # for one kind of GPU each
            alike = nearest(locked.reference, references) or references[0]
            yield "version" if model.version else "image", f"image {locked.reference}, not {alike}."
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
    """Can a revision mean this commit? A branch or tag can mean any.

    >>> agrees("main", "27dcfa74"), agrees("27dcfa7", "27dcfa74"), agrees("27dcfa8", "27dcfa74")
    (True, True, False)
    """
    hexadecimal = revision is not None and len(revision) >= 7 and set(revision) <= set("0123456789abcdef")
    return not hexadecimal or commit.startswith(str(revision))


def unlocked(fleet: Mapping[str, Host]) -> list[Problem]:
    """Return a warning for each host and entry that is missing from the lock, if there is a lock."""
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
