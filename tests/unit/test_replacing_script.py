"""files/replacing.py and files/recovering.py: each step × each failure, and each kill × each way to recover.

The daemons are a model (fake_docker.py). After each run exactly one generation serves, and nothing else is left.
"""

import contextlib
import hashlib
import inspect
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack import paths
from gpurack.engines import hints_of
from gpurack.plan.models import compose
from tests.sampling import THOROUGH, sample
from tests.unit.fake_docker import Container, FakeDocker, Killed, moment, services_in
from tests.unit.host_programs import load

models = load("models")
import accounts  # noqa: E402 (of files/)
import asking  # noqa: E402
import boot  # noqa: E402
import changes  # noqa: E402
import claims  # noqa: E402
import databases  # noqa: E402
import docker_commands  # noqa: E402
import docker_restart  # noqa: E402
import dockerd  # noqa: E402
import fetch  # noqa: E402
import finishing  # noqa: E402
import kept_logs  # noqa: E402
import loading  # noqa: E402
import locks  # noqa: E402
import messages  # noqa: E402
import processes  # noqa: E402
import programs  # noqa: E402
import project  # noqa: E402
import record  # noqa: E402
import recovering  # noqa: E402
import replacing  # noqa: E402
import starting  # noqa: E402
import stopping  # noqa: E402
import undoing  # noqa: E402
import writing  # noqa: E402

pytestmark = pytest.mark.sampled

SAYING = (boot, finishing, locks, messages, models, recovering, replacing, starting, stopping, undoing)


@dataclass(frozen=True)
class Generation:
    """One generation of an entry. user: whose Docker; by_hand: a container that somebody made."""

    user: str
    key: str
    image: str
    gpus: tuple[str, ...] = ()
    by_hand: str = ""
    runs: bool = True

    def service(self, name: str) -> dict[str, Any]:
        labels = {"gpurack.model": json.dumps({"image": self.image}), "test.gpus": json.dumps(self.gpus)}
        labels["gpurack.probe"] = PROBE
        source = f"{self.key}_api_key"
        return {
            "image": self.image, "container_name": name, "labels": labels, "restart": "unless-stopped",
            "secrets": [{"source": source, "target": "api_key"}],
        }  # fmt: skip


PROBE = "http://127.0.0.1:1/v1/models"
"""Where each entry says that it is ready."""

Change = tuple[Generation | None, Generation | None]
Scenario = dict[str, Change]
"""Name → its old and its new generation."""


def old(user: str = "", key: str = "alpha", gpus: str = "0", **more: Any) -> Generation:
    return Generation(user, key, f"{key}-old:1", tuple(gpus), **more)


def new(user: str = "", key: str = "alpha.2", gpus: str = "0", **more: Any) -> Generation:
    return Generation(user, key, f"{key}-new:2", tuple(gpus), **more)


SCENARIOS: dict[str, Scenario] = {
    "one": {"alpha": (old(), new())},
    "first": {"alpha": (None, new(key="alpha"))},
    "stopped before": {"alpha": (old(runs=False), new())},
    "swap": {
        "alpha": (old(gpus="0"), new(gpus="1")),
        "beta": (old(key="beta.3", gpus="1"), new(key="beta.4", gpus="0")),
    },
    "ring": {
        "alpha": (old(gpus="0"), new(gpus="1")),
        "beta": (old(key="beta", gpus="1"), new(key="beta.2", gpus="2")),
        "gamma": (old(key="gamma", gpus="2"), new(key="gamma.2", gpus="0")),
    },
    "in the place of a removed one": {"alpha": (None, new(key="alpha")), "beta": (old(key="beta"), None)},
    "swap between two Dockers": {
        "alpha": (old(gpus="0"), new("ada", "alpha", gpus="1")),
        "beta": (old("ada", "beta", gpus="1"), new("", "beta", gpus="0")),
    },
    "made by hand": {"alpha": (Generation("", "", "own:1", ("0",), by_hand="alpha"), new(key="alpha"))},
}  # fmt: skip


DRY = {"arguments": ["--end"], "last": ["--end"], "code": 2, "refusals": ["^x: error: (unknown: (?!--end$).*)$"]}


class Host:
    """A host with the old generations of a scenario, and its parts of files/ with the fake in the place of Docker."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.folder, self.scenario, self.docker = folder, scenario, FakeDocker()
        shutil.rmtree(folder, ignore_errors=True)
        dockerd.CONFIG, dockerd.USERS, boot.USERS = f"{folder}/etc", f"{folder}/users", f"{folder}/users"
        record.RECORD, record.LOCK = f"{folder}/record.json", f"{folder}/run/record"
        locks.LOCK, locks.BUSY = f"{folder}/run/lock", f"{folder}/run/busy"
        for module in (writing, dockerd, record, undoing):
            module.write = self.write
        programs.run = docker_commands.run = boot.run = self.docker.run
        docker_commands.follow = self.docker.follow
        self.out: list[str] = []
        for module in SAYING:
            module.say = self.say
        self.containers: dict[str, Container] = {}
        for name, (one, _) in scenario.items():
            if one:
                self.containers[name] = self.put(name, one)
        entries: dict[str, dict[str, Any]] = {"": {}, "ada": {}}
        for name, (one, _) in scenario.items():
            if one and not one.by_hand:
                definition = hashlib.sha256(one.service(name)["labels"]["gpurack.model"].encode()).hexdigest()
                entries[one.user][name] = {
                    "id": self.containers[name].id, "kind": "model", "definition": definition,
                    "applied": "", "service": one.key,
                }  # fmt: skip
        self.write_plainly(record.RECORD, json.dumps({"format": 2, "containers": entries}))
        for user in ("", "ada"):
            text = compose.document(self.services(user, 0), user)
            self.write_plainly(dockerd.Dockerd(user).compose_file, text)

    def put(self, name: str, one: Generation) -> Container:
        if one.by_hand:
            labels = {"test.gpus": json.dumps(one.gpus)}
            return self.docker.put(one.user, one.by_hand, "", one.image, labels=labels, policy="always", by_hand=True)
        file = Path(dockerd.Dockerd(one.user).secrets) / one.key / "api_key"
        self.write_plainly(str(file), f"old key of {name}")
        return self.docker.put(
            one.user, name, one.key, one.image, one.runs, labels=one.service(name)["labels"], mounts=[str(file)]
        )

    def services(self, user: str, generation: int) -> dict[str, Any]:
        """Key → service of compose.yaml before (0) or after (1) the change."""
        found = {name: change[generation] for name, change in self.scenario.items()}
        return {one.key: one.service(name) for name, one in found.items() if one and one.user == user and one.key}

    def blocks(self, user: str, generation: int) -> dict[str, Any]:
        blocks = compose.blocks(self.services(user, generation), user)
        names = {change[generation].key: name for name, change in self.scenario.items() if change[generation]}  # type: ignore[union-attr]
        return {names[key]: block for key, block in blocks.items()}

    # --- what the programs do ----------------------------------------------------------------------------------------

    def write_plainly(self, path: str, text: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path + ".tmp").write_text(text)
        Path(path + ".tmp").rename(path)

    def write(self, path: str, content: str, mode: int, uid: int = 0, reader: int | None = None) -> None:
        self.docker.written(path, lambda: self.write_plainly(path, content))

    def say(self, name: str, text: str) -> None:
        self.out.append(f"{name}: {text}" if name else text)

    # --- runs --------------------------------------------------------------------------------------------------------

    def payload(self) -> dict[str, Any]:
        batch = []
        for name, (before, after) in self.scenario.items():
            if after is None:
                assert before
                batch.append({"name": name, "action": "remove", "from": before.user, "old_key": before.key})
                continue
            label = after.service(name)["labels"]["gpurack.model"]
            entry = {
                "name": name, "action": "recreate" if before and not before.by_hand else "create", "user": after.user,
                "from": before.user if before and not before.by_hand else after.user, "image": after.image,
                "key": after.key, "uuids": list(after.gpus), "url": PROBE, "served_name": name,
                "timeout": 5, "label": label, "definition": hashlib.sha256(label.encode()).hexdigest(),
                "lanes": list(after.gpus), "given": "driver 1",
                "cuda": {"run": [f"--device={gpu}" for gpu in after.gpus], "arguments": ["-c"], "gpus": 1},
                "log": "layers",
                "dry_start": {"run": [], **DRY}, "hints": [hint.payload for hint in hints_of("vllm")],
            }  # fmt: skip
            if before and before.by_hand:
                entry["replaces"] = {"name": before.by_hand, "user": before.user, "id": self.containers[name].id}
            elif before:
                entry["old_key"] = before.key
            batch.append(entry)
        return {
            "ours": {},
            "origin": {"lab": "nlp", "by": "ada", "commit": "3f2a91", "inventory": ""},
            "projects": {
                user: {
                    "head": compose.head(user), "services": self.blocks(user, 1), "before": self.blocks(user, 0),
                    "files": {key: {"api_key": f"new key of {key}"} for key in self.services(user, 1)},
                }
                for user in ("", "ada")
            },
            "batches": [batch],
        }  # fmt: skip

    def apply(self, payload: Any = None) -> Any:
        job = models.Job(payload or self.payload())
        with contextlib.suppress(Killed), self.watched():
            job.apply()
        return job

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Where a change is in the host's Docker and ada's, the host's lock must be free whenever ada's is asked."""
        if any(each[0] and each[1] and each[0].user != each[1].user for each in self.scenario.values()):
            self.docker.watched = lambda: locks.is_held(locks.LOCK)
        try:
            yield
        finally:
            self.docker.watched = lambda: False

    # --- what must hold ----------------------------------------------------------------------------------------------

    def record(self) -> Any:
        return json.loads(Path(record.RECORD).read_text())

    def running(self) -> list[Container]:
        return [one for users in self.docker.daemons.values() for one in users.values() if one.status == "running"]

    def served(self) -> str:
        """Which generation serves: "old" or "new". Everything on the host must belong to it."""
        assert self.docker.violations == []
        found = self.record()
        assert found.get("replacing", []) == []
        keys = {one.service for one in self.running()}
        wanted = [{one.key for one in each if one and one.runs} for each in zip(*self.scenario.values(), strict=True)]
        by_hand = [one for one in self.running() if one.by_hand]
        assert len(by_hand) <= 1
        generation = 0 if by_hand or (keys == wanted[0] and not self.made_anew(wanted)) else 1
        assert keys == wanted[generation], (keys, wanted)
        for name, each in self.scenario.items():
            self.check(name, each[generation], found)
            if each[0] and each[0].by_hand:
                (own,) = [one for one in self.docker.daemons[each[0].user].values() if one.by_hand]
                wanted_name = each[0].by_hand if generation == 0 else each[0].by_hand + "-replaced"
                assert (own.name, own.policy) == (wanted_name, "no" if generation else "always")
        assert {one.name for users in self.docker.daemons.values() for one in users.values() if not one.by_hand} == {
            name
            for name, each in self.scenario.items()
            if each[generation] and each[generation].key  # type: ignore[union-attr]
        }
        for user in ("", "ada"):
            text = Path(dockerd.Dockerd(user).compose_file).read_text()
            assert set(services_in(text)) == set(self.services(user, generation))
        assert not list(self.folder.rglob("*.commit*"))
        return ("old", "new")[generation]

    def made_anew(self, wanted: list[set[str]]) -> bool:
        """Of equal sets of keys, whether the containers are new ones."""
        ids = {one.id for one in self.containers.values()}
        return wanted[0] == wanted[1] and not any(one.id in ids for one in self.running())

    def check(self, name: str, one: Generation | None, found: Any) -> None:
        if one is None or one.by_hand:
            assert all(name not in users for users in found["containers"].values())
            return
        (container,) = [each for each in self.docker.daemons[one.user].values() if each.name == name]
        entry = found["containers"][one.user][name]
        assert (container.status == "running") == one.runs
        assert (container.service, container.image, container.policy) == (one.key, one.image, "unless-stopped")
        assert (entry["id"], entry["service"]) == (container.id, one.key)
        assert entry["definition"] == hashlib.sha256(container.labels["gpurack.model"].encode()).hexdigest()
        assert [user for user, names in found["containers"].items() if name in names] == [one.user]
        assert all(Path(path).exists() for path in container.mounts)
        assert container.mounts


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory: thousands of hosts are written and removed."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as made:
        yield Path(made) / "host"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loading takes no time, and a thread that is killed says nothing."""
    kept = [(module, name, getattr(module, name)) for module, name in PATCHED]
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "chown", lambda *arguments: None)
    monkeypatch.setattr(writing, "grant_read", lambda path, uid: None)
    monkeypatch.setattr(accounts, "as_user", lambda user: (1000, ["setpriv", f"USER={user}"]))
    monkeypatch.setattr(loading, "wait_until_ready", wait_until_ready)
    monkeypatch.setattr(loading, "still_up", lambda *arguments: None)
    monkeypatch.setattr(processes, "of_container", of_container)
    monkeypatch.setattr(processes, "daemons", lambda dockerd: set())
    monkeypatch.setattr(processes, "wait_for_memory", lambda *arguments: None)
    monkeypatch.setattr(kept_logs, "keep", lambda dockerd, name, container, kind: f"/logs/{name}.{kind}.log")
    monkeypatch.setattr(kept_logs, "expire", lambda: None)
    monkeypatch.setattr(kept_logs, "tail", lambda *arguments: "")
    monkeypatch.setattr(databases, "DATABASES", "/no databases")
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    yield
    for module, name, value in kept:
        setattr(module, name, value)


PATCHED = [
    *((dockerd, name) for name in ("CONFIG", "USERS", "write")),
    *((docker_commands, name) for name in ("run", "follow")),
    *((boot, name) for name in ("USERS", "run")),
    *((record, name) for name in ("RECORD", "LOCK", "write")),
    (undoing, "write"),
    *((locks, name) for name in ("LOCK", "BUSY")),
    (writing, "write"),
    (programs, "run"),
    *((module, "say") for module in SAYING),
]
"""What a host of a test changes in the modules of files/."""


WAITING = inspect.signature(loading.wait_until_ready)


def wait_until_ready(daemon: Any, name: str, container_id: str, *arguments: Any, **options: Any) -> float:
    """A container is ready when it runs; one whose image is broken ends. Takes what the real one takes."""
    given = WAITING.bind(daemon, name, container_id, *arguments, **options)
    given.apply_defaults()
    assert given.arguments["silence"]() in (None, loading.SILENCE)
    docker = docker_commands.run.__self__
    if docker.dead:
        raise Killed
    containers = [one for users in docker.daemons.values() for one in users.values() if one.id == container_id]
    if not containers or containers[0].status != "running":
        raise messages.Failure("exited while loading (gone).")
    if docker.breaks(containers[0]):
        containers[0].status = "exited"
        raise messages.Failure("exited while loading (exit code 1).\n    | its last line")
    return 75.0


def of_container(daemon: Any, container_id: str, *arguments: Any) -> set[tuple[int, int]]:
    """The processes of a container, which root sees also where the daemon does not answer."""
    found = docker_commands.run.__self__.daemons[daemon.user].get(container_id)
    return {(7, 7)} if found and found.status == "running" else set()


def after_kill(host: Host, how: str) -> str:
    """What serves after the recovery from a kill; then a second recovery, which must change nothing."""
    host.docker.revive()
    if how == "power cut":
        host.docker.power_cut()
    for _ in range(2):
        if how == "kill, then the next run":
            host.apply()
        elif how == "kill":
            with host.watched():
                assert models.recover() == 0, host.out
        else:
            assert boot.boot() == 0, host.out
    return host.served()


def cases(folder: Path, scenario: Scenario, breaks: str = "") -> tuple[Host, list[str]]:
    """A host after a run without a kill, and the steps of that run."""
    host = fresh(folder, scenario, breaks)
    host.apply()
    return host, host.docker.steps


def fresh(folder: Path, scenario: Scenario, breaks: str = "") -> Host:
    host = Host(folder, scenario)
    host.docker.breaks = lambda container: bool(breaks) and breaks in container.image
    return host


CHANGING = ("compose --progress plain --file", "run", "start", "stop", "rm", "rename", "update", "write")
"""Steps that change something: what a kill before and after them leaves differs."""


@pytest.mark.parametrize("case", SCENARIOS)
def test_all_new_ones_serve(folder: Path, case: str) -> None:
    host, _ = cases(folder, SCENARIOS[case])
    assert host.served() == "new"
    assert not [line for line in host.out if line.startswith("error")]
    found = host.record()
    for name, (_, one) in SCENARIOS[case].items():
        if one:
            (definition, *_) = found["ready"][one.user][name]
            assert json.loads(definition["label"]) == {"image": one.image}
            assert type(definition["seconds"]) is int, "from its start until it was ready"
            assert found["tests"][one.user][name]["why"] == ""
            assert (found["containers"][one.user][name]["commit"], found["failed"]) == ("3f2a91", {})


@pytest.mark.parametrize("case", SCENARIOS)
def test_all_old_ones_serve_after_a_failure(folder: Path, case: str) -> None:
    scenario = SCENARIOS[case]
    last = [name for name, each in scenario.items() if each[1]][-1]
    broken = scenario[last][1]
    assert broken
    host, _ = cases(folder, scenario, broken.image)
    before = scenario[last][0]
    if case == "first":
        assert host.running() == []
    else:
        assert host.served() == "old"
    (error, *rest) = [line for line in host.out if line.startswith("error")]
    assert error.startswith(f"error {last}: exited while loading (exit code 1).")
    assert error.endswith(f" Its log: /logs/{last}.failed.log\n    | its last line")
    if before and before.runs:
        assert " serves again since " in error
    assert len(rest) == len(scenario) - 1
    failed = host.record()["failed"][broken.user][last]
    assert failed["why"] == "exited while loading (exit code 1)."
    assert (failed["given"], failed["serves"]) == ("driver 1", bool(before and before.runs))


def sample_steps(steps: list[str], seed: str, numbers: Iterable[int] | None = None) -> list[int]:
    """Numbers of steps (default: of all); in the inner loop one of each command and of each file that is written."""

    def command(number: int) -> str:
        first, *words = steps[number].split()
        return f"{first} {words[0]}" if first == "write" else first

    return sample(range(len(steps)) if numbers is None else numbers, seed, command)


def describe(number: int, steps: list[str], what: str) -> str:
    return f"{what} {number}: {' '.join(steps[number : number + 1])[:110]}"


RECOVERIES = ("kill", "power cut", "kill, then the next run")
KILLS = [
    pytest.param(case, breaks, how, id=f"{case}-{label}-{how}")
    for case in SCENARIOS
    if case != "first"
    for breaks, label in (("", "good"), ("new:2", "broken"))
    for how in RECOVERIES
]
SAMPLED_KILLS = sample(KILLS, "kills 20", lambda each: each.values[0])
"""In the inner loop each scenario once. With this seed they have all recoveries, of good and broken ones."""


def test_sampled_kills_have_every_recovery() -> None:
    assert {each.values[1:] for each in SAMPLED_KILLS} == {each.values[1:] for each in KILLS}
    assert {each.values[0] for each in SAMPLED_KILLS} == {each.values[0] for each in KILLS}


@pytest.mark.parametrize(("case", "breaks", "how"), SAMPLED_KILLS)
def test_every_kill_is_recovered(folder: Path, case: str, breaks: str, how: str) -> None:
    if (case, how) == ("stopped before", "power cut"):
        return  # boot starts what compose.yaml has, as without a change
    scenario = SCENARIOS[case]
    host, steps = cases(folder, scenario, breaks)
    found: dict[str, str] = {}
    changing = [number for number, step in enumerate(steps) if step.startswith(CHANGING)]
    for number in [*sample_steps(steps, f"{case} {breaks} {how}", changing), len(steps) - 1]:
        host = fresh(folder, scenario, breaks)
        host.docker.at[moment(steps, number)] = when = (
            "kill before" if steps[number].startswith(CHANGING) else "kill after"
        )
        host.apply()
        where = describe(number, host.docker.steps, when)
        if how == "kill, then the next run":
            host.docker.breaks = lambda container: False
        try:
            found[where] = after_kill(host, how)
        except AssertionError as error:
            raise AssertionError(f"{where}\n{error}\n" + "\n".join([*host.docker.steps, *host.out])) from None
    if how != "kill, then the next run" and THOROUGH:
        assert set(found.values()) == ({"old"} if breaks else {"old", "new"})


FAILURES = [
    pytest.param(case, wrong, id=f"{case}-{wrong}")
    for case in SCENARIOS
    if case != "first"
    for wrong in ("fail", "hang")
]


@pytest.mark.parametrize(("case", "wrong"), sample(FAILURES, "failures", lambda each: each.values[0]))
def test_every_failing_step_leaves_one_generation(folder: Path, case: str, wrong: str) -> None:
    scenario = SCENARIOS[case]
    for breaks in sample(("", "new:2"), f"{case} {wrong}"):
        host, steps = cases(folder, scenario, breaks)
        for number in sample_steps(steps, f"{case} {breaks} {wrong}"):
            host = fresh(folder, scenario, breaks)
            host.docker.at[moment(steps, number)] = wrong
            job = host.apply()
            where = describe(number, host.docker.steps, wrong)
            try:
                served = after_kill(host, "kill")
                assert job.failures or served == "new", served
            except AssertionError as error:
                raise AssertionError(f"{where}\n{error}\n" + "\n".join([*host.docker.steps, *host.out])) from None


def test_a_docker_of_a_user_that_falls_silent_keeps_no_model_of_the_host_down(folder: Path) -> None:
    """In a swap with a model of the host: at any step, for the rest of the run. One runs only where the GPU is free."""
    scenario = SCENARIOS["swap between two Dockers"]
    for breaks in ("", "new:2"):
        _, steps = cases(folder, scenario, breaks)
        for number in sample_steps(steps, breaks):
            host = fresh(folder, scenario, breaks)
            host.docker.at[moment(steps, number)] = "silent"
            host.apply()
            where = describe(number, host.docker.steps, "silent")
            assert host.docker.violations == [], where
            ours = [one for one in host.docker.daemons[""].values() if one.status == "running"]
            free = {"0", "1"} - {gpu for one in host.running() for gpu in one.gpus}
            moved = any(one.name == "alpha" for one in host.running())  # its new one, which only ada's can remove
            assert ours or moved or "0" not in free, (where, host.out)
            assert after_kill(host, "kill") in ("old", "new")


@pytest.mark.parametrize("breaks", ["", "new:2"], ids=["good", "broken"])
def test_a_slow_docker_of_a_user_keeps_models_of_the_host_down_for_limited_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    """Each command in ada's takes nearly as long as it may. So does each in a recovery, as long as it is slow."""
    now, held = [0.0], [0.0]
    monkeypatch.setattr(docker_commands, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    answer = FakeDocker.run

    def slowly(docker: FakeDocker, *argv: str, **options: Any) -> tuple[int, str]:
        if "USER=ada" in argv:
            now[0] += options["limit"] * 0.99
            held[0] += options["limit"] * 0.99 if claims.others() else 0
        return answer(docker, *argv, **options)

    monkeypatch.setattr(FakeDocker, "run", slowly)
    host, _ = cases(folder, SCENARIOS["swap between two Dockers"], breaks)
    assert docker_commands.TURN / 2 < held[0] <= 2 * docker_commands.TURN + 5, "and the seconds that a model may load"
    ours = [one for one in host.docker.daemons[""].values() if one.status == "running"]
    free = {"0", "1"} - {gpu for one in host.running() for gpu in one.gpus}
    assert ours or "0" not in free, host.out
    assert any("the Docker of ada took longer than" in line for line in host.out), host.out
    held[0] = 0
    models.recover()
    assert held[0] <= docker_commands.TURN
    monkeypatch.setattr(FakeDocker, "run", answer)
    programs.run = docker_commands.run = boot.run = host.docker.run
    assert after_kill(host, "kill") in ("old", "new")


BESIDE: Scenario = {
    **SCENARIOS["swap between two Dockers"],
    "gamma": (old(key="gamma", gpus="2"), new(key="gamma.2", gpus="2")),
}
"""A swap between two Dockers, and a model of the host that another run changes meanwhile."""


def only(host: Host, *names: str, users: tuple[str, ...] = ("", "ada")) -> dict[str, Any]:
    """The payload of a run that changes these models, each in a batch of its own, or all in one where they swap."""
    payload = host.payload()
    (batch,) = payload["batches"]
    chosen = [one for one in batch if one["name"] in names]
    payload["batches"] = [chosen] if users == ("", "ada") else [[one] for one in chosen]
    payload["projects"] = {user: payload["projects"][user] for user in users}
    for told in payload["projects"].values():
        for name in BESIDE.keys() - set(names):
            told["services"].pop(name, None)
            if name in told["before"]:
                told["services"][name] = told["before"][name]
    return payload


def gammas(host: Host) -> dict[str, Any]:
    """What a second run is told that changes gamma, and would remove alpha, which the first one moves."""
    payload = only(host, "gamma", users=("",))
    payload["batches"].append([{"name": "alpha", "action": "remove", "from": "", "old_key": "alpha"}])
    del payload["projects"][""]["services"]["alpha"]
    return payload


def while_ada(host: Host, monkeypatch: pytest.MonkeyPatch, command: str, act: Callable[[], None]) -> None:
    """Ada's Docker takes its time for the first command of this name; this happens meanwhile."""
    answer, begun = FakeDocker.run, list[str]()

    def run(docker: FakeDocker, *argv: str, **options: Any) -> tuple[int, str]:
        if "USER=ada" in argv and argv[argv.index("docker") + 1] == command and not begun:
            begun.append(command)
            act()
        return answer(docker, *argv, **options)

    monkeypatch.setattr(FakeDocker, "run", run)
    programs.run = docker_commands.run = boot.run = host.docker.run


REFUSED = "not changed: another run is changing it (pid {}, since "


@pytest.mark.parametrize("breaks", ["", "alpha-new"], ids=["good", "broken"])
@pytest.mark.parametrize("command", ["rename", "create", "run", "stop", "start", "rm"])
def test_other_runs_change_other_models_while_a_users_docker_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, breaks: str
) -> None:
    """At each step of a swap with it. The entries of the swap are refused, and both runs' lines are in compose.yaml."""
    host = fresh(folder, BESIDE, breaks)
    failures, payload = list[int](), gammas(host)

    def other() -> None:
        assert is_free(locks.LOCK)
        job = models.Job(payload)
        job.apply()
        failures.append(job.failures)

    if command == "create":  # Compose's
        monkeypatch.setattr(FakeDocker, "compose", during(FakeDocker.compose, host, other))
    else:
        while_ada(host, monkeypatch, command, other)
    host.apply(only(host, "alpha", "beta"))
    assert failures == [1]
    (refused,) = [line for line in host.out if REFUSED.format(os.getpid()) in line]
    assert refused.startswith("error alpha: ")
    assert "gamma: ready after 1 min 15 s, down for 0 s" in host.out
    after = {
        "alpha": BESIDE["alpha"][bool(not breaks)],
        "beta": BESIDE["beta"][bool(not breaks)],
        "gamma": BESIDE["gamma"][1],
    }
    host.scenario = {name: (one, one) for name, one in after.items()}
    assert host.docker.violations == []
    assert {one.service for one in host.running()} == {one.key for one in after.values() if one}
    assert host.record()["replacing"] == []
    for name, one in after.items():
        host.check(name, one, host.record())
    for user in ("", "ada"):
        text = Path(dockerd.Dockerd(user).compose_file).read_text()
        assert set(services_in(text)) == {one.key for one in after.values() if one and one.user == user}
    assert not list(host.folder.rglob("*.commit*")) + list(host.folder.rglob("change.*"))


def during(compose_of: Any, host: Host, act: Callable[[], None]) -> Any:
    """Compose in ada's Docker, during whose first creation something happens."""
    begun = list[bool]()

    def answer(docker: FakeDocker, daemon: dict[str, Container], words: list[str]) -> Any:
        if "create" in words and daemon is docker.daemons["ada"] and not begun:
            begun.append(True)
            docker.lock.release()
            try:
                act()
            finally:
                docker.lock.acquire()
        return compose_of(docker, daemon, words)

    return answer


def test_boot_stop_jobs_and_recovery_leave_alone_what_a_run_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, seen = fresh(folder, SCENARIOS["swap between two Dockers"]), list[Any]()

    def act() -> None:
        begun = len(host.docker.steps)
        host.docker.watched = lambda: False
        seen.append(models.recover())
        seen.append(boot.boot_of(dockerd.Dockerd()))
        told = {"user": "", "name": "beta", "ours": {}, "hold": False, "why": "", "origin": {"by": "ada"}}
        with pytest.raises(messages.Failure, match=r"^not stopped: another run is changing it \(pid"):
            stopping.stop(told)
        seen.append([step for step in host.docker.steps[begun:] if step.startswith(CHANGING)])

    while_ada(host, monkeypatch, "start", act)
    host.apply()
    assert seen == [0, [], []]
    assert host.served() == "new"


@pytest.mark.parametrize("breaks", ["", "alpha-new"], ids=["good", "broken"])
def test_only_the_decision_waits_for_the_hosts_lock(folder: Path, monkeypatch: pytest.MonkeyPatch, breaks: str) -> None:
    """A job may hold it for days. The new ones serve meanwhile; the way back waits for nothing."""
    host, held = fresh(folder, SCENARIOS["swap between two Dockers"], breaks), contextlib.ExitStack()
    ready = "alpha, beta: ready, and may be used. The change is completed when no other run works on the host's models"

    def job() -> None:
        with held:
            awaited(lambda: any("serves again" in line for line in host.out) if breaks else ready in host.out)
            keys = {one.service for one in host.running()}
            wanted.append(keys == {each[bool(not breaks)].key for each in host.scenario.values()})  # type: ignore[union-attr]
            phases.extend(change["phase"] for change in claims.others())

    wanted, phases = list[bool](), list[str]()

    def act() -> None:
        assert locks.take(locks.LOCK, held)
        host.docker.watched = lambda: False
        threading.Thread(target=job).start()

    while_ada(host, monkeypatch, "start", act)
    host.apply()
    assert (wanted, phases) == ([True], [] if breaks else ["try"])
    assert host.served() == ("old" if breaks else "new")


def test_a_users_docker_gets_the_time_back_that_the_end_of_a_change_waits_for_the_hosts_lock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run was killed between the decision and compose.yaml. A job holds the lock for days meanwhile."""
    _, steps = cases(folder, SCENARIOS["swap between two Dockers"])
    decided = [number for number, step in enumerate(steps) if step == "write record.json"]
    for number in decided:
        host = fresh(folder, SCENARIOS["swap between two Dockers"])
        host.docker.at[moment(steps, number)] = "kill after"
        host.apply()
        if any(change["phase"] == "commit" for change in host.record()["replacing"]):
            break
    assert list(host.folder.rglob("*.commit-*"))
    host.docker.revive()
    now, locked = [0.0], locks.locked

    @contextlib.contextmanager
    def for_days(what: str, users: Iterable[str] = ("",)) -> Iterator[None]:
        now[0] += 2 * docker_commands.TURN if set(users) == {""} else 0
        with locked(what, users):
            yield

    monkeypatch.setattr(changes, "locked", for_days)
    for module in (changes, recovering, docker_commands):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    assert models.recover() == 0, host.out
    assert now[0] == 2 * docker_commands.TURN
    assert host.served() == "new"


def test_a_run_whose_connection_is_lost_while_it_waits_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run holds the lock, for hours. What has begun is finished or undone."""
    host, lost = fresh(folder, SCENARIOS["one"]), threading.Event()
    monkeypatch.setattr(messages, "UNHEARD", lost)
    lost.set()
    with contextlib.ExitStack() as held:
        assert locks.take(locks.LOCK, held)
        assert host.apply().failed.keys() == {"alpha", "ada's Docker"}
        told = {"user": "", "name": "alpha", "ours": {}, "hold": False, "why": "", "origin": {"by": "ada"}}
        with pytest.raises(messages.Failure, match="the connection was lost"):
            stopping.stop(told)
    why = "the connection was lost. The next run resumes; not changed"
    assert sorted(host.out) == [f"error ada's Docker: {why}", f"error alpha: {why}"]
    assert host.served() == "old"
    lost.clear()
    host.apply()
    assert host.served() == "new"


@pytest.mark.parametrize("stops", [False, True])
def test_a_run_whose_connection_is_lost_while_it_waits_to_undo_a_change_makes_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """The record has a change of a killed run, and another run holds the lock. Afterwards the lock is free."""
    _, steps = cases(folder, SCENARIOS["one"])
    host, lost = fresh(folder, SCENARIOS["one"]), threading.Event()
    host.docker.at[moment(steps, next(n for n, step in enumerate(steps) if step.startswith("stop")))] = "kill after"
    host.apply()
    host.docker.revive()
    monkeypatch.setattr(messages, "UNHEARD", lost)
    with contextlib.ExitStack() as held:
        assert locks.take(locks.LOCK, held)
        threading.Timer(0.3, lambda: [lost.set(), held.close()]).start()
        if stops:
            told = {"user": "", "name": "alpha", "ours": {}, "hold": False, "why": "", "origin": {"by": "ada"}}
            with pytest.raises(messages.Failure, match="the connection was lost"):
                stopping.stop(told)
        else:
            assert "alpha" in host.apply().failed
    assert host.record()["replacing"] == []
    assert host.served() == "old"
    lost.clear()
    host.apply()
    assert host.served() == "new"


def test_a_claim_ends_with_its_run(folder: Path) -> None:
    """A run that was killed before it began anything leaves nothing to undo, and nothing that blocks the next one."""
    host, steps = cases(folder, SCENARIOS["swap between two Dockers"])
    first = steps.index("write record.json")
    host = fresh(folder, SCENARIOS["swap between two Dockers"])
    host.docker.at[moment(steps, first)] = "kill after"
    host.apply()
    (change,) = host.record()["replacing"]
    assert (change["members"], change["claims"]) == (
        [],
        [["", "alpha"], ["", "beta"], ["ada", "alpha"], ["ada", "beta"]],
    )
    assert not claims.is_alive(change)
    host.docker.revive()
    assert models.recover() == 0
    assert (host.out, host.served()) == ([], "old")
    host.apply()
    assert host.served() == "new"


def interrupted_with_ada(folder: Path, step: str) -> Host:
    """A swap with ada's Docker was killed before the first such step; gamma of the host has nothing to do with it."""
    host = fresh(folder, BESIDE)
    host.apply(only(host, "alpha", "beta"))
    first = next(number for number, each in enumerate(host.docker.steps) if each.startswith(step))
    wanted = moment(host.docker.steps, first)
    host = fresh(folder, BESIDE)
    host.docker.at[wanted] = "kill before"
    host.apply(only(host, "alpha", "beta"))
    host.docker.revive()
    (change,) = host.record()["replacing"]
    assert (change["phase"], claims.is_alive(change)) == (KILLED[step], False)
    return host


KILLED = {"start ": "try", "rm ": "commit"}


def ended(host: Host, step: str, gamma: int) -> None:
    """Assert that the swap has ended, and that each entry runs once. gamma: its generation."""
    swapped = KILLED[step] == "commit"
    after = {name: each[gamma if name == "gamma" else swapped] for name, each in BESIDE.items()}
    host.scenario = {name: (one, one) for name, one in after.items()}
    assert (host.docker.violations, host.record()["replacing"]) == ([], [])
    assert {one.service for one in host.running()} == {one.key for one in after.values() if one}
    for name, one in after.items():
        host.check(name, one, host.record())
    assert not list(host.folder.rglob("*.commit*")) + list(host.folder.rglob("change.*"))


@contextlib.contextmanager
def waiting_for_ada(host: Host, monkeypatch: pytest.MonkeyPatch, what: str) -> Iterator[None]:
    """Ada's Docker answers, or its lock is free, only after the block."""
    go_on, answer, held = threading.Event(), FakeDocker.run, contextlib.ExitStack()

    def run(docker: FakeDocker, *argv: str, **options: Any) -> tuple[int, str]:
        if "USER=ada" in argv:
            assert go_on.wait(60)
        return answer(docker, *argv, **options)

    if what == "lock":
        assert locks.take(locks.of_user(locks.LOCK, "ada"), held)
    else:
        monkeypatch.setattr(FakeDocker, "run", run)
        programs.run = docker_commands.run = boot.run = host.docker.run
    try:
        yield
    finally:
        go_on.set()
        held.close()


def in_background(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Call a function in a thread; its results are in the list."""
    results = list[Any]()
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    return thread, results


def of_host(host: Host) -> set[str]:
    return {one.name for one in host.docker.daemons[""].values() if one.status == "running"}


@pytest.mark.parametrize("what", ["Docker", "lock"])
@pytest.mark.parametrize("step", KILLED)
def test_boot_starts_other_models_while_an_interrupted_change_waits_for_a_users_docker(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, what: str
) -> None:
    host = interrupted_with_ada(folder, step)
    for one in host.running():
        one.status = "exited"
    with waiting_for_ada(host, monkeypatch, what):
        thread, results = in_background(boot.boot)
        awaited(lambda: of_host(host) == {"gamma"})
    thread.join()
    assert results == [0], host.out
    ended(host, step, 0)


@pytest.mark.parametrize("step", KILLED)
def test_boot_starts_the_hosts_models_of_an_interrupted_change_where_a_users_docker_never_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Last, and only as their GPUs are free."""
    host = interrupted_with_ada(folder, step)
    for one in host.running():
        one.status = "exited"
    host.docker.silent = "ada"
    monkeypatch.setattr(boot, "DAEMON_TIMEOUT", 0)
    assert boot.boot() > 0
    assert of_host(host) == {"gamma", "alpha" if step == "start " else "beta"}
    what = "an earlier change was interrupted and cannot be undone yet: the Docker of ada does not answer"
    told = [line for line in host.out if what in line]
    assert [line.split(":")[0] for line in told] == ["error alpha", "error beta"]
    host.docker.silent = ""
    assert boot.boot() == 0
    ended(host, step, 0)


@pytest.mark.parametrize("what", ["Docker", "lock"])
@pytest.mark.parametrize("step", KILLED)
def test_a_run_changes_other_models_while_an_interrupted_change_waits_for_a_users_docker(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, what: str
) -> None:
    """It ends that change beside them, and leaves its entries alone."""
    host = interrupted_with_ada(folder, step)
    with waiting_for_ada(host, monkeypatch, what):
        job = models.Job(gammas(host))
        thread, _ = in_background(job.apply)
        awaited(lambda: "gamma: ready after 1 min 15 s, down for 0 s" in host.out)
        assert len(host.record()["replacing"]) == 1
    thread.join()
    assert job.failures == 1
    (refused,) = [line for line in host.out if line.startswith("error")]
    assert refused.startswith("error alpha: not changed: an earlier change of it was interrupted. Run gpurack again")
    ended(host, step, 1)


def test_a_run_says_what_it_cannot_end_and_the_next_one_ends_it(folder: Path) -> None:
    host = interrupted_with_ada(folder, "start ")
    host.docker.silent = "ada"
    assert models.recover() == 2
    models.Job(only(host, "gamma", users=("",))).apply()
    assert "gamma: ready after 1 min 15 s, down for 0 s" in host.out
    what = "error {}: an earlier change was interrupted and cannot be undone yet: the Docker of ada does not answer"
    assert all(any(line.startswith(what.format(name)) for line in host.out) for name in ("alpha", "beta"))
    assert len(host.record()["replacing"]) == 1
    host.docker.silent = ""
    assert models.recover() == 0
    ended(host, "start ", 1)


@pytest.mark.parametrize("silent", [True, False])
def test_an_interrupted_change_with_a_users_docker_does_not_keep_another_model_from_its_stop(
    folder: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    host = interrupted_with_ada(folder, "start ")
    told = {"user": "", "name": "gamma", "ours": {}, "hold": False, "why": "", "origin": {"by": "ada"}}
    with waiting_for_ada(host, monkeypatch, "lock"):
        thread, _ = in_background(lambda: stopping.stop(told))
        awaited(lambda: "gamma" not in of_host(host))
    thread.join()
    host.docker.silent = "ada" if silent else ""
    if silent:
        with pytest.raises(
            messages.Failure, match=r"^not stopped: an earlier change was interrupted .* does not answer"
        ):
            stopping.stop({**told, "name": "alpha"})
        assert len(host.record()["replacing"]) == 1
    else:
        stopping.stop({**told, "name": "alpha"})
        assert (of_host(host), host.record()["replacing"]) == (set(), [])


EACH_STAYS: Scenario = {
    "alpha": (old(gpus="0"), new(gpus="1")),
    "beta": (old("ada", "beta", gpus="1"), new("ada", "beta.2", gpus="0")),
}
"""A swap of GPUs between a model of the host and one of ada's, each of which stays in its Docker."""


@pytest.mark.parametrize("step", ["rename ", "start ", "rm "])
@pytest.mark.parametrize("booted", [True, False])
def test_ada_keeps_no_model_of_the_host_from_runs_and_stops_for_good(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, booted: bool
) -> None:
    """Her Docker never answers after a change of both was interrupted. Its part of the change stays."""
    host = fresh(folder, EACH_STAYS)
    host.apply()
    steps = host.docker.steps
    hit = moment(steps, next(number for number, each in enumerate(steps) if each.startswith(step)))
    host = fresh(folder, EACH_STAYS)
    host.docker.at[hit] = "kill before"
    host.apply()
    host.docker.revive()
    for one in host.running() if booted else ():
        one.status = "exited"
    host.docker.silent = "ada"
    monkeypatch.setattr(boot, "DAEMON_TIMEOUT", 0)
    if booted:
        assert boot.boot() > 0
    else:
        assert models.recover() == 1
    (change,) = host.record()["replacing"]
    assert ([member["name"] for member in change["members"]], change["claims"]) == (["beta"], [["ada", "beta"]])
    assert [line.split(":")[0] for line in host.out if "cannot be undone yet" in line] == ["error beta"]
    generation = int(step == "rm ")
    assert of_host(host) == {"alpha"}
    host.check("alpha", EACH_STAYS["alpha"][generation], host.record())
    told = {"user": "", "name": "alpha", "ours": {}, "hold": False, "why": "", "origin": {"by": "ada"}}
    stopping.stop(told)
    assert of_host(host) == set()
    host.docker.silent = ""
    assert models.recover() == 0
    assert (host.docker.violations, host.record()["replacing"]) == ([], [])
    assert [one.service for one in host.running()] == [EACH_STAYS["beta"][generation].key]  # type: ignore[union-attr]
    assert not list(host.folder.rglob("*.commit*")) + list(host.folder.rglob("change.*"))


@pytest.mark.parametrize("what", ["todays_files", "remove_labelled"])
def test_what_is_not_undone_keeps_a_model_of_the_host_in_the_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A rotated key, or a container of a probe, which nothing but the change names. Ada's Docker is silent."""
    host = fresh(folder, EACH_STAYS)
    host.apply()
    steps = host.docker.steps
    hit = moment(steps, next(number for number, each in enumerate(steps) if each.startswith("start ")))
    host = fresh(folder, EACH_STAYS)
    payload = host.payload
    host.payload = lambda: {  # type: ignore[method-assign]
        **payload(), "batches": [[{**one, "restore": ["api_key"]} for one in batch] for batch in payload()["batches"]]
    }  # fmt: skip
    host.docker.at[hit] = "kill before"
    host.apply()
    host.docker.revive()
    host.docker.silent = "ada"

    def fails(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        for place in (recovering, undoing) if what == "todays_files" else (dockerd.Dockerd,):
            patch.setattr(place, what, fails)
        assert models.recover() > 0
        (change,) = host.record()["replacing"]
        assert "alpha" in {member["name"] for member in change["members"]}
    assert models.recover() == 1
    (change,) = host.record()["replacing"]
    assert {member["name"] for member in change["members"]} == {"beta"}
    (mounted,) = host.containers["alpha"].mounts
    assert Path(mounted).read_text() == "new key of alpha.2"


def test_a_run_waits_for_limited_time_for_another_one_before_it_plans(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovering, "SOON", 0.1)
    host = interrupted_with_ada(folder, "start ")
    with waiting_for_ada(host, monkeypatch, "lock"):
        assert models.recover() == 2
        assert any(line.endswith("another run works in the Docker of ada") for line in host.out)
    assert models.recover() == 0
    ended(host, "start ", 0)


def is_free(path: str) -> bool:
    """Can the lock be taken now?"""
    with contextlib.ExitStack() as taken:
        return bool(locks.take(path, taken))


@pytest.mark.parametrize("case", ["one", "swap", "swap between two Dockers", "made by hand"])
def test_kill_during_recovery_is_recovered(folder: Path, case: str) -> None:
    scenario = SCENARIOS[case]
    for breaks in ("", "new:2"):
        _, steps = cases(folder, scenario, breaks)
        phases = [
            number + 1 for number, step in enumerate(steps) if step == "write record.json" and steps[number + 1 :]
        ]
        for first in sample(phases, case + breaks):
            host = fresh(folder, scenario, breaks)
            host.docker.at[moment(steps, first)] = "kill before"
            host.apply()
            begun = len(host.docker.steps)
            host.docker.revive()
            models.recover()
            recovery = host.docker.steps
            for second in sample_steps(recovery, case + breaks, range(begun, len(recovery))):
                host = fresh(folder, scenario, breaks)
                host.docker.at[moment(steps, first)] = "kill before"
                host.apply()
                host.docker.revive()
                host.docker.at[moment(recovery, second)] = "kill before"
                with contextlib.suppress(Killed):
                    models.recover()
                after_kill(host, "kill")


def test_old_ones_stop_together_before_the_first_new_one_starts(folder: Path) -> None:
    host, steps = cases(folder, SCENARIOS["ring"])
    acts = [step.split()[0] for step in steps if step.startswith(("stop ", "start ", "rm ", "rename "))]
    assert acts == ["rename"] * 3 + ["stop"] * 3 + ["start"] * 3 + ["rm"] * 3
    assert host.served() == "new"


NO_CUDA = "Traceback (most recent call last):\nOSError: libcuda.so.1: cannot open shared object file"


@pytest.mark.parametrize("case", SCENARIOS)
def test_no_old_one_stops_for_an_image_without_cuda(folder: Path, case: str) -> None:
    host = fresh(folder, SCENARIOS[case])
    host.docker.cuda = "gpurack-cuda 999 0"
    job = host.apply()
    assert job.failures == len(SCENARIOS[case])
    assert not [step for step in host.docker.steps if step.startswith(("start", "stop"))]
    assert host.record()["failed"] == {}
    if case != "first":
        assert host.served() == "old"
    else:
        assert (host.running(), host.docker.daemons[""]) == ([], {})


@pytest.mark.parametrize(
    ("code", "certain"),
    [(35, True), (222, True), (804, True), (100, False), (101, False), (802, False), (803, False), (999, False)],
)
def test_only_faults_that_name_the_driver_are_recorded(folder: Path, code: int, certain: bool) -> None:
    """The others pass when a service starts or a device file is there, which the record does not compare."""
    host = fresh(folder, SCENARIOS["one"])
    host.docker.cuda = f"gpurack-cuda {code} 0"
    host.apply()
    assert not [step for step in host.docker.steps if step.startswith(("start", "stop"))]
    assert ("alpha" in host.record()["failed"].get("", {})) == certain


@pytest.mark.parametrize(("official", "libcuda", "failures"), [(True, 12, 1), (True, 13, 0), (False, 12, 0)])
def test_no_old_one_stops_for_a_driver_too_old_for_an_official_image(
    folder: Path, official: bool, libcuda: int, failures: int
) -> None:
    """CUDA starts with it and counts the GPUs; the engine's program would end with error 35."""
    host = fresh(folder, SCENARIOS["one"])
    host.docker.cuda = f"gpurack-cuda 0 1\ngpurack-cuda-versions {libcuda} 13.0.2"
    payload = host.payload()
    payload["batches"][0][0]["cuda"]["official"] = official
    assert host.apply(payload).failures == failures
    assert host.served() == ("old" if failures else "new")
    assert ("alpha" in host.record()["failed"].get("", {})) == bool(failures)


def test_failure_before_the_stop_is_recorded_with_what_it_depends_on(folder: Path) -> None:
    host = fresh(folder, SCENARIOS["one"])
    host.docker.dry = UNFIT["arguments"]
    host.apply()
    entry = host.record()["failed"][""]["alpha"]
    model = host.payload()["batches"][0][0]
    assert {word: entry[word] for word in ("label", "given", "definition")} == {
        word: model[word] for word in ("label", "given", "definition")
    }
    assert (entry["serves"], entry["down"], entry["image"][:7]) == (True, 0, "sha256:")
    assert entry["why"] == "its program refuses its arguments: unknown: --nope 1."


@pytest.mark.parametrize(("image", "left"), [("alpha.2-new:2", []), ("failed:3", ["alpha"])])
@pytest.mark.parametrize("broken", [False, True])
def test_a_rollback_leaves_the_failure_of_what_the_inventory_has(
    folder: Path, image: str, left: list[str], broken: bool
) -> None:
    """Else the next nightly run would stop the model once more for what failed."""
    host = fresh(folder, SCENARIOS["one"], "new:2" if broken else "")
    label = json.dumps({"image": image})
    before = {"definition": hashlib.sha256(label.encode()).hexdigest(), "why": "of the inventory"}
    record.note_failed("", "alpha", before)
    payload = host.payload()
    payload["batches"][0][0]["rollback"] = "0123456789ab"
    models.Job(payload).apply()
    found = host.record()["failed"][""]
    assert host.served() == ("old" if broken else "new")
    if broken:
        assert (found["alpha"]["why"] == "of the inventory") == (left == ["alpha"])
    else:
        assert list(found) == left


def test_a_change_of_the_inventory_that_succeeds_drops_the_failure(folder: Path) -> None:
    host = fresh(folder, SCENARIOS["one"])
    record.note_failed("", "alpha", {"definition": "0" * 64, "why": "an earlier one"})
    host.apply()
    assert host.record()["failed"][""] == {}


REFUSALS = {
    'invalid CapAdd: unknown capability: "CAP_NONE"': True,
    "conflicting options: port publishing and the container type network mode": True,
    "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available": True,
    "Duplicate mount point: /weights": True,
    "No such image: x:1": False,
    'Conflict. The container name "/alpha" is already in use by container "0123"': False,
    "unknown or invalid runtime name: nvidia": False,
    'invalid mount config for type "bind": bind source path does not exist: /w': False,
    "failed to create task: write /var/lib/docker/x: no space left on device": False,
    "network gpurack_default not found": False,
}


@pytest.mark.parametrize("said", REFUSALS)
def test_creation_is_tried_again_unless_its_settings_are_wrong(
    folder: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose_of = FakeDocker.compose

    def answer(docker: FakeDocker, daemon: dict[str, Container], words: list[str]) -> str | None:
        if "create" in words:
            raise LookupError(said)
        return compose_of(docker, daemon, words)

    monkeypatch.setattr(FakeDocker, "compose", answer)
    host = fresh(folder, SCENARIOS["one"])
    assert (host.apply().failures, host.served()) == (1, "old")
    assert not [step for step in host.docker.steps if step.startswith(("start", "stop"))]
    assert ("alpha" in host.record()["failed"].get("", {})) == REFUSALS[said]


def test_failure_of_cuda_says_cause_and_what_serves(folder: Path) -> None:
    host = fresh(folder, SCENARIOS["one"])
    host.docker.cuda = "gpurack-cuda 802 0"
    host.apply()
    assert host.out == [
        "error alpha: its image cannot use the GPUs (CUDA error 802: system not yet initialized). The NVSwitch fabric "
        "is not ready. Check `systemctl status nvidia-fabricmanager`; its version must be the driver's. The present "
        "`alpha` was not stopped."
    ]


UNFIT = {
    "arguments": (2, "usage: x\nx: error: unknown: --nope 1 --end"),
    "devices": (125, "docker: Error response from daemon: unresolvable CDI devices nvidia.com/gpu=GPU-1"),
}


@pytest.mark.parametrize("said", UNFIT)
@pytest.mark.parametrize("case", SCENARIOS)
def test_no_old_one_stops_for_arguments_or_devices_that_are_refused(folder: Path, case: str, said: str) -> None:
    host = fresh(folder, SCENARIOS[case])
    host.docker.dry = UNFIT[said]
    job = host.apply()
    assert job.failures == len(SCENARIOS[case])
    assert not [step for step in host.docker.steps if step.startswith(("start", "stop"))]
    assert bool(host.record()["failed"]) == (said == "arguments")
    assert case == "first" or host.served() == "old"


def test_failed_dry_start_says_why_and_what_serves(folder: Path) -> None:
    for said, why in {
        "arguments": "its program refuses its arguments: unknown: --nope 1.",
        "devices": "Docker cannot give it its devices: unresolvable CDI devices nvidia.com/gpu=GPU-1.",
    }.items():
        host = fresh(folder, SCENARIOS["one"])
        host.docker.dry = UNFIT[said]
        host.apply()
        assert host.out == [f"error alpha: {why} The present `alpha` was not stopped."]


@pytest.mark.parametrize(
    "printed", [(2, "x: error: unknown: --end"), (0, "it ended"), (1, "x: error: unknown: --nope"), (137, ""), (2, "x")]
)
def test_what_a_dry_start_does_not_prove_refuses_nothing(folder: Path, printed: tuple[int, str]) -> None:
    host = fresh(folder, SCENARIOS["one"])
    host.docker.dry = printed
    assert (host.apply().failures, host.served()) == (0, "new")


def test_docker_that_cannot_give_the_gpus_stops_no_old_one(folder: Path) -> None:
    """The probe of CUDA is the first to see it."""
    host = fresh(folder, SCENARIOS["swap"])
    host.docker.refuses = 'could not select device driver "cdi" with capabilities: [[gpu]].'
    assert (host.apply().failures, host.served()) == (2, "old")
    assert not [step for step in host.docker.steps if step.startswith(("start", "stop"))]
    assert "Docker cannot give it its devices: could not select device driver" in host.out[0]


@pytest.mark.parametrize("case", ["one", "first", "ring"])
def test_damaged_weights_stop_nothing(folder: Path, case: str, tmp_path: Path) -> None:
    """Their header is read before anything is renamed or created."""
    (tmp_path / "m.gguf").write_bytes(b"<!doctype html>")
    host = fresh(folder, SCENARIOS[case])
    payload = host.payload()
    payload["batches"][0][0]["weights"] = [str(tmp_path / "m.gguf")]
    job = models.Job(payload)
    job.apply()
    assert job.failures == len(SCENARIOS[case])
    why = f"error alpha: its weights are damaged: m.gguf is not a GGUF file. Fetch or copy {tmp_path}/m.gguf again"
    assert host.out[0] == why
    acts = ("start", "stop", "rename", "run", "compose create")
    assert not [step for step in host.docker.steps if step.startswith(acts)]
    entry = host.record()["failed"][""]["alpha"]
    assert (entry["serves"], entry["image"]) == (case != "first", "")
    assert list(host.record()["failed"][""]) == ["alpha"]


@pytest.mark.parametrize("program", ["exit 1", "echo no JSON", "sleep 99", "echo '[]'"])
def test_check_of_weights_without_an_answer_refuses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(fetch, "HEADER_LIMIT", 0.5)
    monkeypatch.setattr(fetch, "inspector", lambda path, user: ["sh", "-c", program])
    host = fresh(folder, SCENARIOS["one"])
    payload = host.payload()
    payload["batches"][0][0]["weights"] = ["/w/m.gguf"]
    job = models.Job(payload)
    job.apply()
    assert (job.failures, host.served()) == (0, "new")


ON_CPU = "ggml_cuda_init: failed to initialize CUDA: unknown error\nserver is listening"


def test_new_one_that_continues_on_the_cpu_is_undone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ollama has no probe: its own log says it."""
    monkeypatch.setattr(kept_logs, "tail", lambda dockerd, container, lines=0: ON_CPU)
    host = fresh(folder, SCENARIOS["one"])
    assert (host.apply().failures, host.served()) == (1, "old")
    assert "it computes on the CPU, not on its GPUs (CUDA error 999: unknown error). /dev/nvidia-uvm" in host.out[-1]


@pytest.mark.parametrize(("pid", "failures"), [(None, 1), (8, 1), (7, 0)])
def test_new_one_that_nvidia_smi_lists_computes_on_its_gpus(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pid: int | None, failures: int
) -> None:
    monkeypatch.setattr(kept_logs, "tail", lambda dockerd, container, lines=0: "warning: no usable GPU found, …")
    monkeypatch.setattr(processes, "compute_apps", lambda: [(pid, "GPU-a", 900)] if pid else None)
    monkeypatch.setattr(processes, "of_container", lambda dockerd, container, main=None: {(7, 1)})
    host = fresh(folder, SCENARIOS["first"])
    assert host.apply().failures == failures


@pytest.mark.parametrize("log", ["server is listening", f"{ON_CPU}\nload_tensors: CUDA0 model buffer size = 9 MiB"])
def test_other_logs_refuse_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, log: str) -> None:
    monkeypatch.setattr(kept_logs, "tail", lambda dockerd, container, lines=0: log)
    host = fresh(folder, SCENARIOS["one"])
    assert (host.apply().failures, host.served()) == (0, "new")


@pytest.mark.parametrize("printed", ["gpurack-cuda 2 0", "gpurack-cuda 46 0", NO_CUDA, "", "Available devices:"])
def test_what_a_probe_does_not_prove_refuses_nothing(folder: Path, printed: str) -> None:
    host = fresh(folder, SCENARIOS["one"])
    host.docker.cuda = printed
    assert (host.apply().failures, host.served()) == (0, "new")


@pytest.mark.parametrize(("image", "says"), [("alpha.2-new:2", False), ("alpha-old:1", True)])
@pytest.mark.parametrize("tested", ["cuda", "cuda_untested"])
def test_image_that_cannot_be_tested_is_news_once(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    image: str,
    says: bool,
    tested: str,
) -> None:
    host = fresh(folder, {"alpha": (Generation("", "alpha", image, ("0",)), new())})
    host.docker.cuda = "Available devices:\n  (none)"
    if tested == "cuda_untested":
        payload = host.payload()
        payload["batches"][0][0]["cuda_untested"] = payload["batches"][0][0].pop("cuda") is not None
        monkeypatch.setattr(host, "payload", lambda: payload)
    assert (host.apply().failures, host.served()) == (0, "new")
    said = [line for line in capsys.readouterr().out.splitlines() if "CUDA" in line]
    why = {"cuda": "CUDA was not tested: its image lists no GPU, as one without CUDA does"}
    usual = "CUDA is not tested in its image, which has no program for it"
    assert said == ([f"alpha: {why.get(tested, usual)}"] if says else [])


@pytest.mark.parametrize(("wrong", "removes"), [("fail", False), ("away", False), ("hang", True)])
@pytest.mark.parametrize("case", SCENARIOS)
def test_probe_that_fails_or_hangs_refuses_nothing(folder: Path, case: str, wrong: str, removes: bool) -> None:
    host = fresh(folder, SCENARIOS[case])
    host.docker.always = {"run": wrong}
    assert (host.apply().failures, host.served()) == (0, "new")
    assert any(step.startswith("rm --force --volumes") for step in host.docker.steps) == removes


@pytest.mark.parametrize("how", RECOVERIES)
@pytest.mark.parametrize("case", [case for case in SCENARIOS if case not in ("first", "stopped before")])
def test_run_killed_while_a_probe_hangs_leaves_none(folder: Path, case: str, how: str) -> None:
    host = fresh(folder, SCENARIOS[case])
    host.docker.always = {"run": "kill after"}
    host.apply()
    assert "probe" in {one.name for one in host.running()}
    assert after_kill(host, how) == ("new" if how == "kill, then the next run" else "old")


def test_probe_that_cannot_be_removed_stops_no_old_one(folder: Path) -> None:
    """The next run removes it."""
    host = fresh(folder, SCENARIOS["one"])
    host.docker.always = {"run": "hang", "rm": "hang"}
    assert host.apply().failures == 1
    assert not [step for step in host.docker.steps if step.startswith(("start", "stop"))]
    assert {one.id for one in host.running() if one.name != "probe"} == {host.containers["alpha"].id}
    assert len(host.record()["replacing"]) == 1
    assert after_kill(host, "kill") == "old"


def test_same_image_with_the_same_gpus_is_proven_once_in_a_run(folder: Path) -> None:
    scenario = {
        "alpha": (old(), new()),
        "beta": (old(key="beta", gpus=""), Generation("", "beta.2", "alpha.2-new:2", ("0",))),
        "gamma": (old(key="gamma", gpus="1"), Generation("", "gamma.2", "alpha.2-new:2", ("1",))),
    }
    host = fresh(folder, scenario)
    host.apply()
    proven = [step for step in host.docker.steps if step.startswith("run ") and step.endswith("-c")]
    assert sorted(step.split()[4] for step in proven) == ["--device=0", "--device=1"]


def test_a_port_that_another_program_holds_stops_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.port_free", lambda address, port: f"port {port} is in use by nginx (pid 7)")
    monkeypatch.setattr(FakeDocker, "ports_of", lambda docker, key: [("127.0.0.1", "8000")])
    host, steps = cases(folder, SCENARIOS["one"])
    assert host.served() == "old"
    assert not [step for step in steps if step.startswith(("stop", "start"))]
    assert host.out == ["error alpha: port 8000 is in use by nginx (pid 7). The present `alpha` was not stopped."]
    assert host.record()["failed"] == {}


def test_a_port_that_the_old_one_holds_is_free_for_the_new_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proof.port_free", lambda address, port: "taken")
    monkeypatch.setattr(FakeDocker, "ports_of", lambda docker, key: [("127.0.0.1", "8000")])
    host = fresh(folder, SCENARIOS["one"])
    host.containers["alpha"].ports = [("0.0.0.0", "8000")]
    host.apply()
    assert host.served() == "new"


@pytest.mark.parametrize("case", ["one", "swap", "ring"])
def test_one_whose_first_request_fails_takes_all_back(folder: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ready, and then gives no answer, or ends. It is recorded, so no later run tries it again by itself."""

    def smoke_test(daemon: Any, name: str, *arguments: Any) -> None:
        if name == "alpha":
            raise messages.Failure("started, but the test request failed (connection closed).")

    monkeypatch.setattr("asking.smoke_test", smoke_test)
    host, _ = cases(folder, SCENARIOS[case])
    assert host.served() == "old"
    (error,) = [line for line in host.out if line.startswith("error alpha: started, but the test request failed")]
    assert " The previous `alpha` serves again since " in error
    assert host.record()["failed"][""]["alpha"]["why"] == "started, but the test request failed (connection closed)."


@pytest.mark.parametrize("case", ["first", "in the place of a removed one"])
def test_name_that_is_taken_after_the_plan_stops_nothing(folder: Path, case: str) -> None:
    host = fresh(folder, SCENARIOS[case])
    taken = host.docker.put("", "alpha", "", "own:1", by_hand=True)
    host.apply()
    assert host.out[0].startswith("error alpha: a container named alpha already exists and is not managed by gpurack (")
    assert (taken.name, taken.status) == ("alpha", "running")
    assert not [step for step in host.docker.steps if step.startswith(("stop", "start", "rm", "rename"))]
    assert host.record().get("failed", {}) == {}


def test_one_that_ends_while_others_load_takes_all_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def still_up(daemon: Any, name: str, container_id: str, *arguments: Any) -> None:
        if name == "alpha":
            assert len(host.running()) == 3
            raise messages.Failure("exited after it had answered (exit code 1).")

    monkeypatch.setattr(loading, "still_up", still_up)
    host = fresh(folder, SCENARIOS["ring"])
    host.apply()
    assert host.served() == "old"
    assert host.record()["failed"][""]["alpha"]["why"] == "exited after it had answered (exit code 1)."


def test_a_stop_that_fails_ends_the_batch(folder: Path) -> None:
    """Docker says that it stopped, but the container runs on."""
    host = fresh(folder, SCENARIOS["ring"])
    host.docker.stubborn = {host.containers["beta"].id}
    host.apply()
    assert host.served() == "old"
    (error,) = [line for line in host.out if line.startswith("error beta: docker stop failed")]
    assert " The previous `beta` serves again since " in error
    assert len([line for line in host.out if "it shares a GPU or port with beta, which failed" in line]) == 2
    assert "start" not in [step.split()[0] for step in host.docker.steps if host.containers["beta"].id in step]


def test_a_rotated_key_stays_rotated_on_the_way_back(folder: Path) -> None:
    host = fresh(folder, SCENARIOS["one"], "new:2")
    payload = host.payload
    host.payload = lambda: {  # type: ignore[method-assign]
        **payload(), "batches": [[{**one, "restore": ["api_key"]} for one in payload()["batches"][0]]]
    }  # fmt: skip
    host.apply()
    assert host.served() == "old"
    (mounted,) = host.containers["alpha"].mounts
    assert Path(mounted).read_text() == "new key of alpha.2"


def test_the_old_container_is_gone(folder: Path) -> None:
    """An admin's `docker system prune` removed it while the new one was tried."""
    host = fresh(folder, SCENARIOS["one"])

    def pruned(container: Container) -> bool:
        host.docker.daemons[""].pop(host.containers["alpha"].id, None)
        return "new:2" in container.image

    host.docker.breaks = pruned
    host.apply()
    (serving,) = host.running()
    assert (serving.name, serving.service, serving.image) == ("alpha", "alpha", "alpha-old:1")
    assert host.record()["containers"][""]["alpha"]["id"] == serving.id
    assert host.record()["replacing"] == []


def pruned(host: Host, name: str = "alpha") -> None:
    """An admin's `docker system prune` removes the old container while the new one is tried, which then fails."""

    def breaks(container: Container) -> bool:
        host.docker.daemons[""].pop(host.containers[name].id, None)
        return "new:2" in container.image

    host.docker.breaks = breaks


def test_old_one_that_is_gone_gets_its_own_image_again(folder: Path) -> None:
    """The pull of the new one moved their common tag."""
    host = fresh(folder, SCENARIOS["one"])
    image = host.docker.image_id("alpha-old:1")
    pruned(host)
    host.docker.tags["alpha-old:1"] = "sha256:" + "2" * 64
    host.apply()
    (serving,) = host.running()
    assert (serving.name, serving.service, serving.image_id) == ("alpha", "alpha", image)
    assert not list(folder.rglob("*.image"))


@pytest.mark.parametrize("case", ["one", "made by hand"])
def test_old_one_that_cannot_come_back_ends_the_change(folder: Path, case: str) -> None:
    """Waiting would not help: no run would ever change that entry again."""
    host = fresh(folder, SCENARIOS[case])
    why = "it was removed"
    if case == "one":
        host.docker.lacks = {image := host.docker.image_id("alpha-old:1")}
        host.docker.tags["alpha-old:1"] = "sha256:" + "2" * 64
        why = f"its container was removed, and its image alpha-old:1 ({image[:19]}) is no longer on the host"
    pruned(host)
    host.apply()
    (error,) = [line for line in host.out if line.startswith("error")]
    assert f"(exit code 1). The previous `alpha` cannot be restored: {why}. Its log:" in error
    assert (host.running(), host.record()["replacing"]) == ([], [])
    assert host.record()["failed"][""]["alpha"]["serves"] is False


@pytest.mark.parametrize("there", [True, False])
def test_new_one_that_is_pruned_after_its_change_gets_its_own_image(folder: Path, there: bool) -> None:
    host, steps = cases(folder, SCENARIOS["one"])
    image = host.docker.image_id("alpha.2-new:2")
    committed = max(number for number, step in enumerate(steps) if step.startswith("rm "))
    host = fresh(folder, SCENARIOS["one"])
    host.docker.at[moment(steps, committed)] = "kill after"
    host.apply()
    host.docker.revive()
    assert [change["phase"] for change in host.record()["replacing"]] == ["commit"]
    host.docker.daemons[""].clear()
    host.docker.tags["alpha.2-new:2"] = "sha256:" + "2" * 64
    host.docker.lacks = set() if there else {image}
    assert models.recover() == 0
    assert [one.image_id for one in host.running()] == ([image] if there else [])
    assert host.record()["replacing"] == []
    assert there or any(line.endswith("is no longer on the host") for line in host.out)


def test_a_removal_alone(folder: Path) -> None:
    host, _ = cases(folder, {"alpha": (old(), None)})
    assert (host.running(), host.out) == ([], ["alpha: removed"])
    assert host.record()["containers"] == {"": {}, "ada": {}}
    assert services_in(Path(dockerd.Dockerd().compose_file).read_text()) == {}


RUNNING = ["/metrics", "vllm:num_requests_running"]


@pytest.mark.parametrize("case", ["alone", "replaced", "beside"])
def test_running_requests_end_before_a_stop(folder: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """At a replacement, at a removal, and at one that a replacement needs; each by its own old container."""
    cases: dict[str, Scenario] = {
        "alone": {"alpha": (old(), None)},
        "replaced": SCENARIOS["one"],
        "beside": {"alpha": (old(), None), "beta": (None, new(key="beta"))},
    }
    host = fresh(folder, cases[case])
    alpha = host.containers["alpha"]
    alpha.labels["gpurack.probe"], alpha.ports = "http://127.0.0.1:8000/v1/models", [("127.0.0.1", "8000")]
    (batch,) = (payload := host.payload())["batches"]
    batch[0]["running"] = RUNNING
    host.payload = lambda: payload  # type: ignore[method-assign]
    asked: list[tuple[str, str]] = []

    def send(daemon: Any, url: str, path: str, body: Any, key: str | None, limit: float) -> tuple[int, str]:
        if path != "/metrics":
            return 200, "{}"
        asked.append((url, alpha.status))
        assert key == "old key of alpha"
        return 200, f"vllm:num_requests_running {max(0, 3 - len(asked))}.0"

    monkeypatch.setattr(asking, "send", send)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    host.apply()
    assert asked == [("http://127.0.0.1:8000/v1/models", "running")] * 3
    assert alpha.id not in host.docker.daemons[""]


@pytest.mark.parametrize("label", ["http://127.0.0.1:9000/", "http://10.0.0.9:8000/", None])
def test_no_other_address_is_asked_for_running_requests(
    folder: Path, monkeypatch: pytest.MonkeyPatch, label: str | None
) -> None:
    """A label may be a user's: root sends the model's key to no port that the container does not publish."""
    host = fresh(folder, {"alpha": (old(), None)})
    host.containers["alpha"].ports = [("127.0.0.1", "8000")]
    host.containers["alpha"].labels |= {"gpurack.probe": label} if label else {}
    (batch,) = (payload := host.payload())["batches"]
    batch[0]["running"] = RUNNING
    host.payload = lambda: payload  # type: ignore[method-assign]
    monkeypatch.setattr(asking, "send", lambda *arguments: pytest.fail(f"asked {arguments}"))
    host.apply()
    assert (host.running(), host.out) == ([], ["alpha: removed"])


def test_a_removal_that_was_killed_is_ended_by_boot_and_by_the_next_run(folder: Path) -> None:
    """At every step: where the container had gone, the record still had it, and a run found nothing to do."""
    alone: Scenario = {"alpha": (old(), None)}
    _, steps = cases(folder, alone)
    outcomes = set()
    for number in range(len(steps)):
        for when in ("kill before", "kill after"):
            host = fresh(folder, alone)
            host.docker.at[moment(steps, number)] = when
            host.apply()
            host.docker.revive()
            changes, known = host.record().get("replacing", []), host.record()["containers"][""]
            decided = "alpha" not in known or any(change["phase"] == "commit" for change in changes)
            assert boot.boot() == 0, host.out
            left = [] if decided else ["alpha"]
            assert [one.name for one in host.running()] == left, describe(number, steps, when)
            assert (list(host.record()["containers"][""]), host.record().get("replacing", [])) == (left, [])
            outcomes.add(decided)
    assert outcomes == {False, True}


def test_a_removal_whose_stop_fails_is_not_started_by_boot(folder: Path) -> None:
    host = fresh(folder, {"alpha": (old(), None)})
    host.docker.stubborn = {host.containers["alpha"].id}
    host.apply()
    (said,) = host.out
    assert said.startswith("error alpha: its removal could not be ended: docker stop failed (exit code 0); ")
    assert host.record()["containers"][""]["alpha"]["id"] == host.containers["alpha"].id
    host.containers["alpha"].status = "exited"
    assert boot.boot() == 0
    assert host.running() == []


def test_boot_creates_what_has_no_container(folder: Path) -> None:
    host = fresh(folder, SCENARIOS["swap"])
    host.docker.daemons[""].pop(host.containers["beta"].id)
    assert boot.boot() == 0
    assert {(one.name, one.service) for one in host.running()} == {("alpha", "alpha"), ("beta", "beta.3")}
    assert host.record()["containers"][""]["beta"]["service"] == "beta.3"


@pytest.mark.parametrize("there", [True, False])
def test_boot_creates_what_has_no_container_from_its_own_image(folder: Path, there: bool) -> None:
    host, _ = cases(folder, SCENARIOS["one"])
    image = host.docker.image_id("alpha.2-new:2")
    host.docker.daemons[""].clear()
    host.docker.tags["alpha.2-new:2"] = "sha256:" + "2" * 64
    host.docker.lacks = set() if there else {image}
    assert boot.boot() == (0 if there else 1)
    assert [one.image_id for one in host.running()] == ([image] if there else [])
    assert there or any(line.endswith("is no longer on the host") for line in host.out)


def test_boot_leaves_a_restart_to_the_run_that_restarts_docker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd starts gpurack.service with Docker, while the run still works on its restart and has the lock."""
    fresh(folder, SCENARIOS["one"])
    monkeypatch.setattr(docker_restart, "NOTE", str(folder / "restart.json"))
    found: list[Any] = []
    monkeypatch.setattr(docker_restart, "finish", lambda: (found.append(docker_restart.noted()), ([], True))[1])
    docker_restart.note([])
    booting = threading.Thread(target=boot.finish_restart)
    with locks.locked("run"):
        booting.start()
        booting.join(0.2)
        docker_restart.forget()
    booting.join()
    assert found == [None]


APART: Scenario = {
    "alpha": (old(gpus="0"), new(gpus="0")),
    "beta": (old(key="beta", gpus="1"), new(key="beta.2", gpus="1")),
    "gamma": (old("ada", key="gamma", gpus="2"), new("ada", key="gamma.2", gpus="2")),
}
"""Models of which none needs what another holds."""


def apart(host: Host, **actions: str) -> None:
    """Each model in a batch of its own."""
    (batch,) = (payload := host.payload())["batches"]
    host.payload = lambda: {**payload, "batches": [[one] for one in batch]}  # type: ignore[method-assign]


@pytest.mark.parametrize("broken", ["alpha", "beta", "gamma"])
def test_batches_succeed_and_fail_alone(folder: Path, broken: str) -> None:
    host = fresh(folder, APART, f"{broken}.2-new")
    apart(host)
    host.apply()
    assert host.docker.violations == []
    wanted = {f"{name}-old:1" if name == broken else f"{name}.2-new:2" for name in APART}
    assert {one.image for one in host.running()} == wanted
    for user in ("", "ada"):
        services = services_in(Path(dockerd.Dockerd(user).compose_file).read_text())
        assert set(services) == {one.service for one in host.running() if one in [*host.docker.daemons[user].values()]}
    assert [line.split(":")[0] for line in host.out if line.startswith("error")] == [f"error {broken}"]
    left = {path.parent.name for path in host.folder.rglob("api_key")}
    assert left == {one.service for one in host.running()}


def test_a_change_is_decided_while_another_is_undone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have a compose.yaml of their own for what comes next."""
    host = fresh(folder, APART, "beta.2-new")
    apart(host)
    stage = project.Project.stage

    def slowly(self: Any, batch: str, names: list[str]) -> None:
        stage(self, batch, names)
        awaited(lambda: "beta" in host.record()["failed"].get("", {}))

    monkeypatch.setattr(project.Project, "stage", slowly)
    host.apply()
    text = Path(dockerd.Dockerd().compose_file).read_text()
    assert set(services_in(text)) == {"alpha.2", "beta"}


def awaited(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_silent_docker_of_a_user_keeps_nothing_from_the_host(folder: Path) -> None:
    host = fresh(folder, APART)
    apart(host)
    host.docker.silent = "ada"
    job = host.apply()
    assert job.failures == 1
    assert {one.image for one in host.running()} == {"alpha.2-new:2", "beta.2-new:2", "gamma-old:1"}


def with_another(host: Host, action: str) -> None:
    """The scenario's first model, and beta, which is only started or asked, in one batch."""
    (batch,) = (payload := host.payload())["batches"]
    beta = {**batch[1], "action": action, "key": "beta", "old_key": "beta"}
    payload["projects"][""]["services"]["beta"] = payload["projects"][""]["before"]["beta"]
    host.payload = lambda: {**payload, "batches": [[batch[0], beta]]}  # type: ignore[method-assign]


STARTS_ANOTHER: Scenario = {
    "alpha": (old(gpus="0"), new(gpus="1")),
    "beta": (old(key="beta", gpus="0", runs=False), new(key="beta", gpus="0")),
}
"""alpha makes room for beta, which exists."""


def test_what_a_change_makes_room_for_is_started(folder: Path) -> None:
    host = fresh(folder, STARTS_ANOTHER)
    with_another(host, "start")
    host.apply()
    assert host.docker.violations == []
    assert {one.image for one in host.running()} == {"alpha.2-new:2", "beta-old:1"}
    assert sorted(host.out) == ["alpha: ready after 1 min 15 s, down for 0 s", "beta: ready after 1 min 15 s"]


def test_what_a_change_made_room_for_is_stopped_on_the_way_back(folder: Path) -> None:
    host = fresh(folder, STARTS_ANOTHER, "alpha.2-new")
    with_another(host, "start")
    host.apply()
    assert host.docker.violations == []
    assert {one.image for one in host.running()} == {"alpha-old:1"}
    assert "error beta: not changed: it shares a GPU or port with alpha, which failed" in host.out


def side_by_side(host: Host, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """The stop of each of these ends only once the stops of all have begun."""
    barrier, docker = threading.Barrier(len(names), timeout=5), processes.docker
    ids = {host.containers[name].id for name in names}

    def stops(daemon: Any, *words: str, **options: Any) -> Any:
        if words[0] == "stop" and words[-1] in ids:
            barrier.wait()
        return docker(daemon, *words, **options)

    monkeypatch.setattr(processes, "docker", stops)


@pytest.mark.parametrize("case", ["ring", "swap between two Dockers"])
def test_partners_stop_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Also in users' Dockers: a stop may take half a minute."""
    host = fresh(folder, SCENARIOS[case])
    side_by_side(host, monkeypatch, *SCENARIOS[case])
    host.apply()
    assert host.served() == "new"


def test_what_was_started_stops_side_by_side_on_the_way_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = {**STARTS_ANOTHER, "gamma": (old("ada", "gamma", "2", runs=False), new("ada", "gamma", "2"))}
    host = fresh(folder, scenario, "alpha.2-new")
    (batch,) = (payload := host.payload())["batches"]
    for one, user in ((batch[1], ""), (batch[2], "ada")):
        one |= {"action": "start", "key": one["name"], "old_key": one["name"]}
        blocks = payload["projects"][user]
        blocks["services"][one["name"]] = blocks["before"][one["name"]]
    batch[0]["after"] = ["beta", "gamma"]  # both run when alpha fails
    host.payload = lambda: payload  # type: ignore[method-assign]
    side_by_side(host, monkeypatch, "beta", "gamma")
    host.apply()
    assert host.docker.violations == []
    assert {one.image for one in host.running()} == {"alpha-old:1"}


def test_what_only_starts_and_fails_undoes_no_change(folder: Path) -> None:
    host = fresh(folder, STARTS_ANOTHER, "beta-old")
    with_another(host, "start")
    job = host.apply()
    assert {one.image for one in host.running()} == {"alpha.2-new:2"}
    assert job.failures == 1
    assert host.record()["tests"][""]["beta"]["why"] == "exited while loading (exit code 1)."


def test_a_check_that_fails_stops_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*arguments: Any) -> None:
        raise messages.Failure("started, but every test request failed (POST /v1/chat/completions: 500).")

    monkeypatch.setattr("asking.smoke_test", refuses)
    host = fresh(folder, {"alpha": (old(), new(key="alpha"))})
    payload = host.payload()
    payload["batches"][0][0].update(action="check", key="alpha", old_key="alpha")
    host.payload = lambda: payload  # type: ignore[method-assign]
    for _ in range(2):
        assert host.apply().failures == 1
    assert [one.image for one in host.running()] == ["alpha-old:1"]
    test = host.record()["tests"][""]["alpha"]
    assert test["id"] == host.containers["alpha"].id
    assert test["why"].startswith("started, but every test request failed")
    assert host.out[-1].endswith(" See docker logs alpha")
    monkeypatch.setattr("asking.smoke_test", lambda *arguments: None)
    assert host.apply().failures == 0
    assert host.record()["tests"][""]["alpha"]["why"] == ""


def test_restart_count_is_that_of_the_last_test(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = fresh(folder, {"alpha": (old(), new(key="alpha"))})
    payload = host.payload()
    payload["batches"][0][0].update(action="check", key="alpha", old_key="alpha")
    host.payload = lambda: payload  # type: ignore[method-assign]
    host.containers["alpha"].restarts = 3
    assert host.apply().failures == 0
    assert host.record()["tests"][""]["alpha"]["restarts"] == 3
    host.containers["alpha"].restarts = 4
    monkeypatch.setattr("asking.smoke_test", lambda *arguments: (_ for _ in ()).throw(messages.Failure("HTTP 500")))
    assert host.apply().failures == 1
    test = host.record()["tests"][""]["alpha"]
    assert (test["why"], test["restarts"]) == ("HTTP 500", 3)


def test_test_knows_the_start_that_it_tested(folder: Path) -> None:
    """Whatever starts it later, such as a power cut before its change has ended, is seen by the next run."""
    host, steps = cases(folder, SCENARIOS["one"])
    (serving,) = host.running()
    assert host.record()["tests"][""]["alpha"]["started"] == serving.started != ""
    payload = host.payload()
    payload["batches"][0][0].update(action="check", key="alpha.2", old_key="alpha.2")
    payload["projects"][""]["before"] = payload["projects"][""]["services"]
    host.payload = lambda: payload  # type: ignore[method-assign]
    serving.started = "2026-11-30T21:00:00Z"
    assert host.apply().failures == 0, host.out
    assert host.record()["tests"][""]["alpha"]["started"] == "2026-11-30T21:00:00Z"

    host = fresh(folder, SCENARIOS["one"])
    last = max(number for number, step in enumerate(steps) if step.startswith("rm "))
    host.docker.at[moment(steps, last)] = "kill after"
    host.apply()
    assert after_kill(host, "power cut") == "new"
    (serving,) = host.running()
    assert host.record()["tests"][""]["alpha"]["started"] not in ("", serving.started)


def test_new_container_was_not_restarted(folder: Path) -> None:
    host, _ = cases(folder, SCENARIOS["one"])
    assert host.record()["tests"][""]["alpha"]["restarts"] == 0


def test_ready_definition_has_what_its_label_lacks(folder: Path) -> None:
    host = fresh(folder, SCENARIOS["one"])
    payload = host.payload()
    payload["batches"][0][0]["words"] = {"pull": ["qwen2.5:3b"]}
    host.payload = lambda: payload  # type: ignore[method-assign]
    host.apply()
    (now, before) = host.record()["ready"][""]["alpha"]
    assert now["words"] == {"pull": ["qwen2.5:3b"]}
    assert "words" not in before  # it was made by an older gpurack
    with record.changing_all() as found:
        record.add_ready(found, "", "alpha", {word: now[word] for word in now if word != "words"})
    assert host.record()["ready"][""]["alpha"] == [now, before]


def test_definitions_say_since_when_and_until_when_they_were_ready(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change, hours later, moves no time of the one that it replaces."""
    host = fresh(folder, SCENARIOS["one"])
    with record.changing() as users:
        users[""]["alpha"]["applied"] = "2026-11-27T08:00:00Z"
    monkeypatch.setattr(record, "now", lambda: "2026-11-28T10:00:00Z")
    host.apply()
    (now, before) = host.record()["ready"][""]["alpha"]
    assert (now["at"], before["until"]) == ("2026-11-28T10:00:00Z", "2026-11-28T10:00:00Z")
    assert before["at"] == "2026-11-27T08:00:00Z"
    with record.changing_all() as found:
        record.add_ready(found, "", "alpha", {**now, "at": "2026-11-28T12:00:00Z"})  # tested again
        record.add_ready(found, "", "alpha", {**now, "definition": "next", "at": "2026-11-28T14:00:00Z"})
    times = [(one["at"][11:13], one.get("until", "")[11:13]) for one in host.record()["ready"][""]["alpha"]]
    assert times[:2] == [("14", ""), ("10", "14")]
    with record.changing_all() as found:
        record.add_ready(found, "", "alpha", {**now, "at": "2026-11-28T16:00:00Z"})  # brought back
    times = [(one["at"][11:13], one.get("until", "")[11:13]) for one in host.record()["ready"][""]["alpha"]]
    assert times[:2] == [("16", ""), ("14", "16")]


def test_a_later_start_is_shown_beside_the_first_of_its_image(folder: Path) -> None:
    """What the image compiled at its first start is kept."""
    host = fresh(folder, SCENARIOS["one"])
    host.apply()
    [now, *_] = host.record()["ready"][""]["alpha"]
    assert (now["seconds"], now["first"]) == (75, 75)
    assert starting.ready_after("", "alpha", now["id"], 75.2) == "ready after 1 min 15 s"
    assert starting.ready_after("", "alpha", now["id"], 75.2, 98.4) == "ready after 1 min 15 s, down for 1 min 38 s"
    later = {**now, "definition": "another", "seconds": 12}
    del later["first"]
    record.note_ready("", "alpha", later)
    assert host.record()["ready"][""]["alpha"][0]["first"] == 75
    assert (
        starting.ready_after("", "alpha", now["id"], 12) == "ready after 12 s; its image's first start took 1 min 15 s"
    )
    record.note_ready("", "alpha", {**later, "id": "sha256:another", "seconds": 90})
    assert starting.ready_after("", "alpha", "sha256:another", 90) == "ready after 1 min 30 s"


def test_without_record_keys_are_those_of_compose_yaml(folder: Path) -> None:
    """The record is lost, as on a restored disk."""
    host = fresh(folder, SCENARIOS["swap"])
    Path(record.RECORD).unlink()
    assert boot.boot() == 0
    payload = {**host.payload(), "ours": {"": {name: one.id for name, one in host.containers.items()}}}
    host.payload = lambda: payload  # type: ignore[method-assign]
    host.apply()
    assert host.served() == "new"


def test_boot_without_record_that_creates_one_keeps_the_others_ours(folder: Path) -> None:
    """The record is lost, and a container as well: what boot writes about this one is not all that is known."""
    host = fresh(folder, SCENARIOS["swap"])
    Path(record.RECORD).unlink()
    gone = host.docker.daemons[""].pop(host.containers["beta"].id)
    assert boot.boot() == 0
    found = host.record()["containers"][""]
    assert {name: entry.get("service", name) for name, entry in found.items()} == {"alpha": "alpha", "beta": "beta.3"}
    assert found["alpha"]["id"] == host.containers["alpha"].id
    assert found["beta"]["id"] != gone.id


def test_full_disk_before_the_old_one_stops_is_no_failure_of_the_model(folder: Path) -> None:
    _, steps = cases(folder, SCENARIOS["one"])
    stop = next(number for number, step in enumerate(steps) if step.startswith("stop "))
    host = fresh(folder, SCENARIOS["one"])
    host.docker.at[moment(steps, stop - 2)] = "fail"  # the record cannot be written
    host.apply()
    assert host.docker.steps[stop - 2] == "write record.json"
    assert (host.served(), host.record()["failed"]) == ("old", {})
    (error,) = host.out
    assert error == f"error alpha: {record.RECORD}: No space left on device. The present `alpha` was not stopped."


@pytest.mark.parametrize("case", ["one", "first", "ring", "swap between two Dockers"])
def test_what_another_run_did_just_so_is_only_tested(folder: Path, case: str) -> None:
    """Two runs at once with one inventory."""
    host, steps = cases(folder, SCENARIOS[case])
    before = {name: one.id for name, one in host.containers.items()}
    del steps[:]
    host.apply()
    assert host.served() == "new"
    assert not list(host.folder.rglob("change.*"))
    assert {name: one.id for name, one in host.containers.items()} == before
    assert not [line for line in host.out if line.startswith("error")]
    assert not [step for step in steps if step.startswith(("create", "start", "stop", "rename", "rm"))]


@pytest.mark.parametrize(("wrong", "recorded"), [("away", False), ("full", False), ("fail", True)])
def test_trouble_of_docker_is_no_failure_of_the_definition(folder: Path, wrong: str, recorded: bool) -> None:
    """Docker may be restarted in the middle of a change, or its disk be full. The next run tries again."""
    _, steps = cases(folder, SCENARIOS["one"])
    host = fresh(folder, SCENARIOS["one"])
    for number, step in enumerate(steps):
        if step.startswith("start "):
            host.docker.at[moment(steps, number)] = wrong
    host.apply()
    assert host.served() == "old"
    assert bool(host.record()["failed"]) == recorded
    host.docker.revive()
    host.apply()
    assert host.served() == "new"


def test_failure_across_a_restart_of_dockerd_is_none_of_the_definition(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection of a test ends with dockerd, and its text does not say why."""
    host, daemons = fresh(folder, SCENARIOS["one"], "new:2"), iter([{(7, 7)}, {(8, 8)}])
    monkeypatch.setattr(processes, "daemons", lambda dockerd: next(daemons))
    host.apply()
    assert (host.served(), host.record()["failed"]) == ("old", {})
    monkeypatch.setattr(processes, "daemons", lambda dockerd: {(8, 8)})
    host.docker.breaks = lambda container: False
    host.apply()
    assert host.served() == "new"


@pytest.mark.parametrize(
    ("user", "said"),
    [("", "container inspect gave no answer"), ("ada", "does not answer (docker container inspect: nothing within")],
)
def test_dockerd_that_answers_no_question_is_no_failure_of_the_definition(folder: Path, user: str, said: str) -> None:
    """A frozen dockerd: what it should have said of a container says nothing of the new definition."""
    scenario: Scenario = {"alpha": (old(user), new(user))}
    _, steps = cases(folder, scenario)
    start = next(number for number, step in enumerate(steps) if step.startswith("start "))
    host = fresh(folder, scenario)
    last = max(number for number in range(start) if steps[number].startswith("container inspect"))
    host.docker.at[moment(steps, last)] = "hang"
    host.apply()
    assert host.record()["failed"] == {}
    assert user or host.served() == "old"  # a user's Docker is asked no more after that
    assert any(said in line for line in host.out)
    host.docker.revive()
    host.apply()
    assert host.served() == "new"


def test_a_run_planned_before_another_one_changes_nothing(folder: Path) -> None:
    host, _ = cases(folder, SCENARIOS["one"])
    payload = host.payload()
    payload["batches"][0][0]["definition"] = "another"
    host.payload = lambda: payload  # type: ignore[method-assign]
    host.apply()
    assert host.served() == "new"
    assert host.out[-1] == (
        "error alpha: another run changed alpha after this one was planned. Run gpurack again; not changed"
    )


# --- downloads --------------------------------------------------------------------------------------------------------


def lacking(folder: Path, case: str) -> Host:
    """A host that lacks the images of all new containers."""
    host = fresh(folder, SCENARIOS[case])
    host.docker.lacks = {after.image for _, after in SCENARIOS[case].values() if after}
    return host


DOWNLOADS = ["one", "swap between two Dockers"]


@pytest.mark.parametrize("case", DOWNLOADS)
def test_a_run_that_pulls_holds_no_lock_of_the_models(folder: Path, case: str) -> None:
    """An 8-hour download blocks no other change."""
    host, free = lacking(folder, case), list[bool]()

    def pulling() -> None:
        for user in ("", "ada"):  # the part of a Docker without changes has its lock for a moment
            end = time.monotonic() + 10
            with contextlib.ExitStack() as held:
                while not (taken := locks.take(paths.of_user(locks.LOCK, user), held)) and time.monotonic() < end:
                    time.sleep(0.01)
            free.append(taken)

    host.docker.pulling = pulling
    host.apply()
    assert free == [True, True] * len(SCENARIOS[case])
    assert host.served() == "new"
    assert [path.name for path in host.folder.rglob("*") if "prepare" in path.name or "image-" in path.name] == []


@pytest.mark.parametrize("how", RECOVERIES)
@pytest.mark.parametrize("case", DOWNLOADS)
def test_every_kill_of_a_run_that_pulls_is_recovered(folder: Path, case: str, how: str) -> None:
    host = lacking(folder, case)
    host.apply()
    steps = host.docker.steps
    last = max(number for number, step in enumerate(steps) if step.startswith("pull "))
    for number in sample_steps(steps, case + how, range(last + 3)):
        for when in ("kill before", "kill after"):
            host = lacking(folder, case)
            host.docker.at[moment(steps, number)] = when
            host.apply()
            found = after_kill(host, how)
            assert found == ("new" if how == "kill, then the next run" else "old"), (number, when, host.docker.steps)


@pytest.mark.parametrize("case", DOWNLOADS)
def test_a_failed_pull_changes_nothing(folder: Path, case: str) -> None:
    host = lacking(folder, case)
    host.docker.always = {"pull": "fail"}
    job = host.apply()
    assert host.served() == "old"
    assert job.failures == len(SCENARIOS[case])
    assert host.out[0].startswith("error alpha: cannot pull image ")
    assert not [step for step in host.docker.steps if step.startswith(("stop", "rename", "rm", "start"))]


def meanwhile(host: Host, change: Callable[[dict[str, Any]], None]) -> None:
    """Another run changes the record, and compose.yaml like it, while the first one pulls."""

    def other() -> None:
        with contextlib.ExitStack() as held, record.changing_all() as found:
            assert locks.take(locks.LOCK, held)
            change(found)
            names = found["containers"][""]
            services = {one["service"]: {"image": "i", "container_name": name} for name, one in names.items()}
            host.write_plainly(dockerd.Dockerd().compose_file, compose.document(services))

    host.docker.pulling = other


@pytest.mark.parametrize("what", ["added", "removed", "recreated"])
def test_what_another_run_changed_during_a_download_is_seen(folder: Path, what: str) -> None:
    host = lacking(folder, "swap")
    host.docker.lacks.discard("beta.4-new:2")
    (batch,) = (payload := host.payload())["batches"]
    payload["projects"][""]["services"]["beta"] = payload["projects"][""]["before"]["beta"]
    host.payload = lambda: {**payload, "batches": [[batch[0]]]}  # type: ignore[method-assign]
    added = {"id": "c" * 64, "kind": "model", "definition": "d", "applied": "", "service": "gamma"}
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "added": lambda found: found["containers"][""].update(gamma=added),
        "removed": lambda found: found["containers"][""].pop("beta"),
        "recreated": lambda found: found["containers"][""]["beta"].update(service="beta.9"),
    }
    meanwhile(host, changes[what])
    host.apply()
    changed = "gamma" if what == "added" else "beta"
    assert host.out == [
        f"error alpha: another run changed {changed} after this one was planned. Run gpurack again; not changed"
    ]
    assert not [step for step in host.docker.steps if step.startswith(("stop", "rename", "rm", "start"))]
    assert host.docker.lacks == set(), "the next run need not pull"


def test_a_change_that_was_interrupted_during_a_download_is_undone_first(folder: Path) -> None:
    host = lacking(folder, "one")
    (member,) = host.payload()["batches"][0]

    def killed() -> None:
        change = {"batch": "a" * 32, "phase": "prepare", "since": record.now()}
        one = {
            "name": "alpha", "user": "", "from": "", "remove": False, "ran": True,
            "old_id": host.containers["alpha"].id,
            "old_key": "alpha", "old_name": "alpha", "aside": "alpha-aside", "old_policy": None, "new_id": None,
            "new_key": member["key"], "policy": "no", "probed": False, "entry": {}, "ready": [], "restore": [],
            "database": None,
        }  # fmt: skip
        record.set_replacing({**change, "members": [one]})

    host.docker.pulling = killed
    host.apply()
    assert host.out == ["alpha: undid a change that was interrupted", "alpha: ready after 1 min 15 s, down for 0 s"]
    assert host.served() == "new"


# --- whose turn it is -------------------------------------------------------------------------------------------------


def test_a_stuck_model_lets_the_others_go_first() -> None:
    lanes, order = starting.Lanes(), list[Any]()

    def start(name: str, silence: float | None) -> str:
        order.append((name, silence))
        if name == "alpha" and silence:
            raise loading.Stuck("no progress.\n    | its log")
        return name

    def one(name: str) -> None:
        model = {"name": name, "lanes": ["GPU-0"]}
        starting.in_turn(lanes, model, lambda silence: start(name, silence()), lambda: order.append(("stop", None)))

    first = lanes.join(["GPU-0"])
    threads = []
    for number, name in enumerate(("alpha", "beta", "gamma")):
        threads.append(threading.Thread(target=one, args=(name,)))
        threads[-1].start()
        while len(lanes.queue) < number + 2:
            pass
    lanes.leave(first)
    for thread in threads:
        thread.join()
    assert order == [("alpha", 120), ("stop", None), ("beta", 120), ("gamma", 120), ("alpha", None)]
    assert lanes.queue == []


def test_first_in_turn_is_limited_once_another_waits() -> None:
    """It begins before the others have joined the queue."""
    lanes = starting.Lanes()
    model = {"name": "alpha", "lanes": ["GPU-0"]}

    def start(silence: Callable[[], float | None]) -> list[float | None]:
        alone = silence()
        other = lanes.join(["GPU-0"])
        followed = silence()
        lanes.leave(other)
        return [alone, followed, silence()]

    assert starting.in_turn(lanes, model, start, lambda: None) == [None, 120, None]


def test_models_on_different_gpus_wait_for_none() -> None:
    lanes = starting.Lanes()
    first, second, third = lanes.join(["GPU-0"]), lanes.join(["GPU-1"]), lanes.join([])
    assert [lanes.before(ticket) for ticket in (first, second, third)] == [[], [], []]
    assert not lanes.contended(first)


def test_refused_start_quotes_the_daemon() -> None:
    """`docker start` ends with a line that has only the container's id."""
    said = "Error response from daemon: no such device\nError: failed to start containers: 4a347211"
    assert docker_commands.why_not_started(1, said).endswith(": Error response from daemon: no such device")
    assert docker_commands.why_not_started(1, "Error: a\nb").endswith(": Error: a")


@pytest.mark.parametrize("alive", [True, False])
def test_files_of_a_claimed_entry_stay_until_its_run_has_ended(folder: Path, alive: bool) -> None:
    """Its run has written them, and waits: the record has no member, and compose.yaml no service of it yet."""
    host = fresh(folder, SCENARIOS["one"])
    secrets = Path(dockerd.Dockerd().secrets)
    for key in ("gamma.2", "gammas.2"):
        (secrets / key).mkdir()
        (secrets / key / "api_key").write_text("a key")
    claim = {"batch": "b1", "phase": "prepare", "since": "", "members": [], "claims": [["", "gamma"]]}
    with contextlib.ExitStack() as held:
        if alive:
            claims.hold("b1", held)
        record.set_replacing(claim)
        host.apply()
        assert sorted(path.name for path in secrets.glob("gamma*")) == (["gamma.2"] if alive else [])


def test_an_interrupted_change_that_cannot_be_undone_fails_its_entries_only(folder: Path) -> None:
    scenario = {"alpha": SCENARIOS["one"]["alpha"], "beta": (old(key="beta", gpus="1"), new(key="beta.2", gpus="1"))}
    host = fresh(folder, scenario)
    change = {"batch": "b1", "phase": "try", "since": "", "members": [], "claims": [["", "alpha"]]}
    why = {("", "alpha"): "docker rm failed"}
    payload = host.payload()
    job = models.Job({**payload, "batches": [[model] for model in payload["batches"][0]]})
    with locks.locked("models"):
        record.set_replacing(change)
        _, batches = job.unchanged({""}, job.data["batches"], why)
    assert [model["name"] for batch in batches for model in batch] == ["beta"]
    assert host.out[0].startswith(
        "error alpha: not changed: an earlier change was interrupted and cannot be undone yet:"
    )
