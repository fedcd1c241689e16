"""The simulated driver: nvidia-smi answers like the real one, and the tests' control changes its answers."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.testbed.gpu import DRIVER_VERSION, UNITS, SimulatedGpus, files

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


def test_late_driver_is_missing_at_boot(root: Path, gpus: SimulatedGpus, smi: Smi) -> None:
    gpus.late(60)
    assert smi("-L").returncode == 0  # only after the next boot
    boot(root)
    done = smi("-L")
    assert done.returncode == 9
    assert done.stdout.startswith("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    boot(root)
    assert smi("-L").returncode == 0


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
