#!/usr/bin/python3
"""Stand-in for Open WebUI where several versions are needed: a page with notes in its database, which each changes.

As the real one's: the database is $DATA_DIR/webui.db, in WAL mode. A newer version changes it before it is ready, and
an older one does not start with it then. 0.11.3 is broken: it changes the database and fails.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from typing import Any

from common import Handler, Refusal, Server, die

DATABASE = f"{os.environ['DATA_DIR']}/webui.db"
VERSION = int(os.environ["STANDIN_VERSION"].rpartition(".")[2])
BROKEN = 3


def ask(words: str, *values: Any) -> list[Any]:
    """The rows of an answer, each its first value."""
    with sqlite3.connect(DATABASE) as database:
        return [row[0] for row in database.execute(words, values)]


def migrate() -> None:
    """Bring the database to this version; the table of each has another name."""
    ask("PRAGMA journal_mode = WAL")
    (found,) = ask("PRAGMA user_version")
    if found > VERSION:
        die(f"alembic.util.exc.CommandError: Can't locate revision identified by '{found}'")
    if not found:
        ask(f"CREATE TABLE note_{VERSION} (text)")
    elif found < VERSION:
        ask(f"ALTER TABLE note_{found} RENAME TO note_{VERSION}")
    ask(f"PRAGMA user_version = {VERSION}")
    if VERSION == BROKEN:
        die("sqlite3.OperationalError: no such table: access_grant")


class Page(Handler):
    def answer(self, method: str, path: str, body: Any) -> Any:
        if (method, path) == ("GET", "/ready"):
            return {"status": True}
        if path == "/notes":
            if method == "POST":
                ask(f"INSERT INTO note_{VERSION} VALUES (?)", body["text"])
            return ask(f"SELECT text FROM note_{VERSION}")
        raise Refusal(404, "")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    migrate()
    Server(("0.0.0.0", 8080), Page).serve_forever()


main()
