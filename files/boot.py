"""Starts the models of compose.yaml once Docker and the GPU driver are ready. A part of models.py.

A change that a power cut interrupted is finished or undone first. One in the host's Docker and a user's is ended beside
the others, and what it concerns starts then: nothing else waits for that user's Docker. compose.yaml names what should
run, except what an admin stopped. A container is started by its id in the record; a missing one is created by Compose.

Runs on the host's own python3 (3.6 or newer, standard library only)."""

import contextlib
import os
import re
import threading
import time

import claims
import docker_restart
import record
import recovering
from changes import users_of
from compose_yaml import services_of
from docker_commands import START
from dockerd import OF_PROJECT, OF_SERVICE, USERS, Dockerd
from json_data import parsed
from locks import locked
from messages import Failure, TimeIsUp, clock, code_of, describe_error, say, say_error
from paths import CDI_LASTING, CDI_REFRESHED, MODEL_LABEL
from programs import run, together
from progress import Progress  # (beside this file)
from record import digest

DAEMON_TIMEOUT = 300  # seconds that a daemon may take to answer
DRIVER_TIMEOUT = 3300  # seconds that boot waits for the drivers; the unit's TimeoutStartSec is a little more
SMI_TIMEOUT = 300  # seconds of one nvidia-smi, which needs up to a minute where no other program has the GPUs open
NODE = r"/dev/dri/renderD[0-9]+"
MOST = 200  # containers of one Docker that are inspected without a record; a user's Docker may list any number
DEVICES = "/proc/devices"
WSL, TOGETHER = "/dev/dxg", "all"  # the device of all GPUs in WSL, and its name in CDI specs
NODES = "nvidia-modprobe -u -c 0 || nvidia-ctk system create-device-nodes --control-devices"
REFRESHING = threading.Lock()  # of CDI specs: one after the other


def boot():
    """Start the models of all daemons in parallel; users' daemons start some time after the host's own.

    Returns the number of failures."""
    calls = [(dockerd.by_hand, boot_of, dockerd) for dockerd in dockerds()]
    return min(len(side_by_side([("Docker", finish_restart), ("changes", boot_changes), *calls])), 100)


def boot_changes():
    """`boot_change` for each. Returns the names of the entries for which that failed."""
    changes = []
    with contextlib.suppress(Failure):  # of the record; what is said for each Docker
        changes = recovering.interrupted_shared()
    return side_by_side([("changes", boot_change, change) for change in changes])


def boot_change(change):
    """End an interrupted change in several Dockers, once they answer, and start what it concerns.

    Returns the names of the entries for which that failed.

    Where one of them does not answer, those of the others start as far as their GPUs are free."""
    users = sorted(users_of(change))
    daemons = [dockerd for dockerd in map(recovering.known, users) if dockerd and answers(dockerd)]
    this = lambda found: found["batch"] == change["batch"]  # noqa: E731
    unfinished = recovering.recover(this, start=False)
    entries = record.entries(change)
    wait = [(dockerd.by_hand, start_entries, dockerd, entries) for dockerd in daemons]
    failed = side_by_side(wait)
    if unfinished:  # what could not start before the GPUs were there
        unfinished = recovering.recover(this)
    return failed + tell_unfinished(unfinished)


def start_entries(dockerd, entries):
    """Start those of a Docker's entries. entries: {(user, name)}. Returns the names of those that did not start."""
    labels = wanted(dockerd)
    return start_models(dockerd, {name: labels[name] for name in labels if (dockerd.user, name) in entries})


def tell_unfinished(unfinished):
    """Name the entries whose change could not be ended. Returns their names."""
    found = {name: why for (_, name), why in sorted(unfinished.items())}
    for name, why in sorted(found.items()):
        what = "an earlier change was interrupted and cannot be undone yet: {}"
        say_error(name, what.format(why), "change-not-ended")
    return sorted(found)


def finish_restart():
    """Finish a restart of Docker that was interrupted, containers of others included; returns ["Docker"] if it cannot.

    A run that restarts Docker starts this unit too, and ends its restart by itself: hence the lock."""
    if not docker_restart.noted():
        return []
    with locked("boot"):
        lines, well = docker_restart.finish()
    for line in lines:
        say("", line) if well else say_error("Docker", line, "docker-not-restarted")
    return [] if well else ["Docker"]


def side_by_side(calls):
    """Call functions, each in a thread: (name, function, arguments…).

    Returns all that they return, and the names of those that ended with an error.
    """
    failed = []

    def guarded(name, function, *arguments):
        try:
            failed.extend(function(*arguments))
        except Exception as error:  # an exception in a thread would be lost, and the boot would appear successful
            say_error(name, describe_error(error), code_of(error))
            failed.append(name)

    together((guarded, *call) for call in calls)
    return failed


def dockerds():
    """The host's own daemon, and those of users that have a project."""
    found = [Dockerd()]
    for user in sorted(os.listdir(USERS)) if os.path.isdir(USERS) else ():
        with contextlib.suppress(Failure):  # the user no longer exists
            found += [Dockerd(user)] if os.path.exists(Dockerd(user).compose_file) else []
    return found


def boot_of(dockerd):
    """Start what is gpurack's and does not run, except what a change in several Dockers concerns (`boot_change`).

    Returns the names of those that did not start."""
    if not answers(dockerd):
        say_error(dockerd.by_hand, "does not answer", "time-is-up")
        return [dockerd.by_hand]
    alone = recovering.is_within([dockerd.user])
    unfinished, left = recovering.recover(alone, start=False), recovering.shared(dockerd.user)
    labels = wanted(dockerd)
    keep_known(dockerd, labels)
    failed = start_models(dockerd, {name: labels[name] for name in labels if name not in left})
    if unfinished:  # what could not start before the GPUs were there
        unfinished = recovering.recover(alone)
    return failed + tell_unfinished(unfinished)


def start_models(dockerd, labels):
    """Start models that do not run: those without a GPU at once, the others when the driver is there.

    labels: as `wanted` returns them. Returns the names of those that did not start."""
    models = {name: definition(label) for name, label in sorted(labels.items())}
    unreadable = [name for name in models if models[name] is None]  # their GPUs are unknown; the others start
    for name in unreadable:
        say_error(name, "cannot read its label gpurack.model; the next run recreates it", "container-renamed")
        del models[name]
    failed = start_all(dockerd, [name for name in models if not models[name].get("uuids")])
    nodes = {name: model["render_nodes"] for name, model in models.items() if "render_nodes" in model}
    late = {name: model["uuids"] for name, model in models.items() if model.get("uuids") and name not in nodes}
    by_cdi = any(models[name].get("access", "cdi") == "cdi" for name in late)
    # a GPU of one vendor that never appears keeps no model from those of the other
    failed += side_by_side(
        [
            (dockerd.by_hand, start_with_nodes, dockerd, nodes),
            (dockerd.by_hand, start_with_driver, dockerd, late, by_cdi),
        ]
    )
    for name in failed:
        say_error(name, "did not start; see {} logs {}".format(dockerd.by_hand, name), "container-not-started")
    return unreadable + failed


def answers(dockerd):
    """Whether a daemon does, within some minutes."""
    progress = Progress("boot")
    while True:
        with contextlib.suppress(Failure):
            if dockerd.run("info")[0] == 0:
                return True
        dockerd.silent = None  # one that comes up may have been asked too early
        if progress.elapsed() >= DAEMON_TIMEOUT:
            return False
        time.sleep(0.5)


def wanted(dockerd):
    """Name → the label gpurack.model of what should run: what is in compose.yaml.

    Where that cannot be read, all that is ours. Not what an admin stopped, nor what a run changes now. `ids` and `keys`
    of the daemon are these.
    """
    stopped = {*record.stopped(dockerd.user), *claims.alive(dockerd.user)}
    labels, services = labels_of(dockerd), services_of(dockerd.compose_file)
    if services is None:
        return {name: labels[name] for name in labels if name not in stopped}
    for name, (key, label) in services.items():
        if name not in labels:
            dockerd.keys[name] = key
            labels[name] = label
    return {name: labels[name] for name in labels if name in services and name not in stopped}


def keep_known(dockerd, labels):
    """Where there is no record, write what the labels say before a container is created.

    Else that one would be all that the record has, and no other one would be ours any more.

    labels: as `wanted` returns them."""
    known = (record.load() or {"containers": {}})["containers"]
    if dockerd.user in known or dockerd.ids.keys() >= labels.keys():
        return
    there = {name: label for name, label in labels.items() if name in dockerd.ids}
    record.rebuild(
        [
            (dockerd.user, name, dockerd.ids[name], "model", digest(label), dockerd.key(name))
            for name, label in there.items()
        ]
    )


def labels_of(dockerd):
    """Name → the label gpurack.model of what is ours by the host's record.

    Where there is none (the first boot after an upgrade), by Compose's labels. `ids` of the daemon are these.
    """
    entries = (record.load() or {"containers": {}})["containers"].get(dockerd.user)
    dockerd.keys = record.keys(dockerd.user)
    named = {name: entry["id"] or name for name, entry in (entries or {}).items() if entry["kind"] == "model"}
    if entries is None:
        words = ("--filter", "label=" + MODEL_LABEL, "--filter", "label={}={}".format(OF_PROJECT, dockerd.project))
        found = dockerd.must("ps", "--all", "--quiet", "--no-trunc", *words).split()
        named = {container: container for container in list(filter(record.is_id, found))[:MOST]}
    labels = {}
    for name, container in named.items():
        found = dockerd.inspect(container)
        if found and entries is None:
            name, key = found["name"], str(found["labels"].get(OF_SERVICE))
            if re.match(re.escape(name) + r"(\.\d+)?\Z", key):
                dockerd.keys[name] = key
        if found and dockerd.has_our_labels(found, name):
            dockerd.ids[name] = found["id"]
            labels[name] = found["labels"][MODEL_LABEL]
        elif found:
            what = "{} ({}) was not started: its name or labels are not those that gpurack set"
            say("boot", what.format(found["name"], found["id"][:12]))
    return labels


def definition(label):
    """What a container's label says of its model; None where it holds no definition."""
    found = parsed(label)
    if not isinstance(found, dict):
        return None
    forms = {"uuids": r"[A-Za-z0-9:./-]+", "render_nodes": NODE}  # a user may have written the label
    right = all(
        isinstance(found.get(word, []), list)
        and all(isinstance(text, str) and re.match(form + r"\Z", text) for text in found.get(word, []))
        for word, form in forms.items()
    )
    return found if right else None


def start_all(dockerd, names):
    """Start containers one by one under the lock, so that no run frees a GPU meanwhile.

    Returns those that failed. Entries of a change in several Dockers that a run works on, or that was not ended, are
    left alone.

    One that no longer exists is created by Compose."""
    failed = []
    with locked("boot", [dockerd.user]):
        claimed = recovering.shared(dockerd.user)
        for name in [name for name in names if name not in claimed]:
            try:
                status = dockerd.state_of(name)["status"]
                if status == "running":
                    continue
                if status == "gone":
                    dockerd.ids.pop(name, None)
                    dockerd.start(name, known_definition(dockerd.user, name), known_image(dockerd.user, name))
                    continue
                code, output = dockerd.run("start", dockerd.ids[name], limit=START)
            except Failure as failure:
                code, output = 1, str(failure)
            if code:
                say(name, output)
                failed.append(name)
    return failed


def known_definition(user, name):
    """The digest of what an entry's container was created from, by the record; "" if unknown."""
    entries = (record.load() or {"containers": {}})["containers"].get(user, {})
    return str(entries.get(name, {}).get("definition", ""))


def known_image(user, name):
    """Reference and id of the image of an entry's last container that was ready, by the record; "" if unknown."""
    known = (record.load() or {"ready": {}})["ready"].get(user, {}).get(name)
    newest = known[0] if isinstance(known, list) and known and isinstance(known[0], dict) else {}
    same = newest.get("definition") == known_definition(user, name)
    return (str(newest.get("image", "")), str(newest.get("id", ""))) if same else ("", "")


def start_with_nodes(dockerd, nodes):
    """Start models on AMD GPUs, each once its devices exist. nodes: name → paths. Returns those that failed."""
    progress, failed, told, missing = Progress("boot"), [], set(), nodes
    while nodes and progress.elapsed() < DRIVER_TIMEOUT:
        missing = {name: [node for node in nodes[name] if not os.path.exists(node)] for name in nodes}
        ready = [name for name in nodes if not missing[name]]
        if ready:
            failed += start_all(dockerd, ready)
            nodes = {name: nodes[name] for name in nodes if name not in ready}
        for name in sorted(set(nodes) - told):
            say(name, "waiting for {}, at most {}".format(" and ".join(missing[name]), clock(DRIVER_TIMEOUT)))
        told.update(nodes)
        if not ready:
            time.sleep(1)
    for name in nodes:
        say(name, "{} did not appear within {}".format(" and ".join(missing[name]), clock(DRIVER_TIMEOUT)))
    return failed + list(nodes)


def start_with_driver(dockerd, models, by_cdi):
    """Start models on NVIDIA GPUs once their driver is ready. models: name → its UUIDs. Returns those that failed."""
    needed = {uuid for uuids in models.values() for uuid in uuids}
    return start_all(dockerd, list(models)) if models and wait_for_driver(by_cdi, needed) else list(models)


def stale():
    """Does the spec that GPUs are taken from lack /dev/nvidia-uvm, or have a node of an earlier boot?

    Then CUDA fails in containers (error 999), or they do not start. Nothing else refreshes a spec in /etc/cdi.
    """
    text = content(CDI_REFRESHED) or content(CDI_LASTING)
    real = re.search(r"(?m)^ *(\d+) nvidia-uvm$", content(DEVICES))
    items = re.split(r"(?m)^\s*-\s|[{}]", text)
    nodes = [node for node in items if re.search(r'\bpath"?:\s*"?/dev/nvidia-uvm\b(?!-)', node)]
    found = {major for node in nodes for major in re.findall(r'\bmajor"?:\s*(\d+)', node)}
    # each boot numbers these anew
    drawing = re.findall(r'\bpath"?:\s*"?(/dev/dri/[\w.-]+)', "\n".join(one for one in items if "hostPath" not in one))
    gone = any(not os.path.exists(node) for node in drawing)
    return gone or ("/dev/nvidiactl" in text and not nodes) or bool(real and found - {real.group(1)})


def content(path):
    """The text of a file; "" where it cannot be read."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def wait_for_driver(by_cdi, needed):
    """Wait until GPUs answer and, where CDI is used, CDI lists those that are needed (UUIDs).

    Both may take minutes after Docker. A needed GPU that does not answer, or a MIG instance that is gone, keeps no
    other model waiting.

    A spec that was made before CUDA's nodes existed (toolkit 1.19.1 to 1.20.0), or at an earlier boot, is replaced,
    once: by the toolkit's unit, or directly where its conditions skip it."""
    progress, renewed = Progress("boot"), False
    while progress.elapsed() < DRIVER_TIMEOUT:
        try:
            code, output = run("nvidia-smi", "-L", limit=SMI_TIMEOUT)
        except TimeIsUp:  # a sick GPU; another one would hang as well
            say("boot", "nvidia-smi did not answer within {}".format(clock(SMI_TIMEOUT)))
            return False
        uuids = re.findall(r"UUID: ((?:GPU|MIG)-[0-9A-Za-z/-]+)", output)
        if code in (0, 14, 15) and uuids:  # 14: a damaged infoROM, and every GPU answers
            with REFRESHING:
                known = run("nvidia-ctk", "cdi", "list")[1]
                answering = {TOGETHER} if os.path.exists(WSL) else needed.intersection(uuids)
                listed = answering <= {name.partition("=")[2] for name in known.split()}
                if not by_cdi or (listed and (renewed or not stale())):
                    return True
                renewed = True
                run("sh", "-c", NODES)
                run("systemctl", "reset-failed", "nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path")
                run("systemctl", "restart", "nvidia-cdi-refresh.service")
                if stale():
                    run("nvidia-ctk", "--quiet", "cdi", "generate", "--output=" + CDI_REFRESHED)
        time.sleep(1)
    say("boot", "the GPU driver did not appear within {}".format(clock(DRIVER_TIMEOUT)))
    return False
