"""files/databases.py and files/sqlite_copy.py: a service's database around a change of its version.

Real SQLite databases in a folder that stands for the volume. A new version changes the database at its start, and an
old one does not start with that. Whatever happens, the version that serves has its own database.
"""

# ruff: noqa: F811 (fixtures of another module)

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.sampling import sample
from tests.unit.fake_docker import Container, FakeDocker, moment
from tests.unit.host_programs import FILES
from tests.unit.test_replacing_script import (  # noqa: F401
    CHANGING,
    RECOVERIES,
    Host,
    Scenario,
    after_kill,
    describe,
    folder,
    new,
    old,
    quick,
    sample_steps,
)

import messages  # isort: skip (of files/)
import programs  # isort: skip (of files/)
import databases  # isort: skip
import loading  # isort: skip
import record  # isort: skip
import sqlite_copy  # isort: skip

pytestmark = pytest.mark.sampled

FIRST = "import sys; exec(sys.argv.pop(1))"
PROGRAM = (FILES / "sqlite_copy.py").read_text()
KILLED = "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.executescript(sys.argv[2]); os._exit(0)"
CHATS = "PRAGMA journal_mode = WAL; CREATE TABLE version (n); INSERT INTO version VALUES (1); CREATE TABLE chat (text);"
FILE = "webui.db"


def fill(path: Path, script: str) -> None:
    """Let a program write to a database and die, so that the changes are in the log beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", KILLED, str(path), script], check=True)


def ask(path: Path, question: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute(question)]


def execute(path: Path, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(script)


class Run:
    """Stands in for programs.Child: the program runs in this process, on the volume's folder. A step of the fake."""

    docker: FakeDocker
    volumes: Path
    calls: list[list[str]]

    def __init__(self, argv: list[str], limit: int, source: Any, apart: bool) -> None:
        assert (apart, limit) == (True, databases.LIMIT)
        self.argv, self.source, self.code, self.errors = argv, source, 0, ""

    def output(self) -> Iterator[bytes]:
        words = self.argv[self.argv.index("docker") + 1 :]
        first, program, action, inside, *rest = words[words.index("-c") + 1 :]
        assert (first, program) == (FIRST, PROGRAM)
        self.calls.append([*self.argv[: self.argv.index("-c")], action])
        volume = words[words.index("--volume") + 1]
        path = str(self.volumes / volume.partition(":")[0] / inside.removeprefix("/gpurack/"))
        with self.docker.step(f"run {action}") as wrong:
            if wrong in ("hang", "kill after"):
                user = next((word[5:] for word in self.argv if word.startswith("USER=")), "")
                self.docker.left(self.docker.daemons[user], words)
            if wrong == "hang":
                raise messages.TimeIsUp("no answer")
            if wrong in ("fail", "away"):
                self.code, self.errors = 125, "docker: Error response from daemon: it does not work."
                return
            given, printed = io.BytesIO(self.source.read() if self.source else b""), io.BytesIO()
            sqlite_copy.sys = SimpleNamespace(
                stdin=SimpleNamespace(buffer=given), stdout=SimpleNamespace(buffer=printed)
            )
            beside = f"{path}.beside"
            try:
                done = (
                    sqlite_copy.copy(path, beside)
                    if action == "copy"
                    else sqlite_copy.restore(path, beside, *map(int, rest))
                )
            finally:
                sqlite_copy.sys = sys
                Path(beside).unlink(missing_ok=True)
            self.code, self.errors = (done, "") if isinstance(done, int) else (1, done)
            yield printed.getvalue()


class Os:
    """Stands in for the module os: a rename is a step as well."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def rename(self, source: str, target: str) -> None:
        with Run.docker.step("rename copy") as wrong:
            if wrong in ("fail", "hang"):
                raise OSError(5, "Input/output error", target)
            Path(source).rename(target)


@pytest.fixture
def volumes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of volumes; copies go to a folder beside."""
    monkeypatch.setattr(databases, "Child", Run)
    monkeypatch.setattr(databases, "os", Os())
    monkeypatch.setattr(databases, "DATABASES", f"{folder}/databases")
    monkeypatch.setattr(databases, "ROOM", 0)
    monkeypatch.setattr(
        databases, "kept_database", lambda user, name, file: f"{folder}/databases/{user or '_'}/{name}/{file}"
    )
    monkeypatch.setattr(databases, "say", lambda name, text: None)
    return folder / "volumes"


ONE: Scenario = {"alpha": (old(gpus=""), new(gpus=""))}
TRIO: Scenario = {
    "alpha": ONE["alpha"],
    "beta": (old(key="beta", gpus=""), new(key="beta.2", gpus="")),
    "gamma": (old(key="gamma", gpus=""), new(key="gamma.2", gpus="")),
}
OF_USER: Scenario = {"alpha": (old("ada", gpus=""), new("ada", gpus=""))}
PAIR: Scenario = {"alpha": ONE["alpha"], "beta": (old(key="beta", gpus=""), new(key="beta.2", gpus=""))}


class Page(Host):
    """A host whose alpha has a database. Its new version changes it when it starts."""

    def __init__(self, folder: Path, scenario: Scenario, breaks: str = "", **told: Any) -> None:
        super().__init__(folder, scenario)
        self.database, self.told = folder / "volumes/gpurack_alpha" / FILE, told
        self.docker.breaks = lambda container: bool(breaks) and breaks in container.image
        Run.docker, Run.volumes, Run.calls = self.docker, folder / "volumes", []
        self.database.parent.mkdir(parents=True)
        execute(self.database, CHATS + "INSERT INTO chat VALUES ('hello')")
        start = self.docker.start

        def starts(container: Container) -> None:
            if container.name == "alpha" and container.status != "running":
                version = 2 if "-new" in container.image else 1
                (found,) = ask(self.database, "SELECT n FROM version")
                if found > version:
                    self.docker.violations.append(f"{container.image} started with the database of version {found}")
                if found < version:
                    execute(self.database, "UPDATE version SET n = 2; DROP TABLE chat; CREATE TABLE chats (text)")
            self.started.append(container.image)
            start(container)

        self.started: list[str] = []
        self.docker.start = starts  # type: ignore[method-assign]

    def payload(self) -> dict[str, Any]:
        found = super().payload()
        found["batches"][0][0]["database"] = {"volume": "gpurack_alpha", "file": FILE, **self.told}
        return found

    def copies(self, user: str = "") -> list[Any]:
        found: list[Any] = self.record().get("databases", {}).get(user, {}).get("alpha", [])
        return found

    def whole(self, served: str) -> None:
        """The serving version has its database; no other copy is left than those in the record."""
        version = ask(self.database, "SELECT n FROM version")
        assert version == [2 if served == "new" else 1], served
        if served == "old":
            assert ask(self.database, "SELECT text FROM chat") == ["hello"]
        databases.expire()
        kept = sorted(path.name for path in (self.folder / "databases").rglob("*") if path.is_file())
        assert kept == sorted(one["copy"] for user in ("", "ada") for one in self.copies(user))


def after_alpha(host: Page, name: str) -> None:
    """Let an entry wait for the page."""
    payload = host.payload()
    next(one for one in payload["batches"][0] if one["name"] == name)["after"] = ["alpha"]
    host.payload = lambda: payload  # type: ignore[method-assign]


@pytest.mark.parametrize("breaks", ["", "beta.2-new"])
def test_new_version_starts_once_its_partners_are_ready(
    folder: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    """Users write as soon as it is ready: another one's failure after that would undo it."""
    host = Page(folder, TRIO, breaks)
    ready: list[str] = []
    wait = loading.wait_until_ready

    def waits(daemon: Any, name: str, *more: Any) -> float:
        if name == "beta":
            threading.Event().wait(0.2)
        ready.append(name)
        return wait(daemon, name, *more)

    monkeypatch.setattr(loading, "wait_until_ready", waits)
    after_alpha(host, "gamma")
    host.apply()
    assert host.served() == ("old" if breaks else "new")
    assert ready[0] == "beta"
    assert breaks or ready == ["beta", "alpha", "gamma"]
    assert [call[-1] for call in Run.calls] == (["copy", "restore"] if breaks else ["copy"])
    assert ("alpha.2-new:2" in host.started) is (not breaks)


@pytest.mark.parametrize(("scenario", "user"), [(ONE, ""), (OF_USER, "ada")])
def test_copies_before_new_version_starts(folder: Path, volumes: Path, scenario: Scenario, user: str) -> None:
    host = Page(folder, scenario)
    host.apply()
    assert host.served() == "new"
    host.whole("new")
    (copy,) = host.copies(user)
    assert (copy["image"], len(copy["id"])) == ("alpha-old:1", 71)
    path = Path(databases.kept_database(user, "alpha", copy["copy"]))
    assert ask(path, "SELECT n FROM version") == [1]
    assert ask(path, "SELECT text FROM chat") == ["hello"]
    assert [oct(one.stat().st_mode & 0o777) for one in (path, path.parent, path.parents[1], path.parents[2])] == [
        "0o600", "0o700", "0o700", "0o700",
    ]  # fmt: skip
    acts = [step.split()[0:2] for step in host.docker.steps if step.startswith(("stop ", "start ", "run copy"))]
    assert [act[0] for act in acts] == ["stop", "run", "start"]
    (call,) = Run.calls
    begin = call.index("docker")
    assert call[:begin] == (["setpriv", "USER=ada"] if user else [])
    assert call[begin : begin + 4] == ["docker", "run", "--rm", "--interactive"]
    assert [call[call.index(word) + 1] for word in ("--network", "--pull", "--log-driver", "--entrypoint")] == [
        "none", "never", "none", "python3",
    ]  # fmt: skip
    assert copy["id"] in call  # the image that wrote it


@pytest.mark.parametrize(("scenario", "user"), [(ONE, ""), (OF_USER, "ada")])
def test_restores_where_new_version_never_became_ready(
    folder: Path, volumes: Path, scenario: Scenario, user: str
) -> None:
    host = Page(folder, scenario, breaks="-new:2")
    host.apply()
    assert host.served() == "old"
    host.whole("old")
    assert len(host.copies(user)) == 1


def test_same_image_copies_nothing(folder: Path, volumes: Path) -> None:
    host = Page(folder, {"alpha": (old(gpus=""), old(key="alpha.2", gpus=""))})
    host.scenario["alpha"][1].__dict__["image"] = "alpha-old:1"  # type: ignore[union-attr]
    host.apply()
    assert Run.calls == []
    assert host.copies() == []


def test_first_container_copies_nothing(folder: Path, volumes: Path) -> None:
    host = Page(folder, {"alpha": (None, new(key="alpha", gpus=""))})
    host.apply()
    assert host.served() == "new"
    assert Run.calls == []


def test_missing_database_is_no_error(folder: Path, volumes: Path) -> None:
    host = Page(folder, ONE)
    host.database.unlink()
    host.docker.start = FakeDocker.start.__get__(host.docker)  # type: ignore[method-assign]
    host.apply()
    assert host.served() == "new"
    assert host.copies() == []
    assert [path for path in (folder / "databases").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("wrong", ["fail", "hang"])
def test_failed_copy_changes_nothing(folder: Path, volumes: Path, wrong: str) -> None:
    host = Page(folder, ONE)
    host.docker.always["run copy"] = wrong
    host.apply()
    assert host.served() == "old"
    host.whole("old")
    (error,) = [line for line in host.out if line.startswith("error")]
    why = {"fail": "Error response from daemon: it does not work", "hang": "was not read or written within"}[wrong]
    assert why in error
    assert " The previous `alpha` serves again since " in error


@pytest.mark.parametrize(("scenario", "user"), [(ONE, ""), (OF_USER, "ada")])
@pytest.mark.parametrize("action", ["copy", "restore"])
def test_container_that_does_not_end_is_removed(
    folder: Path, volumes: Path, scenario: Scenario, user: str, action: str
) -> None:
    """The client's time is up; the program in the image may do what it likes."""
    host = Page(folder, scenario, "" if action == "copy" else "-new:2")
    host.docker.always[f"run {action}"] = "hang"
    host.apply()
    assert not [one for one in host.docker.daemons[user].values() if "gpurack.database" in one.labels]


@pytest.mark.parametrize("action", ["copy", "restore"])
def test_container_of_a_killed_run_is_removed_before_the_database_comes_back(
    folder: Path, volumes: Path, action: str
) -> None:
    host = Page(folder, ONE, "-new:2")
    host.docker.always[f"run {action}"] = "kill after"
    host.apply()
    assert [one for one in host.docker.daemons[""].values() if "gpurack.database" in one.labels]
    assert after_kill(host, "kill") == "old"
    host.whole("old")
    assert not [one for one in host.docker.daemons[""].values() if "gpurack.database" in one.labels]


def test_full_disk_is_no_failure_of_the_model(folder: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "ROOM", 2**70)
    host = Page(folder, ONE)
    host.apply()
    assert host.served() == "old"
    host.whole("old")
    assert host.record()["failed"] == {}
    assert "not copied: it would leave less than" in str(host.out)


def test_old_version_does_not_start_with_the_new_database(folder: Path, volumes: Path) -> None:
    """The copy cannot be restored now. The next run tries again."""
    host = Page(folder, ONE, breaks="-new:2")
    host.docker.always["run restore"] = "fail"
    host.apply()
    assert host.running() == []
    assert len(host.record()["replacing"]) == 1
    assert "its database could not be restored: docker: Error response from daemon" in str(host.out)
    assert after_kill(host, "kill") == "old"
    host.whole("old")


def test_second_recovery_keeps_what_was_written_since(folder: Path, volumes: Path) -> None:
    """The run is killed when the old version serves again, before it could note that."""
    host = Page(folder, ONE, breaks="-new:2")
    host.apply()
    steps = host.docker.steps
    *_, begins = (number for number, step in enumerate(steps) if step.startswith("start "))
    host = Page(folder, ONE, breaks="-new:2")
    host.docker.at[moment(steps, begins)] = "kill after"
    host.apply()
    assert [one.image for one in host.running()] == ["alpha-old:1"]
    assert len(host.record()["replacing"]) == 1
    execute(host.database, "INSERT INTO chat VALUES ('written since')")
    assert after_kill(host, "kill") == "old"
    assert ask(host.database, "SELECT text FROM chat") == ["hello", "written since"]
    assert len(host.copies()) == 1


KILLS = [
    pytest.param(case, breaks, how, id=f"{case}-{label}-{how}")
    for case in ("one", "pair")
    for breaks, label in (("", "good"), ("alpha.2-new:2", "broken"))
    for how in RECOVERIES
]
"""In the inner loop each way to recover once."""


@pytest.mark.parametrize(("case", "breaks", "how"), sample(KILLS, "databases", lambda each: each.values[2]))
def test_every_kill_leaves_version_and_database_of_one_generation(
    folder: Path, volumes: Path, case: str, breaks: str, how: str
) -> None:
    scenario = {"one": ONE, "pair": PAIR}[case]
    host = Page(folder, scenario, breaks)
    host.apply()
    steps = host.docker.steps
    changing = [number for number, step in enumerate(steps) if step.startswith((*CHANGING, "run"))]
    begun = steps.index("run copy")
    near = {number for number in changing if begun - 2 <= number <= begun + 6 or steps[number].startswith("run")}
    seed = case + breaks + how
    for number in sorted({*sample_steps(steps, seed, changing), *sample_steps(steps, seed, sorted(near))}):
        for when in ("kill before", "kill after"):
            host = Page(folder, scenario, breaks)
            host.docker.at[moment(steps, number)] = when
            host.apply()
            if how == "kill, then the next run":
                host.docker.breaks = lambda container: False
            where = describe(number, host.docker.steps, when)
            copied = list((folder / "databases").rglob("*.db"))
            try:
                host.whole(after_kill(host, how))
            except AssertionError as error:
                raise AssertionError(f"{where}\n{error}\n" + "\n".join([*host.docker.steps, *host.out])) from None
            assert not copied or host.copies(), where


@pytest.mark.parametrize("wrong", ["fail", "hang"])
def test_every_failing_step_leaves_version_and_database_of_one_generation(
    folder: Path, volumes: Path, wrong: str
) -> None:
    for breaks in ("", "-new:2"):
        host = Page(folder, ONE, breaks)
        host.apply()
        steps = host.docker.steps
        for number in sample_steps(steps, breaks + wrong):
            host = Page(folder, ONE, breaks)
            host.docker.at[moment(steps, number)] = wrong
            host.apply()
            host.whole(after_kill(host, "kill"))


# --- rollback --with-data ---------------------------------------------------------------------------------------------


def kept_copy(folder: Path, text: str) -> str:
    """A copy of an earlier time."""
    name = "a" * 32 + ".db"
    path = folder / "databases/_/alpha" / name
    path.parent.mkdir(parents=True)
    execute(path, CHATS.replace("WAL", "DELETE") + f"INSERT INTO chat VALUES ('{text}')")
    return name


@pytest.mark.parametrize("breaks", ["", "-new:2"])
def test_brings_an_earlier_copy_back_and_keeps_the_present_one(folder: Path, volumes: Path, breaks: str) -> None:
    host = Page(folder, ONE, breaks, restore="a" * 32 + ".db")
    name = kept_copy(folder, "last week")
    found = host.record()
    found["databases"] = {"": {"alpha": [{"at": "", "image": "alpha:0", "id": "sha256:0", "copy": name}]}}
    host.write_plainly(record.RECORD, json_text(found))
    before = host.docker.start
    seen: list[Any] = []
    host.docker.start = lambda container: (  # type: ignore[method-assign]
        seen.append(ask(host.database, "SELECT text FROM chat")), before(container),
    )[1]  # fmt: skip
    host.apply()
    assert host.served() == ("old" if breaks else "new")
    assert seen[0] == ["last week"]
    host.whole("old" if breaks else "new")
    present, earlier = host.copies()
    assert earlier["copy"] == name
    path = Path(databases.kept_database("", "alpha", present["copy"]))
    assert ask(path, "SELECT text FROM chat") == ["hello"]


@pytest.mark.parametrize("name", ["b" * 32 + ".db", "../../record.json"])
def test_refuses_a_copy_that_is_not_kept(folder: Path, volumes: Path, name: str) -> None:
    host = Page(folder, ONE, restore=name)
    host.apply()
    assert host.served() == "old"
    host.whole("old")
    assert "the copy of its database no longer exists" in str(host.out)


def json_text(found: Any) -> str:
    return record.as_text(found)  # type: ignore[no-any-return]


def test_keeps_one_copy_for_each_of_three_images() -> None:
    found: dict[str, Any] = {"databases": {}}
    for number, image in enumerate("abbcd"):
        record.add_database(found, "", "chat", {"id": image, "copy": f"{number}.db", "at": "", "image": image})
    assert [(one["id"], one["copy"]) for one in found["databases"][""]["chat"]] == [
        ("d", "4.db"), ("c", "3.db"), ("b", "2.db"),
    ]  # fmt: skip


def test_removes_copies_that_nothing_names(folder: Path, volumes: Path) -> None:
    host = Page(folder, ONE)
    host.apply()
    (copy,) = host.copies()
    left = Path(databases.kept_database("", "alpha", "c" * 32 + ".db"))
    left.write_bytes(b"")
    incomplete = Path(databases.kept_database("ada", "other", "c" * 32 + ".db.new"))
    incomplete.parent.mkdir(parents=True)
    incomplete.write_bytes(b"")
    databases.expire()
    assert not left.exists()
    assert not incomplete.exists()
    assert Path(databases.kept_database("", "alpha", copy["copy"])).exists()
    Path(record.RECORD).unlink()
    databases.expire()
    assert Path(databases.kept_database("", "alpha", copy["copy"])).exists(), "the record is lost, not the copies"


DOCKER = """\
#!{python}
import os, sys
words = [word.replace("/gpurack/", "{folder}/") for word in sys.argv[sys.argv.index("-I") :]]
print("a warning of the client", file=sys.stderr)
os.execv(sys.executable, [sys.executable, *words])
"""


def test_streams_through_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real processes: what the client prints beside the data does not get into the copy."""
    client, path = tmp_path / "docker", tmp_path / FILE
    client.write_text(DOCKER.format(python=sys.executable, folder=tmp_path))
    client.chmod(0o755)
    monkeypatch.setattr(databases, "kept_database", lambda user, name, file: f"{tmp_path}/databases/{name}/{file}")
    monkeypatch.setattr(databases, "DATABASES", f"{tmp_path}/databases")
    daemon = SimpleNamespace(
        user="", allowed=lambda limit: limit, without_secrets=lambda text: text,
        docker=lambda *words: [str(client), *words], remove_labelled=lambda label, value: None,
    )  # fmt: skip
    told = {"volume": "v", "file": FILE, "runs": "sha256:1", "copy": "c.db"}
    member = {"name": "chat", "user": "", "database": told}
    execute(path, CHATS + "INSERT INTO chat VALUES ('" + "hello" * 100_000 + "')")
    databases.keep(daemon, member)
    execute(path, "DROP TABLE chat")
    databases.undo(daemon, member)
    assert ask(path, "SELECT length(text) FROM chat") == [500_000]
    assert [one.name for one in (tmp_path / "databases/chat").iterdir()] == ["c.db"]
    path.write_bytes(b"no database")
    with pytest.raises(messages.Failure, match=r"could not be copied, so it was not changed: .*file is not a database"):
        databases.keep(daemon, {**member, "database": {**told, "copy": "d.db"}})
    assert [one.name for one in (tmp_path / "databases/chat").iterdir()] == ["c.db"]


# --- the program in the container -------------------------------------------------------------------------------------


def program(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-I", "-c", FIRST, PROGRAM, *words], input=given, capture_output=True, check=False
    )


def test_copy_has_what_is_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / FILE
    fill(path, CHATS + "INSERT INTO chat VALUES ('in the log')")
    assert Path(f"{path}-wal").stat().st_size > 0
    done = program("copy", str(path))
    assert (done.returncode, done.stderr) == (0, b"")
    copy = tmp_path / "copy.db"
    copy.write_bytes(done.stdout)
    assert databases.is_whole(str(copy))
    assert ask(copy, "SELECT text FROM chat") == ["in the log"]


def test_restores_over_a_database_with_a_log(tmp_path: Path) -> None:
    path, copy = tmp_path / FILE, tmp_path / "copy.db"
    fill(path, CHATS + "INSERT INTO chat VALUES ('before')")
    copy.write_bytes(program("copy", str(path)).stdout)
    fill(path, "UPDATE version SET n = 2; DROP TABLE chat;" + "CREATE TABLE more (text);" * 1)
    path.chmod(0o640)
    done = program("restore", str(path), str(copy.stat().st_size), given=copy.read_bytes())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert ask(path, "SELECT text FROM chat") == ["before"]
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("there", [b"no database at all" * 100, None])
def test_restores_in_place_of_what_is_no_database(tmp_path: Path, there: bytes | None) -> None:
    path, copy = tmp_path / FILE, tmp_path / "copy.db"
    execute(copy, CHATS.replace("WAL", "DELETE"))
    if there is not None:
        path.write_bytes(there)
        Path(f"{path}-wal").write_bytes(b"x")
    done = program("restore", str(path), str(copy.stat().st_size), given=copy.read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert ask(path, "SELECT n FROM version") == [1]


def test_incomplete_copy_restores_nothing(tmp_path: Path) -> None:
    """The runner was killed while it sent the copy."""
    path, copy = tmp_path / FILE, tmp_path / "copy.db"
    execute(path, CHATS + "INSERT INTO chat VALUES ('stays')")
    execute(copy, CHATS.replace("WAL", "DELETE"))
    done = program("restore", str(path), str(copy.stat().st_size), given=copy.read_bytes()[:-1])
    assert (done.returncode, done.stderr.strip()) == (1, b"the copy came incomplete; nothing was changed")
    assert ask(path, "SELECT text FROM chat") == ["stays"]


def test_program_says_that_there_is_no_database(tmp_path: Path) -> None:
    assert program("copy", str(tmp_path / FILE)).returncode == sqlite_copy.MISSING
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"", lambda data: b"warning: " + data]
)
def test_knows_an_incomplete_copy(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "copy.db"
    execute(path, CHATS.replace("WAL", "DELETE"))
    assert databases.is_whole(str(path))
    path.write_bytes(change(path.read_bytes()))
    assert not databases.is_whole(str(path))


def test_reads_errors_apart_from_output() -> None:
    child = programs.Child(["sh", "-c", "echo data; echo why >&2; exit 3"], limit=30, apart=True)
    assert b"".join(child.output()) == b"data\n"
    assert (child.code, child.errors) == (3, "why\n")


def test_gives_a_file_as_input(tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(b"data")
    with (tmp_path / "copy").open("rb") as source:
        child = programs.Child(["cat"], limit=30, source=source, apart=True)
        assert b"".join(child.output()) == b"data"
