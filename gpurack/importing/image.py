"""Which engine an image is of, and the image in the inventory's words."""

import json

from gpurack.engines import ENGINES
from gpurack.engines.base import Engine
from gpurack.engines.container import CPU
from gpurack.engines.custom import Custom
from gpurack.engines.dialect import Dialect
from gpurack.importing import built, recognise
from gpurack.importing import flags as flags_of
from gpurack.importing.translation import Translation
from gpurack.spec.image_ref import split


def choose_engine(t: Translation, image: str) -> Engine:
    """The engine by its image, what the text shows of it, or its arguments; `custom` where none says."""
    found = recognise.engine_of(image)
    if found:
        return found
    name, _, _ = split(image)
    engine = t.known.engines.get(name)
    if name in t.known.committed:
        t.say("open", f"{image} was made by docker commit from {t.known.committed[name]}: it holds no model "
              "(that was mounted), and exists on one host only; write version instead of image.")  # fmt: skip
    if engine:
        return engine
    guess = flags_of.parse(t.run.command, Dialect()).given
    for known in ENGINES.values():
        if set(known.dialect.known_by) & set(guess) and ".gguf" not in str(guess.get("model")):
            t.say("open", f"{image} is not known; by its arguments it is taken for {known.title}.")
            return known
    t.say("open", f"{image} is not known: engine custom, asked at / whether it is ready; say another path in "
          'compose: {"x-ready": "/health"}.')  # fmt: skip
    return ENGINES[Custom.name]


def say_image(t: Translation, image: str) -> None:
    """`version` where the image is upstream's own for it, else `image`."""
    engine = t.engine
    if t.built:
        say_build(t, image, t.built)
        return
    if image != t.run.image:
        t.say("changed", f"{t.run.image} has moved: {image}.")
    version = recognise.version_of(t.engine, image, t.run.gpus is not None)
    if version:
        t.fields["version"] = version
        return
    if engine.only_version and image == engine.image(engine.only_version, CPU):
        t.say("open", f"{engine.name} gets no new versions; {engine.successor} does the same and is kept up.")
        return
    t.fields["image"] = image
    name, _, _ = split(image)
    if name in t.known.committed:
        return
    if name.startswith("local/") or ("/" not in name and not t.unknown):
        known = built.by_name(image, "")
        build = {"build": known.build if known else {"git": "…", "revision": "…"}}
        t.say("open", f"{image} was built on the host and exists only there; write image: "
              f"{json.dumps(build, ensure_ascii=False)}.")  # fmt: skip
    elif recognise.floats(image):
        way = "name a fixed tag"
        if not t.unknown:
            way += ', or write version: "…" instead of image, and gpurack chooses the image for the cards'
        t.say("open", f"{image} floats: tomorrow it can be another image; {way}.")


def say_build(t: Translation, image: str, found: built.Built) -> None:
    """An image that was built: gpurack does that on the host."""
    t.fields["image"] = {"build": dict(found.build)}
    for what in found.changed:
        t.say("changed", what)
    for what in found.open:
        t.say("open", f"{image}: {what}.")
    git, revision = found.build["git"], found.build["revision"]
    if revision == built.UNSAID:
        how = "" if found.where else ", and the args it was built with"
        t.say("open", f"{image} was built by hand; gpurack builds it on the host from {git}: write the "
              f"revision, a commit or a tag{how}.")  # fmt: skip
    else:
        t.say("changed", f"{image} is built on the host from {git}, revision {revision}.")
