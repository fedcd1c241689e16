"""The deploys of the suite, and the points at which a run of one can be held. Pure.

A point is a call of a program on the host, or a remote command, counted from the begin of the run: independent of time.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import model
from tests.acceptance.hook import REMOTE

COUNTS = Path(__file__).with_name("counts.json")
"""Deploy → stage → number of calls in an undisturbed run; written by `make test-faults-all`."""
SEED = 20261129
"""Of the sample: another one gives other points and other faults there."""
DOCKERD = "kill -9 of dockerd"
KEY = {"env": "FAULTS_KEY"}
ALPHA = model("alpha", [0], 8000, api_key=KEY)
CHANGED = {**ALPHA, "context": 512}
BETA = model("beta", [1, 2], 8001)
GAMMA = model("gamma", [], 8002)
SWAPPED = {"alpha": {**CHANGED, "gpus": [1, 2], "port": 8001}, "beta": {**BETA, "gpus": [0], "port": 8000}}
FIRST = {"alpha": ALPHA, "beta": BETA, "gamma": GAMMA}


def docker_ce(version: str) -> dict[str, Any]:
    """A host with this version of Docker's own packages, which serves the first models."""
    return {"docker": {"source": "docker-ce", "version": version}, "models": FIRST}


STATES: Mapping[str, dict[str, Any]] = {
    "first": {"models": FIRST},
    "changed": {"models": {**FIRST, "alpha": CHANGED}},
    "swapped": {"models": {**SWAPPED, "gamma": GAMMA}},
    "fewer": {"models": SWAPPED},
    "docker 26": docker_ce("26.1.5"),
    "docker 28": docker_ce("28.5.2"),
}
"""Name → what the inventory says of the host."""


@dataclass(frozen=True)
class Deploy:
    """A run of the main job. before, after: names in STATES; before "" is a fresh host."""

    name: str
    before: str
    after: str


DEPLOYS = {
    deploy.name: deploy
    for deploy in (
        Deploy("fresh", "", "first"),
        Deploy("change", "first", "changed"),
        Deploy("swap", "changed", "swapped"),
        Deploy("removal", "swapped", "fewer"),
        Deploy("upgrade", "docker 26", "docker 28"),
        Deploy("downgrade", "docker 28", "docker 26"),
    )
}
PROGRAMS = ("apt-get", "apt-mark", "curl", "docker", "nvidia-ctk", "systemctl")
"""The programs on the host whose calls can be held."""
STAGES = (
    REMOTE,
    "apt-get update",
    "apt-get install",
    "apt-mark hold",
    "apt-mark unhold",
    "curl --speed-limit",
    "docker compose create",
    "docker compose up",
    "docker pull",
    "docker rename",
    "docker rm",
    "docker start",
    "docker stop",
    "docker update",
    "nvidia-ctk cdi generate",
    "nvidia-ctk runtime configure",
    "systemctl daemon-reload",
    "systemctl enable",
    "systemctl reload",
    "systemctl restart",
    "systemctl start",
)
"""Program and words of the calls that change something."""
AFTER = tuple(stage for stage in STAGES if stage.startswith(("docker", "systemctl")))
"""Those that can also be held when they have worked, before their caller knows."""


@dataclass(frozen=True)
class Point:
    """A call at which a run is held. number: counted from 1 among the calls of its stage. when: "before" or "after" its
    work."""

    stage: str
    number: int
    when: str

    @property
    def program(self) -> str:
        """The program that is called."""
        return self.stage.split()[0]

    @property
    def words(self) -> list[str]:
        """The words that its call has."""
        return self.stage.split()[1:]

    def __str__(self) -> str:
        """
        >>> str(Point("docker stop", 2, "after")), str(Point("ssh-command", 3, "before"))
        ('after docker stop 2', 'before remote command 3')
        """
        return f"{self.when} {self.stage.replace(REMOTE, 'remote command')} {self.number}"


def stage_of(call: str) -> str | None:
    """The stage of a call (hook.recorded); None if it changes nothing.

    >>> stage_of("docker compose --file a.yaml create alpha"), stage_of("docker compose config"), stage_of("docker ps")
    ('docker compose create', None, None)
    """
    program, *words = call.split()
    for stage in STAGES:
        named, *wanted = stage.split()
        if named == program and set(wanted) <= set(words):
            return stage
    return None


def load() -> dict[str, list[Point]]:
    """Deploy → the points of an undisturbed run, by counts.json."""
    counts = json.loads(COUNTS.read_text(encoding="utf-8"))
    return {deploy: of_counts(known) for deploy, known in counts.items()}


def of_counts(known: Mapping[str, int]) -> list[Point]:
    """All points of a run that has so many calls of each stage."""
    return [
        Point(stage, number, when)
        for stage, count in known.items()
        for number in range(1, count + 1)
        for when in ("before", *(["after"] if stage in AFTER else []))
    ]


def counts(calls: Iterable[str]) -> dict[str, int]:
    """Stage → number of its calls in a run.

    >>> counts(["docker stop a", "docker ps", "apt-get -q update", "docker stop b"])
    {'apt-get update': 1, 'docker stop': 2}
    """
    return dict(sorted(Counter(stage for call in calls if (stage := stage_of(call))).items()))


@dataclass(frozen=True)
class Trial:
    """What is tried."""

    deploy: str
    point: Point
    fault: str

    def __str__(self) -> str:
        return f"{self.deploy}: {self.fault} {self.point}"


def possible(trial: Trial) -> bool:
    """Can the fault hit the run there? On a fresh host there is no dockerd before the first docker command."""
    return trial.fault != DOCKERD or trial.deploy != "fresh" or trial.point.program == "docker"


def every(found: Mapping[str, Sequence[Point]], faults: Sequence[str]) -> list[Trial]:
    """Every deploy, point and fault."""
    trials = (Trial(deploy, point, fault) for deploy in found for point in found[deploy] for fault in faults)
    return [trial for trial in trials if possible(trial)]


def sample(found: Mapping[str, Sequence[Point]], faults: Sequence[str], seed: int) -> list[Trial]:
    """Trials in which every deploy, every stage and every fault occur at least once; the same ones for a seed.

    A stage that several deploys have is tried in the one that has fewest trials until then."""
    chance = random.Random(seed)
    having = {
        stage: [name for name, some in found.items() if any(point.stage == stage for point in some)]
        for stage in {point.stage for some in found.values() for point in some}
    }
    places: list[tuple[str, Point]] = []

    def add(deploy: str, some: Sequence[Point]) -> None:
        places.append((deploy, chance.choice(some)))

    for stage in sorted(having, key=lambda stage: (len(having[stage]), stage)):
        deploy = min(having[stage], key=lambda name: sum(name == one for one, _ in places))
        add(deploy, [point for point in found[deploy] if point.stage == stage])
    for deploy in sorted(found.keys() - {deploy for deploy, _ in places}):
        add(deploy, found[deploy])
    chosen: list[Trial] = []
    for deploy, point in places:
        tried = Counter(trial.fault for trial in chosen)
        can = [fault for fault in faults if possible(Trial(deploy, point, fault))]
        fewest = min(tried[fault] for fault in can)
        chosen.append(Trial(deploy, point, chance.choice([fault for fault in can if tried[fault] == fewest])))
    for fault in [fault for fault in faults if all(trial.fault != fault for trial in chosen)]:
        deploy = chance.choice([name for name in sorted(found) if name != "fresh"] or sorted(found))
        chosen.append(Trial(deploy, chance.choice(found[deploy]), fault))
    return chosen


def in_chain(trials: Iterable[Trial], state: str = "") -> list[Trial]:
    """Trials in an order in which the end of one is the begin of the next as often as possible.

    >>> point = Point("docker stop", 1, "before")
    >>> [one.deploy for one in in_chain([Trial(name, point, "") for name in ("swap", "change", "change", "removal")])]
    ['swap', 'removal', 'change', 'change']
    """
    left, ordered = list(trials), []
    while left:
        trial = next((one for one in left if DEPLOYS[one.deploy].before == state), left[0])
        left.remove(trial)
        ordered.append(trial)
        state = DEPLOYS[trial.deploy].after
    return ordered


def names_of(state: str) -> set[str]:
    """The models of a state, "" is none."""
    return set(STATES[state]["models"]) if state else set()


def ports() -> list[int]:
    """All ports at which models of the states answer."""
    return sorted({entry["port"] for state in STATES.values() for entry in state["models"].values()})


def bare(text: str) -> str:
    """A text with generations of keys (`alpha.2`) by the name of the entry.

    >>> bare("/etc/gpurack/secrets/alpha.12/api_key beta.2_api_key"), bare("alpha.gguf")
    ('/etc/gpurack/secrets/alpha/api_key beta_api_key', 'alpha.gguf')
    """
    return re.sub(rf"\b({'|'.join(FIRST)})\.\d+", r"\1", text)
