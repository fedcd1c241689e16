"""What a snapshot asks a host in addition to what it always reads. It follows from the inventory. Pure."""

from collections.abc import Iterator

from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.facts.questions import Questions
from gpurack.plan.models import neighbours, weights
from gpurack.plan.models.addresses import address
from gpurack.plan.models.images import mirrored, references
from gpurack.plan.models.refusals import unclaimed_volume
from gpurack.plan.packages.platforms import ENGINES_OF, TOOLKIT_PACKAGES
from gpurack.spec.host import Host
from gpurack.spec.image import BuildImage, TarImage


def questions(spec: Host, metrics: bool = False) -> Questions:
    """Return the questions for a host.

    metrics: also ask for counters of what its models served, which only status shows.
    """
    return Questions(
        users=tuple(spec.users),
        users_weights=weights.of_users(spec),
        images=tuple(images_by_user(spec)),
        weights=tuple(weights.paths(spec)),
        needed=tuple((user, path) for user, path in weights.by_user(spec) if user),
        readers=tuple((user, path) for path, user in weights.readers(spec).items()),
        probes=tuple(probes(spec)),
        counters=tuple(counters(spec)) if metrics else (),
        logs=tuple(logs(spec)),
        volumes=tuple(volumes(spec)),
        names=tuple(neighbours.names(spec)),
        upstreams=tuple(neighbours.questions(spec)),
        pinned=tuple(pinned(spec)),
        compose=spec.docker.source == "keep",  # else gpurack installs it
        lab=spec.lab,
    )


def pinned(spec: Host) -> Iterator[tuple[str, str]]:
    """Yield (version, packages of which one must have it) of what the inventory pins."""
    if spec.docker.version:
        sources = ENGINES_OF if spec.docker.source == "auto" else (spec.docker.source,)
        yield spec.docker.version, " ".join(engine for source in sources for engine in ENGINES_OF[source])
    if spec.nvidia.toolkit and spec.wants_gpu:
        yield spec.nvidia.toolkit, TOOLKIT_PACKAGES[0]


def images_by_user(spec: Host) -> Iterator[tuple[str, str]]:
    """Yield (user in whose Docker it belongs, reference) of all images that enabled entries may run from.

    The GPUs decide which variant of an engine's image is used.
    """
    for entry in spec.everything.values():
        if entry.enabled and isinstance(entry.image, TarImage | BuildImage):
            yield entry.dockerd, entry.image.reference
        elif entry.enabled:
            yield from ((entry.dockerd, mirrored(spec, reference)) for reference in references(entry))


def probes(spec: Host) -> Iterator[tuple[str | int, ...]]:
    """Yield (user, model, port inside, path, address, port) of every enabled model, for each Docker that may have it.

    One whose move to another Docker failed still serves in the former one. path: where it reports that it is ready.
    address: on the host; "lan" is the address of the default route.
    """
    for name, model in spec.entries.items():
        if model.enabled:
            engine = ENGINES[model.engine]
            where = "lan" if model.bind == "lan" else address(model.bind, HostFacts())
            for user in dict.fromkeys((model.dockerd, "", *spec.users)):
                yield user, name, engine.listens(model), engine.ready_at(model), where, model.port


def counters(spec: Host) -> Iterator[tuple[str, ...]]:
    """Yield (user, model, path, counter) of every enabled model whose engine has a counter."""
    for name, model in spec.entries.items():
        if model.enabled and (counter := ENGINES[model.engine].counter):
            yield model.dockerd, name, counter.path, counter.name


def logs(spec: Host) -> Iterator[tuple[str, str]]:
    """Yield (user, model) of every enabled model with GPUs whose log says whether it computes on them."""
    for name, model in spec.entries.items():
        if model.enabled and model.gpus and ENGINES[model.engine].log_shows(model):
            yield model.dockerd, name


def volumes(spec: Host) -> Iterator[tuple[str, str]]:
    """Yield (user, volume) of the databases to check for a first account."""
    for name, service in spec.services.items():
        if service.enabled and (volume := unclaimed_volume(name, service)):
            yield volume
