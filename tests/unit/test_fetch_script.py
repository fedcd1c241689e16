"""files/fetch.py on a host: weights fetched over real HTTP by the real curl."""

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.unit.host_programs import FILES, Fakes, load

pytestmark = pytest.mark.sampled

CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()


class Weights(BaseHTTPRequestHandler):
    """Serves CONTENT; with `ranges` like most servers, without like `python -m http.server`."""

    ranges: ClassVar[bool] = True
    sized: ClassVar[bool] = True
    status: ClassVar[int] = 200
    head: ClassVar[int] = 0
    """The status of HEAD, if it is another one."""
    faults: ClassVar[list[str]] = []
    """What the next GETs do: "reset" or "stall" after a third of the body, "page", or `STATUS` or `STATUS SECONDS`."""
    gets: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        if self.head:
            self.send_error(self.head)
        else:
            self.answer(body=False)

    def do_GET(self) -> None:
        self.gets.append(self.headers.get("Range", ""))
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        fault = self.faults.pop(0) if body and self.faults else ""
        if fault == "page":
            return self.page()
        if fault[:1].isdigit():
            self.send_response(int(fault.split()[0]))
            self.send_header("Content-Length", "0")
            if " " in fault:
                self.send_header("Retry-After", fault.split()[1])
            return self.end_headers()
        begin, end, status = 0, len(CONTENT), self.status
        if self.ranges and "Range" in self.headers:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or len(CONTENT)) + 1, len(CONTENT))
            status = 416 if begin >= len(CONTENT) else 206
        data = CONTENT[begin:end] if status in (200, 206) else b""
        self.send_response(status)
        if self.sized or status == 416:
            self.send_header("Content-Length", str(len(data)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(CONTENT)}")
        self.end_headers()
        if fault:
            self.wfile.write(data[: len(data) // 3])
            self.wfile.flush()
            if fault == "stall":
                self.rfile.read(1)  # until the client gives up
            self.close_connection = True
        elif body:
            self.wfile.write(data)
        return None

    def page(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"\n<!DOCTYPE html>\n<html><head><title>Sign in\n to the lab</title></head></html>")

    def log_message(self, *arguments: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[tuple[type[Weights], str]]:
    handler = type("Handler", (Weights,), {"gets": [], "faults": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield handler, f"http://127.0.0.1:{httpd.server_port}/a.gguf"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def fetcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    fetch = load("fetch")
    monkeypatch.setattr(sys.modules["download"], "pause", lambda done, failures: 0)
    return fetch


def wanted(url: str, sha256: str, path: Path) -> dict[str, str]:
    return {"url": url, "sha256": sha256, "path": str(path)}


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (9.9, "9 s"), (75, "1 min 15 s"), (3900, "1 h 5 min")])
def test_formats_duration(seconds: float, text: str) -> None:
    assert load("messages").clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (2_950_000, "2.95 MB"),
        (6_100_000_000, "6.1 GB"),
        (10**12, "1000.0 GB"),
    ],
)
def test_formats_size(fetcher: Any, count: int, text: str) -> None:
    assert fetcher.size(count) == text


# --- weights ---------------------------------------------------------------------------------------------------------


def test_fetches_whole_file(fetcher: Any, server: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights/a.gguf"
    fetcher.obtain("alpha", wanted(server[1], SHA, path))
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["a.gguf"]
    fetcher.obtain("alpha", wanted("http://127.0.0.1:1/never-asked", SHA, path))


@pytest.mark.parametrize("have", [1, len(CONTENT) // 2, len(CONTENT)])
def test_resumes_where_earlier_try_stopped(fetcher: Any, server: Any, tmp_path: Path, have: int) -> None:
    path = tmp_path / "a.gguf"
    (tmp_path / "a.gguf.part").write_bytes(CONTENT[:have])
    fetcher.obtain("alpha", wanted(server[1], SHA, path))
    assert path.read_bytes() == CONTENT
    assert server[0].gets == ([f"bytes={have}-"] if have < len(CONTENT) else [])


def test_deletes_partial_file_longer_than_source(fetcher: Any, server: Any, tmp_path: Path) -> None:
    """The server would answer 416 for ever."""
    (tmp_path / "a.gguf.part").write_bytes(CONTENT + b"more")
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


def test_downloads_again_if_server_cannot_resume(fetcher: Any, server: Any, tmp_path: Path) -> None:
    server[0].ranges = False
    (tmp_path / "a.gguf.part").write_bytes(CONTENT[:100])
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize("have", [0, 100, len(CONTENT)])
def test_accepts_server_without_content_length(fetcher: Any, server: Any, tmp_path: Path, have: int) -> None:
    server[0].sized = False
    if have:
        (tmp_path / "a.gguf.part").write_bytes(CONTENT[:have])
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


def test_deletes_file_with_wrong_sha256(fetcher: Any, server: Any, tmp_path: Path) -> None:
    with pytest.raises(fetcher.Failure, match=f"has sha256 {SHA}, not {'0' * 64}, and was deleted"):
        fetcher.obtain("alpha", wanted(server[1], "0" * 64, tmp_path / "a.gguf"))
    assert list(tmp_path.glob("a.gguf*")) == []


def test_reports_missing_file_with_message_of_curl(fetcher: Any, server: Any, tmp_path: Path) -> None:
    server[0].status = 404
    with pytest.raises(fetcher.Failure, match=r"cannot fetch weights from .*: curl: \(22\) .*404\. Nothing is at this"):
        fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))


def test_checks_free_space_before_download(
    fetcher: Any, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher.room, "PROMISED", {})
    monkeypatch.setattr(fetcher.room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(
        fetcher.Failure, match=r"weights need 10\.2 kB more, but .* has 10 B free. Set `weights_dir`, or remove what"
    ):
        fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert server[0].gets == []


def test_reports_disk_that_fills_up(fetcher: Any, fakes: Fakes, tmp_path: Path) -> None:
    part = tmp_path / "a.gguf.part"
    fakes.add("curl", f'case "$*" in *" -sSfLI "*) exit 0;; esac; echo half >{part}; exit 23')
    with pytest.raises(fetcher.Failure, match=r"no space left in .* while fetching weights. Free some space there"):
        fetcher.obtain("alpha", wanted("http://weights/a.gguf", SHA, tmp_path / "a.gguf"))
    assert not part.exists()


def test_fetches_shared_weights_once(fetcher: Any, server: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    threads = [
        threading.Thread(target=fetcher.obtain, args=(name, wanted(server[1], SHA, path))) for name in ("alpha", "beta")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == CONTENT
    assert len(server[0].gets) == 1


def test_reports_missing_copy(fetcher: Any, tmp_path: Path) -> None:
    there = {"copy": "~/a.gguf", "path": str(tmp_path / "a.gguf")}
    with pytest.raises(fetcher.Failure, match=r"^~/a\.gguf was not copied; run again$"):
        fetcher.obtain("alpha", there)
    with pytest.raises(fetcher.Failure, match=r"^disk full$"):
        fetcher.obtain("alpha", {**there, "problem": "disk full"})
    (tmp_path / "a.gguf").write_text("")
    fetcher.obtain("alpha", there)


# --- in pieces -------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_pieces(fetcher: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """CONTENT counts as large: it has eleven pieces."""
    monkeypatch.setattr(sys.modules["pieces"], "PIECE", 1000)
    return fetcher


def ranges(begin: int, size: int = 1000) -> list[str]:
    ends = range(begin, len(CONTENT), size)
    return [f"bytes={each}-{min(each + size, len(CONTENT)) - 1}" for each in ends]


@pytest.mark.parametrize("have", [0, 4321])
def test_large_file_comes_by_several_connections(in_pieces: Any, server: Any, tmp_path: Path, have: int) -> None:
    together = threading.Barrier(4, timeout=20)
    first = set(ranges(have)[:4])

    class Slow(server[0]):  # type: ignore[name-defined, misc]
        def do_GET(self) -> None:
            if self.headers.get("Range") in first:
                together.wait()  # until four ask at once
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as httpd:
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}).start()
        if have:
            (tmp_path / "a.gguf.part").write_bytes(CONTENT[:have])
        in_pieces.obtain("alpha", wanted(f"http://127.0.0.1:{httpd.server_port}/a", SHA, tmp_path / "a.gguf"))
        httpd.shutdown()
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT
    assert sorted(server[0].gets) == sorted(ranges(have))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf"]


@pytest.mark.parametrize("fault", ["reset", "stall", "503", "429 1"])
def test_piece_is_resumed(
    in_pieces: Any, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(sys.modules["download"], "STALL", 1)
    server[0].faults[:] = [fault, fault]
    in_pieces.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT
    assert len(server[0].gets) == len(ranges(0)) + 2


@pytest.mark.parametrize("sized", [True, False])
def test_server_without_ranges_sends_the_file_once_more(
    in_pieces: Any, server: Any, tmp_path: Path, sized: bool
) -> None:
    server[0].ranges = False
    wants = {**wanted(server[1], SHA, tmp_path / "a.gguf")}
    if not sized:  # HEAD says the size, GET does not
        plain = server[0].answer
        server[0].answer = lambda self, body: (setattr(self, "sized", not body), plain(self, body))
    in_pieces.obtain("alpha", wants)
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT
    assert server[0].gets[-1] == ""


def test_beginning_stays_if_a_piece_fails(in_pieces: Any, server: Any, tmp_path: Path) -> None:
    class Refusing(server[0]):  # type: ignore[name-defined, misc]
        def do_GET(self) -> None:
            if self.headers.get("Range") == ranges(0)[6]:
                self.send_error(403)
            else:
                super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as httpd:
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}).start()
        with pytest.raises(in_pieces.Failure, match="The server denies it"):
            in_pieces.obtain("alpha", wanted(f"http://127.0.0.1:{httpd.server_port}/a", SHA, tmp_path / "a.gguf"))
        httpd.shutdown()
    [left] = tmp_path.iterdir()
    assert CONTENT.startswith(left.read_bytes())
    in_pieces.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize("connections", [1, 3])
def test_connections_of_all_files_are_counted(
    in_pieces: Any, server: Any, tmp_path: Path, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files at once; never more requests than `connections`."""
    now, lock, plain = [0], threading.Lock(), sys.modules["download"].attempt

    def counted(*arguments: Any) -> Any:
        with lock:
            now[0] += 1
            assert now[0] <= connections
        try:
            return plain(*arguments)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(sys.modules["download"], "attempt", counted)
    calls = [
        (in_pieces.obtain, name, {**wanted(server[1], SHA, tmp_path / name), "connections": connections})
        for name in ("a", "b")
    ]
    assert load("programs").together(calls) == []
    assert [(tmp_path / name).read_bytes() == CONTENT for name in ("a", "b")] == [True, True]


# --- bad servers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 405, 501])
def test_does_without_head(fetcher: Any, server: Any, tmp_path: Path, status: int) -> None:
    """A signed address is good for GET only."""
    server[0].head = status
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["reset", "stall"])
def test_resumes_after_resets_and_stalls(
    fetcher: Any, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(sys.modules["download"], "STALL", 1)
    server[0].faults[:] = [fault, fault]
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT
    third = len(CONTENT) // 3
    assert server[0].gets == ["", f"bytes={third}-", f"bytes={third + (len(CONTENT) - third) // 3}-"]


def test_gives_up_without_progress_and_keeps_the_part(
    fetcher: Any, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.gguf.part").write_bytes(CONTENT[:99])
    server[0].faults[:] = ["503"] * 6
    with pytest.raises(fetcher.Failure, match="returned error: 503"):
        fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf.part").read_bytes() == CONTENT[:99]
    assert len(server[0].gets) == 6


@pytest.mark.parametrize(
    ("retry_after", "failures", "seconds"), [("7", 1, 7), ("", 1, 1), ("", 4, 8), ("99999", 1, 300), ("Wed, 21", 2, 2)]
)
def test_backs_off_as_the_server_asks(retry_after: str, failures: int, seconds: int) -> None:
    module = load("download")
    answer = f"HTTP/1.1 302 Found\r\nRetry-After: 3\r\n\r\nHTTP/2 429 \r\nretry-after: {retry_after}\r\n\r\n"
    done = module.Try(22, answer, "curl: (22)")
    assert (done.status, module.pause(done, failures)) == (429, seconds)


def test_too_many_requests_are_asked_again(fetcher: Any, server: Any, tmp_path: Path) -> None:
    server[0].faults[:] = ["429 1", "429"]
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize("have", [0, 50])
def test_names_a_web_page_in_place_of_weights(fetcher: Any, server: Any, tmp_path: Path, have: int) -> None:
    server[0].faults[:] = ["page", "page"]
    if have:
        (tmp_path / "a.gguf.part").write_bytes(CONTENT[:have])
    with pytest.raises(fetcher.Failure, match=r'answered with a web page \("Sign in to the lab"\), no weights'):
        fetcher.obtain("alpha", wanted(server[1] + "?signature=x", SHA, tmp_path / "a.gguf"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [b"x" * 50, CONTENT + b"more"], ids=["of another file", "longer"])
@pytest.mark.parametrize("sized", [True, False])
def test_part_of_another_file_recovers(fetcher: Any, server: Any, tmp_path: Path, left: bytes, sized: bool) -> None:
    server[0].sized = sized
    (tmp_path / "a.gguf.part").write_bytes(left)
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


PROGRAM = """
import sys
sys.path.insert(0, {files!r})
import fetch
fetch.obtain("alpha", {wanted!r})
"""


@pytest.fixture
def runner(server: Any, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another run that downloads from a server which is silent after a third, and runs curl."""
    server[0].faults[:] = ["stall"]
    told = wanted(server[1], SHA, tmp_path / "a.gguf")
    text = PROGRAM.format(files=str(FILES), wanted=told)
    with subprocess.Popen([sys.executable, "-c", text]) as process:
        part = tmp_path / "a.gguf.part"
        until(lambda: part.exists() and part.stat().st_size == len(CONTENT) // 3)
        yield process
        process.kill()


def until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def test_curl_dies_with_the_runner(runner: subprocess.Popen[bytes], fetcher: Any, server: Any, tmp_path: Path) -> None:
    (curl,) = children(runner.pid)
    os.kill(runner.pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{curl}").exists() or " Z " in Path(f"/proc/{curl}/stat").read_text())
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT
    assert server[0].gets[-1] == f"bytes={len(CONTENT) // 3}-"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.gguf"]


def test_a_download_that_nobody_hears_ends_and_resumes(fetcher: Any, server: Any, tmp_path: Path) -> None:
    """As after Ctrl-C or a lost connection: sshd closes the output."""
    server[0].faults[:] = ["stall"]
    told = wanted(server[1], SHA, tmp_path / "a.gguf")
    text = PROGRAM.format(files=str(FILES), wanted=told).replace(
        "import fetch", "import fetch, progress; progress.EVERY = 0"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) != 0
        assert process.stderr is not None
        assert "the connection was lost. The next run resumes" in process.stderr.read().decode()
    assert (tmp_path / "a.gguf.part").stat().st_size == len(CONTENT) // 3
    fetcher.obtain("alpha", told)
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


def test_a_download_by_another_run_is_waited_for(
    runner: subprocess.Popen[bytes], fetcher: Any, server: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys.modules["progress"], "EVERY", 0)
    gets = len(server[0].gets)
    second = threading.Thread(target=fetcher.obtain, args=("beta", wanted(server[1], SHA, tmp_path / "a.gguf")))
    second.start()
    time.sleep(0.5)
    assert len(server[0].gets) == gets
    said = capsys.readouterr().out
    assert f"beta: waiting for the download of {tmp_path}/a.gguf by {socket.gethostname()}, pid {runner.pid}" in said
    os.kill(runner.pid, signal.SIGKILL)
    second.join()
    assert (tmp_path / "a.gguf").read_bytes() == CONTENT


def test_a_file_system_without_locks_counts_as_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = load("download")

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with module.locked("alpha", str(tmp_path / "a.gguf")):
        assert (tmp_path / "a.gguf.lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_names_root_squash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = load("download")

    def refuse(*arguments: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(module.Failure, match="root_squash"), module.locked("alpha", str(tmp_path / "a.gguf")):
        pass


def test_rate_and_connections(fetcher: Any, fakes: Fakes, tmp_path: Path) -> None:
    """Two downloads with one connection: never two at once; curl is told the rate."""
    busy = tmp_path / "busy"
    fakes.add(
        "curl",
        f'case "$*" in *" -sSfLI "*) exit;; esac; mkdir {busy} || echo both >"$STATE/both"; sleep 0.3; rmdir {busy}; '
        'while [ "$1" != -o ]; do shift; done; printf abc >"$2"',
    )
    sha = hashlib.sha256(b"abc").hexdigest()
    threads = [
        threading.Thread(
            target=fetcher.obtain,
            args=(name, {**wanted("http://w/a", sha, tmp_path / name), "rate": 5_000_000, "connections": 1}),
        )
        for name in ("alpha", "beta")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not (fakes.folder / "state/both").exists()
    assert len([call for call in fakes.calls if "--limit-rate 5000000" in call]) == 2


def test_a_long_check_says_amount_rate_and_time_left(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    progress, now = load("progress"), [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    tell = progress.reading(progress.Progress("alpha"), "checking the weights' sha256", lambda: 5 * 10**9)
    for second in range(13):
        now[0] = float(second)
        tell(second * 4 * 10**8)
    assert capsys.readouterr().out.splitlines() == [
        f"alpha: checking the weights' sha256, {done} of 5.0 GB, 400 MB/s, {left} left, {clock}"
        for done, left, clock in (("2.0 GB", "7 s", "5 s"), ("4.0 GB", "2 s", "10 s"))
    ]
    unknown = progress.reading(progress.Progress("alpha"), "checking", lambda: (tmp_path / "none").stat().st_size)
    now[0] = 20.0
    unknown(1)
    assert "checking, 1 B, " in capsys.readouterr().out
