#!/usr/bin/python3
"""Stands in for llama-gpt's page: /wait (WAIT_HOSTS, WAIT_TIMEOUT), `node ping-api-to-load-model.js`, `npm start`."""

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

from common import Handler, Refusal, Server, die


def wait() -> None:
    """Until every host:port of WAIT_HOSTS accepts."""
    end = time.monotonic() + float(os.environ.get("WAIT_TIMEOUT", "30"))
    for place in filter(None, os.environ.get("WAIT_HOSTS", "").split(",")):
        host, _, port = place.partition(":")
        while True:
            try:
                socket.create_connection((host, int(port)), 2).close()
                break
            except OSError:
                if time.monotonic() > end:
                    die(f"Timeout! After {os.environ.get('WAIT_TIMEOUT', '30')} seconds some hosts are not reachable")
                time.sleep(0.5)


def ask(text: str) -> str:
    """What the model answers."""
    body = {"model": os.environ["DEFAULT_MODEL"], "messages": [{"role": "user", "content": text}]}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    url = os.environ["OPENAI_API_HOST"] + "/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


class Page(Handler):
    def answer(self, method: str, path: str, body: Any) -> Any:
        if (method, path) == ("GET", "/"):
            return "<title>LlamaGPT</title>"
        if (method, path) == ("POST", "/api/chat"):
            return ask(body["messages"][-1]["content"])
        raise Refusal(404, "")


def main() -> None:
    match [Path(sys.argv[0]).name, *sys.argv[1:]]:
        case ["wait"]:
            wait()
        case ["node", "ping-api-to-load-model.js"]:
            try:
                print(ask("ping"))
            except urllib.error.HTTPError as error:
                die(f"Error: {error.code} {error.read().decode(errors='replace')}")
        case ["npm", "start"]:
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
            Server(("0.0.0.0", 3000), Page).serve_forever()
        case words:
            die(f"stand-in: {' '.join(words)} is not what llama-gpt's page is started by")


main()
