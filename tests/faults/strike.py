"""The faults: what befalls a run that is held, and how it is taken away before the next run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from tests.acceptance import hook
from tests.faults.points import DOCKERD
from tests.testbed import Host
from tests.testbed.shell import run

DISK_FULL = "disk full"
DISK = "/mnt/disk"
"""The small disk of a host (small_disk)."""
FULL = f"{DISK}/filler"
ROOM = "1200m"
"""Its size: the image, containers, weights, downloaded packages, and some more."""
SMALL = "/etc/small-disk"
"""A file: the host boots with a small disk."""
UNIT = f"""\
[Unit]
ConditionPathExists={SMALL}
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/lib/small-disk
"""
ON_DISK = ("/var/lib/docker", "/var/lib/gpurack", "/etc/gpurack", "/etc/docker", "/var/cache/apt/archives")


@dataclass(frozen=True)
class Fault:
    """strike: what happens while the run is held. heal: what is done when the run has ended. mute: does the run say
    nothing any more?"""

    strike: Callable[[Host, subprocess.Popen[str]], None]
    heal: Callable[[Host], None] = lambda host: None
    mute: bool = False


def kill_pyinfra(host: Host, process: subprocess.Popen[str]) -> None:
    """kill -9 of pyinfra; nothing tells the host."""
    process.kill()
    process.wait()


def kill_dockerd(host: Host, process: subprocess.Popen[str]) -> None:
    """kill -9 of dockerd, which systemd starts again."""
    host.root("pidof dockerd | xargs -r kill -9")


def drop(host: Host, process: subprocess.Popen[str]) -> None:
    """Drop all packets from and to the host, as a pulled cable does; programs on it work on."""
    for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
        run([*in_network(host), "iptables", "-w", "-I", chain, way, "eth0", "-j", "DROP"])


def let_through(host: Host) -> None:
    """The cable is back."""
    for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
        run([*in_network(host), "iptables", "-w", "-D", chain, way, "eth0", "-j", "DROP"])


def in_network(host: Host) -> list[str]:
    """The words before a program of this machine that run it in the host's network."""
    return ["nsenter", "--target", str(host.pid()), "--net"]


def fill(host: Host, process: subprocess.Popen[str]) -> None:
    """Fill the small disk to its last byte."""
    host.root(f"cat /dev/zero >{FULL}; cat /dev/zero >>{FULL}", check=False)


def empty(host: Host) -> None:
    """There is room again."""
    host.root(f"rm {FULL}")


def small_disk(host: Host) -> None:
    """Prepare a fresh host: if SMALL exists at its boot, what gpurack, Docker and apt write is on a disk of ROOM in
    memory, which survives no power cut."""
    lines = [f"mkdir -p {DISK} && mount -t tmpfs -o size={ROOM} disk {DISK}"]
    lines += [
        f"mkdir -p {folder} {DISK}{folder} && cp -a --no-target-directory {folder} {DISK}{folder} "
        f"&& mount --bind {DISK}{folder} {folder}"
        for folder in ON_DISK
    ]
    host.put("#!/bin/sh -e\n" + "\n".join(lines) + "\n", "/usr/lib/small-disk", 0o755)
    host.put(UNIT, "/usr/lib/systemd/system/small-disk.service")
    wants = "/usr/lib/systemd/system/sysinit.target.wants"
    host.root(f"mkdir -p {wants} && ln -s ../small-disk.service {wants}/")


FAULTS = {
    "kill -9 of pyinfra": Fault(kill_pyinfra, mute=True),
    "kill -9 of the runner": Fault(lambda host, process: hook.kill_callers(host)),
    DOCKERD: Fault(kill_dockerd),
    "all packets dropped": Fault(drop, let_through),
    DISK_FULL: Fault(fill, empty),
    "power cut": Fault(lambda host, process: hook.cut(host)),
}
