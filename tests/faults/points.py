"""The points at which a run of a deploy can be held, and which of them are tried. Pure.

A point is a call of a program on the host, or a remote command, counted from the begin of the run: independent of time.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.hook import REMOTE
from tests.faults.deploys import FIRST

POINTS = Path(__file__).with_name("points.json")
"""Deploy → the calls of an undisturbed run, grouped; written by `make test-faults-all`."""
SEED = 20261129
"""Of the sample: another one gives other points and other faults there."""
DOCKERD = "kill -9 of dockerd"
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


@dataclass(frozen=True)
class Call:
    """A call that changes something.

    remote: how many remote commands had begun. like: what it does, without what differs between models. repeated: how
    many calls of this remote command had the very same words before."""

    stage: str
    number: int
    remote: int
    like: str
    repeated: int

    def __str__(self) -> str:
        return f"{self.stage} {self.number}"


def like(call: str) -> str:
    """A call without what differs between the models and runs: names, generations, ids, GPUs, digests, pids, files.

    >>> like("docker update --restart no 0123456789ab"), like("docker start beta.2"), like("curl -D /dev/fd/11 -C -")
    ('docker update --restart no ID', 'docker start NAME', 'curl -D /dev/fd/N -C -')
    """
    text = re.sub(rf"\b({'|'.join(FIRST)})(\.\d+)?\b", "NAME", call)
    text = re.sub(r"GPU-[0-9a-f-]{36}", "GPU", text)
    text = re.sub(r"\.prepare-\d+", ".prepare-PID", text)
    text = re.sub(r"/dev/fd/\d+", "/dev/fd/N", text)
    return re.sub(r"\b[0-9a-f]{12,}\b", "ID", text)


def calls_of(recorded: Iterable[str]) -> list[Call]:
    """The calls that change something, of all calls of a run (hook.recorded).

    >>> [str(call) for call in calls_of(["ssh-command a", "docker stop a", "docker ps", "docker stop b"])]
    ['ssh-command 1', 'docker stop 1', 'docker stop 2']
    """
    found: list[Call] = []
    counts: Counter[str] = Counter()
    for call in recorded:
        if stage := stage_of(call):
            counts[stage] += 1
            same = f"{counts[REMOTE]} {call}"
            found.append(Call(stage, counts[stage], counts[REMOTE], like(call), counts[same]))
            counts[same] += 1
    return found


def groups(calls: Iterable[Call]) -> list[list[Call]]:
    """The calls, those that are the same together: of one remote command, and alike but for the model.

    >>> calls = calls_of(["ssh-command a", "docker start alpha", "docker start beta", "ssh-command a"])
    >>> [[str(call) for call in group] for group in groups(calls)]
    [['ssh-command 1'], ['docker start 1', 'docker start 2'], ['ssh-command 2']]
    """
    found: dict[tuple[int, str, int], list[Call]] = {}
    for call in calls:
        found.setdefault((call.remote, call.like, call.repeated), []).append(call)
    return list(found.values())


def until_the_same(calls: Sequence[Call], other: Sequence[Call]) -> list[Call]:
    """The calls up to the remote command from which on all are those at the end of another run. A remote command alone
    is not known to be the same.

    >>> one = calls_of(["ssh-command", "apt-get install x", "ssh-command", "ssh-command", "docker start alpha"])
    >>> [str(call) for call in until_the_same(one, calls_of(["ssh-command", "ssh-command", "docker start beta"]))]
    ['ssh-command 1', 'apt-get install 1', 'ssh-command 2']
    """
    ones, others = (
        [Counter(call.like for call in some if call.remote == number) for number in range(1, some[-1].remote + 1)]
        for some in (calls, other)
    )
    same = 0
    while same < min(len(ones), len(others)) and ones[-1 - same] == others[-1 - same]:
        same += 1
    while same and ones[-same].total() == 1:
        same -= 1
    return [call for call in calls if call.remote <= len(ones) - same]


def grouped(recorded: Mapping[str, Sequence[str]]) -> dict[str, list[list[str]]]:
    """What points.json has: deploy → groups of calls. recorded: deploy → all calls of an undisturbed run.

    A fresh host's models begin as those of a host on which Docker was installed before: they are tried there."""
    calls = {deploy: calls_of(some) for deploy, some in recorded.items()}
    calls["fresh"] = until_the_same(calls["fresh"], calls["models"])
    return {deploy: [[str(call) for call in group] for group in groups(some)] for deploy, some in calls.items()}


Found = Mapping[str, Sequence[tuple[Point, ...]]]
"""Deploy → its points, those that are the same together."""


def load() -> dict[str, list[tuple[Point, ...]]]:
    """The points of points.json."""
    known = json.loads(POINTS.read_text(encoding="utf-8"))
    return {deploy: of_groups(some) for deploy, some in known.items()}


def of_groups(known: Iterable[Sequence[str]]) -> list[tuple[Point, ...]]:
    """The points of groups of calls: before them, and after those that AFTER has.

    >>> [list(map(str, group)) for group in of_groups([["docker stop 1", "docker stop 2"]])]
    [['before docker stop 1', 'before docker stop 2'], ['after docker stop 1', 'after docker stop 2']]
    """
    found = []
    for group in known:
        calls = [(stage, int(number)) for stage, _, number in (call.rpartition(" ") for call in group)]
        for when in ("before", *(["after"] if calls[0][0] in AFTER else [])):
            found.append(tuple(Point(stage, number, when) for stage, number in calls))
    return found


def flat(found: Found) -> dict[str, list[Point]]:
    """Deploy → its points, in one list."""
    return {deploy: [point for group in some for point in group] for deploy, some in found.items()}


@dataclass(frozen=True)
class Trial:
    """What is tried."""

    deploy: str
    point: Point
    fault: str

    def __str__(self) -> str:
        return f"{self.deploy}: {self.fault} {self.point}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is called in results.tsv."""
        return self.deploy, str(self.point), self.fault


def possible(trial: Trial) -> bool:
    """Can the fault hit the run there? On a fresh host there is no dockerd before the first docker command."""
    return trial.fault != DOCKERD or trial.deploy != "fresh" or trial.point.program == "docker"


def every(found: Found, faults: Sequence[str]) -> Iterator[tuple[Trial, ...]]:
    """Every deploy, point and fault. Trials that are the same are together; the first is to be made: with each fault
    at another of the points."""
    for deploy, some in found.items():
        for group in some:
            for turn, fault in enumerate(faults):
                first = turn % len(group)
                trials = [Trial(deploy, point, fault) for point in (*group[first:], *group[:first])]
                if possible(trials[0]):
                    yield tuple(trials)


def missing(found: Found, faults: Sequence[str], known: Collection[tuple[str, str, str]]) -> list[Trial]:
    """What is still to be tried, in the order in which it is. known: keys of what was."""
    rest = [trials for trials in every(found, faults) if not any(trial.key in known for trial in trials)]
    random.Random(SEED).shuffle(rest)  # a part of them is a fair part
    return [trials[0] for trials in rest]


def sample(groups_of: Found, faults: Sequence[str], seed: int) -> list[Trial]:
    """Trials in which every deploy, every stage and every fault occur at least once; the same ones for a seed.

    A stage that several deploys have is tried in the one that has fewest trials until then."""
    chance, found = random.Random(seed), flat(groups_of)
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
