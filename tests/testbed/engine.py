"""The outer Docker, which runs the testbed's hosts: the machine's own if it runs, else a private one.

The private one has its data root, configuration, socket and pid file in .testbed/docker. It changes neither the
machine's firewall (published ports on loopback need only the userland proxy) nor its forwarding, and `stop` ends
exactly this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.paths import STATE, runtime_home
from tests.testbed.shell import TestbedError, await_, log, progress, run, text

HOME = STATE / "docker"
PID_FILE = HOME / "docker.pid"
CONFIG = HOME / "daemon.json"


def _socket() -> Path:
    usual = HOME / "docker.sock"
    return usual if len(bytes(usual)) <= 100 else runtime_home() / "docker.sock"


@dataclass(frozen=True)
class Engine:
    """A running Docker."""

    program: str
    """The docker client."""
    address: str | None
    """DOCKER_HOST of the private daemon; None: whatever the environment says."""

    @property
    def private(self) -> bool:
        """Whether the testbed started it."""
        return self.address is not None

    def docker(
        self,
        *args: str,
        stdin: bytes | None = None,
        check: bool = True,
        timeout: float | None = None,
        what: str = "",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `docker ARGS…` with this engine. what: the purpose, for errors."""
        env = {"DOCKER_HOST": self.address} if self.address else None
        what = what or f"docker {' '.join(args[:2])}"
        return run([self.program, *args], stdin=stdin, env=env, check=check, timeout=timeout, what=what)

    def output(self, *args: str, check: bool = True) -> str:
        """Run `docker ARGS…` and return its standard output; empty if it failed and `check` is off."""
        done = self.docker(*args, check=check)
        return text(done.stdout).strip() if done.returncode == 0 else ""

    def answers(self) -> bool:
        """Does the daemon answer?"""
        return bool(self.output("version", "--format", "{{.Server.Version}}", check=False))

    def stop(self) -> None:
        """End the private daemon and its containerd; leave any other Docker unchanged."""
        pid = private_pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            await_(lambda: private_pid() is None, seconds=30, what="The end of the private dockerd")
        shutil.rmtree(runtime_home(), ignore_errors=True)


def private_pid() -> int | None:
    """Return the pid of this checkout's private dockerd; None if it does not run. A reused pid does not count."""
    try:
        pid = int(PID_FILE.read_text())
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if str(CONFIG).encode() in argv else None


def find() -> Engine | None:
    """Return the running Docker: this checkout's private one first, then the machine's; None without one."""
    if private_pid() is not None and (engine := _private_engine()).answers():
        return engine
    return machine()


def machine() -> Engine | None:
    """Return the machine's own Docker if it runs and is accessible."""
    program = shutil.which("docker")
    if program and (engine := Engine(program, None)).answers():
        return engine
    return None


def private() -> Engine | None:
    """Return the private Docker if this checkout has one, started again if it died with containers in it."""
    if private_pid() is not None:
        return _private_engine()
    containers = HOME / "data" / "containers"
    if containers.is_dir() and any(containers.iterdir()):
        return _start()
    return None


def ensure() -> Engine:
    """Return a running Docker; start one if none runs. The programs must be installed (workshop.install)."""
    found = find()
    if found:
        return found
    if os.geteuid() != 0:
        raise TestbedError(
            "No Docker runs here, and starting one takes root: start Docker, or run the testbed as root."
        )
    return _start()


def _private_engine() -> Engine:
    # The distribution's client matches the distribution's daemon; a newer one in /usr/local may refuse its API.
    program = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else shutil.which("docker")
    if program is None:
        raise TestbedError("The docker client is not installed.")
    return Engine(program, f"unix://{_socket()}")


def _start() -> Engine:
    progress("starting a private dockerd in .testbed/docker")
    _sweep()
    HOME.mkdir(parents=True, exist_ok=True)
    runtime_home().mkdir(exist_ok=True)
    PID_FILE.unlink(missing_ok=True)  # dockerd refuses to start if any process has the pid of its predecessor
    config = {
        "data-root": str(HOME / "data"),
        "exec-root": str(runtime_home()),
        "pidfile": str(PID_FILE),
        "hosts": [f"unix://{_socket()}"],
        "bridge": "none",
        "iptables": False,
        "ip-masq": False,
        "ip-forward": False,
        "userland-proxy": True,
        "default-address-pools": [{"base": "10.213.0.0/16", "size": 24}],
        "log-driver": "local",
    }
    CONFIG.write_text(json.dumps(config, indent=2))
    # If the machine runs its own containerd, dockerd uses that one, so its contents are kept separate.
    namespace = ["--containerd-namespace", runtime_home().name]
    namespace += ["--containerd-plugins-namespace", f"{runtime_home().name}-plugins"]
    with (HOME / "dockerd.log").open("ab") as output:
        # A session of its own, so that Ctrl-C in the testbed does not end it.
        daemon = subprocess.Popen(
            ["dockerd", "--config-file", str(CONFIG), *namespace],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )
    engine = _private_engine()

    def up_or_dead() -> bool:
        if daemon.poll() is not None:
            lines = (HOME / "dockerd.log").read_text(errors="replace").strip().splitlines()
            log("\n".join(lines[-20:]))
            raise TestbedError(f"The private dockerd ended at once: {lines[-1] if lines else 'no output'}")
        return engine.answers()

    await_(up_or_dead, seconds=60, what="The start of the private dockerd")
    return engine


def _sweep() -> None:
    """End what a killed private dockerd left: its containerd, the containers, their mounts.

    These are all processes with this checkout's runtime folder in their command line, and their children."""
    mark = runtime_home().name.encode()
    doomed, parents = set(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if mark in (folder / "cmdline").read_bytes():
                doomed.add(int(folder.name))
        except OSError:
            continue  # it has just ended
    doomed.discard(os.getpid())
    children = {pid for pid, parent in parents.items() if parent in doomed}
    for pid in doomed | children:  # the first process of a container takes all others with it
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    ours = (f"{HOME}/", f"{runtime_home()}/")
    for place in sorted((place for place in places if place.startswith(ours)), key=len, reverse=True):
        run(["umount", "--lazy", place], check=False)
    shutil.rmtree(runtime_home(), ignore_errors=True)
