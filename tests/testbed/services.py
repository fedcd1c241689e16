"""What stands beside the hosts, in one container: apt repositories, a container registry, weights, and names."""

from __future__ import annotations

import io
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
ALIASES = ("services", "repo.testbed", "registry.testbed", "weights.testbed")
WEIGHTS = STATE / "weights"
"""Served at http://weights.testbed/; a test may add files."""
_FILES = PACKAGE / "services_files"


def start(engine: Engine, image: str, repositories: dict[str, Path], ip: str) -> bool:
    """Make the container run with exactly these repositories; return whether it had to be made anew.

    `repositories`: name below http://repo.testbed/ → folder; `ip`: its address in the testbed's network, where it
    is the hosts' name server, too. With a new container the registry is empty.
    """
    identity = cache.digest(image, repositories, ip, *sorted(_FILES.iterdir()))
    form = f'{{{{.State.Running}}}} {{{{index .Config.Labels "{LABEL}.identity"}}}}'
    if engine.output("inspect", "--format", form, NAME, check=False) == f"true {identity}":
        return False
    engine.docker("rm", "-f", "-v", NAME, check=False)
    WEIGHTS.mkdir(parents=True, exist_ok=True)
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
    options += ["-p", "127.0.0.1::80", "-p", "127.0.0.1::5000", "-v", f"{WEIGHTS}:/srv/weights:ro"]
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


def address(engine: Engine, port: int) -> str:
    """Return where a port of the container (80 web, 5000 registry) is on this machine, as 127.0.0.1:PORT."""
    return engine.output("port", NAME, f"{port}/tcp").splitlines()[0]


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
