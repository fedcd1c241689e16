"""Inventories: what is refused, with which code, and how layers become the spec of a host."""

import json
import os
import re
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import Inventory

import gpurack
from gpurack.engines import ENGINES
from gpurack.inventory.checks.clashes import binds_overlap
from gpurack.inventory.checks.warnings import log_driver_warnings, warnings
from gpurack.inventory.fleet import check_fleet, read_fleet, version_problems, without_models
from gpurack.inventory.load import ignored_by_pyinfra, read_inventory
from gpurack.inventory.secrets import read_secrets, secrets_of
from gpurack.spec import error_codes, live_codes, step_codes
from gpurack.spec.error_codes import CODES
from gpurack.spec.host import Host
from gpurack.spec.model import Model
from gpurack.spec.problems import InventoryError, Problem, nearest
from gpurack.spec.secret import Secret, SecretError
from gpurack.spec.weights import UrlWeights
from tests.given import models, spec

ALPHA = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000}
TABLE = Path(__file__).parent / "wrong_inventories.jsonl"
"""One wrong inventory per line. alpha: fields of the only model, merged over ALPHA; gpu1: fields of the only host, with
that model; inventory: all hosts. `"<": "alpha"` in a map stands for the fields of ALPHA. problems: [path, code].
"""
WRONG = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
IDS = [case["case"] for case in WRONG]


def expanded(value: Any) -> Any:
    if isinstance(value, dict):
        base = ALPHA if value.get("<") == "alpha" else {}
        return {**base, **{key: expanded(item) for key, item in value.items() if key != "<"}}
    return [expanded(item) for item in value] if isinstance(value, list) else value


def layers_of(case: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The layers of data of each host, for a line of the table."""
    if "alpha" in case:
        hosts = {"gpu1": {"models": {"alpha": {**ALPHA, **case["alpha"]}}}}
    elif "gpu1" in case:
        hosts = {"gpu1": {"models": {"alpha": ALPHA}, **expanded(case["gpu1"])}}
    else:
        hosts = expanded(case["inventory"])
    return {name: data if isinstance(data, list) else [data] for name, data in hosts.items()}


def problems_of(layers: dict[str, list[dict[str, Any]]]) -> list[Problem]:
    with pytest.raises(InventoryError) as caught:
        check_fleet(layers)
    return caught.value.problems


def refusal(layers: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [str(problem) for problem in problems_of(layers)]


@cache
def problems_of_case(name: str) -> list[Problem]:
    assert "GPURACK_TEST_IS_NOT_SET" not in os.environ
    return problems_of(layers_of(WRONG[IDS.index(name)]))


@pytest.mark.parametrize("case", WRONG, ids=IDS)
def test_refuses_with_exactly_these_codes_at_these_paths(case: dict[str, Any]) -> None:
    found = [[f"{problem.host} {problem.path}", problem.code] for problem in problems_of_case(case["case"])]
    assert found == case["problems"]


def test_wording_of_refusals_is_golden(check_golden: Callable[[str, dict[str, list[str]]], None]) -> None:
    check_golden("inventory", {name: [str(problem) for problem in problems_of_case(name)] for name in IDS})


SECRET = [case for case in WRONG if "sk-live" in json.dumps(case)]


@pytest.mark.parametrize("case", SECRET, ids=[case["case"] for case in SECRET])
def test_errors_never_repeat_a_secret(case: dict[str, Any]) -> None:
    found = problems_of_case(case["case"])
    assert "sk-live" not in "".join(f"{problem} {problem.parameters}" for problem in found)


def test_every_code_is_used() -> None:
    source = Path(gpurack.__file__).parent
    tables = ("error_codes.py", "live_codes.py", "step_codes.py")
    programs = [*source.rglob("*.py"), *(source.parent / "files").glob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in programs if path.name not in tables]
    assert [code for code in CODES if not any(f'"{code}"' in text for text in texts)] == []


def test_no_code_is_in_two_tables() -> None:
    joined = {"INVENTORY", "LIVE", "STEPS", "CODES"}
    tables = [item for module in (error_codes, live_codes, step_codes) for item in vars(module).items()]
    own = [each for name, each in tables if name.isupper() and name not in joined and isinstance(each, dict)]
    found = [code for table in own for code in table]
    assert sorted(found) == sorted(CODES)


def test_every_code_has_a_cause_and_a_fix() -> None:
    for name, code in CODES.items():
        assert code.cause, name
        assert code.fix or re.sub(r"\{\w+\}", "", code.hint).strip(), name


def test_error_has_count_and_says_nothing_was_done() -> None:
    one = InventoryError([Problem.of("missing-field", "gpu1", "models.alpha.port", hint="")])
    assert str(one) == (
        "1 error in the inventory; nothing was done on any host\n    error  gpu1 models.alpha.port: is missing."
    )
    empty = Problem("a", "p", "empty-value")
    two = InventoryError([Problem.of("missing-field", "b", hint=""), empty, empty])
    assert str(two).splitlines() == [
        "2 errors in the inventory; nothing was done on any host",
        "    error  a p: is empty.",
        "    error  b: is missing.",
    ]


def test_groups_one_fault_of_several_entries() -> None:
    places = [("gpu1", "models.a.port"), ("gpu1", "models.b.port"), ("gpu2", "models.a.port")]
    error = InventoryError([Problem.of("missing-field", host, path, hint="Write port: 8000.") for host, path in places])
    assert len(error.problems) == 3
    assert str(error).splitlines() == [
        "1 error in the inventory; nothing was done on any host",
        "    error  gpu1 a.port, b.port · gpu2 a.port: is missing. Write port: 8000.",
    ]


def test_reports_wrong_python_types() -> None:
    def model(**fields: Any) -> dict[str, list[dict[str, Any]]]:
        return {"gpu1": [{"models": {"alpha": {**ALPHA, **fields}}}]}

    assert refusal(model(gpus=(0, 1))) == ["gpu1 models.alpha.gpus: (0, 1) is not a list of GPUs. Write [0, 1]."]
    assert refusal(model(compose={"labels": {"since": date(2026, 11, 20)}})) == [
        "gpu1 models.alpha.compose: contains more than text, numbers, booleans, lists and maps with text as keys. "
        "Put the value in quotes."
    ]
    assert refusal(model(args={5: 1})) == ['gpu1 models.alpha.args: 5: a flag is text. Write "5" in quotes.']


@pytest.mark.parametrize(
    "fields",
    [
        {"gpus": []},
        {"gpus": "all"},
        {"gpus": ["GPU-6f1c", 3]},
        {"gpus": [0], "vram": "30%"},
        {"engine": "vllm", "gpus": [0], "weights": {"hf": "facebook/opt-125m", "revision": "27dcfa7"}},
        {"engine": "vllm", "gpus": [0], "weights": {"hf": "facebook/opt-125m", "revision": "refs/pr/3"}},
        {"engine": "vllm", "gpus": [0], "weights": {"modelscope": "qwen/Qwen2.5-7B"}},
        {"version": None, "image": {"tar": "images/llama.tar"}, "enabled": False},
        {"version": None, "image": {"build": {"git": "https://git.example/x", "revision": "v1"}}},
        {"bind": "::1"},
        {"bind": "10.1.2.3"},
        {"version": None, "image": "ghcr.io/lab/llama:1"},
        {"weights": {"url": "https://hf.example/a.gguf?download=true", "sha256": "0" * 64}},
        {"args": {"t": 16, "metrics": True, "temp": 0.5, "lora": ["a", "b"], "gone": None}},
        {"env": {"A": "1", "B": None}},
        {"compose": {"restart": None, "shm_size": "8g"}},
        {"enabled": False, "api_key": {"env": "GPURACK_TEST_IS_NOT_SET"}},
        {"served_name": "Qwen/Qwen2.5-7B"},
    ],
    ids=json.dumps,
)
def test_accepts_valid_fields(fields: dict[str, Any]) -> None:
    assert check_fleet({"gpu1": [{"models": {"alpha": {**ALPHA, **fields}}}]})["gpu1"].models["alpha"]


def test_ignores_data_of_others() -> None:
    data = {
        "rack": 7,
        "ssh_user": "lab",
        "_sudo": True,
        "docker_image": "x",
        "ssh_keys": ["ada.pub"],
        "models": {"alpha": ALPHA},
    }
    assert list(check_fleet({"gpu1": [data]})["gpu1"].models) == ["alpha"]


# --- layers --------------------------------------------------------------------------------------------------------


def test_merges_all_groups_and_host() -> None:
    everywhere = {"docker": {"version": "28.5.2", "daemon": {"live-restore": True, "log-driver": "local"}}}
    group = {"docker": {"daemon": {"data-root": "/data/docker", "log-driver": None}}}
    own = {"docker": {"source": "distro", "daemon": {"labels": ["rack=7"]}}}
    host = check_fleet({"gpu1": [everywhere, group, own]})["gpu1"]
    assert (host.docker.source, host.docker.version) == ("distro", "28.5.2")
    # the null stays: it also removes the key from the host's own daemon.json
    assert host.docker.daemon == {
        "live-restore": True, "log-driver": None, "data-root": "/data/docker", "labels": ["rack=7"]
    }  # fmt: skip


def test_merges_defaults_engine_and_model() -> None:
    host = spec(
        {"defaults": {"bind": "lan", "args": {"threads": 8, "metrics": True}, "env": {"A": "all"}}},
        {"engines": {"llama.cpp": {"version": "b7001", "args": {"threads": 16}, "env": {"A": "engine"}}}},
        {"models": {"alpha": {"port": 1, "args": {"threads": 32}}, "beta": {"port": 2, "bind": None, "args": None}}},
    )
    alpha, beta = host.models["alpha"], host.models["beta"]
    assert (alpha.version, alpha.bind, alpha.env) == ("b7001", "lan", {"A": "engine"})
    assert alpha.args == {"threads": 32, "metrics": True}
    assert (beta.bind, beta.args) == ("loopback", {})


def test_null_removes_model_of_group() -> None:
    host = spec({"models": {"alpha": {"port": 1}, "beta": {"port": 2}}}, {"models": {"alpha": None}})
    assert list(host.models) == ["beta"]


def test_null_in_compose_reaches_service() -> None:
    assert models(alpha={"compose": {"restart": None}}).models["alpha"].compose == {"restart": None}


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_version_with_v_is_refused_where_gpurack_adds_the_v(engine: str) -> None:
    chosen = ENGINES[engine]
    model = Model.model_construct(engine=engine, version="v1.2.3")
    doubled = any("vv1.2.3" in image for image in chosen.variants("v1.2.3"))
    assert [problem.code for problem in version_problems(model)] == (["version-with-v"] if doubled else [])
    assert doubled == (engine in ("litellm", "llama-cpp-python", "open-webui", "sglang", "vllm"))


def test_service_is_never_told_to_connect_to_itself() -> None:
    chat = {"engine": "open-webui", "version": "0.12.4", "port": 3000, "connects_to": ["chatt"]}
    with pytest.raises(InventoryError) as error:
        spec({"models": {"alpha": {"gpus": []}}, "services": {"chat": chat}})
    [problem] = [problem for problem in error.value.problems if problem.code == "unknown-model"]
    assert '"chat"' not in problem.hint


def test_image_replaces_inherited_version_and_vice_versa() -> None:
    own_image = spec({"models": {"alpha": {"port": 1, "image": "ghcr.io/lab/llama:1"}}}).models["alpha"]
    assert (own_image.image, own_image.version) == ("ghcr.io/lab/llama:1", None)
    own_version = spec(
        {"defaults": {"version": None, "image": "ghcr.io/lab/llama:1"}},
        {"models": {"alpha": {"port": 1, "version": "b7"}}},
    ).models["alpha"]
    assert (own_version.image, own_version.version) == (None, "b7")


def test_null_removes_inherited_key() -> None:
    host = spec(
        {"defaults": {"api_key": {"env": "GPURACK_TEST_IS_NOT_SET"}}}, {"models": {"a1": {"port": 1, "api_key": None}}}
    )
    assert secrets_of(host) == {}


def test_merges_layers_that_pyinfra_would_replace() -> None:
    inventory = Inventory(
        (["gpu1", ("gpu2", {"docker": {"version": "26.1.5"}})], {"docker": {"version": "28.5.2"}}),
        a30=(["gpu1", "gpu2"], {"docker": {"daemon": {"debug": True}}}),
        override_data={"docker": {"restart": "never"}},
    )
    fleet = read_fleet(inventory)
    seen = {name: (host.docker.version, host.docker.daemon, host.docker.restart) for name, host in fleet.items()}
    assert seen == {"gpu1": ("28.5.2", {"debug": True}, "never"), "gpu2": ("26.1.5", {"debug": True}, "never")}


def test_inventory_without_models_is_error_for_models_only() -> None:
    problem = without_models(check_fleet({"gpu1": [{}], "gpu2": [{"docker": {"source": "distro"}}]}))
    assert problem is not None
    assert str(problem).startswith("no host has any models. Add a `models` map")
    assert "keep its entry with `enabled: false`" in problem.hint
    off = check_fleet({"gpu1": [{"models": {"alpha": {**ALPHA, "enabled": False}}}]})
    assert without_models(off) is None, "what the hint proposes is accepted"
    assert without_models({"gpu1": Host(), "gpu2": models(alpha={})}) is None


# --- what cannot be together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("loopback", "loopback", True),
        ("loopback", "any", True),
        ("loopback", "127.0.0.1", True),
        ("loopback", "127.0.0.2", False),
        ("loopback", "::1", False),
        ("loopback", "lan", False),
        ("loopback", "10.0.0.7", False),
        ("lan", "127.0.0.1", False),
        ("lan", "10.0.0.7", True),
        ("lan", "fd00::7", True),
        ("lan", "0.0.0.0", True),
        ("lan", "lan", True),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.8", False),
        ("10.0.0.7", "::", True),
        ("any", "any", True),
    ],
)
def test_finds_overlapping_binds(one: str, other: str, overlap: bool) -> None:
    assert binds_overlap(one, other) is overlap
    assert binds_overlap(other, one) is overlap


def test_disabled_model_clashes_with_nothing() -> None:
    host = models(alpha={"gpus": "all", "port": 1}, beta={"gpus": [0], "port": 1, "enabled": False})
    assert not host.models["beta"].enabled


def test_only_enabled_models_need_gpu() -> None:
    assert models(alpha={"gpus": [0]}).wants_gpu
    assert not models(alpha={"gpus": [0], "enabled": False}, beta={"gpus": []}).wants_gpu


# --- secrets and words ---------------------------------------------------------------------------------------------


def test_reads_and_strips_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPURACK_TEST_KEY", " from-env\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text("from-file\n")
    assert Secret(env="GPURACK_TEST_KEY").read() == "from-env"
    assert Secret(file="~/key").read() == "from-file"
    assert Secret(command=["printf", "from-command\\n"]).read() == "from-command"


def test_reads_secret_once(tmp_path: Path) -> None:
    """A run uses the value that was checked, even if the file changes meanwhile."""
    (tmp_path / "key").write_text("first")
    wanted = spec({"models": {"alpha": {"port": 8000, "api_key": {"file": str(tmp_path / "key")}}}})
    (tmp_path / "key").write_text("second")
    assert read_secrets(wanted) == {"alpha": {"api_key": "first"}}


def test_command_of_a_secret_that_hangs_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several entries with it wait once, and are told for what."""
    monkeypatch.setattr("gpurack.spec.secret.PATIENCE", 0.6)
    monkeypatch.setattr("gpurack.spec.secret.SIGN_OF_LIFE", 0.2)
    words = ["sh", "-c", f"echo begun >>{tmp_path}/calls; exec sleep 60"]
    for _ in range(2):
        with pytest.raises(SecretError, match=r"^command sh -c .* has not ended within "):
            Secret(command=words).read()
    assert (tmp_path / "calls").read_text() == "begun\n"
    said = capsys.readouterr()
    assert said.err.startswith(f"waiting for the command of a secret: sh -c echo begun >>{tmp_path}/calls; ")
    assert said.out == ""


def test_command_of_a_secret_that_fails_shows_its_last_line() -> None:
    words = ["sh", "-c", "echo warning >&2; echo the store is locked. >&2; exit 3"]
    with pytest.raises(SecretError, match=r" ended with exit code 3: the store is locked\. Run it by hand first\.$"):
        Secret(command=words).read()


def test_reports_secret_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    with pytest.raises(SecretError, match=r"^file .*key cannot be read: "):
        Secret(file=str(tmp_path / "key")).read()


def test_reads_mirror_key_in_home_of_admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mirror.asc").write_text("armored")
    host = spec({"mirrors": {"nvidia": {"url": "https://mirror.example", "key": "~/mirror.asc"}}})
    assert host.mirrors["nvidia"].read_key() == "armored"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://hf.example/x/model-q4_K.gguf", "model-q4_K.gguf"),
        ("https://hf.example/x/model.gguf?download=true#top", "model.gguf"),
        ("https://hf.example/x/mein%20Modell.gguf", "mein_20Modell.gguf"),
        ("https://hf.example/x/$(reboot).gguf", "__reboot_.gguf"),
    ],
)
def test_finds_file_name_of_fetched_weights(url: str, name: str) -> None:
    weights = models(alpha={"weights": {"url": url, "sha256": "0" * 64}}).models["alpha"].weights
    assert isinstance(weights, UrlWeights)
    assert weights.filename == name


def test_nearest_word_or_none() -> None:
    assert nearest("wieghts", ["weights", "gpus"]) == "weights"
    assert nearest("colour", ["weights", "gpus"]) is None


@pytest.mark.parametrize(("url", "warned"), [("http://hf.example", True), ("https://hf.example", False)])
def test_warns_of_token_in_plain_text(url: str, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_HF", "hf_lab")
    data = {"mirrors": {"huggingface": url}, "hf_token": {"env": "LAB_HF"}, "models": {"alpha": ALPHA}}
    found = [problem.path for problem in warnings(check_fleet({"gpu1": [data]}))]
    assert ("mirrors.huggingface" in found) == warned


def warned(words: str, host: dict[str, Any]) -> list[str]:
    """The warnings of a host that contain these words."""
    said = [str(problem) for problem in warnings(check_fleet({"gpu1": [host]}))]
    return [sentence for sentence in said if words in sentence]


TOKEN = "hf_token of the host"
ENV_FILE = 'compose: {"env_file": ["/…"]}'
VLLM = {"engine": "vllm", "version": "0.33.0", "weights": "/w/m", "gpus": [0]}
QUANTIZE = {"engine": "llama.cpp", "version": "b7000", "command": ["--quantize", "/models/a", "/models/b"]}
BUILD = {"git": "https://git.lab/llama", "revision": "v1", "args": {"PIP_PASSWORD": "live", "CUDA_VERSION": "13.0"}}


@pytest.mark.parametrize(
    ("entry", "field", "remedy"),
    [
        ({"env": {"HF_TOKEN": "hf_live"}}, "env.HF_TOKEN", TOKEN),
        ({"env": {"WANDB_API_KEY": "sk-live"}}, "env.WANDB_API_KEY", "api_key"),
        ({"env": {"HTTPS_PROXY": "http://me:sk-live@proxy:3128"}}, "env.HTTPS_PROXY", ENV_FILE),
        ({**VLLM, "args": {"hf-token": "hf_live"}}, "args.hf-token", TOKEN),
        ({"args": {"lora-api-key": ["sk-live"]}}, "args.lora-api-key", ENV_FILE),
        ({"compose": {"environment": {"API_KEY": "sk-live", "N": 1}}}, "compose.environment.API_KEY", ENV_FILE),
        ({"compose": {"environment": ["N=1", "API_KEY=sk-live=="]}}, "compose.environment.API_KEY", ENV_FILE),
        ({"version": None, "image": {"build": BUILD}}, "image.build.args.PIP_PASSWORD", "docker build --secret"),
    ],
)
def test_warns_of_secret_in_plain_text(entry: dict[str, Any], field: str, remedy: str) -> None:
    (sentence,) = warned("in plain text", {"models": {"alpha": {**ALPHA, **entry}}})
    assert sentence.startswith(f"gpu1 models.alpha: {field} is a secret in plain text, in the inventory")
    assert remedy in sentence
    assert "live" not in sentence


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"env": {"API_KEY": "sk-live"}}, "env.API_KEY"),
        ({"compose": {"environment": ["API_KEY=sk-live"]}}, "compose.environment.API_KEY"),
        ({"command": ["--run", "--lora-key", "sk-live"]}, "command --lora-key"),
        ({"command": ["--run", "--lora-key=sk-live"]}, "command --lora-key"),
    ],
)
def test_hint_for_secret_of_job_does_not_name_api_key(entry: dict[str, Any], field: str) -> None:
    (sentence,) = warned("in plain text", {"jobs": {"small": {**QUANTIZE, **entry}}})
    assert sentence.startswith(f"gpu1 jobs.small: {field} is a secret in plain text, in the inventory")
    assert ENV_FILE in sentence
    assert "api_key" not in sentence
    assert "live" not in sentence


@pytest.mark.parametrize(
    "entry",
    [
        {"env": {"API_KEY_FILE": "/run/secrets/api_key", "TOKEN": "/run/secrets/t", "MAX_TOKENS": "5", "SECRET": ""}},
        {**VLLM, "args": {"hf-token": True, "some-key": "/run/secrets/key", "other-key": 3}},
        {"compose": {"environment": {"API_KEY": None}}},
        {"compose": {"environment": ["API_KEY", "TOKEN="]}},
        {"compose": {"environment": None}},
    ],
)
def test_path_or_name_of_secret_is_no_warning(entry: dict[str, Any]) -> None:
    assert warned("in plain text", {"models": {"alpha": {**ALPHA, **entry}}}) == []


SOURCES = "`hf`, `modelscope`, `url` or `copy`"


def without_source(which: str) -> str:
    return f"{which} is a path on the host, so a rebuild cannot restore it. Add a source: {SOURCES}."


def test_warns_of_weights_without_source() -> None:
    config = {"models": [{"model": "/w/b.gguf"}, {"model": {"hf": "lab/c", "file": "c.gguf"}}]}
    python = {"engine": "llama-cpp-python", "version": "0.3.36", "port": 8001, "config": config}
    job = {**QUANTIZE, "weights": "/w/f16.gguf"}
    host = {"models": {"alpha": ALPHA, "both": python}, "jobs": {"small": job, "off": {**job, "enabled": False}}}
    assert warned("Add a source", host) == [
        f"gpu1 models.alpha: {without_source('`weights`')}",
        f"gpu1 models.both: {without_source('`weights` /w/b.gguf')}",
        f"gpu1 jobs.small: {without_source('`weights`')}",
    ]
    assert warned("branch", host) == [
        "gpu1 models.both: `weights` c.gguf follows a branch. Give a revision to get the same files again."
    ]


def test_result_of_job_is_a_source() -> None:
    made = {**QUANTIZE, "folder": "/data", "result": "q4.gguf"}
    host = {"jobs": {"small": made}, "models": {"alpha": {**ALPHA, "weights": "/data/q4.gguf"}}}
    assert warned("Add a source", host) == []


def test_warns_of_floating_image_of_job() -> None:
    job = {**QUANTIZE, "version": None, "image": "lab/llama:latest"}
    assert len(warned("lab/llama:latest floats", {"jobs": {"small": job}})) == 1


@pytest.mark.parametrize(
    ("entry", "open_to_all"),
    [
        ({"bind": "lan"}, True),
        ({"bind": "0.0.0.0"}, True),
        ({"bind": "loopback"}, False),
        ({"bind": "lan", "api_key": None}, False),
        ({"bind": "lan", "enabled": False}, False),
        ({"bind": "lan", "engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf"}, False),
    ],
)
def test_warns_of_open_paths_of_vllm_with_key(entry: dict[str, Any], open_to_all: bool) -> None:
    keyed = {**VLLM, "port": 8000, "api_key": {"env": "PATH"}}
    found = warned("its key guards /v1 only", {"hardware": {"A30": 1}, "models": {"alpha": {**keyed, **entry}}})
    assert len(found) == open_to_all
    assert all("/tokenize" in sentence and "Bind it to loopback behind a gateway" in sentence for sentence in found)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('lab = [("gpu1", {}), ("gpu1", {})]', 'lab.py:1: "gpu1" is in this list twice; pyinfra keeps only the last.'),
        ('lab = [("gpu1", {"a": 1, "a": 2})]', 'lab.py:1: "a" is given twice; Python keeps only the last.'),
        (
            'docker = {"source": "distro"}\nlab = ["gpu1"]',
            "lab.py:1: pyinfra ignores `docker` at the top of an inventory.",
        ),
        ('lab = "nlp"\nhosts = ["gpu1"]', "lab.py:1: pyinfra ignores `lab` at the top of an inventory."),
    ],
)
def test_reports_what_python_and_pyinfra_ignore_silently(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "lab.py"
    path.write_text(text)
    (problem,) = ignored_by_pyinfra(path)
    assert sentence in str(problem)


@pytest.mark.parametrize(
    "text",
    [
        'lab = ("gpu1", {"models": {}})',
        'lab = ("gpu1", "gpu2")',
        'lab = (("gpu1", {}), {"docker": {}})',
        'lab = ([("gpu1", {})],)',
        'lab = ([("gpu1", {})], {}, {})',
        'lab = ["gpu1", ("gpu2",)]',
        'lab = [("gpu1", {}), {"docker": {}}]',
        "lab = (8000, 8001)",
    ],
)
def test_reports_group_with_missing_or_extra_bracket(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab.py"
    path.write_text(f"_x = 1\n{text}\n")
    with pytest.raises(InventoryError) as caught:
        read_inventory(path)
    assert [str(problem) for problem in caught.value.problems] == [
        f'{path}:2: `lab` is not a group of hosts. Write lab = [("gpu1", {{…}})], or lab = ([hosts], {{…}}) with the '
        "data of all of them. Start the name of a helper with _."
    ]


@pytest.mark.parametrize(
    "text",
    ["lab = ['gpu1']", "lab = ['gpu1', ('gpu2', {})]", "_h = ('a', {})\nlab = ([_h], {})"],
)
def test_accepts_groups_that_pyinfra_accepts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab.py"
    path.write_text(text)
    assert len(read_inventory(path))


def test_accepts_host_in_two_groups(tmp_path: Path) -> None:
    path = tmp_path / "lab.py"
    path.write_text('one = [("gpu1", {})]\nother = [("gpu1", {})]\n')
    assert ignored_by_pyinfra(path) == []


def test_refuses_compose_keys_of_gpurack_but_allows_null() -> None:
    def found(**compose: object) -> list[tuple[str, str]]:
        entry = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000, "compose": compose}
        problems = ENGINES["llama.cpp"].check(Model.model_validate(entry))
        assert {problem.code for problem in problems} <= {"set-by-gpurack"}
        return [(problem.path, problem.hint) for problem in problems]

    assert found(ports=["9001:8080"]) == [
        ("compose.ports", "Use `port` and `bind`, so that the plan knows every listener.")
    ]
    assert found(ports=None, shm_size="1g") == []


def test_warns_of_legacy_engine() -> None:
    page = {"engine": "llama-gpt", "port": 3000, "connects_to": ["alpha"], "api_key": None}
    (sentence,) = warned("legacy", {"models": {"alpha": ALPHA}, "services": {"page": page}})
    assert sentence.startswith("gpu1 services.page: llama-gpt is legacy: ")
    assert "open-webui" in sentence


def test_warns_of_model_without_gpus_on_gpu_host() -> None:
    entry = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000}
    fleet = check_fleet({"gpu1": [{"hardware": {"A30": 1, "A31": 1}, "models": {"alpha": entry}}]})
    said = [str(problem) for problem in warnings(fleet)]
    assert "gpu1 models.alpha.gpus: is missing, so it runs on the CPU. Write [] to confirm." in said
    assert any('gpu1 hardware: unknown GPU "A31". Did you mean "A30"?' in line for line in said)


def test_warns_of_job_on_gpu_of_model() -> None:
    """Only a run knows if the job is done already, and refuses it if not."""
    job = {**QUANTIZE, "gpus": [1]}
    host = {"hardware": {"A30": 2}, "models": {"alpha": {**ALPHA, "gpus": [0, 1]}}, "jobs": {"small": job}}
    assert warned("GPU 1", host) == [
        "gpu1 jobs.small: GPU 1 (A30) is claimed by 2 entries: alpha, small. Choose another GPU, or set vram "
        '("6GiB") for each of them. No model is stopped for a job. A run refuses it, unless it is done.'
    ]
    every = {"hardware": {"A30": 2}, "models": {"alpha": {**ALPHA, "gpus": "all"}}, "jobs": {"small": job}}
    assert len(warned("GPU 1", every)) == 1
    for apart in ({"gpus": [0]}, {"gpus": [1], "enabled": False}, {"gpus": []}):
        assert warned("GPU 1", {**host, "models": {"alpha": {**ALPHA, **apart}}}) == [], apart
    both = {"models": {"alpha": {**ALPHA, "gpus": [1], "vram": "4GiB"}}, "jobs": {"small": {**job, "vram": "4GiB"}}}
    assert warned("GPU 1", both) == []


def test_warns_of_service_without_connections() -> None:
    gateway = {"engine": "litellm", "version": "1.109.1", "port": 4000, "connects_to": "all"}
    nothing = [
        "gpu1 services.gateway: connects to no enabled model that it can reach. Check `enabled`, and `bind` of models "
        "on other hosts."
    ]
    assert warned("connects to no", {"services": {"gateway": gateway}}) == nothing
    off = {"alpha": {**ALPHA, "enabled": False}}
    assert warned("connects to no", {"models": off, "services": {"gateway": gateway}}) == nothing
    named = {**gateway, "connects_to": ["alpha"]}
    assert warned("connects to no", {"models": off, "services": {"gateway": named}}) == nothing
    assert warned("connects to no", {"models": {"alpha": ALPHA}, "services": {"gateway": gateway}}) == []


def test_warns_once_of_two_names_with_one_address_and_port() -> None:
    alpha = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "gpus": [], "api_key": None}
    data = {"address": "10.0.0.7", "models": {"alpha": {**alpha, "port": 8000}, "beta": {**alpha, "port": 8001}}}
    other = {"models": {"alpha": {**alpha, "port": 8000}}}
    found = warnings(check_fleet({"gpu1": [data], "gpu1.lab": [data], "gpu2": [other]}))
    (same,) = [str(problem) for problem in found if problem.code == "same-endpoint"]
    assert same == (
        "gpu1.lab models.alpha: has the same address and port as gpu1 (10.0.0.7:8000). "
        "If both names mean one server, keep one of them."
    )


@pytest.mark.parametrize(
    ("policy", "given", "found"),
    [(None, "always", "always"), ("ask", "always", "always"), ("never", "always", "never"), ("ask", "no", "ask")],
)
def test_restart_answers_the_question_of_the_inventory(policy: str | None, given: str, found: str) -> None:
    """`gpurack apply --restart`. `never` is no question."""
    layers: list[dict[str, Any]] = [{"docker": {"restart": policy} if policy else {}}, {"restart": given}]
    assert check_fleet({"gpu1": layers})["gpu1"].docker.restart == found


@pytest.mark.parametrize("name", ["loki", "local", "awslogs", "grafana/loki-docker-driver:latest"])
def test_log_driver_of_a_plugin_is_not_warned_of(name: str) -> None:
    assert log_driver_warnings("docker.daemon.log-driver", name) == []
    assert log_driver_warnings("docker.daemon.log-driver", "jurnald")
