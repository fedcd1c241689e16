#!/usr/bin/python3
"""Stand-in for llama-gpt's page: /wait (ufoscout/docker-compose-wait), `node ping-api-to-load-model.js`, `npm start`.

As in their sources (getumbrel/llama-gpt, ui/): the ping names no model and accepts any JSON answer, also an error.
DEFAULT_MODEL counts only if it is one of the page's own models; for any other name the page requests its first one. An
error of the model is shown as "Error".
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common import Handler, Refusal, Server, die

KNOWN = {
    "OPENAI_API_KEY", "OPENAI_API_HOST", "DEFAULT_MODEL", "GOOGLE_API_KEY", "GOOGLE_CSE_ID",
    "NEXT_PUBLIC_DEFAULT_SYSTEM_PROMPT", "NEXT_PUBLIC_DEFAULT_TEMPERATURE",
    "WAIT_HOSTS", "WAIT_TIMEOUT", "WAIT_HOST_CONNECT_TIMEOUT", "WAIT_SLEEP_INTERVAL", "WAIT_LOGGER_LEVEL",
}  # fmt: skip
"""The variables that the page and /wait read, except those of unsimulated functions: Azure's addresses, WAIT_COMMAND,
WAIT_PATHS, …
"""
SURROUNDINGS = {"PATH", "HOME", "HOSTNAME", "TERM", "PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE", "PYTHONUNBUFFERED",
                "STANDIN_TAG", "STANDIN_VERSION"}  # fmt: skip
"""Variables set by the container's runtime, shell, Python and image."""
MODELS = [
    *(f"{place}/models/llama-2-{size}-chat.bin" for place in ("", ".") for size in ("7b", "13b", "70b")),
    *(f"{place}/models/code-llama-{size}-chat.gguf" for place in ("", ".") for size in ("7b", "13b", "34b")),
]
"""From ui/types/openai.ts; the first one replaces any unknown model."""


def check_environment() -> None:
    """Refuse variables that nothing reads."""
    for name in sorted(os.environ.keys() - KNOWN - SURROUNDINGS):
        die(f"stand-in: neither llama-gpt's page nor /wait reads {name}, or it is not played here")


def number(name: str, default: int) -> int:
    """The value of a variable of /wait; the default if it is not a number."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default


def wait() -> None:
    """Wait until every host:port of WAIT_HOSTS accepts a connection."""
    timeout, begun = number("WAIT_TIMEOUT", 30), time.monotonic()
    for place in filter(None, map(str.strip, os.environ.get("WAIT_HOSTS", "").split(","))):
        host, _, port = place.partition(":")
        while True:
            try:
                socket.create_connection((host, int(port)), number("WAIT_HOST_CONNECT_TIMEOUT", 5)).close()
                break
            except OSError:
                print(f"Host [{place}] not yet available...", flush=True)
                if time.monotonic() - begun > timeout:
                    die(f"Timeout! After {timeout} seconds some hosts are still not reachable")
                time.sleep(number("WAIT_SLEEP_INTERVAL", 1))


def send(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and answer of the model. Raises OSError without an answer, ValueError for invalid JSON."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    request = urllib.request.Request(os.environ["OPENAI_API_HOST"] + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)


def ping() -> None:
    """Make the model load. Any answer will do."""
    place = urlsplit(os.environ["OPENAI_API_HOST"])
    try:
        print("API response:", send("/v1/completions", {"prompt": 'Reply with "69"', "stop": ["\n"]})[1])
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror):
            die(f"Error: Error: getaddrinfo ENOTFOUND {place.hostname}")
        die(f"Error: Error: connect ECONNREFUSED {place.netloc}")
    except ValueError as error:
        die(f"SyntaxError: {error}")


def ask(text: str) -> str:
    """The model's answer."""
    name = os.environ.get("DEFAULT_MODEL")
    body = {"model": name if name in MODELS else MODELS[0], "messages": [{"role": "user", "content": text}]}
    status, answer = send("/v1/chat/completions", body)
    if status != 200:
        print(answer, file=sys.stderr, flush=True)
        raise Refusal(500, "Error")
    return str(answer["choices"][0]["message"]["content"])


class Page(Handler):
    def answer(self, method: str, path: str, body: Any) -> Any:
        if (method, path) == ("GET", "/"):
            return "<title>LlamaGPT</title>"
        if (method, path) == ("POST", "/api/chat"):
            return ask(body["messages"][-1]["content"])
        raise Refusal(404, "")


def main() -> None:
    check_environment()
    match [Path(sys.argv[0]).name, *sys.argv[1:]]:
        case ["wait"]:
            wait()
        case ["node", "ping-api-to-load-model.js"]:
            ping()
        case ["npm", "start"]:
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
            Server(("0.0.0.0", 3000), Page).serve_forever()
        case words:
            die(f"stand-in: {' '.join(words)} is not what llama-gpt's page is started by")


main()
