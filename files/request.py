#!/usr/bin/env python3
"""One HTTP request to a model of this host. A part of models.py.

For a model in a user's Docker it runs as a program of that user, because the user's program listens at that port. The
request then comes as JSON on standard input, so that its key is in no argv; standard output gets the answer's status as
one line of JSON, then its body. Runs on the host's own python3 (3.6 or newer, standard
library only).
"""

import contextlib
import http.client
import json
import re
import socket
import sys
import threading
from urllib.parse import urlsplit


class Late(OSError):
    """The time limit was exceeded."""


def ask(query):
    """Yield the answer's status, then pieces of its body. Raises OSError.

    query: url (its host and port), path, method, body (data or None), key (or None), silence: seconds without a byte,
    limit: seconds altogether."""
    if query["key"] is not None and re.search("[\x00-\x1f\x7f]", query["key"]):
        raise OSError("the key contains control characters")
    place = urlsplit(query["url"])
    headers = {"Content-Type": "application/json"} if query["body"] is not None else {}
    if query["key"] is not None:
        headers["Authorization"] = "Bearer " + query["key"]
    body = json.dumps(query["body"]) if query["body"] is not None else None
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=min(query["silence"], query["limit"]))
    over, late = threading.Event(), Late("no complete answer within {} s".format(query["limit"]))
    watch = None
    try:
        connection.connect()
        # the socket by itself: the connection forgets it where the server is going to close it
        watch = threading.Timer(query["limit"], end, (connection.sock, over))
        watch.daemon = True
        watch.start()
        connection.request(query["method"], query["path"], body, headers)
        response = connection.getresponse()
        yield response.status
        for piece in iter(lambda: response.read1(65536), b""):
            yield piece
        if response.length:
            raise OSError("the answer was cut off")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise (late if over.is_set() else OSError(str(error) or type(error).__name__)) from None
    finally:
        if watch:
            watch.cancel()
        connection.close()
    if over.is_set():
        raise late


def end(link, over):
    """End a connection at the limit: a server that sends a byte now and then never hits the socket's timeout."""
    over.set()
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)


def main():
    out, begun = sys.stdout.buffer, False
    try:
        for piece in ask(json.load(sys.stdin)):
            out.write(piece if begun else json.dumps({"status": piece}).encode() + b"\n")
            out.flush()
            begun = True
    except OSError as error:
        if not begun:
            out.write(json.dumps({"why": str(error)}).encode() + b"\n")
        return 2 if isinstance(error, Late) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
