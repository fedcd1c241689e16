"""A server on the socket of a user's Docker. `docker_server.py SOCKET MODE JOURNAL ANSWERS`

MODE silent: accepts every connection and never answers. MODE lying: answers like Docker's API, with the contents of
ANSWERS (JSON: `info`, `containers`, `image`). MODE drowsy: forwards questions to the real Docker at SOCKET.real; a
request that would change something never ends. MODE fading: the same, and no request after that one ends either.
JOURNAL gets a line for each request: the client's uid, and the request.
"""

import http.client
import json
import re
import socket
import socketserver
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

SOCKET, MODE, JOURNAL, ANSWERS_AT = sys.argv[1:]
ANSWERS = json.loads(Path(ANSWERS_AT).read_text())
CHANGING = threading.Event()
"""Somebody asked for a change."""


def uid_of(connection):
    return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]


def write_down(*words):
    with Path(JOURNAL).open("a") as journal:
        journal.write(json.dumps(words) + "\n")


class Silent(socketserver.BaseRequestHandler):
    def handle(self):
        write_down(uid_of(self.request), "connected")
        time.sleep(3600)


class Lying(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "docker"

    def log_message(self, *words):
        pass

    def answer(self):
        write_down(uid_of(self.connection), f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        if MODE in ("drowsy", "fading"):
            change = self.command not in ("GET", "HEAD")
            if change:
                CHANGING.set()
            if change or (MODE == "fading" and CHANGING.is_set()):
                time.sleep(3600)
            return self.answer_of(SOCKET + ".real")
        path = re.sub(r"^/v[0-9.]+", "", self.path).partition("?")[0]
        containers = ANSWERS.get("containers", [])
        found = re.match(r"/containers/([^/]+)/json", path)
        if path == "/_ping":
            return self.send("OK")
        if path == "/info":
            return self.send(ANSWERS["info"])
        if path == "/version":
            return self.send({"Version": ANSWERS["info"]["ServerVersion"], "ApiVersion": "1.45"})
        if path == "/containers/json":
            return self.send([each["listed"] for each in containers])
        if path.startswith("/images/") and path.endswith("/json"):
            return self.send(ANSWERS["image"])
        if path == "/images/json":
            return self.send([ANSWERS["image"]])
        if found:
            # an unknown container counts as the first one: a lying server knows every name
            named = [each for each in containers if found.group(1) in (each["inspected"]["Id"], each["name"])]
            return self.send((named or containers)[0]["inspected"])
        if self.command in ("POST", "DELETE"):
            return self.send({})
        return self.send({"message": "no such thing"}, 404)

    def answer_of(self, real):
        connection = http.client.HTTPConnection("docker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(real)
        connection.request(self.command, self.path)
        answer = connection.getresponse()
        return self.send(answer.read(), answer.status, answer.headers)

    do_GET = do_POST = do_DELETE = do_HEAD = do_PUT = answer

    def send(self, said, status=200, headers=None):
        headers = headers or {"Api-Version": "1.45", "Ostype": "linux", "Content-Type": "application/json"}
        body = (
            said if isinstance(said, bytes) else said.encode() if isinstance(said, str) else json.dumps(said).encode()
        )
        self.send_response(status)
        for name in ("Api-Version", "Ostype", "Content-Type"):
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 100


Path(SOCKET).unlink(missing_ok=True)
Server(SOCKET, Silent if MODE == "silent" else Lying).serve_forever()
