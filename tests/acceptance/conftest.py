"""Fixtures and helpers of the acceptance tests: hosts of the testbed, inventories, and the pyinfra command.

State is read without gpurack's code: by ssh, docker, curl, sshd's log and testinfra.
"""

from __future__ import annotations

import json
import os
import pprint
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import Host, Testbed
from tests.testbed.inventory import common, reach, weights
from tests.testbed.prepared import models

CHECKOUT = Path(__file__).resolve().parents[2]
PYINFRA = str(Path(sys.executable).parent / "pyinfra")
GPURACK = str(Path(sys.executable).parent / "gpurack")
RUN_TIMEOUT = 300


@dataclass(frozen=True)
class Run:
    """A finished pyinfra run."""

    exit_code: int
    output: str
    """Standard output and error, without colours."""
    begun: float
    """Seconds since the epoch; for Host.ssh_commands(since)."""

    @property
    def unchanged(self) -> bool:
        """Did it report no change at all?"""
        done = any(line.rstrip().endswith("] Success") for line in self.output.splitlines())
        return self.exit_code == 0 and "nothing changed" in self.output and not done

    @property
    def only_tested(self) -> bool:
        """Did it change nothing, and only test models that were started since their last test, if any?"""
        changes = [line for line in self.output.splitlines() if "] ~ " in line]
        tests = [line for line in changes if line.rstrip().endswith(": it was started since its last test")]
        return self.exit_code == 0 and "nothing changed" in self.output and changes == tests

    def lines(self, host: str) -> list[str]:
        """The lines that pyinfra printed for one host."""
        return [line for line in self.output.splitlines() if line.strip().startswith(f"[{host}]")]

    def row(self, host: str, model: str = "-") -> str:
        """The line of one model in the final table, with white space squeezed; "" if there is none."""
        lines = (" ".join(line.split()) for line in self.output.splitlines())
        return next((line for line in lines if line.startswith(f"{host} {model} ")), "")

    def errors(self, host: str) -> list[str]:
        """The errors of one host below the table."""
        start = f"error {host} "
        return [line.removeprefix(start) for line in self.output.splitlines() if line.startswith(start)]

    @property
    def traceback(self) -> bool:
        """Did anything end in a traceback instead of a message?"""
        return "Traceback (most recent call last)" in self.output


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed (`python -m tests.testbed up`)."""
    return Testbed.up(["gpu1", "cpu1"], prepared=True)


@dataclass
class Lab:
    """Writes inventories and runs pyinfra on them."""

    testbed: Testbed
    folder: Path

    def inventory(self, hosts: dict[str, dict[str, Any]], over: dict[str, Any] | None = None) -> Path:
        """Write an inventory of testbed hosts. over: replaces the data that all hosts share."""
        entries = [(name, {**reach(name), **data}) for name, data in hosts.items()]
        path = self.folder / "lab.py"
        path.write_text(f"lab = {pprint.pformat((entries, {**common(), **(over or {})}), sort_dicts=False)}\n")
        return path

    def env(self) -> dict[str, str]:
        """The environment of a run. Remembered headers of weights are kept in the test's own folder."""
        return {**os.environ, "PYTHONUNBUFFERED": "1", "XDG_STATE_HOME": str(self.folder / "state")}

    def argv(self, inventory: Path, *options: str, deploy: str = "gpu_host") -> list[str]:
        """The command line of an admin. deploy: a name in deploys/, or the path of another deploy file."""
        return [PYINFRA, str(inventory), deploy if deploy.endswith(".py") else f"deploys/{deploy}.py", *options]

    def run(
        self,
        inventory: Path,
        *options: str,
        deploy: str = "gpu_host",
        env: dict[str, str] | None = None,
        stdin: str | None = None,
        yes: bool = True,
        timeout: float = RUN_TIMEOUT,
        confirm: bool = True,
    ) -> Run:
        """Run pyinfra as an admin would, without a terminal; with -y unless options are given or `yes` is False.

        confirm: run again with the number that a refused removal names, once for each host.
        """
        words = options or (("-y",) if yes else ())
        run = self.run_once(inventory, *words, deploy=deploy, env=env, stdin=stdin, timeout=timeout)
        for _ in self.testbed.hosts if confirm and "-y" in words else ():
            number = re.search(r"pyinfra: --data allow_remove=(\d+)", run.output)
            if not number:
                break
            more = ("--data", f"allow_remove={number[1]}")
            run = self.run_once(inventory, *words, *more, deploy=deploy, env=env, stdin=stdin, timeout=timeout)
        return run

    def run_once(
        self,
        inventory: Path,
        *options: str,
        deploy: str,
        env: dict[str, str] | None,
        stdin: str | None,
        timeout: float,
    ) -> Run:
        """One run of pyinfra with exactly these options."""
        begun = time.time()
        done = subprocess.run(
            self.argv(inventory, *options, deploy=deploy),
            cwd=CHECKOUT,
            env={**self.env(), **(env or {})},
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        output = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", done.stdout + done.stderr)
        return Run(done.returncode, output, begun)

    def settle(self, host: Host, models: dict[str, Any]) -> None:
        """Bring a host from any state to one that serves exactly these models."""
        if host.has_gpus:
            host.gpus.reset()
        host.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
        run = self.run(self.inventory({host.name: {"models": models}}))
        assert run.exit_code == 0, run.output

    def start(
        self, inventory: Path, *options: str, deploy: str = "gpu_host", env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a run without waiting; the caller waits for it or kills it."""
        return subprocess.Popen(
            self.argv(inventory, *(options or ("-y",)), deploy=deploy),
            cwd=CHECKOUT,
            env={**self.env(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def lab(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Runs pyinfra on inventories of the tests."""
    return Lab(testbed, tmp_path_factory.mktemp("lab"))


@pytest.fixture
def gpu1(testbed: Testbed) -> Iterator[Host]:
    """The host with four GPUs, as the previous test left it. Its simulated GPUs are healthy again afterwards."""
    host = testbed.host("gpu1")
    yield host
    host.gpus.reset()


@pytest.fixture
def cpu1(testbed: Testbed) -> Host:
    """The host without GPUs."""
    return testbed.host("cpu1")


@pytest.fixture(scope="session")
def fresh(testbed: Testbed) -> Callable[[str], Host]:
    """Recreates a host from its base image, for tests of installation."""
    return testbed.recreate


@pytest.fixture(scope="session")
def prepared(testbed: Testbed) -> Callable[[str], Host]:
    """Recreates a host as the main job leaves it (tests/testbed/prepared.py), for all other tests."""
    return testbed.prepared


def model(name: str, gpus: list[int] | str, port: int, **fields: Any) -> dict[str, Any]:
    """A model entry whose weights are the served model `name`."""
    return {"weights": weights(name), "gpus": gpus, "port": port, **fields}


def standard() -> dict[str, dict[str, Any]]:
    """The usual inventory, which prepared hosts have: the four served models once each, on GPU 0, on GPUs 1 and 2, and
    on the CPU of each host."""
    return {name: {"models": models(kind)} for name, kind in (("gpu1", "gpu"), ("cpu1", "cpu"))}


def containers(host: Host) -> dict[str, dict[str, Any]]:
    """All containers of a host by name, as `docker inspect` has them. One that is removed meanwhile is left out."""
    ids = host.root("docker ps -aq --no-trunc").stdout.split()
    inspected = json.loads(host.root(f"docker inspect {' '.join(ids)}", check=False).stdout) if ids else []
    return {data["Name"].lstrip("/"): data for data in inspected}


def identities(host: Host) -> dict[str, tuple[str, str]]:
    """Name → (id, StartedAt) of every container, to show that none was touched."""
    return {name: (data["Id"], data["State"]["StartedAt"]) for name, data in containers(host).items()}


def chat(host: Host, port: int, key: str | None = None) -> str:
    """A model's answer to a chat request, sent by curl on the host itself."""
    body = json.dumps({"messages": [{"role": "user", "content": "Who are you?"}]})
    header = f"-H 'Authorization: Bearer {key}'" if key else ""
    answer = host.run(
        f"curl -sS --max-time 20 {header} -H 'Content-Type: application/json' -d '{body}' "
        f"http://127.0.0.1:{port}/v1/chat/completions"
    ).stdout
    return str(json.loads(answer)["choices"][0]["message"]["content"])


def status(inventory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`gpurack status` as cron runs it."""
    return subprocess.run(
        [GPURACK, "status", str(inventory), *options],
        cwd=CHECKOUT,
        env=os.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def cards(host: Host, container: str) -> list[str]:
    """The UUIDs that `nvidia-smi -L` lists inside a container."""
    return re.findall(r"GPU-[0-9a-f-]+", host.root(f"docker exec {container} nvidia-smi -L").stdout)
