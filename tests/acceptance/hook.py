"""Holds a run of gpurack at one of its commands on the host, or lets that command fail, and what befalls a run there.

By programs on the host that come before the real ones in root's PATH, and by sshd's ForceCommand for the remote
commands themselves. They do nothing else, and nothing where no test planned anything.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.testbed import Host, hosts
from tests.testbed.shell import await_

PROGRAM = Path(__file__).with_name("program-hook")
REMOTE = "ssh-command"
"""The name of the remote commands among the programs."""
PLACE = "/run/hook"
PLAN, HELD, COUNT, CALLS = (f"{PLACE}/{name}" for name in ("plan", "held", "count", "calls"))
LIB = "/usr/local/lib/hook"
ANCESTORS = (
    "pid={}; while pid=$(ps -o ppid= -p $pid | tr -d ' '); do "
    "case $(ps -o comm= -p $pid) in sshd*|systemd|'') break;; esac; echo $pid; done"
)
"""Prints the processes above one, up to sshd's."""


def install(host: Host, programs: Sequence[str] = ("docker",), *, remote: bool = False) -> None:
    """Put it before these programs on the host, also those that a run installs by apt. remote: and before each remote
    command."""
    host.put(PROGRAM.read_bytes(), f"{LIB}/program-hook", 0o755)
    link = f"[ ! -e /usr/bin/$name ] || ln -sf {LIB}/program-hook /usr/local/bin/$name"
    host.put(f"#!/bin/sh\nfor name in {' '.join(programs)}; do {link}; done\n", f"{LIB}/install", 0o755)
    host.root(f"{LIB}/install")
    host.put(f'DPkg::Post-Invoke {{"{LIB}/install";}};\n', "/etc/apt/apt.conf.d/99hook")
    if remote:
        host.root(f"ln -sf program-hook {LIB}/{REMOTE}")
        host.put(f"ForceCommand {LIB}/{REMOTE}\n", "/etc/ssh/sshd_config.d/hook.conf")
        host.root("/usr/bin/systemctl reload ssh")


def clear(host: Host) -> None:
    """Forget what was held and counted. Remote commands run as the login user, who writes here as well."""
    host.root(f"rm -rf {PLACE}; umask 0; mkdir {PLACE} && touch {HELD} {COUNT}")


@contextmanager
def planned(host: Host, when: str, *words: str, skip: int = 0, program: str = "docker") -> Iterator[None]:
    """During the block the first call of the program with all these words, after `skip` such ones, is held ("before",
    "after") or fails ("fail"). words: patterns of the shell for whole arguments."""
    clear(host)
    host.put(f"{program} {when} {skip} {' '.join(words)}\n", PLAN)
    try:
        yield
    finally:
        if host.pid():
            release(host)


@contextmanager
def recorded(host: Host) -> Iterator[list[str]]:
    """Every call of the programs during the block, in order; complete at its end."""
    clear(host)
    host.root(f"umask 0; touch {CALLS}")
    calls: list[str] = []
    yield calls
    calls += host.root(f"cat {CALLS}; rm {CALLS}").stdout.splitlines()


def release(host: Host) -> None:
    """What is held continues."""
    host.root(f"rm -f {PLAN}")


def wait_until_held(host: Host, process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Wait until the planned command of a run is held. The run continues, and the test fails, where it never comes."""
    plan = host.root(f"cat {PLAN}").stdout.strip()
    # the host waits, because each command that is sent to it costs a tenth of a second of CPU
    look = f"for turn in 1 2 3 4 5 6 7 8 9 10; do ! test -s {HELD} || exit 0; sleep 0.1; done; exit 1"
    await_(
        lambda: process.poll() is not None or host.root(look, check=False).returncode == 0,
        seconds=seconds,
        what=f"The command `{plan}`, or the end of the run,",
    )
    if process.poll() is not None:
        output, _ = process.communicate()
        raise AssertionError(f"the run ended without `{plan}`:\n{output}")


def kill_runner(host: Host) -> None:
    """kill -9 of the runner on the host, and of the docker command that is held for it."""
    runners = host.root("pgrep -f '[m]odels.py apply'").stdout.split()
    held = host.root(f"cat {HELD}", check=False).stdout.split()
    # the held one may die with the runner
    host.root(f"kill -9 {' '.join(runners)} && {{ kill -9 {' '.join(held)} 2>/dev/null || true; }}")


def kill_callers(host: Host) -> None:
    """kill -9 of all programs of the remote command that is held, but not of the held one: that of the models' runner
    dies with it, others continue as orphans do. Where the remote command itself is held, of that one."""
    (held,) = host.root(f"cat {HELD}").stdout.split()[:1]
    callers = host.root(ANCESTORS.format(held)).stdout.split()
    host.root(f"kill -9 {' '.join(callers) or held}")


def cut(host: Host) -> None:
    """A power cut: SIGKILL of the host, then a boot."""
    host.engine.docker("kill", hosts.container(host.name))
    host.start()
