"""Copies of services' databases: /var/lib/gpurack/databases/USER/NAME/CHANGE.db. A part of models.py.

A new version changes the database at its first start, and no older version can read it then. So it is copied when the
old container has stopped and before the new one starts, and restored where the change is undone: the old container
never starts with a database of the new one. USER is "_" for the host's own Docker; root alone can read the copies.

Where another one of the same batch fails, all go back together, since they need each other's GPUs or ports: so the
database goes back too, because the old version could not read it. What users wrote into the new version by then would
be lost. Therefore one whose version changes starts after all others of its batch are ready (files/replacing.py:
wait_for_others). Then only its own failure undoes it, before it was ready; or a failure in the moment between its
answer and the decision, such as a power cut.

While its change is not decided, the file ends with `.undo`. It is renamed before the old container starts again, since
a second recovery must not restore it over what is written from then on.

The volume is opened in a container without network, by the Python of the service's own image (files/sqlite_copy.py).
So root follows no link of a container and parses no database, and a user's volume is accessed by that user's Docker.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import os
import re

import record
from kept_logs import make_folders
from messages import Failure, TimeIsUp, rounded, say, size
from paths import DATABASE_LABEL, DATABASES, kept_database
from programs import Child
from progress import Progress, show_progress
from sqlite_copy import MISSING
from writing import sync  # (beside this file)

LIMIT = 1800  # seconds to copy or restore a database
ROOM = 2**28  # bytes that a copy leaves free on root's disk
ENDS = "", ".undo", ".new"  # of a complete copy, of one whose change is not decided, of an incomplete one
UNDO, NEW = ENDS[1:]
INSIDE = "/gpurack"  # where the volume is mounted
HEADER = 100  # bytes, https://www.sqlite.org/fileformat.html
FILE = re.compile(r"[0-9a-f]{32}\.db\Z")


def save(change, model, member, old, dockerd):
    """Copy a member's database before its new container starts, and bring back an earlier one where the plan says so.

    Without an old container, or with its image, there is only the latter. model: its entry of the payload. old: its old
    container (files/members.py: member_of). dockerd: where its new one is. Raises Failure, OSError."""
    told = model.get("database")
    same = old is not None and member["from"] == member["user"] and member["old_policy"] is None
    before = old["found"]["image"] if same else ""  # what another container had is in another volume
    if not told or ("restore" not in told and before in ("", member["image"])):
        return
    member["database"] = {
        "volume": told["volume"],
        "file": told["file"],
        "runs": before or member["image"],
        "copy": change["batch"] + ".db",
        "at": record.now(),
        "image": old["image"] if same else "",
        "id": before,
    }
    record.set_replacing(change)
    keep(dockerd, member)
    if "restore" in told:
        path = kept_database(dockerd.user, member["name"], told["restore"])
        if not (FILE.match(told["restore"]) and os.path.exists(path)):
            raise Failure("the copy of its database no longer exists", "database-failed")
        bring_back(dockerd, member, path)
        say(member["name"], "brought back an earlier database")


def keep(dockerd, member):
    """Copy the database of a member; nothing where it has none yet. Raises Failure, OSError."""
    path = path_of(member)
    make_folders(os.path.dirname(path), DATABASES)
    beside = path + NEW
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
            with show_progress(Progress(member["name"]), "copying its database"):
                code, said = in_container(dockerd, member["database"], ["copy"], target=target)
            target.flush()
            os.fsync(target.fileno())
        if code == MISSING:
            return
        if code or not is_whole(beside):
            what = "its database could not be copied, so it was not changed: {}"
            raise Failure(what.format(said or "the copy is incomplete"), "database-failed")
        os.rename(beside, path + UNDO)
        sync(os.path.dirname(path))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)
    say(member["name"], "copied its database ({})".format(size(os.path.getsize(path + UNDO))))


def undo(dockerd, member):
    """Restore the database that a member had before its change.

    Raises Failure where that fails: then its old container must not start.
    """
    path = path_of(member)
    if path:  # a killed run may have left a container that still writes
        dockerd.remove_labelled(DATABASE_LABEL, member["database"]["copy"])
    if path and os.path.exists(path + UNDO):
        bring_back(dockerd, member, path + UNDO)
        os.rename(path + UNDO, path)
        say(member["name"], "its database is again the one from before the change")


def bring_back(dockerd, member, path):
    """Replace the database of a member by a copy. Raises Failure."""
    with open(path, "rb") as source:
        words = ["restore", str(os.path.getsize(path))]
        with show_progress(Progress(member["name"]), "restoring its database"):
            code, said = in_container(dockerd, member["database"], words, source=source)
    if code:
        what = "its database could not be restored: {}. The copy is {}"
        raise Failure(what.format(said or "exit code {}".format(code), path), "database-failed")


def in_container(dockerd, database, words, source=None, target=None):
    """Run files/sqlite_copy.py on a database; returns (exit code, the last line of its errors).

    words: action, and arguments after the path. source, target: files for its standard input and output. Raises
    Failure, OSError."""
    limit = dockerd.allowed(LIMIT)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "sqlite_copy.py"), encoding="utf-8") as stream:
        program = stream.read()
    volume, path = "{}:{}".format(database["volume"], INSIDE), "{}/{}".format(INSIDE, database["file"])
    options = ["--rm", "--interactive", "--pull", "never", "--network", "none", "--log-driver", "none"]
    options += ["--security-opt", "no-new-privileges", "--volume", volume, "--entrypoint", "python3"]
    options += ["--label", "{}={}".format(DATABASE_LABEL, database["copy"])]
    inside = ["-I", "-c", "import sys; exec(sys.argv.pop(1))", program, words[0], path, *words[1:]]
    child = Child(dockerd.docker("run", *options, database["runs"], *inside), limit=limit, source=source, apart=True)
    try:
        for piece in child.output():
            if target is not None:
                require_room(target)
                target.write(piece)
    except (TimeIsUp, OSError) as error:
        # the client was killed, its container was not: the program is the image's, and may write for ever
        dockerd.remove_labelled(DATABASE_LABEL, database["copy"])
        if isinstance(error, OSError):
            raise
        raise Failure(
            "its database was not read or written within {}".format(rounded(limit)), "database-failed"
        ) from None
    lines = dockerd.without_secrets(child.errors).strip().splitlines()
    return child.code, lines[-1][:300] if lines else ""


def require_room(stream):
    """Raise OSError where little of the disk would stay free: a user's Docker may print without end."""
    disk = os.fstatvfs(stream.fileno())
    if disk.f_bavail * disk.f_frsize < ROOM:
        raise OSError(
            "its database was not copied: it would leave less than {} free in {}".format(size(ROOM), DATABASES)
        )


def is_whole(path):
    """Is it a database of the size that its header says?"""
    with open(path, "rb") as stream:
        header = stream.read(HEADER)
    page = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    known = header.startswith(b"SQLite format 3\0") and len(header) == HEADER
    return known and pages * (65536 if page == 1 else page) == os.path.getsize(path)


def note(found, member):
    """Write the copy of a finished change into the record, whatever became of the change."""
    path = path_of(member)
    if path and os.path.exists(path + UNDO):
        os.rename(path + UNDO, path)
    if path and os.path.exists(path):
        entry = {word: member["database"][word] for word in ("at", "image", "id", "copy")}
        record.add_database(found, member["user"], member["name"], entry)


def path_of(member):
    """The path of the copy that a member's change makes; "" where it makes none."""
    told = member.get("database")
    return kept_database(member["user"], member["name"], told["copy"]) if told else ""


def expire():
    """Remove the copies that the record dropped, and what killed runs left. Never raises.

    Those of a service that it does not know stay: the record may have been lost."""
    with contextlib.suppress(OSError, Failure):
        # the list first: a change is recorded before its copy is made
        there = [os.path.join(folder, file) for folder, _, files in os.walk(DATABASES) for file in files]
        found = record.load() or record.whole({"containers": {}})
        known = {path_of(member) + end for change in found["replacing"] for member in change["members"] for end in ENDS}
        for user, names in found["databases"].items():
            for name, copies in names.items():
                known |= {kept_database(user, name, one["copy"]) for one in copies}
        folders = {os.path.dirname(path) for path in known}
        for path in there:
            if path not in known and (path.endswith(NEW) or os.path.dirname(path) in folders):
                os.unlink(path)
