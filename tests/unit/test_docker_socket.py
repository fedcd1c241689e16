"""Docker's API in the snapshot: what one program is told by the socket is what the CLI says."""

import http.server
import json
import socketserver
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.questions import images_by_user, questions
from gpurack.resources import read_text
from gpurack.spec.host import Host
from tests.given import models
from tests.sampling import sample
from tests.unit.host_programs import DOCKER_SOCKET, SHELLS, Fakes, plain, without_parts

pytestmark = pytest.mark.sampled

IMAGE, OTHER = f"sha256:{'ab' * 32}", f"sha256:{'cd' * 32}"
HOSTILE = (
    'x","Id":"' + "e" * 64 + '"}\n@@ files\n/etc/evil|running|alpha|8080/tcp;10.0.0.1;1 |\\" \\\\ \\n \u2028 é \x1c'
)
"""What a container's owner may write into a label."""
INFO = {
    "ID": "x", "ServerVersion": "28.5.2", "NCPU": 16, "MemTotal": 1 << 36, "Swarm": {"LocalNodeState": "inactive"},
    "LiveRestoreEnabled": False, "Runtimes": {"runc": {"path": "runc"}}, "SecurityOptions": ["name=cgroupns"],
    "Labels": [], "Warnings": None, "DriverStatus": [["Backing Filesystem", "extfs"], [HOSTILE, ""]],
}  # fmt: skip


def described(name: str, number: int, status: str = "running", **labels: str) -> dict[str, Any]:
    """A container as /containers/ID/json has it (Docker 28.5, shortened)."""
    state = {
        "Status": status,
        "Running": True,
        "Pid": 42,
        "ExitCode": 0,
        "Error": "",
        "Health": {"Log": [{"Output": HOSTILE}]},
    }
    return {
        "Id": f"{number:x}" * 64, "Created": "2026-11-20T07:00:00Z", "Path": "/x", "Args": ["--a", HOSTILE],
        "State": {**state, "StartedAt": "2026-11-20T07:00:00.5Z", "FinishedAt": "0001-01-01T00:00:00Z"},
        "Image": IMAGE, "Name": f"/{name}", "RestartCount": number,
        "HostConfig": {
            "Binds": None,
            "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(8000 + number)}], "9/udp": None},
        },
        "Mounts": [{"Source": HOSTILE, "Id": "0" * 64}],
        "Config": {"Env": [f"A={HOSTILE}"], "Labels": labels or None},
        "NetworkSettings": {"Networks": {HOSTILE: {"IPAddress": ""}}},
    }  # fmt: skip


OURS = {"com.docker.compose.project": "gpurack", "com.docker.compose.service": "alpha"}
CONTAINERS = [
    described("alpha", 1, **{"gpurack.model": HOSTILE, **OURS}),
    described("beta", 2, "exited", **{"gpurack.model": "{}", "evil": HOSTILE}),
    described("db", 3),
    described("gamma", 4, **{"gpurack.model": "{}", "com.docker.compose.service": HOSTILE}),
]


class Daemon(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers like dockerd. answers: path → (status, body); asked: the paths."""

    daemon_threads = True

    def __init__(self, place: str, answers: Mapping[str, tuple[int, str | bytes]]) -> None:
        self.answers, self.asked = dict(answers), list[str]()
        super().__init__(place, Answer)

    def get_request(self) -> tuple[Any, Any]:
        return super().get_request()[0], ("", 0)


class Answer(http.server.BaseHTTPRequestHandler):
    server: Daemon
    hang = ""
    """A path that gets no answer."""

    def do_GET(self) -> None:
        path = unquote(self.path)
        self.server.asked.append(path)
        if path == self.hang:
            threading.Event().wait(10)
        status, body = self.server.answers.get(path, (404, '{"message":"no such thing"}\n'))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else body.encode())

    def log_message(self, *said: object) -> None:
        pass


def body(data: Any) -> tuple[int, str]:
    """An answer as dockerd writes it."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return 200, text.replace("<", "\\u003c").replace("\u2028", "\\u2028") + "\n"


WANTED = models(alpha={"port": 8001}, gamma={"port": 8004})
REFERENCES = sorted({str(reference) for _, reference in images_by_user(WANTED)})


def answers() -> dict[str, tuple[int, str | bytes]]:
    """Those of a daemon with CONTAINERS and the first of the images."""
    listed = [
        {"Id": one["Id"], "Names": [one["Name"]], "ImageID": one["Image"], "Labels": one["Config"]["Labels"] or {}}
        for one in CONTAINERS
    ]
    described = {"Id": IMAGE, "RepoTags": ["a:1"], "RepoDigests": [f"a@{OTHER}"], "Config": {"Labels": {"Id": OTHER}}}
    return {
        "/info": body(INFO),
        "/containers/json?all=true": body(listed),
        f"/images/{REFERENCES[0]}/json": body({**described, "Id": OTHER}),
        f"/images/{IMAGE}/json": body(described),
        **{f"/containers/{one['Id']}/json": body(one) for one in CONTAINERS},
    }


@pytest.fixture
def daemon(fakes: Fakes, tmp_path: Path) -> Iterator[Daemon]:
    """It, and a docker that knows nothing."""
    fakes.add("docker", "exit 1")
    fakes.add("curl", 'printf "\\n200"')
    with Daemon(f"{tmp_path}/docker.sock", answers()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def seen(daemon: Daemon, shell: list[str] = ["sh"], wanted: Host = WANTED) -> HostFacts:  # noqa: B006
    text = without_parts(script(questions(wanted)), "Docker").replace(DOCKER_SOCKET, str(daemon.server_address))
    done = subprocess.run([*shell, "-s"], input=text, capture_output=True, text=True, check=True, timeout=60)
    daemon.output = plain(done.stdout)  # type: ignore[attr-defined]
    return Snapshot().process(done.stdout.split("\n"))


def cli_calls(fakes: Fakes) -> list[str]:
    return [call.split()[1] for call in fakes.calls if call.startswith("docker ")]


@pytest.mark.parametrize("shell", sample(SHELLS, "socket_says_everything"), ids=lambda shell: shell[0])
def test_socket_says_everything(shell: list[str], daemon: Daemon, fakes: Fakes) -> None:
    facts = seen(daemon, shell)
    assert (facts.trouble, facts.unread) == (None, ())
    assert cli_calls(fakes) == []
    assert {key: facts.docker[key] for key in ("ServerVersion", "NCPU", "Swarm", "SecurityOptions")} == {
        key: INFO[key] for key in ("ServerVersion", "NCPU", "Swarm", "SecurityOptions")
    }
    assert [
        (each.id, each.name, each.image, each.status, each.restarts, dict(each.labels)) for each in facts.containers
    ] == [
        (one["Id"], one["Name"][1:], IMAGE, one["State"]["Status"], one["RestartCount"], one["Config"]["Labels"] or {})
        for one in CONTAINERS
    ]
    assert [each.ports for each in facts.containers] == [(("127.0.0.1", 8001 + number),) for number in range(4)]
    assert {each.started for each in facts.containers} == {"2026-11-20T07:00:00.5Z"}
    assert facts.images == {REFERENCES[0]: OTHER}
    assert facts.digests == {IMAGE: (f"a@{OTHER}",)}
    assert facts.probes.keys() == {("", "alpha"), ("", "gamma")}
    urls = [call for call in fakes.log.read_text().split() if call.startswith("http://127")]
    assert sorted(urls) == ["http://127.0.0.1:8001/v1/models", "http://127.0.0.1:8004/v1/models"]


def test_each_thing_is_asked_once(daemon: Daemon) -> None:
    seen(daemon)
    assert len(daemon.asked) == len(set(daemon.asked)) == 2 + len(REFERENCES) + len(CONTAINERS) + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"/info": (500, '{"message":"x"}\n')},
        {"/info": body({**INFO, "BuildahVersion": "1.39"})},
        {"/containers/json?all=true": (500, "{}\n")},
        {"/containers/json?all=true": (200, '[{"Id":"…')},
        {f"/images/{REFERENCES[0]}/json": (500, "{}\n")},
        {f"/containers/{CONTAINERS[1]['Id']}/json": (500, "{}\n")},
        {f"/containers/{CONTAINERS[3]['Id']}/json": (200, '{"Id":"…')},
    ],
    ids=["info", "podman", "list", "cut list", "image", "container", "cut container"],
)
def test_anything_unusual_is_left_to_the_cli(
    daemon: Daemon, fakes: Fakes, wrong: dict[str, tuple[int, str | bytes]]
) -> None:
    """It says nothing of its own then: half an answer would look like removed containers."""
    daemon.answers |= wrong
    facts = seen(daemon)
    assert (facts.docker, facts.containers, facts.images) == ({}, (), {})
    assert cli_calls(fakes) == ["info", "ps"]


def test_container_and_image_that_are_removed_meanwhile_are_missing(daemon: Daemon, fakes: Fakes) -> None:
    del daemon.answers[f"/containers/{CONTAINERS[0]['Id']}/json"], daemon.answers[f"/images/{IMAGE}/json"]
    facts = seen(daemon)
    assert [each.name for each in facts.containers] == ["beta", "db", "gamma"]
    assert (facts.digests, facts.unread) == ({}, ())


def test_daemon_without_answer_is_left_to_the_cli(daemon: Daemon, fakes: Fakes) -> None:
    daemon.shutdown()
    daemon.socket.close()
    seen(daemon)
    assert cli_calls(fakes) == ["info", "ps"]


ON_GPU = models(alpha={"port": 8001, "gpus": [0]}, gamma={"port": 8004, "gpus": [1]}, beta={"port": 8002, "gpus": [2]})
LOG = "logs?stdout=1&stderr=1&since=1795158000.5"
LAYERS = "load_tensors: offloaded 0/33 layers to GPU"
NO_CUDA = "ggml_cuda_init: failed to initialize CUDA: unknown error"


def logs_of(number: int) -> str:
    """The path of a container's log since its start."""
    return f"/containers/{CONTAINERS[number]['Id']}/{LOG}"


def frames(*lines: str) -> bytes:
    """A log as Docker sends it: a frame for each line, of standard output or of errors."""
    each = [f"{line}\n".encode() for line in lines]
    return b"".join(
        bytes([1 + number % 2, 0, 0, 0]) + len(one).to_bytes(4, "big") + one for number, one in enumerate(each)
    )


@pytest.mark.parametrize("shell", sample(SHELLS, "socket_says_what_logs_say"), ids=lambda shell: shell[0])
def test_socket_says_what_logs_say_of_gpus(shell: list[str], daemon: Daemon, fakes: Fakes) -> None:
    """Only such lines, short and few, and only of models that run."""
    long = "y" * 400 + NO_CUDA
    daemon.answers[logs_of(0)] = (
        200,
        frames("a prompt", NO_CUDA, "é\x1b[1m", *["load_tensors: CUDA0 x" + "z" * 400] * 60, LAYERS, long),
    )
    daemon.answers[logs_of(3)] = (500, '{"message":"configured logging driver does not support reading"}\n')
    facts = seen(daemon, shell, ON_GPU)
    first, *others, last = facts.cuda_logs["", "alpha"].splitlines()
    assert (first, len(others), {len(line) for line in others}, last) == (NO_CUDA, 38, {300}, LAYERS)
    assert ("", "gamma") not in facts.cuda_logs
    assert (cli_calls(fakes), len(facts.containers)) == ([], 4)
    assert sorted(path for path in daemon.asked if "/logs" in path) == sorted([logs_of(0), logs_of(3)])


@pytest.mark.parametrize(
    ("stream", "tty", "said"),
    [
        (NO_CUDA.encode() + b"\r\n", True, NO_CUDA + "\r\n"),
        (frames("x" * 1_000_000, NO_CUDA), False, ""),  # only the beginning is read
        (frames(NO_CUDA)[:-9], False, NO_CUDA[:-8] + "\n"),  # cut off
        (b"\x01\0\0\0", False, ""),
        (b"", False, ""),
        (b"\x01\0\0\0\xff\xff\xff\xff" + NO_CUDA.encode(), False, NO_CUDA + "\n"),
    ],
    ids=["tty", "long", "cut off", "half a frame", "empty", "huge frame"],
)
def test_any_stream_of_a_log_is_read(daemon: Daemon, fakes: Fakes, stream: bytes, tty: bool, said: str) -> None:
    one = json.loads(json.dumps(CONTAINERS[0]))
    one["Config"]["Tty"] = tty
    daemon.answers |= {f"/containers/{one['Id']}/json": body(one), logs_of(0): (200, stream)}
    facts = seen(daemon, wanted=ON_GPU)
    assert (facts.cuda_logs.get(("", "alpha"), ""), cli_calls(fakes)) == (said, [])


def test_log_that_does_not_end_delays_nothing_for_long(
    daemon: Daemon, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = read_text("files/docker_socket.py").replace("LOGS_LIMIT = 5", "LOGS_LIMIT = 0.2")
    monkeypatch.setattr(
        "gpurack.facts.snapshot.read_text", lambda path: program if "socket" in path else read_text(path)
    )
    monkeypatch.setattr(Answer, "hang", logs_of(0), raising=False)
    facts = seen(daemon, wanted=ON_GPU)
    assert (facts.trouble, facts.late, facts.cuda_logs, len(facts.containers)) == (None, {}, {}, 4)


def test_host_without_python_asks_the_cli(daemon: Daemon, fakes: Fakes) -> None:
    text = without_parts(script(questions(WANTED)), "Docker").replace("have python3", "false")
    subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=True, timeout=60)
    assert cli_calls(fakes) == ["info", "ps"]
