"""Unknown flags of an engine: errors for the version with known flags, warnings for others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gpurack.engines import ENGINES
from gpurack.engines.known_flags import FOLDER, known
from gpurack.inventory.checks.warnings import warnings
from gpurack.inventory.fleet import check_fleet
from gpurack.spec.problems import InventoryError


def vllm(version: str, **args: object) -> dict[str, object]:
    model = {"engine": "vllm", "version": version, "weights": "/w/m", "gpus": [0], "port": 8000, "args": args}
    return {"hardware": {"A30": 1}, "models": {"alpha": model}}


def said(version: str, **args: object) -> list[str]:
    """The warnings about flags."""
    fleet = check_fleet({"gpu1": [vllm(version, **args)]})
    return [problem.what for problem in warnings(fleet) if "args." in problem.what]


def test_refuses_unknown_flag_with_nearest_name() -> None:
    with pytest.raises(InventoryError) as refused:
        check_fleet({"gpu1": [vllm("0.32.0", **{"enable-prefix-cachin": True})]})
    assert (
        "gpu1 models.alpha.args.enable-prefix-cachin: vllm 0.32.0 has no --enable-prefix-cachin. Did you mean"
        in str(refused.value)
    )


def test_warns_for_other_versions() -> None:
    (warning,) = said("0.40.0", **{"flag-of-tomorrow": 1})
    assert warning.startswith(
        "args.flag-of-tomorrow: vllm 0.32.0 has no --flag-of-tomorrow; gpurack has no list of the flags of 0.40.0."
    )
    assert warning.endswith("0.40.0 may have it.")


@pytest.mark.parametrize("flag", ["enable-prefix-caching", "enable_prefix_caching", "speculative-config.method", "tp"])
def test_accepts_every_spelling_of_known_flags(flag: str) -> None:
    assert said("0.40.0", **{flag: 1}) == []


GONE = {"task": "embed", "swap_space": 4, "disable-log-requests": True}


@pytest.mark.parametrize("version", ["0.18.0", "0.33.0", "1.0"])
def test_refuses_flags_of_2024_where_all_are_removed(version: str) -> None:
    with pytest.raises(InventoryError) as refused:
        check_fleet({"gpu1": [vllm(version, **GONE)]})
    assert len(refused.value.problems) == len(GONE)
    assert "vllm no longer has --swap-space. The nearest is --kv-offloading-size." in str(refused.value)


@pytest.mark.parametrize("version", ["0.6.4", "0.6.4.post1", "0.17.1", "nightly"])
def test_warns_for_version_that_may_have_them(version: str) -> None:
    assert said(version, **{"swap-space": 4}) == [
        "args.swap-space: vllm 0.18 no longer has --swap-space. The nearest is --kv-offloading-size. "
        f"{version} may have it."
    ]


def test_warns_for_image_of_unknown_version() -> None:
    host = vllm("0.6.4", **{"swap-space": 4})
    host["models"]["alpha"] |= {"version": None, "image": "lab/vllm:1"}  # type: ignore[index]
    (warning,) = (problem.what for problem in warnings(check_fleet({"gpu1": [host]})) if "args." in problem.what)
    assert warning.endswith("The nearest is --kv-offloading-size. The image may have it.")


BASE: dict[str, dict[str, Any]] = {
    "sglang": {"version": "0.5.23", "weights": "/w/m", "gpus": [0]},
    "tei": {"version": "1.9", "weights": "/w/m", "gpus": [0]},
    "llama-cpp-python": {"version": "0.3.36", "weights": "/w/m.gguf"},
    "ollama": {"version": "0.34.3", "pull": ["qwen2.5:7b"], "api_key": None},
}


def judged(engine: str, **fields: Any) -> tuple[list[str], list[str]]:
    """(errors, warnings) about an engine's own flags and variables, in an otherwise valid entry."""
    model = {"engine": engine, "port": 8000, **BASE[engine], **fields}
    host = {"hardware": {"A30": 1}, "models": {"alpha": {key: value for key, value in model.items() if value != ""}}}
    try:
        fleet = check_fleet({"gpu1": [host]})
    except InventoryError as error:
        return [f"{problem.path.removeprefix('models.alpha.')}: {problem.what}" for problem in error.problems], []
    return [], [problem.what for problem in warnings(fleet) if " has no " in problem.what]


def of_other(sentence: str, version: str) -> str:
    """The sentence for another version than the one whose flags are listed."""
    listed = re.sub(r"( has no \S+?)\.( |$)", rf"\1; gpurack has no list of the flags of {version}.\2", sentence)
    return f"{listed} {version[0].upper()}{version[1:]} may have it."


@pytest.mark.parametrize(
    ("engine", "flag", "sentence"),
    [
        (
            "sglang",
            "mem-fraction-statc",
            "sglang 0.5.23 has no --mem-fraction-statc. Did you mean mem-fraction-static?",
        ),
        ("sglang", "tp_size", "sglang 0.5.23 has no --tp_size. Did you mean tp-size?"),
        ("sglang", "context-lenght", "sglang 0.5.23 has no --context-lenght. Did you mean the field `context`?"),
        ("sglang", "qqqqqq", "sglang 0.5.23 has no --qqqqqq."),
        ("tei", "max-batch-token", "tei 1.9 has no --max-batch-token. Did you mean max-batch-tokens?"),
        ("tei", "auto_truncate", "tei 1.9 has no --auto_truncate. Did you mean auto-truncate?"),
        ("llama-cpp-python", "n_tread", "llama-cpp-python 0.3.36 has no --n_tread. Did you mean n_threads?"),
        ("llama-cpp-python", "n-threads", "llama-cpp-python 0.3.36 has no --n-threads. Did you mean n_threads?"),
    ],
)
def test_refuses_flags_that_stop_known_version_and_warns_for_others(engine: str, flag: str, sentence: str) -> None:
    """SGLang, TEI and llama-cpp-python distinguish dashes and underscores."""
    assert judged(engine, args={flag: 1}) == ([f"args.{flag}: {sentence}"], [])
    assert judged(engine, args={flag: 1}, version="9.9") == ([], [f"args.{flag}: {of_other(sentence, '9.9')}"])


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        ("sglang", ["tp", "tp-size", "tensor-parallel-size", "dp", "trust-remote-code", "no-mm-enable-dp-encoder"]),
        ("tei", ["auto-truncate", "max-client-batch-size"]),
        ("llama-cpp-python", ["n_threads", "n_gpu_layer", "interrupt_requests", "type_k"]),
    ],
)
def test_accepts_unique_prefixes_of_flags(engine: str, flags: list[str]) -> None:
    """`--tp` and `--n_gpu_layer` are not flags of these two engines, but each is the prefix of exactly one."""
    for flag in flags:
        assert judged(engine, args={flag: 1}) == ([], []), flag


def test_refuses_ambiguous_prefix() -> None:
    assert judged("sglang", args={"enable-metric": True})[0]
    assert judged("tei", args={"auto-trunc": True})[0]


CONFIG = {
    "interupt_requests": False,
    "n_ctx": 2048,
    "models": [{"model": "/w/a.gguf"}, {"model": "/w/b.gguf", "n_gpu_layer": 1, "root_path": "/x"}],
}
OF_CONFIG = [
    ("config.interupt_requests", "config.interupt_requests. Did you mean config.interrupt_requests?"),
    ("config.models.1.n_gpu_layer", "config.models.n_gpu_layer. Did you mean config.models.n_gpu_layers?"),
    ("config.models.1.root_path", "config.models.root_path. Did you mean config.root_path?"),
    ("config.n_ctx", "config.n_ctx. Did you mean config.models.n_ctx?"),
]


def test_refuses_config_keys_that_stop_server() -> None:
    """A wrong key, and one in the wrong place; for an image of any version."""
    sentences = [f"{path}: llama-cpp-python 0.3.36 has no {what}" for path, what in OF_CONFIG]
    assert judged("llama-cpp-python", weights="", config=CONFIG) == (sentences, [])
    of_image = judged("llama-cpp-python", weights="", config=CONFIG, version="", image="lab/llama:cuda")
    assert of_image[0] == []
    assert sorted(of_image[1]) == [of_other(sentence, "the image") for sentence in sentences]


def test_accepts_known_config_keys() -> None:
    right = {"interrupt_requests": True, "models": [{"model": "/w/a.gguf", "model_alias": "a", "n_ctx": 1}]}
    assert judged("llama-cpp-python", weights="", config=right) == ([], [])


def test_warns_of_unknown_ollama_variable_for_every_version() -> None:
    """ollama ignores it, so it is not an error."""
    wrong = {"OLLAMA_KEEPALIVE": "-1"}
    sentence = "env.OLLAMA_KEEPALIVE: ollama 0.34.3 has no OLLAMA_KEEPALIVE. Did you mean OLLAMA_KEEP_ALIVE?"
    no_effect = "An unknown variable has no effect."
    assert judged("ollama", env=wrong) == ([], [f"{sentence} {no_effect}"])
    assert judged("ollama", env=wrong, version="0.33.0") == ([], [f"{of_other(sentence, '0.33.0')} {no_effect}"])
    assert judged("ollama", env={"OLLAMA_KEEP_ALIVE": "-1", "HTTPS_PROXY": "http://proxy:3128"}) == ([], [])


def test_flag_lists_have_expected_versions() -> None:
    lists = {path.stem: known(path.stem) for path in FOLDER.glob("*.txt")}
    assert {engine: version for engine, (version, _) in lists.items()} == {
        "vllm": "0.32.0", "llama.cpp": "b11669", "llama-cpp-python": "0.3.36", "tei": "1.9", "sglang": "0.5.23",
        "ollama": "0.34.3",
    }  # fmt: skip
    assert set(lists) <= set(ENGINES)
    assert {"m", "ngl", "ctx-size", "api-key-file", "embeddings"} <= known("llama.cpp")[1]
    assert known("custom") == ("", frozenset())


@pytest.mark.parametrize("engine", ["sglang", "tei", "vllm"])
def test_standins_know_same_flags(engine: str) -> None:
    standins = Path(__file__).parents[1] / "testbed" / "engines" / "standins"
    flags = json.loads((standins / f"{engine}_knows.json").read_text())["flags"]
    assert {flag.lstrip("-") for flag in flags} == known(engine)[1]
