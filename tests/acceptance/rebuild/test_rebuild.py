"""A dead server is rebuilt from inventory and lock unchanged, although the world moved on: NVIDIA's repository has a
newer toolkit, the registry's tags point to other images, the hub's branch is at another commit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import CHECKOUT, GPURACK, Lab, cards, chat, containers, identities, model
from tests.testbed import Host, moving
from tests.testbed.inventory import mirrors
from tests.testbed.services import WEIGHTS

THEN, NOW = "a1" * 20, "b2" * 20
"""Commits of the repository lab/tiny."""
WEIGHTS_DIR = "/var/lib/gpurack/weights"
FOLDER = f"{WEIGHTS_DIR}/hf/lab--tiny@main"


def publish(commit: str, gguf: str, config: str) -> None:
    """The hub has this commit of lab/tiny as branch main. Earlier commits stay available."""
    hub = WEIGHTS / "rebuild"
    folder = hub / "lab/tiny/resolve" / commit
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(WEIGHTS / f"{gguf}.gguf", folder / "model.gguf")
    (folder / "config.json").write_text(config)
    siblings: list[dict[str, Any]] = [{"rfilename": "config.json", "size": len(config)}]
    content = (folder / "model.gguf").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    siblings.append({"rfilename": "model.gguf", "size": len(content), "lfs": {"sha256": sha256, "size": len(content)}})
    for revision in ("main", commit):
        place = hub / "api/models/lab/tiny/revision" / revision
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"sha": commit, "siblings": siblings}))


def wanted() -> dict[str, Any]:
    """The data of a host. It names no version of the toolkit, no digest and no commit."""
    tiny = {
        "engine": "custom", "image": f"ghcr.io/ggml-org/llama.cpp:server-{moving.BUILD}", "port": 8001, "gpus": [],
        "weights": {"hf": "lab/tiny"}, "compose": {"expose": ["8080"], "x-ready": "/v1/models"},
        "args": {"model": "/weights/lab--tiny@main/model.gguf", "alias": "tiny", "host": "0.0.0.0", "port": 8080},
    }  # fmt: skip
    return {
        "models": {"alpha": model("alpha", [0], 8000), "tiny": tiny},
        "mirrors": {
            "huggingface": "http://weights.testbed/rebuild",
            "nvidia": {**mirrors()["nvidia"], "url": moving.NVIDIA},
        },
    }


@dataclass
class Site:
    """The host, its inventory with the lock, and the admin's commands."""

    lab: Lab
    inventory: Path

    @property
    def lock(self) -> Path:
        return self.inventory.with_name("lab.lock.yaml")

    @property
    def host(self) -> Host:
        return self.lab.testbed.host("rebuild1")

    def gpurack(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`gpurack WORD INVENTORY …`, with separate standard output and error."""
        argv = [GPURACK, words[0], str(self.inventory), *words[1:]]
        return subprocess.run(
            argv, cwd=CHECKOUT, env=self.lab.env(), capture_output=True, text=True, timeout=300, check=False
        )

    def provision(self) -> None:
        run = self.lab.run(self.inventory)
        assert run.exit_code == 0, run.output

    def manifest(self) -> str:
        done = self.gpurack("manifest", "rebuild1")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def evidence(self) -> dict[str, str]:
        """What dpkg, Docker, sha256sum and the models say about the host, without gpurack."""
        root = lambda command: self.host.root(command).stdout  # noqa: E731
        weights = f"{WEIGHTS_DIR} -type f -not -name '*@main.json'"  # it names the hub of the weights
        return {
            "dpkg": root("dpkg -l | sed 1,5d"),
            **{
                name: root(f"docker image inspect --format '{{{{json .RepoDigests}}}}' {data['Image']}")
                for name, data in containers(self.host).items()
            },
            "weights": root(f"find {weights} | sort | xargs sha256sum"),
            "daemon.json": root("sha256sum /etc/docker/daemon.json"),
            "says": chat(self.host, 8000) + chat(self.host, 8001),
        }

    @contextmanager
    def unlocked(self) -> Iterator[None]:
        """Moves the lock away during the block."""
        away = self.lock.rename(self.lock.with_suffix(".away"))
        try:
            yield
        finally:
            away.rename(self.lock)


@dataclass(frozen=True)
class Before:
    """The server that will die."""

    manifest: str
    evidence: dict[str, str]
    card: str


@pytest.fixture(scope="module")
def site(lab: Lab) -> Iterator[Site]:
    publish(THEN, "gamma", '{"model_type": "llama"}')
    lab.testbed.remove("rebuild1")
    lab.testbed.add("rebuild1", "gpu")
    over = {"nvidia": {}, "engines": {"llama.cpp": {"version": moving.BUILD}}}  # the newest toolkit
    with moving.world(lab.testbed):
        yield Site(lab, lab.inventory({"rebuild1": wanted()}, over))
    shutil.rmtree(WEIGHTS / "rebuild")
    lab.testbed.remove("rebuild1")


@pytest.fixture(scope="module")
def before(site: Site) -> Before:
    """Deployed by the inventory alone, locked, and run once more so that locked packages are held."""
    site.provision()
    ran = identities(site.host)
    done = site.gpurack("lock")
    assert done.returncode == 0, done.stdout + done.stderr
    site.provision()
    assert identities(site.host) == ran, "a lock makes no container anew"
    return Before(site.manifest(), site.evidence(), cards(site.host, "alpha")[0])


@pytest.fixture(scope="module")
def moved_on(site: Site, before: Before) -> Iterator[None]:
    """The world after the server died. The test that rebuilds the server also moves the tags."""
    with moving.newer_toolkit(site.lab.testbed):
        publish(NOW, "delta", '{"model_type": "another"}')
        yield


def test_lock_lists_what_is_on_host(site: Site, before: Before) -> None:
    text = site.lock.read_text()
    for line in before.evidence["dpkg"].splitlines():
        state, name, version = line.split()[:3]
        if name.startswith(("docker", "containerd", "runc", "nvidia-container", "libnvidia-container")):
            assert f"      {name.partition(':')[0]}: {version}\n" in text
            assert state == "hi", "held"
    for name, variant in (("alpha", "server-cuda"), ("tiny", "server")):
        digest = json.loads(before.evidence[name])[0].partition("@")[2]
        assert f"image: ghcr.io/ggml-org/llama.cpp:{variant}-{moving.BUILD}@{digest}\n" in text
    assert f"commit: {THEN}\n" in text
    for line in before.evidence["weights"].splitlines():
        sha256, path = line.split()
        assert f"          {path}: {sha256}\n" in text
    assert "GPU-" not in text
    assert site.gpurack("lock", "--check").returncode == 0
    run = site.lab.run(site.inventory)
    assert run.unchanged, run.output
    assert site.host.ssh_commands(run.begun) == 1
    before_again = text
    site.gpurack("lock")
    assert site.lock.read_text() == before_again


@pytest.mark.usefixtures("moved_on")
def test_rebuilt_host_is_the_same(site: Site, before: Before) -> None:
    host = site.lab.testbed.recreate("rebuild1")
    host.gpus.swap(0, 3)  # another GPU in the first slot
    assert host.root("command -v docker", check=False).returncode != 0

    with moving.moved_tags(site.lab.testbed):
        site.provision()

    assert cards(host, "alpha")[0] != before.card
    assert site.manifest() == before.manifest
    assert site.evidence() == before.evidence
    assert site.gpurack("lock", "--check").returncode == 0
    run = site.lab.run(site.inventory)
    assert run.unchanged, run.output
    assert host.ssh_commands(run.begun) == 1


@pytest.mark.usefixtures("moved_on")
def test_without_lock_host_differs_and_check_names_all_three(site: Site, before: Before) -> None:
    host = site.lab.testbed.recreate("rebuild1")
    with site.unlocked(), moving.moved_tags(site.lab.testbed):
        site.provision()
    assert site.evidence()["says"] != before.evidence["says"]

    done = site.gpurack("lock", "--check")

    assert done.returncode == 1
    said = done.stdout.splitlines()
    assert f"rebuild1  packages nvidia-container-toolkit  1.20.1-1 → {moving.NEWER}-1" in said
    for name in ("alpha", "tiny"):
        assert any(line.startswith(f"rebuild1  {name} image  ghcr.io/ggml-org/llama.cpp:server") for line in said)
    assert f"rebuild1  tiny commit  {THEN} → {NOW}" in said
    assert any(line.startswith(f"rebuild1  tiny weights {FOLDER}/model.gguf  ") for line in said)
    # the lock is restored, with everything that it names
    site.provision()
    assert site.gpurack("lock", "--check").returncode == 0
    assert site.evidence() == before.evidence
    assert site.lab.run(site.inventory).unchanged
    assert host.root("nvidia-ctk --version").stdout.startswith("NVIDIA Container Toolkit CLI version 1.20.1")


@pytest.mark.usefixtures("moved_on")
def test_refuses_file_changed_by_server(site: Site, before: Before) -> None:
    """Under the locked commit. The model keeps serving from its weights."""
    host = site.host
    host.root(f"docker rm -f tiny; rm -rf {FOLDER}*")
    config = WEIGHTS / "rebuild/lab/tiny/resolve" / THEN / "config.json"
    old = config.read_text()
    config.write_text(old.replace("llama", "LLAMA"))
    ran = identities(host)

    run = site.lab.run(site.inventory)

    assert run.exit_code == 1
    (error,) = run.errors("rebuild1")
    assert error.startswith("tiny: config.json of lab/tiny does not match the lock (sha256 ")
    assert host.root(f"test -e {FOLDER}", check=False).returncode != 0
    assert identities(host) == ran, "alpha was not touched"
    config.write_text(old)
    site.provision()
    assert site.evidence() == before.evidence


@pytest.mark.usefixtures("moved_on")
def test_refuses_weights_changed_on_host(site: Site, before: Before) -> None:
    """One byte, with an unchanged time of change. The model that runs from the old ones is left alone."""
    host = site.host
    (path,) = [line.split()[1] for line in before.evidence["weights"].splitlines() if "alpha" in line]
    host.root(f"cp -p {path} {path}.old && printf X | dd of={path} bs=1 seek=2000000 conv=notrunc 2>/dev/null")
    ran = identities(host)
    for known in (False, True):  # found by the runner; then known to the plan
        run = site.lab.run(site.inventory)
        assert run.exit_code == 1
        (error,) = run.errors("rebuild1")
        assert error.startswith(f"alpha: {path} does not match the lock: its sha256 is "), known
        assert error.endswith("accept the new one, gpurack lock INVENTORY alpha --upgrade.")
    assert identities(host) == ran
    host.root(f"mv {path}.old {path}")
    run = site.lab.run(site.inventory)
    assert run.exit_code == 0, run.output
    assert site.evidence() == before.evidence


def test_inventory_against_lock_is_refused_before_any_connection(site: Site, before: Before) -> None:
    text = site.inventory.read_text()
    site.inventory.write_text(text.replace("'nvidia': {}", "'nvidia': {'toolkit': '1.19.1'}"))
    run = site.lab.run(site.inventory)
    site.inventory.write_text(text)
    assert run.exit_code == 1
    assert (
        f"rebuild1 nvidia.toolkit: {site.lock} has nvidia-container-toolkit 1.20.1, not 1.19.1. To follow the "
        f"inventory, move the pin: gpurack lock {site.inventory} toolkit --upgrade"
    ) in run.output


@pytest.mark.usefixtures("moved_on")
def test_pins_move_on_request_only(site: Site, before: Before) -> None:
    """One part, then all. The next run installs the lock's versions; nothing else changed the host."""
    ran = identities(site.host)
    with moving.moved_tags(site.lab.testbed):
        toolkit = site.gpurack("lock", "toolkit", "--upgrade")
        rest = site.gpurack("lock", "--upgrade")
    assert (toolkit.returncode, rest.returncode) == (0, 0), toolkit.stdout + rest.stdout
    assert toolkit.stdout.count("  1.20.1-1 → 1.21.0-1\n") == 4
    assert "toolkit" not in rest.stdout
    assert f"rebuild1  tiny commit  {THEN} → {NOW}\n" in rest.stdout
    assert identities(site.host) == ran
    assert site.evidence() == before.evidence

    site.provision()

    assert site.host.root("nvidia-ctk --version").stdout.startswith("NVIDIA Container Toolkit CLI version 1.21.0")
    after = site.evidence()
    assert all(after[word] != before.evidence[word] for word in ("dpkg", "alpha", "tiny", "weights", "says"))
    assert "tiny weights" in site.gpurack("lock").stdout, "which were not there when the pin was moved"
    assert site.gpurack("lock", "--check").returncode == 0
