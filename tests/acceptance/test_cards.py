"""The ledger on a real host: shared GPUs, GPUs used by foreign processes, and renumbered GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Lab, cards, chat, identities, model, status
from tests.acceptance.verification import verify
from tests.device import check
from tests.testbed import Host

PAIR = {
    "alpha": model("alpha", [0], 8000, vram="10GiB"),
    "beta": model("beta", [0], 8001, vram="12GiB"),
}


@pytest.fixture(scope="module", autouse=True)
def provisioned(lab: Lab) -> None:
    """gpu1 with two models that share GPU 0."""
    run = lab.run(lab.inventory({"gpu1": {"hardware": {"A30": 4}, "models": PAIR}}))
    assert run.exit_code == 0, run.output


def test_two_models_share_gpu_and_answer(lab: Lab, gpu1: Host) -> None:
    first = gpu1.gpus.uuids[0]
    for name, port in (("alpha", 8000), ("beta", 8001)):
        assert cards(gpu1, name) == [first]
        assert chat(gpu1, port) == lab.testbed.weights(name).sentence


def restarted(host: Host, name: str, port: int) -> None:
    """Restart a model by hand, and wait until it is ready."""
    host.root(f"docker restart {name}")
    host.root(f"timeout 60 sh -c 'until curl -sf http://127.0.0.1:{port}/health; do sleep 0.2; done'")


def test_model_that_computes_on_the_cpu_is_degraded_until_it_is_restarted(lab: Lab, gpu1: Host) -> None:
    """CUDA fails while it starts. llama.cpp continues without it, as healthy as before."""
    inventory, first = lab.inventory({"gpu1": {"hardware": {"A30": 4}, "models": PAIR}}), gpu1.gpus.uuids[0]
    processes = "nvidia-smi --query-compute-apps=gpu_uuid,process_name,used_memory --format=csv,noheader"
    assert gpu1.root(processes).stdout == f"{first}, llama-server, 300 MiB\n" * 2
    gpu1.gpus.cuda(999)
    restarted(gpu1, "alpha", 8000)
    gpu1.gpus.cuda(0)
    assert gpu1.root(processes).stdout == f"{first}, llama-server, 300 MiB\n"
    run = lab.run(inventory)
    told = " ".join(run.output.split())
    assert "alpha: it answers, but computes on the CPU: none of its processes uses its GPUs" in told
    assert run.row("gpu1", "alpha").endswith("DEGRADED: computes on the CPU, not on its GPUs")
    assert run.row("gpu1", "beta").endswith("ready")
    found = status(inventory)
    assert (found.returncode, "DEGRADED" in found.stdout) == (1, True), found.stdout
    assert list(verify(lab, inventory, {}).failed) == [("gpu1", "alpha gpus")]
    restarted(gpu1, "alpha", 8000)
    run = lab.run(inventory)
    assert (run.exit_code, "DEGRADED" in run.output) == (0, False), run.output
    assert status(inventory).returncode == 0
    assert verify(lab, inventory, {}).failed == {}


def test_check_of_a_real_gpu_runs_on_a_simulated_one(lab: Lab, gpu1: Host, tmp_path: Path) -> None:
    """tests/device: Docker, CDI and llama-server are real. Debian's llama-server lists no devices, having no CUDA."""
    image = gpu1.root("docker inspect --format '{{.Config.Image}}' alpha").stdout.strip()
    weights = gpu1.root("ls /var/lib/gpurack/weights/*-alpha.gguf").stdout.strip()
    gpu1.put(check.make(), "/root/check.sh")
    gpu1.root(f"IMAGE={image} MODEL={weights} sh /root/check.sh /root/checked", check=False)
    for name in gpu1.root("ls /root/checked").stdout.split():
        (tmp_path / name).write_text(gpu1.root(f"cat /root/checked/{name}").stdout)
    gpu1.root("rm -r /root/checked /root/check.sh")
    seen, faults = check.read(tmp_path)
    assert faults == ["the probe in a container listed no devices"]
    sentence, first = lab.testbed.weights("alpha").sentence, gpu1.gpus.uuids[0]
    assert seen[-2:] == [f"the model answered: {sentence}", f"it has 300 MiB on {first}"]


def test_old_cdi_spec_is_replaced_and_one_that_conflicts_is_named(lab: Lab, gpu1: Host) -> None:
    """The spec names a device node that no longer exists: no container with that GPU could start."""
    host = {"hardware": {"A30": 4}}
    gpu1.root("sed -i 's/nvidia0$/nvidia9/' /run/cdi/nvidia.yaml")
    models = {**PAIR, "beta": model("beta", [0], 8001, vram="11GiB")}
    run = lab.run(lab.inventory({"gpu1": {**host, "models": models}}))
    assert run.exit_code == 0, run.output
    assert "/var/run/cdi/nvidia.yaml is of an earlier driver: /dev/nvidia9 does not exist" in run.output
    assert lab.run(lab.inventory({"gpu1": {**host, "models": models}})).unchanged
    gpu1.root("cp /run/cdi/nvidia.yaml /run/cdi/own.yaml")
    before = identities(gpu1)
    run = lab.run(lab.inventory({"gpu1": {**host, "models": PAIR}}))
    gpu1.root("rm /run/cdi/own.yaml")
    assert run.exit_code == 1
    assert "beta: /var/run/cdi/nvidia.yaml and /var/run/cdi/own.yaml name the same GPU" in run.output
    assert identities(gpu1) == before
    assert lab.run(lab.inventory({"gpu1": {**host, "models": PAIR}})).exit_code == 0


def test_foreign_process_on_gpu_is_named_and_nothing_changes(lab: Lab, gpu1: Host) -> None:
    gpu1.gpus.foreign(2, 8192, "train.py")
    before = identities(gpu1)
    models = {**PAIR, "gamma": model("gamma", [2], 8002)}
    run = lab.run(lab.inventory({"gpu1": {"hardware": {"A30": 4}, "models": models}}))
    pid = gpu1.root("pgrep -f train.py | head -n 1").stdout.strip()
    assert run.exit_code == 1
    assert f"gamma: GPU 2 is in use by train.py (pid {pid}, root, 8.0 GiB), which gpurack does not manage" in run.output
    assert "gamma" not in identities(gpu1)
    assert {name: identities(gpu1)[name] for name in before} == before


def test_refuses_other_gpu_than_hardware(lab: Lab, gpu1: Host) -> None:
    before = identities(gpu1)
    models = {**PAIR, "gamma": model("gamma", [2], 8002)}
    run = lab.run(lab.inventory({"gpu1": {"hardware": {"RTX 4090": 4}, "models": models}}))
    assert run.exit_code == 1
    assert "gamma: GPU 2 is an NVIDIA A30, but `hardware` has an RTX 4090 there." in run.output
    assert identities(gpu1) == before


def test_renumbered_gpus_move_no_model_and_are_not_given_twice(lab: Lab, gpu1: Host) -> None:
    first = gpu1.gpus.uuids[0]
    inventory = lab.inventory({"gpu1": {"hardware": {"A30": 4}, "models": PAIR}})
    gpu1.gpus.swap(0, 3)
    before = identities(gpu1)
    run = lab.run(inventory)
    assert run.unchanged, run.output
    assert identities(gpu1) == before
    assert cards(gpu1, "alpha") == [first], "the card it had, whatever its number is now"
    newcomer = {**PAIR, "gamma": model("gamma", [3], 8002)}
    run = lab.run(lab.inventory({"gpu1": {"hardware": {"A30": 4}, "models": newcomer}}))
    assert run.exit_code == 1
    assert (
        f"gamma: GPU 3 ({first}) is claimed by 3 models: alpha, beta, gamma. Running there: alpha, beta." in run.output
    )
    assert "gamma" not in identities(gpu1)


def test_lost_gpu_stops_its_own_models_only(lab: Lab, gpu1: Host) -> None:
    models = {**PAIR, "gamma": model("gamma", [2], 8002)}
    inventory = lab.inventory({"gpu1": {"hardware": {"A30": 4}, "models": models}})
    assert lab.run(inventory).exit_code == 0
    lost = gpu1.gpus.uuids[2]
    gpu1.gpus.lose(2)
    run = lab.run(inventory)
    assert run.exit_code == 1
    assert f"gamma: its GPU 2 ({lost[:12]}…) no longer answers" in run.output
    assert "GPU is lost" in run.output
    assert run.row("gpu1", "alpha").endswith("ready")
    assert run.row("gpu1", "beta").endswith("ready")
    # models on the other GPUs can still be changed
    models["beta"] = model("beta", [0], 8001, vram="11GiB")
    run = lab.run(lab.inventory({"gpu1": {"hardware": {"A30": 4}, "models": models}}))
    assert run.exit_code == 1
    assert "recreate beta: vram 12GiB → 11GiB" in run.output
    assert chat(gpu1, 8001) == lab.testbed.weights("beta").sentence
