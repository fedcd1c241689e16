"""files/room.py, and what a run says that does not fit: sizes, and what `gpurack prune` would free."""

import hashlib
import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from gpurack.plan.models import unused
from tests.given import host_state, models, models_plan
from tests.unit.host_programs import load

room = load("room")
preparing = load("preparing")
import common  # noqa: E402 (of files/)

BIG, SMALL, OTHER = (hashlib.sha256(word.encode()).hexdigest() for word in ("big", "small", "other"))
MANIFEST = {"layers": [{"digest": f"sha256:{BIG}", "size": 6_000_000_000}, {"digest": f"sha256:{SMALL}", "size": 1000}]}
LIST = {
    "manifests": [
        {"digest": f"sha256:{SMALL}", "platform": {"os": "linux", "architecture": "riscv64"}},
        {"digest": f"sha256:{OTHER}", "platform": {"os": "linux", "architecture": "amd64"}},
    ]
}
Usage = namedtuple("Usage", "total used free")


class Dockerd:
    """The methods that room.py calls."""

    def __init__(self, root: Path, driver: str = "overlay2", user: str = "") -> None:
        self.root, self.driver, self.user = root, driver, user

    def run(self, *words: str) -> tuple[int, str]:
        assert words[0] == "info"
        return 0, f"{self.driver} {self.root}\n"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Docker with 1 GB free; what a registry says, by reference."""
    (tmp_path / room.LAYERS).mkdir(parents=True)
    said: dict[str, Any] = {"free": 10**9, "dockerd": Dockerd(tmp_path), "asked": []}

    def ask(dockerd: Any, *words: str, limit: float) -> tuple[int, str]:
        said["asked"].append(words[-1])
        found = said.get(words[-1])
        return (1, "ERROR: not found") if found is None else (0, found if isinstance(found, str) else json.dumps(found))

    monkeypatch.setattr(room.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(0, 0, said["free"]))
    monkeypatch.setattr(room.processes, "docker", ask)
    return said


def refused(docker: dict[str, Any], reference: str = "r/i:1") -> str:
    try:
        room.refuse_pull(docker["dockerd"], "alpha", reference, [])
    except common.NoRoom as error:
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
    (tmp_path / room.LAYERS / BIG).touch()
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


@pytest.mark.parametrize("other", [{"user": "ada"}, {"driver": "overlayfs"}, {"root": Path("/no/docker")}])
def test_unknown_store_is_not_judged(docker: dict[str, Any], tmp_path: Path, other: dict[str, Any]) -> None:
    docker["r/i:1"], docker["dockerd"] = MANIFEST, Dockerd(**{"root": tmp_path, **other})
    assert (refused(docker), docker["asked"]) == ("", [])


# --- what prune would free --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("freeable", "more"), [(12_300_000_000, ". That would free 12.3 GB now"), (None, "")])
def test_what_does_not_fit_says_what_prune_would_free(
    monkeypatch: pytest.MonkeyPatch, freeable: int | None, more: str
) -> None:
    monkeypatch.setattr(preparing.leftovers, "freeable", lambda job: freeable)
    with pytest.raises(common.NoRoom) as failure, preparing.saying_what_is_unused({"unused": {}}):
        raise common.NoRoom("weights need 6.1 GB more")
    assert str(failure.value) == f"weights need 6.1 GB more{more}"


def test_other_failures_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(common.Failure, match=r"^cannot pull$"), preparing.saying_what_is_unused({"unused": {}}):
        raise common.Failure("cannot pull")


def test_counts_what_would_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    leftovers = preparing.leftovers

    def main(job: Any, done: Any) -> None:
        done([leftovers.item("image", "a", 7, None), leftovers.item("weights", "b", 9, None, stays="on NFS")], False)
        done([leftovers.item("volume", "c", None, None)], False)

    monkeypatch.setattr(leftovers, "main", main)
    assert leftovers.freeable({}) == 7
    monkeypatch.setattr(leftovers, "main", lambda job, done: done([leftovers.item("docker", "", None, None)], False))
    assert leftovers.freeable({}) is None


def test_run_is_told_what_the_inventory_names() -> None:
    wanted = models(alpha={"gpus": [0]}, beta={"gpus": [], "enabled": False, "weights": "/w/b.gguf"})
    found = models_plan(wanted, host_state(gpus=1, weights={"/w/a.gguf": 1})).job
    assert found
    assert found["unused"] == unused.question(wanted)
    assert found["unused"]["weights"] == ["/w/a.gguf", "/w/b.gguf"]
