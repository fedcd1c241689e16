"""`gpurack prune`: list and remove what nothing uses any more on the hosts, of what gpurack brought there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gevent
from pyinfra.api import Host, State

from gpurack import screen
from gpurack.commands.connect import connect_error, connected, snapshots_of
from gpurack.commands.lab import Lab
from gpurack.commands.on_host import NotDone, run_program, text_of
from gpurack.facts.machines import with_twins
from gpurack.facts.model import HostFacts
from gpurack.host_data import json_from_host
from gpurack.importing.text import one_line
from gpurack.plan.models import unused
from gpurack.shell import word
from gpurack.spec import host as spec
from gpurack.spec.problems import Problem
from gpurack.spec.step_codes import STEPS

LIMIT = 3600
"""Seconds. A host that removes may wait for another run to end."""
LONGEST = 500
"""Characters of a text."""
KINDS = ("image", "weights", "download", "files", "build", "volume")


@dataclass(frozen=True)
class Leftover:
    """One thing that nothing uses. user: whose Docker has it. size: bytes, None if unknown. stays: why it is kept.

    error: why it was not removed, or why this Docker could not be asked. code: of that error, "" without one.
    """

    kind: str
    what: str
    user: str = ""
    size: int | None = None
    stays: str = ""
    removed: bool = False
    error: str = ""
    code: str = ""


@dataclass(frozen=True)
class Found:
    """What a host has. errors: why it is not known, or a part of it."""

    leftovers: tuple[Leftover, ...] = ()
    errors: tuple[Problem, ...] = ()

    @property
    def free(self) -> int:
        """Bytes that are free, or would be, without what stays."""
        return sum(one.size or 0 for one in self.leftovers if not one.stays and not one.error)


def prune(console: screen.Console, lab: Lab, remove: bool, as_json: bool) -> int:
    """List or remove, and print. Return the exit code: 1 if a host could not be asked, or a thing not removed."""
    with connected(lab.inventory, lab.limit) as state:
        hosts = [host for host in lab.inventory if host.name in lab.chosen]
        twice = named_twice(with_twins(snapshots_of(state, lab.fleet))) if len(hosts) > 1 else {}
        asked = [host for host in hosts if host.name not in twice]
        work = {host.name: gevent.spawn(on_host, state, host, lab.fleet[host.name], remove) for host in asked}
        gevent.joinall(list(work.values()))
    found: dict[str, Found] = {host.name: twice.get(host.name) or work[host.name].get() for host in hosts}
    if as_json:
        screen.echo(screen.as_json(as_data(found)))
    else:
        for text in lines(found, remove, str(lab.path)):
            console.print(screen.line(text))
    return int(any(each.errors or any(one.error for one in each.leftovers) for each in found.values()))


def named_twice(seen: Mapping[str, HostFacts]) -> dict[str, Found]:
    """Return the error of each name that is one machine with another.

    What the entries of one name use would be listed as unused under the other.
    """
    return {name: Found(errors=(facts.blind,)) for name, facts in seen.items() if facts.twin and facts.blind}


def on_host(state: State, host: Host, wanted: spec.Host, remove: bool) -> Found:
    """Ask one host, and let it remove."""
    if host not in state.active_hosts:
        return Found(errors=(Problem.of("not-inspected", what=connect_error(host)),))
    try:
        return read(run_program(host, text_of("leftovers", job_of(wanted, remove)), limit=LIMIT).stdout_lines)
    except NotDone as error:
        return Found(errors=(Problem.of("step-failed", what=error),))


def job_of(wanted: spec.Host, remove: bool) -> dict[str, Any]:
    """Return what files/leftovers.py is told."""
    return {**unused.question(wanted), "remove": remove}


def read(output: Iterable[str]) -> Found:
    """Parse the output of files/leftovers.py. What it says is data of a host."""
    leftovers, errors = [], []
    for line in output:
        try:
            said = json_from_host(line)
            one = leftover(said)
        except (ValueError, TypeError, AttributeError, LookupError):
            continue  # a message, such as that it waits for another run
        if said["kind"] == "docker":
            whose = f"the Docker of {one.user}" if one.user else "Docker"
            errors.append(Problem.of(one.code or "step-failed", what=f"{whose}: {one.error or 'no reason given'}"))
        else:
            leftovers.append(one)
    return Found(tuple(sorted(leftovers, key=lambda one: (KINDS.index(one.kind), one.user, one.what))), tuple(errors))


def leftover(said: Any) -> Leftover:
    """Return the leftover that one line of output describes.

    Its texts may quote a user's Docker, so each is cut to one short line. Raises ValueError, TypeError or LookupError
    for anything else.
    """
    size = said.get("size")
    if said["kind"] not in (*KINDS, "docker") or not (size is None or type(size) is int):
        raise ValueError(said)
    words = {word: one_line(str(said.get(word) or ""))[:LONGEST] for word in ("kind", "what", "user", "stays", "error")}
    code = said.get("code") if said.get("code") in STEPS else "step-failed" if words["error"] else ""
    return Leftover(**words, size=size, removed=said.get("removed") is True, code=code)


def lines(found: Mapping[str, Found], remove: bool, inventory: str) -> Iterator[str]:
    """What is printed."""
    for name, host in found.items():
        total = f"{size(host.free)} {'removed' if remove else 'can be removed'}" if host.leftovers else "nothing unused"
        yield f"{name}   {total}" if host.leftovers or not host.errors else f"{name}"
        yield from (f"  {text}" for text in table(host.leftovers))
        yield from (f"  error  {why.message}" for why in host.errors)
    everything = sum(host.free for host in found.values())
    if remove:
        yield f"{size(everything)} removed on {len(found)} host{'s' if len(found) != 1 else ''}."
    elif any(not one.stays for host in found.values() for one in host.leftovers):
        command = f"gpurack prune {word(str(inventory))} --yes"
        yield f"{size(everything)} can be removed, less where images share layers: {command}"


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
        name: {
            "leftovers": [asdict(one) for one in host.leftovers],
            "bytes": host.free,
            "errors": [problem.message for problem in host.errors],
            "codes": [problem.code for problem in host.errors],
        }
        for name, host in found.items()
    }
    return {"schema": screen.SCHEMA, "hosts": hosts}
