"""Images from tar files, builds and registries with a login, in the inventory and the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.model import HostFacts
from gpurack.inventory.secrets import read_logins
from gpurack.plan.models import images
from gpurack.plan.models.desired import desire
from gpurack.plan.models.plan import ModelsPlan, Upload
from gpurack.plan.system.docker import plan_docker
from gpurack.spec import image_tar
from gpurack.spec.host import Host
from gpurack.spec.image_ref import ImageRef
from gpurack.spec.problems import InventoryError
from tests.given import host_state, models, models_plan, running, spec
from tests.unit.image_tars import ID, save

BUILD = {"git": "https://git.example/lab/llama.cpp.git", "revision": "b7000", "args": {"CUDA_VERSION": "12.6.0"}}
HERE = {"weights": {"/w/a.gguf": 1}}


def plan(spec: Host, facts: HostFacts, logins: Any = None) -> ModelsPlan:
    return models_plan(spec, facts, logins=logins)


def entry(planned: ModelsPlan, name: str = "alpha") -> dict[str, Any]:
    assert planned.job
    return next(each for group in planned.job["batches"] for each in group if each["name"] == name)


def refused(*layers: Any) -> list[str]:
    with pytest.raises(InventoryError) as error:
        spec(*layers)
    return [problem.what for problem in error.value.problems]


# --- a tar file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_reads_image_id_and_names_of_tar(tmp_path: Path, mode: str) -> None:
    found = image_tar.read(save(tmp_path / "a.tar", "lab/llama:1", mode=mode))
    assert found == image_tar.Image(ID, ("lab/llama:1",))


def test_tar_saved_again_is_another_image(tmp_path: Path) -> None:
    first = image_tar.read(save(tmp_path / "a.tar"))
    assert image_tar.read(save(tmp_path / "a.tar", content=b'{"architecture": "arm64"}')) != first


def test_reports_invalid_tar_before_run(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no tar")
    with_tar = lambda path: {"models": {"alpha": {"version": None, "image": {"tar": str(path)}, "port": 1}}}  # noqa: E731
    assert refused(with_tar(tmp_path / "text.tar")) == [
        f"{tmp_path}/text.tar contains no image as `docker save` writes it."
    ]
    assert refused(with_tar(save(tmp_path / "two.tar", images=2))) == [
        f"{tmp_path}/two.tar contains 2 images. Save them one by one."
    ]
    assert refused(with_tar(tmp_path / "gone.tar")) == [
        f"{tmp_path}/gone.tar cannot be read: No such file or directory."
    ]


def test_copies_and_loads_tar_of_missing_image(tmp_path: Path) -> None:
    path = save(tmp_path / "My Llama.tar.gz", "lab/llama:1", mode="w:gz")
    wanted = models(
        alpha={"version": None, "image": {"tar": str(path)}}, beta={"version": None, "image": {"tar": str(path)}}
    )
    planned = plan(wanted, host_state(**HERE))
    there = f"/var/lib/gpurack/weights/images/{ID[:16]}.tar"
    assert planned.uploads == (Upload("alpha", path, there),)
    assert entry(planned)["image"] == f"gpurack.local/my-llama:{ID[:12]}"
    assert entry(planned)["load"] == {"tar": str(path), "path": there, "names": ["lab/llama:1"]}


def test_keeps_existing_image_and_model(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tar")
    wanted = models(alpha={"version": None, "image": {"tar": str(path)}})
    has = {**HERE, "images": {f"gpurack.local/a:{ID[:12]}": "sha256:0123456789abcdef"}}
    assert plan(wanted, host_state(**has)).uploads == ()
    kept = host_state(**has, containers=[running(wanted, "alpha", host_state())])
    assert [change.action for change in plan(wanted, kept).changes] == ["keep"]
    save(path, content=b"another")
    (change,) = plan(wanted, kept).changes
    assert change.action == "recreate"
    assert change.reasons[0].startswith(f"image gpurack.local/a:{ID[:12]} → gpurack.local/a:")


# --- a build ---------------------------------------------------------------------------------------------------------


def test_build_name_follows_definition() -> None:
    names = {
        desire("alpha", models(alpha={"version": None, "image": {"build": {**BUILD, **over}}}), host_state(), ()).image
        for over in (
            {},
            {"revision": "b7001"},
            {"args": {}},
            {"target": "server"},
            {"dockerfile": ".devops/cuda.Dockerfile"},
        )
    }
    assert len(names) == 5
    assert all(name.startswith("gpurack.local/llama-cpp:") for name in names)


def test_tells_runner_what_to_build() -> None:
    planned = plan(models(alpha={"version": None, "image": {"build": BUILD}}), host_state(**HERE))
    assert entry(planned)["build"] == {**BUILD, "dockerfile": "Dockerfile", "target": None}


@pytest.mark.parametrize(
    ("source", "tools", "installed"),
    [
        ("distro", [], "install git, docker-buildx"),
        ("distro", ["git", "buildx"], None),
        ("docker-ce", [], "install git"),
        ("keep", ["buildx"], "install git"),
    ],
)
def test_installs_git_only_for_builds(source: str, tools: list[str], installed: str | None) -> None:
    there = {"ca-certificates": "1", "curl": "1", "python3": "1"}
    facts = host_state(packages=there, tools=tools, compose="2.40.3")
    build = {"models": {"alpha": {"version": None, "image": {"build": BUILD}, "port": 1}}}
    docker = {"docker": {"source": source}}

    def steps(*layers: Any) -> list[str]:
        return [step.reason for step in plan_docker(spec(docker, *layers), facts, True).steps if "git" in step.reason]

    assert steps(build) == ([installed] if installed else [])
    assert steps({"models": {"alpha": {"port": 1}}}) == []


# --- names, digests, logins ------------------------------------------------------------------------------------------

DIGEST = f"sha256:{'0f' * 32}"


@pytest.mark.parametrize(
    ("reference", "registry", "mirrored"),
    [
        ("ghcr.io/a/b:1", "ghcr.io", "mirror:5000/ghcr/a/b:1"),
        (f"ghcr.io/a/b@{DIGEST}", "ghcr.io", f"mirror:5000/ghcr/a/b@{DIGEST}"),
        (f"ghcr.io/a/b:1@{DIGEST}", "ghcr.io", f"mirror:5000/ghcr/a/b:1@{DIGEST}"),
        ("a/b:1", "docker.io", "mirror:5000/hub/a/b:1"),
        ("docker.io/a/b", "docker.io", "mirror:5000/hub/a/b"),
        ("redis:7", "docker.io", "mirror:5000/hub/library/redis:7"),
        ("docker.io/redis:7", "docker.io", "mirror:5000/hub/library/redis:7"),
        ("index.docker.io/redis:7", "docker.io", "mirror:5000/hub/library/redis:7"),
        (f"redis@{DIGEST}", "docker.io", f"mirror:5000/hub/library/redis@{DIGEST}"),
        ("localhost/a", "localhost", "localhost/a"),
        ("reg:5000/a", "reg:5000", "reg:5000/a"),
    ],
)
def test_finds_registry_and_mirror_of_reference(reference: str, registry: str, mirrored: str) -> None:
    wanted = spec({"mirrors": {"ghcr.io": "mirror:5000/ghcr", "docker.io": "mirror:5000/hub"}})
    assert (ImageRef.parse(reference).registry, images.mirrored(wanted, reference)) == (registry, mirrored)


LOGINS = {"reg.example": {"user": "lab", "password": "p1"}, "other.example": {"user": "lab", "password": "p2"}}


def named(reference: str) -> Host:
    return models(alpha={"version": None, "image": reference})


def test_runner_gets_needed_logins_only() -> None:
    facts = host_state(**HERE)
    job = plan(named("reg.example/a:1"), facts, LOGINS).job
    assert job
    assert job["logins"] == {"reg.example": LOGINS["reg.example"]}
    there = host_state(**HERE, images={"reg.example/a:1": "sha256:1"})
    assert (plan(named("reg.example/a:1"), there, LOGINS).job or {})["logins"] == {}
    built = models(alpha={"version": None, "image": {"build": BUILD}})
    assert (plan(built, facts, LOGINS).job or {})["logins"] == LOGINS


def test_reads_logins_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    registries = {"reg.example": {"user": "lab", "password": {"env": "GPURACK_TEST_PASSWORD"}}}
    assert refused({"registries": registries}) == [
        "environment variable GPURACK_TEST_PASSWORD is not set; export GPURACK_TEST_PASSWORD=… and run again."
    ]
    monkeypatch.setenv("GPURACK_TEST_PASSWORD", "p1")
    assert read_logins(spec({"registries": registries})) == {"reg.example": LOGINS["reg.example"]}
