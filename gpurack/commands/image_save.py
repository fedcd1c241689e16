"""`gpurack image save`: save an image of a host as a tar file here, for `image: {"tar": …}` of another host.

`docker save` streams over pyinfra's ssh connection; nothing is written on the host.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyinfra.api import Host

from gpurack.commands.connect import connect_error, connected
from gpurack.inventory.load import read_inventory
from gpurack.replace_file import put_in_place
from gpurack.shell import Sh, sh

BLOCK = 1 << 20
IMAGE_ID = r"sha256:[0-9a-f]{64}"
PROGRESS_INTERVAL = 5
"""Seconds between two lines of progress."""
LARGEST = 1 << 20
"""Bytes of a message of the host that are read."""
TIMES = 10
"""How much larger than Docker says an image may be: it may say the compressed size."""
QUICK = 60
"""Seconds for a question to Docker."""
SILENCE = 900
"""Seconds without a byte: Docker may write a large image to its own disk before it sends it."""
AS_ROOT = sh('d=docker; [ "$(id -u)" = 0 ] || d="sudo -n docker"; ')


def find_image(name: str) -> Sh:
    """A command that prints id and size of an image; of a container it is the image that it runs."""
    return sh(
        "id=$($d container inspect --format '{{.Image}}' {name} 2>/dev/null) || id={name}; "
        "$d image inspect --format '{{.Id}} {{.Size}}' \"$id\"",
        name=name,
    )


class NotSaved(Exception):
    """The image could not be saved; the text says why."""


def save(inventory_file: Path, host_name: str, name: str, file: Path, report: Callable[[str], None]) -> None:
    """Write an image of a host to a file.

    name: a model, container or image on the host. report: called with a line of progress every few seconds.
    Raises NotSaved, spec.problems.InventoryError.
    """
    inventory = read_inventory(inventory_file)
    host = inventory.get_host(host_name, default=None)
    if host is None:
        raise NotSaved(f"{host_name} is not in {inventory_file}.")
    with connected(inventory, [host]) as state:
        if host not in state.active_hosts:
            raise NotSaved(f"{host_name}: {connect_error(host)}")
        client = getattr(host.connector, "client", None)
        if client is None:
            command = sh("docker save {} > {}", name, str(file))
            raise NotSaved(f"{host_name} is not an ssh host. Run on it: `{command}`.")
        _save(client, host, name, file, report)


def _save(client: Any, host: Host, name: str, file: Path, report: Callable[[str], None]) -> None:
    found, error = _output(client, find_image(name), host.name)
    image, _, size = found.partition(" ")
    if not (re.fullmatch(r"[0-9]{1,15}", size) and re.fullmatch(IMAGE_ID, image)):
        raise NotSaved(f"{host.name} has no container or image {name}: {error or 'docker printed no error'}.")
    part, done, begun = file.with_name(f"{file.name}.part"), 0, time.monotonic()
    output, errors = _run(client, sh("$d save {}", image), PROGRESS_INTERVAL)
    try:
        with part.open("wb") as stream:
            for block in blocks(output, host.name):
                stream.write(block)
                done += len(block)
                if done > TIMES * int(size) + LARGEST:
                    raise OSError(0, f"{host.name} sends more than the image has")
                if time.monotonic() - begun >= PROGRESS_INTERVAL:
                    begun = time.monotonic()
                    report(f"{name}: {done / 1e9:.2f} GB of about {int(size) / 1e9:.2f} GB")
    except NotSaved:
        part.unlink(missing_ok=True)
        raise
    except OSError as failure:
        part.unlink(missing_ok=True)
        raise NotSaved(f"Could not write {file}: {failure.strerror}.") from None
    if output.channel.recv_exit_status():
        part.unlink(missing_ok=True)
        raise NotSaved(f"{host.name} could not save {name}: {errors.read(LARGEST).decode(errors='replace').strip()}.")
    put_in_place(part, file)
    report(f'{file}: {done / 1e9:.2f} GB. Use it on another host with `image: {{"tar": "{file}"}}`.')


def blocks(output: Any, host: str) -> Iterator[bytes]:
    """Yield what a host sends, b"" every few seconds in which it sends nothing. Raises NotSaved after `SILENCE`."""
    heard = time.monotonic()
    while True:
        try:
            block = output.read(BLOCK)
        except TimeoutError:
            if time.monotonic() - heard >= SILENCE:
                raise NotSaved(f"{host} sent nothing for {SILENCE} s.") from None
            block = None
        if block == b"":
            return
        heard = time.monotonic() if block else heard
        yield block or b""


def _run(client: Any, command: Sh, silence: float) -> tuple[Any, Any]:
    """Start a command; its stdout and stderr as streams. silence: seconds after which a read raises TimeoutError."""
    _, output, errors = client.exec_command(sh("{}{}", AS_ROOT, command))
    if channel := getattr(output, "channel", None):
        channel.settimeout(silence)
    return output, errors


def _output(client: Any, command: Sh, host: str) -> tuple[str, str]:
    """Run a quick command; its stdout and stderr as text. Raises NotSaved."""
    output, errors = _run(client, command, QUICK)
    try:
        said, wrong = (stream.read(LARGEST).decode(errors="replace").strip() for stream in (output, errors))
    except TimeoutError:
        raise NotSaved(f"{host}: docker gave no answer within {QUICK} s.") from None
    return said, wrong
