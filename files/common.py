"""What the parts of the models' runner share: speaking, running commands, writing files. Runs on the host's own python3
(3.6 or newer, standard library only)."""

import collections
import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time

EVERY = 5  # seconds between two signs of life
LOCK = "/run/gpurack/lock"
BUSY = "/run/gpurack/busy"


class Failure(Exception):
    """A model cannot be brought up; the text is for people."""


def say(name, text):
    """One line; several models talk at once, so each line names its model. Where nobody listens any more (pyinfra was
    killed) the work goes on."""
    line = "{}: {}\n".format(name, text) if name else text + "\n"
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(line)
        sys.stdout.flush()


def clock(seconds):
    """75 → 1:15"""
    return "{}:{:02d}".format(int(seconds) // 60, int(seconds) % 60)


def size(count):
    """Bytes for people: 6.1 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return "{:.3g} {}".format(count, unit)
        count /= 1000
    return "{:.1f} GB".format(count)


class Progress:
    """Says something every few seconds; starts quiet, so that what is quick says nothing."""

    def __init__(self, name):
        self.name, self.begun, self.last = name, time.monotonic(), time.monotonic()

    def elapsed(self):
        return time.monotonic() - self.begun

    def tell(self, text):
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            say(self.name, "{}, {}".format(text, clock(self.elapsed())))


@contextlib.contextmanager
def telling(progress, text):
    """Says every few seconds what is waited for while the block runs."""
    done = threading.Event()

    def tell():
        while not done.wait(1):
            progress.tell(text)

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run(*argv):
    """A command's (exit code, output with errors)."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def follow(argv, seen, environment=None):
    """Runs a command, tells `seen` each line of its output, and returns (exit code, its last 15 lines)."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    tail = collections.deque(maxlen=15)
    for raw in process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        if line.strip():
            tail.append(line)
            seen(line.strip())
    return process.wait(), list(tail)


def write(path, content, mode, uid=0):
    """Beside its place first, then renamed: never half a file, and never readable by others in between."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    beside = path + ".new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)  # half a file takes room that a full disk does not have
        raise OSError(error.errno, error.strerror, path) from None
    os.chmod(beside, mode)
    os.chown(beside, uid, 0)
    os.rename(beside, path)


@contextlib.contextmanager
def locked(what):
    """One run at a time on a host; who holds it is written down for the others."""
    os.makedirs(os.path.dirname(LOCK), exist_ok=True)
    with open(LOCK, "w") as lock:
        progress = Progress("")
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                progress.tell("waiting for another gpurack run on this host ({})".format(holder()))
                time.sleep(0.2)
        with open(BUSY, "w") as busy:
            busy.write("{} since {}, pid {}".format(what, time.strftime("%H:%M"), os.getpid()))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(BUSY)


def holder():
    with contextlib.suppress(OSError), open(BUSY) as busy:
        return busy.read()
    return "it does not say which"
