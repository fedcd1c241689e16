"""An entry beside what the facts of its host say about it. Pure."""

from dataclasses import dataclass
from functools import cached_property

from gpurack import paths
from gpurack.engines import ENGINES
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container, Probe
from gpurack.plan.models.keys import current_key, following, taken_keys
from gpurack.spec.host import Host
from gpurack.spec.model import Model


@dataclass(frozen=True)
class Wanted:
    """A model or service of a host (spec) by its name in the inventory, enabled or not."""

    name: str
    spec: Host

    @cached_property
    def entry(self) -> Model:
        """Its entry in the inventory."""
        return self.spec.entries[self.name]

    @property
    def path(self) -> str:
        """Its path in the inventory."""
        return self.spec.path_of(self.name)


@dataclass(frozen=True)
class Observed(Wanted):
    """A model or service and its host's facts.

    Whatever is judged before a `DesiredService` exists reads it: health.py, ledger.py, plan.py and others.
    """

    facts: HostFacts

    @property
    def key(self) -> tuple[str, str]:
        """(user, name), by which answers and the record name it."""
        return self.entry.dockerd, self.name

    @property
    def answers_as(self) -> str | None:
        """The name that its answer must contain; None if the answer names no model."""
        return ENGINES[self.entry.engine].answers_as(self.entry, self.entry.name_served(self.name))

    @cached_property
    def container(self) -> Container | None:
        """Its container; None if there is none, or it is not proven to be gpurack's."""
        return self.facts.container(self.name, self.entry.dockerd)

    @property
    def probe(self) -> Probe | None:
        """The answer of its container, also of one that is still in another Docker; None if it was not asked."""
        user = self.container.user if self.container else self.entry.dockerd
        return self.facts.probes.get((user, self.name))

    @property
    def folder(self) -> str:
        """The folder on the host, with a slash at its end, of the files that its container mounts."""
        user, name = self.key
        return paths.container_file(user, current_key(name, user, self.facts), "")

    @property
    def next_key(self) -> str:
        """The key in compose.yaml of its next container.

        It is in use by no container, service or entry. So the two generations cannot be confused.
        """
        user, name = self.key
        taken = taken_keys(user, self.facts) | (self.spec.everything.keys() - {name})
        return following(name, current_key(name, user, self.facts), taken)

    @property
    def running(self) -> bool:
        """Does its container run?"""
        return bool(self.container and self.container.running)


def observed(spec: Host, facts: HostFacts) -> list[Observed]:
    """Return the models and services of a host, enabled or not."""
    return [Observed(name, spec, facts) for name in spec.entries]
