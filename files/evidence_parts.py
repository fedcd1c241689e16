"""Functions that run in processes of their own, with a time limit: as root, or as a user.

A part of evidence.py, by which verification inspects a host.
"""

import contextlib
import ctypes
import errno
import glob
import json
import math
import os
import pwd
import re
import select
import signal
import stat
import subprocess
import time

ASKED = {}  # the questions, once the program has begun
DAEMON_SIZE, USER_SIZE = 1 << 26, 1 << 22  # bytes of an answer of a Docker daemon, of all that a part says of a user
PR_SET_DUMPABLE = 4  # linux/prctl.h
NOBODY = 65534  # the number of a user and a group that own nothing
DEPTH, DIGITS = 40, 40  # of JSON, of an integer in it
USER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/share/docker.io/contrib"
"""For the programs of a user, as in files/paths.py."""
MORE_PATH = ":/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/wsl/lib"  # the last has nvidia-smi in WSL
HUNG = "/run/gpurack/hung"  # a file for each part that left something behind, as snapshot.sh has it


def run(*argv):
    """(exit code, standard output) of a program; (127, "") when there is none."""
    try:
        environment = dict(os.environ, LC_ALL="C", PATH=os.environ.get("PATH", "") + MORE_PATH)
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError:
        return 127, ""
    out, error = (text.decode("utf-8", "replace").strip() for text in (done.stdout, done.stderr))
    return done.returncode, out or error


def data(text):
    """JSON as plain data: not nested without end, no number that takes minutes to read or that is none.

    Raises ValueError.
    """
    try:
        found = json.loads(text, parse_int=integer, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("nested too deep") from None
    rest = [(found, 0)]
    while rest:
        item, depth = rest.pop()
        if depth > DEPTH:
            raise ValueError("nested too deep")
        inside = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        rest += [(one, depth + 1) for one in inside]
    return found


def integer(digits):
    if len(digits) > DIGITS:
        raise ValueError("an integer of {} digits".format(len(digits)))
    return int(digits)


def finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("{} is not a number of JSON".format(text[:DIGITS]))
    return number


class Part:
    """A function that runs in a process of its own: as root, or as a user.

    The user may stop it, but it has neither root's rights nor as much time or memory as there is. What an earlier one
    of this name left behind is not joined by more. Begun where there are no threads. user: a name, or the number of one
    that has none.
    """

    def __init__(self, name, seconds, function, *arguments, **options):
        self.seconds, self.said, self.late = seconds, b"", None
        user = options.get("user") or ""
        self.size = USER_SIZE if user else DAEMON_SIZE
        self.end = time.time() + seconds
        self.hung = os.path.join(HUNG, "verify " + name)
        since = still_hangs(self.hung)
        if since:
            self.late = "still hangs since " + since
            return
        self.pipe, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                apart(seconds)
                if user:
                    become(user)
                said = json.dumps(attempt(function, *arguments), ensure_ascii=False).encode("utf-8", "replace")
                with os.fdopen(write, "wb") as out:
                    out.write(said)
            finally:
                os._exit(0)
        os.close(write)

    def hear(self):
        """Takes what it says now; True at its end."""
        piece = os.read(self.pipe, 1 << 16)
        self.said += piece
        if piece and len(self.said) <= self.size:
            return False
        self.stop([self.pid])
        return True

    def abandon(self):
        """Ends one that takes too long.

        What SIGKILL does not end (it waits for a file system or a card) is left behind and written down.
        """
        self.late = "timed out after {} s".format(self.seconds)
        self.leave(self.stop(members(self.pid)))

    def leave(self, left):
        """Writes down what is left behind, so that no more of it is begun while it is there. left: pids."""
        for pid, found in ((pid, process(pid)) for pid in left):
            if found:
                os.makedirs(HUNG, mode=0o700, exist_ok=True)
                with open(os.open(self.hung, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as note:
                    note.write("{} {} {}\n".format(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), pid, found[2]))
                self.late += ", pid {} ({}) is left behind".format(pid, found[0])

    def stop(self, pids):
        """Ends processes; returns those that are still there."""
        os.close(self.pipe)
        return end(pids, self.pid)

    def result(self):
        """What the function returned; {"late": why} or {"broken": why} for nothing."""
        if self.late:
            return {"late": self.late}
        if len(self.said) > self.size:
            return {"broken": "more than {} bytes".format(self.size)}
        try:
            return json.loads(self.said.decode("utf-8", "replace"))  # written by this program
        except ValueError:
            return {"broken": "its process was ended"}


def end(pids, child=None):
    """Ends processes; returns those that are still there after a second.

    child: one of this process's, which waits for it.
    """
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    until = time.time() + 1
    left = list(pids)
    while left and time.time() < until:
        with contextlib.suppress(OSError, TypeError):
            os.waitpid(child, os.WNOHANG)
        left = [pid for pid in left if process(pid)]
        time.sleep(0.002 if left else 0)
    return left


def results(parts):
    """What parts (key → Part) say, in the order that they were begun in; all are heard at once."""
    running = {part.pipe: part for part in parts.values() if not part.late}
    while running:
        wait = min(part.end for part in running.values()) - time.time()
        for pipe in select.select(list(running), [], [], max(0, wait))[0]:
            if running[pipe].hear():
                del running[pipe]
        for pipe, part in list(running.items()):
            if time.time() >= part.end:
                del running[pipe]
                part.abandon()
    return {key: part.result() for key, part in parts.items()}


def attempt(function, *arguments):
    """What a function says, or {"broken": why}."""
    try:
        return function(*arguments)
    except Exception as error:
        return {"broken": "{}: {}".format(type(error).__name__, error)}


def apart(seconds):
    """This process gets a session of its own, and nothing of the connection, which it would hold open.

    It ends by itself where nobody is left to end it.
    """
    os.setsid()
    signal.alarm(seconds + 5)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)


def become(user, group=NOBODY):
    """Make this process a user's, with nothing of root's environment.

    Its memory stays closed to that user: the secrets of others are in it. user: a name, or a number, with its group.
    """
    global DAEMON_SIZE
    DAEMON_SIZE = USER_SIZE
    os.chdir("/")
    os.environ.clear()
    os.environ.update(PATH=USER_PATH)
    if isinstance(user, int):
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
    else:
        account = pwd.getpwnam(user)
        runtime = "/run/user/{}".format(account.pw_uid)
        os.environ.update(HOME=account.pw_dir, USER=user, XDG_RUNTIME_DIR=runtime)
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # as by default, but for fs.suid_dumpable=1


def process(pid):
    """(name, session, begin in the kernel's ticks) of a process; None for one that has ended."""
    said = content("/proc/{}/stat".format(pid)) or ""
    name, _, rest = said.partition("(")[2].rpartition(")")  # the name may hold anything
    words = rest.split()
    if len(words) < 20 or words[0] in "ZX":
        return None
    return re.sub("[^A-Za-z0-9._-]", "", name), int(words[3]), words[19]


def members(session):
    """The processes of a session."""
    pids = [int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/stat")]
    return [pid for pid in pids if (process(pid) or (None, None))[1] == session]


def family(pid):
    """A process and its descendants."""
    found, parents = [pid], {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        words = (content(path) or "").rpartition(")")[2].split()
        if len(words) > 1:
            parents.setdefault(int(words[1]), []).append(int(path.split("/")[2]))
    for one in found:
        found += parents.get(one, [])
    return found


def still_hangs(note):
    """Since when, if anything that was left behind is still there."""
    for line in (content(note) or "").splitlines():
        since, pid, ticks = line.split()
        found = process(pid)
        if found and found[2] == ticks:
            return "{} (pid {})".format(since, pid)
    with contextlib.suppress(OSError):
        os.unlink(note)
    return ""


LARGEST = 64 << 20  # bytes of a text


def content(path, size=LARGEST):
    """A file's text, None when there is none."""
    try:
        with opened(path) as file:
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return None


def opened(path):
    """A file to read.

    What could block or answer (a FIFO, a device) is not opened, and links only where root made them: root reads nothing
    for others. Raises OSError.
    """
    for _ in range(10):
        if os.path.islink(path) and os.lstat(path).st_uid in (0, os.geteuid()):
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", path)
    return file


def unread(said):
    """Is it what a part says that came to no end?"""
    return isinstance(said, dict) and bool({"late", "broken"} & said.keys())
