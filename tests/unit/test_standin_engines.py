"""Stand-ins of engines refuse what the engines refuse: unknown flags, values and variables.

Arguments that they accept fail a step later, because the weights are missing.
"""

import json
import os
import subprocess
from pathlib import Path
from zlib import crc32

import pytest

from tests import forked
from tests.sampling import sample
from tests.testbed.engines import STANDINS

pytestmark = pytest.mark.sampled
CASES = Path(__file__).parent / "engines"
BEGIN = {"sglang": ["--model-path", "/none"], "tei": ["--model-id", "/none"], "vllm": ["serve", "/none"]}
PROGRAM = {"sglang": "sglang_server.py", "tei": "tei_router.py", "vllm": "vllm_server.py"}
TAKEN = {"sglang": "is not a local folder", "tei": "`config.json` not found", "vllm": "Invalid repository ID"}


def started(engine: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "STANDIN_VERSION": "1", "STANDIN_TAG": "1", **environment}
    return forked.run_script(STANDINS / PROGRAM[engine], *BEGIN[engine], *words, env=env)


@pytest.mark.parametrize("engine", list(BEGIN))
def test_accepts_the_arguments_of_every_case(engine: str) -> None:
    paths = sorted((CASES / engine).glob("*.json"))
    for path in sample(paths, engine, lambda path: crc32(path.name.encode()) % 4):
        service = json.loads(path.read_text()).get("service")
        if service:
            words = [*service.get("entrypoint", []), *service["command"]]
            given = [word for word in words if word != "--config" and not word.startswith("/run/")]
            first = next(place for place, word in enumerate(given) if word.startswith("--") and "\n" not in word)
            done = started(engine, *given[first:]) if engine == "vllm" else bare(engine, given[first:])
            assert TAKEN[engine] in done.stderr, (path.stem, done.stderr)


def bare(engine: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    """The command without the weights of BEGIN."""
    env = {"PATH": os.environ["PATH"], "STANDIN_VERSION": "1", "STANDIN_TAG": "1"}
    return forked.run_script(STANDINS / PROGRAM[engine], *words, env=env)


@pytest.mark.parametrize(
    ("engine", "words", "said"),
    [
        ("sglang", ["--mem-fraction-statc", "0.8"], "unrecognized arguments: --mem-fraction-statc"),
        ("sglang", ["--tp_size", "2"], "unrecognized arguments: --tp_size"),
        ("sglang", ["--enable-metric"], "unrecognized arguments: --enable-metric"),
        ("sglang", ["--tp", "two"], "argument --tp-size: invalid int value: 'two'"),
        ("sglang", ["--dtype", "int9"], "argument --dtype: invalid choice: 'int9'"),
        ("sglang", ["--context-length", "4kb"], "invalid human_readable_int value: '4kb'"),
        ("sglang", ["--preferred-sampling-params", "{"], "invalid loads value: '{'"),
        ("sglang", ["--host"], "argument --host: expected one argument"),
        ("sglang", ["more"], "unrecognized arguments: more"),
        ("tei", ["--max-batch-token", "9"], "error: unexpected argument '--max-batch-token' found"),
        ("tei", ["--auto_truncate"], "error: unexpected argument '--auto_truncate' found"),
        ("tei", ["--device-id", "0"], "error: unexpected argument '--device-id' found"),
        ("tei", ["--max-batch-tokens", "-1"], "error: invalid value '-1' for '--max-batch-tokens <MAX_BATCH_TOKENS>'"),
        ("tei", ["--pooling", "max"], "error: invalid value 'max' for '--pooling <POOLING>'\n  [possible values: "),
        ("tei", ["--port", "80", "-p", "81"], "the argument '--port' cannot be used multiple times"),
        ("tei", ["--default-prompt", "a", "--default-prompt-name", "b"], "cannot be used with"),
        ("vllm", ["--max-model-length", "9"], "unrecognized arguments: --max-model-length"),
        ("vllm", ["--max-num-seqs", "many"], "argument --max-num-seqs: invalid int value: 'many'"),
    ],
)
def test_refuses_what_the_real_parser_refuses(engine: str, words: list[str], said: str) -> None:
    done = started(engine, *words)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (
            "sglang",
            ["--tp", "2", "--dp=1", "--cuda-graph-bs-decode", "1", "2", "--log-level", "info", "--is-embedding"],
        ),
        ("sglang", ["--mem-fraction-static", "0.8", "--random-seed", "-1", "--context-length", "4Ki"]),
        ("tei", ["-p", "80", "--dtype=float16", "--auto-truncate", "--pooling", "last-token"]),
        ("vllm", ["--max_model_len", "4k", "-tp", "2", "--speculative-config.method", "ngram"]),
    ],
)
def test_accepts_what_the_real_parser_accepts(engine: str, words: list[str]) -> None:
    assert TAKEN[engine] in started(engine, *words).stderr


@pytest.mark.parametrize(
    ("engine", "name", "said"),
    [
        ("sglang", "SGLANG_LOG_MSS", "SGLang knows no variable SGLANG_LOG_MSS"),
        ("tei", "MAX_BATCH_TOKEN", "TEI knows no variable MAX_BATCH_TOKEN"),
        ("tei", "MAX_BATCH_TOKENS", "error: invalid value 'x' for '--max-batch-tokens <MAX_BATCH_TOKENS>'"),
        ("tei", "JSON_OUTPUT", "error: invalid value 'x' for '--json-output <JSON_OUTPUT>'"),
        ("vllm", "VLLM_NO_SUCH", "vLLM knows no variable VLLM_NO_SUCH"),
    ],
)
def test_refuses_unknown_or_invalid_variables(engine: str, name: str, said: str) -> None:
    done = started(engine, **{name: "x"})
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("engine", "name", "value"),
    [("sglang", "SGLANG_LOG_MS", "1"), ("tei", "MAX_BATCH_TOKENS", "9"), ("tei", "LOG_LEVEL", "debug")],
)
def test_accepts_the_variables_of_its_engine(engine: str, name: str, value: str) -> None:
    assert TAKEN[engine] in started(engine, **{name: value}).stderr
