"""Imports beyond the seeds (test_seeds.py): secrets, old flags, other engines, unusual commands."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis.strategies import lists, sampled_from

from gpurack.importing.compose_file import NoCompose
from gpurack.importing.reader import Imported, read
from gpurack.importing.secret import mask_words
from gpurack.importing.text import as_python, as_yaml, comments
from gpurack.inventory.load import to_groups

VLLM = "docker run -d --restart unless-stopped --gpus device=0 --ipc=host -p 127.0.0.1:8000:8000 -v /m:/m --name one"


def entry(text: str, **variables: str) -> dict[str, Any]:
    imported = read(text, variables)
    [fields] = [*imported.models.values(), *imported.services.values()]
    return fields


def said(text: str, kind: str = "open", **variables: str) -> list[str]:
    return [finding.what for finding in read(text, variables).findings if finding.kind == kind]


@pytest.mark.parametrize(
    ("image", "field", "value"),
    [
        ("vllm/vllm-openai:v0.33.0", "version", "0.33.0"),
        ("vllm/vllm-openai:latest", "image", "vllm/vllm-openai:latest"),
        ("mirror.lab/vllm-openai:v0.33.0", "image", "mirror.lab/vllm-openai:v0.33.0"),
        ("vllm/vllm-openai@sha256:" + "0" * 64, "image", "vllm/vllm-openai@sha256:" + "0" * 64),
    ],
)
def test_fixed_tag_becomes_version(image: str, field: str, value: str) -> None:
    assert entry(f"{VLLM} {image} --model /m/x")[field] == value


@pytest.mark.parametrize(
    ("flags", "args", "sentence"),
    [
        ("--task embed", {"runner": "pooling", "convert": "embed"},
         "vllm removed --task; replaced by runner: pooling, convert: embed."),
        ("--task generate", None, "vllm removed --task; not needed."),
        ("--guided-decoding-backend xgrammar", {"structured-outputs-config.backend": "xgrammar"},
         "vllm removed --guided-decoding-backend; replaced by structured-outputs-config.backend."),
    ],
)  # fmt: skip
def test_renames_old_flags(flags: str, args: dict[str, Any] | None, sentence: str) -> None:
    command = f"{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x {flags}"
    assert entry(command).get("args") == args
    assert sentence in said(command, "changed")


def test_reports_removed_flags_with_hint() -> None:
    command = f"{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x --swap-space 4 --disable-log-requests --enforce-eager"
    assert entry(command)["args"] == {"enforce-eager": True}
    assert "vllm removed --swap-space: the nearest is --kv-offloading-size. It is left out." in said(command)


def test_keeps_flags_of_old_version() -> None:
    command = f"{VLLM} vllm/vllm-openai:v0.6.4 --model /m/x --swap-space 4 --disable-log-requests --task embedding"
    assert entry(command)["version"] == "0.6.4"
    assert entry(command)["args"] == {"swap-space": 4, "disable-log-requests": True, "task": "embedding"}
    assert not [sentence for sentence in said(command) if "removed" in sentence]


def test_divides_llama_cpp_context_by_slots() -> None:
    command = (
        "docker run -d -p 127.0.0.1:8000:8000 -v /m:/m --name one ghcr.io/ggml-org/llama.cpp:server-b7000 -m /m/a.gguf"
    )
    assert entry(f"{command} --port 8000 -c 8192 -np 4")["context"] == 2048
    assert entry(f"{command} --port 8000 -c 8192 -np 4 -kvu")["context"] == 8192
    assert entry(f"{command} --port 8000 -c 0").get("context") is None


def test_parses_long_flags_with_one_dash() -> None:
    command = (
        "docker run -d -p 127.0.0.1:8000:8000 -v /m:/m --name one ghcr.io/ggml-org/llama.cpp:server-b7000 -m /m/a.gguf"
    )
    assert entry(f"{command} --port 8000 -ot x=CPU -fa on")["args"] == {"ot": "x=CPU", "flash-attn": "on"}
    assert "flags not converted: -xyz 1." in said(f"{command} --port 8000 -xyz 1")


SECRET = "sk-live-0123456789"


@pytest.mark.parametrize(
    "command",
    [
        f"{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x --api-key {SECRET}",
        f"{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x --api-key={SECRET}",
        f"{VLLM} -e VLLM_API_KEY={SECRET} vllm/vllm-openai:v0.33.0 --model /m/x",
        f"{VLLM} -e HF_TOKEN={SECRET} vllm/vllm-openai:v0.33.0 --model /m/x",
        f"{VLLM} -e WANDB_API_KEY={SECRET} vllm/vllm-openai:v0.33.0 --model /m/x",
        f"KEY={SECRET}\n{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x --api-key $KEY",
        f"docker run --name job ghcr.io/ggml-org/llama.cpp:light -m /m/x.gguf --hf-token {SECRET}",
        f"docker exec -e API_TOKEN={SECRET} x sh",
        f"docker login -u me --password {SECRET} reg",
        f"curl -H 'Authorization: Bearer {SECRET}' http://x",
        f"docker run -d -p 80:80 --name c some/image:1 serve --token {SECRET} --secret={SECRET}",
        f"docker run -d -p 80:80 --name c -e DB_PASSWORD={SECRET} some/image:1",
        f"docker run --no-such-flag -e API_KEY={SECRET}",
        f"docker run --no-such-flag={SECRET} -e X=1 a/b:1",
        f"docker run --detach={SECRET} a/b:1",
        f"docker build --no-such-flag={SECRET} -t a/b:1 https://github.com/a/b",
        f"docker run -e API_KEY={SECRET} -p '80:80 a/b:1",
        f'docker run -e "API_KEY=my {SECRET} -p "80:80" a/b:1',
        f'API_KEY="{SECRET}\ndocker run a/b:1',
        f"services:\n  a:\n    image: x/y:1\n    command: serve 'x {SECRET}\n",
        f"services:\n  a:\n    image: x/y:1\n    environment: [{{API_KEY: {SECRET}}}]\n    ports: {SECRET}\n",
        f"services:\n  a:\n    image: ollama/ollama:1.0\n    environment: [HF_TOKEN={SECRET}]\n    secret: {SECRET}\n",
        f"services:\n  a:\n    image: x/y:1\n    ports: ['80:80']\n    labels: {{lab.token: {SECRET}}}\n",
        f"docker run -d -p 80:80 -e DB=postgres://me:{SECRET}@db/x x/y:1",
        f"docker login -u me -p {SECRET} reg",
        f"docker login -u me -p{SECRET} reg",
        f"TOKEN={SECRET}\necho $TOKEN | docker login -u me --password-stdin reg",
        f"docker run -d -p 80:80 --entrypoint bash vllm/vllm-openai:v0.33.0 -c 'vllm serve a/b --api-key {SECRET}'",
        f"docker run -d -p 80:80 --entrypoint bash vllm/vllm-openai:v0.33.0 -c 'vllm serve a/b --api-key=\"{SECRET}\"'",
        f"docker run -d -p 80:80 --entrypoint bash x/y:1 -c 'export API_KEY={SECRET}; serve'",
        f"docker run -d -p 80:80 --name c ghcr.io/ggml-org/llama.cpp:server -mu https://me:{SECRET}@hub/x.gguf",
    ],
)  # fmt: skip
def test_never_prints_secrets(command: str) -> None:
    imported = read(command)
    printed = as_python(imported, "h") + as_yaml(imported, "h") + comments(imported)
    assert imported.findings
    assert SECRET not in printed


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ("{image: x/y:1, ports: 8000}", "is not a valid service: ports must be a list, not a number."),
        ("{image: x/y:1, volumes: /m}", "is not a valid service: volumes must be a list, not text."),
        ("{image: x/y:1, ports: ['80:x']}", "is not a valid service: 80:x is not a valid port."),
        ("{image: x/y:1, deploy: now}", "is not a valid service. Run `docker compose config` to find the error."),
        ("x/y:1", "is not a valid service: it must be a map of fields, not text."),
    ],
)
def test_reports_invalid_compose_file(fields: str, sentence: str) -> None:
    assert sentence in said(f"services:\n  a: {fields}\n")


def test_variable_from_environment_is_not_a_secret() -> None:
    script = 'exec vllm serve a/b --api-key "$KEY"'
    assert mask_words(["-c", script]) == ["-c", script]


def test_key_becomes_reference_with_hint() -> None:
    command = f"{VLLM} -e VLLM_API_KEY={SECRET} vllm/vllm-openai:v0.33.0 --model /m/x"
    assert entry(command)["api_key"] == {"env": "ONE_KEY"}
    assert any("export ONE_KEY=…" in what for what in said(command))
    by_name = f"{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x --api-key $LAB_KEY"
    assert entry(by_name)["api_key"] == {"env": "LAB_KEY"}


def test_memory_fraction_becomes_vram() -> None:
    assert entry(f"{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x --gpu-memory-utilization 0.25")["vram"] == "25%"


@pytest.mark.parametrize(
    ("cards", "flags", "gpus", "sentence"),
    [
        ("device=0,1", "", [0],
         "was given GPU 0, 1 but uses one GPU; set to gpus [0]. Set tensor-parallel-size to use more."),
        ("device=0,1", "--tensor-parallel-size 2", [0, 1], None),
        ("device=0,1", "-tp 1 -pp 2", [0, 1], None),
        ("device=0", "-tp 2", [0], "needs 2 GPUs (tensor-parallel-size) but was given GPU 0."),
        ("all", "-tp 2", [0, 1],
         "was given all GPUs but uses 2 GPUs; set to gpus [0, 1]. Check which to use."),
        ("2", "-tp 2", [0, 1],
         "asked for any 2 GPUs; set to gpus [0, 1]. Check which to use."),
    ],
)  # fmt: skip
def test_converts_gpus(cards: str, flags: str, gpus: list[int], sentence: str | None) -> None:
    command = f"docker run -d --gpus {cards} -p 80:8000 -v /m:/m --name a vllm/vllm-openai:v0.33.0 --model /m/x {flags}"
    assert entry(command)["gpus"] == gpus
    cards_said = [what for what in said(command) if "card" in what or "GPU" in what]
    assert cards_said == ([sentence] if sentence else [])


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("docker run -d --gpus device=1 --shm-size 32g -p 127.0.0.1:30000:30000 -v /m:/m --name s "
         "lmsysorg/sglang:v0.5.23 python3 -m sglang.launch_server "
         "--model-path /m/q --host 0.0.0.0 --port 30000 --context-length 8192",
         {"engine": "sglang", "version": "0.5.23", "weights": "/m/q", "gpus": [1], "context": 8192, "port": 30000,
          "bind": "loopback", "served_name": "/m/q", "compose": {"shm_size": "32g"}}),
        ("docker run -d -p 127.0.0.1:3000:8080 -e OPENAI_API_BASE_URL=http://v:8000/v1 -v w:/app/backend/data "
         "--name web ghcr.io/open-webui/open-webui:v0.12.4\n"
         "docker run -d --name v -p 127.0.0.1:8000:8000 -v /m:/m ghcr.io/ggml-org/llama.cpp:server-b7000 "
         "-m /m/a.gguf --port 8000",
         {"engine": "open-webui", "version": "0.12.4", "connects_to": ["llama.cpp-a"], "port": 3000,
          "bind": "loopback"}),
        ("docker run -d -p 127.0.0.1:4000:4000 -v ./c.yaml:/c.yaml --name gw "
         "docker.litellm.ai/berriai/litellm:main-v1.109.1 --config /c.yaml",
         {"engine": "litellm", "version": "1.109.1", "connects_to": "all", "port": 4000, "bind": "loopback",
          "compose": {"volumes": [{"type": "bind", "target": "/c.yaml", "source": "./c.yaml"}]}}),
        ("docker run -d -p 127.0.0.1:9000:7860 --name c -v /srv/data:/data some/app:1.2 serve --fast",
         {"engine": "custom", "image": "some/app:1.2", "gpus": [], "port": 9000, "bind": "loopback", "compose": {
             "expose": ["7860"], "command": ["serve", "--fast"],
             "volumes": [{"type": "bind", "target": "/data", "source": "/srv/data"}]}}),
        ("docker run -d --network host -v /m:/m --name l ghcr.io/ggml-org/llama.cpp:server-b7000 "
         "-m /m/a.gguf -c 4096 -t 8",
         {"engine": "llama.cpp", "version": "b7000", "weights": "/m/a.gguf", "gpus": [], "context": 4096, "port": 8080,
          "bind": "any", "args": {"t": 8}}),
        ("docker run -d -p 127.0.0.1:8000:8000 -v /m:/m -v /t:/t --name l ghcr.io/ggml-org/llama.cpp:server-b7000 "
         "-m /m/a.gguf --port 8000 --chat-template-file /t/x.jinja --lora /m/l1 --lora /m/l2",
         {"engine": "llama.cpp", "version": "b7000", "weights": "/m/a.gguf", "gpus": [], "port": 8000,
          "bind": "loopback", "args": {"chat-template-file": "/t/x.jinja", "lora": ["/m/l1", "/m/l2"]},
          "compose": {"volumes": [{"type": "bind", "target": "/m", "source": "/m"},
                                  {"type": "bind", "target": "/t", "source": "/t"}]}}),
    ],
    ids=lambda value: value.split()[-1] if isinstance(value, str) else "",
)  # fmt: skip
def test_imports_other_engines(command: str, fields: dict[str, Any]) -> None:
    imported = read(command)
    found = {**imported.services, **imported.models}
    assert next(iter(found.values())) == fields


def test_reports_everything_not_converted() -> None:
    text = (
        "docker pull x/y\ndocker exec -it a bash\ndocker commit a b\nls\ndocker swarm init\n"
        "docker run -it --rm ubuntu:24.04 bash\n# sudo docker run old\n"
    )
    imported = read(text)
    assert not imported.data
    assert [(finding.where, finding.kind) for finding in imported.findings] == [
        ("line 1", "left out"), ("line 2", "left out"), ("line 3", "open"), ("line 4", "left out"), ("line 5", "open"),
        ("line 6", "left out"), ("line 7", "left out"),
    ]  # fmt: skip


def test_home_of_another_user_is_not_the_own_one() -> None:
    imported = read("docker run -d --name box -p 1:11434 -v ~bob/m:/x ollama/ollama:0.33.0\n", {"HOME": "/home/ada"})
    assert imported.models["box"]["compose"]["volumes"][0]["source"] == "~bob/m"
    assert "~bob/m is in another user's home" in " ".join(map(str, imported.findings))


def test_reports_pull_without_model() -> None:
    imported = read("docker run -d --name box -p 1:11434 ollama/ollama:0.33.0\ndocker exec box ollama pull\n")
    assert "pull" not in imported.models["box"]
    assert any("`docker exec box ollama pull`" in str(finding) for finding in imported.findings)


def test_reports_duplicate_names() -> None:
    command = f"{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x --served-model-name one\n"
    same = read(command + command)
    assert len(same.models) == 1
    assert "one is defined twice identically." in [finding.what for finding in same.findings]
    other = read(command + command.replace("device=0", "device=3"))
    assert other.models["one"]["gpus"] == [3]
    assert "one is defined twice; this one is used. The first had gpus: [0]." in [f.what for f in other.findings]


def test_printed_python_and_yaml_load_as_imported() -> None:
    imported = read(f'{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x -O \'{{"a": "it\'s"}}\'\n' + "docker pull x/y\n")
    assert isinstance(imported, Imported)
    for text in (as_python(imported, "gpu1.lab"), as_python(imported, "gpu1.lab") + comments(imported)):
        names: dict[str, Any] = {}
        exec(text, names)
        assert names["gpu_hosts"] == ([("gpu1.lab", imported.data)], {})
    text = as_yaml(imported, "gpu1.lab") + comments(imported)
    assert text.startswith("# yaml-language-server: $schema=gpurack.schema.json\n")
    content = yaml.safe_load(text)
    assert to_groups(content, "x")["all"] == ([("gpu1.lab", imported.data)], {})


PIECES = [
    "docker run", "sudo docker run", "-d", "-p 80:80", "-p", "--gpus", "all", "device=0", "--name", "x y", "-v /a:/b",
    "-v", "vllm/vllm-openai", "ollama/ollama:1", "ghcr.io/ggml-org/llama.cpp:server", "a/b:1", "--model", "/b/m.gguf",
    "--port", "abc", "-c", "-np", "0", "-tp", "--task", "\\\n", "\\ \n", "\n", "'", '"', "$x", "$(", "`", "#", "<<E",
    "docker build", "git clone", "https://x/llama.cpp", "cd", "llama.cpp", ".", "-t a/b:1",
    "-f .devops/cuda.Dockerfile",
    "services:\n", "  a:\n", "    image: x\n", "    ports: [1, 'b']\n", "if", "fi", "&&", ">", "-e", "A_KEY=1", "=",
]  # fmt: skip


@given(lists(sampled_from(PIECES), max_size=14), sampled_from([" ", ""]))
def test_any_text_gives_entries_or_findings(pieces: list[str], between: str) -> None:
    try:
        imported = read(between.join(pieces))
    except NoCompose:
        return
    assert yaml.safe_load(as_yaml(imported, "h") + comments(imported))["hosts"]["h"] == imported.data
    exec(as_python(imported, "h") + comments(imported), {})


# --- jobs, files of repositories, images of nobody -------------------------------------------------------------------


def job(text: str) -> dict[str, Any]:
    [fields] = read(text).jobs.values()
    return fields


def test_imports_job_with_result_version_and_mounts() -> None:
    image = "ghcr.io/ggml-org/llama.cpp:full-b7000"
    text = f"docker run --rm -v /m:/models -v /x:/y:ro -e A=1 {image} --quantize /models/a.gguf /models/q4.gguf q4_0"
    assert read(text).jobs == {
        "quantize": {
            "engine": "llama.cpp", "version": "b7000", "folder": "/m", "result": "q4.gguf",
            "command": ["--quantize", "/models/a.gguf", "/models/q4.gguf", "q4_0"], "env": {"A": "1"},
            "compose": {"volumes": [{"type": "bind", "source": "/x", "target": "/y", "read_only": True}]},
        }
    }  # fmt: skip
    cuda = "docker run --gpus device=1 --name ask -v /m:/models ghcr.io/ggml-org/llama.cpp:light-cuda-b7000 -p Hi"
    assert (job(cuda)["version"], job(cuda)["gpus"], list(read(cuda).jobs)) == ("b7000", [1], ["ask"])


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("--all-in-one /models/ 7B", "7B/ggml-model-q4_0.bin"),
        ("--all-in-one /elsewhere 7B", None),  # in no folder of the job
        ("--convert --outfile /models/f16.gguf /models/7B", "f16.gguf"),
        ("--convert --outtype f16 /models/7B/", None),  # named after the model
    ],
)
def test_finds_result_of_known_tools(command: str, result: str | None) -> None:
    text = f"docker run -v /m:/models ghcr.io/ggml-org/llama.cpp:full-b7000 {command}"
    assert job(text).get("result") == result
    assert any("its output file is not known" in what for what in said(text)) == (result is None)


def test_imports_single_file_of_repository() -> None:
    server = "docker run -d --name m -p 8080:8080 ghcr.io/ggml-org/llama.cpp:server-b7000 --port 8080"
    named = f"{server} -hf a/b -hff q4.gguf"
    assert entry(named)["weights"] == {"hf": "a/b", "file": "q4.gguf"}
    assert not [what for what in said(named) if "file" in what]
    chosen = f"{server} -hf a/b:Q8_0"
    assert entry(chosen)["weights"] == {"hf": "a/b", "file": "UNKNOWN.gguf"}
    assert any("-hf chose a file of a/b:Q8_0" in what for what in said(chosen))


@pytest.mark.parametrize(
    ("image", "built"), [("redis:7", False), ("nginx", False), ("cuda_simple", True), ("local/llama.cpp:server", True)]
)
def test_docker_hub_image_is_not_reported_as_built(image: str, built: bool) -> None:
    found = said(f"docker run -d --name one -p 8000:8000 -v /m:/m {image} --model /m/a.gguf")
    assert any("was built by hand" in what for what in found) == built


@pytest.mark.parametrize(
    "prompt", ["$ ", "  $ ", "root@gpu1:~# ", "me@gpu1.lab:/data/models$ ", "[me@gpu1 ~]$ ", "(base) me@gpu1:~$ "]
)
def test_strips_copied_shell_prompt(prompt: str) -> None:
    assert entry(f"{prompt}sudo {VLLM} vllm/vllm-openai:v0.33.0 --model /m/x")["gpus"] == [0]


def test_omits_commented_command() -> None:
    assert not read(f"# {VLLM} vllm/vllm-openai:v0.33.0 --model /m/x").models


def test_understands_nvidia_docker() -> None:
    assert entry("sudo nvidia-docker run -d -p 11434:11434 ollama/ollama:0.33.0")["gpus"] == "all"


def test_master_key_variable_becomes_api_key() -> None:
    command = f"docker run -d -p 4000:4000 --name gate -e LITELLM_MASTER_KEY={SECRET} litellm/litellm:v1"
    command = command.replace("litellm/litellm:v1", "docker.litellm.ai/berriai/litellm:main-v1.109.1")
    assert entry(command)["api_key"] == {"env": "GATE_KEY"}
    assert not any("no API key" in what for what in said(command))


GATEWAY = (
    "docker run -d -p 127.0.0.1:4000:4000 -v ./c.yaml:/c.yaml -e UP=$UP_KEY --name gw "
    "docker.litellm.ai/berriai/litellm:main-v1.109.1 --config /c.yaml --num_workers 2\n"
    f"{VLLM} vllm/vllm-openai:v0.33.0 --model /m/x"
)
LISTED = """
model_list:
- {model_name: a, litellm_params: {model: openai/a, api_base: "http://one:8000/v1", api_key: os.environ/UP}}
- {model_name: big, litellm_params: {model: openai/big, api_key: os.environ/BIG}}
- {model_name: far, litellm_params: {model: openai/far, api_base: "http://far.lab/v1"}}
"""


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (None, "its models are in ./c.yaml. Pass --file ./c.yaml=COPY to import which of them it connects to."),
        (LISTED, "big in ./c.yaml is a model of another provider, which gpurack cannot offer."),
        (LISTED, "connects to far.lab, which is not one of these containers. Set connects_to."),
        ("model_list: [a]", "./c.yaml could not be read: its model_list cannot be read."),
        ("a: &a 1", "./c.yaml could not be read: not plain YAML: it has an anchor or alias."),
    ],
)
def test_models_of_a_gateway_are_those_in_its_file(config: str | None, sentence: str) -> None:
    imported = read(GATEWAY, files={"./c.yaml": config} if config else {})
    gateway = imported.services["gw"]
    assert sentence in [finding.what for finding in imported.findings if finding.kind == "open"]
    assert gateway["connects_to"] == (["one"] if config == LISTED else "all")
    assert gateway["args"] == {"num_workers": 2}  # LiteLLM refuses --num-workers
    assert ("volumes" in gateway.get("compose", {})) is (config is None)
    assert ("env_file" in gateway.get("compose", {})) is (config != LISTED), "the key of its model"


def test_first_account_of_open_webui_becomes_its_key() -> None:
    command = "docker run -d -p 3000:8080 --name ui -e WEBUI_ADMIN_EMAIL=a@b.c"
    image = "ghcr.io/open-webui/open-webui:v0.12.4"
    assert entry(f"{command} -e WEBUI_ADMIN_PASSWORD={SECRET} {image}")["keys"] == {"a@b.c": {"env": "UI_PASSWORD"}}
    assert SECRET not in str(read(f"{command} -e WEBUI_ADMIN_PASSWORD={SECRET} {image}"))
    without = entry(f"{command} {image}")
    assert "keys" not in without
    assert without["env"] == {"WEBUI_ADMIN_EMAIL": "a@b.c"}


def test_chosen_name_is_valid_for_docker() -> None:
    command = "docker run -d -p 8000:8000 vllm/vllm-openai:v0.33.0 --model a/b"
    assert list(read(command).models) == ["vllm-b"]
    assert 'the container has no name; named "vllm-b".' in said(command)
    short = command.replace("-d", "-d --name a")
    assert '"a" is not a valid entry name (at least two letters); named "vllm-b".' in said(short)


def test_reports_text_around_compose_file() -> None:
    with pytest.raises(NoCompose, match=r"is not valid YAML \(line 1: .*\)\. Pass only the lines of the compose file"):
        read("1. *Write* `docker-compose.yaml`: `x\nservices:\n  a: {image: x/y:1}\n")


# --- images that were built ------------------------------------------------------------------------------------------

LLAMA = "https://github.com/ggml-org/llama.cpp"
SERVE = "docker run -d --gpus device=0 -p 127.0.0.1:8080:8080 -v /m:/m --name one mine -m /m/a.gguf --port 8080\n"


def build(text: str) -> Any:
    """The build of the only entry with the image `mine`."""
    return entry(text + SERVE)["image"]["build"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("docker build -t mine -f .devops/cuda.Dockerfile --target server .",
         {"git": LLAMA, "dockerfile": ".devops/cuda.Dockerfile", "target": "server"}),
        ("sudo docker buildx build --load -t other -t mine -f./.devops/cuda.Dockerfile --build-arg CUDA_VERSION=12.6.3 "
         "--build-arg=CUDA_DOCKER_ARCH=80 ./",
         {"git": LLAMA, "dockerfile": ".devops/cuda.Dockerfile",
          "args": {"CUDA_VERSION": "12.6.3", "CUDA_DOCKER_ARCH": "80"}}),
        ("docker image build -t mine -f .devops/server-cuda.Dockerfile .",
         {"git": LLAMA, "dockerfile": ".devops/cuda.Dockerfile", "target": "server"}),
        ("docker build -t mine -f .devops/llama-server.Dockerfile --build-arg A=1 .",
         {"git": LLAMA, "dockerfile": ".devops/cpu.Dockerfile", "target": "server", "args": {"A": "1"}}),
        ("docker build -t raw -f .devops/cuda.Dockerfile . && docker tag raw mine",
         {"git": LLAMA, "dockerfile": ".devops/cuda.Dockerfile"}),
        ("docker build -t mine:latest -f .devops/rocm.Dockerfile .",
         {"git": LLAMA, "dockerfile": ".devops/rocm.Dockerfile"}),
    ],
)  # fmt: skip
def test_run_uses_image_built_in_same_script(command: str, expected: dict[str, Any]) -> None:
    text = f"{command}\n"
    assert build(text) == {"revision": "…", **expected}
    assert entry(text + SERVE)["engine"] == "llama.cpp"
    assert any("Set the revision (a commit or tag)" in finding.what for finding in read(text + SERVE).findings)


@pytest.mark.parametrize(
    ("commands", "git", "revision"),
    [
        ("git clone https://github.com/lab/llama.cpp && cd llama.cpp && git checkout b7000\n",
         "https://github.com/lab/llama.cpp", "b7000"),
        ("git clone --branch b7001 --depth 1 https://github.com/lab/llama.cpp.git\ncd ./llama.cpp\n",
         "https://github.com/lab/llama.cpp.git", "b7001"),
        ("git clone git@github.com:lab/llama.cpp\ncd llama.cpp\n", "git@github.com:lab/llama.cpp", "…"),
        ("git clone https://github.com/lab/tools\n", LLAMA, "…"),  # without the build
        ("git clone https://github.com/lab/tools && cd tools/deploy\n", LLAMA, "…"),
    ],
)  # fmt: skip
def test_build_uses_repository_cloned_in_script(commands: str, git: str, revision: str) -> None:
    text = f"{commands}docker build -t mine -f .devops/cuda.Dockerfile .\n"
    assert build(text) == {"git": git, "revision": revision, "dockerfile": ".devops/cuda.Dockerfile"}
    is_open = any("Set the revision" in what for what in said(text + SERVE))
    assert is_open == (revision == "…")


def test_keeps_dockerfile_name_of_pinned_revision() -> None:
    text = "docker build -t mine -f .devops/llama-server-cuda.Dockerfile https://github.com/ggerganov/llama.cpp.git#b3400\n"
    assert build(text) == {
        "git": "https://github.com/ggerganov/llama.cpp.git",
        "revision": "b3400",
        "dockerfile": ".devops/llama-server-cuda.Dockerfile",
    }


@pytest.mark.parametrize(
    "command",
    [
        "docker build -t mine .",
        "docker build -t mine ./engine",
        "docker build -t mine -f docker/Dockerfile.gpu .",
        "docker build -t mine https://github.com/lab/engine.git#main:docker",
    ],
)
def test_reports_build_of_unknown_repository(command: str) -> None:
    text = f"{command}\n{SERVE}"
    assert read(text).models["one"]["image"] == "mine"
    assert any("builds a local folder" in what for what in said(text))


def test_reports_unsupported_build_options() -> None:
    text = (
        f"docker build -t mine --platform linux/arm64 --build-arg HF_TOKEN={SECRET} --build-arg PROXY -f "
        ".devops/cuda.Dockerfile .\n"
    )
    assert build(text)["args"] == {"HF_TOKEN": "***"}
    found = " ".join(said(text + SERVE))
    assert "mine: build option platform was not converted." in found
    assert "mine: the value of build argument PROXY is not in the text; add it." in found
    assert "mine: its build contained a secret, shown as *** here." in found
    assert SECRET not in found


def test_imports_builds_of_compose_file() -> None:
    text = (
        "services:\n  one:\n    build:\n      context: .\n      dockerfile: .devops/cuda.Dockerfile\n"
        "      args: [CUDA_DOCKER_ARCH=80]\n      cache_from: [x]\n"
        "    command: --model /m/a.gguf --port 8080\n    volumes: [/m:/m]\n    ports: [8080:8080]\n"
    )
    assert read(text).models["one"]["image"] == {
        "build": {
            "git": LLAMA,
            "revision": "…",
            "dockerfile": ".devops/cuda.Dockerfile",
            "args": {"CUDA_DOCKER_ARCH": "80"},
        }
    }
    assert any("build option cache_from was not converted" in what for what in said(text))
    elsewhere = text.replace("dockerfile: .devops/cuda.Dockerfile", "dockerfile: gpu.Dockerfile")
    assert any("is built from `.`. Set image" in what for what in said(elsewhere))


@pytest.mark.parametrize(
    ("image", "dockerfile", "target"),
    [
        ("local/llama.cpp:server-cuda", ".devops/cuda.Dockerfile", "server"),
        ("local/llama.cpp:server", ".devops/cpu.Dockerfile", "server"),
        ("cuda_simple", "docker/cuda_simple/Dockerfile", None),
        ("llama-cpp-python-cuda:latest", "docker/cuda_simple/Dockerfile", None),
    ],
)
def test_imports_image_name_from_upstream_docs(image: str, dockerfile: str, target: str | None) -> None:
    text = f"docker run -d --gpus device=0 -p 8080:8080 -v /m:/m --name one {image} --model /m/a.gguf --port 8080\n"
    found = entry(text)["image"]["build"]
    assert (found["dockerfile"], found.get("target"), found["revision"]) == (dockerfile, target, "…")
    assert any("and the build args" in what for what in said(text))
