"""Waits until a started model is ready, as long as it makes progress. A part of models.py.

Runs as root, on the host's own python3 (3.6 or newer, standard library only).
"""

import calendar
import contextlib
import json
import os
import re
import time
from urllib.parse import urlsplit

import asking
import kept_logs
import processes
from error_hints import error_hint
from messages import Failure, TimeIsUp, clock
from progress import Progress  # (beside this file)

PROBE_TIMEOUT = 5  # seconds for one readiness request
KEY_TIMEOUT = 10  # seconds of rejected keys before it fails; a loading server answers otherwise, or not at all
SILENCE = 120  # seconds without a byte read and without a line of its log
WINDOW = 5  # seconds between two measurements of progress
BYTES = 500000  # read within a window count as progress; a server that idles reads less
READING = 30  # seconds after the last bytes read in which the timeout is extended
LONGEST = 4 * 3600  # seconds of extension; a user's program could read without end
STEADY = 6  # seconds that a container must have run
TRACEBACK = 60  # lines of a log that are searched for a hint: a traceback is longer than what is shown


class Stuck(Failure):
    """It makes no progress; others should get their turn."""


def wait_until_ready(
    dockerd, name, container_id, url, served_name, timeout, on_gpus=True, hints=(), key=None, silence=lambda: SILENCE
):
    """Wait until the model's API answers 200 and names the model; returns the seconds that took.

    served_name: None where the answer names no model. timeout: seconds, extended while it reads bytes. on_gpus: does it
    have GPUs? hints: for error_hints.py. key: its key in Compose, by default its name; the folder of its secrets.
    silence: called at each look; returns the seconds without progress that are allowed now, None for no limit.

    Raises Failure on a timeout, on a rejected key, and at once when the container exits or restarts; Stuck without
    progress. The first line of the text has the reason, the others are the end of its log."""
    progress, delay, refused = Progress(name), 0.1, None
    path, api_key = urlsplit(url).path, dockerd.api_key(key or name)
    activity = Activity(dockerd, container_id, path)
    container = processes.Watched(dockerd, container_id)
    restarts = container.state()["restarts"]
    while True:
        # a stopped one gets no request: another process on its port would receive its key
        state = container.state()
        up = state["status"] == "running" and state["restarts"] <= restarts
        status, answer = asking.send(dockerd, url, path, None, api_key, PROBE_TIMEOUT) if up else (0, "")
        if status == 200 and (served_name is None or json.dumps(served_name) in answer):
            return progress.elapsed()
        refused = refused or time.monotonic() if status in (401, 403) else None
        if refused and time.monotonic() - refused >= KEY_TIMEOUT:
            raise Failure(
                asking.key_error(api_key, status, url) + kept_logs.quoted(dockerd, container_id), "key-rejected"
            )
        if not up:
            raise ended("while loading", dockerd, container_id, state, progress.elapsed(), on_gpus, hints)
        activity.measure(state["pid"])
        unlike = {0: "did not answer", 200: "does not name the model `{}`".format(served_name)}
        what = unlike.get(status, "returned HTTP {} instead of 200".format(status))
        late = progress.elapsed() - timeout
        if late > 0 and (late > LONGEST or not activity.reads()):
            why = "not ready after {}: {} {}.".format(clock(progress.elapsed()), url, what)
            raise unready(Failure, why, dockerd, container_id, path, on_gpus, hints)
        allowed = silence()
        if allowed is not None and activity.idle() >= allowed:
            why = "no progress for {} (no bytes read, no line in its log): {} {}."
            raise unready(Stuck, why.format(clock(allowed), url, what), dockerd, container_id, path, on_gpus, hints)
        progress.tell("loading")
        time.sleep(delay)
        delay = min(delay * 1.5, 1)


def unready(kind, why, dockerd, container_id, path, on_gpus, hints):
    """The Failure of a kind for a container that runs and does not get ready, with the hint for its log.

    path: of our own requests. The last other line counts also as `no progress: LINE`: some lines mean something only
    where nothing follows them."""
    said = kept_logs.last_lines(dockerd, container_id, TRACEBACK)
    lines = [line for line in said.splitlines() if line.strip() and path not in line]
    helps = error_hint(None, "\n".join([*lines, *("no progress: " + line for line in lines[-1:])]), hints, on_gpus)
    return kind(dockerd.without_secrets(why + helps) + kept_logs.quoted(dockerd, container_id), "not-ready")


def still_up(dockerd, name, container_id, restarts, on_gpus=True, hints=()):
    """Check that a container which has answered still runs, once it has run for STEADY seconds.

    One that dies some seconds after each start may answer in between. restarts: its restart count when it was started.
    Raises Failure, as wait_until_ready does."""
    progress = Progress(name)
    while True:
        state = processes.state(dockerd, container_id)
        if state["status"] != "running" or state["restarts"] > restarts:
            passed = max(progress.elapsed(), STEADY)
            raise ended("after it had answered", dockerd, container_id, state, passed, on_gpus, hints)
        left = STEADY - min(running_for(state["started"]), STEADY)
        if left <= 0 or progress.elapsed() >= STEADY:
            break
        time.sleep(left)
    listed = dockerd.run("ps", "--all", "--no-trunc", "--filter", "id=" + container_id, "--format", "{{.Status}}")[1]
    if listed.strip() == "Created":  # it would not come back after a restart of dockerd
        what = "it runs, but Docker could not store that and lists it as created. Is the file system of Docker's "
        raise Failure(what + "data-root full?", "container-not-started")


def ended(when, dockerd, container_id, state, seconds, on_gpus, hints):
    """The Failure for a container that exited, restarted or was removed within the last `seconds`.

    It is stopped, or it would restart without end. when: "while loading" or the like.
    """
    if state["status"] == "gone":  # it has neither exit code nor log
        return Failure("its container was removed {}, and not by gpurack".format(when), "container-removed")
    code = state["code"]
    if state["status"] in ("running", "restarting"):
        code = dockerd.last_exit(container_id, int(seconds) + 1)
    with contextlib.suppress(Failure):
        processes.stop(dockerd, container_id, 5)
    reason = state["error"] or ("crashed and was restarted" if code is None else "exit code {}".format(code))
    said = kept_logs.last_lines(dockerd, container_id, TRACEBACK)
    helps = error_hint(code, said, hints, on_gpus)
    first = " ".join("exited {} ({}).{}".format(when, reason, helps).split())
    return Failure(dockerd.without_secrets(first) + kept_logs.quoted(dockerd, container_id), "exited")


def running_for(started):
    """Seconds since a container's start, as Docker writes it (RFC 3339, UTC); 0 where that is not valid."""
    found = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", started)
    try:
        return max(time.time() - calendar.timegm(time.strptime(found.group(), "%Y-%m-%dT%H:%M:%S")), 0) if found else 0
    except (ValueError, OverflowError):
        return 0


class Activity:
    """What a loading container does: the bytes its processes read, and the lines of its log."""

    def __init__(self, dockerd, container_id, path, proc=processes.PROC):
        """path: of the readiness requests; lines of the log that have it are of our own making."""
        self.dockerd, self.container_id, self.path, self.proc = dockerd, container_id, path, proc
        self.seen, self.line = {}, None
        self.measured = self.progressed = time.monotonic()
        self.read = None

    def measure(self, main):
        """Measure, at most once in WINDOW seconds. main: the pid of its main process."""
        now = time.monotonic()
        if now - self.measured < WINDOW:
            return
        self.measured, more = now, 0
        for process in processes.of_container(self.dockerd, self.container_id, main, self.proc):
            count = bytes_read(process[0], self.proc)
            known = self.seen.setdefault(process, count)  # a loop repeats the start of a program
            more += max(count - known, 0)
            self.seen[process] = max(count, known)
        if more >= BYTES:
            self.read = self.progressed = now
            return
        line = self.newest_line()
        if line and line != self.line:
            self.line, self.progressed = line, now

    def newest_line(self):
        """The last line of its log that our own requests did not cause, with its time; "" without one."""
        try:
            words = ("logs", "--tail", "20", "--timestamps", self.container_id)
            code, output = processes.docker(self.dockerd, *words)
        except TimeIsUp:
            return ""
        lines = [] if code else [line for line in output.splitlines() if line.strip() and self.path not in line]
        return lines[-1] if lines else ""

    def idle(self):
        """Seconds since the last progress."""
        return time.monotonic() - self.progressed

    def reads(self):
        """Has it read bytes lately?"""
        return self.read is not None and time.monotonic() - self.read < READING


def bytes_read(pid, proc=processes.PROC):
    """The bytes that a process has read until now, and those it has in memory.

    They come from disks (which includes mapped files) and by calls (which includes network file systems). A mapped file
    in the page cache is read without either. proc(5), io and statm.
    """
    io = processes.read(proc, pid, "io") or ""
    counts = [int(count) for count in re.findall(r"(?m)^(?:rchar|read_bytes): (\d{1,19})$", io)]
    pages = (processes.read(proc, pid, "statm") or "").split()[1:2]
    return sum(counts) + sum(int(count) * os.sysconf("SC_PAGE_SIZE") for count in pages if count.isdigit())
