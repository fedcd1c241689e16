"""The services beside the hosts, in one container: apt repositories, a container registry, weights, and names."""

from __future__ import annotations

import io
import shutil
import socket
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from tests.testbed import cache
from tests.testbed.engine import Engine
from tests.testbed.hosts import LABEL, NETWORK
from tests.testbed.paths import PACKAGE, STATE
from tests.testbed.shell import TestbedError, await_, log, text

NAME = "gpurack-testbed-services"
ALIASES = ("services", "repo.testbed", "registry.testbed", "weights.testbed", "proxy.testbed")
WEIGHTS = STATE / "weights"
"""Served at http://weights.testbed/; a test may add files."""
MOVED = STATE / "moved"
"""Served at http://repo.testbed/ before its usual files (see moving.py)."""
LOGIN = ("lab", "first-password-5f")
"""The login of registry.testbed:5001; `rotate` changes the password to OTHER_PASSWORD and back."""
OTHER_PASSWORD = "second-password-9c"
_HASHES = {
    LOGIN[1]: "$2b$04$oR4H/QBnS1oXYPMiZciQJuq75leJE1CGIFUg5odKT94sAfbIvwgES",
    OTHER_PASSWORD: "$2b$04$gBLnQdarP5XCdZRpdLArHeZuRYrjZQ7vC.0.97XhONSt20KT6dU3K",
}
RPM = STATE / "rpm"
"""The rpm repositories, below http://repo.testbed/ like the others. They are filled when the first host needs them, so
that the container stays the same. A test may change files.
"""
_FILES = PACKAGE / "services_files"


def start(engine: Engine, image: str, repositories: dict[str, Path], ip: str) -> bool:
    """Run the container with exactly these repositories; return whether it was recreated.

    `repositories`: name below http://repo.testbed/ → folder. `ip`: its address in the testbed's network, where it is
    also the hosts' name server. In a new container the registry is empty."""
    identity = cache.digest(image, repositories, ip, *sorted(_FILES.iterdir()))
    form = f'{{{{.State.Running}}}} {{{{index .Config.Labels "{LABEL}.identity"}}}}'
    if engine.output("inspect", "--format", form, NAME, check=False) == f"true {identity}":
        return False
    engine.docker("rm", "-f", "-v", NAME, check=False)
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    RPM.mkdir(parents=True, exist_ok=True)
    MOVED.mkdir(exist_ok=True)
    options = [
        "--name",
        NAME,
        "--label",
        f"{LABEL}={STATE}",
        "--label",
        f"{LABEL}.identity={identity}",
        "--init",
    ]
    options += ["--network", NETWORK, "--ip", ip, *(word for alias in ALIASES for word in ("--network-alias", alias))]
    for port in (80, 5000):
        options += ["-p", f"127.0.0.1:{_free_port()}:{port}"]
    options += ["-v", f"{WEIGHTS}:/srv/weights:ro", "-v", f"{RPM}:/srv/rpm:ro"]
    options += ["-v", f"{MOVED}:/srv/moved:ro"]
    for name, folder in repositories.items():
        options += ["-v", f"{folder}:/srv/repo/{name}:ro"]
    engine.docker("create", *options, image, "/etc/testbed/start")
    engine.docker("cp", "-", f"{NAME}:/etc/", stdin=_configuration())
    engine.docker("start", NAME)

    def ready() -> bool:
        if engine.output("inspect", "--format", "{{.State.Running}}", NAME) != "true":
            log(text(engine.docker("logs", NAME).stderr))
            raise TestbedError("The testbed's services ended at once (see .testbed/log).")
        web, registry = f"http://{address(engine, 80)}/", f"http://{address(engine, 5000)}/v2/"
        return _answers(web) and _answers(registry)

    await_(ready, seconds=30, what="The start of the testbed's services")
    return True


def serve_rpm(folder: Path) -> None:
    """Serve copies of the repositories of rpm_packages.made(), which a test may change."""
    RPM.mkdir(parents=True, exist_ok=True)
    done = RPM / "entry"
    if not done.exists() or done.read_text() != folder.name:
        for old in RPM.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.copytree(folder, RPM, dirs_exist_ok=True)
        done.write_text(folder.name)


def address(engine: Engine, port: int) -> str:
    """Return the address of a port of the container (80 web, 5000 registry) on this machine, as 127.0.0.1:PORT."""
    return engine.output("port", NAME, f"{port}/tcp").splitlines()[0]


def rotate(engine: Engine, password: str) -> None:
    """Set the password of the registry with a login: LOGIN[1] or OTHER_PASSWORD."""
    line = f"{LOGIN[0]}:{_HASHES[password]}\n"
    engine.docker("exec", "-i", NAME, "sh", "-c", "cat > /etc/testbed/htpasswd", stdin=line.encode())


def _free_port() -> int:
    """Return a free port. Docker would choose one that it did not assign itself, and give up after ten that another
    Docker's containers use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _configuration() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(_FILES, arcname="testbed")
    return buffer.getvalue()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
