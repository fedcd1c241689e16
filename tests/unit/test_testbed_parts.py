"""Parts of the testbed that need no host: its cache, its names, the contents of prepared hosts."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path

import pytest

from gpurack.commands.main import main
from tests.given import spec
from tests.no_testbed import public_key
from tests.testbed import TestbedError, cache, demo, disk, hosts, in_use, prepared, testbed
from tests.testbed.inventory import common


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gpurack-testbed"


def test_makes_result_once_for_each_recipe(home: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "image.tar").write_text("whole")

    first = cache.entry("image", ("a", 1), make, "image")
    assert cache.entry("image", ("a", 1), make, "image") == first
    other = cache.entry("image", ("a", 2), make, "image")
    assert other != first
    assert len(made) == 2
    assert (first / "image.tar").read_text() == "whole"


def test_discards_result_of_failed_attempt(home: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("")
        raise TestbedError("no network")

    with pytest.raises(TestbedError):
        cache.entry("image", ("a",), broken, "image")
    whole = cache.entry("image", ("a",), lambda folder: (folder / "whole").touch(), "image")
    assert [path.name for path in whole.iterdir()] == ["whole"]
    assert not list(home.glob("*.partial"))


def test_recipe_follows_content_of_files(tmp_path: Path) -> None:
    file = tmp_path / "unit"
    file.write_text("one")
    before = cache.digest(file)
    file.write_text("two")
    assert cache.digest(file) != before


def test_ignores_files_of_tools_beside_sources(tmp_path: Path) -> None:
    for name in ("b.py", "a/__init__.py", ".ruff_cache/0.1/2", "a/__pycache__/b.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert cache.sources(tmp_path) == [tmp_path / "a/__init__.py", tmp_path / "b.py"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpu1", "gpu"),
        ("cpu2", "cpu"),
        ("gpu-bookworm3", "gpu-bookworm"),
        ("bookworm1", "gpu-bookworm"),
        ("sid1", "gpu-sid"),
        ("cpu", "cpu"),
    ],
)
def test_kind_follows_from_host_name(name: str, kind: str) -> None:
    assert hosts.kind_of(name) == kind


def test_demo_ends_with_commands_that_exist() -> None:
    """The command first, pyinfra beside it."""
    lines = [line.strip() for line in demo.LOOK_AROUND.splitlines()]
    words = [line.split() for line in lines if line.startswith("gpurack ")]
    assert [word[1] for word in words] == ["status", "diff", "apply"]
    assert all(word[1] in main.commands and "inventories/demo.py" in word for word in words)
    assert "The same by pyinfra: pyinfra inventories/demo.py deploys/gpu_host.py" in lines


def test_demo_has_fresh_hosts_whatever_they_were_used_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    removed: list[str] = []
    found = dict.fromkeys(("gpu1", "rocky1"))
    monkeypatch.setattr(testbed, "_alone", contextlib.nullcontext)
    monkeypatch.setattr(testbed.outer, "find", lambda: "engine")
    monkeypatch.setattr(testbed.hosts, "existing", lambda engine: found)
    monkeypatch.setattr(testbed.hosts, "remove", lambda engine, name: removed.append(name))
    monkeypatch.setattr(in_use, "STATE", tmp_path)
    testbed.remove_unused(demo.HOSTS)
    assert removed == ["gpu1"]
    with (tmp_path / "gpu1.used").open("a") as other:  # another suite
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(TestbedError, match="gpu1 is used by a test"):
            testbed.remove_unused(demo.HOSTS)
    assert removed == ["gpu1"]


def test_refuses_name_without_kind() -> None:
    with pytest.raises(TestbedError, match="--kind"):
        hosts.kind_of("apple1")


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return public_key(tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", ["cpu", "gpu", "rootless"])
@pytest.mark.usefixtures("key")
def test_inventory_of_prepared_hosts_is_valid(kind: str) -> None:
    models = spec(common(), prepared.data(kind)).models
    users = {name: model.user for name, model in models.items() if model.user}
    assert users == (prepared.ROOTLESS if kind == "rootless" else {})
    assert any(model.gpus for model in models.values()) is (kind != "cpu")


def test_host_is_prepared_anew_when_anything_that_made_it_changes(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    module = checkout / "gpurack" / "plan" / "host.py"
    for path in (module, checkout / "config.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one")
    monkeypatch.setattr(prepared, "CHECKOUT", checkout)
    monkeypatch.setattr(prepared, "MADE_BY", ("config.py", "gpurack"))
    names = [prepared.image("gpu", "repository 1")]
    assert prepared.image("gpu", "repository 1") == names[0]

    names += [prepared.image("cpu", "repository 1"), prepared.image("gpu", "repository 2")]
    for change in (
        lambda: module.write_text("two"),
        lambda: module.rename(module.with_name("stages.py")),
        lambda: key.write_text("another"),
    ):
        change()
        names.append(prepared.image("gpu", "repository 1"))
    assert len(set(names)) == len(names)


def test_says_what_the_demo_uses_and_what_stays(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "STATE", tmp_path / "state")
    monkeypatch.setattr(disk, "cache_home", lambda: tmp_path / "cache/gpurack-testbed")
    assert "some minutes, as nothing is cached yet" in disk.costs()
    assert disk.kept() == "nothing stays"
    (tmp_path / "cache/gpurack-testbed").mkdir(parents=True)
    (tmp_path / "cache/gpurack-testbed/image").write_bytes(b"x" * 100_000_000)
    assert "; 0.1 GB are there already" in disk.costs()
    assert disk.kept().startswith(f"what makes the next start fast stays: 0.1 GB in {tmp_path}/cache/gpurack-testbed. ")
