"""The starting points of tests: specs from inventory data, and hosts as a snapshot sees them. Takes plain data, as in
the JSON cases, and returns gpurack's types.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, overload

from gpurack import paths
from gpurack.facts import rpm
from gpurack.facts.gpus import CdiSpec, Driver, Gpu, GpuProcess
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container, File, Listener, Os, Package, Probe, Unit
from gpurack.facts.record import PROJECTS, Entry, Failed, Member, Record, Replacing, Test
from gpurack.inventory.fleet import check_fleet
from gpurack.paths import COMPOSE
from gpurack.plan.models import addresses
from gpurack.plan.models.desired import desire
from gpurack.plan.models.plan import ModelsPlan, plan_models
from gpurack.plan.run import Run
from gpurack.plan.steps import Step, WriteFile, WriteFiles
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem
from gpurack.spec.secret import Values

SALT = "5a" * 16
SYSTEMS = {
    "debian 12": Os("debian", "12", "bookworm", "Debian GNU/Linux 12 (bookworm)"),
    "debian 13": Os("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)"),
    "ubuntu 22.04": Os("ubuntu", "22.04", "jammy", "Ubuntu 22.04.5 LTS"),
    "ubuntu 24.04": Os("ubuntu", "24.04", "noble", "Ubuntu 24.04.3 LTS"),
    "rhel 8": Os("rhel", "8.10", "", "Red Hat Enterprise Linux 8.10 (Ootpa)"),
    "rocky 9": Os("rocky", "9.6", "", "Rocky Linux 9.6 (Blue Onyx)"),
    "alma 10": Os("almalinux", "10.0", "", "AlmaLinux 10.0 (Purple Lion)"),
    "centos 9": Os("centos", "9", "", "CentOS Stream 9"),
    "fedora 43": Os("fedora", "43", "", "Fedora Linux 43 (Server Edition)"),
    "amazon 2": Os("amzn", "2", "", "Amazon Linux 2"),
    "amazon 2023": Os("amzn", "2023", "", "Amazon Linux 2023.8.20250808"),
    "suse 15": Os("opensuse-leap", "15.6", "", "openSUSE Leap 15.6"),
}


def spec(*layers: Mapping[str, Any]) -> Host:
    """A host's spec from the layers of its data, with defaults for fields that models need."""
    common = {"defaults": {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf"}}
    return check_fleet({"gpu1": [common, *layers]})["gpu1"]


def models(**entries: Mapping[str, Any]) -> Host:
    """A spec with these models only; models without a port get the next one."""
    numbered = {name: {"port": 8000 + number, **entry} for number, (name, entry) in enumerate(entries.items())}
    return spec({"models": numbered})


def uuid(card: int | str) -> str:
    """The UUID of the test GPU with this number (or letter)."""
    return f"GPU-{card!s:0>8}-0000"


def gpu(index: int, card: int | str | None = None) -> Gpu:
    """An A30 at an index, with 900 MiB in use. card: the GPU, if it is not the usual one at that index."""
    named = uuid(index if card is None else card)
    return Gpu(index, named, "NVIDIA A30", 24125, 900, "580.159.04", "8.0", f"0:{index}")


def docker_info(version: str = "28.5.2", **said: Any) -> dict[str, Any]:
    """`docker info` of a dockerd as gpurack configures it."""
    usual = {"LiveRestoreEnabled": True, "Runtimes": {"runc": {}, "nvidia": {}}, "CDISpecDirs": ["/etc/cdi"]}
    return {"ServerVersion": version, **usual, **said}


def container(name: str, status: str = "running", **said: Any) -> Container:
    """A container. With `label` (a definition) it is ours, by Compose's labels and the record."""
    labels = dict(said.get("labels", {}))
    if "label" in said:
        labels = {f"{COMPOSE}project": PROJECTS["model"], f"{COMPOSE}service": name, **labels}
        labels["gpurack.model"] = said["label"] if isinstance(said["label"], str) else json.dumps(said["label"])
    elif "gpurack.job" in labels:
        labels = {f"{COMPOSE}project": PROJECTS["job"], f"{COMPOSE}service": name, **labels}
    return Container(
        id=said.get("id", id_of(name)),
        name=name,
        image=said.get("image", "sha256:0123456789abcdef"),
        status=status,
        exit_code=said.get("exit_code", 0),
        error=said.get("error", ""),
        started="",
        restarts=said.get("restarts", 0),
        labels=labels,
        ports=tuple((ip, port) for ip, port in said.get("ports", ())),
        user=said.get("user", ""),
        chosen_ports=said.get("chosen_ports", False),
    )


def id_of(name: str) -> str:
    """The id of a test's container."""
    return sha256(name.encode(errors="surrogatepass")).hexdigest()


def recorded(*containers: Container) -> Record:
    """The host's record with those of these containers that carry our labels."""
    found: dict[str, dict[str, Entry]] = {}
    for each in containers:
        if each.kind:
            found.setdefault(each.user, {})[each.name] = Entry(each.id, each.kind)
    return found


class AnyId(str):
    """The id of every container."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class Passed(dict[Any, Any]):
    """Test requests of which every one passed."""

    def get(self, key: Any, default: Any = None) -> Test:
        return Test(AnyId(), "2026-11-28T02:00:00Z", "", "")


class Trusting(dict[Any, Any]):
    """A record in which every container with the right labels is ours, so that tests can change containers without
    changing the record."""

    def __init__(self, known: Any) -> None:
        super().__init__()
        self.known = known

    def __contains__(self, key: object) -> bool:
        return True

    def get(self, key: str, default: Any = None) -> Any:
        return self.known


def written_by(steps: Iterable[Step]) -> dict[str, WriteFile]:
    """Path → file of everything that these steps write."""
    files = [file for step in steps for file in (step.files if isinstance(step, WriteFiles) else (step,))]
    return {file.path: file for file in files if isinstance(file, WriteFile)}


def framed(lines: Sequence[str]) -> list[str]:
    """Output of a snapshot, from lines with headings `@@ name`."""
    mark = "0f" * 16
    before = [line for line in lines if line == "@@ raised"]
    rest = [line for line in lines if line not in before]
    marked = (f"@@{mark} {line[3:]}" if line.startswith("@@ ") else line for line in rest)
    return [*before, f"@@ mark {mark}", *marked]


def package(text: str) -> Package:
    """`1.20.1-1`, `1.20.1-1 held`, `1.20.1-1 half`."""
    version, *marks = text.split()
    return Package(version, "held" in marks, "half" not in marks)


def file(path: str, said: str | Mapping[str, Any]) -> File:
    """A file from its text, or from a map with text, mode (default: gpurack's own), uid and gid."""
    told = {"text": said} if isinstance(said, str) else said
    usual = "755" if path in (paths.RUNNER, paths.DOCKERD_ROOTLESS) else "644"
    if path == paths.compose_file("") or path.startswith(f"{paths.JOBS}/"):
        usual = "600"
    elif path.startswith(f"{paths.USERS}/"):
        usual = "640"
    return File(told["text"].encode(), told.get("mode", usual), told.get("uid", 0), told.get("gid", 0))


def listener(text: str) -> Listener:
    """`127.0.0.1:8000 docker-proxy (pid 1)`, `127.0.0.1:8000 docker-proxy (pid 1) in docker.service`"""
    socket, _, owner = text.partition(" ")
    owner, _, unit = owner.partition(" in ")
    address, _, port = socket.rpartition(":")
    return Listener(address.strip("[]"), int(port), owner, unit)


@overload
def said(problems: Mapping[str, Problem]) -> dict[str, str]: ...
@overload
def said(problems: Iterable[Problem | None]) -> tuple[str, ...]: ...
def said(problems: Mapping[str, Problem] | Iterable[Problem | None]) -> dict[str, str] | tuple[str, ...]:
    """The sentences of problems: of a plan's errors by name, or of a list in its order."""
    if isinstance(problems, Mapping):
        return {name: problem.what for name, problem in problems.items()}
    return tuple(problem.what for problem in problems if problem)


def host_state(**said: Any) -> HostFacts:
    """The facts of a host, from the words of a JSON case. The default is a healthy Debian 13 with Docker.

    os: "debian 13". packages: name → `version [held|half]`. files: path → text. units: name → `loaded active enabled`.
    manager: `dnf dnf5`. docker: version, or the map of docker info. gpus: their number, or their numbers in the order
    of their index.
    record: by default it has all containers that carry our labels. owners: instead of it, name → words for Entry.
    counters: like probes, by name, `ada/alpha` in a
    user's Docker.
    tests: of every container one that passed. failed, tests: maps for Failed and Test, by name. replacing: maps for
    Replacing. containers: maps for `container`. listeners: texts for `listener`. probes: name → [status, body]."""
    told = dict(said)
    words: dict[str, Any] = {"init": "systemd", "arch": "amd64", "address": "10.0.0.7", "docker": docker_info()}
    words["os"] = SYSTEMS[told.pop("os", "debian 13")]
    if "docker" in told:
        docker = told.pop("docker")
        words["docker"] = docker_info(docker) if isinstance(docker, str) and docker else docker or {}
    if "gpus" in told:
        cards = told.pop("gpus")
        order: Sequence[int | str] = range(cards) if isinstance(cards, int) else cards
        words["gpus"] = tuple(gpu(index, card) for index, card in enumerate(order))
        words["driver"] = Driver(kernel="580.159.04")
    if "driver" in told:
        told["driver"] = {**told["driver"], "specs": cdi_specs(told["driver"].get("specs", {}))}
        words["driver"] = Driver(**{"kernel": "580.159.04", **told.pop("driver")})
    makers: dict[str, Any] = {
        "packages": lambda entries: {name: package(text) for name, text in entries.items()},
        "files": lambda entries: {path: file(path, text) for path, text in entries.items()},
        "units": lambda entries: {name: Unit(*text.split()) for name, text in entries.items()},
        "containers": lambda entries: tuple(
            entry if isinstance(entry, Container) else container(**entry) for entry in entries
        ),
        "listeners": lambda entries: tuple(map(listener, entries)),
        "probes": lambda entries: {of_user(name): Probe(status, body) for name, (status, body) in entries.items()},
        "counters": lambda entries: {of_user(name): value for name, value in entries.items()},
        "secrets": lambda entries: {path: (mode, 0) for path, mode in entries.items()},
        "gpu_processes": lambda entries: tuple(GpuProcess(*entry) for entry in entries),
        "failed": lambda entries: {of_user(name): Failed(**entry) for name, entry in entries.items()},
        "tests": lambda entries: {of_user(name): Test(**entry) for name, entry in entries.items()},
        "replacing": lambda entries: tuple(
            Replacing(**{**entry, "members": tuple(Member(**one) for one in entry["members"])}) for entry in entries
        ),
        "manager": rpm.manager,
        "trouble": lambda why: Problem.of("not-inspected", what=why),
        "cdi": frozenset,
        "tools": frozenset,
    }
    for key, value in told.items():
        words[key] = makers[key](value) if key in makers else value
    words.setdefault("tests", Passed())
    if "owners" in words:
        owners = {name: Entry(None, "model", **entry) for name, entry in words.pop("owners").items()}
        words["record"] = {"": owners}
    if "record" not in words:
        jobs = any(each.kind == "job" for each in words.get("containers", ()))
        words["record"] = recorded(*words["containers"]) if jobs else Trusting(Trusting(Entry(None, "model")))
    return HostFacts(**words)


def models_plan(
    spec: Host,
    facts: HostFacts,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    *,
    hf_token: str | None = None,
    logins: Mapping[str, Mapping[str, str]] | None = None,
    left_out: Iterable[str] = (),
    **run: Any,
) -> ModelsPlan:
    """The plan of a host's models. secrets: model → name → value. run: fields of plan.run.Run."""
    values = Values(secrets or {}, hf_token, logins or {})
    return plan_models(spec, facts, Run(values=values, **{"salt": SALT, **run}), tuple(left_out))


def cdi_specs(specs: dict[str, Any]) -> dict[str, CdiSpec]:
    """CDI specs by path, from the words of a JSON case: nodes, gone, devices."""

    def spec_of(nodes: dict[str, list[int]], devices: list[str], gone: Sequence[str] = ()) -> CdiSpec:
        return CdiSpec(
            {path: (major, minor) for path, (major, minor) in nodes.items()},
            tuple(gone),
            "nvidia.com/gpu",
            frozenset(devices),
        )

    return {path: spec if isinstance(spec, CdiSpec) else spec_of(**spec) for path, spec in specs.items()}


def of_user(name: str) -> tuple[str, str]:
    """`alpha` in the host's own Docker, `ada/alpha` in a user's."""
    user, _, model = name.rpartition("/")
    return user, model


def running(spec: Host, name: str, facts: HostFacts, uuids: tuple[str, ...] = (), **said: Any) -> Container:
    """The container of a model after a run."""
    words = desire(name, spec, facts, uuids, said.pop("secrets", {}), SALT).definition
    model = spec.entries[name]
    ports = [(addresses.address(model.bind, facts), model.port)]
    return container(name, **{"label": words, "ports": ports, **said})
