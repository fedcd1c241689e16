"""The GPU part of files/snapshot.sh: what it asks nvidia-smi, and what it finds below /sys, /dev and /lib."""

import subprocess
from pathlib import Path

import pytest

from gpurack.facts.gpus import CdiSpec, Module, PciGpu
from gpurack.facts.model import HostFacts
from gpurack.facts.snapshot import Snapshot, script
from gpurack.plan.questions import questions
from tests.given import models
from tests.unit.host_programs import SHELLS, Fakes, without_parts

ROW = "{index}, GPU-{index}, NVIDIA A30, 24576, 0, 580.95.05, 8.0, Disabled, 00000000:17:00.0, 0"
A100 = "0, GPU-a, NVIDIA A100-SXM4-40GB, 40960, 0, 580.95.05, 8.0, Enabled, 00000000:17:00.0, [N/A]"
V100 = "0, GPU-a, Tesla V100, 16160, 0, 470.256.02, [N/A], 00000000:17:00.0, 0"
UNKNOWN = 'echo "Field \\"compute_cap\\" is not a valid field to query."; exit 2'
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
    text = without_parts(script(questions(models(alpha={}))), "NVIDIA")
    for path in ("/sys/bus/pci", "/lib/modules", "/proc/driver/nvidia", "/sys/firmware", "/etc/cdi", "/var/run/cdi"):
        text = text.replace(path, f"{root}{path}")
    done = subprocess.run(
        [*(shell or ["sh"]), "-s"], input=text, capture_output=True, text=True, check=True, timeout=60
    )
    return Snapshot().process(done.stdout.splitlines())


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def smi_calls(fakes: Fakes) -> list[str]:
    return [call.partition(" ")[2] for call in fakes.calls if call.startswith("nvidia-smi ")]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_asks_nvidia_smi_three_times(fakes: Fakes, tmp_path: Path, shell: list[str]) -> None:
    row = ROW.format(index=0)
    fakes.add("nvidia-smi", f"case $1 in --query-gpu*) echo '{row}';; *remapped*) echo 'GPU-0, 0, 0, Yes, No';; esac")
    (gpu,) = seen(tmp_path, shell).gpus
    assert (gpu.memory_total, gpu.compute, gpu.details.remap_pending) == (24576, "8.0", True)
    assert sorted(call.partition("=")[0] for call in smi_calls(fakes)) == [
        "--query-compute-apps", "--query-gpu", "--query-remapped-rows",
    ]  # fmt: skip


def test_a_field_that_a_driver_does_not_know_hides_no_gpu(fakes: Fakes, tmp_path: Path) -> None:
    fakes.add("nvidia-smi", f"case $1 in *compute_cap*) {UNKNOWN};; --query-gpu*) echo '{V100}';; esac")
    state = seen(tmp_path)
    assert [(gpu.name, gpu.memory_total, gpu.pci) for gpu in state.gpus] == [("Tesla V100", 16160, "00000000:17:00.0")]
    assert state.driver.exit_code == 0


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_an_old_driver_costs_the_time_of_one_more_query(fakes: Fakes, tmp_path: Path, shell: list[str]) -> None:
    """The queries with fewer fields run at once: each waits until all of them have begun."""
    queries = "case $1 in *reset_required*) exit 2;; --query-remapped*) echo 'GPU-0, 0, 0, Yes, No'; exit;; "
    queries += '--query-gpu*) ;; *) exit;; esac; echo >"$STATE/begun.$$"; '
    queries += 'until set -- "$1" "$STATE"/begun.*; [ $# = 4 ]; do sleep 0.02; done; '
    queries += f"case $1 in *compute_cap*|*throttle*) {UNKNOWN};; esac; echo '{V100}'"
    fakes.state("any", "")
    fakes.add("nvidia-smi", queries)
    (gpu,) = seen(tmp_path, shell).gpus
    assert (gpu.name, gpu.memory_total) == ("Tesla V100", 16160)


@pytest.mark.parametrize(("unknown", "temperature"), [("none", 61), ("compute_cap", 61), ("temperature.gpu", None)])
def test_asks_for_the_temperature_where_the_driver_knows_it(
    fakes: Fakes, tmp_path: Path, unknown: str, temperature: int | None
) -> None:
    fields = "$(printf %s \"${1#*=}\" | tr , '\\n' | while read -r field; do case $field in "
    fields += "temperature.gpu) v=61;; uuid) v=GPU-0;; index) v=0;; *) v=1;; esac; printf '%s, ' $v; done)"
    fakes.add("nvidia-smi", f'case $1 in *{unknown}*) {UNKNOWN};; --query-gpu*) echo "{fields}";; esac')
    (gpu,) = seen(tmp_path).gpus
    assert (gpu.uuid, gpu.temperature) == ("GPU-0", temperature)


def test_rows_of_a_failed_query_are_kept_and_its_error_is_quoted(fakes: Fakes, tmp_path: Path) -> None:
    rows = "\n".join(ROW.format(index=index) for index in range(2))
    answer = f"{rows}\nWARNING: infoROM is corrupted at gpu 0000:17:00.0"
    fakes.add("nvidia-smi", f"case $1 in --query-gpu*) echo '{answer}'; exit 14;; esac")
    state = seen(tmp_path)
    assert [gpu.uuid for gpu in state.gpus] == ["GPU-0", "GPU-1"]
    assert (state.driver.exit_code, state.driver.message) == (14, "WARNING: infoROM is corrupted at gpu 0000:17:00.0")


def test_lists_mig_instances_only_of_gpus_in_mig_mode(fakes: Fakes, tmp_path: Path) -> None:
    listed = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-a)\n  MIG 3g.20gb     Device  0: (UUID: MIG-e07a497d)"
    fakes.add("nvidia-smi", f"case $1 in --query-gpu*) echo '{A100}';; -L) echo '{listed}';; esac")
    assert [(gpu.uuid, gpu.mig, gpu.parent) for gpu in seen(tmp_path).gpus] == [
        ("GPU-a", True, ""),
        ("MIG-e07a497d", False, "GPU-a"),
    ]


def test_finds_gpus_that_no_driver_has(fakes: Fakes, tmp_path: Path) -> None:
    for slot, device_class, vendor in (
        ("17:00.0", "0x030200", "0x10de"),
        ("05:00.0", "0x068000", "0x10de"),
        ("03:00.0", "0x030000", "0x1002"),
    ):
        folder = tmp_path / f"sys/bus/pci/devices/0000:{slot}"
        write(folder / "vendor", f"{vendor}\n")
        write(folder / "class", f"{device_class}\n")
        write(folder / "device", "0x20b7\n")
    driver = tmp_path / "sys/bus/pci/drivers/nouveau"
    driver.mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices/0000:17:00.0/driver").symlink_to(driver)
    fakes.add("dmesg", "echo '2026-11-20T02:11:09,1+00:00 NVRM: Xid (0000:17:00): 31, pid=7'")
    state = seen(tmp_path).driver
    assert (state.bus, state.switches) == ({"0000:17:00.0": PciGpu("0x20b7", "nouveau")}, 1)
    assert [(xid.pci, xid.number) for xid in state.xids] == [("0000:17:00", 31)]


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


def test_secure_boot_is_read_from_the_firmware_without_mokutil(fakes: Fakes, tmp_path: Path) -> None:
    write(tmp_path / "proc/driver/nvidia/version", "")
    variable = tmp_path / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\x06\x00\x00\x00\x01")
    fakes.add("mokutil", "exit 1")
    assert seen(tmp_path).driver.secure_boot is True


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_reads_nodes_and_missing_paths_of_cdi_specs(fakes: Fakes, tmp_path: Path, form: str, shell: list[str]) -> None:
    text = SPEC.replace("ROOT", str(tmp_path))
    if form == "json":
        text = (
            '{"kind":"nvidia.com/gpu","devices":[{"name":"GPU-a","containerEdits":{"deviceNodes":[]}}],"containerEdits":{"deviceNodes":[{"path":"/dev/nvidia0"},'
            '{"major":510,"minor":0,"path":"/dev/nvidia-uvm","type":"c"}],'
            f'"hooks":[{{"path":"{tmp_path}/nvidia-cdi-hook"}}],'
            f'"mounts":[{{"hostPath":"{tmp_path}/libcuda.so.580.95.05","containerPath":"/usr/lib/x"}}]}}}}'
        )
    write(tmp_path / f"etc/cdi/nvidia.{form}", text)
    write(tmp_path / "nvidia-cdi-hook", "")
    ((path, spec),) = seen(tmp_path, shell).driver.specs.items()
    assert path.endswith(f"/etc/cdi/nvidia.{form}")
    gone = ("/dev/nvidia-uvm", "/dev/nvidia0", f"{tmp_path}/libcuda.so.580.95.05")
    nodes = {"/dev/nvidia0": (None, None), "/dev/nvidia-uvm": (510, 0)}
    assert spec == CdiSpec(nodes, spec.gone, "nvidia.com/gpu", frozenset({"GPU-a"}))
    assert sorted(spec.gone) == sorted(path for path in gone if not Path(path).exists())
