"""files/rootless.py as a user on a host, with fakes of the setup tool and systemd; and files/dockerd-rootless."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.host_programs import FILES, Fakes, load

TOOL = "dockerd-rootless-setuptool.sh"
NO_MODULE = "modprobe ip_tables\\nAlternatively iptables checks can be disabled with --skip-iptables ."


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: Fakes) -> Any:
    home, runtime = tmp_path / "home", tmp_path / "runtime"
    for folder in (home, runtime):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1001/docker.sock")
    monkeypatch.setenv("USER", "ada")
    for name in ("systemctl", "journalctl", "unshare", "docker", TOOL):
        fakes.add(name, "")
    return load("rootless")


def set_up(script: Any, **files: Any) -> None:
    script.JOB = json.dumps({"files": files})
    script.main()


def test_writes_files_then_runs_tool_and_keeps_marker(script: Any, fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "home/old").write_text("x")
    set_up(script, **{"a/b.conf": "text\n", "old": None, "never": None})
    assert (tmp_path / "home/a/b.conf").read_text() == "text\n"
    assert not (tmp_path / "home/old").exists()
    assert (tmp_path / "runtime/gpurack-docker-restart").read_text() == "restart\n"
    assert fakes.calls == [
        "systemctl --user daemon-reload",
        "systemctl --user reset-failed docker.service",
        f"{TOOL} install --force",
    ]


@pytest.mark.parametrize(("works", "flag"), [(True, ""), (False, " --iptables=false")])
def test_skips_iptables_only_where_it_does_not_work(script: Any, fakes: Fakes, works: bool, flag: str) -> None:
    unit = Path(script.UNIT)
    unit.parent.mkdir(parents=True)
    fakes.add(
        TOOL,
        f'case "$*" in *--skip-iptables) echo "ExecStart=/usr/bin/dockerd-rootless.sh --iptables=false" >{unit};; '
        f'*) printf "{NO_MODULE}\\n"; exit 1;; esac',
    )
    fakes.add("unshare", f"exit {0 if works else 1}")
    set_up(script)
    assert unit.read_text() == f"ExecStart=/usr/bin/dockerd-rootless.sh{flag}\n"


def test_finishes_setup_that_debians_tool_aborts(script: Any, fakes: Fakes) -> None:
    fakes.add(TOOL, 'echo "docker: not found"; exit 1')
    fakes.add("docker", '[ "$1 $2" != "context inspect" ]')
    set_up(script)
    assert fakes.calls[-5:] == [
        "docker info",
        "systemctl --user enable docker.service",
        "docker context inspect rootless",
        "docker context create rootless --docker host=unix:///run/user/1001/docker.sock",
        "docker context use rootless",
    ]


def test_failed_setup_prints_reason_and_keeps_marker(
    script: Any, fakes: Fakes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.add(TOOL, 'echo "[ERROR] RootlessKit failed"; exit 1')
    fakes.add("docker", "exit 1")
    fakes.add("journalctl", "echo newuidmap: write to uid_map failed")
    with pytest.raises(SystemExit):
        set_up(script)
    said = capsys.readouterr().err
    assert said.startswith("error cannot set up rootless Docker for ada.")
    assert "| [ERROR] RootlessKit failed" in said
    assert "| newuidmap: write to uid_map failed" in said
    assert (tmp_path / "runtime/gpurack-docker-restart").exists()


def test_wrapper_replaces_links_by_folders_and_runs_dockerd(fakes: Fakes, tmp_path: Path) -> None:
    """The real one mounts in its own namespaces; here mount is a fake on folders of the test."""
    for name in ("etc/cdi", "run/cdi", "real"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "real").mkdir()
    (tmp_path / "etc/cdi").symlink_to(tmp_path / "real")
    (tmp_path / "run/cdi").symlink_to(tmp_path / "missing")
    fakes.add("mount", "")
    fakes.add("dockerd", "")
    text = (FILES / "dockerd-rootless").read_text()
    text = text.replace("/etc/cdi /run/cdi;", f"{tmp_path}/etc/cdi {tmp_path}/run/cdi;")
    subprocess.run(["sh", "-c", text, "dockerd-rootless", "--debug"], check=True)
    assert fakes.calls == [f"mount --rbind {tmp_path}/real {tmp_path}/etc/cdi", "dockerd --debug"]
    assert not (tmp_path / "etc/cdi").is_symlink()
