"""The host's record of gpurack's containers: /var/lib/gpurack/record.json, readable by root only.

Labels prove nothing: `docker commit` and `docker run` copy them, and users may set any in their Docker. So the run that
creates a container records its id here. A part of models.py; runs on the host's own python3
(3.6 or newer, standard library only).

    {"format": 2,
     "containers": {USER: {NAME: {"id", "kind", "definition", "applied", "service",
                                  "lab", "by", "commit", "inventory", "rollback"}}},
     "replacing":  [{"batch", "phase", "since", "members": [member],        changes under way: files/changes.py
                     "claims": [[USER, NAME]]}],                            of a user's Docker and the host's only
     "failed":     {USER: {NAME: {"at", "definition", "label", "image", "given", "why", "serves", "down", "start"}}},
     "ready":      {USER: {NAME: [{"at", "until", "definition", "label", "image", "digest", "id",
                                   "seconds", "first", "words"}]}},
     "tests":      {USER: {NAME: {"id", "at", "since", "why", "restarts", "started"}}},
     "databases":  {USER: {NAME: [{"at", "image", "id", "copy"}]}},
     "stopped":    {USER: {NAME: {"at", "by", "hold", "why", "policy"}}},   what an admin stopped: files/stopping.py
     "images":     {USER: {IMAGE ID: [references]}},                 that a run pulled, loaded or built: gpurack prune
     "pulling":    {USER: {REFERENCE: [ids of all images before]}},         pulls under way: files/images.py
     "volumes":    {USER: {ANONYMOUS VOLUME: NAME}},                 of containers that a run removed: gpurack prune
     "history":    [{"at", "verb", "by", "lab", "commit", "inventory", "changes", "failed"}]}   runs, newest last

USER: whose rootless Docker it is, "" for the host's own. A missing user has no record yet, because that daemon did not
answer when the record was created. id: null from before Compose creates the container until its id is known, so that a
killed creation is found again. kind: "model" or "job". definition: a digest of what it was created from. applied: when.
service: its key in Compose, NAME where it is missing. lab, by, commit, inventory: where the change came from. rollback:
a mark of the inventory's entry that it was rolled back from.
failed: the last change of a model that failed; ready: its last definitions that were ready, which can be brought back
(seconds: from its last start until it was ready, missing where no run saw that; first: the same for the first start of
its image; words: fields of the entry that the label does not have), newest first; tests: the last smoke test of its
container (why: "" if it passed; since: when it first failed; restarts: how often Docker had restarted it; started: when
it had started, in Docker's words). databases: the copies of its database (files/databases.py), one for each image that
it was in use with, newest first. stopped: who stopped it and when; hold: does that survive runs? why: the reason.
policy: the restart policy that its container gets back. history: each run that changed something or failed. verb: of
the gpurack command. changes, failed: lines of text. Format 1 had only the containers; it is read, and written as format
2. Further keys are from a newer gpurack and are kept."""

import contextlib
import errno
import hashlib
import json
import re
import threading
import time

from json_data import parsed
from locks import alone
from messages import Failure
from paths import RECORD
from writing import write  # (beside this file)

LOCK = "/run/gpurack/record"  # held for one change of the file, which several threads write
THREADS = threading.Lock()  # of this process, which would look for the holder of LOCK in all of /proc
FORMAT = 2
READABLE = (1, 2)
PARTS = {
    "replacing": list,
    "failed": dict,
    "ready": dict,
    "tests": dict,
    "stopped": dict,
    "databases": dict,
    "images": dict,
    "pulling": dict,
    "volumes": dict,
    "history": list,
}
BY_NAME = ("failed", "ready", "tests", "stopped")  # user → name → what is known of it
LEFT = ("images", "volumes")  # user → what gpurack brought to that Docker
ORIGIN = ("lab", "by", "commit", "inventory")
KEPT = 3  # definitions that can be brought back, and copies of a database
RUNS = 200  # of the history
LARGEST = 4 * 2**20  # bytes of the file; the snapshot reads no larger one
MOST_VOLUMES = MOST_IMAGES = 1000  # of one user
MOST_BEFORE = 5000  # ids of images that one user's Docker had before pulls
LINES, FAILURES, LONGEST = 20, 5, 200  # of one run: changes, failures, characters of a text
ID = re.compile(r"[0-9a-f]{64}\Z")
IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}\Z")


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
            "gpurack".format(RECORD, number, FORMAT),
            "record-of-newer",
        )
    return whole(found) if number in READABLE and well_formed(found) else None


def whole(found):
    """A record with all parts of this format.

    A part that is missing or damaged is empty, and ids that are none are left out: older versions kept what a user's
    Docker said.
    """
    parts = {part: found[part] if isinstance(found.get(part), kind) else kind() for part, kind in PARTS.items()}
    parts["replacing"] = [change for change in parts["replacing"] if is_change(change)]
    parts["images"] = of_users(parts["images"], lambda known: named(known, is_image_id, list))
    parts["volumes"] = of_users(parts["volumes"], lambda known: named(known, is_id, str))
    ids_of = lambda before: [image for image in before if is_image_id(image)]  # noqa: E731
    pulls = lambda known: {image: ids_of(before) for image, before in named(known, bool, list).items()}  # noqa: E731
    parts["pulling"] = of_users(parts["pulling"], pulls)
    return dict(found, format=FORMAT, **parts)


def of_users(part, cleaned):
    """A part of the record, where what is known of each user is a map, cleaned."""
    return {user: cleaned(known) for user, known in part.items() if isinstance(known, dict)}


def named(known, is_name, kind):
    """Those of a user's with a valid name, and a value of this kind."""
    return {name: value for name, value in known.items() if is_name(name) and isinstance(value, kind)}


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


def is_change(change):
    """Is it a change under way, as files/changes.py describes it?"""
    ids = ("old_id", "new_id")
    return (
        isinstance(change, dict)
        and all(isinstance(change.get(word), str) for word in ("batch", "phase"))
        and isinstance(change.get("members"), list)
        and isinstance(change.get("claims", []), list)
        and all(
            isinstance(claim, list) and len(claim) == 2 and all(isinstance(word, str) for word in claim)
            for claim in change.get("claims", [])
        )
        and all(
            isinstance(member, dict)
            and all(isinstance(member.get(word), str) for word in ("name", "user", "from"))
            and all(member.get(word) is None or is_id(member[word]) for word in ids)
            for member in change["members"]
        )
    )


def is_id(text):
    """Is it a full container id? Output of a user's Docker could be an option instead."""
    return isinstance(text, str) and ID.match(text) is not None


def is_image_id(text):
    """Is it the id of an image? A user's Docker may say anything, of any length."""
    return isinstance(text, str) and IMAGE_ID.match(text) is not None


@contextlib.contextmanager
def changing_all():
    """Yield the record for changes; writes the file after the block where it changed.

    Raises OSError where it would grow beyond what the snapshot reads: labels would vouch for containers again."""
    with THREADS, alone(LOCK):
        found = load() or whole({"containers": {}})
        before = compared(found)
        yield found
        after = compared(found)
        if after == before:
            return
        text = as_text(found)  # ASCII only
        if len(text) > LARGEST and len(after) > len(before):
            raise OSError(errno.EFBIG, "larger than {} MiB".format(LARGEST >> 20), RECORD)
        write(RECORD, text, 0o600)


@contextlib.contextmanager
def changing():
    """Like changing_all, for the record's containers."""
    with changing_all() as found:
        yield found["containers"]


def compared(found):
    """The record as one line. Python writes it five times as fast as one with indentation."""
    return json.dumps(found, sort_keys=True)


def as_text(found):
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def about_to_create(user, name, kind, definition, key=None):
    """Record a container before Compose creates it. key: its key in Compose, by default its name."""
    with changing() as users:
        entry = users.setdefault(user, {}).setdefault(name, {})
        if entry.get("definition") != definition or "applied" not in entry:
            entry["applied"] = now()
        entry.update({"id": None, "kind": kind, "definition": definition})
        if entry.get("service") or key not in (None, name):
            entry["service"] = key or name


def now():
    """The time, as the record has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def created(user, name, container):
    """Record the id of a created container."""
    with changing() as users:
        entry = users.setdefault(user, {}).setdefault(name, {"kind": "model", "definition": "", "applied": ""})
        entry["id"] = container


def removed(user, name):
    """Remove a container from the record, once it no longer exists."""
    with changing() as users:
        users.get(user, {}).pop(name, None)


def forget(user, name):
    """Remove all that is known of an entry that was removed."""
    with changing_all() as found:
        for part in ("containers", *BY_NAME):
            found[part].get(user, {}).pop(name, None)


def prune(exists):
    """Remove users that no longer exist.

    After an error of the account server their record is rebuilt as after an upgrade.
    """
    with changing_all() as found:
        for part in ("containers", *BY_NAME, *LEFT):
            for user in [user for user in found[part] if not exists(user)]:
                del found[part][user]


def take(user, names, origin):
    """Record that existing containers belong to another lab from now on.

    origin: lab, by, commit, inventory; a word that it leaves out is unknown from now on.
    """
    with changing() as users:
        for name in names:
            if name in users.get(user, {}):
                entry = users[user][name]
                for word in ORIGIN:
                    entry.pop(word, None)
                entry.update(origin)


# --- changes ----------------------------------------------------------------------------------------------------------


def replacing():
    """The changes under way."""
    return (load() or {"replacing": []})["replacing"]


def entries(change):
    """{(user, name)} that a change is about: its members, and what it claims beside them (files/claims.py)."""
    members = {(user, member["name"]) for member in change["members"] for user in (member["user"], member["from"])}
    return members | {(user, name) for user, name in change.get("claims", ())}


def keys_of_changes(changes, user):
    """A pattern of the keys, in a user's Docker, of entries that changes are about.

    A claim has no members yet, so the key of its next container is not known: each generation of its name counts.
    """
    names = sorted({name for change in changes for whose, name in entries(change) if whose == user})
    return re.compile(r"(?:{})(?:\.\d+)?\Z".format("|".join(map(re.escape, names))) if names else r"(?!)")


def set_replacing(change):
    """Record a change under way, or its next phase."""
    with changing_all() as found:
        others = [other for other in found["replacing"] if other["batch"] != change["batch"]]
        found["replacing"] = [*others, change]


def drop_claims(batch):
    """Drop a change in which nothing was begun, or nothing is left to do, as it has no members."""
    with changing_all() as found:
        found["replacing"] = [each for each in found["replacing"] if each["batch"] != batch or each["members"]]


def end_replacing(found, batch):
    """Drop a change from a record that `changing_all` yields."""
    found["replacing"] = [other for other in found["replacing"] if other["batch"] != batch]


def note_failed(user, name, entry, rollback=False):
    """Record why the last change of a model failed, so that the same is not tried again and again.

    rollback: was it no change to what the inventory says? Then the failure of another definition stays."""
    with changing_all() as found:
        known = found["failed"].setdefault(user, {}).get(name)
        if not (rollback and known and known.get("definition") != entry["definition"]):
            found["failed"][user][name] = entry


def note_ready(user, name, entry):
    """Record a definition that was ready, as the newest; drops an earlier failure."""
    with changing_all() as found:
        add_ready(found, user, name, entry)
        drop_failure(found, user, name)


def drop_failure(found, user, name, definition=None):
    """Forget the last failure of a model, in a record that `changing_all` yields. definition: only if it is of this."""
    known = found["failed"].get(user, {}).get(name, {})
    if definition in (None, known.get("definition")):
        found["failed"].get(user, {}).pop(name, None)


def add_ready(found, user, name, entry):
    """`note_ready`, in a record that `changing_all` yields. What else is known of the same definition is kept.

    "at" is since when it is the newest: of one that is that already, it stays. The one that it replaces gets "until".
    """
    same = ("definition", "id")
    known = found["ready"].setdefault(user, {}).get(name, [])
    others = [other for other in known if any(other.get(word) != entry[word] for word in same)]
    before = next((other for other in known if other not in others), {})
    first = next((other["first"] for other in known if other.get("id") == entry["id"] and "first" in other), None)
    first = entry.get("seconds") if first is None else first
    times = {} if first is None else {"first": first}
    if before and before is known[0] and before.get("at"):
        times["at"] = before["at"]
    newest = dict(before, **dict(entry, **times))
    newest.pop("until", None)
    if others and others[0] is known[0] and entry.get("at"):
        others[0] = dict(others[0], until=entry["at"])
    found["ready"][user][name] = [newest, *others][:KEPT]


def first_start(user, name, image):
    """Seconds from the first start of an image for this entry until it was ready; None if no run saw that."""
    found = load()
    known = found["ready"].get(user, {}).get(name, []) if found else []
    return next((other["first"] for other in known if other.get("id") == image and "first" in other), None)


def add_database(found, user, name, entry):
    """Note a copy of a database, in a record that `changing_all` yields.

    It takes the place of an older one of the same image.
    """
    known = found["databases"].setdefault(user, {}).get(name, [])
    others = [other for other in known if other["id"] != entry["id"] and other["copy"] != entry["copy"]]
    found["databases"][user][name] = [entry, *others][:KEPT]


def note_test(user, name, container, why, restarts=None, started=None):
    """Record the result of a container's smoke test.

    why: "" if it passed. restarts: how often Docker had restarted it; started: when it had started. None if unknown.
    """
    with changing_all() as found:
        tests = found["tests"].setdefault(user, {})
        before = tests.get(name, {})
        before = before if before.get("id") == container else {}
        since = before.get("since") if before.get("why") else ""
        restarts = before.get("restarts") if restarts is None else restarts
        started = before.get("started", "") if started is None else started
        entry = {"id": container, "at": now(), "since": (since or now()) if why else "", "why": why}
        tests[name] = dict(entry, restarts=restarts, started=started)


def note_stopped(user, name, mark):
    """Record that an admin stopped a model."""
    with changing_all() as found:
        found["stopped"].setdefault(user, {})[name] = mark


def stopped(user):
    """name → mark of the models of a user's Docker that an admin stopped."""
    marks = (load() or {"stopped": {}})["stopped"].get(user)
    return {name: mark for name, mark in marks.items() if isinstance(mark, dict)} if isinstance(marks, dict) else {}


def release(user, names):
    """Drop the marks of models that may run again."""
    with changing_all() as found:
        for name in names:
            found["stopped"].get(user, {}).pop(name, None)


def note_run(verb, origin, changes, failed):
    """Add a run to the history, if it changed something or failed.

    origin: lab, by, commit, inventory, "" if unknown; `uncommitted`, where it is true. changes: what it did (`recreate
    alpha`). failed: `alpha: why` → its code, "" if unknown. Long ones are cut, so that the record stays small.
    """
    if not (changes or failed):
        return
    entry = {word: str(origin.get(word, ""))[:LONGEST] for word in ORIGIN}
    if origin.get("uncommitted"):
        entry["uncommitted"] = True
    entry.update({"at": now(), "verb": verb, "changes": cut(changes, LINES)})
    entry.update({"failed": cut(list(failed), FAILURES), "codes": list(failed.values())[:FAILURES]})
    with changing_all() as found:
        found["history"] = [*found["history"], entry][-RUNS:]


def cut(texts, most):
    """The first lines of texts for the history: at most `most`, and how many more there are."""
    more = ["{} more".format(len(texts) - most)] if len(texts) > most else []
    return [shortened(text.split("\n")[0], LONGEST) for text in texts[:most]] + more


def shortened(text, most):
    """A text of at most `most` characters; a longer one ends after a word, with a sign.

    >>> shortened("out of memory", 12), shortened("out of memory", 13), shortened("a" * 9, 4)
    ('out of…', 'out of memory', 'aaa…')
    """
    if len(text) <= most:
        return text
    kept = text[: most - 1]
    return ((kept if text[most - 1].isspace() else kept.rpartition(" ")[0]) or kept).rstrip() + "…"


def note_image(user, image, *names):
    """Record an image that a run brought to a user's Docker, and its names."""
    with changing_all() as found:
        known = found["images"].setdefault(user, {})
        known[image] = sorted({*known.get(image, ()), *names})


def begin_pull(user, image, before):
    """Record the ids of the images that a user's Docker has before a run brings one under this name.

    So the next run knows what a killed one brought. Of pulls that never ended, those of a Docker with many images are
    dropped.
    """
    with changing_all() as found:
        known = {**found["pulling"].get(user, {}), image: sorted(before)}
        many = sum(map(len, known.values())) > MOST_BEFORE
        found["pulling"][user] = {image: known[image]} if many else known


def before_pull(user, image):
    """The ids of begin_pull; None where no pull of this name was begun, or its end was recorded."""
    return (load() or whole({}))["pulling"].get(user, {}).get(image)


def end_pull(user, image, brought):
    """Record that a pull has ended. brought: the id of the image that is gpurack's since, None without one."""
    with changing_all() as found:
        found["pulling"].get(user, {}).pop(image, None)
        if not found["pulling"].get(user, True):
            del found["pulling"][user]
        known = found["images"].setdefault(user, {}) if brought else {}
        if brought in known or (brought and len(known) < MOST_IMAGES):
            known[brought] = sorted({*known.get(brought, ()), image})


def note_volumes(user, name, volumes):
    """Record anonymous volumes of a container of an entry that is removed; they stay."""
    if volumes:
        with changing_all() as found:
            known = found["volumes"].setdefault(user, {})
            known.update((volume, name) for volume in volumes[: max(MOST_VOLUMES - len(known), 0)])


def forget_part(part, user, name):
    """Remove one image or volume from the record. part: of LEFT."""
    with changing_all() as found:
        found[part].get(user, {}).pop(name, None)


# --- ids --------------------------------------------------------------------------------------------------------------


def rebuild(vouched):
    """Create the record of users without one.

    vouched: (user, name, id, kind, definition, key in Compose) of each container that Compose's labels attribute to
    gpurack.
    """
    with changing() as users:
        known = set(users)
        for user, name, container, kind, definition, key in vouched:
            if user not in known and is_id(container):
                entry = {"id": container, "kind": kind, "definition": definition, "applied": ""}
                entry.update({} if key == name else {"service": key})
                users.setdefault(user, {})[name] = entry


def ids(user, found=None):
    """name → id of our containers in a user's Docker.

    found: the same from the plan; it has the ids of containers whose creation was killed before their id was recorded.
    """
    with changing() as users:
        for name, entry in users.get(user, {}).items():
            if entry["id"] is None and is_id((found or {}).get(name)):
                entry["id"] = found[name]
        return {name: entry["id"] for name, entry in users.get(user, {}).items() if entry["id"]}


def all_ids():
    """{((user, name), id of its container)} of all entries."""
    users = (load() or {"containers": {}})["containers"]
    return {((user, name), entry["id"]) for user, entries in users.items() for name, entry in entries.items()}


def keys(user):
    """name → key in Compose of our containers in a user's Docker."""
    entries = (load() or {"containers": {}})["containers"].get(user, {})
    return {name: str(entry.get("service") or name) for name, entry in entries.items()}


def digest(label):
    """The digest of a model's definition in the record (the same as in gpurack/plan/runner.py)."""
    return hashlib.sha256(label.encode("utf-8")).hexdigest() if isinstance(label, str) else ""
