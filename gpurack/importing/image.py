"""Choose the engine of a container, and convert its image."""

import json

from gpurack.engines import ENGINES
from gpurack.engines.base import Engine
from gpurack.engines.container import CPU
from gpurack.engines.custom import Custom
from gpurack.engines.dialect import Dialect
from gpurack.importing import built, helpers, recognise
from gpurack.importing import flags as flags_of
from gpurack.importing.command import program_of
from gpurack.importing.translation import Translation
from gpurack.spec.image_ref import split


def choose_engine(t: Translation, image: str) -> Engine:
    """The engine, by the image, by other commands of the text, or by the arguments; else `custom`."""
    found = recognise.engine_of(image)
    if found:
        return found
    name, _, _ = split(image)
    if name in t.known.committed:
        t.note("open", f"{image} was made by docker commit from {t.known.committed[name]}. It does not contain the "
              "mounted model and exists on one host only. Set version instead of image.")  # fmt: skip
    for container in (t.known.committed.get(name, ""), name):  # a committed image often has the container's name
        if container in t.known.engines:
            return t.known.engines[container]
    _, command = program_of(t.run.argv, t.environment) or ({}, [])
    given = set(flags_of.parse(t.run.command, Dialect()).given)
    by_program = recognise.engine_of_program(command)
    weak = {"model"} if name in t.known.committed else set()  # a server's container was committed in this text
    by_flags = (one for one in ENGINES.values() if one.dialect.known_by and {*one.dialect.known_by, *weak} & given)
    if known := by_program or (next(by_flags, None) if t.run.entrypoint is None and "model" in given else None):
        proof = "program" if by_program else "arguments"
        t.note("open", f"unknown image {image}; engine {known.title} was chosen by its {proof}.")
        return known
    if not helpers.answers_http(name):
        what = f"{image} answers no HTTP request, by which gpurack sees that an entry is ready, so a run with it fails."
        t.note("open", f"{what} Remove the entry, and start it by other means.")
        return ENGINES[Custom.name]
    t.note("open", f"unknown image {image}; uses engine custom, which is ready when / answers. Set another path in "
          'compose: {"x-ready": "/health"}.')  # fmt: skip
    return ENGINES[Custom.name]


def convert_image(t: Translation, image: str) -> None:
    """Set `version` if the image is upstream's image of that version, else `image`."""
    engine = t.engine
    if t.built:
        convert_build(t, image, t.built)
        return
    if image != t.run.image:
        t.note("changed", f"{t.run.image} moved to {image}.")
    version = recognise.version_of(t.engine, image, t.run.gpus is not None)
    if version:
        t.fields["version"] = version
        return
    if engine.only_version and image == engine.image(engine.only_version, CPU):
        t.note("open", f"{engine.name} is not maintained any more. Consider {engine.successor} instead.")
        return
    t.fields["image"] = image
    name, _, _ = split(image)
    if name in t.known.committed:
        return
    if name.startswith("local/") or ("/" not in name and not t.unknown):
        known = built.by_name(image, "")
        build = {"build": known.build if known else {"git": "…", "revision": "…"}}
        t.note("open", f"{image} was built on the host and exists only there. Set image: "
              f"{json.dumps(build, ensure_ascii=False)}.")  # fmt: skip
    elif recognise.floats(image):
        hint = "Use a fixed tag"
        if not t.unknown:
            hint += ', or set version: "…" instead of image'
        t.note("open", f"{image} has a floating tag. {hint}.")


def convert_build(t: Translation, image: str, found: built.Built) -> None:
    """Set `image` to a build, which gpurack does on the host."""
    t.fields["image"] = {"build": dict(found.build)}
    for what in found.changed:
        t.note("changed", what)
    for what in found.open:
        t.note("open", f"{image}: {what}.")
    git, revision = found.build["git"], found.build["revision"]
    if revision == built.UNSAID:
        args = "" if found.where else ", and the build args"
        t.note("open", f"{image} was built by hand; gpurack builds it on the host from {git}. Set the "
              f"revision (a commit or tag){args}.")  # fmt: skip
    else:
        t.note("changed", f"{image} is built on the host from {git}, revision {revision}.")
