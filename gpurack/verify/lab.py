"""The lab under test: its inventory, read once, and the evidence of its hosts, gathered side by side."""

import hmac
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import Any

import testinfra.host
from pyinfra.api import Config, State
from pyinfra.api import Host as PyinfraHost
from pyinfra.context import ctx_state

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.host_data import json_from_host, not_understood
from gpurack.inventory.fleet import read_fleet
from gpurack.inventory.load import APPLY, read_inventory
from gpurack.inventory.lock_file import with_lock
from gpurack.inventory.secrets import read_secrets
from gpurack.plan.models import ledger
from gpurack.plan.models.desired import DesiredService, desire
from gpurack.plan.models.diff import Change, compare
from gpurack.plan.models.plan import mounted
from gpurack.pyinfra_patches import read_any_bytes
from gpurack.shell import by_ssh, sh
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.problems import InventoryError, Problem
from gpurack.verify.drift import Unread
from gpurack.verify.evidence import Seen, enabled, limit, script, whole
from gpurack.verify.reach import run_as_root, testinfra_host


@dataclass
class Server:
    """A host of the inventory. wanted: its spec. look: gives its evidence."""

    name: str
    wanted: Host
    pyinfra: PyinfraHost
    fix: str
    salt: str
    look: Callable[[str], Seen] = field(repr=False)
    garbled: Unread | None = None
    """Why a check could not understand its evidence; the first that could not has said it."""

    @property
    def title(self) -> str:
        """For messages and test ids."""
        return self.name

    @property
    def seen(self) -> Seen:
        """What was found on it; the first who asks has all hosts looked at."""
        return self.look(self.name)

    @cached_property
    def state(self) -> HostFacts:
        """The same in the plan's words. Raises Unread."""
        return self.seen.state

    @cached_property
    def secrets(self) -> Mapping[str, Mapping[str, str]]:
        """The values of its containers' secrets. Raises SecretError."""
        return read_secrets(self.wanted)

    @cached_property
    def cards(self) -> ledger.Ledger:
        """Which cards each model should have, or why it can have none. Raises Unread."""
        return ledger.assign(self.wanted, self.state)

    @cached_property
    def host(self) -> testinfra.host.Host:
        """For checks of one's own: testinfra's host, as the login user."""
        return testinfra_host(self.pyinfra)


@dataclass
class Entry:
    """A model of a host that should serve."""

    server: Server
    name: str
    model: Model

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.server.name} {self.name}"

    @property
    def fix(self) -> str:
        """The host's."""
        return self.server.fix

    @property
    def container(self) -> Any:
        """Its container, as inspected; None for none, and for one of its name that is not gpurack's. Raises Unread."""
        said, ours = self.named, self.server.state.ours.get((self.model.dockerd, self.name))
        return said if said and ours and said["Id"] == ours.id else None

    @property
    def named(self) -> Any:
        """The container that has its name, whoever made it. Raises Unread."""
        return self.server.seen.daemon(self.model.dockerd)["containers"].get(self.name)

    @property
    def answers(self) -> Mapping[str, Any]:
        """What it said, and its weights. Raises Unread."""
        return self.server.seen.of_model(self.name)

    def weights(self, path: str) -> Any:
        """What is known of its weights at a path; None for nothing there. Raises Unread."""
        return whole(self.answers["weights"][path], f"{self.name}'s weights")

    @property
    def mounted(self) -> Mapping[str, bool]:
        """File on the host → has its container that very file? Raises Unread."""
        found: Mapping[str, bool] = whole(self.answers.get("mounted", {}), f"what {self.name} has mounted")
        return found

    @property
    def uuids(self) -> tuple[str, ...]:
        """The cards it should have; where it can have none now, those that it had. Raises Unread."""
        had = ledger.kept_cards(self.name, self.model, self.server.state) or ()
        return self.server.cards.uuids.get(self.name, had)

    @cached_property
    def desired(self) -> DesiredService:
        """What it should be, as a run would have it. Raises Unread."""
        secrets = self.server.secrets.get(self.name, {})
        return desire(self.name, self.server.wanted, self.server.state, self.uuids, secrets, self.server.salt)

    @property
    def files(self) -> Mapping[str, str | None]:
        """The sums of the files that it should be given: path on the host → sum, None for one that this gpurack leaves
        as an older one made it. Raises Unread."""
        state = replace(self.server.state, secrets=dict.fromkeys(self.server.seen["secrets"]["files"], ("", 0)))
        return {
            paths.container_file(self.model.dockerd, self.name, file): text and salted(text, self.server.salt)
            for file, text in mounted(self.desired, self.change.outdated, state).items()
        }

    @property
    def service(self) -> Mapping[str, Any]:
        """What its Compose service should be; where this gpurack leaves what an older one made, that. Raises Unread."""
        return self.change.lines or self.desired.service

    @property
    def change(self) -> Change:
        """What a run would do with its container. Raises Unread."""
        return compare(self.desired, self.server.state)


class Lab:
    """An inventory's hosts, and one look at each."""

    def __init__(self, path: Path, limit: Collection[str] = ()) -> None:
        """limit: names or groups of hosts, patterns allowed. Raises InventoryError."""
        read_any_bytes()
        inventory = read_inventory(path)
        fleet = with_lock(read_fleet(inventory), path)
        chosen = [host for host in inventory if not limit or any(fits(host, pattern) for pattern in limit)]
        if not chosen:
            words = {"limit": " ".join(limit), "hosts": ", ".join(fleet)}
            raise InventoryError([Problem.of("limit-matches-nothing", "", str(path), **words)])
        python = path.with_suffix(".py")
        apply = APPLY.format(inventory=python if python.exists() else path)
        self.salt = token_hex(16)
        self.servers = {
            host.name: Server(host.name, fleet[host.name], host, f"{apply} --limit {host.name}", self.salt, self.look)
            for host in chosen
        }
        self.deep = False
        self.needed = set(self.servers)
        self._seen: dict[str, Seen] = {}
        self._lock = threading.Lock()
        self._state = State(inventory, Config())

    def entries(self) -> Iterator[Entry]:
        """Every model that should serve."""
        for server in self.servers.values():
            for name, model in enabled(server.wanted).items():
                yield Entry(server, name, model)

    def look(self, name: str) -> Seen:
        """The evidence of one host; all that are needed are asked at once."""
        with self._lock:
            if name not in self._seen:
                ctx_state.set(self._state)
                names = sorted({*self.needed, name} - set(self._seen))
                with ThreadPoolExecutor(len(names)) as pool:
                    self._seen |= dict(zip(names, pool.map(self._ask, names), strict=True))
        return self._seen[name]

    def _ask(self, name: str) -> Seen:
        server = self.servers[name]
        try:
            questions = script(server.wanted, server.secrets, self.salt, self.deep)
            answer = run_as_root(server.pyinfra, sh("python3 -"), questions, limit(self.deep))
            evidence = json_from_host(answer)
            if not isinstance(evidence, Mapping):
                raise ValueError
            return Seen(evidence)
        except Unread as error:
            return Seen({}, error)
        except ValueError:
            why = "its answer broke off: the connection was lost, or its memory is full"
            return Seen({}, Unread(why, by_ssh(name, sh("free -h; dmesg | tail"))))
        except Exception as error:
            return Seen({}, Unread(not_understood(error), by_ssh(name, sh("python3 --version"))))

    def disconnect(self) -> None:
        """Closes the connections."""
        for server in self.servers.values():
            if server.pyinfra.connected:
                server.pyinfra.disconnect()


def salted(text: str, salt: str) -> str:
    """A sum that tells nothing of a text but to who has it; files/evidence.py makes the same."""
    return hmac.new(salt.encode(), text.encode(), "sha256").hexdigest()


def fits(host: PyinfraHost, pattern: str) -> bool:
    """Does a pattern mean this host, by its name or a group's? As pyinfra's --limit."""
    return any(fnmatchcase(name, pattern) for name in (host.name, *host.groups))
