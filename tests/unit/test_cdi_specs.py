"""CDI specs that do not fit the host any more are replaced before a model stops; right ones are left alone."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.facts.gpus import CdiSpec
from gpurack.facts.model import HostFacts
from gpurack.operations.output import reasons_of
from gpurack.plan.models.desired import desire
from gpurack.plan.models.probes import cuda_probe
from gpurack.plan.steps import Shell
from gpurack.plan.system.cdi_specs import cdi_warnings, conflicts, fault, generate, renewal
from gpurack.plan.system.gpu_host import gpu_warnings
from gpurack.plan.system.nvidia_toolkit import cdi
from tests.given import host_state, models, models_plan, running, uuid

RUN, ETC, OWN = "/var/run/cdi/nvidia.yaml", "/etc/cdi/nvidia.yaml", "/etc/cdi/own.yaml"
NODES = {
    "/dev/nvidia0": (195, 0), "/dev/nvidia1": (195, 1), "/dev/nvidiactl": (195, 255), "/dev/nvidia-uvm": (509, 0),
    "/dev/nvidia-uvm-tools": (509, 1),
}  # fmt: skip
NAMES = frozenset({uuid(0), uuid(1), "0", "1", "all"})
GOOD = CdiSpec(NODES, (), "nvidia.com/gpu", NAMES)
UNNUMBERED = replace(GOOD, nodes=dict.fromkeys(NODES, (None, None)))
OLD = replace(GOOD, nodes={**NODES, "/dev/nvidia-uvm": (510, 0)})
GONE = replace(GOOD, gone=("/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05",))


def host(**specs: CdiSpec) -> HostFacts:
    """A host with two GPUs that has these specs: run, etc, own (in /etc/cdi), other (in /var/run/cdi)."""
    paths = {"run": RUN, "etc": ETC, "own": OWN, "other": "/var/run/cdi/other.json"}
    facts = host_state(gpus=2, weights={"/w/a.gguf": 1}, cdi=[f"nvidia.com/gpu={name}" for name in NAMES])
    found = {paths[name]: spec for name, spec in specs.items()}
    majors = {"nvidia": 195, "nvidia-uvm": 509, "nvidia-caps": 237, "nvidia-caps-imex-channels": 235}
    majors |= {"nvidia-nvswitch": 240}
    return replace(facts, driver=replace(facts.driver, nodes=NODES, majors=majors, specs=found))


def reason(facts: HostFacts) -> str:
    """What the toolkit's stage does about specs; "" for nothing."""
    return "".join(step.reason for step in cdi(facts, fresh=False))


@pytest.mark.parametrize("spec", [GOOD, UNNUMBERED], ids=["numbered", "unnumbered"])
@pytest.mark.parametrize("where", ["run", "etc", "own", "other"])
def test_right_specs_change_nothing(where: str, spec: CdiSpec) -> None:
    """One in /etc/cdi that nothing refreshes is named."""
    facts = host(**{where: spec})
    found = [(problem.code, OWN in problem.what) for problem in gpu_warnings(models(alpha={"gpus": [0]}), facts)]
    assert (reason(facts), found) == ("", [("cdi-spec-unrefreshed", True)] if where == "own" else [])
    assert cdi_warnings(host(**{where: spec, "run": GOOD})) == [] or where == "other", "it is not in use"


def test_the_same_names_in_both_folders_are_no_conflict() -> None:
    facts = host(run=GOOD, etc=UNNUMBERED)
    assert (reason(facts), cdi_warnings(facts)) == ("", [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": {**NODES, "/dev/nvidia-uvm": (510, 0)}},
         "/dev/nvidia-uvm has the major number 509, and the spec 510"),
        ({"nodes": {**NODES, "/dev/nvidia0": (195, 7)}}, "/dev/nvidia0 has the minor number 0, and the spec 7"),
        ({"nodes": {**NODES, "/dev/nvidia-caps/nvidia-cap1": (240, 1)}},
         "/dev/nvidia-caps/nvidia-cap1 has the major number 237, and the spec 240"),
        ({"nodes": {**NODES, "/dev/nvidia-caps-imex-channels/channel0": (236, 0)}},
         "/dev/nvidia-caps-imex-channels/channel0 has the major number 235, and the spec 236"),
        ({"nodes": {**NODES, "/dev/nvidia-nvswitchctl": (241, 255)}},
         "/dev/nvidia-nvswitchctl has the major number 240, and the spec 241"),
        ({"nodes": {**NODES, "/dev/nvidia-nvswitch0": (240, 0)}}, ""),
        ({"nodes": {path: NODES[path] for path in ("/dev/nvidia0", "/dev/nvidiactl")}}, "it lacks /dev/nvidia-uvm"),
        ({"gone": ("/dev/nvidia7",)}, "/dev/nvidia7 does not exist"),
        ({"nodes": {"/dev/nvidia0": (195, 0)}}, ""),  # of a driver elsewhere: its other nodes have host paths
        ({"nodes": {}}, ""),
    ],
)  # fmt: skip
def test_says_what_is_stale(change: dict[str, object], words: str) -> None:
    facts = host(run=replace(GOOD, **change))  # type: ignore[arg-type]
    assert reason(facts) == (f"new CDI specs: {RUN} is of an earlier driver: {words}" if words else "")
    assert cdi_warnings(facts) == []


def test_a_node_of_an_earlier_driver_is_found_without_numbers_in_the_spec() -> None:
    facts = host(run=UNNUMBERED)
    nodes = {**NODES, "/dev/nvidia-uvm": (508, 0)}
    assert reason(replace(facts, driver=replace(facts.driver, nodes=nodes))) == (
        f"new CDI specs: {RUN} is of an earlier driver: /dev/nvidia-uvm has the major number 508, and the driver 509"
    )


@pytest.mark.parametrize(
    ("specs", "target", "warned"),
    [
        ({"run": OLD}, RUN, []),
        ({"etc": OLD}, ETC, []),
        ({"own": OLD}, RUN, [OWN]),
        ({"run": OLD, "etc": GONE}, RUN, [ETC]),
        ({"run": GOOD, "etc": OLD}, "", [ETC]),
        ({"other": OLD}, "", ["/var/run/cdi/other.json"]),
    ],
    ids=["refreshed", "lasting", "of the admin", "both", "behind a right one", "of others"],
)
def test_replaces_what_is_used_and_names_what_nothing_refreshes(
    specs: dict[str, CdiSpec], target: str, warned: list[str]
) -> None:
    facts = host(**specs)
    step = renewal(facts)
    assert (step.command.split("--output=")[1].partition(";")[0] if step else "") == target
    assert [problem.what.split()[0] for problem in cdi_warnings(facts)] == warned


def test_missing_program_of_the_toolkit_is_a_sentence(tmp_path: Path) -> None:
    """Not `sh: 1: nvidia-ctk: not found`."""
    argv = ["/bin/sh", "-c", generate("/etc/cdi/nvidia.yaml")]
    done = subprocess.run(argv, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, reasons_of(done.stdout.splitlines())) == (
        1,
        ["nvidia-ctk is missing, although its package is installed. Reinstall nvidia-container-toolkit-base."],
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("specs", "code"),
    [
        ({"run": GOOD, "other": UNNUMBERED}, "cdi-specs-conflict"),
        ({"etc": GOOD, "own": GOOD}, "cdi-specs-conflict"),
        ({"other": OLD}, "cdi-spec-stale"),
        ({"own": OLD}, ""),  # replaced in the stage before
    ],
    ids=["two that are refreshed", "two that last", "of others", "replaced"],
)
def test_keeps_what_would_start_and_only_warns_what_serves(specs: dict[str, CdiSpec], code: str) -> None:
    wanted = models(alpha={"gpus": [0]}, beta={"gpus": [1]}, cpu={"gpus": []})
    facts = host(**specs)
    facts = replace(facts, containers=(running(wanted, "alpha", facts, (uuid(0),)),))
    plan = models_plan(wanted, facts)
    assert {name: problem.code for name, problem in plan.errors.items()} == ({"beta": code} if code else {})
    by_runtime = models(beta={"gpus": [1]}).model_copy(
        update={"nvidia": wanted.nvidia.model_copy(update={"access": "runtime"})}
    )
    assert not models_plan(by_runtime, facts).errors
    assert gpu_warnings(by_runtime, facts) == []


def test_one_more_spec_does_not_cure_a_conflict() -> None:
    facts = replace(host(run=GOOD, other=GOOD), cdi=frozenset())  # as the toolkit lists them
    assert reason(facts) == ""


def test_other_kinds_and_platforms_are_left_alone() -> None:
    management = replace(OLD, kind="management.nvidia.com/gpu", devices=frozenset({"all"}))
    assert (reason(host(run=GOOD, own=management)), cdi_warnings(host(run=GOOD, own=management))) == ("", [])
    facts = host(run=GONE)
    assert reason(replace(facts, driver=replace(facts.driver, platform="wsl"))) == ""


def test_a_damaged_info_rom_does_not_keep_specs_old() -> None:
    facts = host(run=OLD)
    broken = replace(facts, driver=replace(facts.driver, exit_code=14, pci={"0": uuid(0), "1": uuid(1)}))
    assert "new CDI specs" in reason(broken)
    assert "CDI specs for 2 GPUs" in reason(replace(broken, cdi=frozenset(), driver=replace(broken.driver, specs={})))
    lost = replace(broken, driver=replace(broken.driver, exit_code=15), gpus=broken.gpus[:1])
    assert reason(lost) == ""


PATHS = st.sampled_from([*NODES, "/dev/nvidia2", "/dev/nvidia-caps/nvidia-cap1", "/dev/dri/card0"])
NUMBERS = st.tuples(st.none() | st.integers(190, 600), st.none() | st.integers(0, 255))
SPECS = st.builds(
    CdiSpec,
    st.dictionaries(PATHS, NUMBERS, max_size=4),
    st.lists(PATHS, max_size=1).map(tuple),
    st.sampled_from(["nvidia.com/gpu", "management.nvidia.com/gpu"]),
    st.frozensets(st.sampled_from(sorted(NAMES)), max_size=4),
)


@given(st.dictionaries(st.sampled_from(["run", "etc", "own", "other"]), SPECS))
def test_a_renewed_host_is_not_renewed_again(specs: dict[str, CdiSpec]) -> None:
    facts = host(**specs)
    step = renewal(facts)
    if step is None:
        return
    assert isinstance(step, Shell)
    target = step.command.split("--output=")[1].partition(";")[0]
    assert target in (RUN, ETC)
    for written in (RUN, target):  # by the refresh unit, or by the toolkit where the unit does not run
        after = replace(facts, driver=replace(facts.driver, specs={**facts.driver.specs, written: GOOD}))
        assert renewal(after) is None
        new = {*conflicts(NAMES, after)} - {*conflicts(NAMES, facts)}
        assert not [paths for paths in new if written not in paths], "one that had names of its own already"
        assert fault(GOOD, after.driver) == ""


def test_all_gpus_of_wsl_have_one_name() -> None:
    """They share /dev/dxg (nvidia-container-toolkit: lib-wsl.go), and its spec is not of NVIDIA's nodes."""
    facts = host(run=CdiSpec({}, (), "nvidia.com/gpu", frozenset({"all"})))
    facts = replace(facts, driver=replace(facts.driver, platform="wsl", kernel="", nodes={}, majors={}))
    there, missing = (replace(facts, cdi=frozenset(names)) for names in ({"nvidia.com/gpu=all"}, {"nvidia.com/gpu=0"}))
    wanted = models(alpha={"gpus": [1]})
    assert (reason(there), models_plan(wanted, there).errors) == ("", {})
    (step,) = cdi(missing, fresh=False)
    assert isinstance(step, Shell)
    assert "grep -q '^nvidia.com/gpu=all$'" in step.command
    desired = desire("alpha", wanted, there, (uuid(1),))
    (given,) = desired.service["deploy"]["resources"]["reservations"]["devices"]
    assert given["device_ids"] == ["nvidia.com/gpu=all"]
    assert desired.service["environment"]["CUDA_VISIBLE_DEVICES"] == uuid(1)
    probe = cuda_probe(desired)
    assert probe
    assert probe["gpus"] == 1
    assert " ".join(probe["run"]).count("--device nvidia.com/gpu=all") == 1
    assert f"CUDA_VISIBLE_DEVICES={uuid(1)}" in probe["run"]
