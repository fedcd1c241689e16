"""files/images.py on a host: images pulled, loaded and built, with a fake Docker and the real git."""

import base64
import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.host_programs import Fakes, load

DOCKER = """
login() { ls -ld "$1" | cut -c 1-10; cat "$1/config.json"; }
[ "$1" = --config ] && login "$2" >"$STATE/login" && shift 2
case "$*" in
"image inspect"*) for name; do :; done; cat "$STATE/$(echo "$name" | tr / _)" 2>/dev/null; exit;;
*" pull "*) cat "$STATE/pull"; exit $(cat "$STATE/code");;
"load "*) cat "$STATE/load"; exit $(cat "$STATE/code");;
"build "*) for folder; do :; done; ls "$folder" >"$STATE/built"; cat "$STATE/build"; exit $(cat "$STATE/code");;
"tag "*) echo "$2" >"$STATE/$(echo "$3" | tr / _)";;
"rmi "*) rm "$STATE/$(echo "$2" | tr / _)";;
esac
"""


@pytest.fixture
def images(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load("images")
    module.LOGINS, module.BUILDS = str(tmp_path / "run"), str(tmp_path / "builds")
    module.clock = lambda seconds: "0:00"
    module.dockerd = load("dockerd").Dockerd()
    module.dockerd.uid = os.getuid()
    monkeypatch.setattr(os, "chown", lambda *arguments: None)  # the tests need no root
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    fakes.add("docker", DOCKER)
    fakes.state("code", "0")
    fakes.state("pull", "")
    return module


def wanted(**over: Any) -> dict[str, Any]:
    return {"name": "alpha", "image": "reg:5000/a:1", **over}


LOGIN = {"reg:5000": {"user": "lab", "password": "hunter2"}}


# --- logins ----------------------------------------------------------------------------------------------------------


def test_login_exists_during_pull_only(images: Any, fakes: Fakes, tmp_path: Path) -> None:
    images.provide(images.dockerd, wanted(), LOGIN)
    mode, config = (fakes.folder / "state/login").read_text().split("\n", 1)
    assert mode == "drwx------"
    assert json.loads(config) == {"auths": {"reg:5000": {"auth": base64.b64encode(b"lab:hunter2").decode()}}}
    assert list((tmp_path / "run").iterdir()) == []
    assert "hunter2" not in fakes.log.read_text()


def test_keeps_logins_of_host(images: Any, fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "home/.docker").mkdir(parents=True)
    own = {"auths": {"other": {"auth": "eA=="}}, "credHelpers": {"reg:5000": "pass", "x": "pass"}}
    (tmp_path / "home/.docker/config.json").write_text(json.dumps(own))
    images.provide(images.dockerd, wanted(), {**LOGIN, "docker.io": {"user": "lab", "password": "p"}})
    config = json.loads((fakes.folder / "state/login").read_text().split("\n", 1)[1])
    assert set(config["auths"]) == {"other", "reg:5000", "https://index.docker.io/v1/"}
    assert config["credHelpers"] == {"x": "pass"}


def test_removes_login_folder_of_killed_run(images: Any, tmp_path: Path) -> None:
    (tmp_path / "run/login-999999999-abc").mkdir(parents=True)
    mine = tmp_path / f"run/login-{os.getpid()}-abc"
    mine.mkdir()
    images.provide(images.dockerd, wanted(), {})
    assert list((tmp_path / "run").iterdir()) == [mine]


def test_removes_deeply_nested_login_folder_of_killed_run(images: Any, tmp_path: Path) -> None:
    """In this process it would take an open file for each level."""
    left = tmp_path / "run/login-999999999-abc"
    left.mkdir(parents=True)
    here = os.open(".", os.O_RDONLY)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        os.chdir(left)
        for _ in range(1500):
            Path("d").mkdir()
            os.chdir("d")
        os.chdir(here)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        images.provide(images.dockerd, wanted(), LOGIN)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.chdir(here)
        os.close(here)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("said", "logins", "sentence"),
    [
        (
            'Error response from daemon: Head "http://reg:5000/v2/a": unauthorized: authentication required',
            LOGIN,
            'reg:5000 denies reg:5000/a:1 to the account lab (Head "http://reg:5000/v2/a": unauthorized: '
            "authentication required). Correct registries.reg:5000, or give that account access",
        ),
        (
            "Error response from daemon: no basic auth credentials",
            {},
            "reg:5000 denies reg:5000/a:1 without a login (no basic auth credentials). Correct the name, or set "
            'registries: {"reg:5000": {"user": …, "password": {"env": …}}}',
        ),
        (
            "Error manifest unknown",
            LOGIN,
            "cannot pull image reg:5000/a:1: Error manifest unknown. Correct `version` or `image`, or try it on the "
            "host: docker pull reg:5000/a:1",
        ),
    ],
)
def test_explains_denied_pull(images: Any, fakes: Fakes, said: str, logins: Any, sentence: str) -> None:
    fakes.state("pull", f"alpha Pulling\n{said}\n")
    fakes.state("code", "1")
    with pytest.raises(images.Failure) as error:
        images.provide(images.dockerd, wanted(), logins)
    assert str(error.value) == sentence


# --- loaded ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    path.write_text("an image")
    return path


def loaded(tar: Path, *names: str) -> dict[str, Any]:
    return wanted(image="gpurack.local/a:1", load={"tar": "mine.tar", "path": str(tar), "names": list(names)})


def test_loads_tar_once_and_keeps_other_names(images: Any, fakes: Fakes, tar: Path) -> None:
    fakes.state("load", "Loaded image: lab_llama:1\nLoaded image: lab_llama:2\n")
    fakes.state("lab_llama:1", "sha256:old")
    fakes.state("lab_llama:2", "")
    (fakes.folder / "state/lab_llama:2").unlink()
    images.provide(images.dockerd, loaded(tar, "lab_llama:1", "lab_llama:2"), {})
    assert fakes.calls[-3:] == [
        "docker tag lab_llama:2 gpurack.local/a:1",
        "docker tag sha256:old lab_llama:1",
        "docker rmi lab_llama:2",
    ]
    assert not tar.exists()
    images.provide(images.dockerd, loaded(tar, "lab_llama:1"), {})  # it exists now


def test_reports_missing_or_invalid_tar(images: Any, fakes: Fakes, tar: Path) -> None:
    fakes.state("load", "open /x: invalid tar header\n")
    fakes.state("code", "1")
    with pytest.raises(images.Failure, match=r"^cannot load mine.tar: open /x: invalid tar header$"):
        images.provide(images.dockerd, loaded(tar), {})
    tar.unlink()
    with pytest.raises(images.Failure, match=r"^mine.tar was not copied; run again$"):
        images.provide(images.dockerd, loaded(tar), {})


# --- built -----------------------------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@y")
    done = subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    for name in ("Dockerfile", "second"):
        (folder / name).write_text("FROM scratch\n")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", name)
        git(folder, "tag", f"with-{name.lower()}")
    return folder


def built(repository: Path, revision: str, **over: Any) -> dict[str, Any]:
    build = {
        "git": f"file://{repository}",
        "revision": revision,
        "dockerfile": "Dockerfile",
        "target": None,
        "args": {},
    }
    return wanted(image="gpurack.local/a:1", build={**build, **over})


@pytest.mark.parametrize("revision", ["with-dockerfile", "main", "a commit", "a short commit"])
def test_builds_revision(images: Any, fakes: Fakes, repository: Path, revision: str, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "with-dockerfile")
    named = {"a commit": first, "a short commit": first[:9]}.get(revision, revision)
    fakes.state("build", "")
    images.provide(images.dockerd, built(repository, named, args={"B": "2", "A": "1"}, target="server"), {})
    there = (fakes.folder / "state/built").read_text().split()
    assert there == (["Dockerfile", "second"] if revision == "main" else ["Dockerfile"])
    (folder,) = {call.rsplit(" ", 1)[1] for call in fakes.calls if call.startswith("docker build")}
    assert fakes.calls[-1] == (
        f"docker build --tag gpurack.local/a:1 --file {folder}/Dockerfile --target server --build-arg A=1 "
        f"--build-arg B=2 {folder}"
    )
    assert list((tmp_path / "builds").iterdir()) == []


def test_passes_proxy_by_name_without_value(images: Any, fakes: Fakes, repository: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("https_proxy", "http://me:hunter2@proxy:3128")
    fakes.state("build", "")
    images.provide(images.dockerd, built(repository, "main"), {})
    assert "--build-arg https_proxy " in fakes.calls[-1]
    assert "hunter2" not in fakes.log.read_text()


def test_failed_build_shows_last_lines_and_is_repeated(images: Any, fakes: Fakes, repository: Path) -> None:
    fakes.state("build", "".join(f"step {number}\n" for number in range(20)) + "ERROR: exit code: 2\n")
    fakes.state("code", "1")
    with pytest.raises(images.Failure) as error:
        images.provide(images.dockerd, built(repository, "main"), {})
    lines = str(error.value).splitlines()
    assert lines[0] == "cannot build image gpurack.local/a:1 (exit code 1); nothing was changed"
    assert (lines[1], lines[-1], len(lines)) == ("    | step 6", "    | ERROR: exit code: 2", 16)
    fakes.state("code", "0")
    images.provide(images.dockerd, built(repository, "main"), {})


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        ({"revision": "gone"}, "cannot fetch revision gone of file://REPOSITORY: "),
        ({"git": "file:///nowhere"}, "cannot fetch revision main of file:///nowhere: fatal: "),
        ({"dockerfile": "docker/X"}, "file://REPOSITORY at main has no docker/X; correct image.build.dockerfile"),
    ],
)
def test_reports_invalid_builds(images: Any, repository: Path, over: dict[str, str], sentence: str) -> None:
    with pytest.raises(images.Failure) as error:
        images.provide(images.dockerd, built(repository, **{"revision": "main", **over}), {})
    assert str(error.value).startswith(sentence.replace("REPOSITORY", str(repository)))


def test_builds_with_submodules(images: Any, fakes: Fakes, repository: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "file")  # git does not trust local submodules by default
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q", "-b", "main")
    (outer / "Dockerfile").write_text("FROM scratch\n")
    git(outer, "submodule", "add", "-q", "../repository", "vendor")
    git(outer, "add", ".")
    git(outer, "commit", "-qm", "outer")
    fakes.add("docker", 'case "$1" in image) exit 1;; build) for f; do :; done; ls "$f/vendor" >"$STATE/built";; esac')
    images.provide(images.dockerd, built(outer, "main"), {})
    assert (fakes.folder / "state/built").read_text().split() == ["Dockerfile", "second"]
