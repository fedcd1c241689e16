"""What the commands print and write for any output of a host: no escape sequence, no exception, and the output stays
readable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyinfra.api.state import StateStage

from gpurack import screen
from gpurack.commands import connect, lock_ask
from gpurack.commands import lock as locking
from gpurack.commands.diff import previewed, show_hosts
from gpurack.commands.lab_status import HostStatus, lab_status
from gpurack.commands.main import main
from gpurack.commands.status import as_data, show
from gpurack.commands.status_page import write_page
from gpurack.facts.gpus import Driver, Gpu
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.inventory.lock_file import read_lock
from gpurack.locking.upgrade import News
from gpurack.operations.report import Report
from gpurack.operations.run_state import HostRun, host_run
from gpurack.spec.lock import HostLock
from gpurack.spec.problems import Problem
from tests.given import container, gpu, host_state, spec
from tests.security.attacks import ADDRESS, EVERYTHING, HIDDEN, HTML, MARKUP, VISIBLE, harmless

NOW = datetime(2026, 11, 28, tzinfo=UTC)
WANTED = spec(
    {
        "models": {
            "alpha": {"gpus": [0], "port": 8000},
            "beta": {"port": 8001},
            "library": {"engine": "ollama", "version": "0.12.6", "weights": None, "pull": ["qwen2.5:7b"], "port": 8002},
        },
        "services": {
            "gateway": {
                "engine": "litellm",
                "version": "1.80",
                "weights": None,
                "connects_to": ["alpha"],
                "port": 8003,
            }
        },
    }
)
SEEN = [MARKUP, ADDRESS, ":bomb:", "[red]b[/red][/]"]
"""Texts that must stay readable wherever `EVERYTHING` is shown."""


def hostile(text: str = EVERYTHING) -> HostFacts:
    """A host with attacks in every text."""
    bad = Gpu(0, f"GPU-{text}", text, 24125, 7, text, text, text)
    ours = replace(container("alpha", text, label=json.dumps({"image": text, "gpus": text})), error=text, started=text)
    others = [container(name, label="{}") for name in ("library", "gateway")]
    probes = {name: [200, text] for name in ("alpha", "library", "gateway")}
    facts = host_state(containers=[ours, *others, container(text)], gpus=1, probes=probes, driver={})
    return replace(
        facts,
        gpus=(bad,),
        driver=Driver(text, 15, text, {text: f"GPU-{text}"}, ()),
        names={text: text},
        upstreams={("", "gateway", 0): text},
        docker={**facts.docker, "ServerVersion": text, "Warnings": [text]},
    )


def lab(text: str) -> list[HostStatus]:
    seen = {"gpu1": hostile(text), "gpu2": HostFacts.not_inspected(f"could not connect: {text}")}
    found = lab_status({"gpu1": WANTED, "gpu2": WANTED}, seen, NOW)
    return [replace(found[0], errors=(*found[0].errors, Problem.of("not-inspected", what=text))), found[1]]


@pytest.mark.parametrize("text", [*HIDDEN, *VISIBLE, EVERYTHING])
def test_status_prints_hostile_text_harmlessly(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(screen.console(width=4000), lab(text), NOW, verbose=True)
    shown = harmless(capsys.readouterr().out)
    assert f"DEGRADED     gpu1  {screen.printable(text)}" in shown
    assert f"UNREACHABLE  gpu2  could not connect: {screen.printable(text)}" in shown


def test_status_json_is_harmless() -> None:
    text = screen.as_json(as_data(lab(EVERYTHING)))
    harmless(json.dumps(json.loads(text), ensure_ascii=False))
    assert json.loads(text)["hosts"]["gpu2"]["troubles"] == [f"could not connect: {screen.printable(EVERYTHING)}"]


@pytest.mark.parametrize("text", [*HIDDEN, *VISIBLE, HTML, EVERYTHING])
def test_page_is_harmless(text: str, tmp_path: Path) -> None:
    write_page(tmp_path / "lab.html", lab(text), text, NOW)
    page = harmless((tmp_path / "lab.html").read_text(encoding="utf-8"))
    tags = set(re.findall(r"<([a-zA-Z]+)", page))
    assert page.count("<script") == 1
    assert "script-src 'sha256-" in page, "a browser runs gpurack's own script only"
    assert not tags & {"img", "iframe", "object", "link", "base", "form"}
    assert not re.search(r"<[^>]*\son[a-z]+\s*=", re.sub(r"&[a-z#0-9]+;", "", page))
    assert all(value.startswith("http://") for value in re.findall(r'href="([^"]*)"', page))
    if text in VISIBLE:
        assert text in page


def test_page_shows_ordinary_text_unchanged(tmp_path: Path) -> None:
    write_page(tmp_path / "lab.html", lab("été 模型"), "lab & co", NOW)
    assert "été 模型" in (tmp_path / "lab.html").read_text()
    assert "lab &amp; co" in (tmp_path / "lab.html").read_text()


class FakeHost(SimpleNamespace):
    """One of pyinfra's hosts. It is a key of `ops`, as there."""

    __hash__ = object.__hash__


class Run:
    """pyinfra's state, as far as the report reads it."""

    def __init__(self, looks: dict[str, HostFacts | None]) -> None:
        stage = self.current_stage = StateStage.Execute
        self.hosts = {
            name: FakeHost(
                name=name,
                connected=seen is not None,
                connector_data={"gpurack": HostRun(WANTED, seen, stage, connect_error="" if seen else EVERYTHING)},
            )
            for name, seen in looks.items()
        }
        self.inventory = SimpleNamespace(get_host=self.hosts.__getitem__)
        self.limit_hosts = None
        self.results: dict[str, Any] = {}
        self.ops: dict[FakeHost, Any] = {}


@pytest.mark.parametrize("text", [*HIDDEN, *VISIBLE, EVERYTHING])
def test_table_of_run_prints_hostile_text_harmlessly(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before, `\\[/INST]` in a model's log ended the run in a MarkupError, without a table."""
    run = Run({"gpu1": hostile(text), "gpu2": None})
    lines = ["some line", f"error alpha: {text}", f"    | {text}", f"error {text}"]
    host_run(run.hosts["gpu1"]).failed(lines)  # type: ignore[arg-type]
    Report(fleet={"gpu1": WANTED, "gpu2": WANTED}).show(run)  # type: ignore[arg-type]
    shown = harmless(capsys.readouterr().err)
    assert f"error gpu1 alpha: {screen.printable(text)}" in shown
    assert "HOST" in shown
    assert "models and services answered" in shown


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[HostFacts | Exception], Path]:
    """An inventory of two hosts: gpu1 gives the facts of a test, gpu2 is healthy."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "lab.py"
    alpha = '{"alpha": {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000}}'
    path.write_text(f'lab = ["gpu1", "gpu2"], {{"models": {alpha}}}\n')

    def made(said: HostFacts | Exception) -> Path:
        def work(name: str) -> HostFacts:
            if name == "gpu1" and isinstance(said, Exception):
                raise said
            return said if name == "gpu1" else host_state()  # type: ignore[return-value]

        hosts: Any = {name: SimpleNamespace(name=name, connector_data={}) for name in ("gpu1", "gpu2")}
        state: Any = SimpleNamespace(active_hosts=list(hosts.values()))

        def visit(loaded: Any, fleet: Any, do: Any = None, metrics: bool = False) -> dict[str, HostFacts]:
            return {
                name: connect._on_host(state, host, fleet[name], lambda host, wanted: work(host.name))
                for name, host in hosts.items()
            }

        monkeypatch.setattr(connect, "snapshots", visit)
        monkeypatch.setattr("gpurack.commands.diff.snapshots_of", visit)
        monkeypatch.setattr("pyinfra.connectors.ssh.SSHConnector.connect", lambda connector: None)
        monkeypatch.setattr(locking, "on_all_hosts", visit)
        return path

    return made


def run(*arguments: object) -> str:
    """The output of a command."""
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return harmless(result.output)


COMMANDS = (("status",), ("status", "--json"), ("plan", "--live"), ("lock",), ("lock", "--check"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_hostile_host(command: tuple[str, ...], inventory: Any) -> None:
    path = inventory(hostile())
    (path.parent / "lab.lock.yaml").write_text("hosts:\n  gpu1: {driver: '580'}\n  gpu2: {driver: '580'}\n")
    assert "gpu2" in run(*command, path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "said",
    [
        HostFacts.not_inspected(EVERYTHING),
        RuntimeError(EVERYTHING),
        replace(host_state(), docker={"ServerVersion": 5, "Runtimes": 7, "SecurityOptions": 3}),
        replace(host_state(), containers=(replace(container("alpha"), labels=7, name=None),)),  # type: ignore[arg-type]
        replace(host_state(), packages={"docker-ce": None}),  # type: ignore[dict-item]
        replace(host_state(), gpus=(None,)),  # type: ignore[arg-type]
    ],
    ids=["trouble", "exception", "docker", "containers", "packages", "gpus"],
)
def test_garbage_is_one_error_of_its_host(
    command: tuple[str, ...], said: HostFacts | Exception, inventory: Any
) -> None:
    path = inventory(said)
    (path.parent / "lab.lock.yaml").write_text("hosts:\n  gpu1: {driver: '580'}\n  gpu2: {driver: '580'}\n")
    shown = run(*command, path)
    assert "gpu2" in shown
    if "--json" in command:  # the page for programs has the sentence and its parts
        shown = "\n".join(json.loads(shown)["hosts"]["gpu1"]["troubles"])
    assert shown.count("could not interpret") + shown.count("could not be understood") <= 1
    if isinstance(said, Exception):
        assert "could not interpret the host's output (RuntimeError: " in shown


@pytest.mark.parametrize("text", ["580\x1b[2J", "5\u202e80", "580\nhosts: {}", "580 x"])
def test_lock_accepts_plain_words_only(text: str, inventory: Any) -> None:
    path = inventory(replace(host_state(), driver=Driver(text)))
    shown = run("lock", path)
    assert "gpu1  error  could not interpret the host's output (ValidationError: driver: " in shown
    assert "gpu1" not in (read_lock(path) or pytest.fail("no lock")).hosts
    harmless((path.parent / "lab.lock.yaml").read_text())


def test_invalid_version_moves_no_pin(inventory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = inventory(host_state())
    before = (path.parent / "lab.lock.yaml").write_text("hosts:\n  gpu1: {packages: {docker-ce: '1'}}\n")

    def upgraded(what: Any, spec: Any, state: Any, old: HostLock, now: HostLock, news: News) -> HostLock:
        return old.model_copy(update={"packages": {"docker-ce": EVERYTHING}})

    def visit(loaded: Any, fleet: Any, do: Any) -> dict[str, HostFacts]:
        return {name: do(SimpleNamespace(name=name), wanted) for name, wanted in fleet.items()}

    monkeypatch.setattr(locking, "on_all_hosts", visit)
    monkeypatch.setattr(locking, "snapshot_with_hashes", lambda host, wanted: host_state())
    monkeypatch.setattr(locking, "find_newest", lambda *given: News())
    monkeypatch.setattr(locking, "upgraded", upgraded)
    assert "gpu1  error  could not interpret the host's output" in run("lock", path, "--upgrade")
    assert before
    lock = read_lock(path)
    assert lock is not None
    assert lock.hosts["gpu1"].packages == {"docker-ce": "1"}


def test_manifest_has_one_line_per_fact(inventory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpurack.locking.manifest import manifest

    state = replace(hostile("a\nos b\x1b[2J"), driver=Driver())
    text = manifest(WANTED, state, [EVERYTHING])
    monkeypatch.setattr(locking, "show_manifest", lambda *given: text)
    shown = run("manifest", inventory(host_state()), "gpu1")
    assert "\nos b" not in shown
    assert [line for line in shown.splitlines() if line.startswith("os ")] == ["os Debian GNU/Linux 13 (trixie)"]


@pytest.mark.parametrize("said", [HostFacts.not_inspected(EVERYTHING), RuntimeError(EVERYTHING), host_state()])
def test_manifest_of_garbage_is_one_error(said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def thorough(host: Any, wanted: Any) -> HostFacts:
        if isinstance(said, Exception):
            raise said
        return replace(said, driver=None) if not said.trouble else said  # type: ignore[no-any-return]

    @contextmanager
    def connected(loaded: Any, limit: Any) -> Iterator[Any]:
        yield SimpleNamespace(active_hosts=limit)

    (tmp_path / "lab.py").write_text('lab = ["gpu1"]\n')
    monkeypatch.setattr(locking, "snapshot_with_hashes", thorough)
    monkeypatch.setattr(locking, "manifest_lines", lambda *given: [EVERYTHING])
    monkeypatch.setattr(locking, "connected", connected)
    shown = run("manifest", tmp_path / "lab.py", "gpu1")
    assert shown.startswith("error  gpu1: ")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(), max_size=80) | st.binary(max_size=80).map(lambda raw: raw.decode(errors="replace")))
def test_random_answers_are_harmless_in_every_command(capsys: pytest.CaptureFixture[str], body: str) -> None:
    """Every HTTP body, and therefore everything else that a host says."""
    names = ("alpha", "library", "gateway")
    answers = host_state(
        containers=[container(name, label=body) for name in names], probes={name: [200, body] for name in names}
    )
    for state in (hostile(body), answers):
        fleet, seen = {"gpu1": WANTED}, {"gpu1": state}
        console, found = screen.console(), lab_status(fleet, seen, NOW)
        show(console, found, NOW, verbose=True)
        screen.echo(screen.as_json(as_data(found)))
        show_hosts(console, ["gpu1"], previewed("gpu1", WANTED, state).findings)
        Report(fleet=fleet).show(Run(seen))  # type: ignore[arg-type, arg-type]
    said = capsys.readouterr()
    harmless(said.out)
    harmless(said.err)
    assert "MarkupError" not in said.out + said.err


def test_examples_contain_the_attacks() -> None:
    """The tests above really receive them."""
    assert isinstance(hostile().containers[0], Container)
    assert gpu(0).uuid != hostile().gpus[0].uuid
    with pytest.raises(AssertionError):
        harmless(EVERYTHING)
    assert all(text in screen.printable(EVERYTHING) for text in SEEN)


def test_lock_takes_valid_digests_of_known_entries_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gpurack lock --upgrade` writes them into the lock; a user's Docker or a compromised host says them."""
    good = "sha256:" + "0" * 64
    said = [f"alpha: now {good}", f"other: now {good}", "alpha: now sha256:evil", "alpha: now sha256:" + "\u0967" * 64,
            "alpha: now " + "a" * 65 + " for /w", "alpha: now main\u202e for /w",
            "alpha: now 0123abc for /w"]  # fmt: skip
    monkeypatch.setattr(lock_ask, "run_as_root", lambda *given, **more: (True, said))
    request = {"images": [{"name": "alpha", "reference": "r/i:1"}], "hubs": []}
    found = lock_ask.find_newest(None, spec({}), host_state(), [], request)  # type: ignore[arg-type]
    assert (found.images, found.commits, found.errors) == ({"alpha": f"r/i:1@{good}"}, {"/w": "0123abc"}, ())
