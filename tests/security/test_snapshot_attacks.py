"""Attacks of a host's users on the snapshot: the real script, with hostile programs."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpurack import paths
from gpurack.facts import snapshot
from gpurack.facts.model import HostFacts
from gpurack.facts.questions import Questions
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.questions import questions
from gpurack.plan.system.rootless import not_ready
from gpurack.pyinfra_patches import OUTPUT_LIMIT
from gpurack.spec.host import Host
from tests.given import models, said, spec
from tests.unit.host_programs import DOCKER_SOCKET, PARTS, Fakes, plain, without_parts

pytestmark = pytest.mark.sampled

ID, IMAGE = "a" * 64, f"sha256:{'cd' * 32}"
LIMITS = (1, 6, 25)
"""Seconds for each part of a snapshot in which something hangs."""
EVIL = "/etc/apt/sources.list.d/evil.list"
TEXT = base64.b64encode(b"deb http://evil.example trixie main").decode()
needs_proc = pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="needs Linux's /proc")


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's /run/gpurack."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr(paths, "RUN", str(folder))
    return folder


def take_snapshot(spec: Host, *parts: str, change: tuple[str, str] = ("", "")) -> HostFacts:
    """A snapshot of this machine with the fakes first in PATH: these of its parts, the weights and the users.

    change: a text in the script, and its replacement."""
    text = without_parts(script(questions(spec)), *parts)
    assert change[0] in text
    text = text.replace(*change) if change[0] else text
    return Snapshot().process(printed(text).decode().split("\n"))


def printed(text: str) -> bytes:
    """The output of the snapshot's script, run here."""
    return subprocess.run(["sh", "-s"], input=text.encode(), capture_output=True, check=True, timeout=60).stdout


def containers(fakes: Fakes, *names: str, status: str = "running", bindings: str = "8080/tcp;127.0.0.1;8000 ") -> None:
    """A docker with these containers, which all have our labels."""
    state = {"Status": status, "ExitCode": 0, "Error": "", "Pid": 7, "StartedAt": "2026-11-20"}
    said = [
        {
            "id": ID, "name": f"/{name}", "image": IMAGE, "state": state, "restarts": 0, "ports": {},
            "labels": {"gpurack.model": "{}", "gpurack.probe": "-K/home/eve/c"},
        }
        for name in names
    ]  # fmt: skip
    fakes.state("containers", "".join(f"{json.dumps(one)}\n" for one in said))
    fakes.state("published", "".join(f"/{name}|{status}|{name}|{bindings}\n" for name in names))
    fakes.add(
        "docker",
        'case "$*" in info*) echo \'{"ServerVersion":"28.5.2"}\';; "ps "*) echo one;; '
        'inspect*HostIp*) cat "$STATE/published";; inspect*) cat "$STATE/containers";; '
        '"compose version"*) echo 2.40.3;; *) exit 1;; esac',
    )


@pytest.fixture
def eve(fakes: Fakes, tmp_path: Path) -> Iterator[Path]:
    """A user whose docker command prints what she likes, with a daemon's socket; returns her home."""
    home = tmp_path / "home" / "eve"
    (home / ".config" / "docker").mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("needs root, for a folder in /run/user")
    uid, runtime = free_runtime()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, runtime)
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(runtime / "docker.sock"))
        fakes.add("getent", f'case "$*" in "passwd eve") echo "eve:x:{uid}:{uid}::{home}:/bin/sh";; *) exit 2;; esac')
        fakes.add(
            "setpriv", 'echo "$*" >>"$STATE/as"; while [ "$1" != env ]; do shift; done; shift 2; exec env WHO=eve "$@"'
        )
        yield home


def free_runtime() -> tuple[int, Path]:
    """A uid whose folder in /run/user no other test has, at this moment or since it was killed; the folder is made."""
    Path("/run/user").mkdir(exist_ok=True)
    for uid in range(47110, 48110):
        with contextlib.suppress(FileExistsError):
            Path(f"/run/user/{uid}").mkdir(mode=0o700)
            return uid, Path(f"/run/user/{uid}")
    raise AssertionError("no folder in /run/user is free")


EVE: dict[str, Any] = {"docker": {"rootless": {"eve": {}}}}
HERS: dict[str, Any] = {**EVE, "models": {"mine": {"port": 8001, "user": "eve"}, "alpha": {"port": 8000}}}


def late_snapshot(monkeypatch: pytest.MonkeyPatch, late: str, spec: Host, *parts: str, **more: Any) -> HostFacts:
    """A snapshot in which something hangs. The limit is a second, or where a busy machine makes other parts than `late`
    miss it, the first of some longer ones that they meet."""
    for limit in LIMITS:
        shutil.rmtree(f"{paths.RUN}/hung", ignore_errors=True)
        monkeypatch.setattr(snapshot, "LIMIT", limit)
        seen = take_snapshot(spec, *parts, **more)
        if list(seen.late) == [late]:
            break
    return seen


# --- two channels ----------------------------------------------------------------------------------------------------


def test_users_docker_opens_no_section_of_root(fakes: Fakes, eve: Path) -> None:
    fakes.state("evil", f"@@ files\n{EVIL} 644 0 0 {TEXT}\n@@ packages\nii |evil|1\n@@ end\n@@ mark {'0' * 32}\n")
    fakes.add("docker", 'case "$*" in info*) echo \'{"ServerVersion":"1"}\';; esac; cat "$STATE/evil"')
    (eve / ".config/docker/daemon.json").write_text("{}")
    seen = take_snapshot(spec(EVE), *PARTS)
    assert seen.trouble is None
    assert EVIL not in seen.files
    assert "evil" not in seen.packages
    assert seen.users["eve"].docker == {"ServerVersion": "1"}
    assert seen.files[f"{eve}/.config/docker/daemon.json"].text == "{}"


def test_does_not_ask_user_for_compose(fakes: Fakes, eve: Path) -> None:
    fakes.add(
        "docker",
        '[ -z "$WHO" ] || echo "$*" >>"$STATE/hers"; case "$*" in info*) echo \'{"ServerVersion":"1"}\';; '
        "compose*) echo 2.40.3;; esac",
    )
    seen = take_snapshot(spec({**HERS, "docker": {**EVE["docker"], "source": "keep"}}), "Docker")
    hers = (fakes.folder / "state" / "hers").read_text()
    assert "info" in hers
    assert "compose" not in hers
    assert seen.compose == "2.40.3"


def test_asks_user_who_is_only_in_record(fakes: Fakes, eve: Path, tmp_path: Path) -> None:
    """Our containers in that Docker are not forgotten while the user exists."""
    import record  # of files/

    content = {"format": 1, "containers": {"": {"alpha": {"id": None, "kind": "model"}}, "eve": {}, "$(id)": {}}}
    (tmp_path / "record.json").write_text(record.as_text(content))
    containers(fakes, "mine")
    seen = take_snapshot(models(alpha={}), change=("/var/lib/gpurack/record.json 2>", f"{tmp_path}/record.json 2>"))
    assert list(seen.users) == ["eve"]
    assert ("eve", "mine") in {(found.user, found.name) for found in seen.containers}


def test_record_that_is_too_large_is_not_missing(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels would vouch for containers again, as on a host without a record."""
    file = tmp_path / "record.json"
    monkeypatch.setattr("gpurack.paths.RECORD", str(file))
    for size, trouble in ((4 << 20, ""), ((4 << 20) + 1, "larger than 4 MiB")):
        file.write_text('{"format": 2, "containers": {}}'.ljust(size))
        seen = take_snapshot(models(alpha={}), "system", change=("/var/lib/gpurack/record.json", str(file)))
        assert trouble in str(seen.trouble or "")
        assert bool(seen.trouble) == bool(trouble)


def test_no_program_is_started_with_the_mark(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user sees the arguments of root's programs, and with the mark a name of theirs could open a section."""
    monkeypatch.setattr(snapshot, "LIMIT", LIMITS[1])
    for name in ("python3", "grep", "tail", "cat", "sed", "awk", "find", "stat", "ps", "head", "gzip", "base64"):
        if real := shutil.which(name):
            fakes.add(name, f'printf "%s\\n" "$*" >>"$STATE/started"; exec {real} "$@"')
    containers(fakes, "alpha")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "docker.sock"))
        text = without_parts(script(questions(spec(HERS))), "system", "Docker")
        said = printed(text.replace(DOCKER_SOCKET, str(tmp_path / "docker.sock"))).decode()
    mark = re.search(r"@@ mark ([0-9a-f]{32})", said)
    assert mark
    started = (fakes.folder / "state" / "started").read_text()
    assert "docker.sock" in started
    assert mark[1] not in started
    assert Snapshot().process(said.split("\n")).trouble is None


def test_users_alpha_is_not_the_hosts(fakes: Fakes, eve: Path) -> None:
    containers(fakes, "alpha")
    seen = take_snapshot(spec(HERS), "Docker")
    assert [(found.user, found.name) for found in seen.containers] == [("", "alpha"), ("eve", "alpha")]
    assert seen.ours == {}
    assert len(seen.foreign) == 2


def test_users_models_and_connections_are_asked_by_that_user(fakes: Fakes, eve: Path) -> None:
    """Each container by the user of its Docker, also one of an entry that belongs into another Docker by now."""
    containers(fakes, "mine", "alpha", bindings="")
    fakes.add("curl", 'echo "${WHO:-root} $*" >>"$STATE/asked"; printf "\\n200"')
    seen = take_snapshot(spec(HERS), "Docker", "upstreams")
    asked = re.findall(r"^(eve|root) .*\n.* --url (\S+)", (fakes.folder / "state" / "asked").read_text(), re.MULTILINE)
    urls = ["http://127.0.0.1:8000/v1/models", "http://127.0.0.1:8001/v1/models"]
    assert sorted(asked) == [(who, url) for who in ("eve", "root") for url in urls]
    assert sorted(seen.probes) == [(user, name) for user in ("", "eve") for name in ("alpha", "mine")]
    assert seen.ours == {}, "an answer counts only beside a container that the record vouches for"


def test_limits_output_of_users_programs(fakes: Fakes, eve: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "LIMIT", LIMITS[1])
    fakes.add(
        "docker",
        '[ -n "$WHO" ] || exit 1; case "$*" in info*) head -c 9000000 /dev/zero | tr "\\0" x;; ps*) yes;; esac',
    )
    output = printed(without_parts(script(questions(spec(EVE)))))
    seen = Snapshot().process(output.decode().split("\n"))
    assert seen.trouble is None
    assert "user eve" in seen.late
    assert (
        len("\n".join(plain(output.decode()))) * 40 < OUTPUT_LIMIT
    )  # forty such users do not cost the host its snapshot
    assert said([not_ready("eve", seen)])[0].startswith("could not inspect the rootless Docker of eve: ")


# --- requests --------------------------------------------------------------------------------------------------------


def test_label_is_no_argument_of_curl(fakes: Fakes) -> None:
    containers(fakes, "alpha")
    fakes.add("curl", 'printf "\\n200"')
    assert take_snapshot(models(alpha={}), "Docker").probes["", "alpha"].status == 200
    (call,) = re.findall("^curl (?s:.*?)--url .*$", fakes.log.read_text(), re.MULTILINE)
    assert call.startswith("curl -q -g -K - -sS --proto =http,https ")
    assert call.endswith(" --url http://127.0.0.1:8000/v1/models")
    assert "eve" not in call


@pytest.mark.parametrize(
    ("bindings", "url"),
    [
        ("8080/tcp;;8000 ", "http://127.0.0.1:8000/v1/models"),
        ("8080/tcp;0.0.0.0;81 9/tcp;10.0.0.1;9 ", "http://127.0.0.1:81/v1/models"),
        ("9/tcp;10.0.0.1;9 8080/tcp;::;81 ", "http://[::1]:81/v1/models"),
        ("8080/tcp;fe80::1;81 ", "http://[fe80::1]:81/v1/models"),
        ("", "http://127.0.0.1:8000/v1/models"),
        ("8080/tcp;evil.example;80 ", None),
        ("8080/tcp;dead.beef;80 ", None),
        ("8080/tcp;127.0.0.1;80/x ", None),
        ("8080/tcp;127.0.0.1@10.0.0.1;80 ", None),
        ("8080/tcp;-K/home/eve/c;80 ", None),
    ],
)
def test_address_and_port_are_validated(fakes: Fakes, bindings: str, url: str | None) -> None:
    containers(fakes, "alpha", bindings=bindings)
    fakes.add("curl", 'printf "\\n200"')
    take_snapshot(models(alpha={}), "Docker")
    urls = re.findall(r" --url (.*)", fakes.log.read_text())
    assert urls == ([url] if url else [])


@pytest.mark.parametrize("status", ["restarting", "exited"])
def test_sends_no_key_to_stopped_container(fakes: Fakes, status: str) -> None:
    containers(fakes, "alpha", status=status)
    fakes.add("curl", "exit 7")
    seen = take_snapshot(models(alpha={}), "Docker")
    assert not [call for call in fakes.calls if call.startswith("curl")]
    assert (seen.probes["", "alpha"].status, seen.probes["", "alpha"].body) == (0, f"its container is {status}")


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_key_with_quotes_arrives_unchanged(fakes: Fakes, tmp_path: Path) -> None:
    got: list[str | None] = []

    class Model(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            got.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ready")

        def log_message(self, *said: object) -> None:
            pass

    (tmp_path / "secrets" / "alpha").mkdir(parents=True)
    (tmp_path / "secrets" / "alpha" / "api_key").write_text('ab"cd\\ef\nurl = "http://evil.example"\n')
    with http.server.HTTPServer(("127.0.0.1", 0), Model) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        containers(fakes, "alpha", bindings=f"8080/tcp;127.0.0.1;{server.server_port} ")
        to = ("SECRETS=/etc/gpurack/secrets", f"SECRETS={tmp_path}/secrets")
        seen = take_snapshot(models(alpha={}), "Docker", change=to)
        server.shutdown()
    assert seen.probes["", "alpha"].status == 200
    assert got == ['Bearer ab"cd\\efurl = "http://evil.example"']


# --- nobody blocks it ------------------------------------------------------------------------------------------------


def test_silent_docker_is_late_alone(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.add("docker", "trap '' TERM; sleep 120")
    seen = late_snapshot(monkeypatch, "Docker", models(alpha={}), *PARTS)
    assert seen.late == {"Docker": f"timed out after {snapshot.LIMIT} s"}
    assert (seen.trouble, seen.os.id != "", seen.weights) == (None, True, {"/w/a.gguf": None})
    assert said([seen.blind]) == (f"Docker timed out after {snapshot.LIMIT} s, so nothing is changed on this host.",)


def test_silent_daemon_of_user_is_late_alone(fakes: Fakes, eve: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    containers(fakes, "alpha")
    docker = (
        (fakes.folder / "docker").read_text().replace("case", 'if [ "$WHO" = eve ]; then setsid sleep 120; fi\ncase', 1)
    )
    (fakes.folder / "docker").write_text(docker)
    seen = late_snapshot(monkeypatch, "user eve", spec(EVE), *PARTS)
    assert list(seen.late) == ["user eve"]
    assert (seen.docker, [found.name for found in seen.containers]) == ({"ServerVersion": "28.5.2"}, ["alpha"])


def test_abandons_unkillable_process_and_names_it(fakes: Fakes, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.add("docker", "exec sleep 120")
    immortal = ("kill -9", "kill -0")
    first = late_snapshot(monkeypatch, "Docker", models(alpha={}), "Docker", change=immortal)
    assert first.late["Docker"].startswith(f"timed out after {snapshot.LIMIT} s, pid ")
    assert "(sleep) is left behind" in first.late["Docker"]
    assert ((run / "hung").stat().st_mode & 0o777, list(run.glob("hung/*"))) == (0o700, [run / "hung" / "Docker"])
    calls = len(fakes.calls)
    again = take_snapshot(models(alpha={}), "Docker", change=immortal)
    assert again.late["Docker"].startswith("still hangs since 20")
    assert len([call for call in fakes.calls[calls:] if call.startswith("docker")]) == 0
    for line in (run / "hung" / "Docker").read_text().splitlines():
        os.kill(int(line.split()[1]), signal.SIGKILL)
    containers(fakes, "alpha")
    monkeypatch.setattr(snapshot, "LIMIT", LIMITS[-1])
    assert take_snapshot(models(alpha={}), "Docker").late == {}
    assert not list(run.glob("hung/*"))


def test_does_not_open_fifo_as_weights(fakes: Fakes, tmp_path: Path) -> None:
    for name in ("a.gguf", "a.gguf.json", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        os.mkfifo(tmp_path / name)
    places = (f"{tmp_path}/a.gguf", f"{tmp_path}/b-00001-of-00002.gguf")
    seen = take_snapshot(models(one={"weights": places[0]}, two={"weights": places[1]}))
    assert seen.late == {}
    assert (seen.commits, seen.headers, seen.weights) == ({}, {}, dict.fromkeys(places))


def test_reads_only_regular_files_of_limited_size(fakes: Fakes, tmp_path: Path) -> None:
    """A FIFO would hold the whole part up, and a device or a sparse file would fill the memory of two machines."""
    os.mkfifo(tmp_path / "fifo.list")
    (tmp_path / "zero.list").symlink_to("/dev/zero")
    with (tmp_path / "sparse.list").open("wb") as sparse:
        sparse.truncate(1 << 33)
    (tmp_path / "own.list").write_text("deb http://example trixie main")
    (tmp_path / "a $(touch x).list").write_text("x")
    seen = take_snapshot(models(alpha={}), "system", change=("/etc/apt/sources.list.d/*.list", f"{tmp_path}/*.list"))
    assert seen.late == {}
    assert [path for path in seen.files if path.startswith(str(tmp_path))] == [f"{tmp_path}/own.list"]


def test_silent_weights_are_late_alone(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead home or file server, of which one path is late the first time, and known to hang the second."""
    (tmp_path / "dead").mkdir()
    for name in ("dead/a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"x")
    fakes.add("stat", f'case "$*" in *dead*) sleep 120;; esac; exec {shutil.which("stat")} "$@"')
    wanted = models(one={"weights": f"{tmp_path}/dead/a.gguf"}, two={"weights": f"{tmp_path}/b.gguf"})
    part = f"weights {tmp_path}/dead/a.gguf"
    first = late_snapshot(monkeypatch, part, wanted, *PARTS, change=("kill -9", "kill -0"))
    monkeypatch.setattr(snapshot, "LIMIT", LIMITS[-1])
    second = take_snapshot(wanted, *PARTS)
    assert [list(seen.late) for seen in (first, second)] == [[part], [part]]
    assert second.late[part].startswith("still hangs since 20")
    mount = next(one for one in [tmp_path, *tmp_path.parents] if one.is_mount())
    assert first.mounts == second.mounts == {f"{tmp_path}/dead/a.gguf": str(mount)}
    assert first.weights == second.weights == {f"{tmp_path}/b.gguf": 1}


def test_parallel_snapshots_are_no_other_run(run: Path) -> None:
    (run / "lock").touch()
    (run / "busy").write_text("models since 16:58\nin two lines\n")
    with (run / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert take_snapshot(models(alpha={}), "system").busy == ""
    with (run / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert take_snapshot(models(alpha={}), "system").busy == "models since 16:58"


def test_sees_the_changes_that_a_run_works_on_without_the_lock(run: Path) -> None:
    """Their entries are not taken for interrupted ones. A run that was killed left the other file."""
    for batch in ("a" * 32, "b" * 32):
        (run / f"change.{batch}").write_text("pid 7, since 16:58")
    with (run / f"change.{'a' * 32}").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        seen = take_snapshot(models(alpha={}), "system")
    assert (seen.changing, seen.busy) == ({"a" * 32}, "")


# --- names -----------------------------------------------------------------------------------------------------------

HOSTILE = "\nLISTEN 0 0 *:1"


@needs_proc
@pytest.mark.skipif(
    not shutil.which("ss"), reason="ss (iproute2) is not installed, so the snapshot lists no listeners here"
)
def test_process_name_adds_no_listener(fakes: Fakes) -> None:
    renamed = (
        "import ctypes, socket, sys, time; ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0); "
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
        "print(s.getsockname()[1], flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", renamed, HOSTILE.encode().hex()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        seen = take_snapshot(models(alpha={}), "system")
        process.kill()
    assert 1 not in {listener.port for listener in seen.listeners}
    owners = [listener.owner for listener in seen.listeners if listener.port == port]
    assert len(owners) == 1
    assert f"(pid {process.pid}, user " in owners[0]


@needs_proc
def test_process_name_adds_no_gpu_process(fakes: Fakes) -> None:
    libc = ctypes.CDLL(None)
    before = Path("/proc/self/comm").read_text().strip()
    name = f"x\n{HOSTILE}"[:15]
    done = f"echo 'GPU-1, {os.getpid()}, 5'"
    fakes.add("nvidia-smi", f'case "$*" in *process_name*) exit 1;; *compute-apps*) {done};; esac')
    libc.prctl(15, name.encode(), 0, 0, 0)
    try:
        seen = take_snapshot(models(alpha={}), "NVIDIA")
    finally:
        libc.prctl(15, before.encode(), 0, 0, 0)
    assert ("GPU-1", os.getpid(), "x", 5) in {(p.uuid, p.pid, p.name, p.memory) for p in seen.gpu_processes}


ESCAPES = [r"x\n99 1 root z", r"x\c", r"\0101", "-n", r"-e \t"]
"""Names that the `echo` of many shells changes: it would end the line, or drop its end."""


@needs_proc
@pytest.mark.skipif(
    not shutil.which("ss"), reason="ss (iproute2) is not installed, so the snapshot lists no listeners here"
)
@pytest.mark.parametrize("name", ESCAPES)
def test_backslash_in_process_name_stays_backslash(fakes: Fakes, name: str) -> None:
    libc = ctypes.CDLL(None)
    before = Path("/proc/self/comm").read_text().strip()
    pid = os.getpid()
    fakes.add("nvidia-smi", f"case \"$*\" in *compute-apps*) echo 'GPU-1, {pid}, 5'; echo 'GPU-2, {pid}, 6';; esac")
    with socket.create_server(("127.0.0.1", 0)) as server:
        libc.prctl(15, name.encode(), 0, 0, 0)
        try:
            seen = take_snapshot(models(alpha={}), "system", "NVIDIA")
        finally:
            libc.prctl(15, before.encode(), 0, 0, 0)
        owners = [found.owner for found in seen.listeners if found.port == server.getsockname()[1]]
    assert [owner.partition(" (pid ")[0] for owner in owners] == [name]
    assert [(one.uuid, one.name, one.memory) for one in seen.gpu_processes] == [("GPU-1", name, 5), ("GPU-2", name, 6)]
    assert seen.unread == ()


def test_removes_copies_of_databases(fakes: Fakes) -> None:
    """A hostile database can make its reader too slow, and a killed reader removes nothing."""
    fakes.add(
        "docker",
        'case "$*" in info*) echo \'{"ServerVersion":"1"}\';; ps*) ;; volume*) echo /nowhere;; *) exit 1;; esac',
    )
    fakes.add("python3", 'mktemp >"$STATE/copy"; kill -9 $$')
    printed(without_parts(script(Questions(volumes=(("", "gpurack_open-webui-chat"),))), "Docker"))
    copy = Path((fakes.folder / "state" / "copy").read_text().strip())
    assert not copy.exists()
