"""What is found on a host has a stable code and the path of its entry; the wording is golden."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from gpurack.commands import diff
from gpurack.commands.lab_status import host_status
from gpurack.commands.main import main
from gpurack.commands.status import as_data
from gpurack.facts.gpus import MISMATCH, CdiSpec, Details, Gpu, Module, PciGpu
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Probe, User
from gpurack.facts.record import Stopped
from gpurack.plan.host import preview
from gpurack.plan.run import Run
from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, grouped
from tests.given import container, host_state, running, spec, uuid
from tests.unit.test_status import NOW

ALPHA = {"port": 8000}
ON_A_GPU = {"port": 8000, "gpus": [0]}
WEIGHTS = {"/w/a.gguf": 1}
ADA = {"docker": {"rootless": {"ada": {}}}}
CDI_SPEC = CdiSpec(kind="nvidia.com/gpu", devices=frozenset({uuid(0)}))
MINE = {"alpha": {**ALPHA, "user": "ada"}}


def of(host: dict[str, Any] | None = None, /, **entries: Any) -> Host:
    return spec({**(host or {}), "models": entries or {"alpha": ALPHA}})


def seen(**words: Any) -> HostFacts:
    return host_state(**{"weights": WEIGHTS, **words})


def seen_with(*gpus: Gpu, **words: Any) -> HostFacts:
    return replace(seen(gpus=1, **words), gpus=gpus)


def gpu(**words: Any) -> Gpu:
    usual = {"index": 0, "uuid": "GPU-a", "name": "NVIDIA A100", "memory_total": 40960, "compute": "8.0"}
    return Gpu(**{**usual, "memory_used": 0, "driver": "580.159.04", "pci": "00000000:17:00.0", **words})


CARD = gpu()


def answering(status: int, body: str) -> HostFacts:
    wanted = of()
    return seen(containers=[running(wanted, "alpha", seen())], probes={"alpha": [status, body]})


ON_HOST: dict[str, tuple[Host, HostFacts, list[tuple[str, str, str]]]] = {
    "unreachable": (of(), HostFacts.not_inspected("could not connect: refused"), [("error", "", "not-inspected")]),
    "docker-hangs": (of(), seen(late={"Docker": "timed out after 30 s"}), [("error", "", "part-not-inspected")]),
    "names-hang": (of(), seen(late={"names": "timed out after 30 s"}), [("warning", "", "part-late")]),
    "held": (
        of(),
        seen(stopped={("", "alpha"): Stopped("2026-11-20T07:00:00Z", "ada", True, "GPU 0 is replaced")}),
        [("warning", "models.alpha", "model-held")],
    ),
    "another-run": (of(), seen(busy="pid 7"), [("change", "", "another-run")]),
    "suse": (of(), seen(os="suse 15"), [("error", "", "platform-unsupported")]),
    "no-systemd": (of(), seen(init="openrc"), [("error", "", "no-systemd")]),
    "snap": (
        of(),
        seen(units={"snap.docker.dockerd.service": "loaded active enabled"}),
        [("error", "", "docker-snap")],
    ),
    "podman-docker": (of(), seen(packages={"podman-docker": "5.4.2-1"}), [("error", "", "docker-conflict")]),
    "kept-and-silent": (of({"docker": {"source": "keep"}}), seen(docker=""), [("error", "", "docker-kept-silent")]),
    "broken-daemon-json": (
        of(),
        seen(files={"/etc/docker/daemon.json": "{"}),
        [("error", "", "daemon-json-unreadable")],
    ),
    "flag-and-key": (
        of(),
        seen(docker_flags="--log-driver x -H fd://", files={"/etc/docker/daemon.json": '{"hosts": []}'}),
        [("error", "", "daemon-key-and-flag")],
    ),
    "no-account": (of(ADA, **MINE), seen(), [("error", "models.alpha", "user-missing")]),
    "user-is-root": (
        of(ADA, **MINE),
        seen(users={"ada": User(0, 0, "/root")}),
        [("error", "models.alpha", "user-is-root")],
    ),
    "user-hangs": (
        of(ADA, **MINE),
        seen(late={"user ada": "timed out after 30 s"}),
        [("error", "models.alpha", "user-not-inspected"), ("warning", "", "part-late")],
    ),
    "no-driver": (
        of(alpha=ON_A_GPU, beta={"port": 8001, "gpus": [1]}),
        seen(),
        [("error", "models.alpha", "no-driver"), ("error", "models.beta", "no-driver")],
    ),
    "wsl-without-driver": (
        of(alpha=ON_A_GPU),
        seen(driver={"platform": "wsl", "kernel": ""}),
        [("error", "models.alpha", "wsl-without-driver")],
    ),
    "jetson": (
        of(alpha=ON_A_GPU),
        seen(driver={"platform": "jetson", "kernel": ""}),
        [("error", "models.alpha", "jetson")],
    ),
    "flag-that-may-be-unknown": (
        of(alpha={**ALPHA, "args": {"no-such-flag": 1}}),
        seen(),
        [("warning", "models.alpha", "flag-perhaps-unknown")],
    ),
    "no-such-gpu": (of(alpha={**ALPHA, "gpus": [7]}), seen(gpus=2), [("error", "models.alpha", "gpu-not-found")]),
    "another-gpu": (
        of({"hardware": {"L4": 1}}, alpha=ON_A_GPU),
        seen(gpus=1),
        [("error", "models.alpha", "gpu-unexpected")],
    ),
    "gpu-in-use": (
        of(alpha=ON_A_GPU),
        seen(gpus=2, gpu_processes=[("GPU-00000000-0000", 7, "train.py", 8192, "eve")]),
        [("error", "models.alpha", "gpu-in-use")],
    ),
    "mismatch": (
        of(alpha=ON_A_GPU),
        seen(driver={"exit_code": MISMATCH, "message": "Driver/library version mismatch"}),
        [("error", "driver", "driver-mismatch"), ("error", "models.alpha", "gpus-not-shown")],
    ),
    "other-driver": (
        of({"nvidia": {"driver": "570"}}, alpha=ON_A_GPU),
        seen(gpus=1),
        [("error", "driver", "other-driver")],
    ),
    "nouveau": (
        of(alpha=ON_A_GPU),
        seen(gpus=1, driver={"bus": {"0000:17:00.0": PciGpu("0x20b7", "nouveau"), "0000:65:00.0": PciGpu("0x20b7")}}),
        [("warning", "", "gpus-without-driver"), ("warning", "", "nouveau-has-gpus")],
    ),
    "next-kernel-without-module": (
        of(alpha=ON_A_GPU),
        seen(gpus=1, driver={"modules": {"6.8.0-44": Module("nvidia"), "6.8.0-45": None}, "running": "6.8.0-44"}),
        [("warning", "", "kernel-without-module")],
    ),
    "next-kernel-with-unsigned-and-other-module": (
        of(alpha=ON_A_GPU),
        seen(
            gpus=1,
            driver={
                "modules": {"6.8.0-45": Module("nvidia", "580.95.05")},
                "library": "580.159.04",
                "secure_boot": True,
            },
        ),
        [("warning", "", "kernel-with-other-module"), ("warning", "", "module-not-signed")],
    ),
    "module-refuses-gpu": (
        of(alpha=ON_A_GPU),
        seen(driver={"log": ("installed in this system requires use of the NVIDIA open kernel modules.",)}),
        [("warning", "", "module-refuses-gpu"), ("error", "models.alpha", "gpus-not-shown")],
    ),
    "proprietary-module-for-blackwell": (
        of(alpha=ON_A_GPU),
        seen_with(gpu(compute="12.0"), driver={"modules": {"6.8.0-45": Module("nvidia", open=False)}}),
        [("warning", "", "kernel-with-wrong-module")],
    ),
    "fabric": (
        of(alpha=ON_A_GPU),
        seen(gpus=1, driver={"switches": 4}),
        [("warning", "", "fabric-not-ready"), ("error", "models.alpha", "fabric-not-ready")],
    ),
    "cdi-specs-conflict": (
        of(alpha=ON_A_GPU),
        seen(gpus=1, driver={"specs": dict.fromkeys(("/var/run/cdi/nvidia.yaml", "/var/run/cdi/own.yaml"), CDI_SPEC)}),
        [("warning", "", "cdi-specs-conflict"), ("error", "models.alpha", "cdi-specs-conflict")],
    ),
    "cdi-spec-stale": (
        of(alpha=ON_A_GPU),
        seen(gpus=1, driver={"specs": {"/var/run/cdi/own.yaml": replace(CDI_SPEC, gone=("/usr/lib/libcuda.so.1",))}}),
        [("warning", "", "cdi-spec-stale"), ("error", "models.alpha", "cdi-spec-stale")],
    ),
    "cdi-spec-by-hand": (
        of(alpha=ON_A_GPU),
        seen(gpus=1, driver={"specs": {"/etc/cdi/own.yaml": CDI_SPEC}}),
        [("warning", "", "cdi-spec-unrefreshed")],
    ),
    "broken-gpu": (
        of(alpha=ON_A_GPU),
        seen_with(gpu(fault="requires reset"), gpu(index=1, uuid="GPU-b", details=Details(ecc_errors=2))),
        [("warning", "", "gpu-broken"), ("warning", "", "gpu-unhealthy"), ("error", "models.alpha", "gpu-broken")],
    ),
    "gpu-in-mig-mode": (
        of(alpha=ON_A_GPU),
        seen_with(gpu(mig=True), gpu(index=-1, uuid="MIG-a1", name="NVIDIA A100 MIG 3g.20gb", parent="GPU-a")),
        [("error", "models.alpha", "gpu-in-mig-mode")],
    ),
    "name-taken": (of(), seen(containers=[container("alpha")]), [("error", "models.alpha", "container-name-taken")]),
    "port-taken": (of(), seen(listeners=["127.0.0.1:8000 nginx (pid 7)"]), [("error", "models.alpha", "port-in-use")]),
    "no-weights": (
        of(alpha=ALPHA, beta={"port": 8001}),
        host_state(weights={"/w/a.gguf": None}),
        [("error", "models.alpha", "weights-not-on-host"), ("error", "models.beta", "weights-not-on-host")],
    ),
    "renamed-with-error": (
        of(),
        host_state(weights={"/w/a.gguf": None}, containers=[running(of(old=ALPHA), "old", seen())]),
        [("error", "models.alpha", "weights-not-on-host"), ("warning", "", "removal-waits")],
    ),
    "fifo": (
        of(),
        host_state(weights={"/w/a.gguf": None}, irregular={"/w/a.gguf": "fifo"}),
        [("error", "models.alpha", "weights-irregular")],
    ),
    "hidden": (
        of(),
        host_state(weights={"/w/a.gguf": None}, irregular={"/w/a.gguf": "hidden"}),
        [("error", "models.alpha", "weights-hidden")],
    ),
    "weights-hang": (
        of(),
        seen(late={"weights /w/a.gguf": "timed out after 30 s"}),
        [("error", "models.alpha", "weights-late"), ("warning", "", "part-late")],
    ),
    "on-the-cpu": (
        of(alpha=ON_A_GPU),
        replace(
            seen_with(CARD, containers=[running(of(alpha=ON_A_GPU), "alpha", seen_with(CARD), ("GPU-a",))]),
            probes={("", "alpha"): Probe(200, '"alpha"')},
        ),
        [("warning", "models.alpha", "computes-on-cpu")],
    ),
    "silent": (of(), answering(0, "Operation timed out"), [("error", "models.alpha", "model-silent")]),
    "failing": (of(), answering(500, "oh"), [("error", "models.alpha", "model-failing")]),
    "renamed": (of(), answering(200, '{"id": "beta"}'), [("error", "models.alpha", "wrong-model-answers")]),
    "no-route": (
        of(alpha={**ALPHA, "bind": "lan"}),
        seen(address="", addresses=("10.0.0.7",)),
        [("error", "models.alpha", "no-default-route")],
    ),
    **{
        f"compose-{key}": (
            of(alpha={**ALPHA, "compose": {key: value}}),
            seen(),
            [("error", f"models.alpha.compose.{key}", "compose-key-refused")],
        )
        for key, value in {"profiles": ["gpu"], "extends": {"file": "b.yml", "service": "x"}, "scale": 3}.items()
    },
    "compose-profiles-serving": (
        of(alpha={**ALPHA, "compose": {"profiles": ["gpu"]}}),
        seen(containers=[running(of(alpha={**ALPHA, "compose": {"profiles": ["gpu"]}}), "alpha", seen())]),
        [("warning", "models.alpha.compose.profiles", "compose-key-refused")],
    ),
    "public": (
        of(alpha={**ALPHA, "bind": "lan"}),
        seen(address="8.8.4.4"),
        [("warning", "", "reachable-from-internet")],
    ),
    "changeable": (of(), seen(owned={"/w/a.gguf": frozenset({"eve"})}), [("warning", "", "weights-changeable")]),
    "copied-label": (
        of(),
        seen(containers=[replace(running(of(), "alpha", seen()), name="copy", id="c0ffee" * 10)], record={}),
        [("warning", "", "container-not-ours")],
    ),
}


def lines_of(case: str) -> list[Any]:
    wanted, facts, _ = ON_HOST[case]
    return [each for each in preview(wanted, facts, Run(salt="5a" * 16)).findings if each.problems]


@pytest.mark.parametrize("case", ON_HOST)
def test_says_exactly_these_codes_at_these_paths(case: str) -> None:
    found = [(each.kind, one.path, one.code) for each in lines_of(case) for one in each.problems]
    assert sorted(found) == sorted(ON_HOST[case][2])


def test_wording_on_hosts_is_golden(check_golden: Callable[[str, dict[str, list[str]]], None]) -> None:
    check_golden("live", {case: [each.line for each in lines_of(case)] for case in ON_HOST})


def test_one_fault_of_several_models_is_one_line() -> None:
    for case in ("no-driver", "no-weights"):
        (line,) = lines_of(case)
        assert line.line.startswith("alpha, beta: ")


def test_findings_of_five_kinds_are_five_lines() -> None:
    codes = ("empty-value", "container-missing", "docker-silent", "not-started", "nothing-to-connect-to")
    found = [Problem.of(codes[number % 5], f"gpu{number % 4}", f"models.m{number}") for number in range(23)]
    lines = grouped(found)
    assert len(lines) == 5
    assert all(any(f"m{number}" in line for line in lines) for number in range(23))


def test_status_has_the_codes_of_the_plan() -> None:
    for case in ("silent", "failing", "renamed"):
        wanted, facts, [(_, path, code)] = ON_HOST[case]
        (model,) = as_data([host_status("gpu1", wanted, facts, NOW)])["hosts"]["gpu1"]["models"].values()
        assert (model["problem"]["host"], model["problem"]["path"], model["problem"]["code"]) == ("gpu1", path, code)


def test_what_a_model_answers_is_never_a_template() -> None:
    wanted = of()
    for body in ("{0}", "{evil}", "{code.__class__}", "}{"):
        status = host_status("gpu1", wanted, answering(500, body), NOW)
        assert status.models[0].why == "answers HTTP 500"
        assert status.models[0].problem
        assert body in status.models[0].problem.what


def test_plan_live_as_json(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab.yaml").write_text(
        "hosts: {gpu1: {models: {alpha: {engine: llama.cpp, version: b7000, weights: /w/a.gguf, port: 8000}}}}"
    )
    facts = seen(listeners=["127.0.0.1:8000 nginx (pid 7)"], late={"names": "timed out after 30 s"})
    monkeypatch.setattr("pyinfra.connectors.ssh.SSHConnector.connect", lambda connector: None)
    monkeypatch.setattr(diff, "snapshots_of", lambda state, fleet: {"gpu1": facts})
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "lab.yaml"), "--live", "--json"])
    found = json.loads(done.output)
    assert (done.exit_code, found["schema"]) == (1, 1)
    assert [(one["host"], one["path"], one["code"]) for one in found["errors"]] == [
        ("gpu1", "models.alpha", "port-in-use")
    ]
    assert found["errors"][0]["parameters"]["port"] == "8000"
    assert found["errors"][0]["hint"] == "Stop it or use another port."
    assert [(one["code"], one["message"]) for one in found["warnings"]] == [
        ("part-late", "names timed out after 30 s.")
    ]
    assert any(change.startswith("install docker-ce") for change in found["hosts"]["gpu1"]["changes"])
