#!/usr/bin/env python3
"""The sha256 of model weights on this host, remembered with size and time, so that terabytes are read once.

A part of models.py. `gpurack lock` runs it by itself, with weights on standard input (`USER|PATH`, no user for those of
the host's own Docker), and then reads what it remembers; it prints who did not answer.

What a user could lead elsewhere is read as that user: root would read for them what they may not. Runs on the host's
own python3 (3.6 or newer, standard library only), as root.
"""

import contextlib
import errno
import glob
import hashlib
import math
import os
import pwd
import re
import select
import stat
import subprocess
import sys
import threading
import time

from accounts import as_user
from locks import is_taken
from messages import describe_error, say  # (beside this file)
from safe_paths import is_folder, open_file, weak_spot, weak_spots
from writing import put_in_place

MEMORY = "/var/lib/gpurack/sha256"
"""A line for each file: size, time of change, sha256, path; root's alone. Without it everything is read again."""
MEMORY_PATIENCE = 10  # seconds to wait for another run that writes it; what is not remembered is read again
READ = {}  # what this run read: path → (stamp, sha256). MEMORY may be on a full disk, and cannot hold every path
EVERY = 5  # seconds between two signs of life
SILENCE = 60  # seconds in which what is read as a user must bring something
LONG = 4 * 3600  # seconds that one file may take altogether, which a user can make as large and slow as they like;
# where this program runs by itself, all files of all users
DEADLINE = math.inf  # of all that is read as users, or that users can change, on the clock of time.monotonic
BLOCK = 1 << 22
SPARSE = 4  # times of what is on disk that the size of a user's file may be
NOBODY = 65534
MOST = 100000  # files of one folder
MOST_OF_USER, LONGEST_OF_USER = 2000, 1 << 20  # files of weights that others can change, and characters of their paths
LONGEST = 1 << 24  # bytes of what is said of a user's files


def reader(path, user):
    """The words before a command that reads weights as the user in whose Docker they are; none if root reads them.

    Root reads what only root can change, and weights of the host's own Docker (user ""). It follows no other user's
    link to those (`open_file`). They are not read as their owner, whose process could hold the host's lock for hours.
    Raises Failure for an unknown user."""
    return as_user(user)[1] if user and weak_spot(path) else []


def inspector(path, user):
    """The words before a command that reads the header of weights (docs/security.md: who reads weights).

    They are those of `reader`, and for weights of the host's own Docker those of the owner of the first part that is
    not root's, or of `nobody` in the group that can write to a folder of root's on the path; in no group if everyone or
    several groups can. No words if root reads them. Raises Failure for an unknown user.
    """
    if user:
        return reader(path, user)
    spots = [status for _, status in weak_spots(path)]
    uid, group = spots[-1].st_uid if spots else 0, NOBODY
    if uid:
        with contextlib.suppress(KeyError):
            return as_user(pwd.getpwuid(uid).pw_name)[1]
    else:
        groups = {NOBODY if one.st_mode & 0o002 else one.st_gid for one in spots if stat.S_ISDIR(one.st_mode)}
        if not groups:  # no spots, or files only, which lead nowhere
            return []
        uid, group = NOBODY, groups.pop() if len(groups) == 1 else NOBODY
    return ["setpriv", "--reuid", str(uid), "--regid", str(group), "--clear-groups", "env", "-i", "LC_ALL=C"]


def files_of(path, become=()):
    """The files that weights consist of: the file, all parts of a split GGUF, or a folder's files but hidden ones.

    Another user may have filled the folder: not recursive, as os.walk is before Python 3.12, and at most MOST files.
    Raises OSError."""
    split = re.match(r"(.*)-\d{5}-of-(\d{5}\.gguf)$", path)
    if become:
        return listed_as(become, *(split.groups() if split else (path, None))) or [path]
    if split:
        return sorted(glob.glob("{}-[0-9]*-of-{}".format(glob.escape(split.group(1)), split.group(2)))) or [path]
    if not is_folder(path):
        return [path]
    found, pending = [], [path]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if len(found) + len(pending) > MOST:
                    break
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    found.append(entry.path)
                elif may_enter(entry.path):
                    pending.append(entry.path)
        if len(found) + len(pending) > MOST:
            raise OSError(errno.EFBIG, "more than {} files".format(MOST), path)
    return sorted(found)


def may_enter(folder):
    """Is it no link, or one of root's?"""
    status = os.lstat(folder)
    return not stat.S_ISLNK(status.st_mode) or status.st_uid in (0, os.geteuid())


def stamp(seen):
    """Size and time of change of a file's status as text, as `stat -L -c '%s %.9Y'` has them."""
    return "{} {}.{:09d}".format(seen.st_size, *divmod(seen.st_mtime_ns, 10**9))


def remembered():
    """path → (stamp, sha256) of what was read earlier."""
    try:
        with open(MEMORY, encoding="utf-8", errors="surrogateescape") as stream:
            lines = [line.rstrip("\n").split(" ", 3) for line in stream]
    except OSError:
        return {}
    return {path: (size + " " + changed, found) for size, changed, found, path in (x for x in lines if len(x) == 4)}


def remember(path, sha256, stamped=None, become=()):
    """Writes down what a file was found to be, for root alone.

    Never a reason to fail. stamped: what it was like when it was read, if not as it is now. become: as whom it was
    read.

    Files that are gone from its folder are forgotten, where root read it: no other folder may answer, and a user's is
    not root's to inspect."""

    def changed(known):
        folder = None if become else os.path.dirname(path)
        kept = {each: known[each] for each in known if os.path.dirname(each) != folder or os.path.lexists(each)}
        return dict(kept, **{path: (stamped or stamp(os.stat(path)), sha256)})

    change_memory(changed)


def forget_others(path, files):
    """Forget what was read of files that the weights no longer have. Users could add names without end."""
    kept, belongs = set(files), of_weights(path)
    change_memory(lambda known: {each: known[each] for each in known if each in kept or not belongs(each)})


def of_weights(path):
    """A function that says of a file whether it may be one of these weights."""
    split = re.match(r"(.*-)\d{5}(-of-\d{5}\.gguf)$", path)
    begin, end = split.groups() if split else (path.rstrip("/") + "/", "")
    return lambda each: each.startswith(begin) and each.endswith(end)


def change_memory(changed):
    """Rewrite MEMORY where it changes. changed: what is remembered → the same afterwards. Never a reason to fail."""
    try:
        os.makedirs(os.path.dirname(MEMORY), exist_ok=True)
        with open(os.open(MEMORY + ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "w") as lock:
            end = time.monotonic() + MEMORY_PATIENCE
            while not is_taken(lock):
                if time.monotonic() > end:
                    return
                time.sleep(0.05)
            before = remembered()
            known = changed(before)
            if known == before:
                return
            beside = os.open(MEMORY + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(beside, "w", encoding="utf-8", errors="surrogateescape") as stream:
                os.fchmod(beside, 0o600)
                stream.writelines("{} {} {}\n".format(*known[each], each) for each in sorted(known) if "\n" not in each)
            put_in_place(MEMORY + ".new", MEMORY)
    except OSError:
        pass


def hash_of(path, tell=lambda done: None, become=()):
    """A file's sha256, read now; `tell` hears of the bytes that are done. become: of `reader`. Raises OSError."""
    if become:
        return hash_as(become, path, tell)
    digest, others = hashlib.sha256(), weak_spot(path)
    end = min(time.monotonic() + LONG, DEADLINE) if others else math.inf
    with os.fdopen(open_file(path), "rb") as stream:
        if others:
            refuse_sparse(path, os.fstat(stream.fileno()))
        for block in iter(lambda: stream.read(BLOCK), b""):
            digest.update(block)
            tell(stream.tell())
            if time.monotonic() > end:
                raise OSError(errno.EFBIG, "not read within {} h".format(LONG // 3600), path)
    return digest.hexdigest()


def refuse_sparse(path, status):
    """Raise OSError for a file with much less on disk than its size.

    That costs its user nothing, and reading it may take hours, for which other models of the run wait. File systems
    that compress save less on weights.
    """
    if status.st_size > SPARSE * 512 * status.st_blocks + BLOCK:
        raise OSError(errno.EFBIG, "a sparse file of another user, which is not read", path)


class Growing:
    """The sha256 of a file that is being written, computed meanwhile."""

    def __init__(self, path):
        self.path, self.lock = path, threading.Lock()
        self.restart()

    def restart(self):
        """The file begins anew."""
        with self.lock:
            self.done, self.digest = 0, hashlib.sha256()

    @contextlib.contextmanager
    def followed(self):
        """Read what is written while the block runs."""
        ended = threading.Event()

        def follow():
            while not ended.wait(1):
                with contextlib.suppress(OSError):  # not there yet; `whole` raises others
                    self.read(ended.is_set)

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def read(self, ended=lambda: False, tell=lambda done: None):
        """Read on to the file's present end, or until `ended()`. Raises OSError."""
        digest = self.digest
        with os.fdopen(open_file(self.path), "rb") as stream:
            stream.seek(self.done)
            while not ended():
                block = stream.read(BLOCK)
                with self.lock:
                    if not block or self.digest is not digest:
                        return
                    digest.update(block)
                    self.done += len(block)
                tell(self.done)

    def whole(self, tell):
        """The sha256 of the complete file; `tell` hears of the bytes that are done. Raises OSError."""
        self.read(tell=tell)
        return self.digest.hexdigest()


def stamp_of(path, become=()):
    """A file's stamp as it is now. Raises OSError."""
    if become:
        return stamp_as(become, path)
    descriptor = open_file(path)
    try:
        return stamp(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def known_hash(path, tell=lambda done: None, become=()):
    """A file's sha256: remembered where the file is as it was, else read and remembered. Raises OSError."""
    known = remembered_hash(path, become)
    if known is not None:
        return known
    before = stamp_of(path, become)
    found = hash_of(path, tell, become)
    if stamp_of(path, become) == before:
        READ[path] = (before, found)
        remember(path, found, before, become)
    return found


def remembered_hash(path, become=()):
    """The sha256 of a file that is as it was when it was read; None for others. Raises OSError."""
    now = stamp_of(path, become)
    for known in (READ, remembered()):
        seen, found = known.get(path, ("", ""))
        if seen == now:
            return found
    return None


def size_now(path, become=()):
    """A file's size as it is now. Raises OSError."""
    return int(stamp_of(path, become).split(" ")[0])


def size_changed(path, sha256, become=()):
    """Has a file another size than when it had this sha256? Then it need not be read. Raises OSError."""
    seen, found = remembered().get(path, ("", ""))
    return found == sha256 and seen.split(" ")[0] != str(size_now(path, become))


# --- as a user -------------------------------------------------------------------------------------------------------


def output_as(become, *argv):
    """The bytes that a command writes as a user, block by block, of which nothing is believed but what it looks like.

    Raises OSError where nothing comes for a while: its user could have it wait for ever. It is left behind then, also
    where it cannot be ended.
    """
    process = subprocess.Popen(
        [*become, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    end = min(time.monotonic() + LONG, DEADLINE)
    try:
        while True:
            left = end - time.monotonic()
            if left < 0:
                raise OSError(errno.ETIMEDOUT, "its user's {} came to no end in {} s".format(argv[0], LONG))
            if not select.select([process.stdout], [], [], min(SILENCE, left))[0]:
                if left < SILENCE:
                    continue
                raise OSError(errno.ETIMEDOUT, "its user's {} printed nothing for {} s".format(argv[0], SILENCE))
            block = os.read(process.stdout.fileno(), 1 << 20)
            if not block:
                return
            yield block
    finally:
        process.stdout.close()
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)


def said_as(become, *argv):
    """The same, whole. Raises OSError where it is longer than any such answer."""
    said = bytearray()
    for block in output_as(become, *argv):
        said += block
        if len(said) > LONGEST:
            raise OSError(errno.EFBIG, "its user's {} printed too much".format(argv[0]))
    return bytes(said)


def stamp_as(become, path):
    """As of `stamp`."""
    said = said_as(become, "stat", "-L", "-c", "%s %.9Y %F", "--", path).decode("utf-8", "replace")
    found = re.match(r"(\d{1,18} \d{1,18}\.\d{9}) regular (empty )?file\n\Z", said)
    if not found:
        raise OSError(errno.EACCES, "not a file that its user can read", path)
    return found.group(1)


def listed_as(become, path, parts):
    """As of `files_of`. parts: the end of the names of a split GGUF's files, None for a file or folder."""
    if parts:
        folder, name = os.path.split(path)
        kept = re.compile(re.escape(name) + r"-\d{5}-of-" + re.escape(parts))
        argv = ["find", "-L", folder, "-mindepth", "1", "-maxdepth", "1", "-type", "f", "-print0"]
    else:
        kept, hidden = None, ("-name", ".*", "-prune", "-o")
        argv = ["find", "-L", path, "-mindepth", "1", *hidden, "-type", "f", "-print0"]
    found = [os.fsdecode(name) for name in said_as(become, *argv).split(b"\0") if name]
    if kept:
        return sorted(one for one in found if os.path.dirname(one) == folder and kept.fullmatch(os.path.basename(one)))
    return sorted(one for one in found if one.startswith(path + "/"))


def hash_as(become, path, tell):
    """As of `hash_of`. Root hashes what a program of that user's reads, and no more than the file has."""
    count = size_now(path, become)
    digest, done = hashlib.sha256(), 0
    with contextlib.closing(output_as(become, "dd", "if=" + path, "iflag=nonblock", "bs=4M", "status=none")) as blocks:
        for block in blocks:
            digest.update(block)
            done += len(block)
            tell(done)
            if done > count:
                break
    if done != count:
        raise OSError(errno.EACCES, "its user reads {} bytes of {}".format(done, count), path)
    return digest.hexdigest()


class Sign:
    """Of life: a line every few seconds."""

    def __init__(self):
        self.file, self.last = "", time.monotonic()

    def __call__(self, done):
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            say("", "sha256 of {}, {:.1f} GB".format(os.path.basename(self.file), done / 1e9))


def hash_all(user, paths):
    """Remember the sha256 of weights in a user's Docker.

    Returns why that user is asked no more, "" for nothing: the first file that does not come to an end is the last.
    """
    sign = Sign()
    for path in paths:
        try:
            become = reader(path, user)
            files = files_of(path, become)
            if become or weak_spot(path):
                refuse_many(path, files)
                forget_others(path, files)
            for sign.file in files:
                hash_one(sign, become)
        except FileNotFoundError:
            pass  # the snapshot says so
        except Exception as error:  # whatever one user's files are, the others are read
            if getattr(error, "errno", None) == errno.ETIMEDOUT:
                return describe_error(error)
            say("", "no sha256 of {}: {}".format(path, describe_error(error)))
    return ""


def refuse_many(path, files):
    """Raise OSError where weights that a user can change have more files than are remembered.

    Every snapshot of the host has a line for each.
    """
    if len(files) > MOST_OF_USER:
        raise OSError(errno.EFBIG, "more than {} files".format(MOST_OF_USER), path)
    if sum(map(len, files)) > LONGEST_OF_USER:
        raise OSError(errno.ENAMETOOLONG, "the paths of its files are too long", path)


def hash_one(sign, become):
    """Remember the sha256 of one file, or say why there is none. Raises OSError where its user does not answer."""
    try:
        known_hash(sign.file, sign, become)
    except OSError as error:
        if error.errno in (errno.ETIMEDOUT, errno.ENOENT):
            raise
        say("", "no sha256 of {}: {}".format(sign.file, describe_error(error)))


def main():
    """Users are read side by side, so that all who do not answer cost one limit.

    Each of them is one line, `late USER: why`.
    """
    global DEADLINE
    DEADLINE = time.monotonic() + LONG
    asked, late = {}, {}
    for line in sys.stdin.read().splitlines():
        user, _, path = line.partition("|")
        asked.setdefault(user, []).append(path)

    def work(user):
        try:
            late[user] = hash_all(user, asked[user])
        except Exception as error:  # an exception in a thread would be lost
            late[user] = describe_error(error)

    threads = [threading.Thread(target=work, args=(user,)) for user in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for user in sorted(user for user in late if late[user]):
        say("", "late {}: {}".format(user, late[user]))


if __name__ == "__main__":
    main()
