"""Judges by strace's output in which order files were written, synced and renamed.

A file that replaces another must be on disk before it has the other's name, and the name before the work ends: then a
power cut leaves the old file or the whole new one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

TRACED = "trace=openat,open,creat,rename,renameat,renameat2,fsync,fdatasync,syncfs"
"""strace's -e, to be used with -f and -y."""
_CALL = re.compile(r"^(?P<pid>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()(?P<rest>.*)$")
_WORDS = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PATH = re.compile(r"^\d+<([^>]*)>")
_FOLDER = re.compile(r"(?:AT_FDCWD|\d+)(?:<([^>]*)>)?, \"")


class Call(NamedTuple):
    """A successful call: write (a file was opened to be written from its beginning), sync, or rename (path → to)."""

    what: str
    path: str
    to: str = ""


def calls(lines: Iterable[str]) -> Iterator[Call]:
    """The calls that count, in order.

    >>> list(map(tuple, calls([
    ...     '7 openat(AT_FDCWD</root>, "/a.new", O_WRONLY|O_CREAT|O_TRUNC, 0600) = 3</a.new>',
    ...     '7 fsync(3</a.new> <unfinished ...>',
    ...     '8 rename("/b", "/c") = -1 ENOENT (No such file or directory)',
    ...     '7 <... fsync resumed>) = 0',
    ...     '7 rename("/a.new", "/a") = 0',
    ... ])))
    [('write', '/a.new', ''), ('sync', '/a.new', ''), ('rename', '/a.new', '/a')]
    """
    begun: dict[str, tuple[str, str]] = {}
    for line in lines:
        if not (found := _CALL.match(line)):
            continue
        name, rest = found["name"] or found["resumed"], found["rest"]
        if rest.endswith("<unfinished ...>"):
            begun[found["pid"]] = (name, rest.removesuffix("<unfinished ...>"))
            continue
        if found["resumed"]:
            name, front = begun.pop(found["pid"], (name, ""))
            rest = front + rest
        arguments, _, result = rest.rpartition(" = ")
        if result.startswith(("-1", "?")):
            continue
        if name in ("open", "openat", "creat"):
            anew = name == "creat" or re.search(r"O_(WRONLY|RDWR)\S*O_(CREAT|TRUNC)", arguments)
            if anew and (opened := _PATH.match(result)):
                yield Call("write", opened[1])
        elif name in ("fsync", "fdatasync", "syncfs"):
            if synced := _PATH.match(arguments.lstrip()):
                yield Call("sync", synced[1])
        elif len(words := _WORDS.findall(arguments)) == 2:
            folders = _FOLDER.findall(arguments) or ["", ""]
            yield Call(
                "rename", *(str(PurePosixPath(folder, word)) for folder, word in zip(folders, words, strict=True))
            )


def wrong(seen: Iterable[Call], ours: tuple[str, ...], existed: Collection[str] = ()) -> list[str]:
    """What is wrong, as sentences; [] if nothing is.

    ours: the beginnings of the paths that count. existed: the files that were there before.

    >>> write, sync = Call("write", "/etc/a.new"), Call("sync", "/etc/a.new")
    >>> rename, folder = Call("rename", "/etc/a.new", "/etc/a"), Call("sync", "/etc")
    >>> wrong([write, sync, rename, folder], ("/etc/",))
    []
    >>> wrong([write, rename, folder], ("/etc/",)), wrong([write, sync, rename], ("/etc/",))
    (['/etc/a had its name before it was on disk'], ['the name of /etc/a was not synced'])
    >>> wrong([write, sync, folder], ("/etc/",)), wrong([write, folder], ("/etc/",))
    ([], ['/etc/a.new was not synced'])
    >>> wrong([write, sync, folder], ("/etc/",), {"/etc/a.new"})
    ['/etc/a.new was written in place']
    """
    unsynced: dict[str, None] = {}
    unnamed: dict[str, str] = {}
    found = []
    for call in seen:
        if call.what == "write":
            if call.path in existed and call.path.startswith(ours):
                found.append(f"{call.path} was written in place")
            unsynced[call.path] = None
        elif call.what == "sync":
            unsynced.pop(call.path, None)
            unnamed = {path: folder for path, folder in unnamed.items() if folder != call.path}
        else:
            inside = [path for path in unsynced if path == call.path or path.startswith(f"{call.path}/")]
            if inside and call.to.startswith(ours):
                found.append(f"{call.to} had its name before it was on disk")
            for path in inside:
                del unsynced[path]
            if call.to.startswith(ours):
                unnamed[call.to] = str(PurePosixPath(call.to).parent)
    found += [f"the name of {path} was not synced" for path in unnamed]
    return found + [f"{path} was not synced" for path in unsynced if path.startswith(ours)]
