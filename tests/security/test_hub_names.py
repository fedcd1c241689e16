"""Answers of hubs, mirrors and file servers: no name leads out of its folder, no redirect leads to a file."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.host_programs import Fakes, load
from tests.unit.test_fetch_hubs import COMMIT, Hub, fetcher, hub, there, wanted, why  # noqa: F401
from tests.unit.test_fetch_script import SHA

# ruff: noqa: F811 - fixtures

HOSTILE = [
    "../../etc/cron.d/x.json",
    "/etc/cron.d/x.json",
    "a/../../x.json",
    "./x.json",
    "a//x.json",
    "a/",
    "..",
    "",
    "x\n@@ files.json",
    "x\x1b[2J.json",
    "x\u202egpj.json",
    "x\x00.json",
    "\ud800.json",
    "x" * 250 + ".json",
    7,
    None,
    ["a.json"],
]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_refuses_name_outside_folder(
    fetcher: Any, hub: Hub, wanted: dict[str, str], name: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then nothing is fetched, not even other listed files."""
    siblings = [*hub.siblings(), {"rfilename": name, "size": 2}]
    monkeypatch.setattr(hub, "siblings", lambda: siblings)
    before = sorted(tmp_path.rglob("*"))
    assert (
        why(fetcher, wanted)
        == f"{hub.url} lists the file name {name!r}, which is not a valid path; nothing was fetched"
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert [path for path in hub.gets("hub") if "resolve" in path] == []


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_checks_names_of_other_hub(
    fetcher: Any, hub: Hub, wanted: dict[str, str], name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = hub.modelscope()
    answer["Data"]["Files"].append({"Path": name, "Type": "blob", "Size": 2, "Sha256": SHA})
    monkeypatch.setattr(hub, "modelscope", lambda: answer)
    said = why(fetcher, {**wanted, "hub": "modelscope", "revision": "master"})
    assert "which is not a valid path; nothing was fetched" in said


@given(name=st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "", "a", "b.json", "\n"])).map("/".join))
def test_accepted_name_stays_in_folder(name: str) -> None:
    fetch = load("fetch")
    try:
        fetch.checked_list("https://hub", [(name, 1, None)], None)
    except fetch.Failure:
        return
    path = Path("/w/part") / name
    assert path.resolve().is_relative_to("/w/part")
    assert path.resolve() != Path("/w/part")
    assert name.isprintable()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", -1), ("size", "7"), ("size", 1.5), ("size", True), ("lfs", {"sha256": "../x"}), ("lfs", {"sha256": 7}),
        ("lfs", "x"),
    ],
)  # fmt: skip
def test_refuses_invalid_sizes_and_digests(
    fetcher: Any, hub: Hub, wanted: dict[str, str], field: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    siblings = [{"rfilename": "config.json", "size": 2, field: value}]
    monkeypatch.setattr(hub, "siblings", lambda: siblings)
    assert why(fetcher, wanted) == f"{hub.url} does not answer like a hub. Check `mirrors`"


@pytest.mark.parametrize("commit", ["../../../x", "main", f"{COMMIT}\nerror alpha: x", "", 7])
def test_refuses_invalid_commit(fetcher: Any, hub: Hub, wanted: dict[str, str], commit: Any) -> None:
    """It becomes part of URLs, and of what gpurack lock reads."""
    hub.commit = commit
    assert why(fetcher, wanted) == f"{hub.url} does not answer like a hub. Check `mirrors`"


def test_limits_size_of_answer(fetcher: Any, hub: Hub, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "LARGEST_ANSWER", 1000)
    monkeypatch.setattr(hub, "answer", lambda who, request: (200, {}, b"[" * 100_000))
    assert why(fetcher, wanted) == f"{hub.url} sent an endless answer. Check `mirrors`"


BODIES = [b"", b"[]", b"7", b"{}", b'{"sha": 7, "siblings": {}}', b"[" * 100_000, b'{"Code": 200, "Data": []}', b"\xff"]


@pytest.mark.parametrize("kind", ["hf", "modelscope"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:12]))
def test_any_answer_is_one_error(
    fetcher: Any, hub: Hub, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: Any, body: bytes, kind: str
) -> None:
    """In a run, and in `gpurack lock --upgrade`, which asks for a commit."""
    monkeypatch.setattr(hub, "answer", lambda who, request: (200, {}, body))
    asked = {**wanted, "hub": kind, "revision": "main"}
    assert re.search("does not answer like a hub. Check `mirrors`$|^ModelScope .* has no ", why(fetcher, asked))
    one = {"name": "alpha", "fetch": asked, "place": asked["path"]}
    load("newest").main({"images": [], "hubs": [one], "logins": {}, "hf_token": None})
    [line] = capfd.readouterr().out.splitlines()
    assert line.startswith("error alpha: ")


@pytest.mark.parametrize("said", ["[" * 100_000, "{}", "null", "[7, null]", "", "x"], ids=lambda text: text[:9])
def test_invalid_docker_output_has_no_digest(monkeypatch: pytest.MonkeyPatch, capfd: Any, said: str) -> None:
    module = load("newest")
    monkeypatch.setattr(module, "pull_alone", lambda *_: None)
    monkeypatch.setattr(module, "Dockerd", lambda user: SimpleNamespace(must=lambda *_: said))
    one = {"name": "alpha", "user": "eve", "image": "some/app:1.2"}
    module.main({"images": [one], "hubs": [], "logins": {}, "hf_token": None})
    assert capfd.readouterr().out == "error alpha: image some/app:1.2 has no digest of a registry\n"


# --- curl ------------------------------------------------------------------------------------------------------------


def test_curl_reads_no_configuration(
    fetcher: Any, hub: Hub, wanted: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".curlrc").write_text(f'trace-ascii = "{tmp_path}/trace"\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CURL_HOME", str(home))
    fetcher.obtain("alpha", wanted)
    assert there(wanted["path"])
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("url", ["http://h/{a,b}", "http://h/[1-999999]", "-K/home/eve/c", "--output=/etc/x"])
def test_url_is_never_an_option(fetcher: Any, fakes: Fakes, url: str) -> None:
    fakes.add("curl", 'printf "%s\\n" "$@" >"$STATE/argv"; exit 6')
    for ask in (lambda: fetcher.remote_size(url), lambda: fetcher.request(url, None)):
        with contextlib.suppress(fetcher.Failure):
            ask()
        argv = (fakes.folder / "state/argv").read_text().splitlines()
        assert argv[:2] == ["-q", "-g"]
        assert argv[-2:] == ["--url", url]
        for option in ("--proto", "--proto-redir"):
            assert argv[argv.index(option) + 1] == "=http,https"


@pytest.mark.parametrize("url", ["http://h/a b", "http://h/a\nb", "http://h/\x1b[2J"])
def test_refuses_url_with_more_in_it(fetcher: Any, fakes: Fakes, url: str) -> None:
    fakes.add("curl", "exit 6")
    with pytest.raises(fetcher.Failure, match="is not a valid URL, so nothing was fetched"):
        fetcher.request(url, None)
    assert fakes.calls == []


@pytest.mark.parametrize("token", ["hf_x\noutput = /etc/cron.d/x", "hf_x\r", "hf_\x00"])
def test_refuses_token_with_newline(fetcher: Any, fakes: Fakes, token: str, tmp_path: Path) -> None:
    fakes.add("curl", "exit 6")
    for ask in (
        lambda: fetcher.request("http://h/", token),
        lambda: fetcher.download_file(
            "alpha", fetcher.Source("http://h/", token), fetcher.Growing(str(tmp_path / "x")), 1
        ),
    ):
        with pytest.raises(fetcher.Failure, match="`hf_token` contains a control character") as failure:
            ask()
        assert "hf_x" not in str(failure.value)
    assert fakes.calls == []


@pytest.mark.parametrize(
    "location", ["file:///etc/shadow", "FILE:///etc/shadow", "gopher://h/", "scp://h/x", "ldap://h/"]
)
def test_refuses_redirect_to_file(fetcher: Any, hub: Hub, location: str, tmp_path: Path) -> None:
    hub.refuses["/w.gguf"] = (302, {"Location": location})
    told = {"url": f"{hub.url}/w.gguf", "sha256": SHA, "path": str(tmp_path / "w/a.gguf")}
    with pytest.raises(fetcher.Failure, match="cannot fetch weights"):
        fetcher.obtain("alpha", told)
    with pytest.raises(fetcher.Failure, match="cannot fetch weights"):
        fetcher.download_file("alpha", fetcher.Source(told["url"]), fetcher.Growing(str(tmp_path / "w/b.part")), None)
    assert list((tmp_path / "w").iterdir()) == []


# --- what is written down --------------------------------------------------------------------------------------------


def test_does_not_wait_for_fifo_as_record(fetcher: Any, wanted: dict[str, str]) -> None:
    """It is beside a folder of weights, where users may write."""
    Path(wanted["path"]).mkdir(parents=True)
    os.mkfifo(wanted["path"] + ".json")
    assert fetcher.left_behind({**wanted, "commit": COMMIT}) is False
    Path(wanted["path"] + ".json").unlink()
    Path(wanted["path"] + ".json").write_text(json.dumps(["no map"]))
    assert fetcher.left_behind({**wanted, "commit": COMMIT}) is False
