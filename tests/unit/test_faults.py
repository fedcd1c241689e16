"""The pure parts of the suite that disturbs deploys (tests/faults): its points, sample, manifest and soak."""

from __future__ import annotations

import copy
import doctest
import json
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults import bench, deploys, disk_order, manifest, points, results, soak, states
from tests.faults.deploys import DEPLOYS, Deploy
from tests.faults.points import STAGES
from tests.faults.strike import FAULTS
from tests.given import spec
from tests.no_testbed import public_key
from tests.testbed import prepared
from tests.testbed.inventory import common

FOUND = {
    "fresh": points.of_groups([["apt-get install 1"], ["docker start 1", "docker start 2"], ["ssh-command 4"]]),
    "change": points.of_groups([["docker start 1"], ["docker stop 1"], ["ssh-command 5"]]),
    "swap": points.of_groups([["docker start 1", "docker start 2"], ["docker stop 1", "docker stop 2"]]),
}


@pytest.mark.parametrize(
    "module", [bench, deploys, disk_order, manifest, points, results, soak], ids=lambda module: module.__name__
)
def test_examples(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


@given(st.integers())
def test_sample_has_every_deploy_stage_and_fault(seed: int) -> None:
    chosen = points.sample(FOUND, tuple(FAULTS), seed)
    assert chosen == points.sample(FOUND, tuple(FAULTS), seed)
    assert {trial.deploy for trial in chosen} == set(FOUND)
    assert {trial.point.stage for trial in chosen} == {
        point.stage for some in points.flat(FOUND).values() for point in some
    }
    assert {trial.fault for trial in chosen} == set(FAULTS)
    assert all(points.possible(trial) and trial.point in points.flat(FOUND)[trial.deploy] for trial in chosen)


def test_every_tries_each_group_once_with_each_possible_fault() -> None:
    trials = [trials[0] for trials in points.every(FOUND, tuple(FAULTS))]
    assert len(trials) == len(set(trials))
    groups = [(deploy, group) for deploy, some in FOUND.items() for group in some]
    impossible = sum(deploy == "fresh" and group[0].program != "docker" for deploy, group in groups)
    assert len(trials) == len(FAULTS) * len(groups) - impossible


def test_each_point_of_a_group_is_tried_with_some_fault() -> None:
    tried = {(trials[0].deploy, trials[0].point) for trials in points.every(FOUND, tuple(FAULTS))}
    assert tried == {(deploy, point) for deploy, some in points.flat(FOUND).items() for point in some}


def test_what_was_tried_at_one_point_of_a_group_is_not_missing() -> None:
    faults = tuple(FAULTS)
    every = points.missing(FOUND, faults, [])
    known = ("swap", "before docker stop 2", "kill -9 of pyinfra")
    left = points.missing(FOUND, faults, [known])
    assert [trial for trial in every if trial not in left] == [
        trial for trial in every if trial.key in (known, (known[0], "before docker stop 1", known[2]))
    ]
    assert len(left) == len(every) - 1
    assert not points.missing(FOUND, faults, [trial.key for trial in every])


def test_stages_do_not_overlap() -> None:
    """So that a point is held at the call that it was counted from."""
    for stage in STAGES:
        assert points.stage_of(stage) == stage


def test_known_points_are_of_known_deploys_and_stages() -> None:
    assert set(points.load()) <= set(DEPLOYS)
    assert {point.stage for some in points.flat(points.load()).values() for point in some} <= set(STAGES)


@pytest.mark.parametrize("state", deploys.STATES)
def test_states_are_valid_inventories(state: str, key: Path) -> None:
    models = spec(common(), deploys.STATES[state]).models
    assert {name for name, model in models.items() if model.enabled} == deploys.names_of(state)


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(deploys.KEY["env"], "sk-0123456789")
    return public_key(tmp_path, monkeypatch)


@pytest.mark.parametrize("fails", ["", "installed", "fresh"])
def test_every_state_is_made_or_the_making_ends(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """A deploy begins when its state is there; where that cannot be made, nothing waits for it.

    Of several deploys to one state, one saves it: a host restored meanwhile would have parts of both.
    """
    there, saved = {""}, list[str]()

    def undisturbed(bench: Any, deploy: Deploy, saves: bool) -> states.Undisturbed:
        assert deploy.before in there
        if deploy.name == fails:
            raise RuntimeError(fails)
        if saves:
            saved.append(deploy.after)
        there.add(deploy.after)
        return states.Undisturbed([deploy.name], {})

    monkeypatch.setattr(states, "image", lambda engine, state: state)
    monkeypatch.setattr(states, "has", lambda engine, image: image in there)
    monkeypatch.setattr(states, "known", lambda engine: {})
    monkeypatch.setattr(states, "keep", lambda engine, found: None)
    monkeypatch.setattr(states, "undisturbed", undisturbed)
    benches: Any = [SimpleNamespace(lab=SimpleNamespace(testbed=SimpleNamespace(engine=None)))] * 3
    with pytest.raises(RuntimeError, match=fails) if fails else nullcontext():
        assert states.make(benches).keys() == DEPLOYS.keys()
    assert len(saved) == len(set(saved))


# --- manifest --------------------------------------------------------------------------------------------------------

SALT = "0" * 32 + ":"


def container(name: str, service: str, label: str | None, running: bool = True) -> dict[str, Any]:
    labels = {} if label is None else {"gpurack.model": label, "com.docker.compose.service": service}
    return {
        "Id": f"id of {name} {service}",
        "Name": f"/{name}",
        "Image": "sha256:1",
        "State": {"Running": running},
        "Config": {"Image": "llama:1", "Labels": labels, "Cmd": ["serve"], "Entrypoint": None},
        "HostConfig": {
            "RestartPolicy": {"Name": "unless-stopped"},
            "DeviceRequests": [{"DeviceIDs": ["GPU-1"]}],
            "PortBindings": {},
        },
        "Mounts": [{"Source": f"/etc/gpurack/secrets/{service}/api_key", "Destination": "/run/key", "RW": False}],
        "NetworkSettings": {"Networks": {"bridge": {}}},
    }


def said(service: str = "alpha", digest: str = "a" * 32, **more: str) -> dict[str, str]:
    """What a host with one model and one container of somebody else's says."""
    label = json.dumps({"api_key": SALT + digest})
    model = container("alpha", service, label)
    entry = {"id": model["Id"], "kind": "model", "service": service, "definition": manifest.digest_of(model)}
    record = {
        "format": 2,
        "containers": {"": {"alpha": entry}},
        "replacing": [],
        "ready": {"": {"alpha": [{"label": label}]}},
    }
    found = dict.fromkeys(manifest.LOOKS, "")
    found |= {
        "containers": json.dumps([model, container("grafana", "", None)]),
        "networks": json.dumps([{"Name": "backend", "Id": "1", "Driver": "bridge", "IPAM": {"Config": []}}]),
        "compose": f"services: {{{service}: {{label: {SALT}{digest}, secrets: [{{source: {service}_api_key}}]}}}}",
        "record": json.dumps(record),
        "daemon.json": '{"labels": ["rack=7"]}',
        "files": f"/etc/gpurack/secrets/{service}\td 500 root:root \n/var/lib/gpurack/logs/_/a.log\tf 600 root:root \n",
    }
    return {**found, **more}


def test_generations_salts_and_kept_logs_make_no_difference() -> None:
    other = said("alpha.3", "b" * 32)
    other["files"] = other["files"].replace("a.log", "b.log") + "/var/lib/gpurack/logs\td 700 root:root \n"
    assert manifest.differences(manifest.manifest(said()), manifest.manifest(other)) == []


def changed(part: str, old: str, new: str) -> dict[str, str]:
    before = said()
    assert old in before[part]
    return {**before, part: before[part].replace(old, new)}


@pytest.mark.parametrize(
    ("found", "where"),
    [
        (changed("containers", '"Running": true', '"Running": false'), "containers.alpha.running"),
        (changed("containers", "llama:1", "llama:2"), "containers.alpha.image"),
        (changed("containers", "/grafana", "/Grafana"), "others.grafana"),
        (changed("containers", "GPU-1", "GPU-2"), "containers.alpha.gpus"),
        (changed("record", '"replacing": []', '"replacing": [{"batch": "1"}]'), "record.replacing"),
        (changed("record", "id of alpha", "id of another"), "record.containers./alpha.of its container"),
        (changed("record", '"service": "alpha"', '"service": "alpha.2"'), "record.containers./alpha.of its service"),
        (changed("compose", "alpha", "beta"), "compose"),
        (changed("networks", '"Id": "1"', '"Id": "2"'), "networks.backend"),
        (changed("daemon.json", "rack=7", "rack=8"), "daemon.json.labels"),
        (changed("files", "d 500", "d 755"), "files"),
        (changed("files", "f 600", "f 644"), "open history"),
        ({**said(), "holds": "docker.io\n"}, "holds"),
        ({**said(), "unfinished": "/run/gpurack/docker-restart\n"}, "unfinished"),
        ({**said(), "files": said()["files"] + "/etc/docker/daemon.json.gpurack-new\tf 600 root:root \n"}, "files"),
    ],
)
def test_manifest_shows_difference(found: dict[str, str], where: str) -> None:
    lines = manifest.differences(manifest.manifest(said()), manifest.manifest(found))
    assert any(line.startswith(where) for line in lines), lines


def test_host_without_docker_has_a_manifest() -> None:
    """Commands that fail say so in their sections, and there is nothing to compare in them."""
    missing = {**dict.fromkeys(manifest.LOOKS, "bash: docker: command not found"), "files": "", "sums": "", "sizes": ""}
    found = manifest.manifest(missing)
    assert (found["containers"], found["others"], found["networks"]) == ({}, {}, {})


# --- results ---------------------------------------------------------------------------------------------------------

CELL = results.Cell("swap", "after docker stop 1", "power cut", 1, "12", "error gpu6 the connection | was lost")


def test_results_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.tsv"
    assert results.load(path) == []
    for _ in range(2):
        results.add(CELL, path)
    assert results.load(path) == [CELL, CELL]


def test_table_shows_each_cell() -> None:
    page = f"# Page\n{results.BEGIN}\nold\n{results.END}\nrest\n"
    shown = results.renewed(page, [CELL])
    assert "old" not in shown
    assert shown.endswith(f"{results.END}\nrest\n")
    assert "| power cut after docker stop 1 | 1 run; down 12 s; `error gpu6 the connection ¦ was lost` |" in shown
    assert results.renewed(shown, [CELL]) == shown


def test_page_is_current() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert results.renewed(page, results.load()) == page, "run make docs"


def test_committed_results_are_of_known_points_and_faults() -> None:
    known = {(deploy, str(point)) for deploy, some in points.flat(points.load()).items() for point in some}
    for cell in results.load():
        assert (cell.deploy, cell.point) in known
        assert cell.fault in FAULTS


# --- soak ------------------------------------------------------------------------------------------------------------


@given(st.integers())
def test_soak_makes_valid_inventories(seed: int) -> None:
    steps = list(soak.steps(seed, 30))
    assert len(steps) == 31
    for step in steps:
        ports = [entry["port"] for entry in step.models.values()]
        gpus = [gpu for entry in step.models.values() for gpu in entry["gpus"]]
        assert len(ports) == len(set(ports))
        assert len(gpus) == len(set(gpus))
        assert set(gpus) <= set(range(soak.GPUS))
        assert soak.serving(step.models)


def test_soak_is_the_same_for_a_seed_and_makes_every_change() -> None:
    steps = list(soak.steps(1, 200))
    assert steps == list(soak.steps(1, 200))
    assert steps[5:] != list(soak.steps(2, 200))[5:]
    assert {step.what.split()[0] for step in steps[1:]} == {
        "add", "remove", "change", "another", "move", "swap", "enable", "disable", "nothing",
    }  # fmt: skip
    assert any(step.reboot for step in steps)
    assert not copy.deepcopy(steps[0]).reboot


def test_soak_inventories_are_valid(key: Path) -> None:
    for step in soak.steps(1, 20):
        assert set(spec(common(), {"models": step.models}).models) == set(step.models)
    assert prepared.models("gpu")
