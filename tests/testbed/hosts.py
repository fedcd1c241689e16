"""Throwaway servers: systemd containers with sshd, reached by SSH on a loopback port as a lab's servers are."""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
import subprocess
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed import amd, gpu, suites
from tests.testbed.engine import Engine
from tests.testbed.engines import environments
from tests.testbed.paths import STATE, cache_home
from tests.testbed.shell import TestbedError, await_, run, text

NETWORK = "gpurack-testbed"
LABEL = "gpurack-testbed"
"""Label of every container, volume and network of `up`; its value is the checkout."""
VOLUMES, KEPT = "/volumes.tar", "/kept.tar"
"""What the image of a prepared host has besides (prepared.py): its volumes, and what an image would not keep whole. The
first boot restores the latter and deletes both."""
USER = "lab"
KEY = STATE / "key"
SSH_CONFIG = STATE / "ssh_config"
KNOWN_HOSTS = STATE / "known_hosts"
HOST_KEYS = STATE / "host-keys"
MIRROR = "/srv/debian"
"""Where a host finds the mirror of its suite, if it is not at http://repo.testbed."""


@dataclass(frozen=True)
class Kind:
    """A kind of server."""

    image: str
    """Name of the base image, which is that of its Debian suite."""
    suite: suites.Suite
    gpus: bool
    """Whether it has the simulated cards."""
    release: str = ""
    """What /etc/os-release says instead of Debian's own."""
    amd: bool = False
    """Whether it has simulated cards of AMD's."""
    accounts: tuple[str, ...] = ()
    """People who may log in beside the administrator; /home is then a volume, where their rootless Dockers live."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Programs by other names: path → what it links to."""

    @property
    def rpm(self) -> bool:
        """Does it use rpm packages?"""
        return self.suite is suites.RPM


# Debian's mirror has no Ubuntu image. A host of these kinds reports Ubuntu and is a Debian of similar age, so that
# the code for Ubuntu runs with a real apt; its packages are Debian's.
_NOBLE = """\
PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.3 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
"""
_JAMMY = """\
PRETTY_NAME="Ubuntu 22.04.5 LTS"
NAME="Ubuntu"
VERSION_ID="22.04"
VERSION="22.04.5 LTS (Jammy Jellyfish)"
VERSION_CODENAME=jammy
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=jammy
"""
_ROCKY = """\
NAME="Rocky Linux"
VERSION="9.6 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.6"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.6 (Blue Onyx)"
"""
_DNF = {"/usr/bin/dnf": "dnf-3", "/usr/bin/yum": "dnf-3"}
KINDS = {
    "gpu": Kind("host", suites.TRIXIE, True),
    "cpu": Kind("host", suites.TRIXIE, False),
    "amd": Kind("host", suites.TRIXIE, False, amd=True),
    "gpu-bookworm": Kind("host-bookworm", suites.BOOKWORM, True),
    "cpu-bookworm": Kind("host-bookworm", suites.BOOKWORM, False),
    "gpu-noble": Kind("host", suites.TRIXIE, True, _NOBLE),
    "cpu-noble": Kind("host", suites.TRIXIE, False, _NOBLE),
    "gpu-jammy": Kind("host-bookworm", suites.BOOKWORM, True, _JAMMY),
    "gpu-sid": Kind("host-sid", suites.SID, True),
    "rootless": Kind("host", suites.TRIXIE, True, accounts=("ada", "bob")),
    "cpu-jammy": Kind("host-bookworm", suites.BOOKWORM, False, _JAMMY),
    "rpm": Kind("host-rpm", suites.RPM, True, _ROCKY, links=_DNF),
    "yum": Kind("host-rpm", suites.RPM, True, _ROCKY, links={"/usr/bin/yum": "dnf-3"}),
}


# runc takes /sys/fs/cgroup for the root of the hierarchy. So the host's own cgroup is mounted there, as on a server.
# Otherwise a user's runc could not create its folders there, and hosts restored from one image, whose containers
# have the same ids, would pause and kill each other's containers.
_INIT = ("unshare", "--cgroup", "sh", "-c")
_INIT += (
    f"[ ! -e {KEPT} ] || tar --directory=/ --extract --acls --file={KEPT} && rm -f {KEPT} {VOLUMES}; "
    "umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec /lib/systemd/systemd",
)


def container(name: str) -> str:
    """Return the name of a host's container."""
    return f"gpurack-testbed-{name}"


def volume(name: str, what: str = "docker") -> str:
    """Return the name of a host's volume, which its own Docker uses, for example."""
    return f"gpurack-testbed-{name}-{what}"


def kind_of(name: str) -> str:
    """Guess a host's kind from its name: gpu2 is of kind gpu, bookworm1 of kind gpu-bookworm."""
    stem = name.rstrip("0123456789").rstrip("-_")
    stem = f"gpu-{stem}" if f"gpu-{stem}" in KINDS else stem
    if stem not in KINDS:
        raise TestbedError(f"No kind follows from the name {name!r}: give one with --kind {'|'.join(KINDS)}.")
    return stem


@dataclass
class Host:
    """One server of the testbed."""

    engine: Engine = field(repr=False)
    name: str
    kind: str
    port: int
    user: str = USER

    @property
    def has_gpus(self) -> bool:
        """Does it have the four simulated GPUs?"""
        return KINDS[self.kind].gpus

    @property
    def address(self) -> str:
        """Its address inside the testbed's network, which root on this machine also reaches."""
        form = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
        return self.engine.output("inspect", "--format", form, container(self.name))

    def ssh_argv(self) -> list[str]:
        """Return the ssh command up to and including the host's name."""
        return ["ssh", "-F", str(SSH_CONFIG), self.name]

    def run(
        self, command: str, check: bool = True, stdin: bytes | None = None, timeout: float | None = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the login user over SSH. With `check`, a failure raises."""
        argv = [*self.ssh_argv(), "--", command]
        done = run(argv, stdin=stdin, check=check, timeout=timeout, what=f"On {self.name}: {command[:80]}")
        return subprocess.CompletedProcess(command, done.returncode, text(done.stdout), text(done.stderr))

    def root(
        self, command: str, check: bool = True, stdin: bytes | None = None, timeout: float | None = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root without sshd, so that evidence leaves no trace in its log."""
        done = self._inside(["bash", "-c", command], check, stdin, timeout, f"On {self.name}: {command[:80]}")
        return subprocess.CompletedProcess(command, done.returncode, text(done.stdout), text(done.stderr))

    def _inside(
        self, argv: list[str], check: bool, stdin: bytes | None, timeout: float | None, what: str
    ) -> subprocess.CompletedProcess[bytes]:
        pid = self.pid()
        if pid == 0:
            raise TestbedError(f"{self.name} is switched off.")
        clean = ["env", "-i", "-C", "/root", "HOME=/root", "LANG=C.UTF-8"]
        clean += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        if os.geteuid() == 0 and Path(f"/proc/{pid}").exists():
            # Not `docker exec`: on a machine with hybrid cgroups it fails with EBUSY once the host's systemd has
            # switched a cgroup controller on.
            enter = ["nsenter", "--target", str(pid), "--mount", "--uts", "--ipc", "--net", "--pid"]
            return run([*enter, *clean, *argv], stdin=stdin, check=check, timeout=timeout, what=what)
        command = ["exec", "-i", container(self.name), *clean, *argv]
        return self.engine.docker(*command, stdin=stdin, check=check, timeout=timeout, what=what)

    def pid(self) -> int:
        """Return the pid of the host's init on this machine, 0 when it is switched off."""
        return int(self.engine.output("inspect", "--format", "{{.State.Pid}}", container(self.name), check=False) or 0)

    def put(self, content: str | bytes, path: str, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file on the host, as root, with its folders."""
        data = content.encode() if isinstance(content, str) else content
        target = shlex.quote(path)
        script = (
            f'mkdir -p "$(dirname {target})" && cat > {target} && chmod {mode:o} {target} && chown {owner} {target}'
        )
        self._inside(["bash", "-c", script], True, data, 300, f"Writing {path} on {self.name}")

    def get(self, path: str) -> bytes:
        """Return the content of a file on the host."""
        return self._inside(["cat", "--", path], True, None, 300, f"Reading {path} on {self.name}").stdout

    def ssh_commands(self, since: float) -> int:
        """Return how many commands sshd was asked to run since a time (seconds since 1970), by its own log."""
        lines = self.root(
            f"journalctl --no-pager -q -o short-unix -t sshd-session -t sshd --since @{int(since)}"
        ).stdout.splitlines()
        started = re.compile(r"^([0-9.]+) .*: Starting session: ")
        return sum(1 for line in lines if (found := started.match(line)) and float(found[1]) >= since)

    def stop(self) -> None:
        """Shut the host down."""
        self.engine.docker("stop", "-t", "30", container(self.name))

    def start(self) -> None:
        """Start the host and wait until the login user can log in."""
        self.engine.docker("start", container(self.name))
        self.wait()

    def reboot(self) -> None:
        """Reboot the host and wait until the login user can log in."""
        self.engine.docker("restart", "-t", "30", container(self.name))
        self.wait()

    def wait(self) -> None:
        """Wait until the login user can log in."""

        def lets_in() -> bool:
            with socket.socket() as probe:
                probe.settimeout(1)
                try:
                    probe.connect(("127.0.0.1", self.port))
                    # The published port accepts before sshd runs, so its greeting is the proof.
                    if not probe.recv(4).startswith(b"SSH-"):
                        return False
                except OSError:
                    return False
            # While /run/nologin exists (until systemd has booted), sshd refuses the user.
            return self.run("true", check=False, timeout=20).returncode == 0

        await_(lets_in, seconds=60, what=f"The boot of {self.name}")

    @property
    def gpus(self) -> gpu.SimulatedGpus:
        """The control of the simulated GPUs (tests/testbed/gpu)."""
        if not self.has_gpus:
            raise TestbedError(f"{self.name} has no GPUs (it is of kind {self.kind}).")
        return gpu.SimulatedGpus(lambda command: self.root(command).stdout)

    @property
    def amd(self) -> amd.SimulatedAmd:
        """The control of the simulated AMD GPUs (tests/testbed/amd)."""
        if not KINDS[self.kind].amd:
            raise TestbedError(f"{self.name} has no cards of AMD's (it is of kind {self.kind}).")
        return amd.SimulatedAmd(lambda command: self.root(command).stdout)


def create(
    engine: Engine,
    name: str,
    kind: str,
    image: str,
    port: int,
    files: dict[str, bytes],
    name_server: str,
    mirror: Path | None = None,
) -> Host:
    """Make a host from its base image; it is not started.

    `files`: what else to write there, path → content (apt's source and its key). `mirror`: the folder at MIRROR.
    """
    host = Host(engine, name, kind, port)
    cgroups = "/sys/fs/cgroup"
    if Path("/sys/fs/cgroup/unified/cgroup.procs").exists():  # hybrid: only there is v2
        cgroups = "/sys/fs/cgroup/unified"
    options = ["--name", container(name), "--hostname", name, "--label", f"{LABEL}={STATE}"]
    options += ["--label", f"{LABEL}.kind={kind}", "--label", f"{LABEL}.port={port}"]
    options += ["--network", NETWORK, "--network-alias", name, "-p", f"127.0.0.1:{port}:22"]
    # Docker resolves the testbed's names; unknown names must fail at once instead of after 20 s.
    options += ["--dns", name_server]
    # Everything that --privileged gives, except the one capability that not every machine has.
    options += ["--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--device-cgroup-rule", "a *:* rwm"]
    for option in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
        options += ["--security-opt", option]
    for device in ("/dev/net/tun", "/dev/fuse"):
        if Path(device).exists():
            options += ["--device", device]
    options += [
        "--cgroupns=host",
        "-v",
        f"{cgroups}:/sys/fs/cgroup:rw",
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/run/lock",
    ]
    for one, folder in volumes(engine, name, kind).items():
        options += ["-v", f"{one}:{folder}"]
    # A server has half of its memory; a container's 64 MB are too little for vLLM.
    options += ["--shm-size", "8g"]
    # Environments of engines that are too large for an image of each host (tests/testbed/engines).
    shared = cache_home() / environments.ROOM
    shared.mkdir(parents=True, exist_ok=True)
    options += ["-v", f"{shared}:{environments.MOUNT}:ro"]
    options += ["-v", f"{mirror}:{MIRROR}:ro"] if mirror else []
    # systemd's signal to shut down; without it a reboot would be a kill after the time limit.
    options += ["--stop-signal", "SIGRTMIN+3"]
    engine.docker("create", *options, image, *_INIT)
    engine.docker("cp", "-", f"{container(name)}:/", stdin=_identity(host, files))
    return host


def volumes(engine: Engine, name: str, kind: str) -> dict[str, str]:
    """Make a host's volumes, unless they are there, and return them: volume → its folder on the host.

    Its own Docker needs a file system that overlay2 accepts, and so do its users' rootless ones.
    """
    folders = {"docker": "/var/lib/docker", **({"home": "/home"} if KINDS[kind].accounts else {})}
    for what in folders:
        engine.docker("volume", "create", "--label", f"{LABEL}={STATE}", volume(name, what))
    return {volume(name, what): folder for what, folder in folders.items()}


def _identity(host: Host, files: dict[str, bytes]) -> bytes:
    """Return a tar of what makes a host of a base image: keys, apt's source, and on a GPU host the simulation."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(path: str, content: bytes, mode: int = 0o644, owner: int = 0, kind: bytes = tarfile.REGTYPE) -> None:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.mode, entry.uid, entry.gid, entry.type = mode, owner, owner, kind
            entry.mtime = int(time.time())
            if kind == tarfile.SYMTYPE:
                entry.linkname = content.decode()
            else:
                entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content) if kind == tarfile.REGTYPE else None)

        private, public = _host_key(host.name)
        add("/etc/ssh/ssh_host_ed25519_key", private, 0o600)
        add("/etc/ssh/ssh_host_ed25519_key.pub", public)
        add(f"/home/{USER}/.ssh", b"", 0o700, 1000, tarfile.DIRTYPE)
        add(f"/home/{USER}/.ssh/authorized_keys", KEY.with_suffix(".pub").read_bytes(), 0o600, 1000)
        for path, content in files.items():
            add(path, content)
        # as udev makes them on a server; here they come from the machine
        add("/etc/tmpfiles.d/testbed.conf", b"z /dev/net/tun 0666 root root\nz /dev/fuse 0666 root root\n")
        if release := KINDS[host.kind].release:
            add("/usr/lib/os-release", release.encode())
        for path, target in KINDS[host.kind].links.items():
            add(path, target.encode(), 0o777, 0, tarfile.SYMTYPE)
        drivers = [gpu] if host.has_gpus else [amd] if KINDS[host.kind].amd else []
        if host.has_gpus:
            add(gpu.LIBCUDA, gpu.libcuda(host.engine))
        for driver in drivers:
            for path, (source, mode) in driver.files().items():
                add(path, source.read_bytes(), mode)
            units = {Path(path).name: path for path in driver.files()}
            for unit in driver.UNITS:  # what `systemctl enable` does
                text_of = driver.files()[units[unit]][0].read_text()
                for target in re.findall(r"^WantedBy=(\S+)$", text_of, re.MULTILINE):
                    link = f"/etc/systemd/system/{target}.wants/{unit}"
                    add(link, units[unit].encode(), 0o777, 0, tarfile.SYMTYPE)
    return buffer.getvalue()


def _host_key(name: str) -> tuple[bytes, bytes]:
    """Return a new host key (private, public) and keep the public one for known_hosts."""
    folder = HOST_KEYS
    folder.mkdir(exist_ok=True)
    private, public = folder / name, folder / f"{name}.pub"
    private.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(private)])
    pair = private.read_bytes(), public.read_bytes()
    private.unlink()
    return pair


def ensure_key() -> None:
    """Create the login user's key, once per checkout."""
    if not KEY.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gpurack-testbed", "-f", str(KEY)])


def existing(engine: Engine) -> dict[str, Host]:
    """Return the hosts of this checkout, running or not."""
    form = f'{{{{.Label "{LABEL}.kind"}}}} {{{{.Label "{LABEL}.port"}}}} {{{{.Names}}}}'
    lines = engine.output("ps", "-a", "--filter", f"label={LABEL}={STATE}", "--format", form).splitlines()
    found = {}
    for line in lines:
        kind, _, rest = line.partition(" ")
        port, _, names = rest.partition(" ")
        if kind in KINDS:
            name = names.removeprefix(container(""))
            found[name] = Host(engine, name, kind, int(port))
    return dict(sorted(found.items()))


def remove(engine: Engine, name: str) -> None:
    """Remove a host with all its data."""
    engine.docker("rm", "-f", "-v", container(name), check=False)
    engine.docker("volume", "rm", "-f", volume(name), volume(name, "home"))


def free_port(taken: set[int]) -> int:
    """Return a loopback port for SSH that nobody listens on; low ones first, so that they are easy to remember."""
    for port in range(22201, 22300):
        if port in taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise TestbedError("No port from 22201 to 22299 is free on 127.0.0.1.")


def write_ssh_config(hosts: dict[str, Host]) -> None:
    """Write .testbed/ssh_config and known_hosts for exactly these hosts."""
    blocks, known = [], []
    for host in hosts.values():
        blocks.append(
            f"Host {host.name}\n    HostName 127.0.0.1\n    Port {host.port}\n    User {host.user}\n"
            f"    IdentityFile {KEY}\n    IdentitiesOnly yes\n    UserKnownHostsFile {KNOWN_HOSTS}\n"
            f"    StrictHostKeyChecking yes\n    LogLevel ERROR\n    ConnectTimeout 10\n"
        )
        key = HOST_KEYS / f"{host.name}.pub"
        if not key.exists():  # a failed attempt got no further than the host itself
            key.parent.mkdir(exist_ok=True)
            host.engine.docker("cp", f"{container(host.name)}:/etc/ssh/ssh_host_ed25519_key.pub", str(key))
        public = key.read_text().split()
        known.append(f"[127.0.0.1]:{host.port} {public[0]} {public[1]}\n")
    for path, content in ((KNOWN_HOSTS, "".join(known)), (SSH_CONFIG, "\n".join(blocks))):
        new = path.with_name(f"{path.name}.new")
        new.write_text(content)
        new.replace(path)  # other tests read them meanwhile
