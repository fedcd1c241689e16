"""Root writes only in its own folders: a user redirects no download, copy, image, build or folder."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.parse import parse
from gpurack.facts.parts import User
from gpurack.operations.commands import Streamed, carry_out, folders_program
from gpurack.operations.copying import Copy
from gpurack.plan.models.plan import Upload
from gpurack.plan.steps import Folder, Shell
from gpurack.plan.system.rootless import plan_rootless
from tests.given import framed, host_state, models, models_plan, spec
from tests.security.users import USER, give, needs_root, place  # noqa: F401
from tests.unit.host_programs import Fakes, load
from tests.unit.test_copying import Shell as Connection
from tests.unit.test_fetch_script import CONTENT, SHA, fetcher, server, wanted  # noqa: F401

# ruff: noqa: F811 - fixtures


@pytest.fixture
def safe() -> Any:
    return load("safe_paths")


def of_user(path: Path) -> str:
    give(path)
    return f"{path} is owned by {USER}, so root does not write there"


def for_group(path: Path) -> str:
    path.chmod(0o775)
    return f"{path} is writable by the group {path.group()}"


def for_all(path: Path) -> str:
    path.chmod(0o777)
    return f"{path} is writable by everybody"


def a_link(path: Path) -> str:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)
    give(path)
    return f"{path} is a link owned by {USER}"


@needs_root
@pytest.mark.parametrize("spoil", [of_user, for_group, for_all, a_link])
@pytest.mark.parametrize("below", ["", "weights", "a/b/c"])
def test_creates_no_folder_where_others_can_write(safe: Any, place: Path, spoil: Any, below: str) -> None:
    shared = place / "data"
    shared.mkdir()
    said = spoil(shared)
    with pytest.raises(safe.Unsafe) as error:
        safe.make_folder(str(shared / below))
    assert str(error.value).startswith(said)
    assert str(error.value).endswith("or choose another weights_dir")
    assert f" {shared}" in str(error.value).rpartition(". ch")[2]  # the command names exactly this folder
    assert list(shared.iterdir()) == []


@needs_root
def test_finds_users_folder_below_folder_of_root(safe: Any, place: Path) -> None:
    (place / "data/hf").mkdir(parents=True)
    give(place / "data/hf")
    with pytest.raises(safe.Unsafe, match=f"{place}/data/hf is owned by {USER}"):
        safe.make_folder(str(place / "data/hf/lab--tiny@main"))


def test_passes_sticky_folder_but_does_not_write_there(safe: Any, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    safe.make_folder(str(tmp_path / "shared/own"))
    with pytest.raises(safe.Unsafe, match="is writable by everybody"):
        safe.make_folder(str(tmp_path / "shared"))


def test_follows_links_of_root(safe: Any, tmp_path: Path) -> None:
    (tmp_path / "nvme/models").mkdir(parents=True)
    (tmp_path / "models").symlink_to("nvme/models")
    safe.make_folder(str(tmp_path / "models/a/b"))
    assert stat.S_IMODE((tmp_path / "nvme/models/a/b").stat().st_mode) == 0o755


def test_endless_links_are_an_error(safe: Any, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        safe.make_folder(str(tmp_path / "a/x"))
    with pytest.raises(OSError, match="Too many levels"):
        safe.open_file(str(tmp_path / "a/x"))


# --- downloads -------------------------------------------------------------------------------------------------------


@needs_root
def test_fetches_nothing_into_users_folder(fetcher: Any, server: Any, place: Path) -> None:
    (place / "data").mkdir()
    give(place / "data")
    (place / "data/w").symlink_to("/etc")
    give(place / "data/w")
    for path in (place / "data/a.gguf", place / "data/w/a.gguf"):
        with pytest.raises(OSError, match=f"{place}/data is owned by {USER}.*chown root: {place}/data && chmod 755"):
            fetcher.obtain("alpha", wanted(server[1], SHA, path))
    assert server[0].gets == []
    assert not Path("/etc/a.gguf").exists()


@needs_root
def test_serves_existing_weights_in_users_folder(fetcher: Any, place: Path) -> None:
    (place / "a.gguf").write_bytes(CONTENT)
    give(place / "a.gguf")
    give(place)
    fetcher.obtain("alpha", wanted("http://127.0.0.1:1/never-asked", SHA, place / "a.gguf"))


def test_does_not_write_through_link_at_download(fetcher: Any, server: Any, tmp_path: Path) -> None:
    victim = tmp_path / "cron"
    victim.write_bytes(CONTENT[:7])
    (tmp_path / "w").mkdir()
    (tmp_path / "w/a.gguf.part").symlink_to(victim)
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "w/a.gguf"))
    assert victim.read_bytes() == CONTENT[:7]
    assert (tmp_path / "w/a.gguf").read_bytes() == CONTENT
    assert not (tmp_path / "w/a.gguf").is_symlink()


@needs_root
@pytest.mark.parametrize("linked", [False, True])
def test_discards_partial_file_that_user_can_change(fetcher: Any, server: Any, tmp_path: Path, linked: bool) -> None:
    """The owner of a file, or of its second name, could write to it after it was checked."""
    part = tmp_path / "w/a.gguf.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    if linked:
        (tmp_path / "other").hardlink_to(part)
    else:
        give(part)
    fetcher.obtain("alpha", wanted(server[1], SHA, tmp_path / "w/a.gguf"))
    assert server[0].gets == [""]
    found = (tmp_path / "w/a.gguf").stat()
    assert (found.st_uid, found.st_nlink) == (0, 1)


@needs_root
def test_clears_partial_folder_of_foreign_files(safe: Any, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    (part / "sub").mkdir(parents=True)
    (part / "theirs").mkdir()
    for name in ("own", "sub/own", "theirs/own", "eve", "sub/eve"):
        (part / name).write_text(name)
    for name in ("theirs", "eve", "sub/eve"):
        give(part / name)
    (part / "sub/link").symlink_to(tmp_path)
    os.mkfifo(part / "fifo")
    safe.clean_folder(str(part))
    assert sorted(str(path.relative_to(part)) for path in part.rglob("*")) == ["own", "sub", "sub/own"]


# --- copies and images -----------------------------------------------------------------------------------------------


@needs_root
def test_copies_nothing_into_or_from_users_folder(place: Path, tmp_path: Path) -> None:
    source = tmp_path / "image.tar"
    source.write_bytes(b"ours")
    images = place / "images"
    images.mkdir()
    planted = images / "0123.tar"
    planted.write_bytes(b"eve's")
    give(images)
    command = Copy(Upload("alpha", source, str(planted)))
    command.execute(None, Connection(), {})  # type: ignore[arg-type]
    assert f"could not be copied to the host: {images} is owned by {USER}, so root does not write" in command.problem
    assert planted.read_bytes() == b"eve's"


@needs_root
@pytest.mark.parametrize("whose", ["folder", "file"])
def test_loads_no_tar_of_a_user(fakes: Fakes, place: Path, whose: str) -> None:
    fakes.add("docker", "echo 'Loaded image: eve'")
    images, dockerd = load("images"), load("dockerd")
    tar = place / "images/0123.tar"
    tar.parent.mkdir()
    tar.write_bytes(b"eve's")
    give(tar if whose == "file" else tar.parent)
    with pytest.raises((OSError, images.Failure)) as error:
        images.load(dockerd.Dockerd(), "alpha", "lab/a:1", {"tar": "a.tar", "path": str(tar), "names": []})
    assert USER in str(error.value) if whose == "folder" else "was not copied" in str(error.value)
    assert not [call for call in fakes.calls if call.startswith("docker load")]


def test_refuses_dockerfile_outside_its_source(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.add("docker", "exit 1")
    images, dockerd = load("images"), load("dockerd")
    monkeypatch.setattr(images, "BUILDS", str(tmp_path / "builds"))
    (tmp_path / "shadow").write_text("root:$6$secret")

    def checkout(folder: str, *_: Any) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "Dockerfile").symlink_to(tmp_path / "shadow")

    monkeypatch.setattr(images, "checkout", checkout)
    told = {"git": "https://g/x", "revision": "main", "dockerfile": "Dockerfile", "target": None, "args": {}}
    with pytest.raises(images.Failure, match=r"has no Dockerfile; correct image\.build\.dockerfile"):
        images.build(dockerd.Dockerd(), "alpha", "lab/a:1", told, {})
    assert not [call for call in fakes.calls if call.startswith("docker build")]


# --- folders of users ------------------------------------------------------------------------------------------------


@pytest.fixture
def folders() -> Any:
    return load("folders")


@needs_root
def test_root_creates_data_root_only_in_own_folder(folders: Any, place: Path) -> None:
    made = place / "docker/of nobody"
    assert folders.main("data", str(made), USER) == 0
    found = made.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (pwd.getpwnam(USER).pw_uid, 0o711)
    assert (made.parent.stat().st_uid, stat.S_IMODE(made.parent.stat().st_mode)) == (0, 0o755)


@needs_root
def test_creates_data_root_in_users_folder_as_that_user(folders: Any, place: Path) -> None:
    own = place / "own"
    own.mkdir()
    give(own)
    assert folders.main("data", str(own / "docker"), USER) == 0
    assert (own / "docker").stat().st_uid == pwd.getpwnam(USER).pw_uid


@needs_root
def test_data_root_in_folder_of_another_is_left_to_admin(
    folders: Any, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = place / "bobs"
    other.mkdir()
    os.chown(other, 65533, 65533)
    (other / "etc").symlink_to("/etc")
    uid, gid = pwd.getpwnam(USER)[2:4]
    for path in (other / "docker", other / "etc/docker-of-eve"):
        assert folders.main("data", str(path), USER) == 1
        said = capsys.readouterr().err
        assert f"Create it: install -d -o {uid} -g {gid} -m 711 {path} ({other} is owned by uid 65533" in said
        assert not path.exists()


@needs_root
def test_creates_no_weights_folder_in_users_folder(
    folders: Any, place: Path, capsys: pytest.CaptureFixture[str], fakes: Fakes
) -> None:
    fakes.add("setfacl", "")
    data = place / "data"
    data.mkdir()
    assert folders.main("weights", str(data / "users/nobody"), USER) == 0
    assert stat.S_IMODE((data / "users/nobody").stat().st_mode) == 0o700
    give(data)
    assert folders.main("weights", str(data / "users/bob"), USER) == 1
    assert f"error {data} is owned by {USER}" in capsys.readouterr().err
    assert not (data / "users/bob").exists()


def test_plan_has_no_root_command_in_users_reach() -> None:
    """Folders for users are created by files/folders.py, with the path as an argument."""
    path = "/data/it's; id/docker"
    told = spec({"docker": {"rootless": {"ada": {"daemon": {"data-root": path}}}}})
    bare = replace(host_state(), users={"ada": User(1001, 1001, "/home/ada")})
    steps = [step for step in plan_rootless(told, bare, False).steps if isinstance(step, Folder)]
    assert [(step.kind, step.path, step.user) for step in steps] == [
        ("weights", "/var/lib/gpurack/weights/users/ada", "ada"),
        ("data", path, "ada"),
    ]
    (command,) = carry_out(steps[1])
    assert shlex.split(str(command)) == ["python3", "-", "data", path, "ada"]
    assert isinstance(command, Streamed)
    assert command.connector_arguments["_stdin"] == folders_program()


# --- what root remembers ---------------------------------------------------------------------------------------------


def test_digests_are_private_from_first_byte(tmp_path: Path) -> None:
    hashes = load("hashes")
    hashes.MEMORY = str(tmp_path / "state/sha256")
    (tmp_path / "w").write_bytes(b"x")
    before = os.umask(0)
    try:
        hashes.known_hash(str(tmp_path / "w"))
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()} == {
        "sha256": 0o600,
        "sha256.lock": 0o600,
    }


def test_closes_files_of_older_gpurack_once() -> None:
    memory = "/var/lib/gpurack/sha256"
    state = parse(framed(["@@ exposed", memory, "@@ end"]))
    assert state.exposed == {memory}
    wanted = models(alpha={})
    found = models_plan(wanted, host_state(exposed=state.exposed, weights={"/w/a.gguf": 1}))
    closing = [step for step in found.steps if isinstance(step, Shell) and memory in step.command]
    assert [step.command for step in closing] == [f"chmod go= -- {memory}"]
    assert not [
        step for step in models_plan(wanted, host_state(weights={"/w/a.gguf": 1})).steps if memory in step.reason
    ]
