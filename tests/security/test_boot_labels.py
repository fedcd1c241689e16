"""Boot starts the containers in the record, by id, whatever labels other containers have."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.security.hosts import COPY, acts, runner
from tests.unit.host_programs import CONTAINERS, Fakes, container_id

STOPPED = (
    CONTAINERS
    + """
case "$*" in *inspect*) echo '{"status":"exited","restarts":0,"code":0,"error":""}';; esac
"""
)


@pytest.fixture
def boot(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Any:
    runner(tmp_path, fakes, monkeypatch)
    fakes.add("docker", STOPPED)
    return sys.modules["boot"]


def there(fakes: Fakes, name: str, label: str = "{}", service: str | None = None) -> None:
    """A stopped container with our labels."""
    labels = {"com.docker.compose.project": "gpurack", "com.docker.compose.service": service or name}
    fakes.known(name)
    fakes.state(f"runs.{name}", "")
    fakes.state(f"labels.{name}", {"gpurack.model": label, **labels})


def record(*names: str, **said: Any) -> None:
    import record as module  # of files/

    path = Path(module.RECORD)
    path.parent.mkdir(parents=True, exist_ok=True)
    containers = {name: {"id": said.get(name, container_id(name)), "kind": "model"} for name in (*names, *said)}
    path.write_text(json.dumps({"format": 1, "containers": {"": containers}}))


def started(fakes: Fakes) -> list[str]:
    return [call.removeprefix("docker start ") for call in fakes.calls if call.startswith("docker start ")]


MALFORMED = [
    "",
    "{",
    "[]",
    "7",
    "null",
    "[" * 5000,
    '{"uuids": 7}',
    '{"uuids": [7]}',
    '{"render_nodes": ["\\u0000"]}',
]


@pytest.mark.parametrize("label", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_label_stops_no_other_model(boot: Any, fakes: Fakes, capsys: Any, label: str) -> None:
    for name in ("alpha", "beta", "gamma"):
        there(fakes, name, label if name == "beta" else "{}")
    record("alpha", "beta", "gamma")
    assert boot.boot() == 1
    assert started(fakes) == ["alpha", "gamma"]
    assert "error beta: cannot read its label gpurack.model" in capsys.readouterr().out


def test_does_not_start_copy_of_model(boot: Any, fakes: Fakes) -> None:
    for name in ("alpha", "beta"):
        there(fakes, name)
    record("alpha", beta=COPY)
    assert boot.boot() == 0
    assert started(fakes) == ["alpha"]


def test_starts_container_by_id_instead_of_name(boot: Any, fakes: Fakes) -> None:
    there(fakes, "alpha")
    record("alpha")
    assert boot.boot() == 0
    assert f"docker start {container_id('alpha')}\n" in fakes.log.read_text()


def test_reports_renamed_container_and_leaves_it(boot: Any, fakes: Fakes, capsys: Any) -> None:
    there(fakes, "alpha")
    fakes.state("called.alpha", "kept-by-eve\n")
    record("alpha")
    assert boot.boot() == 0
    assert started(fakes) == []
    assert f"kept-by-eve ({container_id('alpha')[:12]}) was not started" in capsys.readouterr().out


def test_without_record_compose_labels_decide(boot: Any, fakes: Fakes) -> None:
    """The first boot after an upgrade. A copy has the labels of its model, but another name."""
    there(fakes, "alpha")
    there(fakes, "copy", service="alpha")
    assert boot.boot() == 0
    assert started(fakes) == ["alpha"]


def test_ids_that_a_docker_lists_are_no_options_and_limited(boot: Any, fakes: Fakes, monkeypatch: Any) -> None:
    """The first boot after an upgrade asks users' Dockers as well, which may list anything."""
    monkeypatch.setattr(boot, "MOST", 5)
    listed = "printf '%s\\n' --privileged alpha; for n in 1 2 3 4 5 6 7 8 9; do printf '%064d\\n' $n; done"
    fakes.add("docker", f'case "$*" in ps*) {listed}; exit;; info*) exit;; esac; echo No such container; exit 1')
    assert boot.boot() == 0
    inspected = [call.split()[-1] for call in fakes.calls if call.startswith("docker container inspect")]
    assert inspected == [f"{number:064d}" for number in range(1, 6)]


@pytest.mark.parametrize("node", ["/dev/dri/renderD128\n", "/dev/dri/renderD128 x", "/dev/dri/renderD१"])
def test_name_of_a_device_has_no_second_line(boot: Any, node: str) -> None:
    assert boot.definition(json.dumps({"render_nodes": [node]})) is None
    assert boot.definition(json.dumps({"render_nodes": ["/dev/dri/renderD128"]})) is not None


def test_finds_container_of_killed_creation_by_name(boot: Any, fakes: Fakes) -> None:
    there(fakes, "alpha")
    record(alpha=None)
    assert boot.boot() == 0
    assert started(fakes) == ["alpha"]


def test_reports_newer_record(boot: Any, fakes: Fakes, capsys: Any) -> None:
    import record as module  # of files/

    record("alpha")
    Path(module.RECORD).write_text('{"format": 9}')
    assert boot.boot() == 1
    assert "error docker: " + module.RECORD + " has format 9" in capsys.readouterr().out
    assert acts(fakes) == []
