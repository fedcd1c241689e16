"""Hosts of this suite's own, so that it can run beside the others, and a client's view of what runs there."""

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
    """The running testbed, with the hosts of all modules that are not about single engines."""
    return Testbed.up(["gpu2", "cpu2"], prepared=True)


@pytest.fixture(scope="session")
def engine1(testbed: Testbed) -> Host:
    """A host with four cards, for models of every engine; each module puts its own in the place of the last one's."""
    return testbed.add("engine1", "gpu", prepared=True)


@pytest.fixture(scope="session")
def desk(testbed: Testbed) -> Host:
    """A person's computer: it has curl, and nothing of gpurack's."""
    host = testbed.add("desk1", "cpu")
    host.root("command -v curl || { apt-get update && apt-get install --yes --no-install-recommends curl; }")
    return host


def nothing_changes(host: Host, deploy: Callable[[], Run]) -> None:
    """Another run is one look at the host."""
    before = identities(host)
    again = deploy()
    assert again.unchanged, again.output
    assert host.ssh_commands(again.begun) == 1
    assert identities(host) == before


def post(host: Host, port: int, path: str, body: Any, key: str | None = None) -> tuple[int, Any]:
    """Status and answer of a request that curl makes on the host itself; the answer as it is where it is no JSON."""
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
    """What a model said in a chat."""
    return str(answer["choices"][0]["message"]["content"])


def tried(lab: Lab, desk: Host, key: str) -> dict[str, Any]:
    """What comes of each line that `gpurack endpoints` prints for the lab, typed as it is by a person at another host:
    name of the model → kind and answer."""
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
    """Of the embeddings in an answer: cosine of 0 and 1, 0 and 2, 1 and 2."""
    vectors = [one["embedding"] for one in sorted(answer["data"], key=lambda one: int(one["index"]))]

    def product(one: int, other: int) -> float:
        return float(sum(a * b for a, b in zip(vectors[one], vectors[other], strict=True)))

    return [product(i, j) / (product(i, i) * product(j, j)) ** 0.5 for i, j in ((0, 1), (0, 2), (1, 2))]
