"""The host's record of gpurack's containers (/var/lib/gpurack/record.json). Pure.

It proves that a container is ours. Labels alone prove nothing: `docker commit` and `docker run` inherit them, and a
user's daemon may answer anything. The runner (files/record.py) writes the record before a container is created and
after it is removed.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from gpurack import paths
from gpurack.facts.parts import Container, File, Kind
from gpurack.host_data import json_from_host, yaml_from_host
from gpurack.spec.step_codes import STEPS

FORMAT = 2
"""The newest format. Format 1 has containers only, and no `service`."""
Phase = Literal["prepare", "try", "restore", "commit"]
PROJECTS: Mapping[Kind, str] = {"model": paths.PROJECT, "job": paths.JOBS_PROJECT}
"""The Compose projects of our models and jobs."""
LONGEST = 7 * 24 * 3600
"""Seconds that a start may have taken; more counts as unknown."""


@dataclass(frozen=True)
class Entry:
    """A container in the record.

    id: None between the decision to create it and its creation. definition: the sha256 of a model's label gpurack.model
    as root wrote it, or of a job's definition; "" if unknown. service: its key in compose.yaml, "" for its name. lab,
    by, commit, inventory: who applied it from what; "" if unknown. rollback: the mark of the entry that it was rolled
    back from, "" if it was not (plan/models/rollback.py).
    """

    id: str | None
    kind: Kind
    definition: str = ""
    service: str = ""
    applied: str = ""
    lab: str = ""
    by: str = ""
    commit: str = ""
    inventory: str = ""
    rollback: str = ""


Record = Mapping[str, Mapping[str, Entry]]
"""user → name → entry. The user "" is the host's own Docker.

A user is absent if the daemon did not answer when the record was made.
"""


@dataclass(frozen=True)
class Member:
    """A model of an unfinished replacement.

    user: where the new container belongs. of: the user in whose Docker the old one is. remove: is it only removed?
    adopted: was the old one made by hand? Then it is not ours.
    """

    name: str
    user: str
    of: str
    old_id: str | None = None
    old_key: str | None = None
    new_id: str | None = None
    new_key: str | None = None
    remove: bool = False
    adopted: bool = False


@dataclass(frozen=True)
class Replacing:
    """Models that are replaced together, while that has not ended.

    claims: the names of all entries that a change in several Dockers may touch (files/claims.py).
    """

    phase: Phase
    since: str
    members: tuple[Member, ...]
    batch: str = ""
    claims: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        """The names of the entries that it is about."""
        return {*self.claims, *(member.name for member in self.members)}


@dataclass(frozen=True)
class Failed:
    """The last failed creation of a model, or its last start that cannot succeed.

    at: when it failed. label: the definition that was tried, as in a container's label. image: the id of its image, ""
    if unknown. given: what else it depended on (plan/models/failures.py). serves: did the previous container serve
    again? down: seconds without an answer. start: was it the start of a container that existed?
    """

    at: str
    label: str
    image: str
    given: str
    why: str
    serves: bool
    down: float
    start: bool = False


@dataclass(frozen=True)
class Ready:
    """A definition with which a model was ready. image: the reference. digest: of its registry. id: of the image.

    at: since when it is, or was, the newest. until: when another one replaced it, "" if unknown or still the newest.
    seconds: from its last start until it was ready, None if unknown. words: those fields of its entry that its label
    does not have (plan/models/rollback.py); None if unknown, because an older gpurack wrote it.
    """

    at: str
    label: str
    image: str
    digest: str
    id: str
    seconds: int | None = None
    words: Mapping[str, Any] | None = None
    until: str = ""


@dataclass(frozen=True)
class DatabaseCopy:
    """A copy of a service's database. image, id: reference and id of the image that it was in use with, "" if unknown.

    at: when it was made. copy: the name of its file.
    """

    at: str
    image: str
    id: str
    copy: str


@dataclass(frozen=True)
class Test:
    """The last test request to a model.

    id: of the container that was asked. since: when its first failure was, "" if it passed. why: it failed, "" if it
    passed. restarts: how often Docker had restarted that container then; None if unknown. started: when that container
    had started, in Docker's words; "" if unknown.
    """

    __test__ = False  # not one of pytest's

    id: str
    at: str
    since: str
    why: str
    restarts: int | None = None
    started: str = ""


@dataclass(frozen=True)
class Stopped:
    """A model that an admin stopped. by: a person, "" if unknown. hold: does it survive runs? why: the reason."""

    at: str
    by: str
    hold: bool
    why: str


@dataclass(frozen=True)
class Event:
    """A run that changed something or failed. changes: what it did (`recreate alpha`). failed: `alpha: why`.

    codes: of `failed`, in the same order; "" where the host's runner named none. verb: of the gpurack command. by, lab,
    commit, inventory: as in Entry. uncommitted: did the inventory's clone have changes that were in no commit?
    """

    at: str
    verb: str
    by: str
    lab: str
    commit: str
    inventory: str
    changes: tuple[str, ...]
    failed: tuple[str, ...]
    uncommitted: bool = False
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostRecord:
    """The whole record. containers: None if there is none. history: runs, oldest first.

    failed, ready, tests, databases, stopped: (user, name) → what is known.
    """

    containers: Record | None
    replacing: tuple[Replacing, ...] = ()
    failed: Mapping[tuple[str, str], Failed] = field(default_factory=dict)
    ready: Mapping[tuple[str, str], tuple[Ready, ...]] = field(default_factory=dict)
    tests: Mapping[tuple[str, str], Test] = field(default_factory=dict)
    databases: Mapping[tuple[str, str], tuple[DatabaseCopy, ...]] = field(default_factory=dict)
    stopped: Mapping[tuple[str, str], Stopped] = field(default_factory=dict)
    history: tuple[Event, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """Its parts by their names in HostFacts."""
        named: dict[str, Any] = {"record": self.containers, "replacing": self.replacing, "failed": self.failed}
        named |= {"ready": self.ready, "tests": self.tests, "databases": self.databases}
        return {**named, "stopped": self.stopped, "history": self.history}


class TooNew(ValueError):
    """A newer gpurack wrote the record."""


def read(text: str) -> HostRecord | None:
    """Parse the record; None if its containers are invalid, which counts as missing. Raises TooNew.

    Of the other parts, what is invalid is left out, as files/record.py does.
    """
    try:
        said = json_from_host(text)
        if isinstance(said["format"], int) and said["format"] > FORMAT:
            raise TooNew(f"a newer gpurack wrote the host's record (format {said['format']}). Update gpurack.")
        if type(said["format"]) is not int or said["format"] < 1:
            return None
        containers = {
            str(user): {str(name): _entry(entry) for name, entry in entries.items()}
            for user, entries in said["containers"].items()
        }
        return HostRecord(
            containers,
            tuple(_each(said.get("replacing"), _replacing)),
            _by_model(said.get("failed"), _failed),
            _by_model(said.get("ready"), lambda all_: tuple(_each(all_, _ready))),
            _by_model(said.get("tests"), _test),
            _by_model(said.get("databases"), lambda all_: tuple(_each(all_, _copy))),
            _by_model(said.get("stopped"), _stopped),
            tuple(_each(said.get("history"), _event)),
        )
    except TooNew:
        raise
    except WRONG:
        return None


WRONG = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
T = TypeVar("T")


def _by_model(said: Any, parsed: Callable[[Any], T]) -> dict[tuple[str, str], T]:
    """Return (user, name) → what is said about it, without what is invalid."""
    found: dict[tuple[str, str], T] = {}
    for user, names in said.items() if isinstance(said, dict) else ():
        for name, data in names.items() if isinstance(names, dict) else ():
            with suppress(*WRONG):
                found[str(user), str(name)] = parsed(data)
    return found


def _each(said: Any, parsed: Callable[[Any], T]) -> Iterator[T]:
    """Yield the items of a list, without those that are invalid."""
    for one in said if isinstance(said, list) else ():
        with suppress(*WRONG):
            yield parsed(one)


def _entry(said: Any) -> Entry:
    origin = {word: _text(said.get(word)) for word in ("lab", "by", "commit", "inventory", "rollback")}
    return Entry(
        checked_id(said["id"]),
        checked_kind(said["kind"]),
        str(said.get("definition", "")),
        _key(said.get("service")) or "",
        _text(said.get("applied")),
        **origin,
    )


def _replacing(said: Any) -> Replacing:
    phase = said["phase"]
    if phase not in ("prepare", "try", "restore", "commit"):
        raise ValueError(phase)
    members = tuple(_member(one) for one in _list(said["members"]))
    claims = tuple(_text(name) for _, name in _list(said.get("claims", [])))
    return Replacing(phase, _text(said.get("since")), members, _text(said.get("batch")), claims)


def _member(said: Any) -> Member:
    ids = {word: checked_id(said.get(word)) for word in ("old_id", "new_id")}
    keys = {word: _key(said.get(word)) for word in ("old_key", "new_key")}
    user = _text(said["user"])
    return Member(
        _text(said["name"]),
        user,
        _text(said.get("from", user)),
        **ids,
        **keys,
        remove=said.get("remove") is True,
        adopted=said.get("old_policy") is not None,
    )


def _failed(said: Any) -> Failed:
    down = said.get("down") or 0
    if isinstance(down, bool) or not isinstance(down, int | float):
        raise TypeError(down)
    words = {word: _text(said.get(word)) for word in ("at", "label", "image", "given", "why")}
    return Failed(**words, serves=said.get("serves") is True, down=down, start=said.get("start") is True)


def _ready(said: Any) -> Ready:
    seconds = said.get("seconds")
    known = type(seconds) is int and 0 <= seconds <= LONGEST
    words = said.get("words")
    texts = {word: _text(said.get(word)) for word in ("at", "label", "image", "digest", "id", "until")}
    return Ready(**texts, seconds=seconds if known else None, words=words if isinstance(words, dict) else None)


def _copy(said: Any) -> DatabaseCopy:
    return DatabaseCopy(**{word: _text(said.get(word)) for word in ("at", "image", "id", "copy")})


def _test(said: Any) -> Test:
    restarts = None if said.get("restarts") is None else _count(said["restarts"])
    words = {word: _text(said.get(word)) for word in ("at", "since", "why", "started")}
    return Test(checked_id(said["id"]) or "", **words, restarts=restarts)


def _count(said: Any) -> int:
    """Return a number from 0 up. Raises TypeError for anything else."""
    if isinstance(said, bool) or not isinstance(said, int) or said < 0:
        raise TypeError(said)
    return said


def _stopped(said: Any) -> Stopped:
    return Stopped(_text(said["at"]), _text(said.get("by")), said.get("hold") is True, _text(said.get("why")))


def _event(said: Any) -> Event:
    words = {word: _text(said.get(word)) for word in ("at", "verb", "by", "lab", "commit", "inventory")}
    changes, failed, codes = (tuple(map(_text, _list(said.get(word)))) for word in ("changes", "failed", "codes"))
    codes = tuple(code if code in STEPS else "" for code in (*codes, *("",) * len(failed))[: len(failed)])
    return Event(**words, changes=changes, failed=failed, uncommitted=said.get("uncommitted") is True, codes=codes)


def _list(said: Any) -> list[Any]:
    """Return a list, [] for nothing. Raises TypeError for anything else."""
    if said is not None and not isinstance(said, list):
        raise TypeError(said)
    return said or []


def _text(said: Any) -> str:
    """Return a text, "" for nothing. Raises TypeError for anything else."""
    if said is not None and not isinstance(said, str):
        raise TypeError(said)
    return said or ""


def _key(said: Any) -> str | None:
    """Return a key of compose.yaml, or None. Raises ValueError for anything else."""
    if said is None or (isinstance(said, str) and re.fullmatch(r"[A-Za-z0-9._-]+", said)):
        return said
    raise ValueError(said)


def checked_id(value: object) -> str | None:
    """Return a container's id, or None. Raises ValueError for anything else."""
    if value is None or (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        return value
    raise ValueError(value)


def checked_kind(value: object) -> Kind:
    """Return a container's kind. Raises ValueError for anything else."""
    if value == "model" or value == "job":
        return value
    raise ValueError(value)


def has(record: Record | None, user: str) -> bool:
    """Does the record cover a user's daemon, or the host's own ("")?"""
    return record is not None and user in record


def is_ours(
    container: Container,
    name: str,
    record: Record | None,
    services: Mapping[str, Any],
    present: Collection[str] = (),
) -> bool:
    """Did gpurack create this container for an entry? Its labels, Compose's labels and the record decide.

    name: the entry's. It is the container's name, except while a successor is tried. services: those in root's own
    compose.yaml of that daemon (for a job: in its own file). They decide, together with Compose's labels, if the record
    does not cover that daemon, as after an upgrade.

    present: the ids of all containers that exist. If the recorded one is gone from the host's own Docker, a container
    that Compose created in its place is ours as well, because an admin may run `docker compose up` with root's
    compose.yaml. Compose writes the id of the image into a label. A copy (`docker commit`, `docker run`) inherits that
    label but has another image.
    """
    kind = container.kind
    if kind is None:
        return False
    labels = container.labels
    key = labels.get(f"{paths.COMPOSE}service")
    if labels.get(f"{paths.COMPOSE}project") != PROJECTS[kind]:
        return False
    known = None if record is None else record.get(container.user)
    if known is None:
        return key is not None and keys(services).get(name) == key
    entry = known.get(name)
    if entry is None or entry.kind != kind or key != (entry.service or name):
        return False
    by_compose = not container.user and labels.get(f"{paths.COMPOSE}image") == container.image
    return entry.id in (None, container.id) or (by_compose and entry.id not in present)


def services(file: File | None) -> dict[str, Any]:
    """Return the services of a compose.yaml of the host, by their keys; {} if it is invalid."""
    try:
        content = yaml_from_host(file.text) if file else {}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}
    found = content.get("services", {}) if isinstance(content, dict) else {}
    return {str(name): data for name, data in found.items()} if isinstance(found, dict) else {}


def keys(services: Mapping[str, Any]) -> dict[str, str]:
    """Return entry → its key among the services of a compose.yaml, by the names of their containers.

    >>> keys({"alpha.2": {"container_name": "alpha"}, "beta": {}})
    {'alpha': 'alpha.2', 'beta': 'beta'}
    """
    found: dict[str, str] = {}
    for key, data in services.items():
        name = data.get("container_name") if isinstance(data, Mapping) else None
        name = name if isinstance(name, str) else key
        if name == key or found.get(name) != name:  # a key that is the entry's own name wins
            found[name] = key
    return found


def is_generation(key: object, name: str) -> bool:
    """May a key of compose.yaml be one of this entry: its name, or that with a number from 2 up?

    >>> [is_generation(key, "a") for key in ("a", "a.2", "a.1", "a.previous", None)]
    [True, True, False, False, False]
    """
    return key == name or (
        isinstance(key, str) and re.fullmatch(re.escape(name) + r"\.([2-9]|[1-9]\d+)", key) is not None
    )
