"""`gpurack lock --upgrade`: which pins move, and to which versions."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from gpurack.commands import lock_ask
from gpurack.commands.lock_ask import RUN, parts
from gpurack.locking.upgrade import News, names_of_packages, newest_request, upgraded, wrong_words
from gpurack.plan.packages.platforms import TOOLKIT_PACKAGES
from gpurack.spec.host import Host
from gpurack.spec.lock import HostLock, ModelLock
from tests.given import host_state, models, spec

IMAGE = "ghcr.io/ggml-org/llama.cpp:server"
OLD = HostLock(
    driver="1",
    packages={"docker-ce": "5:28.0.0-1", **dict.fromkeys(TOOLKIT_PACKAGES, "1.19.1-1")},
    models={
        "alpha": ModelLock(image=f"{IMAGE}-b7000@sha256:aa", weights={"/w/a.gguf": "11"}),
        "gone": ModelLock(image="x@sha256:bb"),
    },
)
SEEN = HostLock(driver="2", models={"alpha": ModelLock(image=f"{IMAGE}-b7000@sha256:aa", weights={"/w/a.gguf": "22"})})
NEWS = News(
    packages={
        "docker-ce": ["5:29.0.0-1", "5:28.5.2-2", "5:28.5.2-1"],
        **{name: ["1.21.0-1", "1.20.1-1"] for name in TOOLKIT_PACKAGES},
        "libnvidia-container1": ["1.20.1-1"],
    },
    images={"alpha": f"{IMAGE}-b7001@sha256:cc"},
)
ALPHA = models(alpha={"version": "b7001"})


def upgrade(*what: str, spec: Host = ALPHA, news: News = NEWS, old: HostLock = OLD) -> HostLock:
    """The new lock, as if every lookup that `what` needs was made, and all others."""
    asked = {name: have for name, have in news.packages.items() if name in names_of_packages(what, spec, STATE, old)}
    return upgraded(what, spec, STATE, old, SEEN, replace(news, packages=asked))


STATE = host_state(gpus=1)


def test_moves_docker_only() -> None:
    assert upgrade("docker") == OLD.model_copy(update={"packages": {**OLD.packages, "docker-ce": "5:29.0.0-1"}})


def test_moves_no_further_than_inventory_allows() -> None:
    wanted = spec({"docker": {"version": "28.5.2"}, "models": {"alpha": {"port": 1}}})
    assert upgrade("docker", spec=wanted).packages["docker-ce"] == "5:28.5.2-2"


def test_moves_four_toolkit_packages_together() -> None:
    """The newest version of one package is missing."""
    assert {upgrade("toolkit").packages[name] for name in TOOLKIT_PACKAGES} == {"1.20.1-1"}


def test_keeps_pins_that_cannot_be_looked_up() -> None:
    assert upgrade("docker", news=News(errors=("no network",))) == OLD


def test_moves_image_and_weights_of_model() -> None:
    found = upgrade("alpha")
    assert found.models["alpha"] == ModelLock(image=f"{IMAGE}-b7001@sha256:cc", weights={"/w/a.gguf": "22"})
    assert (found.models["gone"], found.packages, found.driver) == (OLD.models["gone"], OLD.packages, "1")


@pytest.mark.parametrize(
    ("what", "image", "weights"),
    [("images", f"{IMAGE}-b7001@sha256:cc", "11"), ("weights", f"{IMAGE}-b7000@sha256:aa", "22")],
)
def test_moves_images_or_weights_alone(what: str, image: str, weights: str) -> None:
    assert upgrade(what).models["alpha"] == ModelLock(image=image, weights={"/w/a.gguf": weights})


def test_moves_everything() -> None:
    found = upgrade()
    assert sorted(found.models) == ["alpha"], "what the inventory has no more goes"
    assert (found.driver, found.packages["docker-ce"]) == ("2", "5:29.0.0-1")


def test_forgets_sha256_of_other_commit() -> None:
    folder = "/var/lib/gpurack/weights/hf/a--b@main"
    path = f"{folder}/x"
    wanted = models(alpha={"engine": "tei", "version": "1.9", "weights": {"hf": "a/b"}})
    before = ModelLock(commit="1", weights={path: "11"})
    old, seen = HostLock(models={"alpha": before}), HostLock(models={"alpha": before})
    moved = upgraded(["weights"], wanted, STATE, old, seen, News(commits={folder: "2"}))
    assert moved.models["alpha"] == ModelLock(commit="2")
    assert upgraded(["weights"], wanted, STATE, old, seen, News(commits={folder: "1"})) == old


def test_moves_config_weights_one_by_one() -> None:
    one, other = (f"/var/lib/gpurack/weights/hf/a--b@main--{name}/{name}.gguf" for name in "xy")
    config = {"models": [{"model": {"hf": "a/b", "file": f"{name}.gguf"}} for name in "xy"]}
    wanted = models(alpha={"engine": "llama-cpp-python", "version": "0.3.36", "weights": None, "config": config})
    asked = newest_request(["weights"], wanted, STATE)["hubs"]
    assert [(each["name"], each["place"], each["fetch"]["file"]) for each in asked] == [
        ("alpha", one, "x.gguf"), ("alpha", other, "y.gguf")
    ]  # fmt: skip
    before = HostLock(models={"alpha": ModelLock(commits={one: "1", other: "1"}, weights={one: "11", other: "22"})})
    moved = upgraded(["weights"], wanted, STATE, before, before, News(commits={one: "1", other: "2"}))
    assert moved.models["alpha"] == ModelLock(commits={one: "1", other: "2"}, weights={one: "11"})


def test_accepts_weights_fetched_without_known_commit() -> None:
    """A run cannot know if they are of another commit, so it would never fetch them."""
    folder = "/var/lib/gpurack/weights/modelscope/a--b@master"
    wanted = models(alpha={"engine": "tei", "version": "1.9", "weights": {"modelscope": "a/b"}})
    assert newest_request(["weights"], wanted, STATE)["hubs"][0]["place"] == folder
    seen = HostLock(models={"alpha": ModelLock(weights={f"{folder}/x": "11"})})
    news = News(commits={folder: "2"})
    assert upgraded(["weights"], wanted, STATE, HostLock(), seen, news).models == seen.models
    assert upgraded(["weights"], wanted, STATE, HostLock(), HostLock(), news).models["alpha"] == ModelLock(commit="2")


def test_pins_new_model_before_it_runs() -> None:
    sha256 = "5" * 64
    wanted = models(beta={"weights": {"url": "http://w/b.gguf", "sha256": sha256}})
    found = upgraded(["beta"], wanted, STATE, OLD, SEEN, News(images={"beta": f"{IMAGE}@sha256:dd"}))
    path = f"/var/lib/gpurack/weights/{sha256[:16]}-b.gguf"
    assert found.models["beta"] == ModelLock(image=f"{IMAGE}@sha256:dd", weights={path: sha256})


def test_requests_images_and_commits() -> None:
    wanted = spec(
        {"mirrors": {"ghcr.io": "m:5000"}, "models": {
            "alpha": {"port": 1, "gpus": [0]},
            "beta": {"port": 2, "engine": "tei", "version": "1.9", "weights": {"hf": "a/b"}},
            "off": {"port": 3, "enabled": False},
        }}
    )  # fmt: skip
    asked = newest_request([], wanted, STATE)
    assert asked["images"][0] == {
        "name": "alpha",
        "user": "",
        "image": "m:5000/ggml-org/llama.cpp:server-cuda-b7000",
        "reference": "ghcr.io/ggml-org/llama.cpp:server-cuda-b7000",
    }
    assert [one["name"] for one in asked["images"]] == ["alpha", "beta"]
    assert [one["fetch"]["repo"] for one in asked["hubs"]] == ["a/b"]
    assert newest_request(["alpha"], wanted, STATE)["hubs"] == newest_request(["docker"], wanted, STATE)["images"] == []


def test_reports_unknown_words() -> None:
    assert wrong_words(["docker", "alpha"], {"gpu1": ALPHA}) == []
    assert [str(problem) for problem in wrong_words(["alpa"], {"gpu1": ALPHA})] == [
        'unknown part of the lock "alpa". Did you mean "alpha"?'
    ]


def test_parses_answer_of_host(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "alpha: pulling i:1",
        f"alpha: now sha256:{'a' * 64}",
        "alpha: now bb for /w/a b.gguf",
        "error beta: no network",
    ]
    monkeypatch.setattr(lock_ask, "run_as_root", lambda *_, **__: (True, lines))
    asked = {"images": [{"name": "alpha", "reference": "i:1@sha256:old"}], "hubs": []}
    found = lock_ask.find_newest(None, ALPHA, STATE, [], asked)  # type: ignore[arg-type]
    image = f"i:1@sha256:{'a' * 64}"
    assert found == News(images={"alpha": image}, commits={"/w/a b.gguf": "bb"}, errors=("beta: no network",))


def test_asking_programs_run_without_installed_ones(tmp_path: Any) -> None:
    job = {
        "images": [{"name": "alpha", "user": "nobody-of-that-name", "image": "i:1"}],
        "hubs": [],
        "logins": {},
        "hf_token": None,
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps({"parts": parts(), "job": job}), cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "error alpha: the user nobody-of-that-name does not exist\n"
