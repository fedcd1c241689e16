#!/usr/bin/env python3
"""The sha256 of model weights on this host, remembered with size and time, so that terabytes are read once. A part of
models.py. `gpurack lock` runs it by itself, with paths of weights on standard input, and then reads what it remembers.

Runs on the host's own python3 (3.6 or newer, standard library only), as root.
"""

import contextlib
import fcntl
import glob
import hashlib
import os
import re
import sys
import time

MEMORY = "/var/lib/gpurack/sha256"
"""A line for each file: size, time of change, sha256, path; root's alone. Without it everything is read again."""
EVERY = 5  # seconds between two signs of life


def files_of(path):
    """The files that weights consist of: the file, all parts of a split GGUF, or a folder's files but hidden ones."""
    split = re.match(r"(.*)-\d{5}-of-(\d{5}\.gguf)$", path)
    if split:
        return sorted(glob.glob("{}-[0-9]*-of-{}".format(glob.escape(split.group(1)), split.group(2)))) or [path]
    if not os.path.isdir(path):
        return [path]
    found = []
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(folder, name) for name in names if not name.startswith(".")]
    return sorted(found)


def stamp(path):
    """Size and time of change as text, as `stat -L -c '%s %.9Y'` has them."""
    seen = os.stat(path)
    return "{} {}.{:09d}".format(seen.st_size, *divmod(seen.st_mtime_ns, 10**9))


def remembered():
    """path → (stamp, sha256) of what was read earlier."""
    try:
        with open(MEMORY, encoding="utf-8", errors="surrogateescape") as stream:
            lines = [line.rstrip("\n").split(" ", 3) for line in stream]
    except OSError:
        return {}
    return {path: (size + " " + changed, found) for size, changed, found, path in (x for x in lines if len(x) == 4)}


def remember(path, sha256):
    """Writes down what a file was found to be; files that are gone are forgotten. Never a reason to fail."""
    try:
        os.makedirs(os.path.dirname(MEMORY), exist_ok=True)
        with open(MEMORY + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = {each: entry for each, entry in remembered().items() if os.path.exists(each)}
            known[path] = (stamp(path), sha256)
            descriptor = os.open(MEMORY + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
                os.fchmod(descriptor, 0o600)
                stream.writelines("{} {} {}\n".format(*known[each], each) for each in sorted(known) if "\n" not in each)
            os.rename(MEMORY + ".new", MEMORY)
    except OSError:
        pass


def hash_of(path, tell=lambda done: None):
    """A file's sha256, read now; `tell` hears of the bytes that are done."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 22), b""):
            digest.update(block)
            tell(stream.tell())
    return digest.hexdigest()


def known_hash(path, tell=lambda done: None):
    """A file's sha256: remembered where the file is as it was, else read and remembered. Raises OSError."""
    before = stamp(path)
    seen, found = remembered().get(path, ("", ""))
    if seen == before:
        return found
    found = hash_of(path, tell)
    if stamp(path) == before:
        remember(path, found)
    return found


class Sign:
    """Of life: a line every few seconds."""

    def __init__(self):
        self.file, self.last = "", time.monotonic()

    def __call__(self, done):
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            print("sha256 of {}, {:.1f} GB".format(os.path.basename(self.file), done / 1e9), flush=True)


def main():
    sign = Sign()
    for path in sys.stdin.read().splitlines():
        for sign.file in files_of(path):
            with contextlib.suppress(OSError):  # not there, or not to be read: the memory lacks it
                known_hash(sign.file, sign)


if __name__ == "__main__":
    main()
