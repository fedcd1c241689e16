"""What happens to each model of a host and why, and which models change together."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpurack import listening, paths
from gpurack.engines import ENGINES, hints_of
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Container
from gpurack.plan.models import compose, devices
from gpurack.plan.models import plan as models_plan_module
from gpurack.plan.models import weights as weights_plan
from gpurack.plan.models.batches import batches
from gpurack.plan.models.compatibility import accelerator
from gpurack.plan.models.desired import desire
from gpurack.plan.models.diff import Action, Change, differences
from gpurack.plan.models.ledger import assign
from gpurack.plan.models.plan import ModelsPlan, host_files
from gpurack.plan.runner import draining
from gpurack.plan.steps import Shell, WriteFiles
from gpurack.resources import read_text
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError, Problem
from tests.given import SALT, container, host_state, models, models_plan, running, said, spec, uuid, written_by

READY = [200, '{"data":[{"id":"alpha"},{"id":"beta"}]}']


def plan(spec: Host, facts: HostFacts, keys: dict[str, str] | None = None) -> ModelsPlan:
    return models_plan(spec, facts, {name: {"api_key": key} for name, key in (keys or {}).items()})


def settled(spec: Host, *over: Container, keys: dict[str, str] | None = None, **said: Any) -> HostFacts:
    """The host after a successful run: containers, compose.yaml, runner, unit, weights. `over` adds containers."""
    facts = host_state(**{"gpus": 4, **said})
    cards = assign(spec, facts).uuids
    names = [name for name, model in spec.models.items() if model.enabled]
    secrets = {name: {"api_key": key} for name, key in (keys or {}).items()}
    ours = {name: running(spec, name, facts, cards[name], secrets=secrets.get(name, {})) for name in names}
    services = {name: desire(name, spec, facts, cards[name], secrets.get(name, {}), SALT).labelled for name in names}
    files = {path: file.content for path, file in written_by(host_files(facts)).items()}
    after = host_state(
        files={**files, paths.compose_file(""): compose.document(services)},
        units={"gpurack.service": "loaded active enabled"},
        secrets={paths.container_file("", name, "api_key"): "400" for name in keys or {}},
        probes={**dict.fromkeys(names, READY), **said.pop("probes", {})},
        weights={"/w/a.gguf": 1, **said.pop("weights", {})},
        containers=[*ours.values(), *over],
        **{"gpus": 4, **said},
    )
    assert over or "probes" in said or plan(spec, replace(after, probes={}), keys).nothing
    return after


def changes(found: ModelsPlan) -> dict[str, str]:
    """Model → action and reasons, as printed."""
    return {
        change.model: str(change).removeprefix(f"{change.action} {change.model}") or change.action
        for change in found.changes
    }


def actions(found: ModelsPlan) -> dict[str, str]:
    return {change.model: change.action for change in found.changes}


def test_a_removal_says_how_running_requests_are_counted() -> None:
    state = settled(ALPHA)
    (alpha,) = state.containers
    alpha = replace(alpha, labels={**alpha.labels, paths.PROBE_LABEL: "http://127.0.0.1:8000/v1/models"})
    found = plan(spec({"models": {}}), replace(state, containers=(alpha,)))
    assert found.job
    ((entry,),) = found.job["batches"]
    assert (entry["action"], entry["running"]) == ("remove", ["/metrics", "llamacpp:requests_processing"])
    assert entry["url"] == alpha.labels[paths.PROBE_LABEL]
    assert draining(replace(alpha, user="ada"))["url"] == ""
    other = replace(alpha, labels={**alpha.labels, paths.MODEL_LABEL: '{"engine": "tei"}'})
    assert "running" not in draining(other)


def test_kept_logs_expire_without_a_run() -> None:
    """systemd-tmpfiles removes them; a host without the line for it gets it, once."""
    after = settled(ALPHA)
    assert after.files[paths.LOG_AGE].text == "e /var/lib/gpurack/logs - - - 14d\n"
    without = {path: file for path, file in after.files.items() if path != paths.LOG_AGE}
    (step,) = plan(ALPHA, replace(after, files=without)).steps
    assert isinstance(step, WriteFiles)
    assert [file.path for file in step.files] == [paths.LOG_AGE]
    assert plan(ALPHA, after).nothing


def together(found: ModelsPlan) -> list[list[str]]:
    return [[entry["name"] for entry in group] for group in (found.job or {"batches": []})["batches"]]


ALPHA = models(alpha={"gpus": [0]})
TWO = models(alpha={"gpus": [0]}, beta={"gpus": [1]})
BOTH = models(alpha={"gpus": [0]}, beta={"gpus": [1]})

# --- each action -----------------------------------------------------------------------------------------------------


def test_computes_new_service_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, told = ENGINES["llama.cpp"], []
    container_of = engine.container
    monkeypatch.setattr(engine, "container", lambda *args: (told.append(args[1].name), container_of(*args))[1])
    assert actions(plan(BOTH, host_state(gpus=4, weights={"/w/a.gguf": 1}))) == {"alpha": "create", "beta": "create"}
    assert told == ["alpha", "beta"]


def test_first_run_creates() -> None:
    found = plan(BOTH, replace(host_state(gpus=4), weights={"/w/a.gguf": 1}))
    assert found.reasons == [
        "install the model runner in /usr/local/lib/gpurack",
        "install gpurack.service, which starts the models at boot",
        "enable gpurack.service",
        "create alpha: new",
        "create beta: new",
    ]
    assert together(found) == [["alpha"], ["beta"]]
    assert found.job
    first = found.job["batches"][0][0]
    assert [path for path, _ in first.pop("requests")] == [
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank",
    ]  # fmt: skip
    label = yaml.safe_load("".join(found.job["projects"][""]["services"]["alpha"]["services"].values()))
    text = compose.unescaped(label["alpha"]["labels"]["gpurack.model"])
    assert first.pop("definition") == hashlib.sha256(text.encode()).hexdigest()
    assert first.pop("label") == text
    *hints, own = first.pop("hints")
    assert hints == [hint.payload for hint in hints_of("llama.cpp")]
    assert own[1].startswith("gpurack sets this flag")
    assert first.pop("cuda")["arguments"] == ["--list-devices"]
    assert first.pop("dry_start")["arguments"][-1] == "--version"
    assert first.pop("weights") == ["/w/a.gguf"]
    assert first.pop("log") == "layers"
    assert first == {
        "name": "alpha", "action": "create", "user": "", "from": "",
        "image": "ghcr.io/ggml-org/llama.cpp:server-cuda-b7000",
        "uuids": [uuid(0)], "url": "http://127.0.0.1:8000/v1/models", "served_name": "alpha", "timeout": 1800,
        "key": "alpha", "lanes": [], "given": '{"driver": "580.159.04"}',
        "counter": ["/metrics", "llamacpp:tokens_predicted_total"], "sleeping": ["/props", "is_sleeping"],
    }  # fmt: skip


def test_unchanged_host_has_no_steps() -> None:
    state = settled(BOTH)
    assert plan(BOTH, state).nothing
    assert actions(plan(BOTH, state)) == {"alpha": "keep", "beta": "keep"}


def test_renumbered_gpus_change_nothing() -> None:
    state = settled(BOTH)
    swapped = replace(state, gpus=host_state(gpus=[1, 0, 3, 2]).gpus)
    assert plan(BOTH, swapped).nothing


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({"version": "b6999"}, {}, "image ghcr.io/ggml-org/llama.cpp:server-cuda-b6999 → "
         "ghcr.io/ggml-org/llama.cpp:server-cuda-b7000, version b6999 → b7000"),
        ({}, {"gpus": [3]}, "gpus [0] → [3]"),
        ({}, {"port": 9000}, "port 8000 → 9000"),
        ({}, {"bind": "lan"}, "bind loopback → lan"),
        ({}, {"served_name": "chat"}, "served_name alpha → chat"),
        ({}, {"context": 4096}, "context – → 4096"),
        ({"context": 4096}, {}, "context 4096 → –"),
        ({"args": {"threads": 8, "x": 1}}, {"args": {"threads": 16, "x": 1}}, "args.threads 8 → 16"),
        ({"args": {"metrics": True}}, {}, "args.metrics true → –"),
        ({}, {"env": {"A": "1"}}, "env.A – → 1"),
        ({}, {"compose": {"shm_size": "8g"}}, "compose.shm_size – → 8g"),
        ({}, {"weights": "/w/b.gguf"}, "weights /w/a.gguf → /w/b.gguf"),
        ({}, {"gpus": []}, "gpus [0] → [], image ghcr.io/ggml-org/llama.cpp:server-cuda-b7000 → "
         "ghcr.io/ggml-org/llama.cpp:server-b7000"),
        ({"restart": None}, {"compose": {"restart": None}}, "compose.restart – → null"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_change_recreates_with_reasons(before: dict[str, Any], after: dict[str, Any], reason: str) -> None:
    before.pop("restart", None)
    old, new = models(alpha={"gpus": [0], **before}), models(alpha={"gpus": [0], **after})
    state = settled(old)
    state = replace(state, weights={"/w/a.gguf": 1, "/w/b.gguf": 1})
    found = plan(new, state)
    assert changes(found) == {"alpha": f": {reason}"}
    assert actions(found) == {"alpha": "recreate"}


@pytest.mark.parametrize("address", ["10.0.0.7", "2001:db8::7", "fd00::a"])
def test_keeps_model_on_lan_address(address: str) -> None:
    """Also on a host that has only IPv6."""
    lan = models(alpha={"gpus": [0], "bind": "lan"})
    state = settled(lan, address=address)
    assert [one.ports for one in state.containers] == [((address, 8000),)]
    assert plan(lan, state).nothing
    moved = plan(lan, replace(state, address="2001:db8::8"))
    assert changes(moved) == {"alpha": f": published on {address}:8000, not on 2001:db8::8:8000"}


def test_moved_image_recreates() -> None:
    state = replace(settled(ALPHA), images={"ghcr.io/ggml-org/llama.cpp:server-cuda-b7000": "sha256:other"})
    assert changes(plan(ALPHA, state)) == {
        "alpha": ": image moved: ghcr.io/ggml-org/llama.cpp:server-cuda-b7000 is a different image now"
    }


@pytest.mark.parametrize(
    ("status", "more", "reason"),
    [
        ("exited", {"exit_code": 137}, "it exited with code 137"),
        ("restarting", {}, "it is restarting"),
        ("created", {"error": "no such device"}, "it is created (no such device)"),
        ("paused", {}, "it is paused"),
    ],
)
def test_starts_stopped_container(status: str, more: dict[str, Any], reason: str) -> None:
    state = settled(ALPHA)
    (alpha,) = state.containers
    found = plan(ALPHA, replace(state, containers=(replace(alpha, status=status, **more),)))
    assert [(change.action, change.reasons) for change in found.changes] == [("start", (reason,))]


def test_recreates_removed_container() -> None:
    found = plan(ALPHA, replace(settled(ALPHA), containers=()))
    assert changes(found) == {"alpha": ": its container is missing"}
    assert not found.steps


def test_removes_models_missing_or_disabled_in_inventory() -> None:
    state = settled(BOTH)
    assert changes(plan(ALPHA, state))["beta"] == ": no longer in the inventory"
    disabled = models(alpha={"gpus": [0], "enabled": False}, beta={"gpus": [1]})
    assert changes(plan(disabled, state)) == {"beta": "keep", "alpha": ": disabled"}
    assert together(plan(disabled, state)) == [["alpha"]]
    last = plan(Host(), state)
    assert actions(last) == {"alpha": "remove", "beta": "remove"}
    assert last.job
    assert last.job["projects"][""]["services"] == {}


def test_host_without_models_has_no_steps() -> None:
    assert plan(Host(), host_state()).nothing


# --- what it answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probe", "action"),
    [([503, '{"error":"Loading model"}'], "wait"), ([0, "curl: (7) Failed to connect: Connection refused"], "wait")],
)
def test_waits_for_loading_model(probe: Any, action: str) -> None:
    found = plan(ALPHA, settled(ALPHA, probes={"alpha": probe}))
    assert (actions(found), found.errors) == ({"alpha": action}, {})
    assert found.job


@pytest.mark.parametrize(
    ("probe", "code", "parameters"),
    [
        ([0, "curl: (28) Operation timed out"], "model-silent", {"url": "http://127.0.0.1:8000/v1/models"}),
        ([500, "oh"], "model-failing", {"status": "500", "body": "oh"}),
        ([401, "x" * 300], "model-failing", {"status": "401", "body": "x" * 200}),
        ([200, '{"data":[{"id":"alphabet"}]}'], "wrong-model-answers", {"name": "alpha"}),
    ],
    ids=["hangs", "500", "401", "another name"],
)
def test_a_model_that_is_silent_or_wrong_is_an_error_and_not_touched(
    probe: Any, code: str, parameters: dict[str, str]
) -> None:
    found = plan(ALPHA, settled(ALPHA, probes={"alpha": probe}))
    assert {name: (error.code, error.path) for name, error in found.errors.items()} == {"alpha": (code, "models.alpha")}
    assert parameters.items() <= dict(found.errors["alpha"].parameters).items()
    assert found.job is None


def test_missing_curl_is_no_error() -> None:
    assert plan(ALPHA, replace(settled(ALPHA), probes={})).nothing


# --- obstacles -------------------------------------------------------------------------------------------------------


def test_refuses_missing_weights() -> None:
    found = plan(ALPHA, host_state(gpus=1))
    assert said(found.errors) == {
        "alpha": 'weights /w/a.gguf do not exist on the host. Copy them there, or set {"url": …, "sha256": …}.'
    }
    url = {"url": "https://hf.example/a.gguf", "sha256": "ab" * 32}
    fetched = plan(models(alpha={"weights": url}), host_state())
    assert fetched.job
    assert fetched.job["batches"][0][0]["fetch"] == [
        {**url, "path": "/var/lib/gpurack/weights/abababababababab-a.gguf"}
    ]


def test_refuses_name_of_foreign_container() -> None:
    facts = host_state(gpus=1, containers=[container("alpha", "exited")])
    assert said(plan(ALPHA, facts).errors) == {
        "alpha": "a container named `alpha` already exists and is not managed by gpurack (exited, image "
        "0123456789ab). Adopt it with `replaces: alpha`, or rename the model."
    }


PROXY = "127.0.0.1:8000 docker-proxy (pid 9)"


@pytest.mark.parametrize(
    ("listeners", "containers", "holder"),
    [
        (["0.0.0.0:8000 nginx (pid 7)"], [], "process nginx (pid 7)"),
        (["[::]:8000 nginx (pid 7)"], [], "process nginx (pid 7)"),
        (["*:8000 java (pid 7)"], [], "process java (pid 7)"),
        (["127.0.0.1:8000 "], [], "process (unknown)"),
        ([PROXY], [container("db", ports=[("127.0.0.1", 8000)])], "container `db`, which gpurack does not manage"),
        ([PROXY], [container("db", ports=[("", 8000)])], "container `db`, which gpurack does not manage"),
        (["10.0.0.7:8000 nginx (pid 7)"], [], None),
        (["127.0.0.1:8001 nginx (pid 7)"], [], None),
    ],
)
def test_refuses_port_of_foreign_process(listeners: list[str], containers: list[Container], holder: str | None) -> None:
    facts = replace(host_state(gpus=1, listeners=listeners, containers=containers), weights={"/w/a.gguf": 1})
    error = plan(ALPHA, facts).errors.get("alpha")
    if holder is None:
        assert error is None
    else:
        assert error
        assert error.what.startswith(f"port 8000 is already in use by {holder}. This model was not changed. ")


@pytest.mark.parametrize(
    ("owner", "containers", "live_restore", "refused"),
    [
        ("docker-proxy (pid 9, user root) in docker.service", [], True, False),
        ("docker-proxy (pid 9, user root) in docker.service", [container("alpha", "created")], True, False),
        ("docker-proxy (pid 9, user root) in docker.service", [container("db", chosen_ports=True)], True, True),
        ("docker-proxy (pid 9, user root) in docker.service", [], False, True),
        ("docker-proxy (pid 9, user root) in docker-of-others.service", [], True, True),
        ("docker-proxy (pid 9, user root)", [], True, True),
        ("docker-proxy (pid 9, user eve) in docker.service", [], True, True),
        ("nginx (pid 9, user root) in docker.service", [], True, True),
    ],
)
def test_port_that_docker_keeps_for_no_container_is_free_after_its_restart(
    owner: str, containers: list[Container], live_restore: bool, refused: bool
) -> None:
    """Docker is restarted before (tests/operations/docker-listens-for-a-container-that-does-not-run.json)."""
    facts = host_state(gpus=1, listeners=[f"127.0.0.1:8000 {owner}"], containers=containers)
    facts = replace(facts, weights={"/w/a.gguf": 1}, docker={**facts.docker, "LiveRestoreEnabled": live_restore})
    error = plan(ALPHA, facts).errors.get("alpha")
    assert bool(error and "is already in use by process" in error.what) == refused


@pytest.mark.parametrize("owner", ["docker-proxy", "dockerd", "rootlesskit"])
def test_a_docker_without_proxies_listens_for_its_containers(owner: str) -> None:
    """With "userland-proxy": false dockerd itself does (seen with 28.5)."""
    found = plan(
        models(alpha={"gpus": [0], "context": 9}), settled(ALPHA, listeners=[f"127.0.0.1:8000 {owner} (pid 7)"])
    )
    assert (found.errors, actions(found)) == ({}, {"alpha": "recreate"})


@pytest.mark.parametrize(
    "foreign",
    [
        container("qwen-old", "exited", ports=[("127.0.0.1", 8000)]),
        container("db", ports=[("10.0.0.7", 8000)]),
    ],
    ids=["stopped", "another address"],
)
def test_ignores_own_container_at_port(foreign: Container) -> None:
    """alpha itself listens there, so its change must not be refused."""
    state = settled(ALPHA, foreign, listeners=[PROXY])
    found = plan(models(alpha={"gpus": [0], "context": 4096}), state)
    assert found.errors == {}
    assert actions(found) == {"alpha": "recreate"}


@pytest.mark.parametrize(("status", "refused"), [("restarting", False), ("exited", True)])
def test_vanished_listener_at_port_of_restarting_model_is_its_own(status: str, refused: bool) -> None:
    """Its docker-proxy comes and goes, so the snapshot may see a port whose process has ended."""
    state = settled(ALPHA, listeners=["127.0.0.1:8000 "])
    state = replace(state, containers=tuple(replace(one, status=status, ports=()) for one in state.containers))
    assert ("alpha" in plan(models(alpha={"gpus": [0], "context": 4096}), state).errors) == refused


@pytest.mark.parametrize(("listens", "refused"), [("192.0.2.1", True), ("127.0.0.1", False), ("0.0.0.0", False)])
def test_listener_is_our_containers_only_at_its_address(listens: str, refused: bool) -> None:
    """Ours serves at 127.0.0.1:8000. What another Docker has at 192.0.2.1:8000 is not ours."""
    state = settled(
        models(alpha={"gpus": [0], "bind": "127.0.0.1"}), listeners=[f"{listens}:8000 docker-proxy (pid 7)"]
    )
    found = plan(models(alpha={"gpus": [0], "bind": "0.0.0.0"}), state)
    assert ("alpha" in found.errors) is refused


def test_managed_containers_make_room_for_each_other() -> None:
    state = settled(BOTH, listeners=[PROXY, "127.0.0.1:8001 docker-proxy (pid 8)"])
    swapped = models(alpha={"gpus": [0], "port": 8001}, beta={"gpus": [1], "port": 8000})
    found = plan(swapped, state)
    assert (found.errors, together(found)) == ({}, [["alpha", "beta"]])


def test_unchangeable_model_keeps_what_others_wait_for() -> None:
    """alpha is to leave port 8000 and GPU 0 for beta and gamma, but alpha cannot be changed."""
    state = replace(settled(models(alpha={"gpus": [0]}, beta={"gpus": [1]}, gamma={"gpus": [2], "port": 8005})))
    wanted = models(
        alpha={"gpus": [3], "port": 8009, "weights": "/w/missing.gguf"},
        beta={"gpus": [1], "port": 8000},
        gamma={"gpus": [0], "port": 8005},
        delta={"gpus": [2], "port": 8006},
    )
    found = plan(wanted, state)
    waits = "is still in use by {}, which could not be changed. This model was not changed either."
    assert said(found.errors) == {
        "alpha": 'weights /w/missing.gguf do not exist on the host. Copy them there, or set {"url": …, "sha256": …}.',
        "beta": f"port 8000 {waits.format('alpha')}",
        "gamma": f"GPU 0 {waits.format('alpha')}",
        "delta": f"GPU 2 {waits.format('gamma')}",
    }
    assert actions(found) == {}
    assert together(found) == []


@pytest.mark.parametrize(
    ("stuck", "bind", "waits"),
    [
        ("127.0.0.1", "192.0.2.1", False), ("192.0.2.1", "127.0.0.1", False), ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True), ("::", "127.0.0.1", True), ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "::", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("new", [True, False])
def test_waits_for_port_only_where_addresses_overlap(stuck: str, bind: str, waits: bool, new: bool) -> None:
    """alpha is to leave port 8000 of an address, and cannot be changed; beta, new or there, is to listen at another."""
    alpha, beta = {"gpus": [0], "port": 8000, "bind": stuck}, {"gpus": [1], "port": 8001, "bind": bind}
    state = settled(models(alpha=alpha) if new else models(alpha=alpha, beta=beta))
    wanted = models(alpha={**alpha, "port": 8009, "weights": "/w/missing.gguf"}, beta={**beta, "port": 8000})
    found = plan(wanted, state)
    assert ("beta" in found.errors) is waits
    assert found.errors.keys() - {"beta"} == {"alpha"}


@pytest.mark.parametrize(("bind", "batches"), [("192.0.2.1", 2), ("127.0.0.1", 1), ("0.0.0.0", 1), ("::", 1)])
def test_changes_wait_for_each_other_only_where_addresses_overlap(bind: str, batches: int) -> None:
    """alpha leaves 127.0.0.1:8000; beta takes port 8000."""
    alpha, beta = {"gpus": [0], "bind": "127.0.0.1"}, {"gpus": [1], "bind": bind}
    state = settled(models(alpha={**alpha, "port": 8000}))
    found = plan(models(alpha={**alpha, "port": 8009}, beta={**beta, "port": 8000}), state)
    assert len(together(found)) == batches


def test_error_of_one_model_keeps_others() -> None:
    facts = replace(host_state(gpus=1), weights={"/w/b.gguf": 1})
    found = plan(models(alpha={"gpus": [0]}, beta={"weights": "/w/b.gguf"}), facts)
    assert list(found.errors) == ["alpha"]
    assert together(found) == [["beta"]]


def test_failed_model_keeps_its_service_in_compose_yaml() -> None:
    state = settled(BOTH)
    found = plan(models(alpha={"gpus": [0], "weights": "/w/missing.gguf"}, beta={"gpus": [1], "context": 9}), state)
    assert found.job
    old = yaml.safe_load(state.files[paths.compose_file("")].text)["services"]["alpha"]
    kept = yaml.safe_load(found.job["projects"][""]["services"]["alpha"]["services"]["alpha"])["alpha"]
    assert kept == old


def test_driver_mismatch_keeps_gpu_models() -> None:
    before = models(alpha={"gpus": [0]}, beta={"gpus": [1]})
    state = settled(before)
    alpha, beta = state.containers
    broken = replace(
        state,
        gpus=(),
        driver=replace(state.driver, exit_code=18, message="Driver/library version mismatch"),
        containers=(alpha, replace(beta, status="exited")),
    )
    wanted = models(alpha={"gpus": [0]}, beta={"gpus": [1]}, gamma={"gpus": []}, delta={"gpus": [2]})
    found = plan(wanted, broken)
    assert said(found.errors) == {
        "driver": "the NVIDIA kernel module is 580.159.04, but nvidia-smi says: Driver/library version mismatch. "
        "Running models keep running but could not restart, so no model on a GPU was changed. "
        "Reboot the host, then run again.",
        "beta": "not started: the NVIDIA driver and its library have different versions.",
        "delta": "wants a GPU, but nvidia-smi -L shows none. It says: Driver/library version mismatch",
    }
    assert actions(found) == {"gamma": "create"}


# --- keys ------------------------------------------------------------------------------------------------------------


def test_key_is_only_in_job_and_its_change_recreates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPURACK_TEST_KEY", "x")
    wanted = models(alpha={"api_key": {"env": "GPURACK_TEST_KEY"}})
    state = settled(wanted, keys={"alpha": "sk-one"})
    assert plan(wanted, state, {"alpha": "sk-one"}).nothing
    found = plan(wanted, state, {"alpha": "sk-two"})
    assert changes(found) == {"alpha": ": api_key changed"}
    assert found.job
    assert found.job["projects"][""]["files"] == {"alpha.2": {"api_key": "sk-two\n"}}
    (project,) = found.job["projects"].values()
    rest = {**found.job, "projects": {key: said for key, said in project.items() if key != "files"}}
    assert "sk-two" not in json.dumps(rest)
    (entry,) = found.job["batches"][0]
    assert (entry["key"], entry["old_key"], entry["restore"]) == ("alpha.2", "alpha", ["api_key"])
    given_up = plan(models(alpha={}), state)
    assert changes(given_up) == {"alpha": ": api_key removed"}


@pytest.mark.parametrize("secrets", [{}, {"alpha": "444"}, {"alpha": "400", "beta": "400"}])
def test_writes_missing_and_open_key_files_and_removes_old_ones(
    secrets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPURACK_TEST_KEY", "x")
    wanted = models(alpha={"api_key": {"env": "GPURACK_TEST_KEY"}})
    state = settled(wanted, keys={"alpha": "sk-one"})
    files = {paths.container_file("", name, "api_key"): (mode, 0) for name, mode in secrets.items()}
    found = plan(wanted, replace(state, secrets=files), {"alpha": "sk-one"})
    assert found.job
    assert found.job["batches"] == []


# --- taking over -----------------------------------------------------------------------------------------------------


def test_replaces_foreign_container_only_if_named() -> None:
    by_hand = container("qwen-old", ports=[("127.0.0.1", 8000)])
    facts = replace(host_state(containers=[by_hand], listeners=[PROXY]), weights={"/w/a.gguf": 1})
    refused = plan(models(alpha={}), facts).errors["alpha"]
    assert refused.what.endswith("Adopt it with `replaces: qwen-old`, stop it, or use another port.")
    found = plan(models(alpha={"replaces": "qwen-old"}), facts)
    assert changes(found) == {"alpha": ": replaces qwen-old"}
    assert found.job
    assert found.job["batches"][0][0]["replaces"] == {"name": "qwen-old", "user": "", "id": by_hand.id}
    gone = replace(host_state(), weights={"/w/a.gguf": 1})
    assert changes(plan(models(alpha={"replaces": "qwen-old"}), gone)) == {"alpha": ": new"}


# --- weights to fetch ------------------------------------------------------------------------------------------------

HUB = {"engine": "vllm", "version": "0.33.0", "gpus": [0]}


def fetched(spec: Host, token: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the whole payload, the download of its only model)"""
    found = models_plan(spec, host_state(gpus=4), hf_token=token)
    assert found.job
    return dict(found.job), found.job["batches"][0][0].get("fetch", [{}])[0]


@pytest.mark.parametrize(
    ("given", "place", "hub"),
    [
        ({"hf": "lab/tiny"}, "hf/lab--tiny@main", {"hub": "hf", "revision": "main"}),
        ({"hf": "lab/tiny", "revision": "refs/pr/3"}, "hf/lab--tiny@refs--pr--3", {"revision": "refs/pr/3"}),
        ({"modelscope": "lab/tiny"}, "modelscope/lab--tiny@master", {"hub": "modelscope", "revision": "master"}),
    ],
)
def test_fetches_repository_from_its_hub(given: dict[str, str], place: str, hub: dict[str, str]) -> None:
    wanted = models(alpha={**HUB, "weights": given})
    endpoint = {"hf": "https://huggingface.co", "modelscope": "https://www.modelscope.cn"}
    _, fetch = fetched(wanted)
    assert fetch == {**fetch, **hub, "repo": "lab/tiny", "path": f"/var/lib/gpurack/weights/{place}"}
    assert fetch["endpoint"] == endpoint[fetch["hub"]]
    (mount,) = (mount for mount in desire("alpha", wanted, host_state(gpus=4), (uuid(0),)).service["volumes"]
                if mount["type"] == "bind")  # fmt: skip
    assert (mount["source"], mount["target"]) == (fetch["path"], f"/weights/{place.partition('/')[2]}")


def test_mirror_replaces_hub() -> None:
    wanted = spec({"mirrors": {"huggingface": "https://hf.example/hub/"},
                   "models": {"alpha": {**HUB, "port": 8000, "weights": {"hf": "lab/tiny"}}}})  # fmt: skip
    assert fetched(wanted)[1]["endpoint"] == "https://hf.example/hub"


@pytest.mark.parametrize(
    ("download", "told"),
    [
        ({}, {}),
        ({"rate": "50MB/s"}, {"rate": 50_000_000, "connections": 1}),
        ({"rate": "1.5 GB", "connections": 4}, {"rate": 375_000_000, "connections": 4}),
        ({"connections": 2}, {"connections": 2}),
    ],
)
def test_downloads_are_told_their_rate(download: dict[str, Any], told: dict[str, int]) -> None:
    url = {"url": "https://w.example/a.gguf", "sha256": "0" * 64}
    for engine, weights in (("llama.cpp", url), ("vllm", {"hf": "a/b"})):
        host = spec(
            {"download": download},
            {"models": {"alpha": {"engine": engine, "weights": weights, "gpus": [0], "port": 1}}},
        )
        wanted = host.models["alpha"].weights
        assert wanted is not None
        fetch = weights_plan.fetched(host, wanted, "") or {}
        assert {key: fetch[key] for key in ("rate", "connections") if key in fetch} == told


@pytest.mark.parametrize("rate", ["50", "50Mbit/s", "0MB/s", 50, "MB/s", "-1MB/s"])
def test_a_rate_needs_its_unit(rate: Any) -> None:
    with pytest.raises(InventoryError, match="is not a rate"):
        spec({"download": {"rate": rate}})


@pytest.mark.parametrize(("weights", "given"), [({"hf": "lab/tiny"}, True), ({"modelscope": "lab/tiny"}, False)])
def test_token_is_only_in_job(weights: dict[str, str], given: bool) -> None:
    """And only for weights from Hugging Face."""
    job, _ = fetched(models(alpha={**HUB, "weights": weights}), "hf_secret")
    assert (job.pop("hf_token", None) == "hf_secret") == given
    assert "hf_secret" not in json.dumps(job)


# --- files on the host -----------------------------------------------------------------------------------------------


def test_updates_runner_and_unit() -> None:
    state = settled(ALPHA)
    old_runner = {**state.files, paths.RUNNER: replace(state.files[paths.RUNNER], content=b"old")}
    (step,) = plan(ALPHA, replace(state, files=old_runner)).steps
    (file,) = written_by([step]).values()
    assert (file.path, file.content, file.mode) == (paths.RUNNER, read_text("files/models.py"), "755")
    (step,) = plan(ALPHA, replace(state, units={})).steps
    assert step == Shell("enable gpurack.service", sh("systemctl enable -q gpurack.service"))


def test_rewrites_edited_compose_yaml_and_keeps_models() -> None:
    state = settled(ALPHA)
    edited = {
        **state.files,
        paths.compose_file(""): replace(state.files[paths.compose_file("")], content=b"name: mine\n"),
    }
    found = plan(ALPHA, replace(state, files=edited))
    assert found.job
    assert found.job["batches"] == []
    assert found.reasons == []


def test_restores_edited_service() -> None:
    """It may name the wrong GPU: if the container was made from it, Compose recreates the container."""
    state = settled(TWO)
    path = paths.compose_file("")
    text = state.files[path].text.replace(uuid(0), uuid(3))
    found = plan(TWO, replace(state, files={**state.files, path: replace(state.files[path], content=text.encode())}))
    assert changes(found)["alpha"] == ": its service in compose.yaml was edited by hand"
    assert changes(found)["beta"] == "keep"
    assert found.job
    assert [[entry["action"] for entry in group] for group in found.job["batches"]] == [["start"]]


def test_recreates_container_published_elsewhere() -> None:
    state = settled(TWO)
    opened = [
        replace(one, ports=(("0.0.0.0", 8000),)) if one.name == "alpha" else one  # by hand, with another compose file
        for one in state.containers
    ]
    found = plan(TWO, replace(state, containers=tuple(opened)))
    assert changes(found) == {
        "alpha": ": published on 0.0.0.0:8000 by hand, not on 127.0.0.1:8000",
        "beta": "keep",
    }


@pytest.mark.parametrize("text", ["", "x", "services: [1]", "services: {alpha: 7, beta: }", "\x00"])
def test_replaces_invalid_compose_yaml(text: str) -> None:
    state = settled(ALPHA)
    broken = {
        **state.files,
        paths.compose_file(""): replace(state.files[paths.compose_file("")], content=text.encode()),
    }
    wanted = models(alpha={"gpus": [0]}, beta={"weights": "/w/missing.gguf"})
    assert plan(wanted, replace(state, files=broken)).job


def test_gpus_of_a_model_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(entry: Any, *more: Any) -> Any:
        asked.append(entry)
        return accelerator(entry, *more)

    for module in (devices, models_plan_module):
        monkeypatch.setattr(module, "accelerator", counted, raising=False)
    assert plan(ALPHA, host_state(gpus=1, weights={"/w/a.gguf": 1})).changes
    assert asked == [ALPHA.models["alpha"]]


# --- groups ----------------------------------------------------------------------------------------------------------


def test_swapped_gpus_are_one_group_beside_others() -> None:
    three = models(alpha={"gpus": [0]}, beta={"gpus": [1]}, gamma={"gpus": [2]})
    swapped = models(alpha={"gpus": [1]}, beta={"gpus": [0]}, gamma={"gpus": [2], "context": 9})
    assert together(plan(swapped, settled(three))) == [["alpha", "beta"], ["gamma"]]


def test_removes_old_model_before_its_gpu_is_used() -> None:
    found = plan(models(beta={"gpus": [0], "port": 8001}), settled(ALPHA))
    assert found.job
    (group,) = found.job["batches"]
    assert [(entry["name"], entry["action"]) for entry in group] == [("alpha", "remove"), ("beta", "create")]


def test_models_that_share_a_gpu_fail_alone() -> None:
    """Only those whose engine measures free memory while it loads take a lane: they start one after the other."""
    vllm = {"engine": "vllm", "version": "0.33.0", "weights": "/w/folder"}
    wanted = models(
        alpha={"gpus": [0], "vram": "5GiB"},
        beta={"gpus": [0], "vram": "5GiB", **vllm},
        gamma={"gpus": [0], "vram": "5GiB", **vllm},
    )
    found = plan(wanted, replace(host_state(gpus=1), weights={"/w/a.gguf": 1, "/w/folder": 1}))
    assert together(found) == [["alpha"], ["beta"], ["gamma"]]
    assert found.job
    assert [entry["lanes"] for (entry,) in found.job["batches"]] == [[], [uuid(0)], [uuid(0)]]


@pytest.mark.parametrize(("grows", "found"), [("10GiB", [["alpha"], ["beta"]]), ("20GiB", [["alpha", "beta"]])])
def test_models_that_share_a_gpu_wait_for_each_other_if_old_and_new_do_not_fit(
    grows: str, found: list[list[str]]
) -> None:
    before = models(alpha={"gpus": [0], "vram": "12GiB"}, beta={"gpus": [0], "vram": "2GiB"})
    after = models(alpha={"gpus": [0], "vram": "2GiB"}, beta={"gpus": [0], "vram": grows})
    assert together(plan(after, settled(before))) == found


def moved(change: tuple[str, str], **of_gpu: Any) -> list[list[str]]:
    """The batches of alpha, which leaves a GPU, and beta, which comes there, with these shares."""
    state = settled(models(alpha={"gpus": [0], "vram": change[0]}))
    wanted = models(alpha={"gpus": [1], "vram": change[0]}, beta={"gpus": [0], "vram": change[1]})
    first, *others = state.gpus
    seen = replace(first, **of_gpu)
    there = [replace(one, labels={k: v.replace(first.uuid, seen.uuid) for k, v in one.labels.items()})
             for one in state.containers]  # fmt: skip
    state = replace(state, gpus=(seen, *others), containers=tuple(there))
    desired = {
        name: desire(name, wanted, state, (state.gpus[index].uuid,)) for index, name in ((1, "alpha"), (0, "beta"))
    }
    acting = [Change("alpha", Action.RECREATE), Change("beta", Action.CREATE)]
    return [[change.model for change in batch] for batch in batches(acting, desired, state)]


def test_a_mig_instance_is_for_one_process_also_during_a_change() -> None:
    assert moved(("4GiB", "4GiB")) == [["alpha"], ["beta"]]
    assert moved(("4GiB", "4GiB"), uuid="MIG-0001") == [["alpha", "beta"]]


@pytest.mark.parametrize(
    ("shares", "found"),
    [
        (("40%", "40%"), [["alpha"], ["beta"]]),
        (("60%", "40%"), [["alpha", "beta"]]),
        (("4GiB", "40%"), [["alpha", "beta"]]),
    ],
)
def test_percentages_are_added_where_the_gpu_does_not_say_its_memory(
    shares: tuple[str, str], found: list[list[str]]
) -> None:
    assert moved(shares, memory_total=None) == found


@st.composite
def moves(draw: st.DrawFn) -> tuple[list[Change], Host, HostFacts, dict[str, tuple[str, ...]]]:
    """Models that run somewhere and shall run elsewhere, in any combination."""
    names = draw(st.lists(st.sampled_from(["a1", "b2", "c3", "d4"]), unique=True, min_size=1))
    acting = [
        Change(name, draw(st.sampled_from([Action.CREATE, Action.RECREATE, Action.REMOVE, Action.START])))
        for name in names
    ]
    wanted = ALPHA.model_copy(
        update={
            "models": {n: ALPHA.models["alpha"].model_copy(update={"port": draw(st.integers(1, 4))}) for n in names}
        }
    )
    cards = st.lists(st.integers(0, 3), unique=True, max_size=2)
    there = [
        container(name, label={"uuids": [uuid(c) for c in draw(cards)]}, ports=[("", draw(st.integers(1, 4)))])
        for name in names
        if draw(st.booleans())
    ]
    uuids = {name: tuple(uuid(c) for c in draw(cards)) for name in names}
    return acting, wanted, host_state(containers=there), uuids


@given(moves())
def test_batches_keep_together_what_takes_from_each_other(
    move: tuple[list[Change], Host, HostFacts, dict[str, tuple[str, ...]]],
) -> None:
    acting, wanted, state, uuids = move
    desired = {name: desire(name, wanted, state, uuids[name]) for name in wanted.models}
    found = batches(acting, desired, state)
    assert sorted(change.model for batch in found for change in batch) == sorted(change.model for change in acting)

    def before(change: Change) -> set[str]:
        label = json.loads(state.ours["", change.model].labels["gpurack.model"]) if has(change) else {}
        return {*label.get("uuids", ())} | {
            str(port) for _, port in (state.ours["", change.model].ports if label else ())
        }

    def has(change: Change) -> bool:
        return ("", change.model) in state.ours

    def after(change: Change) -> set[str]:
        return {*uuids[change.model], str(wanted.models[change.model].port)} if change.action != "remove" else set()

    number = {change.model: index for index, batch in enumerate(found) for change in batch}
    for one in acting:
        for other in acting:
            if one != other and after(one) & before(other):
                assert number[one.model] == number[other.model]
    for batch in found:
        removals = [change.action == "remove" for change in batch]
        assert removals == sorted(removals, reverse=True)


# --- small pieces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("::", "10.0.0.7", True),
        ("*", "10.0.0.7", True),
        ("127.0.0.1", "10.0.0.7", False),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("", "10.0.0.7", True),
        ("127.0.0.1", "garbage", False),
    ],
)
def test_finds_overlapping_addresses(one: str, other: str, overlap: bool) -> None:
    assert listening.overlap(one, other) is overlap
    assert listening.overlap(other, one) is overlap


def test_lists_differences_without_digest_of_service() -> None:
    words = {"engine": "llama.cpp", "uuids": ["GPU-a"], "service": "1"}
    assert differences(words, words) == []
    assert differences(words, {**words, "uuids": ["GPU-b"], "service": "2"}) == ["GPUs GPU-a → GPU-b"]
    assert "engine – → llama.cpp" in differences({}, words)


def test_reasons_leave_out_kept_models() -> None:
    found = ModelsPlan(
        (Change("alpha", Action.KEEP), Change("beta", Action.REMOVE, ("disabled",)), Change("gamma", Action.START))
    )
    assert found.reasons == ["remove beta: disabled", "start gamma"]
    assert ModelsPlan().nothing
    assert not ModelsPlan(errors={"alpha": Problem.of("not-started")}).nothing
