"""Safe access by root to paths that other users can change. A part of models.py.

Programs that are sent to a host bring it along (gpurack/resources.py: program). Root writes only where no other user
can place a link or file. It reads files of any owner, but follows no other user's link and opens regular files only.
Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import errno
import grp
import os
import pwd
import shlex
import stat

MOST_LINKS = 40  # as the kernel's
REMOVAL = 60  # seconds to remove a folder
WEIGHTS_DIR = "choose another weights_dir"


class Unsafe(OSError):
    """A path that root does not write to or does not follow. The text is shown to the admin."""

    def __init__(self, text):
        super().__init__(errno.EPERM, text)

    def __str__(self):
        return self.strerror


# --- where root writes -----------------------------------------------------------------------------------------------


def is_roots(status):
    """Can only root, or the user of this process, change it? A sticky folder like /tmp protects root's files."""
    if status.st_uid not in (0, os.geteuid()):
        return False
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return bool(stat.S_ISLNK(status.st_mode) or sticky or not status.st_mode & 0o022)


def weak_spot(path):
    """The first of `weak_spots`, or None. Raises OSError."""
    return next(weak_spots(path), None)


def weak_spots(path):
    """Yield (part, its status) of each folder, link or file on a path that other users can change.

    Root's links are followed. The last one is the first that is not root's: its owner can lead the rest anywhere.
    Missing parts are safe. Raises OSError."""
    at, links, pending = "/", 0, [""] + parts(path)
    while pending:
        name = pending.pop(0)
        if name == "..":
            at = os.path.dirname(at)
            continue
        part = os.path.join(at, name)
        try:
            status = os.lstat(part)
        except FileNotFoundError:
            return
        if not is_roots(status):
            yield part, status
            if status.st_uid not in (0, os.geteuid()):
                return
        if stat.S_ISLNK(status.st_mode):
            target, links = os.readlink(part), links + 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            at, pending = "/" if target.startswith("/") else at, parts(target) + pending
        else:
            at = part


def parts(path):
    """The names that a path consists of."""
    return [name for name in path.split("/") if name not in ("", ".")]


def require_roots(path, instead=WEIGHTS_DIR):
    """Raise Unsafe, with a hint, where other users can change a path. instead: the alternative in the hint."""
    spot = weak_spot(path)
    if spot:
        raise Unsafe(sentence(*spot, instead=instead))


def sentence(part, status, instead):
    """The message about a part of a path that other users can change, with a hint."""
    place = shlex.quote(part)
    if status.st_uid not in (0, os.geteuid()):
        who = owner_of(status)
        link = stat.S_ISLNK(status.st_mode)
        what = "{} is a link owned by {}" if link else "{} is owned by {}"
        remedy = "chown -h root: {0}" if link else "chown root: {0} && chmod 755 {0}"
    else:
        who = "everybody" if status.st_mode & 0o002 else "the group {}".format(group_of(status))
        what, remedy = "{} is writable by {}", "chmod go-w {0}"
    what += ", so root does not write there: the path could be redirected. {}, or {}"
    return what.format(part, who, remedy.format(place), instead)


def owner_of(status):
    """A user's name; the number of one that has none."""
    try:
        return pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return "uid {}".format(status.st_uid)


def group_of(status):
    """A group's name; the number of one that has none."""
    try:
        return grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        return str(status.st_gid)


def make_folder(path, mode=None, instead=WEIGHTS_DIR):
    """Create a folder of root's and its missing parents, which all users can enter but not change.

    mode: of the folder, also where it exists. Raises Unsafe, OSError."""
    require_roots(path, instead)
    made = "/"
    for name in parts(path):
        made = os.path.join(made, name)
        try:
            os.mkdir(made)
            os.chmod(made, 0o755)
        except FileExistsError:
            pass
        require_roots(made, instead)  # in a folder like /tmp another user may have been faster
    status = os.stat(path)
    if status.st_mode & 0o022:  # like /tmp, where others also create files
        raise Unsafe(sentence(path, status, instead))
    if mode is not None:
        os.chmod(path, mode)


def clean_folder(path, instead=WEIGHTS_DIR):
    """Like make_folder, for a folder that an earlier run left incomplete: removes what other users can change."""
    make_folder(path, instead=instead)
    for folder, folders, names in os.walk(path):
        for name in folders + names:
            leftover(os.path.join(folder, name))
        folders[:] = [name for name in folders if os.path.lexists(os.path.join(folder, name))]


def leftover(path):
    """The status of a file or folder that an earlier run left in a folder of root's, or None.

    Removes it where other users could change or redirect it: a link, their file, a file with a second name."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    plain = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
    if plain and is_roots(status) and not status.st_mode & 0o022:
        return status
    remove(path)
    return None


def remove(path):
    """Remove a file, a link, or a folder with its contents; follows no link. Raises OSError.

    Another user may have filled the folder with anything. So a program of its own removes it, in at most REMOVAL
    seconds: shutil.rmtree would use this process's memory and open files, some for each level of nested folders."""
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    # what reads as a user is sent without them (gpurack/facts/remembered.py)
    from messages import TimeIsUp
    from programs import run

    try:
        argv = ["rm", "-rf", "--one-file-system", "--", path]
        code, output = run(*argv, limit=REMOVAL, what="the removal of {}".format(path))
    except TimeIsUp:
        raise OSError(errno.ETIMEDOUT, "not removed within {} s".format(REMOVAL), path) from None
    if code:
        raise OSError(errno.EIO, output[:300], path)


def create(path):
    """A text stream to a new file in a folder of root's; replaces whatever exists."""
    if os.path.lexists(path):
        remove(path)
    return open(path, "x", encoding="utf-8")


# --- how root reads --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held_path(path):
    """A descriptor of a path, with which nothing is opened yet.

    Only root's links are followed, so that root reads no file for a user who may not. Raises Unsafe, OSError."""
    name, links, pending = "/", 0, parts(os.fsdecode(path))
    held = [os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        while pending:
            name = pending.pop(0)
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held[-1])
            status = os.fstat(found)
            if not stat.S_ISLNK(status.st_mode):
                held.append(found)
                continue
            try:
                target, links = os.readlink("", dir_fd=found), links + 1
            finally:
                os.close(found)
            if status.st_uid not in (0, os.geteuid()):
                what = "{} in {} is a link owned by {}, so root does not follow it"
                raise Unsafe(what.format(name, os.fsdecode(path), owner_of(status)))
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith("/"):
                held.append(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            pending = parts(target) + pending
        yield held[-1]
    except OSError as error:
        if isinstance(error, Unsafe):
            raise
        raise OSError(error.errno, error.strerror, path) from None  # the whole path, not its last part
    finally:
        for one in held:
            os.close(one)


def open_file(path):
    """A descriptor for reading a regular file; FIFOs and devices, which could block, are never opened.

    Raises what `held_path` raises."""
    with held_path(path) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unsafe("{} is not a regular file".format(os.fsdecode(path)))
        again = "/proc/self/fd/{}".format(descriptor)  # exactly the inspected file
        return os.open(again, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def is_folder(path):
    """Is it a folder, to which no link of another user leads?"""
    try:
        with held_path(path) as descriptor:
            return stat.S_ISDIR(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def read_file(path, most):
    """A file's bytes, opened as above. Raises Unsafe where there are more than `most`."""
    with os.fdopen(open_file(path), "rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise Unsafe("{} is larger than {} bytes".format(os.fsdecode(path), most))
    return content
