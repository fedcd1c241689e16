"""Every command of the seeds is imported, passes the plan, and its service matches the command."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from gpurack.engines import ENGINES
from gpurack.importing import recognise
from gpurack.importing.built import UNSAID
from gpurack.inventory.fleet import check_fleet
from gpurack.plan import offline
from gpurack.plan.models import jobs
from gpurack.plan.models.desired import desire
from gpurack.plan.models.devices import devices
from gpurack.plan.models.jobs import desire_job
from gpurack.plan.models.ledger import assign
from gpurack.spec.host import Host
from gpurack.spec.image import BuildImage
from gpurack.spec.model import Job, Model
from gpurack.spec.problems import InventoryError
from tests.unit.importing.cases import Case, cases

CASES = cases()
LAB = {"A30": 4}


@pytest.fixture(autouse=True)
def _secrets_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export the secrets, as the findings request."""
    monkeypatch.setenv("HF_TOKEN", "hf_lab")


each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
with_service = pytest.mark.parametrize(
    "case", [case for case in CASES if "means" in case.told], ids=lambda case: case.name
)


@each
def test_imports_expected_entries_and_findings(case: Case) -> None:
    imported = case.imported
    assert imported.host == case.told.get("host", {})
    assert imported.models == case.told.get("models", {})
    assert imported.services == case.told.get("services", {})
    assert imported.jobs == case.told.get("jobs", {})
    assert [f"{finding.kind}  {finding}" for finding in imported.findings] == case.told["findings"]


@pytest.mark.parametrize(
    "case", [case for case in CASES if not {"means", "jobs"} & set(case.told)], ids=lambda case: case.name
)
def test_lists_commands_that_are_not_services(case: Case) -> None:
    imported = case.imported
    commands = sum("docker " in line for line in case.text.splitlines())
    assert not imported.data
    assert len(imported.findings) == commands


@with_service
def test_import_passes_plan(case: Case) -> None:
    refused = case.told.get("refused", [])
    assert plan_of(case)[1] == refused


@with_service
def test_service_matches_command(case: Case) -> None:
    spec = loosened(case)
    state = offline.imagined(spec)
    cards = assign(spec, state).uuids
    meant = {}
    for name in spec.entries:
        desired = desire(name, spec, state, cards.get(name, ()))
        told = case.told["means"][name].get("compose", {})
        meant[name] = meaning(desired.service, desired.container.files, spec, name, told)
    assert meant == case.told["means"]


@pytest.mark.parametrize("case", [case for case in CASES if "jobs" in case.told], ids=lambda case: case.name)
def test_job_matches_command(case: Case) -> None:
    """Compares the words after the image, the folder at /models, and GPUs."""
    spec, problems = loosened(case), plan_of(case)[1]
    assert (problems, len(case.told["jobs"])) == (case.told.get("refused", []), 1)
    [name] = spec.jobs
    uuids = ("GPU-0",) if spec.jobs[name].gpus else ()
    service = jobs.service(desire_job(name, spec), devices(spec.jobs[name], uuids, spec, offline.imagined(spec)), spec)
    typed = shlex.split(case.text.replace("\\\n", " "))
    typed = typed[typed.index("run") :]
    image = next(index for index, word in enumerate(typed) if "llama.cpp" in word)
    entry = case.told["jobs"][name]["image"]
    assert image_of(service, spec.jobs[name]) == entry
    if isinstance(entry, dict):  # local/llama.cpp:light-cuda is what .devops/cuda.Dockerfile makes at the stage light
        stage, _, variant = typed[image].partition(":")[2].partition("-")
        assert (entry["build"]["target"], entry["build"]["dockerfile"]) == (stage, f".devops/{variant}.Dockerfile")
    else:
        assert entry == recognise.moved(typed[image])
    assert service["command"] == typed[image + 1 :]
    assert [f"{mount['source']}:{mount['target']}" for mount in service["volumes"]] == [typed[typed.index("-v") + 1]]
    assert ("deploy" in service) == ("--gpus" in typed)


def plan_of(case: Case) -> tuple[Host | None, list[str]]:
    try:
        return check_fleet({"gpu1": [{"hardware": case.told.get("hardware", LAB)}, case.imported.data]})["gpu1"], []
    except InventoryError as error:
        return None, [str(problem) for problem in error.problems]


def loosened(case: Case) -> Host:
    """The spec. Where the plan refuses only the format of a file or a missing revision, as if that was fixed."""
    spec, problems = plan_of(case)
    if spec:
        return spec
    said = json.dumps(case.imported.data, ensure_ascii=False)
    data = json.loads(said.replace(".bin", ".gguf").replace(f'"revision": "{UNSAID}"', f'"revision": "{REVISION}"'))
    assert problems == case.told["refused"]
    return check_fleet({"gpu1": [{"hardware": LAB}, data]})["gpu1"]


REVISION = "v1"


def image_of(service: Mapping[str, Any], entry: Model | Job) -> Any:
    """The image of a service; for an image that gpurack builds, its source, as imported."""
    if not isinstance(entry.image, BuildImage):
        return service["image"]
    assert service["image"] == entry.image.reference
    build = entry.image.build.model_dump(exclude_defaults=True)
    return {"build": {**build, "revision": UNSAID if build["revision"] == REVISION else build["revision"]}}


def meaning(
    service: Mapping[str, Any], files: Mapping[str, str], spec: Host, name: str, words: Mapping[str, Any]
) -> dict[str, Any]:
    """A Compose service in the terms of its original command."""
    model, engine = spec.entries[name], ENGINES[spec.entries[name].engine]
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    cards = [int(device.rpartition("-")[2]) for item in devices for device in item["device_ids"]]
    nodes = [device for device in service.get("devices", []) if device.startswith("/dev/dri/")]  # of AMD
    cards += [int(node.rpartition("-")[2]) for node in nodes]
    binds = {
        mount["target"]: in_words(mount["source"], spec)
        for mount in service.get("volumes", [])
        if mount["type"] == "bind"
    }
    flags, path = flags_of(service, files, model.engine)
    [port] = service["ports"]
    assert port["target"] == int(str(flags.pop("port", engine.port)))
    flags.pop("host", None)
    return {
        "image": image_of(service, model),
        "cards": cards,
        "weights": binds[path] if path else None,
        "mounts": list(binds.values()),
        "listens": f"{port['host_ip']}:{port['published']}",
        "ipc": service.get("ipc"),
        **({"shm_size": service["shm_size"]} if "shm_size" in service else {}),
        "flags": flags,
        "env": {key: value for key, value in service.get("environment", {}).items() if key not in OURS},
        **({"compose": {word: service[word] for word in words}} if words else {}),
    }


OURS = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OLLAMA_HOST", "OPENAI_API_KEY"}
OURS |= {"CUDA_CACHE_PATH", "FLASHINFER_WORKSPACE_BASE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
OURS |= {"VLLM_ENGINE_READY_TIMEOUT_S", "VLLM_NO_USAGE_STATS"}
"""Variables that gpurack adds without changing the meaning."""


def in_words(source: str, spec: Host) -> str:
    """The source of a mount: the repository of fetched weights, and the old name of GGML files."""
    fetched = re.fullmatch(re.escape(spec.weights_dir) + r"/hf/(.+)--(.+)@main", source)
    if fetched:
        return f"hf {fetched[1]}/{fetched[2]}"
    return source.replace("llama-2-13b-chat.gguf", "llama-2-13b-chat.bin")


def flags_of(service: Mapping[str, Any], files: Mapping[str, str], engine: str) -> tuple[dict[str, Any], str | None]:
    """The flags of the command, except equivalent ones of gpurack, with the path of weights in the container."""
    words = [word for word in service.get("command") or [] if word != "--metrics"]  # does not change the meaning
    if engine == "llama-cpp-python":
        assert words[:3] == ["python3", "-m", "llama_cpp.server"]
        words = words[3:]
        if words[0] == "--config_file":
            content = json.loads(files[words[1]])
            [entry] = content["models"]
            return {**{key: item for key, item in entry.items() if key != "model"}, "port": content["port"]}, entry[
                "model"
            ]
    path = None
    if engine == "vllm":
        assert service["entrypoint"] == ["vllm", "serve"]
        path = words.pop(0)
    flags: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        flags[flag.lstrip("-")] = value
    path = path or next((flags.pop(name) for name in ("model", "model-id") if name in flags), None)
    if engine == "vllm":
        flags.setdefault("tensor-parallel-size", "1")
    if engine in ("llama.cpp", "tei", "llama-cpp-python"):  # a name if the command gave none, so that all have one
        for name in ("alias", "served-model-name", "model_alias"):
            flags.pop(name, None)
    flags.pop("interrupt_requests", None)  # gpurack's own: cut-off answers were never intended
    return flags, path
