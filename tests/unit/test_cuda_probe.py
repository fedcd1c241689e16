"""The probe of CUDA: what it runs for each engine, and what its output says. Its steps: test_replacing_script.py."""

import subprocess
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.cuda_faults import BY_PYTHON, REFUSED, continues_without, fault
from gpurack.engines import ENGINES, hints_of
from gpurack.engines.hints import cuda_hint
from gpurack.engines.probes import LIST_DEVICES, PYTHON
from gpurack.facts.model import HostFacts
from gpurack.plan.models import probes
from gpurack.plan.models.desired import desire
from tests.given import host_state, models, models_plan, running, spec, uuid
from tests.unit.host_programs import load

TWO = "--device nvidia.com/gpu=GPU-00000000-0000 --device nvidia.com/gpu=GPU-00000001-0000"
NEVER = "--network none --pull never"
HARDENED = "--security-opt no-new-privileges:true"
VLLM = {"engine": "vllm", "version": "0.33.0", "weights": "/w/folder"}


def probe(state: HostFacts | None = None, **entry: Any) -> dict[str, Any] | None:
    """The words of the payload for an entry with two GPUs."""
    wanted = models(alpha={"gpus": [0, 1], **entry})
    facts = state or host_state(gpus=2)
    return probes.cuda_probe(desire("alpha", wanted, facts, (uuid(0), uuid(1))))


def words(found: dict[str, Any] | None) -> str:
    assert found
    return " ".join(found["run"])


# --- what is run ------------------------------------------------------------------------------------------------------


def test_python_counts_the_devices_of_vllm() -> None:
    assert probe(**VLLM) == {
        "run": f"{NEVER} {TWO} {HARDENED} --entrypoint sh".split(),
        "arguments": list(PYTHON.arguments),
        "gpus": 2,
    }


def test_llama_cpp_lists_its_devices() -> None:
    found = probe()
    assert found == {"run": f"{NEVER} {TWO} {HARDENED}".split(), "arguments": ["--list-devices"], "gpus": 2}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama-cpp-python", "custom"])
def test_engines_with_python(engine: str) -> None:
    assert ENGINES[engine].cuda_probe == PYTHON


def test_other_engines_have_none() -> None:
    assert {name for name, engine in ENGINES.items() if engine.cuda_probe is None} == {
        "tei", "ollama", "litellm", "open-webui", "llama-gpt",
    }  # fmt: skip
    assert ENGINES["llama.cpp"].cuda_probe == LIST_DEVICES


@pytest.mark.parametrize(
    "entry",
    [
        {"engine": "tei", "version": "1.9", "weights": "/w/folder", "gpus": [0]},
        {"version": "vulkan-b7000"},
        {"compose": {"entrypoint": ["/bin/own"]}},
        {"compose": {"deploy": None}},
        {"compose": {"deploy": {"resources": {"reservations": {"devices": []}}}}},
    ],
)
def test_no_probe(entry: dict[str, Any]) -> None:
    assert probe(**entry) is None


def test_no_probe_without_gpus() -> None:
    wanted = models(alpha={"gpus": []})
    assert probes.cuda_probe(desire("alpha", wanted, host_state(), ())) is None


def test_same_device_request_with_the_runtime() -> None:
    found = words(probe(host_state(gpus=2, docker="24.0.9"), **VLLM))
    visible = "NVIDIA_VISIBLE_DEVICES=GPU-00000000-0000,GPU-00000001-0000"
    assert found == f"{NEVER} --runtime nvidia {HARDENED} --env {visible} --entrypoint sh"


def test_same_device_request_with_the_hook() -> None:
    wanted = spec({"nvidia": {"access": "gpus"}, "models": {"alpha": {"gpus": [0, 1], "port": 8000}}})
    found = probes.cuda_probe(desire("alpha", wanted, host_state(gpus=2), (uuid(0), uuid(1))))
    assert words(found).startswith(f'{NEVER} --gpus "device=GPU-00000000-0000,GPU-00000001-0000"')


def test_has_only_the_variables_that_matter_for_cuda() -> None:
    env = {"LD_LIBRARY_PATH": "/usr/local/nvidia/lib64", "HF_HOME": "/x", "CUDA_MODULE_LOADING": "LAZY"}
    found = words(probe(env=env))
    assert "--env LD_LIBRARY_PATH=/usr/local/nvidia/lib64 --env CUDA_MODULE_LOADING=LAZY" in found
    assert "HF_HOME" not in found


@pytest.mark.parametrize("variables", [{"LD_PRELOAD": "/a.so", "NVIDIA_X": None}, ["LD_PRELOAD=/a.so", "NVIDIA_X"], 3])
def test_takes_what_decides_access_from_compose(variables: Any) -> None:
    more = {
        "user": "1000",
        "group_add": ["44"],
        "privileged": True,
        "devices": "none",
        "security_opt": ["label=disable"],
    }
    found = words(probe(compose={**more, "environment": variables}))
    assert "--group-add 44 --security-opt no-new-privileges:true --security-opt label=disable --user 1000" in found
    assert "--privileged" in found
    assert ("--env LD_PRELOAD=/a.so" in found) == (variables != 3)
    assert "NVIDIA_X" not in found


def test_sees_one_of_several_mig_instances() -> None:
    wanted = desire("alpha", models(alpha={"gpus": [0, 1]}), host_state(gpus=2), (uuid(0), uuid(1)))
    mig = replace(wanted, devices=replace(wanted.devices, uuids=("MIG-a", "MIG-b")))
    assert (probes.least(wanted), probes.least(mig)) == (2, 1)


@pytest.mark.parametrize(
    ("driver", "name", "limit"),
    [
        ("550.163.01", "NVIDIA GeForce RTX 4090", {"version": "550.163.01", "cuda": 12}),
        ("470.256.02", "NVIDIA TITAN RTX", {"version": "470.256.02", "cuda": 11}),
        ("580.95.05", "NVIDIA GeForce RTX 4090", None),
        ("550.163.01", "NVIDIA A100-SXM4-80GB", None),  # by forward compatibility
        ("550.163.01", "NVIDIA RTX A6000", None),
        ("", "NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_driver_runs_no_newer_cuda_on_geforce(driver: str, name: str, limit: dict[str, Any] | None) -> None:
    state = host_state(gpus=2, driver={"kernel": driver})
    state = replace(state, gpus=tuple(replace(gpu, name=name) for gpu in state.gpus))
    wanted = desire("alpha", models(alpha={"gpus": [0, 1]}), state, (uuid(0), uuid(1)))
    assert probes.driver_limit(wanted, state) == limit
    mixed = replace(state, gpus=(state.gpus[0], replace(state.gpus[1], name="NVIDIA A30")))
    assert probes.driver_limit(wanted, mixed) is None
    (new,) = planned(models(alpha={"gpus": [0]}), replace(state, weights={"/w/a.gguf": 1}))
    assert new.get("driver") == limit


def test_vulkan_needs_no_cuda() -> None:
    state = host_state(gpus=1, driver={"kernel": "550.163.01"})
    state = replace(state, gpus=(replace(state.gpus[0], name="NVIDIA GeForce RTX 4090"),))
    wanted = desire("alpha", models(alpha={"gpus": [0], "version": "vulkan-b7000"}), state, (uuid(0),))
    assert probes.driver_limit(wanted, state) is None


def test_only_new_containers_are_probed() -> None:
    wanted = models(alpha={"gpus": [0]})
    state = host_state(gpus=1, weights={"/w/a.gguf": 1})
    (new,) = planned(wanted, state)
    assert new["cuda"]["gpus"] == 1
    stopped = replace(running(wanted, "alpha", state, (uuid(0),)), status="exited")
    (start,) = planned(wanted, host_state(gpus=1, weights={"/w/a.gguf": 1}, containers=[stopped]))
    assert (start["action"], "cuda" in start) == ("start", False)


@pytest.mark.parametrize(
    ("entry", "untested"),
    [
        ({}, None),
        ({"gpus": []}, None),
        ({"version": "vulkan-b7000"}, None),
        ({"engine": "tei", "version": "1.9", "weights": "/w/folder"}, True),
        ({"engine": "ollama", "version": "0.33.0", "weights": None}, True),
        ({"compose": {"entrypoint": ["/own"]}}, True),
    ],
)
def test_says_where_cuda_is_not_tested(
    entry: dict[str, Any], untested: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    state = host_state(gpus=1, weights={"/w/a.gguf": 1, "/w/folder": 1})
    (new,) = planned(models(alpha={"gpus": [0], **entry}), state)
    assert new.get("cuda_untested") is untested
    if "cuda" not in new:
        load("probing").prove(None, new, {}, "")
        said = "alpha: CUDA is not tested in its image, which has no program for it\n" if untested else ""
        assert capsys.readouterr().out == said


def planned(wanted: Any, state: HostFacts) -> list[dict[str, Any]]:
    found = models_plan(wanted, state)
    assert found.job
    return [entry for batch in found.job["batches"] for entry in batch]


# --- what its output says ---------------------------------------------------------------------------------------------

NONE_LISTED = "Available devices:\n  (none)"
LISTED = """\
Device 0: NVIDIA GeForce RTX 3090, compute capability 8.6, VMM: yes, VRAM: 24575 MiB
Available devices:
  CUDA0: NVIDIA GeForce RTX 3090 (24575 MiB, 23335 MiB free)
  CUDA1: NVIDIA GeForce RTX 3090 (24575 MiB, 24100 MiB free)"""


@pytest.mark.parametrize(
    ("output", "gpus", "found"),
    [
        ("gpurack-cuda 0 2", 2, ""),
        ("gpurack-cuda 0 4", 2, ""),
        ("a banner of the image\ngpurack-cuda 0 2\n", 2, ""),
        ("gpurack-cuda 0 1", 2, "GPUs that CUDA sees: 1 of 2"),
        ("gpurack-cuda 0 0", 1, "GPUs that CUDA sees: 0 of 1"),
        *((f"gpurack-cuda {code} 0", 1, f"CUDA error {code}: {text}") for code, text in REFUSED.items()),
        *((f"gpurack-cuda {code} 0", 1, None) for code in (1, 2, 3, 34, 46, 102, 214, 304, 700, 800, 999999)),
        ("OSError: libcuda.so.1: cannot open shared object file: No such file or directory", 1, None),
        ('exec: "sh": executable file not found in $PATH', 1, None),
        ("Error response from daemon: unresolvable CDI devices nvidia.com/gpu=GPU-1", 1, None),
        ("", 1, None),
        (LISTED, 2, ""),
        (f"{LISTED}\nCUDA error: out of memory", 3, None),
        (NONE_LISTED, 1, None),
        ("error: invalid argument: --list-devices", 1, None),
        *(
            (f"ggml_cuda_init: failed to initialize CUDA: {text}\n{NONE_LISTED}", 1, f"CUDA error {code}: {text}")
            for code, text in REFUSED.items()
        ),
        (f"ggml_cuda_init: failed to initialize CUDA: {REFUSED[222]}.", 1, f"CUDA error 222: {REFUSED[222]}"),
        ("ggml_cuda_init: failed to initialize CUDA: out of memory", 1, None),
        ("ggml_cuda_init: failed to initialize CUDA: what no version says", 1, None),
    ],
)
def test_says_what_is_proven(output: str, gpus: int, found: str | None) -> None:
    assert fault(output, gpus) == found


NO_CUDA = "ggml_cuda_init: failed to initialize CUDA: "


@pytest.mark.parametrize(
    ("log", "found"),
    [
        *((f"{NO_CUDA}{text}", f"CUDA error {code}: {text}") for code, text in REFUSED.items()),
        (f"{NO_CUDA}out of memory", None),
        (f'{NO_CUDA}{REFUSED[35]}\ntime=… msg="inference compute" id=GPU-a library=CUDA compute=8.6', ""),
        (f"{NO_CUDA}{REFUSED[35]}\nggml_cuda_init: found 1 CUDA devices:", ""),
        (f"{NO_CUDA}{REFUSED[35]}\nload_tensors:        CUDA0 model buffer size =  1064.07 MiB", ""),
        (f'{NO_CUDA}{REFUSED[999]}\nmsg="inference compute" id=cpu library=cpu', "CUDA error 999: unknown error"),
        ("main: server is listening", None),
        ("", None),
    ],
)
def test_log_says_that_a_server_continues_on_the_cpu(log: str, found: str | None) -> None:
    assert continues_without(log) == found


@given(st.text(), st.integers(1, 8))
def test_any_other_output_proves_nothing(output: str, gpus: int) -> None:
    if not BY_PYTHON.search(output):
        assert fault(output, gpus) is None


@pytest.mark.parametrize("output", [*(f"gpurack-cuda {code} 0" for code in REFUSED), "gpurack-cuda 0 1"])
def test_each_refusal_has_one_hint_on_host_and_in_verify(output: str) -> None:
    found = fault(output, 2)
    assert found
    for engine in [name for name, engine in ENGINES.items() if engine.cuda_probe]:
        hints = [hint.payload for hint in hints_of(engine)]
        assert load("remedies").error_hint(0, found, hints) == f" {cuda_hint(found)}"


def test_python_prints_no_result_without_libcuda() -> None:
    """On this machine; test_simulated_gpus.py has it with a library."""
    done = subprocess.run(["sh", *PYTHON.arguments], capture_output=True, text=True, check=False)
    assert "libcuda.so.1" in done.stderr or BY_PYTHON.search(done.stdout)


def test_image_without_python_prints_no_result() -> None:
    done = subprocess.run(["/bin/sh", *PYTHON.arguments], env={"PATH": "/nowhere"}, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (127, b"")
