"""A fleet without hosts: pyinfra connects to nothing, and each host answers with the facts of a host that is as wanted.

What is left is what the controller itself computes. `project` writes a folder in which `pyinfra` runs so.
"""

import pprint
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.without_ssh import answer_without_ssh
from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import Snapshot
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.host import preview
from gpurack.plan.models import compose
from gpurack.plan.models.desired import desire
from gpurack.plan.models.ledger import assign
from gpurack.plan.models.plan import host_files
from gpurack.plan.run import Run
from tests.given import SALT, host_state, running, written_by

COMMON: dict[str, Any] = {
    "docker": {"source": "distro"},
    "defaults": {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf"},
}
MODELS = {"alpha": {"port": 8000, "gpus": []}, "beta": {"port": 8001, "gpus": []}}
PACKAGES = {"ca-certificates": "20250419", "curl": "8.14.1-2", "python3": "3.13.5-1"} | {
    "docker.io": "26.1.5+dfsg1-9+b9", "docker-cli": "26.1.5+dfsg1-9+b9", "docker-compose": "2.26.1-4",
}  # fmt: skip
CONFIG = """from benchmarks.recorded import answer_with_facts
from gpurack.pyinfra_patches import guard

answer_with_facts()
guard()
"""
BARE_CONFIG = """from benchmarks.without_ssh import answer_without_ssh

answer_without_ssh()
"""
EMPTY = """from benchmarks.without_ssh import nothing

for number in range(4):
    nothing(name=f"nothing {number}")
"""
GPU_HOST = """from gpurack.deploys import gpu_host

gpu_host()
"""


def project(folder: Path, hosts: int, common: Mapping[str, Any] = COMMON) -> tuple[Path, Path]:
    """Write two projects with as many hosts: (gpurack's with `gpu_host.py`, a bare one of pyinfra with `empty.py`).

    common: the data of all hosts.
    """
    lab = ([(f"gpu{number:03}.lab", {"models": MODELS}) for number in range(hosts)], dict(common))
    found = folder / "gpurack", folder / "bare"
    for path, files in zip(
        found, ({"config": CONFIG, "gpu_host": GPU_HOST}, {"config": BARE_CONFIG, "empty": EMPTY}), strict=True
    ):
        path.mkdir()
        for name, text in {"lab": f"lab = {pprint.pformat(lab)}\n", **files}.items():
            (path / f"{name}.py").write_text(text)
    return found


@cache
def facts() -> HostFacts:
    """The facts of a host on which nothing has to change."""
    spec = check_fleet({"gpu1": [COMMON, {"models": MODELS}]})["gpu1"]
    bare: dict[str, Any] = {
        "packages": PACKAGES,
        "files": {"/etc/docker/daemon.json": '{"live-restore": true, "log-driver": "local"}'},
        "units": {"docker.service": "loaded active enabled", "gpurack.service": "loaded active enabled"},
        "weights": {"/w/a.gguf": 1},
    }
    found = host_state(**bare)
    cards = assign(spec, found).uuids
    lines = {name: desire(name, spec, found, cards[name], {}, SALT).labelled for name in MODELS}
    files = {path: file.content for path, file in written_by(host_files(found)).items()}
    found = host_state(
        **bare
        | {
            "files": {**bare["files"], **files, paths.compose_file(""): compose.document(lines)},
            "containers": [running(spec, name, found, cards[name]) for name in MODELS],
            "probes": dict.fromkeys(MODELS, (200, '{"data":[{"id":"alpha"},{"id":"beta"}]}')),
        }
    )
    wrong = [each.line for each in preview(spec, found, Run(salt=SALT)).findings]
    assert not wrong, wrong
    return found


def answer_with_facts() -> None:
    """Let pyinfra connect to no host, and let each answer with its `facts`, under an address of its own."""

    def process(fact: Snapshot, output: list[str]) -> HostFacts:
        return replace(facts(), machine_id=output[0], address=output[0])

    answer_without_ssh()
    Snapshot.process = process  # type: ignore[method-assign]
