"""Images by digest, behind a login, from another host's tar file, or built from git."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpurack.importing.reader import read
from tests.acceptance.conftest import CHECKOUT, Lab, chat, containers, model
from tests.acceptance.evidence import sampled
from tests.testbed import Host
from tests.testbed.inventory import LOCKED, REGISTRY
from tests.testbed.services import LOGIN, OTHER_PASSWORD, WEIGHTS, rotate

REPOSITORY = "ghcr/ggml-org/llama.cpp"
DOCKER = {"docker": {"source": "distro", "daemon": {"insecure-registries": [REGISTRY, LOCKED]}}}
LOGINS = {LOCKED: {"user": LOGIN[0], "password": {"env": "GPURACK_TEST_PASSWORD"}}}


@pytest.fixture(scope="module")
def cpu(lab: Lab) -> Host:
    """cpu2 with one model on 8000, whose image came by version."""
    lab.settle(lab.testbed.host("cpu2"), {"one": model("alpha", [], 8000)})
    return lab.testbed.host("cpu2")


def digest_of(lab: Lab, tag: str) -> str:
    """The digest of a tag at the registry."""
    url = f"http://{lab.testbed.registry}/v2/{REPOSITORY}/manifests/{tag}"
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    request = urllib.request.Request(url, headers={"Accept": kind}, method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.headers["Docker-Content-Digest"])


def by_image(image: Any, **over: Any) -> dict[str, Any]:
    """One model on cpu2 with this image."""
    return {"cpu2": {"models": {"one": model("alpha", [], 8000, image=image)}, **DOCKER, **over}}


# --- by digest, behind a login ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passwords(lab: Lab) -> Iterator[None]:
    """Restores the registry's first password afterwards."""
    yield
    rotate(lab.testbed.engine, LOGIN[1])


def test_login_is_used_for_pull_and_stored_nowhere(lab: Lab, cpu: Host, passwords: None) -> None:
    locked = f"docker images {LOCKED}/{REPOSITORY}"
    cpu.root(f"{locked} --digests --format '{{{{.Repository}}}}@{{{{.Digest}}}}' | xargs -r docker rmi -f", check=False)
    cpu.root(f"{locked} --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | xargs -r docker rmi -f", check=False)
    old, image = containers(cpu)["one"]["Id"], f"{LOCKED}/{REPOSITORY}@{digest_of(lab, 'server-b7001')}"
    wanted = lab.inventory(by_image(image, registries=LOGINS))

    run = lab.run(wanted, env={"GPURACK_TEST_PASSWORD": "a-wrong-password"})
    assert run.exit_code == 1
    (error,) = run.errors("cpu2")
    assert error.startswith(f"one: {LOCKED} denies {image} to the account lab (")
    assert error.endswith(f"Correct registries.{LOCKED}, or give that account access")
    assert containers(cpu)["one"]["Id"] == old

    look = "cat /proc/*/cmdline | tr '\\0' ' '"
    with sampled(cpu, look) as samples:
        run = lab.run(wanted, "-y", "-vvv", env={"GPURACK_TEST_PASSWORD": LOGIN[1]})
    assert run.exit_code == 0, run.output
    assert containers(cpu)["one"]["Config"]["Image"] == image
    assert chat(cpu, 8000) == lab.testbed.weights("alpha").sentence
    assert any("compose" in look for look in samples.looks)
    everywhere = [run.output, *samples.looks, cpu.root("docker inspect one; journalctl -q --no-pager").stdout]
    assert not any(LOGIN[1] in text or "a-wrong-password" in text for text in everywhere)
    kept = cpu.root(f"grep -rlF {LOGIN[1]} /etc /root /home /run /tmp /var/lib/gpurack 2>/dev/null", check=False).stdout
    assert kept == ""
    left = "find /run/gpurack /run/gpurack-logins /root/.docker -mindepth 1 -name '*login*' -o -name config.json"
    assert cpu.root(left, check=False).stdout == ""

    run = lab.run(wanted, env={"GPURACK_TEST_PASSWORD": LOGIN[1]})
    assert run.unchanged, run.output
    assert cpu.ssh_commands(run.begun) == 1


def test_reports_changed_password_at_next_pull(lab: Lab, cpu: Host, passwords: None) -> None:
    rotate(lab.testbed.engine, OTHER_PASSWORD)
    same = lab.inventory(by_image(containers(cpu)["one"]["Config"]["Image"], registries=LOGINS))
    run = lab.run(same, env={"GPURACK_TEST_PASSWORD": OTHER_PASSWORD})
    assert run.unchanged, run.output  # nothing is pulled, so the registry is not asked
    another = lab.inventory(by_image(f"{LOCKED}/{REPOSITORY}:server-cuda-b7001", registries=LOGINS))
    run = lab.run(another, env={"GPURACK_TEST_PASSWORD": LOGIN[1]})
    assert "to the account lab" in run.errors("cpu2")[0]
    run = lab.run(another, env={"GPURACK_TEST_PASSWORD": OTHER_PASSWORD})
    assert run.exit_code == 0, run.output


def test_missing_login_has_hint(lab: Lab, cpu: Host) -> None:
    run = lab.run(lab.inventory(by_image(f"{LOCKED}/{REPOSITORY}:full-b7001")))
    (error,) = run.errors("cpu2")
    assert f'set registries: {{"{LOCKED}": {{"user": …, "password": {{"env": …}}}}}}' in error


# --- of another host -------------------------------------------------------------------------------------------------


def gpurack(*words: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "gpurack")
    return subprocess.run([program, *words], cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)


def test_image_of_one_host_runs_on_another(lab: Lab, cpu: Host) -> None:
    """As after `docker commit`: changed by hand on one host, needed on the other, which has no registry."""
    cpu.root("docker commit --change 'ENV MADE_BY_HAND=yes' one lab/by-hand")
    wanted, tar = lab.inventory({"cpu2": {"models": {}}}), lab.folder / "by-hand.tar"
    saved = gpurack("image", "save", str(wanted), "cpu2", "lab/by-hand", str(tar))
    assert saved.returncode == 0, saved.stderr
    assert f'image: {{"tar": "{tar}"}}' in saved.stderr
    missing = gpurack("image", "save", str(wanted), "cpu2", "nobody", str(tar))
    assert missing.returncode == 2
    assert missing.stderr.startswith("error  cpu2 has no container or image nobody: ")

    other = lab.testbed.host("gpu2")
    other.root("command -v docker >/dev/null && docker ps -aq | xargs -r docker rm -f", check=False)
    entry = {"gpu2": {"models": {"one": model("beta", [], 8000, image={"tar": str(tar)})}}}
    inventory = lab.inventory(entry)
    run = lab.run(inventory)
    assert run.exit_code == 0, run.output
    assert chat(other, 8000) == lab.testbed.weights("beta").sentence
    container = containers(other)["one"]
    assert "MADE_BY_HAND=yes" in container["Config"]["Env"]
    assert container["Image"] == cpu.root("docker image inspect -f '{{.Id}}' lab/by-hand").stdout.strip()
    names = other.root("docker images --format '{{.Repository}}'").stdout.split()
    assert "lab/by-hand" not in names
    assert other.root("ls /var/lib/gpurack/weights/images").stdout == ""

    run = lab.run(inventory)
    assert run.unchanged, run.output
    assert other.ssh_commands(run.begun) == 1
    tar.unlink()
    run = lab.run(inventory)
    assert f"models.one.image.tar: {tar} cannot be read: No such file or directory." in run.output


# --- built -----------------------------------------------------------------------------------------------------------

# The arguments are used where upstream's .devops/cuda.Dockerfile uses them: CUDA_VERSION in the name of the base
# image (here a tag of the registry; it has no default), CUDA_DOCKER_ARCH in the stage that compiles.
DOCKERFILE = f"""\
ARG CUDA_VERSION=12.8.1
ARG BASE_CUDA_DEV_CONTAINER={REGISTRY}/{REPOSITORY}:server-$CUDA_VERSION
FROM $BASE_CUDA_DEV_CONTAINER AS build
ARG CUDA_VERSION
ARG CUDA_DOCKER_ARCH=default
RUN --mount=type=cache,target=/cache sleep 6; echo "CUDA $CUDA_VERSION for $CUDA_DOCKER_ARCH" >/app/built
FROM build AS full
RUN false
FROM build AS server
FROM build AS last
RUN false
"""


@pytest.fixture(scope="module")
def repository(lab: Lab) -> Iterator[Path]:
    """A git repository at http://weights.testbed/engine.git, with one revision that cannot be built."""
    work, served = lab.folder / "work", WEIGHTS / "engine.git"
    work.mkdir()

    def git(*words: str) -> None:
        who = ("-c", "user.name=lab", "-c", "user.email=lab@testbed")
        subprocess.run(["git", "-C", str(work), *who, *words], check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    (work / ".devops").mkdir()
    for tag, text in (("v1", DOCKERFILE), ("v2", DOCKERFILE.replace("sleep 6", "echo compiling; exit 3"))):
        (work / ".devops/cuda.Dockerfile").write_text(text)
        git("add", ".")
        git("commit", "-qm", tag)
        git("tag", tag)
    git("clone", "-q", "--bare", ".", str(served))
    subprocess.run(["git", "-C", str(served), "update-server-info"], check=True)
    yield served
    subprocess.run(["rm", "-rf", str(served)], check=True)


def built(revision: str, cuda: str = "b7000") -> dict[str, Any]:
    """An entry with the image definition that `gpurack import` writes for the usual commands."""
    typed = (
        "docker build -t local/engine -f .devops/cuda.Dockerfile --target server --build-arg CUDA_VERSION=" + cuda
        + f" --build-arg 'CUDA_DOCKER_ARCH=80;86' http://weights.testbed/engine.git#{revision}\n"
        "docker run -d -p 8000:8080 local/engine --model /m/alpha.gguf\n"
    )  # fmt: skip
    (entry,) = read(typed).models.values()
    build = {"git": "http://weights.testbed/engine.git", "revision": revision, "dockerfile": ".devops/cuda.Dockerfile"}
    args = {"CUDA_VERSION": cuda, "CUDA_DOCKER_ARCH": "80;86"}
    assert entry["image"] == {"build": {**build, "target": "server", "args": args}}
    return by_image(entry["image"])


def test_builds_image_once_while_old_one_serves(lab: Lab, cpu: Host, repository: Path) -> None:
    cpu.root("docker images -q gpurack.local/engine | xargs -r docker rmi -f; docker builder prune -af", check=False)
    cpu.root("rm -rf /var/lib/gpurack/builds/*")  # a failed build of an earlier session could be resumed from it
    cpu.root("apt-get -q -y remove git docker-buildx")  # Debian's docker.io only recommends them
    wanted = lab.inventory(built("v1"))
    old = containers(cpu)["one"]["Id"]
    look = "docker ps --no-trunc --format '{{.ID}}' --filter name=^one$; pgrep -fa '^docker .*buil[d] '"
    with sampled(cpu, look, every=0.5) as samples:
        run = lab.run(wanted)
    assert run.exit_code == 0, run.output
    assert "~ install git, docker-buildx" in run.output
    while_building = [look for look in samples.looks if " build " in look]
    assert while_building
    assert all(old in look for look in while_building)
    assert re.search(r"one: building, .*, \d+ s", run.output), run.output
    assert cpu.root("docker exec one cat /app/built").stdout == "CUDA b7000 for 80;86\n"
    assert chat(cpu, 8000) == lab.testbed.weights("alpha").sentence
    assert cpu.root("ls /var/lib/gpurack/builds").stdout == ""

    run = lab.run(wanted)
    assert run.unchanged, run.output
    assert cpu.ssh_commands(run.begun) == 1

    run = lab.run(lab.inventory(built("v1", "b7001")))
    assert run.exit_code == 0, run.output
    assert cpu.root("docker exec one cat /app/built").stdout == "CUDA b7001 for 80;86\n"
    version = "docker inspect -f '{{index .Config.Labels \"org.opencontainers.image.version\"}}' one"
    assert cpu.root(version).stdout == "b7001\n"  # of the base image
    assert len(cpu.root("docker images -q gpurack.local/engine").stdout.split()) == 2


def test_failed_build_changes_nothing_and_has_reason(lab: Lab, cpu: Host, repository: Path) -> None:
    old = containers(cpu)["one"]
    compose = cpu.root("cat /etc/gpurack/compose.yaml").stdout
    run = lab.run(lab.inventory(built("v2")))
    assert run.exit_code == 1
    error = next(each for each in run.errors("cpu2") if "cannot build image" in each)
    assert error.startswith("one: cannot build image gpurack.local/engine:")
    assert "compiling" in run.output
    assert containers(cpu)["one"]["State"]["StartedAt"] == old["State"]["StartedAt"]
    assert cpu.root("cat /etc/gpurack/compose.yaml").stdout == compose
    run = lab.run(lab.inventory(built("v9")))
    (error,) = run.errors("cpu2")
    assert error.startswith("one: cannot fetch revision v9 of http://weights.testbed/engine.git: ")
    assert json.loads(cpu.root("docker inspect one").stdout)[0]["State"]["Running"]
