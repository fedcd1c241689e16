"""How a host sees what its services connect to on other hosts: their names, and whether they answer. Pure."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.spec.connection import Connection
from gpurack.spec.host import Host
from gpurack.spec.secret import UPSTREAM

WHY = {200: "", 0: "no answer", 401: "refuses the key", 503: "is loading"}
"""HTTP status, 0 for no answer, of a model on the service's own host → why it does not answer."""


def far(spec: Host) -> Iterator[tuple[str, int, Connection]]:
    """(service, number, connection) of all that lies beyond a service's own network."""
    for service in spec.services:
        for index, connection in enumerate(spec.connections(service)):
            if not connection.near:
                yield service, index, connection


def names(spec: Host) -> list[str]:
    """What the host is asked to look up."""
    return [name for _, _, connection in far(spec) if not is_address(name := host_of(connection))]


def questions(spec: Host) -> Iterator[tuple[str | int, ...]]:
    """(user, service, number, file of the key, url) for the look: is it ready, and does it take the key? Models on the
    service's own host are left out: the look asks each as the user whose Docker it is in, and only while it runs."""
    for service, index, connection in far(spec):
        if connection.here:
            continue
        user, file = spec.entries[service].dockerd, key_file(spec, service, index)
        yield user, service, index, file, ready_url(connection)


def ready_url(connection: Connection) -> str:
    """Where what lies beyond a service's own network says that it is ready."""
    url = urlsplit(connection.url)
    return f"{url.scheme}://{url.netloc}{ENGINES[connection.model.engine].ready_at(connection.model)}"


def key_file(spec: Host, service: str, index: int) -> str:
    """The file on the host with the key of what a service connects to."""
    return paths.container_file(spec.entries[service].dockerd, service, f"{UPSTREAM}{index}")


def extra_hosts(
    connections: Sequence[Connection], definition: Mapping[str, object], facts: HostFacts
) -> dict[str, str]:
    """Name → address, as the host itself knows it: a container asks name servers alone and does not read /etc/hosts.
    A name that cannot be looked up just now keeps the address that the service's container has (definition: its
    label's)."""
    before = definition.get("hosts")
    known = {**(before if isinstance(before, dict) else {}), **facts.names}
    names = (host_of(connection) for connection in connections if not connection.near)
    return {name: known[name] for name in names if name in known}


def unreached(service: str, spec: Host, facts: HostFacts) -> list[str]:
    """`gamma on cpu1 (connection refused)` for each model that a running service does not reach now."""
    user = spec.entries[service].dockerd
    container = facts.container(service, user)
    if not (container and container.running):
        return []
    return [
        f"{connection.label} ({why})"
        for name, index, connection in far(spec)
        if name == service and (why := unanswered(user, service, index, connection, facts))
    ]


def unanswered(user: str, service: str, index: int, connection: Connection, facts: HostFacts) -> str:
    """Why a connection of a user's service does not answer; "" for one that does, and where it is not known."""
    if not connection.here:
        return facts.upstreams.get((user, service, index), "")
    whose = connection.model.dockerd
    container, probe = facts.ours.get((whose, connection.name)), facts.probes.get((whose, connection.name))
    if not (container and container.running):
        return "its container does not run"
    return WHY.get(probe.status, f"HTTP {probe.status}") if probe else ""


def host_of(connection: Connection) -> str:
    """The other host, as the service is told to reach it."""
    return urlsplit(connection.url).hostname or ""


def is_address(name: str) -> bool:
    """Is it an address already?"""
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
