"""A stand-in for LiteLLM that starts at once: it forwards requests to the one model in its configuration."""

import http.server
import json
import os
import re
import urllib.request
from pathlib import Path

CONFIG = Path("/etc/gpurack/litellm.yaml")


class Gateway(http.server.BaseHTTPRequestHandler):
    """It is ready, lists the model, and forwards that model's answer."""

    served = base = ""

    def do_GET(self) -> None:
        self.answer(json.dumps({"data": [{"id": self.served}]}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url = self.base + self.path.removeprefix("/v1")
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            self.answer(response.read())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    config = CONFIG.read_text()
    Gateway.served, Gateway.base = (re.findall(rf"{word}: (\S+)", config)[0] for word in ("model_name", "api_base"))
    Path(os.environ["GATEWAY_HOST_KEY"]).write_text("sk-of-the-host")
    http.server.ThreadingHTTPServer(("", 4000), Gateway).serve_forever()
