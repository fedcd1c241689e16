"""Has the database of an Open WebUI an account? `python3 -c TEXT FOLDER`, exit code 0 where it has one.

A container wrote the database, so it is data: regular files only, no link followed, nothing written or locked, limited
memory; the caller limits the time. Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import os
import resource
import sqlite3
import stat
import sys
import tempfile

MEMORY = 1 << 29
COPY_LIMIT = 1 << 26  # bytes of a file that is copied: a database without an account is small
IS_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'user' AND rootpage > 0"  # no view, not virtual
HAS_ROW = 'SELECT 1 FROM "user" LIMIT 1'  # Open WebUI asks the same: without a row, signing up makes an administrator


def opened(path):
    """A binary stream of a regular file. Raises OSError for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise OSError("{} is not a regular file".format(path))
    return stream


def has_account(path, options=""):
    """Has a database a row in the table of users? options: of SQLite's URI. Raises sqlite3.Error for an invalid one."""
    with contextlib.closing(sqlite3.connect("file:{}?mode=ro{}".format(path, options), uri=True)) as database:
        database.execute("PRAGMA trusted_schema = OFF")
        return bool(database.execute(IS_TABLE).fetchone() and database.execute(HAS_ROW).fetchone())


def has_account_as_it_lies(path):
    """The same of a file that another process may write: a few pages are read, no lock is taken, no log is read."""
    with opened(path) as stream, contextlib.suppress(sqlite3.Error):
        return has_account("/proc/self/fd/{}".format(stream.fileno()), "&immutable=1")
    return False


def has_account_in_log(path):
    """The same of a database with the log of writes beside it (`-wal`), in copies of both."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(sqlite3.Error):
        copy = os.path.join(folder, "copy.db")
        for suffix in ("", "-wal"):
            with opened(path + suffix) as stream, open(copy + suffix, "wb") as target:
                content = stream.read(COPY_LIMIT + 1)
                if len(content) > COPY_LIMIT:
                    return False
                target.write(content)
        return has_account(copy)
    return False


def main():
    path = os.path.join(sys.argv[1], "webui.db")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        found = has_account_as_it_lies(path) or has_account_in_log(path)
    except OSError:
        found = False
    sys.exit(0 if found else 1)


if __name__ == "__main__":
    main()
