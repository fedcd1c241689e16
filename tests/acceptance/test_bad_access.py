"""Obstacles between the admin's machine and root on the host: sudo, terminals, unsupported systems.

In the order of the file, nothing happens to a fresh host, until a password at a terminal makes it work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import terminal
from tests.acceptance.conftest import CHECKOUT, Lab, Run, chat, identities, model
from tests.testbed import Host, Testbed

GOOD: dict[str, Any] = {"gamma": model("gamma", [], 8000)}
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def host(testbed: Testbed) -> Iterator[Host]:
    """A fresh cpu1, removed at the end because its sudo is restricted."""
    yield testbed.recreate("cpu1")
    testbed.prepared("cpu1")


@pytest.fixture(scope="module")
def inventory(lab: Lab) -> Path:
    """One model for cpu1."""
    return lab.inventory({"cpu1": {"models": GOOD}})


def footprint(host: Host) -> str:
    """Everything that gpurack could have left on a host."""
    return host.root(
        "ls -d /etc/gpurack /etc/docker /usr/local/lib/gpurack /var/lib/gpurack /run/gpurack "
        "/etc/apt/sources.list.d/gpurack* /tmp/tmp.* 2>/dev/null; dpkg-query -W | md5sum; "
        "ls -lA --ignore=systemd-private-\\* /etc /tmp | md5sum",  # services begin while the host still boots
        check=False,
    ).stdout


def refused(lab: Lab, host: Host, inventory: Path, what: str, *options: str) -> Run:
    """A run that must leave the host unchanged, and report only `what`, in the table and below."""
    before = footprint(host)
    run = lab.run(inventory, *options)
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    [error] = run.errors("cpu1")
    assert error.startswith(what), run.output
    row = run.row("cpu1") or run.row("cpu1", "gamma")
    assert f"FAILED: {what[:40]}" in row, run.output
    assert footprint(host) == before
    return run


def test_unsupported_system_is_refused(lab: Lab, host: Host, inventory: Path) -> None:
    """The error lists the supported systems; no package is touched."""
    original = host.get("/etc/os-release")
    host.put('ID=plan9\nVERSION_ID="4"\nPRETTY_NAME="Plan 9 (4th edition)"\n', "/etc/os-release")
    try:
        refused(lab, host, inventory, "Plan 9 (4th edition) is not supported; supported are Debian 12/13")
        dry = lab.run(inventory, "--dry")
        assert dry.exit_code == 1
        assert "Plan 9 (4th edition) is not supported" in dry.errors("cpu1")[0]
        assert "~ " not in dry.output, f"plans for a host that gpurack does not know: {dry.output}"
    finally:
        host.put(original, "/etc/os-release")


def test_missing_sudo_is_reported(lab: Lab, host: Host, inventory: Path) -> None:
    """The user is not root, and the host has no sudo."""
    host.root("mv /usr/bin/sudo /usr/bin/sudo.away")
    try:
        refused(
            lab, host, inventory,
            "gpurack needs root on the host: you log in as another user, and sudo is not installed.",
        )  # fmt: skip
    finally:
        host.root("mv /usr/bin/sudo.away /usr/bin/sudo")


def test_full_tmp_is_reported(lab: Lab, host: Host, inventory: Path) -> None:
    """The snapshot needs a few kB in /tmp; without them the host is not taken for an empty one."""
    host.root("mount -t tmpfs -o size=8k,mode=1777 full /tmp && head -c 8192 /dev/zero >/tmp/filler")
    try:
        run = lab.run(inventory)
    finally:
        host.root("umount /tmp")
    assert run.exit_code == 1, run.output
    assert not run.traceback, run.output
    assert len(run.errors("cpu1")) == 1, run.output
    assert "its /tmp is full (df -h /tmp)" in run.errors("cpu1")[0], run.output


@pytest.fixture(scope="module")
def guarded(host: Host) -> Host:
    """Makes sudo require the login user's password."""
    host.root(
        f"echo 'lab:{PASSWORD}' | chpasswd; grep -rl NOPASSWD /etc/sudoers /etc/sudoers.d | xargs sed -i s/NOPASSWD://"
    )
    assert host.run("sudo -n true", check=False).returncode != 0
    return host


@pytest.mark.parametrize("options", [("-y",), ("-v",)], ids=["with -y", "without -y"])
def test_sudo_password_without_terminal_is_an_error(
    lab: Lab, guarded: Host, inventory: Path, options: tuple[str, ...]
) -> None:
    """Instead of a prompt that waits for ever."""
    refused(
        lab, guarded, inventory,
        "sudo requires a password for lab. Run from a terminal, where you are asked for it, or allow sudo without a "
        "password.",
        *options,
    )  # fmt: skip


def test_sudo_password_at_terminal_works(lab: Lab, guarded: Host, inventory: Path) -> None:
    """pyinfra asks once, and the whole job runs. The password is in no process and no file of the host."""
    code, shown = terminal.answer(lab.argv(inventory, "-y"), [(r"(?i)sudo password", PASSWORD)], CHECKOUT)
    assert code == 0, shown
    assert "Traceback" not in shown
    assert chat(guarded, 8000) == lab.testbed.weights("gamma").sentence
    assert PASSWORD not in shown
    leaks = guarded.root(f"grep -rlF '{PASSWORD}' /etc /tmp /home /var/log /run /usr/local 2>/dev/null", check=False)
    assert leaks.stdout == ""
    assert PASSWORD not in guarded.root("journalctl --no-pager -q").stdout

    # the second time nothing changes, whether the password is asked or given
    before = identities(guarded)
    code, shown = terminal.answer(lab.argv(inventory, "-y"), [(r"(?i)sudo password", PASSWORD)], CHECKOUT)
    assert code == 0, shown
    assert "nothing changed" in shown
    assert identities(guarded) == before


def test_wrong_sudo_password_is_reported(lab: Lab, guarded: Host, inventory: Path) -> None:
    """The run ends, and nothing was changed."""
    before = identities(guarded)
    code, shown = terminal.answer(lab.argv(inventory, "-y"), [(r"(?i)sudo password", "wrong")], CHECKOUT)
    assert code == 1, shown
    assert "Traceback" not in shown
    assert "password" in shown.lower().split("sudo password", 1)[1], shown
    assert identities(guarded) == before


def test_unconfirmed_run_without_terminal_fails(lab: Lab, testbed: Testbed) -> None:
    """Without -y pyinfra asks before it changes anything. From cron nobody answers, which must not be a success."""
    gpu1 = testbed.host("gpu1")
    before = gpu1.root("ls -la /etc /usr/local/lib | md5sum; docker ps -aq 2>/dev/null", check=False).stdout
    run = lab.run(lab.inventory({"gpu1": {"models": {"omega": model("gamma", [], 8099)}}}), "-v")
    assert run.exit_code != 0, run.output
    assert not run.traceback, run.output
    assert "Confirmation needs a terminal. Nothing was changed. Run with -y" in run.output
    assert gpu1.root("ls -la /etc /usr/local/lib | md5sum; docker ps -aq 2>/dev/null", check=False).stdout == before
