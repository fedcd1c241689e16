"""How verification inspects a user's Docker and models: as that user, with time limits, and as data."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gpurack.facts.record import Entry, is_ours
from gpurack.host_data import json_from_host
from gpurack.verify.evidence import Seen, Unread, container_of
from tests.unit.host_programs import FILES, Whole, load
from tests.unit.verify.test_checks import ID, IMAGE_ID, LABELS, host_evidence

pytestmark = pytest.mark.sampled

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture
def script(tmp_path: Path) -> Any:
    module: Any = Whole("evidence")
    module.HUNG = str(tmp_path / "hung")
    return module


def whoami() -> dict[str, Any]:
    owner = Path("/proc/self/maps").stat().st_uid  # root's process, whose memory its user cannot read
    return {"uid": os.getuid(), "gid": os.getgid(), "environment": str(os.environ), "memory": owner}


def big() -> str:
    """More than a pipe holds."""
    return "x" * 1_000_000


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def silent() -> None:
    time.sleep(60)


def endless() -> str:
    return "x" * 5000


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "7", "{", '{"files": []}'], ids=lambda text: text[:9])
def test_ignores_invalid_record_beside_weights(script: Any, text: str) -> None:
    """A user writes it. Deep nesting must not cost the whole host its evidence."""
    assert script.noted(text) is None


@pytest.mark.parametrize("said", ["[" * 100_000, "[]", "7", "null", "", "{"], ids=lambda text: text[:9] or "nothing")
def test_ignores_invalid_docker_info(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """`docker info` of a user's Docker, after its daemon.json was written."""
    module = load("daemon_json")
    monkeypatch.setattr(module, "run", lambda *_: (0, said + "\n"))
    assert module.unmet({"LiveRestoreEnabled": False}, module.info()) == ["an answer"]


LONG = "1" * 100_000


@pytest.mark.parametrize("said", [LONG, f'{{"a": -{LONG}}}', f"[{LONG}]"], ids=["alone", "in a map", "in a list"])
def test_refuses_huge_integer(said: str) -> None:
    """Before 3.11, Python needs minutes to parse one, in quadratic time. Later versions have a limit of their own,
    which this test removes."""
    sys.set_int_max_str_digits(0)
    try:
        assert load("json_data").parsed(said) is None
    finally:
        sys.set_int_max_str_digits(4300)


def part(script: Any, seconds: int, function: Any, *arguments: Any, user: str | int = "") -> Any:
    """The evidence of a part called `x`."""
    return script.results({"x": script.Part("x", seconds, function, *arguments, user=user)})["x"]


@needs_root
@pytest.mark.parametrize(("user", "gid"), [("nobody", 65534), (4711, 65534)])
def test_inspects_user_as_that_user(script: Any, monkeypatch: pytest.MonkeyPatch, user: str | int, gid: int) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy")
    said = part(script, 20, whoami, user=user)
    assert (said["uid"], said["gid"]) == (65534 if user == "nobody" else 4711, gid)
    assert "secret" not in said["environment"]
    assert said["memory"] == 0


def test_silent_user_is_late_and_delays_nobody(script: Any) -> None:
    begun = time.monotonic()
    parts = {name: script.Part(name, 1, silent) for name in ("a", "b")}
    parts["c"] = script.Part("c", 20, big)
    said = script.results(parts)
    assert time.monotonic() - begun < 10
    assert said == {"a": {"late": "timed out after 1 s"}, "b": {"late": "timed out after 1 s"}, "c": big()}


def test_failed_or_killed_part_has_a_reason(script: Any) -> None:
    assert part(script, 20, int, "x")["broken"].startswith("ValueError: ")
    assert part(script, 20, dies) == {"broken": "its process was ended"}


def test_abandons_unkillable_process_and_does_not_start_it_again(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for a file system ignores every signal. Here it receives none."""
    kill = os.kill
    monkeypatch.setattr(script.os, "kill", lambda pid, number: None)
    said = part(script, 1, silent)
    found = re.fullmatch(r"timed out after 1 s, pid (\d+) \((\S+)\) is left behind", said["late"])
    assert found, said
    pid = int(found[1])
    assert script.members(pid) == [pid]
    (note,) = Path(script.HUNG).iterdir()
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    again = part(script, 20, whoami)
    assert re.fullmatch(rf"still hangs since \S+Z \(pid {pid}\)", again["late"])
    kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert part(script, 20, whoami)["uid"] == os.getuid()
    assert not note.exists()


def test_notes_hung_program_in_container_and_does_not_repeat_it(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker started it, so no process of verification is its parent. Here it gets no signal."""
    kill = os.kill
    monkeypatch.setattr(script.os, "kill", lambda pid, number: None)
    monkeypatch.setattr(script, "socket_of", lambda user: "/run/docker.sock")
    with subprocess.Popen(["sh", "-c", "sleep 60; :"]) as smi:
        while len(script.family(smi.pid)) < 2:
            time.sleep(0.01)
        pids = script.family(smi.pid)
        said = {"/containers/c/exec": {"Id": "7"}, "/exec/7/json": {"Running": True, "Pid": smi.pid}}
        monkeypatch.setattr(
            script, "api", lambda path, where, *_: json.dumps(said[where]).encode() if where in said else None
        )

        def verify() -> Any:
            part = script.Part("cards in alpha", 20, script.cards_inside, "", "c")
            return script.seen_inside(part, script.results({"x": part})["x"], "nvidia-smi")

        late = verify()["late"]
        assert late.startswith("nvidia-smi in the container did not end in 60 s, ")
        assert re.findall(r"pid (\d+) \((?:sh|sleep)\) is left behind", late) == [str(pid) for pid in pids]
        del said["/containers/c/exec"]  # asked again, it would be an error
        assert re.fullmatch(rf"still hangs since \S+Z \(pid {smi.pid}\)", verify()["late"])
        for pid in pids:
            kill(pid, signal.SIGKILL)
        smi.wait(10)
        while any(map(script.process, pids)):  # the kernel ends the second one by itself
            time.sleep(0.01)
        said["/containers/c/exec"] = {"Id": "7"}
        said["/exec/7/json"]["Running"] = False
        assert verify() == []


def test_kills_programs_of_a_part_with_it(script: Any) -> None:
    said = part(script, 2, script.run, "sh", "-c", "sleep 61 & sleep 62")
    assert said == {"late": "timed out after 2 s"}
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.read_bytes() == b"sleep\x0061\0"]


@needs_root
def test_output_over_limit_counts_as_none(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "USER_SIZE", 1000)
    assert part(script, 20, endless, user="nobody") == {"broken": "more than 1000 bytes"}
    assert part(script, 20, whoami, user="no such user") == {"broken": "its process was ended"}


@pytest.mark.parametrize(
    "said",
    ["[" * 100_000, "[" * 60 + "]" * 60, "1e999", "NaN", "[-Infinity]", f"[{LONG}]", '"\\ud800'],
    ids=lambda s: s[:9],
)
def test_refuses_data_that_verification_cannot_parse(script: Any, said: str) -> None:
    """Otherwise a user's daemon could spoil the evidence of the whole host."""
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(ValueError, match=r".") as error:
            script.data(said)
        assert not isinstance(error.value, RecursionError)
    finally:
        sys.set_int_max_str_digits(4300)


def test_replaces_lone_surrogates(script: Any) -> None:
    said = part(script, 20, script.data, '{"a\\ud800": ["\\udfff"]}')
    assert json_from_host(json.dumps(said)) == {"a?": ["?"]}


@pytest.mark.parametrize(
    "said", [None, {}, {"info": [], "containers": {}, "images": []}, {"info": {}, "containers": {"a": 7}, "images": []}]
)
def test_refuses_evidence_of_wrong_shape(script: Any, said: Any) -> None:
    assert script.of_form(said) is None
    right = {"info": {}, "containers": {"a": {}}, "images": [{}]}
    assert script.of_form(right) is right


def test_keeps_users_containers_apart_and_refuses_garbage() -> None:
    """One container of wrong shape is enough: that Docker is the user's, so it fails for that user only."""
    hers = {
        "Id": ID, "Name": "/alpha", "Image": IMAGE_ID, "Created": "", "RestartCount": 0, "Config": {"Labels": LABELS},
        "State": {"Status": "running", "ExitCode": 0, "Error": "", "StartedAt": "", "FinishedAt": ""},
        "HostConfig": {"PortBindings": None}, "NetworkSettings": {"Ports": None},
    }  # fmt: skip
    parts = host_evidence(users={"ada": {"uid": 1, "gid": 1, "home": "/home/ada", "linger": True, "files": {}}})
    for containers in ({"alpha": hers}, {"alpha": hers, "x;id": {}}):
        info = {"ServerVersion": 7, "NCPU": "x"}
        parts["daemons"]["ada"] = {"info": info, "containers": containers, "images": []}
        seen = Seen(parts)
        understood = "x;id" not in containers
        assert sorted(seen.containers) == ([("ada", "alpha")] if understood else [])
        assert (seen.state.users["ada"].docker, [one.user for one in seen.state.containers]) == (
            {}, ["ada"] if understood else []
        )  # fmt: skip
        if understood:
            assert seen.daemon("ada")["info"] == {}
        else:
            with pytest.raises(Unread, match="could not interpret") as unread:
                seen.daemon("ada")
            assert unread.value.fix == "docker ps, of the Docker of ada"


def test_sends_no_key_to_port_that_others_may_have(script: Any) -> None:
    """The model's key would go to whoever listens there."""

    def publishes(*ports: str) -> dict[str, Any]:
        bindings = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": port} for port in ports]} if ports else None
        return {"HostConfig": {"PortBindings": bindings}}


class Answering(BaseHTTPRequestHandler):
    """A server at a model's port, which records the keys that it receives."""

    keys: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.keys.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Answering.keys = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize(("still", "keys"), [(0, 0), (1, 1), (99, 3)])
def test_sends_no_key_after_container_stopped(
    script: Any, port: int, monkeypatch: pytest.MonkeyPatch, still: int, keys: int
) -> None:
    """Hashing takes hours and requests take minutes; another process may have the port by then."""
    states = itertools.chain(["running"] * still, itertools.repeat("exited"))
    bound = {"HostConfig": {"PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}}}
    monkeypatch.setattr(script, "asked", lambda path, where: {"State": {"Status": next(states)}, **bound})
    one = {
        "port": port, "user": "", "address": "", "key": "sk-1", "ready": "/r", "lists": "/m", "cards": False,
        "requests": [["/v1/chat/completions", {}]],
    }  # fmt: skip
    found = script.conversation(one, "c1", {"address": "127.0.0.1"})
    assert Answering.keys.count("Bearer sk-1") == keys
    if not keys:
        assert found == {"ready": [0, "nothing, its container does not run any more"]}


def test_sends_no_key_to_unpublished_port(script: Any, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = {"HostConfig": {"PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "1"}]}}}
    monkeypatch.setattr(script, "asked", lambda path, where: {"State": {"Status": "running"}, **bound})
    one = {"port": port, "user": "", "address": "", "key": "sk-1", "ready": "/r", "cards": False}
    said = {"ready": [0, f"its container does not publish port {port}"]}
    assert script.conversation(one, "c1", {"address": "127.0.0.1"}) == said
    assert Answering.keys == []


OURS = {"gpurack.model": "{}", "com.docker.compose.project": "gpurack", "com.docker.compose.service": "alpha"}
LATER = {"com.docker.compose.service": "alpha.2"}
OTHER = "0b" * 32


def inspected(**over: Any) -> dict[str, Any]:
    labels = {**OURS, "com.docker.compose.image": IMAGE_ID, **over.pop("labels", {})}
    made = {"Id": ID, "Name": "/alpha", "Image": IMAGE_ID, "Config": {"Labels": labels}, "State": {"Status": "running"}}
    return {**made, **over}


@pytest.mark.parametrize(
    ("container", "record", "is_it"),
    [
        (inspected(), {}, True),
        (inspected(), {"": {"alpha": {"id": ID}}}, True),
        (inspected(), {"": {"alpha": {"id": None}}}, True),
        (inspected(), {"": {}}, False),
        (inspected(), {"": {"alpha": {"id": OTHER}}}, True),  # an admin's `docker compose up`
        (inspected(Image=f"sha256:{OTHER}"), {"": {"alpha": {"id": OTHER}}}, False),  # docker commit, docker run
        (
            inspected(labels={"com.docker.compose.service": "alpha.2"}),
            {"": {"alpha": {"id": ID, "service": "alpha.2"}}},
            True,
        ),
        (inspected(labels=LATER), {"": {"alpha": {"id": ID}}}, False),
        (inspected(), {"": {"alpha": {"id": ID, "service": "alpha.2"}}}, False),
        (inspected(labels={"com.docker.compose.service": "beta"}), {}, False),
        (inspected(labels={"com.docker.compose.project": "lab"}), {}, False),
        (inspected(Config={"Labels": None}), {}, False),
        (inspected(State={"Status": "exited"}), {}, False),
        (7, {}, False),
        ({}, {}, False),
    ],
)
def test_asks_only_running_containers_of_gpurack(script: Any, container: Any, record: Any, is_it: bool) -> None:
    """By the rule of the plan, and in the Docker that the inventory says."""
    one = {"user": ""}
    found = script.ours("alpha", one, {"": {"containers": {"alpha": container}}}, record)
    assert found == (container if is_it else None)
    assert script.ours("alpha", one, {"": {"containers": {}}, "eve": {"containers": {"alpha": container}}}, {}) is None
    if found or record:
        full = {**container, "Created": "", "RestartCount": 0, "HostConfig": {"PortBindings": None}}
        full["State"] = {"Status": "running", "ExitCode": 0, "Error": "", "StartedAt": "", "FinishedAt": ""}
        full["NetworkSettings"] = {"Ports": None}
        entries = {
            u: {n: Entry(e["id"], "model", service=e.get("service", "")) for n, e in of.items()}
            for u, of in record.items()
        }
        mine = container_of(full, "")
        assert is_ours(mine, "alpha", entries or None, {"alpha": {}}, [mine.id]) == is_it


def test_record_has_the_service_of_a_generation(script: Any, tmp_path: Path) -> None:
    script.ASKED["record"] = str(tmp_path / "record.json")
    entries = {"alpha": {"id": ID, "service": "alpha.2"}, "beta": {"id": OTHER}}
    (tmp_path / "record.json").write_text(json.dumps({"format": 2, "containers": {"": entries}}))
    container = inspected(labels={"com.docker.compose.service": "alpha.2"})
    assert (
        script.ours("alpha", {"user": ""}, {"": {"containers": {"alpha": container}}}, script.recorded()) == container
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"containers": 7}', '{"containers": {"": {"alpha": {}}}}'])
def test_unreadable_record_counts_as_none(script: Any, tmp_path: Path, text: str) -> None:
    script.ASKED["record"] = str(tmp_path / "record.json")
    (tmp_path / "record.json").write_text(text)
    assert script.recorded() == {}


def slow(link: socket.socket) -> None:
    """A server that sends a byte now and then and is never silent."""
    peer, _ = link.accept()
    with contextlib.suppress(OSError), peer:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"x")
            time.sleep(0.1)


def endlessly(link: socket.socket) -> None:
    peer, _ = link.accept()
    with contextlib.suppress(OSError), peer:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)


def test_limits_time_and_size_of_answers(script: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as link:
        number = link.getsockname()[1]
        threading.Thread(target=slow, args=(link,), daemon=True).start()
        begun = time.monotonic()
        assert script.http_answer("127.0.0.1", number, "/", timeout=1) == [0, "nothing in 1 s"]
        assert time.monotonic() - begun < 10
        threading.Thread(target=endlessly, args=(link,), daemon=True).start()
        status, said = script.http_answer("127.0.0.1", number, "/", timeout=20)
        assert (status, len(said)) == (200, script.HTTP_SIZE)


@pytest.mark.parametrize(
    ("cgroup", "said"),
    [
        ("0::/user.slice/user-1001.slice/user@1001.service/user-0.slice/docker-{}.scope", [ID, 1001]),
        ("0::/system.slice/docker-{}.scope", [ID, None]),
        ("12:pids:/docker/{}\n0::/", [ID, None]),
        ("0::/user.slice/user-1001.slice/session-1.scope", ["", 1001]),
        ("0::/system.slice/x{}y.service", ["", None]),
    ],
)
def test_cgroup_named_like_container_is_its_users(
    script: Any, monkeypatch: pytest.MonkeyPatch, cgroup: str, said: list[Any]
) -> None:
    monkeypatch.setattr(script, "run", lambda *words: (0, "GPU-1, 7, 900"))
    monkeypatch.setattr(script, "content", {"/proc/7/cgroup": cgroup.format(ID)}.get)
    assert script.processes() == [["GPU-1", *said, 900]]


FROZEN = """
import ctypes, os, struct, sys, time
device = os.open("/dev/fuse", os.O_RDWR)
options = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % device
if ctypes.CDLL(None).mount(b"frozen", sys.argv[1].encode(), b"fuse", 0, options.encode()):
    sys.exit("not allowed to mount")
print("mounted", flush=True)
_, opcode, unique = struct.unpack_from("<IIQ", os.read(device, 1 << 17))
answer = struct.pack("<IIIIHHI40x", 7, 31, 65536, 0, 0, 0, 65536)
os.write(device, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)
os.read(device, 1 << 17)
time.sleep(600)
"""
"""A FUSE server (the kernel's include/uapi/linux/fuse.h) that answers the first request, INIT, and stops at the second.
No signal ends a process that waits for it.
"""


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Path]:
    """A file system that never answers."""
    path = tmp_path / "frozen"
    path.mkdir()
    with subprocess.Popen([sys.executable, "-c", FROZEN, str(path)], stdout=subprocess.PIPE) as server:
        assert server.stdout
        if not server.stdout.readline():
            pytest.skip("needs FUSE, and the right to mount")
        yield path
        server.kill()  # ends the waiting processes
    ctypes.CDLL(None).umount2(bytes(path), 2)  # MNT_DETACH


@needs_root
def test_hanging_file_system_fails_its_part_only(script: Any, frozen: Path) -> None:
    parts = {
        "weights": script.Part("weights", 2, script.weights, str(frozen), False, {}),
        "others": script.Part("others", 30, script.weights, __file__, False, {}),
    }
    said = script.results(parts)
    found = re.fullmatch(r"timed out after 2 s, pid (\d+) \(\S+\) is left behind", said["weights"]["late"])
    assert found, said
    assert set(said["others"]["files"]) == {"test_evidence.py"}
    assert part(script, 5, whoami)["uid"] == 0
    again = script.results({"weights": script.Part("weights", 2, script.weights, str(frozen), False, {})})
    assert again["weights"]["late"].endswith(f"(pid {found[1]})")


@needs_root
def test_script_ends_with_evidence_whatever_hangs(tmp_path: Path) -> None:
    """A hanging process of a user, here one that stops root's processes, fails that user's part only."""
    asked = {
        "limit": 60, "record": str(tmp_path / "record.json"), "users": ["", "nobody", "no-such-user"], "units": [],
        "files": [], "homes": [".config/x"], "salt": "5a", "closed": [], "secrets": {"a key": "sk-secret"},
        "public": [], "deep": False, "models": {},
    }  # fmt: skip
    hangs = (
        "LIMIT = 3\nold = arguments\ndef arguments(pids):\n    return time.sleep(60) if os.getuid() else old(pids)\n"
    )
    for part in FILES.glob("evidence_*.py"):
        (tmp_path / part.name).write_text(part.read_text().replace('HUNG = "', f'HUNG = "{tmp_path}'))
    text = (FILES / "evidence.py").read_text().replace("\ndef main():", f"\n{hangs}\n\ndef main():")
    program = f"import os, sys, time\nsys.path.insert(0, {str(tmp_path)!r})\nQUESTIONS = {asked!r}\n{text}"
    with (
        subprocess.Popen(["sh", "-c", "sleep 60 # sk-secret"]) as leak,
        subprocess.Popen(["setpriv", "--reuid", "4711", "sleep", "60"]) as theirs,
    ):
        done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, check=True)
        leak.kill()
        theirs.kill()
    said = json_from_host(done.stdout)
    assert said["secrets"]["unread"]["4711"] == "timed out after 3 s"
    assert ["a key", f"the arguments of process {leak.pid}"] in said["secrets"]["leaks"]
    assert said["users"]["nobody"]["uid"] == 65534
    assert said["users"]["no-such-user"] is None
    assert "PRETTY_NAME" in said["system"]["os"]
