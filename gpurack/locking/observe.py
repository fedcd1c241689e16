"""From a snapshot of a host to its entry in the lock. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import replace

from gpurack.engines import weights_of
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.locking.openpgp import fingerprint
from gpurack.plan.models import images, pulls, weights
from gpurack.plan.models.ledger import label
from gpurack.plan.packages.base import installed
from gpurack.plan.packages.platforms import TOOLKIT_PACKAGES, platform_of
from gpurack.plan.system.docker import BELOW, packages_of, with_source
from gpurack.spec.host import Host
from gpurack.spec.image_ref import same_repository, split_digest
from gpurack.spec.lock import HostLock, ModelLock
from gpurack.spec.problems import Problem
from gpurack.spec.weights import belongs

KEY_FILE = "gpurack-"
"""Prefix of gpurack's key files; the repository's name follows."""


def observed(spec: Host, facts: HostFacts) -> HostLock:
    """The lock of what is on a host. Models without a container are left out."""
    return HostLock(
        driver=facts.driver.kernel or None,
        keys=keys(facts),
        models={
            name: model_lock(name, spec, facts, container)
            for name, model in spec.entries.items()
            if model.enabled and (container := facts.container(name, model.dockerd))
        },
        packages=packages(spec, facts),
    )


def unread(spec: Host, facts: HostFacts) -> dict[str, list[Problem]]:
    """The enabled models and services whose Docker or weights did not answer → their errors.

    One user, or one file server, keeps no other model from the lock.
    """
    found = {}
    for name, model in spec.entries.items():
        late = [f"user {model.dockerd}"] if model.dockerd else []
        late += [f"weights {weights.place(spec, one, model.dockerd)}" for one in weights_of(model)]
        others = [part for part in facts.late if part not in late]
        if model.enabled and (problems := facts.hanging(without=others)):
            found[name] = [replace(problem, path=spec.path_of(name)) for problem in problems]
    return found


def keep(now: HostLock, before: HostLock, names: Collection[str]) -> HostLock:
    """A lock in which these models have the entries that they had before, if any."""
    models = {name: model for name, model in now.models.items() if name not in names}
    kept = {name: before.models[name] for name in names if name in before.models}
    return now.model_copy(update={"models": {**models, **kept}})


def missing(spec: Host, found: HostLock) -> list[str]:
    """The enabled models and services without a container."""
    return [name for name, model in spec.entries.items() if model.enabled and name not in found.models]


def packages(spec: Host, facts: HostFacts) -> dict[str, str]:
    """Installed packages of Docker and the toolkit → exact version; without Docker's if `docker.source` is "keep"."""
    platform = platform_of(facts.os)
    names: tuple[str, ...] = TOOLKIT_PACKAGES
    if platform and spec.docker.source != "keep":
        names = (*names, *packages_of(with_source(spec, facts), platform), *BELOW)
    return dict(installed(names, facts))


def loose(lock: HostLock, facts: HostFacts) -> list[str]:
    """The locked packages that are not on hold yet: the next run holds them. The toolkit's only where GPUs are."""
    names = [name for name in lock.packages if facts.has_nvidia or name not in TOOLKIT_PACKAGES]
    return [name for name in names if name in facts.packages and not facts.packages[name].held]


def keys(facts: HostFacts) -> dict[str, str]:
    """gpurack's package repositories → the fingerprint of the key that apt or dnf trusts for them."""
    found = {}
    for path, file in facts.files.items():
        name = path.rpartition("/")[2]
        if name.startswith(KEY_FILE) and name.endswith(".asc"):
            try:
                found[name.removeprefix(KEY_FILE).removesuffix(".asc")] = fingerprint(file.text)
            except ValueError:
                continue
    return found


def model_lock(name: str, spec: Host, facts: HostFacts, container: Container) -> ModelLock:
    """The lock of one model or service."""
    model = spec.entries[name]
    paths = [weights.place(spec, one, model.dockerd) for one in weights_of(model)]
    commits = {path: facts.commits[path] for path in paths if path in facts.commits}
    return ModelLock(
        image=image(name, spec, facts, container),
        commit=commits.pop(weights.host_path(spec, model), None),
        commits=commits,
        weights={file: sha256 for file, sha256 in facts.hashes.items() if any(belongs(file, path) for path in paths)},
        ollama=(pulls.answered(facts.probes.get((model.dockerd, name))) or {}) if model.pull else {},
    )


def image(name: str, spec: Host, facts: HostFacts, container: Container) -> str | None:
    """The image of a container as reference (without mirrors) and digest; None if it came from no registry."""
    used = str(label(container.labels).get("image", ""))
    known = (reference for reference in images.references(spec.entries[name]))
    reference, _ = split_digest(next((each for each in known if images.mirrored(spec, each) == used), used))
    digest = digest_of(used, facts.digests_of(container.user).get(container.image, ()))
    return f"{reference}@{digest}" if digest else None


def digest_of(reference: str, digests: Iterable[str]) -> str:
    """The digest in `repository@sha256:…` of the reference's own repository, else the first; "" for none."""
    found = sorted(split_digest(each) for each in digests)
    own = [digest for repository, digest in found if same_repository(repository, reference)]
    return next(iter([*own, *(digest for _, digest in found)]), "")
