"""A run of many hosts: what is done once, what is done at once, and that no step of a host goes over all others."""

import cProfile
import graphlib
import pstats
import runpy
from pathlib import Path
from typing import Any

import gevent
import pyinfra.api
import pytest
from paramiko import SSHClient as ParamikoClient
from pyinfra.api import Config, Inventory
from pyinfra.connectors.sshuserclient.client import SSHClient

import gpurack
from benchmarks import recorded
from gpurack.pyinfra_patches import LOGINS, for_all_hosts, queue_at_jump_hosts
from tests import forked
from tests.sampling import THOROUGH

pytestmark = pytest.mark.sampled

SEARCHED = (str(Path(gpurack.__file__).parent), str(Path(pyinfra.api.__file__).parent), graphlib.__file__)
"""gpurack, and what it lets pyinfra do: pyinfra orders operations with graphlib."""


def run(folder: Path, hosts: int, calls: Path | None = None, **defaults: Any) -> str:
    """The output of a run by pyinfra. calls: file that gets the number of calls of each function."""
    common = {**recorded.COMMON, "defaults": {**recorded.COMMON["defaults"], **defaults}}
    project, _ = recorded.project(folder, hosts, common)

    def main() -> None:
        profile = cProfile.Profile()
        try:
            profile.runcall(runpy.run_module, "pyinfra", run_name="__main__")
        finally:
            if calls:
                profile.dump_stats(calls)

    done = forked.run(main, ["pyinfra", "lab.py", "gpu_host.py", "-y"], cwd=project)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_secret_is_read_once_and_the_table_printed_once(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    output = run(tmp_path, 3, api_key={"command": ["sh", "-c", f"echo >> {asked}; sleep 0.1; echo key"]})
    assert output.count("ENDPOINT") == 1
    assert asked.read_text() == "\n"


def test_no_step_of_a_host_grows_with_the_number_of_hosts(tmp_path: Path) -> None:
    calls: dict[int, dict[str, int]] = {}
    sizes = (2, 6, 14) if THOROUGH else (2, 4, 8)
    for hosts in sizes:
        folder = tmp_path / str(hosts)
        folder.mkdir()
        output = run(folder, hosts, calls=folder / "calls")
        assert f"{2 * hosts} of {2 * hosts} models answered, nothing changed." in output
        found = pstats.Stats(str(folder / "calls")).stats  # type: ignore[attr-defined]
        calls[hosts] = {f"{file}:{line} {name}": each[1] for (file, line, name), each in found.items()}
    functions = {name for name in calls[sizes[-1]] if name.startswith(SEARCHED)}
    assert any("snapshot" in name for name in functions)
    growing = {}
    for name in functions:
        few, some, many = (calls[hosts].get(name, 0) for hosts in sizes)
        if (many - some) / (sizes[2] - sizes[1]) > 1.2 * max(0, some - few) / (sizes[1] - sizes[0]) + 0.5:
            growing[name] = (few, some, many)
    assert not growing


def test_all_hosts_are_worked_on_at_once() -> None:
    inventory = Inventory(([f"gpu{number}" for number in range(150)], {}))
    assert for_all_hosts(Config(), inventory).PARALLEL == 150
    assert for_all_hosts(Config(PARALLEL=7), inventory).PARALLEL == 7


def test_logins_at_a_jump_host_are_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.write_text("Host gpu*\n  ProxyJump ada@bastion.lab:2222\n  StrictHostKeyChecking no\n")
    now: dict[str, int] = {"bastion.lab": 0}
    most = []

    def connect(client: Any, hostname: str, **options: Any) -> None:
        now[hostname] = now.get(hostname, 0) + 1
        most.append(now["bastion.lab"])
        gevent.idle()
        gevent.sleep(0)
        if hostname == "bastion.lab":
            now[hostname] -= 1

    monkeypatch.setattr(ParamikoClient, "connect", connect)
    monkeypatch.setattr(SSHClient, "gateway", lambda *words, **options: "a channel")
    monkeypatch.setattr(SSHClient, "connect", SSHClient.connect)
    queue_at_jump_hosts()
    logins = [
        gevent.spawn(SSHClient().connect, f"gpu{number}.lab", _pyinfra_ssh_config_file=str(config))
        for number in range(40)
    ]
    gevent.joinall(logins, raise_error=True)
    assert max(most) == LOGINS
    assert {host for host, count in now.items() if count} == {f"gpu{number}.lab" for number in range(40)}
