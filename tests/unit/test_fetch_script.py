"""files/fetch.py on a host: weights fetched over real HTTP by the real curl."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from tests.unit.host_programs import Fakes, load

CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()


class Weights(BaseHTTPRequestHandler):
    """Serves CONTENT; with `ranges` like most servers, without like `python -m http.server`."""

    ranges: ClassVar[bool] = True
    sized: ClassVar[bool] = True
    status: ClassVar[int] = 200
    gets: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.gets.append(self.headers.get("Range", ""))
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        begin, status = 0, self.status
        if self.ranges and "Range" in self.headers:
            begin = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
            status = 416 if begin >= len(CONTENT) else 206
        data = CONTENT[begin:] if status in (200, 206) else b""
        self.send_response(status)
        if self.sized or status == 416:
            self.send_header("Content-Length", str(len(data)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[tuple[type[Weights], str]]:
    handler = type("Handler", (Weights,), {"gets": []})
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
    return load("fetch")


def wanted(url: str, sha256: str, path: Path) -> dict[str, str]:
    return {"url": url, "sha256": sha256, "path": str(path)}


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (9.9, "0:09"), (75, "1:15"), (3600, "60:00")])
def test_formats_duration(seconds: float, text: str) -> None:
    assert load("common").clock(seconds) == text


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
    with pytest.raises(fetcher.Failure, match=f"have sha256 {SHA}, not {'0' * 64}, and were deleted"):
        fetcher.obtain("alpha", wanted(server[1], "0" * 64, tmp_path / "a.gguf"))
    assert list(tmp_path.glob("a.gguf*")) == []


def test_reports_missing_file_with_message_of_curl(fetcher: Any, server: Any, tmp_path: Path) -> None:
    server[0].status = 404
    with pytest.raises(fetcher.Failure, match=r"cannot fetch weights from .*: curl: \(22\) .*404.* Try it on the host"):
        fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "a.gguf"))


def test_checks_free_space_before_download(
    fetcher: Any, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(
        fetcher.Failure, match=r"weights need 10\.2 kB more, but .* has 10 B free. Free some space there"
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
