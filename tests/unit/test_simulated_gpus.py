"""The simulated driver: nvidia-smi answers like the real one, and the tests' control changes its answers."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpurack.cuda_faults import REFUSED, fault
from gpurack.engines.probes import PYTHON
from gpurack.facts.model import HostFacts
from gpurack.facts.nvidia import JETSON
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.questions import questions
from tests.device import check
from tests.given import models
from tests.testbed.gpu import DRIVER_VERSION, MACHINES, UNITS, SimulatedGpus, compile_libcuda, files
from tests.unit.host_programs import Fakes, plain, without_parts

GPUSIM = "/usr/lib/gpusim/gpusim"
Smi = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUSIM_ROOT", str(tmp_path))
    monkeypatch.setenv("GPUSIM_HOST", "gpu1")
    subprocess.run([files()[GPUSIM][0], "boot"], check=True)
    return tmp_path


@pytest.fixture
def gpus(root: Path) -> Iterator[SimulatedGpus]:
    """The control of a simulated host in a folder of this machine."""

    def as_root(command: str) -> str:
        here = command.replace(GPUSIM, str(files()[GPUSIM][0])).replace("/var/lib/gpusim", f"{root}/var/lib/gpusim")
        return subprocess.run(here, shell=True, capture_output=True, text=True, check=True).stdout

    control = SimulatedGpus(as_root)
    yield control
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
    assert (state.trouble, state.unread) == ("", ())
    assert {
        "code": state.driver.exit_code,
        "gpus": [
            f"{gpu.index} {gpu.name} {gpu.memory_total} {gpu.compute or '-'}"
            + "".join(f" {word}" for word in ("unified", "mig") if getattr(gpu, word))
            + (f" {gpu.fault}" if gpu.fault else "")
            for gpu in state.gpus
        ],
    } == SEEN[machine]


A30 = "NVIDIA A30 24576 8.0"
SEEN = {
    "gb10": {"code": 0, "gpus": ["0 NVIDIA GB10 None 12.1 unified"]},
    "gh200": {"code": 0, "gpus": ["0 NVIDIA GH200 480GB 97871 9.0"]},
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


def test_libcuda_says_the_version_of_a_test(gpus: SimulatedGpus, library: Path, cuda: Callable[[], str]) -> None:
    said = f"""import ctypes
cuda, version, count = ctypes.CDLL("{library}/libcuda.so.1"), ctypes.c_int(), ctypes.c_int(7)
print(cuda.cuDriverGetVersion(ctypes.byref(version)), version.value, cuda.cuDeviceGetCount(ctypes.byref(count)))"""
    for number in (13000, 12080):
        gpus.cuda(0, 0, number)
        done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
        assert done.stdout == f"0 {number} 3\n"


def test_check_of_a_real_machine_runs_on_the_simulated_one(
    root: Path, gpus: SimulatedGpus, fakes: Fakes, cuda: Callable[[], str], tmp_path: Path
) -> None:
    """tests/device/check.py, whose program and reader are the ones for a machine with a GPU."""
    fakes.add("nvidia-smi", f'exec {files()["/usr/bin/nvidia-smi"][0]} "$@"')
    program = without_parts(check.make(), "NVIDIA").replace("/proc/driver", f"{root}/proc/driver")

    def checked() -> tuple[list[str], list[str]]:
        subprocess.run(["sh", "-s", str(tmp_path / "out")], input=program, text=True, check=True, timeout=60)
        said = "\n".join(plain((tmp_path / "out/snapshot").read_text()))
        (tmp_path / "out/snapshot").write_text(said.replace(str(root), ""))
        return check.read(tmp_path / "out")

    seen, faults = checked()
    assert seen[0] == f"GPU 0: NVIDIA A30, 24576 MiB, 8.0, {gpus.uuids[0]}"
    assert (seen[4:], faults) == ([f"driver {DRIVER_VERSION}, nvidia-smi exits with 0"], [])
    facts = (tmp_path / "out/facts").read_text()
    assert all(f"$ {fact}\n" in facts for fact in check.FACTS)
    gpus.cuda(999)
    assert checked()[1] == ["the probe: CUDA error 999: unknown error"]
    (tmp_path / "out/probe").write_text("OSError: libcuda.so.1")
    assert check.read(tmp_path / "out")[1] == ["the probe printed no result: OSError: libcuda.so.1"]


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
