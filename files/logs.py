"""Prints the log of a model, without known secrets. Sent to the host with what it imports (gpurack/commands/logs.py).

gpurack puts `JOB = "…"` (JSON) in front: {"name", "user": whose Docker has it ("" for the host's own), "file": path of
a kept log, or "" for the log of its container, "lines": how many of the end, "follow": go on with new lines until the
reader or the container ends}. Exit code 1, and the reason as the last line of the errors. Runs on a host's own python3
(3.6 or newer, standard library only).
"""

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time

import record
from dockerd import OF_SERVICE, Dockerd
from kept_logs import PATIENCE, plain
from messages import UNSEEN, Failure, describe_error  # (beside this file)

LONGEST = 65536  # bytes of a line that are shown at once
KINDS = {
    "failed": "no container of {} failed within the last 14 days. A change may also fail before its container starts: "
    "see gpurack history",
    "previous": "{} was not replaced within the last 14 days",
}


def main(job):
    try:
        dockerd = Dockerd(job["user"])
        if job["file"]:
            show_file(dockerd, job)
        else:
            show_container(dockerd, job)
    except BrokenPipeError:  # its reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Failure, OSError) as error:
        sys.stderr.write("{}\n".format(UNSEEN.sub("\ufffd", describe_error(error))))
        return 1
    return 0


def put(dockerd, lines):
    """Print whole lines of a log."""
    text = plain(dockerd.without_secrets(lines.decode("utf-8", "replace")))
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


def show_file(dockerd, job):
    """Print the end of a kept log. Raises Failure where none is kept."""
    try:
        with open(job["file"], "rb") as stream:
            kept = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(os.fstat(stream.fileno()).st_mtime))
            lines = stream.read().splitlines(True)
    except FileNotFoundError:
        raise Failure(missing(job), "log-not-kept") from None
    sys.stderr.write("kept {}\n".format(kept))
    put(dockerd, b"".join(lines[max(len(lines) - job["lines"], 0) :]))


def missing(job):
    """Why a log is not there."""
    kind = job["file"].split(".")[-2]
    if kind not in KINDS:
        return "no output of {} is kept: it has not run yet".format(job["name"])
    return "no log is kept: " + KINDS[kind].format(job["name"])


def container_of(dockerd, name):
    """The id of a model's container: of the new one while a change is tried. Raises Failure where it has none."""
    known = record.load() or {}
    changes = [member for change in known.get("replacing", []) for member in change["members"]]
    tried = [one.get("new_id") for one in changes if (one["name"], one["user"]) == (name, dockerd.user)]
    entry = known.get("containers", {}).get(dockerd.user, {}).get(name, {})
    for container in (*tried, entry.get("id")):
        if container and dockerd.inspect(container):
            return container
    found = dockerd.inspect(name)
    if found and dockerd.has_our_labels(found, name, found["labels"].get(OF_SERVICE)):
        return found["id"]
    raise Failure(
        "{} has no container on this host. Apply the inventory, or see --failed".format(name), "container-removed"
    )


def show_container(dockerd, job):
    """Print the log of a model's container. Raises Failure where it has none, or where Docker does not give it."""
    words = ["logs", "--tail", str(job["lines"])] + (["--follow"] if job["follow"] else [])
    container = container_of(dockerd, job["name"])
    child = subprocess.Popen(
        dockerd.docker(*words, container),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        relay(dockerd, child, None if job["follow"] else time.monotonic() + PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.returncode > 0:
        raise Failure("docker logs failed with exit code {}".format(child.returncode), "docker-command-failed")
    if job["follow"]:
        sys.stderr.write("the log ended: the container stopped\n")


def relay(dockerd, child, until):
    """Print the output of a program until it ends, or until its reader ends. until: when it must have ended.

    Only whole lines are printed: half a key would not be known as one."""
    pipe, reader, rest = child.stdout.fileno(), sys.stdout.fileno(), b""
    waits = select.poll()
    waits.register(pipe, select.POLLIN)
    if not stat.S_ISREG(os.fstat(reader).st_mode):
        waits.register(reader, 0)  # reports only that its reader has ended
    while True:
        ready = dict(waits.poll(1000))
        if reader in ready:
            return
        if until and time.monotonic() > until:  # also while it prints: a user's Docker may do so without end
            raise Failure("docker logs did not end within {} s".format(PATIENCE), "time-is-up")
        if pipe in ready:
            piece = os.read(pipe, LONGEST)
            whole, newline, last = (rest + piece).rpartition(b"\n")
            rest = last
            if not piece or len(rest) > LONGEST:
                whole, newline, rest = whole + newline + rest, b"", b""
            if whole:
                put(dockerd, whole + (newline or b"\n"))
            if not piece:
                child.wait()
                return


if __name__ == "__main__":
    sys.exit(main(json.loads(JOB)))  # noqa: F821 - put in front by gpurack
