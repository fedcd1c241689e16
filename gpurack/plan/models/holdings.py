"""What a container or service holds that no other can have at the same time: GPUs, and ports at addresses. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from gpurack.facts.gpus import Gpu
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.listening import overlap
from gpurack.plan.models import ledger
from gpurack.plan.models.addresses import address
from gpurack.plan.models.desired import DesiredService
from gpurack.plan.models.observed import Observed


@dataclass(frozen=True)
class Holdings:
    """GPUs (UUIDs and render nodes), listeners (address, port) and names that exclude others.

    >>> one, two = Holdings(listeners=frozenset({("127.0.0.1", 8000)})), Holdings(listeners=frozenset({("::", 8000)}))
    >>> one.clashes(two), one.clashes(Holdings(listeners=frozenset({("192.0.2.1", 8000)})))
    (('port 8000',), ())
    """

    gpus: frozenset[str] = field(default_factory=frozenset)
    listeners: frozenset[tuple[str, int]] = field(default_factory=frozenset)
    names: frozenset[str] = field(default_factory=frozenset)

    def __or__(self, other: Self) -> Self:
        return type(self)(self.gpus | other.gpus, self.listeners | other.listeners, self.names | other.names)

    def __sub__(self, other: Self) -> Self:
        return type(self)(self.gpus - other.gpus, self.listeners - other.listeners, self.names - other.names)

    def clashes(self, other: Self) -> tuple[str, ...]:
        """Return what both hold, sorted: `gpu GPU-6f1c…`, `port 8000`, a name.

        Two listeners exclude each other on one port if their addresses overlap.
        """
        found = {f"gpu {gpu}" for gpu in self.gpus & other.gpus} | (self.names & other.names)
        found |= {
            f"port {port}"
            for place, port in self.listeners
            for theirs, same in other.listeners
            if port == same and overlap(place, theirs)
        }
        return tuple(sorted(found))

    def without_gpus(self, gpus: Iterable[str]) -> Self:
        """Return the holdings with these GPUs left out."""
        return type(self)(self.gpus - set(gpus), self.listeners, self.names)


def held_by(container: Container | None, facts: HostFacts) -> Holdings:
    """Return what a container holds, running or not; nothing without one.

    A user's daemon may claim any port, so the bind and port in its label count, which root wrote.
    """
    if container is None:
        return Holdings()
    definition = ledger.label(container.labels)
    gpus = [gpu for word in ("uuids", "render_nodes") for gpu in listed(definition.get(word))]
    ports: Iterable[tuple[str, object]] = container.ports
    if container.user:
        ports = [(address(str(definition.get("bind", "any")), facts), definition.get("port"))]
    listeners = ((place, port) for place, port in ports if isinstance(port, int))
    return Holdings(frozenset(map(str, gpus)), frozenset(listeners))


def names_of(gpu: Gpu) -> tuple[str, ...]:
    """Return the names by which holdings have a GPU: its UUID, and the render node of one of AMD's."""
    return (gpu.uuid, gpu.node) if gpu.node else (gpu.uuid,)


def listed(value: object) -> list[object]:
    """Return a value that should be a list; [] if it is not."""
    return value if isinstance(value, list) else []


def needed_by(desired: DesiredService) -> Holdings:
    """Return what a service will hold."""
    gpus = (*desired.uuids, *desired.devices.nodes)
    return Holdings(frozenset(gpus), frozenset({(desired.address, desired.entry.port)}))


def port_of(one: Observed) -> Holdings:
    """Return the part of what an entry needs that is known without its GPUs."""
    return Holdings(listeners=frozenset({(address(one.entry.bind, one.facts), one.entry.port)}))
