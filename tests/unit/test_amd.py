"""AMD GPUs: from the kernel's files to the devices of a container, without anything of NVIDIA."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack.facts.gpus import Gpu, GpuProcess
from gpurack.facts.model import HostFacts
from gpurack.facts.parse import parse
from gpurack.facts.parts import User
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan import offline
from gpurack.plan.models import ledger
from gpurack.plan.models.desired import desire
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.models.probes import cuda_probe, dry_start
from gpurack.plan.questions import questions
from gpurack.plan.system.daemon_json import plan_daemon_json
from gpurack.plan.system.nvidia_toolkit import plan_toolkit
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError
from tests.given import docker_info, framed, host_state, models, models_plan, running, spec
from tests.unit.host_programs import Fakes, load, without_parts

FIRST, SECOND, THIRD = "GPU-9e1c0f6a5b7d2c34", "GPU-9e1c0f6a5b7d2c35", "0000:83:00.0"
CPU_NODE = "cpu_cores_count 64\nsimd_count 0\nlocation_id 0\ndomain 0\ndrm_render_minor 0\n"
NODE = (
    "cpu_cores_count 0\nsimd_count 416\nlocation_id {place}\ndomain 0\ndrm_render_minor {minor}\nunique_id {unique}\n"
)


def card(gpu_id: int, minor: int, place: int, unique: int = 0, **said: Any) -> str:
    """The line of a GPU in the snapshot."""
    words = {"gid": 992, "total": 68702699520, "used": 14000000, "busy": 0, "name": "", **said}
    words |= {"drm_render_minor": minor, "domain": 0, "location_id": place, "unique_id": unique}
    return f"card gpu_id {gpu_id}|" + "|".join(f"{key} {value}" for key, value in words.items())


TWO = [
    "kfd 993",
    card(111, 129, 0x6500, 0x9E1C0F6A5B7D2C35, name="AMD Instinct MI210", busy=7),
    card(222, 128, 0x0300, 0x9E1C0F6A5B7D2C34, name="AMD Instinct MI210"),
]


def seen(lines: list[str], *more: str) -> HostFacts:
    return parse(framed(["@@ amd", *lines, *more, "@@ end"]))


# --- what the host says ----------------------------------------------------------------------------------------------


def test_orders_gpus_by_pci_address() -> None:
    state = seen(TWO)
    assert [(gpu.index, gpu.uuid, gpu.pci, gpu.node) for gpu in state.gpus] == [
        (0, FIRST, "0000:03:00.0", "/dev/dri/renderD128"),
        (1, SECOND, "0000:65:00.0", "/dev/dri/renderD129"),
    ]
    assert state.gpus[1] == Gpu(
        1, SECOND, "AMD Instinct MI210", 65520, 13, "", "", "0000:65:00.0", 7, "amd", "/dev/dri/renderD129", 992
    )
    assert (state.kfd_gid, state.has_nvidia) == (993, False)


def test_identifies_gpu_without_unique_id_by_pci_address() -> None:
    (gpu,) = seen([card(3, 130, 0x8300, name="")]).gpus
    assert (gpu.uuid, gpu.name, gpu.memory_total) == (THIRD, "", 65520)


def test_unknown_sysfs_values_are_none() -> None:
    state = seen([card(3, 130, 0x8300, total="", used="", busy="", gid=""), card(4, 0, 0x8400)])
    assert [(gpu.memory_total, gpu.memory_used, gpu.utilization, gpu.gid) for gpu in state.gpus] == [
        (None, None, None, 0)
    ]


@pytest.mark.parametrize(
    ("total", "banks", "expected"),
    [
        (536870912, 67108864000, (64000, 2048)),  # in a CPU: ROCm computes in the host's memory
        (68702699520, 67108864000, (65520, 1024)),  # in a CPU, with most of the memory set apart for it
        (25753026560, 25753026560, (24560, 1024)),
        (25753026560, 0, (24560, 1024)),
        (25753026560, "", (24560, 1024)),
    ],
)
def test_gpu_in_a_cpu_has_the_memory_that_rocm_sees(total: int, banks: int | str, expected: tuple[int, int]) -> None:
    (gpu,) = seen([card(3, 128, 0xC300, total=total, used=1 << 30, banks=banks, gtt=2 << 30)]).gpus
    assert (gpu.memory_total, gpu.memory_used) == expected


def test_snapshot_reads_the_memory_that_rocm_sees(sysfs: Path) -> None:
    node = sysfs / "sys/class/kfd/kfd/topology/nodes/2"
    for number, (kind, size) in enumerate([(0, 1 << 40), (1, 123480309760)]):
        (node / f"mem_banks/{number}").mkdir(parents=True)
        text = f"heap_type {kind}\nsize_in_bytes {size}\nflags 0\nwidth 128\nmem_clk_max 1000\n"
        (node / f"mem_banks/{number}/properties").write_text(text)
    (sysfs / "sys/class/drm/renderD129/device/mem_info_gtt_used").write_text("18653184\n")
    assert [(gpu.memory_total, gpu.memory_used) for gpu in seen_in(sysfs).gpus] == [(24560, 25), (117760, 17)]
    assert load("evidence_gpus").banks(str(node)) == 123480309760, "verification reads the same"


def test_finds_gpu_and_container_of_processes() -> None:
    state = seen(TWO, f"process 222,4711,1073741824,ada ,{'c' * 64},python, really", "process 9,1,1048576,,,x")
    assert state.gpu_processes == (
        GpuProcess(FIRST, 4711, "python, really", 1024, "ada", "c" * 64),
        GpuProcess("", 1, "x", 1, "", ""),
    )


def test_ignores_amd_gpus_beside_nvidia() -> None:
    nvidia = ["@@ driver", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Release"]
    lines = [*nvidia, "@@ gpus", "exit 18|mismatch", "@@ amd", *TWO, "process 222,1,1048576,,,x", "@@ end"]
    state = parse(framed(lines))
    assert (state.has_nvidia, state.gpus, state.gpu_processes, state.kfd_gid) == (True, (), (), 0)


@pytest.fixture
def sysfs(tmp_path: Path, fakes: Fakes) -> Path:
    """/sys and /dev of a host with two GPUs, the second named by libdrm's list, and one process."""
    root = tmp_path / "root"
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    cards = [(0, 0, 0, 0), (222, 128, 0x0300, 0x9E1C0F6A5B7D2C34), (333, 129, 0x8300, 0)]
    for number, (gpu_id, minor, place, unique) in enumerate(cards):
        (nodes / str(number)).mkdir(parents=True)
        (nodes / str(number) / "gpu_id").write_text(f"{gpu_id}\n")
        text = NODE.format(place=place, minor=minor, unique=unique) if gpu_id else CPU_NODE
        (nodes / str(number) / "properties").write_text(text)
        if not gpu_id:
            continue
        device = root / f"sys/class/drm/renderD{minor}/device"
        device.mkdir(parents=True)
        files = {"mem_info_vram_total": "25753026560", "mem_info_vram_used": "26214400", "gpu_busy_percent": "3"}
        files |= {"product_name": "AMD Instinct MI210"} if minor == 128 else {"device": "0x744c", "revision": "0xc8"}
        for name, content in files.items():
            (device / name).write_text(f"{content}\n")
        (root / "dev/dri").mkdir(parents=True, exist_ok=True)
        (root / f"dev/dri/renderD{minor}").touch()
    (root / "dev/kfd").touch()
    process = root / f"sys/class/kfd/kfd/proc/{os.getpid()}"
    process.mkdir(parents=True)
    (process / "vram_222").write_text("2147483648\n")
    (process / "vram_333").write_text("0\n")
    (root / "usr/share/libdrm").mkdir(parents=True)
    (root / "usr/share/libdrm/amdgpu.ids").write_text(
        "744B,\t00,\tAMD Radeon PRO W7900\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\n"
    )
    return root


def test_process_name_cannot_add_lines(sysfs: Path) -> None:
    """A user names their processes, also with a newline in it."""
    comm = Path("/proc/self/comm")
    before = comm.read_text().strip()
    try:
        comm.write_text("x\\n\n@@ os")
        state = seen_in(sysfs)
    finally:
        comm.write_text(before)
    assert [(held.uuid, held.pid, held.name, held.memory) for held in state.gpu_processes] == [
        (FIRST, os.getpid(), "x\\n", 2048)
    ]
    assert state.unread == ()


def seen_in(sysfs: Path) -> HostFacts:
    """The snapshot of a host with these files."""
    text = without_parts(script(questions(models(alpha={}))), "AMD")
    for folder in ("/sys/class/kfd", "/sys/class/drm", "/dev/kfd", "/dev/dri", "/usr/share/libdrm"):
        assert folder in text
        text = text.replace(folder, f"{sysfs}{folder}")
    done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=True, timeout=60)
    return Snapshot().process(done.stdout.splitlines())


def test_snapshot_reads_kernel_files(sysfs: Path) -> None:
    state = seen_in(sysfs)
    gid = (sysfs / "dev/kfd").stat().st_gid
    assert state.trouble is None
    assert [(gpu.uuid, gpu.name, gpu.memory_total, gpu.memory_used, gpu.utilization) for gpu in state.gpus] == [
        (FIRST, "AMD Instinct MI210", 24560, 25, 3),
        (THIRD, "AMD Radeon RX 7900 XTX", 24560, 25, 3),
    ]
    assert ({gpu.gid for gpu in state.gpus}, state.kfd_gid) == ({gid}, gid)
    name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert [(held.uuid, held.pid, held.name, held.memory) for held in state.gpu_processes] == [
        (FIRST, os.getpid(), name, 2048)
    ]


# --- what containers get ---------------------------------------------------------------------------------------------


def amd(**said: Any) -> HostFacts:
    """A host with the two GPUs and a Docker without anything of NVIDIA."""
    state = seen(TWO)
    docker = docker_info(Runtimes={"runc": {}})
    weights = {"/w/a.gguf": 1, "/w/q": 1}
    return replace(
        host_state(docker=docker, weights=weights, **said),
        gpus=state.gpus,
        kfd_gid=state.kfd_gid,
        gpu_processes=state.gpu_processes,
    )


def planned(spec: Host, facts: HostFacts) -> ModelsPlan:
    return models_plan(spec, facts)


def test_log_decides_only_about_gpus_of_nvidia() -> None:
    job = planned(models(alpha={"gpus": [1]}), amd()).job
    assert job
    assert "log" not in job["batches"][0][0]


def test_dry_start_gets_devices_of_its_gpus() -> None:
    found = dry_start(desire("alpha", models(alpha={"gpus": [1]}), amd(), (SECOND,)))
    assert found
    words = "--device /dev/kfd --device /dev/dri/renderD129 --group-add 992 --group-add 993"
    assert words in " ".join(found["run"])


def test_model_gets_devices_of_its_gpus() -> None:
    service = desire("alpha", models(alpha={"gpus": [1]}), amd(), (SECOND,)).service
    assert service["image"] == "ghcr.io/ggml-org/llama.cpp:server-rocm-b7000"
    assert service["devices"] == ["/dev/kfd", "/dev/dri/renderD129"]
    assert cuda_probe(desire("alpha", models(alpha={"gpus": [1]}), amd(), (SECOND,))) is None
    assert service["group_add"] == ["992", "993"]
    assert not {"deploy", "runtime", "environment"} & set(service)
    assert "--n-gpu-layers" in service["command"]


def test_cpu_model_gets_no_device() -> None:
    service = desire("alpha", models(alpha={"gpus": []}), amd(), ()).service
    assert service["image"].endswith(":server-b7000")
    assert not {"devices", "group_add"} & set(service)


def test_keeps_devices_of_inventory() -> None:
    wanted = models(alpha={"gpus": "all", "compose": {"devices": ["/dev/infiniband/uverbs0"], "group_add": ["27"]}})
    service = desire("alpha", wanted, amd(), (FIRST, SECOND)).service
    assert service["devices"] == [
        "/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD129", "/dev/infiniband/uverbs0",
    ]  # fmt: skip
    assert service["group_add"] == ["992", "993", "27"]


@pytest.mark.parametrize("gpus", [[1], ["GPU-9e1c0f6a5b7d2c35"], ["0000:65:00.0"]], ids=["index", "uuid", "pci"])
def test_accepts_index_unique_id_and_pci_address(gpus: list[int | str]) -> None:
    assert ledger.assign(models(alpha={"gpus": gpus}), amd()).uuids == {"alpha": (SECOND,)}


def test_accepts_pci_address_of_nvidia_gpu() -> None:
    nvidia = host_state(gpus=2)
    cards = tuple(
        replace(gpu, pci=f"00000000:{place}:00.0") for gpu, place in zip(nvidia.gpus, ("17", "65"), strict=True)
    )
    found = ledger.assign(models(alpha={"gpus": ["0000:65:00.0"]}), replace(nvidia, gpus=cards))
    assert found.uuids == {"alpha": (cards[1].uuid,)}


def test_refuses_gpu_used_by_foreign_process() -> None:
    held = replace(amd(), gpu_processes=(GpuProcess(FIRST, 4711, "python3", 40000, "ada"),))
    errors = ledger.assign(models(alpha={"gpus": [0]}), held).errors
    assert errors["alpha"].what.startswith(
        "GPU 0 is in use by python3 (pid 4711, ada, 39.1 GiB), which gpurack does not manage."
    )


def test_reports_host_without_driver() -> None:
    errors = ledger.assign(models(alpha={"gpus": [0]}), host_state()).errors
    assert "no NVIDIA driver (/proc/driver/nvidia) or AMD driver (/sys/class/kfd) is loaded" in errors["alpha"].what


def test_unknown_gpu_name_is_not_a_mismatch() -> None:
    wanted = spec({"hardware": {"MI300X": 1}, "models": {"alpha": {"gpus": [0], "port": 8000}}})
    state = amd()
    assert "but `hardware` has an MI300X" in ledger.assign(wanted, state).errors["alpha"].what
    nameless = replace(state, gpus=tuple(replace(gpu, name="") for gpu in state.gpus))
    assert ledger.assign(wanted, nameless).uuids == {"alpha": (FIRST,)}


# --- what a run does -------------------------------------------------------------------------------------------------


def test_plans_nothing_of_nvidia() -> None:
    wanted = spec({"nvidia": {"toolkit": "1.20.1"}, "models": {"alpha": {"gpus": [0], "port": 8000}}})
    assert plan_toolkit(wanted, amd()).nothing
    (step,) = plan_daemon_json(wanted, amd(), unattended=True).steps
    assert "nvidia" not in step.reason
    assert "cdi" not in step.reason


def test_second_run_changes_nothing() -> None:
    wanted, state = models(alpha={"gpus": [0]}), amd()
    container = running(wanted, "alpha", state, (FIRST,))
    assert [change.action for change in planned(wanted, replace(state, containers=(container,))).changes] == ["keep"]


def test_recreates_model_after_devices_were_renumbered() -> None:
    wanted, before = models(alpha={"gpus": [0]}, beta={"gpus": [1]}), amd()
    containers = tuple(running(wanted, name, before, (uuid,)) for name, uuid in (("alpha", FIRST), ("beta", SECOND)))
    swapped = tuple(replace(gpu, node=before.gpus[1 - gpu.index].node) for gpu in before.gpus)
    plan = planned(wanted, replace(before, gpus=swapped, containers=containers))
    assert [str(change) for change in plan.changes] == [
        "recreate alpha: its GPU has another device: /dev/dri/renderD129",
        "recreate beta: its GPU has another device: /dev/dri/renderD128",
    ]
    assert plan.job is not None
    assert [[model["name"] for model in group] for group in plan.job["batches"]] == [["alpha", "beta"]]


def test_waits_for_device_that_model_of_lost_gpu_uses() -> None:
    """alpha's container uses the device that is beta's GPU since the boot, so beta can start only after alpha stops."""
    wanted, before = models(alpha={"gpus": [0]}, beta={"gpus": [1]}), amd()
    containers = tuple(running(wanted, name, before, (uuid,)) for name, uuid in (("alpha", FIRST), ("beta", SECOND)))
    left = (replace(before.gpus[1], index=0, node="/dev/dri/renderD128"),)
    plan = planned(wanted, replace(before, gpus=left, containers=containers))
    assert plan.errors["alpha"].what.startswith(f"its GPU {FIRST} no longer answers. Reboot the host.")
    assert "is still in use by alpha" in plan.errors["beta"].what
    assert plan.job is None


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"engine": "tei", "version": "1.9", "weights": "/w/bge"}, "TEI publishes no image for AMD's GPUs"),
        (
            {"engine": "sglang", "version": "0.5.23", "weights": "/w/q"},
            "SGLang has a different image for each AMD GPU",
        ),
        (
            {"engine": "vllm", "version": "0.13.0", "weights": "/w/q"},
            "vLLM publishes images for AMD's GPUs from 0.14 on",
        ),
    ],
)
def test_refuses_engine_without_rocm_image_offline_and_live(model: dict[str, Any], sentence: str) -> None:
    entry = {"alpha": {**model, "gpus": [0], "port": 8000}}
    with pytest.raises(InventoryError, match=sentence):
        spec({"hardware": {"MI210": 2}, "models": entry})
    assert planned(spec({"models": entry}), amd()).errors["alpha"].what.startswith(sentence)


def test_refuses_amd_gpu_in_rootless_docker_offline_and_live() -> None:
    """Groups differ in a user's namespace. The same model may run in the host's own Docker or on the CPU."""
    rootless = {"docker": {"rootless": {"ada": {}}}, "defaults": {"user": "ada"}}
    said = {"gpus": [0], "port": 8000}
    with pytest.raises(InventoryError, match="which are other ones in the rootless Docker of ada") as error:
        spec(rootless, {"hardware": {"MI210": 2}, "models": {"alpha": said}})
    assert [problem.path for problem in error.value.problems] == ["models.alpha.user"]
    state = replace(amd(), users={"ada": User(1001, 1001, "/home/ada", docker=docker_info())})
    assert (
        planned(spec(rootless, {"models": {"alpha": said}}), state)
        .errors["alpha"]
        .what.startswith("AMD's GPUs open to")
    )
    ran = running(spec({"models": {"alpha": said}}), "alpha", state, (FIRST,))
    moved = planned(spec(rootless, {"models": {"alpha": said}}), replace(state, containers=(ran,)))
    assert list(moved.errors) == ["alpha"], "one that runs would be moved to where it cannot"
    for other in ({"user": None}, {"gpus": []}):
        wanted = spec(rootless, {"hardware": {"MI210": 2}, "models": {"alpha": {**said, **other}}})
        assert planned(wanted, state).errors == {}


def test_ignores_nvidia_driver_of_inventory() -> None:
    entry = {"alpha": {"engine": "vllm", "version": "0.33.0", "weights": "/w/q", "gpus": [0], "port": 8000}}
    wanted = spec({"hardware": {"MI210": 2}, "nvidia": {"driver": "550.54.14"}, "models": entry})
    assert planned(wanted, amd()).errors == {}


def test_offline_plan_shows_amd_gpus() -> None:
    wanted = spec({"hardware": {"MI210": 2}, "models": {"alpha": {"gpus": [1], "port": 8000}}})
    text = offline.compose_text(wanted)
    assert "server-rocm-b7000" in text
    assert "/dev/dri/render-node-of-index-1" in text
