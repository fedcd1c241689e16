"""Every engine's cases: an inventory entry, and exactly the Compose service or the errors that it becomes.

A case (`<engine>/<case>.json`) has `name` and `model` (the entry). Optional: `cards` (compute capability of each GPU;
"" if unknown, "amd" for an AMD GPU), `host` (other fields of the host), `docker` (its version), `docker_info` (more of
it), `others` (for a service: the `models` and `services` beside it, and whole other `hosts`). It expects `service`,
`files` (except programs) and `ready` [path, name in the answer], or `refused` [[place, code]], whose wording is in
messages.golden.txt.

`docker_run` is the original command (from the project's seeds), which the service must match; `differs` says what that
comparison leaves out, and why.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpurack.engines import ENGINES
from gpurack.engines.args import with_dashes
from gpurack.engines.container import SHARED_MEMORY, with_secrets
from gpurack.engines.known_flags import FOLDER as KNOWN_FLAGS
from gpurack.engines.llama_cpp_python import CONFIG, KEYED_CONFIG
from gpurack.engines.sglang import KEEPER
from gpurack.engines.vllm import ONE_DASH, REMOVED
from gpurack.facts.gpus import Gpu
from gpurack.facts.model import HostFacts
from gpurack.importing.recognise import engine_of
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.models.desired import desire
from gpurack.spec.host import Host
from gpurack.spec.problems import InventoryError

CASES = sorted(Path(__file__).parent.glob("*/*.json"))
SECRET = "sk-case-secret"


def read(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(path.read_text())
    return case


def host_of(case: dict[str, Any]) -> Host:
    """The host of a case, checked like any inventory. Raises InventoryError."""
    kind = "services" if ENGINES[case["model"]["engine"]].service else "models"
    others = case.get("others", {})
    data = {**case.get("host", {}), **{word: dict(others.get(word, {})) for word in ("models", "services")}}
    data[kind][case["name"]] = case["model"]
    return check_fleet({"gpu1": [data], **{name: [other] for name, other in others.get("hosts", {}).items()}})["gpu1"]


def state_of(case: dict[str, Any]) -> HostFacts:
    """A host with the GPUs of the case (A30-sized) and no containers."""
    cards = [
        Gpu(index, f"GPU-{index}", "A30", 24576, 0, "580.159.04", compute, f"0000:0{index}:00.0")
        if compute != "amd"
        else Gpu(
            index, f"GPU-{index}", "MI210", 65520, 0, "", "", "", None, "amd", f"/dev/dri/renderD{128 + index}", 992
        )
        for index, compute in enumerate(case.get("cards", []))
    ]
    version = {"ServerVersion": case.get("docker", "28.5.2"), **case.get("docker_info", {})}
    return HostFacts(address="192.0.2.10", gpus=tuple(cards), kfd_gid=992, docker=version)


def uuids_of(spec: Host, name: str, facts: HostFacts) -> tuple[str, ...]:
    wanted = spec.entries[name].gpus
    indices = range(len(facts.gpus)) if wanted == "all" else wanted
    return tuple(f"GPU-{index}" for index in indices)


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    """What gpurack makes of a case."""
    try:
        host = host_of(case)
    except InventoryError as error:
        return {"refused": [[f"{problem.host} {problem.path}", problem.code] for problem in error.problems]}
    name, state = case["name"], state_of(case)
    model = host.entries[name]
    engine = ENGINES[model.engine]
    uuids = uuids_of(host, name, state)
    desired = desire(name, host, state, uuids)
    service, files = desired.service, desired.container.files
    ready = [engine.ready_at(model), engine.answers_as(model, model.served_name or name)]
    shown = {path: text for path, text in files.items() if not path.endswith(".py")}  # programs are the same for all
    return {"service": service, **({"files": shown} if shown else {}), "ready": ready}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", SECRET)
    monkeypatch.setenv("OTHER_KEY", f"{SECRET}-2")


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_entry_becomes_expected_service_or_error(path: Path) -> None:
    case = read(path)
    assert case["model"]["engine"] == path.parent.name
    result = outcome(case)
    assert result == {key: case[key] for key in ("refused", "service", "files", "ready") if key in case}
    assert SECRET not in json.dumps(result)


def test_wording_of_refusals_is_golden(check_golden: Callable[[str, dict[str, list[str]]], None]) -> None:
    found: dict[str, list[str]] = {}
    for path in CASES:
        if "refused" in (case := read(path)):
            with pytest.raises(InventoryError) as error:
                host_of(case)
            found[f"{path.parent.name}/{path.stem}"] = [str(problem) for problem in error.value.problems]
    check_golden("engines", found)


def test_every_engine_has_cases() -> None:
    assert {path.parent.name for path in CASES} == set(ENGINES)


@pytest.mark.parametrize(
    "path", [path for path in CASES if "docker_run" in read(path)], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_service_matches_original_command(path: Path) -> None:
    case = read(path)
    service, differs = outcome(case)["service"], case.get("differs", {})
    typed = parse_docker_run(case["docker_run"])
    if "image" not in differs:
        assert repository(service["image"]) == repository(typed["image"])
    if "port" not in differs:
        assert [port["published"] for port in service["ports"]] == typed["ports"]
    assert service["container_name"] == typed["name"] or "name" in differs
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    cards = [card.removeprefix("nvidia.com/gpu=GPU-") for device in devices for card in device["device_ids"]]
    every = [str(index) for index in range(len(case.get("cards", [])))]
    assert cards == (every if typed["gpus"] == ["all"] else typed["gpus"])
    if typed["ipc"]:  # what it is for, without the host's own
        assert (typed["ipc"], service.get("ipc"), service["shm_size"]) == ("host", None, SHARED_MEMORY)
    words = [*(service.get("entrypoint") or []), *(service.get("command") or [])]
    for flag, value in typed["flags"].items():
        if flag not in differs:
            assert value_of(flag, words) == value, f"{flag} {value}"
    for variable, value in typed["env"].items():
        if variable not in differs:
            assert service.get("environment", {}).get(variable) == value
    mounted = [mount["source"] for mount in service.get("volumes", []) if mount["type"] == "bind"]
    for source in typed["mounts"]:
        if "mounts" not in differs:
            assert any(path == source or path.startswith(f"{source.rstrip('/')}/") for path in mounted)
    assert set(differs) <= {"image", "port", "name", "mounts", *typed["flags"], *typed["env"]}, "differs is out of date"


SPELLINGS = {"-m": "--model", "--tensor_parallel_size": "--tensor-parallel-size", "--model-id": "--model-id"}


def parse_docker_run(command: str) -> dict[str, Any]:
    """The words of a `docker run` (continued lines joined) that define the container."""
    words = shlex.split(re.sub(r"\\\s*\n", " ", command).replace("\n", " "))
    words = words[words.index("run") + 1 :]
    found: dict[str, Any] = {"ports": [], "gpus": [], "env": {}, "mounts": [], "name": "", "ipc": "", "flags": {}}
    while words[0].startswith("-"):
        word, _, value = words.pop(0).partition("=")
        if word in ("-d", "-i", "-it"):
            continue
        value = value or words.pop(0)
        if word == "-p":
            found["ports"].append(value.partition(":")[0])
        elif word == "--gpus":
            found["gpus"] = value.strip('"').removeprefix("device=").split(",")
        elif word in ("-e", "--env"):
            variable, _, text = value.partition("=")
            found["env"][variable] = text
        elif word == "-v":
            found["mounts"] += [value.rpartition(":")[0]] if value.startswith(("/", "c:/")) else []
        elif word in ("--name", "--ipc"):
            found[word.lstrip("-")] = value
        else:
            assert word in ("--runtime", "--pull"), word
    found["image"] = words.pop(0)
    while words:
        flag = words.pop(0)
        value = words.pop(0) if words and not words[0].startswith("-") else ""
        found["flags"][SPELLINGS.get(flag, flag)] = value.rpartition("/")[2]
    return found


def repository(image: str) -> str:
    """A reference without tag and default registry, with today's name."""
    name = image.rsplit("/", 1)[0] + "/" + image.rsplit("/", 1)[1].partition(":")[0]
    return name.removeprefix("docker.io/").replace("ghcr.io/ggerganov/", "ghcr.io/ggml-org/")


def value_of(flag: str, words: list[str]) -> str | None:
    """The value of a flag in a command, without its folder. Tensor parallel 1 is the default and never written, and
    vLLM's model has no flag."""
    if flag == "--model" and "serve" in words:
        flag = "serve"
    if flag not in words:
        return "1" if flag == "--tensor-parallel-size" else None
    return words[words.index(flag) + 1].rpartition("/")[2]


def test_cases_with_service_are_not_refused() -> None:
    assert [path.stem for path in CASES if "refused" in read(path) and not path.stem.startswith("refused")] == []


def run_on_this_machine(entrypoint: list[str], command: list[str]) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable if word == "python3" else word for word in [*entrypoint, *command]]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30)


def test_exports_secret_and_exits_without_it(tmp_path: Path) -> None:
    one, two, empty = tmp_path / "one", tmp_path / "two", tmp_path / "empty"
    one.write_text("sk-1\n")
    two.write_text("sk $(id) \"2'\n")
    empty.write_text("\n")
    show = [sys.executable, "-c", "import os; print(os.environ['KEYS'])"]
    done = run_on_this_machine(*with_secrets({"KEYS": [str(one), None, str(two)]}, show))
    assert (done.returncode, done.stdout) == (0, "sk-1;;sk $(id) \"2'\n")
    for path in (empty, tmp_path / "missing"):
        failed = run_on_this_machine(*with_secrets({"KEYS": str(path)}, show))
        assert failed.returncode != 0
        assert failed.stdout == ""


def test_sglang_reads_key_from_file_and_does_not_log_it(tmp_path: Path) -> None:
    key, config = tmp_path / "key", tmp_path / "key.yaml"
    key.write_text(SECRET + "\n")
    server = "import sys; text = open(sys.argv[1]).read(); print('server_args=', text); sys.exit(7)"
    done = run_on_this_machine(["python3", "-c"], [KEEPER, str(key), str(config), "python3", "-c", server, str(config)])
    assert (done.returncode, done.stdout) == (7, 'server_args= {"api-key": "***"}\n')
    assert yaml.safe_load(config.read_text()) == {"api-key": SECRET}
    assert config.stat().st_mode & 0o777 == 0o600


def test_sglang_exits_with_its_container(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    server = "import time; print('up', flush=True); time.sleep(60)"
    argv = [sys.executable, "-c", KEEPER, str(key), str(tmp_path / "k.yaml"), sys.executable, "-c", server]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"up\n"
        keeper.terminate()
        assert keeper.wait(timeout=10) == 128 + signal.SIGTERM


def test_llama_cpp_python_adds_key_to_config_at_start(tmp_path: Path) -> None:
    key, config, keyed = tmp_path / "key", tmp_path / "config", tmp_path / "keyed"
    key.write_text(SECRET + "\n")
    config.write_text('{"models": [], "port": 8000}')
    case = read(Path(__file__).parent / "llama-cpp-python" / "config-of-two-with-a-key.json")
    script, add_key, *server = case["service"]["command"]
    assert server[-1] == KEYED_CONFIG
    script = script.replace(CONFIG, str(config)).replace("/run/secrets/api_key", str(key))
    script = script.replace(KEYED_CONFIG, str(keyed)).replace("python3", sys.executable)
    done = run_on_this_machine(["sh", "-c"], [script, add_key, "cat", str(keyed)])
    assert json.loads(done.stdout) == {"models": [], "port": 8000, "api_key": SECRET}
    assert keyed.stat().st_mode & 0o777 == 0o600


def flags_in(file: str) -> set[str]:
    return set((Path(__file__).parent / file).read_text().split())


def flags_of_vllm() -> set[str]:
    """The flags of the known version, with their dashes."""
    lines = (KNOWN_FLAGS / "vllm.txt").read_text().splitlines()
    return {line for line in lines if line.startswith("-")}


@pytest.mark.parametrize("engine", ["vllm", "llama-cpp-python", "sglang", "tei"])
def test_knows_every_flag_that_gpurack_writes(engine: str) -> None:
    """Compares with the flags of the real programs (gpurack/engines/flags), spelled as there."""
    known = {line for line in (KNOWN_FLAGS / f"{engine}.txt").read_text().splitlines() if line.startswith("-")}
    for path in CASES:
        case = read(path)
        if path.parent.name == engine and "service" in case:
            command = case["service"].get("command") or []
            words = [word for word in command if re.fullmatch(r"--?[A-Za-z][\w-]*", word)]
            words = [with_dashes(word) if ENGINES[engine].underscores else word for word in words]
            assert set(words) - {"-m"} <= known, path.stem  # `python3 -m`


def test_knows_vllm_flags_with_one_dash() -> None:
    assert {f"-{name}" for name in ONE_DASH} == {flag for flag in flags_of_vllm() if re.fullmatch(r"-\w\w+", flag)}


def test_knows_or_refuses_every_vllm_flag_of_2024() -> None:
    """The help text of late 2024 is in the seeds."""
    known, old = flags_of_vllm(), flags_in("vllm-flags-of-2024.txt")
    assert len(old) == 125
    removed = {f"--{name}" for name in REMOVED}
    assert old <= known | removed
    assert not removed & known


def test_spells_llama_cpp_flags_with_one_dash() -> None:
    """The real llama-server accepts `-ngl` and refuses `--ngl`."""
    model = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000}
    args = {"ngl": 20, "ub": 256, "n": 5, "n-gpu-layers": 3}
    words = outcome({"name": "saiga", "model": {**model, "args": args}})["service"]["command"]
    assert words[-8:] == ["-ngl", "20", "-ub", "256", "-n", "5", "--n-gpu-layers", "3"]


IMAGES = {name: engine.dialect.images for name, engine in ENGINES.items() if engine.dialect.images}


@pytest.mark.parametrize("name", IMAGES)
@given(data=st.data())
@settings(max_examples=50)
def test_an_image_belongs_to_one_engine(name: str, data: st.DataObject) -> None:
    """The import takes the engine whose pattern fits an image's name: with two, the order would decide silently."""
    repository = data.draw(st.from_regex(IMAGES[name], fullmatch=True))
    claims = [other for other, images in IMAGES.items() if re.search(rf"(^|/)({images})$", f"lab/{repository}")]
    assert claims == [name], f"the image {repository} belongs to {' and '.join(claims)}: narrow `dialect.images`"


def test_the_images_of_an_engine_are_its_own() -> None:
    for name in IMAGES:
        for version in ("1.0.0", "v1.0.0", "b7000"):
            for reference in ENGINES[name].variants(version):
                found = engine_of(reference)
                assert found in (ENGINES[name], None), f"{reference} of {name} is recognised as {found and found.name}"
