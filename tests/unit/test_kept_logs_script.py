"""files/kept_logs.py on a host: what is kept of a container's log, for whom, and for how long."""

import os
import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack import paths
from tests.unit.host_programs import Fakes, load

ID = "a" * 64


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("kept_logs")
    module.LOGS = str(tmp_path / "logs")
    module.kept_log = lambda user, name, kind: paths.kept_log(user, name, kind).replace(paths.LOGS, module.LOGS)
    monkeypatch.setattr(os, "chown", lambda *arguments: None)  # the tests need no root
    return module


def daemon(user: str = "") -> Any:
    """What kept_logs.py uses of a Dockerd."""
    return SimpleNamespace(
        user=user, allowed=lambda limit: limit, docker=lambda *words: ["docker", *words],
        without_secrets=lambda text: text.replace("sk-old", "•••").replace("sk-new", "•••"),
    )  # fmt: skip


def keep(kept: Any, user: str = "", kind: str = "failed") -> str:
    return str(kept.keep(daemon(user), "alpha", ID, kind, ["hf_token"]))


@pytest.mark.parametrize(("user", "kind", "place"), [
    ("", "failed", "_/alpha.failed.log"), ("ada", "previous", "ada/alpha.previous.log"),
])  # fmt: skip
def test_keeps_log_for_root_alone(kept: Any, fakes: Fakes, user: str, kind: str, place: str) -> None:
    fakes.add("docker", r"printf 'loading sk-old, sk-new\nhf_token\n'; printf 'CUDA error\n' >&2")
    path = Path(keep(kept, user, kind))
    assert str(path) == f"{kept.LOGS}/{place}"
    assert path.read_text() == "loading •••, •••\n•••\nCUDA error\n"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)] == [
        0o600, 0o700, 0o700,
    ]  # fmt: skip
    assert fakes.calls == [f"docker logs --tail 20000 {ID}"]


def test_keeps_whole_lines_of_the_end(kept: Any, fakes: Fakes) -> None:
    """A key at the border would be half a key, which nothing masks."""
    kept.LARGEST = 1000
    fakes.add("docker", 'i=0; while [ $i -lt 300 ]; do echo "line $i sk-old"; i=$((i+1)); done')
    text = Path(keep(kept)).read_text()
    assert 900 < len(text.encode()) <= 1000
    assert text.startswith("line ")
    assert text.endswith("line 299 •••\n")
    assert "sk-" not in text


def test_replaces_characters_that_control_a_terminal(kept: Any, fakes: Fakes) -> None:
    fakes.add("docker", r"printf '\033[31mred\033[0m \033]0;title\007\r\n 1%%\r 2%%\n\377\n'")
    assert Path(keep(kept)).read_text() == "red �]0;title�\n 1%\n 2%\n�\n"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'configured logging driver does not support reading' >&2; exit 1", "does not support reading"),
        ("exec sleep 20", "did not end within 0.3 s"),
        ("echo x", "Not a directory"),
    ],
    ids=["driver", "hangs", "disk"],
)
def test_says_why_a_log_was_not_kept(kept: Any, fakes: Fakes, capsys: Any, script: str, why: str) -> None:
    fakes.add("docker", script)
    kept.PATIENCE = 0.3 if "sleep" in script else 60
    if script == "echo x":
        Path(kept.LOGS).write_text("no folder")
    assert keep(kept) == ""
    said = capsys.readouterr().out
    assert said.startswith("alpha: its log was not kept: ")
    assert why in said


def test_removes_old_logs(kept: Any) -> None:
    now = time.time()
    for name, days in (("old", 15), ("new", 13)):
        path = Path(kept.kept_log("", name, "failed"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (now - days * 86400,) * 2)
    kept.expire()
    assert [path.name for path in Path(kept.LOGS).rglob("*.log")] == ["new.failed.log"]


def test_quotes_last_lines(kept: Any, fakes: Fakes) -> None:
    fakes.add("docker", 'case "$*" in *"--tail 12 "*) echo "CUDA error sk-old"; echo; echo bye;; esac')
    assert kept.quoted(daemon(), ID) == "\n    | CUDA error •••\n    | bye"
    fakes.add("docker", "exit 1")
    assert kept.quoted(daemon(), ID) == ""
