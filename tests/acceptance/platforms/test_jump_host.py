"""A host behind another one (ProxyJump in the ssh configuration), whose sudo requires a password. The inventory reads
it from a variable, for runs without a terminal and for `gpurack plan --live`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import terminal
from tests.acceptance.conftest import CHECKOUT, Lab, Run, chat, identities, model
from tests.testbed import Host
from tests.testbed.gguf_models import SENTENCES
from tests.testbed.hosts import HOST_KEYS, KEY, USER

PASSWORD = "correct horse battery"
JUMP = """
Host inner1
    HostName inner1
    User {user}
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
    ProxyJump gate1
"""


@pytest.fixture(scope="module")
def gate1(lab: Lab) -> Iterator[Host]:
    """The jump host, on which nothing is deployed."""
    lab.testbed.remove("gate1")
    yield lab.testbed.add("gate1", "cpu")
    lab.testbed.remove("gate1")


@pytest.fixture(scope="module")
def inner1(lab: Lab) -> Iterator[Host]:
    """A fresh host whose sudo requires the login user's password."""
    lab.testbed.remove("inner1")
    host = lab.testbed.add("inner1", "cpu")
    host.root(
        f"echo 'lab:{PASSWORD}' | chpasswd; grep -rl NOPASSWD /etc/sudoers /etc/sudoers.d | xargs sed -i s/NOPASSWD://"
    )
    assert host.run("sudo -n true", check=False).returncode != 0
    yield host
    lab.testbed.remove("inner1")


@pytest.fixture(scope="module")
def inventory(lab: Lab, gate1: Host, inner1: Host) -> Path:
    """inner1 by its name in the testbed's network, which only gate1 can resolve. The password comes from a variable."""
    block, _, _ = lab.testbed.ssh_config.read_text().partition("Host gate1\n")[2].partition("Host ")
    jump = JUMP.format(user=USER, key=KEY, folder=lab.folder)
    (lab.folder / "ssh_config").write_text(f"Host gate1\n{block}{jump}")
    public = (HOST_KEYS / "inner1.pub").read_text()
    (lab.folder / "known_hosts").write_text(f"inner1 {public}")
    path = lab.inventory({"inner1": {"models": {"alpha": model("alpha", [], 8000)}, "_sudo_password": "LAB_SUDO"}})
    text = path.read_text().replace(str(lab.testbed.ssh_config), f"{lab.folder}/ssh_config")
    path.write_text(f"import os\n{text}".replace("'LAB_SUDO'", "os.environ['LAB_SUDO']"))
    return path


def run(lab: Lab, inventory: Path, *options: str, password: str = PASSWORD) -> Run:
    return lab.run(inventory, *options, env={"LAB_SUDO": password})


def plan_live(lab: Lab, inventory: Path) -> subprocess.CompletedProcess[str]:
    """`gpurack plan --live`, as an admin types it."""
    gpurack = str(Path(sys.executable).parent / "gpurack")
    argv = [gpurack, "plan", "--live", str(inventory)]
    env = {**lab.env(), "LAB_SUDO": PASSWORD}
    return subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_wrong_password_is_one_error(lab: Lab, inventory: Path, inner1: Host) -> None:
    """Nothing was changed."""
    done = run(lab, inventory, password="wrong")
    assert done.exit_code == 1, done.output
    assert not done.traceback, done.output
    assert len(done.errors("inner1")) == 1, done.output
    assert done.errors("inner1")[0].startswith(
        "Could not inspect the host. Possible causes: sudo rejects this password"
    ), done.output
    assert inner1.root("command -v docker", check=False).returncode != 0


def test_runs_main_job_through_jump_host_with_password(lab: Lab, inventory: Path, gate1: Host, inner1: Host) -> None:
    """sshd logs connections from gate1 only; the password is in no output and no file."""
    shown = plan_live(lab, inventory)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert re.search(r"alpha +create: new", shown.stdout)
    done = run(lab, inventory, "-y", "-v")
    assert done.exit_code == 0, done.output
    from_where = f"journalctl --no-pager -q -t sshd-session -t sshd --since @{int(done.begun)}"
    logins = [line for line in inner1.root(from_where).stdout.splitlines() if "Accepted publickey for lab" in line]
    assert logins
    assert all(f" from {gate1.address} " in line for line in logins), logins
    assert chat(inner1, 8000) == SENTENCES["alpha"]
    assert PASSWORD not in done.output + shown.stdout + shown.stderr
    for host in (gate1, inner1):
        leaks = host.root(f"grep -rlF '{PASSWORD}' /etc /tmp /home /var/log /run /usr/local 2>/dev/null", check=False)
        assert leaks.stdout == ""
        assert PASSWORD not in host.root("journalctl --no-pager -q").stdout
    assert gate1.root("command -v docker; ls -d /var/lib/gpurack /etc/gpurack", check=False).stdout == ""


def test_unchanged_run_is_four_remote_commands(lab: Lab, inventory: Path, inner1: Host) -> None:
    """A snapshot that sudo refuses, pyinfra's helper with the password, the snapshot, and the helper's removal."""
    before = identities(inner1)
    again = run(lab, inventory)
    assert again.unchanged, again.output
    assert inner1.ssh_commands(again.begun) == 4
    assert identities(inner1) == before
    shown = plan_live(lab, inventory)
    assert (shown.returncode, "1 host unchanged." in shown.stdout) == (0, True), shown.stdout + shown.stderr


def test_asks_once_for_all_hosts(lab: Lab, inventory: Path, inner1: Host) -> None:
    """With pyinfra's own option, if the inventory has no password."""
    text, found = re.subn(r",\s*'_sudo_password': os.environ\['LAB_SUDO'\]", "", inventory.read_text())
    assert found == 1
    path = lab.folder / "asked.py"
    path.write_text(text)
    code, shown = terminal.answer(
        lab.argv(path, "-y", "--same-sudo-password"), [(r"(?i)sudo password", PASSWORD)], CHECKOUT
    )
    assert code == 0, shown
    assert "nothing changed" in shown
    assert PASSWORD not in shown
