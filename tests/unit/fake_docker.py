"""A model of Docker and Compose in this process: containers, their states, and what goes wrong.

It answers the argv of `docker` commands as files/dockerd.py sends them, so that a test can carry out thousands of runs,
with a failure or a kill at each step.
"""

import functools
import hashlib
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.unit import host_programs

assert host_programs
import messages  # noqa: E402 (of files/)

Moment = tuple[str, int]
"""A step's text without ids, and how often it was done before."""


class Killed(BaseException):
    """The run is killed here; whatever it still tries raises this as well."""


@dataclass
class Container:
    """One container. gpus: what it needs while it runs. aged: its number in the order of creation."""

    id: str
    name: str
    image: str
    labels: dict[str, str]
    policy: str = "unless-stopped"
    status: str = "created"
    ports: list[tuple[str, str]] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    by_hand: bool = False
    restarts: int = 0
    image_id: str = ""
    started: str = ""

    @property
    def gpus(self) -> set[str]:
        return set(json.loads(self.labels.get("test.gpus", "[]")))

    @property
    def service(self) -> str:
        return self.labels.get("com.docker.compose.service", "")


class FakeDocker:
    """The daemons of a host. `at`: what happens at a step of a run (`moment`); `steps`: what was done until now.

    always: what happens at each such step, or each step of a command. cuda: what a probe of CUDA prints. dry: exit code
    and output of a dry start. refuses: what the daemon says instead of running one of them. lacks: images that are yet
    to be pulled, or gone. pulling: what happens meanwhile. tags: what moved tags mean. watched: is the lock of the
    host's models held? It must not be while ada's Docker is asked."""

    def __init__(self) -> None:
        self.lacks: set[str] = set()
        self.tags: dict[str, str] = {}
        self.pulling: Callable[[], None] = lambda: None
        self.watched: Callable[[], bool] = lambda: False
        self.daemons: dict[str, dict[str, Container]] = {"": {}, "ada": {}}
        self.lock, self.numbers = threading.RLock(), itertools.count(1)
        self.steps: list[str] = []
        self.at: dict[Moment, str] = {}
        self.done: Counter[str] = Counter()
        self.always: dict[str, str] = {}
        self.dead = False
        self.violations: list[str] = []
        self.stubborn: set[str] = set()
        self.silent = ""
        self.breaks: Callable[[Container], bool] = lambda container: False
        self.cuda = "gpurack-cuda 0 1"
        self.dry = (2, "x: error: unknown: --end")
        self.refuses = ""

    # --- what a test does --------------------------------------------------------------------------------------------

    def put(self, user: str, name: str, key: str, image: str, running: bool = True, **more: Any) -> Container:
        """A container that exists already."""
        container = self.made(name, key, image, **more)
        container.status = "running" if running else "exited"
        self.daemons[user][container.id] = container
        return container

    def made(self, name: str, key: str, image: str, **more: Any) -> Container:
        number = next(self.numbers)
        labels = {"com.docker.compose.service": key, "com.docker.compose.project": "gpurack"} if key else {}
        labels |= more.pop("labels", {})
        more["image_id"] = self.image_id(image)
        return Container(hashlib.sha256(str(number).encode()).hexdigest(), name, image, labels, **more)

    def power_cut(self) -> None:
        """All containers end; dockerd starts those again that ran with a policy for it."""
        for containers in self.daemons.values():
            for container in containers.values():
                if container.status in ("running", "restarting") and container.policy == "no":
                    container.status = "exited"

    def revive(self) -> None:
        """The next run begins; nothing goes wrong in it."""
        self.dead, self.at, self.always, self.silent = False, {}, {}, ""

    # --- steps -------------------------------------------------------------------------------------------------------

    @contextmanager
    def step(self, what: str) -> Iterator[str]:
        """One step, before or after which the run may be killed. Yields "fail", "hang" or "away" where that
        should happen."""
        with self.lock:
            if self.dead:
                raise Killed
            self.steps.append(what)
            text = general(what)
            wrong = self.at.get((text, self.done[text]), "")
            self.done[text] += 1
            wrong = wrong or self.always.get(what) or self.always.get(what.split()[0], "")
            if wrong == "silent":
                self.silent = "ada"
            if wrong == "kill before":
                self.dead = True
                raise Killed
        yield wrong
        if wrong == "kill after":
            self.dead = True
            raise Killed

    def written(self, path: str, write: Callable[[], None]) -> None:
        """A file is written: a step as well, that may fail or be the last."""
        with self.step(f"write {Path(path).name}") as wrong:
            if wrong in ("fail", "hang"):
                raise OSError(28, "No space left on device", path)
            write()

    def run(self, *argv: str, **options: Any) -> tuple[int, str]:
        """Instead of programs.run."""
        if self.dead:
            raise Killed
        if "docker" not in argv:
            return 127, "not found"
        user = next((word[5:] for word in argv if word.startswith("USER=")), "")
        words = list(argv[argv.index("docker") + 1 :])
        if user and self.watched():
            self.violations.append(f"the host's lock was held while ada's Docker was asked: {' '.join(words)}")
        if user and user == self.silent:
            raise messages.TimeIsUp("no answer")
        with self.step(" ".join(words)) as wrong, self.lock:
            if words[0] == "run" and wrong in ("hang", "kill after"):
                self.left(self.daemons[user], words)
            if wrong == "hang":
                what = " ".join(words[: 2 if words[0] == "container" else 1])
                raise messages.TimeIsUp(f"docker {what} gave no answer within 90 s")
            if wrong == "fail":
                return 1, "Error response from daemon: it does not work"
            if wrong == "full":
                return 1, "Error response from daemon: write /var/lib/docker/containers/a/b: no space left on device"
            if wrong == "away":  # as docker's CLI 26.1 while dockerd is down
                return (
                    1,
                    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
                )
            if words[0] == "run" and self.refuses:
                return 125, f"docker: Error response from daemon: {self.refuses}"
            if words[0] == "run" and words[-1] == "--end":
                return self.dry
            try:
                return 0, self.answer(self.daemons[user], words) or ""
            except LookupError as error:
                return 1, f"Error response from daemon: {error.args[0]}"

    def follow(self, argv: list[str], seen: Callable[[str], None], **options: Any) -> tuple[int, list[str]]:
        """Instead of programs.follow: Compose pulls."""
        path, key = argv[-3], argv[-1]
        with self.step(f"pull {key}") as wrong:
            if wrong in ("fail", "hang"):
                return 1, ["Error it does not work"]
            self.pulling()
            with self.lock:
                self.lacks.discard(services_in(Path(path).read_text())[key]["image"])
        return 0, []

    # --- commands ----------------------------------------------------------------------------------------------------

    def find(self, daemon: dict[str, Container], word: str) -> Container:
        for container in daemon.values():
            if word in (container.id, container.name):
                return container
        raise LookupError(f"No such container: {word}")

    def answer(self, daemon: dict[str, Container], words: list[str]) -> str | None:
        command, target = words[0], words[-1]
        if command == "compose":
            return self.compose(daemon, words)
        if words[:2] == ["image", "inspect"] and target in self.lacks:
            raise LookupError(f"No such image: {target}")
        if command == "image" and "{{.Id}}" in words:
            return self.image_id(target)
        if command == "image":
            return '["r/i@sha256:' + "0" * 64 + '"]' if "RepoDigests" in " ".join(words) else "sha256:" + "1" * 64
        if command in ("info", "version"):
            return "ok"
        if command == "run":
            return self.cuda
        if command == "ps" and target.startswith(("label=gpurack.cuda=", "label=gpurack.database=")):
            name, _, batch = target.removeprefix("label=").partition("=")
            return "\n".join(one.id for one in daemon.values() if one.labels.get(name) == batch)
        if command == "ps":
            key = words[-1].removeprefix("label=com.docker.compose.service=")
            found = [one for one in daemon.values() if one.labels.get("com.docker.compose.project") == "gpurack"]
            return "\n".join(one.id for one in found if "compose.service" not in target or one.service == key)
        if command == "logs":
            return "its log"
        container = self.find(daemon, target if command != "rename" else words[1])
        if words[:2] == ["container", "inspect"]:
            return self.inspected(container, words[3])
        if command == "start":
            self.start(container)
        elif command == "stop":
            if container.id not in self.stubborn and container.status in ("running", "restarting", "paused"):
                container.status = "exited"
        elif command == "rm":
            del daemon[container.id]
        elif command == "rename":
            if any(one.name == target for one in daemon.values()):
                raise LookupError(f'Conflict. The container name "/{target}" is already in use')
            container.name = target
        elif command == "update":
            container.policy = words[2]
        else:
            raise AssertionError(words)
        return None

    def left(self, daemon: dict[str, Container], words: list[str]) -> None:
        """A probe of CUDA, or a copy of a database, runs on without its client."""
        name, _, batch = words[words.index("--label") + 1].partition("=")
        container = self.made("probe", "", "", labels={name: batch}, status="running", policy="no")
        daemon[container.id] = container

    def inspected(self, container: Container, form: str) -> str:
        if "Mounts" in form:
            return json.dumps([{"Source": path} for path in container.mounts])
        if ".State.Pid" in form:
            return json.dumps(
                {
                    "status": container.status,
                    "pid": 0,
                    "restarts": container.restarts,
                    "code": 0,
                    "error": "",
                    "started": container.started,
                }
            )
        if "PortBindings" in form:
            bindings = {f"{port}/tcp": [{"HostIp": address, "HostPort": port}] for address, port in container.ports}
            return json.dumps(
                {
                    "status": container.status, "policy": container.policy, "retries": 0, "vanishes": False,
                    "image": container.image, "ports": bindings,
                }
            )  # fmt: skip
        if '"restarts"' in form:
            return json.dumps({"status": container.status, "restarts": 0, "code": 0, "error": ""})
        named = {"name": "/" + container.name, "image": container.image_id}
        return json.dumps({"id": container.id, "labels": container.labels, **named})

    def image_id(self, reference: str) -> str:
        """The id of the image that a reference means now."""
        if reference.startswith("sha256:"):
            return reference
        return self.tags.get(reference, f"sha256:{hashlib.sha256(reference.encode()).hexdigest()}")

    def start(self, container: Container) -> None:
        if container.status == "running":
            return
        others = [one for containers in self.daemons.values() for one in containers.values() if one is not container]
        for other in others:
            if other.status == "running" and other.gpus & container.gpus:
                self.violations.append(f"{container.name} ({container.image}) started beside {other.name}")
        container.status, container.started = "running", f"0001-01-01T00:00:00.{next(self.numbers):09d}Z"

    def compose(self, daemon: dict[str, Container], words: list[str]) -> str | None:
        path = words[words.index("--file") + 1]
        services, words = services_in(Path(path).read_text()), words[words.index("--file") + 2 :]
        while words[0] == "--file":  # what it has comes on top
            more = services_in(Path(words[1]).read_text())
            services = {key: {**one, **more.get(key, {})} for key, one in services.items()}
            words = words[2:]
        command = words[0]
        if command == "config":
            return None
        key = words[-1]
        if key not in services:
            raise LookupError(f"no such service: {key}")
        found = next((one for one in daemon.values() if one.service == key), None)
        if found is None:
            name = services[key]["container_name"]
            if any(one.name == name for one in daemon.values()):
                raise LookupError(f'Conflict. The container name "/{name}" is already in use')
            if "missing" in services[key]["image"]:
                raise LookupError("No such image")
            told = {str(word): str(text).replace("$$", "$") for word, text in services[key].get("labels", {}).items()}
            found = self.made(name, key, services[key]["image"], labels=told, mounts=self.mounts(path, key))
            found.ports = self.ports_of(key)
            daemon[found.id] = found
        if command == "up":
            self.start(found)
        return None

    def ports_of(self, key: str) -> list[tuple[str, str]]:
        """The ports that a service publishes."""
        return []

    def mounts(self, path: str, key: str) -> list[str]:
        """The files that a service mounts: all of its folder."""
        folder = Path(path).parent / "secrets" / key
        return [str(file) for file in folder.iterdir()] if folder.is_dir() else []


def general(step: str) -> str:
    """A step without the ids of containers and changes, which each run has others of."""
    return re.sub("[0-9a-f]{32,}", "ID", step)


def moment(steps: Sequence[str], number: int) -> Moment:
    """The step of this number in a run, as each such run has it, whatever the order of its threads."""
    texts = [general(step) for step in steps[: number + 1]]
    return texts[number], texts.count(texts[number]) - 1


@functools.cache
def services_in(text: str) -> dict[str, Any]:
    """The services of a Compose file."""
    return dict(yaml.safe_load(text)["services"])
