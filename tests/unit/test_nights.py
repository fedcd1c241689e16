"""Three nightly `-y` runs in a row of an inventory with an error: what is tried again, and what stops.

The plan and the runner's programs are real, Docker is a model (fake_docker.py). Between two nights only the host's
record says what happened.
"""

# ruff: noqa: F811 (fixtures of another module)

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.model import HostFacts
from gpurack.facts.record import read
from gpurack.spec.host import Host as Spec
from tests.given import models as spec_of
from tests.given import models_plan
from tests.unit.fake_docker import Container, FakeDocker
from tests.unit.test_models_plan import settled
from tests.unit.test_replacing_script import (
    SCENARIOS,
    UNFIT,
    Host,
    folder,  # noqa: F401 (a fixture)
    fresh,
    models,
    quick,  # noqa: F401 (a fixture)
    record,
)

pytestmark = pytest.mark.sampled

BEFORE = settled(spec_of(alpha={"gpus": [0]}))
AFTER = spec_of(alpha={"gpus": [0], "context": 9})


@dataclass
class Night:
    """One run. code: its exit code. tried: was the change carried out? steps: of Docker. said: all lines."""

    code: int
    tried: bool
    steps: list[str]
    said: str


def night(
    host: Host, change: Callable[[dict[str, Any]], None], wanted: Spec = AFTER, before: HostFacts = BEFORE
) -> Night:
    """Plan with the host's record, and carry it out. change: gets alpha's entry of the payload."""
    found = read(Path(record.RECORD).read_text())
    assert found
    plan = models_plan(wanted, replace(before, failed=found.failed), {"alpha": {}}, unattended=True)
    payload, begun = host.payload(), len(host.docker.steps)
    host.out.clear()
    planned = {entry["name"]: entry for batch in (plan.job or {"batches": []})["batches"] for entry in batch}
    failures = 0
    if planned:
        for entry in payload["batches"][0]:
            entry |= {word: planned["alpha"][word] for word in ("label", "given", "definition")}
            if planned["alpha"]["action"] == "start":
                entry |= {"action": "start", "key": "alpha", "weights": planned["alpha"]["weights"]}
            change(entry)
        job = models.Job(payload)
        job.apply()
        failures = job.failures
    else:
        assert plan.job is None
    said = [*host.out, *plan.sentences]
    return Night(int(bool(failures or plan.errors)), bool(planned), host.docker.steps[begun:], "\n".join(said))


def nothing(host: Host) -> None:
    """The host has no other fault."""


def dry(said: str) -> Callable[[Host], None]:
    return lambda host: setattr(host.docker, "dry", UNFIT[said])


def cuda(code: int) -> Callable[[Host], None]:
    return lambda host: setattr(host.docker, "cuda", f"gpurack-cuda {code} 0")


def create_says(text: str) -> Callable[[Host], None]:
    def prepare(host: Host) -> None:
        compose = host.docker.compose

        def answer(daemon: dict[str, Container], words: list[str]) -> str | None:
            if "create" in words:
                raise LookupError(text)
            return compose(daemon, words)

        host.docker.compose = answer  # type: ignore[method-assign]

    return prepare


def pull_fails(host: Host) -> None:
    host.docker.lacks = {"alpha.2-new:2"}
    host.docker.always = {"pull": "fail"}


def crashes(host: Host) -> None:
    host.docker.breaks = lambda container: container.image == "alpha.2-new:2"


def weights(entry: dict[str, Any]) -> None:
    Path(record.RECORD).with_name("m.gguf").write_bytes(b"<!doctype html>")
    entry["weights"] = [str(Path(record.RECORD).with_name("m.gguf"))]


def as_planned(entry: dict[str, Any]) -> None:
    """The entry of the payload is right."""


ONCE: dict[str, tuple[Callable[[Host], None], Callable[[dict[str, Any]], None], str]] = {
    "its program refuses an argument": (dry("arguments"), as_planned, "its program refuses its arguments"),
    "its weights are damaged": (nothing, weights, "its weights are damaged"),
    "the driver is too old": (cuda(35), as_planned, "CUDA error 35"),
    "Docker refuses a setting": (create_says("conflicting options: x and y"), as_planned, "conflicting options"),
    "it crashes": (crashes, as_planned, "exited while loading"),
}
"""What cannot pass by itself → what is wrong with the host, what with the entry, what is said."""
EACH_NIGHT: dict[str, tuple[Callable[[Host], None], Callable[[dict[str, Any]], None], str]] = {
    "the registry is down": (pull_fails, as_planned, "cannot pull image"),
    "a CDI spec is missing": (dry("devices"), as_planned, "unresolvable CDI devices"),
    "a service of the driver is down": (cuda(802), as_planned, "CUDA error 802"),
    "the disk is full": (create_says("no space left on device"), as_planned, "no space left on device"),
}
"""What may pass at any moment."""


@pytest.mark.parametrize("case", ONCE)
def test_what_cannot_pass_is_tried_once(folder: Path, case: str) -> None:
    wrong, change, why = ONCE[case]
    host = fresh(folder, SCENARIOS["one"])
    wrong(host)
    nights = [night(host, change) for _ in range(3)]
    assert [one.code for one in nights] == [1, 1, 1]
    assert [one.tried for one in nights] == [True, False, False]
    assert all(why in one.said for one in nights)
    for later in nights[1:]:
        assert "was tried at 20" in later.said
        assert "with --retry gpu1/alpha" in later.said
        assert not [step for step in later.steps if step.startswith(("start", "stop", "rm", "rename", "run", "pull"))]
    assert bool([step for step in nights[0].steps if step.startswith("stop")]) == (case == "it crashes")
    assert host.served() == "old"


@pytest.mark.parametrize("case", EACH_NIGHT)
def test_what_may_pass_is_tried_each_night_without_downtime(folder: Path, case: str) -> None:
    wrong, change, why = EACH_NIGHT[case]
    host = fresh(folder, SCENARIOS["one"])
    wrong(host)
    nights = [night(host, change) for _ in range(3)]
    assert [(one.code, one.tried) for one in nights] == [(1, True)] * 3
    assert all(why in one.said for one in nights)
    assert not [step for step in host.docker.steps if step.startswith(("start", "stop"))]
    assert host.served() == "old"
    host.docker.revive()
    host.docker.cuda, host.docker.dry = FakeDocker().cuda, FakeDocker().dry
    host.docker.__dict__.pop("compose", None)
    assert night(host, change).code == 0
    assert len(host.running()) == 1
    assert host.running()[0].image == "alpha.2-new:2"


def test_a_start_that_cannot_succeed_is_tried_once(folder: Path) -> None:
    """Its weights were damaged while it ran: it would read them for minutes, and crash, night after night."""
    host = fresh(folder, SCENARIOS["one"])
    host.containers["alpha"].status = "exited"
    (stopped,) = BEFORE.containers
    down = replace(BEFORE, containers=(replace(stopped, status="exited", exit_code=1),))
    same = spec_of(alpha={"gpus": [0]})

    def starts(entry: dict[str, Any]) -> None:
        assert entry["weights"] == ["/w/a.gguf"]
        weights(entry)

    nights = [night(host, starts, same, down) for _ in range(3)]
    assert [(one.code, one.tried) for one in nights] == [(1, True), (1, False), (1, False)]
    assert "its weights are damaged" in nights[0].said
    for later in nights[1:]:
        assert "was tried at 20" in later.said
        assert "failed: its weights are damaged" in later.said
        assert "It does not run." in later.said
    assert not [step for step in host.docker.steps if step.startswith(("start", "compose --progress plain --file up"))]
    found = read(Path(record.RECORD).read_text())
    assert found
    assert models_plan(same, replace(BEFORE, failed=found.failed), {"alpha": {}}, unattended=True).errors == {}
    for more in ({"retry": ("alpha",)}, {"verb": "start"}):
        assert models_plan(same, replace(down, failed=found.failed), {"alpha": {}}, **more).errors == {}


def test_a_failed_change_does_not_keep_the_old_one_from_starting(folder: Path) -> None:
    """With the same words: a newer gpurack's own settings were tried (--renew)."""
    host = fresh(folder, SCENARIOS["one"])
    host.docker.breaks = lambda container: container.image == "alpha.2-new:2"
    assert night(host, as_planned).code == 1
    found = read(Path(record.RECORD).read_text())
    assert found
    (stopped,) = BEFORE.containers
    label = stopped.labels["gpurack.model"]
    failed = {key: replace(one, label=label) for key, one in found.failed.items()}
    down = replace(BEFORE, failed=failed, containers=(replace(stopped, status="exited"),))
    assert models_plan(spec_of(alpha={"gpus": [0]}), down, {"alpha": {}}, unattended=True).errors == {}
