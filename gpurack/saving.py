"""`gpurack image save`: an image of one host as a tar file on this machine, for `image: {"tar": …}` of another.

It comes over the ssh connection that pyinfra has, as the host's Docker writes it; nothing is written on the host.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyinfra.api import Host

from gpurack.looks import connected, unreached
from gpurack.shell import Sh, sh
from gpurack.spec.load import read_inventory

BLOCK = 1 << 20
IMAGE_ID = r"sha256:[0-9a-f]{64}"
SIGN_OF_LIFE = 5
"""Seconds between two lines of progress."""
AS_ROOT = sh('d=docker; [ "$(id -u)" = 0 ] || d="sudo -n docker"; ')


def find(name: str) -> Sh:
    """Prints id and size of a container's own image, which its tag may have left since, or of an image."""
    return sh(
        "id=$($d container inspect --format '{{.Image}}' {name} 2>/dev/null) || id={name}; "
        "$d image inspect --format '{{.Id}} {{.Size}}' \"$id\"",
        name=name,
    )


class NotSaved(Exception):
    """There is no tar file; the text says why."""


def save(inventory_file: Path, host_name: str, name: str, file: Path, tell: Callable[[str], None]) -> None:
    """Write an image of a host to a file.

    name: a container (a model, by its name) or an image of the host. tell: is given a line every few seconds.
    Raises NotSaved, spec.problems.InventoryError.
    """
    inventory = read_inventory(inventory_file)
    host = inventory.get_host(host_name, default=None)
    if host is None:
        raise NotSaved(f"{host_name} is not in {inventory_file}.")
    with connected(inventory, [host]) as state:
        if host not in state.active_hosts:
            raise NotSaved(f"{host_name}: {unreached(host)}")
        client = getattr(host.connector, "client", None)
        if client is None:
            raise NotSaved(f"{host_name} is not reached by ssh; there: {sh('docker save {} > {}', name, str(file))}.")
        _save(client, host, name, file, tell)


def _save(client: Any, host: Host, name: str, file: Path, tell: Callable[[str], None]) -> None:
    found, error = _output(client, find(name))
    image, _, size = found.partition(" ")
    if not (size.isdigit() and re.fullmatch(IMAGE_ID, image)):
        raise NotSaved(f"{host.name} has no container and no image {name}: {error or 'docker said nothing'}.")
    part, done, begun = file.with_name(f"{file.name}.part"), 0, time.monotonic()
    output, errors = _run(client, sh("$d save {}", image))
    try:
        with part.open("wb") as stream:
            while block := output.read(BLOCK):
                stream.write(block)
                done += len(block)
                if time.monotonic() - begun >= SIGN_OF_LIFE:
                    begun = time.monotonic()
                    tell(f"{name}: {done / 1e9:.2f} GB, about {int(size) / 1e9:.2f} GB in all")
    except OSError as wrong:
        part.unlink(missing_ok=True)
        raise NotSaved(f"{file} cannot be written: {wrong.strerror}.") from None
    if output.channel.recv_exit_status():
        part.unlink(missing_ok=True)
        raise NotSaved(f"{host.name} could not save {name}: {errors.read().decode(errors='replace').strip()}.")
    part.replace(file)
    tell(f'{file}: {done / 1e9:.2f} GB. Where it is to run: image: {{"tar": "{file}"}}')


def _run(client: Any, command: Sh) -> tuple[Any, Any]:
    """A command's output and errors, while it runs."""
    _, output, errors = client.exec_command(sh("{}{}", AS_ROOT, command))
    return output, errors


def _output(client: Any, command: Sh) -> tuple[str, str]:
    """A command's output and errors."""
    output, errors = _run(client, command)
    return output.read().decode(errors="replace").strip(), errors.read().decode(errors="replace").strip()
