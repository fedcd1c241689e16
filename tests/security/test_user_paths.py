"""Paths in a user's reach: root opens regular files only, follows no link of others, and the user's own process reads
the user's files.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os
import pwd
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gpurack.commands.diff import previewed, show_hosts
from gpurack.facts.model import HostFacts
from gpurack.facts.parse import parse
from gpurack.facts.parts import Header, Unit, User
from gpurack.facts.snapshot import Snapshot, script
from gpurack.locking import gather
from gpurack.locking.gather import hasher
from gpurack.plan.models import weights
from gpurack.plan.models.desired import desire
from gpurack.plan.models.diff import Action, Change
from gpurack.plan.models.preflight import obstacle
from gpurack.plan.questions import questions
from gpurack.plan.remove import plan_remove, with_time_limit
from gpurack.plan.steps import Shell
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem
from tests.given import framed, host_state, models, models_plan, said, spec
from tests.security.hosts import carry_out, entry, runner
from tests.security.users import USER, give, needs_root, place  # noqa: F401
from tests.testbed import gguf_models
from tests.unit.host_programs import FILES, Fakes, Whole, load, plain, without_parts

pytestmark = pytest.mark.sampled

# ruff: noqa: F811 - fixtures

SECRET = b"root:$6$secret"
QUICK = 5  # seconds in which nothing may hang


@pytest.fixture
def safe() -> Any:
    return load("safe_paths")


@pytest.fixture
def hashes(tmp_path: Path) -> Any:
    module = load("hashes")
    module.MEMORY = str(tmp_path / "memory/sha256")
    return module


@pytest.fixture
def secret(place: Path) -> Path:
    """A file that only root can read."""
    path = place / "shadow"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


@pytest.fixture
def home(place: Path) -> Path:
    """A folder of the user."""
    (place / "home").mkdir()
    return give(place / "home")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero has no end


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


# --- root opens ------------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("make", [fifo, device, listener, Path.mkdir], ids=lambda make: make.__name__)
def test_opens_regular_files_only_without_waiting(safe: Any, hashes: Any, tmp_path: Path, make: Any) -> None:
    begun, path = time.monotonic(), tmp_path / "m.gguf"
    make(path)
    evidence = Whole("evidence")
    for read in (safe.open_file, hashes.known_hash, evidence.sha256):
        with pytest.raises(OSError, match="not a regular file"):
            read(str(path))
    assert evidence.content(str(path)) is None
    assert time.monotonic() - begun < QUICK


@needs_root
@pytest.mark.parametrize("where", ["file", "folder"])
def test_follows_no_links_of_others(safe: Any, hashes: Any, home: Path, secret: Path, where: str) -> None:
    """Neither as the last part of a path nor in the middle."""
    link = home / "m"
    link.symlink_to(secret if where == "file" else secret.parent)
    give(link)
    path = str(link if where == "file" else link / secret.name)
    for read in (safe.open_file, hashes.known_hash):
        with pytest.raises(OSError, match=f"m in .* is a link owned by {USER}, so root does not follow it"):
            read(path)
    assert hashes.remembered() == {}
    if where == "file":
        assert Whole("evidence").content(path) is None


def test_follows_links_of_root(safe: Any, tmp_path: Path) -> None:
    (tmp_path / "nvme/blobs").mkdir(parents=True)
    (tmp_path / "nvme/blobs/ab").write_bytes(b"x")
    (tmp_path / "models").symlink_to(tmp_path / "nvme")
    (tmp_path / "nvme/m.gguf").symlink_to("../nvme/./blobs/ab")
    assert safe.read_file(str(tmp_path / "models/m.gguf"), 10) == b"x"
    with pytest.raises(safe.Unsafe, match="larger than 0 bytes"):
        safe.read_file(str(tmp_path / "models/m.gguf"), 0)


@needs_root
def test_root_reads_users_file_without_links(hashes: Any, home: Path) -> None:
    (home / "m.gguf").write_bytes(b"weights")
    give(home / "m.gguf").chmod(0o600)
    assert hashes.known_hash(str(home / "m.gguf")) == hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def deep(home: Path) -> Iterator[Path]:
    """A folder of the user with more nested folders than Python may have calls."""
    at = os.open(home, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    yield home / "d"
    subprocess.run(["rm", "-rf", home / "d"], check=True)


def test_deeply_nested_folder_is_no_error(hashes: Any, home: Path, deep: Path) -> None:
    (deep / "d/a.gguf").write_bytes(b"x")
    assert hashes.files_of(str(deep)) == [str(deep / "d/a.gguf")]


def test_limits_number_of_files_of_a_folder(hashes: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "many"
    (folder / "f").mkdir(parents=True)
    for number in range(5):
        (folder / f"f/{number}").touch()
    assert len(hashes.files_of(str(folder))) == 5
    monkeypatch.setattr(hashes, "MOST", 4)
    with pytest.raises(OSError, match="more than 4 files"):
        hashes.files_of(str(folder))


def test_one_users_files_keep_nothing_from_the_others(hashes: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """All are weights in the host's own Docker."""
    done: list[str] = []

    def files_of(path: str, become: Any) -> list[str]:
        if "bad" in path:
            raise RecursionError
        return [path]

    monkeypatch.setattr(hashes, "files_of", files_of)
    monkeypatch.setattr(hashes, "known_hash", lambda file, tell, become: done.append(file))
    assert hashes.hash_all("", ["/w/a", "/w/bad", "/w/b"]) == ""
    assert done == ["/w/a", "/w/b"]


@needs_root
def test_file_of_a_user_is_read_for_a_limited_time(hashes: Any, home: Path, monkeypatch: Any) -> None:
    """Other models of the run wait for it, where it belongs to a model of the host's own Docker."""
    (home / "m.gguf").write_bytes(b"weights")
    monkeypatch.setattr(hashes, "LONG", 0)
    with pytest.raises(OSError, match="not read within"):
        hashes.hash_of(str(home / "m.gguf"))


@needs_root
def test_sparse_file_of_a_user_is_not_read_by_root(hashes: Any, home: Path) -> None:
    """It costs its user nothing."""
    path = home / "sparse"
    with path.open("wb") as stream:
        stream.write(b"GGUF" * 1000)
        stream.truncate(1 << 40)
    with pytest.raises(OSError, match="a sparse file of another user, which is not read"):
        hashes.hash_of(str(path))
    with path.open("r+b") as stream:
        stream.truncate(4000)
    assert hashes.hash_of(str(path)) == hashlib.sha256(b"GGUF" * 1000).hexdigest()


@needs_root
def test_runner_does_not_read_weights_of_another_size(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the host's lock. A sparse file costs its owner nothing."""
    fetch = load("fetch")
    hashes = sys.modules["hashes"]
    path = home / "m.gguf"
    path.write_bytes(b"weights")
    give(path)
    locked = hashlib.sha256(b"weights").hexdigest()
    fetch.check_locked("alpha", {str(path): locked}, "put it back")
    with path.open("r+b") as stream:
        stream.truncate(1 << 40)
    monkeypatch.setattr(hashes, "hash_of", lambda *given: pytest.fail("it was read"))
    with pytest.raises(fetch.Failure, match=r"does not match the lock: its sha256 is another one \(its size changed\)"):
        fetch.check_locked("alpha", {str(path): locked}, "put it back")


@needs_root
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("user", ["", USER], ids=["the host's Docker", "the user's"])
def test_under_a_lock_no_weights_are_read_that_a_user_can_change(
    home: Path, monkeypatch: Any, user: str, full: bool
) -> None:
    """For hours, if the user likes. Neither are they taken for what they were before.

    full: nothing can be remembered on disk, which is no reason to fail.
    """
    fetch, hashes, path = load("fetch"), sys.modules["hashes"], home / "m.gguf"
    if full:
        monkeypatch.setattr(hashes, "change_memory", lambda changed: None)
    path.write_bytes(b"weights")
    give(path)
    locked = {str(path): hashlib.sha256(b"weights").hexdigest()}
    fetch.check_locked("alpha", locked, "put it back", user)
    monkeypatch.setattr(hashes, "hash_of", lambda *given: pytest.fail("it was read"))
    fetch.check_locked("alpha", locked, "put it back", user, read=False)
    os.utime(path, (1, 1))
    with pytest.raises(fetch.Failure, match=f"^{path} changed after its sha256 was checked. Run gpurack again$"):
        fetch.check_locked("alpha", locked, "put it back", user, read=False)


@needs_root
@pytest.mark.parametrize("meanwhile", ["nothing", "a change"])
def test_run_reads_weights_of_users_before_it_takes_the_lock(
    meanwhile: str, home: Path, tmp_path: Path, fakes: Fakes, monkeypatch: Any, capsys: Any
) -> None:
    path = home / "m.gguf"
    path.write_bytes(b"weights")
    give(path)
    module = runner(tmp_path, fakes, monkeypatch)
    fetch, hashes, locks = (sys.modules[name] for name in ("fetch", "hashes", "locks"))
    read, real = [], hashes.hash_of

    def reads(what: str) -> None:
        read.append((what, locks.is_held(locks.LOCK)))

    def hash_of(*given: Any) -> Any:
        reads("sha256")
        return real(*given)

    def header(*argv: str, **options: Any) -> tuple[int, str]:
        reads("header")
        os.utime(path, (1, 1)) if meanwhile == "a change" else None
        return 0, "{}"

    monkeypatch.setattr(hashes, "hash_of", hash_of)
    monkeypatch.setattr(fetch, "run", header)
    locked = {str(path): hashlib.sha256(b"weights").hexdigest()}
    run = carry_out(module, [entry("alpha", sha256=locked, weights=[str(path)])])
    assert read == [("sha256", False), ("header", False)]
    assert run.failures == (meanwhile == "a change")
    assert ("changed after its sha256 was checked. Run gpurack again" in capsys.readouterr().out) == run.failures


@needs_root
def test_runner_reports_links_it_does_not_follow(home: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = load("fetch")
    (home / "m.gguf").symlink_to(secret)
    give(home / "m.gguf")
    with pytest.raises(fetch.Failure) as failure:
        fetch.check_locked("alpha", {str(home / "m.gguf"): "0" * 64}, "put it back")
    assert f"is a link owned by {USER}, so root does not follow it" in str(failure.value)
    assert hashlib.sha256(SECRET).hexdigest() not in str(failure.value)


@needs_root
@pytest.mark.parametrize("user", ["", USER], ids=["the host's Docker", "the user's"])
def test_root_does_not_follow_users_link_to_learn_its_size(
    home: Path, monkeypatch: Any, user: str, capsys: Any
) -> None:
    """It may lead to a file server that does not answer, for which root would wait under the host's lock."""
    fetch, real = load("fetch"), os.stat
    hashes = sys.modules["hashes"]
    (home / "blob").write_bytes(b"weights")
    (home / "folder").mkdir()
    for link, target in (("m.gguf", "blob"), ("weights", "folder")):
        (home / link).symlink_to(home / target)
        give(home / link)
    give(home / "blob")

    def watched(path: Any, **options: Any) -> Any:
        if str(path).startswith(str(home)) and options.get("follow_symlinks", True):
            pytest.fail(f"root follows {path}")
        return real(path, **options)

    monkeypatch.setattr(os, "stat", watched)
    monkeypatch.setattr("progress.Progress.is_due", lambda self: True)
    locked = {str(home / "m.gguf"): hashlib.sha256(b"weights").hexdigest()}
    if user:
        fetch.check_locked("alpha", locked, "put it back", user)
        assert "checking the weights' sha256, 7 B of 7 B" in capsys.readouterr().out
    else:
        with pytest.raises(fetch.Failure, match="root does not follow it"):
            fetch.check_locked("alpha", locked, "put it back", user)
        assert hashes.files_of(str(home / "weights")) == [str(home / "weights")]


@needs_root
def test_header_of_weights_in_a_users_folder_is_read_as_that_user(home: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Also for the host's own Docker: root would follow the user's link, and wait for what it leads to."""
    fetch, started = load("fetch"), []
    monkeypatch.setattr(fetch, "run", lambda *argv, **options: started.append(argv) or (0, "{}"))
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    os.chown(shared, 0, 4242)
    (tmp_path / "roots.gguf").write_bytes(b"x")
    (home / "m.gguf").symlink_to(tmp_path / "roots.gguf")
    for path in (home / "m.gguf", shared / "m.gguf", tmp_path / "roots.gguf"):
        fetch.refuse_damaged("alpha", [str(path)])
    of_user, of_group, of_root = started
    account = pwd.getpwnam(USER)
    assert of_user[of_user.index("--reuid") + 1] in (USER, str(account.pw_uid))
    assert of_group[:6] == ("setpriv", "--reuid", "65534", "--regid", "4242", "--clear-groups")
    assert of_root[0] == sys.executable


# --- what is remembered -----------------------------------------------------------------------------------------------


def lines(hashes: Any) -> list[str]:
    file = Path(hashes.MEMORY)
    return [line.split(" ", 3)[3] for line in file.read_text().splitlines()] if file.exists() else []


@needs_root
@pytest.mark.parametrize("user", ["", USER], ids=["the host's Docker", "the user's"])
@pytest.mark.parametrize("name", ["weights", "w-00001-of-00003.gguf"])
def test_files_that_a_user_names_anew_are_forgotten(hashes: Any, home: Path, user: str, name: str) -> None:
    """Each `gpurack lock` would add a line for each, until no snapshot of the host can hold them."""
    folder = home / "weights"
    folder.mkdir()
    weights = folder if name == "weights" else folder / name
    (home / "other").write_bytes(b"x")
    for path in (folder, home / "other"):
        give(path)
    assert hashes.hash_all(user, [str(home / "other")]) == ""
    for number in range(3):
        for old in folder.iterdir():
            old.unlink()
        file = folder / (f"{number}.safetensors" if name == "weights" else f"w-0000{number}-of-00003.gguf")
        file.write_bytes(b"x")
        give(file)
        assert hashes.hash_all(user, [str(weights)]) == ""
        assert lines(hashes) == [str(home / "other"), str(file)]


@needs_root
@pytest.mark.parametrize("user", ["", USER], ids=["the host's Docker", "the user's"])
def test_remembers_a_limited_number_of_a_users_files(
    hashes: Any, home: Path, user: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = home / "weights"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}").write_bytes(b"x")
        give(folder / f"{number}")
    give(folder)
    monkeypatch.setattr(hashes, "MOST_OF_USER", 7)
    hashes.hash_all(user, [str(folder)])
    assert "more than 7 files" in capsys.readouterr().out
    monkeypatch.setattr(hashes, "MOST_OF_USER", 8)
    monkeypatch.setattr(hashes, "LONGEST_OF_USER", 100)
    hashes.hash_all(user, [str(folder)])
    assert "too long" in capsys.readouterr().out
    assert lines(hashes) == []


def test_snapshot_has_a_limited_part_of_what_is_remembered(fakes: Fakes, tmp_path: Path) -> None:
    file = tmp_path / "sha256"
    line = f"7 1.5 {'0' * 64} /w/{'a' * 900}\n"
    file.write_text(line * (20_000_000 // len(line)))
    text = without_parts(script(questions(models(alpha={}))), "system")
    text = text.replace("/var/lib/gpurack/sha256 ", f"{file} ").replace("/var/lib/gpurack/sha256\n", f"{file}\n")
    said = subprocess.run(["sh", "-s"], input=text.encode(), capture_output=True, check=True, timeout=60).stdout
    found = "\n".join(plain(said.decode()))
    assert 15_900_000 < found.count(line) * len(line) <= 16_000_000
    seen = Snapshot().process(said.decode().split("\n"))
    assert (seen.trouble, seen.os.id != "") == (None, True)


# --- the user reads --------------------------------------------------------------------------------------------------


@needs_root
def test_chooses_reader_of_path(hashes: Any, home: Path, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"x")
    assert hashes.reader(str(home / "m"), "") == []
    assert hashes.reader(str(tmp_path / "m"), USER) == []  # nobody but root may change it
    assert hashes.reader(str(home / "m"), USER)[0] == "setpriv"


@needs_root
def test_users_link_is_followed_by_that_user_only(hashes: Any, home: Path, secret: Path) -> None:
    (home / "blob").write_bytes(b"weights")
    (home / "own.gguf").symlink_to("blob")
    (home / "stolen.gguf").symlink_to(secret)
    for name in ("blob", "own.gguf", "stolen.gguf"):
        give(home / name)
    become = hashes.reader(str(home / "own.gguf"), USER)
    assert hashes.known_hash(str(home / "own.gguf"), become=become) == hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(OSError, match=f"reads 0 bytes of {len(SECRET)}"):
        hashes.known_hash(str(home / "stolen.gguf"), become=become)
    assert list(hashes.remembered()) == [str(home / "own.gguf")]
    assert hashes.files_of(str(home), become) == [str(home / name) for name in ("blob", "own.gguf", "stolen.gguf")]


@needs_root
def test_gpurack_lock_reads_as_user(home: Path, secret: Path, tmp_path: Path) -> None:
    (home / "stolen.gguf").symlink_to(secret)
    (home / "own.gguf").write_bytes(b"weights")
    for name in ("stolen.gguf", "own.gguf"):
        give(home / name)
    program = hasher().replace("/var/lib/gpurack/sha256", str(tmp_path / "memory/sha256"))
    asked = "".join(f"{user}|{home}/{name}.gguf\n" for user in ("", USER) for name in ("own", "stolen"))
    subprocess.run(["python3", "-c", program], input=asked, text=True, check=True, timeout=60)
    memory = (tmp_path / "memory/sha256").read_text()
    assert hashlib.sha256(b"weights").hexdigest() in memory
    assert hashlib.sha256(SECRET).hexdigest() not in memory
    assert "stolen" not in memory


@needs_root
@pytest.mark.parametrize("make", [fifo, listener, Path.mkdir], ids=lambda make: make.__name__)
def test_special_files_of_user_block_nothing(hashes: Any, home: Path, make: Any) -> None:
    begun = time.monotonic()
    make(home / "m.gguf")
    with pytest.raises(OSError, match="not a file that its user can read"):
        hashes.known_hash(str(home / "m.gguf"), become=hashes.reader(str(home / "m.gguf"), USER))
    assert time.monotonic() - begun < QUICK


@pytest.mark.parametrize(
    ("says", "error"),
    [
        ("sleep 30", "printed nothing for"),
        ('case "$1" in stat) echo "3 1.000000000 regular file";; *) sleep 30;; esac', "printed nothing for"),
        (
            'case "$1" in stat) echo "3 1.000000000 regular file";; *) exec cat /dev/zero;; esac',
            "reads [0-9]+ bytes of 3",
        ),
        ('case "$1" in stat) echo "3 1.000000000 regular file";; esac', "reads 0 bytes of 3"),
        (
            'case "$1" in stat) echo "9999999 1.000000000 regular file";; *) while sleep 0.1; do printf x; done;; esac',
            "came to no end in",
        ),
        ("exec cat /dev/zero", "printed too much"),
        ("echo '1 1.000000000 regular file'; echo '2 /etc/passwd'", "not a file that its user can read"),
    ],
)
def test_ignores_invalid_output_of_users_process(
    hashes: Any, monkeypatch: pytest.MonkeyPatch, says: str, error: str
) -> None:
    """A user can change what their own process writes."""
    monkeypatch.setattr(hashes, "SILENCE", 0.5)
    monkeypatch.setattr(hashes, "LONG", 2)
    begun = time.monotonic()
    with pytest.raises(OSError, match=error):
        hashes.known_hash("/home/eve/m.gguf", become=["sh", "-c", says, "sh"])
    assert time.monotonic() - begun < QUICK
    assert hashes.remembered() == {}


def test_silent_users_cost_lock_one_limit_and_are_named(
    hashes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them together, however slowly each file of theirs comes."""
    drip = 'case "$1" in stat) echo "9999999 1.000000000 regular file";; dd) while sleep 0.1; do printf x; done;; esac'
    monkeypatch.setattr(hashes, "reader", lambda path, user: ["sh", "-c", drip, "sh"] if user else [])
    monkeypatch.setattr(hashes, "LONG", 1)
    (tmp_path / "own.gguf").write_bytes(b"weights")
    eves = [f"eve{number}" for number in range(5)]
    asked = [f"{user}|/home/{user}/{name}.gguf" for user in eves for name in "abc"] + [f"|{tmp_path}/own.gguf"]
    monkeypatch.setattr(hashes.sys, "stdin", io.StringIO("\n".join(asked)))
    begun = time.monotonic()
    hashes.main()
    assert time.monotonic() - begun < 4 * hashes.LONG
    assert list(hashes.remembered()) == [f"{tmp_path}/own.gguf"]
    late = gather.unanswered(capsys.readouterr().out.splitlines())
    assert list(late) == eves
    assert all(re.fullmatch(r"its user's (stat|dd) came to no end in 1 s", why) for why in late.values())


def test_file_name_cannot_name_a_late_user(hashes: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """What is said while weights are read holds names that users choose."""
    hashes.EVERY = -1
    sign = hashes.Sign()
    for sign.file in ("/home/eve/x\nlate bob: gone", "late bob: gone"):
        sign(1)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert gather.unanswered(said) == {}
    assert gather.unanswered(["late bob: gone", "late $(id): x", "late bob"]) == {"bob": "gone"}


@needs_root
def test_verify_reads_as_user(home: Path, secret: Path) -> None:
    evidence = Whole("evidence")
    (home / "stolen.gguf").symlink_to(secret)
    (home / "own.gguf").symlink_to("blob")
    (home / "blob").write_bytes(b"weights")
    for name in ("stolen.gguf", "own.gguf", "blob"):
        give(home / name)
    evidence.HUNG = str(home.parent / "hung")
    parts = {
        name: evidence.Part(f"weights {name}", 20, evidence.weights, str(home / name), True, {}, user=USER)
        for name in ("own.gguf", "stolen.gguf")
    }
    found = evidence.results(parts)
    assert found["own.gguf"]["files"]["own.gguf"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert "sha256" not in found["stolen.gguf"]["files"]["stolen.gguf"]
    assert hashlib.sha256(SECRET).hexdigest() not in str(found)


@needs_root
@pytest.mark.parametrize("inside", ["", "/model"])
def test_verify_follows_no_link_of_user_for_hosts_docker(home: Path, place: Path, inside: str) -> None:
    evidence = Whole("evidence")
    closed = place / "closed"
    (closed / "model").mkdir(parents=True, mode=0o700)
    closed.chmod(0o700)
    (closed / "model/shadow").write_bytes(SECRET)
    (home / "m").symlink_to(closed if inside else closed / "model")
    (home / "own").write_bytes(b"weights")
    (place / "roots").symlink_to("home")
    give(home / "m")
    paths = {"stolen": f"{place}/roots/m{inside}", "own": f"{home}/own", "roots": f"{closed}/model/shadow"}
    found = evidence.results(
        {key: evidence.Part(key, 20, evidence.weights_as_keeper, path, True, {}) for key, path in paths.items()}
    )
    assert found["stolen"] is None
    assert found["own"]["files"]["own"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert found["roots"]["files"]["shadow"]["sha256"] == hashlib.sha256(SECRET).hexdigest()


# --- the snapshot ----------------------------------------------------------------------------------------------------


def wanted(*paths: Path, user: str | None = USER) -> Host:
    entries = {f"m{number}": {"weights": str(path), "user": user} for number, path in enumerate(paths)}
    return spec(
        {"docker": {"rootless": {USER: {}}}},
        {"models": {name: {"port": 8000 + number, **one} for number, (name, one) in enumerate(entries.items())}},
    )


def seen(of: Host) -> HostFacts:
    done = subprocess.run(
        ["sh", "-s"],
        input=without_parts(script(questions(of))),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return parse(done.stdout.splitlines())


@needs_root
def test_reads_headers_of_users_weights_as_user(home: Path, place: Path) -> None:
    closed = place / "closed.gguf"
    gguf_models.say(closed, "Root's own.")
    closed.chmod(0o600)
    gguf_models.say(home / "blob", "The user's own.")
    (home / "own.gguf").symlink_to("blob")
    (home / "stolen.gguf").symlink_to(closed)
    for name in ("blob", "own.gguf", "stolen.gguf"):
        give(home / name)
    fifo(home / "fifo.gguf")
    give(home / "fifo.gguf")
    begun = time.monotonic()
    found = seen(wanted(home / "own.gguf", home / "stolen.gguf", home / "fifo.gguf"))
    assert time.monotonic() - begun < 2 * QUICK
    headers = {Path(path).name: header for path, header in found.headers.items()}
    assert headers["own.gguf"].kind == "gguf"
    assert headers["stolen.gguf"].problem == "stolen.gguf: Permission denied"
    # what is not a regular file is nobody's weights, and is not opened to find out
    assert "fifo.gguf" not in headers
    assert found.weights[str(home / "fifo.gguf")] is None
    assert found.weights[str(home / "own.gguf")] == (home / "blob").stat().st_size
    assert found.owned[str(home / "own.gguf")] == {USER}
    # so they belong to the host's own Docker: read as the user who could redirect root
    found = seen(wanted(home / "own.gguf", home / "stolen.gguf", user=None))
    headers = {Path(path).name: header for path, header in found.headers.items()}
    assert headers["stolen.gguf"].problem == "stolen.gguf: Permission denied"
    assert headers["own.gguf"].kind == "gguf"
    assert found.owned[str(home / "own.gguf")] == {USER}


@needs_root
@pytest.mark.parametrize("user", [USER, None])
def test_root_touches_nothing_in_users_reach(fakes: Fakes, home: Path, place: Path, user: str | None) -> None:
    """Also nothing that it remembers from earlier."""
    hashes = load("hashes")
    hashes.MEMORY = str(place / "sha256")
    for path in (home / "m.gguf", home / "m-00001-of-00001.gguf", place / "own.gguf", place / "else.gguf"):
        path.write_bytes(b"weights")
        hashes.remember(str(path), "ab" * 32)
    for name in ("stat", "readlink"):
        fakes.add(name, f'exec {shutil.which(name)} "$@"')  # only root's calls can be recorded
    asked = questions(wanted(home / "m.gguf", home / "m-00001-of-00001.gguf", place / "own.gguf", user=user))
    text = without_parts(script(asked), "system").replace("/var/lib/gpurack/sha256", hashes.MEMORY)
    done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=True, timeout=60)
    found = parse(done.stdout.splitlines())
    known = {str(path) for path in (home / "m.gguf", home / "m-00001-of-00001.gguf", place / "own.gguf")}
    assert (set(found.weights), set(found.hashes), found.late) == (known, known, {})
    roots = [call for call in fakes.calls if call.startswith(("stat", "readlink"))]
    assert any("own.gguf" in call for call in roots)
    assert not [call for call in roots if str(home) in call or "else.gguf" in call]


@needs_root
def test_unreadable_weights_are_not_called_missing(home: Path) -> None:
    (home / "closed").mkdir(mode=0o700)
    (home / "closed" / "m.gguf").write_bytes(b"x")
    path = str(home / "closed" / "m.gguf")
    of = wanted(Path(path), user=None)
    error = obstacle_of(of, seen(of))
    assert (
        said([error])[0]
        == f"{path} cannot be inspected: gpurack inspects it as {USER}, who has no access. Check: namei -l {path}."
    )


def test_fifo_is_not_called_missing() -> None:
    found = parse(framed(["@@ weights", "0 fifo|/w/a.gguf", "@@ end"]))
    error = obstacle_of(wanted(Path("/w/a.gguf"), user=None), found)
    assert said([error])[0] == "/w/a.gguf is not a regular file or a folder (fifo). Replace it, or correct the path."


def inspected(path: str, lines: list[str]) -> list[str]:
    """The section of weights in which a user's programs print these lines."""
    return [f"@@ inspected {path}", base64.b64encode("\n".join(lines).encode()).decode()]


def test_user_answers_for_own_weights_only() -> None:
    lie = '{"path": "%s", "kind": "gguf", "tensors": {"F16": 1}}'
    of_eve = [
        "@@ weights", "5 regular file|/home/eve/m.gguf", "99 regular file|/w/root.gguf",
        "8 regular file|/home/bob/m.gguf", "@@ stamped", "1 2.0 /w/root.gguf", "1 2.0 /home/eve/m.gguf",
        "@@ stamps", "2-2|/home/eve/m.gguf", "4-4|/w/root.gguf", "5-5|/home/bob/m.gguf",
        "@@ headers", lie % "/w/root.gguf", lie % "/home/bob/m.gguf", lie % "/home/eve/m.gguf",
        "@@ owned", "d 777 eve|eve|/w/root.gguf", "@@ labels", "a:b:evil_t:c|/w/root.gguf",
        "@@ inspected /w/root.gguf", "", "@@ end",
    ]  # fmt: skip
    of_bob = ["@@ weights", "6 regular file|/home/bob/m.gguf", "@@ stamps", "3-3|/home/bob/m.gguf", "@@ end"]
    found = parse(
        framed(
            [
                "@@ weights", "7 regular file|/w/root.gguf",
                "@@ stamps", "1-1|/w/root.gguf",
                "@@ hashes", f"1 2.0 {'ab' * 32} /w/root.gguf", f"1 2.0 {'ab' * 32} /home/eve/m.gguf",
                *inspected("/home/eve/m.gguf", of_eve),
                *inspected("/home/bob/m.gguf", of_bob),
                *inspected("/home/ada/m.gguf", of_bob[:-1]),
                "@@ end",
            ]
        )
    )  # fmt: skip
    assert found.weights == {"/w/root.gguf": 7, "/home/eve/m.gguf": 5, "/home/bob/m.gguf": 6}
    assert found.stamps == {"/w/root.gguf": "1-1", "/home/eve/m.gguf": "2-2", "/home/bob/m.gguf": "3-3"}
    assert found.headers == {"/home/eve/m.gguf": Header("2-2", "gguf", {"F16": 1})}
    assert (found.owned.get("/w/root.gguf"), found.labels) == (None, {})
    assert list(found.hashes) == ["/home/eve/m.gguf"]
    assert found.late == {"weights /home/ada/m.gguf": "was cut off"}


def test_chooses_users_to_ask_for_weights() -> None:
    both = spec(
        {"docker": {"rootless": {"ada": {}, "bob": {}}}},
        {
            "models": {
                "one": {"port": 8000, "weights": "/data/one.gguf", "user": "ada"},
                "two": {"port": 8001, "weights": "/data/two.gguf", "user": "ada"},
                "three": {"port": 8002, "weights": "/data/two.gguf", "user": "bob"},
                "four": {"port": 8003, "weights": "/data/four.gguf", "user": "bob"},
                "five": {"port": 8004, "weights": "/data/four.gguf"},
            }
        },
    )
    assert weights.readers(both) == {"/data/one.gguf": "ada"}


# --- who inspects a path ---------------------------------------------------------------------------------------------


def tree(place: Path, dice: random.Random) -> str:
    """A path below a folder of root's, of folders, links and a file, each of some user, group and mode."""
    at, name = place, ""
    for depth in range(dice.randint(1, 4)):
        part = at / f"{name}{depth}"
        if dice.random() < 0.25:
            target = at / f"target{depth}"
            target.mkdir(exist_ok=True)
            part.symlink_to(dice.choice([target.name, str(target)]))
            own(target, dice)
            os.chown(part, dice.choice(OWNERS), 0, follow_symlinks=False)
            at = target
            name = ""
            shown = part
        else:
            part.mkdir()
            own(part, dice)
            at = shown = part
    file = at / "m.gguf"
    if dice.random() < 0.8:
        file.write_bytes(b"x")
        own(file, dice)
    return str(shown / "m.gguf")


OWNERS = (0, 0, 0, 0, 0, 65534, 4711)


def own(path: Path, dice: random.Random) -> None:
    os.chown(path, dice.choice(OWNERS), dice.choice([0, 100, 4242]))
    path.chmod(dice.choice([0o755, 0o755, 0o775, 0o777, 0o1777, 0o2775, 0o700]))


def account_of(argv: list[str]) -> tuple[str | int, ...]:
    """Who runs a command with these words before it, as `keeper` of files/evidence.py says it."""
    given = dict(itertools.pairwise(argv))
    if not argv:
        return tuple(Whole("evidence").ROOT)
    if "--clear-groups" not in argv:
        return (pwd.getpwuid(int(given["--reuid"])).pw_name,)
    uid, group = int(given["--reuid"]), int(given["--regid"])
    return (uid, group) if uid == 65534 else (uid,)


@needs_root
def test_all_programs_agree_on_who_inspects_a_path(place: Path, safe: Any, hashes: Any) -> None:
    """The snapshot is POSIX sh, as fresh hosts need it, and verification shares nothing with it on purpose."""
    dice, evidence, trees = random.Random(12), Whole("evidence"), []
    for number in range(40):
        folder = place / str(number)
        folder.mkdir()
        trees.append(tree(folder, dice))
    functions = (FILES / "snapshot_docker.sh").read_text() + (FILES / "snapshot.sh").read_text().partition("\neval ")[0]
    script = functions + '\nwhile IFS= read -r path; do spots=$(spots_of "$path")\n'
    script += 'echo "$(inspector "$spots" "")|$(inspector "$spots" eve)"; done'
    run = subprocess.run(
        ["sh", "-c", script], input="\n".join([*trees, ""]), capture_output=True, text=True, check=True
    )
    said = [tuple(line.split("|")) for line in run.stdout.splitlines()]
    kept = [evidence.keeper(path) for path in trees]
    assert [account_of(hashes.inspector(path, "")) for path in trees] == kept
    assert said == [
        (
            "root" if who == evidence.ROOT else ":".join(map(str, who)),
            "eve" if safe.weak_spot(path) else "root",
        )
        for path, who in zip(trees, kept, strict=True)
    ]
    assert {evidence.ROOT, ("nobody",), (4711,), (65534, 100), (65534, 4242), (65534, 65534)} <= set(kept)


@needs_root
def test_root_stays_out_of_a_folder_that_a_group_can_write_to(place: Path, secret: Path) -> None:
    """A member could put a link there between two of root's system calls: nobody has no rights to follow it with."""
    evidence = Whole("evidence")
    group = place / "group"
    group.mkdir()
    os.chown(group, 0, 100)
    group.chmod(0o2775)
    for name, mode in (("open.gguf", 0o640), ("closed.gguf", 0o600)):
        (group / name).write_bytes(b"weights")
        (group / name).chmod(mode)
    (group / "link.gguf").symlink_to(secret)  # of root's, as a member could have it in time
    paths = {name: group / f"{name}.gguf" for name in ("open", "closed", "link")}
    found = seen(wanted(*paths.values(), user=None))
    assert {name: found.headers[str(path)].problem for name, path in paths.items()} == {
        "open": "open.gguf is not a GGUF file", "closed": "closed.gguf: Permission denied",
        "link": "link.gguf: Permission denied",
    }  # fmt: skip
    assert found.owned[str(paths["open"])] == {"the group users"}
    told = evidence.results(
        {name: evidence.Part(name, 20, evidence.weights_as_keeper, str(path), True, {}) for name, path in paths.items()}
    )
    assert "sha256" in told["open"]["files"]["open.gguf"]
    assert hashlib.sha256(SECRET).hexdigest() not in str(told)
    assert "sha256" not in told["closed"]["files"]["closed.gguf"]


# --- the warning -----------------------------------------------------------------------------------------------------

OWNED = ["@@ owned", "d 40755 ada|ada|/w/a.gguf", "d 2775 root|the lab|/w/b.gguf", "f 666 root|root|/w/b.gguf",
         "l 777 ada|ada|/w/c.gguf", "@@ end"]  # fmt: skip


def test_other_owners_of_weights_are_one_warning() -> None:
    found = parse(framed(OWNED))
    assert found.owned == {
        "/w/a.gguf": {"ada"}, "/w/b.gguf": {"the group the lab", "everybody"}, "/w/c.gguf": {"ada"}
    }  # fmt: skip
    entries = spec(
        {"docker": {"rootless": {"ada": {}}}},
        {
            "models": {
                "alpha": {"port": 8000, "weights": "/w/a.gguf"},
                "beta": {"port": 8001, "weights": "/w/b.gguf"},
                "own": {"port": 8002, "weights": "/w/c.gguf", "user": "ada"},
                "safe": {"port": 8003, "weights": "/w/d.gguf"},
            }
        },
    )
    facts = host_state(owned=found.owned, weights={f"/w/{name}.gguf": 1 for name in "abcd"})
    plan = models_plan(entries, facts)
    (warning,) = plan.warnings
    assert warning.what.startswith(
        "weights of alpha, beta are in folders that ada, everybody, the group the lab can write to, and so change "
    )
    assert not [name for name in plan.errors if name in ("alpha", "beta")]


def test_warning_is_shown_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    facts = host_state(owned={"/w/a.gguf": frozenset({"ada"})}, weights={"/w/a.gguf": 1})
    console = Console(width=200)
    show_hosts(console, ["gpu1"], previewed("gpu1", models(alpha={}), facts).findings)
    assert "warning  weights of alpha are in folders that ada can write to" in capsys.readouterr().out


@needs_root
def test_snapshot_sees_who_can_change_weights(home: Path, place: Path) -> None:
    for folder in (place / "group", place / "tmp", place / "fine", home):
        folder.mkdir(exist_ok=True)
        (folder / "m.gguf").write_bytes(b"x")
    (place / "group").chmod(0o775)
    (place / "tmp").chmod(0o1777)
    (place / "link.gguf").symlink_to(home / "m.gguf")
    paths = [place / name / "m.gguf" for name in ("group", "tmp", "fine", "home")]
    found = seen(wanted(*paths, place / "link.gguf", place / "missing.gguf", user=None)).owned
    assert found == {
        str(paths[0]): {f"the group {(place / 'group').group()}"},
        str(paths[3]): {USER},
        str(place / "link.gguf"): {USER},
    }


def test_never_prints_target_of_link(tmp_path: Path) -> None:
    """It may contain anything, also a newline and a section."""
    evil = tmp_path / "a\n@@ files\n/etc/passwd 644 0 0 eA==\n"
    evil.mkdir(parents=True)
    evil.chmod(0o777)
    (tmp_path / "m.gguf").symlink_to(evil)
    found = seen(wanted(tmp_path / "m.gguf", user=None))
    assert "/etc/passwd" not in found.files


def obstacle_of(told: Host, facts: HostFacts) -> Problem | None:
    return obstacle(desire("m0", told, facts, ()), facts, Change("m0", Action.CREATE))


def test_weights_unreadable_for_user_are_not_called_missing() -> None:
    """Inspected as that user, they have no size."""
    told = wanted(Path("/w/a.gguf"))
    user = User(1001, 1001, "/home/nobody", unreadable=frozenset({"/w/a.gguf"}))
    found = obstacle_of(told, host_state(weights={"/w/a.gguf": None}, users={USER: user}))
    assert said([found])[0].startswith(f"weights /w/a.gguf are not readable by {USER}")
    found = obstacle_of(told, host_state(weights={"/w/a.gguf": None}))
    assert "do not exist" in str(found)


# --- keys, which belong to the user of their Docker -------------------------------------------------------------------


@pytest.fixture
def ada(tmp_path: Path, fakes: Fakes, monkeypatch: Any) -> Any:
    """ada's Docker, with twenty keys that she can write into."""
    module = runner(tmp_path, fakes, monkeypatch)
    dockerd = module.Dockerd("ada")
    dockerd.write_files({f"m{number}": {"api_key": f"sk-{number:02}"} for number in range(20)}, ())
    for path in Path(dockerd.secrets).rglob("api_key"):
        path.chmod(0o600)
    return dockerd


def test_key_of_any_size_and_bytes_costs_root_little(ada: Any) -> None:
    """A sparse file costs its user nothing."""
    key = Path(ada.secrets) / "m0/api_key"
    with key.open("r+b") as stream:
        stream.truncate(1 << 40)
    asking, undoing = sys.modules["asking"], sys.modules["undoing"]
    assert len(ada.api_key("m0")) <= 1 << 20
    assert len(asking.key_of({"key": str(key)})) <= 1 << 20
    assert ada.without_secrets("sk-01, sk-02") == "•••, •••"
    member = {"restore": ["api_key"], "new_key": "m0", "old_key": "m1"}
    undoing.todays_files(member, ada)
    assert (Path(ada.secrets) / "m1/api_key").stat().st_size <= 1 << 20
    key.write_bytes(b"\xff\xfe")
    assert ada.api_key("m0") == "\ufffd\ufffd"
    assert ada.without_secrets("sk-03") == "•••"


def test_masks_of_secrets_do_not_grow(ada: Any) -> None:
    """Each mask would become three, with each further secret that is the sign of the mask."""
    for path in Path(ada.secrets).rglob("api_key"):
        path.write_text("•")
    assert ada.without_secrets("a•b") == "a•••b"


# --- homes -----------------------------------------------------------------------------------------------------------


def test_root_enters_no_home_when_removing_docker() -> None:
    """Root enters no home and looks at nothing there."""
    user = User(1001, 1001, "/home/eve", unit=Unit("loaded", "active", "enabled"))
    (step,) = [one for one in plan_remove(host_state(users={"eve": user}), "all").steps if "set-up" in one.reason]
    assert isinstance(step, Shell)
    words = shlex.split(step.command, comments=False)
    become = shlex.split(with_time_limit("eve", user))
    assert words[: len(become)] == become
    assert words[len(become) : -1] == ["sh", "-c"], "all is one word, for a shell of that user's"
    assert step.user == "eve"


@needs_root
def test_removing_docker_of_user_removes_no_file_of_root(home: Path, place: Path) -> None:
    account = pwd.getpwnam(USER)
    (place / "unit.d").mkdir()
    (place / "unit.d/gpurack.conf").write_text("root's")
    (home / ".config/systemd/user").mkdir(parents=True)
    (home / ".config/systemd/user/docker.service.d").symlink_to(place / "unit.d")
    for path in [home, *home.rglob("*")]:
        give(path)
    user = User(account.pw_uid, account.pw_gid, str(home), unit=Unit("loaded", "active", "enabled"))
    (step,) = [one for one in plan_remove(host_state(users={USER: user}), "all").steps if "set-up" in one.reason]
    assert isinstance(step, Shell)
    subprocess.run(["sh", "-c", step.command], capture_output=True, check=False, timeout=60)
    assert (place / "unit.d/gpurack.conf").exists()
    (home / ".config/systemd/user/docker.service.d").unlink()
    done = subprocess.run(["sh", "-c", step.command], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, "nothing is left to remove"


@needs_root
def test_manifest_follows_no_link_out_of_home(fakes: Fakes, place: Path, secret: Path) -> None:
    fakes.add("systemctl", "")  # it takes a second to list this machine's units
    config = place / "home/eve/.config/systemd"
    config.mkdir(parents=True)
    (place / "home/eve/.config/docker").mkdir()
    (config / "own.service").write_text("x")
    (config / "folder").symlink_to(place)
    evil = config / "evil\nfile /etc/passwd 644 root root 00"
    evil.parent.mkdir(parents=True)
    evil.write_text("x")
    os.mkfifo(config / "pipe")
    (place / "home/eve/.config/docker/daemon.json").symlink_to(secret)
    for path in [place / "home/eve", *(place / "home/eve").rglob("*")]:
        give(path)
    text = (FILES / "manifest.sh").read_text()
    for words in ("ls /home/", "home=/home/"):
        assert words in text
        text = text.replace(words, words.replace("/home/", f"{place}/home/"))
    done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=True, timeout=60)
    about = [line for line in done.stdout.splitlines() if str(place) in line or "/etc/passwd" in line]
    assert [line.split()[1] for line in about if line.startswith("file ")] == [f"{config}/own.service"]
    assert hashlib.sha256(SECRET).hexdigest() not in done.stdout
