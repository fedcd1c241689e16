"""The questions for a host, and its evidence. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpurack import paths
from gpurack.engines import ENGINES, weights_of
from gpurack.facts.docker import container, info
from gpurack.facts.gpus import Driver, Gpu, GpuProcess
from gpurack.facts.lines import each
from gpurack.facts.model import HostFacts
from gpurack.facts.nvidia import gpus
from gpurack.facts.parts import SOURCES, USER_DAEMON_JSON, Container, File, Os, Package, User
from gpurack.facts.record import HostRecord, TooNew, read
from gpurack.host_data import not_understood
from gpurack.plan.models import addresses, weights
from gpurack.plan.system import rootless
from gpurack.resources import program
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.secret import KEY, PERSON
from gpurack.verify.drift import Unread

FILES = (
    *SOURCES,
    "/etc/apt/keyrings/gpurack-*",
    "/etc/pki/rpm-gpg/*gpurack*",
    paths.DAEMON_JSON,
    paths.BOOT_UNIT,
    paths.RECORD,
    f"{paths.CONFIG}/jobs/*.yaml",
    paths.LIB,
    f"{paths.LIB}/*.py",
    paths.HOOK_CONFIG,
    paths.DOCKERD_ROOTLESS,
    rootless.TMPFILES,
    paths.LOG_AGE,
)
HOMES = (USER_DAEMON_JSON, rootless.DROP_IN, rootless.HOOK_CONFIG)
"""Files in the home of each user with a rootless Docker."""
NO_DAEMON: Mapping[str, Any] = {"info": {}, "containers": {}, "images": []}
LIMIT = 600
"""Seconds for a host's evidence. Hashing weights may take a day more."""
UNITS = ("docker.service", "containerd.service", "gpurack.service")


def script(spec: Host, secrets: Mapping[str, Mapping[str, str]], salt: str, deep: bool) -> str:
    """Return files/evidence.py with its parts and questions in front. It travels by standard input only.

    secrets: their values, as inventory.secrets.read_secrets returns them. salt: for the digests of files that only root
    may read. deep: also hash the weights.
    """
    users = sorted({"", *spec.docker.rootless, *(model.dockerd for model in enabled(spec).values())})
    asked = {
        "limit": limit(deep) - 30,
        "record": paths.RECORD,
        "users": users,
        "units": UNITS,
        "files": [*FILES, *map(paths.compose_file, users)],
        "homes": HOMES,
        "salt": salt,
        "closed": [f"{paths.project(user)}/secrets" for user in users],
        "secrets": {f"{name} {which}": value for name, mine in secrets.items() for which, value in mine.items()},
        "public": [paths.CONFIG, paths.USERS, paths.LIB, paths.RUN],
        "deep": deep,
        "models": {
            name: model_questions(name, spec, model, secrets.get(name, {})) for name, model in enabled(spec).items()
        },
    }
    return f"QUESTIONS = __import__('json').loads({json.dumps(asked)!r})\n{program('evidence')}"


def limit(deep: bool) -> int:
    """Return the seconds within which a host's evidence must arrive. Its program ends a little earlier."""
    return LIMIT + 86400 * deep


def enabled(spec: Host) -> dict[str, Model]:
    """Return the models and services that should serve."""
    return {name: model for name, model in spec.entries.items() if model.enabled}


def model_questions(name: str, spec: Host, model: Model, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Return the questions about one model. It is asked with its own key, or with one of its clients' keys."""
    engine = ENGINES[model.engine]
    by_cuda = bool(model.gpus) and not engine.uses_graphics_driver(model)
    probe = engine.cuda_probe if by_cuda else None
    own = [value for which, value in secrets.items() if which == KEY or which.startswith(PERSON)]
    return {
        "user": model.dockerd,
        "port": model.port,
        "address": "" if model.bind == "lan" else addresses.address(model.bind, HostFacts()),
        "ready": engine.ready_at(model),
        "lists": f"{engine.base_path}/models" if engine.gateway else None,
        "requests": engine.requests(model, names_of(name, spec, model)),
        "sleeping": engine.sleeping,
        "key": next(iter(own), None),
        "weights": [weights.place(spec, one, model.dockerd) for one in weights_of(model)],
        "cards": bool(model.gpus),
        "cuda": [probe.entrypoint, probe.arguments] if probe else None,
        "cuda log": by_cuda and bool(engine.log_shows(model)),
    }


def names_of(name: str, spec: Host, model: Model) -> list[str]:
    """Return the names that an entry answers to; for a service, those of the models it connects to."""
    behind = [served for connection in spec.connections(name) for served in connection.serves]
    return ENGINES[model.engine].serves(model, model.name_served(name)) or behind


@dataclass(frozen=True)
class Seen:
    """The evidence of one host, in the parts that files/evidence.py prints. failure: why there is none."""

    parts: Mapping[str, Any]
    failure: Unread | None = None

    def __getitem__(self, part: str) -> Any:
        """Return a part. Raises Unread if it could not be read."""
        if self.failure:
            raise self.failure
        return whole(self.parts[part], part)

    def model(self, name: str) -> Mapping[str, Any]:
        """Return the part about one model. Raises Unread."""
        found: Mapping[str, Any] = whole(self["models"][name], f"models.{name}")
        return found

    def daemon(self, user: str = "") -> Mapping[str, Any]:
        """Return a user's Docker daemon: info, containers, images; all empty if it does not answer. Raises Unread."""
        found: Mapping[str, Any] = whole(self["daemons"].get(user), f"docker {user}".strip()) or NO_DAEMON
        try:
            _ = found["images"], [container_of(said, user) for said in found["containers"].values()]
            # A user's daemon is not trusted: values with a wrong type are dropped.
            return {**found, "info": info(found["info"])} if user else found
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise Unread(not_understood(error), f"docker ps, of the Docker of {user or 'root'}") from None

    def daemon_or_nothing(self, user: str) -> Mapping[str, Any]:
        """Return a user's Docker daemon, empty if its answer is invalid. Raises Unread for the host's own.

        For checks of the whole host: an invalid answer of a user's Docker fails only that user's models.
        """
        try:
            return self.daemon(user)
        except Unread:
            if user and not self.failure:
                return NO_DAEMON
            raise

    @property
    def containers(self) -> dict[tuple[str, str], Any]:
        """The containers of every daemon by (user, name), as inspected. Raises Unread."""
        return {
            (user, name): said
            for user in self["daemons"]
            for name, said in self.daemon_or_nothing(user)["containers"].items()
        }

    @property
    def state(self) -> HostFacts:
        """The evidence as HostFacts, for the plan's pure functions. Raises Unread."""
        system, daemon, cards = self["system"], self.daemon(), self["cards"]
        accounts = {name: said for name, said in self["users"].items() if said and not unfinished(said)}
        files = {path: file_of(said) for path, said in self["files"].items() if said["text"] is not None}
        for said in accounts.values():
            files |= {path: File(text.encode(), "", said["uid"], said["gid"]) for path, text in said["files"].items()}
        facts = HostFacts(
            os=os_of(system["os"]),
            init=system["init"],
            arch=system["arch"],
            memory=system["memory"],
            address=system["address"],
            tools=frozenset(system["tools"]),
            packages={name: Package(**package) for name, package in self["packages"].items()},
            files=files,
            docker=info(daemon["info"]),
            docker_flags=self["units"].get("docker.service", {}).get("starts", ""),
            containers=tuple(
                each(list(self.containers.items()), lambda entry: container_of(entry[1], user=entry[0][0]))
            ),
            images={tag: image["id"] for image in daemon["images"] for tag in image["tags"]},
            users={name: user_of(said, self.daemon_or_nothing(name)["info"]) for name, said in accounts.items()},
            kfd_gid=self["amd"]["kfd_gid"],
            gpus=(*(nvidia_of(cards) if cards else ()), *amd_of(self["amd"]["cards"])),
            **record(files).facts,
        )
        return replace(facts, driver=driver_of(cards)) if cards else facts


def whole(part: Any, name: str) -> Any:
    """Return a part of the evidence. Raises Unread if its reader failed, or did not end in time."""
    if isinstance(part, Mapping) and "broken" in part:
        raise Unread(
            f"{name} could not be read on the host: {part['broken']}", "this is a bug in gpurack, please report it"
        )
    if isinstance(part, Mapping) and "late" in part:
        raise Unread(f"{name} could not be read on the host: {part['late']}", "check what hangs: dmesg | tail; df")
    return part


def unfinished(part: Any) -> bool:
    """Is it a part for which `whole` raises?"""
    return isinstance(part, Mapping) and bool({"broken", "late"} & part.keys())


def os_of(said: Mapping[str, str]) -> Os:
    """Convert os-release to Os."""
    return Os(
        id=said.get("ID", ""),
        version=said.get("VERSION_ID", ""),
        codename=said.get("VERSION_CODENAME", ""),
        name=said.get("PRETTY_NAME", "an unknown system"),
    )


def file_of(said: Mapping[str, Any]) -> File:
    """Convert a file to File."""
    return File(said["text"].encode(), said["mode"], said["uid"], 0)


def user_of(said: Mapping[str, Any], info: Mapping[str, Any]) -> User:
    """Convert a user with a rootless Docker to User. info: of that user's daemon."""
    return User(said["uid"], said["gid"], said["home"], linger=said["linger"], docker=info)


def writable(mode: str) -> bool:
    """May users other than the owner write?

    >>> writable("755"), writable("775"), writable("1777")
    (False, True, True)
    """
    return bool(int(mode, 8) & 0o022)


def record(files: Mapping[str, File]) -> HostRecord:
    """Parse the host's record. Raises Unread if a newer gpurack wrote it."""
    try:
        found = read(files[paths.RECORD].text) if paths.RECORD in files else None
    except TooNew as error:
        raise Unread(str(error), "update gpurack") from None
    return found or HostRecord(None)


def container_of(said: Mapping[str, Any], user: str) -> Container:
    """Convert an inspected container of a user's Docker to Container. Raises what facts.docker.container raises."""
    words = {
        "id": said["Id"],
        "name": said["Name"],
        "image": said["Image"],
        "state": said["State"],
        "created": said["Created"],
        "restarts": said["RestartCount"],
        "labels": said["Config"]["Labels"],
        "ports": None,
    }
    return replace(container(words, user), ports=tuple(sorted(published(said))))


def published(said: Mapping[str, Any]) -> set[tuple[str, int]]:
    """Return (address, port) of everything that a container publishes on the host."""
    bindings = [one for ports in (said["HostConfig"]["PortBindings"] or {}).values() for one in ports or []]
    bindings += [one for ports in (said["NetworkSettings"]["Ports"] or {}).values() for one in ports or []]
    return {(one["HostIp"] or "0.0.0.0", int(one["HostPort"])) for one in bindings if one["HostPort"]}


def nvidia_of(cards: Mapping[str, Any]) -> tuple[Gpu, ...]:
    """Convert NVIDIA's GPUs that answer to Gpu, as the snapshot does."""
    return tuple(gpus([f"fields {cards['fields']}", *cards["rows"]], mig=cards["instances"]))


def processes_of(said: Sequence[Sequence[Any]]) -> tuple[GpuProcess, ...]:
    """Convert the processes on GPUs to GpuProcess."""
    return tuple(GpuProcess(uuid, 0, "", used, "", container, whose) for uuid, container, whose, used in said)


def amd_of(cards: Sequence[Mapping[str, Any]]) -> tuple[Gpu, ...]:
    """Convert AMD's GPUs to Gpu. The index is the position by PCI address, as amd-smi counts."""
    return tuple(
        Gpu(
            index=index,
            uuid=said["unique"] or said["pci"],
            name=said["name"],
            memory_total=said["memory"],
            memory_used=None,
            driver="",
            compute="",
            pci=said["pci"],
            vendor="amd",
            node=said["node"],
            gid=said["gid"],
        )
        for index, said in enumerate(sorted(cards, key=lambda said: (said["pci"], said["node"])))
    )


def driver_of(cards: Mapping[str, Any]) -> Driver:
    """Convert NVIDIA's driver to Driver."""
    said = {"exit_code": cards["exit_code"], "message": cards["message"]}
    return Driver(kernel=cards["kernel"], pci=cards["known"], platform="wsl" if cards["wsl"] else "", **said)
