"""The probe of CUDA: what it runs for each engine, and what its output says. Its steps: test_replacing_script.py."""

import re
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.cuda_faults import BY_PYTHON, REFUSED, continues_without, fault, untested
from gpurack.engines import ENGINES, hints_of
from gpurack.engines.hints import cuda_hint
from gpurack.engines.probes import LIST_DEVICES, PYTHON
from gpurack.facts.model import HostFacts
from gpurack.plan.models import probes
from gpurack.plan.models.desired import desire
from gpurack.plan.questions import questions
from gpurack.resources import read_text
from gpurack.verify import evidence as verify_evidence
from tests.given import host_state, models, models_plan, running, spec, uuid
from tests.unit.host_programs import load

TWO = "--device nvidia.com/gpu=GPU-00000000-0000 --device nvidia.com/gpu=GPU-00000001-0000"
NEVER = "--network none --pull never"
LOG_READER = "files/snapshot_docker.sh"
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
        "official": True,
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
        ("550.163.01", "NVIDIA GeForce RTX 4090", {"cuda": 12, "certain": True}),
        ("550.163.01", "NVIDIA GeForce GTX 1080 Ti", {"cuda": 12, "certain": True}),
        ("470.256.02", "NVIDIA TITAN RTX", {"cuda": 11, "certain": True}),
        ("580.95.05", "NVIDIA GeForce RTX 4090", None),
        # by a library in the image: data-centre GPUs, MIG, workstations, vGPU, unknown
        ("550.163.01", "NVIDIA A100-SXM4-80GB", {"cuda": 12, "certain": False}),
        ("535.288.01", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", {"cuda": 12, "certain": False}),
        ("470.256.02", "Tesla V100-PCIE-16GB", {"cuda": 11, "certain": False}),
        ("550.163.01", "NVIDIA RTX A6000", {"cuda": 12, "certain": False}),
        ("550.163.01", "NVIDIA RTX 6000 Ada Generation", {"cuda": 12, "certain": False}),
        ("550.163.01", "GRID A100D-3-20C", {"cuda": 12, "certain": False}),
        ("550.163.01", "", {"cuda": 12, "certain": False}),
        ("580.95.05", "NVIDIA A100-SXM4-80GB", None),
        ("", "NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_driver_certainly_runs_no_newer_cuda_on_geforce(driver: str, name: str, limit: dict[str, Any] | None) -> None:
    state = host_state(gpus=2, driver={"kernel": driver})
    state = replace(state, gpus=tuple(replace(gpu, name=name) for gpu in state.gpus))
    wanted = desire("alpha", models(alpha={"gpus": [0, 1]}), state, (uuid(0), uuid(1)))
    limit = limit and {"version": driver, **limit}
    assert probes.driver_limit(wanted, state) == limit
    mixed = replace(state, gpus=(state.gpus[0], replace(state.gpus[1], name="NVIDIA A30")))
    assert probes.driver_limit(wanted, mixed) == (limit and {**limit, "certain": False})
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
        ("gpurack-cuda 0 1\ngpurack-cuda-versions 12 13.0.2", 1, ""),  # an image of the inventory's
        ("gpurack-cuda 999 0\ngpurack-cuda-versions 12 13.0.2", 1, f"CUDA error 999: {REFUSED[999]}"),
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


@pytest.mark.parametrize(
    ("versions", "found"),
    [
        ("12 13.0.2", f"CUDA error 35: {REFUSED[35]}"),
        ("11 12.8.1", f"CUDA error 35: {REFUSED[35]}"),
        ("13 13.0.2", ""),  # the driver's, or the compatibility library of the image
        ("12 12.9.1", ""),  # minor version compatibility
        ("13 12.9.1", ""),
        ("0 13.0.2", ""),  # unknown
        ("12 nightly", ""),
        ("12", ""),
    ],
)
def test_a_driver_too_old_for_an_official_image_is_proven_by_versions(versions: str, found: str) -> None:
    """cuInit works with it, and the engine's program fails."""
    output = f"gpurack-cuda 0 2\ngpurack-cuda-versions {versions}"
    assert (fault(output, 2, official=True), fault(output, 2)) == (found, "")
    assert fault(output, 3, official=True) == "GPUs that CUDA sees: 2 of 3"
    official, own = (
        models(alpha={"gpus": [0], "engine": "vllm", "weights": "/w/a", **entry})
        for entry in ({"version": "0.33.0"}, {"version": None, "image": "lab/vllm:1"})
    )
    asked = [probes.cuda_probe(desire("alpha", one, host_state(gpus=1), (uuid(0),))) for one in (official, own)]
    assert [bool(one and one.get("official")) for one in asked] == [True, False]


@pytest.mark.parametrize(
    ("output", "code", "why"),
    [
        (NONE_LISTED, 0, "its image lists no GPU, as one without CUDA does"),
        (f"load_backend: loaded CPU backend from /app/libggml-cpu.so\n{NONE_LISTED}\n", 0, "its image lists no GPU"),
        ("Available devices:\n", 0, "its image lists no GPU"),
        ("Available devices:\n  CUDA0: NVIDIA A30 (24062 MiB, 23800 MiB free)", 0, "printed no result"),
        ("OSError: libcuda.so.1: cannot open shared object file", 1, "its container has no libcuda.so.1"),
        ("", 127, "its image has no program for it"),
        ("gpurack-cuda 2 0", 0, "printed no result"),
        ("", None, "did not end in time"),
    ],
)
def test_says_why_nothing_was_tested(output: str, code: int | None, why: str) -> None:
    assert fault(output, 2) is None
    assert why in untested(output, code)


NO_CUDA = "ggml_cuda_init: failed to initialize CUDA: "


CANDLE = "2026-11-20T02:11:09.123456Z {:>5} text_embeddings_backend_candle: backends/candle/src/lib.rs:{}: "
NO_CANDLE = (
    CANDLE.format("WARN", 301)
    + "Could not find a compatible CUDA device on host: CUDA is not available\n\nCaused by:\n"
    '    DriverError(CUDA_ERROR_ANY, "{}")\n' + CANDLE.format("WARN", 302) + "Using CPU instead\n"
)
TEI_ON_CPU = CANDLE.format("INFO", 292) + "Starting Bert model on Cpu"
TEI_ON_GPU = CANDLE.format("INFO", 292) + "Starting FlashBert model on Cuda(CudaDevice(DeviceId(1)))"
COLOURED = (
    "\x1b[2m2026-11-20T02:11:09.1Z\x1b[0m \x1b[32m INFO\x1b[0m "
    "\x1b[2mtext_embeddings_backend_candle\x1b[0m\x1b[2m:\x1b[0m "
    "\x1b[2mbackends/candle/src/lib.rs\x1b[0m\x1b[2m:\x1b[0m\x1b[2m292:\x1b[0m Starting Qwen3 model on Cpu"
)
AS_JSON = (
    '{"timestamp":"2026-11-20T02:11:09Z","level":"INFO","message":"Starting Bert model on Cpu",'
    '"target":"text_embeddings_backend_candle"}'
)
TOO_OLD = 'level=WARN msg="NVIDIA driver too old" device=GPU-a driver=470 required_driver="550 or newer"'


@pytest.mark.parametrize(
    ("log", "found"),
    [
        *((f"{NO_CUDA}{text}", f"CUDA error {code}: {text}") for code, text in REFUSED.items()),
        (f"{NO_CUDA}out of memory", None),
        (f'{NO_CUDA}{REFUSED[35]}\ntime=… msg="inference compute" id=GPU-a library=CUDA compute=8.6', ""),
        (f"{NO_CUDA}{REFUSED[35]}\nggml_cuda_init: found 1 CUDA devices:", ""),
        (f"{NO_CUDA}{REFUSED[35]}\nload_tensors:        CUDA0 model buffer size =  1064.07 MiB", ""),
        (f'{NO_CUDA}{REFUSED[999]}\nmsg="inference compute" id=cpu library=cpu', "CUDA error 999: unknown error"),
        (f'{TOO_OLD}\nmsg="inference compute" id=cpu library=cpu', "NVIDIA driver too old: it needs 550 or newer"),
        (TOO_OLD, "NVIDIA driver too old: it needs 550 or newer"),
        (f'{TOO_OLD}\nmsg="inference compute" id=0 library=Vulkan', ""),
        ('msg="inference compute" id=0 library=ROCm compute=gfx1100', ""),
        ('msg="no compatible GPUs were discovered"', "no compatible GPUs were discovered"),
        ('msg="inference compute" id=0 library=cpu', "no GPU discovered"),
        ("warning: no usable GPU found, --gpu-layers option will be ignored", "no usable GPU found"),
        ("ggml_cuda_init: found 1 ROCm devices:\nload_tensors: offloaded 33/33 layers to GPU", ""),
        ("load_tensors: offloaded 0/33 layers to GPU", None),
        (f"{NO_CUDA}{REFUSED[35]}\n0.00.412.012 I load_tensors: layer   0 assigned to device CUDA0, is_swa = 0", ""),
        (f"{NO_CUDA}{REFUSED[35]}\nllama_model_load_from_file_impl: using device CUDA0 (NVIDIA A30) - 9 MiB free", ""),
        (f'{TOO_OLD}\ntime=… level=INFO source=ggml.go:482 msg="model weights" device=CUDA0 size="4.0 GiB"', ""),
        *((f"{NO_CANDLE.format(text)}{TEI_ON_CPU}", f"CUDA error {code}: {text}") for code, text in REFUSED.items()),
        (f"{NO_CANDLE.format('of another version')}{TEI_ON_CPU}", "Starting Bert model on Cpu"),
        (TEI_ON_CPU, "Starting Bert model on Cpu"),
        (COLOURED, "Starting Qwen3 model on Cpu"),
        (AS_JSON, "Starting Bert model on Cpu"),
        (TEI_ON_GPU, ""),
        (AS_JSON.replace("Cpu", "Cuda(CudaDevice(DeviceId(1)))"), ""),
        (f'{TEI_ON_GPU}\nDriverError(CUDA_ERROR_UNKNOWN, "unknown error")', ""),
        ('DriverError(CUDA_ERROR_UNKNOWN, "unknown error")', None),
        ("a client wrote: Starting Bert model on Cpu", None),
        (f"0.00.031.220 E {NO_CUDA}{REFUSED[802]}", f"CUDA error 802: {REFUSED[802]}"),
        (f"E {NO_CUDA}{REFUSED[999]}", f"CUDA error 999: {REFUSED[999]}"),
        (
            "warning: not compiled with GPU offload support, --gpu-layers option will be ignored",
            "not compiled with GPU offload support",
        ),
        ("ggml_init_cublas: no CUDA devices found, CUDA will be disabled", "no CUDA devices found"),
        ("main: server is listening", None),
        ("", None),
    ],
)
def test_log_says_that_a_server_continues_on_the_cpu(log: str, found: str | None) -> None:
    assert continues_without(log) == found
    if found:
        assert cuda_hint(found)
        about = (load("evidence_answers").ABOUT_GPUS, re.search(r"(?m)^ABOUT_GPUS='(.*)'$", read_text(LOG_READER)))
        lines = [line for line in log.splitlines() if re.search(about[0], line)]
        assert about[1]
        assert lines == [line for line in log.splitlines() if re.search(about[1][1], line)]
        assert continues_without("\n".join(lines)) == found, "what is read of the log says the same"


@pytest.mark.parametrize(
    ("counts", "found"),
    [(["0/33"], "offloaded 0/33 layers to GPU"), (["0/33", "2/5"], ""), (["20/33"], ""), ([], "")],
)
def test_layers_count_where_they_were_to_be_on_the_gpus(counts: list[str], found: str) -> None:
    """Not of ollama, and not of an unknown image, which may have put none there on purpose."""
    log = "ggml_cuda_init: found 1 CUDA devices:\n" + "".join(
        f"load_tensors: offloaded {one} layers to GPU\n" for one in counts
    )
    assert continues_without(log, layers=True) == found
    assert continues_without(log) == ""


@pytest.mark.parametrize(
    ("entry", "shows"),
    [
        ({}, "layers"),
        ({"args": {"ngl": 0}}, ""),
        ({"version": "vulkan-b7000"}, ""),
        ({"engine": "llama-cpp-python", "version": None, "image": "own:1"}, "layers"),
        ({"engine": "ollama", "version": "0.33.0", "weights": None}, "devices"),
        ({"engine": "ollama", "version": "0.33.0", "weights": None, "env": {"OLLAMA_LLM_LIBRARY": "cpu_avx2"}}, ""),
        ({"engine": "custom", "version": None, "image": "own:1"}, "devices"),
        (VLLM, ""),
        ({"engine": "tei", "version": "1.9", "weights": "/w/folder"}, "devices"),
        ({"gpus": []}, ""),
    ],
)
def test_run_and_status_read_the_same_logs(entry: dict[str, Any], shows: str) -> None:
    wanted = models(alpha={"gpus": [0], **entry})
    state = host_state(gpus=1, weights={"/w/a.gguf": 1, "/w/folder": 1})
    assert planned(wanted, state)[0].get("log", "") == shows
    assert questions(wanted).logs == ((("", "alpha"),) if shows else ())
    asked = verify_evidence.model_questions("alpha", wanted, wanted.models["alpha"], {})
    assert asked["cuda log"] == bool(shows)


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
        assert load("error_hints").error_hint(0, found, hints) == f" {cuda_hint(found)}"


def test_python_prints_no_result_without_libcuda() -> None:
    """On this machine; test_simulated_gpus.py has it with a library."""
    done = subprocess.run(["sh", *PYTHON.arguments], capture_output=True, text=True, check=False)
    assert "libcuda.so.1" in done.stderr or BY_PYTHON.search(done.stdout)


def test_image_without_python_prints_no_result() -> None:
    done = subprocess.run(["/bin/sh", *PYTHON.arguments], env={"PATH": "/nowhere"}, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (127, b"")
