"""Bring back an earlier definition of a model: the entry of the inventory, changed by the words of its label. Pure.

The changed entry goes through the normal plan and run, with today's secrets. So a revoked key never returns.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.facts.lines import parse_time
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.facts.record import DatabaseCopy, Ready
from gpurack.host_data import json_from_host
from gpurack.plan.models import images, ledger, weights
from gpurack.plan.models.desired import SALTED, digest
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.files import fingerprint
from gpurack.plan.models.health import age, local_time
from gpurack.plan.models.observed import Observed
from gpurack.spec.fields import OutsideDefinition
from gpurack.spec.host import Host
from gpurack.spec.image import BuildImage, TarImage
from gpurack.spec.model import Model

SPECIAL = ("image", "version", "weights", "gpus", "vram", "served_name", "connects_to", *SALTED)
"""Words that the label has in another form than the entry, or whose content is secret."""


UNKNOWN_PULL = "what it pulled then is not known, since an older gpurack did not keep it; `pull` is today's"


class NotPossible(Exception):
    """The definition cannot be brought back; the text says why."""


@dataclass(frozen=True)
class Back:
    """What brings an entry back to a definition. words: fields and their values; None removes a field.

    Values of args and env hold None for what is removed. notes: what still differs from that time.
    """

    ready: Ready
    words: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())


def mark(entry: Model) -> str:
    """Return a digest of an entry as it is in the inventory, for the record of a rollback.

    As long as the inventory has this entry, a run would undo the rollback.
    """
    return digest(entry.model_dump(mode="json", exclude_defaults=True))


def mark_of(entry: Model, back: Back) -> str:
    """Return the mark of a rollback; "" if it goes back to what the inventory says, so that no run would undo it."""
    return mark(entry) if back.words else ""


def forward_again(change: Change, entry: Model, facts: HostFacts) -> Change:
    """Return a change, with a reason if it undoes a rollback because the inventory has not been edited since."""
    known = (facts.record or {}).get(entry.dockerd, {}).get(change.model)
    if change.action != Action.RECREATE or known is None or known.rollback != mark(entry):
        return change
    why = f"undoes the rollback of {local_time(known.applied, facts)}; the inventory is still the same"
    return replace(change, reasons=(why, *change.reasons))


def chosen(history: Sequence[Ready], container: Container | None, number: int | None) -> Ready:
    """Return the definition to bring back: number 1 is the newest of the list.

    Without a number: the newest that the container does not have. Raises NotPossible.
    """
    if not history:
        raise NotPossible("no earlier definition is known: none was ready since gpurack keeps them.")
    if number is not None:
        if number > len(history):
            known = "1 definition is" if len(history) == 1 else f"{len(history)} definitions are"
            raise NotPossible(f"number {number} is unknown: only {known} known. See --list.")
        return history[number - 1]
    found = next((one for one in history if not is_present(one, container)), None)
    if found is None:
        raise NotPossible("the only known definition is the one that it has now.")
    return found


def is_present(ready: Ready, container: Container | None) -> bool:
    """Does the container have this definition and image?"""
    if container is None:
        return False
    return container.labels.get(paths.MODEL_LABEL) == ready.label and container.image == ready.id


def back_to(ready: Ready, one: Observed) -> Back:
    """Return what changes today's entry into a definition. Raises NotPossible."""
    name, spec, entry, label = one.name, one.spec, one.entry, ledger.label({paths.MODEL_LABEL: ready.label})
    if not isinstance(label.get("engine"), str) or "port" not in label:
        raise NotPossible("its label is not readable.")
    words: dict[str, Any] = {}
    for word, info in Model.model_fields.items():
        if word in SPECIAL or any(isinstance(each, OutsideDefinition) for each in info.metadata):
            continue
        default = None if info.is_required() else plain(info.get_default(call_default_factory=True))
        today, then = plain(getattr(entry, word)), label.get(word, default)
        if today != then:
            words[word] = replaced(today, None if then == default else then)
    words |= image_words(ready, label, entry, spec)
    words |= gpu_words(label, entry)
    if label.get("weights", "") != weights.host_path(spec, entry):
        words["weights"] = label.get("weights") or None
    served = label.get("served_name")
    if served != entry.name_served(name):
        words["served_name"] = served if served != name else None
    connections = [connection.label for connection in spec.connections(name)]
    if label.get("connects_to", []) != connections:
        words["connects_to"] = label.get("connects_to")
    engine = ENGINES.get(str(label["engine"]))
    pulled = engine is not None and "pull" in engine.fields
    known = ready.words is not None or not pulled
    if known and (then := (ready.words or {}).get("pull", [])) != entry.pull:
        words["pull"] = then or None
    words |= config_words(ready, label, entry)
    return Back(ready, words, () if known else (UNKNOWN_PULL,))


def config_words(ready: Ready, label: Mapping[str, Any], entry: Model) -> dict[str, Any]:
    """Return `config` as it was, if it differs. Raises NotPossible."""
    mark, kept = str(label.get("config", "")), (ready.words or {}).get("config")
    if mark and kept is None:
        if is_same_config(entry.config, mark):
            return {}
        raise NotPossible("its `config` was another one then, which an older gpurack did not keep on the host.")
    if not mark and entry.config is not None and not label.get("weights"):
        raise NotPossible("an older gpurack did not record its `config`.")
    then = kept if mark else None
    if then == entry.config:
        return {}
    return {"config": None if then is None else replaced(entry.config, then)}


def is_same_config(config: Mapping[str, Any] | None, mark: str) -> bool:
    """Is this the `config` of a label's fingerprint?"""
    salt = mark.partition(":")[0]
    return config is not None and mark == f"{salt}:{fingerprint(json.dumps(config, sort_keys=True), salt)}"


def kept_database(ready: Ready, copies: Sequence[DatabaseCopy]) -> DatabaseCopy | None:
    """Return the newest copy of a database that was in use with the image of a definition; None if none is kept."""
    return next((copy for copy in copies if copy.id == ready.id), None)


def database_to_restore(ready: Ready, one: Observed) -> DatabaseCopy:
    """Return the copy of its database that goes with a definition. Raises NotPossible."""
    if ENGINES[one.entry.engine].database(one.entry, one.name) is None:
        raise NotPossible("gpurack copies no database of it, so there is none for --with-data.")
    if is_image_of(ready, one):
        raise NotPossible("its image stays the same, so its database is not brought back. Run it without --with-data.")
    copies = one.facts.databases.get(one.key, ())
    found = kept_database(ready, copies)
    if found is None:
        made = ", ".join(f"{copy.image} of {local_time(copy.at, one.facts)}" for copy in copies) or "none"
        raise NotPossible(f"no copy of its database with {ready.image} is kept. Copies: {made}.")
    return found


def is_image_of(ready: Ready, one: Observed) -> bool:
    """Has the container of an entry the image of a definition?"""
    return one.container is not None and one.container.image == ready.id


def database_back(ready: Ready, one: Observed, with_data: bool) -> tuple[str, tuple[str, ...]]:
    """Return which copy of its database goes back with a service, "" for none, and what is said about it.

    ready: the definition that it goes back to. with_data: shall one go back? Raises NotPossible.
    """
    if with_data:
        copy = database_to_restore(ready, one)
        return copy.copy, (f"its database goes back to the copy of {when(copy, one.facts)}. The present one is kept",)
    known = kept_database(ready, one.facts.databases.get(one.key, ()))
    if known is None or is_image_of(ready, one):
        return "", ()
    return "", (f"its database stays as it is. --with-data brings back the copy of {when(known, one.facts)}",)


def when(copy: DatabaseCopy, facts: HostFacts) -> str:
    """`2026-11-27 02:00 UTC (1 d ago)`"""
    made = parse_time(copy.at)
    past = f" ({age(made, facts.now)} ago)" if made and made.tzinfo and facts.now else ""
    return f"{local_time(copy.at, facts)}{past}"


def plain(value: Any) -> Any:
    """Return a value as a label has it."""
    return json_from_host(json.dumps(value))


def replaced(today: Any, then: Any) -> Any:
    """Return a value; for a map with None for the keys that it did not have.

    >>> replaced({"a": 1, "b": 2}, {"b": 3}), replaced({"a": 1}, None), replaced(1, 2)
    ({'a': None, 'b': 3}, {'a': None}, 2)
    """
    if isinstance(today, Mapping) and (then is None or isinstance(then, Mapping)):
        return {**dict.fromkeys(today), **(then or {})}
    return then


def image_words(ready: Ready, label: Mapping[str, Any], entry: Model, spec: Host) -> dict[str, Any]:
    """Return the fields that lead to the same image reference; {} if today's do."""
    version, reference = label.get("version"), ready.image or str(label.get("image"))
    if isinstance(entry.image, TarImage | BuildImage):
        now = [entry.image.reference]
    else:
        now = [images.mirrored(spec, each) for each in images.references(entry)]
    if reference in now and entry.version == version:
        return {}
    if version is not None:
        same = entry.model_copy(update={"engine": label["engine"], "version": version, "image": None})
        try:
            then = [images.mirrored(spec, each) for each in images.references(same)]
        except LookupError:
            then = []
        if reference in then:
            return {"version": version} | ({"image": None} if entry.image is not None else {})
    return {"image": reference} | ({"version": None} if entry.version is not None else {})


def exact_image(back: Back, user: str, facts: HostFacts) -> Back:
    """Return the same with the image by its digest, if its reference means another image now, or none.

    facts: with the images that the changed entry names. Raises NotPossible.
    """
    ready = back.ready
    if facts.images_of(user).get(ready.image) == ready.id:
        return back
    why = "means another image now" if ready.image in facts.images_of(user) else "is not on the host"
    gone = f"its image is missing: {ready.image} {why}"
    if not ready.digest:
        raise NotPossible(f"{gone}, and it was built or loaded there, so it cannot be pulled.")
    words = {**back.words, "image": ready.digest, "version": None}  # a version of the entry or of its defaults
    return Back(ready, words, (*back.notes, f"{gone}. It pulls {ready.digest}."))


def gpu_words(label: Mapping[str, Any], entry: Model) -> dict[str, Any]:
    """Return `gpus` and `vram` as they were, if they differ."""
    words: dict[str, Any] = {}
    if (text := str(label.get("gpus", "[]"))) != ledger.gpus_text(entry):
        items = [item.strip() for item in text.strip("[]").split(",") if item.strip()]
        words["gpus"] = "all" if text == "all" else [int(item) if item.isdigit() else item for item in items]
    vram = str(entry.vram) if entry.vram else None
    if label.get("vram") != vram:
        words["vram"] = label.get("vram")
    return words


def edit(path: str, words: Mapping[str, Any]) -> list[str]:
    """Return how the inventory is edited, in lines. path: of the entry. A null removes a field, also a default.

    >>> edit("models.a", {"version": "1", "image": None, "args": {"x": 2, "y": None}})
    ['models.a.version: "1"', 'models.a.image: null', 'models.a.args.x: 2', 'models.a.args.y: null']
    """
    lines = []
    for word, value in words.items():
        items = value.items() if isinstance(value, Mapping) else [(None, value)]
        for key, item in items:
            place = f"{path}.{word}" if key is None else f"{path}.{word}.{key}"
            lines.append(f"{place}: {json.dumps(item, ensure_ascii=False)}")
    return lines
