"""The host's record of gpurack's containers: /var/lib/gpurack/record.json, readable by root only.

Labels prove nothing: `docker commit` and `docker run` copy them, and users may set any in their Docker. So the run that
creates a container records its id here. A part of models.py; runs on the host's own python3
(3.6 or newer, standard library only).

    {"format": 1, "containers": {USER: {NAME: {"id", "kind", "definition", "applied"}}}}

USER: whose rootless Docker it is, "" for the host's own. A missing user has no record yet, because that daemon did not
answer when the record was created. id: null from before Compose creates the container until its id is known, so that a
killed creation is found again. kind: "model" or "job". definition: a digest of what it was created from. applied: when.
Further keys are from a newer gpurack and are kept.
"""

import contextlib
import json
import re
import time

from common import Failure, alone, parsed, write  # (beside this file)
from paths import RECORD

LOCK = "/run/gpurack/record"  # held for one change of the file, which several threads write
FORMAT = 1
ID = re.compile(r"[0-9a-f]{64}\Z")


def load():
    """The record; None where it is missing or invalid (after an upgrade, on a restored disk).

    Raises Failure where a newer gpurack wrote it."""
    try:
        with open(RECORD, encoding="utf-8") as stream:
            found = parsed(stream.read())
    except (OSError, ValueError):
        return None
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise Failure(
            "{} has format {}, written by a newer gpurack; this one supports format {}. Nothing was changed. Update "
            "gpurack".format(RECORD, number, FORMAT)
        )
    return found if number == FORMAT and well_formed(found) else None


def well_formed(found):
    """Is it a valid record of this format?"""
    users = found.get("containers")
    return isinstance(users, dict) and all(
        isinstance(names, dict)
        and all(
            isinstance(entry, dict)
            and entry.get("kind") in ("model", "job")
            and "id" in entry
            and (entry["id"] is None or is_id(entry["id"]))
            for entry in names.values()
        )
        for names in users.values()
    )


def is_id(text):
    """Is it a full container id? Output of a user's Docker could be an option instead."""
    return isinstance(text, str) and ID.match(text) is not None


@contextlib.contextmanager
def changing():
    """Yield the record's containers for changes; writes the file after the block where they changed."""
    with alone(LOCK):
        found = load() or {"format": FORMAT, "containers": {}}
        before = as_text(found)
        yield found["containers"]
        if as_text(found) != before:
            write(RECORD, as_text(found), 0o600)


def as_text(found):
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def about_to_create(user, name, kind, definition):
    """Record a container before Compose creates it."""
    with changing() as users:
        entry = users.setdefault(user, {}).setdefault(name, {})
        if entry.get("definition") != definition or "applied" not in entry:
            entry["applied"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry.update({"id": None, "kind": kind, "definition": definition})


def created(user, name, container):
    """Record the id of a created container."""
    with changing() as users:
        entry = users.setdefault(user, {}).setdefault(name, {"kind": "model", "definition": "", "applied": ""})
        entry["id"] = container


def removed(user, name):
    """Remove a container from the record, once it no longer exists."""
    with changing() as users:
        users.get(user, {}).pop(name, None)


def prune(exists):
    """Remove users that no longer exist. After an error of the account server their record is rebuilt as after an
    upgrade."""
    with changing() as users:
        for user in [user for user in users if not exists(user)]:
            del users[user]


def rebuild(vouched):
    """Create the record of users without one. vouched: (user, name, id, kind, definition) of each container that
    Compose's labels attribute to gpurack."""
    with changing() as users:
        known = set(users)
        for user, name, container, kind, definition in vouched:
            if user not in known and is_id(container):
                entry = {"id": container, "kind": kind, "definition": definition, "applied": ""}
                users.setdefault(user, {})[name] = entry


def ids(user, found=None):
    """name → id of our containers in a user's Docker. found: the same from the plan; it has the ids of containers whose
    creation was killed before their id was recorded."""
    with changing() as users:
        for name, entry in users.get(user, {}).items():
            if entry["id"] is None and is_id((found or {}).get(name)):
                entry["id"] = found[name]
        return {name: entry["id"] for name, entry in users.get(user, {}).items() if entry["id"]}
