"""The host's record of the containers that are gpurack's: /var/lib/gpurack/record.json, root's alone.

Labels prove nothing: `docker commit` and `docker run` copy them, and in a rootless Docker its user may set any. So the
id of each container is written down here by whoever creates it. A part of models.py; runs on the host's own python3
(3.6 or newer, standard library only).

    {"format": 1, "containers": {USER: {NAME: {"id", "kind", "definition", "applied"}}}}

USER: whose rootless Docker it is, "" for the host's own; who is not in it has no record yet, because that daemon did
not answer when it was made. id: null from before Compose is asked for the container until
it is known, so that one whose creation was killed is found again. kind: "model" or "job". definition: a digest of what
it was created from. applied: when. What else there is, a newer gpurack wrote; it is kept.
"""

import contextlib
import json
import re
import time

from common import Failure, alone, parsed, write  # (beside this file)
from paths import RECORD

LOCK = "/run/gpurack/record"  # held for one change of the file; several users' threads write it
FORMAT = 1
ID = re.compile(r"[0-9a-f]{64}\Z")


def load():
    """What the file holds; None where it is missing or cannot be read (after an upgrade, on a restored disk). Raises
    Failure where a newer gpurack wrote it."""
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
    """Is it a record as this version writes it?"""
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
    """The whole id of a container: what Docker, which may be a user's, calls one may be an option."""
    return isinstance(text, str) and ID.match(text) is not None


@contextlib.contextmanager
def changing():
    """The record's containers, to be changed: it is written when the block has ended, if it is another then."""
    with alone(LOCK):
        found = load() or {"format": FORMAT, "containers": {}}
        before = as_text(found)
        yield found["containers"]
        if as_text(found) != before:
            write(RECORD, as_text(found), 0o600)


def as_text(found):
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def about_to_create(user, name, kind, definition):
    """Before Compose is asked for a container."""
    with changing() as users:
        entry = users.setdefault(user, {}).setdefault(name, {})
        if entry.get("definition") != definition or "applied" not in entry:
            entry["applied"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry.update({"id": None, "kind": kind, "definition": definition})


def created(user, name, container):
    """The container that is there now."""
    with changing() as users:
        entry = users.setdefault(user, {}).setdefault(name, {"kind": "model", "definition": "", "applied": ""})
        entry["id"] = container


def removed(user, name):
    """After a container is gone."""
    with changing() as users:
        users.get(user, {}).pop(name, None)


def prune(exists):
    """Strikes out the users who no longer exist. Where that was an error of the accounts' server, the record of such a
    user is made again as after an upgrade."""
    with changing() as users:
        for user in [user for user in users if not exists(user)]:
            del users[user]


def rebuild(vouched):
    """For users of whom there is no record: of the containers that Compose's labels vouch for, once. vouched: (user,
    name, id, kind, definition) of each."""
    with changing() as users:
        known = set(users)
        for user, name, container, kind, definition in vouched:
            if user not in known and is_id(container):
                entry = {"id": container, "kind": kind, "definition": definition, "applied": ""}
                users.setdefault(user, {})[name] = entry


def ids(user, found=None):
    """name → id of what is ours in a user's Docker. found: the same as the plan has it; it knows the ids of those whose
    creation was killed before they were written down."""
    with changing() as users:
        for name, entry in users.get(user, {}).items():
            if entry["id"] is None and is_id((found or {}).get(name)):
                entry["id"] = found[name]
        return {name: entry["id"] for name, entry in users.get(user, {}).items() if entry["id"]}
