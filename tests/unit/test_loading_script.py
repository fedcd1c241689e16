"""files/loading.py on a host: when a started model is ready, and when it never will be."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack.engines import hints_of
from gpurack.plan.models.health import Health, judge
from tests.unit.host_programs import load

pytestmark = pytest.mark.sampled

ID = "a" * 64
HINTS = [("cuda error", "Update the driver.", "Remove `gpus`.", False)]


class Dockerd:
    """A daemon with one container, as loading.py uses it."""

    user, uid, silent, by_hand = "", 0, None, "docker"
    become: Sequence[str] = ()

    def __init__(self) -> None:
        self.keys = {"alpha": "sk-one"}
        self.state = {
            "status": "running", "pid": 0, "restarts": 0, "code": 0, "error": "", "started": "2020-01-01T00:00:00.1Z",
        }  # fmt: skip
        self.log: list[str] = []
        self.last: int | None = None
        self.listed = "Up 2 seconds"

    def api_key(self, key: str) -> str | None:
        return self.keys.get(key)

    def last_exit(self, container: str, seconds: int) -> int | None:
        assert container == ID
        return self.last

    def without_secrets(self, text: str) -> str:
        return text.replace("sk-one", "•••")

    def run(self, *words: str, **options: Any) -> tuple[int, str]:
        if words[0] == "ps":
            assert f"id={ID}" in words
            return 0, self.listed
        assert words == ("logs", "--tail", "20", "--timestamps", ID)
        return 0, "\n".join(self.log)


@pytest.fixture
def dockerd() -> Dockerd:
    return Dockerd()


@pytest.fixture
def loading(dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("loading")
    stopped: list[str] = []
    parts = SimpleNamespace(**vars(module.processes))
    parts.state = lambda daemon, container: dict(dockerd.state)
    parts.Watched = lambda daemon, container: SimpleNamespace(state=lambda: dict(dockerd.state))
    parts.stop = lambda daemon, container, grace: stopped.append(container)
    parts.docker = lambda daemon, *words: dockerd.run(*words)
    module.processes, module.stopped = parts, stopped
    module.clock = lambda seconds: "0:00"  # a busy machine changes no message
    monkeypatch.setattr(
        module.kept_logs, "tail", lambda daemon, container, lines=0: "loading with sk-one\ncuda error\n"
    )
    return module


@pytest.fixture
def server() -> Iterator[Any]:
    """A server that gives `said`, a status and a text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.headers["Authorization"])  # type: ignore[attr-defined]
            status, said = made.said  # type: ignore[attr-defined]
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.said, made.asked = (200, '{"data":[{"id":"alpha"}]}'), []  # type: ignore[attr-defined]
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def wait(loading: Any, dockerd: Dockerd, server: Any, **over: Any) -> float:
    port = server.server_address[1] if server else 1
    words = {"served_name": "alpha", "timeout": 5, "hints": HINTS, **over}
    served_name, timeout = words.pop("served_name"), words.pop("timeout")
    url = f"http://127.0.0.1:{port}/v1/models"
    return float(loading.wait_until_ready(dockerd, "alpha", ID, url, served_name, timeout, **words))


def failure(loading: Any, dockerd: Dockerd, server: Any, **over: Any) -> str:
    with pytest.raises(loading.Failure) as caught:
        wait(loading, dockerd, server, **over)
    return str(caught.value)


@pytest.mark.parametrize("served", ["alpha", None])
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, '{"data":[{"id":"alpha"}]}'), (200, '{"data":[{"id":"alphabet"}]}'), (200, "alpha"), (200, ""),
        (204, '"alpha"'), (404, '"alpha"'), (503, '"alpha"'), (0, "timed out"),
    ],
)  # fmt: skip
def test_is_ready_by_the_rule_of_plan_and_status(
    loading: Any, dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch, status: int, said: str, served: str | None
) -> None:
    """plan/models/health.py has the rule for what a snapshot sees, this program that for what it starts."""
    monkeypatch.setattr(loading.asking, "send", lambda *arguments: (status, said))
    if judge(status, said, served) == Health.READY:
        assert wait(loading, dockerd, None, served_name=served) >= 0
    else:
        assert "not ready after" in failure(loading, dockerd, None, served_name=served, timeout=0)


# --- ready ------------------------------------------------------------------------------------------------------------


def test_ready_when_it_names_the_model(loading: Any, dockerd: Dockerd, server: Any) -> None:
    assert wait(loading, dockerd, server) < 5
    assert server.asked == ["Bearer sk-one"]


def test_asks_with_key_of_its_generation(loading: Any, dockerd: Dockerd, server: Any) -> None:
    dockerd.keys["alpha.2"] = "sk-two"
    wait(loading, dockerd, server, key="alpha.2")
    assert server.asked == ["Bearer sk-two"]


def test_any_answer_counts_of_engine_without_names(loading: Any, dockerd: Dockerd, server: Any) -> None:
    server.said = (200, "")
    wait(loading, dockerd, server, served_name=None)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (None, "did not answer"),
        ((200, "beta"), "does not name the model `alpha`"),
        ((503, "loading"), "returned HTTP 503 instead of 200"),
    ],
)
def test_gives_up_after_timeout(loading: Any, dockerd: Dockerd, server: Any, said: Any, sentence: str) -> None:
    server.said = said
    text = failure(loading, dockerd, server if said else None, timeout=0.2)
    first, *log = text.split("\n")
    assert first.startswith("not ready after 0:00: http://127.0.0.1:")
    assert first.endswith(f"/v1/models {sentence}. Update the driver."), "the hint for its log"
    assert log == ["    | loading with •••", "    | cuda error"]


def test_rejected_key_fails_early(loading: Any, dockerd: Dockerd, server: Any) -> None:
    loading.KEY_TIMEOUT = 0.2
    server.said = (401, "")
    assert failure(loading, dockerd, server).startswith("the server rejects the key in `api_key` (HTTP 401 at http")


# --- the container ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"status": "exited", "code": 1}, "exited while loading (exit code 1). Update the driver."),
        ({"status": "created", "code": 128, "error": "port is already allocated"},
         "exited while loading (port is already allocated). Update the driver."),
        ({"status": "created", "code": 127, "error": "no such file:\nsk-one"},
         "exited while loading (no such file: •••). Update the driver."),
        ({"status": "restarting", "code": 0}, "exited while loading (exit code 139). Update the driver."),
    ],
)  # fmt: skip
def test_container_that_ended_gets_no_request(
    loading: Any, dockerd: Dockerd, server: Any, state: Any, sentence: str
) -> None:
    """Another process on its port would receive its key."""
    dockerd.state.update(state)
    dockerd.last = 139
    assert failure(loading, dockerd, server) == f"{sentence}\n    | loading with •••\n    | cuda error"
    assert server.asked == []
    assert loading.stopped == [ID], "or it would restart without end"


def test_container_that_is_removed_has_no_exit_code(loading: Any, dockerd: Dockerd, server: Any) -> None:
    server.said = (503, "loading")
    threading.Timer(0.3, lambda: dockerd.state.update(status="gone")).start()
    assert failure(loading, dockerd, server) == "its container was removed while loading, and not by gpurack"
    with pytest.raises(loading.Failure, match=r"^its container was removed after it had answered, and not by gpurack$"):
        loading.still_up(dockerd, "alpha", ID, 0)


def test_container_that_restarted_is_not_ready(loading: Any, dockerd: Dockerd, server: Any) -> None:
    """Docker has already restarted it, so the state is `running` again."""
    server.said = (503, "loading")
    threading.Timer(0.3, lambda: dockerd.state.update(restarts=1)).start()
    assert failure(loading, dockerd, server).startswith("exited while loading (crashed and was restarted).")


def now(ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", time.gmtime(time.time() - ago))


def test_still_up_after_it_has_run_for_some_seconds(loading: Any, dockerd: Dockerd) -> None:
    begun = time.monotonic()
    loading.still_up(dockerd, "alpha", ID, 0)
    assert time.monotonic() - begun < 1, "it started in 2020"
    loading.STEADY = 1.5
    dockerd.state["started"] = now(0)
    loading.still_up(dockerd, "alpha", ID, 0)
    assert time.monotonic() - begun > 0.4


@pytest.mark.parametrize("later", [{"status": "exited", "code": 1}, {"restarts": 1}])
def test_container_that_dies_after_its_answer_is_not_ready(loading: Any, dockerd: Dockerd, later: Any) -> None:
    dockerd.last = 1
    dockerd.state["started"] = now(0)
    threading.Timer(0.3, lambda: dockerd.state.update(later)).start()
    with pytest.raises(loading.Failure, match=r"^exited after it had answered \(exit code 1\)\. Update the driver\.\n"):
        loading.still_up(dockerd, "alpha", ID, 0, True, HINTS)
    assert loading.stopped == [ID]


def test_container_whose_start_docker_could_not_store_is_not_ready(loading: Any, dockerd: Dockerd) -> None:
    """On a full disk inspect says running, and ps Created: it would be gone after the next restart."""
    dockerd.listed = "Created"
    with pytest.raises(loading.Failure, match="could not store that and lists it as created"):
        loading.still_up(dockerd, "alpha", ID, 0)


@pytest.mark.parametrize("started", ["", "soon", "0001-01-01T00:00:00Z", "2026-99-99T00:00:00Z", now(-9999)])
def test_strange_start_time_is_waited_for_briefly(loading: Any, dockerd: Dockerd, started: str) -> None:
    loading.STEADY = 0.3
    dockerd.state["started"] = started
    loading.still_up(dockerd, "alpha", ID, 0)


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(loading: Any, dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Progress is measured often, of these bytes by process."""
    loading.WINDOW, loading.BYTES, loading.READING = 0, 1000, 2
    found: dict[tuple[int, int], int] = {(41, 1): 0}
    loading.processes.of_container = lambda daemon, container, main, proc: set(found)
    loading.bytes_read = lambda pid, proc: found[pid, 1]
    return found


def activity(loading: Any, dockerd: Dockerd) -> Any:
    made = loading.Activity(dockerd, ID, "/v1/models")
    made.progressed -= 100
    return made


def test_bytes_are_progress(loading: Any, dockerd: Dockerd, measured: Any) -> None:
    seen = activity(loading, dockerd)
    measured[41, 1] = 5000  # the program itself
    seen.measure(41)
    measured[41, 1] += 999  # as much as an idle server
    seen.measure(41)
    assert (seen.idle() > 99, seen.reads()) == (True, False)
    measured[41, 1] += 1000
    seen.measure(41)
    assert (seen.idle() > 99, seen.reads()) == (False, True)


def test_ended_process_takes_no_bytes_back(loading: Any, dockerd: Dockerd, measured: Any) -> None:
    seen = activity(loading, dockerd)
    measured[41, 1] = 10_000
    measured[42, 1] = 500
    seen.measure(41)
    del measured[41, 1]
    measured[42, 1] = 1500
    seen.measure(42)
    assert seen.reads()


def test_starts_of_programs_are_no_progress(loading: Any, dockerd: Dockerd, measured: Any) -> None:
    """`while ! ready; do sleep 1; done` has a new process each time."""
    seen = activity(loading, dockerd)
    for pid in range(50, 55):
        measured[pid, 1] = 700_000
        seen.measure(41)
        del measured[pid, 1]
    assert (seen.idle() > 99, seen.reads()) == (True, False)


def test_lines_of_its_log_are_progress_unless_our_requests_cause_them(
    loading: Any, dockerd: Dockerd, measured: Any
) -> None:
    seen = activity(loading, dockerd)
    for line, counts in (
        ("10:00:01Z loading shard 1", True), ("", False), ("10:00:02Z GET /v1/models 503", False),
        ("10:00:03Z loading shard 1", True), ("", False),
    ):  # fmt: skip
        dockerd.log += [line] if line else []
        seen.progressed -= 100
        seen.measure(41)
        assert (seen.idle() < 50) == counts, line
        seen.progressed = time.monotonic()
        assert not seen.reads()


def test_model_without_progress_is_stuck(loading: Any, dockerd: Dockerd, measured: Any, server: Any) -> None:
    server.said = (503, "loading")
    with pytest.raises(loading.Stuck, match=r"^no progress for 0:00 \(no bytes read, no line in its log\): http\S+ r"):
        wait(loading, dockerd, server, silence=lambda: 0.3, timeout=20)
    assert failure(loading, dockerd, server, silence=lambda: None, timeout=0.5).startswith("not ready after")


def test_timeout_is_extended_while_it_reads(loading: Any, dockerd: Dockerd, measured: Any, server: Any) -> None:
    server.said = (503, "loading")
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.02):
            measured[41, 1] += 100_000

    reader = threading.Thread(target=read)
    reader.start()
    threading.Timer(1.5, lambda: setattr(server, "said", (200, '"alpha"'))).start()
    assert wait(loading, dockerd, server, timeout=1, silence=lambda: 1.4) > 1.2
    server.said = (503, "loading")
    loading.LONGEST = 0.3
    assert failure(loading, dockerd, server, timeout=0.2).startswith("not ready after"), "not without end"
    done.set()
    reader.join()
    assert failure(loading, dockerd, server, timeout=0.2).startswith("not ready after")


NCCL = (
    "DEBUG world_size=2 rank=0",
    "INFO 08-31 09:50:46 pynccl.py:63] vLLM is using nccl==2.20.5",
    'INFO: "GET /v1/models HTTP/1.1" 503',
)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (NCCL, "Its GPUs seem to wait for each other. Try env"),
        ((*NCCL, "loading weights"), ""),
        (("[rank0]: Watchdog caught collective operation timeout", "waiting"), "exchange of data between its GPUs"),
        (("CUDA error: out of memory", "waiting"), "It does not fit on its GPUs"),
        ((), ""),
    ],
)
@pytest.mark.parametrize(("kind", "timeout"), [("Stuck", 9), ("Failure", 0)])
def test_hint_for_a_server_that_hangs_is_in_its_log(
    loading: Any,
    server: Any,
    dockerd: Any,
    monkeypatch: pytest.MonkeyPatch,
    log: tuple[str, ...],
    words: str,
    kind: str,
    timeout: int,
) -> None:
    monkeypatch.setattr(loading.kept_logs, "last_lines", lambda *_: "\n".join(log))
    server.said = (503, "loading")
    hints = [hint.payload for hint in hints_of("vllm")]
    with pytest.raises(getattr(loading, kind)) as error:
        wait(loading, dockerd, server, timeout=timeout, hints=hints, silence=lambda: 0)
    first = str(error.value).partition("\n")[0]
    assert words in first
    assert words or first.endswith("instead of 200.")


READER = """
import mmap, sys, time
size = int(sys.argv[2])
if sys.argv[3] == "map":
    weights = open(sys.argv[1], "rb")
    mapped = mmap.mmap(weights.fileno(), size, access=mmap.ACCESS_READ)
    sum(mapped[at] for at in range(0, size, 4096))
elif sys.argv[3] == "read":
    open(sys.argv[1], "rb", buffering=0).read(size)
print("done", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("how", "reads"), [("map", True), ("read", True), ("idle", False)])
def test_counts_bytes_of_a_real_process(loading: Any, tmp_path: Path, how: str, reads: bool) -> None:
    """Also of a mapped file in the page cache, which llama.cpp reads without a call and without a disk."""
    (tmp_path / "weights").write_bytes(os.urandom(1 << 20) * 40)
    child = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "weights"), str(40 << 20), how], stdout=subprocess.PIPE
    )
    assert child.stdout
    child.stdout.readline()
    found = loading.bytes_read(child.pid)
    child.kill()
    child.wait()
    assert (found > 40 << 20) == reads
    assert loading.bytes_read(child.pid) == 0
