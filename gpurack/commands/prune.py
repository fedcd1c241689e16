"""`gpurack prune`: list and remove what nothing uses any more on the hosts, of what gpurack brought there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import gevent
from pyinfra.api import Host, State

from gpurack import screen
from gpurack.commands.connect import connect_error, connected
from gpurack.commands.lab import Lab
from gpurack.commands.on_host import NotDone, run_program, text_of
from gpurack.host_data import json_from_host
from gpurack.importing.text import one_line
from gpurack.plan.models import unused
from gpurack.spec import host as spec

LIMIT = 3600
"""Seconds. A host that removes may wait for another run to end."""
LONGEST = 500
"""Characters of a text."""
KINDS = ("image", "weights", "download", "files", "build", "volume")


@dataclass(frozen=True)
class Leftover:
    """One thing that nothing uses. user: whose Docker has it. size: bytes, None if unknown. stays: why it is kept."""

    kind: str
    what: str
    user: str = ""
    size: int | None = None
    stays: str = ""
    removed: bool = False
    error: str = ""


@dataclass(frozen=True)
class Found:
    """What a host has. trouble: why it is not known, or a part of it; "" if all is known."""

    leftovers: tuple[Leftover, ...] = ()
    trouble: tuple[str, ...] = field(default=())

    @property
    def free(self) -> int:
        """Bytes that are free, or would be, without what stays."""
        return sum(one.size or 0 for one in self.leftovers if not one.stays and not one.error)


def prune(console: screen.Console, lab: Lab, remove: bool, as_json: bool) -> int:
    """List or remove, and print. Return the exit code: 1 if a host could not be asked, or a thing not removed."""
    with connected(lab.inventory, lab.limit) as state:
        hosts = [host for host in lab.inventory if host.name in lab.chosen]
        work = {host.name: gevent.spawn(on_host, state, host, lab.fleet[host.name], remove) for host in hosts}
        gevent.joinall(list(work.values()))
    found: dict[str, Found] = {name: each.get() for name, each in work.items()}
    if as_json:
        screen.echo(screen.as_json(as_data(found)))
    else:
        for text in lines(found, remove, str(lab.path)):
            console.print(screen.line(text))
    return int(any(each.trouble or any(one.error for one in each.leftovers) for each in found.values()))


def on_host(state: State, host: Host, wanted: spec.Host, remove: bool) -> Found:
    """Ask one host, and let it remove."""
    if host not in state.active_hosts:
        return Found(trouble=(connect_error(host),))
    try:
        return read(run_program(host, text_of("leftovers", job_of(wanted, remove)), limit=LIMIT).stdout_lines)
    except NotDone as error:
        return Found(trouble=(str(error),))


def job_of(wanted: spec.Host, remove: bool) -> dict[str, Any]:
    """Return what files/leftovers.py is told."""
    return {**unused.question(wanted), "remove": remove}


def read(output: Iterable[str]) -> Found:
    """Parse the output of files/leftovers.py. What it says is data of a host."""
    leftovers, trouble = [], []
    for line in output:
        try:
            said = json_from_host(line)
            one = leftover(said)
        except (ValueError, TypeError, AttributeError, LookupError):
            continue  # a message, such as that it waits for another run
        if said["kind"] == "docker":
            trouble.append(f"{f'the Docker of {one.user}' if one.user else 'Docker'}: {one.error}")
        else:
            leftovers.append(one)
    return Found(tuple(sorted(leftovers, key=lambda one: (KINDS.index(one.kind), one.user, one.what))), tuple(trouble))


def leftover(said: Any) -> Leftover:
    """One line's data; its texts may quote a user's Docker, so each is one short line. Raises ValueError, TypeError,
    LookupError for anything else.
    """
    size = said.get("size")
    if said["kind"] not in (*KINDS, "docker") or not (size is None or type(size) is int):
        raise ValueError(said)
    words = {word: one_line(str(said.get(word) or ""))[:LONGEST] for word in ("kind", "what", "user", "stays", "error")}
    return Leftover(**words, size=size, removed=said.get("removed") is True)


def lines(found: Mapping[str, Found], remove: bool, inventory: str) -> Iterator[str]:
    """What is printed."""
    for name, host in found.items():
        total = f"{size(host.free)} {'removed' if remove else 'can be removed'}" if host.leftovers else "nothing unused"
        yield f"{name}   {total}" if host.leftovers or not host.trouble else f"{name}"
        yield from (f"  {text}" for text in table(host.leftovers))
        yield from (f"  error  {why}" for why in host.trouble)
    everything = sum(host.free for host in found.values())
    if remove:
        yield f"{size(everything)} removed on {len(found)} host{'s' if len(found) != 1 else ''}."
    elif any(not one.stays for host in found.values() for one in host.leftovers):
        yield f"{size(everything)} can be removed, less where images share layers: gpurack prune {inventory} --yes"


def table(leftovers: Sequence[Leftover]) -> Iterator[str]:
    """Aligned lines of a host."""
    width = max((len(named(one)) for one in leftovers), default=0)
    for one in leftovers:
        note = f"stays: {one.stays}" if one.stays else f"NOT REMOVED: {one.error}" if one.error else ""
        text = "?" if one.size is None else size(one.size)
        yield f"{one.kind:<8}  {named(one):<{width}}  {text:>8}  {note}".rstrip()


def named(one: Leftover) -> str:
    """A thing, and whose it is."""
    return f"{one.what} ({one.user})" if one.user and one.user not in one.what else one.what


def size(count: int) -> str:
    """Bytes as text.

    >>> size(512), size(40_300_000), size(6_100_000_000)
    ('512 B', '40.3 MB', '6.1 GB')
    """
    amount: float = count
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def as_data(found: Mapping[str, Found]) -> dict[str, Any]:
    """The same as JSON data."""
    hosts = {
        name: {"leftovers": [asdict(one) for one in host.leftovers], "bytes": host.free, "trouble": list(host.trouble)}
        for name, host in found.items()
    }
    return {"schema": screen.SCHEMA, "hosts": hosts}
