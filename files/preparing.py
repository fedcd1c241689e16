"""Brings weights, images and ollama's models to a host before a change, while all models serve. A part of models.py.

Every run begins with it, and `models.py prepare` does nothing else. No lock of the models is held, as downloads may
take hours: each download has a lock of its own (files/download.py). Containers, compose.yaml and secrets stay as they
are. A killed run leaves parts of downloads, which the next one resumes. Runs on the host's own python3 (3.6 or newer,
standard library only).
"""

import contextlib
import copy
import glob
import os
import re

import leftovers
import ollama
import record
from dockerd import Dockerd
from fetch import check_locked, lacks_weights, obtain, refuse_damaged, roots_alone
from images import lacks_image, provide
from messages import Failure, NoRoom, code_of, describe_error, say, say_error, size
from processes import state
from programs import together  # (beside this file)
from project import REJECTED, Project


def run_all(data):
    """Prepare all entries side by side; returns the number of failures.

    data: made by gpurack/plan/models/preparing.py.
    """
    failures = []

    def one(model):
        try:
            bring(Dockerd(model["user"]), model, data)
            say(model["name"], "prepared")
        except Exception as error:  # an exception in a thread would be lost
            failures.append(model["name"])
            say_error(model["name"], describe_error(error), code_of(error))

    together((one, model) for batch in data["batches"] for model in batch)
    return len(failures)


def bring(dockerd, model, data):
    """Bring what one entry of a payload lacks to its Docker, all of it at once.

    An ollama that runs and stays pulls its models now; one that is yet to start pulls them then. Raises Failure, also
    before what does not fit is fetched."""
    name = model["name"]
    weights = [wanted for wanted in model.get("fetch", ()) if lacks_weights(wanted)]
    image = needs_image(model) and lacks_image(dockerd, model)
    if weights or image:
        with own_project(dockerd, model, data) as mine, saying_what_is_unused(data):
            calls = [(obtain, name, wanted, data.get("hf_token"), True) for wanted in weights]
            calls += [(provide, mine, model, data.get("logins", {}), True)] if image else []
            for error in together(calls):
                raise error
    wanted, roots = model.get("sha256", {}), set(roots_alone([*model.get("sha256", ()), *model.get("weights", ())]))
    if any(map(lacks_weights, model.get("fetch", ()))):  # root's are in place later; others are checked now only
        wanted = {file: wanted[file] for file in wanted.keys() - roots}
    check_locked(name, wanted, model.get("again", ""), dockerd.user)
    refuse_damaged(name, [path for path in model.get("weights", ()) if path not in roots], dockerd.user)
    if model.get("action") == "pull":
        container = record.ids(dockerd.user).get(name)
        if container and state(dockerd, container)["status"] == "running":
            ollama.pull_missing(dockerd, model)


@contextlib.contextmanager
def saying_what_is_unused(data):
    """Where something does not fit, say what `gpurack prune` would free."""
    try:
        yield
    except NoRoom as error:
        count = None
        with contextlib.suppress(Exception):  # it is one more sentence of a message
            count = leftovers.freeable(data["unused"], error.folder, error.user) if "unused" in data else None
        if count is None:
            raise
        text = "{}. That would free {} there now".format(error, size(count))
        raise NoRoom(text, error.folder, error.user) from None


def needs_image(model):
    """Does an entry of a payload need its image? Jobs have no action."""
    acts = model.get("action", "run") in ("create", "recreate", "start", "run")
    return "image" in model and (acts or "digest" in model)


@contextlib.contextmanager
def own_project(dockerd, model, data):
    """Let Compose pull from a file of this entry's service alone, since a run may replace the usual one meanwhile.

    A job has such a file. Yields the daemon with it. Raises Failure where Compose rejects the service, before anything
    is downloaded.
    """
    mine = copy.copy(dockerd)
    if "compose_file" in model:
        mine.next = model["compose_file"]
        yield mine
        return
    remove_leftovers(dockerd)
    mine.next = "{}.prepare-{}-{}".format(dockerd.compose_file, os.getpid(), model["name"])
    try:
        project, blocks = Project(mine, data["projects"][dockerd.user]), data["projects"][dockerd.user]["services"]
        refusal = mine.refusal(project.assembled({model["name"]: blocks[model["name"]]}))
        if refusal and mine.refusal(project.assembled(blocks)):  # a service may name others, as in depends_on
            raise Failure(REJECTED + refusal, "service-rejected")
        yield mine
    finally:
        dockerd.silent = dockerd.silent or mine.silent
        with contextlib.suppress(OSError):
            os.unlink(mine.next)


def remove_leftovers(dockerd):
    """Remove such files of killed runs."""
    for path in glob.glob(glob.escape(dockerd.compose_file) + ".prepare-*"):
        pid = re.search(r"\.prepare-(\d+)-", path)
        if pid and not os.path.exists("/proc/" + pid.group(1)):
            with contextlib.suppress(OSError):
                os.unlink(path)
