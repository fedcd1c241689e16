"""The simulated driver: nvidia-smi answers like the real one, and the tests' control changes its answers."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gpurack import host_data
from gpurack.commands import diff
from gpurack.commands.lab_status import host_status
from gpurack.cuda_faults import REFUSED, fault
from gpurack.engines.probes import PYTHON
from gpurack.facts.gpus import GpuProcess
from gpurack.facts.model import HostFacts
from gpurack.facts.nvidia import JETSON
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.host import Preview
from gpurack.plan.models.plan import ModelsPlan
from gpurack.plan.questions import questions
from tests.device import bring, check
from tests.given import host_state, models, models_plan, running
from tests.testbed.gpu import DRIVER_VERSION, MACHINES, UNITS, SimulatedGpus, compile_libcuda, files
from tests.unit.host_programs import Fakes, plain, without_parts
from tests.unit.test_status import NOW

pytestmark = pytest.mark.sampled
GPUSIM = "/usr/lib/gpusim/gpusim"
Smi = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a host has after its boot. It starts a hundred programs, so each test gets a copy."""
    folder = tmp_path_factory.mktemp("booted")
    environment = {**os.environ, "GPUSIM_ROOT": str(folder), "GPUSIM_HOST": "gpu1"}
    subprocess.run([files()[GPUSIM][0], "boot"], check=True, env=environment)
    return folder


@pytest.fixture
def root(booted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUSIM_ROOT", str(tmp_path))
    monkeypatch.setenv("GPUSIM_HOST", "gpu1")
    shutil.copytree(booted, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def gpus(root: Path) -> Iterator[SimulatedGpus]:
    """The control of a simulated host in a folder of this machine."""

    def as_root(command: str) -> str:
        here = command.replace(GPUSIM, str(files()[GPUSIM][0])).replace("/var/lib/gpusim", f"{root}/var/lib/gpusim")
        return subprocess.run(here, shell=True, capture_output=True, text=True, check=True).stdout

    control = SimulatedGpus(as_root)
    yield control
    if (root / "run/gpusim/procs").exists():
        control.reset()  # ends the processes


@pytest.fixture
def smi(root: Path) -> Smi:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [files()["/usr/bin/nvidia-smi"][0], *arguments], capture_output=True, text=True, check=False
        )

    return run


def boot(root: Path) -> None:
    """Like the boot of a host: /run is empty then."""
    for path in (root / "run/gpusim").iterdir():
        path.unlink()
    subprocess.run([files()[GPUSIM][0], "boot"], check=True)


def csv(smi: Smi, fields: str, *arguments: str) -> list[list[str]]:
    done = smi(f"--query-gpu={fields}", "--format=csv,noheader,nounits", *arguments)
    assert done.returncode == 0, done.stdout
    return [line.split(", ") for line in done.stdout.splitlines()]


def test_lists_four_gpus(gpus: SimulatedGpus, smi: Smi) -> None:
    assert len(set(gpus.uuids)) == 4
    expected = "".join(f"GPU {i}: NVIDIA A30 (UUID: {uuid})\n" for i, uuid in enumerate(gpus.uuids))
    assert smi("-L").stdout == expected


def test_uuids_follow_from_host_name(root: Path, gpus: SimulatedGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    before = gpus.uuids
    gpus.reset()
    assert gpus.uuids == before
    monkeypatch.setenv("GPUSIM_HOST", "gpu2")
    gpus.reset()
    assert not set(gpus.uuids) & set(before)


def test_answers_recorded_query_in_recorded_form(gpus: SimulatedGpus, smi: Smi) -> None:
    fields = "index,uuid,name,memory.total,memory.used,driver_version,compute_cap,mig.mode.current,pci.bus_id"
    header, first, *_ = smi(f"--query-gpu={fields}", "--format=csv").stdout.splitlines()
    assert header == (
        "index, uuid, name, memory.total [MiB], memory.used [MiB], driver_version, compute_cap, mig.mode.current, "
        "pci.bus_id"
    )
    assert first == (
        f"0, {gpus.uuids[0]}, NVIDIA A30, 24576 MiB, 0 MiB, {DRIVER_VERSION}, 8.0, Disabled, 00000000:17:00.0"
    )
    assert csv(smi, "pci.bus_id, index,utilization.gpu", "-i", gpus.uuids[3]) == [["00000000:E1:00.0", "3", "0"]]
    assert csv(smi, "index", "-i", "00000000:ca:00.0") == [["2"]]


def test_table_is_as_wide_as_real_one(gpus: SimulatedGpus, smi: Smi) -> None:
    gpus.foreign(1, 5000)
    lines = [line for line in smi().stdout.splitlines() if line]
    assert {len(line) for line in lines} == {91}
    assert lines[1] == ("| NVIDIA-SMI 580.159.04             Driver Version: 580.159.04     CUDA Version: 13.0     |")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--query-gpu=index,bogus", "--format=csv"), 2, 'Field "bogus" is not a valid field to query.\n'),
        (("--query-gpu=index",), 2, "\"--format=\" switch is missing. Please run 'nvidia-smi -h' for help."),
        (("--bogus",), 2, "ERROR: Option --bogus is not recognized. Please run 'nvidia-smi -h' for help."),
        (("-i",), 2, "ERROR: Option -i is missing its value. Please run 'nvidia-smi -h' for help."),
        (("-i", "7", "-L"), 6, "No devices were found"),
        (("-q",), 2, "ERROR: Option -q is not recognized. Please run 'nvidia-smi -h' for help."),
    ],
)
def test_refuses_unknown_options(smi: Smi, arguments: tuple[str, ...], code: int, text: str) -> None:
    done = smi(*arguments)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(text)


def test_swapped_gpus_keep_uuid_and_slot(root: Path, gpus: SimulatedGpus, smi: Smi) -> None:
    a, b, c, d = gpus.uuids
    node = (root / "dev/nvidia0").readlink()
    gpus.swap(0, 3)
    assert gpus.uuids == [d, b, c, a]
    assert csv(smi, "index,uuid,pci.bus_id")[3] == ["3", a, "00000000:17:00.0"]
    assert (root / "dev/nvidia3").readlink() == node
    information = (root / "proc/driver/nvidia/gpus/0000:17:00.0/information").read_text()
    assert f"GPU UUID: \t {a}\n" in information
    assert "Device Minor: \t 3\n" in information
    boot(root)
    assert gpus.uuids == [d, b, c, a]
    assert csv(smi, "uuid")[0] == [d]


def test_lost_gpu_fails_whole_query_until_boot(root: Path, gpus: SimulatedGpus, smi: Smi) -> None:
    gpus.lose(3)
    text = (
        "Unable to determine the device handle for GPU0000:E1:00.0: GPU is lost.  Reboot the system to recover this GPU"
    )
    for arguments in ((), ("-L",), ("--query-gpu=index", "--format=csv"), ("-i", "3", "-L")):
        done = smi(*arguments)
        assert done.returncode == 15
        assert done.stdout.splitlines()[0] == text
    assert csv(smi, "index", "-i", "1") == [["1"]]
    assert (root / "proc/driver/nvidia/gpus/0000:e1:00.0/information").exists()
    boot(root)
    assert len(csv(smi, "index")) == 4


def test_driver_mismatch_ends_at_boot(root: Path, gpus: SimulatedGpus, smi: Smi) -> None:
    gpus.mismatch("580.95.05")
    done = smi("-L")
    assert done.returncode == 18
    assert done.stdout == ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n")
    assert DRIVER_VERSION in (root / "proc/driver/nvidia/version").read_text()
    boot(root)
    assert csv(smi, "driver_version")[0] == ["580.95.05"]
    gpus.reset()
    assert csv(smi, "driver_version")[0] == [DRIVER_VERSION]


def test_missing_driver_is_the_answer_to_everything_but_help(root: Path, smi: Smi) -> None:
    (root / "run/gpusim/state").unlink()
    for arguments in (("--version",), ("--no-such-option",), ("--query-gpu=x", "--format=csv"), ("--query-gpu",), ()):
        done = smi(*arguments)
        assert (done.returncode, done.stdout[:21], done.stderr) == (9, "NVIDIA-SMI has failed", "")
    assert smi("-h").returncode == 0


def observed(root: Path, fakes: Fakes) -> HostFacts:
    """What a snapshot sees of the simulated machine."""
    fakes.add("nvidia-smi", f'exec {files()["/usr/bin/nvidia-smi"][0]} "$@"')
    text = without_parts(script(questions(models(alpha={}))), "NVIDIA").replace("/proc/driver", f"{root}/proc/driver")
    done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, check=True, timeout=60)
    return Snapshot().process("\n".join(plain(done.stdout)).replace(str(root), "").split("\n"))


@pytest.mark.parametrize("machine", MACHINES)
def test_snapshot_understands_every_machine(root: Path, gpus: SimulatedGpus, fakes: Fakes, machine: str) -> None:
    gpus.machine(machine)
    state = observed(root, fakes)
    assert (state.trouble, state.unread) == (None, ())
    assert {
        "code": state.driver.exit_code,
        "gpus": [
            f"{gpu.index} {gpu.name} {gpu.memory_total} {gpu.compute or '-'}"
            + "".join(f" {word}" for word in ("unified", "mig") if getattr(gpu, word))
            + (f" {gpu.fault}" if gpu.fault else "")
            for gpu in state.gpus
        ],
    } == SEEN[machine]
    *found, said = planned(state, 1 if machine in ("requires-reset", "no-index") else 0)
    *expected, words = PLANNED.get(machine, SERVED)
    assert found == expected
    assert words in said if words else not said


def acted_on(plan: ModelsPlan) -> set[str]:
    """The models whose containers a run would touch."""
    return {entry["name"] for batch in (plan.job or {"batches": ()})["batches"] for entry in batch}


def planned(state: HostFacts, index: int) -> tuple[str, str, str, str]:
    """What a run says of a model on one of these GPUs: (error of a new one, of a change of one that serves, status,
    sentence). `gpurack diff` exits with 1 for an error, `gpurack status` for a host that is DEGRADED.
    """
    docker = host_state(gpus=1, weights={"/w/a.gguf": 1}, probes={"alpha": [200, '"alpha"']})
    facts = replace(docker, gpus=state.gpus, driver=state.driver)
    given, changed = models(alpha={"gpus": [index]}), models(alpha={"gpus": [index], "context": 512})
    mine = running(given, "alpha", facts, (facts.gpus[index].uuid,))
    process = GpuProcess(facts.gpus[index].uuid, 7, "llama-server", 300, "root", mine.id)
    serves = replace(facts, containers=(mine,), gpu_processes=(process,))
    new, change, same = models_plan(given, facts), models_plan(changed, serves), models_plan(given, serves)
    assert acted_on(same) == set(), "what serves is left alone"
    for plan in (new, change):
        assert acted_on(plan) == (set() if plan.errors else {"alpha"}), "a refused model changes nothing"
        preview = Preview(tuple(plan.findings))
        assert diff.exit_code({"gpu1": diff.HostPlan(preview)}, fail_on_change=False) == bool(plan.errors)
    status = host_status("gpu1", given, serves, NOW)
    assert status.is_well == (status.state == "ok")
    errors = [next(iter(plan.errors.values()), None) for plan in (new, change)]
    said = [one.what for one in (*errors, *status.errors) if one]
    codes = [one.code if one else "" for one in errors]
    return codes[0], codes[1], status.state, said[0] if said else ""


A30 = "NVIDIA A30 24576 8.0"
SEEN = {
    "gb10": {"code": 0, "gpus": ["0 NVIDIA GB10 None 12.1 unified"]},
    "gh200": {"code": 0, "gpus": ["0 NVIDIA GH200 480GB 97871 9.0"]},
    "gb200": {"code": 0, "gpus": [f"{index} NVIDIA GB200 189471 10.0" for index in range(2)]},
    "dgx-station": {
        "code": 0,
        "gpus": [
            "0 NVIDIA GB300 275040 10.3",
            "1 NVIDIA RTX PRO 6000 Blackwell Workstation Edition 97887 12.0",
        ],
    },
    "orin": {"code": 0, "gpus": [f"0 Orin (nvgpu) None 8.7 {JETSON}"]},
    "thor": {"code": 0, "gpus": ["0 NVIDIA Thor None 11.0 unified"]},
    "a100-mig": {
        "code": 0,
        "gpus": [
            "0 NVIDIA A100-SXM4-40GB 40960 8.0 mig",
            "-1 NVIDIA A100-SXM4-40GB MIG 3g.20gb 20480 8.0",
            "-1 NVIDIA A100-SXM4-40GB MIG 1g.5gb 5120 8.0",
            "1 NVIDIA A100-SXM4-40GB 40960 8.0",
        ],
    },
    "vgpu": {"code": 0, "gpus": ["0 GRID A100D-3-20C 24576 8.0"]},
    "wsl": {"code": 0, "gpus": ["0 NVIDIA GeForce RTX 4090 24564 8.9"]},
    "geforce": {"code": 0, "gpus": ["0 NVIDIA GeForce RTX 3060 12288 8.6"]},
    "mixed": {
        "code": 0,
        "gpus": [
            f"0 {A30}",
            "1 Tesla P100-PCIE-16GB 16384 6.0",
            "2 NVIDIA RTX PRO 6000 Blackwell Server Edition 97887 12.0",
        ],
    },
    "driver-470": {"code": 0, "gpus": ["0 Tesla V100-PCIE-16GB 16160 -"]},
    "inforom": {"code": 14, "gpus": [f"{index} {A30}" for index in range(4)]},
    "requires-reset": {
        "code": 0,
        "gpus": [f"0 {A30}", "1 NVIDIA A30 None 8.0 requires reset", f"2 {A30}", f"3 {A30}"],
    },
    "no-index": {
        "code": 0,
        "gpus": [
            f"0 {A30}", "1 NVIDIA A30 None 8.0 has no index (nvidia-smi says [Unknown Error])", f"2 {A30}", f"3 {A30}",
        ],
    },
}  # fmt: skip


SERVED = ("", "", "ok", "")
PLANNED = {
    "orin": ("gpu-broken", "gpu-broken", "DEGRADED", JETSON),
    "a100-mig": ("gpu-in-mig-mode", "gpu-in-mig-mode", "ok", "MIG mode"),
    "inforom": ("", "", "DEGRADED", "infoROM is corrupted"),
    "requires-reset": ("gpu-broken", "gpu-broken", "DEGRADED", "requires reset"),
    "no-index": ("gpu-broken", "gpu-broken", "DEGRADED", "has no index (nvidia-smi says [Unknown Error])"),
}


def test_lists_foreign_process(gpus: SimulatedGpus, smi: Smi) -> None:
    pid = gpus.foreign(2, 9000, "python")
    assert Path(f"/proc/{pid}/comm").read_text() == "python\n"
    query = ("--query-compute-apps=gpu_uuid,pid,process_name,used_memory", "--format=csv")
    assert smi(*query).stdout.splitlines() == [
        "gpu_uuid, pid, process_name, used_gpu_memory [MiB]",
        f"{gpus.uuids[2]}, {pid}, python, 9000 MiB",
    ]
    assert [row[0] for row in csv(smi, "memory.used")] == ["0", "0", "9000", "0"]
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while len(smi(*query).stdout.splitlines()) > 1:
        assert time.monotonic() < until, "the process is gone and still shown"
    assert [row[0] for row in csv(smi, "memory.used")] == ["0", "0", "0", "0"]


def test_memory_is_held_after_end_of_process(gpus: SimulatedGpus, smi: Smi) -> None:
    """As `nvidia-smi` shows it: no process any more, and the memory still in use."""
    process = subprocess.Popen(["sleep", "infinity"])
    gpus.use(1, 8000, process.pid, 2)
    query = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader")
    assert smi(*query).stdout == f"{process.pid}, 8000 MiB\n"
    process.kill()
    process.wait()
    assert smi(*query).stdout == ""
    assert csv(smi, "memory.used")[1] == ["8000"]
    until = time.monotonic() + 10
    while csv(smi, "memory.used")[1] != ["0"]:
        assert time.monotonic() < until, "the memory is never free"
        time.sleep(0.05)


APPS = ("--query-compute-apps=gpu_uuid,pid,process_name,used_memory", "--format=csv,noheader,nounits")


@pytest.fixture
def contained(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Adds what /proc shows of a process: (pid, its GPUs' indices, its pids in its namespaces) → its folder."""
    proc = root / "processes"
    monkeypatch.setenv("GPUSIM_PROC", str(proc))

    def add(pid: int, gpus: Sequence[int], *inside: int, name: str = "llama-server") -> Path:
        folder = proc / str(pid)
        (folder / "root/dev").mkdir(parents=True)
        (folder / "status").write_text(f"Name:\t{name}\nNSpid:\t{pid}" + "".join(f"\t{one}" for one in inside) + "\n")
        (folder / "comm").write_text(f"{name}\n")
        ticks = round(time.clock_gettime(time.CLOCK_BOOTTIME) * 100)
        (folder / "stat").write_text(f"{pid} ({name}) S " + " ".join("0" * 18) + f" {ticks} 0 0\n")
        for node in ("nvidiactl", "nvidia-uvm", *(f"nvidia{index}" for index in gpus)):
            shutil.copy2(root / "dev" / node, folder / "root/dev" / node, follow_symlinks=False)
        return folder

    return add


def test_containers_compute_on_the_gpus_that_they_hold(
    root: Path, gpus: SimulatedGpus, smi: Smi, contained: Callable[..., Path]
) -> None:
    contained(40, [0, 2], 1)
    contained(41, [], 1)  # a model on the CPU
    contained(42, [1])  # a process of the host
    contained(43, [1], 7)  # a later process of a container
    contained(44, [2], 9, 1, name="python3")  # a container in a container
    first, _, third, _ = gpus.uuids
    assert smi(*APPS).stdout.splitlines() == [
        f"{first}, 40, llama-server, 300", f"{third}, 40, llama-server, 300", f"{third}, 44, python3, 300",
    ]  # fmt: skip
    assert csv(smi, "memory.used,memory.free") == [["300", "24276"], ["0", "24576"], ["600", "23976"], ["0", "24576"]]
    assert "llama-server" in smi().stdout
    gpus.swap(0, 3)  # it keeps its GPU, whatever the index is now
    assert smi(*APPS).stdout.splitlines()[-1] == f"{first}, 40, llama-server, 300"
    gpus.use(3, 9000, os.getpid(), 0)
    assert csv(smi, "memory.used")[3] == ["9300"]


def test_what_a_test_says_of_a_container_counts_instead(
    root: Path, gpus: SimulatedGpus, smi: Smi, contained: Callable[..., Path]
) -> None:
    contained(os.getpid(), [0], 1)
    gpus.use(0, 9000, os.getpid(), 0)
    name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert smi(*APPS).stdout == f"{gpus.uuids[0]}, {os.getpid()}, {name}, 9000\n"


def test_container_computes_on_the_cpu_where_cuda_did_not_start(
    root: Path, gpus: SimulatedGpus, smi: Smi, contained: Callable[..., Path]
) -> None:
    def listed() -> list[str]:
        return [line.split(", ")[1] for line in smi(*APPS).stdout.splitlines()]

    def later() -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        while time.clock_gettime(time.CLOCK_BOOTTIME) < now + 0.02:
            pass  # starts are known to a hundredth of a second

    contained(50, [0], 1)
    later()
    gpus.cuda(999)
    later()
    contained(51, [0], 1)
    assert listed() == ["50"]  # what computes goes on
    later()
    gpus.cuda(0)
    later()
    contained(52, [0], 1)
    assert listed() == ["50", "52"]  # 51 stays on the CPU until it is started anew
    (contained(53, [1], 1) / "root/dev/nvidia-uvm").unlink()
    assert listed() == ["50", "52"]
    gpus.reset()
    assert listed() == ["50", "51", "52"]


def test_finds_a_real_process_in_a_namespace(root: Path, gpus: SimulatedGpus, smi: Smi) -> None:
    """As runc starts it: first in its PID namespace, with a /dev of its own."""
    node = "mknod /dev/{} c 1 5; "
    program = (
        "mount -t tmpfs none /dev && " + node.format("nvidia-uvm") + node.format("nvidia0") + "echo; exec sleep 60"
    )
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        if not process.stdout or not process.stdout.readline():
            pytest.skip("Only root, with the right to mount, can make such a process.")
        rows = [line.split(", ") for line in smi(*APPS).stdout.splitlines()]
        process.kill()
    assert [(uuid, name, used) for uuid, _, name, used in rows] == [(gpus.uuids[0], "sleep", "300")]


def test_late_driver_is_missing_at_boot(root: Path, gpus: SimulatedGpus, smi: Smi) -> None:
    gpus.late(60)
    assert smi("-L").returncode == 0  # only after the next boot
    boot(root)
    done = smi("-L")
    assert done.returncode == 9
    assert done.stdout.startswith("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    boot(root)
    assert smi("-L").returncode == 0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in for libcuda."""
    if shutil.which("gcc") is None:
        pytest.skip("The stand-in for libcuda needs gcc.")
    folder = tmp_path_factory.mktemp("libcuda")
    subprocess.run(compile_libcuda(folder / "libcuda.so.1"), shell=True, check=True)
    return folder


@pytest.fixture
def cuda(root: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Return what the probe by Python prints with it."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))

    def probe() -> str:
        return subprocess.run(["sh", *PYTHON.arguments], capture_output=True, text=True, check=True).stdout

    return probe


def test_cuda_counts_the_nodes_that_open(root: Path, gpus: SimulatedGpus, cuda: Callable[[], str]) -> None:
    assert cuda() == "gpurack-cuda 0 4\n"
    (root / "dev/nvidia3").unlink()
    assert cuda() == "gpurack-cuda 0 3\n"
    assert (fault(cuda(), 3), fault(cuda(), 4)) == ("", "GPUs that CUDA sees: 3 of 4")


@pytest.mark.parametrize(("init", "count"), [*((code, 0) for code in REFUSED), (0, 999), (2, 0), (46, 0)])
def test_cuda_returns_the_codes_of_a_test(
    root: Path, gpus: SimulatedGpus, cuda: Callable[[], str], init: int, count: int
) -> None:
    gpus.cuda(init, count)
    assert cuda() == f"gpurack-cuda {init or count} 0\n"
    gpus.reset()
    assert cuda() == "gpurack-cuda 0 4\n"


def test_cuda_follows_from_what_is_on_the_host(root: Path, gpus: SimulatedGpus, cuda: Callable[[], str]) -> None:
    gpus.mismatch()
    assert cuda() == "gpurack-cuda 803 0\n"
    boot(root)
    (root / "dev/nvidia-uvm").unlink()
    assert cuda() == "gpurack-cuda 999 0\n"
    gpus.machine("wsl")
    assert cuda() == "gpurack-cuda 0 1\n"
    gpus.machine("usual")
    for node in root.glob("dev/nvidia[0-9]"):
        node.unlink()
    assert cuda() == "gpurack-cuda 100 0\n"
    (root / "run/gpusim/state").unlink()
    assert cuda() == "gpurack-cuda 100 0\n"


def test_probe_says_the_versions_of_libcuda_and_image(
    gpus: SimulatedGpus, cuda: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.cuda(0, 0, 12040)
    monkeypatch.setenv("CUDA_VERSION", "13.0.2")
    assert cuda() == "gpurack-cuda 0 4\ngpurack-cuda-versions 12 13.0.2\n"
    assert fault(cuda(), 4, official=True) == f"CUDA error 35: {REFUSED[35]}"


def test_libcuda_says_the_version_of_a_test(gpus: SimulatedGpus, library: Path, cuda: Callable[[], str]) -> None:
    said = f"""import ctypes
cuda, version, count = ctypes.CDLL("{library}/libcuda.so.1"), ctypes.c_int(), ctypes.c_int(7)
print(cuda.cuDriverGetVersion(ctypes.byref(version)), version.value, cuda.cuDeviceGetCount(ctypes.byref(count)))"""
    for number in (13000, 12080):
        gpus.cuda(0, 0, number)
        done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
        assert done.stdout == f"0 {number} 3\n"


# --- tests/device: what is sent to a machine with a real GPU ----------------------------------------------------------

ID = "4f9677b55ae0c3a0c9f9a84096bc0d6929f1d5a72158b6208afbc2090a479ae3"
DOCKER = """\
case "$*" in
import*) cat >"$STATE/image" ;;
*--list-devices) cat "$STATE/listed" ;;
"run --detach"*) python3 "$STATE/server" >/dev/null 2>&1 & read -r id <"$STATE/id"; echo "$id"; sh "$STATE/use" $! ;;
"rm --force"*) ! [ -e "$STATE/pid" ] || kill "$(cat "$STATE/pid")" ;;
esac"""
SERVER = """\
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.do_GET()
        self.wfile.write(b'{"choices": [{"message": {"content": "Alpha speaks."}}]}')
http.server.HTTPServer(("127.0.0.1", PORT), Answer).serve_forever()"""
LISTED = "Available devices:\n  CUDA0: NVIDIA A30 (24576 MiB, 24276 MiB free)\n"


@pytest.fixture
def checked(
    root: Path,
    gpus: SimulatedGpus,
    fakes: Fakes,
    cuda: Callable[[], str],
    free_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[list[str], list[str]]]:
    """Run tests/device/check.py's program on the simulated machine, with a fake Docker; return what is read of it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    state = tmp_path / "fakes/state"
    fakes.add("nvidia-smi", f'exec {files()["/usr/bin/nvidia-smi"][0]} "$@"')
    fakes.add("docker", DOCKER)
    fakes.add("unshare", 'shift 3; exec "$@"')
    fakes.state("server", SERVER.replace("PORT", str(free_port)))
    fakes.state("use", f'echo $1 >{state}/pid; {files()[GPUSIM][0]} use 0 900 "$1" 0')
    around = f"/docker/{'a' * 64}"  # the host may be a container itself
    fakes.state("cgroup", f"4:memory:{around}\n0::{around}/system.slice/docker-{ID}.scope\n")
    fakes.state("id", ID)
    fakes.state("listed", LISTED)
    program = without_parts(check.make(), "NVIDIA").replace("have gzip", "false")
    program = program.replace("/proc/driver", f"{root}/proc/driver")
    program = program.replace("/proc/$1/cgroup", f"{state}/cgroup").replace("PORT=8080", f"PORT={free_port}")

    def run(*brought: str) -> tuple[list[str], list[str]]:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run(["sh", "-s", str(out), *brought], input=program, text=True, check=False, timeout=120)
        for name in ("snapshot", "serving"):
            if (out / name).exists():
                (out / name).write_text((out / name).read_text().replace(str(root), ""))
        return check.read(out)

    return run


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_check_of_a_real_machine_without_docker(
    gpus: SimulatedGpus, checked: Callable[..., tuple[list[str], list[str]]], tmp_path: Path
) -> None:
    seen, faults = checked()
    assert seen[0] == f"GPU 0: NVIDIA A30, 24576 MiB, 8.0, {gpus.uuids[0]}"
    assert (seen[4:], faults) == (
        [f"driver {DRIVER_VERSION}, nvidia-smi exits with 0", "no container was started"], [],
    )  # fmt: skip
    facts = (tmp_path / "out/facts").read_text()
    assert all(f"$ {fact}\n" in facts for fact in check.FACTS)
    gpus.cuda(999)
    assert checked()[1] == ["the probe: CUDA error 999: unknown error"]
    (tmp_path / "out/probe").write_text("OSError: libcuda.so.1")
    assert check.read(tmp_path / "out")[1] == ["the probe printed no result: OSError: libcuda.so.1"]


def test_check_of_a_real_machine_serves_a_model_in_its_docker(
    gpus: SimulatedGpus,
    checked: Callable[..., tuple[list[str], list[str]]],
    fakes: Fakes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The container is given the GPU in gpurack's own words."""
    monkeypatch.setenv("IMAGE", "server:1")
    monkeypatch.setenv("MODEL", "/models/alpha.gguf")
    first = gpus.uuids[0]
    seen, faults = checked()
    assert (seen[5:], faults) == (["the model answered: Alpha speaks.", f"it has 900 MiB on {first}"], [])
    given = f"--device nvidia.com/gpu={first} --security-opt no-new-privileges:true server:1"
    [listing, serving] = [call for call in fakes.calls if call.startswith("docker run")]
    assert listing == f"docker run --rm --network none {given} --list-devices"
    assert f"--volume /models/alpha.gguf:/weights/a.gguf:ro {given} --model /weights/a.gguf " in serving
    assert serving.endswith("--n-gpu-layers 999")
    fakes.state("use", f"echo $1 >{fakes.folder}/state/pid")
    assert checked()[1] == ["the model has no memory on a GPU"]
    fakes.state("listed", "ggml_cuda_init: failed to initialize CUDA: unknown error\n" + LISTED.splitlines()[0])
    assert checked()[1][0] == "the probe in a container: CUDA error 999: unknown error"
    fakes.state("server", "raise SystemExit")
    fakes.add("timeout", 'case $2 in python3) echo "no answer"; exit 124;; esac; shift; exec "$@"')
    assert checked()[1] == ["answer ended with 124: no answer"]


def test_check_of_a_real_machine_brings_docker_and_compiles_llama_cpp(
    gpus: SimulatedGpus,
    checked: Callable[..., tuple[list[str], list[str]]],
    fakes: Fakes,
    library: Path,
    tmp_path: Path,
) -> None:
    brought = tmp_path / "brought"
    for path in ("root/usr/lib/libc.so.6", "root/usr/bin/busybox", "source/CMakeLists.txt"):
        (brought / path).parent.mkdir(parents=True, exist_ok=True)
        (brought / path).touch()
    for link in ("bin", "lib", "lib64"):
        (brought / "root" / link).symlink_to("usr/lib")
    for name in ("root", "source"):
        with tarfile.open(brought / f"{name}.tar.xz", "w:xz") as tar:
            tar.add(brought / name, ".")
    (brought / "alpha.gguf").touch()
    (library / "libnvidia-ml.so.1").touch()
    (library / "libcublas.so.13").write_text("cublas")
    fakes.add("mount", "")
    fakes.add("umount", "exit 1")  # nothing is mounted
    fakes.add("chroot", 'echo "$1" >"$STATE/root"; shift; exec "$@"')
    fakes.add("dockerd", "exec sleep infinity")
    fakes.add("cmake", 'case $1 in --build) mkdir -p "$2/bin"; echo >"$2/bin/llama-server" ;; esac')
    fakes.state("linked", f"libcublas.so.13 => {library}/libcublas.so.13 (0x0)\nlibc.so.6 => /lib/libc.so.6 (0x0)\n")
    fakes.add("ldd", 'cat "$STATE/linked"')
    seen, faults = checked(str(brought))
    assert (seen[5:], faults) == (["the model answered: Alpha speaks.", f"it has 900 MiB on {gpus.uuids[0]}"], [])
    here = Path((fakes.folder / "state/root").read_text().strip())
    spec = host_data.yaml_from_host((here / "etc/cdi/nvidia.yaml").read_text())
    assert (spec["kind"], [device["name"] for device in spec["devices"]]) == ("nvidia.com/gpu", [gpus.uuids[0]])
    assert {path.name for path in (here / "driver").iterdir()} == {
        "libcuda.so.1", "libnvidia-ml.so.1", "libcublas.so.13",
    }  # fmt: skip
    with tarfile.open(fakes.folder / "state/image") as image:
        assert {"app/llama-server", "usr/lib/libc.so.6", "usr/bin/busybox"} <= set(image.getnames())
    built = next(call for call in fakes.calls if call.startswith("cmake -S"))
    assert "-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=80 " in built
    fakes.add("cmake", "echo 'No CUDA compiler was found'; exit 1")
    assert checked(str(brought))[1] == ["compile ended with 1: No CUDA compiler was found"]


def test_sources_of_llama_cpp_are_packed_without_what_its_server_does_not_need(tmp_path: Path) -> None:
    top = "llama_cpp_python-0.3.36/vendor/llama.cpp"
    paths = ("CMakeLists.txt", "ggml/src/ggml.c", "ggml/src/ggml-cuda/a.cu", "ggml/src/ggml-sycl/a.cpp", "docs/a.md")
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as whole:
        others = ("llama_cpp/llama.py", ".git/modules/vendor/llama.cpp/objects/pack/a.pack")
        for name in (*(f"{top}/{path}" for path in paths), *(f"llama_cpp_python-0.3.36/{path}" for path in others)):
            whole.addfile(tarfile.TarInfo(name), io.BytesIO())
    bring.pack(tmp_path / "whole.tar.gz", tmp_path / "part.tar.xz")
    with tarfile.open(tmp_path / "part.tar.xz") as part:
        assert part.getnames() == list(paths[:3])


def test_container_sees_its_gpus(root: Path, gpus: SimulatedGpus, smi: Smi) -> None:
    # A container has no /proc/driver/nvidia and only some of the nodes, and numbers its cards from 0.
    (root / "proc/driver/nvidia/version").unlink()
    for given_away in (0, 2):
        (root / f"dev/nvidia{given_away}").unlink()
    gpus_given = [gpus.uuids[1], gpus.uuids[3]]
    assert csv(smi, "index,uuid") == [["0", gpus_given[0]], ["1", gpus_given[1]]]
    (root / "dev/nvidiactl").unlink()
    assert smi("-L").returncode == 9


def test_host_image_gets_existing_files() -> None:
    assert all(source.is_file() for source, _ in files().values())
    assert all(f"/usr/lib/systemd/system/{unit}" in files() for unit in UNITS)
