"""The dry start: what it runs for each engine, and what its output proves. Its steps: test_replacing_script.py."""

import argparse
import contextlib
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.engines import ENGINES
from gpurack.engines.probes import ARGPARSE, CLAP, LLAMA_SERVER, UNKNOWN, DryStart
from gpurack.facts.model import HostFacts
from gpurack.plan.models import probes
from gpurack.plan.models.desired import desire
from tests.given import host_state, models, models_plan, running, uuid
from tests.testbed.engines.standins.options import Options, Wrong, knows
from tests.unit.host_programs import load

probing = load("probing")
NEVER = "--network none --pull never"
GPU = "--device nvidia.com/gpu=GPU-00000000-0000"
HARDENED = "--security-opt no-new-privileges:true"
VLLM = {"engine": "vllm", "version": "0.33.0", "weights": "/w/folder"}


def dry(state: HostFacts | None = None, **entry: Any) -> dict[str, Any] | None:
    """The words of the payload for an entry with one GPU."""
    wanted = models(alpha={"gpus": [0], **entry})
    gpus = (uuid(0),) if wanted.models["alpha"].gpus else ()
    return probes.dry_start(desire("alpha", wanted, state or host_state(gpus=1), gpus, {"api_key": "secret"}))


# --- what is run ------------------------------------------------------------------------------------------------------


def test_llama_cpp_ends_at_its_version_with_its_own_devices() -> None:
    found = dry(args={"threads": 4})
    assert found
    assert found["run"] == f"{NEVER} {GPU} {HARDENED}".split()
    assert found["arguments"][:2] == ["--model", "/weights/a.gguf"]
    assert found["arguments"][-3:] == ["--threads", "4", "--version"]


OTHERS: dict[str, dict[str, Any]] = {
    "vllm": VLLM,
    "sglang": {**VLLM, "engine": "sglang", "version": "0.5.23"},
    "tei": {**VLLM, "engine": "tei", "version": "1.9"},
    "llama-cpp-python": {"engine": "llama-cpp-python", "version": "0.3.36", "gpus": []},
}
BEGINS = {
    "vllm": "serve /weights/folder",
    "sglang": "python3 -m sglang.launch_server",
    "tei": "--model-id /weights/folder",
    "llama-cpp-python": "python3 -m llama_cpp.server",
}


@pytest.mark.parametrize("engine", OTHERS)
def test_others_end_at_a_flag_that_no_engine_knows(engine: str) -> None:
    found = dry(**OTHERS[engine])
    assert found
    assert (found["arguments"][-1], "vllm" in found["run"]) == (UNKNOWN, engine == "vllm")
    assert " ".join(found["arguments"]).startswith(BEGINS[engine])


def test_ollama_only_starts_with_its_devices() -> None:
    found = dry(engine="ollama", version="0.33.0", weights=None, pull=["qwen2.5:7b"])
    assert found
    assert (found["arguments"], found["refusals"]) == (["--version"], [])


def test_engines_without_a_dry_start() -> None:
    without = {name for name, engine in ENGINES.items() if engine.dry_start is None}
    assert without == {"custom", "litellm", "open-webui", "llama-gpt"}


@pytest.mark.parametrize("engine", ["llama.cpp", *OTHERS])
def test_has_no_key_and_no_file_of_one(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-secret-0123456789")
    found = dry(**OTHERS.get(engine, {}), api_key={"env": "KEY"})
    assert found
    assert not any(word in str(found) for word in ("sk-secret", "api_key", "/run/secrets", "API_KEY"))


@pytest.mark.parametrize(
    "entry",
    [
        {"image": "lab/llama:1", "version": None},
        {"compose": {"entrypoint": ["/bin/own"]}},
        {"compose": {"volumes": ["/plugins:/plugins"]}},
        {"compose": {"environment": {"LLAMA_ARG_X": "1"}}},
        {"env": {"PYTHONPATH": "/plugins"}},
        {"compose": {"deploy": None}},
    ],
)
def test_no_dry_start_where_another_program_may_read_the_arguments(entry: dict[str, Any]) -> None:
    assert dry(**entry) is None


def test_needs_no_gpu() -> None:
    found = dry(gpus=[])
    assert found
    assert found["run"] == f"{NEVER} {HARDENED}".split()


def test_only_new_containers_start_dry() -> None:
    wanted = models(alpha={"gpus": [0]})
    stopped = running(wanted, "alpha", host_state(gpus=1, weights={"/w/a.gguf": 1}), (uuid(0),))
    for containers, told in (((), True), ((stopped,), False)):
        found = models_plan(wanted, host_state(gpus=1, weights={"/w/a.gguf": 1}, containers=list(containers)))
        entries = [entry for batch in found.job["batches"] for entry in batch] if found.job else []
        assert [("dry_start" in entry, "weights" in entry) for entry in entries] == ([(True, True)] if told else [])


# --- what its output says ---------------------------------------------------------------------------------------------


def refusal(code: int | None, output: str, how: DryStart) -> str:
    return str(probing.refusal(code, output, {"last": how.last, "code": how.code, "refusals": how.refusals}))


USAGE = "usage: vllm [-h] [-v] {chat,complete,serve,bench,collect-env,run-batch} ...\n"
ALONE = f"vllm: error: unrecognized arguments: {UNKNOWN}\n"
STAY = "unrecognized arguments: --tool-server demo"
REMOVED = '"--draft-max": the argument has been removed. use --spec-draft-n-max or --spec-ngram-mod-n-max'
MANY = "argument --max-num-seqs: invalid int value: 'many'"
CLAP_MANY = "invalid value 'many' for '--max-batch-tokens <MAX_BATCH_TOKENS>': invalid digit found in string"
CLAP_USAGE = "\n\nUsage: text-embeddings-router [OPTIONS] --model-id <MODEL_ID>\n\nFor more information, try '--help'."
HANDLING = "error while handling argument "


@pytest.mark.parametrize(
    ("how", "code", "output", "found"),
    [
        # llama.cpp: build 11669 as tried, and common/arg.cpp
        (LLAMA_SERVER, 1, "warn: LLAMA_ARG_HOST …\nerror: invalid argument: --x\n", "invalid argument: --x"),
        (LLAMA_SERVER, 1, f'{HANDLING}"--ctx-size": stoi\n\nusage:\n-c,    --ctx-size N', '"--ctx-size": stoi'),
        (LLAMA_SERVER, 1, f"{HANDLING}{REMOVED}\n\nusage:\n--draft N", REMOVED),
        (LLAMA_SERVER, 0, "version: 7001 (abc)\nbuilt with …", ""),
        (LLAMA_SERVER, 1, f"{HANDLING}\"--chat-template-file\": error: failed to open file '/x'", ""),
        (LLAMA_SERVER, 1, f'{HANDLING}"--device": invalid device: CUDA0', ""),
        (LLAMA_SERVER, 1, "main: exiting due to model loading error", ""),
        (LLAMA_SERVER, 134, "error: invalid argument: --x", ""),
        (LLAMA_SERVER, None, "error: invalid argument: --x", ""),
        # vLLM: its issues 42399, 37133, 22072. SGLang: its issue 4116
        (ARGPARSE, 2, f"{USAGE}vllm: error: {STAY} {UNKNOWN}\n", STAY),
        (ARGPARSE, 2, f"launch_server.py: error: {STAY} {UNKNOWN}", STAY),
        (ARGPARSE, 2, f"vllm: error: unrecognized arguments: {UNKNOWN} --x 1", "unrecognized arguments: --x 1"),
        (ARGPARSE, 2, f"{USAGE}{ALONE}", ""),
        (ARGPARSE, 2, f"vllm: error: {STAY}\n", ""),  # of another program
        (ARGPARSE, 1, f"vllm: error: {STAY} {UNKNOWN}\n", ""),
        (ARGPARSE, 2, f"vllm serve: error: {MANY}", MANY),
        (ARGPARSE, 2, "vllm serve: error: argument --dtype: invalid choice: 'x' (choose from auto)", ""),
        (ARGPARSE, 1, "RuntimeError: Failed to infer device type", ""),
        (ARGPARSE, 1, "ValueError: Invalid repository ID or local directory specified: '/weights/folder'", ""),
        # TEI 1.9: clap 4
        (CLAP, 2, f"error: unexpected argument '--x' found{CLAP_USAGE}", "unexpected argument '--x' found"),
        (CLAP, 2, f"error: unexpected argument '{UNKNOWN}' found{CLAP_USAGE}", ""),
        (CLAP, 2, f"error: {CLAP_MANY}{CLAP_USAGE}", CLAP_MANY),
        (CLAP, 1, "Error: The `--pooling` arg is not set", ""),
    ],
)  # fmt: skip
def test_says_what_is_proven(how: DryStart, code: int | None, output: str, found: str) -> None:
    assert refusal(code, output, how) == found


def argparse_says(argv: list[str]) -> tuple[int, str]:
    """(exit code, output) of the real argparse for a server with a subcommand, as `vllm serve` has."""
    parser = argparse.ArgumentParser(prog="vllm")
    serve = parser.add_subparsers().add_parser("serve")
    serve.add_argument("model_tag", nargs="?")
    serve.add_argument("--max-num-seqs", type=int)
    serve.add_argument("--names", nargs="+")
    serve.add_argument("--eager", action=argparse.BooleanOptionalAction)
    serve.add_argument("--level", nargs="?", type=int)
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(error):
        try:
            parser.parse_args(argv)
        except SystemExit as end:
            return int(end.code or 0), error.getvalue()
    return 0, "it would start"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], ""),
        (["--max-num-seqs", "3"], ""),
        (["--names", "a", "b"], ""),
        (["--level"], ""),
        (["--eager"], ""),
        (["--nope", "1", "--eager"], "unrecognized arguments: --nope 1"),
        (["--max-num-seqs", "many"], "argument --max-num-seqs: invalid int value: 'many'"),
        (["--max-num-seqs"], "argument --max-num-seqs: expected one argument"),
        (["--names"], "argument --names: expected at least one argument"),
    ],
)
def test_real_argparse_always_ends_and_names_only_what_is_wrong(words: list[str], found: str) -> None:
    code, output = argparse_says(["serve", "/weights/m", *words, *ARGPARSE.last])
    assert code == 2
    assert refusal(code, output, ARGPARSE) == found


@pytest.mark.parametrize(
    ("engine", "how", "options"),
    [
        ("vllm", ARGPARSE, Options(knows("vllm")["flags"], underscores=True, positional="model")),
        ("sglang", ARGPARSE, Options(knows("sglang")["flags"], abbreviates=True)),
    ],
)
def test_no_flag_of_a_known_version_is_the_end_of_a_dry_start(engine: str, how: DryStart, options: Options) -> None:
    with pytest.raises(Wrong, match=f"unrecognized arguments: {UNKNOWN}$"):
        options.parse(list(how.last))


@given(st.text(), st.sampled_from([0, 1, 2, 125]))
def test_any_other_output_proves_nothing(output: str, code: int) -> None:
    for how in (ARGPARSE, CLAP, LLAMA_SERVER):
        if "error" not in output:
            assert refusal(code, output, how) == ""


# --- devices ----------------------------------------------------------------------------------------------------------

DAEMON = "docker: Error response from daemon: "
DEVICES = [
    "unresolvable CDI devices nvidia.com/gpu=GPU-1",
    'failed to stat CDI host device "/dev/dri/card0": no such file or directory',
    'could not select device driver "nope" with capabilities: [[gpu]]',
    'error gathering device information while adding custom device "/dev/x": no such file or directory',
    "nvidia-container-cli: device error: 9: unknown device: unknown",
]


@pytest.mark.parametrize("reason", DEVICES)
def test_docker_says_which_device_it_cannot_give(reason: str) -> None:
    output = f"{DAEMON}failed: {reason}.\n\nRun 'docker run --help' for more information"
    assert probing.no_device(125, output) == f"Docker cannot give it its devices: {reason}"
    assert probing.no_device(1, output) == ""  # a program's own words
    assert probing.no_device(None, output) == ""


@pytest.mark.parametrize(
    "output", [f"{DAEMON}No such image: x:1", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock", ""]
)
def test_other_refusals_of_docker_say_nothing_of_devices(output: str) -> None:
    assert probing.no_device(125, output) == ""
