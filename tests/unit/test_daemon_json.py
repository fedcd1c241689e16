"""daemon.json is the admin's: all its keys are kept, and an unreadable one is never overwritten."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import File
from gpurack.plan.steps import Plan
from gpurack.plan.system.daemon_json import (
    BREAKS_LIVE_RESTORE,
    RELOADED,
    RUNTIME,
    Apply,
    cdi_is_opt_in,
    describe,
    plan_daemon_json,
    read,
    swarm_warning,
)
from gpurack.spec.host import Docker, Host
from gpurack.spec.merge import patch
from tests.given import container, docker_info, host_state, said

UNITS_FLAGS = "/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock"
FOREIGN = [container("db")]


def wanted(restart: Any = "ask", **daemon: Any) -> Host:
    return Host(docker=Docker(daemon={key.replace("_", "-"): value for key, value in daemon.items()}, restart=restart))


def host_with(content: str | bytes | dict[str, Any] | None, **over: Any) -> HostFacts:
    """A host with this daemon.json (None: without one)."""
    raw = json.dumps(content).encode() if isinstance(content, dict) else content
    files = dict(over.pop("files", {}))
    facts = host_state(docker_flags=over.pop("docker_flags", UNITS_FLAGS), files=files, **over)
    if raw is None:
        return facts
    file = File(raw.encode() if isinstance(raw, str) else raw, "644", 0, 0)
    return host_state_with(facts, {paths.DAEMON_JSON: file})


def host_state_with(facts: HostFacts, files: dict[str, File]) -> HostFacts:
    return HostFacts(**{**facts.__dict__, "files": {**facts.files, **files}})


def step_of(plan: Plan) -> Apply:
    (step,) = plan.steps
    assert isinstance(step, Apply)
    assert not plan.errors
    return step


def plan_for(spec: Host, facts: HostFacts, unattended: bool = True) -> Apply:
    return step_of(plan_daemon_json(spec, facts, unattended))


OURS = {"live-restore": True, "log-driver": "local"}

# --- what is written -------------------------------------------------------------------------------------------------


def test_new_file_gets_defaults() -> None:
    step = plan_for(wanted(), host_with(None))
    assert step.patch == OURS
    assert step.reason == 'live-restore: true, log-driver: "local" (restart Docker)'


SWARM = docker_info(LiveRestoreEnabled=False, Swarm={"LocalNodeState": "active"})


def test_node_of_a_swarm_gets_no_live_restore() -> None:
    facts = host_state(docker=SWARM)
    assert plan_for(wanted(), facts).patch == {"log-driver": "local"}
    assert [problem.code for problem in swarm_warning(facts)] == ["swarm-without-live-restore"]
    forced = plan_daemon_json(wanted(live_restore=True), facts, unattended=False)
    assert [problem.code for problem in forced.errors] == ["swarm-live-restore"]
    assert swarm_warning(host_state(docker=docker_info(Swarm={"LocalNodeState": "inactive"}))) == []


def test_gpus_add_runtime_by_nvidia_ctk() -> None:
    step = plan_for(wanted(), host_with(OURS, gpus=1))
    assert (step.patch, step.configure_runtime, step.probe_gpu) == ({"runtimes": {"nvidia": RUNTIME}}, True, True)
    assert step.reason == "runtimes.nvidia (reload Docker)"
    assert step.expect == {"LiveRestoreEnabled": True, "Runtimes": ["nvidia"]}


@pytest.mark.parametrize(
    "current",
    [
        {**OURS},
        {**OURS, "data-root": "/data", "insecure-registries": ["r:5000"], "x": None, "log-opts": {"max-size": "1m"}},
        {"live-restore": False, "log-opts": {"max-file": "3"}},
        {"live-restore": True, "log-driver": "journald"},
    ],
    ids=lambda current: ",".join(current),
)
def test_complete_file_of_admin_is_unchanged(current: dict[str, Any]) -> None:
    info = docker_info(LiveRestoreEnabled=current["live-restore"])
    assert plan_daemon_json(wanted(), host_with(current, docker=info), True).nothing


@pytest.mark.parametrize("state", ["active", "pending", "error", "locked"])
def test_no_live_restore_on_a_node_of_a_swarm(state: str) -> None:
    """dockerd would not start: "--live-restore daemon configuration is incompatible with swarm mode"."""
    info = docker_info(LiveRestoreEnabled=False, Swarm={"LocalNodeState": state})
    assert plan_for(wanted(), host_with(None, docker=info)).patch == {"log-driver": "local"}
    for spec, current in ((wanted(live_restore=True), None), (wanted(), OURS)):
        plan = plan_daemon_json(spec, host_with(current, docker=info), True)
        assert [error.code for error in plan.errors] == ["swarm-live-restore"]
    ended = docker_info(Swarm={"LocalNodeState": "inactive"})
    assert plan_daemon_json(wanted(), host_with(OURS, docker=ended), True).nothing


@pytest.mark.parametrize("swarm", [None, {}, {"LocalNodeState": ""}, {"LocalNodeState": "inactive"}, "active"])
def test_live_restore_where_docker_is_no_node_of_a_swarm(swarm: Any) -> None:
    info = docker_info(LiveRestoreEnabled=False, Swarm=swarm)
    assert plan_for(wanted(), host_with(None, docker=info)).patch == OURS
    assert swarm_warning(host_state(docker=info)) == []


def test_keeps_runtime_of_admin() -> None:
    own = {**OURS, "runtimes": {"nvidia": {"path": "/opt/nvidia/runtime"}}}
    assert plan_daemon_json(wanted(), host_with(own, gpus=1), True).nothing
    added = plan_for(wanted(runtimes={"crun": {"path": "crun"}}), host_with(own, gpus=1))
    assert (added.patch, added.configure_runtime) == ({"runtimes": {"crun": {"path": "crun"}}}, False)


def test_writes_runtime_of_inventory_unchanged() -> None:
    step = plan_for(wanted(runtimes={"nvidia": {"path": "/opt/nvidia/runtime"}}), host_with(OURS, gpus=1))
    assert not step.configure_runtime


def test_null_runtimes_removes_them() -> None:
    step = plan_for(wanted(runtimes=None), host_with({**OURS, "runtimes": {"nvidia": RUNTIME}}, gpus=1))
    assert (step.patch, step.configure_runtime) == ({"runtimes": None}, False)
    assert plan_daemon_json(wanted(runtimes=None), host_with(OURS, gpus=1), True).nothing


def test_null_removes_existing_key_only() -> None:
    step = plan_for(wanted(debug=None), host_with({**OURS, "debug": True}))
    assert (step.patch, step.reason) == ({"debug": None}, "debug removed (reload Docker)")
    assert plan_daemon_json(wanted(debug=None), host_with(OURS), True).nothing


@pytest.mark.parametrize(
    ("version", "opt_in"),
    [
        ("20.10.24", False),
        ("24.0.9", False),
        ("25.0.0", True),
        ("26.1.5+dfsg1", True),
        ("27.5.1", True),
        ("28.1.1", True),
        ("28.2.0", False),
        ("28.5.2", False),
        ("29.0.0-rc.1", False),
        ("dev", False),
        ("", False),
    ],
)
def test_enables_cdi_where_off_by_default(version: str, opt_in: bool) -> None:
    state = host_with(OURS, docker=docker_info(version), gpus=1)
    assert cdi_is_opt_in(version) is opt_in
    assert (plan_for(wanted(), state).patch or {}).get("features") == ({"cdi": True} if opt_in else None)


@pytest.mark.parametrize(("version", "patched"), [("26.1.5", {"cdi": True}), ("28.5.2", None)])
@pytest.mark.parametrize("docker", [{}, docker_info("28.5.2")], ids=["not installed", "28.5.2"])
def test_cdi_depends_on_planned_docker_version(version: str, patched: Any, docker: Any) -> None:
    spec = Host(docker=Docker(version=version))
    step = plan_for(spec, host_with(None, docker=docker, gpus=1))
    assert (step.patch or {}).get("features") == patched
    assert ("features.cdi" in step.reason) is bool(patched)


def test_unknown_docker_version_is_named_in_reason() -> None:
    step = plan_for(wanted(), host_with(None, docker={}, gpus=1))
    assert "features" not in (step.patch or {})
    assert "features.cdi if the Docker to be installed is older than 28.2" in step.reason


# --- what cannot be read is never written ----------------------------------------------------------------------------

REMEDY = "It was not touched. Correct it, or move it away: mv /etc/docker/daemon.json /etc/docker/daemon.json.old"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xef\xbb\xbf{}", "/etc/docker/daemon.json begins with a byte order mark (BOM), which is not JSON."),
        (b"", "/etc/docker/daemon.json is empty, which is not JSON."),
        (b" \n", "/etc/docker/daemon.json is empty, which is not JSON."),
        (b"null", "/etc/docker/daemon.json holds null, not an object."),
        (b"[]", "/etc/docker/daemon.json holds [], not an object."),
        (b'"x"', '/etc/docker/daemon.json holds "x", not an object.'),
        (b'{"features": []}', "/etc/docker/daemon.json has features that are not an object, which dockerd refuses."),
        (b'{"runtimes": "x"}', "/etc/docker/daemon.json has runtimes that are not an object, which dockerd refuses."),
        (b'{"debug": true,}', "/etc/docker/daemon.json is not JSON ("),  # Python's own reason, by version
        (b'{"debug": tr', "/etc/docker/daemon.json is not JSON (Expecting value: line 1 column 11 (char 10))."),
        (b'{"a": "\xff"}', "/etc/docker/daemon.json is not JSON ('utf-8' codec can't decode byte 0xff in position 7"),
        ("{}".encode("utf-16"), "/etc/docker/daemon.json is not JSON ('utf-8' codec can't decode byte 0xff in"),
        (b'{"a":' * 100_000, "/etc/docker/daemon.json is not JSON (maximum recursion depth exceeded"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)  # fmt: skip
def test_refuses_unreadable_file(content: bytes, why: str) -> None:
    plan = plan_daemon_json(wanted(debug=True), host_with(content), True)
    assert not plan.steps
    (sentence,) = plan.errors
    assert sentence.what.startswith(why)
    assert sentence.what.endswith(REMEDY)


@pytest.mark.parametrize(
    ("flags", "daemon", "flag", "key"),
    [
        ("-H fd://", {"hosts": ["fd://"]}, "-H", "hosts"),
        ("--host=tcp://0.0.0.0", {"hosts": ["fd://"]}, "--host", "hosts"),
        ("--debug", {"debug": True}, "--debug", "debug"),
        ("-D", {"debug": True}, "-D", "debug"),
        ("--insecure-registry r:5", {"insecure-registries": ["r:5"]}, "--insecure-registry", "insecure-registries"),
        ("--log-opt max-size=1m", {"log-opts": {"max-size": "1m"}}, "--log-opt", "log-opts"),
        ("--add-runtime=crun=/x", {"runtimes": {"crun": {"path": "/x"}}}, "--add-runtime", "runtimes"),
        ("--live-restore", {"live-restore": True}, "--live-restore", "live-restore"),
        ("--data-root=/data", {"data-root": "/data"}, "--data-root", "data-root"),
        ("--label=a=b", {"labels": ["a=b"]}, "--label", "labels"),
    ],
)  # fmt: skip
def test_refuses_key_that_is_also_a_flag_of_unit(flags: str, daemon: Any, flag: str, key: str) -> None:
    plan = plan_daemon_json(Host(docker=Docker(daemon=daemon)), host_with(OURS | daemon, docker_flags=flags), True)
    assert said(plan.errors) == (
        f"docker.service starts dockerd with {flag}, and daemon.json would set {key} too: dockerd would not start. "
        "Remove the flag from the unit (systemctl cat docker.service) or set the key to null.",
    )


@pytest.mark.parametrize(
    ("flags", "expected", "live"),
    [
        ("dockerd --live-restore --log-driver=journald", {}, True),
        ("dockerd --live-restore=false --log-opt max-size=1m", {}, False),
        ("dockerd --log-driver=journald", {"live-restore": True}, True),
    ],
)
def test_leaves_out_defaults_that_unit_sets_by_flag(flags: str, expected: dict[str, Any], live: bool) -> None:
    state = host_with({}, docker_flags=flags, docker=docker_info(LiveRestoreEnabled=live))
    plan = plan_daemon_json(wanted(), state, True)
    assert not plan.errors
    assert (step_of(plan).patch if plan.steps else {}) == expected


# --- reload or restart -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "daemon", "action"),
    [
        ({}, {"debug": True}, "reload"),
        ({}, {"insecure-registries": ["r:5000"]}, "reload"),
        ({}, {"registry-mirrors": ["https://m"]}, "reload"),
        ({}, {"data-root": "/data"}, "restart"),
        ({}, {"exec-opts": ["native.cgroupdriver=systemd"]}, "restart"),
        ({}, {"log-opts": {"max-size": "1m"}}, "restart"),
        ({}, {"features": {"cdi": True}}, "restart"),
        ({}, {"debug": True, "data-root": "/data"}, "restart"),
        ({"data-root": "/data"}, {"data-root": None}, "restart"),
    ],
)
def test_restarts_or_reloads_by_changed_key(before: dict[str, Any], daemon: dict[str, Any], action: str) -> None:
    step = plan_for(Host(docker=Docker(daemon=daemon)), host_with({**OURS, **before}))
    assert step.action == action
    assert step.reason.endswith(f"({action} Docker)")


def test_enables_live_restore_before_restart_unless_change_prevents_it() -> None:
    assert plan_for(wanted(), host_with({})).live_restore
    assert not plan_for(wanted(live_restore=False), host_with({"data-root": "/d"})).live_restore
    for key in BREAKS_LIVE_RESTORE:
        assert not plan_for(Host(docker=Docker(daemon={key: "x"})), host_with(OURS)).live_restore
    assert not BREAKS_LIVE_RESTORE & RELOADED


def test_marker_of_killed_run_plans_restart() -> None:
    marked = host_with(OURS, files={paths.RESTART_MARKER: "restart\n"})
    step = plan_for(wanted(), marked)
    assert (step.patch, step.action) == (None, "restart")
    assert step.reason == "an earlier change still needs a restart of Docker (restart Docker)"
    assert plan_for(wanted(), host_with(OURS, files={paths.RESTART_MARKER: "reload\n"})).action == "reload"


@pytest.mark.parametrize(
    ("info", "action", "reason"),
    [
        ({"LiveRestoreEnabled": False}, "reload", "dockerd does not know live-restore true yet"),
        ({"Runtimes": {"runc": {}}}, "reload", "dockerd does not know runtime nvidia yet"),
        ({"CDISpecDirs": None}, "restart", "dockerd does not know CDI yet"),
        (
            {"CDISpecDirs": [], "Runtimes": {}},
            "restart",
            "dockerd does not know runtime nvidia yet; dockerd does not know CDI yet",
        ),
    ],
)
def test_plans_restart_if_dockerd_runs_with_other_settings(info: dict[str, Any], action: str, reason: str) -> None:
    current = {**OURS, "runtimes": {"nvidia": RUNTIME}, "features": {"cdi": True}}
    step = plan_for(wanted(), host_with(current, docker=docker_info("26.1.5", **info), gpus=1))
    assert (step.patch, step.action, step.reason) == (None, action, f"{reason} ({action} Docker)")


def test_restarts_stopped_docker_only_for_a_change() -> None:
    assert plan_for(wanted(debug=True), host_with(OURS, docker={})).action == "restart"
    assert plan_daemon_json(wanted(), host_with(OURS, docker={}), True).nothing


def test_refuses_restart_that_would_stop_foreign_containers() -> None:
    state = host_with({"live-restore": False}, docker=docker_info(LiveRestoreEnabled=False), containers=FOREIGN)
    refused = plan_daemon_json(wanted(), state, True)
    assert not refused.steps
    assert said(refused.errors) == (
        'log-driver: "local" needs a restart of Docker, which would stop containers that gpurack does not manage: db. '
        "Run without -y and confirm, or with --restart (pyinfra: --data restart=always), or stop them yourself.",
    )
    assert plan_for(wanted(), state, unattended=False).action == "restart"
    assert plan_for(wanted(restart="always"), state).action == "restart"
    # live-restore is enabled first, so they survive
    assert plan_for(wanted(), host_with({}, containers=FOREIGN)).live_restore
    assert plan_daemon_json(wanted(data_root="/d"), host_with(OURS, containers=FOREIGN), True).errors


@pytest.mark.parametrize(
    ("key", "old", "new", "text"),
    [
        ("debug", None, True, "debug: true"),
        ("debug", True, False, "debug: true → false"),
        ("debug", True, None, "debug removed"),
        ("log-opts", None, {"max-size": "1m", "max-file": "3"}, "log-opts.max-file, log-opts.max-size"),
        ("log-opts", {"a": "1", "b": "2"}, {"a": "1", "b": "3"}, "log-opts.b"),
        ("log-opts", None, {}, "log-opts: {}"),
        ("runtimes", "x", {"nvidia": {}}, "runtimes.nvidia"),
    ],
)
def test_describes_changed_key(key: str, old: Any, new: Any, text: str) -> None:
    assert describe(key, old, new) == text


# --- properties ------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    ["debug", "data-root", "log-opts", "log-driver", "live-restore", "runtimes", "features", "labels", "x"]
)
LEAVES = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["a", "local"])
INNER = st.dictionaries(st.sampled_from(["nvidia", "cdi", "a"]), LEAVES | st.just({"path": "p"}), max_size=2)
DOCUMENTS = st.dictionaries(KEYS, LEAVES | INNER | st.lists(LEAVES, max_size=2), max_size=4)


def taken_up(facts: HostFacts, step: Apply) -> HostFacts:
    """The host after the step: the file patched, and `docker info` as expected."""
    content = read(facts)[0]
    if step.patch is not None:
        content = patch(content, step.patch)
    info = docker_info(
        str(facts.docker.get("ServerVersion") or "28.5.2"),
        LiveRestoreEnabled=step.expect["LiveRestoreEnabled"],
        Runtimes=dict.fromkeys(step.expect.get("Runtimes", ())),
    )
    return host_with(content, docker=info, gpus=len(facts.gpus))


MAPS = ("features", "runtimes")
INVENTORIES = DOCUMENTS.filter(lambda daemon: all(isinstance(daemon.get(key), dict | None) for key in MAPS))


@given(DOCUMENTS, INVENTORIES, st.sampled_from(["24.0.9", "26.1.5", "28.5.2"]), st.integers(0, 1))
def test_second_plan_is_empty_and_foreign_keys_stay(
    current: dict[str, Any], daemon: dict[str, Any], version: str, gpus: int
) -> None:
    state = host_with(current, docker=docker_info(version), gpus=gpus)
    spec = Host(docker=Docker(daemon=daemon))
    plan = plan_daemon_json(spec, state, True)
    if not plan.steps:
        return
    step = step_of(plan)
    after = taken_up(state, step)
    written = read(after)[0]
    named = {*daemon, *MAPS, "live-restore", "log-driver"}
    assert {key: value for key, value in written.items() if key not in named} == {
        key: value for key, value in current.items() if key not in named
    }
    for key, value in daemon.items():
        assert value is not None or key not in written
    again = plan_daemon_json(spec, after, True)
    assert again.nothing or again.errors, again


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode) | DOCUMENTS.map(json.dumps).map(str.encode))
def test_any_content_is_planned_without_exception(content: bytes) -> None:
    plan = plan_daemon_json(wanted(debug=True), host_with(content, gpus=1), True)
    assert plan.steps or plan.errors
