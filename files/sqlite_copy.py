"""Copies an SQLite database to standard output, or replaces it by one from standard input. Runs in a container.

    sqlite_copy.py copy PATH            exit code 3: there is no database
    sqlite_copy.py restore PATH SIZE    SIZE: of the copy; with fewer bytes nothing is changed

By SQLite's backup API: a copy has what is in the log of writes (`-wal`), and replacing is one transaction, so that a
program that is killed leaves the database as it was. Needs Python 3.7, unlike other programs in this folder.
"""

import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile

MISSING = 3
PATIENCE = 60  # seconds to wait for another process that writes


def copy(path, beside):
    """Print a database. beside: where the copy is made."""
    if not os.path.exists(path):
        return MISSING
    backup(path, beside)
    with open(beside, "rb") as stream:
        shutil.copyfileobj(stream, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return 0


def restore(path, beside, size):
    """Replace a database by the one on standard input."""
    with open(beside, "wb") as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)
    if os.path.getsize(beside) != size:
        return "the copy came incomplete; nothing was changed"
    try:
        backup(beside, path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # a failed version may have left something else
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + suffix)
        backup(beside, path)
    return 0


def backup(source, target):
    """Copy a database over another one, or to a new file. Raises sqlite3.Error."""
    one, other = sqlite3.connect(source, timeout=PATIENCE), sqlite3.connect(target, timeout=PATIENCE)
    with contextlib.closing(one), contextlib.closing(other):
        one.backup(other)


def main():
    action, path, *size = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        beside = os.path.join(folder, "copy.db")
        sys.exit(copy(path, beside) if action == "copy" else restore(path, beside, int(size[0])))


if __name__ == "__main__":
    main()
