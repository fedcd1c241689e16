"""Another program works on the host, or its disk is full: wait and say so, or leave everything unchanged.

The tests in order turn a fresh cpu5 whose apt is locked into one that serves.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, containers, identities, model
from tests.testbed import Host, Testbed
from tests.testbed.shell import await_

GOOD: dict[str, Any] = {"gamma": model("gamma", [], 8000)}
LOCK = """#!/usr/bin/perl
# hosts have no python yet; fcntl's locks are those of apt and dpkg
use Fcntl;
open(my $lock, ">>", $ARGV[0]) or die;
my $whole = pack("ssx4qqix4", F_WRLCK, 0, 0, 0, 0);
fcntl($lock, F_SETLKW, $whole) or die;
open(my $flag, ">", $ARGV[1]) or die;
sleep 600;
"""


@pytest.fixture(scope="module")
def host(testbed: Testbed) -> Host:
    """cpu5, fresh at the beginning of this file."""
    return testbed.recreate("cpu5")


@contextmanager
def locked(host: Host, lock: str) -> Iterator[None]:
    """Another program on the host holds a lock of apt, like unattended-upgrades."""
    flag = f"/run/held-{Path(lock).parent.name}"
    unit = f"hold-{Path(lock).parent.name}"
    host.put(LOCK, "/root/hold", 0o755)
    host.root(f"mkdir -p {Path(lock).parent}; systemd-run -q --unit={unit} /root/hold {lock} {flag}")
    await_(lambda: host.root(f"test -e {flag}", check=False).returncode == 0, seconds=10, what=f"{lock} held")
    try:
        yield
    finally:
        host.root(f"systemctl stop {unit}; rm -f {flag}")


class Watched:
    """A run whose output is read while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.output = process, ""

    def until(self, pattern: str) -> str:
        """Read until a line matches, and return that line."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            if re.search(pattern, line):
                return line
        raise AssertionError(f"ended without {pattern!r}:\n{self.output}")

    def end(self) -> int:
        """Read the rest; returns the exit code."""
        assert self.process.stdout
        self.output += self.process.stdout.read()
        return self.process.wait(timeout=60)


def test_waits_for_apt_with_message(lab: Lab, host: Host) -> None:
    """First the package lists are locked, later dpkg. The run waits for both, names what it waits for, and succeeds."""
    inventory = lab.inventory({"cpu5": {"models": GOOD}})
    with locked(host, "/var/lib/dpkg/lock-frontend"):
        with locked(host, "/var/lib/apt/lists/lock"):
            run = Watched(lab.start(inventory))
            line = run.until("apt is busy")
            assert "[cpu5]" in line
            assert "waiting" in line
        run.until(r"\[cpu5\].*Could not get lock /var/lib/dpkg/lock-frontend")
    assert run.end() == 0, run.output
    assert "Traceback" not in run.output
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence


def test_second_run_waits_for_first(lab: Lab, host: Host, tmp_path: Path) -> None:
    """Two admins, one host: the second run names the first, and finds nothing left to do."""
    slow = {"entrypoint": ["sh", "-c", 'sleep 10; exec /app/llama-server "$@"', "slow"]}
    inventory = lab.inventory({"cpu5": {"models": {"gamma": model("gamma", [], 8000, compose=slow)}}})
    first = Watched(lab.start(inventory))
    await_(
        lambda: host.root("test -s /run/gpurack/busy", check=False).returncode == 0, seconds=30, what="the first run"
    )
    second = Watched(lab.start(inventory))
    assert first.end() == 0, first.output
    assert second.end() == 0, second.output
    assert re.search(r"wait for another gpurack run on this host \(models since \d\d:\d\d, pid \d+\)", second.output)
    assert "recreate gamma" in first.output
    assert "recreate gamma" not in second.output
    assert containers(host)["gamma"]["RestartCount"] == 0
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence


@contextmanager
def small_disk(host: Host, path: str, size: str) -> Iterator[None]:
    """Mounts an almost full disk at the path."""
    host.root(f"mkdir -p {path} && mount -t tmpfs -o size={size},mode=755 small {path}")
    try:
        yield
    finally:
        host.root(f"umount {path}")


def test_refuses_weights_without_free_space(lab: Lab, host: Host) -> None:
    """Before the download; the model keeps serving from the old path."""
    lab.settle(host, GOOD)
    before = identities(host)
    with small_disk(host, "/srv/models", "1m"):
        run = lab.run(lab.inventory({"cpu5": {"weights_dir": "/srv/models", "models": GOOD}}))
        left = host.root("ls /srv/models").stdout
    assert run.exit_code == 1, run.output
    (error,) = run.errors("cpu5")
    assert re.fullmatch(
        r"gamma: weights need [\d.]+ MB more, but /srv/models has [\d.]+ MB free\. "
        r"Set `weights_dir`, or remove what nothing uses: gpurack prune INVENTORY --yes\. "
        r"That would free [\d.]+ [kMG]?B there now",
        error,
    ), error
    assert left == ""
    assert identities(host) == before
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence


def test_full_disk_for_own_files_stops_nothing(lab: Lab, host: Host) -> None:
    """compose.yaml cannot be written: the old one is complete, and nothing was stopped."""
    lab.settle(host, GOOD)
    before = identities(host)
    compose = host.get("/etc/gpurack/compose.yaml")
    with small_disk(host, "/etc/gpurack", "4k"):
        host.put(compose, "/etc/gpurack/compose.yaml")
        run = lab.run(lab.inventory({"cpu5": {"models": {"gamma": model("gamma", [], 8000, context=512)}}}))
        assert host.get("/etc/gpurack/compose.yaml") == compose
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    (error,) = run.errors("cpu5")
    assert re.match(r"gamma: /etc/gpurack/\S+: No space left on device", error)
    assert error.endswith("; not changed")
    assert "FAILED" in run.row("cpu5", "gamma"), run.output
    assert identities(host) == before


def test_full_disk_for_image_is_reported(lab: Lab, host: Host) -> None:
    """In Docker's own words, with host and model. The next run, with free space, completes."""
    host.root("docker rm -f gamma && docker images -q | xargs docker rmi -f")
    inventory = lab.inventory({"cpu5": {"models": GOOD}})
    with small_disk(host, "/var/lib/docker/tmp", "1m"):
        run = lab.run(inventory)
    assert run.exit_code == 1, run.output
    (error,) = run.errors("cpu5")
    assert error.startswith("gamma: cannot pull image registry.testbed:5000/ghcr/ggml-org/llama.cpp:server-b7000: ")
    assert "no space left on device" in error
    assert "FAILED: cannot pull image" in run.row("cpu5", "gamma")
    assert lab.run(inventory).exit_code == 0
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence


def test_two_parallel_runs_on_fresh_host_succeed(lab: Lab) -> None:
    """The host is then as after one run."""
    host = lab.testbed.recreate("cpu5")
    inventory = lab.inventory({"cpu5": {"models": GOOD}})
    runs = [Watched(lab.start(inventory)) for _ in range(2)]
    codes = [run.end() for run in runs]
    assert codes == [0, 0], "\n\n".join(run.output for run in runs)
    assert chat(host, 8000) == lab.testbed.weights("gamma").sentence
    assert host.root("dpkg --audit").stdout == ""
    assert lab.run(inventory).unchanged
