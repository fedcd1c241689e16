"""What a host knows about other hosts that its services connect to: names, and whether they answer. Pure."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.plan.models.observed import Observed
from gpurack.spec.connection import Connection
from gpurack.spec.host import Host
from gpurack.spec.secret import UPSTREAM

WHY = {200: "", 0: "no answer", 401: "refuses the key", 503: "is loading"}
"""HTTP status (0: no answer) of a model on the service's own host → why it does not answer."""


def far(spec: Host) -> Iterator[tuple[str, int, Connection]]:
    """Yield (service, number, connection) of all connections that leave the service's own network."""
    for service in spec.services:
        for index, connection in enumerate(spec.connections(service)):
            if not connection.near:
                yield service, index, connection


def names(spec: Host) -> list[str]:
    """Return the names that the host has to resolve."""
    return [name for _, _, connection in far(spec) if not is_address(name := host_of(connection))]


def questions(spec: Host) -> Iterator[tuple[str | int, ...]]:
    """Yield (user, service, number, file of the key, url): is it ready, and does it accept the key?

    Models on the service's own host are left out. The snapshot asks each as the user whose Docker it is in, if it runs.
    In the file's path it replaces the service's name by its key in compose.yaml.
    """
    for service, index, connection in far(spec):
        if connection.here:
            continue
        user = spec.entries[service].dockerd
        file = paths.container_file(user, service, f"{UPSTREAM}{index}")
        yield user, service, index, file, ready_url(connection)


def ready_url(connection: Connection) -> str:
    """Return the URL at which a model outside of the service's network reports that it is ready."""
    url = urlsplit(connection.url)
    return f"{url.scheme}://{url.netloc}{ENGINES[connection.model.engine].ready_at(connection.model)}"


def extra_hosts(
    connections: Sequence[Connection], definition: Mapping[str, object], facts: HostFacts
) -> dict[str, str]:
    """Return name → address, as the host resolves it, for a service's container.

    A container asks name servers only and does not read /etc/hosts. A name that cannot be resolved now keeps the
    address in the label of the service's container (definition).
    """
    before = definition.get("hosts")
    known = {**(before if isinstance(before, dict) else {}), **facts.names}
    names = (host_of(connection) for connection in connections if not connection.near)
    return {name: known[name] for name in names if name in known}


def unreached(one: Observed) -> list[str]:
    """Return `gamma on cpu1 (connection refused)` for each model that a running service cannot reach now."""
    if not one.running:
        return []
    return [
        f"{connection.label} ({why})"
        for service, index, connection in far(one.spec)
        if service == one.name and (why := unanswered(one, index, connection))
    ]


def unanswered(one: Observed, index: int, connection: Connection) -> str:
    """Return why a connection of a service does not answer; "" if it does, or if it is unknown."""
    if not connection.here:
        return one.facts.upstreams.get((*one.key, index), "")
    key = connection.model.dockerd, connection.name
    container, probe = one.facts.ours.get(key), one.facts.probes.get(key)
    if not (container and container.running):
        return "its container does not run"
    return WHY.get(probe.status, f"HTTP {probe.status}") if probe else ""


def host_of(connection: Connection) -> str:
    """Return the other host, as in the URL that the service gets."""
    return urlsplit(connection.url).hostname or ""


def is_address(name: str) -> bool:
    """Is it an IP address?"""
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
