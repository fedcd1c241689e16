"""What is wrong with a host's GPUs and driver is said before a model is stopped for it, and nothing else is."""

from dataclasses import replace
from typing import Any

import pytest

from gpurack.commands.lab_status import host_status
from gpurack.commands.status import as_data, gpu_text
from gpurack.facts.gpus import Details, Gpu, Module, PciGpu, Xid
from gpurack.facts.model import HostFacts
from gpurack.facts.nvidia import xids as parse_xids
from gpurack.facts.parts import Unit
from gpurack.plan.host import preview
from gpurack.plan.models.desired import desire
from gpurack.plan.models.devices import devices
from gpurack.plan.models.images import references
from gpurack.plan.models.imagined import imagined
from gpurack.plan.models.ledger import assign
from gpurack.plan.models.slots import lost_gpus
from gpurack.plan.run import Run
from gpurack.plan.system.gpu_host import gpu_errors, gpu_warnings, manager_wanted
from gpurack.spec.gpus import SYSTEM_RESERVE
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError
from tests.given import host_state, models, models_plan, package, running, spec, uuid
from tests.unit.test_status import NOW

WANTED = {"alpha": {"gpus": [0]}}
ON_CPU = {"alpha": {"gpus": []}}


def seen(gpus: Any = 2, **driver: Any) -> HostFacts:
    facts = host_state(gpus=gpus, weights={"/w/a.gguf": 1})
    return replace(facts, driver=replace(facts.driver, **driver))


def codes(facts: HostFacts, host: Host | None = None) -> list[str]:
    return [problem.code for problem in gpu_warnings(host or models(**WANTED), facts)]


def switched(facts: HostFacts, unit: Unit | None = None, manager: str = "", state: str = "") -> HostFacts:
    """A machine with NVSwitches."""
    return replace(
        facts,
        driver=replace(facts.driver, switches=4),
        units={**facts.units, **({"nvidia-fabricmanager.service": unit} if unit else {})},
        packages={**facts.packages, **({"nvidia-fabricmanager": package(manager)} if manager else {})},
        gpus=tuple(replace(gpu, details=Details(fabric_state=state)) for gpu in facts.gpus),
    )


def test_a_healthy_host_has_no_warning() -> None:
    ok = {"6.8.0-45-generic": Module("nvidia", "580.159.04", open=True, signer="A key")}
    assert codes(seen(modules=ok, running="6.8.0-45-generic", library="580.159.04", secure_boot=True)) == []


@pytest.mark.parametrize(
    ("driver", "code"),
    [
        ({"bus": {"0000:17:00.0": PciGpu("0x20b7", "nouveau")}}, "nouveau-has-gpus"),
        ({"bus": {"0000:17:00.0": PciGpu("0x20b7")}}, "gpus-without-driver"),
        ({"bus": {"0000:17:00.0": PciGpu("0x20b7", "vfio-pci")}}, ""),
        ({"bus": {"0009:01:00.0": PciGpu("0x2342", "nvgrace-gpu-vfio-pci")}}, ""),
        ({"bus": {"0000:17:00.0": PciGpu("0x20b7", "pci-stub")}}, ""),
        ({"bus": {"0000:17:00.0": PciGpu("0x20b7", "xen-pciback")}}, ""),
        ({"bus": {"0000:17:00.0": PciGpu("0x20b7", "nvidia")}}, ""),
        ({"bus": {"0000:17:00.0": PciGpu("0x20b7", "nvidiafb")}}, "gpus-without-driver"),
        ({"bus": {"0000:17:00.0": PciGpu("0x20b7", "nvidia-current")}}, ""),
        ({"modules": {"6.8.0-9": Module("nvidia", "580.159.04"), "6.8.0-45": None}, "running": "6.8.0-9"},
         "kernel-without-module"),
        ({"modules": {"6.8.0-9": None, "6.8.0-45": Module("nvidia")}, "running": "6.8.0-9"}, ""),
        ({"modules": {"6.8.0-9-generic": Module("nvidia"), "6.8.0-100-generic": None}, "running": "6.8.0-9-generic"},
         "kernel-without-module"),
        ({"modules": {"6.8.0-9-generic": Module("nvidia"), "6.8.0-45-lowlatency": None}, "running": "6.8.0-9-generic"},
         ""),
        ({"modules": {"6.8.0-9": None}, "running": "6.8.0-9"}, ""),
        ({"modules": {"6.8.0-9": Module("nvidia", "580.95.05")}, "library": "580.159.04"}, "kernel-with-other-module"),
        ({"modules": {"6.8.0-9": Module("nvidia", "580.159.04")}, "secure_boot": True}, "module-not-signed"),
        ({"modules": {"6.8.0-9": Module("nvidia")}, "secure_boot": True}, ""),
        ({"modules": {"6.8.0-9": Module("nvidia", "580.159.04", signer="key")}, "secure_boot": True}, ""),
    ],
)  # fmt: skip
def test_says_what_the_next_boot_would_bring(driver: dict[str, Any], code: str) -> None:
    assert codes(seen(**driver)) == ([code] if code else [])
    assert codes(seen(**driver), models(**ON_CPU)) == []


@pytest.mark.parametrize(
    ("running", "other", "same"),
    [
        ("5.14.0-503.11.1.el9_5.x86_64", "5.14.0-570.1.1.el9_6.x86_64+debug", False),
        ("5.14.0-503.11.1.el9_5.x86_64", "5.14.0-570.1.1.el9_6.x86_64+rt", False),
        ("5.14.0-503.11.1.el9_5.x86_64", "5.14.0-570.1.1.el9_6.x86_64", True),
        ("5.14.0-503.11.1.el9_5.aarch64+64k", "5.14.0-570.1.1.el9_6.aarch64", False),
        ("5.14.0-503.11.1.el9_5.aarch64+64k", "5.14.0-570.1.1.el9_6.aarch64+64k", True),
        ("5.14.0-503.el9.x86_64", "5.14.0-503.11.1.el9_5.x86_64", True),
        ("5.14.0-503.el9.x86_64", "5.15.0-300.163.18.el9uek.x86_64", False),
        ("6.11.5-300.fc41.x86_64", "6.12.1-200.fc42.x86_64", True),
        ("6.1.0-28-amd64", "6.12.48+deb13-amd64", True),
        ("6.12.48+deb13-amd64", "6.12.57+deb13-cloud-amd64", False),
        ("6.12.48+deb13-amd64", "6.12.48+deb13-rt-amd64", False),
        ("6.12.9+bpo-amd64", "6.12.48+deb13-amd64", True),
        ("6.8.0-1017-azure", "6.11.0-9-generic", False),
        ("6.8.0-1017-nvidia-64k", "6.8.0-1020-nvidia", False),
        ("6.1.115-126.197.amzn2023.x86_64", "6.12.4-1.2.amzn2023.x86_64", True),
    ],
)
def test_a_kernel_of_another_flavour_is_not_the_next_one(running: str, other: str, same: bool) -> None:
    """Which flavour boots is set in the boot loader."""
    modules = {running: Module("nvidia"), other: None}
    assert seen(modules=modules, running=running).driver.newest == (other if same else running)
    assert codes(seen(modules=modules, running=running)) == (["kernel-without-module"] if same else [])


@pytest.mark.parametrize(
    ("compute", "kind", "code"),
    [
        ("12.0", False, "kernel-with-wrong-module"),
        ("12.0", True, ""),
        ("6.1", True, "kernel-with-wrong-module"),
        ("6.1", False, ""),
        ("8.0", None, ""),
        ("[N/A]", False, ""),
    ],
)
def test_module_of_newest_kernel_has_to_support_the_gpus(compute: str, kind: bool | None, code: str) -> None:
    facts = seen(1, modules={"6.8.0-9": Module("nvidia", open=kind)})
    facts = replace(facts, gpus=tuple(replace(gpu, compute=compute) for gpu in facts.gpus))
    assert codes(facts) == ([code] if code else [])


@pytest.mark.parametrize(("kind", "code"), [(False, ["kernel-with-wrong-module"]), (True, [])])
def test_grace_hopper_needs_the_open_module(kind: bool, code: list[str]) -> None:
    """Hopper's own cards do not, and both have the compute capability 9.0."""
    facts = seen(1, modules={"6.8.0-9": Module("nvidia", open=kind)})
    for name, found in (("NVIDIA GH200 480GB", code), ("NVIDIA H200", [])):
        one = replace(facts.gpus[0], compute="9.0", name=name)
        assert codes(replace(facts, gpus=(one,))) == found


def test_quotes_the_kernel_for_a_gpu_that_the_module_refuses() -> None:
    log = ("installed in this system requires use of the NVIDIA open kernel modules.",)
    bus = {f"0000:0{number}:00.0": PciGpu("0x2c58", "nvidia") for number in range(3)}
    (problem,) = gpu_errors(models(**WANTED), seen(2, log=log, bus=bus))
    assert (problem.code, log[0].rstrip(".") in problem.what) == ("module-refuses-gpu", True)
    assert codes(seen(3, log=log, bus=bus)) == [], "all GPUs answer: the log is of an earlier module"


STOPPED, ACTIVE = Unit("loaded", "inactive", "disabled"), Unit("loaded", "active", "enabled")


@pytest.mark.parametrize(
    ("unit", "manager", "state", "words"),
    [
        (None, "", "", "is not installed"),
        (STOPPED, "580.159.04-1", "", "is inactive"),
        (STOPPED, "580.159.04-1", "In Progress", "is inactive"),
        (Unit("masked", "inactive", "masked"), "580.159.04-1", "", "systemctl unmask nvidia-fabricmanager && "),
        (Unit("loaded", "activating", "enabled"), "580.159.04-1", "", "is starting"),
        (Unit("loaded", "failed", "enabled"), "580.159.04-1", "", "has failed"),
        (ACTIVE, "580.95.05-1", "", "must be equal"),
        (ACTIVE, "580.159.04-1", "In Progress", "is in progress"),
        (ACTIVE, "580.159.04-1", "Completed", ""),
        (STOPPED, "580.159.04-1", "Completed", ""),
        (ACTIVE, "580.159.04-1", "", ""),
    ],
)
def test_fabric_keeps_what_would_start_and_only_warns_what_serves(
    unit: Unit | None, manager: str, state: str, words: str
) -> None:
    host = models(alpha={"gpus": [0]}, beta={"gpus": [1]}, cpu={"gpus": []})
    facts = seen()
    facts = switched(
        replace(facts, containers=(running(host, "alpha", facts, (facts.gpus[0].uuid,)),)), unit, manager, state
    )
    errors = models_plan(host, facts).errors
    assert sorted(errors) == (["beta"] if words else [])
    warned = [problem for problem in gpu_warnings(host, facts) if problem.code == "fabric-not-ready"]
    assert [words in problem.what for problem in warned] == ([True] if words else [])
    status = host_status("gpu1", host, facts, NOW)
    assert (status.state == "DEGRADED") is bool(words)


def test_of_several_fabric_managers_the_drivers_counts() -> None:
    """Ubuntu's packages of an earlier branch may be left."""
    facts = switched(seen(), ACTIVE)
    left = {f"nvidia-fabricmanager-{branch}": package(f"{branch}.159.04-1") for branch in ("570", "580")}
    assert codes(replace(facts, packages=left)) == []
    assert codes(replace(facts, packages={**left, "nvidia-fabricmanager-580": package("580.1-1")})) == [
        "fabric-not-ready"
    ]


def test_a_machine_without_switches_needs_no_fabric_manager() -> None:
    facts = seen()
    facts = replace(facts, gpus=tuple(replace(gpu, details=Details(fabric_state="In Progress")) for gpu in facts.gpus))
    assert codes(facts) == []


def test_a_gpu_in_mig_mode_says_nothing_of_the_fabric() -> None:
    """It uses no NVLink."""
    facts = switched(seen(), ACTIVE, "580.159.04-1", "Completed")
    card = replace(facts.gpus[0], mig=True, details=Details(fabric_state="Not Started"))
    assert codes(replace(facts, gpus=(card, replace(card, parent=card.uuid, mig=False), facts.gpus[1]))) == []


@pytest.mark.parametrize(
    ("details", "words", "degraded"),
    [
        ({"remap_failed": True}, "has to be replaced", True),
        ({"compute_mode": "Prohibited"}, "in compute mode Prohibited, so nothing can start on it", True),
        ({"compute_mode": "Default"}, "", False),
        ({"remap_pending": True}, "at the next reset", False),
        ({"ecc_errors": 2}, "2 uncorrected", False),
        ({"reset_required": True}, "asks for a reset", False),
        ({"throttle": 0x48}, "hardware slowdown, thermal slowdown", False),
        ({"throttle": 0x5}, "", False),
        ({"width": 8, "width_max": 16}, "8 of 16 PCIe lanes", False),
        ({"width": 1, "width_max": 16, "addressing": "ATS"}, "", False),  # GH200: its link to the CPU is another
        ({"width": 8, "width_max": 16, "addressing": "HMM"}, "8 of 16 PCIe lanes", False),
        ({"ecc_errors": 0, "width": 16, "width_max": 16, "remap_failed": False}, "", False),
    ],
)
def test_warns_of_gpus_that_are_unhealthy(details: dict[str, Any], words: str, degraded: bool) -> None:
    facts = seen(1)
    facts = replace(facts, gpus=(replace(facts.gpus[0], details=Details(**details)),))
    found = gpu_warnings(models(**WANTED), facts)
    assert [words in problem.what for problem in found] == ([True] if words else [])
    assert bool(gpu_errors(models(**WANTED), facts)) is degraded


@pytest.mark.parametrize(("mode", "others", "count"), [("Exclusive_Process", 0, 1), ("Exclusive_Process", 1, 0),
                                                       ("Default", 0, 0), ("", 0, 0)])  # fmt: skip
def test_models_cannot_share_a_gpu_in_exclusive_mode(mode: str, others: int, count: int) -> None:
    """others: the GPU of the second model."""
    facts = seen(2)
    facts = replace(facts, gpus=tuple(replace(gpu, details=Details(compute_mode=mode)) for gpu in facts.gpus))
    host = models(alpha={"gpus": [0], "vram": "40%"}, beta={"gpus": [others], "vram": "40%", "port": 8001})
    status = host_status("gpu1", host, facts, NOW)
    for problems in (gpu_warnings(host, facts), status.notes):
        said = [(one.code, one.hint) for one in problems if "only one of alpha, beta" in one.what]
        assert said == [("gpu-compute-mode", "Run `nvidia-smi -i 0 -c DEFAULT`.")] * count
    assert gpu_errors(host, facts) == []


def test_status_tells_the_settings_of_a_gpu() -> None:
    settings = {"power_limit": 400.0, "power_default": 700.0, "ecc": True, "persistence": False,
                "compute_mode": "Default", "addressing": "HMM"}  # fmt: skip
    facts = seen(1)
    facts = replace(facts, gpus=(replace(facts.gpus[0], details=Details(**settings)),))  # type: ignore[arg-type]
    status = host_status("gpu1", models(**WANTED), facts, NOW)
    told = as_data([status])["hosts"]["gpu1"]["gpus"][0]
    assert {name: told[name] for name in settings} == settings
    assert "limited to 400 of 700 W" in str(gpu_text(status.gpus[0]))
    usual = replace(status.gpus[0], power_limit=700.0)
    assert "limited" not in str(gpu_text(usual))


def test_says_which_gpu_has_no_driver_and_that_nouveau_is_loaded() -> None:
    facts = seen(bus={"0000:17:00.0": PciGpu("0x20b7")}, nouveau=True)
    (problem,) = gpu_errors(models(**WANTED), facts)
    assert "no driver, while nouveau is loaded: 0000:17:00.0 (10de:20b7)" in problem.what


def xids(*lines: str) -> tuple[Xid, ...]:
    """The Xids of GPU 0 of `seen`, as the kernel logs them."""
    return tuple(parse_xids([f"2026-11-20T02:11:09,1+00:00 NVRM: Xid (PCI:0000:17:00): {line}" for line in lines]))


RESET = "154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)"
REBOOT = "154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
DONE = "154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x0 (None)"


@pytest.mark.parametrize(
    ("lines", "errors", "words"),
    [
        (["48, pid=7, name=python3"], 1, "had an uncorrectable memory error (Xid 48, 2026-11-20 02:11). Stop"),
        (["48, pid=7"], None, "(Xid 48"),
        (["48, pid=7"], 0, ""),  # it was reset since
        (["95, pid=7"], 1, "an uncontained memory error (Xid 95"),
        (["48, pid=7", RESET], 1, "asks for the recovery action `Drain and Reset` (Xid 154"),
        ([RESET], 0, "`nvidia-smi -r -i 0`"),
        (["48, pid=7", RESET, DONE], 0, ""),
        (["48, pid=7", RESET, DONE], None, ""),
        ([DONE, "95, pid=7"], 1, "(Xid 95"),
        (["31, pid=7", "13, pid=7", "43, pid=7", "63, pid=7", "94, pid=7"], 0, ""),  # of a program, or contained
        (["119, pid=7"], 0, "had a time-out of its firmware (GSP) (Xid 119"),
        (["64, pid=7"], 0, "(Xid 64"),
        (["62, pid=7", "143, pid=7", "137, pid=7"], 0, "(Xid 143"),
        (["109, pid=7", "48, pid=7"], 0, "(Xid 109"),  # the memory errors began at 0 again
        (["119, pid=7", RESET], 0, "(Xid 154"),
        (["119, pid=7", RESET, DONE], 0, ""),
        ([REBOOT], 0, "(Xid 154, 2026-11-20 02:11). Reboot the host."),
    ],
)
def test_xids_after_which_a_gpu_has_to_be_reset_are_shown(lines: list[str], errors: int | None, words: str) -> None:
    facts = seen(1, xids=xids(*lines))
    details = Details(ecc_errors=errors, reset_required=(RESET in lines and DONE not in lines) or None)
    facts = replace(facts, gpus=(replace(facts.gpus[0], pci="00000000:17:00.0", details=details),))
    found = gpu_warnings(models(**WANTED), facts)
    assert [words in problem.what for problem in found] == ([True] if words else []), "each GPU is named once"
    status = host_status("gpu1", models(**WANTED), facts, NOW)
    assert (status.state == "DEGRADED") is bool(words)
    other = replace(facts, gpus=(replace(facts.gpus[0], pci="00000000:31:00.0", details=Details()),))
    assert codes(other) == []


NETIR = "149, NETIR_LINK_EVT {} XC0 i0 Link 08 (0x004505c6 0x00000000)"


@pytest.mark.parametrize(
    ("lines", "words", "degraded"),
    [
        ([NETIR.format("Fatal")], "had a fatal error of NVLink 5 (Xid 149, 2026-11-20 02:11). Check", False),
        ([NETIR.format("Nonfatal")], "", False),
        ([NETIR.format("Fatal"), RESET], "asks for the recovery action `Drain and Reset`", True),
        ([RESET, NETIR.format("Fatal")], "asks for the recovery action `Drain and Reset`", True),
        ([NETIR.format("Fatal"), RESET, DONE], "", False),
        ([NETIR.format("Fatal"), "48, pid=7"], "(Xid 48", True),
    ],
)
def test_a_fatal_error_of_nvlink_5_is_a_warning(lines: list[str], words: str, degraded: bool) -> None:
    """NVIDIA has a procedure for it. Whether the GPU needs a reset says the driver, by Xid 154."""
    facts = seen(1, xids=xids(*lines))
    facts = replace(facts, gpus=(replace(facts.gpus[0], pci="00000000:17:00.0"),))
    found = gpu_warnings(models(**WANTED), facts)
    assert [words in problem.what for problem in found] == ([True] if words else [])
    assert bool(gpu_errors(models(**WANTED), facts)) is degraded
    assert not models_plan(models(**WANTED), facts).errors


def test_a_gpu_that_shares_the_hosts_memory_may_use_few_pcie_lanes() -> None:
    one = replace(GB10, details=Details(width=4, width_max=16))
    assert codes(with_gpus(one, memory=122_570)) == []


@pytest.mark.parametrize("number", [62, 64, 74, 109, 119, 120, 136, 143, 156, 158])
def test_an_xid_is_only_a_warning_where_the_driver_requires_no_reset(number: int) -> None:
    for required, degraded in ((None, True), (True, True), (False, False)):
        facts = seen(1, xids=xids(f"{number}, pid=7"))
        details = Details(ecc_errors=0, reset_required=required)
        facts = replace(facts, gpus=(replace(facts.gpus[0], pci="00000000:17:00.0", details=details),))
        (problem,) = gpu_warnings(models(**WANTED), facts)
        assert f"(Xid {number}, 2026" in problem.what
        assert bool(gpu_errors(models(**WANTED), facts)) is degraded


@pytest.mark.parametrize(
    ("system", "driver", "packages", "name"),
    [
        ("ubuntu", "580.159.04", ["nvidia-fabricmanager-570"], "nvidia-fabricmanager-580"),
        ("ubuntu", "580.159.04", ["nvidia-utils-580-server"], "nvidia-fabricmanager-580"),
        ("ubuntu", "580.159.04", ["linux-modules-nvidia-580-server-open"], "nvidia-fabricmanager-580"),
        ("ubuntu", "580.159.04", ["nvidia-fabricmanager"], "nvidia-fabricmanager"),
        ("debian", "590.48.01", ["nvidia-fabricmanager", "nvidia-fabricmanager-dev"], "nvidia-fabricmanager"),
        ("debian", "590.48.01", [], "nvidia-fabricmanager"),
        ("ubuntu", "570.86.15", [], "nvidia-fabricmanager-570"),
        ("ubuntu", "570.86.15", ["nvidia-fabricmanager-550"], "nvidia-fabricmanager-570"),
        ("rhel", "580.159.04", ["nvidia-fabric-manager"], "nvidia-fabricmanager"),
        ("rocky", "570.86.15", ["nvidia-fabric-manager-devel"], "nvidia-fabric-manager"),
    ],
)
def test_names_the_package_of_the_fabric_manager(system: str, driver: str, packages: list[str], name: str) -> None:
    facts = seen(1, kernel=driver)
    facts = replace(facts, os=replace(facts.os, id=system), packages={one: package("550.1-1") for one in packages})
    assert manager_wanted(facts) == f"{name} {driver}"
    (found,) = [one for one in gpu_warnings(models(**WANTED), switched(facts)) if one.code == "fabric-not-ready"]
    assert f"Install {name} {driver}" in found.hint


def test_names_both_packages_of_the_fabric_manager_where_its_source_is_not_known() -> None:
    facts = seen(1, kernel="580.159.04")
    facts = replace(facts, os=replace(facts.os, id="ubuntu"), packages={})
    assert manager_wanted(facts) == "nvidia-fabricmanager 580.159.04 (in Ubuntu's archive: nvidia-fabricmanager-580)"


def test_a_run_shows_the_warnings() -> None:
    facts = seen(bus={"0000:17:00.0": PciGpu("0x20b7", "nouveau")})
    found = preview(models(**WANTED), facts, Run()).findings
    assert ("warning", "nouveau-has-gpus") in [(one.kind, problem.code) for one in found for problem in one.problems]


# --- GPUs that cannot be used, that share memory, or that are in MIG mode ---------------------------------------------


def with_gpus(*gpus: Gpu, memory: int | None = None) -> HostFacts:
    return replace(host_state(gpus=1, weights={"/w/a.gguf": 1}), gpus=gpus, memory=memory)


def card(index: int = 0, uuid: str = "GPU-a", **words: Any) -> Gpu:
    usual = {"memory_total": 24576, "compute": "8.0", "pci": "00000000:17:00.0", "name": "NVIDIA A30"}
    return Gpu(index=index, uuid=uuid, memory_used=None, driver="580.159.04", **{**usual, **words})


GB10 = card(name="NVIDIA GB10", memory_total=None, compute="12.1", unified=True)
MIG = card(mig=True)
FIRST = card(-1, "MIG-a1", name="NVIDIA A100 MIG 3g.20gb", memory_total=20480, parent="GPU-a", pci="")
SECOND = card(-1, "MIG-b2", name="NVIDIA A100 MIG 1g.5gb", memory_total=5120, parent="GPU-a", pci="")


def refused(host: Host, facts: HostFacts) -> dict[str, str]:
    return {name: problem.code for name, problem in assign(host, facts).errors.items()}


@pytest.mark.parametrize(
    ("shares", "codes"),
    [
        (["40GiB"], []),
        (["70%"], []),
        (["40GiB", "50%"], []),
        (["60GiB", "60GiB"], ["vram-exceeded"]),
        (["119GiB"], ["vram-exceeded"]),
        ([None], []),
    ],
)
def test_shared_memory_is_the_hosts_less_a_reserve(shares: list[str | None], codes: list[str]) -> None:
    entries = {f"m{number}": {"gpus": [0], "vram": share} for number, share in enumerate(shares)}
    facts = with_gpus(GB10, memory=122_570)
    assert sorted(refused(models(**entries), facts).values()) == codes
    (slot,) = assign(models(**entries), facts).slots
    assert slot.usable(1) == pytest.approx(122_570 / 1024 - SYSTEM_RESERVE)


def test_unknown_memory_divides_nothing_by_zero() -> None:
    facts = with_gpus(GB10)
    assert refused(models(ann={"gpus": [0], "vram": "70%"}), facts) == {}
    assert refused(models(ann={"gpus": [0], "vram": "40GiB"}), facts) == {"ann": "vram-needs-percentage"}
    two = models(ann={"gpus": [0], "vram": "70%"}, bob={"gpus": [0], "vram": "70%"})
    assert set(refused(two, facts).values()) == {"vram-exceeded"}


def test_percentage_of_shared_memory_is_handed_on() -> None:
    host = models(ann={"gpus": [0], "vram": "70%"})
    for memory in (None, 122_570):
        given = devices(host.models["ann"], ("GPU-a",), host, with_gpus(GB10, memory=memory))
        assert given.memory_fraction(host.models["ann"]) == 0.7


def test_broken_gpu_is_never_given_and_the_others_are() -> None:
    facts = with_gpus(card(), card(1, "GPU-b", fault="requires reset"))
    host = models(ann={"gpus": [0]}, bob={"gpus": [1]})
    assert refused(host, facts) == {"bob": "gpu-broken"}
    assert "Working GPUs: 0" in assign(host, facts).errors["bob"].what
    assert refused(models(ann={"gpus": "all"}), facts) == {"ann": "gpu-broken"}


def test_model_that_runs_on_a_gpu_that_broke_is_left_alone() -> None:
    host = models(alpha={"gpus": [0]})
    facts = with_gpus(card())
    facts = replace(facts, containers=(running(host, "alpha", facts, (facts.gpus[0].uuid,)),))
    broken = replace(facts, gpus=(card(fault="requires reset"),))
    assert refused(host, broken) == {}
    stopped = replace(broken, containers=tuple(replace(one, status="exited") for one in broken.containers))
    assert refused(host, stopped) == {"alpha": "gpu-broken"}


@pytest.mark.parametrize(
    ("gpus", "code"),
    [
        (["MIG-a1"], ""),
        ([0], "gpu-in-mig-mode"),
        (["GPU-a"], "gpu-in-mig-mode"),
        ("all", "mig-together"),
        (["MIG-c3"], "gpu-not-found"),
    ],
)
def test_only_one_mig_instance_is_given(gpus: Any, code: str) -> None:
    facts = with_gpus(MIG, FIRST, SECOND)
    host = models(ann={"gpus": gpus})
    assert refused(host, facts) == ({"ann": code} if code else {})
    if not code:
        assert assign(host, facts).uuids == {"ann": ("MIG-a1",)}
        words = devices(host.models["ann"], ("MIG-a1",), host, facts).words(False)
        assert "'nvidia.com/gpu=MIG-a1'" in str(words)


def test_status_shows_models_of_instances_at_their_gpu() -> None:
    host = spec({"hardware": {"A100 40GB": 2}, "models": {"ann": {"gpus": ["MIG-a1"], "port": 8000}}})
    facts = with_gpus(MIG, FIRST, SECOND)
    facts = replace(facts, containers=(running(host, "ann", facts, ("MIG-a1",)),))
    status = host_status("gpu1", host, facts, NOW)
    assert [(gpu.index, gpu.models) for gpu in status.gpus] == [(0, ("ann",))]
    assert [problem.code for problem in status.errors] == ["gpus-missing"]


def test_parallelism_over_mig_instances_is_refused_offline() -> None:
    with pytest.raises(InventoryError) as error:
        models(ann={"gpus": ["MIG-a1", "MIG-b2"]})
    assert [problem.code for problem in error.value.problems] == ["mig-together"]


def test_two_models_never_share_a_mig_instance() -> None:
    entries = {name: {"gpus": ["MIG-a1"], "vram": "2GiB"} for name in ("ann", "bob")}
    with pytest.raises(InventoryError) as error:
        models(**entries)
    assert [problem.code for problem in error.value.problems] == ["mig-shared"]


def test_instances_of_a_reserved_gpu_are_reserved() -> None:
    host = spec({"reserved_gpus": [0], "models": {"ann": {"gpus": ["MIG-a1"], "port": 8000}}})
    assert refused(host, with_gpus(MIG, FIRST)) == {"ann": "gpu-reserved"}


def test_damaged_inforom_keeps_no_model_from_all_gpus() -> None:
    facts = with_gpus(card(), card(1, "GPU-b"))
    driver = replace(facts.driver, exit_code=14, message="infoROM is corrupted", pci={"0": "GPU-a", "1": "GPU-b"})
    assert refused(models(ann={"gpus": "all"}), replace(facts, driver=driver)) == {}
    lost = replace(facts, driver=driver, gpus=facts.gpus[:1])
    assert refused(models(ann={"gpus": "all"}), lost) == {"ann": "nvidia-smi-failed"}


@pytest.mark.parametrize(
    ("code", "message", "found"),
    [(0, "", "gpus-not-shown"), (127, "not found", "gpus-not-shown"), (15, "GPU is lost. Reboot", "gpu-lost")],
    ids=["garbage", "missing", "lost"],
)
def test_reboot_is_advised_only_where_a_gpu_is_lost(code: int, message: str, found: str) -> None:
    """Models go on serving while nvidia-smi alone is broken."""
    wanted = models(alpha={"gpus": [0]})
    facts = host_state(gpus=1, driver={"exit_code": code, "message": message, "pci": {"0000:17:00.0": uuid(0)}})
    facts = replace(facts, gpus=(), containers=(running(wanted, "alpha", facts, (uuid(0),)),))
    (error,) = models_plan(wanted, facts).errors.values()
    assert (error.code, "Reboot" in error.what) == (found, found == "gpu-lost")


def test_a_gpu_that_is_listed_without_its_uuid_is_broken_and_not_lost() -> None:
    pci = {"0000:17:00.0": "GPU-a", "0000:65:00.0": "GPU-b", "0000:ca:00.0": "GPU-c"}
    listed = (card(0, "GPU-a"), card(1, "00000000:65:00.0", pci="00000000:65:00.0", fault="has no UUID"))
    facts = with_gpus(*listed)
    assert lost_gpus(replace(facts, driver=replace(facts.driver, pci=pci))) == {"0000:ca:00.0": (2, "GPU-c")}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("GPU-a", "GPU-a"), ("a9485f58-1111-2222-3333-444444444444", "a9485f58-1111-2222-3333-444444444444"),
        ("a9485f58-1111", "a9485f58-1111-2222-3333-444444444444"), ("MIG-GPU-a/1/0", "MIG-GPU-a/1/0"),
        ("00000000:65:00.0", "a9485f58-1111-2222-3333-444444444444"), ("0000000F:01:00.0", "GPU-a"),
        ("000f:01:00.0", "GPU-a"), ("000F:01:00.0", "GPU-a"), ("0000:01:00.0", ""), ("0000:65:00.1", ""),
    ],
)  # fmt: skip
def test_gpus_are_named_as_nvidia_smi_and_the_kernel_print_them(name: str, found: str) -> None:
    facts = with_gpus(
        card(0, "GPU-a", pci="0000000F:01:00.0"),
        card(1, "a9485f58-1111-2222-3333-444444444444", pci="00000000:65:00.0"),
        card(2, "GPU-b", mig=True, pci="00000000:CA:00.0"),
        card(-1, "MIG-GPU-a/1/0", parent="GPU-b", pci=""),
    )
    ledger = assign(models(ann={"gpus": [name]}), facts)
    assert ledger.uuids == ({"ann": (found,)} if found else {})


def test_a_second_list_of_gpus_is_refused() -> None:
    with pytest.raises(InventoryError) as error:
        models(ann={"gpus": [0], "env": {"CUDA_VISIBLE_DEVICES": "0"}})
    (problem,) = error.value.problems
    assert (problem.code, problem.path) == ("hides-gpus", "models.ann.env.CUDA_VISIBLE_DEVICES")
    assert "`gpus`" in problem.hint


@pytest.mark.parametrize("environment", [{"CUDA_VISIBLE_DEVICES": 1}, ["A=b", "CUDA_VISIBLE_DEVICES=1"]])
def test_refuses_what_hides_gpus_in_compose(environment: Any) -> None:
    with pytest.raises(InventoryError) as error:
        models(ann={"gpus": [0], "compose": {"environment": environment}})
    (problem,) = error.value.problems
    assert (problem.code, problem.path) == ("hides-gpus", "models.ann.compose.environment")
    assert models(ann={"gpus": [0], "compose": {"environment": ["A=CUDA_VISIBLE_DEVICES"]}})


HIDING = ["NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"]


@pytest.mark.parametrize("name", HIDING)
def test_every_variable_that_gives_or_hides_gpus_is_refused(name: str) -> None:
    """NVIDIA's runtime would give the container other GPUs than planned; AMD's libraries would hide them."""
    places = {
        f"models.ann.env.{name}": {"env": {name: "1"}},
        "models.ann.compose.environment": {"compose": {"environment": [f"{name}=1"]}},
    }
    for path, fields in places.items():
        with pytest.raises(InventoryError) as error:
            models(ann={"gpus": [0], **fields})
        (problem,) = error.value.problems
        assert (problem.code, problem.path, name in problem.what) == ("hides-gpus", path, True)


@pytest.mark.parametrize("layer", ["defaults", "engines"])
@pytest.mark.parametrize("name", HIDING)
def test_defaults_hide_no_gpus(layer: str, name: str) -> None:
    common = {"env": {name: "0"}}
    ann = {"engine": "llama.cpp", "version": "b9000", "weights": "/w/a.gguf", "port": 8000, "gpus": [0]}
    with pytest.raises(InventoryError) as error:
        spec({"models": {"ann": ann}, layer: common if layer == "defaults" else {"llama.cpp": common}})
    assert {problem.code for problem in error.value.problems} == {"hides-gpus"}


def test_an_entry_without_gpus_may_ask_the_runtime_for_none() -> None:
    assert models(ann={"gpus": [], "env": {"NVIDIA_VISIBLE_DEVICES": "void"}})


def test_hardware_takes_a_size() -> None:
    entries = {name: {"gpus": [1], "vram": "20GiB", "port": port} for name, port in (("ann", 8000), ("bob", 8001))}
    with pytest.raises(InventoryError) as error:
        spec({"hardware": {"My Card": {"count": 2, "memory": "24GiB"}}, "models": entries})
    assert [problem.code for problem in error.value.problems] == ["vram-exceeded"]
    spec({"hardware": {"My Card": {"count": 2, "memory": "48GiB"}}, "models": entries})


def test_gpus_that_share_no_context_are_not_given_together() -> None:
    """A DGX Station. What runs on them keeps them."""
    facts = with_gpus(
        card(name="NVIDIA GB300", compute="10.3"),
        card(1, "GPU-b", name="NVIDIA RTX PRO 6000 Blackwell Max-Q", compute="12.0", pci="00000000:65:00.0"),
    )
    assert refused(models(alpha={"gpus": "all"}), facts) == {"alpha": "gpus-apart"}
    assert refused(models(alpha={"gpus": [0]}, beta={"gpus": [1]}), facts) == {}
    wanted = models(alpha={"gpus": "all"})
    serves = replace(facts, containers=(running(wanted, "alpha", facts, ("GPU-a", "GPU-b")),))
    assert refused(wanted, serves) == {}


@pytest.mark.parametrize("cards", [{"count": 2}, {"count": 0, "memory": "24GiB"}, {"count": 1, "memory": "24 GB"}, "2"])
def test_refuses_hardware_without_number_or_size(cards: Any) -> None:
    with pytest.raises(InventoryError) as error:
        spec({"hardware": {"My Card": cards}})
    assert len(error.value.problems) == 1


TEI = {"engine": "tei", "version": "1.9", "weights": "/w/bge"}


@pytest.mark.parametrize(
    ("host", "arch", "code"),
    [
        ({**TEI, "gpus": [0]}, "arm64", "no-image-for-arm64"),
        ({**TEI, "gpus": [0]}, "aarch64", "no-image-for-arm64"),
        ({**TEI, "gpus": []}, "arm64", ""),
        ({**TEI, "gpus": [], "version": "1.9.3"}, "arm64", "no-image-for-arm64"),
        ({**TEI, "gpus": [], "version": "1.8"}, "arm64", "no-image-for-arm64"),
        ({**TEI, "gpus": [0]}, "amd64", ""),
        ({**TEI, "gpus": [], "version": "1.8"}, "amd64", ""),
        ({**TEI, "gpus": [0], "version": None, "image": "own/tei:cpu-arm64-1.9"}, "arm64", ""),
        ({"gpus": [0]}, "arm64", ""),
        ({"gpus": []}, "arm64", ""),
    ],
)
def test_an_image_for_amd64_is_not_started_on_arm64(host: dict[str, Any], arch: str, code: str) -> None:
    wanted, gpus = models(alpha=host), host["gpus"]
    facts = replace(host_state(gpus=1, weights={"/w/a.gguf": 1, "/w/bge": 1}), arch=arch)
    errors = models_plan(wanted, facts).errors
    assert [problem.code for problem in errors.values()] == ([code] if code else [])
    serves = replace(facts, containers=(running(wanted, "alpha", facts, (facts.gpus[0].uuid,) if gpus else ()),))
    assert not models_plan(wanted, serves).errors


@pytest.mark.parametrize(
    ("gpus", "compute", "arch", "tag"),
    [
        ([0], "12.1", "arm64", "121-1.9"),
        ([], "12.1", "arm64", "cpu-arm64-1.9"),
        ([], "12.1", "amd64", "cpu-1.9"),
        ([0], "8.0", "amd64", "1.9"),
    ],
)
def test_image_follows_architecture_and_compute_capability(gpus: list[int], compute: str, arch: str, tag: str) -> None:
    wanted = models(alpha={**TEI, "gpus": gpus})
    facts = replace(with_gpus(card(0, uuid(0), compute=compute)), arch=arch)
    image = desire("alpha", wanted, facts, (uuid(0),) if gpus else ()).service["image"]
    assert image == f"ghcr.io/huggingface/text-embeddings-inference:{tag}"
    assert image in references(wanted.models["alpha"]), "the snapshot asks whether the host has it"


def test_machines_that_exist_for_arm64_only_are_known_offline() -> None:
    assert imagined(spec({"hardware": {"GB300": 1, "RTX PRO 6000": 1}})).arch == "arm64"
    assert {imagined(spec({"hardware": hardware})).arch for hardware in ({"H100": 8}, {}, {"My GPU": 1})} == {""}
