"""NVIDIA's GPUs and driver in the snapshot: what real machines print, as the first of the project's users saw it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.facts.gpus import CdiSpec, Details, Driver, Gpu, GpuProcess, Module, PciGpu
from gpurack.facts.lines import Section
from gpurack.facts.nvidia import JETSON, driver, gpu_processes, gpus, xids
from gpurack.facts.parse import parse
from gpurack.plan.models.slots import lost_gpus, other_than_expected
from tests.given import framed, said, spec

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
    assert seen(nvidia=["jetson yes"]).platform == "jetson", "without nvidia-smi"
    broken = ["exit 9|NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."]
    assert seen(nvidia=["jetson yes"], gpus=broken).platform == "jetson"
    assert seen(nvidia=["jetson yes"], gpus=broken, driver=[KERNEL]).platform == "", "a Thor whose driver failed"
    assert seen(nvidia=["jetson yes", "wsl yes"], gpus=[H200]).platform == "wsl"
    thor = ORIN.replace("Orin (nvgpu)", "NVIDIA Thor")
    assert seen(nvidia=["jetson yes"], gpus=[thor]).platform == "", "Thor has the usual driver"


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
    ("name", "unified"),
    [
        ("NVIDIA GB10", True), ("NVIDIA Thor", True), ("a GPU that no table has", True),
        ("NVIDIA GeForce RTX 3060", False), ("Tesla K80", False), ("NVIDIA A40-48Q", False), ("NVIDIA L40S-8Q", False),
        ("GRID A100D-3-20C", False), ("NVIDIA H100 80GB HBM3", False), ("NVIDIA GH200 480GB", False),
        ("NVIDIA RTX 4000 SFF Ada Generation", False), ("NVIDIA A100-PG509-200", False), ("NVIDIA RTX A2000", False),
        ("GRID A100-1-5CME", False), ("NVIDIA CMP 170HX", False), ("NVIDIA N1X", True), ("NVIDIA GB10 Max", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("said", ["[N/A]", "[Not Supported]"])
def test_a_card_that_does_not_tell_its_memory_does_not_share_the_hosts(name: str, unified: bool, said: str) -> None:
    """Its models would get shares of hundreds of GiB."""
    (found,) = gpus([row(name=name, memory=said)])
    assert (found.memory_total, found.unified) == (None, unified)


NO_INDEX, NO_UUID = "has no index (nvidia-smi says {})", "has no UUID (nvidia-smi says {})"


INCOMPLETE = "has an incomplete row in nvidia-smi's answer"


@pytest.mark.parametrize(
    ("line", "index", "memory", "unified", "fault"),
    [
        (GB10 + "\r", 0, None, True, ""),
        (GB10.replace("[N/A], [N/A]", "[Not Supported], [Not Supported]"), 0, None, True, ""),
        (GB10.replace("[N/A], [N/A]", "[Unknown Error], [Unknown Error]"), 0, None, False, ""),
        (GB10.replace("[N/A], [N/A]", "0, 0"), 0, None, False, ""),
        (ORIN + "\r", 0, None, False, JETSON),
        (ORIN.replace("[N/A]", "[Not Supported]"), 0, None, False, JETSON),
        (ORIN.replace("Orin (nvgpu)", "NVIDIA Thor"), 0, None, True, ""),
        (P100 + "\r", 0, None, False, NO_INDEX.format("[Unknown Error]")),
        (P100.replace("[Unknown Error], GPU", ", GPU"), 0, None, False, NO_INDEX.format("nothing")),
        (P100.replace("[Unknown Error]", "[GPU is lost]"), 0, None, False, "is lost"),
        (A40 + "\r", 0, None, False, "requires reset"),
        (A40.replace(RESET, "GPU requires reset"), 0, None, False, "requires reset"),
        (A40.replace(f"{RESET}, {RESET}", "46068, 0"), 0, 46068, False, "requires reset"),
        (A40.replace(RESET, "[GPU is lost]"), 0, None, False, "is lost"),
        (H200.replace("143771, 0", "143771 MiB, 0 MiB").replace("06.0, 0", "06.0, 0 %"), 0, 143771, False, ""),
        (row(15, memory="24576"), 15, 24576, False, ""),
        (row(0, "[Unknown Error]"), 0, 24576, False, NO_UUID.format("[Unknown Error]")),
        (f"0, {UUID}", 0, None, False, INCOMPLETE),
        (f"0, {UUID}, NVIDIA A40, 46068, 0, 595", 0, None, False, INCOMPLETE),
        (row(0, UUID).rpartition(",")[0], 0, 24576, False, ""),
        (row(0, UUID) + ", 61, Enabled, 0x0000000000000004", 0, 24576, False, ""),
        (row(0, UUID).replace(", ", ","), 0, 24576, False, ""),
        (row(0, UUID).replace(", ", " ,\t"), 0, 24576, False, ""),
        (row("[N/A]", UUID), 0, 24576, False, NO_INDEX.format("[N/A]")),
        (GB10.replace("[N/A], [N/A]", "N/A, N/A"), 0, None, True, ""),
        (GB10.replace("NVIDIA GB10", "NVIDIA GB10, x"), 0, None, True, ""),
        (ORIN.replace("a9485f58", "A9485F58"), 0, None, False, JETSON),
        (A40.replace(UUID, RESET).replace("0, [GPU", f"{RESET}, [GPU", 1), 0, None, False, "requires reset"),
        (A40.replace(RESET, "[Insufficient Permissions]"), 0, None, False, ""),
        (A40.replace(RESET, "ERR!"), 0, None, False, ""),
    ],
)
def test_values_that_are_no_numbers_are_unknown_or_a_fault(
    line: str, index: int, memory: int | None, unified: bool, fault: str
) -> None:
    (found,) = gpus([line])
    assert (found.index, found.memory_total, found.unified, found.fault) == (index, memory, unified, fault)
    around = [gpu for gpu in gpus([row(20, "GPU-b"), line, row(21, "GPU-c")]) if gpu.uuid not in ("GPU-b", "GPU-c")]
    assert [(gpu.memory_total, gpu.fault) for gpu in around] == [(memory, fault)], "the others cost it nothing"


@pytest.mark.parametrize(
    "line",
    [
        "index, uuid, name, memory.total [MiB], memory.used [MiB], driver_version, compute_cap, mig.mode.current, "
        "pci.bus_id, utilization.gpu [%]",
        "No devices were found",
        "WARNING: infoROM is corrupted at gpu 0000:17:00.0",
        "",
    ],
)
def test_lines_beside_the_rows_are_no_gpus(line: str) -> None:
    assert [gpu.uuid for gpu in gpus([line, row(0), line])] == ["GPU-a"]


def test_rows_may_have_their_fields_in_any_order() -> None:
    names = "pci.bus_id,memory.total,uuid,utilization.gpu,name,mig.mode.current,index,memory.used,driver_version"
    line = "00000000:17:00.0, 24576, GPU-a, [N/A], NVIDIA A30, Enabled, 3, 0, 580.95.05\r"
    (found,) = gpus([f"fields {names}", line])
    assert (found.index, found.uuid, found.memory_total, found.mig) == (3, "GPU-a", 24576, True)


def test_many_gpus_keep_the_order_of_their_numbers() -> None:
    rows = [row(index, f"GPU-{index:02}", mig="Enabled" if index == 9 else "Disabled") for index in range(15, -1, -1)]
    listed = ["GPU 9: NVIDIA A30 (UUID: GPU-09)\r", "  MIG 1g.6gb      Device  0: (UUID: MIG-e07a)\r"]
    assert [gpu.index for gpu in gpus(rows, mig=listed)] == [*range(10), -1, *range(10, 16)]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (6, "No devices were found"),
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
        (12, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system."),
        (18, "Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.95"),
        (255, "Unable to determine the device handle for GPU0: 0000:17:00.0: Unknown Error"),
    ],
)
def test_quotes_nvidia_smi(code: int, message: str) -> None:
    lines = [f"exit {code}|{message} \r"]
    assert (seen(driver=[KERNEL], gpus=lines).exit_code, seen(gpus=lines).message) == (code, message)
    assert gpus(lines) == []


@pytest.mark.parametrize(
    "text", ["[N/A]", "N/A", "[Not Supported]", "[Not Found]", "[Unknown Error]", "[Insufficient Permissions]", "", "0"]
)
def test_memory_that_is_no_number_is_unknown(text: str) -> None:
    (found,) = gpus([row(memory=text)])
    assert found.memory_total is None


@pytest.mark.parametrize("said", ["[N/A]", "[Unknown Error]", "ERR!", "[Insufficient Permissions]", "N/A", ""])
def test_name_address_and_driver_that_are_unknown_are_empty(said: str) -> None:
    """`hardware` refuses a GPU of another name, and verification compares the versions."""
    for memory in ("24576", "[N/A]"):
        (found,) = gpus([f"0, GPU-a, {said}, {memory}, 7, {said}, 8.0, {said}, {said}, 4"])
        assert (found.name, found.pci, found.driver, found.mig, found.fault) == ("", "", "", False, "")
        assert (found.unified, other_than_expected(found, spec({"hardware": {"A30": 1}}))) == (False, None)


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


def test_columns_that_are_too_many_are_of_the_name_or_at_the_end() -> None:
    for line in (row(0, name="A, b"), row(0) + ", 61, Enabled", row(0, name="A, b") + ", 61"):
        (found,) = gpus([line])
        assert (found.memory_total, found.pci, found.compute) == (24576, "00000000:17:00.0", "8.0")


def test_a_compute_capability_that_is_no_number_is_unknown() -> None:
    assert [gpus([row().replace(" 8.0,", f" {text},")])[0].compute for text in ("[N/A]", "", "9.0")] == ["", "", "9.0"]


def test_what_nvidia_smi_says_without_an_error_is_kept() -> None:
    found = seen(driver=[KERNEL], gpus=["exit 0|No devices were found "])
    assert (found.exit_code, found.message) == (0, "No devices were found")


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


@pytest.mark.parametrize(
    "said",
    [
        "[N/A]", "N/A", "[Not Supported]", "[Not Found]", "[Unknown Error]", "[Insufficient Permissions]", "ERR!",
        "[GPU access blocked by the operating system]", "[Requested functionality has been deprecated]",
    ],
)  # fmt: skip
def test_condition_that_a_gpu_does_not_have_is_unknown(said: str) -> None:
    asked = (
        "persistence_mode,compute_mode,pcie.link.width.current,pcie.link.width.max,power.limit,power.default_limit,"
        "ecc.mode.current,ecc.errors.uncorrected.volatile.total,clocks_event_reasons.active,"
        "reset_status.reset_required,fabric.state,fabric.status,addressing_mode,temperature.gpu"
    )
    names = f"index,uuid,name,memory.total,memory.used,driver_version,pci.bus_id,{asked}"
    line = ", ".join(["0, GPU-a, RTX, 24576, 0, 580.95.05, 00000000:17:00.0", *[said] * len(asked.split(","))])
    (found,) = gpus([f"fields {names}", line], [f"GPU-a, {said}, {said}, {said}, {said}"])
    assert (found.details, found.temperature, found.fault) == (Details(), None, "")


@pytest.mark.parametrize(
    ("printed", "state", "status"),
    [
        ("Completed, Success", "Completed", "Success"),
        ("Completed, Insufficient Resources", "Completed", "Insufficient Resources"),
        ("Not Started, [N/A]", "Not Started", ""),
        ("N/A, Not Supported", "", ""),
        ("[Unknown Error], [Unknown Error]", "", ""),
        ("[Not Supported], [GPU access blocked by the operating system]", "", ""),
    ],
)
def test_a_fabric_that_is_unknown_has_no_state(printed: str, state: str, status: str) -> None:
    names = "index,uuid,name,memory.total,memory.used,driver_version,pci.bus_id,fabric.state,fabric.status"
    (found,) = gpus([f"fields {names}", f"0, GPU-a, NVIDIA H200, 143771, 0, 580.95.05, 00000000:17:00.0, {printed}"])
    assert (found.details.fabric_state, found.details.fabric_status) == (state, status)


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
    ("heading", "instance", "size"),
    [
        ("GPU 0: NVIDIA A100 (UUID: GPU-a)", "  MIG 1g.5gb      Device  0: (UUID: MIG-GPU-a/7/0)", 5),
        ("GPU 0: A100-SXM4-40GB (UUID: GPU-a)\r", "  MIG 3g.20gb Device 0: (UUID: MIG-GPU-a/1/0)\r", 20),
        ("GPU 0: NVIDIA H100 (UUID: GPU-a) (S/N: 7)", "\tMIG 1c.3g.40gb  Device  0: (UUID: MIG-e07a-1b)", 40),
        ("GPU 0: NVIDIA H100 (UUID: GPU-a)", "  MIG 1g.10gb+me  Device  0: (UUID: MIG-e07a-1b)", 10),
        ("GPU 0: NVIDIA RTX PRO 6000 (UUID: GPU-a)", "  MIG 4g.96gb+gfx Device  0: (UUID: MIG-e07a-1b)", 96),
    ],
)
def test_lists_instances_in_each_form(heading: str, instance: str, size: int) -> None:
    """Up to driver 465 an instance is named by its GPU's UUID and two numbers."""
    lost = ["GPU 1: NVIDIA A100 (UUID: [Unknown Error])", instance.replace("0)", "1)").replace("-1b", "-2b")]
    card, found = gpus([row(0, mig="Enabled")], mig=[*lost, heading, instance, *lost])
    assert (card.mig, found.parent, found.memory_total, found.index) == (True, "GPU-a", size * 1024, -1)


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
    line = "/proc/driver/nvidia/gpus/0000:e1:00.0/information|GPU-6f1c"
    assert seen(driver=[KERNEL], pci=[line]).pci == {"0000:e1:00.0": "GPU-6f1c"}


def test_a_gpu_that_the_kernel_has_not_initialised_answers() -> None:
    """Without persistence mode, /proc has question marks for its UUID while nothing uses it."""
    line = "/proc/driver/nvidia/gpus/0000:{}:00.0/information|GPU-{}"
    unknown = "????????-????-????-????-????????????"
    pci = [line.format("17", unknown), line.format("31", unknown), line.format("e1", unknown)]
    rows = [row(0), row(1, "GPU-b", pci="00000000:31:00.0")]
    facts = parse(framed(["@@ driver", KERNEL, "@@ pci", *pci, "@@ gpus", *rows, "@@ end"]))
    assert facts.driver.pci == {f"0000:{bus}:00.0": "" for bus in ("17", "31", "e1")}
    assert (facts.silent_gpus, facts.all_gpus_answer, facts.unread) == ({"0000:e1:00.0": ""}, False, ())
    assert lost_gpus(facts) == {"0000:e1:00.0": (2, "0000:e1:00.0")}
    assert parse(framed(["@@ driver", KERNEL, "@@ pci", *pci[:2], "@@ gpus", *rows, "@@ end"])).all_gpus_answer


def test_parses_what_is_installed_for_the_driver() -> None:
    host = [
        "card 0000:17:00.0 0x20b7 nvidia", "card 0000:65:00.0 0x2c58 nouveau", "card 0000:ca:00.0 0x20b7 ",
        "switch 0000:05:00.0 0x22a3", "switch 0000:06:00.0 0x1234", "nouveau yes", "kernel 6.8.0-45-generic",
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


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-20T02:11:09,1+00:00", "[   12.345678]", "[Fri Nov 20 02:11:09 2026]",
        "2026-11-20T02:11:09,1+00:00 [ T1234]", "[   12.345678][    C3]",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("PCI:0000:e1:00", "0000:e1:00"),
        ("0000:E1:00", "0000:e1:00"),
        ("PCI:e1:00", "0000:e1:00"),
        ("e1:00", "0000:e1:00"),
        ("PCI:00000000:e1:00.0", "0000:e1:00"),
        ("PCI:000F:01:00", "000f:01:00"),
    ],
)
def test_xids_have_one_form_of_address(time: str, address: str, expected: str) -> None:
    line = f"{time} NVRM: Xid ({address}): 48, pid='<unknown>', name=<unknown>, DBE"
    assert [(xid.pci, xid.number) for xid in xids([line])] == [(expected, 48)]
    assert not xids([line.replace(address, "::::"), line.replace(address, "PCI:1"), f"x {line}"])


@pytest.mark.parametrize(
    ("said", "fatal"),
    [
        ("149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000)", True),
        ("149, NETIR_LINK_EVT Nonfatal XC0 i0 Link 08 (0x004505c6 0x00000000)", False),
        ("145, RLW_REMAP Nonfatal XC1 i0 Link 17 (0x00000004), Fatality", False),
        ("150, MSE_WATCHDOG Fatal XC0 i0 Link -1", True),
        ("31, pid=7, name=Fatal", False),
        ("31, pid=7, name=: 144, Fatal", False),
    ],
)
def test_an_xid_of_nvlink_5_says_whether_it_is_fatal(said: str, fatal: bool) -> None:
    (xid,) = xids([f"2026-11-20T02:11:09,1+00:00 NVRM: Xid (PCI:0000:e1:00): {said}"])
    assert (xid.number, xid.fatal) == (int(said.partition(",")[0]), fatal)


def test_a_fall_without_an_xid_is_found() -> None:
    when = "2026-11-20T02:11:09,123456+01:00 NVRM:"
    two = [f"{when} The NVIDIA GPU 0000:18:00.0", f"{when} fallen off the bus and is not responding to commands."]
    assert [(xid.pci, xid.number) for xid in xids(two)] == [("0000:18:00", 79)]
    other = [f"{when} The NVIDIA GPU 0000:02:00.0 (PCI ID: 10de:2c58)", f"{when} installed in this system requires use"]
    assert xids([*other, f"{when} GPU 0000:e1:00.0: GPU has fallen off the bus."])[0].pci == "0000:e1:00"
    assert xids(other) == []


@pytest.mark.parametrize(
    "lines",
    [
        ["The NVIDIA GPU 0000:b3:00.0 (PCI ID: 10de:1e07) installed in this system has fallen off the bus and is not"],
        ["The NVIDIA GPU 0000:b3:00.0 (PCI ID: 10de:1e07) installed in this", "system has fallen off the bus and is"],
        ["The NVIDIA GPU 0000:b3:00.0", "(PCI ID: 10de:26b5) installed in this system has", "fallen off the bus and"],
        ["The NVIDIA GPU 0000:b3:00.0", "installed in this system has", "fallen off the bus and is not responding"],
        ["GPU 0000:b3:00.0: GPU has fallen off the bus."],
        ["Xid (PCI:0000:B3:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."],
        ["Xid (0000:b3:00): 79, GPU has fallen off the bus."],
    ],
)
@pytest.mark.parametrize("before", ["2026-11-20T02:11:09,123456+01:00", "               "])
def test_each_form_of_a_fall_is_found(lines: list[str], before: str) -> None:
    """NVIDIA's open kernel modules (nv.c); dmesg prints the time of a record with several lines once."""
    first, *rest = lines
    found = xids([f"[ 1843.308145] NVRM: {first}", *(f"{before} NVRM: {line}" for line in rest)])
    assert [(xid.pci, xid.number) for xid in found] == [("0000:b3:00", 79)]


def test_errors_of_mig_instances_are_of_their_gpu() -> None:
    line = "[ 12.5] NVRM: Xid (PCI:0000:17:00 GPU-I:05 GPU-CI:00): 94, pid=7194, Contained: CE User Channel (0x9)."
    assert [(xid.pci, xid.number) for xid in xids([line])] == [("0000:17:00", 94)]


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
        "a9485f58-1111-2222-3333-444444444444,19,5,,,python",
    ]
    assert gpu_processes(lines) == [
        GpuProcess("GPU-a", 4242, "python train.py, v2", 17408, "anna", "c" * 64),
        GpuProcess("GPU-b", 17, "[Not Found]", None, "", ""),
        GpuProcess("MIG-e07a", 18, "python", 5, "", ""),
        GpuProcess("a9485f58-1111-2222-3333-444444444444", 19, "python", 5, "", ""),
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
