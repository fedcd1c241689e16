"""Paths of this host that others than root may change: where root writes, and how it reads what lies there. A part of
models.py; programs that are sent to a host bring it along (gpurack/resources.py: program).

Root writes only where nobody else can put a link or a file of their own in its way. It reads files of any owner, but
follows no link that somebody else made, and opens nothing but files. Runs on the host's own python3 (3.6 or newer,
standard library only).
"""

import errno
import grp
import os
import pwd
import shlex
import shutil
import stat

MOST_LINKS = 40  # as the kernel's
WEIGHTS_DIR = "choose another weights_dir"


class Unsafe(OSError):
    """A path that root does not write to, or does not follow; the text is for people."""

    def __init__(self, text):
        super().__init__(errno.EPERM, text)

    def __str__(self):
        return self.strerror


# --- where root writes -----------------------------------------------------------------------------------------------


def is_roots(status):
    """Can nobody but root (or who runs this) change it? In a folder like /tmp others cannot touch what is root's."""
    if status.st_uid not in (0, os.geteuid()):
        return False
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return bool(stat.S_ISLNK(status.st_mode) or sticky or not status.st_mode & 0o022)


def weak_spot(path):
    """(part, its status): the first folder, link or file on the way to a path that others than root may change, links
    of root's followed; None where there is none. What does not exist yet is nobody's. Raises OSError."""
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
            return None
        if not is_roots(status):
            return part, status
        if stat.S_ISLNK(status.st_mode):
            target, links = os.readlink(part), links + 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            at, pending = "/" if target.startswith("/") else at, parts(target) + pending
        else:
            at = part
    return None


def parts(path):
    """The names that a path consists of."""
    return [name for name in path.split("/") if name not in ("", ".")]


def require_roots(path, instead=WEIGHTS_DIR):
    """Raises Unsafe, with the remedy, where others than root may change a path. instead: what else would help."""
    spot = weak_spot(path)
    if spot:
        raise Unsafe(sentence(*spot, instead=instead))


def sentence(part, status, instead):
    """Who may change a part of a path, and what to do."""
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
    """Makes a folder of root's, and those above it that are missing, for everybody to enter; what root then writes
    there, nobody else can lead elsewhere. mode: that of the folder, also where it is there. Raises Unsafe, OSError."""
    require_roots(path, instead)
    made = "/"
    for name in parts(path):
        made = os.path.join(made, name)
        try:
            os.mkdir(made)
            os.chmod(made, 0o755)
        except FileExistsError:
            pass
        require_roots(made, instead)  # in a folder like /tmp somebody may have been faster
    status = os.stat(path)
    if status.st_mode & 0o022:  # like /tmp, where others make files, too
        raise Unsafe(sentence(path, status, instead))
    if mode is not None:
        os.chmod(path, mode)


def clean_folder(path, instead=WEIGHTS_DIR):
    """The same, for a folder that an earlier run left half full: what is not root's own in it goes."""
    make_folder(path, instead=instead)
    for folder, folders, names in os.walk(path):
        for name in folders + names:
            leftover(os.path.join(folder, name))
        folders[:] = [name for name in folders if os.path.lexists(os.path.join(folder, name))]


def leftover(path):
    """The status of what an earlier run left at a path in a folder of root's; None for nothing. What others could
    change, or lead elsewhere, goes: a link, a file of theirs, one that has a second name."""
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
    """Takes away a file, a link, or a folder with all that is in it; follows no link."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def create(path):
    """A text stream to a new file in a folder of root's, in the place of whatever is there."""
    if os.path.lexists(path):
        remove(path)
    return open(path, "x", encoding="utf-8")


# --- how root reads --------------------------------------------------------------------------------------------------


def open_file(path):
    """A descriptor to read a file by. Only files are opened, never what could block or answer (a FIFO, a device), and
    links only when root made them: nobody has root read for them what they may not. Raises Unsafe, OSError."""
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
        if not stat.S_ISREG(os.fstat(held[-1]).st_mode):
            raise Unsafe("{} is not a regular file".format(os.fsdecode(path)))
        again = "/proc/self/fd/{}".format(held[-1])  # the very file that was looked at
        return os.open(again, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if isinstance(error, Unsafe):
            raise
        raise OSError(error.errno, error.strerror, path) from None  # not the last name of it
    finally:
        for one in held:
            os.close(one)


def read_file(path, most):
    """A file's bytes, opened as above. Raises Unsafe where there are more than `most`."""
    with os.fdopen(open_file(path), "rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise Unsafe("{} is larger than {} bytes".format(os.fsdecode(path), most))
    return content
