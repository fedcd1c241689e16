"""Web UIs: the real Open WebUI behind a gateway, with its first account from the inventory, by a real browser and its
API; llama-gpt's page (a stand-in) with a model of llama-cpp-python. All on one host, by name.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, TimeoutError, expect

from tests.acceptance.conftest import Lab, Run, containers, model
from tests.acceptance.evidence import told
from tests.acceptance.verification import is_right
from tests.testbed import Host
from tests.testbed.browser import browser

ENV = {"WORKER": "sk-worker-4417", "PAGE": "sk-page-9d20", "ADMIN": "correct horse 5"}
ADMIN = "admin@uni.example"
PAGE_TIMEOUT = 60_000
"""Milliseconds until the page must show something. Its first load is 10 MB of JavaScript."""
SERVICES: dict[str, Any] = {
    "chat": {
        "engine": "open-webui", "version": "0.12.4", "port": 3000, "bind": "lan", "connects_to": ["gateway"],
        "keys": {ADMIN: {"env": "ADMIN"}},
    },
    "gateway": {
        "engine": "litellm", "version": "1.109.1", "port": 4000, "connects_to": "all",
        "keys": {"chat": {"env": "PAGE"}},
    },
    "old-page": {"engine": "llama-gpt", "port": 3001, "connects_to": ["saiga"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def up(lab: Lab) -> tuple[Host, Run]:
    """cpu2 with one model and all services in front of it, from one run."""
    lab.testbed.serve_engines("litellm", "open-webui", "llama-cpp-python", "llama-gpt")
    host = lab.testbed.host("cpu2")
    host.root(
        "command -v docker >/dev/null && { docker ps -aq | xargs -r docker rm -f; docker volume prune -af; }",
        check=False,
    )
    saiga = model("alpha", [], 8001, engine="llama-cpp-python", version="0.3.36", api_key={"env": "WORKER"})
    run = lab.run(lab.inventory({"cpu2": {"models": {"saiga": saiga}, "services": SERVICES}}), env=ENV)
    assert run.exit_code == 0, run.output
    return host, run


def post(host: Host, path: str, body: Any, token: str = "", port: int = 3000) -> tuple[int, Any]:
    """(HTTP status, answer) of a request to a page."""
    address = host.run("hostname").stdout.strip() if port == 3000 else "127.0.0.1"
    key = f"-H 'Authorization: Bearer {token}' " if token else ""
    given = f"-H 'Content-Type: application/json' -d '{json.dumps(body)}' " if body is not None else ""
    out = host.run(f"curl -sS --max-time 60 -w '\\n%{{http_code}}' {key}{given}http://{address}:{port}{path}").stdout
    said, _, status = out.rpartition("\n")
    try:
        return int(status), json.loads(said)
    except ValueError:
        return int(status), said


def test_services_start_after_their_connections(up: tuple[Host, Run]) -> None:
    host, run = up
    assert "4 of 4 models and services answered, 4 changed" in run.output
    inspected = containers(host)
    started = {name: inspected[name]["State"]["StartedAt"] for name in ("saiga", "gateway", "chat", "old-page")}
    assert started["saiga"] < started["gateway"] < started["chat"]
    assert started["saiga"] < started["old-page"]


def open_log_in(tab: Page, url: str) -> None:
    """The page with its log-in form. If its first requests to its own server take too long, as on a busy machine, it
    stays empty until it is reloaded."""
    for last in (False, False, True):
        tab.goto(url)
        try:
            tab.locator("input[type=email]").wait_for()
            return
        except TimeoutError:
            if last:
                pytest.fail(f"no log-in form; the page says: {tab.inner_text('body')[:500]!r}")


def test_user_logs_in_and_gets_answer(lab: Lab, up: tuple[Host, Run]) -> None:
    """In a browser: log-in page, the model's name, a question, and the model's sentence. The page requests a title and
    tags at the same time, and no answer cuts off another."""
    host, _ = up
    with browser() as chromium:
        tab = chromium.new_page()
        tab.set_default_timeout(PAGE_TIMEOUT)
        open_log_in(tab, f"http://{host.address}:3000/")
        tab.locator("input[type=email]").fill(ADMIN)
        tab.locator("input[type=password]").fill(ENV["ADMIN"])
        tab.get_by_role("button", name="Sign in").click()
        tab.get_by_role("button", name="Okay, Let's Go!").click()  # the news of this version
        expect(tab.get_by_role("button", name="Selected model: saiga")).to_be_visible(timeout=PAGE_TIMEOUT)
        tab.locator("#chat-input").fill("Who are you?")
        tab.keyboard.press("Enter")
        expect(tab.get_by_text(lab.testbed.weights("alpha").sentence)).to_be_visible(timeout=PAGE_TIMEOUT)


def test_first_account_is_admin_and_later_ones_have_no_access(lab: Lab, up: tuple[Host, Run]) -> None:
    """The administrator asks the model through page and gateway, and gets its sentence."""
    host, _ = up
    status, admin = post(host, "/api/v1/auths/signin", {"email": ADMIN, "password": ENV["ADMIN"]})
    assert (status, admin.get("role")) == (200, "admin"), admin
    status, listed = post(host, "/api/models", None, admin["token"])
    assert "saiga" in {one["id"] for one in listed["data"]}, listed
    question = {"model": "saiga", "stream": False, "messages": [{"role": "user", "content": "Who are you?"}]}
    status, answer = post(host, "/api/chat/completions", question, admin["token"])
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == lab.testbed.weights("alpha").sentence
    assert "used by chat: saiga" in host.root("docker logs gateway 2>&1").stdout
    refusal = post(host, "/api/chat/completions", {**question, "model": "nobody"}, admin["token"])
    assert refusal == (400, {"detail": "Model not found"})
    eve = {"name": "eve", "email": "eve@uni.example", "password": "Let me in, 12!"}
    status, later = post(host, "/api/v1/auths/signup", eve)
    assert status != 200 or later["role"] == "pending", later


def test_legacy_page_shows_sentence_of_model(lab: Lab, up: tuple[Host, Run]) -> None:
    """It requests a model of its own list of 2023; llama-cpp-python answers any name."""
    host, _ = up
    question = {"messages": [{"role": "user", "content": "Who are you?"}]}
    status, said = post(host, "/api/chat", question, port=3001)
    assert (status, lab.testbed.weights("alpha").sentence in str(said)) == (200, True), said


def test_shows_no_key_or_password(up: tuple[Host, Run]) -> None:
    host, run = up
    looks = {"the run": run.output, **told(host)}
    assert [(value, look) for value in ENV.values() for look, said in looks.items() if value in said] == []


def test_second_run_changes_nothing(lab: Lab, up: tuple[Host, Run]) -> None:
    again = lab.run(lab.folder / "lab.py", env=ENV)
    assert again.unchanged, again.output
    is_right(lab, ENV)
