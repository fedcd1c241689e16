"""Which image an entry runs from, and where it comes from. Pure.

From a registry or its mirror, from a tar file on the admin's machine, or from a build on the host.
"""

from collections.abc import Mapping
from typing import Any

from gpurack.engines import ENGINES
from gpurack.engines.container import CPU, Accelerator
from gpurack.facts.model import HostFacts
from gpurack.spec import image_tar
from gpurack.spec.host import Host
from gpurack.spec.image import BuildImage, TarImage
from gpurack.spec.image_ref import ImageRef
from gpurack.spec.model import Job, Model


def image(spec: Host, model: Model, accelerator: Accelerator) -> str:
    """Return the image reference of a model, through the host's mirrors.

    Raises LookupError with a sentence if the engine has no image for this accelerator.
    """
    if isinstance(model.image, TarImage | BuildImage):
        return model.image.reference
    return mirrored(spec, model.image or ENGINES[model.engine].image(str(model.version), accelerator))


def mirrored(spec: Host, reference: str) -> str:
    """Return a reference with its registry replaced by the mirror, if there is one.

    `ghcr.io/a/b:1` with {"ghcr.io": "mirror:5000/ghcr"} is `mirror:5000/ghcr/a/b:1`. `a/b:1` belongs to docker.io.
    """
    image = ImageRef.parse(reference)
    mirror = spec.mirrors.get(image.registry)
    return image.at(mirror.url) if mirror else reference


def references(model: Model | Job) -> list[str]:
    """Return all references at registries, without mirrors, from which a model or job may run."""
    if isinstance(model.image, str):
        return [model.image]
    if isinstance(model, Job):
        engine, vendors = ENGINES[model.engine], (CPU, Accelerator("nvidia"), Accelerator("amd"))
        return sorted({engine.job_image(str(model.version), vendor, model.command) for vendor in vendors})
    return list(ENGINES[model.engine].variants(str(model.version))) if model.version is not None else []


def obtained(spec: Host, model: Model | Job) -> dict[str, Any]:
    """Return how the runner (files/images.py) gets an image that is not pulled; {} for one that is."""
    if isinstance(model.image, TarImage):
        names = image_tar.read(model.image.source).names
        return {"load": {"tar": model.image.tar, "path": place(spec, model.image, model.dockerd), "names": list(names)}}
    if isinstance(model.image, BuildImage):
        return {"build": model.image.build.model_dump()}
    return {}


def place(spec: Host, image: TarImage, user: str) -> str:
    """Return where a tar file is stored on the host between copying and loading. user: "" for the host's own Docker."""
    return f"{spec.weights_dir}/images/{image_tar.read(image.source).id[:16]}{f'-{user}' if user else ''}.tar"


def entries_of(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the models or jobs of a payload."""
    return [entry for group in (*job.get("batches", ()), *job.get("groups", ())) for entry in group]


def logins_for(job: Mapping[str, Any], logins: Mapping[str, Any], facts: HostFacts) -> dict[str, Any]:
    """Return the logins that a job may need: of the registries that it pulls from.

    For a build all, because its base images are not known here; files/images.py gives a user's Docker fewer.
    """
    entries = [entry for entry in entries_of(job) if "image" in entry]
    missing = [entry for entry in entries if "digest" in entry or entry["image"] not in facts.images_of(entry["user"])]
    if any("build" in entry for entry in missing):
        return dict(logins)
    asked = {ImageRef.parse(entry["image"]).registry for entry in missing}
    return {registry: login for registry, login in logins.items() if registry in asked}
