"""What a service connects to, as its host is told. inventory/checks/connections.py finds it."""

from dataclasses import dataclass

from gpurack.spec.model import Model
from gpurack.spec.secret import Secret


@dataclass(frozen=True)
class Connection:
    """One entry that a service connects to: `name` on `host`. here: on the service's own host. near: also in one
    network of containers, where its name is enough; else by its published port. url: of its API, as the service reaches
    it. key: what it wants to be sent. serves: the names it answers to; of a gateway, those of the models behind it."""

    host: str
    name: str
    model: Model
    here: bool
    near: bool
    url: str
    key: Secret | None
    serves: tuple[str, ...]

    @property
    def label(self) -> str:
        """For people: with its host, where that is another one."""
        return self.name if self.near else f"{self.name} on {self.host}"
