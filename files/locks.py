"""The locks of the host's Docker and of users' Dockers, which no two runs hold at once.

A part of the models' runner, on the host's own python3 (3.6 or newer, standard library only)."""

import contextlib
import fcntl
import glob
import os
import pwd
import re
import time

from messages import TimeIsUp, rounded, say, while_heard
from paths import BUSY, LOCK, of_user  # (beside this file)
from progress import Progress

LOCK_LIMIT = 24 * 3600  # seconds to wait for another run: its download or job may take hours
UNKNOWN = "unknown"


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
