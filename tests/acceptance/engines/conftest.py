"""Hosts of this suite's own, so that it can run beside others, and requests as clients send them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, Run, identities
from tests.testbed import Host, Testbed


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed, with the hosts of all modules that need more than one engine."""
    return Testbed.up(["gpu2", "cpu2"], prepared=True)


@pytest.fixture(scope="session")
def engine1(testbed: Testbed) -> Host:
    """A host with four GPUs for models of every engine; each module replaces the models of the previous one."""
    return testbed.add("engine1", "gpu", prepared=True)


@pytest.fixture(scope="session")
def desk(testbed: Testbed) -> Host:
    """A client's computer: it has curl, and nothing of gpurack."""
    host = testbed.add("desk1", "cpu")
    host.root("command -v curl || { apt-get update && apt-get install --yes --no-install-recommends curl; }")
    return host


def nothing_changes(host: Host, deploy: Callable[[], Run]) -> None:
    """A further run is one snapshot of the host."""
    before = identities(host)
    again = deploy()
    assert again.unchanged, again.output
    assert host.ssh_commands(again.begun) == 1
    assert identities(host) == before


def post(host: Host, port: int, path: str, body: Any, key: str | None = None) -> tuple[int, Any]:
    """(status, answer) of a request that curl sends on the host itself; the answer is text if it is not JSON."""
    header = f"-H 'Authorization: Bearer {key}' " if key else ""
    said = host.run(
        f"curl -sS --max-time 120 -w '\\n%{{http_code}}' -H 'Content-Type: application/json' {header}-d @- "
        f"http://127.0.0.1:{port}{path}",
        stdin=json.dumps(body).encode(),
    ).stdout
    text, _, status = said.rpartition("\n")
    try:
        return int(status), json.loads(text)
    except ValueError:
        return int(status), text


def say(model: str) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 32}


def content(answer: Any) -> str:
    """The text that a model answered in a chat."""
    return str(answer["choices"][0]["message"]["content"])


def tried(lab: Lab, desk: Host, key: str) -> dict[str, Any]:
    """Run each curl command that `gpurack endpoints` prints for the lab on another host: name of the model → (kind,
    answer)."""
    command = [str(Path(sys.executable).parent / "gpurack"), "endpoints", str(lab.folder / "lab.py")]
    said, listed = (
        subprocess.run([*command, *more], env=lab.env(), capture_output=True, text=True, check=True).stdout
        for more in ([], ["--json"])
    )
    printed = [line for line in said.splitlines() if line.startswith("curl ")]
    offers = [one for one in json.loads(listed) if one["curl"]]
    assert printed == [one["curl"] for one in offers]
    found = {}
    for one, line in zip(offers, printed, strict=True):
        answer = desk.run("timeout 120 sh -s", stdin=f"export KEY={key}\n{line}\n".encode()).stdout
        found[one["name"]] = one["kind"], json.loads(answer)
    return found


def similarities(answer: Any) -> list[float]:
    """Cosines of the embeddings in an answer: of 0 and 1, 0 and 2, 1 and 2."""
    vectors = [one["embedding"] for one in sorted(answer["data"], key=lambda one: int(one["index"]))]

    def product(one: int, other: int) -> float:
        return float(sum(a * b for a, b in zip(vectors[one], vectors[other], strict=True)))

    return [product(i, j) / (product(i, i) * product(j, j)) ** 0.5 for i, j in ((0, 1), (0, 2), (1, 2))]
