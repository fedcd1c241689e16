"""Starts one model or service and tests it; engines that profile memory one after another. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import threading
import time

import asking
import loading
import ollama
import probing
import processes
import record
from messages import Failure, clock, say
from phases import ANSWER, LOAD, phase
from progress import Progress  # (beside this file)
from record import digest

SEEN = ("check", "wait")  # actions that start nothing


class Lanes:
    """Whose turn it is on each GPU: an engine that profiles memory would count what another one takes meanwhile."""

    def __init__(self):
        self.changed, self.queue = threading.Condition(), []

    def join(self, uuids):
        """Queue for these GPUs; returns a ticket for the other methods."""
        ticket = object(), frozenset(uuids)
        with self.changed:
            self.queue.append(ticket)
        return ticket

    def before(self, ticket):
        """Those that are queued before a ticket for one of its GPUs."""
        return [other for other in self.queue[: self.queue.index(ticket)] if other[1] & ticket[1]]

    def wait(self, ticket, name, given_up):
        """Until it is the ticket's turn, or `given_up` returns True."""
        progress = Progress(name)
        with self.changed:
            while self.before(ticket) and not given_up():
                self.changed.wait(1)
                progress.tell("waiting for its turn on its GPU")

    def contended(self, ticket):
        """Does another one wait for a GPU of this ticket?"""
        with self.changed:
            return any(other[1] & ticket[1] for other in self.queue[self.queue.index(ticket) + 1 :])

    def leave(self, ticket):
        with self.changed:
            self.queue.remove(ticket)
            self.changed.notify_all()


def in_turn(lanes, model, start, stop, given_up=lambda: False):
    """Let a model start when it is its turn on its GPUs; returns what `start` does.

    start: called with a function that returns the seconds without progress after which it gives up, None for no limit.
    While others wait for their turn, also those that come later, one without progress is stopped (stop), the others go
    on, and it is tried once more after them."""
    ticket = lanes.join(model.get("lanes", ()))
    try:
        lanes.wait(ticket, model["name"], given_up)
        return start(lambda: loading.SILENCE if lanes.contended(ticket) else None)
    except loading.Stuck as stuck:
        first = str(stuck).split("\n")[0]
        say(model["name"], "{} It is tried once more after the others on its GPU".format(first))
        stop()
        again = lanes.join(model.get("lanes", ()))
    finally:
        lanes.leave(ticket)
    try:
        lanes.wait(again, model["name"], given_up)
        return start(lambda: None)
    finally:
        lanes.leave(again)


def until_tested(job, dockerd, model, container, key, silence):
    """Wait until a started container is ready, and test it; returns the seconds until it was ready.

    Raises Failure, and Asleep or Busy where one that was not started now sleeps or serves others.

    job: the payload. key: its key in Compose."""
    name, url, served = model["name"], model["url"], model["served_name"]
    on_gpus, hints = bool(model["uuids"]), model.get("hints", ())
    if model["action"] == "check":  # nothing is stopped, whatever comes of it
        seconds, status = 0, processes.state(dockerd, container)["status"]
        if status != "running":
            raise Failure("its container is {}".format(status), "exited")
    else:
        with phase(LOAD):
            seconds = loading.wait_until_ready(
                dockerd, name, container, url, served, model["timeout"], on_gpus, hints, key, silence
            )
    if "pull" in model:
        ollama.settle(dockerd, model, job.get("prune"))
    ask = lambda path: asking.send(dockerd, url, path, None, dockerd.api_key(key), asking.UP)  # noqa: E731
    if model["action"] in SEEN and asking.sleeps(model.get("sleeping"), ask):
        raise asking.Asleep
    runs = processes.Watched(dockerd, container).runs
    try:
        with phase(ANSWER):
            asking.smoke_test(dockerd, name, url, model.get("requests", ()), key, container, model.get("counter"), runs)
    except asking.Busy:  # it serves others
        if model["action"] in SEEN:
            raise
    if model["action"] in ("create", "recreate"):
        probing.refuse_cpu(dockerd, model, container)
    if "gateway" in model:
        asking.smoke_test_gateway(dockerd, name, url, model["gateway"], container, runs)
    return seconds


def stop_first(dockerd, model):
    """Stop the container of a model that is started again, and wait until it holds no GPU memory. Raises Failure."""
    name, uuids, container = model["name"], model["uuids"], dockerd.id_of(model["name"])
    if not container:
        raise Failure("its container no longer exists; the next run creates it", "container-removed")
    if model.get("running"):
        runs = processes.Watched(dockerd, container).runs
        asking.drain(dockerd, name, model["url"], model["running"], dockerd.key(name), runs)
    running = processes.of_container(dockerd, container) if uuids else set()
    before = processes.memory_of(running, uuids) if running else {}
    ended = processes.stop(dockerd, container)
    if uuids:
        processes.wait_for_memory(name, running | ended, uuids, before)


def bring_up(job, lanes, dockerd, model, allowed):
    """Start an existing container, restart it, or wait for one that loads or must be tested.

    Raises Failure, and leaves one that crashed stopped.

    job: the payload. allowed: called before the start, under the lock of its change; a context."""
    name, begun = model["name"], []  # begun: when a restart began to stop it

    def start(silence):
        if model["action"] == "restart":
            begun.append(time.monotonic())
            stop_first(dockerd, model)
        with allowed():
            if model["action"] == "start":
                dockerd.start(name, model.get("definition", ""))
            elif model["action"] == "restart":
                processes.start(dockerd, dockerd.ids[name])
        if name not in dockerd.ids:
            raise Failure("its container no longer exists; the next run creates it", "container-removed")
        state = processes.state(dockerd, dockerd.ids[name])
        return until_tested(job, dockerd, model, dockerd.ids[name], dockerd.key(name), silence), state

    try:
        seconds, state = in_turn(lanes, model, start, lambda: processes.stop(dockerd, dockerd.ids[name], 5))
        if model["action"] in ("start", "restart"):
            on_gpus, hints = bool(model["uuids"]), model.get("hints", ())
            loading.still_up(dockerd, name, dockerd.ids[name], state["restarts"], on_gpus, hints)
    except (asking.Asleep, asking.Busy) as untested:  # what an earlier test found stays
        why = "sleeps" if isinstance(untested, asking.Asleep) else "is busy with the requests of others"
        say(name, "{}, so it was not tested".format(why))
        return
    except Failure as failure:
        if name in dockerd.ids:
            record.note_test(dockerd.user, name, dockerd.ids[name], reason(failure))
        first, line, rest = str(failure).partition("\n")
        where = (
            "" if "See {} logs".format(dockerd.by_hand) in first else " See {} logs {}".format(dockerd.by_hand, name)
        )
        raise Failure(first + where + line + rest, failure.code) from None
    record.note_test(dockerd.user, name, dockerd.ids[name], "", state["restarts"], state.get("started"))
    ready = definition(dockerd, model, dockerd.ids[name])
    if ready:
        ready.update({"seconds": round(seconds)} if model["action"] == "start" else {})
        record.note_ready(dockerd.user, name, ready)
    if begun:
        say(name, "ready, down for {}".format(clock(time.monotonic() - begun[0])))
    else:
        image = ready["id"] if ready else None
        say(name, "answered" if model["action"] == "check" else ready_after(dockerd.user, name, image, seconds))


def ready_after(user, name, image, seconds, down=None):
    """What is said of a model that started: how long it took, beside the first start of the same image (its id).

    down: seconds for which a change left it without an answer; None for a model that did not serve before."""
    first = record.first_start(user, name, image)
    without = "" if down is None else ", down for {}".format(clock(down))
    beside = "" if first in (None, round(seconds)) else "; its image's first start took {}".format(clock(first))
    return "ready after {}{}{}".format(clock(seconds), without, beside)


def reason(failure):
    """The first line of a failure, for the record."""
    return record.shortened(str(failure).split("\n")[0], 300)


def definition(dockerd, model, container):
    """A definition that was ready, for the record; None where the payload has no label or Docker does not answer."""
    if "label" not in model:
        return None
    with contextlib.suppress(Failure):
        found, details = dockerd.inspect(container), dockerd.details(container)
        if found and details:
            return described(dockerd, model["label"], found, details, model.get("words", {}))
    return None


def described(dockerd, label, found, details, words=None):
    """A definition that was ready: its label, and its image by reference, digest and id.

    words: what the label of its entry does not have; None where unknown.
    """
    known = {} if words is None else {"words": words}
    return {
        **known,
        "at": record.now(),
        "definition": digest(label),
        "label": label,
        "image": details["image"],
        "digest": dockerd.repo_digest(found["image"]),
        "id": found["image"],
    }
