"""Keys are text: every character reaches the server unchanged, or the key is refused where it is read."""

import json
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from gpurack.engines.container import with_secrets
from gpurack.facts.snapshot import script
from gpurack.inventory.secrets import read_secrets
from gpurack.plan.models import files
from gpurack.plan.questions import questions
from gpurack.spec.problems import InventoryError
from gpurack.spec.secret import Secret, SecretError
from tests.given import models
from tests.unit.host_programs import load, without_parts

ODD = 'ab"cd\\ef'
CONTROLS = ["\x00", "\x01", "\x07", "\b", "\t", "\x0b", "\x1b[2J", "\x7f", "\x85", "\x9b31m"]


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
def test_refuses_key_with_control_character(tmp_path: Path, character: str) -> None:
    (tmp_path / "key").write_text(f"sk-first{character}second\n")
    with pytest.raises(SecretError) as refused:
        Secret(file=str(tmp_path / "key")).read()
    said = str(refused.value)
    assert said.startswith(f"file {tmp_path}/key holds ")
    assert "first" not in said
    assert "second" not in said
    assert said.isprintable()


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n", "\u2028", "\x0c", "\x1c", "\x85"], ids=ascii)
def test_key_opens_no_line_of_its_own(monkeypatch: pytest.MonkeyPatch, line_break: str) -> None:
    """`x\\nurl = file:///etc/shadow` would be a line of curl's configuration."""
    monkeypatch.setenv("KEY", f"x{line_break}url = file:///etc/shadow")
    with pytest.raises(SecretError, match="environment variable KEY holds "):
        Secret(env="KEY").read()


def test_error_names_source_without_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-bad\x1b]0;owned\x07")
    with pytest.raises(InventoryError) as refused:
        models(alpha={"api_key": {"env": "KEY"}})
    [problem] = refused.value.problems
    assert (problem.host, problem.path) == ("gpu1", "models.alpha.api_key")
    assert "environment variable KEY holds a control character" in problem.what
    assert "owned" not in problem.what


@pytest.mark.parametrize("key", [ODD, "it's", "a b", "$HOME `id` $(id)", "#x", "{a}", "ключ", "%0a%0d", "'; id; '"])
def test_keeps_every_other_character(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("KEY", f"{key}\n")
    wanted = models(alpha={"api_key": {"env": "KEY"}})
    assert read_secrets(wanted) == {"alpha": {"api_key": key}}


@pytest.mark.parametrize("key", [ODD, "$HOME `id` $(id)", "'; id; '", "a b"])
def test_container_exports_key_unchanged(tmp_path: Path, key: str) -> None:
    """Its shell reads the file; nothing in it is executed or split."""
    (tmp_path / "key").write_text(f"{key}\n")
    show = [sys.executable, "-c", "import os; print(os.environ['KEY'])"]
    entrypoint, command = with_secrets({"KEY": str(tmp_path / "key")}, show)
    done = subprocess.run([*entrypoint, *command], capture_output=True, text=True, check=True)
    assert done.stdout == f"{key}\n"


def test_keys_of_clients_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpurack.engines.container import Container

    text = files.contents(Container(), {"keys.admin@uni.example": ODD}, hash_keys=False)["keys"]
    assert json.loads(text) == {"admin@uni.example": ODD}


class Seen(BaseHTTPRequestHandler):
    """Records the requests that it receives."""

    headers_seen: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.headers_seen.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def server() -> Any:
    """An address, and the Authorization headers that it received."""
    Seen.headers_seen = []
    served = HTTPServer(("127.0.0.1", 0), Seen)
    Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/", Seen.headers_seen
    served.shutdown()
    served.server_close()


real_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@real_curl
@pytest.mark.parametrize("key", [ODD, '"', "\\", '\\"', 'a"\\nurl = "file:///etc/shadow', "it's", "\\t\\x41"])
def test_passes_key_through_curls_configuration(server: tuple[str, list[str | None]], key: str) -> None:
    """Before, `ab"cd\\ef` was sent as `ab`, and every answer was 401."""
    url, seen = server
    lines = load("fetch").with_token(key)
    subprocess.run(["curl", "-K", "-", "-sS", "--noproxy", "*", url], input=lines, capture_output=True, check=True)
    assert seen == [f"Bearer {key}"]


@real_curl
@pytest.mark.parametrize("key", [ODD, 'a"\\nurl = "file:///etc/shadow'])
def test_snapshot_sends_key_unchanged(tmp_path: Path, server: tuple[str, list[str | None]], key: str) -> None:
    url, seen = server
    (tmp_path / "key").write_text(f"{key}\n")
    question = f"UPSTREAMS='|chat|0|{tmp_path}/key|{url}'\n"
    text = without_parts(script(questions(models())), "upstreams").replace("UPSTREAMS=''\n", question)
    assert question in text
    subprocess.run(["sh", "-s"], input=text.encode(), capture_output=True, check=True, timeout=60)
    assert seen == [f"Bearer {key}"]
