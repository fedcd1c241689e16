"""files/room.py, and what a run says that does not fit: sizes, and what `gpurack prune` would free."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack.plan.models import unused
from tests.given import host_state, models, models_plan
from tests.unit.host_programs import load

room = load("room")
preparing = load("preparing")
import messages  # noqa: E402 (of files/)
import programs  # noqa: E402 (of files/)

BIG, SMALL, OTHER = (hashlib.sha256(word.encode()).hexdigest() for word in ("big", "small", "other"))
MANIFEST = {"layers": [{"digest": f"sha256:{BIG}", "size": 6_000_000_000}, {"digest": f"sha256:{SMALL}", "size": 1000}]}
LIST = {
    "manifests": [
        {"digest": f"sha256:{SMALL}", "platform": {"os": "linux", "architecture": "riscv64"}},
        {"digest": f"sha256:{OTHER}", "platform": {"os": "linux", "architecture": "amd64"}},
    ]
}


class Dockerd:
    """The methods that room.py calls. status: of its driver."""

    become: tuple[str, ...] = ()

    def __init__(self, root: Path, driver: str = "overlay2", user: str = "", status: str = "[]") -> None:
        self.root, self.driver, self.user, self.status = root, driver, user, status

    def run(self, *words: str) -> tuple[int, str]:
        assert words[0] == "info"
        return 0, f"{self.driver}|{self.root}|{self.status}\n"


CONTAINERDS = '[["driver-type","io.containerd.snapshotter.v1"]]'


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Docker with 1 GB free; what a registry says, by reference."""
    layers(tmp_path)
    said: dict[str, Any] = {"free": 10**9, "dockerd": Dockerd(tmp_path), "asked": []}

    def ask(dockerd: Any, *words: str, limit: float) -> tuple[int, str]:
        said["asked"].append(words[-1])
        found = said.get(words[-1])
        return (1, "ERROR: not found") if found is None else (0, found if isinstance(found, str) else json.dumps(found))

    def run(*argv: str, **options: Any) -> tuple[int, str]:
        code, output = programs.run(*argv, **options)
        lines = output.split("\n")
        return code, "\n".join([lines[0], f"{said['free'] // 1000} 1000", *lines[2:]] if len(lines) > 2 else lines)

    monkeypatch.setattr(room, "PROMISED", {})
    monkeypatch.setattr(room.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: SimpleNamespace(free=said["free"]))
    monkeypatch.setattr(room, "run", run)
    monkeypatch.setattr(room, "CONTAINERD", f"{tmp_path}/containerd")
    monkeypatch.setattr(room, "CONTAINERD_TOML", f"{tmp_path}/config.toml")
    monkeypatch.setattr(room.processes, "docker", ask)
    return said


def layers(root: Path, *digests: str, below: str = "") -> None:
    """Docker's folder, with layers that it has."""
    folder = root / (below or room.OWN_STORE.format("overlay2"))
    folder.mkdir(parents=True, exist_ok=True)
    for digest in digests:
        (folder / digest).touch()


def refused(docker: dict[str, Any], reference: str = "r/i:1") -> str:
    try:
        room.refuse_pull(docker["dockerd"], "alpha", reference, [])
    except messages.NoRoom as error:
        return str(error)
    return ""


def test_image_that_does_not_fit_is_refused_with_sizes(docker: dict[str, Any], tmp_path: Path) -> None:
    docker["r/i:1"] = MANIFEST
    assert refused(docker) == (
        f"image r/i:1 needs at least 6.0 GB more, but {tmp_path} has 1.0 GB free, so it was not pulled. Remove what "
        "nothing uses: gpurack prune INVENTORY --yes"
    )


def test_layers_of_this_machine_count(docker: dict[str, Any]) -> None:
    docker["r:5000/i:1"], docker[f"r:5000/i@sha256:{OTHER}"] = LIST, MANIFEST
    assert "needs at least 6.0 GB more" in refused(docker, "r:5000/i:1")
    assert docker["asked"] == ["r:5000/i:1", f"r:5000/i@sha256:{OTHER}"]


def test_layers_that_docker_has_need_no_room(docker: dict[str, Any], tmp_path: Path) -> None:
    docker["r/i:1"] = MANIFEST
    layers(tmp_path, BIG)
    assert refused(docker) == ""


def test_registry_is_asked_only_if_the_disk_may_be_too_small(docker: dict[str, Any]) -> None:
    docker["r/i:1"], docker["free"] = MANIFEST, room.ENOUGH
    assert (refused(docker), docker["asked"]) == ("", [])


@pytest.mark.parametrize(
    "answer",
    [
        None, "no JSON", [], {}, {"layers": 3}, {"layers": [{"digest": "sha256:../../x", "size": 10**12}]},
        {"layers": [{"digest": f"sha256:{BIG}", "size": "9" * 12}, 7, None]}, {"manifests": []}, {"manifests": [3]},
        {"layers": [{"digest": f"sha256:{BIG}", "size": -1}]},
    ],
)  # fmt: skip
def test_nothing_is_refused_without_a_valid_answer(docker: dict[str, Any], answer: Any) -> None:
    docker["r/i:1"] = answer
    assert refused(docker) == ""


@pytest.mark.parametrize(
    "other",
    [
        {"driver": "stargz", "status": CONTAINERDS}, {"root": Path("/no/docker")}, {"driver": "../x"},
        {"driver": "overlayfs", "status": CONTAINERDS}, {"root": Path("relative")},
    ],
)  # fmt: skip
def test_unknown_store_is_not_judged(docker: dict[str, Any], tmp_path: Path, other: dict[str, Any]) -> None:
    docker["r/i:1"], docker["dockerd"] = MANIFEST, Dockerd(**{"root": tmp_path, **other})
    assert (refused(docker), docker["asked"]) == ("", [])


@pytest.mark.parametrize("driver", ["overlay2", "fuse-overlayfs", "btrfs"])
@pytest.mark.parametrize("user", ["", "ada"])
def test_docker_is_judged_wherever_its_images_are(
    docker: dict[str, Any], tmp_path: Path, user: str, driver: str
) -> None:
    """A user's Docker, another folder (`data-root`), another driver."""
    root = tmp_path / "elsewhere"
    layers(root, BIG, below=room.OWN_STORE.format(driver))
    docker["r/i:1"], docker["dockerd"] = MANIFEST, Dockerd(root, driver, user)
    assert refused(docker) == ""
    (root / room.OWN_STORE.format(driver) / BIG).unlink()
    assert f"needs at least 6.0 GB more, but {root} has 1.0 GB free" in refused(docker)


@pytest.mark.parametrize(
    ("user", "place"),
    [("", "containerd"), ("", "var/docker/containerd/daemon"), ("ada", "var/docker/containerd/daemon"), ("", "other")],
)
def test_store_of_containerd_keeps_layers_twice(docker: dict[str, Any], tmp_path: Path, user: str, place: str) -> None:
    root = tmp_path / "var/docker"
    (tmp_path / "config.toml").write_text(f"version = 2\nroot = '{tmp_path}/other'\n" if place == "other" else "")
    layers(tmp_path / place, BIG, below=room.CONTENT)
    docker["r/i:1"], docker["dockerd"] = MANIFEST, Dockerd(root, "overlayfs", user, CONTAINERDS)
    assert refused(docker) == ""
    (tmp_path / place / room.CONTENT / BIG).unlink()
    assert f"needs at least 11.4 GB more, but {tmp_path / place} has 1.0 GB free" in refused(docker)


def test_user_is_not_judged_by_the_containerd_of_the_host(docker: dict[str, Any], tmp_path: Path) -> None:
    layers(tmp_path / "containerd", below=room.CONTENT)
    docker["r/i:1"], docker["dockerd"] = MANIFEST, Dockerd(tmp_path / "x", "overlayfs", "ada", CONTAINERDS)
    assert (refused(docker), docker["asked"]) == ("", [])


def test_a_file_system_of_a_user_that_hangs_refuses_nothing(
    docker: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*argv: str, **options: Any) -> tuple[int, str]:
        raise messages.TimeIsUp("no answer")

    docker["r/i:1"] = MANIFEST
    monkeypatch.setattr(room, "run", hang)
    assert refused(docker) == ""


# --- all of one run together ------------------------------------------------------------------------------------------


def test_images_of_one_run_are_added_up(docker: dict[str, Any], tmp_path: Path) -> None:
    docker["r/i:1"] = MANIFEST
    docker["r/i:2"] = {"layers": [{"digest": f"sha256:{OTHER}", "size": 5_000_000_000}]}
    docker["free"] = 10 * 10**9
    assert refused(docker, "r/i:1") == ""
    assert refused(docker, "r/i:1") == "", "the same image for another model"
    assert f"but {tmp_path} has 10.0 GB free, and other downloads of this run need 6.0 GB of it" in refused(
        docker, "r/i:2"
    )
    docker["free"] = 12 * 10**9
    assert refused(docker, "r/i:2") == "", "there is room for both again"


def test_what_is_written_already_is_not_counted_twice(docker: dict[str, Any]) -> None:
    docker["r/i:1"] = MANIFEST
    docker["r/i:2"] = {"layers": [{"digest": f"sha256:{OTHER}", "size": 5_000_000_000}]}
    docker["free"] = 12 * 10**9
    assert refused(docker, "r/i:1") == ""
    docker["free"] = 6 * 10**9
    assert refused(docker, "r/i:2") == ""


def test_weights_and_images_on_one_file_system_are_added_up(docker: dict[str, Any], tmp_path: Path) -> None:
    docker["r/i:1"], docker["free"] = MANIFEST, 10 * 10**9
    room.require(str(tmp_path), "/w/a", 5 * 10**9)
    assert "and other downloads of this run need 5.0 GB of it" in refused(docker)


def test_weights_on_another_file_system_need_no_room_of_docker(
    docker: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker["r/i:1"], docker["free"] = MANIFEST, 10 * 10**9
    room.require("/proc", "/w/a", 5 * 10**9)
    assert refused(docker) == ""


# --- what prune would free --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("freeable", "more"), [(12_300_000_000, ". That would free 12.3 GB there now"), (None, "")])
def test_what_does_not_fit_says_what_prune_would_free(
    monkeypatch: pytest.MonkeyPatch, freeable: int | None, more: str
) -> None:
    monkeypatch.setattr(preparing.leftovers, "freeable", lambda job, folder, user: freeable)
    with pytest.raises(messages.NoRoom) as failure, preparing.saying_what_is_unused({"unused": {}}):
        raise messages.NoRoom("weights need 6.1 GB more")
    assert str(failure.value) == f"weights need 6.1 GB more{more}"


def test_other_failures_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(messages.Failure, match=r"^cannot pull$"), preparing.saying_what_is_unused({"unused": {}}):
        raise messages.Failure("cannot pull")


def test_counts_what_would_be_removed_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leftovers = preparing.leftovers
    (tmp_path / "c").touch()

    def main(job: Any, done: Any) -> None:
        done([leftovers.item("image", "a", 7, None), leftovers.item("weights", "b", 9, None, stays="on NFS")], False)
        done([leftovers.item("volume", "c", None, None), leftovers.item("weights", f"{tmp_path}/c", 300, None)], False)
        done([leftovers.item("image", "d", 50, None, "ada")], False)

    store = SimpleNamespace(folder=str(tmp_path))
    monkeypatch.setattr(leftovers, "main", main)
    monkeypatch.setattr(leftovers.room, "store_of", lambda dockerd: store)
    assert leftovers.freeable({}, str(tmp_path)) == 7 + 300
    assert leftovers.freeable({}, "/proc") == 0, "another file system"
    assert leftovers.freeable({}, "/proc", "ada") == 50, "in the Docker of a user"
    monkeypatch.setattr(leftovers.room, "store_of", lambda dockerd: None)
    assert leftovers.freeable({}, str(tmp_path)) == 300
    monkeypatch.setattr(leftovers, "main", lambda job, done: done([leftovers.item("docker", "", None, None)], False))
    assert leftovers.freeable({}, str(tmp_path)) is None


def test_run_is_told_what_the_inventory_names() -> None:
    wanted = models(alpha={"gpus": [0]}, beta={"gpus": [], "enabled": False, "weights": "/w/b.gguf"})
    found = models_plan(wanted, host_state(gpus=1, weights={"/w/a.gguf": 1})).job
    assert found
    assert found["unused"] == unused.question(wanted)
    assert found["unused"]["weights"] == ["/w/a.gguf", "/w/b.gguf"]
