"""The checks of hosts, given evidence as data. Real drift is tested in tests/acceptance/rebuild."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Entry
from gpurack.paths import COMPOSE
from gpurack.plan.models.plan import host_files
from gpurack.plan.packages.platforms import PLATFORMS
from gpurack.plan.steps import WriteFile
from gpurack.plan.system import docker, rootless
from gpurack.spec.host import Host
from gpurack.verify import evidence, test_hosts
from gpurack.verify.lab import Server
from tests.given import container, host_state, spec, written_by
from tests.unit.verify.test_checks import WANTED, drifts, host_evidence

DEBIAN = PLATFORMS["debian", "13"]


def server(spec: Host = WANTED, **over: Any) -> Server:
    """gpu1 with the evidence of a correct host; `over` replaces parts."""
    seen = evidence.Seen(host_evidence(**over))
    return Server("gpu1", spec, None, "run", "5a", lambda name: seen)  # type: ignore[arg-type]


def file(text: str | None, mode: str = "644", uid: int = 0) -> dict[str, Any]:
    """A file or (text None) a folder."""
    return {"text": text, "mode": mode, "uid": uid}


@pytest.mark.parametrize(
    ("flags", "content", "lines"),
    [
        ("--live-restore --log-driver=journald", "{}", []),
        ("--log-opt max-size=10m", '{"live-restore": true}', []),
        ("", '{"live-restore": true}', ['gpu1: daemon.json log-driver: expected "local", found nothing']),
    ],
)
def test_accepts_dockerd_flags_instead_of_daemon_json(flags: str, content: str, lines: list[str]) -> None:
    one = server(
        spec({}),
        cards=None,
        units={"docker.service": {"starts": f"/usr/bin/dockerd -H fd:// {flags}"}},
        files={"/etc/docker/daemon.json": file(content)},
    )
    assert drifts(test_hosts.test_daemon_json, one) == lines


@pytest.mark.parametrize(
    ("package", "version", "running", "found"),
    [
        ("docker-ce", "5:28.5.2-1~debian.13~trixie", "28.5.2", ""),
        ("docker.io", "26.1.5+dfsg1-9+b9", "26.1.5+dfsg1", ""),
        ("docker.io", "28.5.2+dfsg4-1", "28.5.2+dfsg4", ""),
        ("docker-ce", "5:28.5.2-1~debian.13~trixie", "28.5.1", "28.5.2"),
        ("docker.io", "28.5.2+dfsg4-1", "26.1.5+dfsg1", "28.5.2"),
        ("none-of-docker", "1", "28.5.1", ""),
    ],
)
def test_finds_dockerd_not_restarted_after_upgrade(package: str, version: str, running: str, found: str) -> None:
    """The upgraded package is newer than the running dockerd."""
    one = server(
        packages={package: {"version": version, "held": False, "whole": True}},
        units={"docker.service": {"active": "active", "enabled": "enabled"}},
        daemons={"": {"info": {"ServerVersion": running}, "containers": {}, "images": []}},
    )
    lines = [f"gpu1: the running dockerd: expected {found}, as its package, found {running}"] if found else []
    assert drifts(test_hosts.test_docker_runs, one) == lines


def account(**files: str) -> dict[str, Any]:
    """anna, whose rootless Docker runs, with these files in her home."""
    found = {f"/home/anna/{path}": text for path, text in files.items()}
    said = {"linger": True, "active": "active", "enabled": "enabled", "uid": 1001, "gid": 1001, "home": "/home/anna"}
    return {**said, "files": found}


def with_rootless(spec: Host, home: dict[str, str], **over: Any) -> Server:
    """gpu1 with anna's Docker in addition to the host's own."""
    info = {"ServerVersion": "28.5.2", "SecurityOptions": ["name=rootless"]}
    daemons = {user: {"info": info, "containers": {}, "images": []} for user in ("", "anna")}
    return server(spec, users={"anna": account(**home)}, daemons=daemons, **over)


DAEMON = ".config/docker/daemon.json"
RUNTIMES = '"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}'
TOOLKIT = {"nvidia-container-toolkit-base": {"version": "1.17.0-1", "held": False, "whole": True}}
HOOK = "[nvidia-container-cli]\nno-cgroups = false\n"


@pytest.mark.parametrize("packages", [{}, TOOLKIT], ids=["cdi", "hook"])
def test_deployed_home_has_no_drift(packages: Any) -> None:
    """By each access to GPUs."""
    access = "runtime" if packages else "auto"
    wanted = spec({"docker": {"rootless": {"anna": {"daemon": {"debug": True}}}}, "nvidia": {"access": access}})
    bare = with_rootless(wanted, {}, packages=packages, files={paths.HOOK_CONFIG: file(HOOK)})
    files = {path: text for path, text in rootless.wanted_files(wanted, bare.state).items() if text is not None}
    assert len(files) == (2 if packages else 1)
    files[DAEMON] = '{"log-driver": "local", "debug": true, "mine": 1, ' + RUNTIMES + "}"
    host = {
        step.path: file(step.content, step.mode)
        for step in rootless.host_steps(wanted, bare.state, DEBIAN)
        if isinstance(step, WriteFile)
    }
    assert len(host) == 2
    one = with_rootless(wanted, files, packages=packages, files={paths.HOOK_CONFIG: file(HOOK), **host})
    assert drifts(test_hosts.test_rootless_files, one) == []
    assert drifts(test_hosts.test_rootless_docker, one) == []
    files |= {rootless.DROP_IN: "[Service]\n", DAEMON: "{"}
    one = with_rootless(wanted, files, packages=packages, files={paths.HOOK_CONFIG: file(HOOK)})
    found = [line.partition(": expected ")[0] for line in drifts(test_hosts.test_rootless_files, one)]
    assert found == [
        "gpu1: /home/anna/.config/docker/daemon.json",
        "gpu1: /home/anna/.config/systemd/user/docker.service.d/gpurack.conf",
        "gpu1: /etc/tmpfiles.d/gpurack.conf",
        "gpu1: /usr/local/libexec/gpurack/dockerd-rootless",
    ]


def test_checks_daemon_json_and_hook_configuration_of_user() -> None:
    """Without GPUs there must be no configuration of NVIDIA."""
    wanted = spec({"docker": {"rootless": {"anna": {}}}})
    files = {DAEMON: '{"log-driver": "journald", "live-restore": true}', rootless.HOOK_CONFIG: HOOK}
    assert drifts(test_hosts.test_rootless_files, with_rootless(wanted, files, cards=None)) == [
        "gpu1: /home/anna/.config/nvidia-container-runtime/config.toml: expected no file, found one"
    ]
    assert drifts(test_hosts.test_rootless_files, with_rootless(wanted, {}, cards=None)) == [
        'gpu1: /home/anna/.config/docker/daemon.json log-driver: expected "local", found nothing'
    ]


def test_finds_old_dockerd_of_user() -> None:
    wanted = spec({"docker": {"rootless": {"anna": {}}}})
    one = with_rootless(wanted, {}, cards=None)
    one.seen.parts["daemons"]["anna"]["info"] = {"ServerVersion": "28.5.1", "SecurityOptions": ["name=rootless"]}
    assert drifts(test_hosts.test_rootless_docker, one) == [
        "gpu1: the Docker of anna: expected 28.5.2, as the host's own, found 28.5.1"
    ]


KEYS = "/etc/gpurack/secrets"


@pytest.mark.parametrize(
    ("path", "said", "line"),
    [
        (f"{KEYS}/alpha", {"mode": "700"}, ""),
        (f"{KEYS}/alpha", {"mode": "775"}, "expected owner root, writable by root only, found mode 775, owner root"),
        (f"{KEYS}/alpha", {"owner": "anna"}, "expected owner root, writable by root only, found mode 755, owner anna"),
        (KEYS, {"mode": "755"}, "expected mode 700, owner root, found mode 755, owner root"),
        (f"{KEYS}/alpha/api_key.bak", {"sum": "1"}, "expected no file that alpha does not use, found a file"),
        (f"{KEYS}/alpha/api_key.new", {"sum": ""}, "expected no file that alpha does not use, found a file"),
        (
            f"{KEYS}/old/api_key",
            {"sum": "1"},
            "expected no files of a model that is not in the inventory, found a file",
        ),
    ],
)
def test_finds_extra_files_in_key_folders(
    monkeypatch: pytest.MonkeyPatch, path: str, said: dict[str, Any], line: str
) -> None:
    monkeypatch.setenv("LAB_KEY", "sk-1")
    wanted = spec({"models": {"alpha": {"gpus": [0], "port": 8000, "api_key": {"env": "LAB_KEY"}}}})
    folder: dict[str, Any] = {"owner": "root", "sum": None}
    right: dict[str, Any] = {
        KEYS: {**folder, "mode": "700"},
        f"{KEYS}/alpha": {**folder, "mode": "755"},
        f"{KEYS}/alpha/api_key": {"mode": "400", "owner": "root", "sum": "1"},
    }
    one = server(wanted, secrets={"files": right, "leaks": [], "unread": {}})
    assert drifts(test_hosts.test_secrets, one) == []
    changed = {**right.get(path, {"mode": "644", "owner": "root"}), **said}
    one = server(wanted, secrets={"files": {**right, path: changed}, "leaks": [], "unread": {}})
    assert drifts(test_hosts.test_secrets, one) == ([f"gpu1: {path}: {line}"] if line else [])


@pytest.mark.parametrize(
    ("gone", "line"),
    [
        ([], ""),
        (["/usr/lib/libcuda.so.570.1"], "no /usr/lib/libcuda.so.570.1"),
        (["/usr/lib/liba.so.570.1", "/usr/lib/libb.so.570.1"], "no /usr/lib/liba.so.570.1 and 1 more"),
    ],
)
def test_finds_cdi_spec_of_old_driver(gone: list[str], line: str) -> None:
    cards = host_evidence()["cards"]
    one = server(cards={**cards, "cdi": {**cards["cdi"], "gone": gone}})
    expected = [f"gpu1: CDI: expected existing files of the driver, found {line}"] if line else []
    assert drifts(test_hosts.test_cdi_devices, one) == expected


def right() -> dict[str, dict[str, Any]]:
    """The files of a correct host with Docker's repository and models."""
    state = server(cards=None).state
    repository = docker.ce_repository(WANTED, state, DEBIAN)
    written = [*DEBIAN.packages.repository(repository, state), *host_files(HostFacts())]
    files = {path: file(one.content, one.mode) for path, one in written_by(written).items()}
    return {**files, paths.LIB: file(None, "755")}


KEYRING = "/etc/apt/keyrings/gpurack-docker-ce.asc"
LIST = "/etc/apt/sources.list.d/gpurack-docker-ce.sources"


@pytest.mark.parametrize(
    ("path", "said", "check", "line"),
    [
        (KEYRING, {"mode": "600"}, test_hosts.test_keys, "expected mode 644, found 600"),
        (LIST, {"mode": "640"}, test_hosts.test_repositories, "expected mode 644, found 640"),
        (LIST, {"mode": "666"}, test_hosts.test_repositories, "expected mode 644, found 666"),
        (paths.RUNNER, {"mode": "777"}, test_hosts.test_boot, "expected mode 755, found 777"),
        (paths.RUNNER, {"uid": 1001}, test_hosts.test_boot, "expected owner root, found owner 1001"),
        (
            paths.LIB,
            {"mode": "775"},
            test_hosts.test_boot,
            "expected writable by root only, found mode 775, owner 0",
        ),
        (paths.BOOT_UNIT, {"mode": "664"}, test_hosts.test_boot, "expected mode 644, found 664"),
    ],
)
def test_finds_files_of_root_that_others_can_change(path: str, said: Any, check: Any, line: str) -> None:
    files, units = right(), {"gpurack.service": {"enabled": "enabled"}}
    assert drifts(check, server(cards=None, files=files, units=units)) == []
    files[path] |= said
    assert drifts(check, server(cards=None, files=files, units=units)) == [f"gpu1: {path}: {line}"]


def test_models_of_another_lab_are_no_drift() -> None:
    """Neither their containers nor their keys, also of a later generation."""
    wanted = spec({"lab": "vision"})
    others = {f"{KEYS}/old.2/api_key": {"mode": "400", "owner": "root", "sum": "1"}}
    one = server(wanted, secrets={"files": others, "leaks": [], "unread": {}})
    old = container("old", label={}, labels={f"{COMPOSE}service": "old.2"})
    for lab, found in (
        ("nlp", []),
        ("vision", ["gpu1: old: expected no such model in the inventory, found a container, running"]),
    ):
        record = {"": {"old": Entry(old.id, "model", service="old.2", lab=lab)}}
        text = "services: {old.2: {image: x, container_name: old}}\n"
        files = {paths.compose_file(""): text}
        one.__dict__["state"] = replace(host_state(containers=[old], files=files), record=record)
        assert drifts(test_hosts.test_only_our_models, one) == found
        assert bool(drifts(test_hosts.test_secrets, one)) == (lab == "vision")
