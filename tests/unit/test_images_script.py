"""files/images.py on a host: images pulled, loaded and built, with a fake Docker and the real git."""

import base64
import json
import os
import resource
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.unit.host_programs import Fakes, load

pytestmark = pytest.mark.sampled

BROUGHT, OTHER = f"sha256:{1:064d}", f"sha256:{2:064d}"
DOCKER = """
login() { ls -ld "$1" | cut -c 1-10; cat "$1/config.json"; }
[ "$1" = --config ] && login "$2" >"$STATE/login" && shift 2
case "$*" in
"image ls"*--format*) cat "$STATE/named"; [ ! -e "$STATE/ls-fails" ]; exit;;
"image inspect"*) for name; do :; done; cat "$STATE/$(echo "$name" | tr / _)" 2>/dev/null; exit;;
"buildx imagetools inspect --format"*) cat "$STATE/configs" || exit 1; exit;;
*" pull "*) cat "$STATE/pull"; exit $(cat "$STATE/code");;
"load "*) cat "$STATE/load"; exit $(cat "$STATE/code");;
"build "*) for folder; do :; done; ls "$folder" >"$STATE/built"; cat "$STATE/build"
    [ $(cat "$STATE/code") != 0 ] || printf "sha256:%064d" 2 >"$STATE/gpurack.local_a:1"; exit $(cat "$STATE/code");;
"tag "*) printf "sha256:%064d\\n" 3 >"$STATE/$(echo "$3" | tr / _)";;
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
    monkeypatch.setattr(module.record, "RECORD", str(tmp_path / "lib/record.json"))
    monkeypatch.setattr(module.record, "LOCK", str(tmp_path / "locks/record"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    fakes.add("docker", DOCKER)
    fakes.state("code", "0")
    fakes.state("pull", "")
    fakes.state("named", "")
    return module


def wanted(**over: Any) -> dict[str, Any]:
    return {"name": "alpha", "image": "reg:5000/a:1", **over}


LOGIN = {"reg:5000": {"user": "lab", "password": "hunter2"}}


# --- what the driver cannot run --------------------------------------------------------------------------------------

OLD = {"version": "550.163.01", "cuda": 12, "certain": True}


def config(*variables: str) -> dict[str, Any]:
    return {"architecture": "amd64", "config": {"Env": ["PATH=/bin", *variables]}}


def test_cuda_that_the_driver_cannot_run_is_not_pulled(images: Any, fakes: Fakes, tmp_path: Path) -> None:
    both = {"linux/amd64": config("CUDA_VERSION=13.0.2"), "linux/arm64": config("CUDA_VERSION=13.0.2")}
    fakes.state("configs", f"WARNING: of the client\n{json.dumps(both)}\n")
    with pytest.raises(images.Failure) as failure:
        images.provide(images.dockerd, wanted(driver=OLD), LOGIN)
    assert str(failure.value) == (
        "its image needs CUDA 13, and the NVIDIA driver 550.163.01 runs CUDA 12 at most, so it was not pulled. Install "
        "driver 580 or newer, or use an older image (`version`)"
    )
    assert " pull " not in fakes.log.read_text()
    assert "lab:hunter2" in base64.b64decode(config_of(fakes)["reg:5000"]["auth"]).decode()
    assert list((tmp_path / "run").iterdir()) == []


def test_cuda_that_a_library_of_the_image_may_run_is_pulled_and_said(
    images: Any, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    """NVIDIA's forward compatibility, on data-centre GPUs: the probe of CUDA decides after the pull."""
    fakes.state("configs", json.dumps(config("CUDA_VERSION=13.0.2")))
    images.provide(images.dockerd, wanted(driver={**OLD, "certain": False}), {})
    assert " pull " in fakes.log.read_text()
    assert (
        "alpha: its image needs CUDA 13, and the NVIDIA driver 550.163.01 runs CUDA 12 at most by itself. It runs only "
        "if the image has a CUDA compatibility library for this driver and GPU\n"
    ) in capsys.readouterr().out


def config_of(fakes: Fakes) -> Any:
    return json.loads((fakes.folder / "state/login").read_text().split("\n", 1)[1])["auths"]


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(config("CUDA_VERSION=12.8.1")),
        json.dumps(config()),  # not built on nvidia/cuda, as ollama's
        json.dumps({"linux/amd64": config("CUDA_VERSION=13.0.2"), "linux/arm64": config("CUDA_VERSION=12.6.0")}),
        json.dumps({"linux/amd64": {"config": {"Env": None}}, "linux/arm64": None}),
        "[]",
        "not JSON",
        "",
        None,  # no buildx, no registry
    ],
)
def test_other_answers_of_a_registry_refuse_nothing(images: Any, fakes: Fakes, answer: str | None) -> None:
    if answer is not None:
        fakes.state("configs", answer)
    images.provide(images.dockerd, wanted(driver=OLD), {})
    assert " pull " in fakes.log.read_text()


def test_registry_is_asked_for_an_old_driver_only(images: Any, fakes: Fakes) -> None:
    fakes.state("configs", json.dumps(config("CUDA_VERSION=13.0.2")))
    images.provide(images.dockerd, wanted(), {})
    assert "buildx" not in fakes.log.read_text()


# --- what is gpurack's -----------------------------------------------------------------------------------------------


def recorded(images: Any) -> Any:
    return (images.record.load() or {"images": {}})["images"]


def test_records_pulled_image(images: Any, fakes: Fakes) -> None:
    fakes.add("docker", DOCKER.replace('*" pull "*) ', '*" pull "*) printf "sha256:%064d" 1 >"$STATE/reg:5000_a:1"; '))
    images.provide(images.dockerd, wanted(), {})
    assert recorded(images) == {"": {BROUGHT: ["reg:5000/a:1"]}}


def test_does_not_record_image_that_was_there(images: Any, fakes: Fakes) -> None:
    """Whoever brought it under another name: `gpurack prune` must not remove it."""
    fakes.state("reg:5000_a:1", BROUGHT)
    images.provide(images.dockerd, wanted(), {})
    assert recorded(images) == {}
    (fakes.folder / "state/reg:5000_a:1").unlink()
    script = DOCKER.replace('*" pull "*) ', '*" pull "*) printf "sha256:%064d" 1 >"$STATE/reg:5000_a:1"; ')
    fakes.add("docker", f'case "$*" in "image ls"*) echo {BROUGHT}; exit;; esac\n{script}')
    images.provide(images.dockerd, wanted(), {})
    assert recorded(images) == {}


@pytest.mark.parametrize(("had", "brought"), [(OTHER, True), (BROUGHT, False)], ids=["brought", "was there"])
def test_next_run_records_what_a_killed_pull_brought(images: Any, fakes: Fakes, had: str, brought: bool) -> None:
    """kill -9 between the end of the pull and its record, or a disk that is full by then."""
    script = DOCKER.replace('*" pull "*) ', '*" pull "*) printf "sha256:%064d" 1 >"$STATE/reg:5000_a:1"; ')
    fakes.add("docker", f'case "$*" in "image ls"*) echo {had}; exit;; esac\n{script}')
    full = OSError("No space left on device")
    with patch.object(images, "end_pull", side_effect=[None, full]), pytest.raises(OSError, match="No space"):
        images.provide(images.dockerd, wanted(), {})
    assert recorded(images) == {}
    images.provide(images.dockerd, wanted(), {})
    assert recorded(images) == ({"": {BROUGHT: ["reg:5000/a:1"]}} if brought else {})
    assert images.record.load()["pulling"] == {}


@pytest.mark.parametrize("again", ["0", "1"], ids=["continues", "fails"])
def test_pull_is_continued_once_after_a_restart_of_docker(images: Any, fakes: Fakes, capsys: Any, again: str) -> None:
    """Another run restarted it; no lock of the models is held during a pull."""
    went = 'error during connect: Post "http://x": EOF'
    fakes.state("code", again)
    fakes.add(
        "docker",
        DOCKER.replace(
            '*" pull "*) ',
            f"""*" pull "*)
        [ -e "$STATE/went" ] || {{ touch "$STATE/went"; echo '{went}'; exit 1; }}; """,
        ),
    )
    if again == "0":
        images.provide(images.dockerd, wanted(), {})
    else:
        with pytest.raises(images.Failure, match="cannot pull image reg:5000/a:1"):
            images.provide(images.dockerd, wanted(), {})
    assert len([call for call in fakes.calls if " pull " in call]) == 2
    assert capsys.readouterr().out == "alpha: Docker was restarted during the pull; it is continued\n"


def test_pull_fails_where_docker_stays_down(images: Any, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "AWAY_LIMIT", 0)
    fakes.state("code", "1")
    fakes.state("pull", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.\n")
    fakes.add("docker", 'case "$*" in version*) exit 1;; esac\n' + DOCKER)
    with pytest.raises(images.Failure, match="Cannot connect to the Docker daemon"):
        images.provide(images.dockerd, wanted(), {})
    assert len([call for call in fakes.calls if " pull " in call]) == 1


def test_records_both_names_of_locked_image(images: Any, fakes: Fakes) -> None:
    exact = f"reg:5000/a@sha256:{'a' * 64}"
    place = exact.replace("/", "_")
    script = DOCKER.replace('*" pull "*) ', f'*" pull "*) printf "sha256:%064d" 1 >"$STATE/{place}"; ')
    script = script.replace('"tag "*) printf "sha256:%064d\\n" 3', f'"tag "*) echo {BROUGHT}')
    fakes.add("docker", script)
    images.provide(images.dockerd, wanted(digest=f"sha256:{'a' * 64}"), {})
    assert recorded(images) == {"": {BROUGHT: ["reg:5000/a:1", exact]}}


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
    logins = {**LOGIN, "docker.io": {"user": "lab", "password": "p"}}
    for image, registry in (("reg:5000/a:1", "reg:5000"), ("redis:8", "https://index.docker.io/v1/")):
        images.provide(images.dockerd, wanted(image=image), logins)
        config = json.loads((fakes.folder / "state/login").read_text().split("\n", 1)[1])
        assert set(config["auths"]) == {"other", registry}
        assert config["credHelpers"] == ({"x": "pass"} if registry == "reg:5000" else own["credHelpers"])


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
            "cannot pull image reg:5000/a:1: Error manifest unknown. The registry has no such image. Correct `version` "
            "or `image`. Try it on the host: docker pull reg:5000/a:1",
        ),
        (
            "Error: a thing",
            LOGIN,
            "cannot pull image reg:5000/a:1: Error: a thing. Try it on the host: docker pull reg:5000/a:1",
        ),
    ],
)
def test_explains_denied_pull(images: Any, fakes: Fakes, said: str, logins: Any, sentence: str) -> None:
    fakes.state("pull", f"alpha Pulling\n{said}\n")
    fakes.state("code", "1")
    with pytest.raises(images.Failure) as error:
        images.provide(images.dockerd, wanted(), logins)
    assert str(error.value) == sentence


def test_pull_that_nobody_hears_ends(images: Any, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()
    heard.set()
    monkeypatch.setattr("messages.UNHEARD", heard)
    fakes.add("docker", 'case "$*" in *" pull "*) exec sleep 60;; esac; exit 1')
    begun = time.monotonic()
    with pytest.raises(images.Failure, match=r"^the connection was lost\. The next run resumes$"):
        images.pull(images.dockerd, "alpha", "r/a:1", {})
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("toomanyrequests: You have reached your unauthenticated pull rate limit.", "limits how often"),
        ('Head "https://r/v2/a": received unexpected HTTP status: 429 Too Many Requests', "limits how often"),
        ("received unexpected HTTP status: 500 Internal Server Error", "error of its own"),
        ("error pulling image configuration: download failed: 503 Service Unavailable", "error of its own"),
        ("dial tcp: lookup r.example: no such host", "is not reachable"),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "is not reachable"),
        ("error getting credentials - err: exec: \"docker-credential-x\": not found in $PATH", "credential helper"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "no such image"),
        ("pull access denied for a, repository does not exist or may require 'docker login': denied", ""),
        ("unauthorized: authentication required", ""),
        ("something else", ""),
    ],
)  # fmt: skip
def test_tells_errors_of_registries_apart(images: Any, said: str, hint: str) -> None:
    assert hint in images.kind_of(said)
    assert bool(hint) == bool(images.kind_of(said))


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
    fakes.state("lab_llama:1", OTHER)
    fakes.state("lab_llama:2", "")
    (fakes.folder / "state/lab_llama:2").unlink()
    images.provide(images.dockerd, loaded(tar, "lab_llama:1", "lab_llama:2"), {})
    assert [call for call in fakes.calls if not call.startswith("docker image")][-3:] == [
        "docker tag lab_llama:2 gpurack.local/a:1",
        f"docker tag {OTHER} lab_llama:1",
        "docker rmi lab_llama:2",
    ]
    assert not tar.exists()
    assert recorded(images) == {"": {f"sha256:{3:064d}": ["gpurack.local/a:1"]}}, "the fake's id of what it tagged"
    images.provide(images.dockerd, loaded(tar, "lab_llama:1"), {})  # it exists now


def test_names_that_only_docker_finds_in_a_tar_keep_their_meaning(images: Any, fakes: Fakes, tar: Path) -> None:
    """A file of another host can have two manifests, of which gpurack reads one and Docker the other."""
    fakes.state("load", "Loaded image: -f\nLoaded image: vllm/vllm-openai:1\nLoaded image: evil:1\n")
    fakes.state("named", f"vllm/vllm-openai:1 {OTHER}\n<none>:<none> {BROUGHT}\n")
    images.provide(images.dockerd, loaded(tar, "lab_llama:1", "--all"), {})
    assert [call for call in fakes.calls if not call.startswith("docker image")][-4:] == [
        "docker tag evil:1 gpurack.local/a:1",
        "docker rmi lab_llama:1",
        f"docker tag {OTHER} vllm/vllm-openai:1",
        "docker rmi evil:1",
    ]


def test_nothing_is_loaded_where_docker_does_not_say_what_it_has(images: Any, fakes: Fakes, tar: Path) -> None:
    """A name in the file would be removed afterwards, although the host had it before."""
    fakes.state("ls-fails", "")
    fakes.state("load", "Loaded image: vllm/vllm-openai:1\n")
    with pytest.raises(images.Failure, match="image ls failed"):
        images.provide(images.dockerd, loaded(tar), {})
    assert not [call for call in fakes.calls if call.startswith(("docker load", "docker rmi"))]


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
    (call,) = [call for call in fakes.calls if call.startswith("docker build")]
    assert call == (
        f"docker build --tag gpurack.local/a:1 --file {folder}/Dockerfile --target server --build-arg A=1 "
        f"--build-arg B=2 {folder}"
    )
    assert list((tmp_path / "builds").iterdir()) == []
    assert recorded(images) == {"": {OTHER: ["gpurack.local/a:1"]}}


def test_passes_proxy_by_name_without_value(images: Any, fakes: Fakes, repository: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("https_proxy", "http://me:hunter2@proxy:3128")
    fakes.state("build", "")
    images.provide(images.dockerd, built(repository, "main"), {})
    assert "--build-arg https_proxy " in next(call for call in fakes.calls if call.startswith("docker build"))
    assert "hunter2" not in fakes.log.read_text()


def test_builds_after_a_run_was_killed_in_git(images: Any, fakes: Fakes, repository: Path, tmp_path: Path) -> None:
    """git leaves the files of its locks, and refuses to work where one is."""
    fakes.state("build", "")
    fakes.state("code", "1")
    with pytest.raises(images.Failure):  # leaves its folder
        images.provide(images.dockerd, built(repository, "main"), {})
    (folder,) = (tmp_path / "builds").iterdir()
    for name in ("index.lock", "shallow.lock", "refs/heads/main.lock"):
        (folder / ".git" / name).write_text("")
    fakes.state("code", "0")
    images.provide(images.dockerd, built(repository, "main"), {})
    assert list((tmp_path / "builds").iterdir()) == []


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


def test_progress_of_a_pull_names_the_phase_and_the_current_speed(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    layers = images.Layers()
    shown = []
    for seconds, line in (
        (0, "0a Already exists"),
        (0, "1b Pulling fs layer"),
        (0, "2c Pulling fs layer"),
        (10, "1b Downloading [=>   ]  30MB/40MB"),
        (0, "1b Download complete"),
        (10, " 2c Downloading [=>   ]  20MB/1.06GB"),
        (100, "2c Downloading [====>]  1.06GB/1.06GB"),
        (0, "2c Download complete"),
        (0, "1b Pull complete"),
        (1, "2c Extracting [=>   ]  1MB/1.06GB"),
    ):
        now += seconds
        layers.add(line)
        shown.append(layers.text("a/b:1"))
    assert shown == [
        "pulling a/b:1",
        "pulling a/b:1",
        "pulling a/b:1",
        "pulling a/b:1, 30 MB of 40 MB, 3 MB/s",
        "pulling a/b:1, 40 MB of 40 MB, 4 MB/s",
        "pulling a/b:1, 60 MB of 1.1 GB, 3 MB/s",
        "pulling a/b:1, 1.1 GB of 1.1 GB, 10.4 MB/s",
        "extracting a/b:1, 0 of 2 layers",
        "extracting a/b:1, 1 of 2 layers",
        "extracting a/b:1, 1 of 2 layers",
    ]
