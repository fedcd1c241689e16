"""Which models were given GPUs and compute on the CPU: what proves it, and what does not."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from gpurack import screen
from gpurack.commands.apply_screen import HostState, Outcome, show_result
from gpurack.commands.lab_status import host_status
from gpurack.commands.status import as_data, counts, state_text, summary
from gpurack.facts.gpus import GpuProcess
from gpurack.facts.model import HostFacts
from gpurack.facts.record import Test
from gpurack.operations.entry_state import entry_state
from gpurack.operations.run_state import HostRun
from gpurack.plan.models.computing import on_the_cpu
from gpurack.plan.models.plan import plan_models
from gpurack.plan.questions import questions
from gpurack.plan.run import Run
from gpurack.spec.host import Host
from tests.given import container, gpu, host_state, id_of, models, running, spec, uuid

NOW = datetime(2026, 11, 20, tzinfo=UTC)
CARD = replace(gpu(0), memory_used=5)
READY = {"alpha": [200, '"alpha"'], "beta": [200, '"beta"']}


def seen(wanted: Host, *processes: GpuProcess, **words: Any) -> HostFacts:
    """A host whose alpha is ready on GPU 0, where these processes are. words: of the GPU, of `host_state`."""
    card = replace(CARD, **{name: words.pop(name) for name in list(words) if hasattr(CARD, name)})
    facts = replace(host_state(gpus=1), gpus=(card,))
    mine = running(wanted, "alpha", facts, (uuid(0),))
    driver = {"platform": words.pop("platform", "")}
    state = host_state(containers=[mine], probes=words.pop("probes", READY), driver=driver, **words)
    return replace(state, gpus=(card,), gpu_processes=processes)


def process(of: str, memory: int | None = 900) -> GpuProcess:
    """A process of this model's container on GPU 0; "" for one in no container."""
    return GpuProcess(uuid(0), 7, "server", memory, "root", id_of(of) if of else "")


@pytest.mark.parametrize(
    ("processes", "card", "found"),
    [
        ((), {"memory_used": 5}, True),
        ((process("beta"),), {"memory_used": 912}, True),  # a neighbour explains it
        ((process("alpha"),), {"memory_used": 905}, False),
        ((process("alpha", None),), {"memory_used": 5}, False),
        ((), {"memory_used": 905}, False),  # a driver that lists no processes (vGPU, WSL)
        ((process(""),), {"memory_used": 905}, False),  # its container is unknown
        ((process("beta", None),), {"memory_used": 905}, False),  # "[N/A]"
        ((process("beta"),), {"memory_used": None}, False),  # GB10
        ((), {"memory_used": 5, "fault": "requires reset"}, False),
        ((), {"memory_used": 5, "platform": "wsl"}, False),
        ((), {"memory_used": 5, "vendor": "amd"}, False),
        ((), {"memory_used": 5, "probes": {"alpha": [503, ""]}}, False),  # it still loads
    ],
)
def test_only_what_is_certain_counts(processes: tuple[GpuProcess, ...], card: dict[str, Any], found: bool) -> None:
    assert bool(on_the_cpu(models(alpha={"gpus": [0]}), seen(models(alpha={"gpus": [0]}), *processes, **card))) == found


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({}, True),
        ({"args": {"n-gpu-layers": 20}}, True),  # partial offload has memory on the GPU
        ({"args": {"ngl": 0}}, False),
        ({"args": {"device": "none"}}, False),
        ({"env": {"LLAMA_ARG_N_GPU_LAYERS": "0"}}, False),
        ({"args": {"sleep-idle-seconds": 600}}, False),
        ({"version": "vulkan-b7000"}, False),
        ({"engine": "vllm", "version": "0.33.0", "weights": "/w/a"}, True),
        ({"engine": "tei", "version": "1.9.3", "weights": "/w/a"}, True),
        ({"engine": "ollama", "version": "0.33.0", "weights": None}, False),  # idle, or on purpose
    ],
)
def test_what_computes_on_the_cpu_on_purpose_is_no_error(entry: dict[str, Any], found: bool) -> None:
    wanted = models(alpha={"gpus": [0], **entry})
    assert bool(on_the_cpu(wanted, seen(wanted))) == found


FOUND = 'time=2026-11-20Z level=INFO source=types.go:60 msg="inference compute" id=GPU-a library=CUDA compute=8.6'
FAILED = "ggml_cuda_init: failed to initialize CUDA: unknown error"
LAYERS = 'time=2026-11-20Z level=INFO source=ggml.go:494 msg="offloaded %d/33 layers to GPU"'


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("ggml_cuda_init: failed to initialize CUDA: unknown error", "CUDA error 999: unknown error"),
        (
            'ggml_cuda_init: failed to initialize CUDA: unknown error\nmsg="inference compute" id=GPU-a library=CUDA',
            None,
        ),
        ("ggml_cuda_init: failed to initialize CUDA: out of memory", None),
        ("", None),
        # a driver that was upgraded below it: ollama#15918
        (f"{FOUND}\n{FAILED}\n{LAYERS % 0}", "CUDA error 999: unknown error"),
        (f"{FOUND}\n{LAYERS % 33}\n{FAILED}\n{LAYERS % 0}", "CUDA error 999: unknown error"),
        (f"{FOUND}\n{FAILED}\n{LAYERS % 0}\n{LAYERS % 33}", None),
        (f"{FOUND}\n{FAILED}\nggml_cuda_init: found 1 CUDA devices:\n{LAYERS % 0}", None),  # num_gpu: 0
        (f"{FOUND}\n{LAYERS % 0}", None),
        (f"{FOUND}\n{FAILED}", None),
        (f"{FOUND}\n{FAILED}\n{LAYERS % 0}\n{FOUND}", None),  # it was restarted
        (f"{FOUND}\n{FAILED.replace('unknown error', 'out of memory')}\n{LAYERS % 0}", None),
    ],
)
def test_log_of_an_idle_ollama_proves_it(log: str, why: str | None) -> None:
    wanted = models(alpha={"gpus": [0], "engine": "ollama", "version": "0.33.0", "weights": None})
    found = on_the_cpu(wanted, replace(seen(wanted), cuda_logs={("", "alpha"): log}))
    assert [dict(problem.parameters)["why"] for problem in found.values()] == ([why] if why else [])
    assert questions(wanted).logs == (("", "alpha"),)


TEI = {"engine": "tei", "version": "1.9.3", "weights": "/w/a"}
ON_CPU = "2026-11-20Z  INFO text_embeddings_backend_candle: src/lib.rs:292: Starting Bert model on Cpu"


@pytest.mark.parametrize(
    ("processes", "card", "log", "why"),
    [
        ((), {"memory_used": None}, ON_CPU, "Starting Bert model on Cpu"),  # GB10
        ((), {"memory_used": 905, "platform": "wsl"}, ON_CPU, "Starting Bert model on Cpu"),
        ((), {"memory_used": 905}, ON_CPU.replace("Cpu", "Cuda(CudaDevice(DeviceId(1)))"), None),
        ((process("alpha"),), {"memory_used": 905}, ON_CPU, None),
        ((), {"memory_used": None}, "", None),
    ],
)
def test_log_of_tei_says_that_it_serves_on_the_cpu(
    processes: tuple[GpuProcess, ...], card: dict[str, Any], log: str, why: str | None
) -> None:
    """It has no probe of CUDA, and is healthy."""
    wanted = models(alpha={"gpus": [0], **TEI})
    found = on_the_cpu(wanted, replace(seen(wanted, *processes, **card), cuda_logs={("", "alpha"): log}))
    assert [dict(problem.parameters)["why"] for problem in found.values()] == ([why] if why else [])


NO_GPU = "warning: no usable GPU found, --gpu-layers option will be ignored"


@pytest.mark.parametrize(
    ("processes", "card", "log", "why"),
    [
        ((), {"memory_used": None}, NO_GPU, "no usable GPU found"),  # GB10
        ((), {"memory_used": 905, "platform": "wsl"}, NO_GPU, "no usable GPU found"),
        ((), {"memory_used": 905}, NO_GPU, "no usable GPU found"),  # vGPU
        ((), {"memory_used": None}, "load_tensors: offloaded 0/33 layers to GPU", "offloaded 0/33 layers to GPU"),
        ((), {"memory_used": None}, "load_tensors: offloaded 33/33 layers to GPU", None),
        ((), {"memory_used": None}, "", None),
        ((), {"memory_used": 5, "vendor": "amd"}, NO_GPU, None),
        ((process("alpha"),), {"memory_used": 905}, NO_GPU, None),  # it computes there, by nvidia-smi
        ((process("beta"),), {"memory_used": 912}, "", "none of its processes uses its GPUs"),
    ],
)
@pytest.mark.parametrize("engine", [{}, {"engine": "llama-cpp-python", "version": None, "image": "own:1"}])
def test_log_decides_where_nvidia_smi_lists_no_process(
    processes: tuple[GpuProcess, ...], card: dict[str, Any], log: str, why: str | None, engine: dict[str, Any]
) -> None:
    wanted = models(alpha={"gpus": [0], **engine})
    state = seen(wanted, *processes, **card)
    found = on_the_cpu(wanted, replace(state, cuda_logs={("", "alpha"): log}))
    assert [dict(problem.parameters)["why"] for problem in found.values()] == ([why] if why else [])


def test_only_logs_that_are_needed_are_read() -> None:
    wanted = models(alpha={"gpus": [0], "args": {"ngl": 0}}, beta={"gpus": [], "engine": "ollama", "weights": None})
    assert questions(wanted).logs == ()


def test_run_and_status_say_it() -> None:
    wanted = models(alpha={"gpus": [0]})
    facts = seen(wanted)
    assert [problem.code for problem in plan_models(wanted, facts, Run(salt="5a")).warnings] == ["computes-on-cpu"]
    status = host_status("gpu1", wanted, facts, datetime(2026, 11, 20, tzinfo=UTC))
    assert (status.state, [error.code for error in status.errors]) == ("DEGRADED", ["computes-on-cpu"])
    well = seen(wanted, process("alpha"), memory_used=905)
    assert host_status("gpu1", wanted, well, datetime(2026, 11, 20, tzinfo=UTC)).state == "ok"


def test_run_that_tests_it_again_says_it_too() -> None:
    """It was started again, and answers as before: only its log or its memory tells."""
    wanted = models(alpha={"gpus": [0]})
    facts = seen(wanted)
    alpha = replace(facts.containers[0], started="2026-11-19T00:00:00Z")
    test = Test(alpha.id, "2026-11-18T00:00:00Z", "", "", 0, "2026-11-18T00:00:00Z")
    plan = plan_models(
        wanted,
        replace(facts, containers=(alpha,), tests={("", "alpha"): test}, now=NOW, weights={"/w/a.gguf": 1}),
        Run(salt="5a"),
    )
    assert [str(change) for change in plan.changes] == ["check alpha: it was started since its last test"]
    assert [problem.code for problem in plan.warnings] == ["computes-on-cpu"]


def test_status_counts_it_as_ready_and_names_it() -> None:
    status = host_status("gpu1", models(alpha={"gpus": [0]}), seen(models(alpha={"gpus": [0]})), NOW)
    assert (status.models[0].state, counts(status)) == ("DEGRADED", "1 GPU, 1 of 1 ready")
    assert state_text(status.models[0], NOW) == "DEGRADED: computes on the CPU, not on its GPUs"
    assert summary([status]) == "1 of 1 model ready. 1 host needs attention: gpu1."
    data = as_data([status])["hosts"]["gpu1"]
    model = data["models"]["alpha"]
    assert (data["state"], model["state"], model["why"], model["problem"]) == ("SICK", "ready", None, None)


def test_run_says_it_and_counts_it_as_ready(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = models(alpha={"gpus": [0]})
    state = entry_state("alpha", wanted, HostRun(snapshot=seen(wanted)))
    assert (state.text, state.serves) == ("DEGRADED: computes on the CPU, not on its GPUs", True)
    show_result(screen.console(), {"gpu1": Outcome(HostState.CHANGED, {"alpha": state})}, 8)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "DEGRADED  gpu1 alpha: computes on the CPU, not on its GPUs",
        "1 host changed. 1 of 1 model ready. 8.0 s",
    ]


PROBES = {"ready": [200, '"alpha"'], "loading": [503, ""], "silent": [0, "timed out"], "failing": [500, "oh"]}


@pytest.mark.parametrize("probe", [*PROBES, "restarts", "none"])
@pytest.mark.parametrize("status", ["running", "exited", "missing"])
def test_run_and_status_agree_on_state_and_count(probe: str, status: str) -> None:
    wanted = models(alpha={"gpus": [0]})
    probes = {"alpha": PROBES.get(probe, [0, "refused"])} if probe != "none" else {}
    facts = seen(wanted, probes=probes)
    mine = replace(facts.containers[0], status=status, restarts=3 * (probe == "restarts"))
    facts = replace(facts, containers=() if status == "missing" else (mine,))
    run = entry_state("alpha", wanted, HostRun(snapshot=facts))
    [model] = host_status("gpu1", wanted, facts, NOW).models
    assert (run.condition, run.why, run.serves) == (model.state, model.why, model.state.serves)


def test_other_models_are_not_named() -> None:
    wanted = spec({"models": {"alpha": {"gpus": [0], "port": 8000}, "beta": {"gpus": [], "port": 8001}}})
    state = seen(wanted)
    both = replace(state, containers=(*state.containers, container("beta", label={"uuids": []})))
    assert list(on_the_cpu(wanted, both)) == ["alpha"]
