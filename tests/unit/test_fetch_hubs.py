"""files/fetch.py and hubs: repositories fetched by the real curl from servers that answer like hubs."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.unit.host_programs import FILES, Fakes, load

pytestmark = pytest.mark.sampled

COMMIT = "27dcfa74d334bc871f3234de431e71c6eeba5dd6"
TOKEN = 'hf_se"c\\ret'
TENSORS = bytes(range(256)) * 400


@dataclass
class Hub:
    """A repository lab/tiny on a hub, with its large files on a storage of another origin.

    token: required, if set. refuses: (status, headers) of the next answers, by prefix of the path. asked: (who, method,
    path, Authorization, Range) of each request. cut: sends half of a large file, then waits for `go_on`."""

    files: dict[str, bytes]
    large: frozenset[str] = frozenset({"model.safetensors"})
    token: str | None = None
    commit: str = COMMIT
    latest: dict[str, str] | None = None
    lies: dict[str, str] = field(default_factory=dict)
    refuses: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    asked: list[tuple[str, str, str, str | None, str | None]] = field(default_factory=list)
    cut: bool = False
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    storage: str = ""

    def sha256(self, name: str) -> str:
        return self.lies.get(name) or hashlib.sha256(self.files[name]).hexdigest()

    def answer(self, who: str, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        """Like huggingface.co, or its storage, which accepts no HEAD and no token."""
        path, query = unquote(urlsplit(request.path).path), parse_qs(urlsplit(request.path).query)
        self.asked.append(
            (who, request.command, path, request.headers.get("Authorization"), request.headers.get("Range"))
        )
        if who == "storage":
            if "Authorization" in request.headers or request.command != "GET" or query != {"signed": ["yes"]}:
                return 403, {}, b"<Error>SignatureDoesNotMatch</Error>"
            return 200, {}, self.files[path.removeprefix("/")]
        for beginning, (status, headers) in self.refuses.items():
            if path.startswith(beginning):
                return status, headers, json.dumps({"error": headers.get("X-Error-Message", "no")}).encode()
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"
        if path == "/api/v1/models/lab/tiny/repo/files":
            assert query["Revision"] in (["master"], [self.commit])
            return 200, {}, json.dumps(self.modelscope()).encode()
        if path in (f"/api/models/lab/tiny/revision/{revision}" for revision in ("main", self.commit)):
            assert query == {"blobs": ["true"]}
            return 200, {}, json.dumps({"sha": self.commit, "siblings": self.siblings()}).encode()
        name = path.partition(f"/lab/tiny/resolve/{self.commit}/")[2] or path.partition("/resolve/master/")[2]
        if name in self.large:
            return 302, {"Location": f"{self.storage}/{name}?signed=yes"}, b""
        if name in self.files:
            return 307, {"Location": f"/api/resolve-cache/{name}"}, b""
        if path.startswith("/api/resolve-cache/"):
            return 200, {}, self.files[path.removeprefix("/api/resolve-cache/")]
        return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"

    def siblings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        for one in found:
            if one["rfilename"] in self.large:
                one["lfs"] = {"sha256": self.sha256(one["rfilename"]), "size": one["size"], "pointerSize": 134}
        return found

    def modelscope(self) -> dict[str, Any]:
        files: list[dict[str, Any]] = [{"Path": "docs", "Name": "docs", "Type": "tree", "Size": 0, "Sha256": ""}]
        for name, data in self.files.items():
            changed = self.commit if name == "config.json" else "0" * 40
            one = {"Path": name, "Type": "blob", "Size": len(data), "Sha256": self.sha256(name), "Revision": changed}
            files.append(one)
        return {"Code": 200, "Data": {"Files": files, "LatestCommitter": self.latest}, "Success": True}

    def gets(self, who: str) -> list[str]:
        return [path for asked, method, path, _, _ in self.asked if asked == who and method == "GET"]


def handler(hub: Hub, who: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, data = hub.answer(who, self)
            if status == 200 and "Range" in self.headers:
                begin = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
                status, headers = 206, {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
                data = data[begin:]
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET" and hub.cut and who == "storage":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                hub.go_on.wait(20)
            elif self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            """Silent."""

    return Handler


FILES_OF_A_MODEL = {
    "config.json": b'{"model_type": "opt"}',
    "tokenizer/vocab file.txt": b"a b",
    "empty.json": b"",
    "model.safetensors": TENSORS,
    "pytorch_model.bin": b"the same once more",
    "onnx/config.json": b"{}",
    "README.md": b"# tiny",
    "card.png": b"png",
}
NEEDED = ["config.json", "empty.json", "model.safetensors", "tokenizer/vocab file.txt"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(dict(FILES_OF_A_MODEL))
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(made, who)) for who in ("hub", "storage")]
    made.url, made.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}) for server in servers]
    for thread in threads:
        thread.start()
    yield made
    made.go_on.set()
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def fetcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return load("fetch")


@pytest.fixture
def wanted(hub: Hub, tmp_path: Path) -> dict[str, str]:
    path = str(tmp_path / "hf/lab--tiny@main")
    return {"hub": "hf", "repo": "lab/tiny", "revision": "main", "endpoint": hub.url, "path": path}


def there(folder: str) -> list[str]:
    """The files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def why(fetcher: Any, wanted: dict[str, str], token: str | None = None) -> str:
    with pytest.raises(fetcher.Failure) as failure:
        fetcher.obtain("alpha", wanted, token)
    assert not Path(wanted["path"]).exists()
    return str(failure.value)


def test_fetches_needed_files_as_folder(
    fetcher: Any, hub: Hub, wanted: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    fetcher.obtain("alpha", wanted)
    assert there(wanted["path"]) == NEEDED
    for name in NEEDED:
        assert (Path(wanted["path"]) / name).read_bytes() == FILES_OF_A_MODEL[name]
    assert hub.gets("storage") == ["/model.safetensors"]
    assert capsys.readouterr().out == f"alpha: fetched lab/tiny at commit {COMMIT}, 102 kB in 4 files\n"
    assert sorted(path.name for path in Path(wanted["path"]).parent.iterdir()) == [
        "lab--tiny@main",
        "lab--tiny@main.json",
    ]
    beside = json.loads(Path(wanted["path"] + ".json").read_text())
    assert (beside["commit"], beside["revision"], beside["repo"]) == (COMMIT, "main", "lab/tiny")
    assert beside["files"]["model.safetensors"] == {"sha256": hub.sha256("model.safetensors"), "size": len(TENSORS)}
    fetcher.obtain("beta", {**wanted, "endpoint": "http://127.0.0.1:1"})  # a second model sends no request


def test_sends_token_to_hub_only(
    fetcher: Any, hub: Hub, wanted: dict[str, str], fakes: Fakes, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.token = TOKEN
    fakes.add("curl", f'PATH={os.environ["PATH"].partition(":")[2]} exec curl "$@"')
    fetcher.obtain("alpha", wanted, TOKEN)
    assert there(wanted["path"]) == NEEDED
    assert {sent for who, _, _, sent, _ in hub.asked if who == "hub"} == {f"Bearer {TOKEN}"}
    assert [sent for who, _, _, sent, _ in hub.asked if who == "storage"] == [None]
    assert len(fakes.calls) > len(NEEDED)
    written = b"".join(path.read_bytes() for path in (tmp_path / "hf").rglob("*") if path.is_file())
    said = "".join(capfd.readouterr())
    for secret in (TOKEN, "hf_se", "ret'"):
        assert secret not in fakes.log.read_text() + said
        assert secret.encode() not in written


@pytest.mark.parametrize("where", ["/api/models", "/lab/tiny/resolve"])
@pytest.mark.parametrize(
    ("token", "status", "headers", "sentence"),
    [
        (None, 401, {"X-Error-Message": "Repository not found"},
         "the Hub {url} denies lab/tiny without a token (HTTP 401: Repository not found): it is gated, private "
         "or does not exist. Correct its name, or accept its terms at {url}/lab/tiny and set `hf_token`"),
        ("hf_x", 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model lab/tiny is restricted."},
         "the Hub {url} denies lab/tiny to this `hf_token` (HTTP 403: Access to model lab/tiny is restricted). "
         "Request access at {url}/lab/tiny with its account, or use another token"),
        ("hf_x", 401, {}, "the Hub {url} denies lab/tiny to this `hf_token` (HTTP 401{no}). Request access at "
         "{url}/lab/tiny with its account, or use another token"),
        (None, 404, {"X-Error-Code": "RevisionNotFound"},
         "the Hub {url} has no revision main of lab/tiny. Correct `revision`, see {url}/lab/tiny/commits"),
        (None, 404, {"X-Error-Code": "RepoNotFound"},
         "the Hub {url} has no lab/tiny in revision main (HTTP 404{no}). Correct `hf` or `revision`, "
         "see {url}/lab/tiny"),
        (None, 451, {}, "the Hub {url} cannot serve lab/tiny now (HTTP 451{no}). Try again later, or set a mirror in "
         "`mirrors.huggingface`"),
    ],
)  # fmt: skip
def test_explains_refusal_with_hint(
    fetcher: Any, hub: Hub, wanted: dict[str, str], where: str, token: str | None, status: int,
    headers: dict[str, str], sentence: str,
) -> None:  # fmt: skip
    """For the list of files and for a file: the list of a gated repository is public."""
    hub.refuses[where] = (status, headers)
    no = ": no" if where.startswith("/api") else ""  # the answer to a HEAD has no body
    assert why(fetcher, wanted, token) == sentence.format(url=hub.url, no=no)


def test_reports_unreachable_hub(fetcher: Any, wanted: dict[str, str]) -> None:
    said = why(fetcher, {**wanted, "endpoint": "http://127.0.0.1:1"})
    assert said.startswith("http://127.0.0.1:1 is not reachable from this host: curl: (7) ")
    assert said.endswith("Set a mirror in `mirrors`, or copy the weights to the host and set `weights` to their path.")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"sha": null, "siblings": null}', b'"text"'])
def test_reports_server_that_is_not_a_hub(
    fetcher: Any, hub: Hub, wanted: dict[str, str], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "answer", lambda who, request: (200, {}, body))
    assert why(fetcher, wanted) == f"{hub.url} does not answer like a hub. Check `mirrors`"


def test_deletes_file_with_other_content_than_listed(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    hub.lies["model.safetensors"] = "0" * 64
    said = why(fetcher, wanted)
    assert said.startswith(f"model.safetensors of lab/tiny does not match the list of {hub.url} (sha256 ")
    assert said.endswith(f"not {'0' * 64}) and was deleted. Run again; if it happens again, check the mirror")
    assert not list(Path(wanted["path"]).parent.rglob("model.safetensors*"))


def test_deletes_file_with_other_size_than_listed(
    fetcher: Any, hub: Hub, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    siblings = [{**one, "size": one["size"] + 1} for one in hub.siblings()]
    monkeypatch.setattr(hub, "siblings", lambda: siblings)
    assert f"config.json of lab/tiny does not match the list of {hub.url} (21 B, not 22 B)" in why(fetcher, wanted)


def test_accepts_mirror_without_sizes(
    fetcher: Any, hub: Hub, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub.files["empty.json"]  # curl creates no file for an empty one, and no size is listed
    siblings = [{"rfilename": name} for name in hub.files]
    monkeypatch.setattr(hub, "siblings", lambda: siblings)
    fetcher.obtain("alpha", wanted)
    assert (Path(wanted["path"]) / "model.safetensors").read_bytes() == TENSORS


def test_next_run_resumes_killed_download(fetcher: Any, hub: Hub, wanted: dict[str, str], tmp_path: Path) -> None:
    """Killed together with its curl in the middle of the large file, as by a reboot."""
    hub.cut = True
    program = "import json, sys, fetch; fetch.obtain('a', json.loads(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", program, json.dumps(wanted)],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(FILES)},
    )
    until(lambda: [path for path in tmp_path.rglob("model.safetensors.part") if path.stat().st_size])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (part,) = tmp_path.rglob("model.safetensors.part")
    have = part.stat().st_size
    assert 0 < have < len(TENSORS)
    assert not Path(wanted["path"]).exists()
    hub.cut = False
    hub.go_on.set()
    hub.asked.clear()
    fetcher.obtain("alpha", wanted)
    assert there(wanted["path"]) == NEEDED
    assert (Path(wanted["path"]) / "model.safetensors").read_bytes() == TENSORS
    assert [request[4] for request in hub.asked if request[0] == "storage"] == [f"bytes={have}-"]
    assert "/api/resolve-cache/config.json" not in hub.gets("hub"), "what was whole is not fetched again"


def test_fetches_all_files_anew_after_branch_moved(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    """Files of two commits together would be a model that nobody published."""
    hub.refuses["/lab/tiny/resolve"] = (500 + 51, {})
    why(fetcher, wanted)
    (old,) = Path(wanted["path"]).parent.glob("*.part")
    stranger = Path(wanted["path"] + ".1.0123456789ab.part")  # of revision "main.1"
    stranger.mkdir()
    hub.refuses.clear()
    hub.commit = "f" * 40
    fetcher.obtain("alpha", wanted)
    assert not old.exists()
    assert stranger.exists()
    assert json.loads(Path(wanted["path"] + ".json").read_text())["commit"] == "f" * 40


def locked(hub: Hub, wanted: dict[str, str], **over: str) -> dict[str, Any]:
    """The runner's payload with a lock: the commit, and each file's sha256."""
    files = {name: hub.sha256(name) for name in NEEDED} | over
    return {**wanted, "commit": COMMIT, "sha256": {f"{wanted['path']}/{name}": sha for name, sha in files.items()}}


def test_locked_commit_needs_no_request_for_branch(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    fetcher.obtain("alpha", locked(hub, wanted))
    assert there(wanted["path"]) == NEEDED
    assert f"/api/models/lab/tiny/revision/{COMMIT}" in hub.gets("hub")
    assert "/api/models/lab/tiny/revision/main" not in hub.gets("hub")
    assert json.loads(Path(f"{wanted['path']}.json").read_text())["revision"] == "main"


def test_refuses_file_changed_under_same_commit(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    """Once the hub lists another sha256 already, once only the fetched file differs."""
    before = locked(hub, wanted)
    hub.files["config.json"] = hub.files["config.json"].upper()
    said = why(fetcher, before)
    assert said.startswith("config.json of lab/tiny does not match the lock (sha256 ")
    assert not Path(wanted["path"]).exists()
    hub.files["model.safetensors"] = b"others"
    asked = len(hub.asked)
    said = why(fetcher, before)
    had, listed = before["sha256"][f"{wanted['path']}/model.safetensors"], hub.sha256("model.safetensors")
    assert said.startswith(
        f"model.safetensors of lab/tiny has sha256 {had} in the lock, but {hub.url} lists sha256 {listed}."
    )
    assert said.endswith("To accept the current version: gpurack lock INVENTORY MODEL --upgrade")
    assert len(hub.asked) == asked + 1, "only the list was asked for"


def test_folder_of_other_commit_is_replaced_later_where_it_serves(
    fetcher: Any, hub: Hub, wanted: dict[str, str]
) -> None:
    hub.commit = "b" * 40
    fetcher.obtain("alpha", {**wanted, "commit": "b" * 40})
    hub.commit, before = COMMIT, Path(wanted["path"] + ".json").read_text()
    locked = {**wanted, "commit": COMMIT}
    fetcher.obtain("alpha", locked, ahead=True)
    assert Path(wanted["path"] + ".json").read_text() == before
    assert fetcher.lacks_weights(locked)
    del hub.asked[:]
    fetcher.obtain("alpha", locked)
    assert hub.gets("storage") == [], "all of it is here"
    assert not fetcher.lacks_weights(locked)


def test_replaces_folder_of_other_commit(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    before = locked(hub, wanted)
    config = Path(wanted["path"]) / "config.json"
    hub.commit, old, hub.files["config.json"] = "b" * 40, hub.files["config.json"], b"{}"
    fetcher.obtain("alpha", wanted)
    hub.commit, hub.files["config.json"] = COMMIT, old
    fetcher.obtain("alpha", wanted)  # without a lock the existing files stay
    assert config.read_bytes() == b"{}"
    fetcher.obtain("alpha", before)
    assert config.read_bytes() == old
    assert there(wanted["path"]) == NEEDED
    beside = sorted(path.name for path in Path(wanted["path"]).parent.iterdir())
    assert beside == ["lab--tiny@main", "lab--tiny@main.json"]


def test_checks_weights_against_lock(fetcher: Any, tmp_path: Path) -> None:
    file = tmp_path / "w.gguf"
    file.write_bytes(b"one")
    right, gone = hashlib.sha256(b"one").hexdigest(), str(tmp_path / "gone")
    fetcher.check_locked("alpha", {str(file): right}, "put it back")
    with pytest.raises(fetcher.Failure) as raised:
        fetcher.check_locked("alpha", {str(file): "0" * 64}, "put it back")
    assert str(raised.value) == (
        f"{file} does not match the lock: its sha256 is {right}, not {'0' * 64}. To restore the old one, put it back; "
        "to accept the new one, gpurack lock INVENTORY alpha --upgrade."
    )
    with pytest.raises(fetcher.Failure, match="its sha256 is unreadable \\(No such file or directory\\), not 000"):
        fetcher.check_locked("alpha", {gone: "0" * 64}, "put it back")


def test_checks_free_space_first(
    fetcher: Any, hub: Hub, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher.room, "PROMISED", {})
    monkeypatch.setattr(fetcher.room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    assert why(fetcher, wanted).startswith("weights need 102 kB more, but ")
    assert hub.gets("storage") == []


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a/../../x.json", "a//x.json", "./x.json"])
def test_writes_no_file_outside_its_folder(
    fetcher: Any, hub: Hub, wanted: dict[str, str], name: str, tmp_path: Path
) -> None:
    """The runner is root, and the mirror may be hostile."""
    hub.files[name] = b"{}"
    said = why(fetcher, wanted)
    assert said == f"{hub.url} lists the file name {name!r}, which is not a valid path; nothing was fetched"
    assert there(str(tmp_path)) == []


def test_does_not_send_token_to_changed_redirect(
    fetcher: Any, hub: Hub, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The redirect appears between HEAD and GET."""
    answer = hub.answer

    def late(who: str, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        head = request.command == "HEAD" and "/resolve/" in request.path
        return (200, {}, b"") if head else answer(who, request)

    monkeypatch.setattr(hub, "answer", late)
    assert "does not match the list" in why(fetcher, wanted, TOKEN)
    assert [request for request in hub.asked if request[0] == "storage"] == []


@pytest.mark.parametrize("where", ["/api/models", "/lab/tiny/resolve"])
@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_refuses_other_protocols(fetcher: Any, hub: Hub, wanted: dict[str, str], where: str, location: str) -> None:
    hub.refuses[where] = (302, {"Location": location})
    assert "curl: (1) Protocol" in why(fetcher, wanted)


def test_limits_redirects(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    hub.refuses["/api/models"] = (307, {"Location": "/api/models/lab/tiny/revision/main"})
    assert why(fetcher, wanted).endswith("redirects more than 8 times. Check `mirrors`")


# --- what is needed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ("config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json "
         "pytorch_model-00001-of-00002.bin tf_model.h5 flax_model.msgpack rust_model.ot .gitattributes a.jpg",
         "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json"),
        ("config.json pytorch_model.bin training_args.bin optimizer.pt merges.txt",
         "config.json pytorch_model.bin merges.txt"),
        ("modules.json model.safetensors 1_Pooling/config.json 2_Dense/pytorch_model.bin onnx/model.onnx "
         "onnx/config.json",
         "modules.json model.safetensors 1_Pooling/config.json 2_Dense/pytorch_model.bin"),
        ("model.safetensors consolidated.safetensors params.json", "model.safetensors params.json"),
        ("consolidated.safetensors params.json tekken.json", "consolidated.safetensors params.json tekken.json"),
        ("model.safetensors original/consolidated.00.pth original/params.json tokenizer.model qwen.tiktoken "
         "modeling_x.py chat_template.jinja",
         "model.safetensors tokenizer.model qwen.tiktoken modeling_x.py chat_template.jinja"),
        ("model.safetensors model-q4.gguf", "model.safetensors"),
        ("README.md config.json model-q4.gguf", "config.json model-q4.gguf"),
        ("q4-00001-of-00002.gguf q4-00002-of-00002.gguf", "q4-00001-of-00002.gguf q4-00002-of-00002.gguf"),
    ],
)  # fmt: skip
def test_selects_needed_files(fetcher: Any, names: str, needed: str) -> None:
    assert [name for name, _, _ in fetcher.needed([(name, 1, None) for name in names.split()])] == needed.split()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["README.md", "config.json"], "the repository contains no weights"),
        (["q4.gguf", "q8.gguf"], "the repository contains 2 GGUF models. Choose one: "),
    ],
)
def test_refuses_repository_without_weights(fetcher: Any, names: list[str], sentence: str) -> None:
    with pytest.raises(fetcher.Failure, match=sentence):
        fetcher.needed([(name, 1, None) for name in names])


# --- ModelScope ------------------------------------------------------------------------------------------------------


def test_fetches_from_modelscope_without_token(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    """Every file has a sha256."""
    wanted |= {"hub": "modelscope", "revision": "master"}
    fetcher.obtain("alpha", wanted, TOKEN)
    assert there(wanted["path"]) == NEEDED
    assert {request[3] for request in hub.asked} == {None}
    beside = json.loads(Path(wanted["path"] + ".json").read_text())
    assert beside["commit"] is None
    assert beside["files"]["config.json"]["sha256"] == hub.sha256("config.json")


@pytest.mark.parametrize(
    ("latest", "commit"),
    [
        ({"Id": COMMIT, "ShortId": COMMIT[:8]}, COMMIT),
        ({"Id": "", "ShortId": COMMIT[:8]}, COMMIT),
        ({"Id": "", "ShortId": "fffffff"}, None),  # the latest commit deleted a file, so no file is of that commit
        ({"Id": "", "ShortId": ""}, None),
        (None, None),
    ],
    ids=["by its id", "by the file that it changed", "of no file", "empty", "nothing"],
)
def test_records_commit_of_modelscope(
    fetcher: Any, hub: Hub, wanted: dict[str, str], latest: dict[str, str] | None, commit: str | None
) -> None:
    hub.latest = latest
    wanted |= {"hub": "modelscope", "revision": "master"}
    fetcher.obtain("alpha", wanted)
    assert json.loads(Path(wanted["path"] + ".json").read_text())["commit"] == commit


def test_asks_modelscope_for_locked_commit(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    hub.latest = {"Id": COMMIT, "ShortId": COMMIT[:8]}
    fetcher.obtain("alpha", wanted | {"hub": "modelscope", "revision": "master", "commit": COMMIT})
    assert there(wanted["path"]) == NEEDED
    assert not [request for request in hub.asked if "/master/" in request[2]]
    assert f"/models/lab/tiny/resolve/{COMMIT}/config.json" in hub.gets("hub")


@pytest.mark.parametrize(
    ("kind", "latest", "said"),
    [
        ({}, None, f"alpha: now {COMMIT} for /w/a b.gguf\n"),
        (
            {"hub": "modelscope", "revision": "master"},
            {"ShortId": COMMIT[:8]},
            f"alpha: now {COMMIT} for /w/a b.gguf\n",
        ),
        ({"hub": "modelscope", "revision": "master"}, None, ""),
    ],
)
@pytest.mark.usefixtures("fetcher")
def test_prints_current_commit_of_hub(
    hub: Hub, wanted: dict[str, str], capsys: Any, kind: dict[str, str], latest: dict[str, str] | None, said: str
) -> None:
    hub.latest = latest
    asked = {"name": "alpha", "place": "/w/a b.gguf", "fetch": {**wanted, **kind}}
    load("newest").main({"images": [], "hubs": [asked], "logins": {}, "hf_token": None})
    assert capsys.readouterr().out == said


def test_reports_missing_modelscope_repository(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    wanted |= {"hub": "modelscope", "revision": "v9"}
    hub.refuses["/api/v1"] = (404, {"X-Error-Message": "not found"})
    assert why(fetcher, wanted) == (
        f"ModelScope {hub.url} has no lab/tiny in revision v9 (HTTP 404: not found). Correct `modelscope` or "
        f"`revision`, see {hub.url}/models/lab/tiny"
    )


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- one file of a repository ----------------------------------------------------------------------------------------


GGUF = ["README.md", "q4.gguf", "q8.gguf", "big/f16-00001-of-00002.gguf", "big/f16-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("file", "fetched"),
    [
        ("q4.gguf", ["q4.gguf"]),
        ("big/f16-00001-of-00002.gguf", ["big/f16-00001-of-00002.gguf", "big/f16-00002-of-00002.gguf"]),
    ],
)
def test_selects_one_file_with_its_parts(fetcher: Any, file: str, fetched: list[str]) -> None:
    listed = [(name, 1, None) for name in GGUF]
    assert [name for name, _, _ in fetcher.chosen_file(listed, file, "a/b")] == fetched


def test_reports_missing_file(fetcher: Any) -> None:
    with pytest.raises(fetcher.Failure) as error:
        fetcher.chosen_file([(name, 1, None) for name in GGUF[:3]], "q5.gguf", "a/b")
    assert str(error.value) == "a/b has no file q5.gguf. Correct `file`; it has q4.gguf, q8.gguf"


def test_fetches_chosen_file_and_its_record(fetcher: Any, hub: Hub, wanted: dict[str, str]) -> None:
    file = next(iter(hub.files))
    fetcher.obtain("alpha", {**wanted, "file": file})
    assert there(wanted["path"]) == sorted([file, f"{file}.json"])
    assert not Path(wanted["path"] + ".json").exists()
