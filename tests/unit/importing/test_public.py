"""Shapes of public compose files and scripts: each imports as what it means, or says what it cannot.

`public/` has them, reduced and in own words. An entry is `custom` with the original's own words where no other means
exactly the same. What no entry can mean is a finding.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from gpurack.engines import ENGINES
from gpurack.engines.container import Run
from gpurack.importing.compose_file import NoCompose
from gpurack.importing.reader import Imported, read
from gpurack.importing.service import CONVERTED
from gpurack.inventory.fleet import check_fleet
from gpurack.spec.compose_keys import SERVICE as SERVICE_KEYS
from gpurack.spec.problems import InventoryError

FOLDER = Path(__file__).parent / "public"


def imported(name: str, **options: Any) -> Imported:
    return read((FOLDER / name).read_text(encoding="utf-8"), **options)


def entries(result: Imported) -> dict[str, dict[str, Any]]:
    """All entries by name."""
    return {**result.models, **result.services, **result.jobs}


def only(text: str) -> dict[str, Any]:
    """The fields of the one entry of a text."""
    [fields] = entries(read(text)).values()
    return fields


def told(result: Imported, kind: str = "open") -> str:
    """The findings of a kind, one a line."""
    return "\n".join(str(finding) for finding in result.findings if finding.kind == kind)


# --- GPUs ------------------------------------------------------------------------------------------------------------

VLLM = "vllm/vllm-openai:v0.19.0 --model a/b"
LLAMA = "ghcr.io/ggml-org/llama.cpp"


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("gb10.sh", {"chat": [0]}),
        ("amd-devices-compose.yml", {"chat": [0, 1]}),
        ("amd-render-node.sh", {"chat": [1]}),
        ("amd-run-exact.sh", {"chat": [0]}),
        ("vulkan-dri.sh", {"chat": "all"}),
        ("cuda-visible-devices-one.sh", {"chat": [1]}),
        ("cdi-device-ids.yml", {"llm": [0], "ollama": "all", "whisper": "all"}),
        ("open-webui-cuda.sh", {"webui": None}),
        ("nvidia-visible-devices.yml", {"webui": None}),
    ],
)
def test_public_shape_keeps_its_gpus(name: str, gpus: dict[str, Any]) -> None:
    found = entries(imported(name))
    assert {key: fields.get("gpus") for key, fields in found.items()} == gpus
    assert not any("devices" in fields.get("compose", {}) for fields in found.values())
    assert not any("CUDA_VISIBLE_DEVICES" in fields.get("env", {}) for fields in found.values())


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ("--device nvidia.com/gpu=all", "all"),
        ("--gpus device=nvidia.com/gpu=1", [1]),
        ("--device /dev/nvidia1 --device /dev/nvidiactl --device /dev/nvidia-uvm", [1]),
        ("--device /dev/nvidia2:/dev/nvidia2:rwm", [2]),
        ("--device /dev/kfd:/dev/kfd --device /dev/dri:/dev/dri", "all"),
        ("--device=/dev/kfd --device=/dev/dri/card1 --device=/dev/dri/renderD130", [2]),
        ("--device amd.com/gpu=0", [0]),
        ("--gpus all -e CUDA_VISIBLE_DEVICES=2,3", [2, 3]),
        ("--gpus '\"device=4,5\"' -e CUDA_VISIBLE_DEVICES=1", [5]),
        ("--gpus 2 -e CUDA_VISIBLE_DEVICES=0", [0]),
        ("--gpus all -e CUDA_VISIBLE_DEVICES=GPU-1a2b", ["GPU-1a2b"]),
        ("--gpus all -e CUDA_VISIBLE_DEVICES=-1", []),
        ("--device /dev/kfd --device /dev/dri -e ROCR_VISIBLE_DEVICES=2,3 -e HIP_VISIBLE_DEVICES=1", [3]),
        ("--runtime nvidia -e NVIDIA_VISIBLE_DEVICES=1 -e CUDA_VISIBLE_DEVICES=0", [1]),
        ("-e HIP_VISIBLE_DEVICES=0", []),
        ("", []),
    ],
)
def test_unknown_image_keeps_its_gpus(options: str, gpus: Any) -> None:
    fields = only(f"docker run -d --name one -p 9000:9000 {options} lab/asr:1")
    assert fields["gpus"] == gpus
    assert not {"devices"} & set(fields.get("compose", {}))
    assert "env" not in fields


def test_amd_form_of_compose_devices_is_read() -> None:
    long = "devices: [{source: /dev/kfd, target: /dev/kfd}, {source: /dev/dri, target: /dev/dri}, /dev/fuse]"
    fields = only(f"services:\n  one:\n    image: lab/x:1\n    ports: ['80:80']\n    {long}\n")
    assert (fields["gpus"], fields["compose"]) == ("all", {"devices": ["/dev/fuse"]})


@pytest.mark.parametrize("variant", ["server-vulkan-b8000", "server-vulkan", "server-intel-b8000"])
def test_graphics_node_is_a_gpu(variant: str) -> None:
    node = "docker run -d --name a1 -p 8080:8080 -v /m:/m --device /dev/dri/renderD129"
    assert only(f"{node} {LLAMA}:{variant} -m /m/a.gguf")["gpus"] == [1]


def test_graphics_device_of_unknown_image_stays_and_is_said() -> None:
    result = read("docker run -d --name films -p 8096:8096 --device /dev/dri lab/jellyfin:10")
    assert result.models["films"]["compose"]["devices"] == ["/dev/dri"]
    assert "Set `gpus` if a model computes there" in told(result)


def test_mig_instance_of_an_old_driver_is_a_gpu() -> None:
    assert only(f"docker run -d --name one --gpus device=MIG-GPU-1a/1/0 -p 80:8000 {VLLM}")["gpus"] == [
        "MIG-GPU-1a/1/0"
    ]


def test_mig_instance_by_number_is_kept_in_words_of_compose() -> None:
    result = read(f"docker run -d --name one --gpus device=0:1 -p 80:8000 {VLLM}")
    fields = result.models["one"]
    [device] = fields["compose"]["deploy"]["resources"]["reservations"]["devices"]
    assert (fields["engine"], device["device_ids"], fields["compose"]["command"]) == (
        "custom",
        ["0:1"],
        ["--model", "a/b"],
    )
    assert "gpus" not in fields
    assert "`gpus` names MIG instances by UUID only" in told(result)


def test_engine_that_needs_a_gpu_says_that_the_text_gives_none() -> None:
    result = read(f"docker run -d --name one -p 80:8000 {VLLM}")
    assert result.models["one"]["gpus"] == []
    assert "was given no GPU in this text" in told(result)


def test_web_ui_with_gpus_has_none_and_says_so() -> None:
    for name in ("open-webui-cuda.sh", "nvidia-visible-devices.yml"):
        assert "`gpus` is left out" in told(imported(name), "changed")


@pytest.mark.parametrize(
    "command",
    [
        "lmsysorg/sglang:v0.5.4 python3 -m sglang.launch_server --model-path org/Big --tp 16 --nnodes 2",
        "vllm/vllm-openai:v0.19.0 --model org/Big -tp 16 --nnodes 4 --node-rank 1",
        "vllm/vllm-openai:v0.19.0 org/Big --nnodes=$NODES",
    ],
)
def test_model_over_several_hosts_is_not_imported(command: str) -> None:
    result = read(f"docker run -d --name node0 --gpus all --network=host {command}")
    assert not entries(result)
    assert "an entry runs on one host" in told(result)


def test_public_model_over_several_hosts_is_not_imported() -> None:
    assert "not imported: it runs over 2 hosts" in told(imported("sglang-two-nodes.sh"))


# --- programs, not words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["entrypoint-bash-c.yml", "entrypoint-bash-noslash.yml", "entrypoint-usr-bin-python3.yml"]
)
def test_public_program_is_the_engine_behind_its_shell(name: str) -> None:
    fields = imported(name).models["llm"]
    assert (fields["engine"], fields["weights"], fields["context"]) == ("vllm", {"hf": "Qwen/Qwen3-8B"}, 8192)
    assert not {"args", "compose"} & set(fields)


RUN = "docker run -d --name one --gpus device=0 -p 8000:8000"


@pytest.mark.parametrize(
    "command",
    [
        "--entrypoint /usr/local/bin/vllm vllm/vllm-openai:v0.19.0 serve a/b --max-model-len 8192",
        "--entrypoint tini vllm/vllm-openai:v0.19.0 -s -- vllm serve a/b --max-model-len 8192",
        "--entrypoint /bin/sh vllm/vllm-openai:v0.19.0 -ec 'exec vllm serve a/b --max-model-len 8192'",
        "--entrypoint bash -e LONG=8192 vllm/vllm-openai:v0.19.0 -lc 'vllm serve a/b --max-model-len $LONG'",
        "--entrypoint python3.12 vllm/vllm-openai:v0.19.0 -u -m vllm.entrypoints.openai.api_server --model a/b "
        "--max-model-len 8192",
        "lab/serving:3 vllm serve a/b --max-model-len 8192",
        "lab/serving:3 /bin/bash -c 'vllm serve a/b \\\n --max-model-len 8192'",
        "lab/serving:3 --model a/b --max-model-len 8192",
    ],
)
def test_engine_is_known_by_its_program(command: str) -> None:
    fields = only(f"{RUN} {command}")
    assert (fields["engine"], fields["weights"], fields["context"]) == ("vllm", {"hf": "a/b"}, 8192)
    assert "args" not in fields


def test_variable_without_a_value_has_that_of_the_caller() -> None:
    compose = "services: {one: {image: lab/x:1, ports: ['1:1'], environment: [MODE, OTHER]}}"
    for text in (compose, "docker run -d --name one -p 1:1 -e MODE -e OTHER lab/x:1"):
        result = read(text, {"MODE": "fast"})
        assert result.models["one"]["env"] == {"MODE": "fast"}
        assert "the value of OTHER is not in the text" in told(result)
        assert "MODE" not in told(result)


@pytest.mark.parametrize(
    ("words", "env"),
    [
        ("'export A=1; exec vllm serve a/b'", {"A": "1"}),
        ("'A=1 vllm serve a/b'", {"A": "1"}),
        ("'vllm serve \"$@\"' sh a/b", None),
        ("'set -e; echo start; B=2 exec vllm serve a/b'", {"B": "2"}),
    ],
)
def test_variables_and_arguments_of_a_shell_are_read(words: str, env: dict[str, str] | None) -> None:
    fields = only(f"{RUN} --entrypoint sh vllm/vllm-openai:v0.19.0 -c {words}")
    assert (fields["engine"], fields["weights"], fields.get("env")) == ("vllm", {"hf": "a/b"}, env)


@pytest.mark.parametrize(
    ("entrypoint", "words"),
    [
        ("/bin/bash", ["-c", "pip install x && vllm serve a/b"]),
        ("sh", ["-c", "vllm serve a/b | tee /log"]),
        ("sh", ["-c", "export PATH=$PATH:/opt/bin; exec vllm serve a/b"]),
        ("sh", ["-c", "vllm serve a/b & tail -f /dev/null"]),
        ("bash", ["-c", "vllm serve $(cat /model)"]),
        ("/usr/bin/python3", ["/app/serve.py", "--model", "a/b"]),
        ("/opt/start.sh", []),
        ("/bin/sh", ["/start.sh", "a/b"]),
    ],
)
def test_other_program_is_kept_in_its_own_words(entrypoint: str, words: list[str]) -> None:
    quoted = " ".join(f"'{word}'" for word in words)
    fields = only(f"{RUN} --entrypoint {entrypoint} vllm/vllm-openai:v0.19.0 {quoted}")
    assert fields["engine"] == "custom"
    assert (fields["compose"]["entrypoint"], fields["compose"].get("command", [])) == ([entrypoint], words)
    assert "weights" not in fields


def test_public_script_as_entrypoint_is_kept_and_asked_for() -> None:
    result = imported("entrypoint-sh-script.yml")
    assert result.models["chat"]["engine"] == "custom"
    assert result.models["chat"]["compose"]["entrypoint"] == ["/bin/sh", "/start.sh"]
    assert "--file /srv/chat/start.sh=SCRIPT" in told(result)


@pytest.mark.parametrize(
    "start", ["entrypoint: [/bin/sh, /start.sh]", "entrypoint: /start.sh", "command: bash /start.sh"]
)
def test_script_becomes_fields_if_it_only_starts_the_engine(start: str) -> None:
    text = (
        "services:\n  one:\n    image: vllm/vllm-openai:v0.19.0\n    gpus: all\n    ports: ['8000:8000']\n"
        f"    volumes: ['/srv/start.sh:/start.sh']\n    {start}\n"
    )
    script = "#!/bin/sh\nset -e\nexport VLLM_LOGGING_LEVEL=DEBUG\necho hi\nexec vllm serve a/b --max-model-len 8192\n"
    fields = read(text, files={"/srv/start.sh": script}).models["one"]
    assert (fields["engine"], fields["context"], fields["env"]) == ("vllm", 8192, {"VLLM_LOGGING_LEVEL": "DEBUG"})
    for prepared in (script.replace("echo hi", "pip install flash-attn"), script.replace("exec", "source /env;")):
        result = read(text, files={"/srv/start.sh": prepared})
        assert result.models["one"]["engine"] == "custom"
        assert "before it starts vllm. It is kept" in told(result)


def test_entry_point_that_is_taken_away_stays_away() -> None:
    for text in (
        f"{RUN} --entrypoint '' vllm/vllm-openai:v0.19.0 bench",
        "services:\n  one: {image: 'vllm/vllm-openai:v0.19.0', entrypoint: [], command: bench, ports: ['1:1']}\n",
    ):
        assert only(text)["compose"]["entrypoint"] == []


def test_model_flag_of_unknown_image_proves_nothing() -> None:
    found = imported("unknown-image-model-flag.sh").models
    assert {name: fields["engine"] for name, fields in found.items()} == {
        "stt": "custom",
        "sg": "sglang",
        "tab": "custom",
    }
    assert (found["sg"]["weights"], found["sg"]["gpus"]) == ({"hf": "Qwen/Qwen3-8B"}, [0, 1])
    assert found["stt"]["compose"]["command"] == ["--model", "tiny-int8", "--language", "en"]


# --- Compose's own reading -------------------------------------------------------------------------------------------

SERVICE = "services:\n  one:\n    image: lab/x:1\n    ports: ['9000:9000']\n"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("yaml-on-yes.yml", {"args": {"flash-attn": "on", "no-mmap": True},
                             "env": {"LLAMA_ARG_FLASH_ATTN": "on", "LLAMA_OFFLINE": "yes"}}),
        ("nested-default.yml", {"port": 8000, "gpus": [1], "env": {"MODE": "", "LEVEL": "info", "GPU": "0"},
                                "compose": {"volumes": [{"type": "bind", "target": "/cache",
                                                         "source": "/srv/data/cache"}]}}),
        ("reset-override.yml", {"bind": "loopback", "env": {"A": "1"}}),
        ("byte-order-mark.yml", {"engine": "vllm", "gpus": [0]}),
        ("flow-services.yml", {"engine": "vllm", "gpus": [0]}),
        ("second-document.yml", {"engine": "ollama", "version": "0.20.2"}),
        ("undefined-port.yml", {"engine": "vllm", "port": 8000}),
        ("ok-secrets-named.yml", {"engine": "vllm", "compose": {"deploy": {"resources": {
            "limits": {"memory": "64g"}, "reservations": {"memory": "32g"}}}, "volumes": [
            {"type": "bind", "target": "/run/secrets/hf", "source": "./hf.txt", "read_only": True}]}}),
    ],
)  # fmt: skip
def test_public_compose_file_is_read_as_compose_reads_it(name: str, fields: dict[str, Any]) -> None:
    [found] = entries(imported(name)).values()
    assert {key: found.get(key) for key in fields} == fields


def test_undefined_port_is_open() -> None:
    result = imported("undefined-port.yml")
    assert "its port is $CHAT_PORT; set to 8000" in told(result)
    assert imported("undefined-port.yml", variables={"CHAT_PORT": "81"}).models["chat"]["port"] == 81


@pytest.mark.parametrize(
    ("written", "read_as"),
    [("yes", "yes"), ("off", "off"), ("22:22", "22:22"), ("true", "true"), ("010", "8"), ("2024-01-01", "2024-01-01"),
     ("~", None), ("1.5", "1.5"), ("'8'", "8"), ("0x1f", "31"), ("y", "y")],
)  # fmt: skip
def test_plain_yaml_values_are_those_of_compose(written: str, read_as: str | None) -> None:
    assert only(f"{SERVICE}    environment: {{A: {written}}}\n").get("env", {}).get("A") == read_as


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A", "a"), ("${A}x", "ax"), ("$$A", "$A"), ("${N-d}", "d"), ("${E-d}", ""), ("${E:-d}", "d"),
        ("${N:-${M:-${A}}}", "a"), ("${A:+${N:-b}}", "b"), ("${N+x}", ""), ("${A?no}", "a"), ("${N:?no}", "$N"),
        ("$N/x", "$N/x"), ("a$", "a$"), ("${A", "${A"), ("100%", "100%"),
    ],
)  # fmt: skip
def test_variables_are_those_of_compose(text: str, value: str) -> None:
    result = read(f"{SERVICE}    environment: {{V: '{text}'}}\n", {"A": "a", "E": ""})
    assert result.models["one"]["env"]["V"] == value
    assert ("$N is not defined" in told(result)) == ("$N" in value)


def test_later_document_is_merged_over_the_first() -> None:
    over = "---\nservices:\n  one:\n    environment: [B=2]\n    ports: !override ['81:9000']\n    command: [b]\n"
    fields = only(f"{SERVICE}    environment: {{A: 1, B: 1}}\n    command: [a]\n    volumes: ['/a:/a']\n{over}")
    assert (fields["env"], fields["port"], fields["compose"]["command"]) == ({"A": "1", "B": "2"}, 81, ["b"])
    without = f"{SERVICE}---\nservices:\n  one:\n    ports: !reset null\n    expose: ['9000']\n    gpus: all\n"
    assert (only(without)["gpus"], only(without)["bind"]) == ("all", "loopback")


def test_service_has_what_it_extends() -> None:
    base = "  base: &b\n    image: lab/x:1\n    gpus: all\n    environment: {A: '1'}\n    profiles: [never]\n"
    text = f"services:\n{base}  one:\n    extends: base\n    profiles: !reset []\n    ports: ['80:80']\n"
    fields = only(text)
    assert (fields["gpus"], fields["env"], fields["port"]) == ("all", {"A": "1"}, 80)
    elsewhere = text.replace("extends: base", "extends: {file: b.yml, service: other}")
    result = read(elsewhere)
    assert not result.models
    assert "Pass that file with --file b.yml=COPY" in told(result)
    other = "services: {other: {image: 'lab/y:2', gpus: all}}"
    assert read(elsewhere, files={"b.yml": other}).models["one"]["image"] == "lab/y:2"
    circle = read("services: {a1: {extends: b1}, b1: {extends: a1}}")
    assert not entries(circle)
    assert "extends b1, which extends itself" in told(circle)


def test_included_file_is_asked_for_and_read() -> None:
    text = f"include:\n  - other.yml\n{SERVICE}"
    assert "Pass it with --file other.yml=COPY" in told(read(text))
    found = read(text, files={"other.yml": "services: {two: {image: 'lab/y:2', ports: ['81:81']}}"})
    assert set(found.models) == {"one", "two"}
    circle = read(
        text, files={"other.yml": "include: [other.yml]\nservices: {two: {image: 'lab/y:2', ports: ['81:81']}}"}
    )
    assert set(circle.models) == {"one", "two"}
    assert "other.yml includes itself" in told(circle)


def test_broken_file_beside_a_compose_file_is_said() -> None:
    files = {"b.yml": "a: [1"}
    one = "services:\n  one: {extends: {file: b.yml, service: a}}\n"
    assert "not imported: extends a of b.yml, which is not valid YAML." in told(read(one, files=files))
    two = read("include: [b.yml]\nservices:\n  two: {image: x/y:1, ports: ['1:1']}\n", files=files)
    assert "includes b.yml, which is not valid YAML, so its services are not imported." in told(two)
    assert list(two.models) == ["two"]


def test_service_that_is_there_twice_is_refused_as_by_compose() -> None:
    with pytest.raises(NoCompose, match=r"line 3: key one is already in line 2"):
        read("services:\n  one: {image: a/b:1}\n  one: {image: c/d:1}\n")
    merged = (
        "x-a: &a {A: 1}\nservices:\n  one:\n    image: a/b:1\n    ports: ['1:1']\n    environment: &e {<<: *a, A: 2}\n"
    )
    assert read(f"{merged}x-b: {{<<: *e}}\n").models["one"]["env"] == {"A": "2"}


@pytest.mark.parametrize("field", ["scale: 2", "deploy: {replicas: 2}"])
def test_service_that_runs_several_times_is_said(field: str) -> None:
    text = f"services:\n  one: {{image: a/b:1, ports: ['1:1'], {field}}}\n"
    assert "runs several times; an entry is one container. Write one for each." in told(read(text))
    assert "several times" not in told(read(text.replace("2}", "1}")))


def test_profile_is_chosen() -> None:
    result = imported("profiles.yml")
    assert not entries(result)
    assert all(f"Choose it with --profile {name}" in told(result) for name in ("cpu", "gpu"))
    assert {name: fields["gpus"] for name, fields in imported("profiles.yml", profiles=["gpu"]).models.items()} == {
        "ollama-gpu": [0]
    }
    assert set(imported("profiles.yml", profiles=["*"]).models) == {"ollama-cpu", "ollama-gpu"}


# --- containers beside the models ------------------------------------------------------------------------------------


def test_public_helpers_without_a_port_are_named_and_get_none() -> None:
    result = imported("helpers-as-models.yml")
    assert list(entries(result)) == ["chat"]
    assert "service db: not imported: postgres:16 is not a known engine and publishes no port" in told(
        result, "left out"
    )
    assert "service cache: not imported: redis:7" in told(result, "left out")


@pytest.mark.parametrize(
    "image", ["redis:7", "pgvector/pgvector:pg16", "qdrant/qdrant:v1", "nginx:1.27", "prom/prometheus"]
)
def test_published_helper_is_a_service_and_no_model(image: str) -> None:
    result = read(f"docker run -d --name one -p 6000:6000 {image}")
    assert (set(result.services), result.models) == ({"one"}, {})
    assert ("answers no HTTP request" in told(result)) == (image in ("redis:7", "pgvector/pgvector:pg16"))


def test_unknown_server_with_a_gpu_and_no_published_port_is_open() -> None:
    result = read("docker run -d --name one --gpus all lab/train:1")
    assert not entries(result)
    assert "not imported: lab/train:1" in told(result)
    kept = read("services: {tgi: {image: 'lab/tgi:3', gpus: all, expose: ['80']}}").models["tgi"]
    assert (kept["gpus"], kept["bind"]) == ("all", "loopback")


def test_public_puller_becomes_pull() -> None:
    result = imported("puller.yml")
    assert {name: (fields["engine"], fields["pull"]) for name, fields in entries(result).items()} == {
        "ollama": ("ollama", ["qwen3:8b"])
    }
    assert "only pulls qwen3:8b, which became `pull` of ollama" in told(result, "changed")


OLLAMA = "services:\n  ollama: {image: 'ollama/ollama:0.20.2', ports: ['11434:11434'], container_name: box}\n"


@pytest.mark.parametrize(
    "puller",
    [
        "{image: 'ollama/ollama:0.20.2', entrypoint: [sh, -c, 'ollama pull a:1 && ollama pull b:2']}",
        "{image: 'ollama/ollama:0.20.2', environment: {OLLAMA_HOST: 'ollama:11434'}, entrypoint: /bin/bash, "
        "command: [-c, 'sleep 5; ollama pull a:1; ollama pull b:2']}",
        '{image: \'curlimages/curl:8\', command: [sh, -c, "curl ollama:11434/api/pull -d \'{\\"name\\": \\"a:1\\"}\'; '
        'curl ollama:11434/api/pull -d \'{\\"model\\":\\"b:2\\"}\'"]}',
    ],
)
def test_puller_becomes_pull_of_its_server(puller: str) -> None:
    found = entries(read(f"{OLLAMA}  puller: {puller}\n"))
    assert {name: fields.get("pull") for name, fields in found.items()} == {"box": ["a:1", "b:2"]}


def test_start_that_does_more_than_to_pull_is_custom() -> None:
    text = "docker run -d --name one -p 80:11434 --entrypoint sh ollama/ollama:0.20.2 -c 'apt-get update; ollama serve'"
    assert only(text)["engine"] == "custom"


def test_public_names_resolve() -> None:
    env = imported("aliases.yml").services["app"]["env"]
    assert env == {"REDIS_URL": "redis://app-redis:6379", "LLM": "http://qwen:8000/v1"}


def test_public_inner_port_is_changed_everywhere() -> None:
    result = imported("inner-port.yml")
    assert result.services["ui"]["env"] == {"OPENAI_BASE": "http://llama:8080/v1"}
    assert result.models["llama"]["compose"]["healthcheck"]["test"][-1] == "http://localhost:8080/health"
    assert "llama:8000 in its settings became llama:8080" in told(result, "changed")


BACKEND = (
    "services:\n  llm:\n    image: vllm/vllm-openai:v0.19.0\n    container_name: qwen\n"
    "    command: --model a/b --port 9000\n    gpus: all\n    ports: ['9001:9000']\n"
    "    networks: {default: {aliases: [model]}}\n"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("http://llm:9000/v1", "http://qwen:8000/v1"),
        ("http://model:9000", "http://qwen:8000"),
        ("model:9000", "qwen:8000"),
        ("http://a:1;http://llm:9000", "http://a:1;http://qwen:8000"),
        ("http://u:p@elsewhere:9000", None),
        ("llm", "llm"),
        ("http://other:9000/llm:9000", "http://other:9000/llm:9000"),
        ("http://localhost:9000", "http://localhost:9000"),
    ],
)
def test_address_of_another_container_is_followed(before: str, after: str | None) -> None:
    text = f"{BACKEND}  app: {{image: 'lab/app:1', ports: ['80:80'], environment: {{LLM: '{before}'}}}}\n"
    assert entries(read(text))["app"].get("env", {}).get("LLM") == after


@pytest.mark.parametrize(
    "text",
    [
        f"{BACKEND}  app: {{image: 'lab/app:1', ports: ['80:80'], links: ['llm:big', llm], "
        "environment: {LLM_HOST: big, LLM_URL: 'http://big:9000/v1', MODE: big}}\n",
        "docker run -d --name qwen --gpus all -p 9001:9000 vllm/vllm-openai:v0.19.0 --model a/b --port 9000\n"
        "docker run -d --name app -p 80:80 --link qwen:big -e LLM_HOST=big -e LLM_URL=http://big:9000/v1 -e MODE=big "
        "lab/app:1\n",
    ],
)
def test_names_of_links_are_followed(text: str) -> None:
    result = read(text)
    env = {"LLM_HOST": "qwen", "LLM_URL": "http://qwen:8000/v1", "MODE": "big"}
    assert (entries(result)["app"]["env"], "link" in told(result)) == (env, False)


def test_links_connect_a_web_ui_to_its_models() -> None:
    ui = "  ui: {image: 'ghcr.io/open-webui/open-webui:v0.12.4', links: ['llm:big'], ports: ['3000:8080'], "
    ui += "environment: {OPENAI_API_BASE_URL: 'http://big:9000/v1'}}\n"
    assert read(BACKEND + ui).services["ui"]["connects_to"] == ["qwen"]


def test_what_a_service_lacks_that_is_left_out_is_not_asked() -> None:
    text = f"{SERVICE}  job: {{image: 'lab/${{TAG}}', volumes: ['${{DATA}}:/d'], networks: [a]}}\n"
    result = read(text)
    assert [one.kind for one in result.findings if "job" in one.where] == ["left out"]
    assert "not defined" not in told(result)
    used = read(f"{SERVICE}  other: {{image: 'lab/x:1', ports: ['81:80'], environment: {{A: '${{TAG}}'}}}}\n")
    assert "service other: $TAG is not defined. Pass --set TAG=…." in told(used)


def test_address_of_a_container_on_the_hosts_network_is_followed() -> None:
    app = "  app: {image: 'lab/app:1', network_mode: host, ports: ['80:80'], "
    app += "environment: {LLM: 'http://localhost:9001/v1'}}\n"
    assert entries(read(BACKEND + app))["app"]["env"] == {"LLM": "http://qwen:8000/v1"}


def test_name_of_a_container_that_is_not_imported_is_said() -> None:
    text = f"{BACKEND}  db: {{image: 'postgres:16'}}\n  app:\n    image: lab/app:1\n    ports: ['80:80']\n"
    result = read(f"{text}    environment: {{DB: 'postgres://db:5432/x'}}\n")
    assert "uses db, which is not imported" in told(result)


@pytest.mark.parametrize(
    "ui",
    [
        "--network=host -e OLLAMA_BASE_URL=http://127.0.0.1:11434",
        "-p 3000:8080 -e OLLAMA_BASE_URL=http://host.docker.internal:11434",
        "-p 3000:8080 -e OLLAMA_BASE_URL=http://box:11434",
    ],
)
def test_web_ui_connects_to_the_backend_that_it_used(ui: str) -> None:
    text = f"docker run -d {ui} --name web ghcr.io/open-webui/open-webui:v0.12.4\n"
    text += "docker run -d --gpus=all -p 11434:11434 --name box ollama/ollama:0.33.0\n"
    assert read(text).services["web"]["connects_to"] == ["box"]


def test_public_web_ui_on_the_hosts_network_connects_to_ollama() -> None:
    assert imported("localhost-backend.sh").services["webui"]["connects_to"] == ["ollama"]


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "entry"), [("hf-token-custom.yml", "tgi"), ("hf-token-custom.yml", "whisperx"),
                                             ("secret-in-env.yml", "nim"), ("passed-secret.sh", "nim")])  # fmt: skip
def test_public_secret_of_a_container_stays_its_secret(name: str, entry: str) -> None:
    result = imported(name)
    fields = result.models[entry]
    assert fields["compose"]["env_file"] == [f"/root/{entry}.env"]
    assert not result.host
    assert f"Write NAME=value to /root/{entry}.env" in told(result)
    assert "hf_abcdefghijk" not in f"{result}"
    assert "--set" not in told(result)


@pytest.mark.parametrize("value", ["${HF_TOKEN:-}", "${OTHER_TOKEN-}", "''"])
def test_empty_token_is_no_token(value: str) -> None:
    text = (FOLDER / "empty-hf-token.yml").read_text()
    result = read(text.replace('"${HF_TOKEN:-}"', f'"{value}"' if value[0] == "$" else value))
    assert not result.host
    assert "TOKEN" not in told(result) + told(result, "changed")


def test_token_for_weights_is_the_hosts() -> None:
    for token in ("$HF_TOKEN", "${HF_TOKEN}"):
        result = read(f"docker run -d --name one --gpus all -p 80:8000 -e HF_TOKEN={token} {VLLM}")
        assert (result.host, "compose" in result.models["one"]) == ({"hf_token": {"env": "HF_TOKEN"}}, False)
        assert "HF_TOKEN" not in told(result)


def test_secret_file_is_added_to_the_containers_own() -> None:
    run = "docker run -d --name one -p 80:80 --env-file /srv/a.env -e DB=postgres://u:pw@db/x lab/x:1"
    assert only(run)["compose"]["env_file"] == ["/srv/a.env", "/root/one.env"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--tokenizer org/tok", "org/tok"),
        ("--lora-modules sql=org/lora x=/l/x", "org/lora"),
        ('--speculative-config \'{"model": "org/draft"}\'', "org/draft"),
        ("--hf-config-path org/config", "org/config"),
    ],
)
def test_other_repository_of_the_hub_is_said(flags: str, named: str) -> None:
    said = told(read(f"{RUN} {VLLM} {flags}"))
    assert f"names {named} of the hub" in said
    assert "/l/x" not in said


def test_public_names_of_the_hub_are_said() -> None:
    said = told(imported("offline-names.sh"))
    assert all(f"names {name} of the hub" in said for name in ("org/tok", "org/sql-lora", "org/draft"))


def test_tokenizer_of_the_weights_themselves_is_not_needed() -> None:
    fields = only(f"{RUN} {VLLM} --tokenizer a/b")
    assert "args" not in fields


def test_public_file_in_the_cache_keeps_its_mount() -> None:
    fields = imported("cache-file-dropped.sh").models["vl"]
    assert fields["args"] == {"chat-template": "/root/.cache/huggingface/tpl.jinja"}
    [volume] = fields["compose"]["volumes"]
    assert (volume["source"], volume["target"]) == ("/srv/hf", "/root/.cache/huggingface")


@pytest.mark.parametrize(
    ("command", "weights"),
    [
        (f"{VLLM.split()[0]} --model /c/hub/models--Qwen--Qwen3-8B/snapshots/0123abcd",
         {"hf": "Qwen/Qwen3-8B", "revision": "0123abcd"}),
        (f"{VLLM.split()[0]} /c/hub/models--a--b-c.d/snapshots/{'0' * 40}/", {"hf": "a/b-c.d", "revision": "0" * 40}),
        (f"{LLAMA}:server-b8000 -m /c/models--a--b-GGUF/snapshots/0123abcd/b-Q4.gguf",
         {"hf": "a/b-GGUF", "revision": "0123abcd", "file": "b-Q4.gguf"}),
    ],
)  # fmt: skip
def test_snapshot_of_the_hub_is_its_repository(command: str, weights: dict[str, str]) -> None:
    assert only(f"docker run -d --name one --gpus device=0 -p 80:8000 -v /srv/hub:/c {command}")["weights"] == weights


# --- numbers and flags -----------------------------------------------------------------------------------------------


def test_public_numbers_are_read_as_the_engine_reads_them() -> None:
    found = imported("numbers.sh").models
    assert [found[name].get("context") for name in sorted(found)] == [None, 32000, None, None, None]
    assert (found["m1"]["args"], found["m5"]["args"]) == ({"max-model-len": "auto"}, {"max-model-len": -1})
    assert found["m4"]["args"] == {"served-model-name": ["qwen-alt"]}
    said = told(imported("numbers.sh"))
    assert "--tensor-parallel-size is `$(nvidia-smi -L | wc -l)`, not a number" in said
    assert "--gpu-memory-utilization is `$UTIL`, not a number" in said


@pytest.mark.parametrize(
    ("image", "flags", "context"),
    [
        (VLLM, "--max-model-len 32K", 32768),
        (VLLM, "--max-model-len 1.5k", 1500),
        (VLLM, "--max-model-len $LONG", None),
        (VLLM, "--port $PORT --max-model-len 8", 8),
        (f"{LLAMA}:server-b8000 -m /m/a.gguf", "-c 8k", None),
        (f"{LLAMA}:server-b8000 -m /m/a.gguf", "-c 8192 -np $SLOTS", 8192),
    ],
)
def test_number_that_cannot_be_read_keeps_its_entry(image: str, flags: str, context: int | None) -> None:
    result = read(f"{RUN} -v /m:/m {image} {flags}")
    assert result.models["one"].get("context") == context
    assert ("not a number; it is left out" in told(result) or "is not defined" in told(result)) == (
        "$" in flags or context is None
    )


def test_empty_variable_of_an_engine_is_absent() -> None:
    found = imported("router-config-hf.yml").models["ollama"]
    assert not {"context", "env"} & set(found)


def test_public_server_without_a_named_model_is_kept_in_its_own_words() -> None:
    found = imported("router-config-hf.yml").models
    assert found["router"]["compose"]["command"][:2] == ["--models-dir", "/models"]
    assert (found["vcfg"]["engine"], found["vcfg"]["compose"]["command"]) == ("custom", ["--config", "/cfg/vllm.yaml"])
    assert found["hfq"]["weights"]["hf"] == "org/Model-GGUF"
    assert "-hf chose a file of org/Model-GGUF:Q4_K_M" in told(imported("router-config-hf.yml"))


def test_public_flags_with_several_words_are_whole() -> None:
    fields = imported("nargs.sh").models["chat"]
    assert fields["args"]["lora-modules"] == ["a=/l/a", "b=/l/b"]
    assert (fields["served_name"], fields["args"]["served-model-name"]) == ("qwen", ["qwen-alt"])


@pytest.mark.parametrize(
    ("words", "args"),
    [
        ("--ignore-patterns a b", {"ignore-patterns": ["a", "b"]}),
        ("--allowed-media-domains x.org y.org --seed 1", {"allowed-media-domains": ["x.org", "y.org"], "seed": 1}),
        ("--logits-processors a:B c:D", {"logits-processors": ["a:B", "c:D"]}),
        ("--enable-expert-parallel", {"enable-expert-parallel": True}),
        ("--no-enable-prefix-caching", {"no-enable-prefix-caching": True}),
    ],
)
def test_flags_of_vllm_take_the_words_that_vllm_gives_them(words: str, args: dict[str, Any]) -> None:
    image = f"docker run -d --name one --gpus device=0 -p 80:8000 {VLLM.split()[0]}"
    for command in (f"--model org/m {words}", f"org/m {words}", *([f"{words} org/m"] if True in args.values() else [])):
        fields = only(f"{image} {command}")
        assert (fields["weights"], fields["args"]) == ({"hf": "org/m"}, args)


@pytest.mark.parametrize(("written", "tokens"), [("1.5k", 1500), ("2K", 2048), ("1.5K", None), ("1t", 10**12)])
def test_suffixes_of_vllm_are_read_as_vllm_reads_them(written: str, tokens: int | None) -> None:
    text = f"docker run -d --name one --gpus device=0 -p 80:8000 {VLLM} --max-model-len {written}"
    assert only(text).get("context") == tokens


def test_several_words_reach_the_engine_behind_one_flag() -> None:
    fields = imported("nargs.sh").models["chat"]
    spec = check_fleet({"gpu1": [{"hardware": {"A30": 1}, "models": {"chat": fields}}]})["gpu1"]
    model, engine = spec.models["chat"], ENGINES["vllm"]
    words = " ".join(engine.container(model, Run("qwen", weights="/w/q", gpus=1)).command or [])
    assert "--served-model-name qwen qwen-alt --host" in words
    assert "--lora-modules a=/l/a b=/l/b" in words
    assert engine.serves(model, "qwen") == ["qwen", "qwen-alt"]


def test_public_containers_without_names_are_two_entries() -> None:
    found = imported("nameless-one-image.sh").models
    assert {name: (fields["port"], fields["gpus"]) for name, fields in found.items()} == {
        "triton": (8001, "all"), "triton-2": (8000, [0])
    }  # fmt: skip
    assert "Docker ignores it beside the host's network" in told(imported("nameless-one-image.sh"), "changed")


@pytest.mark.parametrize(
    ("options", "healthcheck"),
    [
        ("--health-cmd 'curl x' --health-start-period 10m", {"test": ["CMD-SHELL", "curl x"], "start_period": "10m"}),
        ("--health-start-interval 5s", {"start_interval": "5s"}),
        ("--health-interval=1m --health-retries 3", {"interval": "1m", "retries": "3"}),
    ],
)
def test_health_options_are_kept(options: str, healthcheck: dict[str, Any]) -> None:
    assert only(f"{RUN} {options} lab/x:1")["compose"]["healthcheck"] == healthcheck


def test_public_health_start_period_is_kept() -> None:
    assert imported("health-start-period.sh").models["chat"]["compose"]["healthcheck"]["start_period"] == "10m"


# --- shell and notes -------------------------------------------------------------------------------------------------


def test_public_positional_parameter_has_its_default() -> None:
    fields = imported("positional-model.sh").models["chat"]
    assert (fields["weights"], fields["port"]) == ({"hf": "Qwen/Qwen3-8B"}, 8008)


def test_public_array_is_its_words() -> None:
    result = imported("shell-array.sh")
    fields = result.models["llm"]
    assert (fields["engine"], fields["version"], fields["port"], fields["gpus"]) == ("vllm", "0.19.0", 8000, [0])
    assert "$EXTRA is not defined" in told(result)
    assert not told(result, "left out")


def test_public_loop_is_read_for_each_word() -> None:
    found = imported("shell-loop.sh").models
    assert {name: (fields["gpus"], fields["port"]) for name, fields in found.items()} == {
        "tei-0": ([0], 8080), "tei-1": ([1], 8081)
    }  # fmt: skip


def test_function_of_a_script_is_followed() -> None:
    text = (
        'start() {\n  local port=$((8000 + 0))\n  docker run -d --name "$1" --gpus "device=$2" -p "$3:8000" \\\n'
        f"    {VLLM.replace('a/b', '$4')}\n}}\nstart one 0 8001 a/b\nstart two 1 8002 c/d\n"
    )
    found = read(text).models
    assert {name: (fields["gpus"], fields["port"], fields["weights"]) for name, fields in found.items()} == {
        "one": ([0], 8001, {"hf": "a/b"}), "two": ([1], 8002, {"hf": "c/d"})
    }  # fmt: skip


def test_loop_over_unknown_words_is_said_and_read_once() -> None:
    result = read("for m in $(cat models); do docker run -d --name x1 -p 80:80 lab/x:1 $m; done")
    assert list(result.models) == ["x1"]
    assert "repeats for $(cat models); read once" in told(result)


def test_pulls_of_a_loop_are_all_pulled() -> None:
    text = f"{OLLAMA}  puller: {{image: 'ollama/ollama:0.20.2', entrypoint: [sh, -c, "
    found = entries(read(f"{text}'for m in a:1 b:2; do ollama pull $$m; done']}}\n"))
    assert found["box"]["pull"] == ["a:1", "b:2"]


FENCED = "# Notes\n\nFirst run this, it's easy:\n\n```{language}\n{body}\n```\nand that's all (don't forget).\n"
DOCKER = "docker run -d --name one -p 80:80 \\\n  lab/x:1"


@pytest.mark.parametrize(
    "text",
    [
        FENCED.format(language="bash", body=DOCKER),
        FENCED.format(language="", body=f"$ {DOCKER}"),
        FENCED.format(language="yaml", body=SERVICE.replace("9000:9000", "80:80")),
        FENCED.format(
            language="sh", body=f"cat > c.yml <<'E'\n{SERVICE.replace('9000:9000', '80:80')}E\ndocker compose up"
        ),
        FENCED.format(language="bash", body=DOCKER.replace("-p", "--gpus &#39;all&#39; -p")),
        "1. Start it:\n\n   ```sh\n   docker run -d --name one \\\n     -p 80:80 lab/x:1\n   ```\n2. Done\n",
        f"Text\n~~~\n{DOCKER}\n~~~\n```python\nprint('docker run -d --name no x')\n```\n",
        "# Notes\n\nIt's *this*:\n\n    docker run -d --name one \\\n      -p 80:80 lab/x:1\n\nand that's all.\n",
        "It's this:\n\n    docker run -d --name one \\\n      -p 80:80 lab/x:1\n\n```\nls -l\n```\n",
    ],
)
def test_commands_of_notes_are_read_and_prose_is_skipped(text: str) -> None:
    result = read(text)
    assert {name: (fields["image"], fields["port"]) for name, fields in result.models.items()} == {
        "one": ("lab/x:1", 80)
    }
    assert "not a docker command" not in told(result, "left out")
    assert "quote" not in told(result)


def test_line_numbers_of_notes_are_those_of_the_file() -> None:
    result = read(FENCED.format(language="bash", body=DOCKER))
    assert all(finding.where.startswith("line 6") for finding in result.findings)


def test_public_script_that_writes_its_compose_file_imports_it() -> None:
    assert imported("ok-heredoc.sh").models["llm"]["weights"] == {"hf": "Qwen/Qwen3-8B"}


def test_public_quadlet_file_is_refused_with_one_sentence() -> None:
    with pytest.raises(NoCompose, match="is a Quadlet file of Podman, which is not imported"):
        imported("quadlet.container")


@pytest.mark.parametrize("name", ["ok-bad-indent.yml", "ok-tabs.yml"])
def test_public_broken_compose_file_is_refused_with_its_line(name: str) -> None:
    with pytest.raises(NoCompose, match=r"is not valid YAML \(line \d"):
        imported(name)


def test_public_other_programs_are_custom() -> None:
    found = imported("ok-four-others.yml").models
    assert {name: (fields["engine"], fields["port"]) for name, fields in found.items()} == {
        "comfy": ("custom", 8188), "whisper": ("custom", 9000), "fw": ("custom", 8001), "tts": ("custom", 8880)
    }  # fmt: skip


def test_public_text_without_services_has_no_entries() -> None:
    assert not entries(imported("ok-no-services.yml"))


def test_every_public_shape_has_a_test() -> None:
    named = Path(__file__).read_text(encoding="utf-8")
    assert not [path.name for path in FOLDER.iterdir() if path.name not in named and path.stem not in SHORT]


SHORT = (
    "entrypoint-bash-c", "entrypoint-bash-noslash", "entrypoint-usr-bin-python3", "compose-keys-unchecked",
    "expose-two",
)  # fmt: skip
"""Named by a part of their names, or in test_kinds.py."""


# --- `compose` of an entry -------------------------------------------------------------------------------------------


def problems_of(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """(path, code) of the errors of one custom entry with these Compose settings."""
    entry = {"engine": "custom", "image": "lab/x:1", "gpus": [0], "port": 9000, "compose": fields}
    try:
        check_fleet({"gpu1": [{"hardware": {"A30": 1}, "models": {"one": entry}}]})
    except InventoryError as error:
        return [(problem.path, problem.code) for problem in error.problems]
    return []


def test_compose_takes_only_keys_of_the_compose_specification() -> None:
    assert problems_of({"heathcheck": {}, "volume": []}) == [
        ("models.one.compose.heathcheck", "unknown-compose-key"), ("models.one.compose.volume", "unknown-compose-key"),
    ]  # fmt: skip
    assert not problems_of({"x-anything": 1, "healthcheck": {"disable": True}, "ipc": None, "mac_address": "0:0"})


def test_exposed_ports_beside_the_first_are_accepted() -> None:
    assert not problems_of({"expose": ["9000", "9100"]})
    assert problems_of({"expose": []}) == [("models.one.compose.expose", "invalid-expose")]


def test_settings_without_a_value_are_absent_and_env_files_in_the_long_form_are_checked() -> None:
    result = read(f"{SERVICE}    healthcheck:\n    logging: ~\n    env_file: [{{path: a.env, required: false}}]\n")
    assert set(result.models["one"]["compose"]) == {"env_file"}
    assert "env_file a.env is a relative path." in told(result)
    assert "env_file b.env is a relative path." in told(read(f"{SERVICE}    env_file: b.env\n"))


def test_secrets_and_configs_of_compose_are_mounted_or_named() -> None:
    top = "secrets: {key: {file: /k.txt}, var: {environment: X}}\nconfigs: {c: {file: /c.yaml}}\n"
    result = read(f"{SERVICE}    secrets: [key, var]\n    configs: [{{source: c, target: /etc/c.yaml}}]\n{top}")
    assert [(one["source"], one["target"]) for one in result.models["one"]["compose"]["volumes"]] == [
        ("/k.txt", "/run/secrets/key"), ("/c.yaml", "/etc/c.yaml")
    ]  # fmt: skip
    assert "/run/secrets/var is a file of secrets, without `file` in this text." in told(result)
    assert "was not converted" not in told(result)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "KEY=$(cat /run/secrets/key) exec serve --api-key abc",
            "KEY=$(cat /run/secrets/key) exec serve --api-key ***",
        ),
        ('export API_KEY="$k0"; exec "$@"', 'export API_KEY="$k0"; exec "$@"'),
        ("API_KEY=${KEY} serve", "API_KEY=${KEY} serve"),
        ("API_KEY=$(echo hush) serve", "API_KEY=***"),
        ("API_KEY=$5hush serve", "API_KEY=***"),
        ("API_KEY=abc serve", "API_KEY=***"),
        ("API_KEY=$KEY; OTHER_TOKEN=hush x", "API_KEY=$KEY; OTHER_TOKEN=***"),
    ],
)
def test_only_secrets_themselves_are_masked_in_a_command(text: str, shown: str) -> None:
    command = json.dumps(["sh", "-c", text.replace("$", "$$")])
    assert only(f"{SERVICE}    command: {command}\n")["compose"]["command"][-1] == shown


def test_every_other_key_of_a_service_is_kept_or_said() -> None:
    for key in sorted(SERVICE_KEYS - CONVERTED):
        result = read(f"{SERVICE}    {key}: [aa]\n")
        assert key in result.models["one"].get("compose", {}) or f"{key} was not converted" in told(result), key


@pytest.mark.parametrize(
    ("option", "volume"),
    [
        ("-v /a:/b:ro,z", {"type": "bind", "source": "/a", "read_only": True, "bind": {"selinux": "z"}}),
        ("-v /a:/b:rshared", {"type": "bind", "source": "/a", "bind": {"propagation": "rshared"}}),
        ("--mount type=tmpfs,dst=/b,tmpfs-size=1g", {"type": "tmpfs", "tmpfs": {"size": "1g"}}),
        ("-v vol:/b:nocopy", {"type": "volume", "source": "vol", "volume": {"nocopy": True}}),
        ("-v /a:/b:rw,cached", {"type": "bind", "source": "/a"}),
    ],
)
def test_options_of_a_mount_are_kept(option: str, volume: dict[str, Any]) -> None:
    [found] = only(f"{RUN} {option} lab/x:1")["compose"]["volumes"]
    assert found == {"target": "/b", **volume}


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "bind", "source": "/a", "bind": {"create_host_path": False}},
        {"type": "tmpfs", "tmpfs": {"size": 1000}},
        {"type": "volume", "source": "v", "read_only": True, "volume": {"nocopy": True}},
    ],
)
def test_long_form_of_a_mount_is_kept(settings: dict[str, Any]) -> None:
    text = f"{SERVICE}    volumes: [{json.dumps({**settings, 'target': '/b'})}]\n"
    assert only(text)["compose"]["volumes"] == [{**settings, "target": "/b"}]
