"""Shared by the parts of the models' runner: messages, commands, files, locks.

Runs on the host's own python3 (3.6 or newer, standard library only)."""

import collections
import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import os
import pwd
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time

from paths import BUSY, LOCK, of_user  # (beside this file)

os.umask(0o022)  # root's may be 077: folders above ours, such as /usr/local/libexec, are for everyone
EVERY = 5  # seconds between two progress messages
LONGEST = 20000  # characters of a message
UNKNOWN = "unknown"
QUOTED = "    | "  # before each further line of a message (gpurack/operations/report.py: reasons_of)
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal or the direction of text, and further line separators of Unicode."""
DIGITS = 40  # of an integer
LARGEST = 16 * 2**20  # bytes of output that are kept of a program
LIBC = ctypes.CDLL(None)  # before any thread forks
LIMIT = 600  # seconds that a program may take if its caller names no limit
LOCK_LIMIT = 24 * 3600  # seconds to wait for another run: its download or job may take hours
UNHEARD = threading.Event()  # set once the output is closed
CODES = {}  # name → the code of what failed, until `say_codes`
SHOWN = threading.local()  # has `text` while somebody else prints what this thread waits for
WSL = "/usr/lib/wsl/lib"  # has nvidia-smi there, and is not in the PATH of services
if os.path.isdir(WSL):
    os.environ["PATH"] = "{}:{}".format(os.environ.get("PATH", ""), WSL)


class Failure(Exception):
    """An entry cannot be started or changed.

    The text is shown to the admin. code: its kind, one of gpurack/spec/step_codes.py.
    """

    code = "step-failed"

    def __init__(self, text="", code=""):
        super().__init__(text)
        self.code = code or self.code


class CertainFailure(Failure):
    """A new container fails each time, until its entry, its image, its weights or the driver change.

    The record keeps it, so that later runs do not try the same again (gpurack/plan/models/failures.py).
    """


class NoRoom(Failure):
    """Something does not fit on a file system, and nothing was fetched. folder: on it. user: in whose Docker."""

    code = "no-room"

    def __init__(self, text, folder="", user=""):
        super().__init__(text)
        self.folder, self.user = folder, user


class TimeIsUp(Failure):
    """A program exceeded its time limit and was killed. The text names both."""

    code = "time-is-up"


def say(name, text):
    """Print one message, prefixed with the entry's name because several entries print at once.

    Text of programs and answers is data: control characters are replaced, further lines are quoted, so that none is
    read as a message of gpurack, and what is longer than LONGEST is cut. A closed output (pyinfra was killed, the
    connection lost) is remembered, and the work continues, but for what `while_heard` guards."""
    text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    first, *more = UNSEEN.sub("\ufffd", text).rstrip("\n").split("\n")
    lines = ["{}: {}".format(name, first) if name else first]
    lines += [line if line.startswith(QUOTED) else QUOTED + line for line in more]
    try:
        sys.stdout.buffer.write(("\n".join(lines) + "\n").encode("utf-8"))
        sys.stdout.flush()
    except BrokenPipeError:
        UNHEARD.set()


def while_heard():
    """Raise Failure where the connection was lost.

    For what changes nothing and is resumed by the next run: pulls, downloads, builds, and waiting before a change. One
    that has begun is finished or undone.
    """
    if UNHEARD.is_set():
        raise Failure("the connection was lost. The next run resumes", "connection-lost")


def parsed(text):
    """JSON as data. None where it is invalid, nested too deeply, or holds an integer of more than DIGITS digits."""
    try:
        return json.loads(text, parse_int=integer)
    except (ValueError, RecursionError):
        return None


def integer(digits):
    """An integer of JSON. Raises ValueError for a long one: before 3.11, Python needs minutes for a million digits."""
    if len(digits) > DIGITS:
        raise ValueError("an integer of {} digits".format(len(digits)))
    return int(digits)


def describe_error(error):
    """An error as a sentence; an unexpected one with its type. One of the system is `PATH: No space left on device`."""
    if isinstance(error, OSError) and error.strerror:
        return "{}: {}".format(error.filename, error.strerror) if error.filename else error.strerror
    return str(error) if isinstance(error, (Failure, OSError)) else "{}: {}".format(type(error).__name__, error)


def code_of(error):
    """The code of an error, for `say_error`."""
    if isinstance(error, Failure):
        return error.code
    return "host-file-error" if isinstance(error, OSError) else "runner-error"


def say_error(name, why, code):
    """Print that an entry, or something else with a name, failed."""
    CODES[name] = code
    say("", "error {}: {}".format(name, why))


def say_codes():
    """Print the codes of all failures, as gpurack/operations/run_state.py reads them. The end of a run."""
    if CODES:
        say("", "codes: " + ", ".join("{} {}".format(*each) for each in sorted(CODES.items())))
        CODES.clear()


def clock(seconds):
    """7 → `7 s`, 75 → `1 min 15 s`, 3900 → `1 h 5 min`"""
    whole = int(seconds)
    if whole < 60:
        return "{} s".format(whole)
    if whole < 3600:
        return "{} min {} s".format(whole // 60, whole % 60)
    return "{} h {} min".format(whole // 3600, whole % 3600 // 60)


def rounded(seconds):
    """A limit as text: `30 s`, `10 min`, `16 h`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return "{:g} {}".format(round(seconds / length, 1), unit)
    return "{:g} s".format(round(seconds, 1))


def size(count):
    """Bytes as text, e.g. `6.1 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return "{:.3g} {}".format(count, unit)
        count /= 1000
    return "{:.1f} GB".format(count)


class Progress:
    """Prints a message at most every EVERY seconds; a quick step prints none."""

    def __init__(self, name):
        self.name, self.begun, self.last = name, time.monotonic(), time.monotonic()

    def elapsed(self):
        return time.monotonic() - self.begun

    def is_due(self):
        return time.monotonic() - self.last >= EVERY

    def tell(self, text):
        if self.is_due():
            self.last = time.monotonic()
            say(self.name, "{}, {}".format(text, clock(self.elapsed())))


class Speed:
    """Bytes/s of the last SECONDS, from counts of bytes that grow."""

    SECONDS = 15

    def __init__(self, count=0):
        self.seen = collections.deque([(time.monotonic(), count)])

    def at(self, count):
        """The speed now; 0 at once after the beginning."""
        now = time.monotonic()
        self.seen.append((now, count))
        while now - self.seen[0][0] > self.SECONDS and len(self.seen) > 2:
            self.seen.popleft()
        begun, first = self.seen[0]
        return max(0, count - first) / (now - begun) if now > begun else 0


def reading(progress, what, size_now):
    """A function that shows how much of a file was read: `what, 3.1 GB of 5.0 GB, 900 MB/s, 0:02 left`.

    size_now: a function that returns the file's size, asked only where there is something to show."""
    speed = Speed()

    def tell(done):
        if not progress.is_due():
            return
        rate, total = speed.at(done), 0
        with contextlib.suppress(OSError):  # on NFS, root may not see it
            total = size_now()
        of = " of {}".format(size(total)) if total else ""
        left = ", {} left".format(clock((total - done) / rate)) if rate and total > done else ""
        progress.tell("{}, {}{}, {}/s{}".format(what, size(done), of, size(rate), left))

    return tell


@contextlib.contextmanager
def show_progress(progress, text):
    """Print every few seconds what is waited for while the block runs."""
    done, SHOWN.text = threading.Event(), text

    def tell():
        while not done.wait(1):
            progress.tell(text)

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        SHOWN.text = ""
        done.set()
        thread.join()


def together(calls):
    """Call functions, each in a thread: (function, arguments…). Returns the errors that they ended with."""
    errors = []

    def guarded(function, *arguments):
        try:
            function(*arguments)
        except Exception as error:  # an exception in a thread would be lost
            errors.append(error if isinstance(error, Failure) else Failure(describe_error(error), code_of(error)))

    threads = [threading.Thread(target=guarded, args=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def die_with_parent():
    """In a child, before its program starts: it is killed when the thread that started it ends.

    So it also ends by kill -9 of this program. What it worked on is then the next run's.
    """
    LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Child:
    """A running program, which dies with this one. Its standard error is part of its output.

    limit: seconds that it may take altogether. silence: seconds without output, None for no limit of its own. Every
    program has a limit: it may hang, print without end, or leave a child that keeps its output open. So it gets its own
    session, which is killed as a whole. what: the program, for messages. text, source: its standard input, as text or
    as a file. apart: its standard error is not part of its output; after that, `errors` has as much of it as a pipe
    holds. resumed: does it end when the connection is lost?

    While it prints nothing for some seconds, a message says what is waited for."""

    def __init__(
        self,
        argv,
        limit=LIMIT,
        silence=None,
        environment=None,
        text=None,
        what="",
        source=None,
        apart=False,
        resumed=False,
    ):
        self.limit, self.silence, self.code, self.errors = limit, silence or limit, None, ""
        self.resumed = resumed
        self.what, self.progress = what or " ".join(argv[:2]), Progress("")
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=(source or subprocess.DEVNULL) if text is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if apart else subprocess.STDOUT if text is None else subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except FileNotFoundError:
            raise Failure("{} is not installed on this host".format(argv[0]), "program-missing") from None
        if text is not None:  # short, so it fits into the pipe even when nothing reads it
            with contextlib.suppress(BrokenPipeError), self.process.stdin as stream:
                stream.write(text.encode("utf-8"))

    def output(self):
        """Yield its output piece by piece; afterwards `code` is set. Raises TimeIsUp."""
        begun = heard = time.monotonic()
        pipe = self.process.stdout.fileno()
        try:
            ended = False
            while True:
                if select.select([pipe], [], [], 0 if ended else 0.5)[0]:
                    piece = os.read(pipe, 65536)
                    if not piece:
                        break
                    heard = self.progress.last = time.monotonic()
                    yield piece
                elif ended:  # a child of it keeps the output open
                    break
                else:
                    ended = self.process.poll() is not None  # what it printed until then is read once more
                self.check(begun, heard)
            while self.process.poll() is None:  # it closed its output and still runs
                self.check(begun, heard)
                select.select([], [], [], 0.005)
            self.code = self.process.returncode
        finally:
            self.end()

    def check(self, begun, heard):
        now = time.monotonic()
        if now - begun > self.limit:
            raise TimeIsUp("{} gave no answer within {}".format(self.what, rounded(self.limit)))
        if now - heard > self.silence:
            raise TimeIsUp("{} printed nothing for {}".format(self.what, rounded(self.silence)))
        if not getattr(SHOWN, "text", ""):
            self.progress.tell("waiting for {}".format(self.what))
        if self.resumed:
            while_heard()

    def end(self):
        """Kill it, whatever its state. One that cannot be killed (it waits for a disk) is left running."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.stdout.close()
        if self.process.stderr:
            with self.process.stderr as stream, contextlib.suppress(BlockingIOError):
                os.set_blocking(stream.fileno(), False)  # a child of it may keep it open
                self.errors = os.read(stream.fileno(), 65536).decode("utf-8", "replace")


def run(*argv, **options):
    """Run a command; returns (exit code, output with errors), of which LARGEST bytes are kept.

    options: as for Child.
    """
    child, kept = Child(argv, **options), []
    for piece in child.output():
        if sum(map(len, kept)) < LARGEST:
            kept.append(piece)
    return child.code, b"".join(kept).decode("utf-8", "replace").strip()


def follow(argv, seen, environment=None, **options):
    """Run a command and call `seen` with each line of its output; returns (exit code, last 15 lines).

    options: as for Child.
    """
    child, rest = Child(argv, environment=environment, **options), b""
    tail = collections.deque(maxlen=15)
    for piece in child.output():
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > 65536:
            whole, rest = [*whole, rest], b""
        for raw in whole:
            handle_line(raw, tail, seen)
    handle_line(rest, tail, seen)
    return child.code, list(tail)


def handle_line(raw, tail, seen):
    line = raw.decode("utf-8", "replace").rstrip()
    if line.strip():
        tail.append(line)
        seen(line.strip())


def write(path, content, mode, uid=0, reader=None):
    """Replace a file atomically; it is never readable by others in between.

    reader: the uid of one further user who may read it. An ACL grants that, because a group may have more members."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    beside = path + ".new"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(beside, mode)
        os.chown(beside, uid, 0)
        if reader is not None:
            grant_read(beside, reader)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)  # frees the space on a full disk
        raise OSError(error.errno, error.strerror, path) from None
    os.rename(beside, path)
    sync(folder)


def put_in_place(beside, path):
    """Rename a file or folder to PATH.

    It is on disk before it has its name, and the name before what comes next: a power cut leaves the old one or the
    whole new one. Files in a folder are on disk already.
    """
    sync(beside)
    os.rename(beside, path)
    sync(os.path.dirname(path))


def sync(path):
    """Make a file's content, or what was renamed in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def grant_read(path, uid):
    """Let one user read a file of root's, like `setfacl -m u:UID:r`, which a host may lack.

    Format: Linux, posix_acl_xattr.h. The mask is what `stat` shows as the group's rights. Raises OSError."""
    nobody = 0xFFFFFFFF
    entries = ((0x01, 6, nobody), (0x02, 4, uid), (0x04, 0, nobody), (0x10, 4, nobody), (0x20, 0, nobody))
    access = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", access)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        raise OSError(
            error.errno, "its file system has no ACLs, which gpurack needs to let one user read this file"
        ) from None


@contextlib.contextmanager
def locked(what, users=("",), heard=False):
    """Hold the locks of these users' Dockers ("" is the host's own).

    It waits for one of them while it holds none: another run may need hours in a user's Docker, which must keep no run
    from the host's. All are tried in the same order, so that of two runs one always gets on. The file beside each lock
    says which run holds it. what: the name of this run in that file. heard: nothing was changed yet, so raise Failure
    where the connection was lost: else the change would be made hours later, when nobody expects it. Raises Failure
    after LOCK_LIMIT seconds."""
    progress = Progress("")
    with contextlib.ExitStack() as held:
        while True:
            busy = next((user for user in sorted(users) if not take(of_user(LOCK, user), held)), None)
            if busy is None:
                break
            held.close()
            with alone(of_user(LOCK, busy), busy, heard, progress):
                pass
        for user in sorted(users):
            path = of_user(BUSY, user)
            with open(path, "w") as stream:
                stream.write("{} since {}, pid {}".format(what, time.strftime("%H:%M"), os.getpid()))
            held.callback(forget, path)
        if heard:  # it may have been lost before, say while this run waited to undo another one's change
            while_heard()
        yield


@contextlib.contextmanager
def alone(path, user="", heard=False, progress=None):
    """Hold a lock. Only root can open it, and no started program inherits it (Python's files are closed on exec).

    user: whose Docker it is for; named in the message while waiting. heard: as for `locked`. progress: of a wait that
    began before. Raises Failure after LOCK_LIMIT seconds.

    A process of another user may still hold it: it opened the file when an older version allowed that, or inherited it
    from a program of an older version. Such a process must not block runs until the next reboot, and it cannot always
    be ended (it may be a user's dockerd). So the lock becomes a new file with the same name, which only root can open.
    Two runs at once remain impossible: every run checks that its locked file still has the name, and the file is not
    replaced while another process of root has it open, because an older version may wait for it without this check."""
    progress, inspected = progress or Progress(""), 0
    with contextlib.ExitStack() as held:
        while not take(path, held):
            if time.monotonic() - inspected >= 1:
                inspected = time.monotonic()
                pids = replace_if_strange(path)
            wait_on(progress, waiting_for(path, pids, user), heard)
            time.sleep(0.05)
        yield


def wait_on(progress, what, heard=True):
    """Say what a lock is waited for. Raises Failure after LOCK_LIMIT seconds, and where nobody hears it any more.

    heard: as for `locked`.
    """
    progress.tell(what)
    if progress.elapsed() > LOCK_LIMIT:
        raise TimeIsUp("no end in {}: {}".format(rounded(LOCK_LIMIT), what))
    if heard:
        while_heard()


def take(path, held):
    """Take a lock if it is free, until `held` (an ExitStack) is closed. Returns whether it was."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.chmod(folder, 0o700)  # older versions made it with 0755
    with contextlib.ExitStack() as opened:
        lock = opened.enter_context(open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w"))
        if not (is_taken(lock) and is_at(lock, path)):
            return False
        os.fchmod(lock.fileno(), 0o600)  # as the folder
        held.enter_context(opened.pop_all())
    return True


def is_taken(lock):
    """Take the lock of an open file; False where it is held."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_held(path):
    """Does a process, or another part of this one, hold a lock? Shared, so that two that ask do not see each other."""
    with contextlib.suppress(FileNotFoundError), open(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def is_at(lock, path):
    """Is an open file the one at a path?"""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def replace_if_strange(path):
    """Replace a lock that is held by processes of other users only (see `alone`); returns the holders' process ids."""
    folder = os.path.dirname(path)
    with open(os.open(os.path.join(folder, "replacing"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as mutex:
        alone_here = is_taken(mutex)  # else another run does this just now
        found = openers(path)
        pids = [pid for pid, holds in found if holds]
        if pids and alone_here and not any(is_root(pid) for pid, _ in found):
            new = os.path.join(folder, "new-lock")
            os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
            os.rename(new, path)
            say("", "{} was held by {}, so it was replaced".format(path, " and ".join(map(describe_process, pids))))
    return pids


def openers(path):
    """[(process id, does it hold a lock of it?)] of the other processes that have a file open.

    One that holds the lock, also by inheritance, is found by the file's number, as it may see other paths: proc(5),
    fdinfo.
    """
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return []
    number = (os.major(there.st_dev), os.minor(there.st_dev), there.st_ino)
    lock = re.compile(r"FLOCK +ADVISORY +(READ|WRITE) .* {:02x}:{:02x}:{} ".format(*number))
    found = {}
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        pid = link.split("/")[2]
        with contextlib.suppress(OSError):
            place = os.readlink(link)
            if os.path.basename(place) == os.path.basename(path) and pid != str(os.getpid()):
                with open(
                    link.replace("/fd/", "/fdinfo/"), errors="replace"
                ) as stream:  # a dma-buf's name is any bytes
                    holds = lock.search(stream.read()) is not None
                if holds or place == path:
                    found[pid] = holds or found.get(pid, False)
    return sorted(found.items())


def waiting_for(path, pids, user):
    """The message while waiting for a lock. pids: the processes that hold it."""
    strangers = [pid for pid in pids if not is_root(pid)]
    if strangers:
        what = "waiting for {}, which holds {} and is not a gpurack run. End it: kill {}"
        return what.format(" and ".join(map(describe_process, strangers)), path, " ".join(strangers))
    if not pids:  # `openers` leaves this process out
        return "waiting for other changes of this run"
    known = holder(user)
    who = " and ".join(map(describe_process, pids)) if known == UNKNOWN else known
    return "waiting for another gpurack run on this host ({})".format(who)


def is_root(pid):
    """Is a process root's, under all its user ids? One that a user started and that raised itself is not."""
    with contextlib.suppress(OSError), open("/proc/{}/status".format(pid)) as stream:
        return re.search(r"(?m)^Uid:(\s+0){4}$", stream.read()) is not None
    return False


def describe_process(pid):
    """A process as text. Its command line is set by the process itself."""
    command, user = "", "unknown"
    with contextlib.suppress(OSError), open("/proc/{}/cmdline".format(pid), errors="replace") as stream:
        command = " ".join(stream.read().replace("\0", " ").split())[:100]
    with contextlib.suppress(OSError, KeyError):
        user = pwd.getpwuid(os.stat("/proc/{}".format(pid)).st_uid).pw_name
    return "`{}` (pid {}, user {})".format(command, pid, user)


def forget(path):
    with contextlib.suppress(OSError):
        os.unlink(path)


def holder(user=""):
    with contextlib.suppress(OSError), open(of_user(BUSY, user)) as busy:
        return busy.read()
    return UNKNOWN
