"""The lab under test: its inventory, read once, and the evidence of its hosts, gathered in parallel."""

import hmac
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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

from gpurack.facts.model import HostFacts
from gpurack.host_data import json_from_host, not_understood
from gpurack.inventory.fleet import read_fleet
from gpurack.inventory.load import apply_command, read_inventory
from gpurack.inventory.lock_file import with_lock
from gpurack.inventory.secrets import read_secrets
from gpurack.plan.models import failures, ledger
from gpurack.plan.models.desired import DesiredService, desire
from gpurack.plan.models.diff import Change, compare
from gpurack.plan.models.observed import Observed
from gpurack.plan.models.plan import mounted
from gpurack.plan.models.stopped import described, stop_of
from gpurack.pyinfra_patches import read_any_bytes
from gpurack.shell import by_ssh, sh
from gpurack.spec.host import Host
from gpurack.spec.lock import ModelLock, model_lock
from gpurack.spec.model import Model
from gpurack.spec.problems import InventoryError, Problem, limit_hint
from gpurack.spec.secret import SecretError
from gpurack.verify.drift import Unreachable, Unread
from gpurack.verify.evidence import Seen, enabled, limit, script, whole
from gpurack.verify.reach import run_as_root, testinfra_host


@dataclass
class Server:
    """A host of the inventory. gather: returns its evidence."""

    name: str
    spec: Host
    pyinfra: PyinfraHost
    fix: str
    salt: str
    gather: Callable[[str], Seen] = field(repr=False)
    garbled: Unread | None = None
    """The error for evidence with another form; all checks of the host share it."""

    @property
    def title(self) -> str:
        """The host's name, for messages and test ids."""
        return self.name

    @property
    def seen(self) -> Seen:
        """Its evidence. The first check that needs it gathers the evidence of all hosts."""
        return self.gather(self.name)

    @cached_property
    def state(self) -> HostFacts:
        """The same as HostFacts. Raises Unread."""
        return self.seen.state

    @cached_property
    def secrets(self) -> Mapping[str, Mapping[str, str]]:
        """The values of its containers' secrets. Raises SecretError."""
        return read_secrets(self.spec)

    @cached_property
    def gpu_ledger(self) -> ledger.Ledger:
        """Which GPUs each model should have, or why it gets none. Raises Unread."""
        return ledger.assign(self.spec, self.state)

    @cached_property
    def host(self) -> testinfra.host.Host:
        """testinfra's host, as the login user, for users' own checks."""
        return testinfra_host(self.pyinfra)


@dataclass
class Entry:
    """A model of a host that should serve."""

    server: Server
    name: str

    @property
    def model(self) -> Model:
        """What the inventory says about it."""
        return self.server.spec.entries[self.name]

    @property
    def title(self) -> str:
        """Host and model, for messages."""
        return f"{self.server.name} {self.name}"

    @property
    def locked(self) -> ModelLock:
        """What the lock says about it."""
        return model_lock(self.server.spec.lock, self.name)

    @property
    def observed(self) -> Observed:
        """It beside its host's facts. Raises Unread."""
        return Observed(self.name, self.server.spec, self.server.state)

    @property
    def resting(self) -> str:
        """Who stopped it, when and why; "" if nobody did. Raises Unread."""
        stopped = stop_of(self.observed)
        return described(stopped, self.server.state).message if stopped else ""

    @property
    def fix(self) -> str:
        """The command that usually fixes it: the host's, which tries again what failed and is left out otherwise."""
        return self.server.fix + (f" --retry {self.server.name}/{self.name}" if self.failed_before else "")

    @cached_property
    def failed_before(self) -> bool:
        """Would a run refuse to create it, because the same failed before? False if unknown."""
        with suppress(Unread, SecretError, LookupError):
            secrets = self.server.secrets.get(self.name, {})
            return failures.failed_before(self.desired, self.server.state, secrets) is not None
        return False

    @property
    def container(self) -> Any:
        """Its container, as inspected; None if there is none or gpurack did not create it. Raises Unread."""
        said, ours = self.named, self.server.state.ours.get((self.model.dockerd, self.name))
        return said if said and ours and said["Id"] == ours.id else None

    @property
    def named(self) -> Any:
        """The container with its name, whoever created it. Raises Unread."""
        return self.server.seen.daemon(self.model.dockerd)["containers"].get(self.name)

    @property
    def answers(self) -> Mapping[str, Any]:
        """Its answers, and what is known of its weights. Raises Unread."""
        return self.server.seen.model(self.name)

    def weights(self, path: str) -> Any:
        """Return what is known of its weights at a path; None if nothing is there. Raises Unread."""
        return whole(self.answers["weights"][path], f"{self.name}'s weights")

    @property
    def mounted(self) -> Mapping[str, bool]:
        """File on the host → does its container have this very file? Raises Unread."""
        found: Mapping[str, bool] = whole(self.answers.get("mounted", {}), f"what {self.name} has mounted")
        return found

    @property
    def uuids(self) -> tuple[str, ...]:
        """The GPUs that it should have; if it can have none now, those that it had. Raises Unread."""
        had = ledger.kept_gpus(self.observed) or ()
        return self.server.gpu_ledger.uuids.get(self.name, had)

    @cached_property
    def desired(self) -> DesiredService:
        """The service as a run would define it. Raises Unread."""
        secrets = self.server.secrets.get(self.name, {})
        return desire(self.name, self.server.spec, self.server.state, self.uuids, secrets, self.server.salt)

    @property
    def files(self) -> Mapping[str, str | None]:
        """The digests of the files that it should get, by path on the host. Raises Unread.

        None for a file of an older gpurack that this one leaves unchanged.
        """
        folder = self.observed.folder
        state = replace(self.server.state, secrets=dict.fromkeys(self.server.seen["secrets"]["files"], ("", 0)))
        return {
            f"{folder}{file}": text and salted(text, self.server.salt)
            for file, text in mounted(self.desired, self.change.outdated, state).items()
        }

    @property
    def service(self) -> Mapping[str, Any]:
        """Its Compose service, or the older one that this gpurack leaves unchanged. Raises Unread."""
        return self.change.lines or self.desired.service

    @property
    def change(self) -> Change:
        """What a run would do with its container. Raises Unread."""
        return compare(self.desired, self.server.state)


class Lab:
    """An inventory's hosts. The evidence of each is gathered once."""

    def __init__(self, path: Path, limit: Collection[str] = ()) -> None:
        """Read the inventory. limit: names or groups of hosts, patterns allowed. Raises InventoryError."""
        read_any_bytes()
        inventory = read_inventory(path)
        fleet = with_lock(read_fleet(inventory), path)
        chosen = [host for host in inventory if not limit or any(fits(host, pattern) for pattern in limit)]
        if not chosen:
            asked = " ".join(limit)
            words = {"limit": asked, "hint": limit_hint(asked, list(fleet))}
            raise InventoryError([Problem.of("limit-matches-nothing", "", str(path), **words)])
        apply = apply_command(path)
        self.salt = token_hex(16)
        self.servers = {
            host.name: Server(host.name, fleet[host.name], host, f"{apply} --limit {host.name}", self.salt, self.gather)
            for host in chosen
        }
        self.deep = False
        self.needed = set(self.servers)
        self._seen: dict[str, Seen] = {}
        self._lock = threading.Lock()
        self._state = State(inventory, Config())

    def entries(self) -> Iterator[Entry]:
        """Yield every model that should serve."""
        for server in self.servers.values():
            for name in enabled(server.spec):
                yield Entry(server, name)

    def gather(self, name: str) -> Seen:
        """Return the evidence of one host. All hosts that are needed are asked at once."""
        with self._lock:
            if name not in self._seen:
                ctx_state.set(self._state)
                names = sorted({*self.needed, name} - set(self._seen))
                with ThreadPoolExecutor(len(names)) as pool:
                    self._seen |= dict(zip(names, pool.map(self._ask, names), strict=True))
        return self._seen[name]

    def away(self, name: str) -> str:
        """Return why a host that was asked is not reached; "" for others."""
        failure = self._seen[name].failure if name in self._seen else None
        return str(failure) if isinstance(failure, Unreachable) else ""

    def _ask(self, name: str) -> Seen:
        server = self.servers[name]
        try:
            questions = script(server.spec, server.secrets, self.salt, self.deep)
            answer = run_as_root(server.pyinfra, sh("python3 -"), questions, limit(self.deep))
            evidence = json_from_host(answer)
            if not isinstance(evidence, Mapping):
                raise ValueError
            return Seen(evidence)
        except Unread as error:
            return Seen({}, error)
        except ValueError:
            why = "its answer is incomplete. Possible causes: the connection broke, or the host ran out of memory"
            return Seen({}, Unread(why, by_ssh(name, sh("free -h; dmesg | tail"))))
        except Exception as error:
            return Seen({}, Unread(not_understood(error), by_ssh(name, sh("python3 --version"))))

    def disconnect(self) -> None:
        """Close the connections."""
        for server in self.servers.values():
            if server.pyinfra.connected:
                server.pyinfra.disconnect()


def salted(text: str, salt: str) -> str:
    """Return a digest that reveals nothing about a text to anyone without the text. files/evidence.py has the same."""
    return hmac.new(salt.encode(), text.encode(), "sha256").hexdigest()


def fits(host: PyinfraHost, pattern: str) -> bool:
    """Does a pattern match this host, by its name or a group's? As pyinfra's --limit."""
    return any(fnmatchcase(name, pattern) for name in (host.name, *host.groups))
