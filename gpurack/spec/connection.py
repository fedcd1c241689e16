"""One connection of a service to a model or gateway, as inventory/checks/connections.py resolves it."""

from dataclasses import dataclass

from gpurack.spec.model import Model
from gpurack.spec.secret import Secret


@dataclass(frozen=True)
class Connection:
    """One entry that a service connects to: `name` on `host`.

    here: it is on the service's own host. near: it is also in the same container network, so that its name is enough;
    otherwise its published port is used. url: its API, as the service reaches it. key: the key it requires. serves: the
    model names it answers to; for a gateway, those of the models behind it.
    """

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
        """Its name for messages, with its host if that is another one."""
        return self.name if self.near else f"{self.name} on {self.host}"
