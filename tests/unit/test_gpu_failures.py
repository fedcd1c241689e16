"""Each failure of a GPU host as one row: what the host or a program says, what gpurack says, and what keeps serving.

Three tables, in the order of a run: what the snapshot shows before anything is changed (ON_HOST), what the probe of a
new image prints while the old model serves (IN_PROBE), and what a new model logs when it ends while it loads (IN_LOG).
The machines that differ, such as GB10 and MIG, have their rows in test_simulated_gpus.py.
"""

from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from gpurack.commands import diff
from gpurack.commands.lab_status import host_status
from gpurack.cuda_faults import REFUSED
from gpurack.facts.gpus import CdiSpec, Details, GpuProcess, Module, PciGpu
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Unit
from gpurack.plan.host import Preview, plan_serving
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.run import Run
from tests.given import SALT, host_state, models, package, running, uuid
from tests.unit.test_error_hints_script import CODES, FORMS
from tests.unit.test_replacing_script import (  # noqa: F401
    SCENARIOS,
    folder,
    fresh,
    kept_logs,
    loading,
    messages,
    quick,
)
from tests.unit.test_status import NOW

pytestmark = pytest.mark.sampled

# --- what the snapshot shows ------------------------------------------------------------------------------------------

KERNEL = "580.159.04"
MANAGER, MANAGER_UNIT = "nvidia-fabricmanager", "nvidia-fabricmanager.service"
ACTIVE, STOPPED, FAILED = (Unit("loaded", state, "enabled") for state in ("active", "inactive", "failed"))
HGX = {"switches": 4}
"""NVSwitches on the PCI bus: HGX and DGX with A100, H100 and H200."""
B200 = {"nvlink5": True}
NODES = {
    "/dev/nvidia0": (195, 0), "/dev/nvidia1": (195, 1), "/dev/nvidiactl": (195, 255), "/dev/nvidia-uvm": (509, 0),
    "/dev/nvidia-uvm-tools": (509, 1),
}  # fmt: skip
MAJORS = {"nvidia": 195, "nvidia-uvm": 509, "nvidia-caps": 237}
SPEC = CdiSpec(NODES, (), "nvidia.com/gpu", frozenset(map(uuid, range(3))))
REFRESHED, OTHER, LASTING = "/var/run/cdi/nvidia.yaml", "/var/run/cdi/other.json", "/etc/cdi/nvidia.yaml"


@dataclass(frozen=True)
class Seen:
    """What a snapshot shows of a host with three GPUs.

    driver: fields of Driver. unit, manager: the fabric manager's unit, and the version of its package. fabric: the
    state of GPU 0 and of the others, as nvidia-smi prints it; status: of all. compute: of GPU 2. toolkit: its version.
    """

    driver: dict[str, Any] = field(default_factory=dict)
    unit: Unit | None = None
    manager: str = ""
    fabric: tuple[str, str] = ("", "")
    status: str = ""
    compute: str = "8.0"
    toolkit: str = "1.20.1"

    def facts(self) -> HostFacts:
        facts = host_state(gpus=3, weights={"/w/a.gguf": 1}, probes={"alpha": [200, '"alpha"']})
        first, second, third = (
            replace(gpu, details=Details(fabric_state=state, fabric_status=self.status))
            for gpu, state in zip(facts.gpus, (*self.fabric, self.fabric[1]), strict=True)
        )
        driver = replace(facts.driver, **{"kernel": KERNEL, "nodes": NODES, "majors": MAJORS, **self.driver})
        packages = {"nvidia-container-toolkit-base": package(f"{self.toolkit}-1")}
        packages |= {MANAGER: package(self.manager)} if self.manager else {}
        units = {**facts.units, **({MANAGER_UNIT: self.unit} if self.unit else {})}
        gpus = (first, second, replace(third, compute=self.compute))
        return replace(facts, gpus=gpus, driver=driver, packages=packages, units=units)


def specs(**found: CdiSpec) -> dict[str, Any]:
    """Fields of Driver for CDI specs: refreshed, other (both in /var/run/cdi) and lasting (/etc/cdi)."""
    paths = {"refreshed": REFRESHED, "other": OTHER, "lasting": LASTING}
    return {"specs": {paths[name]: spec for name, spec in found.items()}}


def module(version: str = KERNEL, **words: Any) -> dict[str, Any]:
    """Fields of Driver for a host whose newest kernel has this module."""
    return {"modules": {"6.8.0-9": Module("nvidia", version, **words)}, "running": "6.8.0-9", "library": KERNEL}


REFUSED_NOW, WARNED, NOTHING = "refused", "warned", "nothing"
"""What a row expects: refused: a new model does not start, and a change of the one that serves is not begun. warned:
models start. In both cases what serves stays, the code is said, and `gpurack status` exits with 1 if the row is
DEGRADED."""
OLD_UVM = replace(SPEC, nodes={**NODES, "/dev/nvidia-uvm": (510, 0)})
WITHOUT_UVM = replace(SPEC, nodes={path: NODES[path] for path in ("/dev/nvidia0", "/dev/nvidiactl")})
OLD_CAPS = replace(SPEC, nodes={**NODES, "/dev/nvidia-caps/nvidia-cap1": (240, 1)})
OLD_LIBRARY = replace(SPEC, gone=("/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05",))


def fourth(driver: str, log: str = "") -> dict[str, Any]:
    """Fields of Driver for a host with one more GPU on the bus than nvidia-smi lists. log: the driver's sentence."""
    bus = {f"0000:{slot}:00.0": PciGpu("0x20b7", "nvidia") for slot in (17, 31, 65)}
    return {"bus": {**bus, "0000:ca:00.0": PciGpu("0x2c58", driver)}, "log": (log,) if log else ()}


ON_HOST: dict[str, tuple[Seen, str, str, str, bool]] = {
    # what the host shows → (facts, what happens, code, part of the sentence or hint, DEGRADED)
    # NVSwitch: the fabric
    "fabric manager not installed": (
        Seen(HGX), REFUSED_NOW, "fabric-not-ready", f"Install nvidia-fabricmanager {KERNEL}", True),
    "fabric manager stopped": (
        Seen(HGX, STOPPED, KERNEL), REFUSED_NOW, "fabric-not-ready", "is inactive", True),
    "fabric manager failed": (
        Seen(HGX, FAILED, KERNEL), REFUSED_NOW, "fabric-not-ready", "journalctl -u nvidia-fabricmanager", True),
    "fabric manager of another version": (
        Seen(HGX, FAILED, "580.95.05"), REFUSED_NOW, "fabric-not-ready", "they must be equal", True),
    "fabric Not Started": (
        Seen(HGX, ACTIVE, KERNEL, ("Not Started",) * 2), REFUSED_NOW, "fabric-not-ready", "is not started", True),
    "fabric In Progress": (
        Seen(HGX, ACTIVE, KERNEL, ("In Progress",) * 2), REFUSED_NOW, "fabric-not-ready", "is in progress", True),
    "fabric In Progress on one GPU": (
        Seen(HGX, ACTIVE, KERNEL, ("Completed", "In Progress")), REFUSED_NOW, "fabric-not-ready", "in progress", True),
    "fabric Completed with an error": (
        Seen(HGX, ACTIVE, KERNEL, ("Completed",) * 2, "Insufficient Resources"),
        REFUSED_NOW, "fabric-not-ready", "failed: Insufficient Resources", True),
    "fabric manager not installed, NVLink 5": (
        Seen(B200), REFUSED_NOW, "fabric-not-ready", "with nvlsm and infiniband-diags", True),
    "fabric In Progress, NVLink 5": (
        Seen(B200, ACTIVE, KERNEL, ("In Progress",) * 2), WARNED, "fabric-not-ready", "is in progress", True),
    "fabric manager stopped, NVLink 5": (
        Seen(B200, STOPPED, KERNEL), REFUSED_NOW, "fabric-not-ready", "is inactive", True),
    "fabric Completed": (Seen(HGX, ACTIVE, KERNEL, ("Completed",) * 2, "Success"), NOTHING, "", "", False),
    "fabric unknown to an older driver": (Seen(HGX, ACTIVE, KERNEL), NOTHING, "", "", False),
    "GB200: no switches of its own": (Seen(fabric=("In Progress",) * 2), NOTHING, "", "", False),
    "VM with one GPU of an HGX": (Seen(fabric=("In Progress", "")), NOTHING, "", "", False),
    # CDI: a spec that cannot be replaced refuses; one that can is replaced before the models' turn
    "nvidia-uvm has another major": (
        Seen(specs(other=OLD_UVM)), REFUSED_NOW, "cdi-spec-stale", "the major number 509, and the spec 510", False),
    "spec made before nvidia-uvm existed": (
        Seen(specs(other=WITHOUT_UVM)), REFUSED_NOW, "cdi-spec-stale", "it lacks /dev/nvidia-uvm", False),
    "nvidia-caps has another major": (
        Seen(specs(other=OLD_CAPS)), REFUSED_NOW, "cdi-spec-stale", "/dev/nvidia-caps/nvidia-cap1", False),
    "spec names a library of the driver before": (
        Seen(specs(other=OLD_LIBRARY)), REFUSED_NOW, "cdi-spec-stale", "libcuda.so.580.95.05 does not exist", False),
    "two specs of one folder name the GPU": (
        Seen(specs(refreshed=SPEC, other=SPEC)), REFUSED_NOW, "cdi-specs-conflict", OTHER, False),
    "old spec in /etc/cdi behind the right one": (
        Seen(specs(refreshed=SPEC, lasting=OLD_UVM)), WARNED, "cdi-spec-stale", f"rm {LASTING}", False),
    "old spec in /var/run/cdi": (Seen(specs(refreshed=OLD_UVM)), NOTHING, "", "", False),
    "old spec in /etc/cdi": (Seen(specs(lasting=OLD_UVM)), NOTHING, "", "", False),
    "management spec names no GPU": (
        Seen(specs(refreshed=SPEC, other=replace(OLD_UVM, kind="management.nvidia.com/gpu"))), NOTHING, "", "", False),
    # known defects
    **{f"toolkit {version}": (Seen(toolkit=version), WARNED, "known-defect", "Use 1.20.1 or newer", False)
       for version in ("1.18.0", "1.18.1", "1.18.2", "1.19.0", "1.19.1", "1.20.0")},
    "toolkit 1.20.1": (Seen(), NOTHING, "", "", False),
    # the driver now, and after the next boot
    "library newer than the module": (
        Seen({"exit_code": 18, "message": "Failed to initialize NVML: Driver/library version mismatch"}),
        REFUSED_NOW, "driver-mismatch", "Reboot the host", True),
    "newest kernel has no module": (
        Seen({"modules": {"6.8.0-9": Module("nvidia", KERNEL), "6.8.0-45": None}, "running": "6.8.0-9"}),
        WARNED, "kernel-without-module", "dkms autoinstall -k 6.8.0-45", True),
    "newest kernel has another module": (
        Seen(module("580.95.05")), WARNED, "kernel-with-other-module", "the libraries are 580.159.04", True),
    "Secure Boot, module not signed": (
        Seen({**module(), "secure_boot": True}), WARNED, "module-not-signed", "mokutil --import", True),
    "Secure Boot, module signed": (Seen({**module(signer="A key"), "secure_boot": True}), NOTHING, "", "", False),
    "open module for Pascal": (
        Seen(module(open=True), compute="6.1"), WARNED, "kernel-with-wrong-module", "older than Turing", True),
    "proprietary module for Blackwell": (
        Seen(module(open=False), compute="12.0"), WARNED, "kernel-with-wrong-module", "Blackwell", True),
    "proprietary module refuses a Blackwell": (
        Seen(fourth("nvidia", "installed in this system requires use of the NVIDIA open kernel modules.")),
        WARNED, "module-refuses-gpu", "nvidia-open", True),
    "open module refuses a GPU without GSP": (
        Seen(fourth("nvidia", "installed in this system is not supported by open")),
        WARNED, "module-refuses-gpu", "branch 580", True),
    "branch does not support a GPU": (
        Seen(fourth("nvidia", "installed in this system is not supported by the")),
        WARNED, "module-refuses-gpu", "a branch that supports it", True),
    "branch no longer supports a GPU": (
        Seen(fourth("nvidia", "ignoring the legacy GPU 0000:ca:00.0")),
        WARNED, "module-refuses-gpu", "an older branch", True),
    "nouveau has a GPU": (
        Seen(fourth("nouveau")),
        WARNED, "nouveau-has-gpus", "blacklist nouveau", True),
    "no driver has a GPU": (
        Seen(fourth("")), WARNED, "gpus-without-driver", "ca:00.0", True),
    "a VM has a GPU": (
        Seen(fourth("vfio-pci")), NOTHING, "", "", False),
}  # fmt: skip


SAID = {row[2] for row in ON_HOST.values()}


@pytest.mark.parametrize("row", ON_HOST)
def test_what_the_host_shows(row: str) -> None:
    seen, effect, code, words, degraded = ON_HOST[row]
    facts = seen.facts()
    serving, changed = models(alpha={"gpus": [0]}), models(alpha={"gpus": [0], "context": 512}, beta={"gpus": [1]})
    mine = running(serving, "alpha", facts, (uuid(0),))
    process = GpuProcess(uuid(0), 7, "llama-server", 900, "root", mine.id)
    facts = replace(facts, containers=(mine,), gpu_processes=(process,))

    same, plan = (plan_serving(host, facts, Run(salt=SALT)) for host in (serving, changed))
    assert touched(same) == set(), "what serves is left alone"
    assert touched(plan) == (set() if effect == REFUSED_NOW else {"alpha", "beta"})
    told = {problem.code: problem.what for one in plan.findings for problem in one.problems}
    assert told.keys() & SAID == ({code} if code else set())
    assert words in told.get(code, "")
    assert diff.exit_code({"gpu1": diff.HostPlan(Preview(tuple(plan.findings)))}, False) == (effect == REFUSED_NOW)
    status = host_status("gpu1", serving, facts, NOW)
    assert (status.state, status.is_well) == (("DEGRADED", False) if degraded else ("ok", True))


def touched(plan: ModelsPlan) -> set[str]:
    """The models whose containers a run would touch."""
    return {entry["name"] for batch in (plan.job or {"batches": ()})["batches"] for entry in batch}


# --- what the probe of a new image prints -----------------------------------------------------------------------------

REFUSES, CONTINUES = 1, 0
"""The exit code of the runner: how many changes failed."""
NO_CUDA = "ggml_cuda_init: failed to initialize CUDA: "
UNRESOLVABLE = "failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=GPU-1"
TOO_OLD = (
    "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.4, please update your driver to a newer "
    "version, or use an earlier cuda container"
)
NEVER = sorted(CODES.keys() - REFUSED.keys())
"""Codes that may pass, or that the engine may not meet: the change continues, and the engine itself decides."""

IN_PROBE: dict[str, tuple[str, str, int, str]] = {
    # what is printed → (the probe's output, the daemon's refusal, exit code, part of the hint)
    **{f"cuInit {code}": (f"gpurack-cuda {code} 0", "", REFUSES, CODES[code][2]) for code in REFUSED},
    **{f"ggml {code}": (f"{NO_CUDA}{CODES[code][1]}\nAvailable devices:\n  (none)", "", REFUSES, CODES[code][2])
       for code in REFUSED},
    **{f"cuInit {code}": (f"gpurack-cuda {code} 0", "", CONTINUES, "") for code in NEVER},
    **{f"ggml {code}": (f"{NO_CUDA}{CODES[code][1]}", "", CONTINUES, "") for code in NEVER},
    "fewer GPUs than given": ("gpurack-cuda 0 0", "", REFUSES, "nvidia-smi -L"),
    "all GPUs": ("gpurack-cuda 0 1", "", CONTINUES, ""),
    "no libcuda": ("OSError: libcuda.so.1: cannot open shared object file", "", CONTINUES, ""),
    "no Python": ('exec: "sh": executable file not found in $PATH', "", CONTINUES, ""),
    "list of GB10": ("Available devices:\n  CUDA0: NVIDIA GB10 (122564 MiB, 110000 MiB free)", "", CONTINUES, ""),
    "CDI device unresolvable": ("", UNRESOLVABLE, REFUSES, UNRESOLVABLE.partition("devices: ")[2]),
    "image needs a newer driver": ("", TOO_OLD, REFUSES, "please update your driver"),
    "no device driver": (
        "", 'could not select device driver "" with capabilities: [[gpu]]', REFUSES, "could not select device driver"),
}  # fmt: skip


@pytest.mark.parametrize("row", IN_PROBE)
def test_what_the_probe_prints(folder: Path, row: str) -> None:  # noqa: F811
    printed, refusal, code, words = IN_PROBE[row]
    host = fresh(folder, SCENARIOS["one"])
    host.docker.cuda, host.docker.refuses = printed, refusal
    assert (host.apply().failures, host.served()) == (code, "old" if code else "new")
    stopped = [step for step in host.docker.steps if step.startswith(("start", "stop"))]
    assert bool(stopped) == (not code), "the old one is not even stopped"
    if code:
        assert words in host.out[-1]
        assert host.out[-1].endswith("The present `alpha` was not stopped.")


# --- what a new model logs --------------------------------------------------------------------------------------------

IN_LOG: dict[str, tuple[str, str]] = {
    # what the engine prints before it ends → (its log, part of the hint). Each code in the words of one engine;
    # test_error_hints_script.py has those of all
    **{f"{code} {engine}": (form.format(code=code, name=name, words=words), hint)
       for (code, (name, words, hint)), (engine, form) in zip(CODES.items(), cycle(FORMS))},
    "PyTorch, 999": ("RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. "
                     "changing env variable CUDA_VISIBLE_DEVICES after program start.", "/dev/nvidia-uvm is missing"),
    "PyTorch, too old": ("RuntimeError: The NVIDIA driver on your system is too old (found version 12080). Please "
                         "update your GPU driver", "driver is too old"),
    "PyTorch, none": ("RuntimeError: No CUDA GPUs are available", "got no GPU that it can open"),
    "vLLM, no device type": ("RuntimeError: Failed to infer device type", "cannot use the driver"),
    "ollama, too old": ('level=WARN msg="NVIDIA driver too old" required_driver="550 or newer"', "driver is too old"),
    "NVML, lost": ("Failed to initialize NVML: Unknown Error", "Restart it"),
    "NVML, mismatch": ("Failed to initialize NVML: Driver/library version mismatch", "Reboot the host"),
    "CDI": (UNRESOLVABLE, "nvidia-ctk cdi list"),
}  # fmt: skip


@pytest.mark.parametrize("row", IN_LOG)
def test_what_a_new_model_logs(folder: Path, row: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    said, words = IN_LOG[row]

    def exits(daemon: Any, name: str, container: str, url: str, served: str, timeout: int, *more: Any) -> float:
        """As loading.ended says it, for the new one."""
        if container == host.containers["alpha"].id:
            return 75.0
        raise messages.Failure(f"exited while loading (exit code 1).{loading.error_hint(1, said, more[1], more[0])}")

    monkeypatch.setattr(loading, "wait_until_ready", exits)
    host = fresh(folder, SCENARIOS["one"])
    assert (host.apply().failures, host.served()) == (REFUSES, "old")
    assert words in "\n".join(host.out), host.out


@pytest.mark.parametrize("code", REFUSED)
def test_a_new_model_that_logs_a_failure_and_serves_on_the_cpu(
    folder: Path,  # noqa: F811
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """llama.cpp and ollama do, where no probe was possible."""
    monkeypatch.setattr(kept_logs, "tail", lambda dockerd, container, lines=0: f"{NO_CUDA}{CODES[code][1]}\nlistening")
    host = fresh(folder, SCENARIOS["one"])
    assert (host.apply().failures, host.served()) == (REFUSES, "old")
    assert f"it computes on the CPU, not on its GPUs (CUDA error {code}: " in host.out[-1]
    assert CODES[code][2] in host.out[-1]
