"""files/daemon_json.py on a host, with fakes of Docker, systemd and nvidia-ctk, and files in a temporary folder."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from gpurack.operations.commands import apply_daemon_json
from gpurack.plan.system.daemon_json import Apply
from gpurack.spec.merge import patch
from tests.given import docker_info
from tests.unit.host_programs import FILES, Fakes, load
from tests.unit.test_merge import VALUES

pytestmark = pytest.mark.sampled

INFO = docker_info()


@pytest.fixture
def script(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("daemon_json")
    module.PATH, module.MARKER = str(tmp_path / "docker/daemon.json"), str(tmp_path / "run/docker-restart")
    module.BACKUPS, module.TIMEOUT = str(tmp_path / "backups"), 0.3
    monkeypatch.setattr(module.docker_restart, "NOTE", str(tmp_path / "docker-restart.json"))
    (tmp_path / "docker").mkdir()
    fakes.state("info", INFO)
    fakes.add(
        "dockerd",
        'case "$1" in --help) echo "--validate";; *) cat "$STATE/refusal" 2>/dev/null && exit 1; exit 0;; esac',
    )
    fakes.add(
        "docker",
        'case "$1" in info) cat "$STATE/info"; echo;; ps) cat "$STATE/ps" 2>/dev/null;; '
        'run) cat "$STATE/run" 2>/dev/null || echo "exec: /x: no such file or directory"; exit 127;; esac; exit 0',
    )
    fakes.add("systemctl", '[ "$1" != restart ] || ! [ -e "$STATE/broken" ] || { cat "$STATE/broken"; exit 1; }')
    fakes.add("journalctl", 'echo "failed to load config"')
    return module


def job(**over: Any) -> dict[str, Any]:
    usual = {
        "patch": {"debug": True}, "configure_runtime": False, "action": "reload", "live_restore": True,
        "expect": {"LiveRestoreEnabled": True}, "probe_gpu": False,
        "of_user": False,
    }  # fmt: skip
    return {**usual, **over}


def run(script: Any, **over: Any) -> None:
    script.JOB = json.dumps(job(**over))
    script.main()


def file_of(script: Any) -> Path:
    return Path(script.PATH)


@given(VALUES, VALUES)
def test_patches_like_the_plan(document: Any, changes: Any) -> None:
    assert load("daemon_json").patched(document, changes) == patch(document, changes)


def test_writes_readable_json_and_removes_marker(script: Any, fakes: Fakes) -> None:
    run(script, patch={"debug": True, "labels": ["größe=1"]})
    assert file_of(script).read_text() == '{\n    "debug": true,\n    "labels": [\n        "größe=1"\n    ]\n}\n'
    assert stat.S_IMODE(file_of(script).stat().st_mode) == 0o644
    assert not Path(script.MARKER).exists()
    assert "systemctl reload docker.service" in fakes.calls
    assert [path.name for path in file_of(script).parent.iterdir()] == ["daemon.json"]


def test_reads_docker_info_among_warnings_and_any_text(script: Any, fakes: Fakes) -> None:
    """A user's client prints what the user's plugins print; only newlines end lines."""
    said = json.dumps({**INFO, "Name": "a\x85b\u2028c"}, ensure_ascii=False)
    fakes.state("info", f'WARNING: Plugin "/home/ada/.docker/x" is not valid\n{said}')
    run(script)
    assert not Path(script.MARKER).exists()


def test_keeps_keys_and_mode_and_makes_backup(script: Any, tmp_path: Path) -> None:
    old = {"insecure-registries": ["r:5000"], "debug": False, "log-opts": {"max-size": "1m"}}
    file_of(script).write_text(json.dumps(old))
    file_of(script).chmod(0o640)
    run(script, patch={"debug": None, "log-opts": {"max-file": "3"}})
    assert json.loads(file_of(script).read_text()) == {
        "insecure-registries": ["r:5000"], "log-opts": {"max-size": "1m", "max-file": "3"}
    }  # fmt: skip
    assert stat.S_IMODE(file_of(script).stat().st_mode) == 0o640
    (backup,) = (tmp_path / "backups").iterdir()
    assert backup.name.startswith("daemon.json.2")
    assert json.loads(backup.read_text()) == old


def test_keeps_symbolic_link(script: Any, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere/daemon.json"
    real.parent.mkdir()
    real.write_text("{}")
    file_of(script).symlink_to(real)
    run(script)
    assert file_of(script).is_symlink()
    assert json.loads(real.read_text()) == {"debug": True}
    assert [path.name for path in real.parent.iterdir()] == ["daemon.json"]


def test_new_file_is_never_more_readable_than_old(script: Any, fakes: Fakes) -> None:
    """It may hold a proxy's password. It is also on disk while dockerd --validate reads it, before the rename."""
    file_of(script).write_text("{}")
    file_of(script).chmod(0o600)
    fakes.add(
        "dockerd",
        'case "$1" in --help) echo "--validate"; exit;; esac; for last; do :; done; '
        'stat -c %a "${last#--config-file=}" >"$STATE/mode"',
    )
    run(script)
    assert (fakes.folder / "state/mode").read_text() == "600\n"


def test_file_rejected_by_dockerd_is_not_installed(
    script: Any, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    file_of(script).write_text('{"a": 1}')
    fakes.state("refusal", "unable to configure the Docker daemon: unknown key debugg")
    with pytest.raises(SystemExit):
        run(script, patch={"debugg": True})
    assert capsys.readouterr().err == (
        "dockerd rejects the new daemon.json, so the old one was kept: unable to configure the Docker daemon: unknown "
        "key debugg\n"
    )
    assert file_of(script).read_text() == '{"a": 1}'
    assert [path.name for path in file_of(script).parent.iterdir()] == ["daemon.json"]
    assert not [call for call in fakes.calls if call.startswith(("systemctl reload", "systemctl restart"))]


def test_skips_validation_by_old_dockerd(script: Any, fakes: Fakes) -> None:
    fakes.add("dockerd", 'case "$1" in --help) echo "--debug";; *) exit 1;; esac')
    run(script)
    assert file_of(script).exists()
    assert [call for call in fakes.calls if call.startswith("dockerd")] == ["dockerd --help"]


def test_nvidia_ctk_works_on_copy(script: Any, fakes: Fakes) -> None:
    old = {"features": {"cdi": True}, "runtimes": {"crun": {"path": "crun"}}}
    file_of(script).write_text(json.dumps(old))
    fakes.add(
        "nvidia-ctk",
        'config=${5#--config=}; cp "$config" "$STATE/seen"; '
        'echo \'{"runtimes": {"nvidia": {"args": [], "path": "/usr/bin/nvidia-container-runtime"}}}\' >"$config"',
    )
    run(script, patch={"runtimes": {"nvidia": {"args": [], "path": "x"}}}, configure_runtime=True)
    assert json.loads((fakes.folder / "state/seen").read_text()) == old
    assert json.loads(file_of(script).read_text()) == {
        "features": {"cdi": True},
        "runtimes": {"crun": {"path": "crun"}, "nvidia": {"args": [], "path": "/usr/bin/nvidia-container-runtime"}},
    }
    (call,) = [call for call in fakes.calls if call.startswith("nvidia-ctk")]
    assert call.startswith("nvidia-ctk --quiet runtime configure --runtime=docker --config=")
    assert script.PATH not in call


def test_failed_nvidia_ctk_keeps_file(script: Any, fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.add("nvidia-ctk", "echo no such runtime; exit 1")
    with pytest.raises(SystemExit):
        run(script, patch={"runtimes": {"nvidia": {}}}, configure_runtime=True)
    assert capsys.readouterr().err == "nvidia-ctk runtime configure failed: no such runtime\n"
    assert not file_of(script).exists()


def test_restarts_after_live_restore_while_containers_run(script: Any, fakes: Fakes) -> None:
    fakes.state("ps", "f" * 64 + "\n")
    fakes.state("info", {**INFO, "LiveRestoreEnabled": False})
    fakes.add("systemctl", f'[ "$1" != reload ] || echo \'{json.dumps(INFO)}\' >"$STATE/info"')
    run(script, action="restart")
    assert [call for call in fakes.calls if call.startswith("systemctl")][1:] == [
        "systemctl reload docker.service",
        "systemctl show --property NeedDaemonReload --value docker.service",
        "systemctl reset-failed docker.service docker.socket",
        "systemctl restart docker.service",
    ]


def test_does_not_restart_if_live_restore_stays_off(
    script: Any, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.state("ps", "f" * 64 + "\n")
    fakes.state("info", {**INFO, "LiveRestoreEnabled": False})
    with pytest.raises(SystemExit):
        run(script, action="restart")
    assert "Docker did not turn live-restore on, so it was not restarted" in capsys.readouterr().err
    assert "systemctl restart docker.service" not in fakes.calls
    assert Path(script.MARKER).read_text() == "restart\n"


def test_does_not_restart_on_a_full_disk(
    script: Any, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """dockerd would lose containers. Without containers it may restart."""
    fakes.state("info", {**INFO, "DockerRootDir": str(tmp_path)})
    monkeypatch.setattr(script, "ROOM", 1 << 80)
    run(script, action="restart")
    assert "systemctl restart docker.service" in fakes.calls
    fakes.state("ps", "f" * 64 + "\n")
    before = len(fakes.calls)
    with pytest.raises(SystemExit):
        run(script, action="restart")
    assert f"Docker was not restarted: {tmp_path} has less than " in capsys.readouterr().err
    assert "systemctl restart docker.service" not in fakes.calls[before:]


def test_writes_marker_first(script: Any, fakes: Fakes) -> None:
    fakes.add("dockerd", f'[ "$1" = --help ] || cp {script.MARKER} "$STATE/mark"; echo --validate')
    run(script, action="restart", live_restore=False)
    assert (fakes.folder / "state/mark").read_text() == "restart\n"


FAILS_WITH_DEBUG = """
case "$*" in
*"restart docker.service") ! grep -q debug {path} 2>/dev/null || {{ echo "Job for docker.service failed"; exit 1; }};;
esac
"""


@pytest.mark.parametrize("before", [None, {"log-driver": "local"}])
def test_docker_is_never_left_down(
    script: Any, fakes: Fakes, capsys: pytest.CaptureFixture[str], tmp_path: Path, before: Any
) -> None:
    """dockerd does not start with the new file: the previous one, or none, is in place again, and containers run."""
    if before is not None:
        file_of(script).write_text(json.dumps(before))
        file_of(script).chmod(0o640)
    fakes.state("ps", "f" * 64 + "\n")
    fakes.state("info", {**INFO, "LiveRestoreEnabled": False})
    fakes.add("systemctl", FAILS_WITH_DEBUG.format(path=script.PATH) + '[ "$1" != restart ] || : >"$STATE/ps"')
    with pytest.raises(SystemExit):
        run(script, action="restart", live_restore=False, expect={"LiveRestoreEnabled": False})
    did = "the previous one was put back" if before else "it was removed, as there was none before"
    assert capsys.readouterr().err == (
        f"error Docker does not start with the new daemon.json, so {did}, and Docker runs again:\n"
        "    | failed to load config\n"
    )
    assert (json.loads(file_of(script).read_text()) if before else file_of(script).exists()) == (before or False)
    if before:
        assert stat.S_IMODE(file_of(script).stat().st_mode) == 0o640
    assert f"docker start {'f' * 64}" in fakes.calls
    assert fakes.calls.count("systemctl restart docker.service") == 2
    assert not Path(script.MARKER).exists()
    assert not (tmp_path / "docker-restart.json").exists()


def test_what_a_restart_stops_is_on_disk_before(script: Any, fakes: Fakes, tmp_path: Path) -> None:
    """A kill while it restarts: the next run starts them, and knows the previous file."""
    note = tmp_path / "docker-restart.json"
    fakes.state("ps", "f" * 64 + "\n")
    fakes.add("systemctl", f'[ "$1" != restart ] || {{ cp {note} "$STATE/note"; kill -9 $PPID; }}')
    job_text = json.dumps(job(action="restart", live_restore=False, expect={"LiveRestoreEnabled": True}))
    child = (
        f"import sys; sys.path.insert(0, {str(FILES)!r}); import daemon_json as it; it.JOB = {job_text!r}; "
        f"it.PATH, it.MARKER, it.BACKUPS = {script.PATH!r}, {script.MARKER!r}, {script.BACKUPS!r}; "
        f"it.docker_restart.NOTE = {str(note)!r}; it.main()"
    )
    done = subprocess.run([sys.executable, "-c", child], check=False)
    assert done.returncode == -9
    assert json.loads(note.read_text()) == {
        "stopped": ["f" * 64], "replaced": {"path": script.PATH, "backup": ""}
    }  # fmt: skip
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert "docker stop -t 30 " + "f" * 64 in fakes.calls
    fakes.state("ps", "")
    fakes.add("systemctl", '[ "$1" != is-active ] || echo active')
    assert script.docker_restart.finish() == ([], True)
    assert fakes.calls[-1] == f"docker start {'f' * 64}"
    assert not note.exists()


def test_containers_stop_with_their_own_grace_period(script: Any, fakes: Fakes) -> None:
    """A database may need minutes to write its data. Others get 30 s, and none more than ten minutes."""
    ids = {name: name * 64 for name in "abcd"}
    said = f"{ids['a']} 120\n{ids['b']} \n{ids['c']} 99999\n"  # d is removed meanwhile
    fakes.add("docker", f"case \"$1 $2\" in 'container inspect') printf '{said}'; exit 1;; esac")
    script.docker_restart.stop(list(ids.values()))
    stops = [f"docker stop -t {seconds} {which}" for seconds, which in ((120, ids["a"]), (600, ids["c"]))]
    assert sorted(fakes.calls[1:]) == sorted([f"docker stop -t 30 {ids['b']} {ids['d']}", *stops])


UNIT = "ExecStart={{ path=/x ; argv[]={} ; ignore_errors=no ; start_time=[n/a] ; pid=0 }}\nMainPID=0\n"


@pytest.mark.parametrize(
    ("unit", "environment", "flags"),
    [
        ("/usr/bin/dockerd -H fd:// --containerd=/run/x.sock", "", "-H fd:// --containerd=/run/x.sock"),
        ("dockerd -H fd:// $OPTS", "# no\nOPTS=--log-driver=local -D\n", "-H fd:// --log-driver=local -D"),
        ("/usr/bin/dockerd $OPTS ${G}", "OPTS='-H fd:// --label \\\na=b'\nG=-G x\n", "-H fd:// --label a=b -G x"),
        ("/usr/sbin/dockerd --config-file /etc/other.json --debug $NONE", "", "--debug"),
        ("/usr/local/bin/start-docker.sh", "", ""),
    ],
)  # fmt: skip
def test_validates_with_the_flags_of_the_unit(
    script: Any, fakes: Fakes, tmp_path: Path, unit: str, environment: str, flags: str
) -> None:
    (tmp_path / "environment").write_text(environment)
    said = UNIT.format(unit) + f"EnvironmentFiles={tmp_path}/environment (ignore_errors=yes)\n"
    said += "EnvironmentFiles=/missing (ignore_errors=yes)\n"
    fakes.state("unit", said)
    fakes.add("systemctl", 'case "$*" in "show docker.service "*) cat "$STATE/unit";; esac')
    run(script)
    (call,) = [call for call in fakes.calls if call.startswith("dockerd --validate")]
    assert call == " ".join(f"dockerd --validate {flags} --config-file={script.PATH}.gpurack-new".split())


def test_validates_with_the_flags_of_the_process_that_a_script_started(
    script: Any, fakes: Fakes, tmp_path: Path
) -> None:
    program = tmp_path / "bin/dockerd"
    program.parent.mkdir()
    shutil.copy(shutil.which("tail") or "", program)
    process = subprocess.Popen([program, "-f", "--retry", "/dev/null", "--pid", str(os.getpid())])
    unit = UNIT.format("/usr/local/bin/start-docker.sh").replace("MainPID=0", f"MainPID={os.getpid()}")
    fakes.state("unit", unit)
    fakes.add("systemctl", 'case "$*" in "show docker.service "*) cat "$STATE/unit";; esac')
    try:
        while Path(f"/proc/{process.pid}/comm").read_text() != "dockerd\n":
            pass  # until it has replaced the fork of this process
        assert script.dockerd_flags() == ["-f", "--retry", "/dev/null", "--pid", str(os.getpid())]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("expect", "info", "missing"),
    [
        ({"LiveRestoreEnabled": False}, {}, "live-restore"),
        ({"LiveRestoreEnabled": True, "Runtimes": ["nvidia", "crun"]}, {}, "runtime crun"),
        ({"LiveRestoreEnabled": True, "CDISpecDirs": True}, {"CDISpecDirs": None}, "CDI"),
        ({"LiveRestoreEnabled": True}, {"ServerVersion": ""}, "an answer"),
    ],
)
def test_fails_if_docker_info_lacks_expected_setting(
    script: Any, fakes: Fakes, capsys: pytest.CaptureFixture[str], expect: Any, info: Any, missing: str
) -> None:
    fakes.state("info", {**INFO, **info})
    with pytest.raises(SystemExit):
        run(script, expect=expect)
    assert capsys.readouterr().err == (
        f"Docker has read daemon.json, but `docker info` does not show {missing} after a minute.\n"
    )
    assert Path(script.MARKER).exists()


def test_probes_gpu_driver_with_empty_image(script: Any, fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    run(script, probe_gpu=True)
    assert "docker image rm gpurack-probe:latest" in fakes.calls
    fakes.state("run", 'could not select device driver "" with capabilities: [[gpu]]')
    with pytest.raises(SystemExit):
        run(script, probe_gpu=True)
    assert "Docker has no GPU driver after its restart" in capsys.readouterr().err


def test_file_that_cannot_be_written_is_an_error(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk, which only says OSError."""
    (tmp_path / "backups").write_text("not a folder")
    Path(script.PATH).write_text("{}")
    with pytest.raises(SystemExit):
        run(script)
    assert capsys.readouterr().err == "error daemon.json: File exists. Run again when that is corrected.\n"
    assert Path(script.PATH).read_text() == "{}"


def test_a_file_that_is_a_mount_is_named(
    script: Any, fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bind-mounted daemon.json cannot be renamed over."""
    file_of(script).write_text("{}")
    rename = os.rename

    def busy(beside: str, place: str) -> None:
        if place == script.PATH:
            raise OSError(errno.EBUSY, "Device or resource busy", beside, None, place)
        rename(beside, place)

    monkeypatch.setattr(script.os, "rename", busy)
    with pytest.raises(SystemExit):
        run(script, action="restart")
    assert capsys.readouterr().err.startswith(
        f"{script.PATH} is a mount of its own, so it cannot be replaced, and nothing was changed. "
    )
    assert file_of(script).read_text() == "{}"
    assert [each.name for each in file_of(script).parent.iterdir() if "gpurack-new" in each.name] == []
    assert not any("systemctl restart" in call for call in fakes.calls)
    assert not Path(script.MARKER).exists()
    assert script.docker_restart.noted() is None


def test_restarts_without_change_of_file(script: Any, fakes: Fakes) -> None:
    file_of(script).write_text("{}")
    run(script, patch=None, action="restart", live_restore=False)
    assert file_of(script).read_text() == "{}"
    assert "systemctl restart docker.service" in fakes.calls


def test_runs_from_standard_input_with_job_in_front(tmp_path: Path, fakes: Fakes, script: Any) -> None:
    """As `python3 -` on the host: the job is a line of Python in front of the script."""
    step = Apply(
        "x", {"debug": True, "labels": ['it\'s "quoted"\n']}, False, "", True, {"LiveRestoreEnabled": True}, False
    )
    text = str(apply_daemon_json(step).connector_arguments["_stdin"])
    places = {
        "/etc/docker/daemon.json": script.PATH, "/run/gpurack": str(tmp_path / "run"),
        "/var/lib/gpurack": str(tmp_path / "state"),
    }  # fmt: skip
    for place, here in places.items():
        text = text.replace(place, here)
    done = subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(file_of(script).read_text()) == step.patch


def test_error_names_daemon_of_user(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "MANAGER", ("--user",))
    monkeypatch.setenv("USER", "ada")
    with pytest.raises(SystemExit):
        script.give_up("Docker does not start: no\nlog")
    assert capsys.readouterr().err == "error ada's Docker: Docker does not start: no\n    | log\n"
