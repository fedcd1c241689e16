"""Weights: their files, their digests, and whether a container has the same ones mounted.

A part of evidence.py, by which verification inspects a host.
"""

import contextlib
import glob
import hashlib
import os
import pwd
import re
import stat

from evidence_parts import NOBODY, become, content, data, opened

REMEMBERED = "/var/lib/gpurack/sha256"
"""A line for each file that was hashed: its size and time of change then, its sha256, its path."""


def weights(path, deep, remembered):
    """Size, time of change and (deep) sha256 of a file, or of every file of a folder.

    Also what they were when they were hashed (as `hashed_before` says), and what a hub said of them when they were
    fetched.
    """
    if not os.path.exists(path):
        return None
    names = [path]
    if os.path.isdir(path):
        names = [os.path.join(folder, name) for folder, _, inside in os.walk(path) for name in inside]
    elif re.search(r"-\d{5}-of-\d{5}\.gguf$", path):
        names = glob.glob(re.sub(r"-\d{5}-of-", "-?????-of-", path))
    found = {}
    for name in sorted(names):
        with contextlib.suppress(OSError):  # it is gone, or not for this user's eyes: as good as not there
            status = os.stat(name)
            if stat.S_ISREG(status.st_mode):
                key = os.path.relpath(name, path) if os.path.isdir(path) else os.path.basename(name)
                found[key] = {"size": status.st_size, "mtime": status.st_mtime, "then": remembered.get(name)}
                if deep:
                    found[key]["sha256"] = sha256(name)
    return {"files": found, "hub": noted(content(path + ".json"))}


def weights_as_keeper(path, deep, remembered):
    """The same in a process of root's, which becomes that of whoever could lead the path elsewhere."""
    who = keeper(path) if os.geteuid() == 0 else ROOT
    if who != ROOT:
        become(*who)
    return weights(path, deep, remembered)


ROOT = ("",)


def keeper(path):
    """The account that inspects a path, as arguments of `become`; ROOT if only root can change where it leads.

    Otherwise the owner of the first part that is not root's, following root's links. If all are root's: `nobody`, in
    the group that can write to a folder on the path; in no group if everyone or several groups can."""
    at, rest, steps, groups = "/", path.split("/"), 0, set()
    while rest and steps < 1000:
        part, steps = os.path.normpath(os.path.join(at, rest.pop(0))), steps + 1
        try:
            status = os.lstat(part)
        except OSError:
            break
        if status.st_uid != 0:
            try:
                return (pwd.getpwuid(status.st_uid).pw_name,)
            except KeyError:
                return (status.st_uid,)
        if stat.S_ISDIR(status.st_mode) and not status.st_mode & stat.S_ISVTX and status.st_mode & 0o022:
            groups.add(NOBODY if status.st_mode & 0o002 else status.st_gid)
        if stat.S_ISLNK(status.st_mode):
            rest = os.readlink(part).split("/") + rest
            at = "/" if rest[0] == "" else at
        else:
            at = part
    if not groups:
        return ROOT
    return NOBODY, groups.pop() if len(groups) == 1 else NOBODY


def hashed_before():
    """File → size, time of change and sha256 when it was hashed."""
    lines = (line.split(" ", 3) for line in (content(REMEMBERED) or "").splitlines())
    return {line[3]: line[:3] for line in lines if len(line) == 4}


def noted(text):
    """What was written down of a repository, or of one file in it.

    None for nothing, or for a file of somebody else's beside weights by path.
    """
    try:
        said = data(text or "null")
    except ValueError:
        return None
    return said if isinstance(said, dict) and isinstance(said.get("files"), dict) else None


def sha256(path):
    digest = hashlib.sha256()
    with opened(path) as file:
        for block in iter(lambda: file.read(1 << 22), b""):
            digest.update(block)
    return digest.hexdigest()


def same_inside(container):
    """Mounted file → is it inside the very file that lies there now? A file that was replaced is not."""
    found, pid = {}, container["State"].get("Pid")
    if not isinstance(pid, int) or not os.path.exists(inner(pid, "/")):
        return found
    for mount in container.get("Mounts", []):
        if mount.get("Type") == "bind":
            try:
                there, here = (os.stat(path) for path in (inner(pid, mount["Destination"]), mount["Source"]))
                found[mount["Source"]] = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
            except OSError:
                found[mount["Source"]] = False
    return found


def inner(pid, path):
    return "/proc/{}/root{}".format(pid, path)
