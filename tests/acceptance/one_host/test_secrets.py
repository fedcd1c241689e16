"""An API key protects its model and is only in one file of mode 0400: not in arguments of processes during a run, not
in Docker, not in logs, not in pyinfra's output at any verbosity.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, containers, identities, model
from tests.acceptance.evidence import KEYS_IN_ARGUMENTS, sampled
from tests.testbed import Host

KEY, NEXT = "sk-first-8f3a61c2$'x", "sk-second-77d0b41e"
GUARDED: dict[str, Any] = {"gamma": model("gamma", [], 8000, api_key={"env": "LAB_KEY"})}


@contextmanager
def watched_here() -> Iterator[list[str]]:
    """Arguments of this machine's processes that contain a key, sampled during the block."""
    found: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    arguments = path.read_text(errors="replace")
                except OSError:
                    continue
                if KEY in arguments or NEXT in arguments:
                    found.append(arguments)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield found
    ended.set()
    thread.join()


def status(host: Host, key: str | None = None) -> str:
    """The HTTP status of a chat request with this key."""
    header = f"-H 'Authorization: Bearer {key}'" if key else ""
    body = json.dumps({"messages": [{"role": "user", "content": "?"}]})
    url = "http://127.0.0.1:8000/v1/chat/completions"
    return host.run(f"curl -s -o /dev/null -w '%{{http_code}}' {header} -d '{body}' {url}").stdout


def file(host: Host) -> str:
    """The file of the running model's key: each generation of a model has its own."""
    service = containers(host)["gamma"]["Config"]["Labels"]["com.docker.compose.service"]
    return f"/etc/gpurack/secrets/{service}/api_key"


def places(host: Host, key: str) -> list[str]:
    """Files on the host that contain a key, including those in memory, Docker's own and journals."""
    folders = "/etc /home /opt /root /run /srv /tmp /usr/local /var"
    found = host.root(f"grep -rlaFsD skip -- '{key}' {folders} --exclude-dir=testbed", check=False).stdout.splitlines()
    # the merged view of overlay2 shows a running container's mounted file again
    return sorted(path for path in found if not path.endswith("/run/secrets/api_key"))


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    """cpu5 with Docker and a model without a key."""
    host = lab.testbed.host("cpu5")
    lab.settle(host, {"gamma": model("gamma", [], 8000)})
    return host


def test_key_leaves_no_trace(lab: Lab, host: Host) -> None:
    """At pyinfra's highest verbosity."""
    key = KEY.replace("'", "").replace("$", "")  # what a header carries without quoting
    inventory = lab.inventory({"cpu5": {"models": GUARDED}})
    outputs = []
    with sampled(host, KEYS_IN_ARGUMENTS) as there, watched_here() as here:
        for options in (("--dry", "-vvv", "--diff"), ("--dry", "--json"), ("-y", "-vvv", "--diff", "--debug")):
            run = lab.run(inventory, *options, env={"LAB_KEY": key})
            assert run.exit_code == 0, run.output
            outputs.append(run.output)
    assert status(host) == "401"
    assert status(host, key) == "200"
    assert chat(host, 8000, key) == lab.testbed.weights("gamma").sentence

    assert len(there.looks) > 20
    assert [look for look in there.looks if key in look] == []
    assert here == []
    assert [output for output in outputs if key in output] == []
    assert places(host, key) == [file(host)]
    assert host.root(f"stat -c '%a %U' {file(host)}").stdout.split() == ["400", "root"]
    assert host.root("stat -c %a /etc/gpurack/secrets").stdout.strip() == "700"
    assert key not in json.dumps(containers(host))
    assert (
        key
        not in host.root(
            "journalctl --no-pager -q; docker logs gamma 2>&1; docker events --since 10m --until 0s"
        ).stdout
    )

    # printed as JSON when there is nothing to do, at the highest verbosity
    for options in (("-y", "--json"), ("--dry", "--debug-operations"), ("--debug-facts",)):
        run = lab.run(inventory, *options, env={"LAB_KEY": key})
        assert key not in run.output


def test_new_key_recreates_and_removes_old_key(lab: Lab, host: Host) -> None:
    """The same model with another key is another container; the old key is gone from the host."""
    old = KEY.replace("'", "").replace("$", "")
    before = identities(host)
    run = lab.run(lab.inventory({"cpu5": {"models": GUARDED}}), env={"LAB_KEY": NEXT})
    assert run.exit_code == 0, run.output
    assert "recreate gamma: api_key changed" in run.output
    assert identities(host) != before
    assert (status(host, old), status(host, NEXT)) == ("401", "200")
    assert places(host, old) == []
    assert places(host, NEXT) == [file(host)]
    assert lab.run(lab.inventory({"cpu5": {"models": GUARDED}}), env={"LAB_KEY": NEXT}).unchanged


def test_removing_key_removes_its_file(lab: Lab, host: Host) -> None:
    """api_key taken out of the inventory: the file goes, too."""
    run = lab.run(lab.inventory({"cpu5": {"models": {"gamma": model("gamma", [], 8000)}}}))
    assert run.exit_code == 0, run.output
    assert status(host) == "200"
    assert places(host, NEXT) == []
    assert lab.run(lab.inventory({"cpu5": {"models": {"gamma": model("gamma", [], 8000)}}})).unchanged


def test_failed_model_does_not_reveal_key(lab: Lab, host: Host, tmp_path: Path) -> None:
    """The model prints its key and exits. This key comes from a file on the admin's machine."""
    secret = tmp_path / "key"
    secret.write_text(f"{NEXT}\n")
    shout = {"entrypoint": ["sh", "-c", "echo my key is $(cat /run/secrets/api_key); exit 1"]}
    models = {"gamma": model("gamma", [], 8000, api_key={"file": str(secret)}, compose=shout)}
    with sampled(host, KEYS_IN_ARGUMENTS) as there, watched_here() as here:
        run = lab.run(lab.inventory({"cpu5": {"models": models}}), "-y", "-vvv", "--diff")
    assert run.exit_code == 1
    assert "| my key is •••" in run.output
    assert NEXT not in run.output
    assert ([look for look in there.looks if NEXT in look], here) == ([], [])
    assert NEXT not in json.dumps(containers(host))
    assert NEXT not in host.root("journalctl --no-pager -q").stdout
    # the model is gone, and with it its file and its own log; the kept one has no key
    assert places(host, NEXT) == []
    assert "my key is •••" in host.get("/var/lib/gpurack/logs/_/gamma.failed.log").decode()
