"""Files of gpurack on a host are readable by root, or the one user they are for, from the first byte. Files that older
versions left open are closed by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.operations import commands
from gpurack.operations.commands import carry_out
from gpurack.plan.models import compose
from gpurack.plan.models.jobs import plan_jobs
from gpurack.plan.run import Run
from gpurack.plan.runner import Project
from gpurack.plan.steps import SetAside, Shell, WriteFile
from tests.given import host_state, models, models_plan, spec
from tests.security.hosts import carry_out as run_job
from tests.security.hosts import entry, runner
from tests.security.users import USER, give, needs_root, place  # noqa: F401
from tests.unit.host_programs import Fakes, load

ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")


def mode(path: Path | str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


@pytest.fixture
def _open_umask() -> Any:
    old = os.umask(0)
    yield
    os.umask(old)


# --- Compose files ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_open_umask")
def test_compose_file_of_host_is_private(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    module = runner(tmp_path, fakes, monkeypatch)
    assert run_job(module, [entry("alpha")]).failures == 0
    assert mode(module.Dockerd().compose_file) == 0o600


@pytest.mark.usefixtures("_open_umask")
def test_compose_file_of_user_is_readable_by_user_only(
    tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = runner(tmp_path, fakes, monkeypatch)
    assert run_job(module, [entry("alpha", user="ada")]).failures == 0
    file = module.Dockerd("ada").compose_file
    assert (mode(file), Path(file).stat().st_uid) == (0o640, os.getuid())
    access = os.getxattr(file, "system.posix_acl_access")
    entries = {entry[0]: entry[1:] for entry in struct.iter_unpack("<HHI", access[4:])}
    nobody = 0xFFFFFFFF
    assert entries == {1: (6, nobody), 2: (4, os.getuid()), 4: (0, nobody), 16: (4, nobody), 32: (0, nobody)}


@ROOT
def test_only_that_user_reads_file_and_cannot_change_it() -> None:
    import tempfile

    writing = load("writing")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        file = f"{folder}/compose.yaml"
        writing.write(file, "services: {}\n", 0o600, reader=54321)
        for uid, gid, script, allowed in (
            (54321, 100, f"cat {file}", True),
            (54322, 100, f"cat {file}", False),
            (54322, 0, f"cat {file}", False),  # not even root's group
            (54321, 100, f"echo x >>{file}", False),
            (54321, 100, f"chmod 666 {file}", False),
            (54321, 100, f"mv {file} {file}.x", False),
        ):
            become = ["setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
            done = subprocess.run([*become, "sh", "-c", script], capture_output=True, check=False)
            assert (done.returncode == 0) == allowed, (uid, gid, script)


def settled(user: str = "", mode: str = "", uid: int = 0) -> tuple[Project, HostFacts]:
    services = {"alpha": {"image": "i:1"}}
    file: dict[str, Any] = {"text": compose.document(services, user), "uid": uid}
    if mode:
        file["mode"] = mode
    return Project(user, services, {}, {}), host_state(files={paths.compose_file(user): file})


@pytest.mark.parametrize("user", ["", "ada"])
def test_closes_open_files_of_older_version_once(user: str) -> None:
    for wrong in ({"mode": "644"}, {"mode": "600" if user else "640"}, {"uid": 1001}):
        project, state = settled(user, **wrong)  # type: ignore[arg-type]
        assert project.differs(state), wrong
    project, state = settled(user)
    assert not project.differs(state)


def test_wrong_mode_alone_is_corrected_once() -> None:
    empty = models()
    text = compose.document({}, "")
    facts = host_state(files={paths.compose_file(""): {"text": text, "mode": "644"}})
    assert models_plan(empty, facts).job
    facts = host_state(files={paths.compose_file(""): text})
    assert models_plan(empty, facts).job is None


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_closes_output_of_jobs_once() -> None:
    log = paths.job_log("q8")
    found = models_plan(spec(), host_state(exposed=frozenset({log})))
    (step,) = found.steps
    assert isinstance(step, Shell)
    assert step.command == f"chmod go= -- {log}"
    assert models_plan(spec(), host_state()).nothing


def test_compose_file_of_job_is_private() -> None:
    job = {"engine": "llama.cpp", "version": "b7000", "command": ["--help"]}
    facts = replace(host_state(), weights={"/w/a.gguf": 1})
    steps = plan_jobs(spec({"jobs": {"ask": job}}), facts, Run()).steps
    (file,) = [step for step in steps if isinstance(step, WriteFile) and step.path == paths.job_file("ask")]
    assert file.mode == "600"


@pytest.mark.usefixtures("_open_umask")
def test_output_and_record_of_job_are_private(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    runner(tmp_path, fakes, monkeypatch)
    jobs = load("jobs")
    jobs.JOBS = str(tmp_path / "jobs")
    fakes.state("project", "gpurack-jobs")
    compose_labels = {"com.docker.compose.project": "gpurack-jobs", "com.docker.compose.service": "alpha"}
    fakes.state("labels.alpha", {"gpurack.job": "0f", **compose_labels})
    fakes.add("docker", 'case "$*" in wait*) echo 0; exit;; logs*) echo sk-one; exit;; esac\n' + docker_script())
    job = {"name": "alpha", "compose_file": "/x.yaml", "image": "i:1", "fetch": [], "definition": "0f", "result": None}
    assert len(jobs.run_all({"groups": [[{**job, "folder": str(tmp_path / "f")}]], "logins": {}})) == 0
    assert mode(tmp_path / "jobs") == 0o700
    assert {path.name: mode(path) for path in (tmp_path / "jobs").iterdir()} == {
        "alpha.json": 0o600, "alpha.log": 0o600
    }  # fmt: skip


def docker_script() -> str:
    from tests.security.hosts import DOCKER

    return DOCKER


# --- what a user's Docker is given ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", [False, True], ids=["a run", "gpurack lock --upgrade"])
def test_pull_gets_only_the_login_of_its_registry(fakes: Fakes, tmp_path: Path, monkeypatch: Any, lock: bool) -> None:
    """The file is the user's, so that their client can read it: other models' logins are not theirs."""
    runner(tmp_path, fakes, monkeypatch)
    newest = load("newest")
    images, dockerd = sys.modules["images"], sys.modules["dockerd"]
    monkeypatch.setattr(images, "LOGINS", str(tmp_path / "logins"))
    fakes.add("docker", '[ "$1" != --config ] || cat "$2/config.json" >>"$STATE/given"; exit 1')
    of = lambda name: {"user": name, "password": f"of-{name}"}  # noqa: E731
    logins = {"ghcr.io": of("lab"), "nvcr.io": of("boss"), "docker.io": of("hub"), "ghcr.io.evil.example": of("eve")}
    daemon = dockerd.Dockerd()
    for image in ("ghcr.io/a/b:1", f"ghcr.io/a/b@sha256:{'0' * 64}"):
        with contextlib.suppress(images.Failure):
            if lock:
                newest.digest({"name": "alpha", "image": image, "user": ""}, logins)
            else:
                images.bring(daemon, {"name": "alpha", "image": image}, image, logins)
    given = [json.loads(line) for line in (fakes.folder / "state/given").read_text().replace("}{", "}\n{").splitlines()]
    assert given
    assert {registry for config in given for registry in config["auths"]} == {"ghcr.io"}


@pytest.mark.parametrize(("user", "found"), [("ada", {"ghcr.io"}), ("", {"ghcr.io", "nvcr.io"})])
def test_build_gets_the_logins_of_its_dockerfile(
    user: str, found: set[str], fakes: Fakes, tmp_path: Path, monkeypatch: Any
) -> None:
    """In the host's own Docker it gets all: root alone can read them."""
    runner(tmp_path, fakes, monkeypatch)
    images, dockerd = sys.modules["images"], sys.modules["dockerd"]
    monkeypatch.setattr(images, "LOGINS", str(tmp_path / "logins"))
    monkeypatch.setattr(images, "BUILDS", str(tmp_path / "builds"))
    monkeypatch.setattr(
        images,
        "checkout",
        lambda folder, *rest: write_dockerfile(folder, "ARG OF=ghcr.io\nFROM ${OF}/a\nRUN x nvcr.io/b"),
    )
    fakes.add("docker", '[ "$1" != --config ] || cat "$2/config.json" >"$STATE/given"; exit 1')
    logins = {name: {"user": "lab", "password": "p"} for name in ("ghcr.io", "nvcr.io")}
    wanted = {"git": "https://x", "revision": "main", "dockerfile": "Dockerfile", "target": None, "args": {}}
    with pytest.raises(images.Failure, match="cannot build image"):
        images.build(dockerd.Dockerd(user), "alpha", "i:1", wanted, logins)
    assert json.loads((fakes.folder / "state/given").read_text())["auths"].keys() == found


@pytest.mark.parametrize(("acls", "mode_of_hers"), [(True, 0o700), (False, 0o755)])
def test_source_of_a_build_is_open_to_its_user_only(
    acls: bool, mode_of_hers: int, fakes: Fakes, tmp_path: Path, monkeypatch: Any
) -> None:
    runner(tmp_path, fakes, monkeypatch)
    images, dockerd = sys.modules["images"], sys.modules["dockerd"]
    monkeypatch.setattr(images, "BUILDS", str(tmp_path / "builds"))
    monkeypatch.setattr(images, "checkout", lambda folder, *rest: write_dockerfile(folder, "FROM a"))
    fakes.add("docker", "exit 1")
    fakes.add("setfacl", 'echo "$*" >>"$STATE/acls"' if acls else "exit 1")
    wanted = {"git": "https://x", "revision": "main", "dockerfile": "Dockerfile", "target": None, "args": {}}
    for user, found in (("", 0o700), ("ada", mode_of_hers)):
        for old in (tmp_path / "builds").glob("*"):
            shutil.rmtree(old)
        with pytest.raises(images.Failure, match="cannot build image"):
            images.build(dockerd.Dockerd(user), "alpha", "i:1", wanted, {})
        (folder,) = (tmp_path / "builds").iterdir()
        assert (mode(folder.parent), mode(folder)) == (0o711, found)
    if acls:
        assert (fakes.folder / "state/acls").read_text() == f"-m u:{os.getuid()}:rx {folder}\n"


def write_dockerfile(folder: str, dockerfile: str) -> None:
    (Path(folder) / "Dockerfile").write_text(dockerfile)


# --- what the runner tightens ----------------------------------------------------------------------------------------


def test_runner_closes_files_of_older_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("models")
    assert {pattern.rstrip("/*") for pattern in module.ROOTS_ALONE} >= {
        f"{paths.STATE}/sha256", paths.JOBS, paths.BACKUPS
    }  # fmt: skip
    (tmp_path / "jobs").mkdir(mode=0o755)
    for name in ("jobs/a.log", "jobs/a.json", "sha256", "elsewhere"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o644)
    (tmp_path / "jobs/link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(module, "ROOTS_ALONE", [f"{tmp_path}/{name}" for name in ("sha256", "jobs/*", "jobs/")])
    for _ in range(2):
        module.tighten()
    assert mode(tmp_path / "jobs") == 0o700
    assert {name: mode(tmp_path / name) for name in ("jobs/a.log", "jobs/a.json", "sha256")} == {
        "jobs/a.log": 0o600, "jobs/a.json": 0o600, "sha256": 0o600
    }  # fmt: skip
    assert mode(tmp_path / "elsewhere") == 0o644, "a link was followed"


@pytest.mark.usefixtures("_open_umask")
def test_digests_of_weights_are_private(tmp_path: Path) -> None:
    hashes = load("hashes")
    hashes.MEMORY = str(tmp_path / "sha256")
    (tmp_path / "w.gguf").write_text("x")
    Path(hashes.MEMORY).write_text("")
    hashes.known_hash(str(tmp_path / "w.gguf"))
    assert "w.gguf" in Path(hashes.MEMORY).read_text()
    assert mode(hashes.MEMORY) == 0o600


# --- backups ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_open_umask")
def test_backups_are_private_from_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("daemon_json")
    script.PATH, script.BACKUPS = str(tmp_path / "daemon.json"), str(tmp_path / "backups")
    Path(script.PATH).write_text('{"proxies": {"http-proxy": "http://lab:hunter2@p"}}')
    (tmp_path / "backups").mkdir(mode=0o755)
    (tmp_path / "backups/daemon.json.2025").write_text("{}")
    seen: list[int] = []
    copy = script.shutil.copyfileobj

    def watched(source: Any, target: Any) -> None:
        seen.extend((mode(target.name if isinstance(target.name, str) else f"/proc/self/fd/{target.fileno()}"),))
        copy(source, target)

    monkeypatch.setattr(script.shutil, "copyfileobj", watched)
    script.back_up(os.stat(script.PATH))  # noqa: PTH116
    assert seen == [0o600]
    assert mode(script.BACKUPS) == 0o700
    assert {mode(path) for path in Path(script.BACKUPS).iterdir()} == {0o600}


def test_set_aside_files_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.paths, "BACKUPS", str(tmp_path / "backups"))
    (tmp_path / "backups").mkdir(mode=0o755)
    (tmp_path / "docker.list").write_text("deb http://lab:hunter2@mirror")
    (command,) = carry_out(SetAside("x", str(tmp_path / "docker.list")))
    assert subprocess.run(["sh", "-c", command.get_raw_value()], check=False).returncode == 0
    (kept,) = (tmp_path / "backups").iterdir()
    assert (mode(tmp_path / "backups"), mode(kept)) == (0o700, 0o600)


@needs_root
@pytest.mark.usefixtures("_open_umask")
def test_refuses_job_folder_that_user_can_redirect(
    tmp_path: Path,
    place: Path,  # noqa: F811
    fakes: Fakes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (give(place) / "results").mkdir()
    runner(tmp_path, fakes, monkeypatch)
    jobs = load("jobs")
    jobs.JOBS = str(tmp_path / "jobs")
    fakes.add("docker", docker_script())
    job = {"name": "ask", "compose_file": "/x.yaml", "image": "i:1", "fetch": [], "definition": "0f", "result": None}
    assert len(jobs.run_all({"groups": [[{**job, "folder": str(place / "results")}]], "logins": {}})) == 1
    said = capsys.readouterr().out
    assert "error ask: " in said
    assert USER in said
    assert not [call for call in fakes.calls if " up " in call or " create " in call]
