"""The checks of models, given evidence as data. Real drift is tested in tests/acceptance/rebuild."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpurack import paths
from gpurack.engines.hints import cuda_hint
from gpurack.facts.nvidia import gpus
from gpurack.inventory.fleet import check_fleet
from gpurack.plan.models import compose
from gpurack.plan.models.desired import desire
from gpurack.shell import sh
from gpurack.spec.host import Host
from gpurack.spec.lock import HostLock, ModelLock
from gpurack.spec.model import Model
from gpurack.spec.weights import CopyWeights, HfWeights, UrlWeights
from gpurack.verify import drift, evidence, test_hosts, test_models
from gpurack.verify.drift import Drift, Unread
from gpurack.verify.lab import Entry, Server
from gpurack.verify.weights import Known, known
from tests.given import host_state, models, spec

FIELDS = "index,uuid,name,memory.total,memory.used,driver_version,mig.mode.current,pci.bus_id"
HUB = {"files": {"x": {"size": 3, "sha256": None}}}
CARD = "GPU-00000000-0000"
IMAGE = "ghcr.io/ggml-org/llama.cpp:server-cuda-b7000"
ID, IMAGE_ID = "c0" * 32, f"sha256:{'abcdef' * 10}abcd"
LABELS = {
    "gpurack.model": "{}", "com.docker.compose.project": "gpurack", "com.docker.compose.service": "alpha",
}  # fmt: skip
WANTED = spec({"models": {"alpha": {"gpus": [0], "port": 8000}}, "hardware": {"A30": 1}})


def host_evidence(**over: Any) -> dict[str, Any]:
    """The evidence of a correct host of WANTED, in the format of files/evidence.py; `over` replaces parts."""
    system = {"ID": "debian", "VERSION_ID": "13", "VERSION_CODENAME": "trixie", "PRETTY_NAME": "Debian 13"}
    cards = {
        "kernel": "580.1", "known": {"0000:17:00.0": CARD}, "exit_code": 0, "message": "",
        "fields": f"{FIELDS},compute_cap", "instances": [],
        "rows": [f"0, {CARD}, NVIDIA A30, 24576, 900, 580.1, Disabled, 00000000:17:00.0, 8.0"],
        "cdi": {"devices": [CARD], "missing": [], "gone": []},
        "toolkit": "1.20.1", "wsl": False,
    }  # fmt: skip
    parts: dict[str, Any] = {
        "system": {"os": system, "init": "systemd", "address": "10.0.0.7", "tools": [], "arch": "x86_64",
                   "memory": 257_000},
        "packages": {}, "files": {}, "units": {}, "users": {},
        "listeners": [["127.0.0.1", 8000, "docker-proxy (pid 7)"]],
        "cards": cards, "amd": {"kfd_gid": 0, "cards": []}, "secrets": {"files": {}, "leaks": [], "unread": {}},
        "processes": [[CARD, ID, None, 900]],
        "models": {
            "alpha": {
                "weights": {"/w/a.gguf": {"files": {"a.gguf": {"size": 9, "mtime": 5.0, "then": None}}, "hub": None}},
                "mounted": {"/w/a.gguf": True}, "ready": [200, '"alpha"'], "path": "/v1/chat/completions",
                "answer": [200, '{"model": "alpha"}'], "cards inside": [CARD],
                "cuda": "Available devices:\n  CUDA0: NVIDIA A30 (24062 MiB, 23800 MiB free)",
            }
        },
    }  # fmt: skip
    parts["daemons"] = {"": {"info": {"ServerVersion": "28.5.2"}, "containers": {}, "images": []}}
    return {**parts, **over}


def with_model(one: Entry, model: Model) -> Entry:
    """The same entry on a host whose inventory says this about it."""
    spec = one.server.spec.model_copy(update={"models": {one.name: model}})
    return Entry(replace(one.server, spec=spec), one.name)


def entry(spec: Host = WANTED, change: Callable[[dict[str, Any], dict[str, Any]], object] | None = None) -> Entry:
    """alpha on a correct host, or on one changed by `change` (of the evidence, of its container)."""
    parts = host_evidence()
    server = Server("gpu1", spec, None, "pyinfra lab.py", "5a", lambda name: evidence.Seen(parts))  # type: ignore[arg-type]
    desired = desire("alpha", spec, evidence.Seen(parts).state, (CARD,))
    service, labels = desired.service, {**LABELS, "gpurack.model": json.dumps(desired.definition)}
    request = {"DeviceIDs": [f"nvidia.com/gpu={CARD}"]}
    container: dict[str, Any] = {
        "Id": ID, "Name": "/alpha", "Image": IMAGE_ID, "Created": "2026-01-01T00:00:00Z", "RestartCount": 0,
        "State": {"Status": "running", "ExitCode": 0, "Error": "", "Pid": 1, "StartedAt": "2026-01-01T00:00:00.1Z"},
        "Config": {"Labels": labels, "Image": IMAGE, "Cmd": service["command"], "Entrypoint": None,
                   "Env": [f"{name}={value}" for name, value in service.get("environment", {}).items()]},
        "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}, "DeviceRequests": [request], "Runtime": "runc",
                       "Devices": None, "NetworkMode": "gpurack_default",
                       "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}},
        "NetworkSettings": {"Ports": {}},
        "Mounts": [{"Destination": "/weights/a.gguf", "Source": "/w/a.gguf", "RW": False}],
    }  # fmt: skip
    parts["daemons"][""]["containers"]["alpha"] = container
    parts["daemons"][""]["images"] = [{"id": IMAGE_ID, "tags": [IMAGE], "digests": [f"{IMAGE[:-18]}@sha256:1"]}]
    text = compose.document({"alpha": service})
    parts["files"]["/etc/gpurack/compose.yaml"] = {"mode": "644", "uid": 0, "text": text}
    if change:
        change(parts, container)
    return Entry(server, "alpha")


def test_later_generation_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are in the folder of its key in compose.yaml."""
    monkeypatch.setenv("GPURACK_TEST_KEY", "sk-one")
    keyed = models(alpha={"gpus": [0], "api_key": {"env": "GPURACK_TEST_KEY"}})

    def later(parts: dict[str, Any], container: dict[str, Any]) -> None:
        made = desire("alpha", keyed, evidence.Seen(parts).state, (CARD,)).service
        text = compose.document({"alpha": made}, "", {"alpha": "alpha.2"})
        parts["files"]["/etc/gpurack/compose.yaml"]["text"] = text
        container["Config"]["Labels"] = {**LABELS, "com.docker.compose.service": "alpha.2"}

    one = entry(keyed, later)
    assert list(one.files) == ["/etc/gpurack/secrets/alpha.2/api_key"]
    assert not [line for line in drifts(test_models.test_definition, one) if "compose.yaml" in line]


def drifts(check: Any, checked: Any) -> list[str]:
    """The lines of its drifts, without fixes."""
    return [line for line in drift.drift_lines(checked, check.__wrapped__(checked)) if "fix: " not in line]


def mends(check: Any, checked: Any) -> list[str]:
    """The fixes of its drifts."""
    return [
        line.partition("fix: ")[2] for line in drift.drift_lines(checked, check.__wrapped__(checked)) if "fix: " in line
    ]


CHECKS = [getattr(test_models, name) for name in dir(test_models) if name.startswith("test_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_correct_model_has_no_drift(check: Any) -> None:
    one = entry()
    if check.where(one) and check is not test_models.test_weights_hashed:  # weights by path have no known digest
        assert drifts(check, one) == []


def elsewhere(parts: dict[str, Any], container: dict[str, Any]) -> None:
    parts["processes"] = [["GPU-other", ID, None, 900], [CARD, "c1", None, 0]]


def on_the_cpu(parts: dict[str, Any], container: dict[str, Any]) -> None:
    """Its GPU has a neighbour's 888 MiB, and 12 MiB of the driver."""
    parts["processes"] = [[CARD, "c1", None, 888]]


def listed_nowhere(parts: dict[str, Any], container: dict[str, Any]) -> None:
    """The driver lists no processes, so the memory in use may be the model's."""
    parts["processes"] = []


def loading(parts: dict[str, Any], container: dict[str, Any]) -> None:
    on_the_cpu(parts, container)
    parts["models"]["alpha"]["ready"] = [503, "loading"]


def by_the_runtime(parts: dict[str, Any], container: dict[str, Any]) -> None:
    container["HostConfig"] |= {"DeviceRequests": None, "Runtime": "nvidia"}
    container["Config"]["Env"] = ["NVIDIA_VISIBLE_DEVICES=GPU-7"]


def by_count(parts: dict[str, Any], container: dict[str, Any]) -> None:
    container["HostConfig"]["DeviceRequests"] = [{"DeviceIDs": None, "Count": -1}]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (elsewhere, [f"gpu1 alpha: GPUs its processes use: expected {CARD}, found GPU-other"]),
        (on_the_cpu, [f"gpu1 alpha: GPUs its processes use: expected {CARD}, found none"]),
        (listed_nowhere, []),
        (loading, []),
        (by_the_runtime, [f"gpu1 alpha: GPUs given by Docker: expected {CARD}, found GPU-7"]),
        (by_count, [f"gpu1 alpha: GPUs given by Docker: expected {CARD}, found all"]),
    ],
)
def test_finds_wrong_gpus(change: Any, lines: list[str]) -> None:
    assert drifts(test_models.test_gpus, entry(change=change)) == lines


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"engine": "vllm", "version": "0.33.0", "weights": "/w/a", "vram": "40GiB"}, "--gpu-memory-utilization 0.334"),
        ({"engine": "vllm", "version": "0.33.0", "weights": "/w/a", "vram": "70%"}, "--gpu-memory-utilization 0.700"),
        ({"engine": "tei", "version": "1.9", "weights": "/w/a"}, ":121-1.9 "),
    ],
)
def test_expects_of_shared_memory_and_arm64_what_a_run_makes(entry: dict[str, Any], words: str) -> None:
    """A GB10, whose nvidia-smi says nothing of its memory."""
    parts = host_evidence()
    parts["cards"]["rows"] = [f"0, {CARD}, NVIDIA GB10, [N/A], [N/A], 580.126.09, [N/A], 0000000F:01:00.0, 12.1"]
    parts["system"] |= {"arch": "aarch64", "memory": 122_570}
    wanted = models(alpha={"gpus": [0], **entry})
    run = replace(
        host_state(gpus=1),
        gpus=tuple(gpus([f"0, {CARD}, NVIDIA GB10, [N/A], [N/A], 580.126.09, 12.1, [N/A], 0000000F:01:00.0, 0"])),
        arch="arm64",
        memory=122_570,
    )
    made, expected = (desire("alpha", wanted, state, (CARD,)).service for state in (run, evidence.Seen(parts).state))
    assert expected == made
    assert words in f"{made['image']} {' '.join(map(str, made['command']))}"


def test_a_container_in_wsl_has_all_gpus() -> None:
    def change(parts: dict[str, Any], container: dict[str, Any]) -> None:
        parts["cards"].update(wsl=True, kernel="", known={})
        container["HostConfig"]["DeviceRequests"] = [{"DeviceIDs": ["nvidia.com/gpu=all"]}]
        parts["models"]["alpha"]["cards inside"] = [CARD, "GPU-other"]

    one = entry(change=change)
    assert drifts(test_models.test_gpus, one) == []
    assert drifts(test_hosts.test_driver, one.server) == []


def test_reports_hung_nvidia_smi_in_container() -> None:
    """It is not "no GPUs"; the remedy is not to make it anew."""

    def change(parts: dict[str, Any], container: dict[str, Any]) -> None:
        parts["models"]["alpha"]["cards inside"] = {"late": "still hangs since 2026-01-01T00:00:00Z (pid 7)"}

    with pytest.raises(Unread, match="the GPUs inside alpha could not be read on the host: still hangs since"):
        drifts(test_models.test_gpus, entry(change=change))


def test_a_process_that_computes_by_vulkan_is_in_no_list() -> None:
    on_no_list = entry(change=on_the_cpu)
    vulkan = on_no_list.model.model_copy(update={"version": "vulkan-b7000"})
    assert drifts(test_models.test_gpus, with_model(on_no_list, vulkan)) == []
    stray = with_model(entry(change=elsewhere), vulkan)
    assert len(drifts(test_models.test_gpus, stray)) == 1


def cuda(said: Any, log: str = "") -> Entry:
    """alpha, in whose container this was found of CUDA. nvidia-smi lists no processes."""

    def change(parts: dict[str, Any], container: dict[str, Any]) -> None:
        listed_nowhere(parts, container)
        parts["models"]["alpha"].update({"cuda": said, "cuda log": log})

    return entry(change=change)


def test_finds_container_without_cuda() -> None:
    one = cuda("ggml_cuda_init: failed to initialize CUDA: system not yet initialized\nAvailable devices:\n  (none)")
    what = "gpu1 alpha: CUDA in its container: expected works, found CUDA error 802: system not yet initialized"
    assert drifts(test_models.test_cuda, one) == [what]
    assert mends(test_models.test_cuda, one) == [cuda_hint("CUDA error 802: system not yet initialized")]


def test_says_which_models_were_not_tested_for_cuda() -> None:
    with pytest.warns(UserWarning, match="not tested: its image lists no GPU"):
        assert drifts(test_models.test_cuda, cuda("Available devices:\n  (none)")) == []
    one = cuda("")
    ollama = one.model.model_copy(update={"engine": "ollama"})
    with pytest.warns(UserWarning, match="not tested: ollama has no program for it"):
        assert drifts(test_models.test_cuda, with_model(one, ollama)) == []


def test_cuda_is_not_tested_where_it_is_not_used(recwarn: pytest.WarningsRecorder) -> None:
    def exited(parts: dict[str, Any], container: dict[str, Any]) -> None:
        container["State"]["Status"] = "exited"

    one = cuda("")
    vulkan = one.model.model_copy(update={"version": "vulkan-b7000"})
    assert drifts(test_models.test_cuda, with_model(one, vulkan)) == []
    assert drifts(test_models.test_cuda, entry(change=exited)) == []
    assert not list(recwarn)


OLLAMA = {"engine": "ollama", "version": "0.33.0", "weights": None}


@pytest.mark.parametrize(
    ("log", "lines", "untested"),
    [
        (
            "ggml_cuda_init: failed to initialize CUDA: system not yet initialized",
            ["gpu1 alpha: CUDA in its container: expected works, found CUDA error 802: system not yet initialized"],
            0,
        ),
        ('msg="inference compute" id=GPU-a library=CUDA compute=8.6', [], 0),
        ("", [], 1),
    ],
)
def test_log_says_whether_cuda_works(
    log: str, lines: list[str], untested: int, recwarn: pytest.WarningsRecorder
) -> None:
    one = cuda("", log)
    ollama = models(alpha={"gpus": [0], **OLLAMA}).models["alpha"]
    assert drifts(test_models.test_cuda, with_model(one, ollama)) == lines
    assert len(recwarn) == untested


def test_questions_name_the_program_for_cuda() -> None:
    def asked(**words: Any) -> Any:
        found = models(alpha={"gpus": [0], **words})
        said = evidence.model_questions("alpha", found, found.models["alpha"], {})
        return said["cuda"]

    assert asked(**OLLAMA) is None

    assert asked() == [None, ("--list-devices",)]
    assert asked(engine="vllm", version="0.33.0", weights="/w/folder")[0] == "sh"
    assert [asked(gpus=[]), asked(version="vulkan-b7000")] == [None, None]


def test_identifies_amd_gpu_by_render_node() -> None:
    def change(parts: dict[str, Any], container: dict[str, Any]) -> None:
        amd = {
            "node": "/dev/dri/renderD128",
            "gid": 104,
            "pci": "0000:03:00.0",
            "unique": CARD,
            "name": "",
            "memory": 9,
        }
        parts["cards"], parts["amd"] = None, {"kfd_gid": 104, "cards": [amd]}
        container["HostConfig"] |= {"DeviceRequests": None, "Devices": [{"PathOnHost": "/dev/dri/renderD129"}]}
        parts["models"]["alpha"]["cards inside"] = ["/dev/dri/renderD128"]

    wanted = spec({"models": {"alpha": {"gpus": [0], "port": 8000}}})
    one = entry(wanted, change)
    line = "gpu1 alpha: GPUs given by Docker: expected /dev/dri/renderD128, found /dev/dri/renderD129"
    assert drifts(test_models.test_gpus, one) == [line]
    assert drifts(test_hosts.test_driver, one.server) == []


@pytest.mark.parametrize(
    ("image", "tags", "digests"),
    [
        ("docker.io/library/redis", ["redis:latest"], []),
        ("library/redis:7", ["redis:7"], []),
        ("index.docker.io/a/b:1", ["a/b:1"], []),
        ("registry:5000/a", ["registry:5000/a:latest"], []),
        (f"ghcr.io/a/b@sha256:{'0' * 64}", [], [f"ghcr.io/a/b@sha256:{'0' * 64}"]),
        (f"docker.io/a/b:1@sha256:{'0' * 64}", ["a/b:2"], [f"a/b@sha256:{'0' * 64}"]),
    ],
)
def test_accepts_every_spelling_of_image(image: str, tags: list[str], digests: list[str]) -> None:
    def change(parts: dict[str, Any], container: dict[str, Any]) -> None:
        container["Config"]["Image"] = image
        parts["daemons"][""]["images"] = [{"id": IMAGE_ID, "tags": tags, "digests": digests}]

    def retagged(parts: dict[str, Any], container: dict[str, Any]) -> None:
        change(parts, container)
        parts["daemons"][""]["images"][0]["id"] = "sha256:another"

    wanted = spec({"models": {"alpha": {"gpus": [0], "port": 8000, "image": image, "version": None}}})
    assert drifts(test_models.test_image, entry(wanted, change)) == []
    line = f"gpu1 alpha: image: expected abcdefabcdef, which it runs from, found {image} is another now"
    assert drifts(test_models.test_image, entry(wanted, retagged)) == [line]


def test_compares_digest_of_lock() -> None:
    locked = HostLock(models={"alpha": ModelLock(image=f"{IMAGE}@sha256:{'2' * 64}")})
    found = drifts(test_models.test_image, entry(WANTED.locked(locked)))
    assert found == [f"gpu1 alpha: image: expected sha256:{'2' * 64}, by the lock, found {IMAGE[:-18]}@sha256:1"]


def test_fix_retags_image_of_lock() -> None:
    """The registry may have another image under the name by now."""

    def change(parts: dict[str, Any], container: dict[str, Any]) -> None:
        parts["daemons"][""]["images"][0] |= {"tags": [], "digests": [f"{IMAGE[:-18]}@sha256:{'2' * 64}"]}

    locked = HostLock(models={"alpha": ModelLock(image=f"{IMAGE}@sha256:{'2' * 64}")})
    assert mends(test_models.test_image, entry(WANTED.locked(locked), change)) == ["pyinfra lab.py"]
    assert mends(test_models.test_image, entry(change=change)) == [f"ssh gpu1 sudo docker pull {IMAGE}"]


def test_fix_retags_local_image_without_pull() -> None:
    build = {"git": "https://git.example/llama.cpp", "revision": "b7000", "dockerfile": "cpu.Dockerfile"}
    wanted = spec({"models": {"alpha": {"gpus": [0], "port": 8000, "image": {"build": build}, "version": None}}})
    reference = desire("alpha", wanted, host_state(), ()).image

    def untagged(parts: dict[str, Any], container: dict[str, Any]) -> None:
        container["Config"]["Image"] = reference
        parts["daemons"][""]["images"][0]["tags"] = []

    assert mends(test_models.test_image, entry(wanted, untagged)) == [
        f"ssh gpu1 sudo docker tag abcdefabcdef {reference}"
    ]


@pytest.mark.parametrize(
    ("user", "command"), [(None, "ssh gpu1 sudo docker"), ("anna", "ssh gpu1 sudo -iu anna docker")]
)
def test_fix_uses_docker_of_model(user: str | None, command: str) -> None:
    rootless = {"rootless": {"anna": {}}} if user else {}
    one = entry(spec({"docker": rootless, "models": {"alpha": {"gpus": [0], "port": 8000, "user": user}}}))
    assert test_models.recreate(one) == f"{command} rm -f alpha; pyinfra lab.py"
    assert test_models.docker(one, sh("restart alpha")) == f"{command} restart alpha"


def test_fix_of_what_a_run_recreates_is_the_run() -> None:
    """As after a rollback: the container stays until the run replaces it."""
    rolled_back = entry(change=of_an_older_version)
    assert mends(test_models.test_image, rolled_back) == ["pyinfra lab.py"]
    assert mends(test_models.test_image, entry(change=by_another_name)) == [
        "ssh gpu1 sudo docker rm -f alpha; pyinfra lab.py"
    ]


def test_fix_of_what_failed_before_tries_it_again() -> None:
    """A run leaves it out otherwise, and `docker rm` before it would leave no model at all."""
    desired = entry().desired

    def failed(parts: dict[str, Any], container: dict[str, Any]) -> None:
        of_an_older_version(parts, container)
        told = {"at": "2026-11-28T02:16:41Z", "label": json.dumps(desired.definition), "image": "", "given": "{}"}
        found = {"format": 2, "containers": {"": {"alpha": {"id": ID, "kind": "model"}}}}
        found["failed"] = {"": {"alpha": {**told, "why": "oh", "serves": True, "down": 0}}}
        parts["files"]["/var/lib/gpurack/record.json"] = {"mode": "600", "uid": 0, "text": json.dumps(found)}

    assert mends(test_models.test_image, entry(change=failed)) == ["pyinfra lab.py --retry gpu1/alpha"]


def of_an_older_version(parts: dict[str, Any], container: dict[str, Any]) -> None:
    by_another_name(parts, container)
    container["Config"]["Labels"] = {**LABELS, "gpurack.model": '{"version": "b6999"}'}


def by_another_name(parts: dict[str, Any], container: dict[str, Any]) -> None:
    container["Config"]["Image"] = "another:1"


def test_fix_removes_partial_weights_before_fetch(tmp_path: Path) -> None:
    """A run would otherwise keep the existing files."""
    (tmp_path / "m-00001-of-00002.gguf").write_text("x")
    (tmp_path / "m-00002-of-00002.gguf").write_text("y")
    copied = CopyWeights(copy=str(tmp_path / "m-00001-of-00002.gguf"))
    one = entry()
    for wanted, whole in {
        HfWeights(hf="a/b", file="m.gguf"): "/var/lib/gpurack/weights/hf/a--b@main--m",
        HfWeights(hf="a/b"): "/var/lib/gpurack/weights/hf/a--b@main",
        copied: f"/var/lib/gpurack/weights/{copied.whole}",
    }.items():
        assert test_models.refetch(one, wanted).startswith(f"ssh gpu1 sudo rm -rf {whole}; ssh gpu1 sudo docker rm -f")
    by_path = test_models.refetch(one, "/w/a.gguf")
    assert by_path == "copy the right weights to /w/a.gguf; ssh gpu1 sudo docker restart alpha"


def test_finds_answer_of_other_model() -> None:
    def change(parts: dict[str, Any], container: dict[str, Any]) -> None:
        parts["models"]["alpha"]["answer"] = [200, '{"model": "gpt-5"}']

    line = 'gpu1 alpha: POST /v1/chat/completions: expected an answer of "alpha", found one of "gpt-5"'
    assert drifts(test_models.test_answers, entry(change=change)) == [line]


@pytest.mark.parametrize(
    ("listed", "answer", "lines"),
    [
        ([200, '{"data": [{"id":"alpha"}, {"id": "far"}]}'], '{"model": "alpha"}', []),
        ([200, '{"data": [{"id":"alpha"}]}'], '{"results": []}',
         ['GET /v1/models: expected alpha, far, found HTTP 200 {"data": [{"id":"alpha"}]}']),
        ([401, "who?"], '{"model": "beta"}',
         ["GET /v1/models: expected alpha, far, found HTTP 401 who?",
          'POST /v1/chat/completions: expected an answer of "alpha", found one of "beta"']),
    ],
)  # fmt: skip
def test_checks_models_of_gateway_and_its_answers(listed: list[Any], answer: str, lines: list[str]) -> None:
    alpha = {"engine": "llama.cpp", "version": "b7000", "weights": "/w/a.gguf", "port": 8000}
    gateway = {"engine": "litellm", "version": "1.109.1", "port": 4000, "connects_to": "all"}
    host = {"models": {"alpha": alpha, "beta": {**alpha, "port": 8001, "served_name": "far"}}}
    wanted = check_fleet({"gpu1": [{**host, "services": {"gateway": gateway}}]})["gpu1"]
    parts = host_evidence()
    said = {"ready": [200, "{}"], "listed": listed, "path": "/v1/chat/completions", "answer": [200, answer]}
    parts["models"]["gateway"] = said
    server = Server("gpu1", wanted, None, "run", "5a", lambda name: evidence.Seen(parts))  # type: ignore[arg-type]
    one = Entry(server, "gateway")
    found = drifts(test_models.test_ready, one) + drifts(test_models.test_answers, one)
    assert found == [f"gpu1 gateway: {line}" for line in lines]


@pytest.mark.parametrize(
    ("pull", "listed", "missing"),
    [
        ("qwen2.5", "qwen2.5:latest", False),
        ("library/qwen2.5:7b", "qwen2.5:7b", False),
        ("registry.ollama.ai/library/qwen2.5", "qwen2.5:latest", False),
        ("registry:5000/a/b", "registry:5000/a/b:latest", False),
        ("qwen2.5:7b", "qwen2.5:3b", True),
    ],
)
def test_finds_pulled_models_by_ollamas_names(pull: str, listed: str, missing: bool) -> None:
    parts = host_evidence()
    parts["models"]["alpha"]["ready"] = [200, f'{{"models": [{{"name": "{listed}"}}]}}']
    ollama = {"engine": "ollama", "version": "0.33.0", "weights": None, "pull": [pull]}
    wanted = spec({"models": {"alpha": {"port": 8000, **ollama}}})
    server = Server("gpu1", wanted, None, "run", "5a", lambda name: evidence.Seen(parts))  # type: ignore[arg-type]
    lines = [f"gpu1 alpha: pulled models: expected {pull}, found not among them"] if missing else []
    assert drifts(test_models.test_ready, Entry(server, "alpha")) == lines


@pytest.mark.parametrize(("restarts", "found"), [(2, []), (5, ["restarted 3 times since 2026-11-28 14:02 UTC"])])
def test_finds_restarts_since_the_last_test(restarts: int, found: list[str]) -> None:
    test = {"id": ID, "at": "2026-11-28T14:02:00Z", "since": "", "why": "", "restarts": 2}

    def tested(parts: dict[str, Any], container: dict[str, Any]) -> None:
        container["RestartCount"] = restarts
        known = {"format": 2, "containers": {}, "tests": {"": {"alpha": test}}}
        parts["files"][paths.RECORD] = {"mode": "600", "uid": 0, "text": json.dumps(known)}

    lines = drifts(test_models.test_ready, entry(change=tested))
    assert lines == [f"gpu1 alpha: its container: expected as at its last test, found {line}" for line in found]


KEY = {"env": "LAB_KEY"}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ({"api_key": KEY}, True),
        ({}, False),
        ({"engine": "custom", "image": "reg.example/own:1", "version": None, "weights": None, "api_key": KEY}, False),
    ],
)
def test_tries_wrong_key_only_with_known_request(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], asked: bool
) -> None:
    monkeypatch.setenv("LAB_KEY", "sk-1")
    wanted = spec({"models": {"alpha": {"port": 8000, **words}}})
    server = Server("gpu1", wanted, None, "run", "5a", lambda name: evidence.Seen(host_evidence()))  # type: ignore[arg-type]
    assert test_models.keyed(Entry(server, "alpha")) is asked


@pytest.mark.parametrize(
    ("wanted", "hub", "locked", "expected"),
    [
        ("/w/a.gguf", None, {}, {}),
        ("/w/a.gguf", None, {"/w/a.gguf": "f00", "/w/b.gguf": "ba5"}, {"a.gguf": Known(None, "f00")}),
        (HfWeights(hf="a/b"), HUB, {"/w/m/x": "f00"}, {"x": Known(3, "f00")}),
        (
            HfWeights(hf="a/b", file="q4/x-00001-of-00002.gguf"),
            {"files": {f"q4/x-0000{part}-of-00002.gguf": {"size": 3, "sha256": "f00"} for part in (1, 2)}},
            {},
            {f"x-0000{part}-of-00002.gguf": Known(3, "f00") for part in (1, 2)},
        ),
        (UrlWeights(url="http://h/m", sha256="0" * 64), None, {}, {"0000000000000000-m": Known(None, "0" * 64)}),
    ],
)  # fmt: skip
def test_lists_known_digests_of_weights(
    wanted: Any, hub: Any, locked: dict[str, str], expected: dict[str, Known]
) -> None:
    path = wanted if isinstance(wanted, str) else "/w/m"
    assert known(path, wanted, hub, locked) == expected


@pytest.mark.parametrize(
    ("then", "locked", "now", "lines"),
    [
        (["9", "5.0", "f00"], {}, "f00", []),
        (["9", "5.0", "f00"], {}, "ba5", ["expected sha256 f00…, as when it was checked, found ba5…"]),
        (["9", "5.0", "ba5"], {"/w/a.gguf": "f00"}, "ba5", ["expected sha256 f00…, found ba5…"]),
        (None, {"/w/a.gguf": "f00"}, "ba5", ["expected sha256 f00…, found ba5…"]),
    ],
)
def test_compares_weights_with_lock_or_earlier_digests(
    then: list[str] | None, locked: dict[str, str], now: str, lines: list[str]
) -> None:
    def change(parts: dict[str, Any], container: dict[str, Any]) -> None:
        file = parts["models"]["alpha"]["weights"]["/w/a.gguf"]["files"]["a.gguf"]
        file |= {"then": then, "sha256": now}

    one = entry(WANTED.locked(HostLock(models={"alpha": ModelLock(weights=locked)})), change)
    expected = [f"gpu1 alpha: /w/a.gguf, a.gguf: {line}" for line in lines]
    assert drifts(test_models.test_weights_hashed, one) == expected


def test_skips_weights_without_known_digest() -> None:
    said = "gpu1 alpha: the sha256 of /w/a.gguf is not known, so nothing was compared. Record it with: gpurack lock"
    with pytest.raises(pytest.skip.Exception, match=said):
        drifts(test_models.test_weights_hashed, entry())


def test_prints_drift() -> None:
    class Checked:
        title, fix = "gpu1", "run"

    found = [Drift("a", "1", "2"), Drift("b", "3", "4", "reboot"), Drift("c", "5", "6")]
    assert drift.drift_lines(Checked(), found) == [
        "gpu1: a: expected 1, found 2",
        "gpu1: b: expected 3, found 4",
        "    fix: reboot",
        "gpu1: c: expected 5, found 6",
        "    fix: run",
    ]


def test_unreadable_part_fails_its_checks() -> None:
    @drift.on_hosts()
    def check(server: Server) -> Iterator[Drift]:
        """A check that needs the listeners."""
        yield from server.seen["listeners"]

    seen = evidence.Seen(host_evidence(listeners={"broken": "OSError: no ss"}))
    server = Server("gpu1", WANTED, None, "run", "5a", lambda name: seen)  # type: ignore[arg-type]
    with pytest.raises(pytest.fail.Exception, match=r"gpu1: listeners could not be read on the host: OSError: no ss\n"):
        check(gpurack_host=server)
    with pytest.raises(Unread):
        evidence.Seen({}, Unread("gone", "find it"))["packages"]


def test_compares_driver_and_gpus_of_kernel() -> None:
    parts = host_evidence()
    parts["cards"] |= {"exit_code": 15, "message": "Unable to determine the device handle"}
    driver = evidence.Seen(parts).state.driver
    assert (driver.kernel, driver.exit_code, driver.message) == ("580.1", 15, "Unable to determine the device handle")
    assert driver.pci == {"0000:17:00.0": CARD}


@pytest.mark.parametrize(
    ("known", "code", "lines", "fixes"),
    [
        ({"0000:17:00.0": ""}, 0, [], []),  # without persistence mode, while nothing uses it
        ({"0000:17:00.0": "", "0000:31:00.0": "GPU-7"}, 15,
         ["GPUs: ", "GPU GPU-7 at 0000:31:00.0: ", "nvidia-smi: "], ["dmesg", "sudo reboot", "sudo reboot"]),
        ({"0000:17:00.0": CARD, "0000:31:00.0": ""}, 15,
         ["GPUs: ", "GPU at 0000:31:00.0: ", "nvidia-smi: "], ["dmesg", "sudo reboot", "sudo reboot"]),
        ({"0000:17:00.0": CARD}, 14, ["nvidia-smi: "], ["check the GPU that it names"]),
    ],
)  # fmt: skip
def test_a_gpu_answers_also_without_a_uuid_of_the_kernel(
    known: dict[str, str], code: int, lines: list[str], fixes: list[str]
) -> None:
    parts = host_evidence()
    parts["cards"] |= {"known": known, "exit_code": code, "message": "it says"}
    seen = evidence.Seen(parts)
    server = Server("gpu1", WANTED, None, "run", "5a", lambda name: seen)  # type: ignore[arg-type]
    checks = (test_hosts.test_gpus, test_hosts.test_driver)
    found, fixed = ([line for check in checks for line in of(check, server)] for of in (drifts, mends))
    for given, expected in ((found, [f"gpu1: {line}" for line in lines]), (fixed, fixes)):
        assert [words in line for words, line in zip(expected, given, strict=True)] == [True] * len(expected)


def stopped_by(**mark: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """alpha was stopped by `gpurack stop`, as the host's record has it."""

    def change(parts: dict[str, Any], container: dict[str, Any]) -> None:
        container["State"] |= {"Status": "exited", "ExitCode": 143}
        record = {"format": 2, "containers": {"": {"alpha": {"id": ID, "kind": "model"}}},
                  "stopped": {"": {"alpha": {"at": "2026-11-20T07:00:00Z", "by": "ada", **mark}}}}  # fmt: skip
        parts["files"]["/var/lib/gpurack/record.json"] = {"mode": "600", "uid": 0, "gid": 0, "text": json.dumps(record)}

    return change


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        ({"hold": True, "why": "GPU 0 is replaced"}, "held since 2026-11-20 07:00 UTC: GPU 0 is replaced (ada)."),
        ({"hold": False, "why": ""}, "stopped since 2026-11-20 07:00 UTC, until the next run (ada)."),
    ],
)
@pytest.mark.parametrize("check", [test_models.test_runs, test_models.test_ready])
def test_stopped_model_is_skipped_with_its_reason(check: Any, mark: dict[str, Any], why: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=re.escape(f"gpu1 alpha: {why}")):
        check(gpurack_model=entry(WANTED, stopped_by(**mark)))
