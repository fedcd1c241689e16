"""The GPU part of files/snapshot.sh: what it asks nvidia-smi, and what it finds below /sys, /dev and /lib."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gpurack.facts.gpus import CdiSpec, Module, PciGpu
from gpurack.facts.model import HostFacts
from gpurack.facts.sections import MARK, split, unpacked
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.questions import questions
from tests.given import models
from tests.sampling import sample
from tests.unit.host_programs import SHELLS, Fakes, without_parts

pytestmark = pytest.mark.sampled

ROW = "{index}, GPU-{index}, NVIDIA A30, 24576, 0, 580.95.05, Disabled, 00000000:17:00.0, 0" + ", [N/A]" * 9 + ", 8.0"
A100 = (
    "0, GPU-a, NVIDIA A100-SXM4-40GB, 40960, 0, 580.95.05, Enabled, 00000000:17:00.0, [N/A]" + ", [N/A]" * 9 + ", 8.0"
)
SPEC = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - major: 510
      minor: 0
      path: /dev/nvidia-uvm
  name: "GPU-a"
containerEdits:
  hooks:
  - hookName: createContainer
    path: ROOT/nvidia-cdi-hook
  mounts:
  - hostPath: ROOT/libcuda.so.580.95.05
    containerPath: /usr/lib/libcuda.so.580.95.05
"""


def seen(root: Path, shell: list[str] | None = None) -> HostFacts:
    """What the NVIDIA part of a snapshot finds on a host with the files below root."""
    return Snapshot().process(output(root, shell))


def output(root: Path, shell: list[str] | None = None) -> list[str]:
    """The lines that it prints."""
    text = without_parts(script(questions(models(alpha={}))), "NVIDIA")
    for path in (
        "/sys/bus/pci",
        "/lib/modules",
        "/proc/driver/nvidia",
        "/sys/firmware",
        "/etc/cdi",
        "/var/run/cdi",
        "/dev/nvhost",
        "/usr/lib",
    ):
        text = text.replace(path, f"{root}{path}")
    done = subprocess.run(
        [*(shell or ["sh"]), "-s"], input=text, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def smi_calls(fakes: Fakes) -> list[str]:
    return [call.partition(" ")[2] for call in fakes.calls if call.startswith("nvidia-smi ")]


@pytest.mark.parametrize("shell", sample(SHELLS, "asks_nvidia_smi_three_times"), ids=lambda shell: shell[0])
def test_asks_nvidia_smi_three_times(fakes: Fakes, tmp_path: Path, shell: list[str]) -> None:
    row = ROW.format(index=0)
    fakes.add("nvidia-smi", f"case $1 in --query-gpu*) echo '{row}';; *remapped*) echo 'GPU-0, 0, 0, Yes, No';; esac")
    (gpu,) = seen(tmp_path, shell).gpus
    assert (gpu.memory_total, gpu.compute, gpu.details.remap_pending) == (24576, "8.0", True)
    assert sorted(call.partition("=")[0] for call in smi_calls(fakes)) == [
        "--query-compute-apps", "--query-gpu", "--query-remapped-rows",
    ]  # fmt: skip


def answering(*unknown: str, **values: str) -> str:
    """An nvidia-smi that does not know some fields. values: of fields, without their dots; others are 1."""
    known = {"index": "0", "uuid": "GPU-a", "name": "Tesla V100, of a kind", **values}
    cases = " ".join(f"{field}) v='{value}';;" for field, value in known.items())
    refuses = "".join(
        f"*{field}*) echo 'Field \"{field}\" is not a valid field to query.'; exit 2;; " for field in unknown
    )
    row = f'for field in $(echo "${{1#*=}}" | tr , \' \'); do v=1; case $field in {cases} esac; row="$row, $v"; done'
    return f"case $1 in {refuses}--query-gpu*) row=''; {row}; echo \"${{row#, }}\";; esac"


NEWER = ("clocks_event_reasons", "reset_required", "fabric", "addressing_mode")


@pytest.mark.parametrize("shell", sample(SHELLS, "asks_an_old_driver_once_more"), ids=lambda shell: shell[0])
@pytest.mark.parametrize(
    ("version", "unknown", "queries", "compute", "throttle"),
    [
        ("580.159.04", (), 1, "8.0", 4),
        ("550.163.01", (), 1, "8.0", 4),
        ("535.288.01", NEWER, 2, "8.0", 4),
        ("470.256.02", (*NEWER, "compute_cap"), 2, "", 4),
        ("", (), 1, "8.0", 4),
        ("", NEWER, 2, "8.0", None),  # WSL
        ("", ("compute_cap", *NEWER), 2, "", None),
        ("", (*NEWER, "compute_cap"), 3, "", None),  # it does not name the first
        ("900.1.1", ("reset_status.reset_required", "clocks_throttle"), 2, "8.0", 4),  # it no longer knows a field
        ("900.1.1", ("addressing_mode",), 2, "8.0", 4),
        ("900.1.1", ("compute_cap",), 2, "", 4),
        ("900.1.1", ("reset_status.reset_required", "fabric.state"), 3, "8.0", None),
        ("900.1.1", ("reset_required",), 2, "8.0", None),  # it names none that was asked
    ],
)
def test_asks_a_driver_that_does_not_know_a_field_once_more(
    fakes: Fakes,
    tmp_path: Path,
    version: str,
    unknown: tuple[str, ...],
    queries: int,
    compute: str,
    throttle: int | None,
    shell: list[str],
) -> None:
    values = {"compute_cap": "8.0", "temperature.gpu": "61"}
    values |= {f"clocks_{kind}_reasons.active": "0x0000000000000004" for kind in ("event", "throttle")}
    fakes.add("nvidia-smi", answering(*unknown, **values))
    if version:
        line = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Release Build\n"
        write(tmp_path / "proc/driver/nvidia/version", line)
    state = seen(tmp_path, shell)
    (gpu,) = state.gpus
    assert (gpu.uuid, gpu.name, gpu.memory_total, gpu.temperature) == ("GPU-a", "Tesla V100, of a kind", 1, 61)
    assert (gpu.compute, gpu.details.throttle, state.driver.exit_code) == (compute, throttle, 0)
    assert sum(call.startswith("--query-gpu") for call in smi_calls(fakes)) == queries


@pytest.mark.parametrize(
    "shell", sample(SHELLS, "an_old_driver_costs_the_time_of_one_query"), ids=lambda shell: shell[0]
)
def test_an_old_driver_costs_the_time_of_one_query(fakes: Fakes, tmp_path: Path, shell: list[str]) -> None:
    """Both queries run at once: each waits until the other one has begun."""
    queries = 'case $1 in --query-gpu*) ;; *) exit;; esac; echo >"$STATE/begun.$$"; '
    queries += 'until set -- "$1" "$STATE"/begun.*; [ $# = 3 ]; do sleep 0.02; done; '
    fakes.state("any", "")
    fakes.add("nvidia-smi", queries + answering())
    write(tmp_path / "proc/driver/nvidia/version", "NVIDIA UNIX x86_64 Kernel Module  470.256.02\n")
    assert [gpu.uuid for gpu in seen(tmp_path, shell).gpus] == ["GPU-a"]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize("version", ["535.288.01", "580.95.05"])
def test_a_damaged_infoROM_hides_no_value(fakes: Fakes, tmp_path: Path, version: str, shell: list[str]) -> None:
    """Each query then has its rows, a warning before or after them, and exit code 14."""
    values = answering(compute_cap="8.0")
    remapped = "*remapped*) echo 'GPU-a, 0, 0, Yes, No'; echo 'WARNING: infoROM is corrupted'; exit 14;; "
    told = values.replace("case $1 in ", f"echo 'WARNING: infoROM is corrupted'; case $1 in {remapped}", 1)
    fakes.add("nvidia-smi", f"{told}; exit 14")
    write(tmp_path / "proc/driver/nvidia/version", f"NVIDIA UNIX x86_64 Kernel Module  {version}\n")
    write(tmp_path / "proc/driver/nvidia/gpus/0000:17:00.0/information", "GPU UUID: \t GPU-a\n")
    state = seen(tmp_path, shell)
    (gpu,) = state.gpus
    assert (gpu.compute, gpu.details.remap_pending, gpu.memory_total) == ("8.0", True, 1)
    assert (state.driver.exit_code, state.driver.message) == (14, "WARNING: infoROM is corrupted")


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_a_lost_gpu_takes_no_value_from_others_with_an_old_driver(
    fakes: Fakes, tmp_path: Path, shell: list[str]
) -> None:
    """By its compute capability an image is chosen: without it, models on other GPUs would be recreated."""
    write(tmp_path / "proc/driver/nvidia/version", "NVIDIA UNIX x86_64 Kernel Module  535.288.01\n")
    for index in range(3):
        write(tmp_path / f"proc/driver/nvidia/gpus/0000:0{index}:00.0/information", f"GPU UUID: \t GPU-{index}\n")
    rows = "".join(
        f'*-i*0{index}:00.0*uuid,compute_cap*) echo "GPU-{index}, 8.6, 0x0000000000000001";; '
        f"*-i*0{index}:00.0*) echo '{ROW.format(index=index).rpartition(',')[0]}';; "
        for index in (0, 2)
    )
    first = "--query-gpu=uuid,compute_cap*) echo 'GPU-0, 8.6, 0x0000000000000001'; echo 'GPU is lost'; exit 15;; "
    fakes.add("nvidia-smi", f"case \"$*\" in {rows}{first}*) echo 'GPU is lost'; exit 15;; esac")
    state = seen(tmp_path, shell)
    assert [(gpu.uuid, gpu.compute, gpu.details.throttle) for gpu in state.gpus] == [
        ("GPU-0", "8.6", 1), ("GPU-2", "8.6", 1)
    ]  # fmt: skip
    assert state.driver.exit_code == 15


def test_rows_of_a_failed_query_are_kept_and_its_error_is_quoted(fakes: Fakes, tmp_path: Path) -> None:
    rows = "\n".join(ROW.format(index=index) for index in range(2))
    answer = f"{rows}\nWARNING: infoROM is corrupted at gpu 0000:17:00.0"
    fakes.add("nvidia-smi", f"case $1 in --query-gpu*) echo '{answer}'; exit 14;; esac")
    state = seen(tmp_path)
    assert [gpu.uuid for gpu in state.gpus] == ["GPU-0", "GPU-1"]
    assert (state.driver.exit_code, state.driver.message) == (14, "WARNING: infoROM is corrupted at gpu 0000:17:00.0")


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_a_query_that_a_lost_gpu_cuts_short_costs_that_gpu_alone(
    fakes: Fakes, tmp_path: Path, shell: list[str]
) -> None:
    for index in range(3):
        write(tmp_path / f"proc/driver/nvidia/gpus/0000:0{index}:00.0/information", f"GPU UUID: \t GPU-{index}\n")
    rows = "".join(f"*-i*0{index}:00.0*) echo '{ROW.format(index=index)}';; " for index in (0, 2))
    first = f"--query-gpu*) echo '{ROW.format(index=0)}'; echo 'GPU is lost'; exit 15;; "
    fakes.add("nvidia-smi", f'case "$*" in {rows}{first}*) exit 15;; esac')
    state = seen(tmp_path, shell)
    assert [gpu.uuid for gpu in state.gpus] == ["GPU-0", "GPU-2"]
    assert (state.driver.exit_code, state.driver.message) == (15, "GPU is lost")


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_no_program_reads_the_name_of_each_gpu(fakes: Fakes, tmp_path: Path, shell: list[str]) -> None:
    for name in ("sed", "stat", "cat", "grep", "head", "tr"):
        fakes.add(name, f'exec {shutil.which(name)} "$@"')
    started = []
    for index in range(3):
        text = f"Model: \t\t NVIDIA A30\nGPU UUID: \t GPU-{index}\nVideo BIOS: \t ??.??.??.??.??\n"
        write(tmp_path / f"proc/driver/nvidia/gpus/0000:0{index}:00.0/information", text)
        before = len(fakes.calls)
        lines = output(tmp_path, shell)
        mark = next(line for line in lines if line.startswith(MARK))[len(MARK) :]
        assert split(unpacked(lines, mark), mark)["pci"] == [
            f"{tmp_path}/proc/driver/nvidia/gpus/0000:0{number}:00.0/information|GPU-{number}"
            for number in range(index + 1)
        ]
        started.append(len(fakes.calls) - before)
    assert len(set(started)) == 1


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_a_row_that_is_cut_short_is_a_broken_gpu(fakes: Fakes, tmp_path: Path, shell: list[str]) -> None:
    fakes.add("nvidia-smi", f"case $1 in --query-gpu*) echo '{ROW.format(index=0)}'; echo '1, GPU-1, NVIDIA';; esac")
    state = seen(tmp_path, shell)
    assert [(gpu.uuid, bool(gpu.fault)) for gpu in state.gpus] == [("GPU-0", False), ("GPU-1", True)]
    assert (state.driver.exit_code, state.driver.message) == (0, "")


def test_a_gpu_that_the_module_excludes_is_not_lost(fakes: Fakes, tmp_path: Path) -> None:
    for index, excluded in enumerate(("No", "Yes")):
        text = f"Model: \t A30\nGPU UUID: \t GPU-{index}\nGPU Excluded:\t {excluded}\n"
        write(tmp_path / f"proc/driver/nvidia/gpus/0000:0{index}:00.0/information", text)
    fakes.add("nvidia-smi", f"case $1 in --query-gpu*) echo '{ROW.format(index=0)}';; esac")
    state = seen(tmp_path)
    # below another root a line of /proc is none, so what is printed of it is counted
    assert ([gpu.uuid for gpu in state.gpus], "(pci 1)" in state.unread[0]) == (["GPU-0"], True)


def test_words_without_rows_are_quoted_whatever_the_exit_code(fakes: Fakes, tmp_path: Path) -> None:
    fakes.add("nvidia-smi", "case $1 in --query-gpu*) echo 'No devices were found';; esac")
    state = seen(tmp_path)
    assert (state.gpus, state.driver.exit_code, state.driver.message) == ((), 0, "No devices were found")


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (6, ["No devices were found"]),
        (9, ["NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
             "NVIDIA driver is installed and running.", ""]),
        (12, ["NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure, that it is there."]),
        (18, ["Failed to initialize NVML: Driver/library version mismatch", "NVML library version: 580.95"]),
        (255, ["Unable to determine the device handle for GPU0000:17:00.0: Unknown Error"]),
    ],
)  # fmt: skip
def test_what_nvidia_smi_says_of_its_failure_is_no_list_of_processes(
    fakes: Fakes, tmp_path: Path, code: int, said: list[str], shell: list[str]
) -> None:
    """It prints its errors where it prints its answers."""
    write(tmp_path / "said", "".join(f"{line}\n" for line in said))
    fakes.add("nvidia-smi", f"cat {tmp_path}/said; exit {code}")
    state = seen(tmp_path, shell)
    assert (state.driver.exit_code, state.driver.message) == (code, " ".join(said).strip())
    assert (state.gpu_processes, state.unread) == ((), ())


def test_processes_of_gpus_and_instances_are_read(fakes: Fakes, tmp_path: Path) -> None:
    rows = "GPU-0, 999999991, 300\\nMIG-e07a, 999999992, [N/A]\\na9485f58-1111-2222-3333-444444444444, 999999993, 5\\n"
    fakes.add("nvidia-smi", f"case $1 in --query-compute-apps*) printf '{rows}';; esac")
    state = seen(tmp_path)
    assert [(one.uuid[:8], one.memory) for one in state.gpu_processes] == [
        ("GPU-0", 300), ("MIG-e07a", None), ("a9485f58", 5)
    ]  # fmt: skip


def test_the_library_is_the_one_that_programs_load(fakes: Fakes, tmp_path: Path) -> None:
    """Older ones may be left beside it, and i386's."""
    write(tmp_path / "proc/driver/nvidia/version", "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05\n")
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    for name in (f"{folder}/libnvidia-ml.so.550.163.01", f"{folder}/nvidia/current/libnvidia-ml.so.580.95.05"):
        write(Path(name), "")
    write(tmp_path / "usr/lib/i386-linux-gnu/libnvidia-ml.so.535.1", "")
    (folder / "nvidia/current/libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.95.05")
    (folder / "libnvidia-ml.so.1").symlink_to(folder / "nvidia/current/libnvidia-ml.so.1")
    fakes.add("uname", "[ $1 = -m ] && echo x86_64 || echo 6.12")
    assert seen(tmp_path).driver.library == "580.95.05"


def test_lists_mig_instances_only_of_gpus_in_mig_mode(fakes: Fakes, tmp_path: Path) -> None:
    listed = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-a)\n  MIG 3g.20gb     Device  0: (UUID: MIG-e07a497d)"
    fakes.add("nvidia-smi", f"case $1 in --query-gpu*) echo '{A100}';; -L) echo '{listed}';; esac")
    assert [(gpu.uuid, gpu.mig, gpu.parent) for gpu in seen(tmp_path).gpus] == [
        ("GPU-a", True, ""),
        ("MIG-e07a497d", False, "GPU-a"),
    ]


def test_finds_gpus_that_no_driver_has(fakes: Fakes, tmp_path: Path) -> None:
    for slot, device_class, vendor, device in (
        ("17:00.0", "0x030200", "0x10de", "0x20b7"),
        ("05:00.0", "0x068000", "0x10de", "0x22a3"),
        ("06:00.0", "0x068000", "0x10de", "0x1234"),  # a bridge of NVIDIA's, and no NVSwitch
        ("03:00.0", "0x030000", "0x1002", "0x73bf"),
    ):
        folder = tmp_path / f"sys/bus/pci/devices/0000:{slot}"
        write(folder / "vendor", f"{vendor}\n")
        write(folder / "class", f"{device_class}\n")
        write(folder / "device", f"{device}\n")
    driver = tmp_path / "sys/bus/pci/drivers/nouveau"
    driver.mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices/0000:17:00.0/driver").symlink_to(driver)
    fakes.add("dmesg", "echo '2026-11-20T02:11:09,1+00:00 NVRM: Xid (0000:17:00): 31, pid=7'")
    state = seen(tmp_path).driver
    assert (state.bus, state.switches) == ({"0000:17:00.0": PciGpu("0x20b7", "nouveau")}, 1)
    assert [(xid.pci, xid.number) for xid in state.xids] == [("0000:17:00", 31)]


def test_text_of_users_in_the_kernels_log_is_not_the_drivers(fakes: Fakes, tmp_path: Path) -> None:
    """Any user can have overlayfs print a path, also with newlines, or crash a program of any name."""
    write(tmp_path / "proc/driver/nvidia/version", "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05\n")
    time = "2026-11-20T02:11:09,123456+01:00"
    xid, refuses = "NVRM: Xid (PCI:0000:17:00): 79, GPU has fallen off", "NVRM: The NVIDIA GPU is not supported by open"
    lines = [
        f"{time} {xid}",
        f"{time} NVRM: The NVIDIA GPU 0000:19:00.0",
        f"{'':>33}NVRM: fallen off the bus and is not responding to commands.",
        *[f"{time} overlayfs: failed to resolve '/{xid}\n{'':>33}{refuses}\n{'':>33}': -2"] * 300,
        f"{time} overlayfs: failed to resolve '/{refuses}': -2",
        "[   12.5] nvidia-nvswitch3: Version mismatch, of an old dmesg",
        f"{time} [ T4711] NVRM: Xid (PCI:0000:31:00): 48, of a kernel that logs callers",
        f"{time} [ T4711] overlayfs: failed to resolve '/{xid}': -2",
    ]
    write(tmp_path / "log", "\n".join(lines) + "\n")
    fakes.add("dmesg", f"cat {tmp_path}/log")
    state = seen(tmp_path).driver
    assert [(found.pci, found.number) for found in state.xids] == [
        ("0000:17:00", 79), ("0000:19:00", 79), ("0000:31:00", 48),
    ]  # fmt: skip
    assert [text for text in state.log if "fallen" not in text] == [
        "The NVIDIA GPU 0000:19:00.0", "Version mismatch, of an old dmesg"
    ]  # fmt: skip


def test_finds_a_jetson_without_nvidia_smi(fakes: Fakes, tmp_path: Path) -> None:
    assert seen(tmp_path).driver.platform == ""
    write(tmp_path / "dev/nvhost-ctrl-gpu", "")
    assert seen(tmp_path).driver.platform == "jetson"


def test_finds_the_module_of_each_kernel(fakes: Fakes, tmp_path: Path) -> None:
    write(tmp_path / "proc/driver/nvidia/version", "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05\n")
    dependencies = "updates/dkms/nvidia-drm.ko.zst: updates/dkms/nvidia.ko.zst\nupdates/dkms/nvidia.ko.zst:\n"
    write(tmp_path / "lib/modules/6.12.0-1/modules.dep", dependencies)
    write(tmp_path / "lib/modules/6.12.0-2/modules.dep", "kernel/drivers/net/e1000.ko:\n")
    write(tmp_path / "lib/modules/6.12.0-3/modules.dep", "updates/dkms/nvidia-current-open.ko: \n")
    for kernel in ("1", "2", "3"):
        (tmp_path / f"lib/modules/6.12.0-{kernel}/kernel").mkdir()
    (tmp_path / "lib/modules/6.12.0-4").mkdir()  # left by a kernel that was removed
    fakes.add("mokutil", "echo 'SecureBoot enabled'")
    fakes.add("modinfo", "printf 'version:        580.95.05\\nlicense:        Dual MIT/GPL\\nsigner:         A key\\n'")
    state = seen(tmp_path).driver
    assert state.modules == {
        "6.12.0-1": Module("nvidia", "580.95.05", open=True, signer="A key"),
        "6.12.0-2": None,
        "6.12.0-3": Module("nvidia-current-open", "580.95.05", open=True, signer="A key"),
    }
    assert (state.open, state.secure_boot) == (True, True)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("kernel/nvidia-580srv-open/nvidia.ko.zst: kernel/drivers/acpi/video.ko.zst", "nvidia"),  # Ubuntu's
        ("extra/nvidia/nvidia.ko.xz: kernel/drivers/acpi/video.ko.xz", "nvidia"),  # RPM
        ("weak-updates/nvidia/nvidia.ko:", "nvidia"),
        ("nvidia.ko.gz:", "nvidia"),
        ("updates/dkms/nvidia-current.ko.xz:", "nvidia-current"),  # Debian's
        ("updates/dkms/nvidia-tesla-535.ko:", "nvidia-tesla-535"),
        ("updates/dkms/nvidia-legacy-390xx.ko:", "nvidia-legacy-390xx"),
        ("updates/dkms/nvidia-tesla-535-uvm.ko: updates/dkms/nvidia-tesla-535.ko", ""),
        (
            "updates/dkms/nvidia-current-drm.ko: updates/dkms/nvidia-current-modeset.ko updates/dkms/nvidia-current.ko",
            "",
        ),
        ("kernel/drivers/platform/x86/nvidia-wmi-ec-backlight.ko: kernel/drivers/acpi/wmi.ko", ""),
        ("updates/dkms/nvidia-uvm.ko: updates/dkms/nvidia.ko", ""),
        ("kernel/drivers/gpu/drm/nouveau/nouveau.ko:", ""),
        ("kernel/drivers/video/fbdev/nvidia/nvidiafb.ko:", ""),
    ],
)
def test_a_module_is_found_by_each_name_and_path(fakes: Fakes, tmp_path: Path, line: str, name: str) -> None:
    write(tmp_path / "proc/driver/nvidia/version", "NVIDIA UNIX Open Kernel Module for aarch64  580.95.05\n")
    kernel = "5.14.0-570.el9_6.aarch64+64k"
    write(tmp_path / f"lib/modules/{kernel}/modules.dep", f"kernel/net/x.ko:\n{line}\n")
    (tmp_path / f"lib/modules/{kernel}/kernel").mkdir()
    fakes.add("modinfo", "printf 'version:        580.95.05\\nlicense:        NVIDIA\\n'")
    state = seen(tmp_path).driver
    assert (state.kernel, state.open) == ("580.95.05", True)
    assert state.modules == {kernel: Module(name, "580.95.05", open=False) if name else None}


@pytest.mark.parametrize(
    ("lines", "signer"),
    [
        ("signer:", ""),
        ("sig_id:         PKCS#7\\nsigner:         ", "PKCS#7"),
        ("signer:         A key", "A key"),
        ("", ""),
    ],
)
def test_a_signed_module_is_known_to_a_modinfo_that_cannot_read_signers(
    fakes: Fakes, tmp_path: Path, lines: str, signer: str
) -> None:
    write(tmp_path / "proc/driver/nvidia/version", "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05\n")
    write(tmp_path / "lib/modules/6.8.0-9/modules.dep", "kernel/nvidia.ko.zst:\n")
    (tmp_path / "lib/modules/6.8.0-9/kernel").mkdir()
    fakes.add("modinfo", f"printf 'version:        580.95.05\\n{lines}\\n'")
    assert seen(tmp_path).driver.modules == {"6.8.0-9": Module("nvidia", "580.95.05", None, signer)}


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("SecureBoot enabled", True),
        ("SecureBoot disabled", False),
        ("SecureBoot disabled\nPlatform is in Setup Mode", False),
        ("SecureBoot enabled\nSecureBoot validation is disabled in shim", False),
        ("EFI variables are not supported on this system", None),
        ("This system does not support Secure Boot", None),
        ('Failed to read "SecureBoot" variable: Operation not permitted', None),
        ("", None),
    ],
)
def test_secure_boot_in_all_words_of_mokutil(fakes: Fakes, tmp_path: Path, said: str, known: bool | None) -> None:
    write(tmp_path / "proc/driver/nvidia/version", "")
    write(tmp_path / "said", said)
    fakes.add("mokutil", f"cat {tmp_path}/said; exit 1")
    assert seen(tmp_path).driver.secure_boot is known


def test_secure_boot_is_read_from_the_firmware_without_mokutil(fakes: Fakes, tmp_path: Path) -> None:
    write(tmp_path / "proc/driver/nvidia/version", "")
    variable = tmp_path / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\x06\x00\x00\x00\x01")
    fakes.add("mokutil", "exit 1")
    assert seen(tmp_path).driver.secure_boot is True


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize(
    ("node", "gone"),
    [
        ("path: /dev/dri/card77", ("/dev/dri/card77",)),  # the graphics nodes are numbered anew at each boot
        ("path: /dev/dri/renderD77\n      hostPath: /dev/dri/renderD78", ("/dev/dri/renderD78",)),
        ("path: /dev/dri/card0\n      hostPath: /nowhere/card0", ("/nowhere/card0",)),
        ("hostPath: /dev/null\n      path: /dev/dri/card0", ()),
        ("path: /dev/null", ()),
        ("path: /dev/null\n      major: 1\n      minor: 3", ()),
    ],
)
def test_missing_nodes_of_cdi_specs_are_found_of_any_driver(
    fakes: Fakes, tmp_path: Path, node: str, gone: tuple[str, ...], shell: list[str]
) -> None:
    """Docker: failed to stat CDI host device "/dev/dri/card0": no such file or directory."""
    text = "kind: nvidia.com/gpu\ndevices:\n- name: GPU-a\n  containerEdits:\n    deviceNodes:\n    - NODE\n"
    write(tmp_path / "etc/cdi/nvidia.yaml", text.replace("NODE", node))
    (spec,) = seen(tmp_path, shell).driver.specs.values()
    assert (spec.nodes, spec.gone, spec.devices) == ({}, gone, frozenset({"GPU-a"}))


@pytest.mark.parametrize(
    "shell", sample(SHELLS, "reads_nodes_and_missing_paths_of_cdi_specs"), ids=lambda shell: shell[0]
)
@pytest.mark.parametrize("form", ["yaml", "json", "yaml of Windows"])
def test_reads_nodes_and_missing_paths_of_cdi_specs(fakes: Fakes, tmp_path: Path, form: str, shell: list[str]) -> None:
    text = SPEC.replace("ROOT", str(tmp_path))
    if form == "json":
        text = (
            '{"kind":"nvidia.com/gpu","devices":[{"name":"GPU-a","containerEdits":{"deviceNodes":[]}}],"containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0"},'
            '{"major":510,"minor":0,"path":"/dev/nvidia-uvm","type":"c"}],'
            f'"hooks":[{{"path":"{tmp_path}/nvidia-cdi-hook"}}],'
            f'"mounts":[{{"hostPath":"{tmp_path}/libcuda.so.580.95.05","containerPath":"/usr/lib/x"}}]}}}}'
        )
    if form.endswith("Windows"):
        text, form = ("# kind: x\n" + text).replace("\n", "\r\n"), "yaml"
    write(tmp_path / f"etc/cdi/nvidia.{form}", text)
    write(tmp_path / "nvidia-cdi-hook", "")
    ((path, spec),) = seen(tmp_path, shell).driver.specs.items()
    assert path.endswith(f"/etc/cdi/nvidia.{form}")
    gone = ("/dev/nvidia-uvm", "/dev/nvidia0", f"{tmp_path}/libcuda.so.580.95.05")
    nodes = {"/dev/nvidia0": (None, None), "/dev/nvidia-uvm": (510, 0)}
    assert spec == CdiSpec(nodes, spec.gone, "nvidia.com/gpu", frozenset({"GPU-a"}))
    assert sorted(spec.gone) == sorted(path for path in gone if not Path(path).exists())


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_a_spec_by_hand_may_have_comments(fakes: Fakes, tmp_path: Path, shell: list[str]) -> None:
    text = "# by hand, path: /gone\n" + SPEC.replace("ROOT", str(tmp_path)).replace("gpu\n", "gpu  # all\n")
    text = text.replace("510\n", "510 # {a\n").replace("nvidia0\n", "nvidia0  # path: /gone # twice\n")
    write(tmp_path / "etc/cdi/nvidia.yaml", text)
    write(tmp_path / "nvidia-cdi-hook", "")
    escaped = json.dumps(yaml.safe_load(text)).replace("/", "\\/")
    write(tmp_path / "var/run/cdi/nvidia.json", escaped)
    first, second = seen(tmp_path, shell).driver.specs.values()
    assert first == second
    assert (first.kind, first.devices, first.nodes) == (
        "nvidia.com/gpu", frozenset({"GPU-a"}), {"/dev/nvidia0": (None, None), "/dev/nvidia-uvm": (510, 0)},
    )  # fmt: skip
    assert {path for path in first.gone if not path.startswith("/dev/")} == {f"{tmp_path}/libcuda.so.580.95.05"}


OF_CTK = {
    "cdiVersion": "0.7.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {"name": name, "containerEdits": {"deviceNodes": nodes, "additionalGids": [44, 992]}}
        for name, nodes in {
            "0": [{"path": "/dev/nvidia0", "major": 195, "fileMode": 438, "permissions": "rw", "uid": 0, "gid": 44}],
            "GPU-a": [{"path": "/dev/nvidia0"}, {"path": "/dev/dri/card1", "hostPath": "/driver/dev/dri/card1"}],
            "1:0": [{"path": "/dev/nvidia-caps/nvidia-cap66", "major": 239, "minor": 66}],
            "MIG-e07a497d-1bb6-5a42-b670-1c33bf55ab6e": [{"path": "/dev/nvidia1", "hostPath": "/dev/nvidia7"}],
            "all": [{"path": "/dev/nvidia0", "major": 195, "minor": 0}, {"path": "/dev/nvidia1"}],
        }.items()
    ],
    "containerEdits": {
        "env": ["NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_CTK_LIBCUDA_DIR=/usr/lib/x86_64-linux-gnu"],
        "deviceNodes": [{"path": "/dev/nvidia-uvm", "major": 509}, {"path": "/dev/nvidiactl"}],
        "hooks": [
            {
                "hookName": "createContainer",
                "path": "/usr/bin/true",
                "args": ["nvidia-cdi-hook", "create-symlinks", "--link", "libcuda.so.1::/usr/lib/libcuda.so"],
                "env": ["NVIDIA_CTK_DEBUG=false"],
            },
            {"hookName": "createContainer", "path": "/gone/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", "chmod"]},
        ],
        "mounts": [
            {
                "hostPath": "/gone/libcuda.so.1",
                "containerPath": "/usr/lib/libcuda.so.1",
                "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
            },
            {"hostPath": "/usr/bin/env", "containerPath": "/usr/bin/nvidia-smi", "options": ["ro", "nosuid"]},
        ],
        "additionalGids": [44],
    },
}
"""All that specs of nvidia-ctk 1.14 to 1.18 have."""


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize("form", ["yaml", "json", "indented.json", "keys sorted.yaml", "indented lists.yaml"])
def test_reads_all_that_a_spec_of_nvidia_ctk_has(fakes: Fakes, tmp_path: Path, form: str, shell: list[str]) -> None:
    if form.endswith("json"):
        text = json.dumps(OF_CTK, indent=4 if form.startswith("indented") else None)
    else:
        text = "---\n" + as_yaml(OF_CTK, sort="sorted" in form, lists="  " if "lists" in form else "")
        assert yaml.safe_load(text) == OF_CTK
    write(tmp_path / f"etc/cdi/nvidia.{form.rpartition('.')[2]}", text)
    (spec,) = seen(tmp_path, shell).driver.specs.values()
    assert (spec.kind, spec.devices) == (
        "nvidia.com/gpu",
        frozenset({"0", "GPU-a", "1:0", "MIG-e07a497d-1bb6-5a42-b670-1c33bf55ab6e", "all"}),
    )
    nodes = dict(spec.nodes)
    assert nodes.pop("/dev/nvidia0") in {(195, 0), (195, None), (None, None)}
    assert nodes == {
        "/dev/nvidia-caps/nvidia-cap66": (239, 66),
        "/dev/nvidia1": (None, None),
        "/dev/nvidia7": (None, None),
        "/dev/nvidia-uvm": (509, None),
        "/dev/nvidiactl": (None, None),
    }
    gone = {path for path in spec.gone if not path.startswith("/dev/nvidia")}
    assert gone == {"/driver/dev/dri/card1", "/gone/nvidia-cdi-hook", "/gone/libcuda.so.1"}


def as_yaml(value: object, indent: str = "", *, sort: bool, lists: str) -> str:
    """Return a value as Go's YAML libraries write it. lists: how much more lists are indented."""
    if isinstance(value, dict):
        items = sorted(value.items()) if sort else value.items()
        lines = []
        for key, part in items:
            name = f'"{key}"' if str(key).isdigit() else key
            if isinstance(part, dict):
                lines.append(f"{indent}{name}:\n{as_yaml(part, indent + '  ', sort=sort, lists=lists)}")
            elif isinstance(part, list):
                lines.append(f"{indent}{name}:\n{as_yaml(part, indent + lists, sort=sort, lists=lists)}")
            else:
                lines.append(f"{indent}{name}: {json.dumps(part)}\n")
        return "".join(lines)
    assert isinstance(value, list)
    return "".join(f"{indent}- {as_item(one, indent + '  ', sort, lists)}" for one in value)


def as_item(one: object, indent: str, sort: bool, lists: str) -> str:
    if isinstance(one, dict):
        return as_yaml(one, indent, sort=sort, lists=lists).removeprefix(indent)
    return f"{json.dumps(one)}\n" if not isinstance(one, str) or one[:1] == "-" else f"{one}\n"
