"""Which image an entry runs from, and how it comes onto the host: from a registry or its mirror, from a tar file of the
admin's machine, or by a build there. Pure."""

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
    """The image reference a model runs from, through the host's mirrors. Raises LookupError with a sentence when the
    engine has no image for this accelerator."""
    if isinstance(model.image, TarImage | BuildImage):
        return model.image.reference
    return mirrored(spec, model.image or ENGINES[model.engine].image(str(model.version), accelerator))


def mirrored(spec: Host, reference: str) -> str:
    """A reference with its registry replaced by the mirror, if there is one.

    `ghcr.io/a/b:1` with {"ghcr.io": "mirror:5000/ghcr"} is `mirror:5000/ghcr/a/b:1`; `a/b:1` is docker.io's.
    """
    image = ImageRef.parse(reference)
    mirror = spec.mirrors.get(image.registry)
    return image.at(mirror.url) if mirror else reference


def references(model: Model | Job) -> list[str]:
    """All references of registries, without mirrors, that a model or job may run from."""
    if isinstance(model.image, str):
        return [model.image]
    if isinstance(model, Job):
        engine, vendors = ENGINES[model.engine], (CPU, Accelerator("nvidia"), Accelerator("amd"))
        return sorted({engine.job_image(str(model.version), vendor, model.command) for vendor in vendors})
    return list(ENGINES[model.engine].variants(str(model.version))) if model.version is not None else []


def obtained(spec: Host, model: Model | Job) -> dict[str, Any]:
    """What the runner (files/images.py) is told beside an image's name; {} for what is pulled."""
    if isinstance(model.image, TarImage):
        names = image_tar.read(model.image.source).names
        return {"load": {"tar": model.image.tar, "path": place(spec, model.image, model.dockerd), "names": list(names)}}
    if isinstance(model.image, BuildImage):
        return {"build": model.image.build.model_dump()}
    return {}


def place(spec: Host, image: TarImage, user: str) -> str:
    """Where a tar file lies on the host between copying and loading it into a user's Docker, or the host's own ("")."""
    return f"{spec.weights_dir}/images/{image_tar.read(image.source).id[:16]}{f'-{user}' if user else ''}.tar"


def logins_for(job: Mapping[str, Any], logins: Mapping[str, Any], facts: HostFacts) -> dict[str, Any]:
    """The logins that a job may need: those of registries that it pulls from, and all for a build, whose base images
    are not known."""
    entries = [entry for group in job["groups"] for entry in group if "image" in entry]
    missing = [entry for entry in entries if "digest" in entry or entry["image"] not in facts.images_of(entry["user"])]
    if any("build" in entry for entry in missing):
        return dict(logins)
    asked = {ImageRef.parse(entry["image"]).registry for entry in missing}
    return {registry: login for registry, login in logins.items() if registry in asked}
