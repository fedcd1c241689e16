"""`gpurack logs`: files/logs.py as a whole program beside a fake of Docker, and what it is asked for."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.inventory import Inventory

from gpurack import paths
from gpurack.commands import on_host
from gpurack.commands.connect import connected
from gpurack.commands.logs import source
from gpurack.commands.on_host import NotDone, find_entry, run_program, text_of
from tests import forked
from tests.given import spec
from tests.unit.host_programs import Fakes

pytestmark = pytest.mark.sampled

ID, OTHER, NEW = "a" * 64, "b" * 64, "c" * 64
INSPECT = """
inspected() {{
    echo '{{"id":"'$1'","name":"/'$2'","image":"sha256:1","labels":{labels}}}'
}}
for last; do :; done
case "$1 $last" in
"container {id}") inspected {id} alpha; exit;;
"container alpha") inspected {other} alpha; exit;;
container*) echo "Error: No such container: $last"; exit 1;;
esac
"""
OURS = {"gpurack.model": "{}", "com.docker.compose.project": "gpurack", "com.docker.compose.service": "alpha.2"}


def docker(fakes: Fakes, logs: str, id_: str = ID, labels: dict[str, str] | None = None) -> None:
    """A fake of Docker with one container. logs: the shell program of `docker logs`."""
    answers = INSPECT.format(id=id_, other=OTHER, labels=json.dumps(OURS if labels is None else labels))
    fakes.add("docker", f"{answers}\n{logs}")


class Host:
    """The folders of a host, and files/logs.py as it is sent there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret("alpha.2/api_key", "sk-of-alpha\n")
        self.record({"alpha": {"id": ID, "kind": "model"}})

    def secret(self, file: str, text: str) -> None:
        path = self.folder / "etc/secrets" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def record(self, containers: dict[str, Any], **more: Any) -> None:
        path = self.folder / "lib/record.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": 2, "containers": {"": containers}, **more}))

    def keep(self, kind: str, text: str) -> None:
        path = self.moved(paths.kept_log("", "alpha", kind))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    def moved(self, text: str) -> str:
        return text.replace(paths.STATE, f"{self.folder}/lib").replace(paths.CONFIG, f"{self.folder}/etc")

    def sent(self, kind: str = "", lines: int = 200, follow: bool = False) -> str:
        file = self.moved(paths.kept_log("", "alpha", kind)) if kind else ""
        return text_of("logs", {"name": "alpha", "user": "", "file": file, "lines": lines, "follow": follow})

    def program(self, follow: bool = False) -> str:
        """For a process of its own."""
        return self.moved(self.sent(follow=follow))

    def run(self, kind: str = "", lines: int = 200) -> tuple[int, str, str]:
        moved = {paths.STATE: f"{self.folder}/lib", paths.CONFIG: f"{self.folder}/etc"}
        done = forked.run_text(self.sent(kind, lines), moved)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_prints_log_of_recorded_container_masked_and_harmless(host: Host, fakes: Fakes) -> None:
    docker(fakes, r"printf 'key sk-of-alpha\n\033[31mred\033[0m 1%%\r2%%\r\n'; printf 'bell\007\n' >&2")
    assert host.run(lines=7) == (0, "key •••\nred 1%\n2%\nbell\ufffd\n", "")
    assert fakes.calls[-1] == f"docker logs --tail 7 {ID}"


def test_prints_unfinished_last_line(host: Host, fakes: Fakes) -> None:
    docker(fakes, "printf 'one\ntwo sk-of-alpha'")
    assert host.run()[1] == "one\ntwo •••\n"


def test_shows_new_container_while_it_is_tried(host: Host, fakes: Fakes) -> None:
    member = {"name": "alpha", "user": "", "from": "", "old_id": ID, "new_id": NEW}
    change = {"batch": "1", "phase": "try", "since": "", "members": [member]}
    host.record({"alpha": {"id": ID, "kind": "model"}}, replacing=[change])
    docker(fakes, "echo loading", id_=NEW)
    assert host.run() == (0, "loading\n", "")
    assert fakes.calls[-1] == f"docker logs --tail 200 {NEW}"


def test_finds_container_that_compose_created_again(host: Host, fakes: Fakes) -> None:
    """An admin ran `docker compose up`: the recorded id is gone."""
    host.record({"alpha": {"id": NEW, "kind": "model"}})
    docker(fakes, "echo again")
    assert host.run()[1] == "again\n"
    assert fakes.calls[-1] == f"docker logs --tail 200 {OTHER}"


def test_shows_no_foreign_container(host: Host, fakes: Fakes) -> None:
    host.record({})
    docker(fakes, "echo theirs", labels={})
    code, shown, why = host.run()
    assert (code, shown) == (1, "")
    assert why == "alpha has no container on this host. Apply the inventory, or see --failed\n"


def test_says_why_docker_gives_no_log(host: Host, fakes: Fakes) -> None:
    docker(fakes, "echo 'configured logging driver does not support reading'; exit 1")
    code, shown, why = host.run()
    assert (code, shown) == (1, "configured logging driver does not support reading\n")
    assert why == "docker logs failed with exit code 1\n"


def test_prints_end_of_kept_log(host: Host, fakes: Fakes) -> None:
    host.keep("failed", "one\ntwo sk-of-alpha\nthree\n")
    code, shown, note = host.run("failed", lines=2)
    assert (code, shown) == (0, "two •••\nthree\n")
    assert note.startswith("kept 20")
    assert host.run("failed", lines=0)[1] == ""


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (
            "failed",
            "no container of alpha failed within the last 14 days. A change may also fail before its container starts: "
            "see gpurack history",
        ),
        ("previous", "alpha was not replaced within the last 14 days"),
    ],
)
def test_says_that_no_log_is_kept(host: Host, kind: str, why: str) -> None:
    assert host.run(kind) == (1, "", f"no log is kept: {why}\n")


def test_log_without_end_is_cut_off(host: Host, fakes: Fakes) -> None:
    """A user's Docker prints what it likes."""
    docker(fakes, "while :; do echo more || exit; sleep 0.02; done")
    text = host.program().replace("PATIENCE = 60", "PATIENCE = 1")
    child = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, why = child.communicate(timeout=20)
    finally:
        child.kill()
    assert (child.returncode, why) == (1, b"docker logs did not end within 1 s\n")


def followed(host: Host) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", host.program(follow=True)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_follows_until_container_stops(host: Host, fakes: Fakes, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stops")
    docker(fakes, f"echo one; read -r _ <{tmp_path}/stops; echo two")
    child = followed(host)
    assert child.stdout
    assert child.stdout.readline() == b"one\n"  # while docker still runs
    (tmp_path / "stops").write_text("now\n")
    shown, note = child.communicate(timeout=20)
    assert (shown, note, child.returncode) == (b"two\n", b"the log ended: the container stopped\n", 0)
    assert fakes.calls[-1] == f"docker logs --tail 200 --follow {ID}"


def test_ends_with_its_reader(host: Host, fakes: Fakes, tmp_path: Path) -> None:
    """The admin's ssh ends: docker must not go on for ever on a host whose model prints nothing."""
    docker(fakes, f"echo $$ >{tmp_path}/pid; echo one; exec sleep 1000")
    child = followed(host)
    assert child.stdout
    assert child.stdout.readline() == b"one\n"
    docker_ = os.pidfd_open(int((tmp_path / "pid").read_text()))
    child.stdout.close()
    assert child.wait(10) == 0
    assert select.select([docker_], [], [], 10)[0]


# --- through pyinfra --------------------------------------------------------------------------------------------------


@pytest.fixture
def rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_host, "privilege", lambda host: {})


def on_this_machine(text: str, seen: Any) -> list[str]:
    inventory = Inventory((["@local"], {}))
    with connected(inventory) as state:
        return list(run_program(state.inventory.get_host("@local"), text, seen).stderr_lines)


@pytest.mark.usefixtures("rights")
def test_passes_lines_on_as_they_come() -> None:
    seen: list[str] = []
    text = "import sys\nprint('one')\nprint()\nprint('tw\\xf6')\nsys.stderr.write('note\\n')"
    assert on_this_machine(text, seen.append) == ["note"]
    assert seen == ["one", "", "twö"]


@pytest.mark.usefixtures("rights")
def test_reports_last_error_of_host() -> None:
    with pytest.raises(NotDone, match=r"^no such log\.$"):
        on_this_machine("import sys\nsys.stderr.write('x\\nno such log\\n')\nsys.exit(1)", print)


@pytest.mark.usefixtures("rights")
def test_ends_command_that_nobody_reads() -> None:
    def closed(line: str) -> None:
        raise BrokenPipeError

    text = "import signal\nsignal.alarm(20)\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\nwhile True: print('x')"
    with pytest.raises(NotDone):
        on_this_machine(text, closed)


# --- what is asked for ------------------------------------------------------------------------------------------------

LAB = {
    "gpu1": spec({
        "models": {"alpha": {"port": 8000}, "hers": {"port": 8001, "user": "ada"}},
        "docker": {"rootless": {"ada": {}}},
        "jobs": {"bench": {"command": ["--version"]}},
    }),
    "empty": spec({}),
}  # fmt: skip


@pytest.mark.parametrize(("place", "why"), [
    ("alpha", r"^alpha: the host is missing. Write HOST/MODEL, for example gpu1/alpha\.$"),
    ("gpu2/alpha", r'^unknown host "gpu2"\. Did you mean "gpu1"\?$'),
    ("gpu1/alpa", r'^unknown model "alpa" on gpu1\. Did you mean "alpha"\?$'),
    ("empty/alpha", r'^unknown model "alpha" on empty\. It has no models\.$'),
])  # fmt: skip
def test_refuses_unknown_model(place: str, why: str) -> None:
    with pytest.raises(LookupError, match=why):
        find_entry(LAB, place)


def test_reads_log_where_it_is() -> None:
    assert find_entry(LAB, "gpu1/hers") == ("gpu1", "hers")
    assert source(LAB["gpu1"], "hers", "failed", False)["file"] == "/var/lib/gpurack/logs/ada/hers.failed.log"
    assert source(LAB["gpu1"], "hers", "", True) == {"user": "ada", "file": "", "follow": True}
    assert source(LAB["gpu1"], "bench", "", False)["file"] == "/var/lib/gpurack/jobs/bench.log"
    with pytest.raises(LookupError, match="is a job"):
        source(LAB["gpu1"], "bench", "previous", False)
