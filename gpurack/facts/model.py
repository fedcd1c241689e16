"""The snapshot of a host, typed: what it has (parts.py, gpus.py, record.py), and what follows from that.

Nothing here knows the desired state.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatch
from functools import cached_property
from typing import Any, Self

from gpurack import paths
from gpurack.facts.gpus import Driver, Gpu, GpuProcess
from gpurack.facts.nvidia import bus_address
from gpurack.facts.parts import (
    SOURCES,
    Carried,
    Container,
    File,
    Header,
    Kernel,
    Listener,
    Manager,
    Os,
    Package,
    Probe,
    Unit,
    User,
)
from gpurack.facts.record import (
    DatabaseCopy,
    Event,
    Failed,
    Member,
    Ready,
    Record,
    Replacing,
    Stopped,
    Test,
    has,
    is_ours,
    keys,
    services,
)
from gpurack.spec.problems import Problem


def reason(why: str) -> str:
    """Why a part did not end, without the processes that differ from part to part.

    >>> reason("timed out after 30 s, pid 7 (stat) is left behind")
    'timed out after 30 s'
    >>> reason("still hangs since 2026-01-01T00:00:00Z (pid 7)")
    'still hangs'
    """
    return re.sub(r", pid .*| since \S+ \(pid \d+\)$", "", why)


@dataclass(frozen=True)
class HostFacts:
    """A snapshot of a host. `trouble` is the error of a failed snapshot, None otherwise; nothing else is set then."""

    trouble: Problem | None = None
    raised: bool = False
    """Did the snapshot use sudo, because the login user is not root?"""
    os: Os = field(default_factory=Os)
    busy: str = ""
    """The other gpurack run that holds the host's lock, or ""."""
    changing: frozenset[str] = frozenset()
    """The changes in the host's Docker and a user's that a run works on now, without the host's lock."""
    now: datetime | None = None
    """The time by the host's own clock."""
    arch: str = ""
    memory: int | None = None
    """The host's memory in MiB."""
    init: str = ""
    address: str = ""
    """The address of the default route, IPv4 if there is one, else IPv6; "" without a default route."""
    machine_id: str = ""
    twin: str = ""
    """Another name in the inventory of this same host, "" for none."""
    addresses: tuple[str, ...] = ()
    """All global addresses, except those of Docker's networks."""
    tools: frozenset[str] = frozenset()
    manager: Manager = field(default_factory=Manager)
    """The package manager of a host with rpm."""
    packages: Mapping[str, Package] = field(default_factory=dict)
    carried: Mapping[str, tuple[Carried, ...]] = field(default_factory=dict)
    """Pinned packages that are not installed in their version → what the host's package lists have of them."""
    audit: int = 0
    files: Mapping[str, File] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)
    docker_flags: str = ""
    secrets: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    weights: Mapping[str, int | None] = field(default_factory=dict)
    """Requested paths → size in bytes; None if missing, or neither a file nor a folder."""
    irregular: Mapping[str, str] = field(default_factory=dict)
    """Requested paths that are neither a file nor a folder → their type ("fifo").

    "hidden" means that the inspecting user cannot see the path.
    """
    owned: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Requested paths that other users can change or redirect → those users.

    For example "ada", "the group lab", "everybody".
    """
    exposed: frozenset[str] = frozenset()
    """Private files of gpurack that other users can read."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Requested paths that exist → SELinux type ("user_home_t"), where SELinux is enforced."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """Requested paths that exist → a stamp that changes whenever the weights change."""
    headers: Mapping[str, Header] = field(default_factory=dict)
    """Requested paths → their headers, read now or remembered; absent if unknown (no python3 yet)."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """Requested paths that were fetched from a hub → the commit."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Files of weights → sha256, if it was computed and size and time have not changed since."""
    listeners: tuple[Listener, ...] = ()
    driver: Driver = field(default_factory=Driver)
    gpus: tuple[Gpu, ...] = ()
    gpu_processes: tuple[GpuProcess, ...] = ()
    kfd_gid: int = 0
    """The group that may open /dev/kfd, which ROCm uses."""
    cdi: frozenset[str] = frozenset()
    docker: Mapping[str, Any] = field(default_factory=dict)
    """`docker info`; empty if no daemon answered."""
    compose: str = ""
    """The version of Compose; "" if it is missing or was not asked."""
    containers: tuple[Container, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    """Requested references → image id; absent if the image is not on the host."""
    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Image ids of containers → `repository@sha256:…` at their registries."""
    users: Mapping[str, User] = field(default_factory=dict)
    """Users with a rootless Docker, by name. Users without an account are absent."""
    kernel: Kernel = field(default_factory=Kernel)
    """Set only if `users` is not empty."""
    probes: Mapping[tuple[str, str], Probe] = field(default_factory=dict)
    """(user, model) → its answer."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Requested names of other hosts → their IPv4 address, as this host resolves it."""
    accounts: frozenset[tuple[str, str]] = frozenset()
    """(user, volume) of each Open WebUI volume whose database has an account.

    The user is "" for the host's own Docker.
    """
    upstreams: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    """(user, service, number of a connection to another host) → why it fails; "" if it answers."""
    cuda_logs: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(user, model) → the lines about GPUs in its log since its start (Engine.log_shows)."""
    counters: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(user, model) → its engine's counter (Engine.counter), summed over all labels; only if requested."""
    record: Record | None = None
    """The host's record of gpurack's containers; None if missing."""
    others: frozenset[tuple[str, str]] = frozenset()
    """(user, name) of the models of other labs (plan/models/ownership.py). They are not in `ours`."""
    replacing: tuple[Replacing, ...] = ()
    """Replacements that have not ended: another run works on them, or it was interrupted."""
    failed: Mapping[tuple[str, str], Failed] = field(default_factory=dict)
    """(user, model) → its last creation, if that failed."""
    ready: Mapping[tuple[str, str], tuple[Ready, ...]] = field(default_factory=dict)
    """(user, model) → the last definitions with which it was ready, newest first."""
    tests: Mapping[tuple[str, str], Test] = field(default_factory=dict)
    """(user, model) → the last test request."""
    stopped: Mapping[tuple[str, str], Stopped] = field(default_factory=dict)
    """(user, model) → who stopped it."""
    history: tuple[Event, ...] = ()
    """The last runs that changed something or failed, oldest first."""
    databases: Mapping[tuple[str, str], tuple[DatabaseCopy, ...]] = field(default_factory=dict)
    """(user, service) → the copies of its database, newest first."""
    late: Mapping[str, str] = field(default_factory=dict)
    """Parts of the snapshot that did not end ("weights /w/a", "user ada") → `timed out after 30 s`."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Paths of weights that did not answer → the mount that they are on."""
    unread: tuple[str, ...] = ()
    """Warnings about output of the host that could not be parsed."""

    @cached_property
    def proven(self) -> dict[tuple[str, str], Container]:
        """The containers that gpurack created, models and jobs, by (user, name of the entry).

        While a replacement has not ended, a model's container is the one that would stay.
        """
        found: dict[tuple[str, str], Container] = {}
        present = {each.id for each in self.containers}
        beside = self._generations
        for each in self.containers:
            covered = has(self.record, each.user) or not each.kind
            known = {} if covered else self._jobs(each.name) if each.kind == "job" else self.services_of(each.user)
            if each.id not in beside and is_ours(each, each.name, self.record, known, present):
                found[each.user, each.name] = each
        for each in self.containers:
            member = beside.get(each.id)
            if member and each.id == self._stays(member):
                found[each.user, member.name] = each
        return found

    @cached_property
    def generations(self) -> dict[str, str]:
        """Container id → model, of both containers of each model whose replacement has not ended."""
        return {container: member.name for container, member in self._generations.items()}

    @cached_property
    def _generations(self) -> dict[str, Member]:
        found: dict[str, Member] = {}
        for member in (member for one in self.replacing for member in one.members):
            for each in self.containers:
                key = each.labels.get(f"{paths.COMPOSE}service")
                old = each.user == member.of and each.id == member.old_id and not member.adopted
                new = each.user == member.user and each.id == member.new_id
                # killed between Docker's creation and its record
                unrecorded = member.new_id is None and member.new_key is not None and key == member.new_key
                created = unrecorded and each.user == member.user and each.name == member.name
                if (
                    each.kind == "model"
                    and (
                        (old and each.name in (member.name, member.name + paths.PREVIOUS))
                        or (new and each.name == member.name)
                    )
                ) or (created and each.kind == "model" and not each.running):
                    found[each.id] = member
        return found

    def _stays(self, member: Member) -> str | None:
        """Return the id of a member's container that stays when its replacement is finished or undone."""
        one = next(one for one in self.replacing if member in one.members)
        if not self.decided(one):
            return member.old_id
        return None if member.remove else member.new_id

    def decided(self, replacing: Replacing) -> bool:
        """Does compose.yaml already describe the new containers? Then the replacement is finished, else undone."""
        return replacing.phase == "commit" or all(
            member.old_key not in self.services_of(member.of)
            if member.remove
            else self.keys(member.user).get(member.name) == member.new_key
            for member in replacing.members
        )

    @cached_property
    def interrupted(self) -> tuple[str, ...]:
        """The models whose replacement was interrupted: the next run finishes or undoes it. None while a run works."""
        left = () if self.busy else [one for one in self.replacing if one.batch not in self.changing]
        return tuple(sorted({member.name for one in left for member in one.members}))

    def changing_now(self, names: Collection[str] | None = None) -> tuple[Replacing, ...]:
        """Return the changes in several Dockers that another run works on, without the host's lock.

        names: only those of one of these entries.
        """
        found = (one for one in self.replacing if one.batch in self.changing)
        return tuple(one for one in found if names is None or not one.names.isdisjoint(names))

    def services_of(self, user: str) -> Mapping[str, Any]:
        """Return the services of root's compose.yaml for a user's daemon, by their keys."""
        if user not in self._services:
            self._services[user] = services(self.files.get(paths.compose_file(user)))
        return self._services[user]

    @cached_property
    def _services(self) -> dict[str, Mapping[str, Any]]:
        return {}

    def keys(self, user: str) -> Mapping[str, str]:
        """Return entry → the key of its service in root's compose.yaml for a user's daemon."""
        return keys(self.services_of(user))

    def _jobs(self, name: str) -> Mapping[str, Any]:
        return services(self.files.get(paths.job_file(name)))

    @cached_property
    def ours(self) -> dict[tuple[str, str], Container]:
        """The containers of our models, by (user, name of the entry)."""
        return {
            key: container
            for key, container in self.proven.items()
            if container.kind == "model" and key not in self.others
        }

    def is_ours(self, container: Container) -> bool:
        """Is it a container of one of our models, also of one that is being replaced?"""
        return container.id in self._our_ids

    def is_our_process(self, process: GpuProcess) -> bool:
        """Does a process on a GPU run in a container of one of our models?"""
        return any(
            one.id == process.container and self.is_ours(one) and self.uid_of(one.user) == process.whose
            for one in self.containers
        )

    @cached_property
    def _our_ids(self) -> set[str]:
        return {container.id for container in self.ours.values()} | self.generations.keys()

    def container(self, name: str, user: str) -> Container | None:
        """Return the container of an entry, or None.

        user: the user whose Docker should run it, "" for the host's own. If it has none there, the entry's user may
        have changed: then it is the container of that name in another Docker.
        """
        if (user, name) in self.ours:
            return self.ours[user, name]
        return next((found for (_, other), found in sorted(self.ours.items()) if other == name), None)

    def last_start(self, name: str, user: str) -> int | None:
        """Return the seconds that a model's last start took until it was ready; None if unknown.

        user: in whose Docker it starts; where it never did there, the start was in another one.
        """
        others = (ready for (whose, other), ready in sorted(self.ready.items()) if other == name and whose != user)
        each = (one.seconds for ready in (self.ready.get((user, name), ()), *others) for one in ready)
        return next((seconds for seconds in each if seconds is not None), None)

    @property
    def foreign(self) -> list[Problem]:
        """A warning for each container that has our labels but is not proven to be ours. It is ignored."""
        known = {
            entry.id: name for entries in (self.record or {}).values() for name, entry in entries.items() if entry.id
        }
        found = []
        proven = {container.id for container in self.proven.values()} | self.generations.keys()
        for each in self.containers:
            if each.kind and each.id not in proven:
                whose = f" in the Docker of {each.user}" if each.user else ""
                was = f"it was {known[each.id]}" if each.id in known else "gpurack did not create it"
                which = {"name": each.name, "id": each.id[:12], "whose": whose, "why": was}
                found.append(Problem.of("container-not-ours", **which))
        return found

    @property
    def remarks(self) -> list[Problem]:
        """Warnings about the snapshot: parts that hang, unparsable output, foreign containers."""
        return [*self.hanging(), *self.notes]

    def hanging(self, without: Collection[str] = ()) -> list[Problem]:
        """A warning for each part of the snapshot that did not end, one for all weights on a mount with one reason.

        without: parts to leave out.
        """
        groups: dict[tuple[str, str], list[str]] = {}
        for part, why in self.late.items():
            if part not in without:
                mount = self.mounts.get(part.removeprefix("weights "), "")
                groups.setdefault((mount or part, reason(why)), []).append(part)
        return [
            Problem.of(
                "part-late",
                part=f"weights on {mount} ({len(parts)} paths)" if len(parts) > 1 else parts[0],
                why=self.late[parts[0]],
            )
            for (mount, _), parts in groups.items()
        ]

    @property
    def notes(self) -> list[Problem]:
        """The warnings that are about other things than this snapshot's time limits."""
        return [*(Problem.of("lines-ignored", what=sentence) for sentence in self.unread), *self.foreign]

    @classmethod
    def not_inspected(cls, why: str) -> Self:
        """Return the facts of a host of which there is no snapshot."""
        return cls(trouble=Problem.of("not-inspected", what=why))

    @property
    def blind(self) -> Problem | None:
        """Why nothing may be changed on the host; None if changes are possible.

        Either the snapshot failed, or Docker or the GPUs did not answer in time, or the host has two names.
        """
        if self.trouble:
            return self.trouble
        if self.twin:
            told = {"other": self.twin, "machine": self.machine_id, "address": self.address}
            return Problem.of("host-named-twice", **told)
        found = next((part for part in ("Docker", "NVIDIA", "AMD") if part in self.late), None)
        return Problem.of("part-not-inspected", part=found, why=self.late[found]) if found else None

    @property
    def sources(self) -> dict[str, File]:
        """The files that configure repositories of apt and dnf."""
        return {path: file for path, file in self.files.items() if any(fnmatch(path, one) for one in SOURCES)}

    def uid_of(self, user: str) -> int | None:
        """Return the uid of a user with a rootless Docker; None for "" and for a missing account."""
        return self.users[user].uid if user in self.users else None

    def docker_of(self, user: str) -> Mapping[str, Any]:
        """Return `docker info` of a user's daemon ("": the host's own); empty if it did not answer."""
        if not user:
            return self.docker
        return self.users[user].docker if user in self.users else {}

    def digests_of(self, user: str) -> Mapping[str, tuple[str, ...]]:
        """Return image id → digests at registries, in a user's daemon ("": the host's own)."""
        if not user:
            return self.digests
        return self.users[user].digests if user in self.users else {}

    def images_of(self, user: str) -> Mapping[str, str]:
        """Return requested reference → image id, in a user's daemon ("": the host's own)."""
        if not user:
            return self.images
        return self.users[user].images if user in self.users else {}

    @property
    def has_nvidia(self) -> bool:
        """Does the host have NVIDIA GPUs or their driver?"""
        return bool(self.driver.kernel or self.driver.pci or any(gpu.vendor == "nvidia" for gpu in self.gpus))

    @property
    def all_gpus_answer(self) -> bool:
        """Does every GPU that the kernel knows answer? nvidia-smi can fail beside that (14: a damaged infoROM)."""
        return bool(self.driver.pci) and not self.silent_gpus

    @property
    def silent_gpus(self) -> dict[str, str]:
        """The GPUs that the kernel knows and that nvidia-smi does not list: PCI address → UUID, "" if unknown.

        A GPU that nvidia-smi lists without its UUID is broken, not silent.
        """
        uuids, places = {gpu.uuid for gpu in self.gpus}, {bus_address(gpu.pci) for gpu in self.gpus} - {""}
        known = self.driver.pci.items()
        return {pci: uuid for pci, uuid in known if uuid not in uuids and bus_address(pci) not in places}
