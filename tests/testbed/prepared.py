"""Hosts as the main job leaves them: made once, saved, and restored in seconds under any name (docs/testing.md).

A saved host is an image in the testbed's Docker with the contents of the host's container, a tar of its volumes, and a
tar of files that an image would change. The image's tag is a digest of everything that made it, so any change in
gpurack makes it again.
"""

from __future__ import annotations

import fcntl
import io
import pprint
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.testbed import cache, hosts
from tests.testbed.engine import Engine
from tests.testbed.hosts import KEPT, LABEL, VOLUMES, Host
from tests.testbed.inventory import common, mirrors, reach, weights
from tests.testbed.paths import CHECKOUT, STATE
from tests.testbed.shell import progress, run

ROOTLESS = {"beta": "ada", "gamma": "bob"}
"""On hosts of the kind rootless: model → the user of its Docker."""
MADE_BY = ("config.py", "deploys", "files", "gpurack", "requirements", "templates", "tests/testbed")
"""The parts of the checkout that make a prepared host."""


def models(kind: str) -> dict[str, Any]:
    """Return the models that a prepared host of a kind serves."""
    if kind == "cpu":
        return {"delta": {"weights": weights("delta"), "gpus": [], "port": 8000}}
    given = {"alpha": ([0], 8000), "beta": ([1, 2], 8001), "gamma": ([], 8002)}
    users = ROOTLESS if kind == "rootless" else {}
    return {
        name: {"weights": weights(name), "gpus": gpus, "port": port, **({"user": users[name]} if name in users else {})}
        for name, (gpus, port) in given.items()
    }


def data(kind: str) -> dict[str, Any]:
    """Return the data of a prepared host, besides the common ones."""
    users = {"docker": {"rootless": {user: {} for user in ROOTLESS.values()}}} if kind == "rootless" else {}
    return {**users, "models": models(kind)}


def image(kind: str, *made_of: object) -> str:
    """Return the name of the image with a prepared host of a kind, whether it exists or not.

    made_of: its base image, repositories and model images, as for cache.digest()."""
    sources = [path for part in MADE_BY for path in cache.sources(CHECKOUT / part) or [CHECKOUT / part]]
    names = [str(path.relative_to(CHECKOUT)) for path in sources]
    key = Path(mirrors()["nvidia"]["key"])
    return f"gpurack-testbed/prepared-{kind}:{cache.digest(made_of, data(kind), common(), key, names, *sources)}"


@contextmanager
def one_at_a_time(kind: str) -> Iterator[None]:
    """Let one program of this checkout at a time make the prepared host of a kind."""
    STATE.mkdir(exist_ok=True)
    with (STATE / f"prepared-{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def deploy(host: Host) -> None:
    """Run the main job on a fresh host, as an admin would."""
    with tempfile.TemporaryDirectory(prefix="gpurack-prepared-") as folder:
        inventory = Path(folder) / "lab.py"
        entry = (host.name, {**reach(host.name), **data(host.kind)})
        inventory.write_text(f"lab = {pprint.pformat(([entry], common()), sort_dicts=False)}\n")
        pyinfra = str(Path(sys.executable).parent / "pyinfra")
        run(
            [pyinfra, str(inventory), "deploys/gpu_host.py", "-y"],
            cwd=CHECKOUT,
            env={"XDG_STATE_HOME": folder},
            timeout=900,
            what=f"The main job on {host.name}",
        )


def save(host: Host, name: str) -> None:
    """Shut a host down and save it as this image; delete older images of its kind."""
    engine, container = host.engine, hosts.container(host.name)
    progress(f"saving {host.name} as {name}")
    # An image has times in whole seconds, but gpurack remembers nanoseconds of weights, and no ACLs, which users need.
    there = "$(ls -d var/lib/gpurack srv 2>/dev/null)"  # a host without models lacks the former
    host.root(f"apt-get clean; cd /; tar --create --acls --file={KEPT} {there}")
    host.stop()
    volumes = hosts.volumes(engine, host.name, host.kind)
    base = engine.output("inspect", "--format", "{{.Image}}", container)
    held = _pack(engine, base, volumes, "--create", *(folder.lstrip("/") for folder in volumes.values()))
    engine.docker("cp", "-", f"{container}:/", stdin=_tar(VOLUMES, held))
    engine.docker("commit", container, name, what=f"Saving {host.name}")
    repository = name.partition(":")[0]
    for old in engine.output("images", "--format", "{{.Repository}}:{{.Tag}}", repository).split():
        if old != name:
            engine.docker("rmi", old, check=False)  # it stays while a restored host runs


def restore(engine: Engine, name: str, kind: str, image: str) -> None:
    """Restore a host's volumes, before its first start."""
    volumes = hosts.volumes(engine, name, kind)
    _pack(engine, image, volumes, "--extract", "--preserve-permissions", f"--file={VOLUMES}")


def own_files() -> dict[str, bytes]:
    """Return the files that a restored host does not share with others: path → content."""
    return {"/etc/machine-id": f"{uuid.uuid4().hex}\n".encode()}


def _pack(engine: Engine, image: str, volumes: Mapping[str, str], *arguments: str) -> bytes:
    """Run tar in a container that has these volumes, and return its standard output."""
    # overlay2 marks deleted files of a layer in trusted.* attributes, which only CAP_SYS_ADMIN can read
    options = ["--rm", "--network", "none", "--cap-add", "SYS_ADMIN"]
    options += ["--label", f"{LABEL}="]  # the image has that of a host
    for one, folder in volumes.items():
        options += ["-v", f"{one}:{folder}"]
    tar = ["tar", "--directory=/", "--numeric-owner", "--xattrs", "--xattrs-include=*", *arguments]
    return engine.docker("run", *options, image, *tar, timeout=300, what="Packing a host's volumes").stdout


def _tar(path: str, content: bytes) -> bytes:
    """Return a tar of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
