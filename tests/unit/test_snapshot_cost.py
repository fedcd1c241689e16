"""What a snapshot costs a host: programs that it starts, and bytes that it sends. Nothing here is timed."""

import shutil
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.questions import questions
from gpurack.resources import SHIPPED, read_text
from tests.given import models
from tests.unit.host_programs import DOCKER_SOCKET, Fakes
from tests.unit.test_docker_socket import (
    INFO,
    LOG,
    NO_CUDA,
    OURS,
    REFERENCES,
    Daemon,
    answers,
    body,
    described,
    frames,
)

pytestmark = pytest.mark.sampled

PROGRAMS = (
    "awk", "base64", "cat", "cksum", "curl", "cut", "date", "dmesg", "dpkg", "dpkg-query", "env", "find", "flock",
    "getent", "grep", "gzip", "head", "iconv", "id", "ip", "ls", "mkfifo", "mktemp", "modinfo", "mv", "od", "readlink",
    "rm", "sed", "setpriv", "sh", "sha256sum", "sleep", "sort", "ss", "stat", "systemctl", "tail", "timeout", "tr",
    "true", "uname", "xargs",
)  # fmt: skip
"""Those of a host that the scripts could start. Others are not found by them, so they cannot be forgotten here."""
MOST_PROGRAMS = 70
MOST_BYTES = 20_000


@pytest.fixture
def host(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of gpurack's with two models, whose programs all count."""
    (fakes.folder / "python3").unlink()
    for name in PROGRAMS:
        if place := shutil.which(name):
            fakes.add(name, f'exec {place} "$@"')
    fakes.add("python3", f'exec {shutil.which("python3")} "$@"')
    for name in ("docker", "nvidia-smi", "nvidia-ctk"):
        fakes.add(name, "exit 1")
    (tmp_path / "lib").mkdir()
    for path in (*paths.RUNNER_PARTS, paths.RUNNER):
        (tmp_path / "lib" / Path(path).name).write_text(read_text(SHIPPED[path]))
    (tmp_path / "weights.gguf").write_bytes(b"x")
    monkeypatch.setenv("PATH", str(fakes.folder))
    return tmp_path


def taken(
    host: Path, fakes: Fakes, images: int = 0, containers: int = 0, gpus: int = 0
) -> tuple[HostFacts, Counter[str], int]:
    """The facts, the programs that were started, and the bytes sent."""
    given = {"weights": f"{host}/weights.gguf"}
    wanted = models(**{name: {**given, "gpus": [at][:gpus]} for at, name in enumerate(("alpha", "beta"))})
    asked = questions(wanted)
    all_images = tuple(("", f"lab/image:{number}") for number in range(images))
    found = [described(f"other{number}", number % 16) for number in range(containers)]
    ours = [described(name, 14, **{"gpurack.model": "{}", **OURS}) for name in ("alpha", "beta")]
    for number, one in enumerate((*ours, *found)):
        one["Id"] = f"{number:064x}"
    said = answers() | {"/info": body({**INFO, "Plugins": [f"word{number}" for number in range(500)]})}
    said |= {f"/containers/{one['Id']}/json": body(one) for one in (*ours, *found)}
    said |= {f"/containers/{one['Id']}/{LOG}": (200, frames(NO_CUDA)) for one in ours}
    listed = [{"Id": one["Id"], "ImageID": one["Image"]} for one in (*ours, *found)]
    said |= {"/containers/json?all=true": body(listed)}
    place = f"{host}/{images}{gpus}.sock"
    text = script(asked.__class__(**{**asked.__dict__, "images": (*asked.images, *all_images)}))
    text = (
        text.replace(DOCKER_SOCKET, place)
        .replace(paths.LIB, f"{host}/lib")
        .replace("/usr/local/sbin:/usr/sbin:/sbin", "")
    )
    before = len(fakes.calls)
    with Daemon(place, said) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [shutil.which("sh") or "sh", "-s"], input=text, capture_output=True, text=True, check=True, timeout=60
        )
        server.shutdown()
    calls = Counter(
        call.split()[0]
        for call in fakes.calls[before:]
        if call.split()[0:1] and call.split()[0] in (*PROGRAMS, "docker")
    )
    return Snapshot().process(done.stdout.split("\n")), calls, len(done.stdout)


def test_starts_few_programs_and_sends_few_bytes(host: Path, fakes: Fakes) -> None:
    facts, programs, size = taken(host, fakes)
    assert (facts.trouble, facts.late, len(facts.containers)) == (None, {}, 2)
    assert len(facts.files) > len(paths.RUNNER_PARTS)
    assert REFERENCES[0] in facts.images
    assert sum(programs.values()) <= MOST_PROGRAMS, programs
    assert size <= MOST_BYTES


def test_starts_no_program_for_the_log_of_a_model_with_gpus(host: Path, fakes: Fakes) -> None:
    _, without, _ = taken(host, fakes)
    facts, programs, _ = taken(host, fakes, gpus=1)
    assert facts.cuda_logs.keys() == {("", "alpha"), ("", "beta")}
    assert programs == without


def test_starts_no_program_for_each_file_image_or_container(host: Path, fakes: Fakes) -> None:
    _, few, _ = taken(host, fakes)
    for number in range(20):
        (host / "lib" / f"own{number}.py").write_text("# not gpurack's\n")
    facts, many, _ = taken(host, fakes, images=20, containers=20)
    assert sum(path.startswith(f"{host}/lib/own") for path in facts.files) == 20
    assert len(facts.containers) == 22
    assert many == few
