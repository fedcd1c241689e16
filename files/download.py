"""One download with curl: resumed, retried after resets, ended when it stalls, and locked. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only) and curl.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time

import locks
from locks import is_at, wait_on
from messages import Failure, clock, while_heard
from programs import die_with_parent
from progress import Progress  # (beside this file)

STALL = 60  # seconds at less than SLOWEST after which a connection counts as dead
SLOWEST = 1000  # bytes/s
TRIES = 6  # in a row without a new byte
LONGEST_PAUSE = 300  # seconds, whatever Retry-After says
BROKEN = {5, 6, 7, 16, 18, 28, 35, 52, 55, 56, 92}  # curl(1): connections that fail, end early or stall
BUSY = {408, 429, 500, 502, 503, 504}  # HTTP: a later try may succeed
CANNOT_RESUME, CANNOT_WRITE, HTTP_ERROR = 33, 23, 22  # curl(1)
TURNS = threading.Lock()
SLOTS = {}  # number of downloads at once → semaphore


def curl(url, *options):
    """The argv of a request. Raises Failure for an invalid URL.

    No configuration file is read, the URL is not a pattern, and only http and https are allowed, also for redirects.
    """
    if not url.isprintable() or " " in url:
        raise Failure("{!r} is not a valid URL, so nothing was fetched. Check `mirrors`".format(url), "download-failed")
    protocols = "=http,https"
    return ["curl", "-q", "-g", "--proto", protocols, "--proto-redir", protocols, *options, "--url", url]


def with_token(token):
    """curl's configuration for standard input, so that the token is in no process's arguments.

    A newline would start another option, so a token with one raises Failure."""
    if not (token or "").isprintable():
        raise Failure("`hf_token` contains a control character. Check its source", "token-unusable")
    escaped = re.sub(r'(["\\])', r"\\\1", token or "")
    return 'header = "Authorization: Bearer {}"\n'.format(escaped).encode() if token else b""


# --- locked ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(name, path, what=None, heard=True):
    """Hold the download of PATH: no other run, and no other host that shares the folder, writes to its parts.

    The lock is a file beside it with the holder's name, which is removed at the end. what: what is downloaded, for
    those that wait, by default the path. heard: does waiting end where the connection is lost, since nothing was
    changed yet? Yields whether another run held it first. Raises Failure where this host may not write there, and after
    LOCK_LIMIT seconds."""
    place, progress, waited = path + ".lock", Progress(name), False
    while True:
        try:
            lock = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+")
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                what = "root cannot write to {} ({}). On NFS, `root_squash` does that: export it with "
                what += "`no_root_squash`, or set `weights_dir` to a folder of this host"
                raise Failure(
                    what.format(os.path.dirname(path), error.strerror), "weights-folder-not-writable"
                ) from None
            raise
        with lock:
            if not taken(lock):
                waited, who = True, ""
                with contextlib.suppress(OSError):
                    who = lock.read(200).strip()
                wait_on(progress, "waiting for the download of {} by {}".format(what or path, who), heard)
                time.sleep(0.2)
                continue
            if not is_at(lock, place):  # its holder removed it meanwhile
                continue
            lock.truncate(0)
            lock.write("{}, pid {}, since {}\n".format(socket.gethostname(), os.getpid(), time.strftime("%H:%M")))
            lock.flush()
            try:
                yield waited
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(place)
            return


def is_held(path):
    """Does another run download to PATH now? One that was killed leaves the file of its lock."""
    with contextlib.suppress(OSError), open(path + ".lock", "r+") as lock:
        return not taken(lock)
    return False


def lock_place(kind, *what):
    """The path beside which the lock is of a download that has no path of its own."""
    folder = os.path.dirname(locks.LOCK)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return os.path.join(folder, "{}-{}".format(kind, hashlib.sha256(" ".join(what).encode()).hexdigest()[:16]))


def taken(lock):
    """Take the lock of an open file; False where another process holds it.

    A file system without locks counts as free.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


@contextlib.contextmanager
def turn(name, connections):
    """Wait until fewer than this many downloads run. None: no limit."""
    if not connections:
        yield
        return
    with TURNS:
        slot = SLOTS.setdefault(connections, threading.Semaphore(connections))
    progress = Progress(name)
    while not slot.acquire(timeout=1):
        wait_on(progress, "waiting for other downloads (`download.connections`: {})".format(connections))
    try:
        yield
    finally:
        slot.release()


@contextlib.contextmanager
def more_turns(connections, most):
    """Take up to this many further turns that are free now, for more connections of one file; yields how many."""
    slot, taken_now = SLOTS.get(connections), 0
    while slot and taken_now < most and slot.acquire(blocking=False):
        taken_now += 1
    try:
        yield taken_now if slot else most
    finally:
        for _ in range(taken_now):
            slot.release()


# --- fetched ---------------------------------------------------------------------------------------------------------


class Try:
    """What one run of curl said. status: the last HTTP status, 0 if none came. headers: those of the last answer."""

    def __init__(self, code, headers, error):
        blocks = [block for block in re.split(r"\r?\n\r?\n", headers) if block.startswith("HTTP/")]
        self.code, self.error, self.headers = code, error, blocks[-1] if blocks else ""
        found = re.match(r"HTTP/\S+ (\d{3})", self.headers)
        self.status = int(found.group(1)) if found else 0

    def passes(self):
        """May another try succeed?"""
        return self.status in BUSY if self.code == HTTP_ERROR else self.code in BROKEN

    def header(self, name):
        found = re.search(r"(?im)^" + re.escape(name) + r":\s*(.*?)\s*$", self.headers)
        return found.group(1) if found else ""


class Source:
    """Where a file comes from, and how.

    rate: bytes/s at most, of each connection. connections: of this host at once, None for no limit. With a token no
    redirect is followed, because curl would send the token along.
    """

    def __init__(self, url, token=None, rate=None, connections=None):
        self.url, self.token, self.rate, self.connections = url, token, rate, connections

    def curl(self, *options):
        """The argv of one request for the file. It ends when it stalls."""
        limits = ["--connect-timeout", "30", "--speed-limit", str(SLOWEST), "--speed-time", str(STALL)]
        limits += ["--limit-rate", str(self.rate)] if self.rate else []
        return curl(self.url, *([] if self.token else ["-L"]), "-K", "-", "-sSfN", *limits, *options)


def in_one(source, growing, progress, tell):
    """Download the file that `growing` (of hashes.py) follows by one connection, resumed. Raises Failure.

    tell: called every second."""
    part, failures, anew = growing.path, 0, False
    while True:
        had = length(part)
        done = attempt(source, tell, None, "-C", "-", "-o", part)
        if not done.code:
            return refuse_page(growing, source.url)
        if done.code == CANNOT_WRITE:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise no_space(part)
        if done.status == 416 and done.header("content-range") == "bytes */{}".format(had):
            return refuse_page(growing, source.url)  # it was complete
        if had and not anew and (done.code == CANNOT_RESUME or done.status == 416):
            os.unlink(part)
            growing.restart()
            anew = True
            continue
        failures = 1 if length(part) > had else failures + 1
        if failures >= TRIES or not done.passes():
            raise Failure(why_not(source.url, done), "download-failed")
        wait_for(progress, pause(done, failures), done)


def no_space(part):
    return Failure(
        "no space left in {} while fetching weights. Free some space there".format(os.path.dirname(part)), "no-room"
    )


def attempt(source, tell, body, *options):
    """Run curl once; returns a Try.

    tell: called every second; what it raises ends curl. body: the open file that the answer's body goes to, None if an
    option names it.
    """
    given = with_token(source.token)
    with tempfile.TemporaryFile() as headers:
        process = subprocess.Popen(
            source.curl("-D", "/dev/fd/{}".format(headers.fileno()), *options),
            stdin=subprocess.PIPE,
            stdout=body or subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(headers.fileno(),),
            preexec_fn=die_with_parent,
        )
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(given)
        while True:
            try:
                process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                try:
                    tell()
                    while_heard()
                except BaseException:
                    process.kill()
                    process.wait()
                    process.stderr.close()
                    raise
        headers.seek(0)
        text = headers.read(1 << 20).decode("utf-8", "replace")
        with process.stderr:
            error = process.stderr.read().decode("utf-8", "replace").strip()
    return Try(process.returncode, text, error)


def length(part):
    """Bytes of a file; 0 where it is missing."""
    with contextlib.suppress(OSError):
        return os.path.getsize(part)
    return 0


def pause(done, failures):
    """Seconds until the next try: what the server asks for, else twice as long each time."""
    asked = done.header("retry-after")
    wanted = int(asked) if re.match(r"\d{1,6}$", asked) else 2 ** (failures - 1)
    return min(wanted, LONGEST_PAUSE)


def wait_for(progress, seconds, done, rest=time.sleep):
    """Wait with progress messages that say why. rest: waits for some seconds."""
    why = "HTTP {}".format(done.status) if done.code == HTTP_ERROR else done.error.split("\n")[-1]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        left = end - time.monotonic()
        progress.tell("fetching weights: {}; the next try in {}".format(why, clock(left)))
        while_heard()
        rest(min(1, max(0, left)))


def why_not(url, done):
    """The message for a download that failed for good, without what follows a URL's `?`: it may be a signature."""
    plain = url.partition("?")[0]
    if done.code != HTTP_ERROR:
        return "cannot fetch weights from {}: {}. The next run resumes.".format(plain, done.error)
    hints = {
        401: "It wants a login, which gpurack does not send: use another address, or copy the file.",
        403: "The server denies it, or a signed address has expired.",
        404: "Nothing is at this address. Correct it.",
        429: "Too many requests: run again later, or set `download.connections` to 1.",
    }
    hint = hints.get(done.status, "Try it on the host: curl -L {}".format(plain))
    return "cannot fetch weights from {}: {}. {}".format(plain, done.error, hint)


def refuse_page(growing, url):
    """Raise Failure, and delete it, if a web page came in place of weights."""
    with open(growing.path, "rb") as stream:
        begin = stream.read(4096)
    page = re.match(rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html)", begin, re.IGNORECASE)
    if not page:
        return
    os.unlink(growing.path)
    growing.restart()
    title = re.search(rb"<title[^>]*>\s*(.*?)\s*</title>", begin, re.IGNORECASE | re.DOTALL)
    named = ' ("{}")'.format(" ".join(title.group(1).decode("utf-8", "replace").split())[:80]) if title else ""
    what = "{} answered with a web page{}, no weights. It may want a login, or the address is of a page about the file"
    what += ": on the Hub, a file's own address has /resolve/ and not /blob/"
    raise Failure(what.format(url.partition("?")[0], named), "download-failed")
