"""The members of a change: what they are, their new containers, and what is said about them. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import re

import processes
import proof
import record
import starting
from listening import overlap
from messages import CertainFailure, Failure, clock, describe_error, say  # (beside this file)
from paths import MODEL_LABEL, PREVIOUS, SERVES_AGAIN, SET_ASIDE
from record import digest

RUNS = ("running", "restarting", "paused")
INVALID = re.compile(
    r"invalid (CapAdd|CapDrop|(IPC|PID|UTS) mode|restart policy|volume specification|mount path|port specification)"
    r"|[Cc]onflicting options|[Rr]ange of CPUs is|[Mm]inimum (memory|memoryswap|shm)|Duplicate mount point"
)
"""In Docker's refusal to create a container: its settings are wrong, whatever else is on the host (Moby, daemon/)."""
CHANGED_MEANWHILE = "another run changed it after this one was planned, so it was not changed. Run gpurack again"


def member_of(job, model):
    """(member, old) of a change: what the record says of it (files/changes.py), and its old container or None.

    Changes nothing. Raises Failure."""
    name, new = model["name"], model["action"] != "remove"
    before, user = model["from"], model["user"] if model["action"] != "remove" else model["from"]
    member = {"name": name, "user": user, "from": before, "remove": not new, "ran": False}
    member["probed"] = "cuda" in model or "dry_start" in model
    member.update(dict.fromkeys(("old_id", "old_key", "old_name", "aside", "old_policy"), None))
    member["database"], member["old_image"] = None, None
    member.update({"new_id": None, "new_key": model.get("key", name) if new else None, "policy": ""})
    dockerd, by_hand = job.dockerd(before), model.get("replaces")
    old = None
    if by_hand:
        member["from"] = by_hand["user"]
        old = note_by_hand(member, job.dockerd(by_hand["user"]), by_hand)
    elif dockerd.id_of(name):
        if model.get("old_key", dockerd.key(name)) != dockerd.key(name):
            raise Failure(CHANGED_MEANWHILE, "changed-meanwhile")
        member.update({"old_id": dockerd.id_of(name), "old_key": dockerd.key(name)})
        member.update({"old_name": name, "aside": name + PREVIOUS})
        old = note_old(member, dockerd)
    member["restore"] = list(model.get("restore", ()))
    if new:
        expected = member["old_id"] if member["from"] == user else None
        refuse_other(job.dockerd(user), name, member["new_key"], expected)
    return member, old


def note_old(member, dockerd):
    """Inspect the old container of a member; its definition can be brought back later."""
    old, found = dockerd.details(member["old_id"]), dockerd.inspect(member["old_id"])
    if not old or not found:
        raise Failure(CHANGED_MEANWHILE, "changed-meanwhile")
    member["ran"] = old["status"] in RUNS
    member["old_image"] = old["image"], found["image"]
    return dict(old, found=found)


def note_by_hand(member, dockerd, by_hand):
    """The container made by hand that a model replaces; nothing where an earlier run set it aside."""
    found = dockerd.inspect(by_hand["id"])
    if not found or found["name"] != by_hand["name"]:
        return None
    member.update({"old_id": found["id"], "old_name": found["name"], "aside": found["name"] + SET_ASIDE})
    old = note_old(member, dockerd)
    if old["vanishes"]:
        what = "{} was started with --rm, so it could not be restored after a failure. Stop it yourself"
        raise Failure(what.format(found["name"]), "container-vanishes")
    member["old_policy"] = old["policy"]
    return old


def refuse_other(dockerd, name, key, expected):
    """Raise Failure where Compose would take another container for the new one."""
    if dockerd.key(name) == key and name in dockerd.ids and dockerd.inspect(dockerd.ids[name]):
        raise Failure(CHANGED_MEANWHILE, "changed-meanwhile")
    dockerd.refuse_foreign(name, expected, key)


def create(job, batch, names, model, member, old):
    """Let Compose create a model's new container, which stays stopped.

    batch: the id of its change. names: of all that change with it.
    """
    name = model["name"]
    dockerd, project = job.dockerd(member["user"]), job.projects[member["user"]]
    code, output = project.create(member["new_key"], batch, names)
    if code:
        lines = output.splitlines() or ["exit code {}".format(code)]
        why = next((line for line in reversed(lines) if "rror" in line), lines[-1])
        kind = CertainFailure if INVALID.search(why) else Failure
        raise kind("Docker cannot create the container: {}".format(why.strip()), "container-not-created")
    found = dockerd.inspect(name)
    if not found or not dockerd.has_our_labels(found, name, member["new_key"]):
        raise Failure("Docker created the container, but lists none of this name", "container-not-created")
    member["new_id"] = found["id"]
    details = dockerd.details(found["id"])
    if not details:
        raise Failure("Docker created the container, but lists none of this name", "container-not-created")
    member["policy"] = details["policy"]
    dockerd.limited("update", "--restart", "no", found["id"])
    describe(job, model, member, old, found, details)


def describe(job, model, member, old, found, details):
    """What the record gets if the change succeeds."""
    dockerd = job.dockerd(member["user"])
    member["ports"] = details["ports"]
    member["image"] = found["image"]
    member["entry"] = {
        "kind": "model",
        "definition": model.get("definition", ""),
        "applied": record.now(),
        "service": member["new_key"],
    }
    member["entry"].update(job.origin())
    if "rollback" in model:  # the inventory's entry: until it is edited, a run would undo the rollback
        member["entry"]["rollback"] = model["rollback"]
    member["ready"] = []
    if old and member["old_policy"] is None and member["ran"]:
        label = old["found"]["labels"].get(MODEL_LABEL)
        if job.recorded_definition(member["from"], member["name"]) == digest(label):
            before = job.dockerd(member["from"])
            since = job.recorded_time(member["from"], member["name"])
            member["ready"].append(dict(starting.described(before, label, old["found"], old), **since))
    if "label" in model:
        member["ready"].append(starting.described(dockerd, model["label"], found, details, model.get("words", {})))


def message(member, error, tried, back, trouble):
    """What an admin reads about a change that failed: why, what serves now, and where its log is.

    member: None where nothing was begun. back: since when the old one serves again and how long it did not, or why it
    does not. trouble: why going back failed, or ""."""
    first, line, rest = describe_error(error).partition("\n")
    first = first.rstrip(".") + "."
    if trouble:
        what = " Going back failed: {}. The next run tries again."
        first += what.format(trouble.split("\n")[0].rstrip("."))
    elif member and member.get("lost"):
        first += " The previous `{}` cannot be restored: {}.".format(member["old_name"], member["lost"])
    elif member and member["ran"] and not tried:
        first += " The present `{}` was not stopped.".format(member["old_name"])
    elif member and isinstance(back, tuple):
        what = " The previous `{}` {} {}; it was down for {}."
        first += what.format(member["old_name"], SERVES_AGAIN, back[0], clock(back[1]))
    elif member and isinstance(back, Exception):
        what = " The previous `{}` was started again, but is not ready: {}."
        first += what.format(member["old_name"], describe_error(back).split("\n")[0].rstrip("."))
    if member and member.get("log"):
        first += " Its log: {}".format(member["log"])
    return first + line + rest


def note_failure(job, model, error, image="", serves=False, down=0):
    """Record why a new container failed, or why the start of an existing one cannot succeed.

    So the same is not tried again until something changes.

    image: its id, "" if unknown. serves: does the old one? down: seconds that it did not."""
    why = job.dockerd(model["user"]).without_secrets(describe_error(error))
    entry = {
        "at": record.now(),
        "definition": model.get("definition", ""),
        "label": model.get("label", ""),
        "image": image,
        "given": model.get("given", ""),
        "why": record.shortened(why.split("\n")[0], 300),
        "serves": serves,
        "down": down,
    }
    entry.update({"start": True} if model["action"] == "start" else {})
    try:
        record.note_failed(model["user"], model["name"], entry, "rollback" in model)
    except OSError as problem:  # a full disk
        say(model["name"], "its failure was not recorded: {}".format(describe_error(problem)))


def serves(job, model):
    """Does the present container of an entry run? False where its Docker does not say."""
    container = record.ids(model["from"]).get(model["name"])
    try:
        return bool(container) and processes.state(job.dockerd(model["from"]), container)["status"] in RUNS
    except Failure:
        return False


def tags(changes):
    """A word for each change that no other has. Of two with one name, in two Dockers, one is a removal."""
    names = [model["name"] for model in changes]
    return [
        "{}@{}".format(model["name"], model["from"])
        if model["action"] == "remove" and names.count(model["name"]) > 1
        else model["name"]
        for model in changes
    ]


def prove_ports(member, held):
    """Raise Failure where something that the change does not stop has a port of the new container.

    held: [(address, port)] of what it stops."""
    for address, port in member["ports"]:
        if not any(port == other and overlap(address, place) for place, other in held):
            why = proof.port_free(address, port)
            if why:
                raise Failure(why, "port-taken")
