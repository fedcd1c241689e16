"""In which order gpurack's files reach the disk, seen by strace on everything that a run starts on a host."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Lab, standard
from tests.faults import disk_order
from tests.testbed import Host, workshop
from tests.testbed.paths import CHECKOUT

NAME = "gpu11"
ON_HOST = (
    "/etc/gpurack/", "/etc/docker/", "/etc/systemd/system/", "/etc/apt/", "/etc/cdi/", "/etc/tmpfiles.d/",
    "/usr/local/lib/gpurack/", "/usr/local/libexec/gpurack/", "/var/lib/gpurack/",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    """The program, on this machine: it sees the hosts' processes."""
    if shutil.which("strace") is None:
        workshop.install({"strace"})


@contextlib.contextmanager
def traced(host: Host, into: Path) -> Iterator[None]:
    """Trace every program that is started by ssh on a host meanwhile."""
    found = subprocess.run(
        ["pgrep", "--ns", str(host.pid()), "--nslist", "pid", "-x", "sshd"], capture_output=True, text=True, check=True
    )
    options = [word for pid in found.stdout.split() for word in ("-p", pid)]
    argv = ["strace", "-f", "-y", "-s", "300", "-e", disk_order.TRACED, "-o", str(into), *options]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for _ in options[::2]:
        assert "attached" in process.stderr.readline()
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_files_of_a_host_are_on_disk_before_they_have_their_names(lab: Lab, tmp_path: Path) -> None:
    """For a change of daemon.json and of models, and for a removal. strace makes packages take minutes to install."""
    host = lab.testbed.prepared(NAME)
    models = standard()["gpu1"]["models"]
    changed = {name: {**model, "env": {"A": "1"}} for name, model in models.items()}
    first, *_ = models
    daemon = {"docker": {"source": "distro", "daemon": {"labels": ["rack=7"]}}}
    for number, wanted in enumerate((changed, {first: changed[first]})):
        inventory = lab.inventory({NAME: {**daemon, "models": wanted}})
        existed = set(host.root(f"find {' '.join(ON_HOST)} -type f", check=False).stdout.splitlines())
        with traced(host, tmp_path / f"{number}"):
            run = lab.run(inventory)
        assert run.exit_code == 0, run.output
        seen = list(disk_order.calls((tmp_path / f"{number}").read_text(errors="replace").splitlines()))
        renamed = {call.to for call in seen if call.what == "rename"}
        assert "/etc/gpurack/compose.yaml" in renamed
        assert "/var/lib/gpurack/record.json" in renamed
        assert disk_order.wrong(seen, ON_HOST, existed) == []


def test_lock_file_is_on_disk_before_it_has_its_name(lab: Lab, tmp_path: Path) -> None:
    """On the admin's machine: a new one, and one that replaces another."""
    lab.testbed.prepared(NAME)
    inventory = lab.inventory({NAME: standard()["gpu1"]})
    lock = inventory.with_name("lab.lock.yaml")
    for number in range(2):
        trace = tmp_path / f"{number}"
        gpurack = [str(CHECKOUT / ".venv/bin/gpurack"), "lock", str(inventory)]
        done = subprocess.run(
            ["strace", "-f", "-y", "-s", "300", "-e", disk_order.TRACED, "-o", str(trace), *gpurack],
            env={**os.environ, **lab.env()}, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        seen = list(disk_order.calls(trace.read_text(errors="replace").splitlines()))
        assert str(lock) in {call.to for call in seen if call.what == "rename"}
        assert disk_order.wrong(seen, (str(lock),), {str(lock)}) == []
        lock.write_text(re.sub(r" +driver: .*\n", "", lock.read_text()))
