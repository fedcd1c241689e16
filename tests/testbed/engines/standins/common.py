"""Shared by the stand-ins of engines: an HTTP server that speaks JSON, GPUs, keys, and ways to fail.

They run in containers of the testbed only. They refuse everything they do not know, so that no mistake in gpurack's
settings for an engine goes unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Refusal(Exception):
    """An unsuccessful answer: its HTTP status, and the engine's body."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(body)
        self.status, self.body = status, body


class Server(ThreadingHTTPServer):
    """Listens on request, not on creation, because engines bind their port long before or after they answer."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


class Handler(BaseHTTPRequestHandler):
    """One request. The stand-in of an engine returns the answer in `answer`."""

    protocol_version = "HTTP/1.1"

    def answer(self, method: str, path: str, body: Any) -> Any:
        """The engine's answer: a JSON value, text, or an iterator of JSON values, which are sent as lines."""
        raise NotImplementedError

    def handle_request(self) -> None:
        """Read the request, call `answer`, and send its result or refusal."""
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        try:
            try:
                body = json.loads(raw) if raw else {}
            except ValueError:
                raise Refusal(400, {"error": "invalid JSON"}) from None
            found = self.answer(self.command, self.path.partition("?")[0], body)
        except Refusal as refusal:
            self.reply(refusal.status, refusal.body)
            return
        if isinstance(found, Iterator):
            self.stream(found)
        else:
            self.reply(200, found)

    do_GET = do_POST = do_DELETE = do_HEAD = handle_request

    def reply(self, status: int, body: Any) -> None:
        """Send text unchanged and anything else as JSON."""
        plain = isinstance(body, str)
        data = body.encode() if plain else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def stream(self, values: Iterator[Any]) -> None:
        """Send JSON values as lines, each as soon as it exists."""
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for value in values:
            line = json.dumps(value).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def bearer(self) -> str | None:
        """The key in the request."""
        kind, _, key = (self.headers.get("Authorization") or "").partition(" ")
        return key.strip() if kind == "Bearer" else None

    def log_message(self, format: str, *args: Any) -> None:
        """Like the engines: method, path and status, no headers."""
        sys.stdout.write(f'INFO:     "{self.requestline}" {args[1] if len(args) > 1 else ""}\n')
        sys.stdout.flush()


def cards() -> list[tuple[str, int, str]]:
    """(UUID, MiB, compute capability) of each GPU that this container really has; [] without any."""
    query = ["nvidia-smi", "--query-gpu=uuid,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return []
    if done.returncode != 0:
        return []
    rows = [re.split(r",\s*", line) for line in done.stdout.splitlines() if line.strip()]
    return [(uuid, int(memory), compute) for uuid, memory, compute in rows]


def free_memory() -> list[int]:
    """Free MiB of each GPU."""
    query = ["nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits"]
    rows = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    pairs = (map(int, row.split(",")) for row in rows)
    return [total - used for total, used in pairs]


def vector(text: str, width: int = 8) -> list[float]:
    """An embedding of length 1, the same for the same text."""
    raw = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:width]]
    norm = sum(value * value for value in raw) ** 0.5
    return [value / norm for value in raw]


def die(sentence: str, code: int = 1) -> None:
    """Exit with the engine's last message."""
    print(sentence, file=sys.stderr, flush=True)
    sys.exit(code)
