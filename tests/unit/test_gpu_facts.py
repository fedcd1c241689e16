"""NVIDIA's GPUs and driver in the snapshot: what real machines print, as the first of the project's users saw it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.facts.gpus import CdiSpec, Details, Driver, Gpu, Module, PciGpu
from gpurack.facts.lines import Section
from gpurack.facts.model import GpuProcess
from gpurack.facts.nvidia import JETSON, driver, gpu_processes, gpus, xids
from gpurack.facts.parse import parse
from tests.given import framed, said

UUID = "GPU-11111111-2222-3333-4444-555555555555"
# One NVIDIA H200, driver 580.159.04, by --format=csv,noheader,nounits (a real machine's, 2026-11-20).
H200 = (
    "0, GPU-45c1f5da-e0c4-77a2-ebe0-fcc3f73be564, NVIDIA H200, 143771, 0, 580.159.04, 9.0, Disabled, "
    "00000000:00:06.0, 0"
)
GB10 = f"0, {UUID}, NVIDIA GB10, [N/A], [N/A], 580.126.09, 12.1, [N/A], 0000000F:01:00.0, 0"
ORIN = "0, a9485f58-1111-2222-3333-444444444444, Orin (nvgpu), [N/A], [N/A], 540.4.0, 8.7, [N/A], N/A, [N/A]"
P100 = f"[Unknown Error], {UUID}, Tesla P100, [Unknown Error], 0, 580.95.05, 6.0, [N/A], 00000000:0B:00.0, 0"
RESET = "[GPU requires reset]"
A40 = f"0, {UUID}, NVIDIA A40, {RESET}, {RESET}, 595.84, 8.6, [N/A], 00000000:17:00.0, {RESET}"
KERNEL = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Nov 18 06:12:00 UTC 2026"
OPEN_KERNEL = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder)"
LOST = (
    "exit 15|Unable to determine the device handle for GPU0000:E1:00.0: GPU is lost. "
    "Reboot the system to recover this GPU"
)
MISMATCH = "exit 18|Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.95"


def row(index: int | str = 0, uuid: str = "GPU-a", memory: str = "24576", **more: str) -> str:
    values = {"name": "NVIDIA A30", "mig": "Disabled", "pci": "00000000:17:00.0", **more}
    return f"{index}, {uuid}, {values['name']}, {memory}, 7, 580.95.05, 8.0, {values['mig']}, {values['pci']}, 4"


def seen(**sections: list[str]) -> Driver:
    return driver({name: Section(lines) for name, lines in sections.items()})


def test_parses_real_gpu() -> None:
    uuid = "GPU-45c1f5da-e0c4-77a2-ebe0-fcc3f73be564"
    assert gpus([H200]) == [Gpu(0, uuid, "NVIDIA H200", 143771, 0, "580.159.04", "9.0", "00000000:00:06.0", 0)]


def test_gpu_without_memory_of_its_own_shares_that_of_the_host() -> None:
    (found,) = gpus([GB10])
    assert (found.memory_total, found.memory_used, found.unified, found.fault) == (None, None, True, "")


def test_jetson_is_named_and_not_used() -> None:
    (found,) = gpus([ORIN])
    assert (found.uuid[:8], found.fault, found.unified) == ("a9485f58", JETSON, False)
    assert seen(gpus=[ORIN]).platform == "jetson"


def test_gpu_without_index_is_broken_and_costs_no_other() -> None:
    found = gpus([row(0), P100, row(2, "GPU-c")])
    assert [(gpu.index, gpu.uuid, bool(gpu.fault)) for gpu in found] == [
        (0, "GPU-a", False),
        (1, UUID, True),
        (2, "GPU-c", False),
    ]
    assert "[Unknown Error]" in found[1].fault
    assert (found[1].memory_total, found[1].unified) == (None, False)


def test_gpu_that_requires_a_reset_is_broken() -> None:
    (found,) = gpus([A40])
    assert (found.fault, found.memory_total, found.utilization) == ("requires reset", None, None)


@pytest.mark.parametrize(
    "text", ["[N/A]", "N/A", "[Not Supported]", "[Not Found]", "[Unknown Error]", "[Insufficient Permissions]", ""]
)
def test_memory_that_is_no_number_is_unknown(text: str) -> None:
    (found,) = gpus([row(memory=text)])
    assert found.memory_total is None


def test_orders_gpus_by_index() -> None:
    assert [gpu.index for gpu in gpus([row(1, "GPU-b"), row(0), "No devices were found"])] == [0, 1]


def test_row_that_names_no_gpu_is_ignored_and_counted() -> None:
    lines = Section([row(0), row(1, "[Unknown Error]", pci="[N/A]")])
    assert ([gpu.uuid for gpu in gpus(lines)], lines.wrong) == (["GPU-a"], 1)


def test_gpu_without_uuid_is_known_by_its_address() -> None:
    (found,) = gpus([row(0, "[Unknown Error]")])
    assert found.uuid == "00000000:17:00.0"


def test_name_may_contain_commas() -> None:
    (found,) = gpus([row(name="Graphics Device, rev a1, test")])
    assert (found.name, found.memory_total, found.pci) == ("Graphics Device, rev a1, test", 24576, "00000000:17:00.0")


def test_old_driver_answers_with_fewer_fields() -> None:
    lines = [
        "fields index,uuid,name,memory.total,memory.used,driver_version,mig.mode.current,pci.bus_id,utilization.gpu",
        "0, GPU-a, Tesla V100, 16160, 0, 470.256.02, [N/A], 00000000:17:00.0, 0",
    ]
    (found,) = gpus(lines)
    assert (found.compute, found.memory_total, found.pci) == ("", 16160, "00000000:17:00.0")


def test_parses_condition_of_gpu() -> None:
    names = (
        "index,uuid,name,memory.total,memory.used,driver_version,pci.bus_id,persistence_mode,compute_mode,"
        "pcie.link.width.current,pcie.link.width.max,power.limit,power.default_limit,ecc.mode.current,"
        "ecc.errors.uncorrected.volatile.total,clocks_event_reasons.active,reset_status.reset_required,fabric.state,"
        "fabric.status,addressing_mode,temperature.gpu"
    )
    values = (
        "0, GPU-a, NVIDIA H200, 143771, 0, 580.95.05, 00000000:17:00.0, Enabled, Default, 8, 16, 700.00, 700.00, "
        "Enabled, 2, 0x0000000000000004, No, In Progress, Success, None, 61"
    )
    (found,) = gpus([f"fields {names}", values], ["GPU-a, 1, 0, Yes, No"])
    assert found.temperature == 61
    assert found.details == Details(
        persistence=True, compute_mode="Default", width=8, width_max=16, power_limit=700.0, power_default=700.0,
        ecc=True, ecc_errors=2, reset_required=False, throttle=4, remap_pending=True, remap_failed=False,
        fabric_state="In Progress", fabric_status="Success",
    )  # fmt: skip


def test_condition_that_a_gpu_does_not_have_is_unknown() -> None:
    names = (
        "index,uuid,name,memory.total,memory.used,driver_version,pci.bus_id,power.limit,ecc.mode.current,fabric.state"
    )
    (found,) = gpus([f"fields {names}", "0, GPU-a, RTX, 24576, 0, 580.95.05, 00000000:17:00.0, [N/A], [N/A], [N/A]"])
    assert found.details == Details()


def test_lists_instances_after_their_gpu() -> None:
    listed = [
        "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-a)",
        "  MIG 3g.20gb     Device  0: (UUID: MIG-e07a497d-1bb6-5a42-b670-1c33bf55ab6e)",
        "  MIG 1g.5gb      Device  1: (UUID: MIG-77aa497d-1bb6-5a42-b670-1c33bf55ab6e)",
        "GPU 1: NVIDIA A30 (UUID: GPU-b)",
    ]
    found = gpus([row(0, name="NVIDIA A100-SXM4-40GB", mig="Enabled"), row(1, "GPU-b")], mig=listed)
    assert [(gpu.index, gpu.uuid[:8], gpu.memory_total, gpu.mig, gpu.parent) for gpu in found] == [
        (0, "GPU-a", 24576, True, ""),
        (-1, "MIG-e07a", 20480, False, "GPU-a"),
        (-1, "MIG-77aa", 5120, False, "GPU-a"),
        (1, "GPU-b", 24576, False, ""),
    ]


@pytest.mark.parametrize(
    ("version", "said", "expected"),
    [
        ([KERNEL], [H200], Driver("580.159.04", open=False)),
        ([OPEN_KERNEL, "GCC version: gcc 14.2.0"], [H200], Driver("580.95.05", open=True)),
        ([KERNEL], [LOST], Driver("580.159.04", 15, LOST.partition("|")[2], open=False)),
        ([KERNEL], [MISMATCH, H200], Driver("580.159.04", 18, MISMATCH.partition("|")[2], open=False)),
        ([], ["exit 9|NVIDIA-SMI has failed"], Driver("", 9, "NVIDIA-SMI has failed")),
        ([], [], Driver("")),
    ],
    ids=["closed", "open", "lost", "mismatch", "no driver", "nothing"],
)
def test_parses_driver_and_its_errors(version: list[str], said: list[str], expected: Driver) -> None:
    assert seen(driver=version, gpus=said) == expected


def test_rows_beside_an_error_are_kept() -> None:
    lines = ["exit 14|WARNING: infoROM is corrupted at gpu 0000:17:00.0", row(0)]
    assert (seen(gpus=lines).exit_code, [gpu.uuid for gpu in gpus(lines)]) == (14, ["GPU-a"])


def test_parses_gpus_of_kernel() -> None:
    line = "/proc/driver/nvidia/gpus/0000:e1:00.0/information|GPU-6f1c|NVIDIA A30"
    assert seen(driver=[KERNEL], pci=[line]).pci == {"0000:e1:00.0": "GPU-6f1c"}


def test_parses_what_is_installed_for_the_driver() -> None:
    host = [
        "card 0000:17:00.0 0x20b7 nvidia", "card 0000:65:00.0 0x2c58 nouveau", "card 0000:ca:00.0 0x20b7 ",
        "switch 0000:05:00.0 0x22a3", "nouveau yes", "kernel 6.8.0-45-generic",
        "module 6.8.0-9-generic nvidia|580.95.05|NVIDIA|DKMS module signing key", "module 6.8.0-45-generic",
        "module 6.8.0-44-generic nvidia-current-open|||", "library 580.159.04", "secureboot enabled",
        "node /dev/nvidia0 c3 0", "node /dev/nvidia-uvm 1fd 0", "major nvidia-uvm 509", "nvlink5 yes", "wsl yes",
    ]  # fmt: skip
    found = seen(nvidia=host)
    assert found.bus["0000:65:00.0"] == PciGpu("0x2c58", "nouveau")
    assert list(found.without_driver) == ["0000:65:00.0", "0000:ca:00.0"]
    assert (found.switches, found.nouveau, found.running, found.newest) == (
        1, True, "6.8.0-45-generic", "6.8.0-45-generic",
    )  # fmt: skip
    assert found.modules == {
        "6.8.0-9-generic": Module("nvidia", "580.95.05", open=False, signer="DKMS module signing key"),
        "6.8.0-45-generic": None,
        "6.8.0-44-generic": Module("nvidia-current-open"),
    }
    assert (found.library, found.secure_boot, found.nvlink5, found.platform) == ("580.159.04", True, True, "wsl")
    assert (found.nodes["/dev/nvidia-uvm"], found.majors) == ((509, 0), {"nvidia-uvm": 509})


def test_nothing_is_known_of_a_host_that_says_nothing() -> None:
    found = seen()
    assert (found.open, found.secure_boot, found.newest, found.modules, found.bus) == (None, None, "", {}, {})


def test_parses_cdi_specs() -> None:
    lines = [
        "spec /etc/cdi/nvidia.yaml", "gone /usr/lib/libcuda.so.580.95.05", "node /dev/nvidia-uvm 510 0",
        "spec /var/run/cdi/nvidia.yaml", "node /dev/nvidia0 - -",
    ]  # fmt: skip
    assert seen(cdispecs=lines).specs == {
        "/etc/cdi/nvidia.yaml": CdiSpec({"/dev/nvidia-uvm": (510, 0)}, ("/usr/lib/libcuda.so.580.95.05",)),
        "/var/run/cdi/nvidia.yaml": CdiSpec({"/dev/nvidia0": (None, None)}),
    }


def test_parses_xid_errors() -> None:
    lines = [
        "2026-11-20T02:11:09,123456+01:00 NVRM: Xid (PCI:0000:E1:00): 79, GPU has fallen off the bus.",
        "2026-11-20T02:11:10,000000+01:00 NVRM: Xid (PCI:0000:e1:00): 154, pid='<unknown>', name=<unknown>, GPU Reset",
        "[  12.5] NVRM: Xid (0000:e1:00): 31, of an old driver and a dmesg that knows no times",
        "2026-11-20T02:11:10,000000+01:00 something else with NVRM: Xid in it",
        "2026-11-20T02:11:11,000000+01:00 NVRM: GPU 0000:e1:00.0: GPU has fallen off the bus.",
    ]
    first, second, third = xids(lines)
    assert (first.pci, first.number) == ("0000:e1:00", 79)
    assert first.time is not None
    assert first.time.isoformat() == "2026-11-20T02:11:09.123456+01:00"
    assert second.number == 154
    assert (third.number, third.time) == (31, None)


def test_a_fall_without_an_xid_is_found() -> None:
    when = "2026-11-20T02:11:09,123456+01:00 NVRM:"
    two = [f"{when} The NVIDIA GPU 0000:18:00.0", f"{when} fallen off the bus and is not responding to commands."]
    assert [(xid.pci, xid.number) for xid in xids(two)] == [("0000:18:00", 79)]
    other = [f"{when} The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c58)", f"{when} installed in this system requires use"]
    assert xids(other) == []


def test_keeps_the_drivers_own_sentences() -> None:
    when = "2026-11-20T02:11:09,123456+01:00 NVRM:"
    lines = [f"{when} installed in this system requires use of the NVIDIA open kernel modules."] * 2
    lines += [f"{when} Xid (PCI:0000:e1:00): 31, pid=7", "nonsense"]
    assert seen(kernellog=lines).log == ("installed in this system requires use of the NVIDIA open kernel modules.",)


def test_parses_process_names_with_commas() -> None:
    lines = [
        f"GPU-a,4242,17408,anna,{'c' * 64},python train.py, v2",
        "GPU-b,17,[N/A],,,[Not Found]",
        "MIG-e07a,18,5,,,python",
    ]
    assert gpu_processes(lines) == [
        GpuProcess("GPU-a", 4242, "python train.py, v2", 17408, "anna", "c" * 64),
        GpuProcess("GPU-b", 17, "[Not Found]", None, "", ""),
        GpuProcess("MIG-e07a", 18, "python", 5, "", ""),
    ]


SECTIONS = ["driver", "pci", "gpus", "remapped", "mig", "nvidia", "kernellog", "processes", "cdispecs"]
WORDS = [
    "card",
    "module",
    "node",
    "gone",
    "spec",
    "major",
    "fields index",
    "exit 9|x",
    "[N/A], " * 9,
    "NVRM: Xid (PCI:",
]


@given(
    st.dictionaries(
        st.sampled_from(SECTIONS),
        st.lists(st.one_of(st.text(max_size=30), st.sampled_from([H200, GB10, ORIN, P100, A40, *WORDS])), max_size=5),
    )
)
def test_any_text_gives_facts(sections: dict[str, list[str]]) -> None:
    lines: list[Any] = []
    for name, content in sections.items():
        lines += [f"@@ {name}", *(line for line in content if not line.startswith("@@"))]
    found = parse(framed([*lines, "@@ end"]))
    assert not found.trouble
    assert 0 not in [gpu.memory_total for gpu in found.gpus]
    said(found.remarks)
