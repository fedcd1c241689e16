"""Which names of an inventory are one machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gpurack.facts.model import HostFacts


@dataclass(eq=False)
class Machines:
    """The names under which machines were inspected.

    Clones of a disk have one machine-id, but an address each.
    """

    _names: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)

    def add(self, name: str, facts: HostFacts) -> None:
        """Note the facts that were found under a name."""
        if facts.machine_id and facts.address:
            self._names.setdefault((facts.machine_id, facts.address), {})[name] = None

    def with_twin(self, name: str, facts: HostFacts) -> HostFacts:
        """Return the facts of a name, with `twin`: the first other name of the same machine, "" if it has none."""
        names = self._names.get((facts.machine_id, facts.address), {})
        twin = next((other for other in names if other != name), "")
        return facts if facts.twin == twin else replace(facts, twin=twin)


def with_twins(seen: Mapping[str, HostFacts]) -> dict[str, HostFacts]:
    """Return the facts of all names, each with its `twin`."""
    machines = Machines()
    for name, facts in seen.items():
        machines.add(name, facts)
    return {name: machines.with_twin(name, facts) for name, facts in seen.items()}
